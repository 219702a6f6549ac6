//! Scratch folders, each for one step, and what small ones leave for the next step: emptied folders and files to be
//! written over. Making and removing inodes is most of what a short step costs. Knows no step.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;
use crate::placing::{Place, create, set_mtime};
use crate::scratch_root::remove;
use crate::store::{BlobError, Store, StoreError, at};

/// A folder with more entries than this is removed rather than emptied for the next step.
const ENTRIES: usize = 64;
/// So is one with a longer file: its blocks are to be free again.
const FILE: u64 = 64 << 10;

/// Folders that wait for their next use.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<(PathBuf, Left)>>);

impl Pool {
    fn with<T>(&self, take: impl FnOnce(&mut Vec<(PathBuf, Left)>) -> T) -> T {
        take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an earlier step left in a folder and nobody has asked for yet.
#[derive(Default)]
struct Left {
    dirs: BTreeSet<PathBuf>,
    /// Private files with nothing hidden on them, of any content.
    files: BTreeSet<PathBuf>,
}

/// A scratch folder, removed when it is dropped, or recycled.
pub struct Scratch {
    path: PathBuf,
    store: Store,
    left: Left,
    /// Folders that were asked for.
    made: BTreeSet<PathBuf>,
    recycled: bool,
}

impl Store {
    /// An empty scratch folder on the store's file system.
    ///
    /// It may be one that another step left: what is made in it by [`Scratch::dir`] and the other methods comes from
    /// there, and after [`Scratch::settle`] it holds nothing else.
    pub fn scratch(&self, prefix: &str) -> Result<Scratch, StoreError> {
        let root = self.scratch_root()?;
        let (path, left) = match root.pool.with(Vec::pop) {
            Some(waiting) => waiting,
            None => {
                let path = root.fresh(prefix);
                at(&path, fs::create_dir(&path))?;
                (path, Left::default())
            }
        };
        Ok(Scratch { path, store: self.clone(), left, made: BTreeSet::new(), recycled: false })
    }
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a folder below this one; one that is there already is fine.
    pub fn dir(&mut self, to: &Path) -> io::Result<()> {
        if !self.left.dirs.remove(to) && !self.made.contains(to) {
            self.left.clear(to)?;
            fs::create_dir(to)?;
            // Whatever the umask.
            fs::set_permissions(to, Permissions::from_mode(0o755))?;
        }
        self.made.insert(to.to_owned());
        Ok(())
    }

    /// Makes a symlink below this folder.
    pub fn symlink(&mut self, target: &OsStr, to: &Path) -> io::Result<()> {
        self.left.clear(to)?;
        std::os::unix::fs::symlink(target, to)?;
        set_mtime(to)
    }

    /// [`Store::place_blob`], below this folder.
    pub fn place_blob(&mut self, digest: &Digest, executable: bool, to: &Path) -> Result<(), BlobError> {
        let mode = if executable { 0o755 } else { 0o644 };
        self.store.copy_blob(digest, mode, to, &mut |to| self.left.file(to))
    }

    /// [`Store::place_source`], below this folder.
    pub fn place_source(
        &mut self,
        from: &Path,
        to: &Path,
        expected: Digest,
        executable: bool,
    ) -> Result<Place, StoreError> {
        self.store.copy_source(from, to, expected, executable, &mut |to| self.left.file(to))
    }

    /// Removes what an earlier step left and nobody asked for, and gives the folders that were asked for
    /// [`MTIME`](crate::MTIME).
    pub fn settle(&mut self) -> Result<(), StoreError> {
        while let Some(path) = self.left.files.pop_last() {
            at(&path, fs::remove_file(&path))?;
        }
        while let Some(path) = self.left.dirs.pop_last() {
            at(&path, fs::remove_dir(&path))?;
        }
        for path in self.made.iter().rev() {
            at(path, set_mtime(path))?;
        }
        Ok(())
    }

    /// Empties a small folder for the next step; another is removed. Nobody may use it any more.
    pub fn recycle(mut self) {
        let mut left = Left::default();
        let mut budget = ENTRIES;
        let path = self.path.clone();
        let owner = fs::symlink_metadata(&path).map(|m| (m.uid(), m.gid()));
        if let Ok(owner) = owner
            && let Ok(true) = left.take(&path, owner, &mut budget)
            && let Ok(root) = self.store.scratch_root()
        {
            self.recycled = true;
            root.pool.with(|pool| pool.push((path, left)));
        }
    }
}

impl Left {
    /// Looks through a folder and removes what could reach the next step. False if it is not worth it.
    fn take(&mut self, dir: &Path, owner: (u32, u32), budget: &mut usize) -> io::Result<bool> {
        let names: Vec<_> = fs::read_dir(dir)?.take(*budget + 1).collect::<io::Result<_>>()?;
        if names.len() > *budget {
            return Ok(false);
        }
        *budget -= names.len();
        for entry in names {
            let path = entry.path();
            let meta = entry.metadata()?;
            let ours = (meta.uid(), meta.gid()) == owner && !has_attributes(&path);
            if meta.is_dir() {
                if !ours || !self.take(&path, owner, budget)? {
                    return Ok(false);
                }
                if meta.mode() & 0o7777 != 0o755 {
                    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
                }
                self.dirs.insert(path);
            } else if ours && meta.is_file() && meta.nlink() == 1 && meta.len() <= FILE {
                self.files.insert(path);
            } else {
                // Another name of the file may be a blob's.
                fs::remove_file(&path)?;
            }
        }
        Ok(true)
    }

    /// A file that is there to be written over, or a new one. Its old length is cut after the writing: a file that was
    /// cut to nothing is written to disk by ext4 as soon as it is closed (`auto_da_alloc`).
    fn file(&mut self, to: &Path) -> io::Result<File> {
        use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
        let mut found = self.files.remove(to);
        if !found {
            self.clear(to)?;
            if let Some(other) = self.files.pop_last() {
                // What has that name already stays, and `create` refuses.
                found = renameat_with(CWD, &other, CWD, to, RenameFlags::NOREPLACE).is_ok();
                if !found {
                    fs::remove_file(other)?;
                }
            }
        }
        if !found {
            return create(to);
        }
        let open = || {
            let no_follow = OFlags::NOFOLLOW.bits() as i32;
            OpenOptions::new().write(true).custom_flags(no_follow).open(to)
        };
        match open() {
            // The step took away the right to write.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(to, Permissions::from_mode(0o600))?;
                open()
            }
            other => other,
        }
    }

    /// Removes what an earlier step left where something else is to be.
    fn clear(&mut self, to: &Path) -> io::Result<()> {
        if self.files.remove(to) {
            return fs::remove_file(to);
        }
        if !self.dirs.contains(to) {
            return Ok(());
        }
        for path in self.files.iter().filter(|p| p.starts_with(to)) {
            fs::remove_file(path)?;
        }
        self.files.retain(|p| !p.starts_with(to));
        for path in self.dirs.iter().rev().filter(|p| p.starts_with(to)) {
            fs::remove_dir(path)?;
        }
        self.dirs.retain(|p| !p.starts_with(to));
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.recycled {
            remove(&self.path);
        }
    }
}

/// Whether a step set extended attributes or an access list; the system's own labels do not count.
fn has_attributes(path: &Path) -> bool {
    let mut names = [0; 1024];
    match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => {
            names[..length].split(|b| *b == 0).any(|name| !name.is_empty() && !name.starts_with(b"security."))
        }
        Err(rustix::io::Errno::NOTSUP) => false,
        Err(_) => true,
    }
}
