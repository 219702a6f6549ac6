//! Why a target was built, or came from the cache: the difference of two stored action records, followed upstream
//! to its roots. Reads run records and the store; runs nothing and draws nothing (text.rs does).

mod diff;
mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mosbuild_cache::{Digest, Store};
use serde::Serialize;

pub use diff::{Cause, Gate};
pub use text::render;

use crate::load;
use crate::record::ActionRecord;
use crate::run_record::{OutcomeCode, Reason, RunHead, Runs, StepRun};

/// Schema of the JSON form.
pub const SCHEMA: &str = "mosbuild.why/1";

/// What happened to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Every step came from the cache.
    Hit,
    /// At least one step ran.
    Rebuilt,
    /// No run of this workspace has it.
    NeverBuilt,
    /// A step of it failed.
    Failed,
    /// Not tried because of another's failure, or interrupted.
    NotRun,
    /// `--predict`: a step would run.
    WouldRun,
    /// `--predict`: what another target makes decides.
    Depends,
}

impl Decision {
    /// Exit code of `why`.
    pub fn exit(self) -> u8 {
        match self {
            Decision::Hit => 0,
            Decision::Failed | Decision::NotRun => 1,
            Decision::Rebuilt | Decision::NeverBuilt | Decision::WouldRun | Decision::Depends => 10,
        }
    }
}

/// One hop from a cause to the asked target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Target.
    pub target: String,
    /// Step.
    pub step: String,
    /// `ran, output changed` and the like.
    pub how: String,
}

/// A cause with its way to the asked target, nearest to the cause first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootCause {
    /// The difference.
    #[serde(flatten)]
    pub cause: Cause,
    /// The hops.
    pub chain: Vec<Hop>,
}

/// A change upstream that ended before it reached the asked target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CutOff {
    /// Target whose output stayed the same.
    pub target: String,
    /// Step.
    pub step: String,
    /// Milliseconds it ran; 0 for a hit.
    pub millis: u64,
    /// What had changed.
    pub causes: Vec<Cause>,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The asked target.
    pub target: String,
    /// What happened.
    pub decision: Decision,
    /// The run that is explained; empty for a prediction or a target never built.
    pub run: String,
    /// When that run began, seconds since 1970.
    pub started: u64,
    /// What the run that made the results was.
    pub made_by: Vec<String>,
    /// Keys of the last step, before and now, hex.
    pub old_key: Option<String>,
    /// See `old_key`.
    pub key: Option<String>,
    /// Milliseconds that its steps ran; for a hit what running them took when they last ran.
    pub millis: u64,
    /// Root causes.
    pub causes: Vec<RootCause>,
    /// Changes that were cut off.
    pub cut_off: Vec<CutOff>,
    /// For a failed or skipped target: what was said.
    pub message: Option<String>,
}

/// Where explanations come from.
pub struct Explainer<'a> {
    runs: Runs,
    store: &'a Store,
    source: load::Source,
    against: Option<BTreeMap<(String, String), Digest>>,
    extra: BTreeMap<Digest, Vec<u8>>,
    records: std::cell::RefCell<Records>,
}

/// Record files read so far, newest run first.
#[derive(Default)]
struct Records {
    known: HashMap<Digest, Vec<u8>>,
    unread: Option<Vec<String>>,
}

