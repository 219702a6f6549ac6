//! Which release a kernel image is of, and the expanded kernel in it: x86 bzImage, arm64 Image, or EFI zboot with either's
//! like inside. Knows headers and the kernel's banner; does not know how images are made or started.

use std::borrow::Cow;

use crate::expand::{self, Packing};
use crate::{bzimage, compress, zboot};

/// Start of the banner, the text that `dmesg` begins with (init/version-timestamp.c of the kernel).
const BANNER: &[u8] = b"Linux version ";
/// Longest release: `uname` has 65 bytes for it.
const RELEASE_MAX: usize = 64;

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No header of a known image.
    #[error("not a kernel image: neither bzImage of x86, nor Image of arm64, nor EFI zboot")]
    Unknown,
    /// A bzImage without one.
    #[error(transparent)]
    BzImage(#[from] bzimage::Error),
    /// The image inside cannot be had.
    #[error(transparent)]
    Zboot(#[from] zboot::Error),
    /// The compressed kernel is damaged or too large.
    #[error("the compressed kernel: {0}")]
    Payload(#[from] compress::Error),
    /// The compressed kernel is of no known format.
    #[error("the kernel in the image is compressed in a way that is not known here")]
    Packing,
    /// No banner in the image.
    #[error("kernel image has no version text")]
    NoVersion,
}

/// What an image is, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// x86: setup code, and a compressed kernel.
    BzImage,
    /// arm64: the kernel as it lies in memory.
    Arm64Image,
    /// An EFI program with a compressed image inside.
    Zboot,
}

/// Tells an image by its header.
pub fn kind(image: &[u8]) -> Option<Kind> {
    if zboot::is(image) {
        Some(Kind::Zboot)
    } else if image.get(0x38..0x3c) == Some(b"ARM\x64") {
        // Documentation/arch/arm64/booting.rst of the kernel.
        Some(Kind::Arm64Image)
    } else if bzimage::is(image) {
        Some(Kind::BzImage)
    } else {
        None
    }
}

/// The release (`6.12.44-mos`), which names the directory of its modules.
pub fn release(image: &[u8]) -> Result<String, Error> {
    match kind(image) {
        Some(Kind::BzImage) => Ok(bzimage::release(image)?.to_owned()),
        Some(Kind::Arm64Image) => banner(image).ok_or(Error::NoVersion),
        Some(Kind::Zboot) => banner(&zboot::unpack(image)?).ok_or(Error::NoVersion),
        None => Err(Error::Unknown),
    }
}

/// The expanded kernel, and how it was compressed: vmlinux of a bzImage, Image of arm64.
pub fn expanded(image: &[u8]) -> Result<(Cow<'_, [u8]>, Option<Packing>), Error> {
    match kind(image) {
        Some(Kind::BzImage) => {
            let payload = bzimage::payload(image)?;
            let packing = Packing::detect(payload).ok_or(Error::Packing)?;
            let (kernel, _) = expand::stream(payload, packing, zboot::IMAGE_MAX)?;
            Ok((Cow::Owned(kernel), Some(packing)))
        }
        Some(Kind::Arm64Image) => Ok((Cow::Borrowed(image), None)),
        Some(Kind::Zboot) => {
            let payload = zboot::payload(image)?;
            let packing = Packing::detect(payload).ok_or(Error::Packing)?;
            let (kernel, _) = expand::stream(payload, packing, zboot::IMAGE_MAX)?;
            Ok((Cow::Owned(kernel), Some(packing)))
        }
        None => Err(Error::Unknown),
    }
}

/// The release in the first banner: read-only data comes before the archive that is built in, which may hold anything.
fn banner(image: &[u8]) -> Option<String> {
    let mut rest = image;
    while let Some(at) = rest.windows(BANNER.len()).position(|window| window == BANNER) {
        rest = &rest[at + BANNER.len()..];
        let end = rest.iter().take(RELEASE_MAX + 1).position(|b| !b.is_ascii_graphic());
        if let Some(end) = end
            && end > 0
            && rest[end..].starts_with(b" (")
        {
            return Some(String::from_utf8_lossy(&rest[..end]).into_owned());
        }
    }
    None
}
