//! Workspace and external files as inputs: found, hashed through the stat cache, and later read again with
//! a check that they are still what was hashed. Knows no step and no key.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mosbuild_cache::{Digest, Entry, Ingest, Node, StatCache, Store, Tree, TreePath};
use rayon::prelude::*;

use crate::action::{Input, StepError};
use crate::load::Loaded;

/// A hashed source, not in the store.
#[derive(Debug)]
pub enum Source {
    /// One file.
    File {
        /// Where it lies.
        path: PathBuf,
        /// Its content.
        digest: Digest,
        /// Bytes.
        size: u64,
        /// Owner's execute bit.
        executable: bool,
    },
    /// Files below a directory.
    Tree {
        /// The directory.
        root: PathBuf,
        /// Its entries, owned by 0:0, 0644 or 0755.
        tree: Arc<Tree>,
        /// Digest of the tree.
        digest: Digest,
    },
}

/// The sources of all targets of a closure.
#[derive(Default)]
pub struct Sources {
    by_input: HashMap<(u32, Input), Arc<Source>>,
    /// Every file and directory that was looked at, for the fresh stamp.
    pub seen: Vec<PathBuf>,
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct SourceError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub error: std::io::Error,
}

/// One path of an input, classified.
enum Found {
    File,
    Link(Vec<u8>),
    Dir,
}

/// Position of an input among the wanted ones, the directory that its paths begin at, and the paths.
type Listed = (usize, PathBuf, Vec<(String, Found)>);

impl Sources {
    /// Finds and hashes the sources that these (target, input) pairs name.
    pub fn collect(
        loaded: &Loaded,
        wanted: &[(u32, Input)],
        stat_cache: &mut StatCache,
    ) -> Result<Sources, SourceError> {
        let mut sources = Sources::default();
        let mut listed: Vec<Listed> = Vec::new();
        for (index, (target, input)) in wanted.iter().enumerate() {
            let (root, paths) = match input {
                Input::Files(patterns) => (loaded.root.clone(), files(loaded, *target, patterns)),
                Input::Path(path) => {
                    let full = loaded.root.join(path);
                    match full.is_dir() {
                        true => (full.clone(), below(&full, &[".mosbuild", "dist", ".git"])?),
                        false => (full, vec![String::new()]),
                    }
                }
                Input::External(path) => match path.is_dir() {
                    true => (path.clone(), below(path, &[".git"])?),
                    false => (path.clone(), vec![String::new()]),
                },
                Input::Upstream { .. } | Input::Step { .. } => continue,
            };
            let paths = paths.into_par_iter().map(|p| classify(&root, p)).collect::<Result<Vec<_>, _>>()?;
            listed.push((index, root, paths));
        }
        let full = |root: &Path, rel: &str| if rel.is_empty() { root.to_owned() } else { root.join(rel) };
        let files: Vec<PathBuf> = listed
            .iter()
            .flat_map(|(_, root, paths)| {
                paths.iter().filter(|(_, f)| matches!(f, Found::File)).map(|(p, _)| full(root, p))
            })
            .collect();
        let mut hashed = stat_cache.digest_many(&files).into_iter();
        sources.seen.clone_from(&files);
        for (index, root, paths) in listed {
            let (target, input) = &wanted[index];
            let single = paths.len() == 1 && paths[0].0.is_empty();
            // The folders that patterns walk are watched as `Expanded::dirs_walked`.
            if !single && root != loaded.root {
                sources.seen.push(root.clone());
            }
            let mut entries = Vec::with_capacity(paths.len());
            let mut alone = None;
            for (path, found) in paths {
                let node = match found {
                    Found::File => {
                        let at = full(&root, &path);
                        let meta = match hashed.next() {
                            Some(Ok(meta)) => meta,
                            Some(Err(error)) => return Err(SourceError { path: at, error }),
                            None => {
                                return Err(SourceError {
                                    path: at,
                                    error: std::io::ErrorKind::NotFound.into(),
                                });
                            }
                        };
                        if single {
                            alone = Some(Source::File {
                                path: at,
                                digest: meta.digest,
                                size: meta.size,
                                executable: meta.executable,
                            });
                            break;
                        }
                        let mode = if meta.executable { 0o755 } else { 0o644 };
                        (mode, Node::File { digest: meta.digest, size: meta.size })
                    }
                    Found::Link(target) => (0o777, Node::Symlink { target }),
                    Found::Dir => (0o755, Node::Dir),
                };
                if !matches!(node.1, Node::File { .. }) {
                    sources.seen.push(full(&root, &path));
                }
                let bad =
                    |e: String| SourceError { path: full(&root, &path), error: std::io::Error::other(e) };
                let path = TreePath::new(path.as_bytes()).map_err(|e| bad(e.to_string()))?;
                entries.push(Entry::new(path, node.0, node.1));
            }
            let source = match alone {
                Some(source) => source,
                None => {
                    let tree = Tree::with_parents(entries).map_err(|e| SourceError {
                        path: root.clone(),
                        error: std::io::Error::other(e.to_string()),
                    })?;
                    let digest = tree.digest();
                    Source::Tree { root, tree: Arc::new(tree), digest }
                }
            };
            sources.by_input.insert((*target, input.clone()), Arc::new(source));
        }
        Ok(sources)
    }

