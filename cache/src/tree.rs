//! A root filesystem as a value: a sorted list of entries whose file contents are named by digest.
//! Knows no disk; capture.rs and materialise.rs do.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Digest;

const MAGIC: &[u8; 8] = b"mostree\x01";

/// A path within a tree: relative, `/`-separated bytes, without empty, `.` or `..` components.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Box<[u8]>);

/// What a tree refuses.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path that could leave the tree, or names the tree itself.
    #[error("{0:?} is no path within a tree")]
    Path(String),
    /// Two entries of one path.
    #[error("{0} is there twice")]
    Twice(String),
    /// An entry below something that is no directory, or whose directory is missing.
    #[error("{0} has no directory above it")]
    Parent(String),
    /// Bytes that are no encoded tree.
    #[error("not an encoded tree: {0}")]
    Encoding(&'static str),
}

impl TreePath {
    /// A checked path. A leading or trailing `/` is refused.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<TreePath, TreeError> {
        let bytes = bytes.as_ref();
        let fine = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
        match bytes.split(|b| *b == b'/').all(fine) && !bytes.contains(&0) {
            true => Ok(TreePath(bytes.into())),
            false => Err(TreeError::Path(String::from_utf8_lossy(bytes).into_owned())),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For joining to a directory.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory that it lies in; `None` at the top.
    pub fn parent(&self) -> Option<TreePath> {
        let at = self.0.iter().rposition(|b| *b == b'/')?;
        Some(TreePath(self.0[..at].into()))
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        let at = self.0.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        &self.0[at..]
    }

    /// This path below a directory.
    pub fn below(&self, dir: &TreePath) -> TreePath {
        TreePath([&*dir.0, b"/", &*self.0].concat().into())
    }

    /// The rest of the path below a directory.
    pub fn strip(&self, dir: &TreePath) -> Option<TreePath> {
        let rest = self.0.strip_prefix(&*dir.0)?.strip_prefix(b"/")?;
        Some(TreePath(rest.into()))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Its content.
        digest: Digest,
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as it is written.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl Node {
    /// `file`, `directory`, …
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Dir => "directory",
            Node::File { .. } => "file",
            Node::Symlink { .. } => "symlink",
            Node::Char { .. } => "character device",
            Node::Block { .. } => "block device",
            Node::Fifo => "pipe",
        }
    }
}

/// An entry of a tree. It has no mtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: TreePath,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What it is.
    pub node: Node,
}

impl Entry {
    /// An entry of 0:0 without extended attributes.
    pub fn new(path: TreePath, mode: u32, node: Node) -> Entry {
        Entry { path, mode, uid: 0, gid: 0, xattrs: Vec::new(), node }
    }
}

/// Entries sorted by the bytes of their paths, each path once, each below a directory of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
}

