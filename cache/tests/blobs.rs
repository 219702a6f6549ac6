//! Blobs and results against damage: what is served is right, what is damaged is set aside and is a miss.
//! Knows the store's layout, since it does the damage.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mosbuild_cache::{
    ActionResult, BlobError, Digest, Entry, Ingest, MTIME, Node, Output, OutputKind, Place, Store, Tree,
    TreePath,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn inode(store: &Store, digest: &Digest, suffix: &str) -> PathBuf {
    let hex = digest.hex();
    store.root().join("cas").join(&hex[..2]).join(format!("{hex}{suffix}"))
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn blobs_of_every_size_come_back() {
    let (dir, store) = store();
    for size in [0usize, 1, 4096, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (4 << 20) + 3] {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + size) as u8).collect();
        let file = dir.path().join("f");
        fs::write(&file, &bytes).unwrap();
        let stored = store.put_file(&file, Ingest::Copy).unwrap();
        assert_eq!(stored, (Digest::of(&bytes), size as u64));
        assert_eq!(store.put_bytes(&bytes).unwrap(), stored.0);
        assert_eq!(store.put_reader(&mut &bytes[..]).unwrap(), stored);
        assert_eq!(store.read(&stored.0).unwrap(), bytes);
    }
}

#[test]
fn a_blob_has_one_inode_per_executable_bit() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"#!/bin/sh\n").unwrap();
    let plain = fs::metadata(store.blob_path_as(&digest, false).unwrap()).unwrap();
    let executable = fs::metadata(store.blob_path_as(&digest, true).unwrap()).unwrap();
    assert_ne!(plain.ino(), executable.ino());
    assert_eq!((plain.mode() & 0o7777, executable.mode() & 0o7777), (0o644, 0o755));
    assert_eq!((plain.mtime(), executable.mtime()), (MTIME as i64, MTIME as i64));
    let linked = dir.path().join("tool");
    fs::write(&linked, "only executable").unwrap();
    let (only, _) = store.put_file(&linked, Ingest::Link { executable: true }).unwrap();
    assert!(store.contains(&only));
    assert_eq!(store.read(&only).unwrap(), b"only executable");
    assert_eq!(fs::metadata(store.blob_path_as(&only, false).unwrap()).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn a_linked_file_is_the_blob_and_has_its_time() {
    let (dir, store) = store();
    let scratch = store.scratch("test").unwrap();
    let file = scratch.path().join("out");
    fs::write(&file, "made").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let (digest, size) = store.put_file(&file, Ingest::Link { executable: false }).unwrap();
    let (ours, stored) = (fs::metadata(&file).unwrap(), fs::metadata(inode(&store, &digest, "")).unwrap());
    assert_eq!((ours.ino(), size), (stored.ino(), 4));
    assert_eq!((stored.mode() & 0o7777, stored.mtime()), (0o644, MTIME as i64));
    // A second name of the same inode, and other content of the same name.
    assert_eq!(store.put_file(&file, Ingest::Link { executable: false }).unwrap(), (digest, 4));
    drop((dir, scratch));
    assert!(!file.exists());
}

#[test]
fn a_flipped_byte_is_found_set_aside_and_replaced() {
    for reading in ["read", "path", "place"] {
        let (dir, store) = store();
        let digest = store.put_bytes(b"the right bytes").unwrap();
        let path = inode(&store, &digest, "");
        flip(&path);
        let to = dir.path().join("placed");
        let error = match reading {
            "read" => store.read(&digest).unwrap_err(),
            "path" => store.blob_path(&digest).unwrap_err(),
            _ => store.place_blob(&digest, false, &to).unwrap_err(),
        };
        let BlobError::Corrupt { digest: named, quarantined } = error else { panic!("{reading}: {error}") };
        assert_eq!(named, digest);
        assert!(quarantined.starts_with(store.root().join("corrupt")) && quarantined.exists(), "{reading}");
        assert!(!path.exists() && !to.exists(), "{reading}");
        assert!(store.quarantined(&digest));
        assert!(store.read(&digest).is_err());
        assert_eq!(store.put_bytes(b"the right bytes").unwrap(), digest);
        assert_eq!(store.read(&digest).unwrap(), b"the right bytes", "{reading}");
        assert_eq!(fs::read(store.blob_path(&digest).unwrap()).unwrap(), b"the right bytes");
    }
}

#[test]
fn damage_before_this_process_is_found_too() {
    for damage in ["flipped", "truncated", "empty"] {
        let (dir, store) = store();
        let digest = store.put_bytes(&[7; 5000]).unwrap();
        let path = inode(&store, &digest, "");
        let root = store.root().to_owned();
        drop(store);
        match damage {
            "flipped" => flip(&path),
            "truncated" => fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4096).unwrap(),
            _ => fs::write(&path, "").unwrap(),
        }
        let store = Store::open(&root).unwrap();
        // Storing the bytes again mends it even where nobody has read it yet.
        let other = Store::open(&root).unwrap();
        assert!(matches!(store.blob_path(&digest), Err(BlobError::Corrupt { .. })), "{damage}");
        fs::write(&path, "wrong again").unwrap();
        other.put_bytes(&[7; 5000]).unwrap();
        assert_eq!(other.read(&digest).unwrap(), [7; 5000], "{damage}");
        drop(dir);
    }
}

