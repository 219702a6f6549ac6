//! What a download is, told by its bytes, and what is in it if it is an archive.
//! Knows formats; knows neither what is wanted of them nor the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use mosbuild_engine::action::StepError;
use mosbuild_formats::compress::{Decoder, Format};
use mosbuild_formats::tarball::{self, Entry, Kind, Options};
use mosbuild_formats::zipfile;

/// The largest that a file may be once it is expanded.
const LARGEST: u64 = 16 << 30;
/// Size of a tar header.
const BLOCK: usize = 512;

/// What a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// A file as it is.
    Plain,
    /// One file, compressed.
    Single(Format),
    /// A tar archive, compressed or not.
    Tar,
    /// A zip archive.
    Zip,
}

impl Download {
    /// Tells it by the first bytes.
    pub fn of(path: &Path) -> io::Result<Download> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        (&mut file).take(BLOCK as u64).read_to_end(&mut head)?;
        if head.starts_with(zipfile::MAGIC) || head.starts_with(zipfile::MAGIC_EMPTY) {
            return Ok(Download::Zip);
        }
        let format = Format::detect(&head);
        if format == Format::None {
            return Ok(if is_tar(&head) { Download::Tar } else { Download::Plain });
        }
        file.rewind()?;
        let mut first = Vec::new();
        // What cannot be expanded is no archive; it is told when it is unpacked.
        let expanded = Decoder::new(BufReader::new(file), LARGEST);
        let read = expanded.map(|decoder| decoder.take(BLOCK as u64).read_to_end(&mut first));
        match read {
            Ok(Ok(_)) if is_tar(&first) => Ok(Download::Tar),
            _ => Ok(Download::Single(format)),
        }
    }
}

/// How a file is packed that is taken as it is, if in a way that is known but not unpacked.
pub fn unsupported(path: &Path) -> Option<&'static str> {
    let mut head = [0; 8];
    let read = File::open(path).and_then(|mut f| f.read(&mut head)).unwrap_or(0);
    let known: [(&[u8], _); 6] = [
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!", "rar"),
        (b"!<arch>\n", "ar, as Debian's packages are"),
        (b"\xed\xab\xee\xdb", "rpm"),
    ];
    known.iter().find(|(magic, _)| head[..read].starts_with(magic)).map(|(_, name)| *name)
}

/// Whether a block is the header of a tar entry: its checksum is right.
fn is_tar(block: &[u8]) -> bool {
    let Some(header) = block.get(..BLOCK) else { return false };
    let field = std::str::from_utf8(&header[148..156]).unwrap_or_default();
    let said = u32::from_str_radix(field.trim_matches([' ', '\0']), 8);
    let blank =
        |(at, byte): (usize, &u8)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) };
    said.is_ok_and(|said| said > 0 && said == header.iter().enumerate().map(blank).sum::<u32>())
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A file.
    File,
    /// A folder; those without an entry of their own are not listed.
    Dir,
    /// Another name for a file.
    HardLink(Vec<u8>),
    /// A link, and what it says.
    Symlink(Vec<u8>),
    /// Something else.
    Other,
}

/// The members of an archive by path.
pub type Members = BTreeMap<Vec<u8>, Member>;

/// What is in an archive.
pub fn members(kind: Download, path: &Path) -> Result<Members, StepError> {
    let mut all = Members::new();
    each(kind, path, &mut |entry, _| {
        let member = match &entry.kind {
            Kind::File { .. } => Member::File,
            Kind::Dir => Member::Dir,
            Kind::HardLink { to } => Member::HardLink(to.clone()),
            Kind::Symlink { target } => Member::Symlink(target.clone()),
            Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => Member::Other,
        };
        all.insert(entry.path.clone(), member);
        Ok(())
    })?;
    Ok(all)
}

/// A look at one entry and its data.
pub type Visit<'a> = &'a mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), StepError>;

/// Shows each entry of an archive.
pub fn each(kind: Download, path: &Path, visit: Visit<'_>) -> Result<(), StepError> {
    let options = Options { max_bytes: LARGEST, ..Options::default() };
    let file = File::open(path)?;
    let read = match kind {
        // Read at places: a buffer would be thrown away at each.
        Download::Zip => zipfile::read(file, &options, |entry, data| Ok::<(), Refused>(visit(entry, data)?)),
        _ => {
            let file = BufReader::with_capacity(1 << 18, file);
            tarball::read(file, &options, |entry, data| Ok::<(), Refused>(visit(entry, data)?))
        }
    };
    read.map(|_| ()).map_err(|Refused(e)| e)
}

/// The content of a compressed file.
pub fn expanded(path: &Path) -> Result<impl Read, StepError> {
    let file = BufReader::with_capacity(1 << 18, File::open(path)?);
    Decoder::new(file, LARGEST).map_err(|e| StepError::new(format!("it cannot be expanded: {e}")))
}

/// An error of the archive, or of what is done with an entry.
struct Refused(StepError);

impl From<StepError> for Refused {
    fn from(e: StepError) -> Refused {
        Refused(e)
    }
}

impl From<tarball::Error> for Refused {
    fn from(e: tarball::Error) -> Refused {
        Refused(StepError::new(format!("the archive is refused: {e}")))
    }
}

impl From<zipfile::Error> for Refused {
    fn from(e: zipfile::Error) -> Refused {
        Refused(StepError::new(format!("the archive is refused: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use mosbuild_formats::compress::{Compression, compress};

    use super::*;

    #[test]
    fn what_it_is_is_told_by_its_bytes_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("x");
        let of = |bytes: &[u8]| {
            std::fs::write(&at, bytes).unwrap();
            Download::of(&at).unwrap()
        };
        std::fs::write(dir.path().join("member"), "text").unwrap();
        for format in ["v7", "ustar", "gnu", "pax"] {
            let tar = Command::new("tar")
                .args(["-c", &format!("--format={format}"), "member"])
                .current_dir(dir.path())
                .output()
                .unwrap()
                .stdout;
            assert_eq!(of(&tar), Download::Tar, "{format}");
            for how in
                [Compression::Gzip { level: 6 }, Compression::Xz { level: 0 }, Compression::Zstd { level: 1 }]
            {
                assert_eq!(of(&compress(&tar, how, 1).unwrap()), Download::Tar, "{format} {how:?}");
            }
        }
        let text = b"#!/bin/sh\n".repeat(100);
        assert_eq!(of(&text), Download::Plain);
        assert_eq!(
            of(&compress(&text, Compression::Xz { level: 0 }, 1).unwrap()),
            Download::Single(Format::Xz)
        );
        assert_eq!(
            of(&compress(b"", Compression::Gzip { level: 1 }, 1).unwrap()),
            Download::Single(Format::Gzip)
        );
        assert_eq!(of(b"\x1f\x8bbroken"), Download::Single(Format::Gzip));
        assert_eq!(of(b"PK\x03\x04"), Download::Zip);
        for other in [&b""[..], &[0; 512], b"\x7fELF", b"BZh91AY"] {
            assert_eq!(of(other), Download::Plain);
        }
        assert_eq!(unsupported(&at), Some("bzip2"));
        std::fs::write(&at, "x").unwrap();
        assert_eq!(unsupported(&at), None);
    }
}
