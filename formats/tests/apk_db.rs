//! The installed database: real ones, defaults and damage. Does not know a tree.

mod common;

use std::collections::HashMap;
use std::fs;

use mosbuild_formats::apk::db::{Attributes, DIR_DEFAULT, FILE_DEFAULT, Installed};
use mosbuild_formats::apk::{Error, Limits, Package, PackageEntry};
use mosbuild_formats::tarball::Kind;
use proptest::prelude::*;

const SMALL: &str = "C:Q1a\nP:a\nV:1-r0\nA:x86_64\nS:1\nI:2\nT:\nU:\nL:\nr:b c<2\nq:10\ns:@edge\nf:fs\n\
                     F:etc\nR:motd\nZ:Q1x\nF:tmp\nM:0:0:1777\nR:su\na:0:42:4750:Q1attrs\nZ:Q2y\nR:plain\nF:\nR:top\n\n";

#[test]
fn real_databases_are_read_whole() {
    let Some(root) = common::fixtures("alpine") else { return };
    for (path, packages) in [
        ("db/installed-3.20.3-minirootfs", 14),
        ("db/installed-3.23.6", 59),
        ("expected/v3.19-installed", 36),
    ] {
        let bytes = fs::read(root.join(path)).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let db = Installed::parse(&bytes).unwrap();
        assert_eq!(db.packages.len(), packages, "{path}");
        // Counted by another way: the lines themselves.
        let lines = |key: &str| text.lines().filter(|l| l.starts_with(key)).count();
        let dirs: Vec<_> = db.packages.iter().flat_map(|p| &p.dirs).collect();
        let files: Vec<_> = dirs.iter().flat_map(|d| &d.files).collect();
        assert_eq!((dirs.len(), files.len()), (lines("F:"), lines("R:")));
        assert_eq!(files.iter().filter(|f| f.checksum.is_some()).count(), lines("Z:"));
        assert_eq!(dirs.iter().filter(|d| d.attributes != DIR_DEFAULT).count(), lines("M:"));
        assert_eq!(files.iter().filter(|f| f.attributes != FILE_DEFAULT).count(), lines("a:"));
        assert!(db.packages.iter().all(|p| p.info.unknown.is_empty() && p.broken.is_empty()));
        assert_eq!(db.packages.iter().filter(|p| !p.info.replaces.is_empty()).count(), lines("r:"));
        let shadow = db.attributes()[&b"etc/shadow"[..]];
        let gid = if path.contains("3.23") { 0 } else { 42 };
        assert_eq!((shadow.uid, shadow.gid, shadow.mode), (0, gid, 0o640));
    }
}

