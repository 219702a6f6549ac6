//! Locks between processes: one build per workspace, one maker per key. Knows nothing of builds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, flock};

use crate::Digest;
use crate::store::{Store, StoreError, at};

/// Waits for a lock; a signal that somebody handles does not end the wait.
fn wait(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Held by the one process that builds in a workspace.
pub struct WorkspaceLock {
    _file: File,
}

impl WorkspaceLock {
    /// Waits for the lock of a `.mosbuild`; `on_wait` hears who holds it, before the wait.
    pub fn acquire(state: &Path, holder: &str, on_wait: impl FnOnce(&str)) -> io::Result<WorkspaceLock> {
        fs::create_dir_all(state)?;
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(state.join("lock"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            // The holder may be writing its name right now; then it stays unnamed.
            let _ = file.read_to_string(&mut text);
            on_wait(if text.trim().is_empty() { "another process" } else { text.trim() });
            wait(&file)?;
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "process {}: {holder}", std::process::id())?;
        Ok(WorkspaceLock { _file: file })
    }
}

/// Held by the one maker of a key's result, or of an unpacked tree.
pub struct KeyLock {
    _file: File,
    waited: bool,
}

impl KeyLock {
    /// Whether another held it meanwhile, and may have made the result.
    pub fn waited(&self) -> bool {
        self.waited
    }
}

impl Store {
    /// Waits for the lock of an action's key.
    pub fn lock_key(&self, key: &Digest) -> Result<KeyLock, StoreError> {
        self.lock_named("keys", key)
    }

    /// Waits for the lock of something that only one may make at a time.
    pub(crate) fn lock_named(&self, kind: &str, key: &Digest) -> Result<KeyLock, StoreError> {
        let (path, file, place) = self.place_of_lock(kind, key)?;
        if try_place(&path, &file, &place)? {
            return Ok(KeyLock { _file: file, waited: false });
        }
        loop {
            match fcntl(&file, FcntlArg::F_OFD_SETLKW(&place)) {
                Err(Errno::EINTR) => {}
                other => {
                    at(&path, other.map_err(io::Error::from))?;
                    return Ok(KeyLock { _file: file, waited: true });
                }
            }
        }
    }

    /// The lock of something that only one may make at a time, unless another has it: for whoever must be able to give
    /// up waiting. `kind` is the name of the file of these locks.
    pub fn try_lock(&self, kind: &str, key: &Digest) -> Result<Option<KeyLock>, StoreError> {
        let (path, file, place) = self.place_of_lock(kind, key)?;
        Ok(try_place(&path, &file, &place)?.then_some(KeyLock { _file: file, waited: false }))
    }

    /// One file holds the locks of a kind: each is one byte of it, at a place that the key gives. A file for each key
    /// would cost a short step more than all else, and one that is shared by several keys would make strangers wait
    /// for each other's long steps. The locks are those of the open file (`F_OFD_SETLK`, fcntl(2)), so that threads of
    /// one process exclude each other too.
    fn place_of_lock(&self, kind: &str, key: &Digest) -> Result<(PathBuf, File, libc::flock), StoreError> {
        let path = self.root().join("tmp/inflight").join(kind);
        let mut options = OpenOptions::new();
        let file = at(&path, options.write(true).create(true).truncate(false).open(&path))?;
        let head = key.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        let place = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            // Half of the largest offset there is, whatever the key.
            l_start: (head >> 2) as libc::off_t,
            l_len: 1,
            l_pid: 0,
        };
        Ok((path, file, place))
    }
}

/// Takes the lock if nobody has it.
fn try_place(path: &Path, file: &File, place: &libc::flock) -> Result<bool, StoreError> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(place)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(StoreError::Io { path: path.to_owned(), source: e.into() }),
    }
}
