//! The store's files: blobs by digest, verified when they are read; safe for any number of processes.
//! Knows neither keys nor what a blob means.
//!
//! ```text
//! ROOT/cas/ab/ab12…      a blob, mode 0644        ROOT/cas/ab/ab12….x   the same bytes, mode 0755
//! ROOT/results/ab/ab12…  an action's result       ROOT/unpacked/ab/ab12…/   a tree, its files links to blobs
//! ROOT/tmp/PID-N/        scratch of one process   ROOT/tmp/inflight/    locks of keys that are being made
//! ROOT/corrupt/          what was set aside       ROOT/downloads/        what is not finished (engine/src/fetch)
//! ROOT/proofs/ab/ab12…   what was made twice, apart, and alike, by key
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::digest::Digest;
use crate::placing::{MTIME, copy_file, copy_hashing, set_mtime};
use crate::scratch_root::ScratchRoot;
use crate::tree::{Tree, TreeError};

/// An operation on the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{}: {source}{}", path.display(), full_disk(source))]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What was to be captured is no tree.
    #[error("{}: {source}", path.display())]
    Tree {
        /// Where.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// Something that no tree can hold.
    #[error("{}: {what}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

fn full_disk(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (make room, or move the store with --cache-dir)"
        }
        _ => "",
    }
}

/// A blob that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not there.
    #[error("blob {} is not in the store", .0.short())]
    Missing(Digest),
    /// Its bytes have another digest; it was set aside.
    #[error("blob {} was damaged and has been set aside", digest.short())]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// Where it lies now.
        quarantined: PathBuf,
    },
    /// It could not be read or placed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

/// How a file comes into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingest {
    /// Its bytes are copied; the file stays as it is.
    Copy,
    /// The same as `Link`, but its name is given up; it lies on the store's file system.
    Move {
        /// Which of a blob's two inodes it becomes.
        executable: bool,
    },
    /// The file itself becomes the blob (a hard link; its mode and mtime change), where the file system can; nobody
    /// may write to it any more.
    Link {
        /// Which of a blob's two inodes it becomes.
        executable: bool,
    },
}

/// A store of blobs, trees and results. Clones share it.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub root: PathBuf,
    /// Where blobs are looked for that are not here, and results that are asked for by name: it is only read.
    pub base: Option<Store>,
    /// Trees are laid out from their last entry to their first.
    pub backwards: bool,
    /// Made when it is first needed: who only reads leaves no trace, and may read where nobody may write.
    scratch: OnceLock<Option<ScratchRoot>>,
    /// Blob inodes that this process read whole and found right, or wrote: (device, inode, ctime).
    verified: Mutex<HashSet<(u64, u64, i64, i64)>>,
    quarantined: Mutex<HashSet<Digest>>,
    /// Unpacked trees that this process found whole, or made.
    pub unpacked: Mutex<HashSet<Digest>>,
}

