//! The version text in an x86 kernel image (bzImage), by the boot protocol's header.
//! Does not know EFI, compression of the payload or other architectures.

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
}

const MAGIC: &[u8] = b"HdrS";
/// Longest text accepted.
const TEXT_MAX: usize = 1024;

/// Whether this is one.
pub fn is(image: &[u8]) -> bool {
    image.get(0x202..0x206) == Some(MAGIC)
}

/// Length of the real-mode part: the boot sector and setup_sects sectors more, 0 meaning 4.
pub fn setup_len(image: &[u8]) -> Option<usize> {
    let sectors = match image.get(0x1f1)? {
        0 => 4,
        n => usize::from(*n),
    };
    is(image).then_some((sectors + 1) * 512)
}

/// Where the compressed kernel lies, with the four bytes of its length behind it (boot protocol 2.08: payload_offset, from
/// the end of the real-mode part, and payload_length).
pub fn payload(image: &[u8]) -> Option<std::ops::Range<usize>> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    let setup = setup_len(image).filter(|_| version >= 0x208)?;
    let from = setup.checked_add(usize::try_from(word(0x248)?).ok()?)?;
    let to = from.checked_add(usize::try_from(word(0x24c)?).ok()?)?;
    (from < to && to <= image.len()).then_some(from..to)
}

/// The whole text: release, builder, build number and date.
pub fn version(image: &[u8]) -> Result<&str, Error> {
    if !is(image) {
        return Err(Error::NoHeader);
    }
    let word = |at: usize| match image.get(at..at + 2) {
        Some(bytes) => Ok(u16::from_le_bytes([bytes[0], bytes[1]])),
        None => Err(Error::NoHeader),
    };
    if word(0x206)? < 0x200 {
        return Err(Error::NoVersion);
    }
    let pointer = usize::from(word(0x20e)?);
    if pointer == 0 {
        return Err(Error::NoVersion);
    }
    // The text is in the real-mode part.
    let end = image.len().min(setup_len(image).unwrap_or(0));
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
