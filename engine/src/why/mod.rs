//! Why a target was built, or came from the cache: the difference of two stored action records, followed upstream
//! to its roots. Reads run records and the store; runs nothing and draws nothing (text.rs does).

mod answer;
mod diff;
mod group;
mod places;
mod text;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mosbuild_cache::{Digest, Store};

pub use answer::{CutOff, Decision, Explanation, Hop, Overridden, RootCause, SCHEMA};
pub use diff::{Cause, Gate};
pub use group::members;
pub use places::path_of;
pub use text::{cause_line, render};

use places::Places;

use crate::build::{Forecast, Predicted};
use crate::load::{Loaded, Override, Source};
use crate::record::ActionRecord;
use crate::rule::Registry;
use crate::run_record::{OutcomeCode, Reason, RunHead, Runs, StepRun};

/// Where explanations come from.
pub struct Explainer<'a> {
    runs: Runs,
    store: &'a Store,
    loaded: &'a Loaded,
    registry: &'a Registry,
    /// Of the run that is compared with, by target and step.
    against: Option<HashMap<(String, String), StepRun>>,
    extra: BTreeMap<Digest, Vec<u8>>,
    records: RefCell<Records>,
    /// mosbuild.yaml read again; only where a line of it is to be named.
    source: OnceCell<Source>,
}

/// The run that is explained.
struct Run<'r> {
    steps: HashMap<(&'r str, &'r str), &'r StepRun>,
    asked: &'r str,
    /// It has not taken place.
    predicted: bool,
    /// Seconds since 1970.
    started: u64,
    /// Working copies in place of sources.
    overrides: Vec<Override>,
    /// Made only where a file is to be named.
    places: OnceCell<Places>,
}

impl<'r> Run<'r> {
    fn step(&self, origin: &'r (String, String)) -> Option<&'r StepRun> {
        self.steps.get(&(origin.0.as_str(), origin.1.as_str())).copied()
    }

    fn copy_of(&self, target: &str) -> Option<String> {
        self.overrides.iter().find(|o| o.target == target).map(|o| o.given.clone())
    }
}

/// Causes, and how they were come to.
struct Roots<'r> {
    /// With the place in `links` of the step that each is of.
    causes: Vec<(Cause, usize)>,
    links: Vec<Link<'r>>,
}

/// A step, and the place of the one below it that it was come to from.
struct Link<'r> {
    step: &'r StepRun,
    below: Option<usize>,
}

/// Record files read so far, newest run first.
#[derive(Default)]
struct Records {
    known: HashMap<Digest, Vec<u8>>,
    unread: Option<Vec<String>>,
}

