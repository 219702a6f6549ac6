//! What a URL gave the last time, so that a file that has not changed is not downloaded again.
//! Knows no protocol beyond the two validators that a server gave.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;

use mosbuild_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::partial::{folder, replace};
use super::{Expected, Fetched};

/// Longer validators are not remembered.
const LONGEST: usize = 1024;

/// A record of `downloads/`, named by the digest of the URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Digest of the place that gave it, which may have a password in it; the validators are this one's.
    place: Digest,
    pub etag: Option<String>,
    pub modified: Option<String>,
    size: u64,
    blake3: Digest,
    sha256: String,
    /// Nanoseconds since 1970; two records of the same bytes differ by it.
    at: u64,
}

/// What a server says of the version that it gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Validators {
    pub etag: Option<String>,
    pub modified: Option<String>,
}

fn path(store: &Store, url: &str) -> PathBuf {
    folder(store).join(format!("{}.known", Digest::of(url.as_bytes()).hex()))
}

impl Known {
    /// The record of a URL. One that cannot be read is as good as none.
    pub fn read(store: &Store, url: &str) -> Option<Known> {
        let mut text = String::new();
        File::open(path(store, url)).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Remembers what a place gave. The writer holds the lock of `key`.
    pub fn write(
        store: &Store,
        url: &str,
        place: &str,
        validators: Validators,
        got: &Expected,
        key: &Digest,
    ) -> Result<(), StoreError> {
        let short = |text: Option<String>| text.filter(|text| text.len() <= LONGEST);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let known = Known {
            place: Digest::of(place.as_bytes()),
            etag: short(validators.etag),
            modified: short(validators.modified),
            size: got.size,
            blake3: got.blake3,
            sha256: got.sha256.clone(),
            at: now.as_nanos() as u64,
        };
        let text = serde_json::to_vec(&known).unwrap_or_default();
        replace(&path(store, url), &folder(store).join(format!("{}.known-new", key.hex())), &text)
    }

    /// Whether this place can be asked if it is still the same.
    pub fn asks(&self, place: &str) -> bool {
        (self.etag.is_some() || self.modified.is_some()) && self.place == Digest::of(place.as_bytes())
    }

    /// The bytes, if the store still has them whole.
    pub fn in_store(&self, store: &Store) -> Option<Fetched> {
        store.blob_path(&self.blake3).ok()?;
        Some(Fetched {
            digest: self.blake3,
            size: self.size,
            sha256: self.sha256.clone(),
            from: super::FROM_STORE.into(),
        })
    }
}
