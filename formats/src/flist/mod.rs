//! rfs flists: a tree's entries as an SQLite database, the contents of its files as encrypted blocks in some store beside it.
//! Knows the tables, the blocks and what a hostile file may try; does not know where blocks are kept or how they get there.
//!
//! A block is up to [`BLOCK_SIZE`] bytes of a file. It is named by what it is stored as and opened by what it holds
//! ([`block`]), so that equal contents are one block in every store, and a store alone tells nobody what is in it.
//!
//! Tables: `inode` (one row an entry; root is 1, its parent 0, its name `/`), `extra` (targets of symlinks), `block` (blocks of a
//! file, in row order), `tag`, `route` (URLs of stores, each for a range of first bytes of block ids).

pub mod block;
mod reader;
mod writer;

use std::fmt;

pub use reader::{Limits, read};
pub use writer::{sqlite_version, write};

/// Plain bytes in a block; the last of a file has the rest.
pub const BLOCK_SIZE: usize = 512 << 10;
/// First bytes of an SQLite database.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Longest name of an entry, as Linux has it.
pub const NAME_MAX: usize = 255;
/// Longest path, and longest target of a symlink.
pub const PATH_MAX: usize = 4095;

const S_IFMT: u32 = 0o170000;
const S_IFSOCK: u32 = 0o140000;
const S_IFLNK: u32 = 0o120000;
const S_IFREG: u32 = 0o100000;
const S_IFBLK: u32 = 0o060000;
const S_IFDIR: u32 = 0o040000;
const S_IFCHR: u32 = 0o020000;
const S_IFIFO: u32 = 0o010000;

/// BLAKE2b with 32 bytes of output.
pub type Hash = [u8; 32];

/// A block of a file, as the flist names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRef {
    /// Hash of the stored bytes: its name in the store.
    pub id: Hash,
    /// Hash of the plain bytes, which opens it.
    pub key: Hash,
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", hex(&self.id))
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Its blocks in order; an empty file has none.
        blocks: Vec<BlockRef>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as it is written.
        target: Vec<u8>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket. Read only: writing one is refused, since nothing comes of it.
    Socket,
}

impl Kind {
    fn type_bits(&self) -> u32 {
        match self {
            Kind::Dir => S_IFDIR,
            Kind::File { .. } => S_IFREG,
            Kind::Symlink { .. } => S_IFLNK,
            Kind::Char { .. } => S_IFCHR,
            Kind::Block { .. } => S_IFBLK,
            Kind::Fifo => S_IFIFO,
            Kind::Socket => S_IFSOCK,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `./`; the root is `.`.
    pub path: String,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group. rfs itself reads the owner's number for it.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// What it is.
    pub kind: Kind,
}

/// Where blocks are, by the first byte of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Lowest first byte.
    pub start: u8,
    /// Highest first byte.
    pub end: u8,
    /// `dir:///PATH`, `http(s)://…`, `s3(s)://HOST:PORT/BUCKET`, `zdb://…`.
    pub url: String,
}

/// A whole flist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flist {
    /// Sorted by path, directories before what is in them, the root first.
    pub entries: Vec<Entry>,
    /// In order.
    pub routes: Vec<Route>,
    /// Names and values, sorted.
    pub tags: Vec<(String, String)>,
}

/// Why an flist could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No database, or a damaged one.
    #[error("flist: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A database without a table that every flist has, or with things that none has.
    #[error("flist: {0}")]
    Schema(String),
    /// A row that makes no sense.
    #[error("flist: inode {ino}: {why}")]
    Inode {
        /// Its number.
        ino: i64,
        /// What is wrong with it.
        why: String,
    },
    /// Something else than rows of the right types.
    #[error("flist: table {table}: {why}")]
    Row {
        /// Which table.
        table: &'static str,
        /// What is wrong.
        why: String,
    },
    /// An entry that an flist cannot have.
    #[error("flist: {path:?}: {why}")]
    Entry {
        /// Its path.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// It is larger than the caller allows.
    #[error("flist: more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// Lower-case hex.
pub fn hex(hash: &Hash) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Where a block lies in a store that is a folder.
pub fn dir_path(id: &Hash) -> String {
    let hex = hex(id);
    format!("{}/{hex}", &hex[..2])
}

/// Whether a database begins here; only [`read`] tells whether it is an flist.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What is wrong with the name of an entry below the root.
fn name_fault(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("its name is empty"),
        "." | ".." => Some("it is named . or .."),
        _ if name.contains('/') => Some("its name has a slash"),
        _ if name.contains('\0') => Some("its name has a NUL"),
        _ if name.len() > NAME_MAX => Some("its name has more than 255 bytes"),
        _ => None,
    }
}

/// `dev_t` of Linux.
fn device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
}

/// The numbers that [`device`] was given.
fn device_numbers(dev: u64) -> (u32, u32) {
    let major = (dev >> 32 & 0xffff_f000) | (dev >> 8 & 0xfff);
    let minor = (dev >> 12 & 0xffff_ff00) | (dev & 0xff);
    (major as u32, minor as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn device_numbers_come_back(major: u32, minor: u32) {
            prop_assert_eq!(super::device_numbers(super::device(major, minor)), (major, minor));
        }
    }

    #[test]
    fn device_numbers_are_those_of_linux() {
        // What Python's os.makedev says.
        assert_eq!(super::device(5, 1), 0x501);
        assert_eq!(super::device(259, 0x12345), 0x1231_0345);
    }
}
