//! newc against GNU cpio, and round trips of arbitrary archives. Knows no compression.

mod common;

use std::collections::BTreeMap;
use std::io::Read;

use mosbuild_formats::newc::{Entry, Error, Kind, Limits, Member, Reader, Writer};
use proptest::prelude::*;

const MTIME: u32 = 1_735_689_600;

fn entry(name: &str, mode: u32, kind: Kind) -> Entry {
    Entry { name: name.into(), mode, uid: 0, gid: 0, kind }
}

fn file(name: &str, data: &[u8]) -> (Entry, Vec<u8>) {
    (entry(name, 0o644, Kind::File { size: data.len() as u64 }), data.to_vec())
}

fn write(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), MTIME);
    for (entry, data) in entries {
        writer.append(entry, &mut &data[..]).unwrap();
    }
    let (bytes, written) = writer.finish().unwrap();
    assert_eq!(written, bytes.len() as u64);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, Error> {
    Reader::new(bytes, Limits::default()).members().collect()
}

fn sample() -> Vec<(Entry, Vec<u8>)> {
    let mut owned = entry("etc/shadow", 0o640, Kind::File { size: 5 });
    (owned.uid, owned.gid) = (0, 42);
    vec![
        (entry("dev", 0o755, Kind::Dir), vec![]),
        (entry("dev/console", 0o600, Kind::Char { major: 5, minor: 1 }), vec![]),
        (entry("dev/sda", 0o660, Kind::Block { major: 8, minor: 0 }), vec![]),
        (entry("etc", 0o755, Kind::Dir), vec![]),
        file("etc/hostname", b"mos\n"),
        (owned, b"root:".to_vec()),
        (entry("init", 0o755, Kind::File { size: 3 }), b"abc".to_vec()),
        (entry("run", 0o1777, Kind::Dir), vec![]),
        (entry("run/pipe", 0o600, Kind::Fifo), vec![]),
        (entry("sbin", 0o777, Kind::Symlink { target: b"usr/bin".to_vec() }), vec![]),
        (entry("su", 0o4755, Kind::File { size: 0 }), vec![]),
    ]
}

#[test]
fn gnu_cpio_lists_and_extracts_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let archive = write(&sample());
    assert_eq!(archive.len() % 512, 0);
    let listing = common::tool("cpio", &["-itnv", "--quiet"], dir.path(), &archive);
    let listing = String::from_utf8(listing).unwrap();
    let lines: Vec<Vec<&str>> = listing.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), sample().len(), "{listing}");
    let of =
        |name: &str| lines.iter().find(|l| l.contains(&name)).unwrap_or_else(|| panic!("{name}: {listing}"));
    assert_eq!(of("dev")[..4], ["drwxr-xr-x", "2", "0", "0"]);
    assert_eq!(of("dev/console")[..6], ["crw-------", "1", "0", "0", "5,", "1"]);
    assert_eq!(of("dev/sda")[..6], ["brw-rw----", "1", "0", "0", "8,", "0"]);
    assert_eq!(of("etc/shadow")[..5], ["-rw-r-----", "1", "0", "42", "5"]);
    assert_eq!(of("run")[0], "drwxrwxrwt");
    assert_eq!(of("run/pipe")[0], "prw-------");
    assert_eq!(of("su")[0], "-rwsr-xr-x");
    assert!(listing.lines().any(|l| l.ends_with("sbin -> usr/bin")), "{listing}");

    let plain: Vec<_> = sample()
        .into_iter()
        .filter(|(e, _)| !matches!(e.kind, Kind::Char { .. } | Kind::Block { .. }))
        .collect();
    common::tool("cpio", &["-imd", "--quiet", "--no-preserve-owner"], dir.path(), &write(&plain));
    assert_eq!(std::fs::read(dir.path().join("etc/hostname")).unwrap(), b"mos\n");
    assert_eq!(std::fs::read_link(dir.path().join("sbin")).unwrap().to_str(), Some("usr/bin"));
    let modified = std::fs::metadata(dir.path().join("init")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), u64::from(MTIME));
}

#[test]
fn what_gnu_cpio_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    std::fs::create_dir(root.join("d")).unwrap();
    std::fs::write(root.join("d/a"), b"linked twice").unwrap();
    std::fs::hard_link(root.join("d/a"), root.join("d/b")).unwrap();
    std::os::unix::fs::symlink("a", root.join("d/l")).unwrap();
    std::fs::write(root.join("one"), vec![7; 1001]).unwrap();
    for format in ["newc", "crc"] {
        let names = b"d\nd/a\nd/b\nd/l\none\n";
        let archive = common::tool("cpio", &["-o", "-H", format, "--quiet"], root, names);
        let members = read(&archive).unwrap();
        let by_name: BTreeMap<_, _> =
            members.iter().map(|(m, d)| (m.entry.name.as_slice(), (m, d))).collect();
        assert_eq!(by_name.len(), 5);
        assert_eq!(by_name[&b"d"[..]].0.entry.kind, Kind::Dir);
        assert_eq!(by_name[&b"d/l"[..]].0.entry.kind, Kind::Symlink { target: b"a".to_vec() });
        assert_eq!(by_name[&b"one"[..]].1, &vec![7; 1001]);
        let (a, b) = (by_name[&b"d/a"[..]], by_name[&b"d/b"[..]]);
        assert!(a.0.link.is_some() && a.0.link == b.0.link);
        assert_eq!([a.1.as_slice(), b.1.as_slice()].concat(), b"linked twice");
    }
}

