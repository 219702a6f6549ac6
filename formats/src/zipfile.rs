//! Zip archives as a stream of entries that cannot reach outside of the tree they describe.
//! Unpacks nothing: each entry is shown to the caller with its data, in the order of the central directory, which
//! alone says what there is. Does not know stores, digests or trees.

use std::io::{self, Read, Seek};

use flate2::read::DeflateDecoder;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder};

use crate::compress::{self, Decoder, Format};
use crate::tarball::names::{Names, Place, normalize};
use crate::tarball::{Entry, Kind, Options, Refusal, Summary};

/// How a zip archive begins; an empty one and one in several files are told from it.
pub const MAGIC: &[u8; 4] = b"PK\x03\x04";
/// How an archive without entries begins.
pub const MAGIC_EMPTY: &[u8; 4] = b"PK\x05\x06";
/// The longest target of a link that is read.
const LINK_MAX: u64 = 4096;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("zip: {0}")]
    Io(#[from] io::Error),
    /// The archive is damaged.
    #[error("zip: {0}")]
    Damaged(#[from] rawzip::Error),
    /// An entry that could write where it should not, that contradicts an earlier one, or that is damaged.
    #[error("zip: {path:?}: {why}")]
    Refused {
        /// Its path as in the archive, lossily.
        path: String,
        /// Why.
        why: Why,
    },
    /// Larger than allowed.
    #[error("zip: more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The central directory has another number of entries than the end of the archive says.
    #[error("zip: {found} entries were found where {said} are announced")]
    Count {
        /// Found.
        found: u64,
        /// Announced.
        said: u64,
    },
}

/// Why an entry was refused.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Its path.
    #[error(transparent)]
    Path(#[from] Refusal),
    /// A password is needed.
    #[error("is encrypted")]
    Encrypted,
    /// Packed in a way that is not known.
    #[error("is compressed with {0}, which is not supported: use deflate, xz, zstd or none")]
    Method(String),
    /// Its data is that of another entry too, as in a bomb.
    #[error("shares its data with another entry")]
    Overlap,
    /// Its data is not what was announced.
    #[error("is damaged: {0}")]
    Damaged(String),
}

/// Shows each entry of `input` to `visit` with its data. The checksum of data that is read to its end is compared, and
/// so is its size; what `visit` leaves unread is not read.
pub fn read<R, E, F>(input: R, options: &Options, mut visit: F) -> Result<Summary, E>
where
    R: Read + Seek,
    E: From<Error>,
    F: FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
{
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_seekable(input, &mut buffer).map_err(Error::from)?;
    let mut names = Names::default();
    let mut summary = Summary::default();
    let mut found = Vec::new();
    let mut entries = archive.entries(&mut buffer);
    let mut count = 0;
    while let Some(record) = entries.next_entry().map_err(Error::from)? {
        count += 1;
        if count > options.max_entries {
            return Err(Error::Limit { what: "entries", limit: options.max_entries }.into());
        }
        let raw_path = record.file_path().as_bytes().to_vec();
        let refuse = |why: Why| refused(&raw_path, why);
        if record.flags().is_encrypted() {
            return Err(refuse(Why::Encrypted).into());
        }
        // Written by Windows' own tools, against the specification.
        let backslash = |b: &u8| if *b == b'\\' { b'/' } else { *b };
        let stripped: Vec<u8> = match raw_path.contains(&b'/') {
            true => raw_path.clone(),
            false => raw_path.iter().map(backslash).collect(),
        };
        let path = normalize(&stripped, options.strip_components).map_err(|e| refuse(e.into()))?;
        let Some(path) = path else { continue };
        let kind = match record.mode().value() & 0o170_000 {
            _ if record.is_dir() || stripped.ends_with(b"/") => What::Dir,
            0o040_000 => What::Dir,
            0o120_000 => What::Symlink,
            0o100_000 | 0 => What::File,
            _ => return Err(refuse(Refusal::Type.into()).into()),
        };
        let size = if kind == What::Dir { 0 } else { record.uncompressed_size_hint() };
        summary.bytes = summary.bytes.saturating_add(size);
        if summary.bytes > options.max_bytes {
            return Err(Error::Limit { what: "bytes", limit: options.max_bytes }.into());
        }
        let place = match kind {
            What::Dir => Place::Dir { mode: record.mode().permissions(), uid: 0, gid: 0 },
            What::File => Place::File,
            What::Symlink => Place::Symlink(Vec::new()),
        };
        if !names.add(&path, place).map_err(|e| refuse(e.into()))? {
            continue;
        }
        summary.entries += 1;
        found.push(Found {
            path,
            kind,
            mode: record.mode().value() & 0o7777,
            size,
            method: record.compression_method(),
            at: record.wayfinder(),
        });
    }
    if count != archive.entries_hint() {
        return Err(Error::Count { found: count, said: archive.entries_hint() }.into());
    }
    no_overlap(&archive, &found)?;
    for one in &found {
        show(&archive, one, &mut visit)?;
    }
    summary.implied_dirs = names.implied_dirs();
    Ok(summary)
}

/// What an entry is, before a link was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Dir,
    File,
    Symlink,
}

