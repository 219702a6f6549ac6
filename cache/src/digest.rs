//! BLAKE3 digests of bytes and files. Knows no store.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Files from this size on are hashed by several threads (measured: below it the threads cost more than they give).
const PARALLEL: u64 = 1 << 20;
/// Bytes read at a time of a large file.
const CHUNK: usize = 4 << 20;

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

    /// Of what is left to read of an open file, with its size in bytes.
    pub fn of_open(file: &mut File) -> std::io::Result<(Digest, u64)> {
        let size = file.metadata()?.len();
        let mut hasher = blake3::Hasher::new();
        if size < PARALLEL {
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
            hasher.update(&bytes);
            return Ok((Digest(*hasher.finalize().as_bytes()), bytes.len() as u64));
        }
        // Read rather than mapped: a file that is truncated meanwhile must be an error, not a SIGBUS.
        let mut total = 0;
        let mut buffers = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut filled = fill(file, &mut buffers.0)?;
        while filled > 0 {
            total += filled as u64;
            let (ready, next) = (&buffers.0[..filled], &mut buffers.1);
            let (_, read) = rayon::join(|| hasher.update_rayon(ready), || fill(file, next));
            filled = read?;
            std::mem::swap(&mut buffers.0, &mut buffers.1);
        }
        Ok((Digest(*hasher.finalize().as_bytes()), total))
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

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
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
        for size in [0, 1, 1000, PARALLEL as usize - 1, PARALLEL as usize, CHUNK, CHUNK + 1, 2 * CHUNK + 17] {
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
