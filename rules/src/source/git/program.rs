//! The user's git program: called so that it works as on the command line, but asks nothing, is not led astray by the
//! environment of a hook, and ends with the build. Knows git's options; what it says is understood in messages.rs.

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

use super::messages::{Said, hidden, received};
use super::places::Stop;

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
        let (mut tries, mut pause) = (1, PAUSE);
        loop {
            let mut command = self.command(dir);
            command.args(args);
            if let Some(trace) = trace {
                command.env("GIT_TRACE_PACKET", trace);
            }
            let said = match self.once(command, place)? {
                Ok(out) => return Ok(out),
                Err(said) => said,
            };
            if tries == TRIES || !said.may_pass() {
                return Err(Failed::Said(said));
            }
            let (reason, millis) = (said.reason(), pause.as_millis());
            self.say(&format!("{}: {reason}; again in {millis} ms", shown(place)));
            self.rest(pause)?;
            (tries, pause) = (tries + 1, pause * 2);
        }
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
