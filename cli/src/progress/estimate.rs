//! Time to go, from what the same targets took before and from the graph.
//! Reads past runs lazily: a build that is over at once never pays for it.

use std::collections::{HashMap, HashSet};

use mosbuild_engine::build::Site;
use mosbuild_engine::load::Loaded;
use mosbuild_engine::run_record::{OutcomeCode, Runs};

/// How many runs are looked into for durations.
const LOOKED_AT: usize = 10;

/// What an estimate is made from.
pub struct History {
    site: Site,
    requested: Vec<String>,
    jobs: u64,
    /// Read when it is first asked for.
    known: Option<Known>,
}

struct Known {
    loaded: Loaded,
    requested: Vec<u32>,
    /// Target → milliseconds.
    took: HashMap<String, u64>,
}

/// How long the rest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToGo {
    /// Milliseconds of what is known.
    pub millis: u64,
    /// Targets were left out because nobody knows what they take.
    pub at_least: bool,
}

impl History {
    /// Of a build of these targets, or of the default ones.
    pub fn new(site: Site, requested: Vec<String>, jobs: usize) -> History {
        History { site, requested, jobs: jobs.max(1) as u64, known: None }
    }

    /// The rest of the build; `finished` are over and `running` have run for so long. What is not finished is
    /// taken to run, although it may yet be cut off: a build is never later than promised for that.
    pub fn estimate(&mut self, finished: &HashSet<String>, running: &HashMap<String, u64>) -> Option<ToGo> {
        if self.known.is_none() {
            let loaded = self.site.load().ok()?;
            let requested = requested(&loaded, &self.requested);
            let took = durations(&self.site.dirs().state);
            self.known = Some(Known { loaded, requested, took });
        }
        let known = self.known.as_ref()?;
        estimate(&known.loaded, &known.took, self.jobs, &known.requested, finished, running)
    }
}

/// The targets that a build without names is about, or those named.
pub fn requested(loaded: &Loaded, names: &[String]) -> Vec<u32> {
    if !names.is_empty() {
        return names.iter().filter_map(|n| loaded.target_index(n)).collect();
    }
    match loaded.default.is_empty() {
        false => loaded.default.clone(),
        true => loaded.order.clone(),
    }
}

/// What each target's steps took when they last ran, by the runs below this `.mosbuild`.
pub fn durations(state: &std::path::Path) -> HashMap<String, u64> {
    let runs = Runs::of(state);
    let mut took: HashMap<String, u64> = HashMap::new();
    for id in runs.ids().iter().rev().take(LOOKED_AT) {
        let steps = runs.head(id).and_then(|head| runs.steps(&head)).unwrap_or_default();
        let mut here: HashMap<String, u64> = HashMap::new();
        let mut partial = HashSet::new();
        for step in steps {
            match step.outcome {
                OutcomeCode::Ran | OutcomeCode::Hit => *here.entry(step.target).or_default() += step.millis,
                _ => {
                    partial.insert(step.target);
                }
            }
        }
        here.retain(|target, _| !partial.contains(target));
        for (target, millis) in here {
            took.entry(target).or_insert(millis);
        }
    }
    took
}

/// The longest chain of what is left, or the sum of it shared out over the jobs, whichever is more.
fn estimate(
    loaded: &Loaded,
    took: &HashMap<String, u64>,
    jobs: u64,
    requested: &[u32],
    finished: &HashSet<String>,
    running: &HashMap<String, u64>,
) -> Option<ToGo> {
    let mut wanted = vec![false; loaded.targets.len()];
    let mut stack = requested.to_vec();
    while let Some(t) = stack.pop() {
        if !std::mem::replace(&mut wanted[t as usize], true) {
            stack.extend(loaded.targets[t as usize].references.iter().map(|r| r.target));
        }
    }
    // Groups have no outputs and no steps: they cost nothing and are never told to be finished.
    let (mut sum, mut longest, mut known, mut unknown) = (0, 0, false, false);
    let mut chain = vec![0u64; loaded.targets.len()];
    for &t in loaded.order.iter().filter(|t| wanted[**t as usize]) {
        let target = &loaded.targets[t as usize];
        let own = match (target.outputs.is_empty() || finished.contains(&target.name), took.get(&target.name))
        {
            (true, _) => 0,
            (false, Some(millis)) => {
                known = true;
                millis.saturating_sub(running.get(&target.name).copied().unwrap_or(0))
            }
            (false, None) => {
                unknown = true;
                0
            }
        };
        let below = target.references.iter().map(|r| chain[r.target as usize]).max().unwrap_or(0);
        chain[t as usize] = own + below;
        sum += own;
        longest = longest.max(own + below);
    }
    known.then_some(ToGo { millis: longest.max(sum / jobs), at_least: unknown })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosbuild_engine::load::{LoadedTarget, OutputDecl, OutputKind, ResolvedRef};

    /// a ← b ← d, a ← c ← d
    fn diamond() -> Loaded {
        let output = OutputDecl { name: "out".into(), kind: OutputKind::File, path: None, field: None };
        let target = |name: &str, needs: &[u32]| LoadedTarget {
            name: name.into(),
            rule: "command".into(),
            value: Default::default(),
            line: 1,
            references: needs
                .iter()
                .map(|t| ResolvedRef { field: Vec::new(), target: *t, output: None })
                .collect(),
            outputs: vec![output.clone()],
            files: Vec::new(),
        };
        let mut loaded = Loaded::default();
        loaded.targets = vec![target("a", &[]), target("b", &[0]), target("c", &[0]), target("d", &[1, 2])];
        loaded.order = vec![0, 1, 2, 3];
        loaded
    }

    fn took(all: &[(&str, u64)]) -> HashMap<String, u64> {
        all.iter().map(|(n, m)| ((*n).to_owned(), *m)).collect()
    }

    #[test]
    fn the_longest_chain_or_the_shared_work() {
        let loaded = diamond();
        let all = took(&[("a", 10), ("b", 100), ("c", 30), ("d", 5)]);
        let go = |jobs, finished: &[&str], running: &[(&str, u64)]| {
            let finished = finished.iter().map(|n| (*n).to_owned()).collect();
            estimate(&loaded, &all, jobs, &[3], &finished, &took(running))
        };
        assert_eq!(go(2, &[], &[]), Some(ToGo { millis: 115, at_least: false }));
        assert_eq!(go(1, &[], &[]), Some(ToGo { millis: 145, at_least: false }));
        assert_eq!(go(2, &["a"], &[("b", 40), ("c", 40)]), Some(ToGo { millis: 65, at_least: false }));
        assert_eq!(go(2, &["a", "b", "c", "d"], &[]), None);
    }

    #[test]
    fn unknown_targets_make_it_a_lower_bound_or_nothing() {
        let loaded = diamond();
        let none = HashSet::new();
        let some = estimate(&loaded, &took(&[("d", 5)]), 1, &[3], &none, &HashMap::new());
        assert_eq!(some, Some(ToGo { millis: 5, at_least: true }));
        assert_eq!(estimate(&loaded, &HashMap::new(), 1, &[3], &none, &HashMap::new()), None);
    }
}
