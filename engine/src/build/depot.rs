//! Fills the folders that outputs are of no use without (blocks of an flist): only what is missing is written, under a temporary
//! name that is renamed when it is whole. Removes nothing: such a folder is shared by many outputs, and others' files may be in it.
//! Knows neither what the files are nor where else than in a folder they may belong.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mosbuild_cache::{BlobError, Node, Store, Tree};
use rayon::prelude::*;

use crate::plan::Dirs;

/// What was done.
#[derive(Default)]
pub(super) struct Filled {
    /// Every file of the tree as it lies there.
    pub all: Vec<PathBuf>,
    /// Bytes of those that were missing.
    pub new: u64,
}

/// Why a folder could not be filled.
pub(super) enum FillError {
    /// A file of the tree is gone from the store.
    Blob(BlobError),
    /// Anything else.
    Io(PathBuf, std::io::Error),
}

/// Brings the files of a tree into a folder, at the tree's own paths. What is there with the right length is right: names are those
/// of contents, and what is written has its name only when it is whole; an interrupted machine may leave it too short.
pub(super) fn fill(store: &Store, tree: &Tree, folder: &Path, dirs: &Dirs) -> Result<Filled, FillError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e| FillError::Io(path, e)
    };
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    // A folder that is named within the workspace may be a link out of it.
    if folder.starts_with(&dirs.root) {
        let real = |path: &Path| std::fs::canonicalize(path).map_err(io(path));
        if !real(folder)?.starts_with(real(&dirs.root)?) {
            let text = "it leads out of the workspace; only an absolute path may";
            return Err(FillError::Io(folder.to_owned(), std::io::Error::other(text)));
        }
    }
    for dir in tree.iter().filter(|e| e.node == Node::Dir) {
        let at = folder.join(dir.path.as_path());
        std::fs::create_dir_all(&at).map_err(io(&at))?;
    }
    let new = AtomicU64::new(0);
    let files = tree.iter().filter_map(|e| match e.node {
        Node::File { digest, size } => Some((folder.join(e.path.as_path()), digest, size)),
        _ => None,
    });
    let files: Vec<_> = files.collect();
    files.par_iter().with_min_len(64).try_for_each(|(to, digest, size)| {
        let there = std::fs::symlink_metadata(to).is_ok_and(|m| m.is_file() && m.size() == *size);
        if there {
            return Ok(());
        }
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        // Two builds may fill one folder.
        let temporary = to.with_file_name(format!(".{name}.{}.mosbuild-new", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        store.place_blob(digest, false, &temporary).map_err(FillError::Blob)?;
        std::fs::rename(&temporary, to).map_err(io(to))?;
        new.fetch_add(*size, Ordering::Relaxed);
        Ok(())
    })?;
    Ok(Filled { all: files.into_iter().map(|(path, ..)| path).collect(), new: new.into_inner() })
}
