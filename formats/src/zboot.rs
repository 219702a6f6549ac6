//! The EFI zboot image of the kernel (`vmlinuz.efi` of arm64, riscv, loongarch): its header, and the image inside.
//! Does not know what is inside, nor PE beyond the header's first bytes.
//!
//! The layout is that of the kernel's drivers/firmware/efi/libstub/zboot-header.S, little endian: `MZ`, at 4 `zimg`, at
//! 8 offset and at 12 size of the payload, at 24 the name of its compression, ended by NUL.

use crate::compress::{self, Format};

/// Bound on an unpacked image. That of a distribution, everything built in, is a tenth of it.
pub const IMAGE_MAX: u64 = 512 << 20;
/// Bytes of the header up to the end of the compression's name.
const HEADER_LEN: usize = 56;

/// Why the image inside cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not such an image.
    #[error("not an EFI zboot image: no zimg at 4")]
    NoHeader,
    /// Offset and size do not lie within the file.
    #[error("the EFI zboot image is damaged: its payload is out of bounds")]
    OutOfBounds,
    /// Older kernels offered lz4, lzma and lzo as well.
    #[error("the EFI zboot image is compressed with {0:?}, which cannot be read here")]
    Compression(String),
    /// The payload is damaged or too large.
    #[error("the payload of the EFI zboot image: {0}")]
    Payload(#[from] compress::Error),
}

/// Whether this is one.
pub fn is(image: &[u8]) -> bool {
    image.starts_with(b"MZ") && image.get(4..8) == Some(b"zimg")
}

fn header(image: &[u8]) -> Result<&[u8], Error> {
    image.get(..HEADER_LEN).filter(|_| is(image)).ok_or(Error::NoHeader)
}

/// The compressed image, without the length that kbuild appends to other formats than gzip.
pub fn payload(image: &[u8]) -> Result<&[u8], Error> {
    let header = header(image)?;
    let word = |at: usize| header[at..at + 4].iter().rev().fold(0, |sum, b| sum << 8 | usize::from(*b));
    let (offset, size) = (word(8), word(12));
    let payload = offset.checked_add(size).and_then(|end| image.get(offset..end));
    payload.filter(|p| !p.is_empty()).ok_or(Error::OutOfBounds)
}

/// The image inside, with the zeros for its BSS behind it.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, Error> {
    let (payload, header) = (payload(image)?, header(image)?);
    let name = header[24..].split(|b| *b == 0).next().unwrap_or_default();
    match Format::detect(payload) {
        Format::None => Err(Error::Compression(String::from_utf8_lossy(name).into_owned())),
        _ => Ok(compress::decompress(payload, IMAGE_MAX)?),
    }
}
