//! The subscribers of a build as one: the file of events, then the display, so that what is wrong with the file is
//! said before the summary. Keeps count, so that a build that breaks off is summed up too. Draws nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mosbuild_engine::events::{Event, Outcome, Sink};

use super::JsonLines;
use crate::interrupt;

/// What a build is told to.
pub struct Watched {
    events: Option<Arc<JsonLines>>,
    display: Arc<dyn Sink>,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    started: Option<Instant>,
    over: bool,
    ended: HashMap<String, Outcome>,
}

impl Watched {
    /// For this file of events, if any, and this display.
    pub fn new(events: Option<Arc<JsonLines>>, display: Arc<dyn Sink>) -> Watched {
        Watched { events, display, tally: Mutex::default() }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the build began and gave no summary.
    pub fn broken_off(&self) -> bool {
        let tally = self.tally();
        tally.started.is_some() && !tally.over
    }

    /// The summary of a build that broke off: of what had ended by then, and one failure at least.
    pub fn sum_up(&self) {
        let event = {
            let tally = self.tally();
            let count = |outcome| tally.ended.values().filter(|o| **o == outcome).count();
            Event::RunFinished {
                built: count(Outcome::Ran),
                cached: count(Outcome::Hit),
                failed: count(Outcome::Failed).max(1),
                millis: tally.started.map_or(0, |at| at.elapsed().as_millis() as u64),
            }
        };
        self.event(&event);
    }
}

impl Sink for Watched {
    fn event(&self, event: &Event) {
        match event {
            Event::RunStarted { .. } => self.tally().started = Some(Instant::now()),
            Event::StepStarted { .. } => interrupt::hand_over(),
            Event::TargetFinished { target, outcome, .. } => {
                self.tally().ended.insert(target.clone(), *outcome);
            }
            Event::RunFinished { .. } => self.tally().over = true,
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
        for (target, outcome) in [("a", Outcome::Hit), ("b", Outcome::Ran), ("b", Outcome::Ran)] {
            watched.event(&Event::TargetFinished { target: target.into(), outcome, millis: 1 });
        }
        assert!(watched.broken_off());
        watched.sum_up();
        assert!(!watched.broken_off());
        let last = seen.0.lock().unwrap().pop().unwrap();
        assert!(matches!(last, Event::RunFinished { built: 1, cached: 1, failed: 1, .. }), "{last:?}");
    }
}
