//! What a workspace remembers of each step from run to run: last key, last result, durations.
//! An index kept in sled as one value; without it every step is looked up in the result store instead.

use std::collections::HashMap;

use mosbuild_cache::{ActionResult, Digest};
use serde::{Deserialize, Serialize};

use crate::framed;

/// How many durations are kept of a step.
const DURATIONS: usize = 5;

/// What is remembered of one step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StepMemory {
    /// Key of the step's last success or hit.
    pub key: Option<Digest>,
    /// Its result.
    pub result: Option<ActionResult>,
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
    steps: HashMap<String, HashMap<String, StepMemory>>,
}

impl Memory {
    /// Reads the stored value; anything unreadable is an empty memory.
    pub fn decode(bytes: &[u8]) -> Memory {
        framed::decode(b"mmem", 1, bytes).unwrap_or_default()
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        framed::encode(b"mmem", 1, self)
    }

    /// What is remembered of a step.
    pub fn get(&self, target: &str, step: &str) -> Option<&StepMemory> {
        self.steps.get(target)?.get(step)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, target: &str, step: &str) -> &mut StepMemory {
        if !self.steps.contains_key(target) {
            self.steps.insert(target.to_owned(), HashMap::new());
        }
        let steps = self.steps.entry(target.to_owned()).or_default();
        steps.entry(step.to_owned()).or_default()
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
        self.steps.values().flat_map(|s| s.values()).map(|m| m.record_run.as_str()).collect()
    }
}
