//! What lies in a tree, an archive or a boot image: its entries with their metadata, and the bytes of each file.
//! Knows the formats by their first bytes; knows no target, no run and no terminal, and writes nothing.

mod flist;
mod open;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use mosbuild_cache::{Digest, Node, Store, Tree};
use mosbuild_formats::newc::{self, LinkId};
use mosbuild_formats::{initramfs, tarball};

pub use flist::{Blocks, Listed};
pub use open::{Held, Hull, Opened, open};

/// Bound on what the archives of an image expand to together.
const EXPANDED_MAX: u64 = 16 << 30;
/// How many symlinks are followed before they are taken for a loop.
const LINKS: usize = 40;

/// Why something cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kernel without an initramfs, or with one that was not found.
    #[error("the kernel has no initramfs built in that can be found")]
    NoInitramfs,
    /// A kernel image that cannot be expanded.
    #[error(transparent)]
    Kernel(#[from] mosbuild_formats::kernel_image::Error),
    /// An initramfs that is damaged.
    #[error("the archive is damaged: {0}")]
    Initramfs(#[from] initramfs::Error),
    /// A tar archive that is damaged or refused.
    #[error(transparent)]
    Tar(#[from] tarball::Error),
    /// A blob of a tree is gone.
    #[error(transparent)]
    Blob(#[from] mosbuild_cache::BlobError),
    /// An flist that is damaged or refused.
    #[error(transparent)]
    Flist(#[from] mosbuild_formats::flist::Error),
    /// A block of an flist that is damaged.
    #[error("{0}")]
    Block(#[from] mosbuild_formats::flist::block::Error),
    /// A block of an flist that is not here.
    #[error("block {id} is not here: it was looked for in {places}; the flist says that it is at {routes}")]
    NoBlock {
        /// Its name.
        id: String,
        /// Where it was looked for.
        places: String,
        /// Where the flist says that blocks are.
        routes: String,
    },
    /// A file of an flist whose blocks have more or less than its size.
    #[error("flist: {path} has {expected} bytes, and its blocks {found}")]
    FlistSize {
        /// The file.
        path: String,
        /// Its size.
        expected: u64,
        /// Bytes of its blocks.
        found: u64,
    },
    /// An EFI program that is damaged.
    #[error("the EFI program is damaged: {0}")]
    Pe(#[from] object::Error),
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
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
    /// A socket; only foreign archives have them.
    Socket,
}

impl Kind {
    /// `file`, `directory`, …
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Dir => "directory",
            Kind::File { .. } => "file",
            Kind::Symlink { .. } => "symlink",
            Kind::Char { .. } => "character device",
            Kind::Block { .. } => "block device",
            Kind::Fifo => "pipe",
            Kind::Socket => "socket",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
    /// Seconds since 1970, where that is written: trees have none.
    pub mtime: Option<u64>,
    /// Extended attributes, sorted by name; archives of the kernel have none.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Which of several archives it is from.
    pub part: usize,
}

/// Entries by path, relative and without `./`; the root itself, where an archive has it, is `.`.
pub type Items = BTreeMap<Vec<u8>, Item>;

impl Held {
    /// All entries. Of several of one path, the last: that is what the kernel and tar leave.
    pub fn items(&self) -> Result<Items, Error> {
        let mut items = Items::new();
        self.walk(&mut |path, item, _| {
            items.insert(path.to_vec(), item);
        })?;
        Ok(items)
    }

    /// All entries, without a look at the blocks of an flist: digests of its files are equal where contents are, but are those of
    /// nothing else.
    pub fn listing(&self) -> Result<Items, Error> {
        match self {
            Held::Flist(listed) => {
                Ok(listed.entries().map(|(path, item, _)| (path.to_vec(), item)).collect())
            }
            _ => self.items(),
        }
    }

    /// The contents of some files, by path. What is no file is left out.
    pub fn contents(&self, wanted: &dyn Fn(&[u8]) -> bool) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        if let Held::Tree(store, tree) = self {
            let mut contents = BTreeMap::new();
            for entry in tree.iter().filter(|e| wanted(e.path.as_bytes())) {
                if let Node::File { digest, .. } = entry.node {
                    contents.insert(entry.path.as_bytes().to_vec(), store.read(&digest)?);
                }
            }
            return Ok(contents);
        }
        let mut contents = BTreeMap::new();
        if let Held::Flist(listed) = self {
            for (path, item, blocks) in listed.entries().filter(|(path, ..)| wanted(path)) {
                if let Kind::File { size, .. } = item.kind {
                    contents.insert(path.to_vec(), listed.content(path, size, blocks)?);
                }
            }
            return Ok(contents);
        }
        self.walk(&mut |path, item, data| {
            if !wanted(path) {
                return;
            }
            match item.kind {
                Kind::File { .. } => contents.insert(path.to_vec(), data.to_vec()),
                _ => contents.remove(path),
            };
        })?;
        Ok(contents)
    }

    /// Shows each entry, of files with their bytes; of a tree without.
    fn walk(&self, visit: &mut Visit<'_>) -> Result<(), Error> {
        match self {
            Held::Tree(_, tree) => {
                for (path, item) in of_tree(tree) {
                    visit(path, item, &[]);
                }
                Ok(())
            }
            Held::Initramfs(bytes) => walk_initramfs(bytes, visit),
            Held::Tar(bytes) => walk_tar(bytes, visit),
            Held::Flist(listed) => {
                for (path, mut item, blocks) in listed.entries() {
                    let mut content = Vec::new();
                    if let Kind::File { digest, size } = &mut item.kind {
                        content = listed.content(path, *size, blocks)?;
                        *digest = Digest::of(&content);
                    }
                    visit(path, item, &content);
                }
                Ok(())
            }
        }
    }
}

/// Gets path, entry and bytes.
type Visit<'a> = dyn FnMut(&[u8], Item, &[u8]) + 'a;

fn of_tree(tree: &Tree) -> impl Iterator<Item = (&[u8], Item)> {
    tree.iter().map(|entry| {
        let kind = match &entry.node {
            Node::Dir => Kind::Dir,
            Node::File { digest, size } => Kind::File { digest: *digest, size: *size },
            Node::Symlink { target } => Kind::Symlink { target: target.clone() },
            Node::Char { major, minor } => Kind::Char { major: *major, minor: *minor },
            Node::Block { major, minor } => Kind::Block { major: *major, minor: *minor },
            Node::Fifo => Kind::Fifo,
        };
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        let xattrs = entry.xattrs.clone();
        (entry.path.as_bytes(), Item { mode, uid, gid, kind, mtime: None, xattrs, part: 0 })
    })
}

/// Names of one file, and its bytes.
#[derive(Default)]
struct Linked {
    names: Vec<(Vec<u8>, Item)>,
    content: Vec<u8>,
}

fn walk_initramfs(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    for (part, archive) in initramfs::Parts::new(bytes, EXPANDED_MAX).enumerate() {
        let (place, archive) = archive?;
        let damaged = |source| initramfs::Error::Cpio { offset: place.offset, source };
        // Names that share one file are shown when its bytes are known: they may stand at any of them.
        let mut links: BTreeMap<LinkId, Linked> = BTreeMap::new();
        for member in newc::Reader::new(&*archive, newc::Limits::default()).members() {
            let (newc::Member { entry, mtime, link }, data) = member.map_err(damaged)?;
            let kind = match entry.kind {
                newc::Kind::Dir => Kind::Dir,
                newc::Kind::File { size } => Kind::File { digest: Digest::of(&data), size },
                newc::Kind::Symlink { target } => Kind::Symlink { target },
                newc::Kind::Char { major, minor } => Kind::Char { major, minor },
                newc::Kind::Block { major, minor } => Kind::Block { major, minor },
                newc::Kind::Fifo => Kind::Fifo,
                newc::Kind::Socket => Kind::Socket,
            };
            let newc::Entry { name, mode, uid, gid, .. } = entry;
            let mtime = Some(u64::from(mtime));
            let item = Item { mode, uid, gid, kind, mtime, xattrs: Vec::new(), part };
            match link.filter(|_| matches!(item.kind, Kind::File { .. })) {
                Some(link) => {
                    let linked = links.entry(link).or_default();
                    linked.names.push((name, item));
                    if !data.is_empty() {
                        linked.content = data;
                    }
                }
                None => visit(&name, item, &data),
            }
        }
        for Linked { names, content } in links.into_values() {
            let (digest, size) = (Digest::of(&content), content.len() as u64);
            for (name, item) in names {
                visit(&name, Item { kind: Kind::File { digest, size }, ..item }, &content);
            }
        }
    }
    Ok(())
}

fn walk_tar(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    let options = tarball::Options { allow_devices: true, ..tarball::Options::default() };
    let mut files: HashMap<Vec<u8>, (Item, Vec<u8>)> = HashMap::new();
    // Which files have other names is known only when these are come to.
    let linked = hard_links(bytes, &options)?;
    tarball::read::<_, Error, _>(bytes, &options, |entry, data| {
        let mut content = Vec::new();
        let kind = match &entry.kind {
            tarball::Kind::Dir => Kind::Dir,
            tarball::Kind::File { .. } => {
                std::io::copy(data, &mut content).map_err(tarball::Error::Io)?;
                Kind::File { digest: Digest::of(&content), size: content.len() as u64 }
            }
            tarball::Kind::HardLink { to } => {
                if let Some((item, content)) = files.get(to) {
                    visit(&entry.path, item.clone(), content);
                }
                return Ok(());
            }
            tarball::Kind::Symlink { target } => Kind::Symlink { target: target.clone() },
            tarball::Kind::Char { major, minor } => Kind::Char { major: *major, minor: *minor },
            tarball::Kind::Block { major, minor } => Kind::Block { major: *major, minor: *minor },
            tarball::Kind::Fifo => Kind::Fifo,
        };
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        let item = Item { mode, uid, gid, kind, mtime: None, xattrs: Vec::new(), part: 0 };
        visit(&entry.path, item.clone(), &content);
        if linked.contains(&entry.path) {
            files.insert(entry.path.clone(), (item, content));
        }
        Ok(())
    })?;
    Ok(())
}

fn hard_links(bytes: &[u8], options: &tarball::Options) -> Result<std::collections::HashSet<Vec<u8>>, Error> {
    let mut linked = std::collections::HashSet::new();
    tarball::read::<_, Error, _>(bytes, options, |entry, _| {
        if let tarball::Kind::HardLink { to } = &entry.kind {
            linked.insert(to.clone());
        }
        Ok(())
    })?;
    Ok(linked)
}

/// A path as people write it (`/etc/motd`, `./etc/`) as entries have it; `.` is the top.
pub fn tidy(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
    let joined = parts.collect::<Vec<_>>().join(&b'/');
    if joined.is_empty() { b".".to_vec() } else { joined }
}

/// Where a path leads within these entries, symlinks followed; the path itself where there is nothing, or too many links.
pub fn follow(items: &Items, path: &[u8]) -> Vec<u8> {
    let split = |path: &[u8]| path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (mut at, mut rest, mut links): (Vec<Vec<u8>>, _, _) = (Vec::new(), split(path), 0);
    while let Some(part) = rest.pop() {
        match &*part {
            b"" | b"." => continue,
            b".." => {
                at.pop();
                continue;
            }
            _ => at.push(part),
        }
        let Some(Item { kind: Kind::Symlink { target }, .. }) = items.get(&at.join(&b'/')) else { continue };
        links += 1;
        if links > LINKS {
            return path.to_vec();
        }
        at.pop();
        if target.starts_with(b"/") {
            at.clear();
        }
        rest.extend(split(target));
    }
    if at.is_empty() { b".".to_vec() } else { at.join(&b'/') }
}

/// How an entry is between two sets of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: Vec<u8>,
    /// Before; `None`: only the second has it.
    pub old: Option<Item>,
    /// After; `None`: only the first has it.
    pub new: Option<Item>,
}

/// Every path whose entries differ in content, kind, link, device, mode, owner or attributes, in order. Times and which
/// archive an entry is from do not count, nor does the root itself where only one side names it.
pub fn compare(old: &Items, new: &Items) -> Vec<Change> {
    let what = |item: &Item| Item { mtime: None, part: 0, ..item.clone() };
    let paths: std::collections::BTreeSet<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    let change = |path: &Vec<u8>| {
        let (old, new) = (old.get(path), new.get(path));
        let same = old.map(what) == new.map(what) || (path == b"." && (old.is_none() || new.is_none()));
        (!same).then(|| Change { path: path.clone(), old: old.cloned(), new: new.cloned() })
    };
    paths.into_iter().filter_map(change).collect()
}

/// The difference of two texts in the unified form, the line of the names left out; `None` if either is no text.
pub fn text_diff(old: &[u8], new: &[u8]) -> Option<String> {
    let text = |bytes: &[u8]| !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok();
    if !text(old) || !text(new) {
        return None;
    }
    let (old, new): (Cow<'_, str>, Cow<'_, str>) =
        (String::from_utf8_lossy(old), String::from_utf8_lossy(new));
    Some(mosbuild_formats::patch::unified(&old, &new))
}

/// Opens a tree of the store.
pub fn of_store(store: &Store, digest: &Digest) -> Result<Held, Error> {
    Ok(Held::Tree(store.clone(), store.get_tree(digest)?))
}
