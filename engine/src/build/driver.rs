//! The scheduler: which step is looked up, waits, runs, failed or is skipped, and what follows from it.
//! Runs nothing itself (worker.rs does, on blocking threads) and knows no executor.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mosbuild_cache::{ActionResult, Digest, Output, Store};

use super::worker::{self, Attempt, Job};
use super::{BuildError, BuildOptions, Forecast, Predicted, Prepared, Report, Resolved, Workspace};
use super::{fresh, lost, place};
use crate::action::StepError;
use crate::events::{EVENTS_SCHEMA, Event, Outcome, Sink};
use crate::plan::StepIx;
use crate::run_record::{OutcomeCode, Reason, RunHead, Runs, StepRun, new_id};

/// Where a step stands. Every transition goes through `Driver::set`.
enum State {
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
    workspace: &'a mut Workspace,
    prepared: Arc<Prepared>,
    store: &'a Store,
    options: &'a BuildOptions,
    sink: Arc<dyn Sink>,
    run: String,
    states: Vec<State>,
    /// What will be recorded of each step.
    notes: Vec<StepRun>,
    inputs: Vec<Option<Vec<Resolved>>>,
    records: BTreeMap<Digest, Vec<u8>>,
    /// Longest remaining path in milliseconds, by measured durations.
    priority: Vec<u64>,
    evaluate: VecDeque<StepIx>,
    ready: BinaryHeap<(u64, Reverse<StepIx>)>,
    running: usize,
    forced: Vec<bool>,
    rewound: BTreeSet<StepIx>,
    retried: BTreeSet<StepIx>,
    failed: Vec<u32>,
    /// No further step is to start.
    stop: Arc<AtomicBool>,
    interrupted: bool,
    /// Milliseconds that the last steps took, about.
    typical: u64,
    exit: u8,
}