impl<'a> Explainer<'a> {
    /// For the workspace whose `.mosbuild` is `state`.
    pub fn new(state: &std::path::Path, store: &'a Store, source: load::Source) -> Explainer<'a> {
        Explainer {
            runs: Runs::of(state),
            store,
            source,
            against: None,
            extra: BTreeMap::new(),
            records: Default::default(),
        }
    }

    /// Compares with what the given run had; false if there is no such run.
    pub fn against(&mut self, run: &str) -> bool {
        let Some(steps) = self.runs.head(run).and_then(|head| self.runs.steps(&head)) else { return false };
        let keys = steps.into_iter().filter_map(|s| Some(((s.target, s.step), s.key?)));
        self.against = Some(keys.collect());
        true
    }

    /// The newest run that had the target in its closure, with its steps.
    pub fn last_run(&self, target: &str) -> Option<(RunHead, Vec<StepRun>)> {
        self.runs.ids().into_iter().rev().find_map(|id| {
            let head = self.runs.head(&id)?;
            if !head.targets.iter().any(|t| t == target) {
                return None;
            }
            let steps = self.runs.steps(&head)?;
            Some((head, steps))
        })
    }

    /// Explains the target's last run.
    pub fn explain(&self, target: &str) -> Explanation {
        match self.last_run(target) {
            Some((head, steps)) => self.explain_run(target, &head, steps, false),
            None => {
                let mut answer = blank(target, Decision::NeverBuilt);
                answer.causes.push(RootCause { cause: self.never(target, ""), chain: Vec::new() });
                answer
            }
        }
    }

    /// Explains what a build would do now.
    pub fn predict(&mut self, target: &str, predicted: crate::build::Predicted) -> Explanation {
        self.extra = predicted.records;
        self.explain_run(target, &RunHead::default(), predicted.steps, true)
    }

    fn explain_run(&self, target: &str, head: &RunHead, steps: Vec<StepRun>, predicted: bool) -> Explanation {
        let by_name: HashMap<(&str, &str), &StepRun> =
            steps.iter().map(|s| ((s.target.as_str(), s.step.as_str()), s)).collect();
        let own: Vec<&StepRun> = steps.iter().filter(|s| s.target == target).collect();
        let any = |outcome| own.iter().any(|s| s.outcome == outcome);
        let decision = if predicted {
            match own.iter().find(|s| s.reason != Reason::Hit) {
                None => Decision::Hit,
                Some(s) if s.reason == Reason::NotReached => Decision::Depends,
                Some(_) => Decision::WouldRun,
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
        let mut answer = blank(target, decision);
        answer.run.clone_from(&head.id);
        answer.started = head.started;
        answer.message = own.iter().find_map(|s| s.message.clone());
        let made_by: BTreeSet<&String> = own.iter().map(|s| &s.made_by).filter(|m| !m.is_empty()).collect();
        answer.made_by = made_by.into_iter().cloned().collect();
        if let Some(last) = own.last() {
            answer.key = last.key.map(|k| k.hex());
            answer.old_key = self.baseline(last).map(|k| k.hex());
        }
        let counts = |s: &&&StepRun| decision == Decision::Hit || s.outcome != OutcomeCode::Hit;
        answer.millis = own.iter().filter(counts).map(|s| s.millis).sum();
        let mut seen = BTreeSet::new();
        for step in own.iter().filter(|s| s.reason != Reason::Hit || self.baseline(s) != s.key) {
            self.roots(step, &by_name, &mut Vec::new(), &mut seen, &mut answer.causes);
        }
        answer.causes.sort_by_key(|c| c.cause.gate);
        self.cut_off(&own, &by_name, &mut answer);
        answer
    }

    fn baseline(&self, step: &StepRun) -> Option<Digest> {
        match &self.against {
            Some(keys) => keys.get(&(step.target.clone(), step.step.clone())).copied(),
            None => step.baseline,
        }
    }

    /// Follows a step's difference to its roots.
    fn roots(
        &self,
        step: &StepRun,
        all: &HashMap<(&str, &str), &StepRun>,
        chain: &mut Vec<Hop>,
        seen: &mut BTreeSet<(String, String)>,
        out: &mut Vec<RootCause>,
    ) {
        if !seen.insert((step.target.clone(), step.step.clone())) {
            return;
        }
        chain.push(Hop { target: step.target.clone(), step: step.step.clone(), how: how(step) });
        let mut push = |cause| {
            let hops: Vec<Hop> = chain.iter().rev().cloned().collect();
            out.push(RootCause { cause, chain: hops });
        };
        let plain = |gate, subject: &str, old: Option<String>, new: Option<String>, change| Cause {
            gate,
            target: step.target.clone(),
            step: step.step.clone(),
            subject: subject.into(),
            change,
            old,
            new,
            line: None,
        };
        match &step.reason {
            Reason::Forced => push(plain(Gate::Forced, "--force", None, None, "value")),
            Reason::NoCache => push(plain(Gate::Forced, "--no-cache", None, None, "value")),
            Reason::FailedBefore => {
                push(plain(Gate::FailedBefore, "its last attempt failed", None, None, "value"))
            }
            Reason::ResultGone => push(plain(
                Gate::ResultGone,
                "its result is gone from the store",
                step.key.map(|k| k.short()),
                None,
                "removed",
            )),
            Reason::BlobLost { digest, output, corrupt } => {
                let state = if *corrupt { "damaged and set aside" } else { "evicted" };
                push(plain(
                    Gate::BlobLost,
                    &format!("a blob of its output {output}"),
                    Some(digest.short()),
                    Some(state.into()),
                    "removed",
                ));
            }
            Reason::Hit | Reason::KeyChanged | Reason::New | Reason::NotReached => {}
        }
        let differences = match (self.baseline(step), step.key) {
            (Some(old), Some(new)) if old != new => self.differences(&old, &new),
            (None, Some(_)) if step.reason != Reason::Hit => {
                push(self.never(&step.target, &step.step));
                None
            }
            // A prediction's waiting step: what it waits for explains it.
            (_, None) => {
                for (target, name) in step.origins.values() {
                    if let Some(up) = all.get(&(target.as_str(), name.as_str()))
                        && up.reason != Reason::Hit
                    {
                        self.roots(up, all, chain, seen, out);
                    }
                }
                None
            }
            _ => None,
        };
        for difference in differences.into_iter().flatten() {
            let origin = difference.input.as_ref().and_then(|i| step.origins.get(i));
            let up = origin.and_then(|(t, s)| all.get(&(t.as_str(), s.as_str())));
            if let Some(up) = up
                && (self.baseline(up) != up.key || up.reason != Reason::Hit)
            {
                self.roots(up, all, chain, seen, out);
                continue;
            }
            let subject = match origin {
                Some((t, s)) => format!("{} from {t}:{s}", difference.subject),
                None => difference.subject,
            };
            // An input that no step made is a file or folder outside of every step.
            let gate = match (difference.gate, origin) {
                (Gate::Upstream, None) => Gate::File,
                (gate, _) => gate,
            };
            let line = difference.field.and_then(|f| self.source.line(&step.target, &f));
            let cause = Cause {
                gate,
                target: step.target.clone(),
                step: step.step.clone(),
                subject,
                change: difference.change,
                old: difference.old,
                new: difference.new,
                line,
            };
            let hops: Vec<Hop> = chain.iter().rev().cloned().collect();
            out.push(RootCause { cause, chain: hops });
        }
        chain.pop();
    }

    fn never(&self, target: &str, step: &str) -> Cause {
        Cause {
            gate: Gate::New,
            target: target.into(),
            step: step.into(),
            subject: "never built in this workspace".into(),
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

    /// Changed steps below which the asked target saw nothing.
    fn cut_off(&self, own: &[&StepRun], all: &HashMap<(&str, &str), &StepRun>, answer: &mut Explanation) {
        let mut stack: Vec<&StepRun> = own.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(step) = stack.pop() {
            if !seen.insert((&step.target, &step.step)) {
                continue;
            }
            stack.extend(step.origins.values().filter_map(|(t, s)| all.get(&(t.as_str(), s.as_str()))));
            let changed = self.baseline(step).is_some() && self.baseline(step) != step.key;
            let own = step.target == answer.target;
            if !step.same_output || !changed || (own && step.outcome == OutcomeCode::Ran) {
                continue;
            }
            let mut roots = Vec::new();
            self.roots(step, all, &mut Vec::new(), &mut BTreeSet::new(), &mut roots);
            answer.cut_off.push(CutOff {
                target: step.target.clone(),
                step: step.step.clone(),
                millis: if step.outcome == OutcomeCode::Ran { step.millis } else { 0 },
                causes: roots.into_iter().map(|r| r.cause).collect(),
            });
        }
        answer.cut_off.sort_by(|a, b| (&a.target, &a.step).cmp(&(&b.target, &b.step)));
        // What was cut off is no cause, unless it reached the target by another way too.
        if answer.decision == Decision::Hit {
            answer.causes.retain(|c| c.chain.last().is_some_and(|h| h.target == answer.target));
        }
    }
}

fn how(step: &StepRun) -> String {
    match (step.outcome, step.same_output, &step.reason) {
        (OutcomeCode::Ran, true, _) => "ran, output identical".into(),
        (OutcomeCode::Ran, false, _) => "ran, output changed".into(),
        (OutcomeCode::Hit, ..) => "hit".into(),
        (OutcomeCode::Failed, ..) => "failed".into(),
        (OutcomeCode::Skipped, ..) => "skipped".into(),
        (OutcomeCode::Cancelled, _, Reason::NotReached) => "waits".into(),
        (OutcomeCode::Cancelled, ..) => "would run".into(),
    }
}

fn blank(target: &str, decision: Decision) -> Explanation {
    Explanation {
        schema: SCHEMA,
        target: target.into(),
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
    }
}
