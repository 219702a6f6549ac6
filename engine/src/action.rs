//! What a target's plan is made of: steps, their inputs, and the work they do.
//! Knows neither keys (record.rs) nor when anything runs (build/); a plan is data.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mosbuild_cache::{Digest, Output, Store, Tree};
use serde::{Deserialize, Serialize};

use crate::fetch::{Fetched, Fetcher, Request, Watch};
use crate::item::Services;
use crate::lockfile::{Pin, Update};

/// One unit of work of a target: it has one key, one result and one log.
pub struct Step {
    /// Unique within the target: `compile`, `vendor`, … Shown to people as `target:step`.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// What it reads, in the order in which it was declared; names are unique within the step.
    pub inputs: Vec<StepInput>,
    /// Parameters after interpolation that decide the result; they enter the key as `param NAME`.
    pub params: BTreeMap<String, String>,
    /// `target:step` pairs that must not start before this step succeeded (the preflight), although
    /// they read nothing from it. Never in a key.
    pub gates: Vec<(u32, String)>,
    /// Id in mosbuild.lock of the source that this step brings in. Its pin is found ([`Builtin::lock`]) before the
    /// step has a key, and is part of the key.
    pub pin: Option<String>,
}

impl Step {
    /// Whether it is a command that runs in a root of its own.
    pub fn is_rooted(&self) -> bool {
        self.inputs.iter().any(|i| i.place == Place::Root)
    }

    /// Whether it needs namespaces of the host.
    pub fn is_sandboxed(&self) -> bool {
        match &self.work {
            Work::Command(command) => command.executor == ExecutorKind::Sandbox,
            Work::Builtin(builtin) => builtin.asks_in_a_root() || !builtin.tools().is_empty(),
        }
    }

    /// Whether it brings in what mosbuild.lock, or the lock file of the source itself, names by digest.
    pub fn is_locked_source(&self) -> bool {
        self.pin.is_some() || self.waits()
    }

    /// Whether it mostly waits for a network.
    pub fn waits(&self) -> bool {
        matches!(&self.work, Work::Builtin(b) if b.waits())
    }
}

/// How a step does its work.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each step, and a box would only add an allocation"
)]
pub enum Work {
    /// A program or script, run by an executor on materialised inputs.
    Command(Command),
    /// A function of this program, run in-process.
    Builtin(Arc<dyn Builtin>),
}

/// One named input of a step.
#[derive(Clone, Debug)]
pub struct StepInput {
    /// For a command's `deps` the variable that holds its path; otherwise free.
    pub name: String,
    /// Where its bytes come from.
    pub from: Input,
    /// Where a command sees it.
    pub place: Place,
}

/// Where an input's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Files of the workspace matched by these patterns of the target (as declared by `Rule::declare`),
    /// as one tree at their workspace paths.
    Files(Vec<String>),
    /// A file or directory outside of the workspace (`{path: /absolute}`): a file is a file input, a
    /// directory a tree.
    External(PathBuf),
    /// A workspace file or folder taken alone: a file is a file input, a folder a tree re-rooted at it.
    Path(String),
    /// An output of another target.
    Upstream {
        /// Index in `Loaded::targets`.
        target: u32,
        /// The output's name.
        output: String,
    },
    /// An output of an earlier step of the same target.
    Step {
        /// Position of that step in the plan.
        step: usize,
        /// The output's name.
        output: String,
    },
}

/// Where a command sees an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not materialised: builtins read it through [`BuiltinCx`].
    Unplaced,
    /// Laid into the step's working directory, at the tree's own paths.
    Work,
    /// Read-only at this absolute path inside the sandbox.
    ReadOnly(String),
    /// At this absolute path, writable; what the step writes there does not reach the store unless
    /// `Command::outputs` names it.
    Writable(String),
    /// The root of the file system itself, writable, of a command that brings its programs along: it sees nothing of
    /// the host, its other inputs lie below `/dev`, and the owners that it sets are kept.
    Root,
}

