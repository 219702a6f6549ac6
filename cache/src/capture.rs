//! From a directory on disk to a tree, its files stored. Knows no step.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// Files per parallel task.
const BATCH: usize = 64;

impl Store {
    /// Captures what lies below a directory, owned by 0:0. Sockets and device nodes are refused.
    pub fn capture_dir(&self, dir: &Path, options: CaptureOptions) -> Result<Tree, StoreError> {
        let (paths, opened) = list(dir)?;
        // All before the first is stored: linking a file changes its mode, and with it that of its other names.
        let stats = paths
            .par_iter()
            .with_min_len(BATCH)
            .map(|path| {
                let full = dir.join(path);
                let meta = at(&full, fs::symlink_metadata(&full))?;
                let mode = opened.get(path).copied().unwrap_or(meta.mode());
                Ok((meta.file_type(), mode & 0o7777))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let listed: Vec<_> = paths.iter().zip(stats).collect();
        let entries = listed
            .par_chunks(BATCH)
            .map(|batch| {
                batch.iter().map(|(p, s)| self.capture(dir, p, *s, options)).collect::<Result<Vec<_>, _>>()
            })
            .collect::<Result<Vec<_>, _>>()?;
        Tree::new(entries.into_iter().flatten().collect())
            .map_err(|source| StoreError::Tree { path: dir.to_owned(), source })
    }

    fn capture(
        &self,
        dir: &Path,
        rel: &Path,
        (kind, mut mode): (fs::FileType, u32),
        options: CaptureOptions,
    ) -> Result<Entry, StoreError> {
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
            let how = if options.link { Ingest::Link { executable } } else { Ingest::Copy };
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
        Ok(Entry::new(path, mode, node))
    }
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
