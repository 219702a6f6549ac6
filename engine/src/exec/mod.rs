//! Running one command: what is to be run (`Job`), how it ended (`Outcome`), and the executors that do it.
//!
//! Knows Linux. Knows nothing of actions, keys, targets or the cache: everything arrives as paths and strings.

mod cancel;
mod child;
mod command;
pub mod container;
pub mod elsewhere;
mod error;
mod filter;
mod helper;
mod host;
pub mod jobserver;
mod orphans;
mod output;
mod overlay;
mod owners;
mod probe;
mod program;
mod resolve;
mod sandbox;
mod supervisor;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cancel::CancelToken;
pub use container::{Container, ContainerOptions};
pub use error::ExecError;
pub use helper::{Heard, Helper, HelperEnd};
pub use host::Host;
pub use jobserver::{JOBSERVER_READ, JOBSERVER_WRITE, Pool, Slot};
pub use overlay::overlay_works;
pub use owners::Owners;
pub use probe::{Unavailable, probe, probe_root};
pub use sandbox::Sandbox;

/// The hostname that every sandboxed step sees.
pub const HOSTNAME: &str = "mosbuild";

/// One command to run, complete: an executor adds nothing but what it documents.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory: a path inside the sandbox, or on the host for [`Host`].
    pub cwd: PathBuf,
    /// A directory of the host that becomes the job's root, writable, with the command as its root user; see
    /// [`Sandbox`]. It must belong to the caller and be seen by nobody else. Refused by [`Host`].
    pub root: Option<PathBuf>,
    /// Whom things in `root` belong to when the job begins, where that is not 0:0: paths inside, users and groups.
    pub owners: Vec<(PathBuf, u32, u32)>,
    /// What the step sees beside `/proc`, `/dev` and `/tmp`, in order: later ones may lie in earlier ones. Ignored by [`Host`].
    /// With a `root` they may lie below `/dev` only, where they leave no trace in it.
    pub mounts: Vec<Mount>,
    /// Bounds on the step.
    pub limits: Limits,
    /// The file that receives stdout and stderr. It is made on the first byte: no output, no file. Its folder must be
    /// writable and private to the job: [`Sandbox`] makes an empty directory there for as long as the job runs.
    pub log: PathBuf,
    /// The jobserver's descriptors (see [`Pool::fds`]); the command gets them as [`JOBSERVER_READ`] and [`JOBSERVER_WRITE`].
    pub jobserver: Option<(RawFd, RawFd)>,
    /// Patterns in the output that end the step.
    pub console: Option<Console>,
    /// Inherit stdin, stdout, stderr and the terminal (`mosbuild shell`); nothing is logged.
    pub interactive: bool,
    /// Device nodes of the host that the step may use, such as `/dev/kvm`.
    pub extra_devices: Vec<PathBuf>,
}

/// One thing in the step's file system. `at` is an absolute path inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A file or directory of the host. Parents of `at` and `at` itself are made where they are missing.
    Bind {
        /// The path on the host.
        from: PathBuf,
        /// The path inside.
        at: PathBuf,
        /// Whether the step may write to it.
        writable: bool,
        /// Whether mounts below `from` come along. Refused by the kernel if false and there are some.
        recursive: bool,
    },
    /// Directories laid over each other, the first of `lower` on top of the others, written to in `upper`.
    Overlay {
        /// Read-only layers, topmost first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// An empty directory on the file system of `upper`.
        work: PathBuf,
        /// The path inside.
        at: PathBuf,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// The path inside.
        at: PathBuf,
        /// Its bound in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What the link says.
        target: PathBuf,
        /// The path inside.
        at: PathBuf,
    },
    /// An empty directory.
    Dir {
        /// The path inside.
        at: PathBuf,
    },
    /// A small file, mode 0644.
    File {
        /// The path inside.
        at: PathBuf,
        /// Its bytes.
        contents: Vec<u8>,
    },
}

impl Mount {
    /// The path inside.
    pub fn at(&self) -> &Path {
        match self {
            Self::Bind { at, .. }
            | Self::Overlay { at, .. }
            | Self::Tmpfs { at, .. }
            | Self::Symlink { at, .. }
            | Self::Dir { at }
            | Self::File { at, .. } => at,
        }
    }

    /// A host path that the step may read.
    pub fn read_only(from: impl Into<PathBuf>, at: impl Into<PathBuf>) -> Self {
        Self::Bind { from: from.into(), at: at.into(), writable: false, recursive: true }
    }

    /// A host path that the step may write.
    pub fn writable(from: impl Into<PathBuf>, at: impl Into<PathBuf>) -> Self {
        Self::Bind { from: from.into(), at: at.into(), writable: true, recursive: true }
    }
}

/// Bounds on a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Wall time, after which everything is killed.
    pub time: Option<Duration>,
    /// Bytes of private writable memory for each process (`RLIMIT_DATA`), not for their sum: a memory cgroup would
    /// need rights that a plain user does not have.
    pub memory: Option<u64>,
}

/// What to look for in the output, each a plain part of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// When each has been seen, in any order, the step is ended and has succeeded.
    pub expect: Vec<String>,
    /// When one is seen, the step is ended and has failed.
    pub forbid: Vec<String>,
    /// Names and patterns whose first appearance is timed.
    pub marks: Vec<(String, String)>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// Killed at its time limit.
    TimedOut,
    /// Killed because the run was cancelled.
    Cancelled,
    /// Killed because this line held a forbidden pattern.
    Forbidden(String),
    /// Killed because all expected patterns had been seen: success.
    Expected,
    /// Killed by the kernel for passing the memory of its container.
    OutOfMemory,
}

/// How a step ended and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// From start to the last process gone.
    pub wall: Duration,
    /// Processor time in user mode, of all processes that were waited for.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process. Never below this program's own size, which a child has until it execs.
    pub max_rss_kib: u64,
    /// Bytes written to the log; 0 means that there is no log file.
    pub log_bytes: u64,
    /// Patterns of [`Console::expect`] that were not seen.
    pub missing: Vec<String>,
    /// Those of [`Console::marks`] that were seen, and when after the start.
    pub marks: Vec<(String, Duration)>,
    /// Whether no process is left that could still write where the step ran.
    pub alone: bool,
    /// The owners of the files of a job with a root of its own: those it began with and those that it gave. Empty
    /// for all others.
    pub owners: Owners,
}

impl Outcome {
    /// Exit code 0 with nothing missing, or all expected patterns seen.
    pub fn success(&self) -> bool {
        matches!(self.end, End::Exit(0) | End::Expected) && self.missing.is_empty()
    }
}

/// Whoever looks on while a step runs.
pub trait Watch: Sync {
    /// A whole line of output; each is given once, in order.
    fn line(&self, _line: &str) {}

    /// What stops the step early.
    fn cancel(&self) -> Option<&CancelToken> {
        None
    }
}

/// Nobody looks on.
impl Watch for () {}

/// Runs jobs. `run` blocks its thread until every process of the job is gone.
pub trait Executor: Send + Sync {
    /// Run one job to its end. An error means that the command was never started.
    fn run(&self, job: &Job, watch: &dyn Watch) -> Result<Outcome, ExecError>;

    /// `sandbox`, `container` or `host`, as in the configuration.
    fn name(&self) -> &'static str;
}
