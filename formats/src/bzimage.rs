//! The version text and the compressed kernel in an x86 kernel image (bzImage), by the boot protocol's header.
//! Does not know EFI, how the payload is compressed, or other architectures.

use std::ops::Range;

/// Why there is no version text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No boot protocol header.
    #[error("not an x86 kernel image: no HdrS at 0x202")]
    NoHeader,
    /// Boot protocol before 2.00, or no version text.
    #[error("kernel image has no version text")]
    NoVersion,
    /// The pointer or the text lies outside of the image's first part.
    #[error("kernel image is damaged: its version text is out of bounds")]
    OutOfBounds,
    /// Boot protocol before 2.08, or no payload.
    #[error("kernel image does not say where its compressed kernel is")]
    NoPayload,
    /// The payload lies outside of the image.
    #[error("kernel image is damaged: its compressed kernel is out of bounds")]
    PayloadOutOfBounds,
}

const MAGIC: &[u8] = b"HdrS";
/// Longest text accepted.
const TEXT_MAX: usize = 1024;

fn word(image: &[u8], at: usize) -> Result<u16, Error> {
    match image.get(at..at + 2) {
        Some(bytes) => Ok(u16::from_le_bytes([bytes[0], bytes[1]])),
        None => Err(Error::NoHeader),
    }
}

/// Whether this is one.
pub fn is(image: &[u8]) -> bool {
    image.get(0x202..0x206) == Some(MAGIC)
}

/// Length of the real-mode part: the boot sector and setup_sects sectors more, 0 meaning 4.
pub fn setup_len(image: &[u8]) -> usize {
    let sectors = match image.get(0x1f1) {
        Some(0) | None => 4,
        Some(n) => usize::from(*n),
    };
    (sectors + 1) * 512
}

/// The whole text: release, builder, build number and date.
pub fn version(image: &[u8]) -> Result<&str, Error> {
    if !is(image) {
        return Err(Error::NoHeader);
    }
    if word(image, 0x206)? < 0x200 {
        return Err(Error::NoVersion);
    }
    let pointer = usize::from(word(image, 0x20e)?);
    if pointer == 0 {
        return Err(Error::NoVersion);
    }
    // The text is in the real-mode part.
    let end = image.len().min(setup_len(image));
    let text = image.get(pointer + 0x200..end).ok_or(Error::OutOfBounds)?;
    let nul = text.iter().take(TEXT_MAX).position(|b| *b == 0).ok_or(Error::OutOfBounds)?;
    if nul == 0 {
        return Err(Error::NoVersion);
    }
    std::str::from_utf8(&text[..nul]).map_err(|_| Error::OutOfBounds)
}

/// The release alone (`6.1.52-Zero-OS`), which names the directory of its modules.
pub fn release(image: &[u8]) -> Result<&str, Error> {
    version(image)?.split(' ').next().filter(|r| !r.is_empty()).ok_or(Error::NoVersion)
}

/// Where the compressed kernel lies, with what kbuild appends to it (boot protocol 2.08: payload_offset, from the end of
/// the real-mode part, and payload_length).
pub fn payload_range(image: &[u8]) -> Result<Range<usize>, Error> {
    if !is(image) {
        return Err(Error::NoHeader);
    }
    let long = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or(Error::NoHeader)?;
        Ok(u32::from_le_bytes(bytes) as usize)
    };
    if word(image, 0x206)? < 0x208 {
        return Err(Error::NoPayload);
    }
    let (offset, length) = (long(0x248)?, long(0x24c)?);
    if length == 0 {
        return Err(Error::NoPayload);
    }
    let start = setup_len(image).checked_add(offset).ok_or(Error::PayloadOutOfBounds)?;
    let end = start.checked_add(length).ok_or(Error::PayloadOutOfBounds)?;
    if end > image.len() {
        return Err(Error::PayloadOutOfBounds);
    }
    Ok(start..end)
}

/// The compressed kernel, with what kbuild appends to it.
pub fn payload(image: &[u8]) -> Result<&[u8], Error> {
    Ok(&image[payload_range(image)?])
}
