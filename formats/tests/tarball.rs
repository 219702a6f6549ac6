//! Tarballs: those that GNU tar writes, and those written to do harm. Knows no store.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use mosbuild_formats::compress::{Compression, compress};
use mosbuild_formats::tarball::{self, Entry, Error, Kind, Options, Summary};
use proptest::prelude::*;
use tar::EntryType;

type Seen = Vec<(Entry, Vec<u8>)>;

fn read_with(bytes: &[u8], options: &Options) -> Result<(Seen, Summary), Error> {
    let mut seen = vec![];
    let summary = tarball::read(bytes, options, |entry, data| {
        let mut content = vec![];
        data.read_to_end(&mut content)?;
        seen.push((entry.clone(), content));
        Ok::<(), Error>(())
    })?;
    Ok((seen, summary))
}

fn read(bytes: &[u8]) -> Result<(Seen, Summary), Error> {
    read_with(bytes, &Options::default())
}

/// One entry as raw as it gets: the tar library's own builder would refuse most of these.
fn raw(kind: EntryType, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn file(path: &str, data: &[u8]) -> Vec<u8> {
    raw(EntryType::Regular, path, "", data)
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend([0; 1024]);
    out
}

#[test]
fn what_gnu_tar_writes_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("linux-6.1");
    let deep = format!("{}/{}", "a".repeat(90), "b".repeat(90));
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::write(root.join(&deep).join("long name"), vec![3; 5000]).unwrap();
    fs::write(root.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("script"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(root.join("script"), root.join("twin")).unwrap();
    symlink("../../outside", root.join("link")).unwrap();
    fs::File::create(root.join("sparse")).unwrap().set_len(1 << 20).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let sparse = if format == "gnu" { "--sparse" } else { "--no-xattrs" };
        let format = format!("--format={format}");
        let args = ["-c", "--sort=name", "--owner=7", "--group=8", &format, sparse, "linux-6.1"];
        let tar = common::tool("tar", &args, dir.path(), b"");
        let packings = [
            Compression::None,
            Compression::Gzip { level: 6 },
            Compression::Xz { level: 1 },
            Compression::Zstd { level: 3 },
        ];
        for how in packings {
            let packed = compress(&tar, how, 1).unwrap();
            let options = Options { strip_components: 1, ..Options::default() };
            let (seen, summary) = read_with(&packed, &options).unwrap();
            assert_eq!(summary.entries, seen.len() as u64);
            assert!(summary.implied_dirs.is_empty());
            let by_path: BTreeMap<String, &(Entry, Vec<u8>)> =
                seen.iter().map(|e| (String::from_utf8(e.0.path.clone()).unwrap(), e)).collect();
            assert_eq!(by_path.len(), 7, "{:?}", by_path.keys());
            let script = by_path["script"];
            assert_eq!((script.0.mode, script.0.uid, script.0.gid), (0o4755, 7, 8));
            assert_eq!(script.1, b"#!/bin/sh\n");
            assert_eq!(by_path["twin"].0.kind, Kind::HardLink { to: b"script".to_vec() });
            assert_eq!(by_path["link"].0.kind, Kind::Symlink { target: b"../../outside".to_vec() });
            assert_eq!(by_path[&format!("{deep}/long name")].1, vec![3; 5000]);
            assert_eq!(by_path["sparse"].1, vec![0; 1 << 20]);
        }
    }
}

#[test]
fn sparse_files_in_pax_form_are_refused_rather_than_misread() {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 20).unwrap();
    let tar = common::tool("tar", &["-c", "--format=pax", "--sparse", "sparse"], dir.path(), b"");
    assert!(read(&tar).unwrap_err().to_string().contains("sparse"));
}

#[test]
fn git_archives_and_stripping() {
    let tar = archive(&[
        raw(EntryType::XGlobalHeader, "pax_global_header", "", b"19 comment=abcdefg\n"),
        raw(EntryType::Directory, "x-1/", "", b""),
        file("./x-1//a/./b", b"1"),
        raw(EntryType::Regular, "x-1/old/", "", b""),
    ]);
    let options = Options { strip_components: 1, ..Options::default() };
    let (seen, summary) = read_with(&tar, &options).unwrap();
    let paths: Vec<_> = seen.iter().map(|(e, _)| String::from_utf8_lossy(&e.path).into_owned()).collect();
    assert_eq!(paths, ["a/b", "old"]);
    assert_eq!(seen[1].0.kind, Kind::Dir);
    assert_eq!(summary.implied_dirs, [b"a".to_vec()]);
}

