//! The tree of a commit with its submodules, made from git's objects: no checkout, so no filter, no umask, no attribute of
//! the host's has a part in it. Knows what is taken of a submodule; does not know how a rev was found.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use mosbuild_cache::{Digest, Node, Store, Tree, TreePath};
use mosbuild_engine::action::StepError;
use mosbuild_engine::fetch::shown;
use mosbuild_formats::git::{Entry, Kind, LFS_POINTER_MAX, Submodule, is_lfs_pointer, relative_url};
use rayon::prelude::*;

use super::objects;
use super::places::{Stop, each_place};
use super::program::Git;
use super::repository::Repository;
use super::url::{is_local, url_fault};
use crate::batches::store_beside;
use crate::steps::{entry, tree_of};

/// Submodules within submodules.
const DEEPEST: usize = 10;
/// Larger files go into the store as they come, one by one.
const LARGE: u64 = 8 << 20;
/// The longest that a link can say.
const LONGEST_LINK: u64 = 4095;

/// Makes trees of commits.
pub struct Trees<'g> {
    git: &'g Git<'g>,
    entries: Vec<(Vec<u8>, u32, Node)>,
    /// Repositories of submodules by URL and commit: one may be there twice.
    repositories: BTreeMap<(String, String), PathBuf>,
}

/// A commit in a repository of this machine.
struct At<'a> {
    /// Where the repository came from; relative URLs begin there.
    url: &'a str,
    repository: &'a PathBuf,
    commit: &'a str,
    /// Where it lies in the tree: empty, or ending in `/`.
    prefix: &'a [u8],
    depth: usize,
}

/// The tree of a commit of the repository in `repository`, that came from `url`; its files are in the store.
pub fn of_commit(git: &Git<'_>, url: &str, repository: &PathBuf, commit: &str) -> Result<Tree, StepError> {
    let mut trees = Trees { git, entries: Vec::new(), repositories: BTreeMap::new() };
    trees.add(&At { url, repository, commit, prefix: b"", depth: 0 })?;
    let entries = std::mem::take(&mut trees.entries).into_iter();
    let tree = tree_of(entries.map(|(path, mode, node)| entry(&path, mode, node)).collect::<Result<_, _>>()?)
        .map_err(|e| StepError::new(format!("commit {commit}: {}", e.message)).exit(4))?;
    git.say(&format!("{} entries, {} bytes", tree.len(), tree.file_bytes()));
    Ok(tree)
}

