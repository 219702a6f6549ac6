//! Cargo on the host, for the two steps that may use the network: honours the user's cargo configuration, and
//! knows no registry. Knows processes; knows neither manifests nor the store.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mosbuild_engine::action::StepError;
use mosbuild_engine::rule::PlanError;

/// How often a running cargo is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Lines of cargo's messages that an error repeats.
const TOLD: usize = 12;

/// Runs cargo in the workspace's directory: cargo finds its configuration from there upwards, and in the user's
/// home, as it does for the user.
pub struct HostCargo<'a> {
    /// The workspace.
    pub workspace: &'a Path,
    /// Receives each line of cargo's messages.
    pub log: &'a (dyn Fn(&str) + Sync),
    /// True once the build was interrupted.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl HostCargo<'_> {
    /// Runs `cargo ARGS` and gives its standard output.
    pub fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Vec<u8>, StepError> {
        let mut command = Command::new("cargo");
        command.args(args).current_dir(self.workspace).env("CARGO_TERM_COLOR", "never");
        command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_MAKEFLAGS").env_remove("MAKEFLAGS");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StepError::new("cargo is not installed, or not in PATH")
                .help("install Rust with rustup, as its site says")
                .exit(3),
            _ => StepError::new(format!("cargo: {e}")).exit(3),
        })?;
        let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(StepError::new("cargo: no pipes"));
        };
        let mut out = Vec::new();
        let mut told: Vec<String> = Vec::new();
        let status = std::thread::scope(|scope| {
            let reading = scope.spawn(|| stdout.read_to_end(&mut out));
            let telling = scope.spawn(|| {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    // `cargo vendor` ends with advice on a configuration, which is written for the user.
                    if !line.is_empty() && !line.starts_with("To use vendored sources") {
                        (self.log)(&line);
                        told.push(line);
                    }
                }
            });
            let status = self.wait(&mut child);
            let read = reading.join();
            let _ = telling.join();
            let status = status?;
            match read {
                Ok(Ok(_)) => Ok(status),
                Ok(Err(e)) => Err(StepError::new(format!("cargo's output: {e}"))),
                Err(_) => Err(StepError::new("cargo's output could not be read")),
            }
        })?;
        if status.success() {
            return Ok(out);
        }
        let shown = told.len().saturating_sub(TOLD);
        let what = args.first().map(|a| a.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        Err(StepError::new(format!("cargo {what} failed:\n{}", told[shown..].join("\n"))).exit(4))
    }

    fn wait(&self, child: &mut Child) -> Result<std::process::ExitStatus, StepError> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if (self.cancelled)() {
                child.kill()?;
                child.wait()?;
                return Err(StepError::new("interrupted"));
            }
            std::thread::sleep(TICK);
        }
    }
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
