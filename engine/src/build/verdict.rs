//! What became of steps, targets and the run: said as events, counted, and recorded for `why`.
//! Decides nothing about what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mosbuild_cache::Digest;

use super::driver::{Driver, State};
use super::{BuildError, Prepared, Report, fresh, place};
use crate::action::StepError;
use crate::events::{Event, Outcome};
use crate::plan::StepIx;
use crate::run_record::{OutcomeCode, Reason, RunHead, Runs, StepRun};

impl Driver<'_> {
    /// Says that a step, and its target if that was the last one, came to an end.
    pub(super) fn ended(&self, ix: StepIx, outcome: OutcomeCode, same_output: bool) {
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

    pub(super) fn fail(
        &mut self,
        ix: StepIx,
        error: StepError,
        tail: Vec<String>,
        log: Option<std::path::PathBuf>,
    ) {
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
            let all = if node.step.gates.is_empty() { 0 } else { prepared.graph.steps.len() };
            let gated =
                (0..all as StepIx).filter(|g| prepared.graph.steps[*g as usize].gated_by.contains(&ix));
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

    /// Why a step runs, in one line; `why` tells the whole.
    pub(super) fn why_line(&self, ix: StepIx) -> String {
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
    pub(super) fn awaited(&self, ix: StepIx) -> String {
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

    pub(super) fn finish(
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

/// What is recorded of a step that nothing has happened to yet.
pub(super) fn note(prepared: &Prepared, ix: usize) -> StepRun {
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
