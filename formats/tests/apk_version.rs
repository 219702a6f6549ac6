//! Versions and dependency atoms: Alpine's rules, and the real apk of a minirootfs as the oracle.
//! Does not resolve.

mod common;

use std::cmp::Ordering;

use common::apk::real_apk;
use mosbuild_formats::apk::atom::{Atom, Op, split_provides};
use mosbuild_formats::apk::version::{compare, is_valid, matches_prefix};
use mosbuild_formats::apk::{Index, Limits};
use proptest::prelude::*;

/// Ascending; each differs from the next by one rule.
const ASCENDING: &[&str] = &[
    "0.9",
    "1_alpha_pre2",
    "1_alpha",
    "1_alpha2",
    "1_alpha10",
    "1_beta",
    "1_pre",
    "1_rc",
    "1_rc1-r5",
    "1",
    "1-r0",
    "1-r1",
    "1-r10",
    "1~0badcafe",
    "1~c0ffee",
    "1~c0ffee-r3",
    "1_cvs",
    "1_svn",
    "1_git",
    "1_git20240229",
    "1_hg",
    "1_p",
    "1_p1",
    "1_p9-r0",
    "1_p10-r0",
    "1a",
    "1a_p1",
    "1a7",
    "1a10",
    "1a10.1",
    "1b_rc1",
    "1b",
    "1.0",
    "1.01",
    "1.05",
    "1.1",
    "1.1.0",
    "1.9",
    "1.10",
    "1.10.20240101",
    "1.10.99999999999999999999998",
    "1.10.99999999999999999999999",
    "1.20",
    "2",
    "6b-r7",
    "10",
    "021109-r3",
    "20060512",
];

#[test]
fn the_order_of_versions() {
    for (n, a) in ASCENDING.iter().enumerate() {
        assert!(is_valid(a), "{a}");
        for (m, b) in ASCENDING.iter().enumerate() {
            assert_eq!(compare(a, b), n.cmp(&m), "{a} {b}");
        }
    }
    assert_eq!(compare("007", "7"), Ordering::Equal);
    assert_eq!(compare("1.0", "1.0bc"), Ordering::Less);
}

#[test]
fn what_is_no_version() {
    for wrong in
        ["", "a", ".1", "1.", "1..2", "1_", "1_foo", "1_alphabet", "1ab", "1a.2", "1-1", "1-r", "1~", "1~xyz"]
    {
        assert!(!is_valid(wrong), "{wrong}");
    }
    for wrong in ["1-r1-r2", "1-r1_p1", "1~a~b", "1-r1~ab", "1 ", "1+2", "v1", "1_p1p", "1é", "1A"] {
        assert!(!is_valid(wrong), "{wrong}");
    }
}

#[test]
fn the_real_apk_orders_versions_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(apk) = real_apk(dir.path()) else { return };
    assert_eq!(apk(&["version", "-t", "1.0", "1.1"]).trim(), "<");
    // 2.14 has no ~hash, and numbers of 32 bits.
    let known = |v: &&&str| !v.contains('~') && !v.contains("999999");
    let versions: Vec<_> = ASCENDING.iter().filter(known).collect();
    for (n, a) in versions.iter().enumerate() {
        for (m, b) in versions.iter().enumerate().filter(|(m, _)| m.abs_diff(n) <= 3 || (m + n) % 7 == 0) {
            let expected = match n.cmp(&m) {
                Ordering::Less => "<",
                Ordering::Equal => "=",
                Ordering::Greater => ">",
            };
            assert_eq!(apk(&["version", "-t", a, b]).trim(), expected, "{a} {b}");
        }
    }
}

