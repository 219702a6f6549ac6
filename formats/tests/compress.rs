//! Compression against xz, zstd and gunzip, and its promises about equal bytes and bounds.
//! Knows no archive format.

mod common;

use mosbuild_formats::compress::{Compression, Error, Format, XZ_BLOCK, compress, compress_file, decompress};
use proptest::prelude::*;

const ALL: [Compression; 4] = [
    Compression::None,
    Compression::Gzip { level: 9 },
    Compression::Xz { level: 1 },
    Compression::Zstd { level: 3 },
];

/// Compressible, but not trivially.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..len)
        .map(|i| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if i % 64 < 40 { (i / 64 % 251) as u8 } else { (state >> 24) as u8 & 0x3f }
        })
        .collect()
}

#[test]
fn xz_bytes_do_not_depend_on_threads_and_the_kernel_can_read_them() {
    let dir = tempfile::tempdir().unwrap();
    // Three blocks, each with some content; the rest zeros, to keep the test quick.
    let mut data = vec![0; 35 << 20];
    for block in data.chunks_mut(XZ_BLOCK as usize) {
        block[..1 << 20].copy_from_slice(&sample(1 << 20));
    }
    let how = Compression::Xz { level: 0 };
    let one = compress(&data, how, 1).unwrap();
    assert!(one == compress(&data, how, 2).unwrap());
    assert!(one == compress(&data, how, 4).unwrap());
    std::fs::write(dir.path().join("a.xz"), &one).unwrap();
    common::tool("xz", &["-t", "a.xz"], dir.path(), b"");
    let list = common::tool("xz", &["--robot", "-lvv", "a.xz"], dir.path(), b"");
    let list = String::from_utf8(list).unwrap();
    let blocks: Vec<&str> = list.lines().filter(|l| l.starts_with("block\t")).collect();
    assert_eq!(blocks.len(), 3, "{list}");
    for block in blocks {
        assert!(
            block.contains("CRC32") && block.contains("--lzma2=dict=") && !block.contains("--x86"),
            "{block}"
        );
    }
    assert!(decompress(&one, 35 << 20).unwrap() == data);
}

#[test]
fn the_dictionary_stays_within_what_a_booting_kernel_should_allocate() {
    let dir = tempfile::tempdir().unwrap();
    for level in [6, 9] {
        let xz = compress(b"small", Compression::Xz { level }, 1).unwrap();
        std::fs::write(dir.path().join("a.xz"), xz).unwrap();
        let list = common::tool("xz", &["--robot", "-lvv", "a.xz"], dir.path(), b"");
        let wanted = if level == 6 { "dict=8MiB" } else { "dict=16MiB" };
        assert!(String::from_utf8_lossy(&list).contains(wanted), "{}", String::from_utf8_lossy(&list));
    }
}

/// What drivers/base/firmware_loader/main.c asks for, as the real tools tell it.
#[test]
fn single_files_are_as_the_kernels_firmware_loader_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    for (len, dict) in [(0, "4KiB"), (3000, "4KiB"), (5000, "8KiB"), (1 << 20, "1MiB"), (20 << 20, "8MiB")] {
        let data = sample(len);
        let xz = compress_file(&data, Compression::Xz { level: 6 }).unwrap();
        std::fs::write(dir.path().join("a.xz"), &xz).unwrap();
        let list = common::tool("xz", &["--robot", "-lvv", "a.xz"], dir.path(), b"");
        let list = String::from_utf8(list).unwrap();
        let blocks: Vec<&str> = list.lines().filter(|l| l.starts_with("block\t")).collect();
        let one = format!("--lzma2=dict={dict}");
        assert!(
            blocks.len() == usize::from(len > 0)
                && blocks.iter().all(|b| b.contains("CRC32") && b.ends_with(&one)),
            "{len}: {list}"
        );
        assert!(common::tool("xz", &["-dc", "a.xz"], dir.path(), b"") == data);

        let zstd = compress_file(&data, Compression::Zstd { level: 19 }).unwrap();
        std::fs::write(dir.path().join("a.zst"), &zstd).unwrap();
        let list = common::tool("zstd", &["-lv", "a.zst"], dir.path(), b"");
        let list = String::from_utf8(list).unwrap();
        let lines = ["# Zstandard Frames: 1", &format!("({len} B)"), "Check: XXH64"];
        assert!(lines.iter().all(|line| list.contains(line)), "{len}: {list}");
        assert!(common::tool("zstd", &["-dcq", "a.zst"], dir.path(), b"") == data);
    }
    for how in [Compression::Xz { level: 10 }, Compression::Zstd { level: 20 }] {
        assert!(matches!(compress_file(b"", how), Err(Error::Level { .. })));
    }
}

