//! What a kernel takes for its initramfs: any number of newc archives, each plain or compressed in a way of its own, zeros
//! between them; and where such a thing lies in a kernel that has it built in. Does not know the kernel's own compression.
//!
//! The rules are those of init/initramfs.c of the kernel: bytes that begin with `0` are a plain archive up to its end mark,
//! others are told by their magic.

use std::borrow::Cow;
use std::io::Read;

use crate::compress;
use crate::expand::{self, Expander, Packing};
use crate::newc::{self, TRAILER};

/// Length of a newc header.
const HEADER_LEN: usize = 110;

/// Why bytes are no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an archive nor anything that the kernel expands.
    #[error("at byte {0}: neither a cpio archive nor compressed as the kernel knows")]
    Unknown(usize),
    /// The compressed part that begins there is damaged, or too large.
    #[error("at byte {offset}, {}: {source}", packing.name())]
    Packed {
        /// Where it begins.
        offset: usize,
        /// Its format.
        packing: Packing,
        /// What is wrong.
        source: compress::Error,
    },
    /// What was expanded is no archive.
    #[error("at byte {offset}: {source}")]
    Cpio {
        /// Where its part begins.
        offset: usize,
        /// What is wrong.
        source: newc::Error,
    },
}

/// Where one of several archives lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its first byte.
    pub offset: usize,
    /// Its bytes.
    pub packed: usize,
    /// How it is compressed, if it is.
    pub packing: Option<Packing>,
    /// Its bytes when it is expanded.
    pub size: usize,
}

/// The archives of an initramfs, one after another, each expanded only when it is come to.
pub struct Parts<'a> {
    data: &'a [u8],
    at: usize,
    left: u64,
}

impl<'a> Parts<'a> {
    /// Of these bytes; all archives together may expand to `limit` bytes.
    pub fn new(data: &'a [u8], limit: u64) -> Parts<'a> {
        Parts { data, at: 0, left: limit }
    }

    fn part(&mut self, offset: usize) -> Result<(Part, Cow<'a, [u8]>), Error> {
        let rest = &self.data[offset..];
        let (packing, packed, bytes) = match Packing::detect(rest) {
            _ if is_cpio(rest) => {
                let length = plain_length(rest);
                (None, length, Cow::Borrowed(&rest[..length]))
            }
            Some(packing) => {
                let expanded = expand::stream(rest, packing, self.left);
                let (bytes, used) = expanded.map_err(|source| Error::Packed { offset, packing, source })?;
                (Some(packing), used, Cow::Owned(bytes))
            }
            None => return Err(Error::Unknown(offset)),
        };
        self.left = self.left.saturating_sub(bytes.len() as u64);
        // A stream that has no bytes of its own would be come to for ever.
        self.at = offset + packed.max(1);
        Ok((Part { offset, packed, packing, size: bytes.len() }, bytes))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(Part, Cow<'a, [u8]>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.data.get(self.at..)?;
        let offset = self.at + rest.iter().position(|b| *b != 0)?;
        let part = self.part(offset);
        if part.is_err() {
            self.at = self.data.len();
        }
        Some(part)
    }
}

/// Whether an archive begins here.
pub fn is_cpio(data: &[u8]) -> bool {
    data.starts_with(b"070701") || data.starts_with(b"070702")
}

/// Whether this begins as an initramfs does: with an archive, or with what expands to one.
pub fn begins(data: &[u8]) -> bool {
    let packed = |packing| {
        let mut head = [0; 6];
        let read = Expander::new(data, packing).map(|mut expander| expander.read_exact(&mut head));
        matches!(read, Ok(Ok(()))) && is_cpio(&head)
    };
    is_cpio(data) || Packing::detect(data).is_some_and(packed)
}

/// Bytes of a plain archive up to the end of its mark; all of them if there is none.
fn plain_length(data: &[u8]) -> usize {
    let aligned = |n: usize| n.next_multiple_of(4);
    let mut at = 0;
    loop {
        let Some(header) = data.get(at..).and_then(|rest| rest.get(..HEADER_LEN)) else { return data.len() };
        let field = |n: usize| {
            let digits = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).ok()?;
            usize::from_str_radix(digits, 16).ok()
        };
        let (true, Some(size), Some(name_size)) = (is_cpio(header), field(6), field(11)) else {
            return data.len();
        };
        let name = at + HEADER_LEN;
        let last = data.get(name..).is_some_and(|rest| rest.starts_with(TRAILER)) && name_size == 11;
        at = aligned(aligned(name + name_size) + size);
        if last {
            return at.min(data.len());
        }
    }
}

/// The initramfs that is built into an expanded kernel (vmlinux of x86_64, Image of arm64).
///
/// Stripped of symbols, it is found by its length, a quad behind it (`.init.ramfs.info` of the kernel's linker script), and
/// where that says something else (a slot that was filled later) by its first bytes.
pub fn embedded(kernel: &[u8]) -> Option<&[u8]> {
    by_length(kernel).or_else(|| by_magic(kernel))
}

fn by_length(kernel: &[u8]) -> Option<&[u8]> {
    let mut found: Option<&[u8]> = None;
    for (at, quad) in kernel.chunks_exact(8).enumerate() {
        let end = at * 8;
        let length = u64::from_le_bytes(quad.try_into().unwrap_or_default());
        let Ok(length) = usize::try_from(length) else { continue };
        if length == 0 || length > end || found.is_some_and(|f| f.len() >= length) {
            continue;
        }
        // It begins at a multiple of 4, and its length is at the next multiple of 8 behind it.
        let last = (end - length) & !3;
        for start in [Some(last), last.checked_sub(4)].into_iter().flatten() {
            let Some(data) = kernel.get(start..start + length) else { continue };
            if (start + length).next_multiple_of(8) == end && begins(data) {
                found = Some(data);
            }
        }
    }
    found
}

fn by_magic(kernel: &[u8]) -> Option<&[u8]> {
    let mut found: Option<&[u8]> = None;
    let mut at = 0;
    while at < kernel.len() {
        let rest = &kernel[at..];
        if begins(rest) {
            // What follows the last archive is the kernel's own, and is no archive.
            let parts = Parts::new(rest, u64::MAX).map_while(Result::ok);
            let end = parts.map(|(part, _)| part.offset + part.packed).max().unwrap_or(0);
            if end > found.map_or(0, <[u8]>::len) {
                found = Some(&rest[..end]);
            }
            at += end.next_multiple_of(4);
        }
        at += 4;
    }
    found
}
