//! Indexes: genuine ones, those written here as the real apk takes them, and damaged ones.
//! Does not fetch.

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::apk::{Member, Parts, cut, gzip, make_key, real_apk, sign, whole};
use mosbuild_formats::apk::index::{parse_entries, write_index};
use mosbuild_formats::apk::{
    Algorithm, Digests, Error, Index, IndexEntry, Key, Limits, Package, SignatureError, verify,
};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Index, Error> {
    Index::read(bytes, &Limits::default())
}

fn key(dir: &Path, name: &str) -> Key {
    Key::from_pem(name, &fs::read(dir.join(name)).unwrap()).unwrap()
}

const ALPINE: &str = "alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub";

#[test]
fn genuine_indexes_are_read_and_verified() {
    let Some(root) = common::fixtures("alpine") else { return };
    let keys = root.join("keys");
    let cases = [
        ("v3.19/main/x86_64/APKINDEX.tar.gz", ALPINE, Algorithm::Rsa, 100),
        (
            "v3.19/community/x86_64/APKINDEX.tar.gz",
            "mirror@test.invalid-00000001.rsa.pub",
            Algorithm::Rsa,
            28,
        ),
        ("index/v3.19-main-x86_64.APKINDEX.tar.gz", ALPINE, Algorithm::Rsa, 5443),
        ("index/rsa256-signed.APKINDEX.tar.gz", "test-rsa256.rsa.pub", Algorithm::Rsa256, 1),
    ];
    for (path, name, algorithm, count) in cases {
        let bytes = fs::read(root.join(path)).unwrap();
        let index = read(&bytes).unwrap();
        assert_eq!(index.entries.len(), count, "{path}");
        assert_eq!((&index.signatures[0].key[..], index.signatures[0].algorithm), (name, algorithm));
        assert_eq!(verify(&index.signatures, &index.signed, &[key(&keys, name)]), Ok(0), "{path}");
        let other = "alpine-devel@lists.alpinelinux.org-4a6a0840.rsa.pub";
        let unknown = verify(&index.signatures, &index.signed, &[key(&keys, other)]);
        assert_eq!(unknown, Err(SignatureError::UnknownKey { names: vec![name.into()] }));
        assert!(index.entries.iter().all(IndexEntry::is_installable));
    }
    let full = read(&fs::read(root.join(cases[2].0)).unwrap()).unwrap();
    assert_eq!(full.description, "v3.19.1-643-gec825d20535");
    let openrc = full.entries.iter().find(|e| e.name == "chrony-openrc").unwrap();
    assert_eq!(openrc.install_if, ["openrc", &format!("chrony={}", openrc.version)]);
    assert_eq!(full.entries.iter().map(|e| e.depends.len()).filter(|n| *n > 0).count(), 3620);
    assert_eq!(full.entries.iter().filter(|e| e.provider_priority > 0).count(), 272);
}

#[test]
fn what_is_made_from_the_packages_is_what_alpine_s_index_says() {
    let Some(root) = common::fixtures("alpine/v3.19") else { return };
    let mut compared = 0;
    for repository in ["main/x86_64", "community/x86_64"] {
        let dir = root.join(repository);
        let index = read(&fs::read(dir.join("APKINDEX.tar.gz")).unwrap()).unwrap();
        for entry in &index.entries {
            let Ok(bytes) = fs::read(dir.join(entry.file_name())) else { continue };
            let package = Package::read(&bytes[..], &Limits::default()).unwrap();
            let made = IndexEntry::from_package(&package.info, &package.identity, package.size);
            // Alpine indexes with --rewrite-arch: what is for every machine gets the repository's.
            let made = IndexEntry { arch: entry.arch.clone(), ..made };
            assert_eq!(made, *entry);
            assert!(matches!(&package.info.arch[..], "x86_64" | "noarch"));
            compared += 1;
        }
    }
    assert_eq!(compared, 102);
}

