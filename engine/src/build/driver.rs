//! The scheduler: which step is looked up, waits, runs, failed or is skipped, and what follows from it.
//! Runs nothing itself (worker.rs does, on blocking threads) and knows no executor.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use mosbuild_cache::{ActionResult, Digest, Output, Store};
use tokio::signal::unix::{SignalKind, signal};

use super::locking::{Standing, Wanted};
use super::place;
use super::verdict::Note;
use super::worker::{self, Attempt, Before, Job, Purpose};
use super::{BuildError, BuildOptions, Goal, Prepared, Report, Resolved, Workspace};
use crate::action::Step;
use crate::events::{EVENTS_SCHEMA, Event, Sink};
use crate::lockfile::Pin;
use crate::plan::StepIx;
use crate::run_record::{OutcomeCode, Reason, Runs, new_id};

/// Where a step stands.
pub(super) enum State {
    /// Some step that it reads is not done.
    Waiting,
    /// Keyed, not a hit, in the ready queue or parked behind a gate.
    Ready,
    /// On a worker.
    Running,
    /// It has a result.
    Done(Arc<ActionResult>, OutcomeCode),
    /// It ran and failed.
    Failed,
    /// A step that it reads or that gates it failed.
    Skipped,
    /// Interrupted, or not started because of a failure elsewhere.
    Cancelled,
}

pub(super) struct Driver<'a> {
    pub workspace: &'a mut Workspace,
    pub prepared: Arc<Prepared>,
    pub store: &'a Store,
    pub options: &'a BuildOptions,
    pub sink: Arc<dyn Sink>,
    pub run: String,
    pub states: Vec<State>,
    /// What will be recorded of each step.
    pub notes: Vec<Note>,
    /// Of steps that wait for a slot.
    pub inputs: Vec<Option<Vec<Resolved>>>,
    pub records: BTreeMap<Digest, Vec<u8>>,
    /// Longest remaining path in milliseconds, by measured durations.
    pub priority: Vec<u64>,
    pub evaluate: VecDeque<StepIx>,
    pub ready: BinaryHeap<(u64, Reverse<StepIx>)>,
    /// As `ready`, of steps that wait for a network: they need no slot.
    pub ready_to_wait: BinaryHeap<(u64, Reverse<StepIx>)>,
    pub running: usize,
    /// Of those that run, how many wait for a network.
    pub waiting: usize,
    /// Sources whose pin is being found, with further steps that want it.
    pub finding: BTreeMap<String, Vec<StepIx>>,
    /// Steps whose pin is to be found, with its id and what the lock has.
    pub previous: BTreeMap<StepIx, (String, Option<Pin>)>,
    /// The pins that keys were made with.
    pub pinned: BTreeMap<StepIx, Pin>,
    /// Sources whose pin was found in this run.
    pub locked: BTreeSet<String>,
    /// The lock could not be written.
    pub unwritten: bool,
    pub forced: Vec<bool>,
    pub rewound: BTreeSet<StepIx>,
    pub retried: BTreeSet<StepIx>,
    pub failed: Vec<u32>,
    /// No further step is to start.
    pub stop: Arc<AtomicBool>,
    pub interrupted: bool,
    /// Milliseconds that the last steps took, about.
    pub typical: u64,
    pub exit: u8,
}

/// Steps that take less than this are handed out before there is a slot for them: what the slots would wait for the
/// scheduler would be much of their time. Others are worth the choice among all that is ready by then.
const SHORT: u64 = 50;
/// How many.
const AHEAD: usize = 2;
/// Steps that wait for a network at once; the downloads of all of them are bounded by the fetcher.
const WAITING: usize = 8;

/// What a worker thread reports.
pub(super) struct Finished {
    pub ix: StepIx,
    pub attempt: Attempt,
    pub millis: u64,
}

