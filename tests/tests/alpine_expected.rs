//! The genuine packages, held against what a real apk made of them as root (fixtures/alpine/expected).
//! The expected tree was made by `--root --initdb` from nothing but packages of the 3.19.1 medium; ours is made in place
//! on the minirootfs 3.19.4. Each difference is named here, and nothing else may differ; a real apk that installs in
//! place as root leaves the same ones (scripts/test-alpine compares with that).

use std::collections::BTreeMap;

use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::archive::{installed, members, text};
use mosbuild_tests::repository;

/// Type, mode, owner and link of a path.
type Row = (String, String, String, String);

fn expected(name: &str) -> String {
    std::fs::read_to_string(repository().join("../shared/fixtures/alpine/expected").join(name)).unwrap()
}

/// The tree that the real apk made.
fn real_tree() -> BTreeMap<String, Row> {
    let row = |line: &str| {
        let column: Vec<&str> = line.split('\t').collect();
        let owner = format!("{}/{}", column[3], column[4]);
        (column[0].to_owned(), (column[1].to_owned(), column[2].to_owned(), owner, column[5].to_owned()))
    };
    expected("v3.19-tree.tsv").lines().map(row).filter(|(path, _)| !path.is_empty()).collect()
}

/// A placed tree in the same form.
fn placed_tree(path: &std::path::Path) -> BTreeMap<String, Row> {
    let bits = |mode: &str| {
        let of = |at: usize, letters: &str| letters.contains(&mode[at..at + 1]);
        let mut bits = 0;
        for (at, value) in [(1, 0o400), (2, 0o200), (4, 0o40), (5, 0o20), (7, 0o4), (8, 0o2)] {
            bits |= if of(at, "rw") { value } else { 0 };
        }
        for (at, run, special, letters) in
            [(3, 0o100, 0o4000, "sS"), (6, 0o10, 0o2000, "sS"), (9, 0o1, 0o1000, "tT")]
        {
            bits |= if of(at, "xst") { run } else { 0 } | if of(at, letters) { special } else { 0 };
        }
        format!("{bits:o}")
    };
    let row = |(path, entry): (String, mosbuild_tests::archive::Entry)| {
        let kind = if entry.mode.starts_with('-') { "f".to_owned() } else { entry.mode[..1].to_owned() };
        (path, (kind, bits(&entry.mode), entry.owner, entry.link.unwrap_or_default()))
    };
    members(path).into_iter().map(row).collect()
}

/// What the expected tree was asked for.
const LIST: [&str; 11] = [
    "alpine-baselayout",
    "alpine-keys",
    "busybox",
    "musl",
    "eudev",
    "dhcpcd",
    "dosfstools",
    "e2fsprogs",
    "openssh-server",
    "chrony",
    "doas",
];

/// Paths that the real apk made and that are missing here, or another thing, and why.
const OTHER: [(&str, &str); 8] = [
    ("dev/console", "a node of --initdb; a build makes none, an image lists its own"),
    ("dev/null", "a node of --initdb"),
    ("dev/random", "a node of --initdb"),
    ("dev/urandom", "a node of --initdb"),
    ("dev/zero", "a node of --initdb"),
    ("dev/pts", "a folder of alpine-baselayout; the makers of the minirootfs emptied dev/"),
    ("dev/shm", "a folder of alpine-baselayout; the makers of the minirootfs emptied dev/"),
    ("lib/apk/exec", "0700 by --initdb, 0755 by the package apk-tools, which only the minirootfs has"),
];