/// Decompressed `APKINDEX` of an index.
fn text(bytes: &[u8]) -> String {
    let mut out = String::new();
    let archive = flate2::read::MultiGzDecoder::new(bytes);
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        if &*entry.path_bytes() == b"APKINDEX" {
            std::io::Read::read_to_string(&mut entry, &mut out).unwrap();
        }
    }
    out
}

#[test]
fn written_text_is_that_of_apk_index() {
    let Some(root) = common::fixtures("alpine") else { return };
    for path in ["v3.19/community/x86_64/APKINDEX.tar.gz", "index/v3.19-main-x86_64.APKINDEX.tar.gz"] {
        let genuine = fs::read(root.join(path)).unwrap();
        let index = read(&genuine).unwrap();
        let written = write_index(&index.description, &index.entries);
        // Alpine's order is that of its builder; each record is the same to the byte.
        let records = |text: &str| {
            let mut all: Vec<String> = text.trim_end().split("\n\n").map(String::from).collect();
            all.sort();
            all
        };
        assert_eq!(records(&text(&written)), records(&text(&genuine)), "{path}");
        let again = read(&written).unwrap();
        assert_eq!((again.signatures.len(), &again.description), (0, &index.description));
        assert!(again.entries.is_sorted_by(|a, b| a.name <= b.name));
        assert_eq!(again.signed, Digests::of(&written));
        assert_eq!(write_index(&index.description, &again.entries), written);
    }
}

#[test]
fn the_real_apk_takes_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let Some(apk) = real_apk(&dir.path().join("apk")) else { return };
    let repository = dir.path().join("repository/x86_64");
    fs::create_dir_all(&repository).unwrap();
    let info = "pkgname = demo\npkgver = 1.2-r3\npkgdesc = A demo\nurl = https://example.org\nsize = 1\n\
                arch = x86_64\nlicense = MIT\norigin = demo\nbuilddate = 1700000000\nprovides = cmd:demo=1.2-r3\n";
    let package = Parts::new(info, &[], &[Member::dir("etc"), Member::file("etc/demo", b"1")]).bytes();
    let read = Package::read(&package[..], &Limits::default()).unwrap();
    let entry = IndexEntry::from_package(&read.info, &read.identity, read.size);
    fs::write(repository.join(entry.file_name()), &package).unwrap();
    fs::write(repository.join("APKINDEX.tar.gz"), write_index("made here", &[entry])).unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc/apk")).unwrap();
    fs::create_dir_all(root.join("lib/apk/db")).unwrap();
    fs::write(root.join("etc/apk/arch"), "x86_64\n").unwrap();
    fs::write(root.join("etc/apk/world"), "").unwrap();
    fs::write(root.join("lib/apk/db/installed"), "").unwrap();
    fs::write(root.join("lib/apk/db/scripts.tar"), "").unwrap();
    fs::write(root.join("lib/apk/db/triggers"), "").unwrap();
    let repository = dir.path().join("repository");
    let args = |command: &'static [&'static str]| {
        let mut args =
            vec!["--root", root.to_str().unwrap(), "--no-network", "--no-cache", "--allow-untrusted"];
        args.extend(["--arch", "x86_64", "--repository", repository.to_str().unwrap()]);
        args.extend(command);
        args
    };
    let found = apk(&args(&["search", "-v", "-x", "demo"]));
    assert!(found.contains("demo-1.2-r3 - A demo"), "{found}");
    let plan = apk(&args(&["add", "--simulate", "demo"]));
    assert!(plan.contains("Installing demo (1.2-r3)"), "{plan}");
    let fetched = apk(&args(&["fetch", "--simulate", "cmd:demo"]));
    assert!(fetched.contains("Downloading demo-1.2-r3"), "{fetched}");
}