impl Tree {
    /// A tree of these entries, which may come in any order; parents must be among them.
    pub fn new(mut entries: Vec<Entry>) -> Result<Tree, TreeError> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(pair) = entries.windows(2).find(|p| p[0].path == p[1].path) {
            return Err(TreeError::Twice(pair[0].path.to_string()));
        }
        let tree = Tree { entries };
        for entry in &tree.entries {
            if let Some(parent) = entry.path.parent()
                && !tree.get(&parent).is_some_and(|p| p.node == Node::Dir)
            {
                return Err(TreeError::Parent(entry.path.to_string()));
            }
        }
        Ok(tree)
    }

    /// The same, adding directories (0755, 0:0) that are missing above entries.
    pub fn with_parents(mut entries: Vec<Entry>) -> Result<Tree, TreeError> {
        let mut there: BTreeSet<TreePath> = entries.iter().map(|e| e.path.clone()).collect();
        for at in 0..entries.len() {
            let mut parent = entries[at].path.parent();
            while let Some(path) = parent {
                parent = path.parent();
                if !there.insert(path.clone()) {
                    break;
                }
                entries.push(Entry::new(path, 0o755, Node::Dir));
            }
        }
        Tree::new(entries)
    }

    /// The entries in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// The entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The entry of a path.
    pub fn get(&self, path: &TreePath) -> Option<&Entry> {
        self.entries.binary_search_by(|e| e.path.cmp(path)).ok().map(|at| &self.entries[at])
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all its files.
    pub fn file_bytes(&self) -> u64 {
        let sizes = self.entries.iter().map(|e| if let Node::File { size, .. } = e.node { size } else { 0 });
        sizes.fold(0, u64::saturating_add)
    }

    /// Digest of its encoding.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The canonical bytes: magic, count, then each entry in order, all numbers little-endian. Their digest stands in
    /// people's mosbuild.lock, for trees of commits: with another encoding those are to be locked anew.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 100);
        out.extend_from_slice(MAGIC);
        number(&mut out, self.entries.len() as u64);
        for e in &self.entries {
            bytes(&mut out, &e.path.0);
            for n in [e.mode, e.uid, e.gid] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            number(&mut out, e.xattrs.len() as u64);
            for (name, value) in &e.xattrs {
                bytes(&mut out, name);
                bytes(&mut out, value);
            }
            match &e.node {
                Node::Dir => out.push(0),
                Node::File { digest, size } => {
                    out.push(1);
                    out.extend_from_slice(&digest.0);
                    number(&mut out, *size);
                }
                Node::Symlink { target } => {
                    out.push(2);
                    bytes(&mut out, target);
                }
                Node::Char { major, minor } | Node::Block { major, minor } => {
                    out.push(if matches!(e.node, Node::Char { .. }) { 3 } else { 4 });
                    out.extend_from_slice(&major.to_le_bytes());
                    out.extend_from_slice(&minor.to_le_bytes());
                }
                Node::Fifo => out.push(5),
            }
        }
        out
    }

    /// Reads what [`Tree::encode`] wrote; refuses anything else.
    pub fn decode(bytes: &[u8]) -> Result<Tree, TreeError> {
        let mut r = Reader(bytes.strip_prefix(MAGIC).ok_or(TreeError::Encoding("wrong magic or version"))?);
        let count = r.number()?;
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            let path = TreePath::new(r.bytes()?)?;
            if entries.last().is_some_and(|l| l.path >= path) {
                return Err(TreeError::Encoding("entries out of order"));
            }
            let (mode, uid, gid) = (r.small()?, r.small()?, r.small()?);
            let mut xattrs = Vec::new();
            for _ in 0..r.number()? {
                xattrs.push((r.bytes()?.to_vec(), r.bytes()?.to_vec()));
            }
            let node = match r.take(1)?[0] {
                0 => Node::Dir,
                1 => {
                    let digest = r.take(32)?.try_into().map_err(|_| TreeError::Encoding("truncated"))?;
                    Node::File { digest: Digest(digest), size: r.number()? }
                }
                2 => Node::Symlink { target: r.bytes()?.to_vec() },
                3 => Node::Char { major: r.small()?, minor: r.small()? },
                4 => Node::Block { major: r.small()?, minor: r.small()? },
                5 => Node::Fifo,
                _ => return Err(TreeError::Encoding("unknown kind")),
            };
            entries.push(Entry { path, mode, uid, gid, xattrs, node });
        }
        match r.0.is_empty() {
            true => Tree::new(entries),
            false => Err(TreeError::Encoding("trailing bytes")),
        }
    }
}

fn number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], TreeError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(TreeError::Encoding("truncated"))?;
        self.0 = rest;
        Ok(head)
    }
    fn number(&mut self) -> Result<u64, TreeError> {
        let bytes = self.take(8)?.try_into().map_err(|_| TreeError::Encoding("truncated"))?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn small(&mut self) -> Result<u32, TreeError> {
        let bytes = self.take(4)?.try_into().map_err(|_| TreeError::Encoding("truncated"))?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn bytes(&mut self) -> Result<&'a [u8], TreeError> {
        let len = usize::try_from(self.number()?).map_err(|_| TreeError::Encoding("truncated"))?;
        self.take(len)
    }
}
