//! A flag that stops running steps at once: it is also a descriptor, so a sleeping `poll` wakes.
//!
//! Does not know who sets it or what is stopped.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Cheap to clone; all clones are one flag, which is never taken back.
#[derive(Debug, Clone)]
pub struct CancelToken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: AtomicBool,
    event: OwnedFd,
}

impl CancelToken {
    /// A flag that is not set.
    pub fn new() -> std::io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { set: AtomicBool::new(false), event })))
    }

    /// Set the flag. Async-signal-safe.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        // Nobody reads the counter, so it stays readable for every poll; a full counter is readable as well.
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// The descriptor that a signal handler may write eight bytes to, and a poll may wait on.
    pub fn raw_fd(&self) -> i32 {
        self.0.event.as_raw_fd()
    }
}

impl AsFd for CancelToken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
