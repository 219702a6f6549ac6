//! From a directory on disk to a tree, its files stored. Knows no step.

use std::collections::HashMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rayon::prelude::*;

use crate::store::{Ingest, Store, StoreError, at};
use crate::tree::{Entry, Node, Tree, TreePath};

/// How a directory becomes a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Modes become 0644 or 0755 by the owner's execute bit, as for workspace files; else they are kept.
    pub normalise_modes: bool,
    /// The files become the blobs (hard links): the directory must not be written to any more.
    pub link: bool,
}

impl CaptureOptions {
    /// For the outputs of a step: modes kept, files linked.
    pub fn outputs() -> CaptureOptions {
        CaptureOptions { normalise_modes: false, link: true }
    }
    /// For files of people: modes normalised, files copied.
    pub fn sources() -> CaptureOptions {
        CaptureOptions { normalise_modes: true, link: false }
    }
}

/// User and group of the file of which this is the metadata; none for 0:0.
pub type OwnerOf<'a> = dyn Fn(&fs::Metadata) -> Option<(u32, u32)> + Sync + 'a;

/// Files per parallel task.
const BATCH: usize = 64;

impl Store {
    /// Captures what lies below a directory, owned by 0:0. Sockets and device nodes are refused.
    pub fn capture_dir(&self, dir: &Path, options: CaptureOptions) -> Result<Tree, StoreError> {
        self.capture_all(dir, options, None)
    }

    /// Captures a root file system: as [`Self::capture_dir`], but owned as `owner` says (0:0 where it says nothing),
    /// and with file capabilities and `user.*` attributes. `owner` is asked before any file is stored.
    pub fn capture_root(
        &self,
        dir: &Path,
        options: CaptureOptions,
        owner: &OwnerOf<'_>,
    ) -> Result<Tree, StoreError> {
        self.capture_all(dir, options, Some(owner))
    }

