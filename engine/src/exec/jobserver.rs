//! One GNU jobserver for everything that runs: steps take a token each, and make and cargo inside take the rest.
//!
//! Of the pipe style: GNU make 4.3 dies on the fifo style. Does not know who runs or why.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::output::high;

/// The number under which a command has the jobserver's read end.
pub const JOBSERVER_READ: RawFd = 3;
/// The number under which a command has the jobserver's write end.
pub const JOBSERVER_WRITE: RawFd = 4;

const TOKEN: u8 = b'+';

/// The slots of a build; clones are one pool. A running step holds one slot, which is the implicit token of the make
/// or cargo in it; the slots that no step holds lie as bytes in a pipe, from which make and cargo take more.
///
/// A killed step takes its extra tokens with it. They are put back when no slot is held, since nobody can hold a token
/// then; until that moment the build runs with fewer.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slots: usize,
    /// What children inherit. It must block: make takes EAGAIN for a failure.
    read: OwnedFd,
    write: OwnedFd,
    /// The same pipe opened once more, not blocking, for ourselves.
    own: OwnedFd,
    held: Mutex<usize>,
}

/// One slot, given back when dropped.
#[derive(Debug)]
pub struct Slot(Pool);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.0.held();
        *held -= 1;
        // It fails only if the pipe is full, and then no token is missing.
        let _ = self.0.put(1);
    }
}

impl Pool {
    /// A pool of this many slots, at least one.
    pub fn new(slots: usize) -> io::Result<Self> {
        // More would not fit into the pipe's default buffer.
        let slots = slots.clamp(1, 4096);
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (read, write) = (high(read)?, high(write)?);
        let again = format!("/proc/self/fd/{}", read.as_raw_fd());
        let own =
            rustix::fs::open(again, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let pool = Self(Arc::new(Inner { slots, read, write, own: high(own)?, held: Mutex::new(0) }));
        pool.put(slots)?;
        Ok(pool)
    }

    /// How many slots there are in all.
    pub fn slots(&self) -> usize {
        self.0.slots
    }

    /// Wait for a slot.
    pub fn acquire(&self) -> io::Result<Slot> {
        loop {
            if let Some(slot) = self.try_acquire()? {
                return Ok(slot);
            }
            // A token comes back from make and cargo without a word, so the pipe is what is waited on. With a bound:
            // the last slot may have been dropped with tokens lost.
            let mut fds = [PollFd::new(&self.0.own, PollFlags::IN)];
            let bound = rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            match poll(&mut fds, Some(&bound)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A slot if there is one now.
    pub fn try_acquire(&self) -> io::Result<Option<Slot>> {
        let mut held = self.held();
        if *held == 0 {
            self.restore()?;
        }
        if !self.take()? {
            return Ok(None);
        }
        *held += 1;
        Ok(Some(Slot(self.clone())))
    }

    /// Tokens in the pipe now.
    pub fn available(&self) -> io::Result<usize> {
        Ok(rustix::io::ioctl_fionread(&self.0.own)? as usize)
    }

    /// The pipe, for [`super::Job::jobserver`].
    pub fn fds(&self) -> (RawFd, RawFd) {
        (self.0.read.as_raw_fd(), self.0.write.as_raw_fd())
    }

    /// What a command needs in its environment to find the jobserver. The same for every pool and every number of
    /// slots. It must be in no key: how many run at once is not what they make.
    pub fn env() -> [(OsString, OsString); 2] {
        let auth = format!(" -j --jobserver-auth={JOBSERVER_READ},{JOBSERVER_WRITE}");
        // cargo before 1.7x reads only the old word, make only the new one.
        let both = format!("-j --jobserver-fds={JOBSERVER_READ},{JOBSERVER_WRITE}{}", &auth[3..]);
        [("MAKEFLAGS".into(), auth.into()), ("CARGO_MAKEFLAGS".into(), both.into())]
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, count: usize) -> io::Result<()> {
        let tokens = [TOKEN; 64];
        let mut left = count;
        while left > 0 {
            left -= rustix::io::write(&self.0.write, &tokens[..left.min(64)])?;
        }
        Ok(())
    }

    fn take(&self) -> io::Result<bool> {
        loop {
            match rustix::io::read(&self.0.own, &mut [0u8; 1]) {
                Ok(count) => return Ok(count == 1),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// With nobody holding a token: make their number right, whatever killed or misbehaving steps did to it.
    fn restore(&self) -> io::Result<()> {
        let there = self.available()?;
        for _ in self.0.slots..there {
            self.take()?;
        }
        self.put(self.0.slots.saturating_sub(there))
    }
}
