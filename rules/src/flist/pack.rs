//! Packs a tree: blocks into the store of builds, rows into an flist. Files are cut and sealed in parallel; what is
//! written depends on the tree and the parameters alone. Does not know where blocks go from there.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use mosbuild_cache::{Digest, Entry, Node, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::load::nearest;
use mosbuild_formats::flist::{self, BLOCK_SIZE, BlockRef, Kind, Route, block, dir_path};
use rayon::prelude::*;

use super::{BLOCKS, FILE};
use crate::steps::{entry, file_output, tree_of, tree_output};

/// How many entries are named in a note before the rest is counted.
const NAMED: usize = 5;

/// Packs. Params `subdir`, `routes`, `tags`, `epoch`; input `root`; outputs [`FILE`] and [`BLOCKS`].
pub struct Pack;

/// A block in the store of builds.
struct Stored {
    block: BlockRef,
    digest: Digest,
    size: u64,
}

impl Builtin for Pack {
    fn name(&self) -> &'static str {
        "flist"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![(FILE.into(), OutKind::File), (BLOCKS.into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let whole = cx.tree("root")?;
        let tree = below(&whole, cx.param("subdir"))?;
        let blocks = seal(cx, &tree)?;
        let flist = describe(cx, &whole, &tree, &blocks)?;
        let bytes = flist::write(&flist).map_err(|e| StepError::new(e.to_string()))?;
        let file = file_output(cx.store, &bytes)?;
        let mut stored = BTreeMap::new();
        for Stored { block, digest, size } in blocks.into_values().flatten() {
            stored.insert(block.id, Node::File { digest, size });
        }
        let entries = stored.iter().map(|(id, node)| entry(dir_path(id).as_bytes(), 0o644, node.clone()));
        let blocks = tree_output(cx.store, &tree_of(entries.collect::<Result<_, _>>()?)?)?;
        let facts = [
            ("size", bytes.len().to_string()),
            ("blocks", stored.len().to_string()),
            ("stored", blocks.size.to_string()),
        ];
        Ok(Made {
            outputs: [(FILE.into(), file), (BLOCKS.into(), blocks)].into(),
            facts: facts.map(|(name, value)| (name.to_owned(), value)).into(),
            notes: notes(&tree),
        })
    }
}

/// Blocks of each content, in order; contents that are there twice are sealed once.
fn seal(cx: &BuiltinCx<'_>, tree: &Tree) -> Result<HashMap<Digest, Vec<Stored>>, StepError> {
    let contents: HashMap<Digest, u64> = tree
        .iter()
        .filter_map(|e| if let Node::File { digest, size } = e.node { Some((digest, size)) } else { None })
        .collect();
    let sealed = contents.into_par_iter().map(|(digest, size)| {
        if (cx.cancelled)() {
            return Err(StepError::new("interrupted"));
        }
        Ok((digest, seal_file(cx.store, &digest, size)?))
    });
    sealed.collect()
}

fn seal_file(store: &Store, digest: &Digest, size: u64) -> Result<Vec<Stored>, StepError> {
    let mut file = std::fs::File::open(store.blob_path(digest)?)?;
    let mut stored = Vec::new();
    let mut plain = Vec::with_capacity(BLOCK_SIZE.min(size as usize));
    loop {
        plain.clear();
        (&mut file).take(BLOCK_SIZE as u64).read_to_end(&mut plain)?;
        if plain.is_empty() {
            return Ok(stored);
        }
        let sealed = block::seal(&plain).map_err(|e| StepError::new(e.to_string()))?;
        let size = sealed.bytes.len() as u64;
        stored.push(Stored { block: sealed.block, digest: store.put_bytes(&sealed.bytes)?, size });
    }
}

/// A folder of a tree as a tree of its own.
fn below<'t>(tree: &'t Tree, subdir: &str) -> Result<Cow<'t, Tree>, StepError> {
    if subdir.is_empty() {
        return Ok(Cow::Borrowed(tree));
    }
    let dir = TreePath::new(subdir).map_err(|e| StepError::new(e.to_string()))?;
    if tree.get(&dir).is_none_or(|e| e.node != Node::Dir) {
        let there: Vec<String> =
            tree.iter().filter(|e| e.node == Node::Dir).map(|e| e.path.to_string()).collect();
        let near = nearest(subdir, there.iter().map(String::as_str));
        let error = StepError::new(format!("the tree has no folder {subdir}"));
        return Err(match near {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error,
        });
    }
    let inside = tree.iter().filter_map(|e| Some(Entry { path: e.path.strip(&dir)?, ..e.clone() }));
    let inside = Tree::new(inside.collect()).map_err(|e| StepError::new(e.to_string()))?;
    Ok(Cow::Owned(inside))
}