#[test]
fn one_sound_inode_of_the_two_is_enough() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"both").unwrap();
    store.blob_path_as(&digest, true).unwrap();
    flip(&inode(&store, &digest, ""));
    assert_eq!(store.read(&digest).unwrap(), b"both");
    assert_eq!(fs::read(store.blob_path_as(&digest, false).unwrap()).unwrap(), b"both");
}

#[test]
fn what_was_never_stored_is_missing_not_corrupt() {
    let (dir, store) = store();
    let digest = Digest::of(b"never");
    assert!(!store.contains(&digest) && !store.quarantined(&digest));
    assert!(matches!(store.read(&digest), Err(BlobError::Missing(d)) if d == digest));
    assert!(matches!(store.blob_path_as(&digest, true), Err(BlobError::Missing(_))));
    assert!(matches!(store.place_blob(&digest, true, &dir.path().join("x")), Err(BlobError::Missing(_))));
    assert!(matches!(store.get_tree(&digest), Err(BlobError::Missing(_))));
}

#[test]
fn a_source_that_changed_is_not_placed() {
    let (dir, store) = store();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, "first").unwrap();
    let first = Digest::of(b"first");
    assert_eq!(store.place_source(&from, &to, first, true).unwrap(), Place::Placed);
    let placed = fs::metadata(&to).unwrap();
    assert_eq!((placed.mode() & 0o7777, placed.mtime()), (0o755, MTIME as i64));
    assert_ne!(placed.ino(), fs::metadata(&from).unwrap().ino());
    fs::remove_file(&to).unwrap();
    fs::write(&from, "later").unwrap();
    assert_eq!(store.place_source(&from, &to, first, true).unwrap(), Place::Changed);
    assert!(!to.exists());
    fs::remove_file(&from).unwrap();
    assert_eq!(store.place_source(&from, &to, first, true).unwrap(), Place::Changed);
}

fn result(key: &[u8]) -> ActionResult {
    let output = Output { kind: OutputKind::File { executable: true }, digest: Digest::of(b"o"), size: 1 };
    ActionResult {
        key: Digest::of(key),
        outputs: BTreeMap::from([("bin".into(), output)]),
        facts: BTreeMap::from([("version".into(), "1.2".into())]),
        log: Some(Digest::of(b"log")),
        notes: vec!["a note".into()],
        sandboxed: true,
        millis: 1234,
        run: "r1".into(),
        local: false,
    }
}

#[test]
fn a_result_comes_back_and_any_damage_makes_it_a_miss() {
    let (_dir, store) = store();
    let made = result(b"k");
    store.put_result(&made).unwrap();
    assert_eq!(store.get_result(&made.key).unwrap().as_ref(), Some(&made));
    let hex = made.key.hex();
    let path = store.root().join("results").join(&hex[..2]).join(&hex);
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(store.get_result(&made.key).unwrap(), None, "cut at {cut}");
        assert!(!path.exists(), "cut at {cut}: it would be found again");
        let mut damaged = whole.clone();
        damaged[cut] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        assert_eq!(store.get_result(&made.key).unwrap(), None, "byte {cut}");
    }
    store.put_result(&made).unwrap();
    assert_eq!(store.get_result(&made.key).unwrap(), Some(made.clone()));
    // A result under another's name says so itself.
    let other = result(b"other");
    let other_hex = other.key.hex();
    fs::create_dir_all(store.root().join("results").join(&other_hex[..2])).unwrap();
    fs::copy(&path, store.root().join("results").join(&other_hex[..2]).join(&other_hex)).unwrap();
    assert_eq!(store.get_result(&other.key).unwrap(), None);
    store.forget_result(&made.key);
    assert_eq!(store.get_result(&made.key).unwrap(), None);
}

#[test]
fn a_tree_is_stored_and_its_damage_is_a_lost_blob() {
    let (_dir, store) = store();
    let entry = Entry::new(TreePath::new("d").unwrap(), 0o700, Node::Dir);
    let tree = Tree::new(vec![entry]).unwrap();
    let digest = store.put_tree(&tree).unwrap();
    assert_eq!(digest, tree.digest());
    assert_eq!(store.get_tree(&digest).unwrap(), tree);
    flip(&inode(&store, &digest, ""));
    assert!(matches!(store.get_tree(&digest), Err(BlobError::Corrupt { .. })));
}

