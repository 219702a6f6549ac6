//! The user's git program: called so that it works as on the command line, but asks nothing, is not led astray by the
//! environment of a hook, and ends with the build. Knows git's options and messages; knows no rule.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::exec::{Heard, Helper, HelperEnd};
use mosbuild_engine::fetch::shown;
use mosbuild_engine::tools::Missing;

use super::places::{Stop, Trouble};

/// How long a server may say nothing at all; over HTTP much less is taken, see [`SLOW`].
const SILENCE: Duration = Duration::from_secs(300);
/// Over HTTP a connection is given up that brings less than so many bytes a second for so many seconds.
const SLOW: [(&str, &str); 2] = [("http.lowspeedlimit", "100"), ("http.lowspeedtime", "60")];
/// Tries at one place.
const TRIES: u32 = 3;
/// Before the second try; twice as long before each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// The most that a list of refs may be: a million of them.
const LIST_MAX: usize = 128 << 20;

/// Variables that a hook, or a shell in the middle of a rebase, has for one repository and no other.
const OF_A_REPOSITORY: [&str; 18] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_DEFAULT_HASH",
    "GIT_DEFAULT_REF_FORMAT",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];

/// Settings of every call that decide nothing but what work is done. No hook of the user's is run.
const SETTINGS: [&str; 6] = [
    "core.hooksPath=/dev/null",
    "core.fsync=none",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "fetch.recurseSubmodules=false",
];

/// What of the user's settings decides how git is to be called.
#[derive(Debug, Default)]
pub struct Configured {
    /// git is there at all.
    pub installed: bool,
    /// The user says how ssh is called.
    ssh: bool,
    /// Names of settings about slow connections.
    slow: Vec<String>,
}

impl Configured {
    /// Asks git.
    pub fn ask() -> Configured {
        let mut command = Command::new("git");
        command.args([
            "config",
            "--null",
            "--get-regexp",
            r"^(core\.sshcommand|http\.(.*\.)?lowspeed(limit|time))$",
        ]);
        // Where no repository is, whose settings are not meant.
        command.current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
        OF_A_REPOSITORY.iter().for_each(|name| {
            command.env_remove(name);
        });
        let Ok(output) = command.output() else { return Configured::default() };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.split('\0').filter_map(|record| record.lines().next());
        let (ssh, slow): (Vec<&str>, Vec<&str>) = names.partition(|name| *name == "core.sshcommand");
        Configured {
            installed: true,
            ssh: !ssh.is_empty(),
            slow: slow.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The environment of git, or of a program that calls git: nothing is asked on a terminal, and no other repository is meant.
    pub fn quieten(&self, command: &mut Command) {
        for name in OF_A_REPOSITORY {
            command.env_remove(name);
        }
        let set = |name: &str| std::env::var_os(name).is_some();
        if !set("GIT_TERMINAL_PROMPT") {
            command.env("GIT_TERMINAL_PROMPT", "0");
        }
        if !self.ssh && !set("GIT_SSH_COMMAND") && !set("GIT_SSH") {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30");
        }
    }
}

/// git, called for one step.
pub struct Git<'a> {
    /// The step's: its scratch folder, its log.
    pub cx: &'a BuiltinCx<'a>,
    configured: Configured,
}

impl<'a> Git<'a> {
    /// The user's git; an error with exit class 3 if there is none.
    pub fn new(cx: &'a BuiltinCx<'a>) -> Result<Git<'a>, StepError> {
        let configured = Configured::ask();
        match configured.installed {
            true => Ok(Git { cx, configured }),
            false => Err(missing()),
        }
    }

