//! The ELF files of a tree, told by their first bytes and not by their names; and the tree with other files in their
//! places, everything else about them kept.

use std::collections::HashMap;
use std::io::Read;

use mosbuild_cache::{Digest, Entry, Node, Store, Tree};
use mosbuild_engine::action::StepError;
use mosbuild_formats::elf::{self, Kind};
use rayon::prelude::*;

/// The smallest ELF file: the header of a 32-bit one.
const SMALLEST: u64 = 52;

/// The files of a tree among those that `wanted` wants which begin as ELF files do.
pub fn elves<'t>(
    store: &Store,
    tree: &'t Tree,
    wanted: impl Fn(&Entry, u64) -> bool,
) -> Result<Vec<(&'t Entry, Digest, u64)>, StepError> {
    let mut found = Vec::new();
    for entry in tree.iter() {
        if let Node::File { digest, size } = entry.node
            && size >= SMALLEST
            && wanted(entry, size)
        {
            found.push((entry, digest, size));
        }
    }
    let mut digests: Vec<Digest> = found.iter().map(|(_, digest, _)| *digest).collect();
    digests.sort_unstable();
    digests.dedup();
    let is_elf: HashMap<Digest, bool> = digests
        .into_par_iter()
        .map(|digest| Ok((digest, begins_as_elf(store, &digest)?)))
        .collect::<Result<_, StepError>>()?;
    found.retain(|(_, digest, _)| is_elf.get(digest).is_some_and(|is| *is));
    Ok(found)
}

/// Those of the files that are of a kind, by what is in them.
pub fn of_kind<'t>(
    store: &Store,
    found: Vec<(&'t Entry, Digest, u64)>,
    kind: Kind,
) -> Result<Vec<(&'t Entry, Digest, u64)>, StepError> {
    // A damaged file is of no kind.
    let is = |digest: &Digest| Ok(elf::kind(&store.read(digest)?).ok() == Some(kind));
    let fits: Vec<bool> =
        found.par_iter().map(|(_, digest, _)| is(digest)).collect::<Result<_, StepError>>()?;
    Ok(found.into_iter().zip(fits).filter(|(_, fits)| *fits).map(|(file, _)| file).collect())
}

fn begins_as_elf(store: &Store, digest: &Digest) -> Result<bool, StepError> {
    let mut head = [0; elf::MAGIC.len()];
    std::fs::File::open(store.blob_path(digest)?)?.read_exact(&mut head)?;
    Ok(head == *elf::MAGIC)
}

/// The tree with these contents in place of others, by digest; modes, owners and all else stay.
pub fn replaced(tree: &Tree, by: &HashMap<Digest, (Digest, u64)>, at: impl Fn(&Entry) -> bool) -> Tree {
    let entries = tree.iter().map(|entry| {
        let mut entry = entry.clone();
        if let Node::File { digest, .. } = &entry.node
            && let Some((digest, size)) = by.get(digest)
            && at(&entry)
        {
            entry.node = Node::File { digest: *digest, size: *size };
        }
        entry
    });
    // The same paths as before.
    Tree::new(entries.collect()).unwrap_or_default()
}