#[test]
fn unknown_fields() {
    let record = "C:Q1x\nP:a\nV:1\nT:\nU:\nL:\n";
    let entries = |more: &str| parse_entries(format!("{record}{more}").as_bytes());
    assert!(entries("").unwrap()[0].is_installable());
    let lower = entries("z:new thing\n\n").unwrap();
    assert!(lower[0].is_installable());
    assert_eq!(lower[0].unknown, [('z', "new thing".to_string())]);
    assert!(!entries("X:must know\n").unwrap()[0].is_installable());
    assert!(!entries("2:must know\n").unwrap()[0].is_installable());
    let all = [lower, entries("X:1\n").unwrap()].concat();
    assert_eq!(read(&write_index("", &all)).unwrap().entries, all);
}

#[test]
fn wrong_lines_are_told_by_number() {
    let good = "C:Q1x\nP:a\nV:1\n\nC:Q1y\nP:b\nV:1\n";
    assert_eq!(parse_entries(good.as_bytes()).unwrap().len(), 2);
    assert_eq!(parse_entries(b"\n\n\n").unwrap(), []);
    for (from, to, line) in [
        ("P:b", "P:../b", 6),
        ("P:b", "P:", 6),
        ("P:b", "no colon", 6),
        ("P:b\n", "", 7),
        ("V:1\n\n", "\n", 3),
        ("V:1", "V:1/2", 3),
        ("V:1", "S:many", 3),
        ("V:1", "I:-1", 3),
        ("V:1", "A:../x86", 3),
    ] {
        match parse_entries(good.replacen(from, to, 1).as_bytes()) {
            Err(Error::Line { line: at, .. }) => assert_eq!(at, line, "{from:?} to {to:?}"),
            other => panic!("{from:?} to {to:?}: {other:?}"),
        }
    }
    assert!(matches!(parse_entries(b"T:\xff\n"), Err(Error::Line { line: 1, .. })));
}

#[test]
fn what_is_no_index_is_told_apart() {
    assert!(matches!(read(b"ADB.\0\0"), Err(Error::Version3)));
    assert!(matches!(read(b"<html>"), Err(Error::NotApk { .. })));
    assert!(matches!(read(b""), Err(Error::Empty)));
    let tar = |name: &str| gzip(&whole(&[Member::file(name, b"")]));
    assert!(matches!(read(&tar("OTHER")), Err(Error::Missing(_))));
    assert!(read(&tar(".PKGINFO")).unwrap_err().to_string().contains("package"));
    let twice = gzip(&whole(&[Member::file("APKINDEX", b""), Member::file("APKINDEX", b"")]));
    assert!(read(&twice).unwrap_err().to_string().contains("twice"));
    let only_signed = gzip(&cut(&[Member::file(".SIGN.RSA.k.rsa.pub", b"x")]));
    assert!(matches!(read(&only_signed), Err(Error::Truncated { .. })));
    // Content cannot hide among the signatures, which are not signed.
    let smuggled = gzip(&cut(&[Member::file(".SIGN.RSA.k.rsa.pub", b"x"), Member::file("APKINDEX", b"")]));
    assert!(matches!(read(&[smuggled, tar("APKINDEX")].concat()), Err(Error::Damaged { .. })));
    let small = Limits { index_bytes: 5000, ..Limits::default() };
    let bomb = gzip(&whole(&[Member::file("APKINDEX", &[b'\n'; 100_000])]));
    assert!(matches!(Index::read(&bomb, &small), Err(Error::Limit { .. })));
    let parts = [bomb.clone(), bomb].concat();
    let small = Limits { index_bytes: 150_000, ..Limits::default() };
    assert!(matches!(Index::read(&parts, &small), Err(Error::Limit { .. })));
}