impl Store {
    /// Opens a store, making it where it is not.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Store::open_as(root, None, false)
    }

    /// Opens a store, making it where it is not, that takes blobs from another one when it does not have them. Results
    /// are its own; only [`Store::lent_result`] asks the other. With `backwards`, the files of a tree are made in the
    /// opposite order, which is the order that some file systems list them in.
    pub fn open_above(root: &Path, base: &Store, backwards: bool) -> Result<Store, StoreError> {
        Store::open_as(root, Some(base.clone()), backwards)
    }

    fn open_as(root: &Path, base: Option<Store>, backwards: bool) -> Result<Store, StoreError> {
        for dir in ["cas", "results", "unpacked", "tmp/inflight"] {
            at(root, fs::create_dir_all(root.join(dir)))?;
        }
        let root = at(root, root.canonicalize())?;
        Ok(Store(Arc::new(Shared {
            root,
            base,
            backwards,
            scratch: OnceLock::new(),
            verified: Mutex::default(),
            quarantined: Mutex::default(),
            unpacked: Mutex::default(),
        })))
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// This process's folder for what is not finished; also removes those of processes that are gone.
    pub(crate) fn scratch_root(&self) -> Result<&ScratchRoot, StoreError> {
        let open = || ScratchRoot::open(&self.0.root.join("tmp"));
        match self.0.scratch.get_or_init(|| open().ok()) {
            Some(root) => Ok(root),
            // To say why.
            None => Err(open().err().unwrap_or_else(|| StoreError::Refused {
                path: self.0.root.clone(),
                what: "it could not be written to".into(),
            })),
        }
    }

    pub(crate) fn temporary(&self) -> PathBuf {
        match self.scratch_root() {
            Ok(root) => root.fresh("t"),
            // Whoever writes there is told what the system says.
            Err(_) => self.0.root.join("tmp/unfinished"),
        }
    }

    /// Path of a blob's inode, whether it is there or not.
    pub(crate) fn inode_path(&self, digest: &Digest, executable: bool) -> PathBuf {
        let hex = digest.hex();
        let suffix = if executable { ".x" } else { "" };
        self.0.root.join("cas").join(&hex[..2]).join(format!("{hex}{suffix}"))
    }

    /// Whether a blob is there; says nothing about its bytes.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.has(digest) || self.0.base.as_ref().is_some_and(|base| base.contains(digest))
    }

    fn has(&self, digest: &Digest) -> bool {
        self.inode_path(digest, false).exists() || self.inode_path(digest, true).exists()
    }

    /// Takes a blob from the store below, if this one does not have it: a link to a verified inode, else a copy. Of what
    /// is put here and is there, the bytes are so on disk once.
    /// What goes wrong is told by whoever then misses the blob.
    pub(crate) fn borrow(&self, digest: &Digest) {
        let Some(base) = self.0.base.as_ref().filter(|_| !self.has(digest)) else { return };
        base.borrow(digest);
        for executable in [false, true] {
            let Ok(Some(from)) = base.verified_inode(digest, executable) else { continue };
            let path = self.inode_path(digest, executable);
            // A link needs one file system and one owner.
            let ways: [fn(&Path, &Path) -> io::Result<()>; 2] =
                [|from, to| fs::hard_link(from, to), copy_file];
            for way in ways {
                let temporary = self.temporary();
                if way(&from, &temporary).is_ok() && self.commit(&temporary, &path, executable).is_ok() {
                    break;
                }
                let _ = fs::remove_file(&temporary);
            }
            base.trust(&from);
        }
    }

    /// Removes a blob that turned out to be wrong just after it came; whoever else needs it has a miss.
    pub fn discard_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        for executable in [false, true] {
            let path = self.inode_path(digest, executable);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => at(&path, Err(e))?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the blob was found damaged by this process.
    pub fn quarantined(&self, digest: &Digest) -> bool {
        self.0.quarantined.lock().is_ok_and(|q| q.contains(digest))
    }

    /// Stores bytes.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.borrow(&digest);
        let path = self.inode_path(&digest, false);
        if self.whole(&path, bytes.len() as u64) {
            return Ok(digest);
        }
        let temporary = self.temporary();
        at(&temporary, fs::write(&temporary, bytes))?;
        self.commit(&temporary, &path, false)?;
        Ok(digest)
    }

    /// Stores a file; returns its digest and size.
    pub fn put_file(&self, file: &Path, how: Ingest) -> Result<(Digest, u64), StoreError> {
        if let Ingest::Link { executable } | Ingest::Move { executable } = how {
            let meta = at(file, fs::symlink_metadata(file))?;
            if !meta.is_file() {
                return Err(StoreError::Refused { path: file.to_owned(), what: "it is not a file".into() });
            }
            let (digest, size) = at(file, Digest::of_file(file))?;
            self.borrow(&digest);
            let path = self.inode_path(&digest, executable);
            if self.whole(&path, size) {
                return Ok((digest, size));
            }
            // A file with another name may be somebody's still, who would find its mode changed and write to the blob.
            if meta.nlink() == 1 {
                if matches!(how, Ingest::Move { .. }) {
                    self.commit(file, &path, executable)?;
                    return Ok((digest, size));
                }
                let temporary = self.temporary();
                if fs::hard_link(file, &temporary).is_ok() {
                    self.commit(&temporary, &path, executable)?;
                    return Ok((digest, size));
                }
            }
        }
        let temporary = self.temporary();
        let mut from = at(file, File::open(file))?;
        let (digest, size) = at(file, copy_hashing(&mut from, &temporary))?;
        self.borrow(&digest);
        let executable = matches!(how, Ingest::Link { executable: true } | Ingest::Move { executable: true });
        let path = self.inode_path(&digest, executable);
        match self.whole(&path, size) {
            true => at(&temporary, fs::remove_file(&temporary))?,
            false => self.commit(&temporary, &path, executable)?,
        }
        Ok((digest, size))
    }

    /// Stores what a reader gives.
    pub fn put_reader(&self, reader: &mut dyn Read) -> Result<(Digest, u64), StoreError> {
        let temporary = self.temporary();
        let (digest, size) = at(&temporary, copy_hashing(reader, &temporary))?;
        self.borrow(&digest);
        let path = self.inode_path(&digest, false);
        match self.whole(&path, size) {
            true => at(&temporary, fs::remove_file(&temporary))?,
            false => self.commit(&temporary, &path, false)?,
        }
        Ok((digest, size))
    }

    /// Whether an inode is there and known to be right. One that only looks right is written anew: it may be the
    /// damaged one because of which its producer runs again.
    fn whole(&self, path: &Path, size: u64) -> bool {
        fs::symlink_metadata(path).is_ok_and(|m| m.len() == size && self.trusted(&m))
    }

    /// Gives a temporary file its final mode, mtime and name.
    fn commit(&self, temporary: &Path, path: &Path, executable: bool) -> Result<(), StoreError> {
        let mode = if executable { 0o755 } else { 0o644 };
        at(temporary, fs::set_permissions(temporary, fs::Permissions::from_mode(mode)))?;
        at(temporary, set_mtime(temporary))?;
        match fs::rename(temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(path);
                at(parent, fs::create_dir_all(parent))?;
                at(path, fs::rename(temporary, path))?;
            }
            other => at(path, other)?,
        }
        // Renaming one link of an inode onto another does nothing and leaves the first name.
        let _ = fs::remove_file(temporary);
        self.trust(path);
        Ok(())
    }

    /// Remembers that an inode's bytes are right as they are now.
    pub(crate) fn trust(&self, path: &Path) {
        if let Ok(m) = fs::symlink_metadata(path) {
            self.trust_inode(&m);
        }
    }

    pub(crate) fn trust_inode(&self, m: &fs::Metadata) {
        if let Ok(mut verified) = self.0.verified.lock() {
            verified.insert((m.dev(), m.ino(), m.ctime(), m.ctime_nsec()));
        }
    }

    pub(crate) fn trusted(&self, m: &fs::Metadata) -> bool {
        self.0.verified.lock().is_ok_and(|v| v.contains(&(m.dev(), m.ino(), m.ctime(), m.ctime_nsec())))
    }

    /// A verified blob's bytes.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        self.borrow(digest);
        for executable in [false, true] {
            let path = self.inode_path(digest, executable);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(StoreError::Io { path, source }.into()),
            };
            if Digest::of(&bytes) == *digest {
                return Ok(bytes);
            }
            self.quarantine(digest, &path);
        }
        Err(self.gone(digest))
    }

    /// Path of a verified blob; must not be written to.
    pub fn blob_path(&self, digest: &Digest) -> Result<PathBuf, BlobError> {
        self.borrow(digest);
        for executable in [false, true] {
            if let Some(path) = self.verified_inode(digest, executable)? {
                return Ok(path);
            }
        }
        Err(self.gone(digest))
    }

    /// The same, as the inode with (0755) or without (0644) execute bits, which is made if only the other is there.
    pub fn blob_path_as(&self, digest: &Digest, executable: bool) -> Result<PathBuf, BlobError> {
        self.borrow(digest);
        if let Some(path) = self.verified_inode(digest, executable)? {
            return Ok(path);
        }
        let Some(other) = self.verified_inode(digest, !executable)? else { return Err(self.gone(digest)) };
        let path = self.inode_path(digest, executable);
        let temporary = self.temporary();
        at(&other, copy_file(&other, &temporary))?;
        self.commit(&temporary, &path, executable)?;
        Ok(path)
    }

    pub(crate) fn gone(&self, digest: &Digest) -> BlobError {
        match self.quarantined(digest) {
            true => BlobError::Corrupt {
                digest: *digest,
                quarantined: self.0.root.join("corrupt").join(digest.hex()),
            },
            false => BlobError::Missing(*digest),
        }
    }

    fn verified_inode(&self, digest: &Digest, executable: bool) -> Result<Option<PathBuf>, BlobError> {
        let path = self.inode_path(digest, executable);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }.into()),
        };
        let meta = at(&path, file.metadata())?;
        if self.trusted(&meta) {
            return Ok(Some(path));
        }
        let (found, _) = at(&path, Digest::of_open(&mut file))?;
        if found == *digest {
            // A mode or mtime that somebody changed is put right; the bytes are.
            let mode = if executable { 0o755 } else { 0o644 };
            if meta.permissions().mode() & 0o7777 != mode || meta.mtime() != MTIME as i64 {
                at(&path, fs::set_permissions(&path, fs::Permissions::from_mode(mode)))?;
                at(&path, set_mtime(&path))?;
            }
            self.trust(&path);
            return Ok(Some(path));
        }
        self.quarantine(digest, &path);
        Ok(None)
    }

    /// Sets a damaged inode aside.
    pub(crate) fn quarantine(&self, digest: &Digest, path: &Path) {
        let corrupt = self.0.root.join("corrupt");
        let moved = fs::create_dir_all(&corrupt).and_then(|()| fs::rename(path, corrupt.join(digest.hex())));
        if moved.is_err() {
            // What cannot be moved is removed, so that it is never served.
            let _ = fs::remove_file(path);
        }
        if let Ok(mut quarantined) = self.0.quarantined.lock() {
            quarantined.insert(*digest);
        }
    }

    /// Stores a tree's encoding; its files must be stored by the caller.
    pub fn put_tree(&self, tree: &Tree) -> Result<Digest, StoreError> {
        self.put_bytes(&tree.encode())
    }

    /// A stored tree. A blob that is no tree, or one of another version, is as good as none: what made it runs again.
    pub fn get_tree(&self, digest: &Digest) -> Result<Tree, BlobError> {
        let bytes = self.read(digest)?;
        Tree::decode(&bytes).map_err(|_| BlobError::Missing(*digest))
    }

    /// Writes everything of the store's file system to disk.
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(File::open(&self.0.root)?)?;
        Ok(())
    }
}
