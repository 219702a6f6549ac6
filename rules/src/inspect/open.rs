//! From the bytes of a file to what it holds: a UKI, a kernel image, the initramfs inside, a tar archive, an flist.
//! Goes by first bytes alone, never by names. Lists nothing (mod.rs does).

use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;

use mosbuild_cache::{Digest, Hasher, Store, Tree};
use mosbuild_formats::compress::Decoder;
use mosbuild_formats::{flist, initramfs, kernel_image};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection};

use super::{EXPANDED_MAX, Error, Listed};

/// Something that has entries.
pub enum Held {
    /// A tree of the store.
    Tree(Store, Tree),
    /// newc archives, each compressed or not.
    Initramfs(Vec<u8>),
    /// A tar archive, compressed or not.
    Tar(Vec<u8>),
    /// An flist.
    Flist(Listed),
}

/// Something around the entries, or one of the archives that they are from; the outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hull {
    /// `uki`, `bzImage`, `zboot`, `Image`, `vmlinux`, `cpio`, `tar`, `flist`.
    pub what: &'static str,
    /// How it is compressed: of a kernel image, the kernel in it.
    pub packing: &'static str,
    /// Its bytes.
    pub size: u64,
    /// Digest of its bytes, without those of the initramfs in it.
    pub digest: Digest,
}

/// A file that was looked into.
#[derive(Default)]
pub struct Opened {
    /// What is around the entries.
    pub hulls: Vec<Hull>,
    /// What has the entries; `None`: it is a file like others.
    pub held: Option<Held>,
    /// The expanded kernel of an image.
    pub kernel: Option<Vec<u8>>,
}

/// Looks into the bytes of a file.
pub fn open(file: &[u8]) -> Result<Opened, Error> {
    let mut hulls = Vec::new();
    let mut bytes = Cow::Borrowed(file);
    let mut kernel = None;
    if let Some(range) = initrd_of_uki(&bytes)? {
        hulls.push(hull("uki", "none", &bytes, Some(&range)));
        bytes = Cow::Borrowed(&file[range]);
    } else if let Some(kind) = kernel_image::kind(file) {
        let (inside, packing) = kernel_image::expanded(file)?;
        let inside = inside.into_owned();
        let what = match kind {
            kernel_image::Kind::BzImage => "bzImage",
            kernel_image::Kind::Zboot => "zboot",
            kernel_image::Kind::Arm64Image => "Image",
        };
        // An Image is not compressed: it is the kernel.
        if let Some(packing) = packing {
            hulls.push(hull(what, packing.name(), &bytes, None));
        }
        let what = if packing.is_some() { "vmlinux" } else { what };
        bytes = within_kernel(what, inside, &mut hulls, &mut kernel)?.into();
    } else if file.starts_with(b"\x7fELF") && initramfs::embedded(file).is_some() {
        bytes = within_kernel("vmlinux", file.to_vec(), &mut hulls, &mut kernel)?.into();
    }
    if flist::begins(&bytes) {
        match flist::read(&bytes, &flist::Limits::default()) {
            Ok(flist) => {
                hulls.push(hull("flist", "none", &bytes, None));
                return Ok(Opened { hulls, held: Some(Held::Flist(Listed::new(flist))), kernel });
            }
            // Some other database.
            Err(flist::Error::Schema(_)) => return Ok(Opened::default()),
            Err(e) => return Err(e.into()),
        }
    }
    let held = if initramfs::begins(&bytes) {
        for part in initramfs::Parts::new(&bytes, EXPANDED_MAX) {
            let (part, _) = part?;
            let range = part.offset..part.offset + part.packed;
            let packing = part.packing.map_or("none", |p| p.name());
            hulls.push(hull("cpio", packing, &bytes[range], None));
        }
        Some(Held::Initramfs(bytes.into_owned()))
    } else if let Some(packing) = tar(&bytes) {
        hulls.push(hull("tar", packing, &bytes, None));
        Some(Held::Tar(bytes.into_owned()))
    } else {
        None
    };
    Ok(Opened { hulls, held, kernel })
}

/// The initramfs of an expanded kernel, which is kept.
fn within_kernel(
    what: &'static str,
    inside: Vec<u8>,
    hulls: &mut Vec<Hull>,
    kernel: &mut Option<Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    let range = initramfs::embedded(&inside).ok_or(Error::NoInitramfs)?;
    let start = range.as_ptr() as usize - inside.as_ptr() as usize;
    let range = start..start + range.len();
    hulls.push(hull(what, "none", &inside, Some(&range)));
    let archive = inside[range].to_vec();
    *kernel = Some(inside);
    Ok(archive)
}

fn hull(what: &'static str, packing: &'static str, bytes: &[u8], without: Option<&Range<usize>>) -> Hull {
    let mut hasher = Hasher::new();
    let range = without.cloned().unwrap_or(bytes.len()..bytes.len());
    hasher.update(&bytes[..range.start]);
    hasher.update(&bytes[range.end..]);
    Hull { what, packing, size: bytes.len() as u64, digest: hasher.finish() }
}

/// Where the section `.initrd` of a unified kernel image lies.
fn initrd_of_uki(bytes: &[u8]) -> Result<Option<Range<usize>>, Error> {
    let Ok(file) = PeFile64::parse(bytes) else { return Ok(None) };
    if file.section_by_name(".linux").is_none() {
        return Ok(None);
    }
    let Some(section) = file.section_by_name(".initrd") else { return Ok(None) };
    let (offset, size) = section.file_range().unwrap_or_default();
    // What a section is rounded up by is not the archive's.
    let size = size.min(section.size());
    let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(size)).ok());
    Ok(range.map(|(start, end)| start..end).filter(|r| r.start <= r.end && r.end <= bytes.len()))
}

/// How a tar archive is compressed, if this is one.
fn tar(bytes: &[u8]) -> Option<&'static str> {
    let decoder = Decoder::new(bytes, EXPANDED_MAX).ok()?;
    let packing = match decoder.format().suffix() {
        "" => "none",
        ".gz" => "gzip",
        ".zst" => "zstd",
        other => other.trim_start_matches('.'),
    };
    let mut head = Vec::new();
    decoder.take(512).read_to_end(&mut head).ok()?;
    // Both magics of POSIX and GNU begin with it.
    (head.get(257..262) == Some(b"ustar")).then_some(packing)
}
