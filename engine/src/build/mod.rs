//! The life of a build: plan, key, look up, schedule, run, record, place.
//! This file holds the requests and answers; it knows no rule and no terminal.

mod builtin;
mod command;
mod depot;
mod driver;
mod evaluate;
pub mod executors;
mod forecast;
mod fresh;
mod items;
mod layout;
mod locking;
pub mod overrides;
mod place;
mod prepare;
mod rewind;
pub mod sign;
mod verdict;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use mosbuild_cache::{Digest, Store};

pub use evaluate::{Evaluator, INLINE_FILES, Resolved};
pub use layout::{ShellStep, prepare_shell};
pub use place::fill_name;
pub use prepare::{Prepared, Site, Workspace, named, prepare, prepare_what_can_be};

use crate::events::Sink;
use crate::load::{Diagnostics, Mirror};
use crate::lockfile::{Pins, Update};
use crate::rule::PlanError;
use crate::run_record::{RunHead, StepRun};

/// What a run is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// The requested targets, placed in dist/.
    #[default]
    Build,
    /// Pins of all sources of the requested targets, and what has to be built to find them.
    Lock,
    /// All that the requested targets download.
    Fetch,
}

/// What to build and how.
#[derive(Clone, Default)]
pub struct BuildOptions {
    /// Targets by name; empty: the default ones.
    pub requested: Vec<String>,
    /// CPU slots; 0: as many as there are processors.
    pub jobs: usize,
    /// Go on with what does not depend on a failure.
    pub keep_going: bool,
    /// Targets whose steps run although a result is known.
    pub force: Vec<String>,
    /// An unlocked source is an error.
    pub locked: bool,
    /// The network may not be used.
    pub offline: bool,
    /// Results are neither looked up nor stored.
    pub no_cache: bool,
    /// What the run is for.
    pub goal: Goal,
    /// Set where the run is one of several that are compared.
    pub apart: Option<Apart>,
    /// Pins to be found anew.
    pub update: Update,
    /// Tried before the workspace's own mirrors: the user's.
    pub mirrors: Vec<Mirror>,
    /// The command line, for the run record.
    pub args: Vec<String>,
    /// Profile, for the run record.
    pub profile: Option<String>,
    /// The key that SHA256SUMS is signed with; in no record.
    pub sign: Option<PathBuf>,
}

/// A build that is made to be compared with another one: in a store above the usual one, with nothing placed. Sources
/// that the lock pins are taken from the stores below, and everything else is made.
#[derive(Clone, Debug, Default)]
pub struct Apart {
    /// Keys whose results are taken from the stores below as well.
    pub known: BTreeSet<Digest>,
    /// Ready steps start in the opposite order.
    pub backwards: bool,
}

/// How a build ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The run's record.
    pub head: RunHead,
    /// Files placed or found in place in dist/, relative to the workspace where they lie in it.
    pub placed: Vec<PathBuf>,
    /// Names of failed targets, and of those skipped because of them.
    pub failed: Vec<String>,
    /// The lock before and after; none where nothing was planned.
    pub pins: Option<(Pins, Pins)>,
}

/// What a build would do with a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// All its steps are hits.
    Hit,
    /// A step will run.
    Run {
        /// The step.
        step: String,
        /// Median of its measured durations, milliseconds.
        expected: Option<u64>,
    },
    /// Whether it runs depends on the output of another target that will run, or is blocked.
    DependsOn(String),
    /// It cannot be built on this host as it is.
    Blocked(Blocked),
}

/// What this host lacks for a target, or what else keeps it from being planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Vec<String>,
    /// Exit code of a build: 2 configuration, 3 host, 4 source.
    pub exit: u8,
}

/// The answer of a dry run: the same as a build's, but nothing was run.
pub struct Predicted {
    /// By target, in topological order.
    pub targets: Vec<(String, Forecast)>,
    /// As they would be recorded; steps that depend on another's output have no key.
    pub steps: Vec<StepRun>,
    /// The records of the keys.
    pub records: BTreeMap<Digest, Vec<u8>>,
}