/// Paths that are here and that the real apk did not make: those of packages that only the minirootfs has, and what
/// its makers added.
const MORE: [(&str, &str); 23] = [
    ("etc/alpine-release", "the makers of the minirootfs"),
    ("etc/apk/protected_paths.d", "apk-tools"),
    ("etc/apk/repositories", "the makers of the minirootfs"),
    ("etc/issue", "the makers of the minirootfs"),
    ("etc/os-release", "the makers of the minirootfs"),
    ("etc/secfixes.d", "the makers of the minirootfs"),
    ("etc/secfixes.d/alpine", "the makers of the minirootfs"),
    ("etc/ssl/cert.pem", "ca-certificates-bundle"),
    ("etc/ssl/certs/ca-certificates.crt", "ca-certificates-bundle"),
    ("etc/ssl1.1", "ca-certificates-bundle"),
    ("etc/ssl1.1/cert.pem", "ca-certificates-bundle"),
    ("etc/ssl1.1/certs", "ca-certificates-bundle"),
    ("lib/libapk.so.2.14.0", "apk-tools"),
    ("lib/libssl.so.3", "libssl3"),
    ("sbin/apk", "apk-tools"),
    ("sbin/ldconfig", "musl-utils"),
    ("usr/bin/getconf", "musl-utils"),
    ("usr/bin/getent", "musl-utils"),
    ("usr/bin/iconv", "musl-utils"),
    ("usr/bin/ldd", "musl-utils"),
    ("usr/bin/scanelf", "scanelf"),
    ("usr/bin/ssl_client", "ssl_client"),
    ("usr/lib/libssl.so.3", "libssl3"),
];

#[test]
fn every_difference_to_the_real_apk_is_known() {
    let Some(alpine) = Alpine::genuine() else { return };
    for user in [false, true] {
        let mut stand = Stand::new(&alpine, &LIST);
        if user {
            stand = stand.as_plain_user();
        }
        stand.space.builds(&["packages"]);
        let (ours, real) = (placed_tree(&stand.space.path("dist/packages.tar")), real_tree());
        let mut wrong = Vec::new();
        for (path, row) in &real {
            let known = OTHER.iter().any(|(other, _)| other == path);
            if (ours.get(path) != Some(row)) != known {
                wrong.push(format!("{path}: {:?} here, {row:?} by the real apk", ours.get(path)));
            }
        }
        for (path, row) in &ours {
            if !real.contains_key(path) && MORE.iter().all(|(more, _)| more != path) {
                wrong.push(format!("{path}: {row:?} here, not by the real apk"));
            }
        }
        for (path, why) in MORE {
            if !ours.contains_key(path) {
                wrong.push(format!("{path}: is not here ({why})"));
            }
        }
        assert!(
            wrong.is_empty(),
            "as a plain user: {user}; {} differences:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

/// The same packages in the same versions, but for those that the minirootfs has in newer ones or beside them.
#[test]
fn the_same_packages_as_the_real_apk() {
    let Some(alpine) = Alpine::genuine() else { return };
    let stand = Stand::new(&alpine, &LIST);
    stand.space.builds(&["packages", "miniroot"]);
    let database = |tree: &str| -> BTreeMap<String, String> {
        installed(&text(&stand.space.path(tree), "lib/apk/db/installed")).into_iter().collect()
    };
    let (ours, base) = (database("dist/packages.tar"), database("dist/miniroot.tar"));
    let real = expected("v3.19-packages.txt");
    let real: BTreeMap<&str, &str> = real.lines().map(|l| l.split_once([' ', '\t']).unwrap()).collect();
    for (name, version) in &real {
        let want = base.get(*name).map_or(*version, String::as_str);
        assert_eq!(ours.get(*name).map(String::as_str), Some(want), "{name}");
    }
    let more: Vec<&String> =
        ours.keys().filter(|n| !real.contains_key(n.as_str()) && !base.contains_key(*n)).collect();
    assert_eq!(more, Vec::<&String>::new(), "neither the real apk nor the minirootfs has them");

    // And each record of the database is the same, with owners, modes and digests of all files.
    let records = |text: &str| -> BTreeMap<String, String> {
        let records = text.split("\n\n").filter(|r| !r.trim().is_empty());
        let name = |r: &str| r.lines().find_map(|l| l.strip_prefix("P:")).unwrap().to_owned();
        records.map(|r| (name(r), r.trim().to_owned())).collect()
    };
    let mine = records(&text(&stand.space.path("dist/packages.tar"), "lib/apk/db/installed"));
    let theirs = records(&expected("v3.19-installed"));
    for (name, record) in theirs.iter().filter(|(name, _)| !base.contains_key(*name)) {
        assert_eq!(mine.get(name), Some(record), "{name}");
    }
}