/// An entry of the central directory.
struct Found {
    path: Vec<u8>,
    kind: What,
    mode: u32,
    size: u64,
    method: CompressionMethod,
    at: ZipArchiveEntryWayfinder,
}

impl Found {
    fn refused(&self, why: Why) -> Error {
        refused(&self.path, why)
    }
}

fn refused(path: &[u8], why: Why) -> Error {
    Error::Refused { path: String::from_utf8_lossy(path).into_owned(), why }
}

/// Refuses entries that share their data: a small archive of very many large files.
fn no_overlap<R: ReaderAt>(archive: &ZipArchive<R>, found: &[Found]) -> Result<(), Error> {
    let mut ranges = Vec::with_capacity(found.len());
    for one in found {
        let entry = archive.get_entry(one.at).map_err(|e| one.refused(Why::Damaged(e.to_string())))?;
        let (from, to) = entry.compressed_data_range();
        if from < to {
            ranges.push((from, to, one));
        }
    }
    ranges.sort_by_key(|(from, to, _)| (*from, *to));
    match ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(pair[1].2.refused(Why::Overlap)),
        None => Ok(()),
    }
}

fn show<R, E, F>(archive: &ZipArchive<R>, one: &Found, visit: &mut F) -> Result<(), E>
where
    R: ReaderAt,
    E: From<Error>,
    F: FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
{
    let entry = archive.get_entry(one.at).map_err(|e| one.refused(Why::Damaged(e.to_string())))?;
    let packed = entry.reader();
    let plain: Box<dyn Read + '_> = match one.method {
        _ if one.kind == What::Dir => Box::new(io::empty()),
        CompressionMethod::STORE => Box::new(packed),
        CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(packed)),
        CompressionMethod::ZSTD | CompressionMethod::XZ => {
            let decoder =
                Decoder::new(packed, one.size).map_err(|e| one.refused(Why::Damaged(e.to_string())))?;
            let right = if one.method == CompressionMethod::XZ { Format::Xz } else { Format::Zstd };
            if decoder.format() != right {
                return Err(one
                    .refused(Why::Damaged("it is compressed in another way than it says".into()))
                    .into());
            }
            Box::new(decoder)
        }
        other => return Err(one.refused(Why::Method(other.to_string())).into()),
    };
    let mut data = Data { inner: entry.verifying_reader(plain), left: one.size, one };
    let kind = match one.kind {
        What::Dir => Kind::Dir,
        What::File => Kind::File { size: one.size },
        What::Symlink if one.size > LINK_MAX => return Err(one.refused(Refusal::TooLong.into()).into()),
        What::Symlink => {
            let mut target = Vec::new();
            data.read_to_end(&mut target).map_err(Error::from_data)?;
            if target.is_empty() || target.contains(&0) {
                return Err(one.refused(Refusal::LinkTarget.into()).into());
            }
            Kind::Symlink { target }
        }
    };
    let shown = Entry { path: one.path.clone(), mode: one.mode, uid: 0, gid: 0, kind };
    visit(&shown, &mut data)
}

/// The data of an entry: never more than was announced, and at its end compared with size and checksum.
struct Data<'a, R> {
    inner: R,
    left: u64,
    one: &'a Found,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.one.kind == What::Dir {
            return Ok(0);
        }
        // One byte past the end: only then does the reader below compare, and is more than announced seen.
        let want = usize::try_from(self.left.max(1)).unwrap_or(usize::MAX).min(buf.len());
        let damaged = |what: String| io::Error::other(self.one.refused(Why::Damaged(what)));
        let n = self.inner.read(&mut buf[..want]).map_err(|e| damaged(e.to_string()))?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(damaged("it is longer than it says".into())),
        }
        Ok(n)
    }
}

impl Error {
    /// Undoes the wrapping of our own errors in `io::Error`.
    pub fn from_data(e: io::Error) -> Error {
        match e.downcast::<Error>() {
            Ok(inner) => inner,
            Err(e) => match e.downcast::<compress::Error>() {
                Ok(compress::Error::TooLarge { limit }) => Error::Limit { what: "bytes", limit },
                Ok(inner) => Error::Io(io::Error::other(inner)),
                Err(e) => Error::Io(e),
            },
        }
    }
}
