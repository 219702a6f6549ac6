//! Alpine's package format, version 2: packages, indexes, their signatures, the installed database, dependencies.
//! Pure codecs: knows no network, no key directory and no resolver; apk itself resolves and installs.
//! Facts from apk-tools' documentation and behaviour (2.14 and 3.0), checked against genuine files in the tests.

pub mod atom;
pub mod chain;
pub mod db;
mod error;
pub mod index;
pub mod members;
pub mod package;
mod pkginfo;
pub mod signature;
pub mod version;

pub use error::Error;
pub use index::{Index, IndexEntry};
pub use members::Digests;
pub use package::{Package, PackageEntry};
pub use pkginfo::PkgInfo;
pub use signature::{Algorithm, Key, Signature, SignatureError, verify};

/// What a reader accepts: bounds on what a hostile file may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Expanded bytes of one signature or control member.
    pub control_bytes: u64,
    /// Signature members before the control member.
    pub signatures: usize,
    /// Bytes of all files of a package together.
    pub data_bytes: u64,
    /// Entries of a package.
    pub entries: u64,
    /// Bytes of paths, link targets, owner names and extended attributes of a package, which are held in memory.
    pub names_bytes: u64,
    /// Expanded bytes of an index.
    pub index_bytes: u64,
}

impl Default for Limits {
    /// Several times what Alpine's largest packages and indexes need.
    fn default() -> Self {
        Limits {
            control_bytes: 16 << 20,
            signatures: 16,
            data_bytes: 16 << 30,
            entries: 500_000,
            names_bytes: 256 << 20,
            index_bytes: 512 << 20,
        }
    }
}

/// Alpine's way of writing a SHA-1: `Q1` and base64.
pub fn q1(sha1: &[u8; 20]) -> String {
    use base64ct::{Base64, Encoding};
    format!("Q1{}", Base64::encode_string(sha1))
}

/// Whether text can stand in a package's file name: letters, digits, `.`, `_`, `+`, `-` and `~`, beginning with a
/// letter or a digit.
fn is_file_name_part(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b))
}
