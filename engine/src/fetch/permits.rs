//! How many downloads there may be at once. Knows nothing of them.

use std::sync::{Condvar, Mutex, PoisonError};

use super::http::TICK;
use super::watch::Watch;

/// A number of permits that threads share.
pub(super) struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// Given back when it is dropped.
pub(super) struct Permit<'a>(&'a Permits);

impl Permits {
    /// At least one.
    pub fn new(permits: usize) -> Permits {
        Permits { free: Mutex::new(permits.max(1)), returned: Condvar::new() }
    }

    /// Waits for a permit; `None`: cancelled.
    pub fn take(&self, watch: &dyn Watch) -> Option<Permit<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if watch.cancelled() {
                return None;
            }
            if *free > 0 {
                *free -= 1;
                return Some(Permit(self));
            }
            free = self.returned.wait_timeout(free, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}
