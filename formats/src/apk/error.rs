//! Why an Alpine file was refused, for the person who must find out which mirror or file is at fault.
//! Does not know the file's name or address; the caller puts it in front.

use std::io;

use crate::tarball::Refusal;

/// Why a package, an index or a database was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader failed.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// Bytes that begin neither as gzip nor as apk v3.
    #[error(
        "is no apk file: it begins with {found}, where gzip's 1f 8b is expected; was an error page downloaded?"
    )]
    NotApk {
        /// The first bytes, in hexadecimal.
        found: String,
    },
    /// A file of the format of apk-tools 3.
    #[error(
        "is in apk's version 3 format (\"ADB\"), which is not supported; Alpine's repositories up to 3.23 hold \
         version 2 packages and indexes"
    )]
    Version3,
    /// No bytes at all.
    #[error("is empty; remove it and fetch it again")]
    Empty,
    /// The file ends too early.
    #[error("is truncated: it ends after {bytes} bytes, inside {part}; remove it and fetch it again")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The compression or the archive is broken.
    #[error("{part} is damaged: {why}")]
    Damaged {
        /// What was being read.
        part: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Something after the end.
    #[error("has {part} after its data, at byte {at}; apk refuses such a file too")]
    Trailing {
        /// What.
        part: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// More than allowed.
    #[error("{part} has more than {limit} {what}")]
    Limit {
        /// Where.
        part: &'static str,
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// A member of the archive that could write where it should not, or that contradicts an earlier one.
    #[error("{path:?} {why}")]
    Refused {
        /// Its path in the package, lossily.
        path: String,
        /// Why.
        why: Refusal,
    },
    /// Something that must be there is not.
    #[error("has no {0}")]
    Missing(&'static str),
    /// The data is not that of the control member.
    #[error(
        "its data does not belong to its control part: .PKGINFO wants SHA-256 {expected}, the data has {actual}"
    )]
    DataHash {
        /// From `.PKGINFO`.
        expected: String,
        /// Of the bytes read.
        actual: String,
    },
    /// A wrong line in a text file.
    #[error("{file}, line {line}: {why}")]
    Line {
        /// Which text file.
        file: &'static str,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}
