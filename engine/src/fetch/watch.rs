//! Who hears of a download's progress, and may stop it. Knows no display.

use std::sync::atomic::{AtomicBool, Ordering};

/// Hears of downloads; several threads call it at once.
pub trait Watch: Sync {
    /// `done` bytes of `total` (if that is known) have come, those of an earlier try among them; fewer
    /// than before where a download starts anew. Called up to twenty times a second for each download.
    fn progress(&self, _url: &str, _done: u64, _total: Option<u64>) {}
    /// Something that a person may want to know: a try that failed, the next place.
    fn say(&self, _line: &str) {}
    /// Whether to stop; asked at least every tenth of a second.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Hears nothing and stops nothing.
pub struct Unwatched;

impl Watch for Unwatched {}

/// Several downloads that stop together once one has failed.
pub(super) struct Together<'a> {
    pub watch: &'a dyn Watch,
    pub failed: AtomicBool,
}

impl Watch for Together<'_> {
    fn progress(&self, url: &str, done: u64, total: Option<u64>) {
        self.watch.progress(url, done, total);
    }
    fn say(&self, line: &str) {
        self.watch.say(line);
    }
    fn cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.watch.cancelled()
    }
}