#[test]
fn damage_is_found_or_does_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    let key = Key::from_pem("k.rsa.pub", &make_key(dir.path(), "k")).unwrap();
    let entry =
        |name: &str| parse_entries(format!("C:Q1x\nP:{name}\nV:1\nT:t\n").as_bytes()).unwrap().remove(0);
    let content = write_index("d", &[entry("b"), entry("a")]);
    for algorithm in ["RSA", "RSA256", "RSA512"] {
        let signature = sign(&content, dir.path(), algorithm, "k");
        let bytes = [&signature[..], &content].concat();
        let good = read(&bytes).unwrap();
        assert_eq!(good.entries[0].name, "a");
        assert_eq!(verify(&good.signatures, &good.signed, std::slice::from_ref(&key)), Ok(0));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(index) = read(&changed)
                && verify(&index.signatures, &index.signed, std::slice::from_ref(&key)).is_ok()
            {
                assert!(at < signature.len(), "byte {at}");
                assert_eq!(index, good);
            }
            assert!(!matches!(
                read(&bytes[..at]).map(|i| verify(&i.signatures, &i.signed, std::slice::from_ref(&key))),
                Ok(Ok(_))
            ));
        }
        let more = [&bytes[..], &gzip(b"")].concat();
        let more = read(&more).unwrap();
        assert!(verify(&more.signatures, &more.signed, std::slice::from_ref(&key)).is_err());
    }
}

#[test]
fn a_whole_release_is_parsed_quickly() {
    let Some(path) = common::fixtures("alpine/index/v3.19-main-x86_64.APKINDEX.tar.gz") else { return };
    let bytes = fs::read(path).unwrap();
    let begin = Instant::now();
    let index = read(&bytes).unwrap();
    assert_eq!(index.entries.len(), 5443);
    // Far above what is needed (20 ms optimized), so that only another order of growth fails on a busy machine.
    let bound = if cfg!(debug_assertions) { 10_000 } else { 500 };
    assert!(begin.elapsed().as_millis() < bound, "{:?}", begin.elapsed());
}

fn entry() -> impl Strategy<Value = IndexEntry> {
    let word = "[a-z]{1,4}[a-z0-9:=.<>~!/-]{0,6}";
    let words = || proptest::collection::vec(word, 0..4);
    let texts = (
        "Q1[A-Za-z0-9+/]{27}=",
        "[a-z0-9][a-z0-9._+-]{0,8}",
        "[0-9][a-z0-9._~-]{0,5}",
        "(x86_64)?",
        ".{0,20}",
    );
    let more = ("[ -~]{0,9}", "[ -~]{0,9}", "[a-z]{0,5}", "[ -~]{0,5}", "[0-9a-f]{0,8}");
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (texts, more, numbers, words(), words(), words()).prop_map(
        |(texts, more, numbers, depends, provides, install_if)| IndexEntry {
            identity: texts.0,
            name: texts.1,
            version: texts.2,
            arch: texts.3,
            size: numbers.0,
            installed_size: numbers.1,
            description: texts.4,
            url: more.0,
            license: more.1,
            origin: more.2,
            maintainer: more.3,
            build_time: numbers.2,
            commit: more.4,
            provider_priority: numbers.3,
            depends,
            provides,
            install_if,
            replaces: vec![],
            unknown: vec![('z', "kept".into())],
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(entry(), 0..5), description in "[ -~]{0,20}") {
        let mut shuffled = entries.clone();
        shuffled.reverse();
        let bytes = write_index(&description, &entries);
        prop_assert_eq!(&write_index(&description, &shuffled), &bytes);
        let index = read(&bytes).unwrap();
        prop_assert_eq!(&index.description, description.trim_end());
        let sorted = |mut all: Vec<IndexEntry>| {
            all.sort_by(|a, b| (&a.name, &a.version, &a.identity).cmp(&(&b.name, &b.version, &b.identity)));
            all
        };
        let clean = |e: IndexEntry| IndexEntry { description: e.description.replace(['\r', '\n'], " "), ..e };
        let clean: Vec<_> = entries.into_iter().map(clean).collect();
        prop_assert_eq!(sorted(index.entries.clone()), sorted(clean));
        prop_assert_eq!(write_index(&description, &index.entries), bytes);
    }

    #[test]
    fn noise_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..500), text in "([A-Za-z]:.{0,8}\n){0,9}") {
        let _ = parse_entries(&noise);
        let _ = parse_entries(text.as_bytes());
        let _ = read(&gzip(&whole(&[Member::file("APKINDEX", &noise)])));
    }
}