/// Steps that take less than this are handed out before there is a slot for them: what the slots would wait for the
/// scheduler would be much of their time. Others are worth the choice among all that is ready by then.
const SHORT: u64 = 50;
/// How many.
const AHEAD: usize = 2;

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
    for id in &prepared.locked {
        sink.event(&Event::Locked { id: id.clone() });
    }
    for message in &prepared.warnings {
        sink.event(&Event::Warning { message: message.clone() });
    }
    sink.event(&Event::RunStarted {
        schema: EVENTS_SCHEMA,
        run: driver.run.clone(),
        targets: prepared.counted.len(),
        steps: prepared.graph.steps.len(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut placed = place::Placed::default();
    loop {
        runtime.block_on(driver.work())?;
        if driver.interrupted || driver.stopping() {
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
        && let Ok(done) = driver.place()
    {
        placed = done;
    }
    for (path, size) in &placed.new {
        sink.event(&Event::Placed { path: path.display().to_string(), size: *size });
    }
    driver.finish(placed, started, began)
}

pub(super) fn predict(
    workspace: &mut Workspace,
    prepared: Prepared,
    store: &Store,
    options: &BuildOptions,
) -> Result<Predicted, BuildError> {
    struct Nobody;
    impl Sink for Nobody {
        fn event(&self, _: &Event) {}
    }
    let prepared = Arc::new(prepared);
    let mut driver = Driver::new(workspace, prepared.clone(), store, options, Arc::new(Nobody));
    while let Some(ix) = driver.evaluate.pop_front() {
        driver.evaluate(ix)?;
    }
    let mut targets = Vec::new();
    for &t in &prepared.counted {
        let name = &prepared.loaded.targets[t as usize].name;
        let steps = &prepared.graph.of_target[t as usize];
        let runs = steps.iter().find(|s| matches!(driver.states[**s as usize], State::Ready));
        let waits = steps.iter().find(|s| matches!(driver.states[**s as usize], State::Waiting));
        let forecast = match (runs, waits) {
            (Some(&s), _) => {
                let step = prepared.graph.steps[s as usize].step.name.clone();
                let expected = driver.workspace.memory.expected(name, &step);
                Forecast::Run { step, expected }
            }
            (None, Some(&s)) => Forecast::DependsOn(driver.awaited(s)),
            (None, None) => Forecast::Hit,
        };
        targets.push((name.clone(), forecast));
    }
    Ok(Predicted { targets, steps: driver.notes, records: driver.records })
}

impl<'a> Driver<'a> {
    fn new(
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
        let forced = graph
            .steps
            .iter()
            .map(|s| options.force.contains(&prepared.loaded.targets[s.target as usize].name));
        let forced = forced.collect();
        let notes = (0..count).map(|ix| note(&prepared, ix)).collect();
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
            running: 0,
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
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            while let Some(ix) = self.evaluate.pop_front() {
                if !self.interrupted {
                    self.evaluate(ix)?;
                }
            }
            let ahead = if self.typical < SHORT { AHEAD } else { 0 };
            while self.running < slots + ahead && !self.stopping() && !self.interrupted {
                let Some((_, Reverse(ix))) = self.ready.pop() else { break };
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
                _ = tokio::signal::ctrl_c() => self.interrupt(),
                _ = terminate.recv() => self.interrupt(),
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
    fn evaluate(&mut self, ix: StepIx) -> Result<(), BuildError> {
        if !matches!(self.states[ix as usize], State::Waiting) {
            return Ok(());
        }
        let prepared = self.prepared.clone();
        let node = &prepared.graph.steps[ix as usize];
        let evaluator = prepared.evaluator(self.store);
        let Some(inputs) = evaluator.inputs(node, &|step, name| self.output(step, name)) else {
            return Ok(());
        };
        let bytes = evaluator.record(node, &inputs)?.encode();
        let key = Digest::of(&bytes);
        self.inputs[ix as usize] = Some(inputs);
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
            let found = match remembered.filter(fits) {
                Some(result) => Some(result),
                None => self.store.get_result(&key)?.filter(fits),
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
        self.states[ix as usize] = State::Ready;
        self.ready.push((self.priority[ix as usize], Reverse(ix)));
        Ok(())
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
        let Some(key) = self.notes[ix as usize].key else { return };
        let target = self.prepared.loaded.targets[node.target as usize].name.clone();
        let step = node.step.name.clone();
        let started = Event::StepStarted { target, step, key: key.hex(), why: self.why_line(ix) };
        self.states[ix as usize] = State::Running;
        self.running += 1;
        let job = Job {
            ix,
            key,
            inputs: self.inputs[ix as usize].clone().unwrap_or_default(),
            prepared: self.prepared.clone(),
            store: self.store.clone(),
            sink: self.sink.clone(),
            started,
            stop: self.stop.clone(),
            run: self.run.clone(),
            fresh_only: !matches!(self.notes[ix as usize].reason, Reason::New | Reason::KeyChanged),
            keep: !self.options.no_cache,
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

    fn finished(&mut self, finished: Finished) {
        self.running -= 1;
        let Finished { ix, attempt, millis } = finished;
        // What it waited for its slot is no cost of the step.
        let millis = match &attempt {
            Attempt::Made(result) => result.millis,
            _ => millis,
        };
        self.notes[ix as usize].millis = millis;
        match attempt {
            Attempt::NotStarted => self.states[ix as usize] = State::Ready,
            Attempt::Made(result) => {
                self.typical = (self.typical * 3 + millis) / 4;
                self.forced[ix as usize] = false;
                self.done(ix, *result, OutcomeCode::Ran, self.notes[ix as usize].reason.clone());
            }
            Attempt::FoundMeanwhile(result) => self.done(ix, *result, OutcomeCode::Hit, Reason::Hit),
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

    fn done(&mut self, ix: StepIx, result: ActionResult, outcome: OutcomeCode, reason: Reason) {
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
        note.outputs = result.outputs.iter().map(|(n, o)| (n.clone(), (o.digest, o.size))).collect();
        note.log = result.log;
        note.made_by.clone_from(&result.run);
        note.sandboxed = result.sandboxed;
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
        self.states[ix as usize] = State::Done(Arc::new(result), outcome);
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

    /// Says that a step, and its target if that was the last one, came to an end.
    fn ended(&self, ix: StepIx, outcome: OutcomeCode, same_output: bool) {
        let node = &self.prepared.graph.steps[ix as usize];
        let target = self.prepared.loaded.targets[node.target as usize].name.clone();
        let note = &self.notes[ix as usize];
        if outcome != OutcomeCode::Hit {
            self.sink.event(&Event::StepFinished {
                target: target.clone(),
                step: node.step.name.clone(),
                outcome: outcome.into(),
                millis: note.millis,
                same_output,
            });
        }
        let steps = &self.prepared.graph.of_target[node.target as usize];
        let over =
            |s: &StepIx| !matches!(self.states[*s as usize], State::Waiting | State::Ready | State::Running);
        if steps.iter().all(over) {
            let (outcome, millis) = self.of_target(node.target);
            self.sink.event(&Event::TargetFinished { target, outcome, millis });
        }
    }

    /// The outcome of a target: the worst of its steps', and what its executions took.
    fn of_target(&self, target: u32) -> (Outcome, u64) {
        let mut outcome = Outcome::Hit;
        let mut millis = 0;
        for &s in &self.prepared.graph.of_target[target as usize] {
            let here = match &self.states[s as usize] {
                State::Done(_, OutcomeCode::Ran) => Outcome::Ran,
                State::Done(..) => continue,
                State::Failed => Outcome::Failed,
                State::Cancelled => Outcome::Cancelled,
                _ => Outcome::Skipped,
            };
            if matches!(here, Outcome::Ran | Outcome::Failed) {
                millis += self.notes[s as usize].millis;
            }
            let rank = |o: Outcome| match o {
                Outcome::Hit => 0,
                Outcome::Ran => 1,
                Outcome::Skipped => 2,
                Outcome::Cancelled => 3,
                Outcome::Failed => 4,
            };
            if rank(here) > rank(outcome) {
                outcome = here;
            }
        }
        (outcome, millis)
    }

    fn fail(&mut self, ix: StepIx, error: StepError, tail: Vec<String>, log: Option<std::path::PathBuf>) {
        let prepared = self.prepared.clone();
        let node = &prepared.graph.steps[ix as usize];
        let target = &prepared.loaded.targets[node.target as usize];
        self.states[ix as usize] = State::Failed;
        let note = &mut self.notes[ix as usize];
        note.outcome = OutcomeCode::Failed;
        note.message = Some(error.message.clone());
        note.log_file.clone_from(&log);
        self.workspace.memory.get_mut(&target.name, &node.step.name).failed = note.key;
        self.failed.push(node.target);
        self.exit = self.exit.max(error.exit);
        self.stop.fetch_or(!self.options.keep_going, Ordering::Relaxed);
        let log = log.map(|l| l.display().to_string());
        self.sink.event(&Event::Failure {
            target: target.name.clone(),
            step: node.step.name.clone(),
            message: error.message,
            tail,
            log,
            help: error.help,
            line: Some(target.line),
        });
        self.ended(ix, OutcomeCode::Failed, false);
        self.skip_below(ix);
    }

    /// Marks everything that reads from, or is gated by, a failed step.
    fn skip_below(&mut self, failed: StepIx) {
        let prepared = self.prepared.clone();
        let culprit = prepared.graph.steps[failed as usize].target;
        let culprit_name = prepared.loaded.targets[culprit as usize].name.clone();
        let mut said = BTreeSet::from([culprit]);
        let mut stack = vec![failed];
        while let Some(ix) = stack.pop() {
            let node = &prepared.graph.steps[ix as usize];
            let gated = (0..prepared.graph.steps.len() as StepIx).filter(|g| {
                !node.step.gates.is_empty() && prepared.graph.steps[*g as usize].gated_by.contains(&ix)
            });
            let below: Vec<StepIx> = node.feeds.iter().copied().chain(gated).collect();
            for b in below {
                if !matches!(self.states[b as usize], State::Waiting | State::Ready) {
                    continue;
                }
                self.states[b as usize] = State::Skipped;
                let note = &mut self.notes[b as usize];
                note.outcome = OutcomeCode::Skipped;
                note.message = Some(format!("skipped because {culprit_name} failed"));
                let t = prepared.graph.steps[b as usize].target;
                if said.insert(t) {
                    let target = prepared.loaded.targets[t as usize].name.clone();
                    self.sink.event(&Event::SkippedBecause { target, failed: culprit_name.clone() });
                }
                stack.push(b);
            }
        }
    }

    /// An input blob is gone: its producers run again, then this step is keyed again.
    fn lost(&mut self, ix: StepIx, digest: Digest, error: StepError) {
        let needs = self.prepared.graph.steps[ix as usize].needs.clone();
        // A source that was damaged in the store has been set aside; it is brought in again.
        if self.origins(&needs, digest).0.is_empty() && self.retried.insert(ix) {
            self.states[ix as usize] = State::Waiting;
            self.evaluate.push_back(ix);
            return;
        }
        self.states[ix as usize] = State::Waiting;
        if !self.rewind_origins(&needs, digest) {
            self.fail(ix, error, Vec::new(), None);
        }
    }

    /// The steps that made a blob which these steps' outputs have, with their outputs, and the steps on the way that
    /// only pass it on: one that merges trees would do so again without a look at it.
    fn origins(&self, from: &[StepIx], digest: Digest) -> (BTreeMap<StepIx, String>, BTreeSet<StepIx>) {
        let has = |ix: StepIx| match &self.states[ix as usize] {
            State::Done(result, _) => lost::output_with(self.store, result, digest),
            _ => None,
        };
        let (mut origins, mut passing) = (BTreeMap::new(), BTreeSet::new());
        let mut stack = from.to_vec();
        while let Some(at) = stack.pop() {
            if origins.contains_key(&at) || passing.contains(&at) {
                continue;
            }
            let Some(output) = has(at) else { continue };
            let above = &self.prepared.graph.steps[at as usize].needs;
            if above.iter().any(|n| has(*n).is_some()) {
                passing.insert(at);
                stack.extend(above);
            } else {
                origins.insert(at, output);
            }
        }
        (origins, passing)
    }

    /// Makes the origins of a lost blob run again, and all on the way be keyed again behind them. False if each of
    /// them did so already.
    fn rewind_origins(&mut self, from: &[StepIx], digest: Digest) -> bool {
        let (origins, passing) = self.origins(from, digest);
        let again: Vec<(StepIx, String)> =
            origins.into_iter().filter(|(o, _)| !self.rewound.contains(o)).collect();
        let mut below: Vec<StepIx> = again.iter().map(|(o, _)| *o).collect();
        while let Some(at) = below.pop() {
            for &feed in &self.prepared.graph.steps[at as usize].feeds {
                if passing.contains(&feed) && matches!(self.states[feed as usize], State::Done(..)) {
                    self.states[feed as usize] = State::Waiting;
                    below.push(feed);
                }
            }
        }
        for (origin, output) in &again {
            self.rewind(*origin, digest, output);
        }
        !again.is_empty()
    }

    /// Makes a done step run again, because a blob of its output is lost.
    fn rewind(&mut self, ix: StepIx, digest: Digest, output: &str) {
        self.rewound.insert(ix);
        self.forced[ix as usize] = true;
        let corrupt = self.store.quarantined(&digest);
        let target = &self.notes[ix as usize].target;
        let how = if corrupt { "damaged; it was set aside" } else { "missing" };
        self.sink.event(&Event::Warning {
            message: format!(
                "{target}: blob {} of output {output} is {how}; it is built again",
                digest.short()
            ),
        });
        self.notes[ix as usize].reason = Reason::BlobLost { digest, output: output.into(), corrupt };
        if let Some(key) = self.notes[ix as usize].key {
            self.store.forget_result(&key);
        }
        self.states[ix as usize] = State::Ready;
        self.ready.push((self.priority[ix as usize], Reverse(ix)));
    }

    fn reset_below(&mut self, ix: StepIx) {
        let mut stack = self.prepared.graph.steps[ix as usize].feeds.clone();
        while let Some(below) = stack.pop() {
            if matches!(self.states[below as usize], State::Done(..) | State::Ready) {
                self.states[below as usize] = State::Waiting;
                stack.extend(&self.prepared.graph.steps[below as usize].feeds);
            }
        }
    }

    /// A workspace file changed after it was hashed: the step fails with a request to build again, since
    /// other steps may have used the old content.
    fn changed(&mut self, ix: StepIx, path: &str) {
        let error = StepError::new(format!("{path} changed while it was being built"))
            .help("nothing was stored for it; run the build again");
        self.fail(ix, error, Vec::new(), None);
    }

    fn place(&mut self) -> Result<place::Placed, place::PlaceError> {
        let prepared = self.prepared.clone();
        let states = &self.states;
        let facts = |t: u32| {
            let mut facts = BTreeMap::new();
            for &s in &prepared.graph.of_target[t as usize] {
                if let State::Done(result, _) = &states[s as usize] {
                    facts.extend(result.facts.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            facts
        };
        let output = |t: u32, name: &str| {
            let (step, output) = prepared.graph.maker(t, name)?;
            match &states[step as usize] {
                State::Done(result, _) => {
                    Some((step, output.to_owned(), result.outputs.get(output)?.clone()))
                }
                _ => None,
            }
        };
        let Workspace { dirs, stat_cache, .. } = &mut *self.workspace;
        place::place(&prepared, dirs, self.store, stat_cache, &facts, &output)
    }

    /// Why a step runs, in one line; `why` tells the whole.
    fn why_line(&self, ix: StepIx) -> String {
        let note = &self.notes[ix as usize];
        match &note.reason {
            Reason::Hit | Reason::NotReached => String::new(),
            Reason::Forced => "forced".into(),
            Reason::NoCache => "--no-cache".into(),
            Reason::New => "never built here".into(),
            Reason::FailedBefore => "failed before".into(),
            Reason::ResultGone => "its result is gone from the store".into(),
            Reason::BlobLost { output, .. } => format!("a blob of its output {output} is gone"),
            Reason::KeyChanged => "inputs changed".into(),
        }
    }

    /// The target whose run decides whether a waiting step runs.
    fn awaited(&self, ix: StepIx) -> String {
        let mut at = ix;
        loop {
            let node = &self.prepared.graph.steps[at as usize];
            let waiting = node.needs.iter().find(|n| !matches!(self.states[**n as usize], State::Done(..)));
            match waiting {
                Some(&n) if matches!(self.states[n as usize], State::Waiting) => at = n,
                Some(&n) => return self.notes[n as usize].target.clone(),
                None => return self.notes[at as usize].target.clone(),
            }
        }
    }

    fn finish(
        mut self,
        placed: place::Placed,
        started: Instant,
        began: SystemTime,
    ) -> Result<Report, BuildError> {
        let prepared = self.prepared.clone();
        let (mut built, mut cached, mut failed) = (0, 0, 0);
        for &t in &prepared.counted {
            match self.of_target(t).0 {
                Outcome::Ran => built += 1,
                Outcome::Hit => cached += 1,
                Outcome::Failed => failed += 1,
                Outcome::Skipped | Outcome::Cancelled => {}
            }
        }
        for (note, state) in self.notes.iter_mut().zip(&self.states) {
            if let State::Waiting | State::Ready | State::Cancelled = state {
                note.outcome = OutcomeCode::Cancelled;
            }
        }
        let name = |t: &u32| prepared.loaded.targets[*t as usize].name.clone();
        let head = RunHead {
            id: self.run.clone(),
            started: began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs(),
            args: self.options.args.clone(),
            profile: self.options.profile.clone(),
            requested: prepared.requested.iter().map(name).collect(),
            targets: prepared.counted.iter().map(name).collect(),
            built,
            cached,
            failed,
            millis: started.elapsed().as_millis() as u64,
            exit: self.exit,
            same_as: None,
        };
        let failed_names = self.failed.iter().map(name).collect();
        self.record(&head);
        self.sink.event(&Event::RunFinished { built, cached, failed, millis: head.millis });
        if self.exit == 0 && !self.options.no_cache {
            fresh::remember(self.workspace, &prepared, self.options, &head, &placed, began);
        }
        // Durability, not correctness: every blob and result is verified when it is read.
        if built > 0 {
            let _ = self.store.sync();
        }
        self.workspace.save();
        Ok(Report { head, placed: placed.all, failed: failed_names })
    }

    /// Writes the run's record; a disk that refuses it costs `why`, not the build.
    fn record(&mut self, head: &RunHead) {
        let runs = Runs::of(&self.workspace.dirs.state);
        let known = |note: &StepRun| {
            let memory = self.workspace.memory.get(&note.target, &note.step);
            memory.is_some_and(|m| m.key == note.key && m.record_run != self.run)
        };
        let new: BTreeSet<Digest> = self.notes.iter().filter(|n| !known(n)).filter_map(|n| n.key).collect();
        self.records.retain(|key, _| new.contains(key));
        if let Err(e) = runs.write(head, &self.notes, &self.records) {
            self.sink.event(&Event::Warning { message: format!("the run could not be recorded: {e}") });
        }
        runs.prune(&self.workspace.memory.record_runs());
    }
}

fn note(prepared: &Prepared, ix: usize) -> StepRun {
    let graph = &prepared.graph;
    let node = &graph.steps[ix];
    let name = |s: StepIx| {
        let node = &graph.steps[s as usize];
        (prepared.loaded.targets[node.target as usize].name.clone(), node.step.name.clone())
    };
    let (target, step) = name(ix as StepIx);
    let origins = node
        .step
        .inputs
        .iter()
        .filter_map(|i| Some((i.name.clone(), name(graph.source_of(node, &i.from)?.0))))
        .collect();
    StepRun {
        target,
        step,
        key: None,
        outcome: OutcomeCode::Cancelled,
        reason: Reason::NotReached,
        baseline: None,
        millis: 0,
        same_output: false,
        origins,
        outputs: BTreeMap::new(),
        log: None,
        log_file: None,
        made_by: String::new(),
        sandboxed: true,
        message: None,
    }
}
