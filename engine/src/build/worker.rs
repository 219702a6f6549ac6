//! One attempt at one step, on a thread of its own: waits for a slot, runs it, stores the result last.
//! Decides nothing about other steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mosbuild_cache::{ActionResult, Digest, Store};

use super::{Prepared, Resolved, builtin, command};
use crate::action::{Locking, StepError, Work};
use crate::events::{Event, Sink};
use crate::lockfile::{Pin, Update};
use crate::plan::{StepIx, StepNode};

/// How many last lines of output a failure shows.
pub(super) const TAIL: usize = 25;

/// What a worker is to do with a step.
pub(super) enum Purpose {
    /// Find its pin; this is what the lock has.
    Lock(Option<Pin>),
    /// Run it.
    Run,
}

/// A step handed to a worker.
pub(super) struct Job {
    pub ix: StepIx,
    pub purpose: Purpose,
    pub key: Digest,
    pub inputs: Vec<Resolved>,
    /// Of a step that has one; not while it is being found.
    pub pin: Option<Pin>,
    pub prepared: Arc<Prepared>,
    pub store: Store,
    pub sink: Arc<dyn Sink>,
    /// Said when it has its slot.
    pub started: Event,
    /// Set when no further step is to start.
    pub stop: Arc<AtomicBool>,
    pub run: String,
    /// Whether something of a working copy goes into it.
    pub local: bool,
    /// Pins that are to be found anew.
    pub update: Update,
    /// A result that another process stored meanwhile must not be taken (forced, lost blob).
    pub fresh_only: bool,
    /// Whether the result is stored for other runs.
    pub keep: bool,
    /// Not even pieces of its work may be taken from earlier runs (forced).
    pub anew: bool,
    /// Its last success in this workspace.
    pub before: Option<Before>,
    /// Where the whole log of a failure is kept.
    pub log_dir: PathBuf,
}

/// The last success of a step: for texts only.
pub(super) struct Before {
    pub result: Arc<ActionResult>,
    /// The run whose record file has its record.
    pub record_run: String,
}

/// What came of it.
pub(super) enum Attempt {
    /// It ran; its result is stored.
    Made(Box<ActionResult>),
    /// Another process made it while this one waited.
    FoundMeanwhile(Box<ActionResult>),
    /// Its pin was found.
    Locked(Box<Pin>),
    /// Nothing was done: no further step is to start.
    NotStarted,
    /// It failed.
    Failed { error: StepError, tail: Vec<String>, log: Option<PathBuf> },
}

/// What a successful execution leaves; the worker makes the result of it.
#[derive(Default)]
pub(super) struct Execution {
    pub outputs: std::collections::BTreeMap<String, mosbuild_cache::Output>,
    pub facts: std::collections::BTreeMap<String, String>,
    pub notes: Vec<String>,
    pub sandboxed: bool,
}

/// A failed execution: the error, and the log so far.
pub(super) struct Broken {
    pub error: Box<StepError>,
    pub log: Vec<u8>,
}

impl<E: Into<StepError>> From<E> for Broken {
    fn from(e: E) -> Broken {
        Broken { error: Box::new(e.into()), log: Vec::new() }
    }
}

impl Job {
    pub(super) fn node(&self) -> &StepNode {
        &self.prepared.graph.steps[self.ix as usize]
    }

    pub(super) fn target(&self) -> &str {
        &self.prepared.loaded.targets[self.node().target as usize].name
    }

    pub(super) fn download(&self, url: &str, done: u64, total: Option<u64>) {
        self.sink.event(&Event::Download {
            target: self.target().to_owned(),
            step: self.node().step.name.clone(),
            url: url.to_owned(),
            done,
            total,
        });
    }

    pub(super) fn line(&self, line: &str) {
        self.sink.event(&Event::StepOutput {
            target: self.target().to_owned(),
            step: self.node().step.name.clone(),
            line: line.to_owned(),
        });
    }
}

/// Runs the step.
pub(super) fn run(job: &Job) -> Attempt {
    let slot = match job.node().step.waits() {
        true => None,
        false => match job.prepared.pool.acquire() {
            Ok(slot) => Some(slot),
            Err(e) => return failed(job, e.into()),
        },
    };
    if job.prepared.cancel.is_cancelled() {
        return failed(job, StepError::new("interrupted").into());
    }
    if job.stop.load(Ordering::Relaxed) {
        return Attempt::NotStarted;
    }
    job.sink.event(&job.started);
    let mut log = Vec::new();
    if let (Purpose::Lock(previous), Work::Builtin(work)) = (&job.purpose, &job.node().step.work) {
        let anew = job.update.takes(job.target());
        let locking = Locking { previous: previous.as_ref(), update: &job.update, anew };
        return match builtin::lock(job, &**work, &locking, &mut log) {
            Ok(pin) => Attempt::Locked(Box::new(pin)),
            Err(broken) => failed(job, broken),
        };
    }
    let lock = match job.store.lock_key(&job.key) {
        Ok(lock) => lock,
        Err(e) => return failed(job, e.into()),
    };
    // Another process may have made it while this one waited for the lock.
    if !job.fresh_only
        && job.keep
        && lock.waited()
        && let Ok(Some(result)) = job.store.get_result(&job.key)
    {
        return Attempt::FoundMeanwhile(Box::new(result));
    }
    let started = std::time::Instant::now();
    let attempt = match &job.node().step.work {
        Work::Builtin(work) => builtin::run(job, &**work, &mut log),
        Work::Command(command) => command::run(job, command, &mut log),
    };
    drop(slot);
    let execution = match attempt {
        Ok(execution) => execution,
        Err(broken) => return failed(job, broken),
    };
    let log = match log.is_empty() {
        true => None,
        false => match job.store.put_bytes(&log) {
            Ok(digest) => Some(digest),
            Err(e) => return failed(job, e.into()),
        },
    };
    let result = ActionResult {
        key: job.key,
        outputs: execution.outputs,
        facts: execution.facts,
        log,
        notes: execution.notes,
        sandboxed: execution.sandboxed,
        millis: started.elapsed().as_millis() as u64,
        run: job.run.clone(),
        local: job.local,
    };
    if job.keep
        && let Err(e) = job.store.put_result(&result)
    {
        return failed(job, e.into());
    }
    drop(lock);
    Attempt::Made(Box::new(result))
}

/// A failure keeps its log, never a result.
fn failed(job: &Job, broken: Broken) -> Attempt {
    let text = String::from_utf8_lossy(&broken.log);
    let mut tail: Vec<String> = text.lines().rev().take(TAIL).map(str::to_owned).collect();
    tail.reverse();
    let mut log = None;
    if broken.error.lost.is_none() && !broken.log.is_empty() {
        let path = job.log_dir.join(format!("{}.{}.log", job.target(), job.node().step.name));
        let written = std::fs::create_dir_all(&job.log_dir).and_then(|()| std::fs::write(&path, &broken.log));
        log = written.is_ok().then_some(path);
    }
    Attempt::Failed { error: *broken.error, tail, log }
}