/// A program or script with all that it may see.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// Program and arguments; with `script` these are the shell's positional parameters.
    pub argv: Vec<String>,
    /// Text run by `sh -eu`.
    pub script: Option<String>,
    /// Declared environment.
    pub env: BTreeMap<String, EnvVar>,
    /// Names of host programs beside the Essential ones.
    pub tools: Vec<String>,
    /// Working directory inside the sandbox; [`WORK_DIR`] if empty.
    pub cwd: String,
    /// What it leaves.
    pub outputs: Vec<CommandOutput>,
    /// Fact name to a path below `$OUT` whose text, trimmed, is its value.
    pub facts: BTreeMap<String, String>,
    /// Wall-clock limit.
    pub timeout: Option<Duration>,
    /// Address-space limit in bytes of each process.
    pub memory: Option<u64>,
    /// Stop successfully once all `expect` texts were seen; fail on any `forbid` text.
    pub console: Option<Console>,
    /// Which executor; decided after planning, by [`crate::build::executors`].
    pub executor: ExecutorKind,
    /// Whether it takes part in the jobserver (make, cargo).
    pub jobserver: bool,
    /// Empty files or folders expected to be missing from the outputs are an error unless this is set.
    pub devices: Vec<PathBuf>,
}

/// The directory in which a command runs, inside the sandbox.
pub const WORK_DIR: &str = "/build/work";
/// `$OUT` inside the sandbox.
pub const OUT_DIR: &str = "/build/out";
/// Upstream outputs of a `command` are at `DEPS_DIR/NAME`.
pub const DEPS_DIR: &str = "/build/deps";

/// Texts watched for on a command's output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// All must appear, in any order.
    pub expect: Vec<String>,
    /// None may appear.
    pub forbid: Vec<String>,
    /// Fact name to a text: when a line first had it becomes that fact, in seconds since the start.
    pub marks: Vec<(String, String)>,
}

/// A declared environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvVar {
    /// A fixed text.
    Value(String),
    /// The value that the variable has on the host now; unset stays unset and differs from empty.
    Host {
        /// Name on the host.
        name: String,
        /// Secret values enter records and keys as keyed hashes, never as text.
        secret: bool,
    },
}

/// What a command leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOutput {
    /// The step output's name.
    pub name: String,
    /// Relative to `$OUT`, or an absolute sandbox path below a `Place::Writable` input. Empty: all of `$OUT`.
    pub path: String,
    /// File or tree.
    pub kind: OutKind,
}

/// Kind of an output as declared.
pub use crate::load::OutputKind as OutKind;

/// Who runs a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutorKind {
    /// Namespaces; the default.
    #[default]
    Sandbox,
    /// A container of an image that brings the tools.
    Container,
    /// The host itself, explicitly asked for: results are marked unsandboxed.
    Host,
}

/// A function of this program that makes outputs from inputs and parameters (`Step::params`).
pub trait Builtin: Send + Sync {
    /// Stable name, in the key.
    fn name(&self) -> &'static str;
    /// Raised whenever the same inputs give other outputs; in the key.
    fn version(&self) -> u32;
    /// Does the work. Must depend on nothing but `cx`'s inputs and the step's params.
    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError>;
    /// Names and kinds of the outputs it makes.
    fn outputs(&self) -> Vec<(String, OutKind)>;
    /// Whether it mostly waits for a network: then it takes no CPU slot.
    fn waits(&self) -> bool {
        false
    }
    /// Programs of the host that it may run, for `mosbuild doctor`: none is in the key, since what they bring is checked.
    fn programs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether it runs programs of a tree ([`crate::rooted::ask`]), for which the host must allow a sandbox.
    fn asks_in_a_root(&self) -> bool {
        false
    }
    /// Host tools that it runs ([`BuiltinCx::run_tool`]): what they are is in the key, and one that is missing is said
    /// before anything runs.
    fn tools(&self) -> &'static [&'static str] {
        &[]
    }
    /// Finds the pin of the step's source: what it stands for now. Only for steps with `Step::pin`; may use the network.
    fn lock(&self, _cx: &BuiltinCx<'_>, _locking: &Locking<'_>) -> Result<Pin, StepError> {
        Err(StepError::new(format!("{} has nothing to lock; this is a fault of mosbuild", self.name())))
    }
    /// Whether the lock's pin is for what the step asks now. Runs on the scheduler: it must be quick.
    fn fits(&self, _cx: &BuiltinCx<'_>, _pin: &Pin) -> Result<bool, StepError> {
        Ok(true)
    }
    /// What of the pin decides the result, and of inputs of which less than their bytes does. Runs on the scheduler.
    fn pinned(&self, _cx: &BuiltinCx<'_>, pin: &Pin) -> Result<Pinned, StepError> {
        Ok(Pinned { params: pin.fields.clone(), ..Pinned::default() })
    }
}

