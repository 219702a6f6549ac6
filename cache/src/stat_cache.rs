//! Digests of workspace files by their stat, so that an unchanged file is not read. Knows no workspace.
//!
//! A remembered digest is used only if device, inode, size, mode, mtime and ctime are what they were, and if mtime
//! and ctime were older than the moment of hashing by a slack: a file written in the same tick of a coarse clock as
//! it was hashed may change again without its stamps changing (git calls such an entry racy). The moment is this
//! machine's clock, by which local file systems stamp.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Nanoseconds by which stamps must be older than the hashing: two ticks of a 100 Hz kernel.
const SLACK: i64 = 20_000_000;
/// How often a file that keeps changing is hashed again.
const TRIES: usize = 5;

/// What is known of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMeta {
    /// Its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Owner's execute bit.
    pub executable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mode: u32,
    mtime: i64,
    ctime: i64,
}

impl Stamp {
    fn of(m: &Metadata) -> Stamp {
        let nanos = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Stamp {
            dev: m.dev(),
            ino: m.ino(),
            size: m.size(),
            mode: m.mode(),
            mtime: nanos(m.mtime(), m.mtime_nsec()),
            ctime: nanos(m.ctime(), m.ctime_nsec()),
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Known {
    stamp: Stamp,
    digest: Digest,
    /// When it was hashed, by the clock of stamps.
    observed: i64,
}

impl Known {
    fn fits(&self, stamp: &Stamp) -> bool {
        self.stamp == *stamp && stamp.mtime.max(stamp.ctime) < self.observed - SLACK
    }
}

/// Remembered digests by path.
#[derive(Clone, Debug, Default)]
pub struct StatCache {
    /// By the bytes of the path: hashing and comparing a `Path` goes through its components.
    known: HashMap<OsString, Known>,
    hashed: u64,
}

impl StatCache {
    /// Reads the stored value; anything unreadable is empty.
    pub fn decode(bytes: &[u8]) -> StatCache {
        StatCache { known: postcard::from_bytes(bytes).unwrap_or_default(), hashed: 0 }
    }

    /// The value to store.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.known).unwrap_or_default()
    }

    /// How many files were read so far, rather than remembered.
    pub fn hashed(&self) -> u64 {
        self.hashed
    }

    /// The content of one file.
    pub fn digest_file(&mut self, path: &Path) -> io::Result<FileMeta> {
        self.digest_many(std::slice::from_ref(&path.to_owned()))
            .pop()
            .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    }

    /// The contents of files, in parallel, in their order.
    pub fn digest_many(&mut self, paths: &[PathBuf]) -> Vec<io::Result<FileMeta>> {
        let known = &self.known;
        let look = |path: &PathBuf| look(path, known.get(path.as_os_str()));
        let found: Vec<io::Result<(FileMeta, Option<Known>)>> = match paths.len() {
            0..32 => paths.iter().map(look).collect(),
            _ => paths.par_iter().with_min_len(32).map(look).collect(),
        };
        found
            .into_iter()
            .zip(paths)
            .map(|(result, path)| {
                let (meta, new) = result?;
                if let Some(new) = new {
                    self.hashed += 1;
                    self.known.insert(path.clone().into_os_string(), new);
                }
                Ok(meta)
            })
            .collect()
    }
}

fn look(path: &Path, known: Option<&Known>) -> io::Result<(FileMeta, Option<Known>)> {
    let stamp = Stamp::of(&fs::metadata(path)?);
    if let Some(known) = known.filter(|k| k.fits(&stamp)) {
        return Ok((meta(&stamp, known.digest), None));
    }
    for _ in 0..TRIES {
        let mut file = File::open(path)?;
        let before = Stamp::of(&file.metadata()?);
        let observed = now();
        let (digest, _) = Digest::of_open(&mut file)?;
        // By path, so that a file renamed over it meanwhile is seen too.
        if Stamp::of(&fs::metadata(path)?) == before {
            return Ok((meta(&before, digest), Some(Known { stamp: before, digest, observed })));
        }
    }
    Err(io::Error::other("it keeps changing while it is read"))
}

fn meta(stamp: &Stamp, digest: Digest) -> FileMeta {
    FileMeta { digest, size: stamp.size, executable: stamp.mode & 0o100 != 0 }
}

/// The present by the coarse clock that local file systems stamp with; never ahead of a stamp made later. A file
/// stamped ahead of it (another machine's clock) is never trusted, and hashed each time.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64) - SLACK / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settled(path: &Path) {
        let old = SystemTime::now() - Duration::from_secs(10);
        File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one").unwrap();
        settled(&path);
        let mut cache = StatCache::default();
        assert_eq!(cache.digest_file(&path).unwrap().digest, Digest::of(b"one"));
        let mut again = StatCache::decode(&cache.encode());
        assert_eq!(again.digest_file(&path).unwrap().digest, Digest::of(b"one"));
        assert_eq!((cache.hashed(), again.hashed()), (1, 0));
    }

    #[test]
    fn a_same_sized_change_under_an_equal_mtime_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one").unwrap();
        settled(&path);
        let mut cache = StatCache::default();
        cache.digest_file(&path).unwrap();
        let mtime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        assert_eq!(cache.digest_file(&path).unwrap().digest, Digest::of(b"two"));
    }

    #[test]
    fn a_file_hashed_right_after_it_was_written_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut cache = StatCache::default();
        fs::write(&path, "one").unwrap();
        cache.digest_file(&path).unwrap();
        cache.digest_file(&path).unwrap();
        assert_eq!(cache.hashed(), 2, "a racy entry must be hashed again");
    }

    #[test]
    fn a_name_of_any_bytes_is_remembered() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
        fs::write(&path, "one").unwrap();
        settled(&path);
        let mut cache = StatCache::default();
        cache.digest_file(&path).unwrap();
        let mut again = StatCache::decode(&cache.encode());
        again.digest_file(&path).unwrap();
        assert_eq!(again.hashed(), 0);
    }

    #[test]
    fn what_changes_while_it_is_hashed_is_never_answered_with_older_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "0000000").unwrap();
        let mut cache = StatCache::default();
        // Same size, in place, as fast as can be: what the file held before the question must not be the answer.
        for n in 1..3000u32 {
            let text = format!("{n:07}");
            fs::write(&path, &text).unwrap();
            assert_eq!(cache.digest_file(&path).unwrap().digest, Digest::of(text.as_bytes()), "{n}");
        }
    }

    #[test]
    fn the_execute_bit_is_part_of_the_answer() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one").unwrap();
        let mut cache = StatCache::default();
        assert!(!cache.digest_file(&path).unwrap().executable);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(cache.digest_file(&path).unwrap().executable);
    }
}
