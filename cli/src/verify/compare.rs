//! The two builds step by step: what was made twice and is equal, what differs from equal inputs, what only follows.
//! Knows records and stores; where the bytes differ, and why, is `mosbuild_rules::difference`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mosbuild_cache::{ActionResult, Digest, Proof, Store};
use mosbuild_engine::load::Loaded;
use mosbuild_engine::run_record::{OutcomeCode, Runs, StepRun};
use mosbuild_rules::difference::{Difference, Reason, Surroundings, outputs};

use super::apart;
use crate::failure::Failure;

/// Differences that are looked into; the others are counted.
const LOOKED_INTO: usize = 8;

/// Where a build ran.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Number of the user, as the build saw it.
    pub user: u64,
    /// Name of the host.
    pub hostname: String,
    /// Path of the workspace.
    pub workspace: String,
    /// Path of the store.
    pub store: String,
    /// Processors that it could use.
    pub processors: usize,
    /// Steps at once.
    pub jobs: usize,
    /// Seconds since 1970.
    pub started: u64,
    /// Seconds since 1970.
    pub ended: u64,
    /// Folders list files as they were made, so that their order was another one.
    pub in_order_of_creation: bool,
    /// Why user, host and path are the caller's.
    pub refused: Option<String>,
    /// It is no build of its own: what the store had.
    pub stored: bool,
}

/// One of the two.
pub struct Side {
    /// Its steps, in the order of the graph.
    pub steps: Vec<StepRun>,
    /// What it made.
    pub store: Store,
    /// Its run; empty for what the store had.
    pub run: String,
    /// Where it ran.
    pub around: Around,
}

impl Side {
    /// A build that ended well, from its folder.
    pub fn of_build(dir: &Path, store: Store) -> Result<Side, Failure> {
        let lost = || Failure::new(1, format!("the record of the build in {} cannot be read", dir.display()));
        let runs = Runs::of(&dir.join(apart::STATE));
        let run = runs.ids().pop().ok_or_else(lost)?;
        let head = runs.head(&run).ok_or_else(lost)?;
        let steps = runs.steps(&head).ok_or_else(lost)?;
        let text = std::fs::read_to_string(dir.join(apart::AROUND)).map_err(|e| Failure::io(dir, e))?;
        let told: serde_json::Value = serde_json::from_str(&text).map_err(|_| lost())?;
        let number = |name: &str| told[name].as_u64().unwrap_or_default();
        let words = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let around = Around {
            user: number("user"),
            hostname: words("hostname"),
            workspace: words("workspace"),
            store: words("store"),
            processors: number("processors") as usize,
            jobs: number("jobs") as usize,
            started: number("started"),
            ended: apart::now(),
            ..Around::default()
        };
        Ok(Side { steps, store, run, around })
    }

    /// What the store has, by a prediction in which every step must be a hit.
    pub fn of_store(store: &Store, steps: Vec<StepRun>, loaded: &Loaded) -> Result<Side, Failure> {
        let lacking = |s: &&StepRun| s.outcome != OutcomeCode::Hit || s.key.is_none();
        if let Some(step) = steps.iter().find(lacking) {
            let text = format!(
                "{}:{} is not in the store, so there is nothing to compare with",
                step.target, step.step
            );
            let error = Failure::usage(text).help(format!("build it first: mosbuild build {}", step.target));
            return Err(error.help("or leave --against-store out, and it is built twice"));
        }
        let around = Around {
            workspace: loaded.root.to_string_lossy().into_owned(),
            store: store.root().to_string_lossy().into_owned(),
            stored: true,
            // When it was made is not known.
            ..Around::default()
        };
        Ok(Side { steps, store: store.clone(), run: String::new(), around })
    }

    /// Whether a step's result was taken from a store below.
    fn is_lent(&self, step: &StepRun) -> bool {
        !self.around.stored && step.outcome == OutcomeCode::Hit && step.made_by != self.run
    }

    fn result(&self, key: &Digest) -> Result<ActionResult, Failure> {
        let own = self.store.get_result(key)?;
        let result = match own {
            None => self.store.lent_result(key)?,
            found => found,
        };
        result.ok_or_else(|| Failure::new(1, format!("the result {} is gone from the store", key.short())))
    }
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It ran in both, and made the same.
    Same,
    /// A source that the lock names by digest: taken from the store.
    Locked,
    /// Not run, since a verify before proved it at that time, seconds since 1970.
    Proven(u64),
    /// It made something else from the same inputs.
    Differs,
    /// It had other inputs, since these steps differ or follow from such.
    Follows(Vec<(String, String)>),
}

/// One output, or fact, of a step that differs.
pub struct Found {
    /// The step.
    pub target: String,
    /// Its name.
    pub step: String,
    /// The output, or `fact NAME`.
    pub output: String,
    /// Where and what; none beyond [`LOOKED_INTO`].
    pub difference: Option<(Difference, Reason)>,
    /// Other files of the same tree that differ.
    pub others: usize,
}