    /// A source of a target.
    pub fn get(&self, target: u32, input: &Input) -> Option<Arc<Source>> {
        self.by_input.get(&(target, input.clone())).cloned()
    }
}

/// Paths that a target's patterns matched, sorted, each once.
fn files(loaded: &Loaded, target: u32, patterns: &[String]) -> Vec<String> {
    let target = &loaded.targets[target as usize];
    let mut paths: Vec<String> = target
        .files
        .iter()
        .zip(loaded.expanded.get(&target.name).into_iter().flatten())
        .filter(|(used, _)| patterns.contains(&used.pattern))
        .flat_map(|(_, found)| found.files.iter().cloned())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Everything below a directory, relative, sorted; `skip` names are left out at the top, and everywhere folders
/// that say by a CACHEDIR.TAG that they can be made again (cargo's `target`).
fn below(dir: &Path, skip: &[&str]) -> Result<Vec<String>, SourceError> {
    let mut found = Vec::new();
    let mut stack = vec![String::new()];
    while let Some(rel) = stack.pop() {
        let at = dir.join(&rel);
        let fail = |error| SourceError { path: at.clone(), error };
        for entry in std::fs::read_dir(&at).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().into_string().map_err(|name| SourceError {
                path: at.join(name),
                error: std::io::Error::other("its name is not UTF-8"),
            })?;
            if rel.is_empty() && skip.contains(&name.as_str()) {
                continue;
            }
            let path = if rel.is_empty() { name } else { format!("{rel}/{name}") };
            if entry.file_type().map_err(fail)?.is_dir() {
                if is_cache(&dir.join(&path)) {
                    continue;
                }
                stack.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// How a CACHEDIR.TAG begins.
const CACHE_TAG: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Whether a folder is marked as a cache (bford.info/cachedir).
fn is_cache(dir: &Path) -> bool {
    let mut head = [0; CACHE_TAG.len()];
    std::fs::File::open(dir.join("CACHEDIR.TAG")).is_ok_and(|mut tag| tag.read_exact(&mut head).is_ok())
        && head == *CACHE_TAG
}

fn classify(root: &Path, path: String) -> Result<(String, Found), SourceError> {
    let at = if path.is_empty() { root.to_owned() } else { root.join(&path) };
    let fail = |error| SourceError { path: at.clone(), error };
    // A source named alone is followed if it is a link; below a folder links stay links.
    let meta = match path.is_empty() {
        true => std::fs::metadata(&at),
        false => std::fs::symlink_metadata(&at),
    };
    let kind = meta.map_err(fail)?.file_type();
    let found = if kind.is_file() {
        Found::File
    } else if kind.is_symlink() {
        Found::Link(std::fs::read_link(&at).map_err(fail)?.into_os_string().into_encoded_bytes())
    } else if kind.is_dir() {
        Found::Dir
    } else {
        return Err(fail(std::io::Error::other("neither a file, a folder nor a symlink")));
    };
    Ok((path, found))
}

/// The error of a step whose input file changed after it was hashed.
pub fn changed(path: &Path) -> StepError {
    let text = format!("{} changed while it was being read", path.display());
    StepError { changed: Some(path.display().to_string()), ..StepError::new(text) }
}

/// Brings a workspace file into the store, if it still has that content.
pub fn ingest_file(store: &Store, path: &Path, digest: Digest) -> Result<(), StepError> {
    if store.blob_path(&digest).is_ok() {
        return Ok(());
    }
    let (stored, _) =
        store.put_file(path, Ingest::Copy).map_err(|e| StepError::new(format!("{}: {e}", path.display())))?;
    match stored == digest {
        true => Ok(()),
        false => Err(changed(path)),
    }
}

/// Brings all files of a source tree into the store.
pub fn ingest_tree(store: &Store, root: &Path, tree: &Tree) -> Result<(), StepError> {
    let entries: Vec<&Entry> = tree.iter().collect();
    entries.into_par_iter().try_for_each(|entry| match &entry.node {
        Node::File { digest, .. } => ingest_file(store, &root.join(entry.path.as_path()), *digest),
        _ => Ok(()),
    })
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: mosbuild_cache::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Streams a file; when `read` is done the rest is read too, and the whole must have the digest.
pub fn stream_verified<T>(
    path: &Path,
    digest: Digest,
    read: impl FnOnce(&mut dyn Read) -> Result<T, StepError>,
) -> Result<T, StepError> {
    let file = std::fs::File::open(path).map_err(|e| StepError::new(format!("{}: {e}", path.display())))?;
    let inner = std::io::BufReader::with_capacity(1 << 20, file);
    let mut hashing = Hashing { inner, hasher: mosbuild_cache::Hasher::new() };
    let value = read(&mut hashing)?;
    std::io::copy(&mut hashing, &mut std::io::sink())?;
    match hashing.hasher.finish() == digest {
        true => Ok(value),
        false => Err(changed(path)),
    }
}
