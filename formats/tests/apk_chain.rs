//! Chains of dependencies, in small sets and in those that Alpine's own index gives. Does not resolve.

mod common;

use std::collections::HashSet;
use std::fs;

use mosbuild_formats::apk::atom::Atom;
use mosbuild_formats::apk::chain::{Because, Node, Set, chain_to};
use mosbuild_formats::apk::index::parse_entries;
use mosbuild_formats::apk::{Index, IndexEntry, Limits};

fn world(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

/// `name: depends | provides | install_if`.
fn set(lines: &[&str]) -> Vec<IndexEntry> {
    let record = |line: &&str| {
        let (name, rest) = line.split_once(':').unwrap();
        let fields: Vec<&str> = rest.split('|').map(str::trim).chain(["", ""]).collect();
        format!("C:Q1{name}\nP:{name}\nV:1-r0\nD:{}\np:{}\ni:{}\n\n", fields[0], fields[1], fields[2])
    };
    parse_entries(lines.iter().map(record).collect::<String>().as_bytes()).unwrap()
}

fn told(entries: &[IndexEntry], asked: &[&str], name: &str) -> String {
    let chain = chain_to(entries.iter().map(Node::from), &world(asked), name);
    chain.map(|c| c.to_string()).unwrap_or_default()
}

#[test]
fn chains_are_told_in_words() {
    let entries = set(&[
        "base: openrc /bin/sh",
        "openrc: so:librc.so.1>1",
        "librc: | so:librc.so.1=1.5",
        "sh: | /bin/sh cmd:sh=1",
        "chrony: ",
        "chrony-openrc: | | chrony=1-r0 openrc",
        "lonely: ",
    ]);
    let told = |asked: &[&str], name| told(&entries, asked, name);
    assert_eq!(told(&["openrc"], "openrc"), "openrc: asked for");
    assert_eq!(told(&["openrc@edge>0"], "openrc"), "openrc: asked for as openrc@edge>0");
    assert_eq!(told(&["base"], "openrc"), "openrc: asked for as base → depends on openrc");
    assert_eq!(told(&["cmd:sh"], "sh"), "sh: asked for as cmd:sh (sh)");
    assert_eq!(told(&["base"], "cmd:sh"), "sh: asked for as base → depends on /bin/sh (sh)");
    let librc = "librc: asked for as base → depends on openrc → depends on so:librc.so.1>1 (librc)";
    assert_eq!(told(&["base"], "librc"), librc);
    let rule = "chrony-openrc: asked for as base → depends on openrc → chrony-openrc installs itself with chrony and openrc";
    assert_eq!(told(&["chrony", "base"], "chrony-openrc"), rule);
    assert_eq!(told(&["base"], "chrony-openrc"), "");
    assert_eq!(told(&["base"], "lonely"), "");
    assert_eq!(told(&["base"], "absent"), "");
    assert_eq!(told(&["not an atom", "!openrc"], "openrc"), "");
    // A version that will not do explains nothing.
    assert_eq!(told(&["openrc>2"], "openrc"), "");
}

#[test]
fn the_shortest_chain_is_told_and_circles_end() {
    let entries = set(&["a: b", "b: c a", "c: d", "d: a", "e: d", "f: | | a d !zz", "g: | | f"]);
    let chain = chain_to(entries.iter().map(Node::from), &world(&["a", "e"]), "d").unwrap();
    assert_eq!(chain.0.len(), 2);
    assert_eq!(chain.0[0].because, Because::Asked("e".into()));
    assert_eq!(told(&entries, &["a"], "f").matches('→').count(), 4);
    let g = told(&entries, &["a", "d"], "g");
    assert_eq!(g, "g: asked for as a → f installs itself with a, d and !zz → g installs itself with f");
}

/// What follows from names by depending alone, the first provider for each atom: no resolver, but enough for chains.
fn closure<'a>(index: &'a [IndexEntry], names: &[&str]) -> Vec<&'a IndexEntry> {
    let (mut chosen, mut seen) = (vec![], HashSet::new());
    let mut wanted: Vec<String> = world(names);
    while let Some(text) = wanted.pop() {
        let atom = Atom::parse(&text).unwrap();
        let fits = |e: &&IndexEntry| atom.is_satisfied_by(&e.name, &e.version, &e.identity, &e.provides);
        let own = index.iter().find(|e| e.name == atom.name && fits(e));
        if let (false, Some(entry)) = (atom.conflict, own.or_else(|| index.iter().find(fits)))
            && seen.insert(&entry.name)
        {
            chosen.push(entry);
            wanted.extend(entry.depends.iter().cloned());
        }
    }
    chosen
}

#[test]
fn how_openrc_comes_in_on_alpine_3_19() {
    let Some(path) = common::fixtures("alpine/index/v3.19-main-x86_64.APKINDEX.tar.gz") else { return };
    let index = Index::read(&fs::read(path).unwrap(), &Limits::default()).unwrap().entries;
    let entries = closure(&index, &["alpine-base", "chrony"]);
    let mut all = entries.clone();
    all.push(index.iter().find(|e| e.name == "chrony-openrc").unwrap());
    let set = Set::new(all.iter().map(|e| Node::from(*e)), &world(&["alpine-base", "chrony"]));
    let told = |name| set.chain_to(name).unwrap().to_string();
    assert_eq!(told("openrc"), "openrc: asked for as alpine-base → depends on openrc");
    assert_eq!(
        told("chrony-openrc"),
        "chrony-openrc: asked for as alpine-base → depends on openrc → chrony-openrc installs itself with openrc and chrony"
    );
    assert_eq!(
        told("so:libcrypto.so.3"),
        "libcrypto3: asked for as alpine-base → depends on apk-tools → depends on so:libcrypto.so.3 (libcrypto3)"
    );
    // Everything that was chosen is explained.
    for entry in &entries {
        assert!(set.chain_to(&entry.name).is_some(), "{}", entry.name);
    }
    // The packages that carry OpenRC's scripts do not come without OpenRC.
    let without = closure(&index, &["chrony", "openssh-server", "dhcpcd"]);
    assert!(without.iter().all(|e| e.name != "openrc"));
}

#[test]
fn a_whole_release_as_one_set_is_explained_in_good_time() {
    let Some(path) = common::fixtures("alpine/index/v3.19-main-x86_64.APKINDEX.tar.gz") else { return };
    let index = Index::read(&fs::read(path).unwrap(), &Limits::default()).unwrap().entries;
    let begin = std::time::Instant::now();
    let set = Set::new(index.iter().map(Node::from), &world(&["alpine-base"]));
    assert!(set.chain_to("musl").is_some());
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}
