//! Cargo on the host, for the two steps that may use the network: honours the user's configuration of cargo and git, and
//! knows no registry. Knows neither manifests nor the store.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::exec::{Heard, Helper, HelperEnd};
use mosbuild_engine::load::Mirror;
use mosbuild_engine::rule::PlanError;
use toml::Table;

use crate::source::git::Configured;

/// Lines of cargo's messages that an error repeats.
const TOLD: usize = 12;
/// The most that cargo may print: metadata of ten thousand packages.
const PRINTED_MAX: usize = 1 << 30;
/// Whether cargo fetches repositories by the git program, whose credentials and settings are those of the command line.
const GIT_BY_PROGRAM: &str = "CARGO_NET_GIT_FETCH_WITH_CLI";

/// Runs cargo in the workspace's directory: cargo finds its configuration from there upwards, and in the user's
/// home, as it does for the user. Repositories are fetched by the user's git.
pub struct HostCargo<'a> {
    /// The workspace.
    pub workspace: &'a Path,
    /// The step's: its log, whether it may use the network.
    pub cx: &'a BuiltinCx<'a>,
}

impl HostCargo<'_> {
    /// Runs `cargo ARGS` and gives its standard output.
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Vec<u8>, StepError> {
        self.run_with(args, &[])
    }

    /// The same, where these repositories may be needed: first from mirrors that stand for one of them, then as always.
    pub fn run_by_mirrors<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        repositories: &[&str],
    ) -> Result<Vec<u8>, StepError> {
        let mirrors = self.cx.fetcher.mirrors();
        let meant = repositories.iter().any(|url| self.cx.fetcher.places(url).len() > 1);
        let rounds = mirrors.iter().map(|mirror| mirror.to.len()).max().unwrap_or(0);
        for round in 0..if meant { rounds } else { 0 } {
            match self.run_with(args, &detour(mirrors, round)) {
                Err(e) if e.exit == 4 && !(self.cx.cancelled)() => {
                    (self.cx.log)("cargo did not find all of it at mirrors; going on without them");
                }
                other => return other,
            }
        }
        self.run(args)
    }

    /// With these settings of git, beside the user's.
    fn run_with<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        settings: &[(String, String)],
    ) -> Result<Vec<u8>, StepError> {
        let mut command = Command::new("cargo");
        command.args(args).current_dir(self.workspace).env("CARGO_TERM_COLOR", "never");
        command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_MAKEFLAGS").env_remove("MAKEFLAGS");
        if self.cx.fetcher.offline() {
            command.arg("--offline");
        }
        let git = Configured::ask();
        git.quieten(&mut command);
        if git.installed && !chooses_git(self.workspace) {
            command.env(GIT_BY_PROGRAM, "true");
        }
        let own = std::env::var("GIT_CONFIG_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0_usize);
        for (n, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{}", own + n), key);
            command.env(format!("GIT_CONFIG_VALUE_{}", own + n), value);
            command.env("GIT_CONFIG_COUNT", (own + n + 1).to_string());
        }
        let helper = Helper { command, cancelled: self.cx.cancelled, silence: None, most: PRINTED_MAX };
        let mut told: Vec<String> = Vec::new();
        let ended = helper.run(&mut |heard| {
            // `cargo vendor` ends with advice on a configuration, which is written for the user.
            if let Heard::Line(line) = heard
                && !line.starts_with("To use vendored sources")
            {
                (self.cx.log)(line);
                told.push(line.to_owned());
            }
        });
        let (end, out) = ended.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StepError::new("cargo is not installed, or not in PATH")
                .help("install Rust with rustup, as its site says")
                .exit(3),
            _ => StepError::new(format!("cargo: {e}")).exit(3),
        })?;
        match end {
            HelperEnd::Exit(status) if status.success() => return Ok(out),
            HelperEnd::Cancelled => return Err(StepError::new("interrupted")),
            HelperEnd::Exit(_) | HelperEnd::Silent => {}
            HelperEnd::TooMuch => told.push("its output has no end".into()),
        }
        let shown = told.len().saturating_sub(TOLD);
        let what = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        Err(StepError::new(format!("cargo {what} failed:\n{}", told[shown..].join("\n"))).exit(4))
    }
}

/// Settings by which git takes a URL's place from mirrors: of each the one of this round, or its last.
fn detour(mirrors: &[Mirror], round: usize) -> Vec<(String, String)> {
    let one = |mirror: &Mirror| {
        let to = mirror.to.get(round).or(mirror.to.last())?;
        // One slash between the two, however they are written.
        let (from, to) = (mirror.from.as_str(), to.trim_end_matches('/'));
        let slash = if from.ends_with(['/', ':']) { "/" } else { "" };
        Some((format!("url.{to}{slash}.insteadOf"), from.to_owned()))
    };
    mirrors.iter().filter_map(one).collect()
}

