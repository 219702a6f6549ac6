//! What a workspace remembers of each step from run to run: last key, last result, durations.
//! An index kept in sled as one value; where that is lost or in use it is made again from run records and the store.

use std::collections::HashMap;
use std::sync::Arc;

use mosbuild_cache::{ActionResult, Digest, Store};
use serde::{Deserialize, Serialize};

use crate::framed;
use crate::run_record::{OutcomeCode, Reason, Runs, StepRun};

const VERSION: u32 = 3;
/// How many durations are kept of a step.
const DURATIONS: usize = 5;

/// What is remembered of one step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepMemory {
    /// Key of the step's last success or hit.
    pub key: Option<Digest>,
    /// Its result.
    pub result: Option<Arc<ActionResult>>,
    /// The run whose record file holds the key's record.
    pub record_run: String,
    /// Wall milliseconds of its last successful executions, newest last.
    pub millis: Vec<u64>,
    /// Key of the last attempt if that failed.
    pub failed: Option<Digest>,
}

/// Every step's memory, by (target, step).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The store that the results are in.
    store: Option<Digest>,
    /// Target to its steps: few.
    steps: HashMap<String, Vec<(String, StepMemory)>>,
}

impl Memory {
    /// Reads the stored value; anything unreadable is an empty memory.
    pub fn decode(bytes: &[u8]) -> Memory {
        framed::decode(b"mmem", VERSION, bytes).unwrap_or_default()
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        framed::encode(b"mmem", VERSION, self)
    }

    /// Says which store is used now: what is remembered of another's results is no hit in this one.
    pub fn of_store(&mut self, store: Digest) {
        if self.store != Some(store) {
            self.store = Some(store);
            for (_, memory) in self.steps.values_mut().flatten() {
                memory.result = None;
            }
        }
    }

    /// Where nothing is remembered: what the runs tell, oldest first, with the results that the store still has.
    pub fn recall(&mut self, runs: &Runs, store: &Store) {
        if !self.steps.is_empty() {
            return;
        }
        for id in runs.ids() {
            let Some(head) = runs.head(&id) else { continue };
            // Of a run in which nothing had changed another one tells the same.
            if head.same_as.is_none() {
                self.learn(&id, runs.steps(&head).unwrap_or_default());
            }
        }
        for (_, memory) in self.steps.values_mut().flatten() {
            let result = memory.key.and_then(|key| store.get_result(&key).ok().flatten());
            memory.result = result.map(Arc::new);
        }
    }

    /// One run, as the build that made it remembered it.
    fn learn(&mut self, run: &str, steps: Vec<StepRun>) {
        for step in steps {
            match step.outcome {
                // What ran with --no-cache is not remembered.
                OutcomeCode::Ran | OutcomeCode::Hit if step.reason != Reason::NoCache => {
                    let memory = self.get_mut(&step.target, &step.step);
                    if memory.key != step.key || memory.record_run.is_empty() {
                        memory.record_run = run.to_owned();
                    }
                    memory.key = step.key;
                    memory.failed = None;
                    if step.outcome == OutcomeCode::Ran {
                        self.took(&step.target, &step.step, step.millis);
                    }
                }
                OutcomeCode::Failed => self.get_mut(&step.target, &step.step).failed = step.key,
                _ => {}
            }
        }
    }

    /// What is remembered of a step.
    pub fn get(&self, target: &str, step: &str) -> Option<&StepMemory> {
        self.steps.get(target)?.iter().find(|(name, _)| name == step).map(|(_, memory)| memory)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, target: &str, step: &str) -> &mut StepMemory {
        if !self.steps.contains_key(target) {
            self.steps.insert(target.to_owned(), Vec::with_capacity(1));
        }
        let steps = self.steps.entry(target.to_owned()).or_default();
        let at = steps.iter().position(|(name, _)| name == step).unwrap_or_else(|| {
            steps.push((step.to_owned(), StepMemory::default()));
            steps.len() - 1
        });
        &mut steps[at].1
    }

    /// Adds a measured duration.
    pub fn took(&mut self, target: &str, step: &str, millis: u64) {
        let durations = &mut self.get_mut(target, step).millis;
        durations.push(millis);
        if durations.len() > DURATIONS {
            durations.remove(0);
        }
    }

    /// Median of the remembered durations.
    pub fn expected(&self, target: &str, step: &str) -> Option<u64> {
        let mut millis = self.get(target, step)?.millis.clone();
        millis.sort_unstable();
        millis.get(millis.len() / 2).copied()
    }

    /// The runs whose record files are still referred to.
    pub fn record_runs(&self) -> std::collections::BTreeSet<&str> {
        self.steps.values().flatten().map(|(_, m)| m.record_run.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mosbuild_cache::{Output, OutputKind};

    use super::*;
    use crate::run_record::RunHead;

    fn step(key: &[u8], outcome: OutcomeCode, reason: Reason, millis: u64) -> StepRun {
        StepRun {
            target: "t".into(),
            step: "run".into(),
            key: Some(Digest::of(key)),
            outcome,
            reason,
            baseline: None,
            millis,
            same_output: false,
            origins: BTreeMap::new(),
            outputs: BTreeMap::new(),
            log: None,
            log_file: None,
            made_by: String::new(),
            sandboxed: true,
            message: None,
        }
    }

    #[test]
    fn what_runs_tell_is_remembered_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let output = Output { kind: OutputKind::Tree, digest: Digest::of(b"x"), size: 1 };
        let result = ActionResult {
            key: Digest::of(b"two"),
            outputs: [("tree".to_owned(), output)].into(),
            facts: BTreeMap::new(),
            log: None,
            notes: Vec::new(),
            sandboxed: true,
            millis: 7,
            run: "2".into(),
            local: false,
        };
        store.put_result(&result).unwrap();
        let runs = Runs::of(dir.path());
        let write = |id: &str, step: StepRun| {
            let head = RunHead { id: id.into(), ..RunHead::default() };
            runs.write(&head, [step].into_iter(), &BTreeMap::new()).unwrap();
        };
        write("1", step(b"one", OutcomeCode::Ran, Reason::New, 5));
        write("2", step(b"two", OutcomeCode::Ran, Reason::KeyChanged, 7));
        write("3", step(b"two", OutcomeCode::Hit, Reason::Hit, 7));
        write("4", step(b"none", OutcomeCode::Ran, Reason::NoCache, 9));
        write("5", step(b"bad", OutcomeCode::Failed, Reason::KeyChanged, 1));
        let mut memory = Memory::default();
        memory.recall(&runs, &store);
        let found = memory.get("t", "run").unwrap();
        assert_eq!((found.key, found.failed), (Some(Digest::of(b"two")), Some(Digest::of(b"bad"))));
        assert_eq!((found.record_run.as_str(), found.millis.as_slice()), ("2", [5, 7].as_slice()));
        assert_eq!(found.result, Some(Arc::new(result)));
        // What is remembered is not overwritten.
        memory.get_mut("t", "run").key = None;
        memory.recall(&runs, &store);
        assert_eq!(memory.get("t", "run").unwrap().key, None);
    }
}
