//! Merging, filtering, cutting and comparing trees, held against a plain model. Knows the public interface only.

use std::collections::BTreeMap;

use mosbuild_cache::{ChangeKind, Digest, Entry, Node, Tree, TreePath, diff, merge};
use proptest::prelude::*;

fn path(p: &str) -> TreePath {
    TreePath::new(p).unwrap()
}

fn file(p: &str, content: &str) -> Entry {
    Entry::new(
        path(p),
        0o644,
        Node::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 },
    )
}

fn link(p: &str, target: &str) -> Entry {
    Entry::new(path(p), 0o777, Node::Symlink { target: target.into() })
}

fn dir(p: &str) -> Entry {
    Entry::new(path(p), 0o755, Node::Dir)
}

fn tree(entries: Vec<Entry>) -> Tree {
    Tree::with_parents(entries).unwrap()
}

fn listed(tree: &Tree) -> Vec<String> {
    tree.iter().map(|e| e.path.to_string()).collect()
}

/// Trees without symlinks whose files and folders cannot clash: folders have capital names.
fn plain() -> impl Strategy<Value = Tree> {
    let dirs = proptest::collection::vec(proptest::sample::select(vec!["A", "B", "C"]), 0..3);
    let one =
        (dirs, proptest::sample::select(vec!["x", "y", "z"]), 0u8..4).prop_map(|(dirs, name, content)| {
            let full = dirs.into_iter().chain([name]).collect::<Vec<_>>().join("/");
            file(&full, &content.to_string())
        });
    proptest::collection::vec(one, 0..12).prop_map(|entries| {
        let by_path: BTreeMap<_, _> = entries.into_iter().map(|e| (e.path.clone(), e)).collect();
        tree(by_path.into_values().collect())
    })
}

