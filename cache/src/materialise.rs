//! From a tree to a directory on disk, and large trees kept unpacked for mounting. Knows no step.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::digest::{Digest, Hasher};
use crate::placing::{create, set_mtime};
use crate::store::{BlobError, Store, StoreError, at};
use crate::tree::{Entry, Node, Tree};

/// Files per parallel task.
const BATCH: usize = 64;

/// How files are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Materialise {
    /// Hard links to the blobs, for mounting read-only; a copy where a link cannot be had or would lose the mode.
    Shared,
    /// Private copies (reflinks where the file system can), which may be written to.
    Private,
}

impl Store {
    /// Lays a tree out below a directory, which is made if it is missing. Owners are not applied and device nodes
    /// are left out: a step sees neither. Every file and directory gets
    /// [`MTIME`](crate::MTIME).
    pub fn materialise(&self, tree: &Tree, to: &Path, how: Materialise) -> Result<(), BlobError> {
        if !to.is_dir() {
            at(to, fs::create_dir(to))?;
        }
        let mut files = Vec::new();
        for entry in self.layout_order(tree) {
            let path = to.join(entry.path.as_path());
            match &entry.node {
                Node::Dir => match fs::create_dir(&path) {
                    Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                        // Laid over an earlier tree, whose symlink must not lead this one elsewhere.
                        if !at(&path, fs::symlink_metadata(&path))?.is_dir() {
                            return Err(StoreError::Io { path, source: e }.into());
                        }
                        at(&path, fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))?;
                    }
                    other => at(&path, other)?,
                },
                Node::Symlink { target } => {
                    at(&path, std::os::unix::fs::symlink(OsStr::from_bytes(target), &path))?;
                    at(&path, set_mtime(&path))?;
                }
                Node::File { digest, .. } => files.push((entry, *digest, path)),
                Node::Char { .. } | Node::Block { .. } | Node::Fifo => {}
            }
        }
        let place = |batch: &[(&Entry, Digest, PathBuf)]| {
            batch.iter().try_for_each(|(entry, digest, path)| self.place(entry, digest, path, how))
        };
        match self.0.backwards {
            true => place(&files)?,
            false => files.par_chunks(BATCH).try_for_each(place)?,
        }
        // Children first: making them changed their directory's mtime.
        for entry in tree.entries().iter().rev().filter(|e| e.node == Node::Dir) {
            let path = to.join(entry.path.as_path());
            at(&path, fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)))?;
            at(&path, set_mtime(&path))?;
        }
        Ok(at(to, set_mtime(to))?)
    }

    /// The entries of a tree in the order that this store lays them out in: sorted, or the other way round, but
    /// directories before what is in them.
    pub fn layout_order<'t>(&self, tree: &'t Tree) -> Vec<&'t Entry> {
        let mut entries: Vec<&Entry> = tree.iter().collect();
        if self.0.backwards {
            entries.sort_by_key(|e| (e.path.as_path().components().count(), Reverse(&e.path)));
        }
        entries
    }

    fn place(&self, entry: &Entry, digest: &Digest, to: &Path, how: Materialise) -> Result<(), BlobError> {
        let executable = entry.mode & 0o100 != 0;
        let plain = entry.mode == if executable { 0o755 } else { 0o644 };
        if how == Materialise::Shared && plain {
            let from = self.blob_path_as(digest, executable)?;
            // EMLINK, EPERM and EXDEV: a copy serves as well.
            if fs::hard_link(&from, to).is_ok() {
                // A link changes the inode's ctime, by which it is known.
                self.trust(&from);
                return Ok(());
            }
        }
        self.copy_blob(digest, entry.mode, to, &mut create)
    }

    /// A directory that holds the tree, to be mounted read-only or as an overlay's lower layer. Made at the first
    /// call; used again unread while its stat stamp matches, and looked through otherwise.
    pub fn unpacked(&self, digest: &Digest) -> Result<PathBuf, BlobError> {
        let hex = digest.hex();
        let home = self.root().join("unpacked").join(&hex[..2]);
        let (dir, stamp_path) = (home.join(&hex), home.join(format!("{hex}.stamp")));
        if self.0.unpacked.lock().is_ok_and(|u| u.contains(digest)) && dir.is_dir() {
            return Ok(dir);
        }
        let tree = self.get_tree(digest)?;
        // Held until the stamp is written: a folder without a stamp was left by a killed process.
        let _lock = self.lock_named("unpack", digest)?;
        if let Ok(stamp) = fs::read_to_string(&stamp_path) {
            if self.stamp(&tree, &dir).is_some_and(|now| now == stamp) {
                self.found_whole(digest);
                return Ok(dir);
            }
            self.discard(&dir)?;
        }
        at(&home, fs::create_dir_all(&home))?;
        let temporary = self.temporary();
        self.materialise(&tree, &temporary, Materialise::Shared)?;
        match fs::rename(&temporary, &dir) {
            Ok(()) => {}
            Err(_) if dir.exists() => {
                self.discard(&dir)?;
                at(&dir, fs::rename(&temporary, &dir))?;
            }
            Err(source) => return Err(StoreError::Io { path: dir, source }.into()),
        }
        if let Some(stamp) = self.stamp(&tree, &dir) {
            let temporary = self.temporary();
            at(&temporary, fs::write(&temporary, stamp))?;
            at(&stamp_path, fs::rename(&temporary, &stamp_path))?;
        }
        self.found_whole(digest);
        Ok(dir)
    }

    fn found_whole(&self, digest: &Digest) {
        if let Ok(mut unpacked) = self.0.unpacked.lock() {
            unpacked.insert(*digest);
        }
    }

    fn discard(&self, dir: &Path) -> Result<(), StoreError> {
        if !dir.exists() {
            return Ok(());
        }
        // It goes with this process's scratch, not now: a running step may have it mounted.
        at(dir, fs::rename(dir, self.temporary()))
    }

    /// What tells that an unpacked tree is as it was made: the boot (a power cut may tear what was never synced), and
    /// device, inode, size, mode, mtime of every entry; nothing writes to a file without
    /// changing its mtime. (Not the ctime: every further link changes that.) `None` if an entry is missing.
    fn stamp(&self, tree: &Tree, dir: &Path) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let parts: Vec<Option<Digest>> = tree
            .entries()
            .par_chunks(512)
            .map(|batch| {
                let mut hasher = Hasher::new();
                for entry in batch {
                    if matches!(entry.node, Node::Char { .. } | Node::Block { .. } | Node::Fifo) {
                        continue;
                    }
                    let m = fs::symlink_metadata(dir.join(entry.path.as_path())).ok()?;
                    // A directory's mtime tells of names added or removed.
                    let size = if let Node::File { size, .. } = &entry.node { *size } else { 0 };
                    let mtime = m.mtime();
                    if matches!(entry.node, Node::File { .. }) && (m.len() != size || m.mtime_nsec() != 0) {
                        return None;
                    }
                    for n in [m.ino(), u64::from(m.mode()), size, mtime as u64] {
                        hasher.update(&n.to_le_bytes());
                    }
                }
                Some(hasher.finish())
            })
            .collect();
        let mut whole = Hasher::new();
        whole.update(&fs::symlink_metadata(dir).ok()?.mtime().to_le_bytes());
        for part in parts {
            whole.update(&part?.0);
        }
        Some(format!("{}{}\n", boot, whole.finish()))
    }

    /// Blobs of a tree that are missing or damaged, each once, with the paths that need them.
    pub fn lost_blobs(&self, tree: &Tree) -> HashMap<Digest, String> {
        let lost: Vec<(Digest, String)> = tree
            .entries()
            .par_iter()
            .filter_map(|e| match &e.node {
                Node::File { digest, .. } if self.blob_path(digest).is_err() => {
                    Some((*digest, e.path.to_string()))
                }
                _ => None,
            })
            .collect();
        lost.into_iter().collect()
    }
}
