//! A small workspace with a store of its own, in which end-to-end tests run the real `mosbuild`.
//! Knows the program's command line, its events and the store's layout; nothing of the engine's insides.
#![forbid(unsafe_code)]

pub mod alpine;
pub mod apks;
pub mod archive;
pub mod fake_daemon;
pub mod firmware;
pub mod git;
pub mod git_stand;
pub mod machine;
mod mirror;
pub mod modules;
pub mod mos;
mod output;
mod processes;
pub mod s3;
mod store;
mod user;

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use mirror::{Fault, Mirror, Request};
pub use output::{Output, Summary, read_events};
pub use processes::{Marker, signal};
pub use store::{assert_store_whole, blobs, flip_a_byte, scratch_left};
pub use user::PLAIN_USER;

/// How long anything may take that should take no time; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test: `MOSBUILD_BIN`, else the workspace's release build.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("MOSBUILD_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "MOSBUILD_BIN names {}, which is no file", path.display());
        return path;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("target/release/mosbuild");
    assert!(
        path.is_file(),
        "there is no {}: run `cargo build --release -p mosbuild` first, or name the program with MOSBUILD_BIN",
        path.display()
    );
    path.canonicalize().unwrap()
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Fails with what to install if the host lacks a program that a test needs.
pub fn need(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    assert!(there, "this test needs `{program}`: apt-get install {package}");
}

/// A workspace in a temporary folder.
pub struct Space {
    temporary: Arc<tempfile::TempDir>,
    root: PathBuf,
    store: PathBuf,
    env: Vec<(OsString, OsString)>,
    user: Option<u32>,
    program: PathBuf,
    runs: AtomicU32,
}

impl Space {
    /// A workspace whose mosbuild.yaml is this, behind `mosbuild: 1` and `project: test`.
    pub fn new(yaml: &str) -> Space {
        let temporary = tempfile::Builder::new().prefix("mosbuild-e2e-").tempdir().unwrap();
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let base = temporary.path().canonicalize().unwrap();
        let space = Space {
            root: base.join("work"),
            store: base.join("store"),
            temporary: Arc::new(temporary),
            env: Vec::new(),
            user: None,
            program: program(),
            runs: AtomicU32::new(0),
        };
        std::fs::create_dir_all(space.root.join("")).unwrap();
        std::fs::create_dir(base.join("home")).unwrap();
        space.yaml(yaml);
        space
    }

    /// Another workspace of this name on the same store, with another mosbuild.yaml.
    pub fn beside(&self, name: &str, yaml: &str) -> Space {
        let root = self.base().join(name);
        std::fs::create_dir_all(&root).unwrap();
        let space = Space {
            temporary: self.temporary.clone(),
            root,
            store: self.store.clone(),
            env: self.env.clone(),
            user: self.user,
            program: self.program.clone(),
            runs: AtomicU32::new(0),
        };
        space.yaml(yaml);
        space
    }

    /// Uses a store of its own, empty at first.
    pub fn with_store(mut self, name: &str) -> Space {
        self.store = self.base().join(name);
        self
    }

    /// The folder above workspaces and stores.
    pub fn base(&self) -> PathBuf {
        self.temporary.path().canonicalize().unwrap()
    }

    /// The workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// A path in the workspace.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Replaces mosbuild.yaml.
    pub fn yaml(&self, text: &str) {
        self.write("mosbuild.yaml", format!("mosbuild: 1\nproject: test\n{text}"));
    }

    /// Replaces a piece of mosbuild.yaml, which must have it.
    pub fn edit_yaml(&self, from: &str, to: &str) {
        self.edit("mosbuild.yaml", from, to);
    }