pub(super) fn run(
    workspace: &mut Workspace,
    prepared: Prepared,
    store: &Store,
    options: &BuildOptions,
    sink: Arc<dyn Sink>,
    (started, began): (Instant, SystemTime),
) -> Result<Report, BuildError> {
    let prepared = Arc::new(prepared);
    let mut driver = Driver::new(workspace, prepared.clone(), store, options, sink.clone());
    for message in &prepared.warnings {
        sink.event(&Event::Warning { message: message.clone() });
    }
    sink.event(&Event::RunStarted {
        schema: EVENTS_SCHEMA,
        run: driver.run.clone(),
        targets: prepared.counted.len(),
        steps: prepared.graph.steps.len(),
    });
    // A thread for each slot: what is handed out ahead waits in their queue, and whoever is done takes it at once.
    let waits = prepared.graph.steps.iter().any(|s| s.step.waits());
    let threads = prepared.pool.slots() + if waits { WAITING } else { 0 };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(threads).build()?;
    let mut placed = place::Placed::default();
    loop {
        runtime.block_on(driver.work())?;
        if options.goal == Goal::Fetch && !driver.interrupted && !driver.stopping() && driver.fetch_lost() {
            continue;
        }
        if driver.interrupted || driver.stopping() || options.goal != Goal::Build || options.apart.is_some() {
            break;
        }
        match driver.place() {
            Ok(done) => {
                placed = done;
                break;
            }
            Err(place::PlaceError::Lost(step, digest, _)) if driver.rewind_origins(&[step], digest) => {}
            Err(e) => {
                sink.event(&Event::PlaceFailed { message: e.to_string() });
                driver.exit = driver.exit.max(1);
                break;
            }
        }
    }
    // A build that failed in part still leaves what it could build.
    if driver.stopping()
        && !driver.interrupted
        && options.goal == Goal::Build
        && options.apart.is_none()
        && let Ok(done) = driver.place()
    {
        placed = done;
    }
    for (path, size) in &placed.new {
        sink.event(&Event::Placed { path: path.display().to_string(), size: *size });
    }
    if options.goal == Goal::Lock && driver.exit == 0 && !options.locked {
        driver.drop_unasked();
    }
    let report = driver.finish(placed, started, began);
    // See `build`: the program is about to end.
    std::mem::forget((driver.states, driver.notes, prepared));
    report
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        workspace: &'a mut Workspace,
        prepared: Arc<Prepared>,
        store: &'a Store,
        options: &'a BuildOptions,
        sink: Arc<dyn Sink>,
    ) -> Driver<'a> {
        let graph = &prepared.graph;
        let count = graph.steps.len();
        let mut priority = vec![0; count];
        for ix in (0..count).rev() {
            let node = &graph.steps[ix];
            let name = &prepared.loaded.targets[node.target as usize].name;
            // Unknown durations count as long, so that new steps start early.
            let own = workspace.memory.expected(name, &node.step.name).unwrap_or(10_000);
            let below = node.feeds.iter().map(|f| priority[*f as usize]).max().unwrap_or(0);
            priority[ix] = own + below;
        }
        if options.apart.as_ref().is_some_and(|apart| apart.backwards) {
            priority.iter_mut().for_each(|p| *p = u64::MAX - *p);
        }
        let forced = graph
            .steps
            .iter()
            .map(|s| options.force.contains(&prepared.loaded.targets[s.target as usize].name));
        let forced = forced.collect();
        let notes = (0..count).map(|_| Note::default()).collect();
        let evaluate =
            (0..count).filter(|ix| graph.steps[*ix].needs.is_empty()).map(|ix| ix as StepIx).collect();
        Driver {
            store,
            options,
            sink,
            run: new_id(),
            states: (0..count).map(|_| State::Waiting).collect(),
            notes,
            inputs: vec![None; count],
            records: BTreeMap::new(),
            priority,
            evaluate,
            ready: BinaryHeap::new(),
            ready_to_wait: BinaryHeap::new(),
            running: 0,
            waiting: 0,
            finding: BTreeMap::new(),
            previous: BTreeMap::new(),
            pinned: BTreeMap::new(),
            locked: BTreeSet::new(),
            unwritten: false,
            forced,
            rewound: BTreeSet::new(),
            retried: BTreeSet::new(),
            failed: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            interrupted: false,
            typical: SHORT,
            exit: 0,
            workspace,
            prepared,
        }
    }

    /// Runs the graph until nothing is left that can run.
    async fn work(&mut self) -> Result<(), BuildError> {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Finished>();
        let slots = self.prepared.pool.slots();
        // Once for all turns: one that comes between two turns is not lost.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        loop {
            while let Some(ix) = self.evaluate.pop_front() {
                if !self.interrupted {
                    self.evaluate(ix)?;
                }
            }
            let ahead = if self.typical < SHORT { AHEAD } else { 0 };
            while !self.stopping() && !self.interrupted {
                let next = match self.ready_to_wait.peek() {
                    Some(_) if self.waiting < WAITING => self.ready_to_wait.pop(),
                    _ if self.running - self.waiting < slots + ahead => self.ready.pop(),
                    _ => None,
                };
                let Some((_, Reverse(ix))) = next else { break };
                if matches!(self.states[ix as usize], State::Ready) {
                    self.start(ix, &sender);
                }
            }
            if self.running == 0 {
                return Ok(());
            }
            tokio::select! {
                finished = receiver.recv() => if let Some(finished) = finished {
                    self.finished(finished);
                },
                _ = interrupt.recv() => self.interrupt(),
                _ = terminate.recv() => self.interrupt(),
                _ = hangup.recv() => self.interrupt(),
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn interrupt(&mut self) {
        self.interrupted = true;
        self.exit = 130;
        self.prepared.cancel.cancel();
    }

    /// Keys a step whose inputs are known and looks its result up.
    pub(super) fn evaluate(&mut self, ix: StepIx) -> Result<(), BuildError> {
        let prepared = self.prepared.clone();
        let wanted = prepared.wanted[ix as usize];
        if !matches!(self.states[ix as usize], State::Waiting) || wanted == Wanted::No {
            return Ok(());
        }
        let node = &prepared.graph.steps[ix as usize];
        let evaluator = prepared.evaluator(self.store);
        let Some(inputs) = evaluator.inputs(node, &|step, name| self.output(step, name)) else {
            return Ok(());
        };
        let pinned = match self.standing(ix, &inputs) {
            Ok(Standing::Unpinned) => None,
            Ok(Standing::Pinned(..)) if wanted == Wanted::Pin => return Ok(()),
            Ok(Standing::Pinned(pin, pinned)) => {
                self.pinned.insert(ix, pin);
                Some(pinned)
            }
            Ok(Standing::Missing(id, previous)) => {
                self.notes[ix as usize].reason = Reason::Unlocked;
                self.find_pin(ix, inputs, id, previous);
                return Ok(());
            }
            Err(error) => {
                match error.lost {
                    Some(digest) => self.lost(ix, digest, error),
                    None => self.fail(ix, error, Vec::new(), None),
                }
                return Ok(());
            }
        };
        let bytes = evaluator.record(node, &inputs, pinned.as_ref())?.encode();
        let key = Digest::of(&bytes);
        let target = &prepared.loaded.targets[node.target as usize].name;
        let memory = self.workspace.memory.get(target, &node.step.name);
        let baseline = memory.and_then(|m| m.key);
        let failed_before = memory.is_some_and(|m| m.failed == Some(key));
        let remembered = memory.filter(|m| m.key == Some(key)).and_then(|m| m.result.clone());
        let fits = |r: &ActionResult| node.outputs().iter().all(|(name, _)| r.outputs.contains_key(name));
        let note = &mut self.notes[ix as usize];
        note.key = Some(key);
        note.baseline = baseline;
        self.records.insert(key, bytes);
        let miss = if self.rewound.contains(&ix) && self.forced[ix as usize] {
            // Its result is known, and of no use: a blob of it is lost.
            self.notes[ix as usize].reason.clone()
        } else if self.forced[ix as usize] {
            Reason::Forced
        } else if self.options.no_cache {
            Reason::NoCache
        } else {
            let found = match remembered.filter(|r| fits(r)) {
                Some(result) => Some(result),
                None => match self.store.get_result(&key)?.filter(fits) {
                    None => self.lent(&node.step, &key)?.filter(fits).map(Arc::new),
                    Some(result) => Some(Arc::new(result)),
                },
            };
            if let Some(result) = found {
                self.sink.event(&Event::StepHit {
                    target: target.clone(),
                    step: node.step.name.clone(),
                    key: key.hex(),
                });
                self.done(ix, result, OutcomeCode::Hit, Reason::Hit);
                return Ok(());
            }
            match baseline {
                _ if failed_before => Reason::FailedBefore,
                None => Reason::New,
                Some(b) if b == key => Reason::ResultGone,
                Some(_) => Reason::KeyChanged,
            }
        };
        self.notes[ix as usize].reason = miss;
        self.make_ready(ix, inputs);
        Ok(())
    }

    /// In a build apart: what the stores below have of a source that the lock pins, or of a known key.
    fn lent(&self, step: &Step, key: &Digest) -> Result<Option<ActionResult>, BuildError> {
        match &self.options.apart {
            Some(apart) if step.is_locked_source() || apart.known.contains(key) => {
                Ok(self.store.lent_result(key)?)
            }
            _ => Ok(None),
        }
    }

    /// Puts a step with known inputs into its queue.
    pub(super) fn make_ready(&mut self, ix: StepIx, inputs: Vec<Resolved>) {
        self.inputs[ix as usize] = Some(inputs);
        self.states[ix as usize] = State::Ready;
        self.queue(ix);
    }

    pub(super) fn queue(&mut self, ix: StepIx) {
        let place = (self.priority[ix as usize], Reverse(ix));
        match self.prepared.graph.steps[ix as usize].step.waits() {
            true => self.ready_to_wait.push(place),
            false => self.ready.push(place),
        }
    }

    fn output(&self, step: StepIx, name: &str) -> Option<Output> {
        match &self.states[step as usize] {
            State::Done(result, _) => result.outputs.get(name).cloned(),
            _ => None,
        }
    }

    fn start(&mut self, ix: StepIx, sender: &tokio::sync::mpsc::UnboundedSender<Finished>) {
        let node = &self.prepared.graph.steps[ix as usize];
        // A gate that is not done yet pushes the step again when it is.
        if node.gated_by.iter().any(|g| !matches!(self.states[*g as usize], State::Done(..))) {
            return;
        }
        let locking = self.previous.get(&ix).cloned();
        // A step has no key before it has its pin.
        let key = self.notes[ix as usize].key;
        if locking.is_none() && key.is_none() {
            return;
        }
        let key = key.unwrap_or(Digest([0; 32]));
        // A step that runs again, because a blob that it made is lost, was perhaps a hit before.
        let evaluator = self.prepared.evaluator(self.store);
        let inputs = self.inputs[ix as usize].take();
        let inputs = inputs.or_else(|| evaluator.inputs(node, &|step, name| self.output(step, name)));
        let Some(inputs) = inputs else {
            // One that it reads runs again too, and hands it on when it is done.
            self.states[ix as usize] = State::Waiting;
            return;
        };
        let target = self.prepared.loaded.targets[node.target as usize].name.clone();
        let step = node.step.name.clone();
        let pin = self.pinned.get(&ix).filter(|_| locking.is_none()).cloned();
        let started = match &locking {
            Some((id, _)) => Event::LockStarted { target, step, id: id.clone() },
            None => Event::StepStarted { target, step, key: key.hex(), why: self.why_line(ix) },
        };
        self.states[ix as usize] = State::Running;
        self.running += 1;
        self.waiting += usize::from(node.step.waits());
        let job = Job {
            ix,
            purpose: locking.map_or(Purpose::Run, |(_, previous)| Purpose::Lock(previous)),
            pin,
            update: self.options.update.clone(),
            key,
            inputs,
            prepared: self.prepared.clone(),
            store: self.store.clone(),
            sink: self.sink.clone(),
            started,
            stop: self.stop.clone(),
            run: self.run.clone(),
            local: self.is_local(ix),
            fresh_only: !matches!(self.notes[ix as usize].reason, Reason::New | Reason::KeyChanged),
            keep: !self.options.no_cache,
            anew: matches!(self.notes[ix as usize].reason, Reason::Forced),
            before: self.before(ix),
            log_dir: Runs::of(&self.workspace.dirs.state).dir(&self.run).join("logs"),
        };
        let sender = sender.clone();
        tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let attempt = worker::run(&job);
            let millis = start.elapsed().as_millis() as u64;
            // The receiver lives until every worker has reported.
            let _ = sender.send(Finished { ix: job.ix, attempt, millis });
        });
    }

    /// The last success of a step.
    fn before(&self, ix: StepIx) -> Option<Before> {
        let step = &self.prepared.graph.steps[ix as usize].step.name;
        let memory = self.workspace.memory.get(self.target_name(ix), step)?;
        Some(Before { result: memory.result.clone()?, record_run: memory.record_run.clone() })
    }

    fn finished(&mut self, finished: Finished) {
        self.running -= 1;
        self.waiting -= usize::from(self.prepared.graph.steps[finished.ix as usize].step.waits());
        let Finished { ix, attempt, millis } = finished;
        // What it waited for its slot is no cost of the step.
        let millis = match &attempt {
            Attempt::Made(result) => result.millis,
            _ => millis,
        };
        self.notes[ix as usize].millis = millis;
        if !matches!(attempt, Attempt::NotStarted | Attempt::Locked(_)) {
            self.pin_settled(ix);
        }
        match attempt {
            Attempt::NotStarted => self.states[ix as usize] = State::Ready,
            Attempt::Locked(pin) => self.found_pin(ix, *pin, millis),
            Attempt::Made(result) => {
                if !self.prepared.graph.steps[ix as usize].step.waits() {
                    self.typical = (self.typical * 3 + millis) / 4;
                }
                self.forced[ix as usize] = false;
                self.done(ix, result.into(), OutcomeCode::Ran, self.notes[ix as usize].reason.clone());
            }
            Attempt::FoundMeanwhile(result) => self.done(ix, result.into(), OutcomeCode::Hit, Reason::Hit),
            Attempt::Failed { error, .. } if self.interrupted && error.lost.is_none() => {
                self.states[ix as usize] = State::Cancelled;
                self.ended(ix, OutcomeCode::Cancelled, false);
            }
            Attempt::Failed { error, tail, log } => match (error.lost, error.changed.clone()) {
                (Some(digest), _) => self.lost(ix, digest, error),
                (None, Some(path)) => self.changed(ix, &path),
                (None, None) => self.fail(ix, error, tail, log),
            },
        }
    }

    fn done(&mut self, ix: StepIx, result: Arc<ActionResult>, outcome: OutcomeCode, reason: Reason) {
        let prepared = self.prepared.clone();
        let node = &prepared.graph.steps[ix as usize];
        let target = &prepared.loaded.targets[node.target as usize].name;
        let note = &mut self.notes[ix as usize];
        let memory = self.workspace.memory.get_mut(target, &node.step.name);
        let before = memory.result.as_ref().map(|r| &r.outputs);
        let same_output = before == Some(&result.outputs);
        note.outcome = outcome;
        note.reason = reason;
        note.same_output = same_output;
        if outcome == OutcomeCode::Hit {
            note.millis = result.millis;
        }
        if !self.options.no_cache {
            if memory.key != note.key || memory.record_run.is_empty() {
                memory.record_run.clone_from(&self.run);
            }
            memory.key = note.key;
            memory.failed = None;
            memory.result = Some(result.clone());
        }
        if outcome == OutcomeCode::Ran {
            let millis = note.millis;
            self.workspace.memory.took(target, &node.step.name, millis);
        }
        // A producer that was rebuilt with other bytes makes everything below it unknown again.
        if self.rewound.contains(&ix) && !same_output {
            self.reset_below(ix);
        }
        self.states[ix as usize] = State::Done(result, outcome);
        self.ended(ix, outcome, same_output);
        for &feed in &node.feeds {
            let needs = &prepared.graph.steps[feed as usize].needs;
            if matches!(self.states[feed as usize], State::Waiting)
                && needs.iter().all(|n| matches!(self.states[*n as usize], State::Done(..)))
            {
                self.evaluate.push_back(feed);
            }
        }
        for (target, name) in &node.step.gates {
            for &gated in &prepared.graph.of_target[*target as usize] {
                if prepared.graph.steps[gated as usize].step.name == *name
                    && matches!(self.states[gated as usize], State::Ready)
                {
                    self.ready.push((self.priority[gated as usize], Reverse(gated)));
                }
            }
        }
    }
}