    fn capture_all(
        &self,
        dir: &Path,
        options: CaptureOptions,
        owner: Option<&OwnerOf<'_>>,
    ) -> Result<Tree, StoreError> {
        let (paths, opened) = list(dir)?;
        // All before the first is stored: linking a file changes its mode, and with it that of its other names.
        let stats = paths
            .par_iter()
            .with_min_len(BATCH)
            .map(|path| {
                let full = dir.join(path);
                let meta = at(&full, fs::symlink_metadata(&full))?;
                let mode = opened.get(path).copied().unwrap_or(meta.mode());
                let mut seen =
                    Seen { kind: meta.file_type(), mode: mode & 0o7777, owner: (0, 0), xattrs: Vec::new() };
                if let Some(owner) = owner {
                    seen.owner = owner(&meta).unwrap_or((0, 0));
                    seen.xattrs = at(&full, attributes(&full, &meta))?;
                }
                Ok(seen)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let listed: Vec<_> = paths.iter().zip(stats).collect();
        let entries = listed
            .par_chunks(BATCH)
            .map(|batch| {
                batch.iter().map(|(p, s)| self.capture(dir, p, s, options)).collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<Vec<_>, _>>()?;
        Tree::new(entries.into_iter().flatten().collect())
            .map_err(|source| StoreError::Tree { path: dir.to_owned(), source })
    }

    fn capture(
        &self,
        dir: &Path,
        rel: &Path,
        seen: &Seen,
        options: CaptureOptions,
    ) -> Result<Entry, StoreError> {
        let (kind, mut mode) = (seen.kind, seen.mode);
        let full = dir.join(rel);
        let node = if kind.is_dir() {
            Node::Dir
        } else if kind.is_symlink() {
            mode = 0o777;
            Node::Symlink { target: at(&full, fs::read_link(&full))?.into_os_string().into_vec() }
        } else if kind.is_file() {
            let executable = mode & 0o100 != 0;
            // A file that its owner may not read is still the owner's to open up.
            if mode & 0o400 == 0 {
                at(&full, fs::set_permissions(&full, fs::Permissions::from_mode(mode | 0o400)))?;
            }
            // A blob has no attributes.
            let link = options.link && seen.xattrs.is_empty();
            let how = if link { Ingest::Link { executable } } else { Ingest::Copy };
            let (digest, size) = self.put_file(&full, how)?;
            Node::File { digest, size }
        } else if kind.is_fifo() {
            Node::Fifo
        } else {
            let what = "a socket or device node cannot be an output".into();
            return Err(StoreError::Refused { path: full, what });
        };
        if options.normalise_modes && !kind.is_symlink() {
            mode = if kind.is_dir() || mode & 0o100 != 0 { 0o755 } else { 0o644 };
        }
        let path = TreePath::new(rel.as_os_str().as_bytes())
            .map_err(|source| StoreError::Tree { path: full, source })?;
        let ((uid, gid), xattrs) = (seen.owner, seen.xattrs.clone());
        Ok(Entry { uid, gid, xattrs, ..Entry::new(path, mode, node) })
    }
}

/// What is known of a file before any is stored.
struct Seen {
    kind: fs::FileType,
    mode: u32,
    owner: (u32, u32),
    xattrs: Attributes,
}

/// Names and values, sorted by name.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that belong to a root file system: not what an overlay or the host's security module marks.
fn attributes(path: &Path, meta: &fs::Metadata) -> io::Result<Attributes> {
    let mut found = Vec::new();
    if !meta.is_file() && !meta.is_dir() {
        return Ok(found);
    }
    for name in names(path)?.split(|byte| *byte == 0) {
        let capability = name == b"security.capability";
        if !capability && (!name.starts_with(b"user.") || name.starts_with(b"user.overlay.")) {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(length) => value.truncate(length),
            // Gone in between, as far as anybody can tell.
            Err(rustix::io::Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        found.push((name.to_vec(), if capability { without_root_id(value) } else { value }));
    }
    found.sort();
    Ok(found)
}

fn names(path: &Path) -> io::Result<Vec<u8>> {
    // Mostly there are none, or the one of the host's security module.
    let mut names = vec![0; 256];
    loop {
        match rustix::fs::llistxattr(path, &mut names) {
            Ok(length) => {
                names.truncate(length);
                return Ok(names);
            }
            // XATTR_LIST_MAX.
            Err(rustix::io::Errno::RANGE) if names.len() < 64 * 1024 => names = vec![0; 64 * 1024],
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// File capabilities as root on a machine of its own sets them. What was set in a user namespace says whose root may
/// use it, in four bytes more (`struct vfs_ns_cap_data` of linux/capability.h, revision 3 instead of 2).
fn without_root_id(mut value: Vec<u8>) -> Vec<u8> {
    const V2_SIZE: usize = 20;
    const V3_SIZE: usize = 24;
    if value.len() == V3_SIZE && value[3] == 3 {
        value.truncate(V2_SIZE);
        value[3] = 2;
    }
    value
}

/// Every path below a directory, relative; and the modes that directories had which had to be opened to their owner.
fn list(dir: &Path) -> Result<(Vec<PathBuf>, HashMap<PathBuf, u32>), StoreError> {
    let (mut found, mut opened) = (Vec::new(), HashMap::new());
    let mut stack = vec![PathBuf::new()];
    while let Some(rel) = stack.pop() {
        let full = dir.join(&rel);
        let mode = at(&full, fs::symlink_metadata(&full))?.mode();
        if mode & 0o500 != 0o500 {
            at(&full, fs::set_permissions(&full, fs::Permissions::from_mode(0o755)))?;
            opened.insert(rel.clone(), mode);
        }
        for entry in at(&full, fs::read_dir(&full))? {
            let entry = at(&full, entry)?;
            let path = rel.join(entry.file_name());
            if at(&full, entry.file_type())?.is_dir() {
                stack.push(path.clone());
            }
            found.push(path);
        }
    }
    Ok((found, opened))
}
