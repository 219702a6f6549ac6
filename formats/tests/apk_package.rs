//! Packages: genuine ones against what Alpine's index says of them, and ones built to do harm.
//! Does not resolve, fetch or install.

mod common;

use std::fs;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use common::apk::{Member, Parts, cut, gzip, make_key, sign, whole};
use mosbuild_formats::apk::members::{Members, Want};
use mosbuild_formats::apk::{
    Algorithm, Digests, Error, Index, Key, Limits, Package, Signature, SignatureError, q1, verify,
};
use mosbuild_formats::tarball::{Kind, Refusal};
use proptest::prelude::*;
use tar::EntryType;

const INFO: &str = "pkgname = demo\npkgver = 1.2-r3\npkgdesc = A demo\nurl = https://example.org\nsize = 4096\n\
                    arch = x86_64\nlicense = MIT\ndepend = so:libc.musl-x86_64.so.1\nprovides = cmd:demo=1.2-r3\n";

fn read(bytes: &[u8]) -> Result<Package, Error> {
    Package::read(bytes, &Limits::default())
}

fn data(members: &[Member]) -> Result<Package, Error> {
    read(&Parts::new(INFO, &[], members).bytes())
}

fn genuine() -> Vec<PathBuf> {
    let Some(root) = common::fixtures("alpine") else { return vec![] };
    let mut found = vec![];
    for dir in ["v3.19/main/x86_64", "v3.19/community/x86_64", "apk-small"] {
        let all = fs::read_dir(root.join(dir)).unwrap().map(|e| e.unwrap().path());
        found.extend(all.filter(|p| p.extension().is_some_and(|e| e == "apk")));
    }
    assert!(found.len() > 100);
    found.sort();
    found
}

fn keys() -> Vec<Key> {
    let Some(root) = common::fixtures("alpine/keys") else { return vec![] };
    let files = fs::read_dir(root).unwrap().map(|e| e.unwrap().path());
    files
        .map(|p| Key::from_pem(p.file_name().unwrap().to_str().unwrap(), &fs::read(&p).unwrap()).unwrap())
        .collect()
}