    /// `git`, for the repository in `dir` or for none, with what every call has.
    fn command(&self, dir: Option<&Path>) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        for (name, value) in SLOW {
            if !self.configured.slow.iter().any(|known| known.ends_with(&name["http".len()..])) {
                command.arg("-c").arg(format!("{name}={value}"));
            }
        }
        self.configured.quieten(&mut command);
        // Messages are read; lazy fetches of a partial repository and replaced objects are not wanted.
        command.env("LC_ALL", "C").env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1");
        command.current_dir(&self.cx.scratch);
        match dir {
            Some(dir) => command.env("GIT_DIR", dir),
            None => {
                command.env("GIT_CEILING_DIRECTORIES", self.cx.scratch.parent().unwrap_or(Path::new("/")))
            }
        };
        command
    }

    /// Runs a command that speaks with a server, again where that may help; gives its standard output.
    pub fn remote<A: AsRef<OsStr>>(
        &self,
        dir: Option<&Path>,
        place: &str,
        args: &[A],
        trace: Option<&Path>,
    ) -> Result<Vec<u8>, Failed> {
        let mut pause = PAUSE;
        for attempt in 1.. {
            let mut command = self.command(dir);
            command.args(args);
            if let Some(trace) = trace {
                command.env("GIT_TRACE_PACKET", trace);
            }
            let said = match self.once(command, place)? {
                Ok(out) => return Ok(out),
                Err(said) => said,
            };
            if attempt >= TRIES || !said.may_pass() {
                return Err(Failed::Said(said));
            }
            self.say(&format!("{}: {}; again in {} ms", shown(place), said.reason(), pause.as_millis()));
            self.rest(pause)?;
            pause *= 2;
        }
        Err(Failed::Stop(interrupted()))
    }

    fn once(&self, command: Command, place: &str) -> Result<Result<Vec<u8>, Said>, StepError> {
        let helper = Helper { command, cancelled: self.cx.cancelled, silence: Some(SILENCE), most: LIST_MAX };
        let mut said = Said::default();
        let ended = helper.run(&mut |heard| match heard {
            Heard::Line(line) => {
                let line = hidden(line, place);
                self.say(&line);
                said.0.push(line);
            }
            Heard::Passing(line) => {
                if let Some(done) = received(line) {
                    (self.cx.progress)(&shown(place), done, None);
                }
            }
        });
        let (end, out) = ended.map_err(failed_to_run)?;
        match end {
            HelperEnd::Exit(status) if status.success() => return Ok(Ok(out)),
            HelperEnd::Exit(status) if said.0.is_empty() => said.0.push(format!("git ended with {status}")),
            HelperEnd::Exit(_) => {}
            HelperEnd::Cancelled => return Err(interrupted()),
            HelperEnd::Silent => {
                said.0.push(format!("nothing came for {} minutes", SILENCE.as_secs() / 60));
            }
            HelperEnd::TooMuch => said.0.push("the list of its refs has no end".into()),
        }
        Ok(Err(said))
    }

    /// Runs a command on a repository of this machine; gives its standard output.
    pub fn local<A: AsRef<OsStr>>(&self, dir: &Path, args: &[A]) -> Result<Vec<u8>, StepError> {
        let mut command = self.command(Some(dir));
        command.args(args).stdin(Stdio::null());
        let output = command.output().map_err(failed_to_run)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(failed(args, &String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// Starts a command on a repository of this machine, to be fed and read through pipes.
    pub fn piped<A: AsRef<OsStr>>(&self, dir: &Path, args: &[A]) -> Result<Piped, StepError> {
        let told = self.cx.scratch.join("told");
        let mut command = self.command(Some(dir));
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&told)?);
        let child = command.spawn().map_err(failed_to_run)?;
        let what = args.iter().map(|arg| arg.as_ref().to_string_lossy().into_owned()).collect();
        Ok(Piped { child, what, told })
    }

    /// A line for the log.
    pub fn say(&self, line: &str) {
        (self.cx.log)(line);
    }

    fn rest(&self, time: Duration) -> Result<(), StepError> {
        let since = std::time::Instant::now();
        while since.elapsed() < time {
            if (self.cx.cancelled)() {
                return Err(interrupted());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// A command that runs; killed if it is given up.
pub struct Piped {
    /// The process.
    pub child: Child,
    what: Vec<String>,
    told: std::path::PathBuf,
}

impl Piped {
    /// Waits for its end, which must be a success.
    pub fn finish(mut self) -> Result<(), StepError> {
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(failed(&self.what, &std::fs::read_to_string(&self.told).unwrap_or_default())),
        }
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command that speaks with a server failed.
pub enum Failed {
    /// git said so.
    Said(Said),
    /// There is no way on, whatever other places say.
    Stop(StepError),
}

impl From<StepError> for Failed {
    fn from(e: StepError) -> Failed {
        Failed::Stop(e)
    }
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        match failed {
            Failed::Said(said) => Stop::Place(said.trouble()),
            Failed::Stop(e) => Stop::Whole(e),
        }
    }
}

/// What git said before it failed.
#[derive(Debug, Default)]
pub struct Said(Vec<String>);

impl Said {
    fn has(&self, any: &[&str]) -> bool {
        self.0.iter().any(|line| any.iter().any(|text| line.contains(text)))
    }

    /// The server was asked for a commit by its name, and takes names of refs only, or does not have it.
    pub fn refused_commit(&self) -> bool {
        self.has(&[
            "Server does not allow request for unadvertised object",
            "dumb http transport does not support shallow",
        ]) || self.unknown_commit()
    }

    /// The server knows no such commit, or does not show it.
    pub fn unknown_commit(&self) -> bool {
        self.has(&["not our ref", "no such remote ref", "couldn't find remote ref"])
    }

    /// The server is a folder of files.
    pub fn dumb(&self) -> bool {
        self.has(&["dumb http transport"])
    }

    /// Another try may end otherwise.
    fn may_pass(&self) -> bool {
        self.has(&[
            "early EOF",
            "hung up unexpectedly",
            "unexpected disconnect",
            "RPC failed",
            "Connection reset",
            "Connection timed out",
            "Connection closed",
            "Connection refused",
            "Couldn't connect",
            "Could not connect",
            "Failed to connect",
            "Could not resolve host",
            "Operation too slow",
            "Operation timed out",
            "timed out",
            "transfer closed",
            "Empty reply",
            "returned error: 408",
            "returned error: 429",
            "returned error: 5",
            "nothing came for",
        ]) && !self.unknown_commit()
    }

    /// In one line.
    pub fn reason(&self) -> String {
        let progress = |line: &str| {
            let line = line.strip_prefix("remote: ").unwrap_or(line);
            let begins = [
                "From ",
                " * ",
                "Enumerating ",
                "Counting ",
                "Compressing ",
                "Total ",
                "Receiving ",
                "Resolving ",
            ];
            begins.iter().any(|begin| line.starts_with(begin))
        };
        // What git says of every server that does not speak to it.
        let general = [
            "fatal: Could not read from remote repository.",
            "Please make sure you have the correct access rights",
            "and the repository exists.",
        ];
        let told: Vec<&String> = self.0.iter().filter(|line| !progress(line)).collect();
        let special: Vec<&String> =
            told.iter().copied().filter(|line| !general.contains(&line.as_str())).collect();
        let told = if special.is_empty() { told } else { special };
        let mut lines: Vec<&str> = Vec::new();
        for line in &told[told.len().saturating_sub(4)..] {
            let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim_end_matches('.');
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.join("; ")
    }

    /// What a place did.
    pub fn trouble(&self) -> Trouble {
        let help = if self.has(&["Host key verification failed"]) {
            Some("ssh does not know the host: `git ls-remote URL` asks once, by hand")
        } else if self.has(&[
            "terminal prompts disabled",
            "could not read Username",
            "could not read Password",
            "Authentication failed",
            "Permission denied (",
            "returned error: 401",
            "returned error: 403",
        ]) {
            Some(
                "it is private, or is not there. mosbuild lets git ask for no password: `git ls-remote URL` must work without \
                 a question, by a credential helper, ~/.netrc or ssh-agent",
            )
        } else {
            None
        };
        Trouble {
            reason: self.reason(),
            absent: self.has(&[
                "not found",
                "does not appear to be a git repository",
                "repository not exported",
            ]),
            unreachable: self.has(&[
                "Could not resolve",
                "onnect to",
                "unable to connect",
                "Connection refused",
            ]),
            help: help.map(str::to_owned),
        }
    }
}

/// A line without the name and password of the place that it may repeat.
fn hidden(line: &str, place: &str) -> String {
    let (Some(start), hidden) = (place.find("://"), shown(place)) else { return line.to_owned() };
    let secret = |url: &str| {
        let authority = url[start + 3..].split('/').next().unwrap_or_default().to_owned();
        authority.rfind('@').map(|at| authority[..=at].to_owned())
    };
    match (secret(place), secret(&hidden)) {
        (Some(from), Some(to)) if from != to => line.replace(&from, &to),
        _ => line.to_owned(),
    }
}

/// Bytes that came, by `Receiving objects:  45% (450/1000), 1.20 MiB | 500.00 KiB/s`.
fn received(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("Receiving objects:")?.split_once("), ")?.1;
    let (number, unit) = rest.split(" |").next()?.trim_end_matches(", done.").split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

fn missing() -> StepError {
    let Missing { message, help, .. } = Missing::tool("git");
    let text = format!("{message}: it brings sources in that are given as {{git, rev}}");
    StepError { help, ..StepError::new(text).exit(3) }
}

fn failed_to_run(e: io::Error) -> StepError {
    match e.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => StepError::new(format!("git: {e}")).exit(3),
    }
}

fn failed<A: AsRef<OsStr>>(args: &[A], told: &str) -> StepError {
    let what = args.first().map(|arg| arg.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    let told: Vec<&str> = told.lines().collect();
    let shown = told.len().saturating_sub(6);
    StepError::new(format!("git {what} failed: {}", told[shown..].join("\n"))).exit(4)
}

fn interrupted() -> StepError {
    StepError::new("interrupted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        Said(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn reasons_are_what_matters_of_many_lines() {
        let ssh = said(&[
            "git@h: Permission denied (publickey).",
            "fatal: Could not read from remote repository.",
            "Please make sure you have the correct access rights",
            "and the repository exists.",
        ]);
        assert_eq!(ssh.reason(), "git@h: Permission denied (publickey)");
        assert!(ssh.trouble().help.is_some() && !ssh.may_pass());
        let cut = said(&[
            "remote: Enumerating objects: 3, done.",
            "Receiving objects:  33% (1/3)",
            "error: RPC failed; curl 18 transfer closed with outstanding read data remaining",
            "fatal: early EOF",
        ]);
        assert_eq!(
            cut.reason(),
            "RPC failed; curl 18 transfer closed with outstanding read data remaining; early EOF"
        );
        assert!(cut.may_pass() && cut.trouble().help.is_none());
        let gone = said(&["fatal: remote error: upload-pack: not our ref 1234"]);
        assert!(gone.refused_commit() && gone.unknown_commit() && !gone.may_pass());
        let old = said(&["error: Server does not allow request for unadvertised object 1234"]);
        assert!(old.refused_commit() && !old.unknown_commit());
        assert_eq!(
            said(&["fatal: Could not read from remote repository."]).reason(),
            "Could not read from remote repository"
        );
    }

    #[test]
    fn passwords_of_mirrors_are_not_logged() {
        let place = "https://me:secret@h/x.git";
        let line = "fatal: unable to access 'https://me:secret@h/x.git/': refused";
        assert_eq!(hidden(line, place), "fatal: unable to access 'https://me:***@h/x.git/': refused");
        assert_eq!(hidden("me@h", "ssh://me@h/x"), "me@h");
    }

    #[test]
    fn bytes_that_came() {
        assert_eq!(received("Receiving objects:  45% (450/1000), 1.50 MiB | 500.00 KiB/s"), Some(3 << 19));
        assert_eq!(received("Receiving objects:  45% (450/1000), 12 bytes | 5 bytes/s"), Some(12));
        assert_eq!(received("Receiving objects:  45% (450/1000)"), None);
        assert_eq!(received("remote: Counting objects:  33% (1/3)"), None);
    }
}