#[test]
fn zstd_and_gzip_are_read_by_their_tools() {
    let dir = tempfile::tempdir().unwrap();
    let data = sample(300_000);
    let zst = compress(&data, Compression::Zstd { level: 19 }, 1).unwrap();
    assert_eq!(zst, compress(&data, Compression::Zstd { level: 19 }, 4).unwrap());
    assert!(common::tool("zstd", &["-dc"], dir.path(), &zst) == data);
    std::fs::write(dir.path().join("a.zst"), &zst).unwrap();
    let list = String::from_utf8(common::tool("zstd", &["-lv", "a.zst"], dir.path(), b"")).unwrap();
    assert!(list.contains("Zstandard Frames: 1"), "{list}");
    let gz = compress(&data, Compression::Gzip { level: 9 }, 1).unwrap();
    assert!(common::tool("gunzip", &["-c"], dir.path(), &gz) == data);
    assert_eq!(gz[3], 0, "no name, no extra fields");
    assert_eq!(gz[4..8], [0; 4], "no time");
}

#[test]
fn what_the_tools_write_is_read_also_in_several_members() {
    let dir = tempfile::tempdir().unwrap();
    let data = sample(70_000);
    for (program, args) in
        [("xz", &["-c"][..]), ("xz", &["-c", "-C", "sha256"]), ("zstd", &["-c"]), ("gzip", &["-c"])]
    {
        let one = common::tool(program, args, dir.path(), &data);
        assert!(decompress(&one, 70_000).unwrap() == data, "{program}");
        let two = [one.as_slice(), one.as_slice()].concat();
        assert!(
            decompress(&two, 140_000).unwrap() == [data.as_slice(), data.as_slice()].concat(),
            "{program}"
        );
    }
}

#[test]
fn bombs_and_levels_are_refused() {
    for how in ALL {
        let packed = compress(&vec![0; 1 << 20], how, 1).unwrap();
        assert!(matches!(decompress(&packed, (1 << 20) - 1), Err(Error::TooLarge { .. })), "{how:?}");
        assert_eq!(decompress(&packed, 1 << 20).unwrap().len(), 1 << 20);
    }
    for how in
        [Compression::Gzip { level: 10 }, Compression::Xz { level: 10 }, Compression::Zstd { level: 20 }]
    {
        assert!(matches!(compress(b"", how, 1), Err(Error::Level { .. })));
    }
}

/// The block header is rewritten to ask for a dictionary of 4 GiB - 1, with a right checksum.
#[test]
fn an_xz_header_cannot_make_the_decoder_allocate_gigabytes() {
    let mut xz = compress(&sample(1000), Compression::Xz { level: 0 }, 1).unwrap();
    let (start, len) = (12, (usize::from(xz[12]) + 1) * 4);
    let at = start + xz[start..].windows(2).position(|w| w == [0x21, 0x01]).unwrap() + 2;
    xz[at] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&xz[start..start + len - 4]);
    xz[start + len - 4..start + len].copy_from_slice(&crc.sum().to_le_bytes());
    let error = decompress(&xz, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("limit"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn round_trip(data in proptest::collection::vec(any::<u8>(), 0..5000)) {
        // Arbitrary bytes may begin with a magic: plain data gets a byte that no magic has.
        let data = [b"x", data.as_slice()].concat();
        for how in ALL {
            let packed = compress(&data, how, 2).unwrap();
            prop_assert_eq!(Format::detect(&packed), how.format());
            prop_assert_eq!(&decompress(&packed, data.len() as u64).unwrap(), &data);
            let packed = compress_file(&data, how).unwrap();
            prop_assert_eq!(&decompress(&packed, data.len() as u64).unwrap(), &data);
        }
    }

    #[test]
    fn damaged_streams_do_not_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
        for how in ALL {
            let mut packed = compress(&sample(500), how, 1).unwrap();
            let len = packed.len();
            packed[at % len] = byte;
            let _ = decompress(&packed, 10_000);
            let _ = decompress(&packed[..cut % len], 10_000);
        }
    }
}
