//! The display where nothing can be redrawn: lines on stderr, in the order in which things happen.

use std::io::Write;
use std::sync::Mutex;

use mosbuild_engine::events::{Event, Sink};

use super::Narrator;

/// Writes what the narrator tells.
pub struct Plain(Mutex<Narrator>);

impl Plain {
    /// To stderr.
    pub fn new(narrator: Narrator) -> Plain {
        Plain(Mutex::new(narrator))
    }
}

impl Sink for Plain {
    fn event(&self, event: &Event) {
        // A thread that panicked elsewhere is no reason to fall silent.
        let mut narrator = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(mut text) = narrator.tell(event) {
            text.push('\n');
            // Written under the lock, so that lines come in the order of events.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}
