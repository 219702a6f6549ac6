//! The resolved graph in binary form, keyed by everything that it was made from.
//! Derived data: a file that is damaged, torn or of another version is ignored and written anew.

use std::path::{Path, PathBuf};

use mosbuild_cache::Digest;

use super::facts::RuleSchema;
use super::{LoadOptions, Loaded};
use crate::framed;

/// Raised whenever `Loaded` or the meaning of the file changes.
const VERSION: u32 = 3;
const KIND: &[u8; 4] = b"mbgr";
/// Forms kept: one each for a few profiles.
const KEPT: usize = 8;

/// What the graph is made from, digested.
pub fn key(bytes: &[u8], options: &LoadOptions, schemas: &[RuleSchema]) -> Digest {
    let mut all = Vec::new();
    let mut part = |bytes: &[u8]| {
        all.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        all.extend_from_slice(bytes);
    };
    part(env!("CARGO_PKG_VERSION").as_bytes());
    part(&Digest::of(bytes).0);
    part(options.profile.as_ref().map_or(b"-".as_slice(), |_| b"+"));
    part(options.profile.as_deref().unwrap_or_default().as_bytes());
    part(options.arch.as_bytes());
    part(&(options.set.len() as u64).to_le_bytes());
    for (name, value) in &options.set {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    for rule in schemas {
        part(rule.name.as_bytes());
        part(&rule.version.to_le_bytes());
        part(rule.schema.to_string().as_bytes());
    }
    Digest::of(&all)
}

fn path(dir: &Path, key: &Digest) -> PathBuf {
    let hex: String = key.0[..12].iter().map(|b| format!("{b:02x}")).collect();
    dir.join(format!("{hex}.graph"))
}

/// The graph of that key, if it is there and whole.
pub fn get(dir: &Path, key: &Digest) -> Option<Loaded> {
    let bytes = std::fs::read(path(dir, key)).ok()?;
    let loaded: Loaded = framed::decode(KIND, VERSION, &bytes)?;
    (loaded.digest == *key).then_some(loaded)
}

/// Keeps a graph. What fails here costs the next run some time and is not said.
pub fn put(dir: &Path, key: &Digest, loaded: &Loaded) {
    let bytes = framed::encode(KIND, VERSION, loaded);
    if std::fs::create_dir_all(dir).is_ok() && framed::write(&path(dir, key), &bytes).is_ok() {
        prune(dir);
    }
}

fn prune(dir: &Path) {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "graph"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    for (_, old) in files.iter().rev().skip(KEPT) {
        // Another process may have removed it first.
        let _ = std::fs::remove_file(old);
    }
}