#[test]
fn what_apk_recorded_is_what_the_packages_hold() {
    let Some(root) = common::fixtures("alpine") else { return };
    let db = Installed::parse(&fs::read(root.join("expected/v3.19-installed")).unwrap()).unwrap();
    let mut compared = 0;
    for installed in &db.packages {
        let file = installed.info.file_name();
        let at = ["main", "community"].map(|r| root.join("v3.19").join(r).join("x86_64").join(&file));
        let Some(bytes) = at.iter().find_map(|p| fs::read(p).ok()) else { continue };
        let package = Package::read(&bytes[..], &Limits::default()).unwrap();
        assert_eq!(package.identity, installed.info.identity);
        assert_eq!(package.info.depends, installed.info.depends);
        // apk 2.14 writes the r: of a package without files into the next record.
        match &package.info.name[..] {
            "udev-init-scripts" => assert_eq!((package.info.replaces.len(), installed.dirs.len()), (1, 0)),
            "xz-libs" => assert_eq!(installed.info.replaces, ["udev"]),
            _ => assert_eq!(package.info.replaces, installed.info.replaces),
        }
        assert_eq!(package.info.replaces_priority, installed.replaces_priority);
        let mut recorded = HashMap::new();
        for dir in &installed.dirs {
            for file in &dir.files {
                let path = [&dir.path[..], &file.name].join(&b'/');
                recorded.insert(path, file);
            }
        }
        // apk installs nothing whose path begins with a dot; udev-init-scripts has a .dummy.
        let shown = |e: &&PackageEntry| e.kind != Kind::Dir && !e.path.starts_with(b".");
        for entry in package.entries.iter().filter(shown) {
            let path = String::from_utf8_lossy(&entry.path).into_owned();
            let file =
                recorded.remove(&entry.path).unwrap_or_else(|| panic!("{}: {path}", package.info.name));
            assert_eq!(file.attributes.mode, entry.mode, "{path}");
            let sum = entry.sha1.map(|sum| mosbuild_formats::apk::q1(&sum));
            if !matches!(entry.kind, Kind::HardLink { .. }) {
                assert_eq!(file.checksum, sum);
            }
            compared += 1;
        }
        assert!(recorded.is_empty());
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn fields_and_defaults() {
    let db = Installed::parse(SMALL.as_bytes()).unwrap();
    let package = db.get("a").unwrap();
    assert!(db.get("b").is_none());
    assert_eq!(package.info.replaces, ["b", "c<2"]);
    assert_eq!((package.replaces_priority, &package.tag[..], &package.broken[..]), (10, "@edge", "fs"));
    let all = db.attributes();
    let at = |path: &str| {
        let Attributes { uid, gid, mode } = all[path.as_bytes()];
        (uid, gid, mode)
    };
    assert_eq!(at("etc"), (0, 0, 0o755));
    assert_eq!(at("etc/motd"), (0, 0, 0o644));
    assert_eq!(at("tmp"), (0, 0, 0o1777));
    assert_eq!(at("tmp/su"), (0, 42, 0o4750));
    assert_eq!(at("tmp/plain"), (0, 0, 0o644));
    assert_eq!(at("top"), (0, 0, 0o644));
    assert_eq!(all.len(), 6);
    assert_eq!(package.dirs[1].files[0].checksum.as_deref(), Some("Q2y"));
    assert_eq!(package.dirs[1].files[1].checksum, None);
    // The first package's directory wins.
    let second = SMALL.replace("P:a", "P:b").replace("1777", "700");
    let both = Installed::parse((SMALL.to_string() + &second).as_bytes()).unwrap();
    assert_eq!(both.attributes()[&b"tmp"[..]].mode, 0o1777);
    assert_eq!(Installed::parse(b"").unwrap(), Installed::default());
    let unended = Installed::parse(SMALL.trim_end().as_bytes()).unwrap();
    assert_eq!(unended, db);
    // File names are bytes.
    let bytes = [&b"C:Q1a\nP:a\nV:1\nF:\xff\nR:\xfe:x\n"[..]].concat();
    let db = Installed::parse(&bytes).unwrap();
    assert_eq!(db.packages[0].dirs[0].files[0].name, b"\xfe:x");
}

#[test]
fn wrong_lines_are_told_by_number() {
    for (from, to, line) in [
        ("F:etc", "F:/etc", 14),
        ("F:etc", "F:a/../b", 14),
        ("F:etc", "F:a//b", 14),
        ("F:etc", "X", 14),
        ("F:etc\n", "", 14),
        ("F:etc", "M:0:0:755", 14),
        ("R:motd", "R:a/b", 15),
        ("R:motd", "R:..", 15),
        ("R:motd", "R:", 15),
        ("R:motd\n", "", 15),
        ("Z:Q1x", "M:0:0:700", 16),
        ("Z:Q1x", "a:0:0", 16),
        ("Z:Q1x", "a:0:0:8", 16),
        ("Z:Q1x", "a:0:0:10000", 16),
        ("Z:Q1x", "a:-1:0:644", 16),
        ("q:10", "q:x", 11),
        ("P:a\n", "", 24),
    ] {
        match Installed::parse(SMALL.replacen(from, to, 1).as_bytes()) {
            Err(Error::Line { line: at, file: "lib/apk/db/installed", .. }) => {
                assert_eq!(at, line, "{from:?} to {to:?}");
            }
            other => panic!("{from:?} to {to:?}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn damage_does_not_panic_or_lead_outside(edits in proptest::collection::vec((0usize..400, any::<u8>()), 1..6)) {
        let mut bytes = SMALL.as_bytes().to_vec();
        let len = bytes.len();
        for (at, byte) in edits {
            bytes[at % len] = byte;
        }
        if let Ok(db) = Installed::parse(&bytes) {
            for path in db.attributes().keys() {
                prop_assert!(path.split(|b| *b == b'/').all(|p| !matches!(p, b"" | b"." | b"..")));
            }
        }
    }
}
