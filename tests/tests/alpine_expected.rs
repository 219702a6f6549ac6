//! The genuine packages, held against what a real apk made of them as root (fixtures/alpine/expected).
//! The expected tree was made by `--root --initdb` from nothing but packages of the 3.19.1 medium; ours is made in place
//! on the minirootfs 3.19.4. Each difference that follows from that is named here, and nothing else may differ.

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

/// The list that the expected tree was made of: the world of its log, as far as it is not pulled in.
const LIST: [&str; 12] = [
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
    "udev-init-scripts",
];

/// Why a path that the real apk made is not there, or is another one.
fn why_other(path: &str) -> Option<&'static str> {
    match path {
        "dev/console" | "dev/null" | "dev/zero" | "dev/random" | "dev/urandom" => {
            Some("--initdb makes nodes; a build never does, the image's own list has them")
        }
        "proc" => {
            Some("--initdb makes it 0555; the minirootfs too, its database says nothing and the package 0755")
        }
        "lib/libcrypto.so.3" | "usr/lib/engines-3" => {
            Some("libcrypto3 3.1.7-r0 of the minirootfs in place of 3.1.4-r5")
        }
        _ => None,
    }
}

/// Why a path is there that the real apk did not make.
fn why_more(path: &str, of_base: bool) -> Option<&'static str> {
    match path {
        _ if of_base => {
            Some("the minirootfs has it: packages that the expected list does not name, or newer ones")
        }
        "etc/apk/protected_paths.d" => Some("apk-tools of the minirootfs"),
        _ => None,
    }
}

#[test]
fn every_difference_to_the_real_apk_is_known() {
    let Some(alpine) = Alpine::genuine() else { return };
    for user in [false, true] {
        let mut stand = Stand::new(&alpine, &LIST);
        if user {
            stand = stand.as_plain_user();
        }
        stand.space.builds(&["packages", "miniroot"]);
        let (ours, base) = (
            placed_tree(&stand.space.path("dist/packages.tar")),
            placed_tree(&stand.space.path("dist/miniroot.tar")),
        );
        let real = real_tree();
        let mut unexplained = Vec::new();
        for (path, row) in &real {
            if ours.get(path) != Some(row) && why_other(path).is_none() {
                unexplained.push(format!("{path}: {:?} in place of {row:?}", ours.get(path)));
            }
        }
        for path in ours.keys().filter(|path| !real.contains_key(*path)) {
            if why_more(path, base.contains_key(path)).is_none() {
                unexplained.push(format!("{path}: more than the real apk made: {:?}", ours[path]));
            }
        }
        assert!(unexplained.is_empty(), "{} differences:\n{}", unexplained.len(), unexplained.join("\n"));
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
}