#[test]
fn genuine_packages_are_read_verified_and_none_is_refused() {
    let keys = keys();
    let (mut signed, mut files, mut hard) = (0, 0, 0);
    for path in genuine() {
        let package = Package::read(BufReader::new(fs::File::open(&path).unwrap()), &Limits::default())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(package.size, fs::metadata(&path).unwrap().len());
        let mut versions = format!("{}-{}", package.info.name, package.info.version);
        if path.to_str().unwrap().contains("aarch64") {
            versions += ".aarch64";
        }
        assert_eq!(path.file_stem().unwrap().to_str().unwrap(), versions);
        files += package.entries.len();
        hard += package.entries.iter().filter(|e| matches!(e.kind, Kind::HardLink { .. })).count();
        match verify(&package.signatures, &package.signed, &keys) {
            Ok(at) => {
                signed += 1;
                assert_eq!(keys[at].name, package.signatures[0].key);
                assert_eq!(package.signatures[0].algorithm, Algorithm::Rsa);
            }
            Err(SignatureError::Unsigned) => assert!(package.signatures.is_empty()),
            Err(SignatureError::UnknownKey { names }) => assert_eq!(names, ["melange.rsa.pub"]),
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
    if !keys.is_empty() {
        assert_eq!((signed, hard), (103, 2));
        assert!(files > 1900, "{files}");
    }
}

#[test]
fn a_genuine_package_in_detail() {
    let Some(dir) = common::fixtures("alpine/v3.19/main/x86_64") else { return };
    let package = read(&fs::read(dir.join("chrony-4.5-r0.apk")).unwrap()).unwrap();
    assert_eq!(package.scripts, [".pre-install", ".pre-upgrade"]);
    assert_eq!(package.info.provides, ["cmd:chronyc=4.5-r0", "cmd:chronyd=4.5-r0"]);
    assert_eq!(package.info.depends.len(), 6);
    assert_eq!(package.info.packager, "Buildozer <alpine-devel@lists.alpinelinux.org>");
    let log = package.entries.iter().find(|e| e.path == b"var/log/chrony").unwrap();
    assert_eq!((log.mode, &log.uname[..], &log.gname[..]), (0o2750, &b"root"[..], &b"wheel"[..]));
    assert_eq!(log.kind, Kind::Dir);
    let daemon = package.entries.iter().find(|e| e.path == b"usr/sbin/chronyd").unwrap();
    assert_eq!((daemon.mode, daemon.mtime), (0o755, 1701842241));
    assert_eq!(daemon.kind, Kind::File { size: 244504 });
    assert!(daemon.sha1.is_some());
    let index = Index::read(&fs::read(dir.join("APKINDEX.tar.gz")).unwrap(), &Limits::default()).unwrap();
    let entry = index.entries.iter().find(|e| e.name == "chrony").unwrap();
    assert_eq!(entry.identity, package.identity);
}

#[test]
fn members_have_exact_borders_and_digests() {
    let parts = [gzip(b"first"), gzip(&vec![7; 100_000]), gzip(b"")];
    let whole = parts.concat();
    // Whatever pieces the reader gives.
    for capacity in [1, 2, 3, 17, 1 << 16] {
        let mut members = Members::new(BufReader::with_capacity(capacity, &whole[..]));
        for (n, part) in parts.iter().enumerate() {
            let mut member = members.next_member("part", 100_000, Want::All).unwrap().unwrap();
            let mut content = vec![];
            if n != 1 {
                member.read_to_end(&mut content).unwrap();
                assert_eq!(content, [&b"first"[..], b"", b""][n]);
            }
            let end = member.finish().unwrap();
            assert_eq!((end.compressed, end.digests), (part.len() as u64, Digests::of(part)));
        }
        assert!(members.next_member("part", 10, Want::All).unwrap().is_none());
        assert_eq!(members.position(), whole.len() as u64);
    }
    let mut members = Members::new(&whole[..]);
    members.next_member("part", 5, Want::All).unwrap().unwrap().finish().unwrap();
    let over = members.next_member("part", 99_999, Want::Sha256).unwrap().unwrap().finish();
    assert!(matches!(over, Err(Error::Limit { part: "part", limit: 99_999, .. })));
}

#[test]
fn identities_are_base64_of_sha1() {
    assert_eq!(q1(&Digests::of(b"").sha1), "Q12jmj7l5rSw0yVb/vlWAYkK/YBwk=");
}

#[test]
fn a_built_package_comes_out_as_it_went_in() {
    let sticky = Member { mode: 0o1777, ..Member::dir("tmp/") };
    let owned = Member { mode: 0o4750, owner: (7, 42, "uucp", "shadow"), ..Member::file("bin/su", b"elf") };
    let sum = "A9993E364706816ABA3E25717850C26C9CD0D89D";
    let members = [
        sticky,
        Member::dir("bin"),
        owned
            .pax("SCHILY.xattr.security.capability", b"\x01\0\x02=x")
            .pax("APK-TOOLS.checksum.SHA1", sum.as_bytes()),
        Member::hard("bin/twin", "bin/su"),
        Member::link("bin/sh", "/bin/busybox"),
        Member::dir("bin/"),
        Member::file(".hidden", b""),
    ];
    let package = read(&Parts::new(INFO, &[".post-install", ".trigger"], &members).bytes()).unwrap();
    assert_eq!(package.scripts, [".post-install", ".trigger"]);
    assert_eq!((&package.info.name[..], &package.info.version[..]), ("demo", "1.2-r3"));
    let paths: Vec<_> = package.entries.iter().map(|e| String::from_utf8_lossy(&e.path)).collect();
    assert_eq!(paths, ["tmp", "bin", "bin/su", "bin/twin", "bin/sh", ".hidden"]);
    let su = &package.entries[2];
    assert_eq!((su.mode, su.uid, su.gid), (0o4750, 7, 42));
    assert_eq!((&su.uname[..], &su.gname[..]), (&b"uucp"[..], &b"shadow"[..]));
    assert_eq!(su.xattrs, [(b"security.capability".to_vec(), b"\x01\0\x02=x".to_vec())]);
    assert_eq!(su.sha1.unwrap(), Digests::of(b"abc").sha1);
    assert_eq!(package.entries[3].kind, Kind::HardLink { to: b"bin/su".to_vec() });
    assert_eq!(package.entries[4].kind, Kind::Symlink { target: b"/bin/busybox".to_vec() });
    assert_eq!(package.entries[0].mode, 0o1777);
}

#[test]
fn what_could_reach_outside_is_refused_by_name() {
    let file = Member::file;
    let (link, hard, dir) = (Member::link, Member::hard, Member::dir);
    let device = |kind| Member::new(kind, "dev/x");
    let nameless = {
        let mut bytes = file("x", b"").bytes();
        bytes[0] = 0;
        bytes[345..349].copy_from_slice(b"evil");
        let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let sized = file("f", b"abc").pax("size", b"2");
    let long = file("f", b"").pax("path", "a/".repeat(2048).as_bytes());
    let cases: Vec<(Refusal, &str, Vec<Member>)> = vec![
        (Refusal::Absolute, "/etc/passwd", vec![file("/etc/passwd", b"")]),
        (Refusal::DotDot, "a/../../b", vec![file("a/../../b", b"")]),
        (Refusal::BelowSymlink, "d/passwd", vec![link("d", "/etc"), file("d/passwd", b"")]),
        (Refusal::BelowSymlink, "d/deep/er", vec![link("d", "e"), dir("d/deep/er")]),
        (Refusal::BelowFile, "f/x", vec![file("f", b""), file("f/x", b"")]),
        (Refusal::Twice, "./f", vec![file("f", b"1"), file("./f", b"2")]),
        (Refusal::Twice, "d", vec![dir("d"), link("d", "/etc")]),
        (Refusal::Twice, "d/", vec![dir("d"), Member { mode: 0o777, ..dir("d/") }]),
        (Refusal::ReplacesDir, "d", vec![file("d/f", b""), link("d", "/etc")]),
        (Refusal::HardLinkAbsolute, "h", vec![hard("h", "/etc/passwd")]),
        (Refusal::HardLinkDotDot, "h", vec![hard("h", "../x")]),
        (Refusal::HardLink, "h", vec![hard("h", "later"), file("later", b"")]),
        (Refusal::HardLink, "h", vec![dir("d"), hard("h", "d")]),
        (Refusal::Device, "dev/x", vec![device(EntryType::Char)]),
        (Refusal::Device, "dev/x", vec![device(EntryType::Block)]),
        (Refusal::Type, "q", vec![Member::new(EntryType::new(b'Q'), "q")]),
        (Refusal::LinkTarget, "l", vec![link("l", "")]),
        (Refusal::PaxSize, "f", vec![sized]),
        (Refusal::Control, ".post-install", vec![file(".post-install", b"#!/bin/sh")]),
        (Refusal::Control, "./.PKGINFO", vec![file("./.PKGINFO", b"")]),
        (Refusal::Control, ".SIGN.RSA.k", vec![file(".SIGN.RSA.k", b"")]),
        (Refusal::PaxSparse, "f", vec![file("f", b"").pax("GNU.sparse.major", b"1")]),
    ];
    for (expected, at, members) in cases {
        match data(&members) {
            Err(Error::Refused { path, why }) => assert_eq!((why, &path[..]), (expected, at)),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(matches!(data(&[long]), Err(Error::Refused { why: Refusal::TooLong, .. })));
    // Two thousand directories each, which nothing but their paths announces.
    let deep = |n: usize| file("f", b"").pax("path", format!("{n}/{}f", "a/".repeat(2040)).as_bytes());
    let deep: Vec<Member> = (0..20).map(deep).collect();
    assert!(matches!(data(&deep), Err(Error::Refused { why: Refusal::TooDeep, .. })));
    let raw = read(&Parts::with_data(INFO, &[], gzip(&nameless)).bytes());
    assert!(matches!(raw, Err(Error::Refused { why: Refusal::NoName, .. })), "{raw:?}");
    // apk goes on after one empty block: what is hidden there must not pass.
    let hidden = [cut(&[file("a", b"1")]), vec![0; 512], whole(&[file("../evil", b"2")])].concat();
    let hidden = read(&Parts::with_data(INFO, &[], gzip(&hidden)).bytes()).unwrap_err();
    assert!(hidden.to_string().contains("follows the end"), "{hidden}");
}

#[test]
fn bounds_hold_while_streaming() {
    let bomb = Parts::new(INFO, &[], &[Member::file("zeros", &vec![0; 8 << 20])]).bytes();
    assert!(bomb.len() < 20_000);
    let small = Limits { data_bytes: 1 << 20, entries: 10, ..Limits::default() };
    let got = Package::read(&bomb[..], &small);
    assert!(matches!(got, Err(Error::Limit { part: "the data part", limit: 1_048_576, .. })), "{got:?}");
    // Zeros after the archive are no file, and bounded too.
    let padded = [whole(&[Member::file("a", b"1")]), vec![0; 8 << 20]].concat();
    let padded = Parts::with_data(INFO, &[], gzip(&padded)).bytes();
    assert!(matches!(Package::read(&padded[..], &small), Err(Error::Limit { part: "the data part", .. })));
    let many: Vec<Member> = (0..11).map(|n| Member::file(&format!("f{n}"), b"")).collect();
    let many = Parts::new(INFO, &[], &many).bytes();
    assert!(matches!(Package::read(&many[..], &small), Err(Error::Limit { what: "entries", limit: 10, .. })));
    let few = Limits { names_bytes: 20, ..Limits::default() };
    assert!(matches!(Package::read(&many[..], &few), Err(Error::Limit { limit: 20, .. })));
    let control = Limits { control_bytes: 512, ..Limits::default() };
    let got = Package::read(&many[..], &control);
    assert!(matches!(got, Err(Error::Limit { limit: 512, .. })), "{got:?}");
    let one = Limits { signatures: 1, ..Limits::default() };
    let signature = gzip(&cut(&[Member::file(".SIGN.RSA.x.rsa.pub", b"x")]));
    let signed = [&signature[..], &signature, &many].concat();
    assert!(matches!(Package::read(&signed[..], &one), Err(Error::Limit { what: "signature parts", .. })));
    assert_eq!(read(&signed).unwrap().signatures.len(), 2);
}

#[test]
fn what_is_no_package_is_told_apart() {
    let parts = Parts::new(INFO, &[], &[Member::file("f", b"1")]);
    let good = parts.bytes();
    assert!(matches!(read(b"ADB.\0\0\0\0"), Err(Error::Version3)));
    assert!(matches!(read(b"ADBd\0\0\0\0"), Err(Error::Version3)));
    assert!(read(b"ADBd").unwrap_err().to_string().contains("version 3"));
    assert!(matches!(read(b"<html>"), Err(Error::NotApk { .. })));
    assert!(matches!(read(b""), Err(Error::Empty)));
    for len in 1..good.len() {
        let e = read(&good[..len]).unwrap_err();
        assert!(matches!(e, Error::Truncated { .. }), "{len} of {}: {e}", good.len());
    }
    let trailing = read(&[&good[..], b"x"].concat());
    assert!(matches!(trailing, Err(Error::Trailing { .. })), "{trailing:?}");
    let trailing = read(&[&good[..], &gzip(&whole(&[Member::file("more", b"")]))].concat());
    assert!(matches!(trailing, Err(Error::Trailing { .. })), "{trailing:?}");
    let other = Parts { data: gzip(&whole(&[Member::file("f", b"2")])), ..parts.clone() };
    assert!(matches!(read(&other.bytes()), Err(Error::DataHash { .. })));
    let no_hash = gzip(&cut(&[Member::file(".PKGINFO", INFO.as_bytes())]));
    let vouched = Parts { control: no_hash.clone(), ..parts.clone() };
    assert!(matches!(read(&vouched.bytes()), Err(Error::Missing(_))));
    // Without data there is nothing to vouch for: a meta package.
    assert_eq!(read(&no_hash).unwrap().entries, []);
    let no_info = Parts { control: gzip(&cut(&[Member::file(".post-install", b"")])), ..parts.clone() };
    assert!(matches!(read(&no_info.bytes()), Err(Error::Missing(_))));
    let odd = Parts { control: gzip(&cut(&[Member::file("etc/passwd", b"")])), ..parts.clone() };
    assert!(matches!(read(&odd.bytes()), Err(Error::Damaged { part: "the control part", .. })));
    for (from, to) in
        [("demo", "../demo"), ("1.2-r3", "1/2"), ("size = 4096", "size = much"), ("demo", "de mo")]
    {
        let wrong = read(&Parts::new(&INFO.replacen(from, to, 1), &[], &[]).bytes());
        assert!(matches!(wrong, Err(Error::Line { .. })), "{to}: {wrong:?}");
    }
}

#[test]
fn signatures_made_by_openssl_are_told_right_from_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (mine, other) = (make_key(dir.path(), "mine"), make_key(dir.path(), "other"));
    let mine = Key::from_pem("mine.rsa.pub", &mine).unwrap();
    let other = Key::from_pem("other.rsa.pub", &other).unwrap();
    let only = std::slice::from_ref(&mine);
    let parts = Parts::new(INFO, &[], &[Member::file("f", b"1")]);
    for (name, algorithm) in
        [("RSA", Algorithm::Rsa), ("RSA256", Algorithm::Rsa256), ("RSA512", Algorithm::Rsa512)]
    {
        let package = read(&parts.clone().signed(dir.path(), name, "mine").bytes()).unwrap();
        assert_eq!(package.signatures[0].algorithm, algorithm);
        let check = |keys: &[Key]| verify(&package.signatures, &package.signed, keys);
        assert_eq!(check(&[other.clone(), mine.clone()]), Ok(1));
        let names = vec!["mine.rsa.pub".to_string()];
        assert_eq!(
            check(std::slice::from_ref(&other)),
            Err(SignatureError::UnknownKey { names: names.clone() })
        );
        assert_eq!(check(&[]), Err(SignatureError::UnknownKey { names }));
        let mut impostor = other.clone();
        impostor.name = "mine.rsa.pub".into();
        let wrong = Err(SignatureError::Wrong { key: "mine.rsa.pub".into() });
        assert_eq!(check(std::slice::from_ref(&impostor)), wrong);
        // Two keys of one name, as in a key rollover: either will do.
        assert_eq!(check(&[impostor, mine.clone()]), Ok(1));
        let forged = Digests::of(b"other bytes");
        assert_eq!(verify(&package.signatures, &forged, only), wrong);
        for at in (0..package.signatures[0].bytes.len()).step_by(15) {
            let mut changed = package.signatures.clone();
            changed[0].bytes[at] ^= 1;
            assert_eq!(verify(&changed, &package.signed, only), wrong, "byte {at}");
        }
        let mut renamed = package.signatures.clone();
        renamed[0].algorithm = if algorithm == Algorithm::Rsa { Algorithm::Rsa256 } else { Algorithm::Rsa };
        assert_eq!(verify(&renamed, &package.signed, only), wrong);
    }
    let package = read(&parts.bytes()).unwrap();
    assert_eq!(verify(&package.signatures, &package.signed, only), Err(SignatureError::Unsigned));
    let dsa = Signature { algorithm: Algorithm::Dsa, key: "mine.rsa.pub".into(), bytes: vec![] };
    let refused = verify(&[dsa], &package.signed, only);
    assert!(matches!(refused, Err(SignatureError::Unsupported { .. })));
    // A second signature by a known key is enough.
    let two = [
        sign(&parts.control, dir.path(), "RSA", "other"),
        sign(&parts.control, dir.path(), "RSA256", "mine"),
    ];
    let package = read(&[two.concat(), parts.bytes()].concat()).unwrap();
    assert_eq!(verify(&package.signatures, &package.signed, only), Ok(0));
}

#[test]
fn keys_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let small = common::tool("openssl", &["genrsa", "-out", "small.rsa", "768"], dir.path(), b"");
    drop(small);
    let small = common::tool("openssl", &["rsa", "-in", "small.rsa", "-pubout"], dir.path(), b"");
    let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec"];
    common::tool("openssl", &curve, dir.path(), b"");
    let curve = common::tool("openssl", &["pkey", "-in", "ec", "-pubout"], dir.path(), b"");
    let private = fs::read(dir.path().join("small.rsa")).unwrap();
    for (why, pem) in
        [("768 bits", small), ("no RSA key", curve), ("BEGIN PUBLIC", private), ("text", vec![0xff])]
    {
        let e = Key::from_pem("k", &pem).unwrap_err().to_string();
        assert!(e.contains(why), "{why}: {e}");
    }
}

#[test]
fn flipped_bits_of_a_genuine_package_never_pass() {
    let Some(dir) = common::fixtures("alpine/v3.19/main/x86_64") else { return };
    let bytes = fs::read(dir.join("alpine-release-3.19.1-r0.apk")).unwrap();
    let keys = keys();
    let good = read(&bytes).unwrap();
    verify(&good.signatures, &good.signed, &keys).unwrap();
    let mut members = Members::new(&bytes[..]);
    let signature = members.next_member("signature", 4096, Want::All).unwrap().unwrap().finish().unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        if let Ok(package) = read(&changed)
            && verify(&package.signatures, &package.signed, &keys).is_ok()
        {
            // How the signature itself is packed is covered by nothing: gzip's time, codes that are not used.
            assert!((at as u64) < signature.compressed, "byte {at} of {}", bytes.len());
            assert_eq!(package, good);
        }
        assert!(read(&bytes[..at]).is_err(), "cut at {at}");
    }
}

proptest! {
    #[test]
    fn noise_behind_the_magic_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&[&[0x1f, 0x8b, 8, 0], &noise[..]].concat());
        let _ = read(&gzip(&noise));
    }

    #[test]
    fn noise_as_data_keeps_paths_inside(edits in proptest::collection::vec((0usize..4096, any::<u8>()), 1..6)) {
        let members = [
            Member::dir("d"),
            Member::file("d/f", b"content").pax("APK-TOOLS.checksum.SHA1", b"zz"),
            Member::hard("d/h", "d/f"),
            Member::link("l", "d"),
        ];
        let mut tar = whole(&members);
        let len = tar.len();
        for (at, byte) in edits {
            tar[at % len] = byte;
        }
        for block in tar.chunks_exact_mut(512).filter(|b| b[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        if let Ok(package) = read(&Parts::with_data(INFO, &[], gzip(&tar)).bytes()) {
            for entry in package.entries {
                prop_assert!(!entry.path.is_empty());
                prop_assert!(entry.path.split(|b| *b == b'/').all(|p| !matches!(p, b"" | b"." | b"..")));
            }
        }
    }
}
