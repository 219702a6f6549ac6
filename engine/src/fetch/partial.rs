//! A download that is not finished: its bytes so far, their digests, and what a server needs to go on with it.
//! Knows no protocol; whoever uses it holds the lock of its key.
//!
//! ```text
//! ROOT/downloads/KEY.part   the bytes        KEY.side    where they come from (serde_json of `Side`)
//! ROOT/downloads/URL.known  what a URL gave the last time (known.rs)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use mosbuild_cache::{Digest, Hasher, Ingest, Store, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Expected;

/// What is remembered of where the bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Side {
    /// Digest of the place that gave them, which may have a password in it.
    place: Digest,
    /// A strong ETag, or a Last-Modified that is as good: what `If-Range` may name.
    pub validator: Option<String>,
    /// The kernel's boot: after a crash of the machine a file's end may be zeros.
    boot: String,
}

impl Side {
    pub fn new(place: &str, validator: Option<String>) -> Side {
        Side { place: Digest::of(place.as_bytes()), validator, boot: boot() }
    }

    /// Whether this place gave them.
    pub fn is_of(&self, place: &str) -> bool {
        self.place == Digest::of(place.as_bytes())
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The folder of unfinished downloads.
pub(super) fn folder(store: &Store) -> PathBuf {
    store.root().join("downloads")
}

pub(super) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

/// Writes a small file as a whole or not at all.
pub(super) fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let written = fs::write(temporary, bytes).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    at(path, written)
}

/// The bytes so far.
pub(super) struct Partial {
    path: PathBuf,
    side_path: PathBuf,
    file: Option<File>,
    len: u64,
    blake3: Hasher,
    sha256: Sha256,
    side: Option<Side>,
    /// Whether all bytes came in one piece.
    pub in_one: bool,
}

impl Partial {
    /// What an earlier try left, or nothing. What it left is read, as its digests are needed.
    pub fn open(store: &Store, key: &Digest, guessed: bool) -> Result<Partial, StoreError> {
        let path = folder(store).join(format!("{}.part", key.hex()));
        let mut partial = Partial {
            side_path: path.with_extension("side"),
            path,
            file: None,
            len: 0,
            blake3: Hasher::new(),
            sha256: Sha256::new(),
            side: None,
            in_one: true,
        };
        let mut file = match OpenOptions::new().read(true).append(true).open(&partial.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(partial),
            Err(source) => return Err(StoreError::Io { path: partial.path.clone(), source }),
        };
        let side = fs::read(&partial.side_path).ok();
        partial.side = side.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // Nobody would notice zeros at its end where no digest is expected.
        if guessed && partial.side.as_ref().is_none_or(|side| side.boot.is_empty() || side.boot != boot()) {
            partial.discard();
            return Ok(partial);
        }
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => partial.count(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(StoreError::Io { path: partial.path.clone(), source }),
            }
        }
        partial.file = Some(file);
        partial.in_one = partial.len == 0;
        Ok(partial)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where they come from.
    pub fn side(&self) -> Option<&Side> {
        self.side.as_ref()
    }

    /// Size and digests of the bytes so far.
    pub fn got(&self) -> Expected {
        let sha256 = self.sha256.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Expected { size: self.len, blake3: self.blake3.finish(), sha256 }
    }

    /// Starts from nothing.
    pub fn begin(&mut self, side: Side) -> Result<(), StoreError> {
        (self.len, self.blake3, self.sha256, self.in_one) = (0, Hasher::new(), Sha256::new(), true);
        let parent = self.path.parent().unwrap_or(&self.path).to_owned();
        at(&parent, fs::create_dir_all(&parent))?;
        // Empty before the side file tells of another origin.
        let mut options = OpenOptions::new();
        let emptied = options.append(true).create(true).open(&self.path).and_then(|file| {
            file.set_len(0)?;
            Ok(file)
        });
        self.file = Some(at(&self.path, emptied)?);
        self.origin(side)
    }

    /// The bytes that follow come from here.
    pub fn origin(&mut self, side: Side) -> Result<(), StoreError> {
        if self.side.as_ref() != Some(&side) {
            let text = serde_json::to_vec(&side).unwrap_or_default();
            replace(&self.side_path, &self.side_path.with_extension("side-new"), &text)?;
            self.side = Some(side);
        }
        Ok(())
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(file) = &mut self.file else {
            let what = "bytes came before the download was begun".into();
            return Err(StoreError::Refused { path: self.path.clone(), what });
        };
        at(&self.path, file.write_all(bytes))?;
        self.count(bytes);
        Ok(())
    }

    /// Forgets everything, also on disk.
    pub fn discard(&mut self) {
        self.file = None;
        self.side = None;
        (self.len, self.blake3, self.sha256, self.in_one) = (0, Hasher::new(), Sha256::new(), true);
        for path in [&self.path, &self.side_path, &self.side_path.with_extension("side-new")] {
            let _ = fs::remove_file(path);
        }
    }

    /// The bytes become a blob of the store.
    pub fn finish(&mut self, store: &Store) -> Result<Expected, StoreError> {
        let got = self.got();
        // Closed before it becomes a blob, to which nobody may write.
        self.file = None;
        let (digest, size) = store.put_file(&self.path, Ingest::Move { executable: false })?;
        self.discard();
        if (digest, size) != (got.blake3, got.size) {
            let what =
                "its bytes are not those that were written: another program or a failing disk changed them";
            return Err(StoreError::Refused { path: self.path.clone(), what: what.into() });
        }
        Ok(got)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.len == 0 && self.file.is_some() {
            self.discard();
        }
    }
}
