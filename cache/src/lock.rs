//! Locks between processes: one build per workspace, one maker per key. Knows nothing of builds.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

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
    path: PathBuf,
    waited: bool,
}

impl KeyLock {
    /// Whether another held it meanwhile, and may have made the result.
    pub fn waited(&self) -> bool {
        self.waited
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // Removed while it is held: whoever waits for it finds that its name is gone, and begins again.
        let _ = fs::remove_file(&self.path);
    }
}

impl Store {
    /// Waits for the lock of an action's key.
    pub fn lock_key(&self, key: &Digest) -> Result<KeyLock, StoreError> {
        self.lock_named(&format!("key-{}", key.hex()))
    }

    /// Waits for the lock of something that only one may make at a time.
    pub(crate) fn lock_named(&self, name: &str) -> Result<KeyLock, StoreError> {
        let path = self.root().join("tmp/inflight").join(name);
        let mut waited = false;
        loop {
            let mut options = OpenOptions::new();
            let file = at(&path, options.write(true).create(true).truncate(false).open(&path))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                waited = true;
                at(&path, wait(&file))?;
            }
            if crate::scratch::named(&path, &file) {
                return Ok(KeyLock { _file: file, path, waited });
            }
        }
    }
}
