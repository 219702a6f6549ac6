//! Entries and contents of an flist, whose blocks are somewhere else. Knows no server: blocks are those of folders and of trees
//! of the store.

use std::path::PathBuf;

use mosbuild_cache::{Digest, Hasher, Node, Store, Tree, TreePath};
use mosbuild_formats::flist::{self, BlockRef, block, dir_path, hex};

use super::{Error, Item, Kind};

/// Where blocks may be.
#[derive(Clone)]
pub enum Blocks {
    /// A `dir://` store.
    Folder(PathBuf),
    /// An output of this name.
    Tree(String, Store, Tree),
}

impl Blocks {
    fn read(&self, id: &flist::Hash) -> Option<Vec<u8>> {
        let path = dir_path(id);
        match self {
            Blocks::Folder(folder) => std::fs::read(folder.join(path)).ok(),
            Blocks::Tree(_, store, tree) => match tree.get(&TreePath::new(path).ok()?)?.node {
                Node::File { digest, .. } => store.read(&digest).ok(),
                _ => None,
            },
        }
    }

    fn name(&self) -> String {
        match self {
            Blocks::Folder(folder) => folder.display().to_string(),
            Blocks::Tree(name, ..) => name.clone(),
        }
    }
}

/// An flist, and the places where its blocks are looked for in turn.
pub struct Listed {
    pub(super) flist: flist::Flist,
    /// Beside the folders that it names itself.
    pub places: Vec<Blocks>,
}

impl Listed {
    pub(super) fn new(flist: flist::Flist) -> Listed {
        let folders = flist.routes.iter().filter_map(|r| r.url.strip_prefix("dir://"));
        let places = folders.filter(|f| f.starts_with('/')).map(|f| Blocks::Folder(f.into())).collect();
        Listed { flist, places }
    }

    /// All entries; a file's digest is one of its blocks' keys, which stand for its content.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&[u8], Item, &[BlockRef])> {
        self.flist.entries.iter().map(|entry| {
            let mut blocks: &[BlockRef] = &[];
            let kind = match &entry.kind {
                flist::Kind::Dir => Kind::Dir,
                flist::Kind::File { size, blocks: of_file } => {
                    blocks = of_file;
                    Kind::File { digest: keys(*size, of_file), size: *size }
                }
                flist::Kind::Symlink { target } => Kind::Symlink { target: target.clone() },
                flist::Kind::Char { major, minor } => Kind::Char { major: *major, minor: *minor },
                flist::Kind::Block { major, minor } => Kind::Block { major: *major, minor: *minor },
                flist::Kind::Fifo => Kind::Fifo,
                flist::Kind::Socket => Kind::Socket,
            };
            let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
            let mtime = u64::try_from(entry.mtime).ok();
            let item = Item { mode, uid, gid, kind, mtime, xattrs: Vec::new(), part: 0 };
            (entry.path.as_bytes(), item, blocks)
        })
    }

    /// A file's bytes.
    pub(super) fn content(&self, path: &[u8], size: u64, blocks: &[BlockRef]) -> Result<Vec<u8>, Error> {
        let mut content = Vec::new();
        for block in blocks {
            content.extend(self.block(block)?);
        }
        match content.len() as u64 == size {
            true => Ok(content),
            false => Err(Error::FlistSize {
                path: String::from_utf8_lossy(path).into_owned(),
                expected: size,
                found: content.len() as u64,
            }),
        }
    }

    fn block(&self, wanted: &BlockRef) -> Result<Vec<u8>, Error> {
        let mut damaged = None;
        for place in &self.places {
            match place.read(&wanted.id).map(|bytes| block::open(wanted, bytes)) {
                Some(Ok(plain)) => return Ok(plain),
                Some(Err(e)) => damaged = Some(e),
                None => {}
            }
        }
        Err(match damaged {
            Some(e) => e.into(),
            None => {
                let places: Vec<String> = self.places.iter().map(Blocks::name).collect();
                let urls = self.flist.routes.iter().map(|r| r.url.clone());
                Error::NoBlock {
                    id: hex(&wanted.id),
                    places: if places.is_empty() { "nowhere".into() } else { places.join(", ") },
                    routes: urls.collect::<Vec<_>>().join(", "),
                }
            }
        })
    }
}

fn keys(size: u64, blocks: &[BlockRef]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&size.to_le_bytes());
    for block in blocks {
        hasher.update(&block.key);
    }
    hasher.finish()
}