impl Trees<'_> {
    fn add(&mut self, at: &At<'_>) -> Result<(), StepError> {
        let entries = objects::entries(self.git, at.repository, at.commit)?;
        let (files, links) = self.contents(at, &entries)?;
        for found in &entries {
            let path = [at.prefix, &found.path].concat();
            match found.kind {
                Kind::File { executable } => {
                    let digest =
                        files.get(found.object.as_str()).copied().ok_or_else(|| lost(&found.object))?;
                    let mode = if executable { 0o755 } else { 0o644 };
                    self.entries.push((path, mode, Node::File { digest, size: found.size }));
                }
                Kind::Symlink => {
                    let target = links.get(found.object.as_str()).ok_or_else(|| lost(&found.object))?.clone();
                    if target.is_empty() || target.contains(&0) {
                        let path = String::from_utf8_lossy(&path).into_owned();
                        return Err(StepError::new(format!("{path:?} is a link that leads nowhere")).exit(4));
                    }
                    self.entries.push((path, 0o777, Node::Symlink { target }));
                }
                Kind::Submodule => {}
            }
        }
        let modules: Vec<&Entry> = entries.iter().filter(|e| e.kind == Kind::Submodule).collect();
        if modules.is_empty() {
            return Ok(());
        }
        let described = objects::submodules(self.git, at.repository, &entries)?;
        for module in modules {
            let path = [at.prefix, &module.path].concat();
            let described = described.iter().rev().find(|d| d.path.as_deref() == Some(&module.path));
            self.submodule(at, module, described, &path).map_err(|e| {
                let name = String::from_utf8_lossy(&path).into_owned();
                StepError { message: format!("submodule {name}: {}", e.message), ..e }
            })?;
        }
        Ok(())
    }

    /// Puts the files into the store; their digests, and what links say, by object.
    #[expect(clippy::type_complexity, reason = "two maps by the same names, taken apart at once")]
    fn contents<'e>(
        &self,
        at: &At<'_>,
        entries: &'e [Entry],
    ) -> Result<(HashMap<&'e str, Digest>, HashMap<&'e str, Vec<u8>>), StepError> {
        // The same content may be a file at one path and a link at another.
        let mut wanted: BTreeMap<&'e str, (u64, bool, bool)> = BTreeMap::new();
        for found in entries {
            let (file, link) = (matches!(found.kind, Kind::File { .. }), found.kind == Kind::Symlink);
            if file || link {
                let known = wanted.entry(&found.object).or_insert((found.size, false, false));
                (known.1, known.2) = (known.1 || file, known.2 || link);
            }
        }
        let too_long = wanted.iter().find(|(_, (size, _, link))| *link && *size > LONGEST_LINK);
        if let Some((object, _)) = too_long {
            return Err(StepError::new(format!(
                "object {object} is a link of more than {LONGEST_LINK} bytes"
            ))
            .exit(4));
        }
        let (store, cancelled) = (self.git.cx.store, self.git.cx.cancelled);
        let names: Vec<&'e str> = wanted.keys().copied().collect();
        let (mut files, mut links) = (HashMap::with_capacity(names.len()), HashMap::new());
        let mut next = names.iter().copied();
        let stored = store_beside(store, cancelled, |put| {
            objects::each_blob(self.git, at.repository, &names, &mut |_, size, content| {
                // In the order of the names; those of the map live longer than what was shown.
                let Some(name) = next.next() else { return Err(lost("")) };
                let (told, file, link) = wanted.get(name).copied().unwrap_or_default();
                if size != told {
                    return Err(
                        StepError::new(format!("object {name} has {size} bytes and not {told}")).exit(4)
                    );
                }
                if size > LARGE && !link {
                    if cancelled() {
                        return Err(StepError::new("interrupted"));
                    }
                    let (digest, _) = store.put_reader(content)?;
                    files.insert(name, digest);
                    return Ok(());
                }
                let mut bytes = Vec::with_capacity(size as usize);
                content.read_to_end(&mut bytes)?;
                if link {
                    links.insert(name, bytes.clone());
                }
                if file { put(name, bytes) } else { Ok(()) }
            })
        })?;
        files.extend(stored.into_iter().map(|(name, digest, _)| (name, digest)));
        Ok((files, links))
    }

    fn submodule(
        &mut self,
        at: &At<'_>,
        module: &Entry,
        described: Option<&Submodule>,
        path: &[u8],
    ) -> Result<(), StepError> {
        let wrong = |text: String| StepError::new(text).exit(4);
        let Some(described) = described else { return Err(wrong("it is not in .gitmodules".into())) };
        if described.update.as_deref() == Some("none") {
            self.git.say(&format!("submodule {} is left out: update = none", String::from_utf8_lossy(path)));
            self.entries.push((path.to_owned(), 0o755, Node::Dir));
            return Ok(());
        }
        if at.depth == DEEPEST {
            return Err(wrong(format!("submodules lie more than {DEEPEST} deep in each other")));
        }
        let written = described.url.as_deref().unwrap_or_default();
        let url = relative_url(at.url, written)
            .ok_or_else(|| wrong(format!("its URL {written} leads out of {}", shown(at.url))))?;
        if let Some(fault) = url_fault(&url) {
            return Err(wrong(fault));
        }
        // A repository of the network shall not bring files of this machine into an image.
        if is_local(&url) && !is_local(at.url) {
            return Err(wrong(format!("its URL {url} is on this machine, and {} is not", shown(at.url))));
        }
        let commit = &module.object;
        let key = (url.clone(), commit.clone());
        let repository = match self.repositories.get(&key) {
            Some(repository) => repository.clone(),
            None => {
                let dir = self.git.cx.scratch.join(format!("submodule-{}", self.repositories.len()));
                each_place(self.git.cx, &url, &mut |place| {
                    let repository = Repository::init(self.git, &dir, commit.len())?;
                    match repository.fetch(place, commit, None)? {
                        fetched if fetched == *commit => Ok(()),
                        _ => Err(Stop::Whole(wrong(format!("{commit} is no commit")))),
                    }
                })?;
                self.repositories.insert(key, dir.clone());
                dir
            }
        };
        // It is there, whatever lies in it.
        self.entries.push((path.to_owned(), 0o755, Node::Dir));
        let prefix = [path, b"/"].concat();
        self.add(&At { url: &url, repository: &repository, commit, prefix: &prefix, depth: at.depth + 1 })
    }
}

fn lost(object: &str) -> StepError {
    StepError::new(format!("object {object} was not read; this is a fault of mosbuild"))
}

/// A tree whose files are all in the store.
pub fn from_store(store: &Store, digest: &Digest) -> Option<Tree> {
    let tree = store.get_tree(digest).ok()?;
    let there = |node: &Node| match node {
        Node::File { digest, .. } => store.contains(digest),
        _ => true,
    };
    tree.entries().par_iter().all(|e| there(&e.node)).then_some(tree)
}

/// Paths of files that are pointers of Git LFS, in a tree whose attributes name it.
pub fn lfs_pointers(store: &Store, tree: &Tree) -> Result<Vec<TreePath>, StepError> {
    let small = |entry: &mosbuild_cache::Entry| match entry.node {
        Node::File { digest, size } if size <= LFS_POINTER_MAX => Some(digest),
        _ => None,
    };
    let mut named = false;
    for found in tree.iter().filter(|e| e.path.name() == b".gitattributes") {
        if let Node::File { digest, size } = found.node
            && size <= 1 << 20
        {
            named |= store.read(&digest)?.windows(10).any(|w| w == b"filter=lfs");
        }
    }
    let mut found = Vec::new();
    for (entry, digest) in tree.iter().filter(|_| named).filter_map(|e| Some((e, small(e)?))) {
        if is_lfs_pointer(&store.read(&digest)?) {
            found.push(entry.path.clone());
        }
    }
    Ok(found)
}
