//! A bill of materials: what an image consists of and where each part comes from, as a value. Knows neither how it is gathered
//! (gather.rs and what it calls) nor the standards' forms (spdx.rs, cyclonedx.rs).

mod alpine;
mod crates;
mod cyclonedx;
mod firmware;
mod gather;
mod licence;
mod purl;
mod spdx;

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::Digest;

pub use cyclonedx::cyclonedx;
pub use gather::{Made, gather};
pub use spdx::spdx;

/// Why there is no bill.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that a build left is gone.
    #[error(transparent)]
    Blob(#[from] mosbuild_cache::BlobError),
    /// Something that a build left cannot be read.
    #[error("{target}: {what}")]
    Unreadable {
        /// The target.
        target: String,
        /// What is wrong.
        what: String,
    },
    /// What was built is not what the lock says.
    #[error("{target} was built from another mosbuild.lock: {what}")]
    Stale {
        /// The target.
        target: String,
        /// What differs.
        what: String,
    },
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A distribution's root file system.
    System,
    /// The kernel.
    Kernel,
    /// A program, or a package of a distribution.
    Application,
    /// A crate, or another source that is compiled in.
    Library,
    /// Firmware for a device.
    Firmware,
    /// Anything else that was downloaded.
    File,
}

/// One part.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is known by within the bill: its purl, where it has one.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version, where one is known.
    pub version: String,
    /// Its package URL.
    pub purl: Option<String>,
    /// Digests of the file that it came as, by the name of the algorithm (`SHA-256`, `BLAKE3`, `SHA-1`), in hex.
    pub hashes: BTreeMap<&'static str, String>,
    /// Its licence as its author wrote it; empty where nothing tells it.
    pub licence: String,
    /// Where it was downloaded.
    pub from: String,
    /// Its home page.
    pub page: String,
    /// In a few words.
    pub description: String,
    /// Who made it, or the source package that it is of.
    pub supplier: String,
    /// Its entry in mosbuild.lock; of a table's row `ID: ROW`.
    pub pins: BTreeSet<String>,
    /// What it is made of, or needs: ids.
    pub needs: BTreeSet<String>,
    /// Patches that it was changed by: path in the workspace, and text.
    pub patches: Vec<(String, String)>,
}

impl Part {
    /// A part without more than a name.
    pub fn new(
        kind: Kind,
        id: impl Into<String>,
        name: impl Into<String>,
        version: impl Into<String>,
    ) -> Part {
        Part {
            id: id.into(),
            kind,
            name: name.into(),
            version: version.into(),
            purl: None,
            hashes: BTreeMap::new(),
            licence: String::new(),
            from: String::new(),
            page: String::new(),
            description: String::new(),
            supplier: String::new(),
            pins: BTreeSet::new(),
            needs: BTreeSet::new(),
            patches: Vec::new(),
        }
    }

    /// One whose id is its purl.
    pub fn of_purl(kind: Kind, purl: String, name: impl Into<String>, version: impl Into<String>) -> Part {
        Part { purl: Some(purl.clone()), ..Part::new(kind, purl, name, version) }
    }
}

/// What an image consists of.
pub struct Bill {
    /// The project.
    pub project: String,
    /// The target.
    pub target: String,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub epoch: u64,
    /// Digests of the image, where it is a file.
    pub hashes: BTreeMap<&'static str, String>,
    /// The parts by id.
    pub parts: BTreeMap<String, Part>,
    /// Ids of those that the image was made of directly.
    pub top: BTreeSet<String>,
}

impl Bill {
    /// Adds a part; what is known of one that is there already stays, and what both need and are locked by is joined.
    pub fn add(&mut self, part: Part) -> String {
        let id = part.id.clone();
        match self.parts.get_mut(&id) {
            Some(there) => {
                there.pins.extend(part.pins);
                there.needs.extend(part.needs);
                for (name, hash) in part.hashes {
                    there.hashes.entry(name).or_insert(hash);
                }
                for (own, new) in [(&mut there.licence, part.licence), (&mut there.from, part.from)] {
                    if own.is_empty() {
                        *own = new;
                    }
                }
            }
            None => {
                self.parts.insert(id.clone(), part);
            }
        }
        id
    }

    /// The image's name.
    fn name(&self) -> String {
        if self.project.is_empty() {
            self.target.clone()
        } else {
            format!("{}/{}", self.project, self.target)
        }
    }

    /// When it was made, by `epoch`: equal images have equal bills.
    fn created(&self) -> String {
        rfc3339(self.epoch)
    }
}

/// A moment in UTC, seconds since 1970, as RFC 3339 writes it.
pub fn rfc3339(seconds: u64) -> String {
    let (year, month, day) = mosbuild_engine::run_record::civil(seconds / 86_400);
    let s = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// A UUID of version 8 made of what a document says, so that equal documents have one and others have others.
fn uuid(text: &str) -> String {
    let hex = Digest::of(text.as_bytes()).hex();
    let variant = ['8', '9', 'a', 'b'][usize::from(hex.as_bytes()[16]) % 4];
    format!("{}-{}-8{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// SHA-256 in hex.
fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The program that made the document.
fn creator() -> (&'static str, &'static str) {
    ("mosbuild", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_documents_are_uuids() {
        let id = uuid("x");
        assert_eq!(id, uuid("x"));
        assert_ne!(id, uuid("y"));
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(id.split('-').nth(2).unwrap().starts_with('8'));
        assert!("89ab".contains(&id.split('-').nth(3).unwrap()[..1]));
    }
}
