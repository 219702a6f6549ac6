//! The folder below the store in which one process makes everything that is not finished; the next process removes it
//! after a kill. Knows nothing of what lies in it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};

use crate::scratch::Pool;
use crate::store::{StoreError, at};

/// The scratch folder of this process; the lock tells others that it is in use.
pub(crate) struct ScratchRoot {
    dir: PathBuf,
    counter: AtomicU64,
    /// Emptied folders and files that wait for their next use.
    pub pool: Pool,
    _lock: File,
}

impl ScratchRoot {
    /// Makes this process's folder and removes those whose processes are gone.
    pub fn open(tmp: &Path) -> Result<ScratchRoot, StoreError> {
        sweep(tmp);
        for n in 0.. {
            let dir = tmp.join(format!("{}-{n}", std::process::id()));
            // The lock lies beside the folder and is taken first: a folder is never seen without it.
            let lock_path = dir.with_extension("lock");
            let lock = at(&lock_path, File::create(&lock_path))?;
            // A sweeper may have had it first, and have removed its name.
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || !named(&lock_path, &lock) {
                continue;
            }
            match fs::create_dir(&dir) {
                Ok(()) => {
                    return Ok(ScratchRoot {
                        dir,
                        counter: AtomicU64::new(0),
                        pool: Pool::default(),
                        _lock: lock,
                    });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(StoreError::Io { path: dir, source }),
            }
        }
        Err(StoreError::Refused { path: tmp.to_owned(), what: "no scratch folder could be made".into() })
    }

    /// A path that nothing has yet.
    pub fn fresh(&self, prefix: &str) -> PathBuf {
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!("{prefix}{n}"))
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        remove(&self.dir);
        if !self.dir.exists() {
            let _ = fs::remove_file(self.dir.with_extension("lock"));
        }
    }
}

/// Removes the folders whose lock nobody holds.
fn sweep(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let lock_path = entry.path();
        if lock_path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let Ok(lock) = File::open(&lock_path) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && named(&lock_path, &lock) {
            remove(&lock_path.with_extension(""));
            // Without its lock file a folder that resisted would never be found again.
            if !lock_path.with_extension("").exists() {
                let _ = fs::remove_file(&lock_path);
            }
        }
    }
}

/// Whether the name still leads to the open file.
pub(crate) fn named(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

/// What resists is swept by a later process.
pub(crate) fn remove(dir: &Path) {
    let _ = crate::remove::remove_tree(dir);
}