/// Whether the user says how cargo fetches repositories: by the environment, or in one of cargo's configuration files.
fn chooses_git(workspace: &Path) -> bool {
    if std::env::var_os(GIT_BY_PROGRAM).is_some() {
        return true;
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    says_how_to_fetch(workspace.ancestors().map(|dir| dir.join(".cargo")).chain(home))
}

fn says_how_to_fetch(folders: impl Iterator<Item = PathBuf>) -> bool {
    let mut files = folders.flat_map(|dir| ["config.toml", "config"].map(|name| dir.join(name)));
    files.any(|file| {
        let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<Table>().ok());
        table.is_some_and(|t| t.get("net").is_some_and(|net| net.get("git-fetch-with-cli").is_some()))
    })
}

/// Refuses a target triple whose standard library is not installed for the toolchain that the workspace chooses.
pub fn require_target(workspace: &Path, target: &str) -> Result<(), PlanError> {
    if toolchain_dirs().any(|dir| dir.join("lib/rustlib").join(target).join("lib").is_dir()) {
        return Ok(());
    }
    let rustc = |args: &[&str]| {
        let mut rustc = Command::new("rustc");
        rustc.args(args).current_dir(workspace).env("RUSTUP_AUTO_INSTALL", "0").stdin(Stdio::null()).output()
    };
    let asked = rustc(&["--print", "target-libdir", "--target", target]);
    // Without rustc there is more to say than this: the step's tools are looked for later.
    let Ok(asked) = asked else { return Ok(()) };
    if !asked.status.success() {
        // A proxy without a toolchain knows no target either: that is not the target's fault.
        if let Some(version) = rustc(&["-vV"]).ok().filter(|version| !version.status.success()) {
            return Err(broken(&version));
        }
        return Err(PlanError::new(2, format!("rustc knows no target {target}"))
            .help("`rustc --print target-list` names all"));
    }
    if Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_dir() {
        return Ok(());
    }
    let error = PlanError::new(3, format!("the Rust target {target} is not installed"))
        .help(format!("rustup target add {target}"));
    Err(match target.strip_suffix("-unknown-linux-musl") {
        Some(arch) => error.help(format!(
            "or set `target: {arch}-unknown-linux-gnu`, which is linked statically as well (crt-static)"
        )),
        None => error,
    })
}

/// A rustc that cannot even tell its version, in its own words.
fn broken(said: &std::process::Output) -> PlanError {
    let text = String::from_utf8_lossy(&said.stderr);
    // Up to a blank line: a backtrace may follow.
    let lines = text.lines().map(str::trim_end).take_while(|line| !line.is_empty()).take(TOLD);
    let (help, lines): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("help: "));
    let said = if lines.is_empty() { said.status.to_string() } else { lines.join("\n") };
    let error = PlanError::new(3, format!("rustc is there, but it does not work: {said}"));
    help.iter().fold(error, |error, line| error.help(line.trim_start_matches("help: ")))
}

/// Toolchains found without running rustup, which takes longer than all the rest of planning.
fn toolchain_dirs() -> impl Iterator<Item = PathBuf> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let installed = home.and_then(|home| std::fs::read_dir(home.join("toolchains")).ok());
    installed.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_as_settings_of_git() {
        let mirror = |from: &str, to: &[&str]| Mirror {
            from: from.into(),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
        };
        let mirrors = [
            mirror("https://h/", &["file:///srv", "https://m/x/"]),
            mirror("https://o/x.git", &["file:///y.git"]),
            mirror("none", &[]),
        ];
        let text =
            |round| detour(&mirrors, round).into_iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(
            text(0),
            ["url.file:///srv/.insteadOf=https://h/", "url.file:///y.git.insteadOf=https://o/x.git"]
        );
        assert_eq!(
            text(1),
            ["url.https://m/x/.insteadOf=https://h/", "url.file:///y.git.insteadOf=https://o/x.git"]
        );
    }

    #[test]
    fn cargo_is_told_how_to_fetch_only_where_nobody_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, outer) = (dir.path().join("a/.cargo"), dir.path().join(".cargo"));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::create_dir_all(&outer).unwrap();
        let folders = || [inner.clone(), outer.clone()].into_iter();
        std::fs::write(inner.join("config.toml"), "[net]\nretry = 1\n").unwrap();
        std::fs::write(outer.join("config.toml"), "not = [toml").unwrap();
        assert!(!says_how_to_fetch(folders()));
        std::fs::write(outer.join("config"), "[net]\ngit-fetch-with-cli = false\n").unwrap();
        assert!(says_how_to_fetch(folders()));
    }
}
