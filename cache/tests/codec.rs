//! The tree codec under arbitrary trees and arbitrary bytes. Knows the public interface only.

use mosbuild_cache::{Digest, Entry, Node, Tree, TreePath};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Any byte a name may have, with a liking for those around '/' in the order and for short clashing names.
    prop_oneof![
        3 => proptest::sample::select(vec![&b"a"[..], b"a-", b"a.", b"a0", b"b", b"A", b"\xff", b"..."]).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>().prop_filter("no name byte", |b| *b != 0 && *b != b'/'), 1..20)
            .prop_filter("dots", |n| n != b"." && n != b".."),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        4 => (any::<[u8; 32]>(), 0..u64::from(u32::MAX)).prop_map(|(d, size)| Node::File { digest: Digest(d), size }),
        3 => Just(Node::Dir),
        2 => proptest::collection::vec(1u8.., 1..30).prop_map(|target| Node::Symlink { target }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Node::Char { major, minor }),
        1 => any::<(u32, u32)>().prop_map(|(major, minor)| Node::Block { major, minor }),
        1 => Just(Node::Fifo),
    ]
}

prop_compose! {
    fn entry()(
        names in proptest::collection::vec(name(), 1..4),
        node in node(),
        mode in 0u32..0o10000,
        owner in any::<(u32, u32)>(),
        xattrs in proptest::collection::btree_map(
            proptest::collection::vec(1u8.., 1..10), proptest::collection::vec(any::<u8>(), 0..10), 0..3),
    ) -> Entry {
        let mode = if matches!(node, Node::Symlink { .. }) { 0o777 } else { mode };
        let mut entry = Entry::new(TreePath::new(names.join(&b'/')).unwrap(), mode, node);
        (entry.uid, entry.gid) = owner;
        entry.xattrs = xattrs.into_iter().collect();
        entry
    }
}

/// Entries that do fit together, taken from arbitrary ones.
fn tree() -> impl Strategy<Value = Tree> {
    proptest::collection::vec(entry(), 0..24).prop_map(|entries| {
        let mut taken: Vec<Entry> = Vec::new();
        for entry in entries {
            taken.push(entry);
            if Tree::with_parents(taken.clone()).is_err() {
                taken.pop();
            }
        }
        Tree::with_parents(taken).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_tree_is_read_back_as_it_was(tree in tree()) {
        let bytes = tree.encode();
        prop_assert_eq!(Tree::decode(&bytes).unwrap(), tree);
    }

    #[test]
    fn the_order_of_entries_does_not_matter(tree in tree(), seed in any::<u64>()) {
        let mut entries = tree.clone().into_entries();
        entries.sort_by_key(|e| Digest::of(&[e.path.as_bytes(), &seed.to_le_bytes()].concat()));
        prop_assert_eq!(Tree::new(entries).unwrap().digest(), tree.digest());
    }

    #[test]
    fn what_decodes_after_damage_has_these_very_bytes(tree in tree(), at in any::<proptest::sample::Index>(), flip in 1u8..) {
        let mut bytes = tree.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        // One encoding for one tree: nothing may be read as a tree that is written in other bytes.
        if let Ok(read) = Tree::decode(&bytes) {
            prop_assert_ne!(&read, &tree);
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_part_of_an_encoding_is_refused(tree in tree(), at in any::<proptest::sample::Index>()) {
        let bytes = tree.encode();
        prop_assert!(Tree::decode(&bytes[..at.index(bytes.len())]).is_err());
        prop_assert!(Tree::decode(&[&bytes[..], b"\0"].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_panic(head in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = if head { [&b"mostree\x01"[..], &bytes].concat() } else { bytes };
        if let Ok(read) = Tree::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_path_stays_within_its_tree(bytes in proptest::collection::vec(proptest::sample::select(b"/.ab\0".to_vec()), 0..12)) {
        if let Ok(path) = TreePath::new(&bytes) {
            let path = path.as_path();
            prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))), "{path:?}");
            prop_assert!(path.components().count() > 0);
        }
    }
}

#[test]
fn a_count_beyond_the_bytes_is_refused_at_once() {
    let bytes = [&b"mostree\x01"[..], &u64::MAX.to_le_bytes()].concat();
    assert!(Tree::decode(&bytes).is_err());
}

#[test]
fn nothing_lies_below_what_is_no_directory() {
    let path = |p: &str| TreePath::new(p).unwrap();
    let link = Entry::new(path("a"), 0o777, Node::Symlink { target: b"/etc".to_vec() });
    let file = Entry::new(path("a/passwd"), 0o644, Node::File { digest: Digest::of(b""), size: 0 });
    assert!(Tree::new(vec![link.clone(), file.clone()]).is_err());
    assert!(Tree::with_parents(vec![link, file.clone()]).is_err());
    assert!(Tree::new(vec![file.clone()]).is_err(), "the directory is missing");
    assert!(Tree::with_parents(vec![file.clone(), file]).is_err(), "twice");
}
