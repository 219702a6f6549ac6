//! What happens in a build, as one enum; the display, the log, `--events` and the run record subscribe to it.
//! Knows no terminal.

use serde::Serialize;

/// Version of the events' JSON form, in every `run_started`.
pub const EVENTS_SCHEMA: &str = "mosbuild.events/1";

/// How a step or target came to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ran and succeeded.
    Ran,
    /// Its result came from the cache.
    Hit,
    /// It ran and failed.
    Failed,
    /// It was not tried, because of what it depends on.
    Skipped,
    /// It was stopped by an interrupt.
    Cancelled,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First event.
    RunStarted {
        /// [`EVENTS_SCHEMA`].
        schema: &'static str,
        /// Id of the run.
        run: String,
        /// Targets in the closure, groups left out.
        targets: usize,
        /// Steps in the closure.
        steps: usize,
    },
    /// A source's pin is being found, since mosbuild.lock does not have it, or it is to be updated.
    LockStarted {
        /// Target.
        target: String,
        /// The step that brings the source in.
        step: String,
        /// The source.
        id: String,
    },
    /// A source was added to mosbuild.lock, or its pin changed.
    Locked {
        /// The source.
        id: String,
    },
    /// A source's pin was found.
    LockFinished {
        /// Target.
        target: String,
        /// The step that brings the source in.
        step: String,
        /// Wall time in milliseconds.
        millis: u64,
    },
    /// A download goes on.
    Download {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// What is downloaded, as the workspace names it.
        url: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where the server says so.
        total: Option<u64>,
    },
    /// An image that containers are made of is loaded or pulled.
    Image {
        /// As the configuration names it.
        image: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where they are known.
        total: Option<u64>,
    },
    /// A step's key was found: a hit (nothing runs) or not.
    StepHit {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// Key, hex.
        key: String,
    },
    /// A step starts to run.
    StepStarted {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// Key, hex.
        key: String,
        /// Why it runs, one line.
        why: String,
    },
    /// A line of output of a running step.
    StepOutput {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// The line, without its end.
        line: String,
    },
    /// A builtin did a piece of its work that has a result of its own: one file stripped, say. Nothing is told of
    /// those whose result was known.
    ItemFinished {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// What was done: `strip`.
        work: &'static str,
        /// What it was done to: a path in the image. Of several files of equal content the first.
        item: String,
        /// Key, hex.
        key: String,
        /// Wall time in milliseconds.
        millis: u64,
    },
    /// A step ended.
    StepFinished {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// How.
        outcome: Outcome,
        /// Wall time in milliseconds.
        millis: u64,
        /// Whether its outputs equal those of its last result (cut off).
        same_output: bool,
    },
    /// A target is complete.
    TargetFinished {
        /// Target.
        target: String,
        /// How: `ran` if any of its steps ran.
        outcome: Outcome,
        /// Milliseconds its steps took.
        millis: u64,
        /// Whether its outputs are what they were the last time, whatever its inner steps made.
        same_output: bool,
    },
    /// A step failed: everything a person needs.
    Failure {
        /// Target.
        target: String,
        /// Step.
        step: String,
        /// What went wrong.
        message: String,
        /// Last lines of its output.
        tail: Vec<String>,
        /// File that holds the whole output.
        log: Option<String>,
        /// What to do.
        help: Vec<String>,
        /// Source line of the target in mosbuild.yaml.
        line: Option<usize>,
    },
    /// A target was skipped because another failed.
    SkippedBecause {
        /// Target.
        target: String,
        /// The failed one.
        failed: String,
    },
    /// Something worth saying that is no failure.
    Warning {
        /// The text.
        message: String,
    },
    /// Something that was built could not be placed in dist/.
    PlaceFailed {
        /// Why.
        message: String,
    },
    /// A file was placed in dist/.
    Placed {
        /// Its path, as shown to people.
        path: String,
        /// Bytes.
        size: u64,
    },
    /// Last event.
    RunFinished {
        /// Targets built.
        built: usize,
        /// Targets that came from the cache.
        cached: usize,
        /// Targets that failed; those skipped because of them are in none of the numbers.
        failed: usize,
        /// Wall time in milliseconds.
        millis: u64,
    },
}

/// A subscriber. Called from several threads.
pub trait Sink: Send + Sync {
    /// Takes an event.
    fn event(&self, event: &Event);
}

/// Passes every event to several subscribers, in order.
pub struct Fan(pub Vec<std::sync::Arc<dyn Sink>>);

impl Sink for Fan {
    fn event(&self, event: &Event) {
        for sink in &self.0 {
            sink.event(event);
        }
    }
}