#[test]
fn a_place_without_room_or_rights_is_named() {
    let (dir, store) = store();
    let digest = store.put_bytes(b"x").unwrap();
    let to = dir.path().join("no/such/folder/file");
    let error = store.place_blob(&digest, false, &to).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
    let error = store.put_file(&dir.path().join("absent"), Ingest::Copy).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

#[test]
fn a_file_with_another_name_is_copied_and_stays_as_it_is() {
    let (dir, store) = store();
    let (theirs, out) = (dir.path().join("theirs"), dir.path().join("out"));
    fs::write(&theirs, "shared").unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(&theirs, &out).unwrap();
    let before = fs::metadata(&theirs).unwrap();
    let (digest, _) = store.put_file(&out, Ingest::Link { executable: false }).unwrap();
    let after = fs::metadata(&theirs).unwrap();
    assert_eq!((after.mode(), after.mtime_nsec()), (before.mode(), before.mtime_nsec()));
    fs::write(&theirs, "edited").unwrap();
    assert_eq!(store.read(&digest).unwrap(), b"shared");
    assert!(!store.quarantined(&digest));
}

#[test]
fn a_link_is_not_stored_as_what_it_leads_to() {
    let (dir, store) = store();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(store.put_file(&link, Ingest::Link { executable: true }).is_err());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o111, 0);
}

#[test]
fn a_blob_that_is_no_tree_is_a_miss_of_the_tree() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"mostree\x00 of an older version").unwrap();
    assert!(matches!(store.get_tree(&digest), Err(BlobError::Missing(d)) if d == digest));
}

#[test]
fn a_store_above_another_takes_its_blobs_and_leaves_it_as_it_was() {
    let (dir, below) = store();
    let digest = below.put_bytes(b"below").unwrap();
    let damaged = below.put_bytes(b"damaged").unwrap();
    let key = Digest::of(b"key");
    let result = ActionResult {
        key,
        outputs: BTreeMap::new(),
        facts: BTreeMap::new(),
        log: None,
        notes: Vec::new(),
        sandboxed: true,
        millis: 1,
        run: "r".into(),
        local: false,
    };
    below.put_result(&result).unwrap();
    let middle = Store::open_above(&dir.path().join("middle"), &below, false).unwrap();
    let above = Store::open_above(&dir.path().join("above"), &middle, true).unwrap();

    assert!(above.contains(&digest) && !above.contains(&Digest::of(b"nowhere")));
    assert_eq!(above.read(&digest).unwrap(), b"below");
    let mode =
        |store: &Store, suffix: &str| fs::metadata(inode(store, &digest, suffix)).unwrap().mode() & 0o7777;
    assert_eq!(mode(&above, ""), 0o644);
    above.blob_path_as(&digest, true).unwrap();
    assert_eq!(mode(&above, ".x"), 0o755);
    assert!(!inode(&below, &digest, ".x").exists(), "the other inode belongs to who needs it");

    // Results are asked for by name.
    assert_eq!(above.get_result(&key).unwrap(), None);
    assert_eq!(above.lent_result(&key).unwrap(), Some(result));
    assert_eq!(below.lent_result(&key).unwrap(), None);

    // What is put above stays there, and what is there already is no second time on disk.
    let own = above.put_bytes(b"above").unwrap();
    assert!(!below.contains(&own) && !middle.contains(&own));
    let same = middle.put_bytes(b"below").unwrap();
    let ino = |store: &Store| fs::metadata(inode(store, &same, "")).unwrap().ino();
    assert_eq!(ino(&middle), ino(&below));

    // Nothing damaged is taken.
    let fresh = Store::open(below.root()).unwrap();
    flip(&inode(&fresh, &damaged, ""));
    let other = Store::open_above(&dir.path().join("other"), &fresh, false).unwrap();
    assert!(matches!(other.read(&damaged), Err(BlobError::Missing(_))));
    assert_eq!(other.put_bytes(b"damaged").unwrap(), damaged);
    assert_eq!(other.read(&damaged).unwrap(), b"damaged");
}

#[test]
fn trees_are_laid_out_from_their_end_where_that_is_asked_for() {
    let (dir, below) = store();
    let digest = below.put_bytes(b"x").unwrap();
    let path = |text: &str| TreePath::new(text).unwrap();
    let file = |text: &str| Entry::new(path(text), 0o644, Node::File { digest, size: 1 });
    let folder = |text: &str| Entry::new(path(text), 0o755, Node::Dir);
    let tree =
        Tree::new(vec![folder("a"), file("a/b"), file("a/c"), folder("d"), file("d/e"), file("f")]).unwrap();
    let backwards = Store::open_above(&dir.path().join("above"), &below, true).unwrap();
    let order =
        |store: &Store| store.layout_order(&tree).iter().map(|e| e.path.to_string()).collect::<Vec<_>>();
    assert_eq!(order(&below), ["a", "a/b", "a/c", "d", "d/e", "f"]);
    assert_eq!(order(&backwards), ["f", "d", "a", "d/e", "a/c", "a/b"]);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    below.materialise(&tree, &one, mosbuild_cache::Materialise::Private).unwrap();
    backwards.materialise(&tree, &two, mosbuild_cache::Materialise::Private).unwrap();
    let captured = |at: &Path| below.capture_dir(at, mosbuild_cache::CaptureOptions::outputs()).unwrap();
    assert_eq!(captured(&one), captured(&two));
}
