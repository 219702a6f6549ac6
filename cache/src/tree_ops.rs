//! Functions from trees to trees: merge, filter, subtree, prefix, difference. Knows no disk and no store.

use std::collections::BTreeMap;

use crate::tree::{Entry, Node, Tree, TreeError, TreePath};

/// A file of an earlier layer that a later one replaced by other content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The path.
    pub path: TreePath,
    /// Layer that had it.
    pub earlier: String,
    /// Layer that won.
    pub later: String,
}

/// Two layers that want different kinds of things at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The path.
    pub path: TreePath,
    /// Layer and kind that were there.
    pub earlier: (String, &'static str),
    /// Layer and kind that came.
    pub later: (String, &'static str),
}

/// Layers laid over each other.
#[derive(Debug)]
pub struct Merged {
    /// The result; where kinds clash, the earlier entry stays.
    pub tree: Tree,
    /// Replaced files.
    pub overrides: Vec<Override>,
    /// Clashes of kinds: the caller reports them all.
    pub clashes: Vec<Clash>,
    /// Which layer each path comes from, by its place among the layers.
    pub from: BTreeMap<TreePath, usize>,
}

/// How many symlinks are followed before they are taken for a loop.
const LINKS: usize = 40;

/// Lays named layers over each other, later ones winning. A directory over a symlink to a directory follows the
/// link: what lies below it lands below the link's target.
pub fn merge(layers: &[(&str, &Tree)]) -> Result<Merged, TreeError> {
    let mut all: BTreeMap<TreePath, (Entry, usize)> = BTreeMap::new();
    let (mut overrides, mut clashes) = (Vec::new(), Vec::new());
    for (at, (layer, tree)) in layers.iter().enumerate() {
        let mut clashed: Vec<TreePath> = Vec::new();
        for entry in tree.iter() {
            if clashed.iter().any(|c| entry.path.strip(c).is_some()) {
                continue;
            }
            let path = follow(&all, &entry.path, entry.node == Node::Dir)?;
            let moved = Entry { path: path.clone(), ..entry.clone() };
            let Some((there, from)) = all.get(&path).map(|(there, from)| (there, layers[*from].0)) else {
                all.insert(path, (moved, at));
                continue;
            };
            let same_kind = std::mem::discriminant(&there.node) == std::mem::discriminant(&entry.node);
            if !same_kind {
                clashes.push(Clash {
                    path: path.clone(),
                    earlier: (from.to_owned(), there.node.kind()),
                    later: ((*layer).to_owned(), entry.node.kind()),
                });
                clashed.push(entry.path.clone());
                continue;
            }
            // A directory that was reached through a link keeps what it is.
            if entry.node == Node::Dir && path != entry.path {
                continue;
            }
            if entry.node != Node::Dir && there.node != entry.node {
                let (earlier, later) = (from.to_owned(), (*layer).to_owned());
                overrides.push(Override { path: path.clone(), earlier, later });
            }
            all.insert(path, (moved, at));
        }
    }
    let from = all.iter().map(|(path, (_, from))| (path.clone(), *from)).collect();
    let entries = all.into_values().map(|(entry, _)| entry).collect();
    Ok(Merged { tree: Tree::with_parents(entries)?, overrides, clashes, from })
}

/// Where a path of a new layer lands: symlinks to directories above it (and at it, for a directory) are followed.
fn follow(
    all: &BTreeMap<TreePath, (Entry, usize)>,
    path: &TreePath,
    dir: bool,
) -> Result<TreePath, TreeError> {
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut rest: Vec<Vec<u8>> = path.as_bytes().split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match &*part {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => at.push(part),
        }
        let here = TreePath::new(at.join(&b'/'))?;
        let Some((Entry { node: Node::Symlink { target }, .. }, _)) = all.get(&here) else { continue };
        let last = rest.is_empty();
        if last && !(dir && leads_to_dir(all, &here)) {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(TreeError::Path(format!("{path}: too many symlinks")));
        }
        at.pop();
        if target.starts_with(b"/") {
            at.clear();
        }
        rest.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
    }
    TreePath::new(at.join(&b'/'))
}

