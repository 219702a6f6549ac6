//! What became of steps, targets and the run: said as events, counted, and recorded for `why`.
//! Decides nothing about what runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mosbuild_cache::Digest;

use super::driver::{Driver, State};
use super::{BuildError, Goal, Report, fresh, overrides, place};
use crate::action::{Input, StepError, StepInput};
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
            let same_output = self.prepared.graph.makers(node.target).all(|ix| {
                let ran = matches!(self.states[ix as usize], State::Done(_, OutcomeCode::Ran));
                !ran || self.notes[ix as usize].same_output
            });
            self.sink.event(&Event::TargetFinished { target, outcome, millis, same_output });
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

    pub(super) fn fail(&mut self, ix: StepIx, error: StepError, tail: Vec<String>, log: Option<PathBuf>) {
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
            Reason::Unlocked => "its source is not in mosbuild.lock as it is asked for".into(),
            Reason::New => "never built here".into(),
            Reason::FailedBefore => "failed before".into(),
            Reason::ResultGone => "its result is gone from the store".into(),
            Reason::BlobLost { output, .. } => format!("a blob of its output {output} is gone"),
            Reason::KeyChanged => "inputs changed".into(),
        }
    }

    /// The target whose run decides whether a waiting step runs.
    pub(super) fn awaited(&self, ix: StepIx) -> String {
        let blocked = |input: &StepInput| match &input.from {
            Input::Upstream { target, .. } => self.prepared.blocked.contains_key(target).then_some(*target),
            _ => None,
        };
        let mut at = ix;
        loop {
            let node = &self.prepared.graph.steps[at as usize];
            if let Some(target) = node.step.inputs.iter().find_map(blocked) {
                return self.prepared.loaded.targets[target as usize].name.clone();
            }
            let waiting = node.needs.iter().find(|n| !matches!(self.states[**n as usize], State::Done(..)));
            match waiting {
                Some(&n) if matches!(self.states[n as usize], State::Waiting) => at = n,
                Some(&n) => return self.target_name(n).to_owned(),
                // The pin of its source is found by another step, for both.
                None => {
                    let finds = |s: &StepIx| {
                        let other = &self.prepared.graph.steps[*s as usize].step;
                        let is_same = *s != at && other.pin.is_some() && other.pin == node.step.pin;
                        is_same && matches!(self.states[*s as usize], State::Ready)
                    };
                    let steps = 0..self.prepared.graph.steps.len() as StepIx;
                    let finder = steps.into_iter().find(finds).unwrap_or(at);
                    return self.target_name(finder).to_owned();
                }
            }
        }
    }

    pub(super) fn finish(
        &mut self,
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
            overrides: overrides::within(&prepared.loaded, &prepared.graph.closure),
        };
        let failed_names = self.failed.iter().map(name).collect();
        self.record(&head);
        if self.options.goal == Goal::Build {
            self.sink.event(&Event::RunFinished { built, cached, failed, millis: head.millis });
        }
        if self.exit == 0 && !self.unwritten && !self.options.no_cache && self.options.goal == Goal::Build {
            fresh::remember(self.workspace, &prepared, self.options, &head, &placed, began);
        }
        std::thread::scope(|scope| {
            // Durability, not correctness: every blob and result is verified when it is read.
            if built > 0 {
                scope.spawn(|| self.store.sync());
            }
            self.workspace.save();
        });
        let before = prepared.pins.0.clone();
        let pins = prepared.pins.1.lock().ok().map(|now| (before, now.clone()));
        Ok(Report { head, placed: placed.all, failed: failed_names, pins })
    }

    /// Writes the run's record; a disk that refuses it costs `why`, not the build.
    fn record(&mut self, head: &RunHead) {
        let runs = Runs::of(&self.workspace.dirs.state);
        let steps = &self.prepared.graph.steps;
        let known = |ix: usize| {
            let memory = self.workspace.memory.get(self.target_name(ix as StepIx), &steps[ix].step.name);
            memory.is_some_and(|m| m.key == self.notes[ix].key && m.record_run != self.run)
        };
        let new: BTreeSet<Digest> =
            (0..steps.len()).filter(|ix| !known(*ix)).filter_map(|ix| self.notes[ix].key).collect();
        self.records.retain(|key, _| new.contains(key));
        let all = (0..self.notes.len()).map(|ix| self.step_run(ix as StepIx));
        if let Err(e) = runs.write(head, all, &self.records) {
            self.sink.event(&Event::Warning { message: format!("the run could not be recorded: {e}") });
        }
        self.records.clear();
        runs.prune(&self.workspace.memory.record_runs());
    }
}

/// What will be recorded of one step, beside what the graph and its result say.
pub(super) struct Note {
    pub key: Option<Digest>,
    pub outcome: OutcomeCode,
    pub reason: Reason,
    pub baseline: Option<Digest>,
    pub millis: u64,
    pub same_output: bool,
    pub message: Option<String>,
    pub log_file: Option<PathBuf>,
}

impl Default for Note {
    /// Nothing has happened yet.
    fn default() -> Self {
        Note {
            key: None,
            outcome: OutcomeCode::Cancelled,
            reason: Reason::NotReached,
            baseline: None,
            millis: 0,
            same_output: false,
            message: None,
            log_file: None,
        }
    }
}

impl Driver<'_> {
    /// Everything that is recorded of a step.
    pub(super) fn step_run(&self, ix: StepIx) -> StepRun {
        let graph = &self.prepared.graph;
        let node = &graph.steps[ix as usize];
        let name = |s: StepIx| {
            let node = &graph.steps[s as usize];
            (self.prepared.loaded.targets[node.target as usize].name.clone(), node.step.name.clone())
        };
        let origin = |i: &StepInput| Some((i.name.clone(), name(graph.source_of(node, &i.from)?.0)));
        let result = match &self.states[ix as usize] {
            State::Done(result, _) => Some(result),
            _ => None,
        };
        let outputs = result.iter().flat_map(|r| &r.outputs);
        let (target, step) = name(ix);
        let note = &self.notes[ix as usize];
        StepRun {
            target,
            step,
            key: note.key,
            outcome: note.outcome,
            reason: note.reason.clone(),
            baseline: note.baseline,
            millis: note.millis,
            same_output: note.same_output,
            origins: node.step.inputs.iter().filter_map(origin).collect(),
            outputs: outputs.map(|(n, o)| (n.clone(), (o.digest, o.size))).collect(),
            log: result.and_then(|r| r.log),
            log_file: note.log_file.clone(),
            made_by: result.map_or_else(String::new, |r| r.run.clone()),
            sandboxed: result.is_none_or(|r| r.sandboxed),
            message: note.message.clone(),
        }
    }

    pub(super) fn target_name(&self, ix: StepIx) -> &str {
        let target = self.prepared.graph.steps[ix as usize].target;
        &self.prepared.loaded.targets[target as usize].name
    }
}
