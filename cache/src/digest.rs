//! BLAKE3 digests of bytes and files. Knows no store.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Larger files are hashed by several threads, which read and hash pieces of this size: a power of two, as BLAKE3's
/// tree wants it, and small enough for a second-level cache.
const PIECE: u64 = 1 << 20;

/// A BLAKE3 digest: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// Of a file's content, with its size in bytes.
    pub fn of_file(path: &Path) -> std::io::Result<(Digest, u64)> {
        Digest::of_open(&mut File::open(path)?)
    }

    /// Of an open file that nothing was read of yet, with its size in bytes.
    pub fn of_open(file: &mut File) -> std::io::Result<(Digest, u64)> {
        let size = file.metadata()?.len();
        if size > PIECE {
            return Ok((in_pieces(file, size)?, size));
        }
        // One byte more than there should be: one read then tells that the end was reached too.
        let mut bytes = vec![0; size as usize + 1];
        let n = match file.read(&mut bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        bytes.truncate(n);
        if n as u64 != size {
            file.read_to_end(&mut bytes)?;
        }
        Ok((Digest::of(&bytes), bytes.len() as u64))
    }

    /// 64 hex digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

/// Reads rather than maps: a file that is truncated meanwhile must be an error, not a SIGBUS; and the reading is
/// shared out too, which mapping leaves to page faults.
fn in_pieces(file: &File, size: u64) -> std::io::Result<Digest> {
    let subtrees = (0..size.div_ceil(PIECE))
        .into_par_iter()
        .map_init(
            || vec![0; PIECE as usize],
            |buffer, piece| {
                let offset = piece * PIECE;
                let part = &mut buffer[..(size - offset).min(PIECE) as usize];
                file.read_exact_at(part, offset)?;
                Ok(blake3::Hasher::new().set_input_offset(offset).update(part).finalize_non_root())
            },
        )
        .collect::<std::io::Result<Vec<ChainingValue>>>()?;
    let (left, right) = halves(&subtrees);
    Ok(Digest(*merge_subtrees_root(&join(left), &join(right), Mode::Hash).as_bytes()))
}

/// The left side of a BLAKE3 tree is the largest power of two that leaves something for the right.
fn halves(subtrees: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    subtrees.split_at(subtrees.len().next_power_of_two() / 2)
}

fn join(subtrees: &[ChainingValue]) -> ChainingValue {
    match subtrees {
        [one] => *one,
        more => {
            let (left, right) = halves(more);
            merge_subtrees_non_root(&join(left), &join(right), Mode::Hash)
        }
    }
}

/// Hashes bytes as they come.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Hasher {
        Hasher::default()
    }
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    /// The digest of all bytes added.
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// Text that is not 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("not a digest: 64 hex digits are expected")]
pub struct BadDigest;

impl FromStr for Digest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Digest, BadDigest> {
        blake3::Hash::from_hex(text).map(|h| Digest(*h.as_bytes())).map_err(|_| BadDigest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match s.is_human_readable() {
            true => s.serialize_str(&self.hex()),
            false => self.0.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Digest, D::Error> {
        match d.is_human_readable() {
            true => String::deserialize(d)?.parse().map_err(serde::de::Error::custom),
            false => <[u8; 32]>::deserialize(d).map(Digest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_size_hash_as_their_bytes_do() {
        let dir = tempfile::tempdir().unwrap();
        let piece = PIECE as usize;
        let around = (1..=9).chain([16, 17, 31]).flat_map(|n| [n * piece - 1, n * piece, n * piece + 1]);
        for size in [0, 1, 1000, 1024, 1025].into_iter().chain(around) {
            let bytes: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let path = dir.path().join(size.to_string());
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(Digest::of_file(&path).unwrap(), (Digest::of(&bytes), size as u64));
        }
    }

    #[test]
    fn hex_is_read_back() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.hex().parse::<Digest>().unwrap(), digest);
        assert!("12".parse::<Digest>().is_err());
    }
}
