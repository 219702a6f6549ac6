//! Private copies of blobs and of workspace files, and how every file is written: its mode and mtime are given, whatever
//! the umask and the clock say. Knows no digest's meaning and no folder's.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::store::{BlobError, Store, StoreError, at};

/// The mtime of every stored and materialised file and directory, in seconds: make and cargo decide by mtimes, so
/// they are equal everywhere.
pub const MTIME: u64 = 1_735_689_600;

/// What became of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was placed.
    Placed,
    /// Its content is no longer the expected one; nothing was placed.
    Changed,
}

/// Files below this size are read whole.
const WHOLE: u64 = 1 << 20;

impl Store {
    /// Places a blob as a private file (0644 or 0755) that may be written to.
    pub fn place_blob(&self, digest: &Digest, executable: bool, to: &Path) -> Result<(), BlobError> {
        self.copy_blob(digest, if executable { 0o755 } else { 0o644 }, to, &mut create)
    }

    /// Places a blob as a private file of any mode. What is copied is read once, and verified by that.
    pub(crate) fn copy_blob(
        &self,
        digest: &Digest,
        mode: u32,
        to: &Path,
        create: &mut Create,
    ) -> Result<(), BlobError> {
        self.borrow(digest);
        let executable = mode & 0o100 != 0;
        for executable in [executable, !executable] {
            let path = self.inode_path(digest, executable);
            let mut from = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(StoreError::Io { path, source }.into()),
            };
            let meta = at(&path, from.metadata())?;
            let mut out = at(to, create(to))?;
            let right = if meta.len() < WHOLE {
                let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
                at(&path, from.read_to_end(&mut bytes))?;
                let right = self.trusted(&meta) || Digest::of(&bytes) == *digest;
                if right {
                    at(to, out.write_all(&bytes))?;
                }
                right
            } else if rustix::fs::ioctl_ficlone(&out, &from).is_ok() {
                self.trusted(&meta) || at(&path, Digest::of_open(&mut from))?.0 == *digest
            } else if self.trusted(&meta) {
                at(to, io::copy(&mut from, &mut out))?;
                true
            } else {
                at(to, pump(&mut from, &mut out))?.0 == *digest
            };
            if right {
                self.trust_inode(&meta);
                return Ok(at(to, finish(&out, mode, meta.len()))?);
            }
            drop(out);
            at(to, fs::remove_file(to))?;
            self.quarantine(digest, &path);
        }
        Err(self.gone(digest))
    }

    /// Copies a workspace file to where a step sees it, if it still has that content.
    pub fn place_source(
        &self,
        from: &Path,
        to: &Path,
        expected: Digest,
        executable: bool,
    ) -> Result<Place, StoreError> {
        self.copy_source(from, to, expected, executable, &mut create)
    }

    pub(crate) fn copy_source(
        &self,
        from: &Path,
        to: &Path,
        expected: Digest,
        executable: bool,
        create: &mut Create,
    ) -> Result<Place, StoreError> {
        let mut file = match File::open(from) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::Changed),
            Err(source) => return Err(StoreError::Io { path: from.to_owned(), source }),
        };
        let mut out = at(to, create(to))?;
        let (digest, size) = at(from, pump(&mut file, &mut out))?;
        if digest != expected {
            at(to, fs::remove_file(to))?;
            return Ok(Place::Changed);
        }
        at(to, finish(&out, if executable { 0o755 } else { 0o644 }, size))?;
        Ok(Place::Placed)
    }
}

/// Opens a file, new or to be written over, that is to be written from its start and then finished.
pub(crate) type Create<'a> = dyn FnMut(&Path) -> io::Result<File> + 'a;

/// A new file.
pub(crate) fn create(to: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)
}

/// Length, mode and mtime of a written file; the mode explicitly, so that it does not depend on the umask.
fn finish(out: &File, mode: u32, size: u64) -> io::Result<()> {
    let meta = out.metadata()?;
    if meta.len() != size {
        out.set_len(size)?;
    }
    if meta.mode() & 0o7777 != mode {
        out.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(rustix::fs::futimens(out, &times())?)
}

/// Copies to a new file, hashing on the way.
pub(crate) fn copy_hashing(from: &mut dyn Read, to: &Path) -> io::Result<(Digest, u64)> {
    pump(from, &mut create(to)?)
}

fn pump(from: &mut dyn Read, out: &mut File) -> io::Result<(Digest, u64)> {
    let (mut hasher, mut total) = (Hasher::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), total)),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n])?;
        total += n as u64;
        if total > 4 << 20 && buffer.len() < 1 << 20 {
            buffer = vec![0; 1 << 20];
        }
    }
}

/// A private copy: a reflink where the file system can, else a copy of the bytes.
pub(crate) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let (mut source, mut target) = (source, target);
    io::copy(&mut source, &mut target)?;
    Ok(())
}

/// Sets [`MTIME`], not following symlinks.
pub(crate) fn set_mtime(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times(), flags)?)
}

fn times() -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec { tv_sec: MTIME as i64, tv_nsec: 0 };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}

/// [`MTIME`] as a time.
pub fn mtime() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME)
}