#[test]
fn versions_and_atoms_of_a_whole_release() {
    let Some(path) = common::fixtures("alpine/index/v3.19-main-x86_64.APKINDEX.tar.gz") else { return };
    let entries = Index::read(&std::fs::read(path).unwrap(), &Limits::default()).unwrap().entries;
    assert_eq!(entries.len(), 5443);
    let mut atoms = 0;
    for entry in &entries {
        assert!(is_valid(&entry.version), "{}", entry.version);
        for text in entry.depends.iter().chain(&entry.install_if) {
            let atom = Atom::parse(text).unwrap();
            assert_eq!(atom.to_string(), *text);
            atoms += 1;
        }
        let (own, own_version) = (&entry.name, Some(&entry.version[..]));
        let atom = Atom::parse(&format!("{own}={}", entry.version)).unwrap();
        assert!(atom.accepts(own_version) && !atom.accepts(Some("0_alpha1")));
    }
    assert!(atoms > 10_000, "{atoms}");
}

#[test]
fn atoms_are_parsed() {
    let atom = |text: &str| Atom::parse(text).unwrap();
    let full = atom("!busybox@edge>=1.36.1-r15");
    assert_eq!((full.conflict, &full.name[..], full.tag.as_deref()), (true, "busybox", Some("edge")));
    assert_eq!(full.version, Some((Op::GreaterEqual, "1.36.1-r15".into())));
    assert_eq!(full.to_string(), "!busybox@edge>=1.36.1-r15");
    let cases = [
        ("so:libc.musl-x86_64.so.1", "so:libc.musl-x86_64.so.1", None),
        ("/bin/sh", "/bin/sh", None),
        ("cmd:[=9.4-r2", "cmd:[", Some((Op::Equal, "9.4-r2"))),
        ("pc:zlib>1", "pc:zlib", Some((Op::Greater, "1"))),
        ("a<2", "a", Some((Op::Less, "2"))),
        ("a<=2", "a", Some((Op::LessEqual, "2"))),
        ("a=<2", "a", Some((Op::LessEqual, "2"))),
        ("a~2", "a", Some((Op::Fuzzy, "2"))),
        ("a~=2", "a", Some((Op::Fuzzy, "2"))),
        ("a=~2", "a", Some((Op::Fuzzy, "2"))),
        ("a>~2", "a", Some((Op::GreaterFuzzy, "2"))),
        ("a<~2", "a", Some((Op::LessFuzzy, "2"))),
        ("a><Q1mcpyM8ftLHlvmaMjdLoBo6zq/Fo=", "a", Some((Op::Checksum, "Q1mcpyM8ftLHlvmaMjdLoBo6zq/Fo="))),
    ];
    for (text, name, version) in cases {
        let got = atom(text);
        assert_eq!(
            (&got.name[..], got.version.as_ref().map(|(o, v)| (*o, &v[..]))),
            (name, version),
            "{text}"
        );
    }
    for wrong in ["", "!", "=1", "a=", "a<=>1", "a b", "a\n", "@x", "a@", "a>=1@edge", "a\t"] {
        let e = Atom::parse(wrong).unwrap_err().to_string();
        assert!(e.contains("is no dependency"), "{e}");
    }
    assert_eq!(split_provides("cmd:a=1-r0"), ("cmd:a", Some("1-r0")));
    assert_eq!(split_provides("so:a"), ("so:a", None));
}

