//! The subscribers of a build as one: the file of events, then the display, so that what is wrong with the file is
//! said before the summary. Keeps count, so that a build that breaks off is summed up too. Draws nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mosbuild_engine::events::{Event, Outcome, Sink};

use super::JsonLines;
use crate::interrupt;

/// What a build is told to.
pub struct Watched {
    events: Option<Arc<JsonLines>>,
    display: Arc<dyn Sink>,
    started: OnceLock<Instant>,
    over: AtomicBool,
    /// Targets that ended. One whose blob was lost counts twice; a build that is not broken off does not ask.
    built: AtomicUsize,
    cached: AtomicUsize,
    failed: AtomicUsize,
}

impl Watched {
    /// For this file of events, if any, and this display.
    pub fn new(events: Option<Arc<JsonLines>>, display: Arc<dyn Sink>) -> Watched {
        Watched {
            events,
            display,
            started: OnceLock::new(),
            over: AtomicBool::new(false),
            built: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
        }
    }

    /// Whether the build began and gave no summary.
    pub fn broken_off(&self) -> bool {
        self.started.get().is_some() && !self.over.load(Ordering::SeqCst)
    }

    /// The summary of a build that broke off: of what had ended by then, and one failure at least.
    pub fn sum_up(&self) {
        self.event(&Event::RunFinished {
            built: self.built.load(Ordering::SeqCst),
            cached: self.cached.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst).max(1),
            millis: self.started.get().map_or(0, |at| at.elapsed().as_millis() as u64),
        });
    }
}

impl Sink for Watched {
    fn event(&self, event: &Event) {
        match event {
            Event::RunStarted { .. } => {
                self.started.get_or_init(Instant::now);
            }
            Event::StepStarted { .. } | Event::LockStarted { .. } => interrupt::hand_over(),
            Event::TargetFinished { outcome, .. } => {
                let counter = match outcome {
                    Outcome::Ran => Some(&self.built),
                    Outcome::Hit => Some(&self.cached),
                    Outcome::Failed => Some(&self.failed),
                    Outcome::Skipped | Outcome::Cancelled => None,
                };
                if let Some(counter) = counter {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
            Event::RunFinished { .. } => self.over.store(true, Ordering::SeqCst),
            _ => {}
        }
        if let Some(events) = &self.events {
            events.event(event);
            if matches!(event, Event::RunFinished { .. })
                && let Some(message) = events.finish()
            {
                self.display.event(&Event::Warning { message });
            }
        }
        self.display.event(event);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Event>>);

    impl Sink for Seen {
        fn event(&self, event: &Event) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn what_breaks_off_is_summed_up() {
        let seen = Arc::new(Seen::default());
        let watched = Watched::new(None, seen.clone());
        assert!(!watched.broken_off(), "it has not begun");
        watched.event(&Event::RunStarted { schema: "x", run: "r".into(), targets: 3, steps: 3 });
        for (target, outcome) in [("a", Outcome::Hit), ("b", Outcome::Ran)] {
            watched.event(&Event::TargetFinished {
                target: target.into(),
                outcome,
                millis: 1,
                same_output: false,
            });
        }
        assert!(watched.broken_off());
        watched.sum_up();
        assert!(!watched.broken_off());
        let last = seen.0.lock().unwrap().pop().unwrap();
        assert!(matches!(last, Event::RunFinished { built: 1, cached: 1, failed: 1, .. }), "{last:?}");
    }
}