/// What a pinned step's key has beside the usual, and in place of some inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Further parameters.
    pub params: BTreeMap<String, String>,
    /// Inputs of which only these parameters decide: their bytes are not in the key.
    pub replaced: Vec<String>,
    /// Parameters of the step that are not in the key either: they only tell how the pin is found.
    pub replaced_params: Vec<String>,
}

/// How a pin is to be found.
pub struct Locking<'a> {
    /// What the lock has: stays as far as it still serves.
    pub previous: Option<&'a Pin>,
    /// What of it is to be found anew all the same.
    pub update: &'a Update,
    /// All of it.
    pub anew: bool,
}

/// What a builtin made.
#[derive(Default)]
pub struct Made {
    /// By output name; the blobs and trees are in the store already.
    pub outputs: BTreeMap<String, Output>,
    /// Facts, e.g. `version`.
    pub facts: BTreeMap<String, String>,
    /// Remarks kept with the result and shown by `show`, also on a hit.
    pub notes: Vec<String>,
}

/// A step's failure, for the person at the desk.
#[derive(Debug)]
pub struct StepError {
    /// What went wrong, possibly several lines.
    pub message: String,
    /// What to do.
    pub help: Vec<String>,
    /// Exit class: 1 a step failed, 3 the host lacks something, 4 a source could not be fetched.
    pub exit: u8,
    /// A blob that an input needs is missing or damaged: not a failure but a miss of its producer.
    pub lost: Option<Digest>,
    /// An input file changed while the step read it: the step is keyed again.
    pub changed: Option<String>,
}

impl StepError {
    /// An ordinary failure.
    pub fn new(message: impl Into<String>) -> StepError {
        StepError { message: message.into(), help: Vec::new(), exit: 1, lost: None, changed: None }
    }
    /// With one more line of help.
    pub fn help(mut self, help: impl Into<String>) -> StepError {
        self.help.push(help.into());
        self
    }
    /// With another exit class.
    pub fn exit(mut self, exit: u8) -> StepError {
        self.exit = exit;
        self
    }
}

impl From<std::io::Error> for StepError {
    fn from(e: std::io::Error) -> StepError {
        StepError::new(e.to_string())
    }
}

impl From<mosbuild_cache::BlobError> for StepError {
    fn from(e: mosbuild_cache::BlobError) -> StepError {
        let lost = match &e {
            mosbuild_cache::BlobError::Missing(d) => Some(*d),
            mosbuild_cache::BlobError::Corrupt { digest, .. } => Some(*digest),
            _ => None,
        };
        StepError { lost, ..StepError::new(e.to_string()) }
    }
}

impl From<mosbuild_cache::StoreError> for StepError {
    fn from(e: mosbuild_cache::StoreError) -> StepError {
        StepError::new(e.to_string())
    }
}

/// A resolved input as a builtin sees it.
pub enum Available {
    /// A file: its digest, size and, when it lies outside of the store, its path.
    File {
        /// Content.
        digest: Digest,
        /// Bytes.
        size: u64,
        /// Owner's execute bit.
        executable: bool,
        /// Workspace or external file (not ingested); `None`: a blob.
        path: Option<PathBuf>,
    },
    /// A tree; with `root`, its files lie below that host directory and not in the store yet.
    Tree {
        /// The entries.
        tree: Arc<Tree>,
        /// Digest of the encoded tree.
        digest: Digest,
        /// Host directory of workspace files.
        root: Option<PathBuf>,
    },
}

/// What a builtin may touch.
pub struct BuiltinCx<'a> {
    /// Inputs by name.
    pub inputs: BTreeMap<String, Available>,
    /// The step's parameters, the same that entered the key.
    pub params: &'a BTreeMap<String, String>,
    /// The store, for blobs of inputs and outputs.
    pub store: &'a Store,
    /// Scratch directory, removed afterwards.
    pub scratch: PathBuf,
    /// Receives progress and log lines.
    pub log: &'a (dyn Fn(&str) + Sync),
    /// Receives what a person should hear now, though nothing fails.
    pub warn: &'a (dyn Fn(&str) + Sync),
    /// True once the build was interrupted; long loops look at it.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// The pin of a step that has one; none while it is being found.
    pub pin: Option<&'a Pin>,
    /// Downloads, within what `--offline` allows.
    pub fetcher: &'a Fetcher,
    /// Receives the progress of downloads: URL, bytes so far, bytes in all where known.
    pub progress: &'a (dyn Fn(&str, u64, Option<u64>) + Sync),
    /// Pieces of work with results of their own, host tools, and what was built before: by way of [`BuiltinCx::batch`]
    /// and the methods beside it.
    pub services: &'a dyn Services,
}

