//! The owners that a job with a root of its own gave to its files, though no file was ever given away.
//!
//! Knows inodes and descriptors. Each recorded file is held open, so that its inode number means that file for as long
//! as the record lives.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ExecError;

/// Owners by file: what [`super::Outcome::owners`] is. Files that are not in it belong to 0:0. Clones are one record,
/// which holds a descriptor for each of its files until the last is dropped.
#[derive(Clone, Default)]
pub struct Owners(Arc<HashMap<(u64, u64), Owned>>);

struct Owned {
    uid: u32,
    gid: u32,
    /// It had an owner when the job began.
    initial: bool,
    /// Keeps the inode from being used again.
    _file: OwnedFd,
}

impl Owners {
    /// User and group that the job gave to the file of which this is the metadata, or that it had from the beginning;
    /// none if it is 0:0 and was so when the job began. All names of a file have one owner.
    pub fn of(&self, meta: &Metadata) -> Option<(u32, u32)> {
        self.0.get(&(meta.dev(), meta.ino())).map(|owned| (owned.uid, owned.gid))
    }

    /// How many files have an owner other than 0:0, or had one from the beginning. Among them may be some that the job has removed.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every file belongs to 0:0.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Owners {
    fn eq(&self, other: &Self) -> bool {
        let same = |(file, owned): (_, &Owned)| {
            other.0.get(file).is_some_and(|o| (o.uid, o.gid) == (owned.uid, owned.gid))
        };
        self.0.len() == other.0.len() && self.0.iter().all(same)
    }
}

impl Eq for Owners {}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(file, owned)| (file, (owned.uid, owned.gid)))).finish()
    }
}

/// A record being made.
#[derive(Default)]
pub(super) struct Recorder {
    files: HashMap<(u64, u64), Owned>,
    /// How many may be held.
    bound: usize,
    /// The job has not begun.
    beginning: bool,
}

/// As chown takes it: leave this id as it is.
const UNCHANGED: u32 = u32::MAX;
/// More than any root file system has strangers; each is some hundred bytes of the kernel's.
const MOST: usize = 100_000;
/// Descriptors that the rest of the program may need.
const RESERVE: usize = 256;

impl Recorder {
    /// A record that begins with what is known of a root directory: paths in it, and their owners.
    pub fn new(root: &Path, owners: &[(PathBuf, u32, u32)]) -> Result<Self, ExecError> {
        let mut new = Self { beginning: true, ..Self::default() };
        if owners.is_empty() {
            new.beginning = false;
            return Ok(new);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed =
            |path: &Path, error| ExecError::io(format!("finding the owned file {}", path.display()), error);
        let dir = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| failed(root, error))?;
        for (path, uid, gid) in owners {
            let file = rustix::fs::openat2(&dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
            let file = file.map_err(|error| failed(path, error))?;
            let stat = rustix::fs::fstat(&file).map_err(|error| failed(path, error))?;
            new.set((stat.st_dev, stat.st_ino), file, *uid, *gid)?;
        }
        new.beginning = false;
        Ok(new)
    }

    /// Record an owner of the file that `file` holds, of this device and inode.
    pub fn set(&mut self, key: (u64, u64), file: OwnedFd, uid: u32, gid: u32) -> Result<(), ExecError> {
        let (old_uid, old_gid) = self.files.get(&key).map_or((0, 0), |owned| (owned.uid, owned.gid));
        let uid = if uid == UNCHANGED { old_uid } else { uid };
        let gid = if gid == UNCHANGED { old_gid } else { gid };
        // One that had an owner from the beginning is told to be root's now; of others nothing needs to be told.
        if (uid, gid) == (0, 0) && self.files.get(&key).is_none_or(|owned| !owned.initial) {
            self.files.remove(&key);
            return Ok(());
        }
        if let Some(owned) = self.files.get_mut(&key) {
            (owned.uid, owned.gid) = (uid, gid);
            return Ok(());
        }
        if self.files.len() >= self.bound {
            self.make_room()?;
        }
        self.files.insert(key, Owned { uid, gid, initial: self.beginning, _file: file });
        Ok(())
    }

    /// The owner that is recorded for a file.
    pub fn get(&self, key: (u64, u64)) -> Option<(u32, u32)> {
        self.files.get(&key).map(|owned| (owned.uid, owned.gid))
    }

    /// Whether every file belongs to 0:0.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn make_room(&mut self) -> Result<(), ExecError> {
        // Nothing is dropped to make room: a file without a name may still get one.
        let (held, bound) = (self.files.len(), (self.bound * 2).clamp(256, MOST));
        if bound <= held || !room_for(bound - held) {
            return Err(ExecError::Invalid(format!(
                "the command gave more than {held} files to other users than root, and no more can be recorded \
                 under this limit of open files: raise it, as with `ulimit -n {}`",
                (held + RESERVE) * 4,
            )));
        }
        self.bound = bound;
        Ok(())
    }

    pub fn finish(self) -> Owners {
        Owners(Arc::new(self.files))
    }
}

/// The limit of open files as this program found it, if it has raised it since.
static FOUND: OnceLock<Rlimit> = OnceLock::new();

/// What a job's command is to have as its limit of open files, where that is not what this program has now.
pub(super) fn limit_to_restore() -> Option<libc::rlimit> {
    let found = FOUND.get()?;
    let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    Some(libc::rlimit { rlim_cur: number(found.current), rlim_max: number(found.maximum) })
}

/// See to it that this many more files may be open, raising the soft limit if need be.
fn room_for(count: usize) -> bool {
    static RAISING: Mutex<()> = Mutex::new(());
    let _alone = RAISING.lock().unwrap_or_else(PoisonError::into_inner);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let wanted = (open + count + RESERVE) as u64;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|soft| soft >= wanted) {
        return true;
    }
    if now.maximum.is_some_and(|hard| hard < wanted) {
        return false;
    }
    FOUND.get_or_init(|| now);
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum }).is_ok()
}
