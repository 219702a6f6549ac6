//! Kernel images: the setup code and the compressed kernel of a bzImage, the image inside of an EFI zboot image, and the
//! archive that is built in. Knows headers; the kernel inside is a program or plain bytes like any other.

use super::{Difference, Place, UNPACKED_MAX, bytes, open};
use crate::compress::{self, Format};
use crate::{bzimage, kernel_image, zboot};

/// Archives tried as the one that holds a difference.
const CANDIDATES: usize = 64;

pub(super) fn is(image: &[u8]) -> bool {
    bzimage::is(image) || zboot::is(image)
}

pub(super) fn compare(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    if zboot::is(first) && zboot::is(second) {
        let (a, b) = (zboot::unpack(first).ok()?, zboot::unpack(second).ok()?);
        let part = Place::Part { name: "the compressed image", offset: 0 };
        return (a != b).then(|| open(&a, &b, depth).within(part));
    }
    let x = bzimage::payload_range(first).ok()?;
    // What is in the kernel moves sizes and addresses of what is around it, so it is the cause.
    if let (Ok((a, _)), Ok((b, _))) = (kernel_image::expanded(first), kernel_image::expanded(second))
        && a != b
    {
        let part = Place::Part { name: "the compressed kernel", offset: x.start as u64 };
        return Some(open(&a, &b, depth).within(part));
    }
    let setup = bzimage::setup_len(first);
    let name = match bytes::position(first, second) {
        at if at < setup => "the setup code",
        at if x.contains(&at) => "the compressed kernel",
        _ => "the boot code",
    };
    let offset = if name == "the compressed kernel" { x.start as u64 } else { 0 };
    Some(Difference::plain(bytes::compare(first, second)).within(Place::Part { name, offset }))
}

/// The archive that is built into a section, if the difference lies in one: it has no section of its own in vmlinux, and
/// no symbol in a stripped one. All before the difference is equal, so an archive, or the member of a plain one, begins at
/// the same place in both.
pub(super) fn archive_in(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    const SMALLEST: usize = 1 << 12;
    if first.len() < SMALLEST || depth == 0 {
        return None;
    }
    let at = bytes::position(first, second);
    let begins = |bytes: &[u8]| {
        super::cpio::is(bytes)
            || match Format::detect(bytes) {
                // Two bytes alone are found anywhere.
                Format::Gzip => bytes.get(2) == Some(&8),
                format => format != Format::None,
            }
    };
    // Other data follows.
    let first_of = |bytes: &[u8]| compress::decompress_first(bytes, UNPACKED_MAX);
    let candidates = (0..=at.min(first.len() - 1)).rev().filter(|from| begins(&first[*from..]));
    candidates.take(CANDIDATES).find_map(|from| {
        let (a, b) = (first_of(&first[from..]), first_of(&second[from..]));
        let difference = match a != b && super::cpio::is(&a) && super::cpio::is(&b) {
            true => super::cpio::compare(&a, &b, depth - 1)?,
            false => return None,
        };
        Some(difference.within(Place::Part { name: "the built-in archive", offset: from as u64 }))
    })
}