/// Why a build could not start.
#[derive(Debug)]
pub struct BuildError {
    /// Exit code: 2, 3 or 4; 1 for an operating error.
    pub exit: u8,
    /// What is wrong, one entry each, with help.
    pub errors: Vec<(String, Vec<String>)>,
    /// What is wrong with the file, to be drawn with its text.
    pub diagnostics: Option<Diagnostics>,
}

impl BuildError {
    /// One error of the given exit class.
    pub fn new(exit: u8, message: impl Into<String>) -> BuildError {
        BuildError { exit, errors: vec![(message.into(), Vec::new())], diagnostics: None }
    }

    /// The same as what blocks a target; `None` if there is no error in it.
    fn into_blocked(mut self) -> Option<Blocked> {
        let (message, help) = self.errors.pop()?;
        Some(Blocked { message, help, exit: self.exit })
    }

    /// With one more line of help on the last error.
    pub fn help(mut self, help: impl Into<String>) -> BuildError {
        if let Some((_, lines)) = self.errors.last_mut() {
            lines.push(help.into());
        }
        self
    }
}

impl From<PlanError> for Blocked {
    fn from(e: PlanError) -> Blocked {
        Blocked { message: e.message, help: e.help, exit: e.exit }
    }
}

impl From<PlanError> for BuildError {
    fn from(e: PlanError) -> BuildError {
        BuildError { exit: e.exit, errors: vec![(e.message, e.help)], diagnostics: None }
    }
}

impl From<Diagnostics> for BuildError {
    fn from(diagnostics: Diagnostics) -> BuildError {
        BuildError { exit: 2, errors: Vec::new(), diagnostics: Some(diagnostics) }
    }
}

impl From<std::io::Error> for BuildError {
    fn from(e: std::io::Error) -> BuildError {
        BuildError::new(1, e.to_string())
    }
}

impl From<mosbuild_cache::StoreError> for BuildError {
    fn from(e: mosbuild_cache::StoreError) -> BuildError {
        BuildError::new(1, e.to_string())
    }
}

/// Builds. Blocks; waits for interrupts itself. The caller holds the workspace's lock.
pub fn build(
    site: &Site,
    store: &Store,
    options: &BuildOptions,
    sink: Arc<dyn Sink>,
) -> Result<Report, BuildError> {
    let (started, began) = (std::time::Instant::now(), std::time::SystemTime::now());
    if options.locked && !site.load.overrides.is_empty() {
        overrides::refuse_locked(&site.load()?, true)?;
    }
    match &options.sign {
        Some(key) => sign::check(key)?,
        None => {
            if let Some(report) = fresh::unchanged(site, store, options, &*sink, started) {
                return Ok(report);
            }
        }
    }
    let mut workspace = Workspace::open(site)?;
    workspace.memory.recall(&crate::run_record::Runs::of(&workspace.dirs.state), store);
    let prepared = prepare(&mut workspace, store, options, Some(&sink))?;
    let report = driver::run(&mut workspace, prepared, store, options, sink, (started, began));
    // The program is about to end: taking all this apart, allocation by allocation, is a tenth of a second for 10,000
    // targets. The database is closed, so that another build may open it.
    let Workspace { state, loaded, stat_cache, memory, .. } = workspace;
    drop(state);
    std::mem::forget((loaded, stat_cache, memory));
    report
}

/// Says what a build would do now, running nothing. A target that this host lacks something for is told as
/// [`Forecast::Blocked`], although it would keep the build from starting.
pub fn predict(
    workspace: &mut Workspace,
    store: &Store,
    options: &BuildOptions,
) -> Result<Predicted, BuildError> {
    let prepared = prepare_what_can_be(workspace, store, options)?;
    forecast::predict(workspace, prepared, store, options)
}
