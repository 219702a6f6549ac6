//! Derived files (run records, step memory, the fresh stamp): magic, version, checksum, postcard body.
//! A file that is damaged, torn or of another version reads as `None`: derived data is never fatal.

use std::path::Path;

use mosbuild_cache::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes a value with its kind and version.
pub fn encode<T: Serialize>(kind: &[u8; 4], version: u32, value: &T) -> Vec<u8> {
    // postcard fails only for types that cannot be serialised at all; such a value reads back as absent.
    let body = postcard::to_stdvec(value).unwrap_or_default();
    let mut out = Vec::with_capacity(40 + body.len());
    out.extend_from_slice(kind);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&Digest::of(&body).0);
    out.extend_from_slice(&body);
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