#[test]
fn what_satisfies_an_atom() {
    let accepts = |atom: &str, version: &str| Atom::parse(atom).unwrap().accepts(Some(version));
    for (atom, yes, no) in [
        ("a=1.2-r0", "1.2-r0", "1.2-r1"),
        ("a<1.2", "1.2_rc1", "1.2"),
        ("a<=1.2", "1.2", "1.2-r0"),
        ("a>1.2", "1.2-r0", "1.2"),
        ("a>=1.2", "1.2", "1.2_pre"),
        ("a~1.2", "1.2.3-r4", "1.20"),
        ("a~1.2", "1.2", "1.3"),
        ("a>~1.2", "1.2", "1.1"),
        ("a>~1.2", "1.3", "1.1.9"),
        ("a<~1.2", "1.2.9", "1.3"),
    ] {
        assert!(accepts(atom, yes), "{atom} {yes}");
        assert!(!accepts(atom, no), "{atom} {no}");
    }
    assert!(Atom::parse("a>9").unwrap().accepts(None));
    assert!(Atom::parse("a").unwrap().accepts(Some("1")));
    let provides = ["cmd:sh=1.36-r0".to_string(), "/bin/sh".to_string(), "old=3".to_string()];
    let is =
        |atom: &str| Atom::parse(atom).unwrap().is_satisfied_by("busybox", "1.36-r0", "Q1abc", &provides);
    for yes in
        ["busybox", "busybox~1.36", "cmd:sh", "cmd:sh>1", "/bin/sh", "/bin/sh>5", "old<4", "busybox><Q1abc"]
    {
        assert!(is(yes), "{yes}");
    }
    for no in ["busybox>2", "cmd:sh<1", "sh", "old>4", "busybox><Q1abd", "cmd:ls"] {
        assert!(!is(no), "{no}");
    }
}

fn version() -> impl Strategy<Value = String> {
    let number = "0|[1-9][0-9]{0,2}|0[0-9]{1,2}";
    let suffix = "(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)[0-9]{0,2}){0,2}";
    let tail = "(~[0-9a-f]{1,3})?(-r[0-9]{1,2})?";
    (number, proptest::collection::vec(number, 0..3), "[a-c]?", suffix, tail).prop_map(
        |(first, more, letter, s, t)| {
            let more: String = more.iter().map(|n| format!(".{n}")).collect();
            format!("{first}{more}{letter}{s}{t}")
        },
    )
}

fn any_version() -> impl Strategy<Value = String> {
    prop_oneof![4 => version(), 1 => "[0-9a-c._~r-]{0,8}", 1 => ".{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn valid_versions_are_valid_and_begin_with_themselves(a in version()) {
        prop_assert!(is_valid(&a), "{a}");
        prop_assert!(matches_prefix(&a, &a));
        prop_assert_eq!(compare(&a, &a), Ordering::Equal);
        let newer = format!("{}.5", a.split(['_', '~', '-', 'a', 'b', 'c']).next().unwrap());
        prop_assert!(matches_prefix(&newer, newer.strip_suffix(".5").unwrap()));
    }

    #[test]
    fn the_order_is_total(a in any_version(), b in any_version(), c in any_version()) {
        prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        prop_assert_eq!(compare(&a, &a), Ordering::Equal);
        let mut sorted = [a, b, c];
        sorted.sort_by(|x, y| compare(x, y));
        let [a, b, c] = sorted;
        prop_assert!(compare(&a, &c) != Ordering::Greater, "{} {} {}", a, b, c);
        if compare(&a, &b) == Ordering::Equal && compare(&b, &c) == Ordering::Equal {
            prop_assert_eq!(compare(&a, &c), Ordering::Equal);
        }
    }

    #[test]
    fn atoms_come_out_as_they_went_in(
        conflict: bool, name in "[a-z][a-z0-9:/.+_-]{0,9}", tag in proptest::option::of("[a-z]{1,5}"),
        op in proptest::option::of("=|<|<=|>|>=|~|<~|>~|><"), v in version(),
    ) {
        let text = format!(
            "{}{name}{}{}",
            if conflict { "!" } else { "" },
            tag.as_ref().map(|t| format!("@{t}")).unwrap_or_default(),
            op.as_ref().map(|op| format!("{op}{v}")).unwrap_or_default(),
        );
        let atom = Atom::parse(&text).unwrap();
        prop_assert_eq!(atom.to_string(), text);
    }

    #[test]
    fn no_text_makes_an_atom_panic(text in ".{0,20}") {
        if let Ok(atom) = Atom::parse(&text) {
            prop_assert_eq!(&Atom::parse(&atom.to_string()).unwrap(), &atom);
        }
    }
}