impl Watch for BuiltinCx<'_> {
    fn progress(&self, url: &str, done: u64, total: Option<u64>) {
        (self.progress)(url, done, total);
    }
    fn say(&self, line: &str) {
        (self.log)(line);
    }
    fn cancelled(&self) -> bool {
        (self.cancelled)()
    }
}

impl BuiltinCx<'_> {
    /// The pin of a step that has one.
    pub fn pin(&self) -> Result<&Pin, StepError> {
        self.pin.ok_or_else(|| StepError::new("the step has no pin; this is a fault of mosbuild"))
    }

    /// Downloads a file into the store, if it is not there.
    pub fn fetch(&self, request: &Request) -> Result<Fetched, StepError> {
        Ok(self.fetcher.fetch(self.store, request, self)?)
    }

    /// Downloads several files into the store, some at once.
    pub fn fetch_all(&self, requests: &[Request]) -> Result<Vec<Fetched>, StepError> {
        Ok(self.fetcher.fetch_all(self.store, requests, self)?)
    }

    fn input(&self, name: &str) -> Result<&Available, StepError> {
        self.inputs.get(name).ok_or_else(|| StepError::new(format!("no input named {name}")))
    }

    /// A parameter's text; absent is empty.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map(String::as_str).unwrap_or("")
    }

    /// Whether the step has an input of this name.
    pub fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name)
    }

    /// A tree input whose blobs are in the store (workspace files are ingested now).
    pub fn tree(&self, name: &str) -> Result<Arc<Tree>, StepError> {
        match self.input(name)? {
            Available::Tree { tree, root: None, .. } => Ok(tree.clone()),
            Available::Tree { tree, root: Some(root), .. } => {
                crate::inputs::ingest_tree(self.store, root, tree)?;
                Ok(tree.clone())
            }
            Available::File { .. } => Err(StepError::new(format!("input {name} is a file, not a tree"))),
        }
    }

    /// A tree input as it is listed: the content of workspace files is not in the store yet, see [`BuiltinCx::ingest`].
    pub fn listed(&self, name: &str) -> Result<Arc<Tree>, StepError> {
        match self.input(name)? {
            Available::Tree { tree, .. } => Ok(tree.clone()),
            Available::File { .. } => Err(StepError::new(format!("input {name} is a file, not a tree"))),
        }
    }

    /// Brings the content of some files of a tree input into the store, of a large folder of which little is wanted.
    pub fn ingest(&self, name: &str, some: &Tree) -> Result<(), StepError> {
        match self.input(name)? {
            Available::Tree { root: Some(root), .. } => crate::inputs::ingest_tree(self.store, root, some),
            _ => Ok(()),
        }
    }

    /// A file input as (digest, size, executable), its blob in the store.
    pub fn blob(&self, name: &str) -> Result<(Digest, u64, bool), StepError> {
        match self.input(name)? {
            Available::File { digest, size, executable, path } => {
                if let Some(path) = path {
                    crate::inputs::ingest_file(self.store, path, *digest)?;
                }
                Ok((*digest, *size, *executable))
            }
            Available::Tree { .. } => Err(StepError::new(format!("input {name} is a tree, not a file"))),
        }
    }

    /// The bytes of a file input, verified.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, StepError> {
        match self.input(name)? {
            Available::File { digest, path: None, .. } => Ok(self.store.read(digest)?),
            Available::File { digest, path: Some(path), .. } => {
                let bytes =
                    std::fs::read(path).map_err(|e| StepError::new(format!("{}: {e}", path.display())))?;
                if Digest::of(&bytes) != *digest {
                    return Err(crate::inputs::changed(path));
                }
                Ok(bytes)
            }
            Available::Tree { .. } => Err(StepError::new(format!("input {name} is a tree, not a file"))),
        }
    }

    /// Streams a large file input; when `read` is done the digest of what was read is checked.
    pub fn stream<T>(
        &self,
        name: &str,
        read: impl FnOnce(&mut dyn Read) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        match self.input(name)? {
            Available::File { digest, path, .. } => {
                let path = match path {
                    Some(path) => path.clone(),
                    None => self.store.blob_path(digest)?,
                };
                crate::inputs::stream_verified(&path, *digest, read)
            }
            Available::Tree { .. } => Err(StepError::new(format!("input {name} is a tree, not a file"))),
        }
    }
}
