//! Initramfs files as the kernel takes them, written by the real tools: one stream and where it ends, several archives one
//! after another, and the one inside a kernel. Knows no tree.

mod common;

use mosbuild_formats::expand::{self, Packing};
use mosbuild_formats::initramfs::{self, Error, Part, Parts};
use mosbuild_formats::kernel_image;
use mosbuild_formats::newc::{Limits, Reader};
use proptest::prelude::*;

/// Each format with the program that writes it.
const WRITERS: [(Packing, &str, &[&str]); 6] = [
    (Packing::Gzip, "gzip", &["-9n"]),
    (Packing::Bzip2, "bzip2", &["-9"]),
    (Packing::Lzma, "xz", &["--format=lzma"]),
    (Packing::Xz, "xz", &["--check=crc32"]),
    (Packing::Lz4, "lz4", &["-l", "-c"]),
    (Packing::Zstd, "zstd", &["-19", "-c"]),
];

fn pack(packing: Packing, data: &[u8]) -> Vec<u8> {
    let (_, program, args) = WRITERS.iter().find(|w| w.0 == packing).unwrap();
    common::tool(program, args, std::path::Path::new("/"), data)
}

/// An archive of GNU cpio with one file of this name and content.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), content).unwrap();
    common::tool("cpio", &["-o", "-H", "newc", "--quiet"], dir.path(), name.as_bytes())
}

fn names(data: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for part in Parts::new(data, 1 << 30) {
        let (_, bytes) = part.unwrap();
        for member in Reader::new(&*bytes, Limits::default()).members() {
            names.push(String::from_utf8(member.unwrap().0.entry.name).unwrap());
        }
    }
    names
}

#[test]
fn a_stream_ends_where_the_tool_ended_it() {
    // More than one block of lz4, whose last is a whole one: only what follows tells that it is the last.
    let large: Vec<u8> = (0..16u32 << 20).map(|n| (n >> 5) as u8 ^ (n >> 13) as u8).collect();
    for data in [b"short".to_vec(), large] {
        for (packing, ..) in WRITERS {
            let mut packed = pack(packing, &data);
            assert_eq!(Packing::detect(&packed), Some(packing));
            let length = packed.len();
            // What kbuild appends to a kernel: its length.
            packed.extend((data.len() as u32).to_le_bytes());
            packed.extend(b"\0\x00070701 and more");
            let (bytes, used) = expand::stream(&packed, packing, 1 << 30).unwrap();
            assert!(bytes == data && used == length, "{packing:?}: {used} of {length}");
            let small = expand::stream(&packed, packing, data.len() as u64 - 1);
            assert!(small.unwrap_err().to_string().contains("more than"), "{packing:?}");
            assert!(expand::stream(&packed[..length / 2], packing, 1 << 30).is_err(), "{packing:?} cut off");
        }
    }
    assert!(
        expand::stream(&[0x89, b'L', b'Z', b'O', 0], Packing::Lzo, 9)
            .unwrap_err()
            .to_string()
            .contains("lzop")
    );
}

#[test]
fn archives_of_every_kind_one_after_another() {
    let mut data = archive("plain", b"first");
    let mut expected = vec!["plain".to_owned()];
    for (n, (packing, ..)) in WRITERS.iter().enumerate() {
        data.extend(vec![0; n]);
        let name = format!("by-{}", packing.name());
        data.extend(pack(*packing, &archive(&name, name.as_bytes())));
        expected.push(name);
    }
    data.resize(data.len().next_multiple_of(4), 0);
    data.extend(archive("last", b"last"));
    expected.push("last".into());
    assert_eq!(names(&data), expected);
    let parts: Vec<Part> = Parts::new(&data, 1 << 30).map(|p| p.unwrap().0).collect();
    assert_eq!(parts.len(), 8);
    for pair in parts.windows(2) {
        let between = &data[pair[0].offset + pair[0].packed..pair[1].offset];
        assert!(between.iter().all(|b| *b == 0) && between.len() < 512, "{pair:?}");
    }
    let garbage = [&data[..], b"garbage"].concat();
    let last = Parts::new(&garbage, 1 << 30).last().unwrap();
    assert!(matches!(last, Err(Error::Unknown(at)) if at == data.len()), "{last:?}");
}