    /// Replaces a piece of a file, which must have it.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        self.write(path, text.replacen(from, to, 1));
    }

    /// Writes a file of the workspace.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.give(&path);
    }

    /// Sets the mode of a file of the workspace.
    pub fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A file of the workspace as text.
    pub fn read(&self, path: &str) -> String {
        let bytes = self.bytes(path);
        String::from_utf8(bytes).unwrap()
    }

    /// A file of the workspace.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Whether the workspace has it.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Removes a file or folder of the workspace.
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
    }

    /// Makes the next build take the long way: removes the stamp by which nothing-to-do is told at once, if any.
    pub fn forget_stamp(&self) {
        if self.has(".mosbuild/fresh") {
            self.remove(".mosbuild/fresh");
        }
    }

    /// Sets a variable of the program's environment, which is otherwise small.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.unset(name);
        self.env.push((name.into(), value.as_ref().into()));
    }

    /// Removes it again.
    pub fn unset(&mut self, name: &str) {
        self.env.retain(|(n, _)| n != OsStr::new(name));
    }

    /// Lets the program find the toolchain of the one who runs the tests; HOME is another one otherwise.
    pub fn with_rust(mut self) -> Space {
        need("cargo", "cargo");
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup"));
        let rustup = std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or(home);
        if let Some(rustup) = rustup.filter(|dir| dir.is_dir()) {
            self.env("RUSTUP_HOME", rustup);
        }
        if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
            self.env("RUSTUP_TOOLCHAIN", toolchain);
        }
        self
    }

    /// Starts this program in its place, which is to start it in turn.
    pub fn through(mut self, program: PathBuf) -> Space {
        self.program = program;
        self
    }

    /// The program with these arguments, in the workspace, ready to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.user {
            Some(user) => {
                let mut command = Command::new("setpriv");
                let id = user.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(args).current_dir(&self.root).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.base().join("home")).env("MOSBUILD_CACHE_DIR", &self.store);
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        Output::of(self.command(args), args, None)
    }

    /// Runs the program with these arguments; it must succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Output {
        let output = self.run(args);
        assert_eq!(output.code, Some(0), "{output}");
        output
    }

    /// Runs `build` with these arguments to its end, reading its events.
    pub fn build(&self, args: &[&str]) -> Output {
        let (command, events) = self.build_command(args);
        Output::of(command, args, Some(&events))
    }

    /// Runs `build`, which must succeed.
    #[track_caller]
    pub fn builds(&self, args: &[&str]) -> Output {
        let output = self.build(args);
        assert_eq!(output.code, Some(0), "{output}");
        output
    }

    /// Starts `build`; its events are to be read from the file while it runs.
    pub fn start(&self, args: &[&str]) -> Running {
        let (mut command, events) = self.build_command(args);
        let args = args.iter().map(|a| a.to_string()).collect();
        Running { child: Some(command.spawn().unwrap()), events, args }
    }

    fn build_command(&self, args: &[&str]) -> (Command, PathBuf) {
        let n = self.runs.fetch_add(1, Ordering::Relaxed);
        let name = self.root.file_name().unwrap_or_default().to_string_lossy();
        let dir = self.base().join("events");
        std::fs::create_dir_all(&dir).unwrap();
        self.give(&dir);
        let events = dir.join(format!("{name}-{n}"));
        let mut all = vec!["build", "--events", events.to_str().unwrap()];
        all.extend(args);
        (self.command(&all), events)
    }

    /// `why TARGET --json` and its exit code; the schema and the target are checked.
    #[track_caller]
    pub fn why(&self, target: &str) -> (i32, Value) {
        self.why_with(target, &[])
    }

    /// As [`Space::why`], with more arguments.
    #[track_caller]
    pub fn why_with(&self, target: &str, more: &[&str]) -> (i32, Value) {
        let mut args = vec!["why", target, "--json"];
        args.extend(more);
        let output = self.run(&args);
        let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
        assert_eq!(answer["schema"], "mosbuild.why/1", "{output}");
        assert_eq!(answer["target"], target, "{output}");
        (output.code.unwrap(), answer)
    }

    /// The JSON object that a command prints; it must succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert_eq!(output.code, Some(0), "{output}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
    }

    /// The output of a target's last run.
    #[track_caller]
    pub fn log(&self, target: &str) -> String {
        let output = self.run(&["log", target]);
        assert_eq!(output.code, Some(0), "{output}");
        output.stdout
    }

    /// Asserts that nothing is left over from work that ended, and that every blob is what its name says.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = scratch_left(&self.store);
        assert!(left.is_empty(), "left in the store's scratch: {left:?}");
        assert_store_whole(&self.store);
    }
}

/// A build that runs; killed if the test gives it up.
pub struct Running {
    child: Option<Child>,
    events: PathBuf,
    args: Vec<String>,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Whether it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// Waits until a step of the target has started.
    #[track_caller]
    pub fn wait_for_start(&mut self, target: &str) {
        let fits = |e: &Value| e["event"] == "step_started" && e["target"] == target;
        wait_until(|| read_events(&self.events).iter().any(fits) || !self.runs());
        let events = read_events(&self.events);
        assert!(events.iter().any(fits), "{target} should start: {events:?}");
    }

    /// Waits until so many processes have the marker.
    #[track_caller]
    pub fn wait_for_processes(&mut self, marker: &Marker, count: usize) {
        // Between fork and exec a process looks like the one that it is of.
        let mut there = 0;
        wait_until(|| {
            there = if marker.processes().len() == count { there + 1 } else { 0 };
            there > 3 || !self.runs()
        });
        assert_eq!(marker.processes().len(), count, "{:?}", read_events(&self.events));
    }

    /// Sends a signal by its name, `INT`.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        Output::wait(self.child.take().unwrap(), &args, Some(&self.events))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until something holds; false if it does not in time.
pub fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The one cause in an answer of `why` that fits; fails if there is none.
#[track_caller]
pub fn cause<'a>(answer: &'a Value, gate: &str, subject: &str) -> &'a Value {
    let causes = answer["causes"].as_array().unwrap();
    let found = causes.iter().find(|c| c["gate"] == gate && c["subject"] == subject);
    found.unwrap_or_else(|| panic!("no cause {gate} {subject}: {answer:#}"))
}
