//! Derived files (run records, step memory, the fresh stamp): magic, version, checksum, postcard body.
//! A file that is damaged, torn or of another version reads as `None`: derived data is never fatal.

use std::path::Path;

use mosbuild_cache::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes a value with its kind and version.
pub fn encode<T: Serialize>(kind: &[u8; 4], version: u32, value: &T) -> Vec<u8> {
    // postcard fails only for types that cannot be serialised at all; such a value reads back as absent.
    framed(kind, version, postcard::to_extend(value, head()).unwrap_or_else(|_| head()))
}

/// Encodes a list, of which only one item is held at a time; it decodes as a `Vec`.
pub fn encode_all<T: Serialize>(
    kind: &[u8; 4],
    version: u32,
    items: impl ExactSizeIterator<Item = T>,
) -> Vec<u8> {
    let mut out = postcard::to_extend(&items.len(), head()).unwrap_or_else(|_| head());
    for item in items {
        out = postcard::to_extend(&item, out).unwrap_or_else(|_| head());
    }
    framed(kind, version, out)
}

/// Kind, version and checksum, to be filled in.
const HEAD: usize = 40;

fn head() -> Vec<u8> {
    vec![0; HEAD]
}

fn framed(kind: &[u8; 4], version: u32, mut out: Vec<u8>) -> Vec<u8> {
    let sum = Digest::of(&out[HEAD..]);
    out[..4].copy_from_slice(kind);
    out[4..8].copy_from_slice(&version.to_le_bytes());
    out[8..HEAD].copy_from_slice(&sum.0);
    out
}

/// Decodes what [`encode`] wrote; `None` for anything else.
pub fn decode<T: DeserializeOwned>(kind: &[u8; 4], version: u32, bytes: &[u8]) -> Option<T> {
    let rest = bytes.strip_prefix(kind)?.strip_prefix(&version.to_le_bytes())?;
    let (sum, body) = rest.split_at_checked(32)?;
    if Digest::of(body).0 != sum {
        return None;
    }
    postcard::from_bytes(body).ok()
}

/// Writes a file by a temporary name and a rename.
pub fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #[test]
    fn damage_reads_as_absent() {
        let list = vec![("a".to_owned(), 300u32), ("b".to_owned(), 1)];
        let one_by_one = super::encode_all(b"test", 3, list.iter());
        assert_eq!(one_by_one, super::encode(b"test", 3, &list));
        let bytes = super::encode(b"test", 3, &("hello".to_owned(), 7u32));
        assert_eq!(super::decode::<(String, u32)>(b"test", 3, &bytes), Some(("hello".into(), 7)));
        assert_eq!(super::decode::<(String, u32)>(b"test", 4, &bytes), None);
        assert_eq!(super::decode::<(String, u32)>(b"othr", 3, &bytes), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(super::decode::<(String, u32)>(b"test", 3, &damaged), None, "byte {at}");
            assert_eq!(super::decode::<(String, u32)>(b"test", 3, &bytes[..at]), None, "cut at {at}");
        }
    }
}