/// Both builds compared.
pub struct Compared {
    /// Each step with what became of it, in the order of the graph.
    pub steps: Vec<(StepRun, Standing)>,
    /// What differs, from the same inputs.
    pub found: Vec<Found>,
    /// The first build, or the store.
    pub first: Side,
    /// The second.
    pub second: Side,
}

impl Compared {
    /// Compares.
    pub fn new(
        loaded: &Loaded,
        first: Side,
        second: Side,
        known: &BTreeSet<Digest>,
    ) -> Result<Compared, Failure> {
        let name = |s: &StepRun| (s.target.clone(), s.step.clone());
        let others: BTreeMap<(String, String), &StepRun> =
            second.steps.iter().map(|s| (name(s), s)).collect();
        let surroundings = surroundings(&first.around, &second.around);
        let (mut steps, mut found) = (Vec::new(), Vec::new());
        let mut unlike: BTreeSet<(String, String)> = BTreeSet::new();
        for step in &first.steps {
            let changed = || changed_meanwhile(loaded, step);
            let Some(other) = others.get(&name(step)) else { return Err(changed()) };
            let (Some(key), Some(other_key)) = (step.key, other.key) else { return Err(changed()) };
            let standing = if key != other_key {
                let above: BTreeSet<_> =
                    step.origins.values().filter(|o| unlike.contains(o)).cloned().collect();
                if above.is_empty() {
                    return Err(changed());
                }
                Standing::Follows(above.into_iter().collect())
            } else if second.is_lent(other) || first.is_lent(step) {
                match known.contains(&key) {
                    true => Standing::Proven(second.store.get_proof_below(&key).map_or(0, |p| p.at)),
                    false => Standing::Locked,
                }
            } else {
                let before = found.len();
                compare(step, (&first, &second), &key, &surroundings, &mut found)?;
                if found.len() > before { Standing::Differs } else { Standing::Same }
            };
            if matches!(standing, Standing::Differs | Standing::Follows(_)) {
                unlike.insert(name(step));
            }
            steps.push((step.clone(), standing));
        }
        Ok(Compared { steps, found, first, second })
    }

    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.found.is_empty()
    }

    /// Keeps what is proven for a verify that skips it.
    pub fn keep_proofs(&self, store: &Store) -> Result<(), Failure> {
        for (step, standing) in &self.steps {
            if let (Standing::Same, Some(key)) = (standing, step.key) {
                let ActionResult { outputs, facts, .. } = self.first.result(&key)?;
                store.put_proof(&Proof { key, outputs, facts, at: apart::now() })?;
            }
        }
        Ok(())
    }
}

fn surroundings(first: &Around, second: &Around) -> Surroundings {
    let each = [first, second];
    Surroundings {
        // What was in the store before was made at some time until now.
        times: each.map(|a| (a.started, if a.stored { second.started } else { a.ended })),
        paths: each.map(|a| vec![a.store.clone(), a.workspace.clone()]),
        hosts: each.map(|a| a.hostname.clone()),
        users: each.map(|a| vec![a.user.to_string()]),
        processors: each.map(|a| a.processors),
    }
}

/// Compares the outputs of a step that ran in both with one key.
fn compare(
    step: &StepRun,
    (first, second): (&Side, &Side),
    key: &Digest,
    surroundings: &Surroundings,
    found: &mut Vec<Found>,
) -> Result<(), Failure> {
    let (one, two) = (first.result(key)?, second.result(key)?);
    let unlike = |output: String| Found {
        target: step.target.clone(),
        step: step.step.clone(),
        output,
        difference: None,
        others: 0,
    };
    for (name, a) in &one.outputs {
        let Some(b) = two.outputs.get(name).filter(|b| *b != a) else { continue };
        let mut told = unlike(name.clone());
        if found.len() < LOOKED_INTO
            && let Some((difference, others)) = outputs((&first.store, a), (&second.store, b))
                .map_err(|e| Failure::new(1, format!("{}:{}: {e}", step.target, step.step)))?
        {
            let reason = difference.reason(surroundings);
            told.difference = Some((difference, reason));
            told.others = others;
        }
        found.push(told);
    }
    for (name, a) in &one.facts {
        if let Some(b) = two.facts.get(name).filter(|b| *b != a) {
            let difference = mosbuild_rules::difference::field("value", a.clone(), b.clone());
            let reason = difference.reason(surroundings);
            found.push(Found { difference: Some((difference, reason)), ..unlike(format!("fact {name}")) });
        }
    }
    Ok(())
}

/// Equal sources give equal keys: somebody edited the workspace.
fn changed_meanwhile(loaded: &Loaded, step: &StepRun) -> Failure {
    let text = format!(
        "what {}:{} reads changed while it was verified, so the two builds cannot be compared",
        step.target, step.step
    );
    Failure::new(1, text)
        .help(format!("leave the files below {} as they are, and run it again", loaded.root.display()))
}
