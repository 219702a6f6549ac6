//! Tar archives, compressed or not, as a stream of entries that cannot reach outside of the tree they describe.
//! Unpacks nothing: each entry is shown to the caller with its data. Does not know stores, digests or trees.

pub(crate) mod names;

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::EntryType;

use crate::compress::{self, Decoder};
use names::{Names, Place};

pub use names::Refusal;

/// Bytes of headers (long names, pax records) accepted for one entry; the tar library holds them in memory.
const HEADERS_MAX: u64 = 1 << 20;

/// What is accepted, and how paths are changed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leading components cut off each path; entries with no more than these are left out.
    pub strip_components: usize,
    /// Whether device nodes are shown (they are an error otherwise).
    pub allow_devices: bool,
    /// Bound on the bytes of all files together.
    pub max_bytes: u64,
    /// Bound on the number of entries.
    pub max_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { strip_components: 0, allow_devices: false, max_bytes: 32 << 30, max_entries: 4_000_000 }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Length of its data.
        size: u64,
    },
    /// Another name for a file shown before.
    HardLink {
        /// Path of that file, after stripping; itself never a hard link.
        to: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written. It may point anywhere; no entry lies below it.
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
}

/// One entry, its path safe to join to a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative, without `.`, `..` and empty components, not empty.
    pub path: Vec<u8>,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Entries shown.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Directories that entries lie in but that have no entry of their own, sorted: parents first.
    pub implied_dirs: Vec<Vec<u8>>,
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed, or the archive is damaged.
    #[error("tar: {0}")]
    Io(#[from] io::Error),
    /// The compression is damaged.
    #[error("tar: {0}")]
    Compress(#[from] compress::Error),
    /// Bytes that are no tar archive, but known otherwise.
    #[error("tar: compressed with {0}, which is not supported: use gzip, xz or zstd")]
    Unsupported(&'static str),
    /// An entry that could write where it should not, or that contradicts an earlier one.
    #[error("tar: {path:?}: {why}")]
    Refused {
        /// Its path as in the archive, lossily.
        path: String,
        /// Why.
        why: Refusal,
    },
    /// Larger than allowed.
    #[error("tar: more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}

/// Shows each entry of `input` (gzip, xz, zstd or plain) to `visit` with its data, in the order of the archive.
///
/// The whole input is read, so that the compression's checksum has been verified when this returns.
pub fn read<R, E, F>(input: R, options: &Options, mut visit: F) -> Result<Summary, E>
where
    R: Read,
    E: From<Error>,
    F: FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
{
    let decoder = Decoder::new(input, stream_max(options)).map_err(Error::Compress)?;
    let is_plain = decoder.format() == compress::Format::None;
    let (summary, mut rest) =
        walk(decoder, is_plain, options, |_| Ok(()), |entry, (), data| visit(entry, data))?;
    io::copy(&mut rest, &mut io::sink()).map_err(convert)?;
    Ok(summary)
}

/// Bytes of a tar stream that keeps within the options: a header and half a block of padding for each entry.
pub(crate) fn stream_max(options: &Options) -> u64 {
    options.max_entries.saturating_mul(2048).saturating_add(options.max_bytes)
}

/// [`read`] over an expanded stream; `extra` takes what the caller needs besides from an entry that was accepted.
/// Gives back the stream where the archive ends, which is after its first empty block.
pub(crate) fn walk<R, X, E, M, F>(
    stream: R,
    is_plain: bool,
    options: &Options,
    mut extra: M,
    mut visit: F,
) -> Result<(Summary, impl Read), E>
where
    R: Read,
    E: From<Error>,
    M: FnMut(&mut tar::Entry<'_, Budgeted<R>>) -> Result<X, Error>,
    F: FnMut(&Entry, X, &mut dyn Read) -> Result<(), E>,
{
    let budget = Rc::new(Cell::new(HEADERS_MAX));
    let mut archive =
        tar::Archive::new(Budgeted { inner: stream, budget: budget.clone(), head: Some(is_plain) });
    let mut names = Names::default();
    let mut summary = Summary::default();
    let mut entries = archive.entries().map_err(convert)?;
    loop {
        budget.set(HEADERS_MAX);
        let Some(entry) = entries.next() else { break };
        let mut raw = entry.map_err(convert)?;
        budget.set(u64::MAX);
        refuse_pax_sparse(&mut raw)?;
        let Some(entry) = accept(&raw, options, &mut names)? else { continue };
        summary.entries += 1;
        if summary.entries > options.max_entries {
            return Err(Error::Limit { what: "entries", limit: options.max_entries }.into());
        }
        let size = match entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        // Announced sizes are added, not bytes seen: a sparse file is short in the archive and long outside.
        summary.bytes = summary.bytes.saturating_add(size);
        if summary.bytes > options.max_bytes {
            return Err(Error::Limit { what: "bytes", limit: options.max_bytes }.into());
        }
        let more = extra(&mut raw)?;
        let mut data = Data { inner: &mut raw, left: size };
        visit(&entry, more, &mut data)?;
        io::copy(&mut data, &mut io::sink()).map_err(convert)?;
    }
    budget.set(u64::MAX);
    summary.implied_dirs = names.implied_dirs();
    Ok((summary, archive.into_inner()))
}

/// Checks one entry; `None` for what is left out (archive metadata, stripped directories, the root).
fn accept<R: Read>(
    raw: &tar::Entry<'_, R>,
    options: &Options,
    names: &mut Names,
) -> Result<Option<Entry>, Error> {
    let header = raw.header();
    let kind = header.entry_type();
    if kind.is_pax_global_extensions() {
        return Ok(None);
    }
    let raw_path = raw.path_bytes();
    let refuse = |why| Error::Refused { path: String::from_utf8_lossy(&raw_path).into_owned(), why };
    let hard_link = |why| match why {
        Refusal::Absolute => refuse(Refusal::HardLinkAbsolute),
        Refusal::DotDot => refuse(Refusal::HardLinkDotDot),
        other => refuse(other),
    };
    let stripped = names::normalize(&raw_path, options.strip_components).map_err(refuse)?;
    let Some(path) = stripped else { return Ok(None) };
    let id = |n: io::Result<u64>| u32::try_from(n?).map_err(|_| refuse(Refusal::Owner));
    let (uid, gid) = (id(header.uid())?, id(header.gid())?);
    let mode = header.mode()? & 0o7777;
    let device = || match (header.device_major(), header.device_minor()) {
        _ if !options.allow_devices => Err(refuse(Refusal::Device)),
        (Ok(Some(major)), Ok(Some(minor))) => Ok((major, minor)),
        _ => Err(refuse(Refusal::DeviceNumbers)),
    };
    let link = || match raw.link_name_bytes() {
        Some(target) if !target.is_empty() && !target.contains(&0) => Ok(target.into_owned()),
        _ => Err(refuse(Refusal::LinkTarget)),
    };
    let kind = match kind {
        EntryType::Directory => Kind::Dir,
        // Before POSIX a trailing slash was all that told a directory.
        EntryType::Regular if raw_path.ends_with(b"/") && raw.size() == 0 => Kind::Dir,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File { size: raw.size() },
        EntryType::Symlink => Kind::Symlink { target: link()? },
        EntryType::Link => match names::normalize(&link()?, options.strip_components).map_err(hard_link)? {
            Some(to) => match names.get(&to) {
                Some(Place::File) => Kind::HardLink { to },
                Some(Place::Alias(file)) => Kind::HardLink { to: file.clone() },
                Some(Place::Symlink(target)) => Kind::Symlink { target: target.clone() },
                _ => return Err(refuse(Refusal::HardLink)),
            },
            None => return Err(refuse(Refusal::HardLinkOut)),
        },
        EntryType::Char => device().map(|(major, minor)| Kind::Char { major, minor })?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block { major, minor })?,
        EntryType::Fifo => Kind::Fifo,
        _ => return Err(refuse(Refusal::Type)),
    };
    let place = match &kind {
        Kind::Dir => Place::Dir { mode, uid, gid },
        Kind::File { .. } => Place::File,
        Kind::HardLink { to } => Place::Alias(to.clone()),
        Kind::Symlink { target } => Place::Symlink(target.clone()),
        Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => Place::Other,
    };
    let new = names.add(&path, place).map_err(refuse)?;
    Ok(new.then_some(Entry { path, mode, uid, gid, kind }))
}

/// Sparse files in pax form, which GNU tar writes only if asked to (`--sparse --format=pax`), keep their true name
/// and size in records that the tar library does not know: taken as they stand they would be something else.
fn refuse_pax_sparse<R: Read>(raw: &mut tar::Entry<'_, R>) -> Result<(), Error> {
    let path = String::from_utf8_lossy(&raw.path_bytes()).into_owned();
    for record in raw.pax_extensions().map_err(convert)?.into_iter().flatten() {
        if record.map_err(convert)?.key_bytes().starts_with(b"GNU.sparse.") {
            return Err(Error::Refused { path, why: Refusal::PaxSparse });
        }
    }
    Ok(())
}

/// Undoes the wrapping of our own errors in `io::Error`.
pub(crate) fn convert(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(inner) => inner,
        Err(e) => match e.downcast::<compress::Error>() {
            Ok(compress::Error::TooLarge { limit }) => Error::Limit { what: "bytes", limit },
            Ok(inner) => Error::Compress(inner),
            Err(e) => Error::Io(e),
        },
    }
}

/// Counts what the tar library reads by itself, and names formats that it would call damaged.
pub(crate) struct Budgeted<R> {
    inner: R,
    budget: Rc<Cell<u64>>,
    /// Set until the first read, if the input is not compressed in a way that is known.
    head: Option<bool>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if self.head.take() == Some(true) {
            let known: [(&[u8], _); 3] =
                [(b"BZh", "bzip2"), (b"\x04\x22\x4d\x18", "lz4"), (b"\x5d\x00\x00", "lzma")];
            if let Some((_, name)) = known.iter().find(|(magic, _)| buf[..n].starts_with(magic)) {
                return Err(io::Error::other(Error::Unsupported(name)));
            }
        }
        match self.budget.get() {
            u64::MAX => {}
            left => match left.checked_sub(n as u64) {
                Some(left) => self.budget.set(left),
                None => {
                    let limit = HEADERS_MAX;
                    return Err(io::Error::other(Error::Limit {
                        what: "bytes of headers for one entry",
                        limit,
                    }));
                }
            },
        }
        Ok(n)
    }
}

/// The data of one entry; ending before its announced size is an error.
struct Data<'a, R: Read> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buf[..want])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive ends inside a file")),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}