fn leads_to_dir(all: &BTreeMap<TreePath, (Entry, usize)>, link: &TreePath) -> bool {
    let mut at = link.clone();
    for _ in 0..LINKS {
        match all.get(&at) {
            Some((Entry { node: Node::Dir, .. }, _)) => return true,
            Some((Entry { node: Node::Symlink { target }, .. }, _)) => {
                let base = match at.parent() {
                    Some(parent) if !target.starts_with(b"/") => parent.as_bytes().to_vec(),
                    _ => Vec::new(),
                };
                let mut parts: Vec<&[u8]> = base.split(|b| *b == b'/').collect();
                for part in target.split(|b| *b == b'/') {
                    match part {
                        b"" | b"." => {}
                        b".." => drop(parts.pop()),
                        part => parts.push(part),
                    }
                }
                let joined: Vec<&[u8]> = parts.into_iter().filter(|p| !p.is_empty()).collect();
                let Ok(next) = TreePath::new(joined.join(&b'/')) else { return false };
                at = next;
            }
            _ => return false,
        }
    }
    false
}

impl Tree {
    /// The entries that `keep` keeps; what lay below a dropped directory is dropped too.
    pub fn filter(&self, mut keep: impl FnMut(&Entry) -> bool) -> Tree {
        let mut gone = std::collections::BTreeSet::new();
        let entries = self.iter().filter(|e| {
            if e.path.parent().is_some_and(|p| gone.contains(&p)) {
                gone.insert(e.path.clone());
                return false;
            }
            let kept = keep(e);
            if !kept && e.node == Node::Dir {
                gone.insert(e.path.clone());
            }
            kept
        });
        // Parents of kept entries are kept, so the invariant holds.
        Tree::new(entries.cloned().collect()).unwrap_or_default()
    }

    /// What lies below a directory, as a tree of its own.
    pub fn subtree(&self, dir: &TreePath) -> Tree {
        let entries = self.iter().filter_map(|e| Some(Entry { path: e.path.strip(dir)?, ..e.clone() }));
        Tree::new(entries.collect()).unwrap_or_default()
    }

    /// The tree below a directory, which is added with its parents.
    pub fn prefixed(&self, dir: &TreePath) -> Result<Tree, TreeError> {
        let mut entries: Vec<Entry> =
            self.iter().map(|e| Entry { path: e.path.below(dir), ..e.clone() }).collect();
        entries.push(Entry::new(dir.clone(), 0o755, Node::Dir));
        Tree::with_parents(entries)
    }
}

/// How one path differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only in the second.
    Added(Entry),
    /// Only in the first.
    Removed(Entry),
    /// In both, but not equal: content, kind, link target, mode or owner.
    Changed(Entry, Entry),
}

/// A difference of two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: TreePath,
    /// What.
    pub kind: ChangeKind,
}

/// Every path in which two trees differ, in order.
pub fn diff(old: &Tree, new: &Tree) -> Vec<Change> {
    let (mut a, mut b) = (old.iter().peekable(), new.iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.path.cmp(&y.path),
        };
        let kind = match order {
            std::cmp::Ordering::Less => a.next().map(|x| ChangeKind::Removed(x.clone())),
            std::cmp::Ordering::Greater => b.next().map(|y| ChangeKind::Added(y.clone())),
            std::cmp::Ordering::Equal => match (a.next(), b.next()) {
                (Some(x), Some(y)) if x != y => Some(ChangeKind::Changed(x.clone(), y.clone())),
                _ => None,
            },
        };
        if let Some(kind) = kind {
            let (ChangeKind::Added(e) | ChangeKind::Removed(e) | ChangeKind::Changed(e, _)) = &kind;
            changes.push(Change { path: e.path.clone(), kind });
        }
    }
}
