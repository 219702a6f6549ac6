//! Locks between processes: one build per workspace, one maker per key. Knows nothing of builds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

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
        self.lock_named("key", key)
    }

    /// Waits for the lock of something that only one may make at a time.
    ///
    /// The files are a fixed 4096 of each kind, never removed: a file made and removed for each step costs ext4 a
    /// search past every inode freed in the last seconds (`recently_deleted`), which was most of a short step's time.
    /// Two keys that share a file only wait for each other, which does not matter: whoever holds one waits for no
    /// other of its kind.
    pub(crate) fn lock_named(&self, kind: &str, key: &Digest) -> Result<KeyLock, StoreError> {
        let name = format!("{kind}-{:02x}{:x}", key.0[0], key.0[1] >> 4);
        let path = self.root().join("tmp/inflight").join(name);
        let mut options = OpenOptions::new();
        let file = at(&path, options.write(true).create(true).truncate(false).open(&path))?;
        let waited = flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        if waited {
            at(&path, wait(&file))?;
        }
        Ok(KeyLock { _file: file, waited })
    }
}