proptest! {
    #[test]
    fn the_last_layer_that_has_a_path_wins(layers in proptest::collection::vec(plain(), 0..4)) {
        let names: Vec<String> = (0..layers.len()).map(|i| format!("l{i}")).collect();
        let given: Vec<(&str, &Tree)> = names.iter().map(String::as_str).zip(&layers).collect();
        let merged = merge(&given).unwrap();
        let mut model: BTreeMap<TreePath, Entry> = BTreeMap::new();
        let mut overridden = 0;
        for layer in &layers {
            for entry in layer.iter() {
                let before = model.insert(entry.path.clone(), entry.clone());
                overridden += usize::from(before.is_some_and(|b| b.node != entry.node));
            }
        }
        prop_assert_eq!(merged.tree.entries(), model.into_values().collect::<Vec<_>>());
        prop_assert_eq!(merged.overrides.len(), overridden);
        prop_assert!(merged.clashes.is_empty());
        for entry in merged.tree.iter() {
            let last = layers.iter().rposition(|layer| layer.get(&entry.path).is_some());
            prop_assert_eq!(merged.from.get(&entry.path).copied(), last);
        }
    }

    #[test]
    fn changes_lead_from_one_tree_to_the_other(old in plain(), new in plain()) {
        let mut model: BTreeMap<TreePath, Entry> = old.iter().map(|e| (e.path.clone(), e.clone())).collect();
        for change in diff(&old, &new) {
            match change.kind {
                ChangeKind::Added(e) => prop_assert!(model.insert(change.path, e).is_none()),
                ChangeKind::Removed(e) => prop_assert_eq!(model.remove(&change.path), Some(e)),
                ChangeKind::Changed(a, b) => {
                    prop_assert_ne!(&a, &b);
                    prop_assert_eq!(model.insert(change.path, b), Some(a));
                }
            }
        }
        prop_assert_eq!(model.into_values().collect::<Vec<_>>(), new.entries());
    }

    #[test]
    fn a_prefixed_tree_has_itself_as_its_subtree(tree in plain()) {
        let at = path("usr/lib/x");
        let moved = tree.prefixed(&at).unwrap();
        prop_assert_eq!(moved.len(), tree.len() + 3);
        prop_assert_eq!(moved.subtree(&at), tree);
    }

    #[test]
    fn filtering_drops_no_more_than_asked(tree in plain(), odd in any::<bool>()) {
        let keep = |e: &Entry| e.node == Node::Dir || (e.path.as_bytes().len() % 4 == 1) == odd;
        let expected: Vec<&Entry> = tree.iter().filter(|e| keep(e)).collect();
        let left = tree.filter(keep);
        prop_assert_eq!(left.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_dropped_directory_takes_all_below_it(tree in plain()) {
        let left = tree.filter(|e| e.path != path("A"));
        prop_assert!(left.iter().all(|e| e.path != path("A") && e.path.strip(&path("A")).is_none()));
        let kept = tree.iter().filter(|e| !e.path.as_bytes().starts_with(b"A")).count();
        prop_assert_eq!(left.len(), kept);
    }
}

#[test]
fn an_overridden_file_names_both_layers() {
    let (a, b) = (tree(vec![file("etc/f", "1")]), tree(vec![file("etc/f", "2")]));
    let merged = merge(&[("base", &a), ("top", &b), ("same", &b)]).unwrap();
    assert_eq!(merged.overrides.len(), 1, "equal content is no override");
    let first = &merged.overrides[0];
    assert_eq!((first.path.to_string(), &*first.earlier, &*first.later), ("etc/f".into(), "base", "top"));
}

#[test]
fn a_directory_over_a_link_to_a_directory_follows_it() {
    let base = tree(vec![file("usr/lib/libc.so", "c"), link("lib", "usr/lib"), link("lib64", "lib")]);
    let relative = tree(vec![file("lib/modules/m.ko", "m"), file("lib64/ld.so", "l")]);
    let merged = merge(&[("base", &base), ("modules", &relative)]).unwrap();
    assert!(merged.clashes.is_empty(), "{:?}", merged.clashes);
    let expected = [
        "lib",
        "lib64",
        "usr",
        "usr/lib",
        "usr/lib/ld.so",
        "usr/lib/libc.so",
        "usr/lib/modules",
        "usr/lib/modules/m.ko",
    ];
    assert_eq!(listed(&merged.tree), expected);
    let absolute = tree(vec![dir("run"), link("var/run", "/run")]);
    let later = tree(vec![file("var/run/x.pid", "1")]);
    let merged = merge(&[("base", &absolute), ("top", &later)]).unwrap();
    assert_eq!(listed(&merged.tree), ["run", "run/x.pid", "var", "var/run"]);
}

#[test]
fn links_cannot_lead_a_layer_out_of_the_tree() {
    let base = tree(vec![link("out", "../../../etc"), dir("etc")]);
    let later = tree(vec![file("out/passwd", "x")]);
    let merged = merge(&[("base", &base), ("top", &later)]).unwrap();
    assert_eq!(listed(&merged.tree), ["etc", "etc/passwd", "out"]);
}

#[test]
fn clashes_of_kinds_are_all_reported_once_each() {
    let base = tree(vec![file("a", "1"), dir("b"), link("c", "nowhere"), link("loop", "loop")]);
    let later = tree(vec![file("a/below/deep", "2"), file("b", "3"), file("c/x", "4"), file("loop/x", "5")]);
    let merged = merge(&[("base", &base), ("top", &later)]).unwrap();
    let clashes: Vec<(String, &str, &str)> =
        merged.clashes.iter().map(|c| (c.path.to_string(), c.earlier.1, c.later.1)).collect();
    let expected = [
        ("a", "file", "directory"),
        ("b", "directory", "file"),
        ("c", "symlink", "directory"),
        ("loop", "symlink", "directory"),
    ];
    assert_eq!(clashes, expected.map(|(p, a, b)| (p.to_owned(), a, b)));
    assert_eq!(merged.tree, base, "where kinds clash the earlier entry stays");
}