#[test]
fn inodes_count_up_and_a_damaged_checksum_is_found() {
    let archive = write(&sample());
    let inode =
        |at: usize| u32::from_str_radix(std::str::from_utf8(&archive[at + 6..at + 14]).unwrap(), 16).unwrap();
    let starts: Vec<usize> =
        archive.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(i, _)| i).collect();
    let inodes: Vec<u32> = starts.iter().map(|at| inode(*at)).collect();
    assert_eq!(inodes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0]);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"content").unwrap();
    let mut crc = common::tool("cpio", &["-o", "-H", "crc", "--quiet"], dir.path(), b"f\n");
    let at = crc.windows(7).position(|w| w == b"content").unwrap();
    crc[at] = b'k';
    assert!(matches!(read(&crc), Err(Error::Malformed { .. })));
}

#[test]
fn several_archives_are_read_one_after_another() {
    let first = write(&[file("a", b"1")]);
    let mut second = Writer::new(Vec::new(), MTIME);
    second.declare_dir(b"usr").unwrap();
    let (e, d) = file("usr/b", b"22");
    second.append(&e, &mut &d[..]).unwrap();
    let both = [first, second.finish().unwrap().0].concat();
    let names: Vec<_> = read(&both).unwrap().into_iter().map(|(m, _)| m.entry.name).collect();
    assert_eq!(names, [b"a".to_vec(), b"usr/b".to_vec()]);
}

#[test]
fn the_writer_refuses_what_the_kernel_would_drop() {
    let refuse = |e: Entry, data: &[u8]| {
        let mut writer = Writer::new(Vec::new(), 0);
        writer.append(&e, &mut &data[..]).unwrap_err()
    };
    for bad in ["/abs", "", "a//b", "../x", "a/./b", "dir/", "TRAILER!!!"] {
        assert!(matches!(refuse(entry(bad, 0o755, Kind::Dir), b""), Error::Name { .. }), "{bad}");
    }
    let long = "x".repeat(4096);
    assert!(matches!(refuse(entry(&long, 0o755, Kind::Dir), b""), Error::Name { .. }));
    assert!(matches!(refuse(entry("a/b", 0o644, Kind::Fifo), b""), Error::ParentMissing { .. }));
    assert!(matches!(refuse(entry("f", 0o644, Kind::File { size: 1 << 32 }), b""), Error::TooLarge { .. }));
    assert!(matches!(refuse(entry("f", 0o644, Kind::File { size: 3 }), b"ab"), Error::Size { got: 2, .. }));
    assert!(matches!(refuse(entry("f", 0o644, Kind::File { size: 1 }), b"ab"), Error::Size { got: 2, .. }));
    assert!(matches!(refuse(entry("s", 0o644, Kind::Socket), b""), Error::Name { .. }));

    let mut writer = Writer::new(Vec::new(), 0);
    let (f, _) = file("f", b"");
    writer.append(&f, &mut std::io::empty()).unwrap();
    assert!(matches!(writer.append(&f, &mut std::io::empty()), Err(Error::Name { .. })));
    let below = entry("f/x", 0o644, Kind::Fifo);
    assert!(matches!(writer.append(&below, &mut std::io::empty()), Err(Error::ParentMissing { .. })));
}

#[test]
fn limits_hold_and_claimed_sizes_allocate_nothing() {
    let archive = write(&sample());
    let few = Limits { entries: 3, ..Limits::default() };
    let result: Result<Vec<_>, _> = Reader::new(&archive[..], few).members().collect();
    assert!(matches!(result, Err(Error::Limit { what: "members", .. })));
    let small = Limits { bytes: 700, ..Limits::default() };
    let result: Result<Vec<_>, _> = Reader::new(&archive[..], small).members().collect();
    assert!(matches!(result, Err(Error::Limit { what: "bytes", .. })));

    let mut lying = write(&[file("f", b"x")]);
    lying[54..62].copy_from_slice(b"FFFFFFF0");
    let mut reader = Reader::new(&lying[..], Limits::default());
    assert!(reader.next_member().unwrap().is_some());
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    assert!(read(&lying).is_err());
}

fn arbitrary_kind() -> impl Strategy<Value = (Kind, Vec<u8>)> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|d| (Kind::File { size: d.len() as u64 }, d)),
        proptest::collection::vec(1u8.., 1..80).prop_map(|target| (Kind::Symlink { target }, vec![])),
        any::<(u32, u32)>().prop_map(|(major, minor)| (Kind::Char { major, minor }, vec![])),
        any::<(u32, u32)>().prop_map(|(major, minor)| (Kind::Block { major, minor }, vec![])),
        Just((Kind::Fifo, vec![])),
        Just((Kind::Dir, vec![])),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        members in proptest::collection::btree_map("[a-z\\PC]{1,12}", (arbitrary_kind(), 0u32..0o10000, any::<u32>(), any::<u32>()), 0..20)
    ) {
        let mut entries: Vec<(Entry, Vec<u8>)> = members
            .into_iter()
            .map(|(name, ((kind, data), mode, uid, gid))| {
                let name = name.replace(['/', '\0'], "_").replace('.', ",").into_bytes();
                (Entry { name, mode, uid, gid, kind }, data)
            })
            .collect();
        entries.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        entries.dedup_by(|a, b| a.0.name == b.0.name);
        let archive = write(&entries);
        let back: Vec<(Entry, Vec<u8>)> = read(&archive).unwrap().into_iter().map(|(m, d)| (m.entry, d)).collect();
        prop_assert_eq!(back, entries);
    }

    #[test]
    fn damaged_archives_do_not_panic(at in 0usize..2000, byte: u8, cut in 0usize..2000) {
        let mut archive = write(&sample());
        let len = archive.len();
        archive[at % len] = byte;
        let _ = read(&archive);
        let _ = read(&archive[..cut % len]);
    }

    #[test]
    fn noise_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&noise);
        let _ = read(&[b"070701".as_slice(), &noise].concat());
    }
}
