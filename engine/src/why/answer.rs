//! The answer to `why`, also as JSON. Knows neither where it comes from nor how it is drawn.

use serde::Serialize;

use super::Cause;

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

/// A target that was built from a working copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overridden {
    /// The target.
    pub target: String,
    /// The folder as it was given.
    pub by: String,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The asked target.
    pub target: String,
    /// Name of the file that the causes' lines are of.
    pub file: String,
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
    /// For a failed or skipped target: what was said. For one that waits: what keeps another from being built here.
    pub message: Option<String>,
    /// Working copies that went into it in place of sources.
    pub overrides: Vec<Overridden>,
}
