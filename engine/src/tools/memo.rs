//! What was found out about tools in earlier runs, believed as long as every file that it was read off has its stat.
//!
//! Keeps dpkg's database (megabytes) from being read in a run in which nothing changed.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Surroundings;
use super::find::Found;

/// Changes whenever what is remembered changes its meaning.
const VERSION: u32 = 1;

/// The stat of a path, its last link not followed; none if there is nothing.
pub(super) type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

pub(super) fn stamp(path: &Path) -> Stamp {
    let stat = fs::symlink_metadata(path).ok()?;
    let (mtime, ctime) = ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()));
    Some((stat.dev(), stat.ino(), stat.size(), mtime.0, mtime.1, ctime.0, ctime.1))
}

#[derive(Debug, Default)]
pub(super) struct Memo {
    entries: BTreeMap<String, Arc<Found>>,
    /// Stats of this run: many tools depend on the same files.
    stamps: HashMap<PathBuf, Stamp>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    entries: BTreeMap<String, Found>,
}

/// A tool's name with all that is not a file and decides what is found.
pub(super) fn key(name: &str, surroundings: &Surroundings) -> String {
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    format!("{name}\0{toolchain}\0{surroundings:?}")
}

impl Memo {
    /// Bytes of another version, or damaged ones, are an empty memo.
    pub fn decode(bytes: &[u8]) -> Self {
        let stored = postcard::from_bytes::<Stored>(bytes).ok().filter(|stored| stored.version == VERSION);
        let entries = stored.map(|stored| stored.entries).unwrap_or_default();
        Self {
            entries: entries.into_iter().map(|(key, found)| (key, Arc::new(found))).collect(),
            stamps: HashMap::new(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|(key, found)| (key.clone(), Found::clone(found))).collect();
        postcard::to_allocvec(&Stored { version: VERSION, entries }).unwrap_or_default()
    }

    /// What was found, if nothing that it was read off has changed.
    pub fn recall(&mut self, key: &str) -> Option<Arc<Found>> {
        let found = self.entries.get(key)?.clone();
        let stamps = &mut self.stamps;
        let mut now = |path: &PathBuf| match stamps.get(path) {
            Some(known) => *known,
            None => *stamps.entry(path.clone()).or_insert(stamp(path)),
        };
        found.stamps.iter().all(|(path, then)| now(path) == *then).then_some(found)
    }

    pub fn remember(&mut self, key: String, found: Arc<Found>) {
        self.entries.insert(key, found);
    }
}
