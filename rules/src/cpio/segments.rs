//! An initramfs of several archives, each with a result of its own: the kernel takes any number of them, and what did
//! not change is not compressed again. Knows where a tree is cut; what an archive is like is known to cpio.rs.

use std::collections::BTreeMap;
use std::io::Write;

use mosbuild_cache::{Entry, Ingest, Node, Output, OutputKind, Tree, TreePath};
use mosbuild_engine::action::{BuiltinCx, Made, StepError};
use mosbuild_engine::item::{Item, ItemWork};
use mosbuild_formats::compress::{Compression, Encoder};
use mosbuild_formats::newc::Writer;

use super::{append, failed};

/// A segment of fewer bytes is not ended by a name; one with as many as the most is ended by any.
const FEWEST: u64 = 256 << 10;
/// See [`FEWEST`]. A file of its own that is larger is a segment of its own.
const MOST: u64 = 1 << 20;
/// One name in so many ends a segment.
const ENDS: u8 = 8;

/// How each segment is made.
pub(super) struct Segment {
    pub compression: Compression,
    pub mtime: u32,
}

/// Writes a tree as segments; how many bytes they have unpacked.
pub(super) fn write(
    cx: &BuiltinCx<'_>,
    tree: &Tree,
    segment: &Segment,
    mut out: impl Write,
) -> Result<u64, StepError> {
    let mut items = Vec::new();
    for part in cut(tree)? {
        let name = part.entries().last().map(|entry| entry.path.to_string()).unwrap_or_default();
        items.push(Item { name, digest: cx.store.put_tree(&part)?, size: part.file_bytes() });
    }
    let batch = cx.batch(segment, &items)?;
    (cx.log)(&format!("{} of {} segments compressed, {} known", batch.ran, items.len(), batch.known));
    let mut unpacked = 0;
    for result in &batch.results {
        let missing = || StepError::new("a segment has no result; this is a fault of mosbuild");
        let file = result.outputs.get("file").ok_or_else(missing)?;
        std::io::copy(&mut std::fs::File::open(cx.store.blob_path(&file.digest)?)?, &mut out)?;
        unpacked += result.facts.get("unpacked").and_then(|n| n.parse::<u64>().ok()).ok_or_else(missing)?;
    }
    out.flush()?;
    Ok(unpacked)
}

impl ItemWork for Segment {
    fn name(&self) -> &'static str {
        "cpio-segment"
    }

    fn version(&self) -> u32 {
        1
    }

    fn params(&self) -> BTreeMap<String, String> {
        let (format, level) = match self.compression {
            Compression::Xz { level } => ("xz", level.to_string()),
            Compression::Zstd { level } => ("zstd", level.to_string()),
            Compression::Gzip { level } => ("gzip", level.to_string()),
            Compression::None => ("none", String::new()),
        };
        let params = [("compress", format.to_owned()), ("level", level), ("mtime", self.mtime.to_string())];
        params.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn run(&self, cx: &BuiltinCx<'_>, item: &Item) -> Result<Made, StepError> {
        let tree = cx.store.get_tree(&item.digest)?;
        let path = cx.scratch.join(format!("segment-{}", item.digest));
        let file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path)?);
        let encoder = Encoder::new(file, self.compression, 1).map_err(|e| failed(&e))?;
        let (encoder, unpacked) = append(cx, &tree, Writer::new(encoder, self.mtime))?;
        encoder.finish().map_err(|e| failed(&e))?.flush()?;
        let (digest, size) = cx.store.put_file(&path, Ingest::Move { executable: false })?;
        let file = Output { kind: OutputKind::File { executable: false }, digest, size };
        Ok(Made {
            outputs: BTreeMap::from([("file".to_owned(), file)]),
            facts: BTreeMap::from([("unpacked".to_owned(), unpacked.to_string())]),
            notes: Vec::new(),
        })
    }
}

/// Cuts a tree into parts, in order. Where it is cut depends on names and on sizes nearby, so that a change moves no cut
/// far from it. Each part is complete with the folders above its entries: the kernel sets these again to what they are.
fn cut(tree: &Tree) -> Result<Vec<Tree>, StepError> {
    let mut parts: Vec<Vec<&Entry>> = vec![Vec::new()];
    let mut bytes = 0;
    for entry in tree.iter() {
        let size = match entry.node {
            Node::File { size, .. } => size,
            _ => 0,
        };
        // Before a large file, and behind it.
        if bytes > 0 && bytes + size > MOST {
            parts.push(Vec::new());
            bytes = 0;
        }
        if let Some(part) = parts.last_mut() {
            part.push(entry);
        }
        bytes += size;
        let name = mosbuild_cache::Digest::of(entry.path.as_bytes()).0[0];
        if bytes >= MOST || (bytes >= FEWEST && name.is_multiple_of(ENDS)) {
            parts.push(Vec::new());
            bytes = 0;
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.into_iter().map(|part| with_folders(tree, &part)).collect()
}

fn with_folders(tree: &Tree, part: &[&Entry]) -> Result<Tree, StepError> {
    let mut all: BTreeMap<TreePath, Entry> = BTreeMap::new();
    for entry in part {
        let mut above = entry.path.parent();
        while let Some(path) = above {
            if let Some(folder) = tree.get(&path) {
                all.insert(path.clone(), folder.clone());
            }
            above = path.parent();
        }
        all.insert(entry.path.clone(), (*entry).clone());
    }
    Tree::new(all.into_values().collect()).map_err(|e| StepError::new(e.to_string()))
}

#[cfg(test)]
mod tests {
    use mosbuild_cache::Digest;

    use super::*;

    fn tree(sizes: &[u64]) -> Tree {
        let file = |(n, size): (usize, &u64)| {
            let path = TreePath::new(format!("usr/{}/f{n:04}", n / 50)).unwrap();
            let node = Node::File { digest: Digest::of(&[n as u8, *size as u8]), size: *size };
            Entry::new(path, 0o644, node)
        };
        Tree::with_parents(sizes.iter().enumerate().map(file).collect()).unwrap()
    }

    #[test]
    fn parts_are_the_tree_and_a_change_moves_few_of_them() {
        let mut sizes: Vec<u64> = (0..600u64).map(|n| 1_000 + n * 7_919 % 60_000).collect();
        sizes[77] = 5 << 20;
        let whole = tree(&sizes);
        let parts = cut(&whole).unwrap();
        let mut again: BTreeMap<TreePath, Entry> = BTreeMap::new();
        for part in &parts {
            let new = part.iter().filter(|e| e.node != Node::Dir && again.contains_key(&e.path)).count();
            assert_eq!(new, 0, "a file is in two parts");
            again.extend(part.iter().map(|e| (e.path.clone(), e.clone())));
        }
        assert_eq!(Tree::new(again.into_values().collect()).unwrap(), whole);
        assert!(parts.len() > 15, "{}", parts.len());
        for part in &parts {
            let files = part.iter().filter(|e| e.node != Node::Dir).count();
            assert!(part.file_bytes() <= MOST || files == 1);
        }
        let known: std::collections::BTreeSet<Digest> = parts.iter().map(Tree::digest).collect();
        sizes[300] += 10_000;
        let other = cut(&tree(&sizes)).unwrap();
        let anew = other.iter().filter(|part| !known.contains(&part.digest())).count();
        assert!((1..=3).contains(&anew), "{anew} of {}", other.len());
    }
}