fn describe(
    cx: &BuiltinCx<'_>,
    whole: &Tree,
    tree: &Tree,
    blocks: &HashMap<Digest, Vec<Stored>>,
) -> Result<flist::Flist, StepError> {
    let texts = |name: &str| {
        serde_json::from_str::<Vec<String>>(cx.param(name))
            .map_err(|e| StepError::new(format!("{name}: {e}; this is a fault of mosbuild")))
    };
    let tags: BTreeMap<String, String> = serde_json::from_str(cx.param("tags"))
        .map_err(|e| StepError::new(format!("tags: {e}; this is a fault of mosbuild")))?;
    let mtime = cx.param("epoch").parse().unwrap_or(mosbuild_cache::MTIME as i64);
    let row = |e: &Entry| -> Result<flist::Entry, StepError> {
        let path = std::str::from_utf8(e.path.as_bytes()).map_err(|_| {
            StepError::new(format!("{:?} is not UTF-8: an flist has texts for names", e.path))
                .help("rename it, or leave it out of the tree")
        })?;
        let kind = match &e.node {
            Node::Dir => Kind::Dir,
            Node::File { digest, size } => {
                let blocks = blocks.get(digest).into_iter().flatten().map(|s| s.block).collect();
                Kind::File { size: *size, blocks }
            }
            Node::Symlink { target } => Kind::Symlink { target: target.clone() },
            Node::Char { major, minor } => Kind::Char { major: *major, minor: *minor },
            Node::Block { major, minor } => Kind::Block { major: *major, minor: *minor },
            Node::Fifo => Kind::Fifo,
        };
        let (path, mode) = (path.to_owned(), e.mode);
        Ok(flist::Entry { path, mode, uid: e.uid, gid: e.gid, mtime, kind })
    };
    // A tree has no entry for itself.
    let top = TreePath::new(cx.param("subdir")).ok();
    let top = top.and_then(|path| whole.get(&path)).map_or((0o755, 0, 0), |e| (e.mode, e.uid, e.gid));
    let (mode, uid, gid) = top;
    let root = flist::Entry { path: ".".into(), mode, uid, gid, mtime, kind: Kind::Dir };
    let mut entries = vec![root];
    for e in tree.iter() {
        entries.push(row(e)?);
    }
    let everywhere = |url| Route { start: 0, end: u8::MAX, url };
    let routes = texts("routes")?.into_iter().map(everywhere).collect();
    Ok(flist::Flist { entries, routes, tags: tags.into_iter().collect() })
}

/// What an flist, or rfs with it, does not keep of the tree.
fn notes(tree: &Tree) -> Vec<String> {
    let some = |what: &dyn Fn(&Entry) -> bool| {
        let paths: Vec<String> = tree.iter().filter(|e| what(e)).map(|e| e.path.to_string()).collect();
        let more = paths.len().saturating_sub(NAMED);
        let mut text = paths[..paths.len() - more].join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        (!paths.is_empty()).then_some(text)
    };
    let attributes = some(&|e| !e.xattrs.is_empty());
    let groups = some(&|e| e.uid != e.gid);
    let attributes =
        attributes.map(|paths| format!("an flist has no extended attributes; left out of {paths}"));
    let groups = groups.map(|paths| {
        format!("rfs takes the owner's number for the group when it reads: it will be wrong about {paths}")
    });
    attributes.into_iter().chain(groups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_told() {
        let entry = |path: &str, gid, xattrs: &[(&[u8], &[u8])]| {
            let xattrs = xattrs.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            Entry { gid, xattrs, ..Entry::new(TreePath::new(path).unwrap(), 0o755, Node::Dir) }
        };
        let plain = Tree::new(vec![entry("a", 0, &[])]).unwrap();
        assert_eq!(notes(&plain), Vec::<String>::new());
        let entries = (0..7).map(|n| entry(&format!("d{n}"), n, &[(b"user.x", b"1")]));
        let told = notes(&Tree::new(entries.collect()).unwrap());
        assert!(told[0].ends_with("left out of d0, d1, d2, d3, d4 and 2 more"), "{told:?}");
        assert!(told[1].ends_with("wrong about d1, d2, d3, d4, d5 and 1 more"), "{told:?}");
    }
}
