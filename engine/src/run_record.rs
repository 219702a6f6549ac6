//! Run records: what each run decided for each step, and the action records behind the decisions.
//! Files below `.mosbuild/runs/ID/`; the truth for `why`, `runs`, `log` and `show`. Explains nothing itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use mosbuild_cache::Digest;
use serde::{Deserialize, Serialize};

use crate::events::Outcome;
use crate::framed;
use crate::load::Override;

const VERSION: u32 = 1;
/// How many runs are kept beside those whose records are still referred to.
const KEEP: usize = 50;

/// Why a step's result could not be reused, or that it could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The result of the same key was reused.
    Hit,
    /// `--force`.
    Forced,
    /// `--no-cache`.
    NoCache,
    /// The key differs from the baseline's.
    KeyChanged,
    /// No earlier key is known in this workspace.
    New,
    /// The key is the same, but its last attempt failed.
    FailedBefore,
    /// The key is the same, but its result is gone from the store.
    ResultGone,
    /// The result is there, but a blob of its output is not.
    BlobLost {
        /// The blob.
        digest: Digest,
        /// Output that needed it.
        output: String,
        /// Damaged (and quarantined), rather than missing.
        corrupt: bool,
    },
    /// Skipped or cancelled before it was keyed.
    NotReached,
    /// Its source is to be found first, since mosbuild.lock does not have it as it is asked for. In predictions only.
    Unlocked,
}

/// One step in one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRun {
    /// Target's name.
    pub target: String,
    /// Step's name.
    pub step: String,
    /// Its key, if it was reached.
    pub key: Option<Digest>,
    /// What became of it.
    pub outcome: OutcomeCode,
    /// Why.
    pub reason: Reason,
    /// Key of the record that it is compared with.
    pub baseline: Option<Digest>,
    /// Wall milliseconds of its execution; of its last execution for a hit.
    pub millis: u64,
    /// Outputs equal those of the baseline.
    pub same_output: bool,
    /// Input name → (target, step) that made it, for inputs that come from steps.
    pub origins: BTreeMap<String, (String, String)>,
    /// Output name → digest, size.
    pub outputs: BTreeMap<String, (Digest, u64)>,
    /// The output of the step: a blob.
    pub log: Option<Digest>,
    /// The whole log of a failure.
    pub log_file: Option<PathBuf>,
    /// The run that made the result.
    pub made_by: String,
    /// Whether it ran in a sandbox.
    pub sandboxed: bool,
    /// For a failure or skip: what was said.
    pub message: Option<String>,
}

/// [`Outcome`] as kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeCode {
    /// See [`Outcome::Ran`].
    Ran,
    /// See [`Outcome::Hit`].
    Hit,
    /// See [`Outcome::Failed`].
    Failed,
    /// See [`Outcome::Skipped`].
    Skipped,
    /// See [`Outcome::Cancelled`].
    Cancelled,
}

impl From<OutcomeCode> for Outcome {
    fn from(code: OutcomeCode) -> Outcome {
        match code {
            OutcomeCode::Ran => Outcome::Ran,
            OutcomeCode::Hit => Outcome::Hit,
            OutcomeCode::Failed => Outcome::Failed,
            OutcomeCode::Skipped => Outcome::Skipped,
            OutcomeCode::Cancelled => Outcome::Cancelled,
        }
    }
}

/// The head of a run: small, read by `runs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunHead {
    /// Sortable id: UTC time and process.
    pub id: String,
    /// Start, seconds since 1970.
    pub started: u64,
    /// The command line.
    pub args: Vec<String>,
    /// Profile, if any.
    pub profile: Option<String>,
    /// Requested targets.
    pub requested: Vec<String>,
    /// Targets of the closure, groups left out.
    pub targets: Vec<String>,
    /// Targets built.
    pub built: usize,
    /// Targets from the cache.
    pub cached: usize,
    /// Targets failed or skipped.
    pub failed: usize,
    /// Wall milliseconds.
    pub millis: u64,
    /// Exit code.
    pub exit: u8,
    /// Nothing had changed since this run: its steps and records stand for this run's, all as hits.
    pub same_as: Option<String>,
    /// Targets of the closure that were built from working copies; in a file of their own, which few runs have.
    #[serde(skip)]
    pub overrides: Vec<Override>,
}

/// A new run's id; `.mosbuild/runs/ID`.
pub fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (y, m, d) = civil(now.as_secs() / 86_400);
    let s = now.as_secs() % 86_400;
    format!(
        "{y:04}{m:02}{d:02}-{:02}{:02}{:02}-{:03}-{}",
        s / 3600,
        s / 60 % 60,
        s % 60,
        now.subsec_millis(),
        std::process::id()
    )
}

/// Days since 1970 as year, month, day (Howard Hinnant's `civil_from_days`).
pub fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// The runs of a workspace.
pub struct Runs {
    dir: PathBuf,
}

impl Runs {
    /// Those below this `.mosbuild`.
    pub fn of(state: &Path) -> Runs {
        Runs { dir: state.join("runs") }
    }

