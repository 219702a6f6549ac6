//! The "newc" cpio format the kernel unpacks as initramfs: the entry type, its writer and its reader.
//! Knows the header layout and the kernel's rules for it; does not know trees, compression or where data lives.

mod reader;
mod writer;

pub use reader::{LinkId, Member, Members, Reader};
pub use writer::Writer;

use std::io;

/// Longest name including its NUL; the kernel skips or refuses anything longer (PATH_MAX).
pub const NAME_MAX: usize = 4096;
/// Name of the member that ends an archive.
pub const TRAILER: &[u8] = b"TRAILER!!!";

const HEADER_LEN: usize = 110;
const S_IFMT: u32 = 0o170000;
const S_IFSOCK: u32 = 0o140000;
const S_IFLNK: u32 = 0o120000;
const S_IFREG: u32 = 0o100000;
const S_IFBLK: u32 = 0o060000;
const S_IFDIR: u32 = 0o040000;
const S_IFCHR: u32 = 0o020000;
const S_IFIFO: u32 = 0o010000;

/// What a member is, with what only that kind carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file of so many bytes, which follow as data.
    File {
        /// Length of the data.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
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
    /// A socket. Read only: writing one is refused, since no image has a use for it.
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

/// One member: its name relative to the root, its metadata and its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading slash, without NUL.
    pub name: Vec<u8>,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
}

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The underlying reader or writer failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A name the kernel would skip, or that would leave the root.
    #[error("cpio: {name:?}: {why}")]
    Name {
        /// The name, lossily.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A member whose parent directory did not come before it: the kernel would drop it silently.
    #[error("cpio: {name:?} comes before its directory {parent:?}")]
    ParentMissing {
        /// The member.
        name: String,
        /// The directory not yet seen.
        parent: String,
    },
    /// newc has 32-bit sizes.
    #[error("cpio: {name:?} has {size} bytes; newc cannot hold a file of 4 GiB or more")]
    TooLarge {
        /// The member.
        name: String,
        /// Its size.
        size: u64,
    },
    /// The data given is not as long as the entry says.
    #[error("cpio: {name:?}: {expected} bytes announced, {got} given")]
    Size {
        /// The member.
        name: String,
        /// Announced size.
        expected: u64,
        /// Bytes given (one more than announced stands for "more").
        got: u64,
    },
    /// The archive is damaged or not newc.
    #[error("cpio: at byte {offset}: {why}")]
    Malformed {
        /// Where in the stream.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The archive is larger than the caller allows.
    #[error("cpio: more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// What a reader accepts before it gives up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of members.
    pub entries: u64,
    /// Bytes of the whole stream.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 4_000_000, bytes: 64 << 30 }
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Checks a member name: relative, normalised, NUL-free, short enough. `.` alone names the root.
fn check_name(name: &[u8]) -> Result<(), Error> {
    let fail = |why| Err(Error::Name { name: lossy(name), why });
    if name.is_empty() {
        return fail("empty name");
    }
    if name.len() >= NAME_MAX {
        return fail("longer than the kernel's PATH_MAX");
    }
    if name.contains(&0) {
        return fail("contains a NUL");
    }
    if name == TRAILER {
        return fail("is the end-of-archive mark");
    }
    if name == b"." {
        return Ok(());
    }
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" => return fail("absolute, or with an empty component"),
            b"." | b".." => return fail("has a '.' or '..' component"),
            _ => {}
        }
    }
    Ok(())
}

/// Padding to a multiple of `align` after `len` bytes.
fn padding(len: u64, align: u64) -> u64 {
    (align - len % align) % align
}