#[test]
fn what_is_no_initramfs_is_told() {
    assert!(!initramfs::begins(b"") && !initramfs::begins(b"text"));
    assert!(!initramfs::begins(&pack(Packing::Xz, b"no archive")));
    assert!(initramfs::begins(&pack(Packing::Lz4, &archive("a", b""))));
    assert_eq!(Parts::new(&[0; 64], 9).count(), 0);
}

/// A bzImage by the boot protocol around some kernel, compressed by gzip with its length behind it, as kbuild does.
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut payload = pack(Packing::Zstd, kernel);
    payload.extend((kernel.len() as u32).to_le_bytes());
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&0x40u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.resize(image.len() + 0x40, 0x90);
    image.extend(payload);
    image.extend(b"behind");
    image
}

/// Bytes that look like a kernel: with magics of every format, and small numbers at multiples of 8.
fn kernel(archive: &[u8], length: Option<u64>) -> Vec<u8> {
    let mut kernel = b"\x7fELF".to_vec();
    for n in 0..20_000u64 {
        kernel.extend((n * 16).to_le_bytes());
        if n % 100 == 0 {
            kernel.extend(b"\x1f\x8b\x08\0\xfd7zXZ\0BZh]\0\0\x28\xb5\x2f\xfd0707");
            kernel.resize(kernel.len().next_multiple_of(8), 0);
        }
    }
    kernel.resize(kernel.len() + 4, 0xcc);
    kernel.extend(archive);
    kernel.resize(kernel.len().next_multiple_of(8), 0);
    kernel.extend(length.unwrap_or(archive.len() as u64).to_le_bytes());
    kernel.extend(vec![0x5a; 4096]);
    kernel
}

#[test]
fn the_initramfs_of_a_kernel_is_found() {
    for packing in WRITERS.map(|w| Some(w.0)).into_iter().chain([None]) {
        let plain = archive("init", &vec![7; 30_000]);
        let packed = packing.map_or(plain.clone(), |packing| pack(packing, &plain));
        let image = bzimage(&kernel(&packed, None));
        let (inside, how) = kernel_image::expanded(&image).unwrap();
        assert_eq!(how, Some(Packing::Zstd));
        assert!(initramfs::embedded(&inside) == Some(&packed[..]), "{packing:?}");
        // A slot, of which only a part is used: the number behind it is another's.
        let mut slot = packed.clone();
        slot.resize(64 << 10, 0);
        let filled = kernel(&slot, Some(packed.len() as u64 + 1));
        let found = initramfs::embedded(&filled).unwrap();
        assert_eq!(names(found), ["init"], "{packing:?}");
    }
    assert_eq!(initramfs::embedded(&kernel(&[0; 64], None)), None);
}

#[test]
fn damaged_images_are_refused() {
    let image = bzimage(&kernel(&archive("init", b"x"), None));
    for (at, bytes) in [(0x24c, [0xff; 4]), (0x248, [0xff; 4]), (0x24c, [0; 4])] {
        let mut image = image.clone();
        image[at..at + 4].copy_from_slice(&bytes);
        assert!(kernel_image::expanded(&image).is_err(), "{at:x}");
    }
    let mut old = image.clone();
    old[0x206] = 7;
    old[0x207] = 2;
    assert!(kernel_image::expanded(&old).unwrap_err().to_string().contains("where its compressed kernel"));
    let mut unknown = image;
    unknown[5 * 512 + 0x40..5 * 512 + 0x44].fill(0);
    assert!(kernel_image::expanded(&unknown).unwrap_err().to_string().contains("not known"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_bounded(data in prop::collection::vec(any::<u8>(), 0..300), head in 0..9usize) {
        let magics: [&[u8]; 9] = [b"", b"070701", b"\x1f\x8b\x08", b"BZh9", b"]\0\0", b"\xfd7zXZ\0", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd", b"\x89LZO\0"];
        let data = [magics[head], &data].concat();
        let mut end = 0;
        for part in Parts::new(&data, 1 << 16) {
            let Ok((part, bytes)) = part else { break };
            prop_assert!(part.offset >= end && part.offset + part.packed <= data.len() && bytes.len() <= 1 << 16);
            end = part.offset + part.packed;
        }
        if let Some(found) = initramfs::embedded(&data) {
            prop_assert!(initramfs::begins(found));
        }
    }
}