    /// Directory of a run.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// Writes a finished run.
    pub fn write(
        &self,
        head: &RunHead,
        steps: impl ExactSizeIterator<Item = StepRun>,
        records: &BTreeMap<Digest, Vec<u8>>,
    ) -> std::io::Result<()> {
        let dir = self.dir(&head.id);
        std::fs::create_dir_all(&dir)?;
        if head.same_as.is_none() {
            framed::write(&dir.join("records"), &framed::encode(b"mrec", VERSION, records))?;
            framed::write(&dir.join("steps"), &framed::encode_all(b"mstp", VERSION, steps))?;
        }
        if !head.overrides.is_empty() {
            let overrides = framed::encode(b"movr", VERSION, &head.overrides);
            framed::write(&dir.join("overrides"), &overrides)?;
        }
        framed::write(&dir.join("head"), &framed::encode(b"mrun", VERSION, head))
    }

    /// Ids, oldest first.
    pub fn ids(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut ids: Vec<String> = entries
            .filter(|e| e.path().join("head").exists())
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        ids.sort_unstable();
        ids
    }

    /// The head of a run.
    pub fn head(&self, id: &str) -> Option<RunHead> {
        let dir = self.dir(id);
        let mut head: RunHead = framed::decode(b"mrun", VERSION, &std::fs::read(dir.join("head")).ok()?)?;
        if let Ok(bytes) = std::fs::read(dir.join("overrides")) {
            head.overrides = framed::decode(b"movr", VERSION, &bytes).unwrap_or_default();
        }
        Some(head)
    }

    /// The steps of a run; those of the run it equals, as hits, if nothing had changed.
    pub fn steps(&self, head: &RunHead) -> Option<Vec<StepRun>> {
        let id = head.same_as.as_deref().unwrap_or(&head.id);
        let mut steps: Vec<StepRun> =
            framed::decode(b"mstp", VERSION, &std::fs::read(self.dir(id).join("steps")).ok()?)?;
        if head.same_as.is_some() {
            for step in &mut steps {
                step.outcome = OutcomeCode::Hit;
                step.reason = Reason::Hit;
                step.baseline = step.key;
                step.same_output = true;
            }
        }
        Some(steps)
    }

    /// The action records that a run wrote: those of keys that no earlier run of the workspace had last.
    pub fn records(&self, id: &str) -> BTreeMap<Digest, Vec<u8>> {
        let file = std::fs::read(self.dir(id).join("records")).unwrap_or_default();
        framed::decode(b"mrec", VERSION, &file).unwrap_or_default()
    }

    /// Removes old runs, but those in `referred` and those that a kept one equals.
    pub fn prune(&self, referred: &std::collections::BTreeSet<&str>) {
        let ids = self.ids();
        let old = ids.len().saturating_sub(KEEP);
        if old == 0 {
            return;
        }
        let kept: std::collections::BTreeSet<String> =
            ids[old..].iter().filter_map(|id| self.head(id)?.same_as).collect();
        for id in ids[..old].iter().filter(|id| !referred.contains(id.as_str()) && !kept.contains(*id)) {
            // A run that cannot be removed is only kept longer.
            let _ = std::fs::remove_dir_all(self.dir(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(20_089), (2025, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
    }

    #[test]
    fn a_run_that_equals_another_reads_as_its_hits() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::of(dir.path());
        let step = StepRun {
            target: "t".into(),
            step: "run".into(),
            key: Some(Digest::of(b"k")),
            outcome: OutcomeCode::Ran,
            reason: Reason::New,
            baseline: None,
            millis: 5,
            same_output: false,
            origins: BTreeMap::new(),
            outputs: BTreeMap::new(),
            log: None,
            log_file: None,
            made_by: "1".into(),
            sandboxed: true,
            message: None,
        };
        let mut record = crate::record::ActionRecord::default();
        record.text(crate::record::Part::Rule, "command");
        let head = RunHead { id: "1".into(), ..RunHead::default() };
        runs.write(&head, [step].into_iter(), &[(record.key(), record.encode())].into()).unwrap();
        let copy = Override { target: "t".into(), given: "../t".into(), path: "/w/t".into() };
        let same = RunHead {
            id: "2".into(),
            same_as: Some("1".into()),
            overrides: vec![copy],
            ..RunHead::default()
        };
        runs.write(&same, [].into_iter(), &BTreeMap::new()).unwrap();
        assert_eq!(runs.ids(), ["1", "2"]);
        let steps = runs.steps(&runs.head("2").unwrap()).unwrap();
        assert_eq!((steps[0].outcome, steps[0].baseline), (OutcomeCode::Hit, steps[0].key));
        assert_eq!(runs.head("2").unwrap().overrides, same.overrides);
        assert!(runs.head("1").unwrap().overrides.is_empty());
        assert_eq!(runs.records("1").get(&record.key()), Some(&record.encode()));
    }
}