#[test]
fn what_could_reach_outside_is_refused() {
    let link = |path, to| raw(EntryType::Symlink, path, to, b"");
    let hard = |path, to| raw(EntryType::Link, path, to, b"");
    let dir = |path| raw(EntryType::Directory, path, "", b"");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("absolute", vec![file("/etc/passwd", b"")]),
        ("'..'", vec![file("a/../../b", b"")]),
        ("symbolic link", vec![link("d", "/etc"), file("d/passwd", b"")]),
        ("symbolic link", vec![link("d", "/etc"), file("d/deep/er", b"")]),
        ("no directory", vec![file("f", b""), file("f/x", b"")]),
        ("twice", vec![file("f", b"1"), file("./f", b"2")]),
        ("twice", vec![dir("d"), link("d", "/etc")]),
        ("twice", vec![link("d", "/etc"), dir("d")]),
        ("has entries", vec![file("d/f", b""), link("d", "/etc")]),
        ("hard link", vec![hard("h", "/etc/passwd")]),
        ("hard link", vec![hard("h", "later"), file("later", b"")]),
        ("hard link", vec![dir("d"), hard("h", "d")]),
        ("'..'", vec![hard("h", "../x")]),
        ("device", vec![raw(EntryType::Char, "null", "", b"")]),
        ("type", vec![raw(EntryType::new(b'Q'), "q", "", b"")]),
        ("target", vec![link("l", "")]),
    ];
    for (expected, entries) in cases {
        match read(&archive(&entries)) {
            Err(e @ Error::Refused { .. }) | Err(e @ Error::Io(_)) => {
                let absolute_link = expected == "hard link" && e.to_string().contains("absolute");
                assert!(e.to_string().contains(expected) || absolute_link, "{expected}: {e}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
    // The same directory with the same attributes is harmless, and shown once.
    assert_eq!(read(&archive(&[dir("d"), dir("d/")])).unwrap().0.len(), 1);
    // A chain of hard links leads to the file itself.
    let chain = archive(&[file("f", b"x"), hard("g", "f"), hard("h", "g")]);
    assert_eq!(read(&chain).unwrap().0[2].0.kind, Kind::HardLink { to: b"f".to_vec() });
}

#[test]
fn devices_are_shown_where_allowed() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Char);
    header.set_path("dev/console").unwrap();
    header.set_mode(0o600);
    header.set_device_major(5).unwrap();
    header.set_device_minor(1).unwrap();
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_cksum();
    let options = Options { allow_devices: true, ..Options::default() };
    let (seen, _) = read_with(&archive(&[header.as_bytes().to_vec()]), &options).unwrap();
    assert_eq!(seen[0].0.kind, Kind::Char { major: 5, minor: 1 });
}

#[test]
fn bounds_hold_for_files_entries_headers_and_damage_is_found() {
    let two = archive(&[file("a", &[0; 600]), file("b", &[0; 600])]);
    let small = Options { max_bytes: 1000, ..Options::default() };
    assert!(matches!(read_with(&two, &small), Err(Error::Limit { what: "bytes", .. })));
    let few = Options { max_entries: 1, ..Options::default() };
    assert!(matches!(read_with(&two, &few), Err(Error::Limit { what: "entries", .. })));
    let long = raw(EntryType::GNULongName, "././@LongLink", "", &vec![b'x'; 3 << 20]);
    let bomb = compress(&archive(&[long, file("a", b"")]), Compression::Gzip { level: 9 }, 1).unwrap();
    assert!(matches!(read(&bomb), Err(Error::Limit { .. })));

    assert!(matches!(read(&two[..700]), Err(Error::Io(_))));
    let mut xz = compress(&two, Compression::Xz { level: 0 }, 1).unwrap();
    let len = xz.len();
    xz[len - 20] ^= 1;
    assert!(read(&xz).is_err(), "damage after the last entry");
    let bz2 = [b"BZh91AY&SY".as_slice(), &[0x55; 1024]].concat();
    assert!(matches!(read(&bz2), Err(Error::Unsupported("bzip2"))), "{:?}", read(&bz2));
}

#[test]
fn the_caller_s_error_comes_out_and_unread_data_is_skipped() {
    let tar = archive(&[file("a", &[1; 3000]), file("b", b"2")]);
    let mut paths = vec![];
    tarball::read(&tar[..], &Options::default(), |entry, data| {
        paths.push(entry.path.clone());
        data.read_exact(&mut [0; 10][..entry.path.len() - 1]).map_err(Error::from)
    })
    .unwrap();
    assert_eq!(paths, [b"a", b"b"]);
    let refused =
        tarball::read(&tar[..], &Options::default(), |_, _| Err(Error::Limit { what: "patience", limit: 0 }));
    assert!(matches!(refused, Err(Error::Limit { what: "patience", .. })));
}

proptest! {
    #[test]
    fn damaged_archives_do_not_panic(edits in proptest::collection::vec((0usize..4096, any::<u8>()), 1..5), fix: bool) {
        let mut tar = archive(&[
            raw(EntryType::Directory, "d/", "", b""),
            file("d/f", b"content"),
            raw(EntryType::Link, "d/h", "d/f", b""),
            raw(EntryType::XHeader, "pax", "", b"18 path=some/name\n"),
            file("d/g", b"x"),
        ]);
        let len = tar.len();
        for (at, byte) in edits {
            tar[at % len] = byte;
        }
        if fix {
            // With right checksums the edits reach what is behind them.
            for block in tar.chunks_exact_mut(512).filter(|b| b[257..262] == *b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok((seen, _)) = read(&tar) {
            for (entry, _) in seen {
                prop_assert!(!entry.path.is_empty() && !entry.path.starts_with(b"/"));
                prop_assert!(entry.path.split(|b| *b == b'/').all(|p| !matches!(p, b"" | b"." | b"..")));
            }
        }
    }

    #[test]
    fn noise_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&noise);
    }
}