impl<'a> Explainer<'a> {
    /// For the workspace whose `.mosbuild` is `state`.
    pub fn new(
        state: &std::path::Path,
        store: &'a Store,
        loaded: &'a Loaded,
        registry: &'a Registry,
    ) -> Explainer<'a> {
        Explainer {
            runs: Runs::of(state),
            store,
            loaded,
            registry,
            against: None,
            extra: BTreeMap::new(),
            records: Default::default(),
            source: OnceCell::new(),
        }
    }

    /// Compares with what the given run had; false if there is no such run.
    pub fn against(&mut self, run: &str) -> bool {
        let Some(steps) = self.runs.head(run).and_then(|head| self.runs.steps(&head)) else { return false };
        let named = steps.into_iter().map(|s| ((s.target.clone(), s.step.clone()), s));
        self.against = Some(named.collect());
        true
    }

    /// The newest run that had all these targets in its closure, with its steps.
    fn last_run(&self, targets: &[&str]) -> Option<(RunHead, Vec<StepRun>)> {
        self.runs.ids().into_iter().rev().find_map(|id| {
            let head = self.runs.head(&id)?;
            let had: HashSet<&str> = head.targets.iter().map(String::as_str).collect();
            if !targets.iter().all(|target| had.contains(target)) {
                return None;
            }
            let steps = self.runs.steps(&head)?;
            Some((head, steps))
        })
    }

    /// Explains the target's last run; of a group, the last one that built all of it.
    pub fn explain(&self, target: &str) -> Explanation {
        let targets = members(self.loaded, target);
        match self.last_run(&targets) {
            Some((head, steps)) => self.explain_run(target, &targets, &head, &steps, false),
            None => {
                let mut answer = self.blank(target, Decision::NeverBuilt);
                answer.causes.push(RootCause { cause: self.never(target, ""), chain: Vec::new() });
                answer
            }
        }
    }

    /// Explains the target in this run, if it had the target.
    pub fn explain_in(&self, target: &str, run: &str) -> Option<Explanation> {
        let targets = members(self.loaded, target);
        let head = self.runs.head(run)?;
        if !targets.iter().all(|target| head.targets.iter().any(|had| had == target)) {
            return None;
        }
        let steps = self.runs.steps(&head)?;
        Some(self.explain_run(target, &targets, &head, &steps, false))
    }

    /// Explains what a build would do now.
    pub fn predict(&mut self, target: &str, predicted: Predicted) -> Explanation {
        self.extra = predicted.records;
        let targets = members(self.loaded, target);
        let overrides = self.loaded.overrides().map(|(_, o)| o.clone()).collect();
        let head = RunHead { overrides, ..RunHead::default() };
        let mut answer = self.explain_run(target, &targets, &head, &predicted.steps, true);
        let forecast = |name: &str| predicted.targets.iter().find(|(n, _)| n == name).map(|(_, f)| f);
        answer.message = targets.iter().find_map(|name| match forecast(name)? {
            Forecast::DependsOn(other) => match forecast(other)? {
                Forecast::Blocked(blocked) => {
                    Some(format!("{other} cannot be built here: {}", blocked.message))
                }
                _ => None,
            },
            _ => None,
        });
        answer
    }

    /// `targets` are the asked one, or what the asked group stands for.
    fn explain_run(
        &self,
        target: &str,
        targets: &[&str],
        head: &RunHead,
        steps: &[StepRun],
        predicted: bool,
    ) -> Explanation {
        let targets: HashSet<&str> = targets.iter().copied().collect();
        let run = Run {
            steps: steps.iter().map(|s| ((s.target.as_str(), s.step.as_str()), s)).collect(),
            asked: target,
            predicted,
            // What would run now has the inputs of now.
            started: if predicted { u64::MAX } else { head.started },
            overrides: head.overrides.clone(),
            places: OnceCell::new(),
        };
        let own: Vec<&StepRun> = steps.iter().filter(|s| targets.contains(s.target.as_str())).collect();
        let any = |outcome| own.iter().any(|s| s.outcome == outcome);
        let decision = if predicted {
            let mut missed = own.iter().filter(|s| s.reason != Reason::Hit).peekable();
            match (missed.peek().is_some(), missed.any(|s| s.reason != Reason::NotReached)) {
                (false, _) => Decision::Hit,
                (true, true) => Decision::WouldRun,
                (true, false) => Decision::Depends,
            }
        } else if any(OutcomeCode::Failed) {
            Decision::Failed
        } else if any(OutcomeCode::Skipped) || any(OutcomeCode::Cancelled) {
            Decision::NotRun
        } else if any(OutcomeCode::Ran) {
            Decision::Rebuilt
        } else {
            Decision::Hit
        };
        let mut answer = self.blank(target, decision);
        answer.overrides = self.overrides(target, &run);
        answer.run.clone_from(&head.id);
        answer.started = head.started;
        let several = targets.len() > 1;
        answer.message = own.iter().find_map(|s| {
            let message = s.message.as_ref()?;
            Some(if several { format!("{}: {message}", s.target) } else { message.clone() })
        });
        if decision == Decision::NotRun && answer.message.is_none() {
            let failed = steps.iter().find(|s| s.outcome == OutcomeCode::Failed).filter(|_| head.exit != 130);
            answer.message = Some(match failed {
                Some(failed) => {
                    format!("the run ended when {} failed; with -k it would have gone on", failed.target)
                }
                None => "the run was interrupted".into(),
            });
        }
        let made_by: BTreeSet<&String> = own.iter().map(|s| &s.made_by).filter(|m| !m.is_empty()).collect();
        answer.made_by = made_by.into_iter().cloned().collect();
        if let Some(last) = own.last().filter(|_| !several) {
            answer.key = last.key.map(|k| k.hex());
            answer.old_key = self.baseline(last).map(|k| k.hex());
        }
        let counts = |s: &&&StepRun| decision == Decision::Hit || s.outcome != OutcomeCode::Hit;
        answer.millis = own.iter().filter(counts).map(|s| s.millis).sum();
        let differing = |s: &&StepRun| s.reason != Reason::Hit || self.baseline(s) != s.key;
        let roots = self.roots(own.iter().copied().filter(differing), &run);
        let chains: Vec<Vec<Hop>> =
            roots.causes.iter().map(|(_, at)| self.chain(&roots, *at, &run)).collect();
        let causes = roots.causes.into_iter().zip(chains);
        answer.causes = causes.map(|((cause, _), chain)| RootCause { cause, chain }).collect();
        answer.causes.sort_by_key(|c| c.cause.gate);
        self.cut_off(&own, &run, &mut answer);
        // What was cut off is no cause, unless it reached the target by another way too.
        if answer.decision == Decision::Hit {
            let own = |hop: &Hop| targets.contains(hop.target.as_str());
            answer.causes.retain(|c| c.chain.last().is_some_and(own));
        }
        answer
    }

    fn baseline(&self, step: &StepRun) -> Option<Digest> {
        match &self.against {
            Some(steps) => steps.get(&(step.target.clone(), step.step.clone()))?.key,
            None => step.baseline,
        }
    }

    /// Whether it made what the result made that it is compared with.
    fn same_output(&self, step: &StepRun) -> bool {
        match &self.against {
            Some(steps) => steps
                .get(&(step.target.clone(), step.step.clone()))
                .is_some_and(|before| !before.outputs.is_empty() && before.outputs == step.outputs),
            None => step.same_output,
        }
    }

    /// Follows the differences of steps to their roots, each step once. Not a recursion: chains may be of any length.
    fn roots<'r>(&self, from: impl DoubleEndedIterator<Item = &'r StepRun>, run: &Run<'r>) -> Roots<'r> {
        let mut roots = Roots { causes: Vec::new(), links: Vec::new() };
        let mut seen = HashSet::new();
        let mut stack: Vec<Link<'r>> = from.rev().map(|step| Link { step, below: None }).collect();
        while let Some(link) = stack.pop() {
            let step = link.step;
            if !seen.insert((&step.target, &step.step)) {
                continue;
            }
            let at = roots.links.len();
            roots.links.push(link);
            let mut above = Vec::new();
            for cause in self.causes(step, run, &mut above) {
                roots.causes.push((cause, at));
            }
            stack.extend(above.into_iter().rev().map(|step| Link { step, below: Some(at) }));
        }
        roots
    }

    /// Why a step ran, as far as it is not because of steps `above` it.
    fn causes<'r>(&self, step: &'r StepRun, run: &Run<'r>, above: &mut Vec<&'r StepRun>) -> Vec<Cause> {
        let mut found = Vec::new();
        let plain = |gate, subject: &str, change, old: Option<String>, new: Option<String>| Cause {
            gate,
            target: step.target.clone(),
            step: step.step.clone(),
            subject: subject.into(),
            change,
            old,
            new,
            line: None,
        };
        let short = |key: &Digest| Some(key.short());
        match &step.reason {
            Reason::Forced => found.push(plain(Gate::Forced, "--force", "value", None, None)),
            Reason::NoCache => found.push(plain(Gate::Forced, "--no-cache", "value", None, None)),
            Reason::FailedBefore => {
                found.push(plain(Gate::FailedBefore, "its last attempt failed", "value", None, None));
            }
            Reason::ResultGone => {
                let subject = "its result is gone from the store";
                let key = step.key.as_ref().and_then(short);
                found.push(plain(Gate::ResultGone, subject, "removed", key, None));
            }
            Reason::BlobLost { digest, output, corrupt } => {
                let state = if *corrupt { "damaged and set aside" } else { "evicted" };
                let subject = format!("a blob of its output {output}");
                let (old, new) = (short(digest), Some(state.into()));
                found.push(plain(Gate::BlobLost, &subject, "removed", old, new));
            }
            Reason::Unlocked => {
                let subject = "its source is not in mosbuild.lock as it is asked for";
                found.push(plain(Gate::Spec, subject, "value", None, None));
            }
            Reason::Hit | Reason::KeyChanged | Reason::New | Reason::NotReached => {}
        }
        let (old, new) = match (self.baseline(step), step.key) {
            (Some(old), Some(new)) if old != new => (old, new),
            (None, Some(_)) if step.reason != Reason::Hit || self.against.is_some() => {
                found.push(self.never(&step.target, &step.step));
                return found;
            }
            // A prediction's waiting step: what it waits for explains it.
            (_, None) => {
                let steps = step.origins.values().filter_map(|origin| run.step(origin));
                above.extend(steps.filter(|up| up.reason != Reason::Hit));
                return found;
            }
            _ => return found,
        };
        let Some(differences) = self.differences(&old, &new) else {
            let subject = "key, whose earlier record is gone,";
            found.push(plain(Gate::Engine, subject, "value", short(&old), short(&new)));
            return found;
        };
        for difference in differences {
            let origin = difference.input.as_ref().and_then(|i| step.origins.get(i));
            let up = origin.and_then(|origin| run.step(origin));
            if let Some(up) = up
                && (self.baseline(up) != up.key || up.reason != Reason::Hit)
            {
                above.push(up);
                continue;
            }
            let subject = self.subject(step, &difference, run);
            // An input that no step made is a file or folder outside of every step.
            let gate = match (difference.gate, origin) {
                (Gate::Upstream, None) => Gate::File,
                (gate, _) => gate,
            };
            let line = difference.field.and_then(|f| self.line(&step.target, &f));
            let (old, new) = match (difference.change, difference.new) {
                // Which folder it was is in no record.
                (diff::OVERRIDDEN, Some(_)) => {
                    (None, run.copy_of(&step.target).or(Some("a working copy".into())))
                }
                (diff::OVERRIDDEN, None) => (Some("a working copy".into()), None),
                (_, new) => (difference.old, new),
            };
            let cause = plain(gate, &subject, difference.change, old, new);
            found.push(Cause { line, ..cause });
        }
        found
    }

    /// The working copies that went into a target.
    fn overrides(&self, target: &str, run: &Run<'_>) -> Vec<Overridden> {
        let index = self.loaded.target_index(target).filter(|_| !run.overrides.is_empty());
        let Some(index) = index else { return Vec::new() };
        let closure = crate::plan::closure(self.loaded, &[index]);
        let within =
            |o: &&Override| self.loaded.target_index(&o.target).is_some_and(|t| closure.contains(&t));
        let one = |o: &Override| Overridden { target: o.target.clone(), by: o.given.clone() };
        run.overrides.iter().filter(within).map(one).collect()
    }

    fn blank(&self, target: &str, decision: Decision) -> Explanation {
        Explanation {
            schema: SCHEMA,
            target: target.into(),
            file: self.loaded.file_name(),
            decision,
            run: String::new(),
            started: 0,
            made_by: Vec::new(),
            old_key: None,
            key: None,
            millis: 0,
            causes: Vec::new(),
            cut_off: Vec::new(),
            message: None,
            overrides: Vec::new(),
        }
    }

    /// What differs, by a name that people know: that of the file, or of the step that made it.
    fn subject(&self, step: &StepRun, difference: &diff::Difference, run: &Run<'_>) -> String {
        let (Some(input), below) = (&difference.input, difference.subject.as_str()) else {
            return difference.subject.clone();
        };
        if let Some((target, name)) = step.origins.get(input) {
            let what = if below.is_empty() { input } else { below };
            return format!("{what} from {target}:{name}");
        }
        let places =
            run.places.get_or_init(|| Places::of(self.loaded, self.registry, run.asked, &run.overrides));
        let new = difference.new.as_deref();
        let name = |below| places.name((&step.target, &step.step), input, below, run.started, new);
        match difference.change {
            "more" => format!("{below} of {}", name("")),
            _ => name(below),
        }
    }

    fn line(&self, target: &str, field: &[crate::load::Step]) -> Option<usize> {
        self.source.get_or_init(|| Source::open(self.loaded.options())).line(target, field)
    }

    fn never(&self, target: &str, step: &str) -> Cause {
        Cause {
            gate: Gate::New,
            target: target.into(),
            step: step.into(),
            subject: match self.against {
                Some(_) => "not built in the run that it is compared with".into(),
                None => "never built in this workspace".into(),
            },
            change: "added",
            old: None,
            new: None,
            line: None,
        }
    }

    fn differences(&self, old: &Digest, new: &Digest) -> Option<Vec<diff::Difference>> {
        Some(diff::records(&self.record(old)?, &self.record(new)?, self.store))
    }

    fn record(&self, key: &Digest) -> Option<ActionRecord> {
        if let Some(bytes) = self.extra.get(key) {
            return ActionRecord::decode(bytes).ok();
        }
        let mut records = self.records.borrow_mut();
        let mut unread = records.unread.take().unwrap_or_else(|| self.runs.ids());
        while !records.known.contains_key(key) {
            let Some(id) = unread.pop() else { break };
            records.known.extend(self.runs.records(&id));
        }
        records.unread = Some(unread);
        records.known.get(key).and_then(|bytes| ActionRecord::decode(bytes).ok())
    }

    /// The way from a cause's step down to the asked target.
    fn chain(&self, roots: &Roots<'_>, at: usize, run: &Run<'_>) -> Vec<Hop> {
        let links = std::iter::successors(roots.links.get(at), |link| roots.links.get(link.below?));
        let hop = |step: &StepRun| Hop {
            target: step.target.clone(),
            step: step.step.clone(),
            how: self.how(step, run),
        };
        links.map(|link| hop(link.step)).collect()
    }

    fn how(&self, step: &StepRun, run: &Run<'_>) -> String {
        match (step.outcome, self.same_output(step), &step.reason) {
            (OutcomeCode::Ran, true, _) => "ran, output identical".into(),
            (OutcomeCode::Ran, false, _) => "ran, output changed".into(),
            (OutcomeCode::Hit, ..) => "hit".into(),
            (OutcomeCode::Failed, ..) => "failed".into(),
            (OutcomeCode::Skipped, ..) => "skipped".into(),
            (OutcomeCode::Cancelled, ..) if !run.predicted => "stopped".into(),
            (OutcomeCode::Cancelled, _, Reason::NotReached) => "waits".into(),
            (OutcomeCode::Cancelled, ..) => "would run".into(),
        }
    }

    /// Changed steps below which the asked target saw nothing.
    fn cut_off<'r>(&self, own: &[&'r StepRun], run: &Run<'r>, answer: &mut Explanation) {
        // Of a target's own steps those are cut off that its last one saw nothing of.
        let moved: HashMap<&str, bool> =
            own.iter().map(|s| (s.target.as_str(), s.key.is_none() || self.baseline(s) != s.key)).collect();
        let mut stack: Vec<&StepRun> = own.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(step) = stack.pop() {
            if !seen.insert((&step.target, &step.step)) {
                continue;
            }
            stack.extend(step.origins.values().filter_map(|origin| run.step(origin)));
            let changed = self.baseline(step).is_some_and(|key| step.key != Some(key));
            let moved = moved.get(step.target.as_str()).copied().unwrap_or(false);
            if !changed || !self.same_output(step) || moved {
                continue;
            }
            let roots = self.roots(std::iter::once(step), run);
            answer.cut_off.push(CutOff {
                target: step.target.clone(),
                step: step.step.clone(),
                millis: if step.outcome == OutcomeCode::Ran { step.millis } else { 0 },
                causes: roots.causes.into_iter().map(|(cause, _)| cause).collect(),
            });
        }
        answer.cut_off.sort_by(|a, b| (&a.target, &a.step).cmp(&(&b.target, &b.step)));
    }
}
