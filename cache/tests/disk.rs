//! Trees to disk and back: materialising, capturing, trees kept unpacked. Knows the store's layout where it damages it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mosbuild_cache::{
    BlobError, CaptureOptions, Digest, Entry, MTIME, Materialise, Node, Store, Tree, TreePath,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn entry(path: &str, mode: u32, node: Node) -> Entry {
    Entry::new(TreePath::new(path).unwrap(), mode, node)
}

fn file(store: &Store, path: &str, mode: u32, content: &str) -> Entry {
    let digest = store.put_bytes(content.as_bytes()).unwrap();
    entry(path, mode, Node::File { digest, size: content.len() as u64 })
}

/// A bit of everything a step may be given.
fn sample(store: &Store) -> Tree {
    let link = |path, target: &str| entry(path, 0o777, Node::Symlink { target: target.into() });
    Tree::with_parents(vec![
        file(store, "bin/tool", 0o755, "tool"),
        file(store, "bin/su", 0o4755, "su"),
        file(store, "etc/conf", 0o644, "conf"),
        file(store, "etc/shadow", 0o600, "secret"),
        file(store, "etc/empty", 0o644, ""),
        file(store, "etc/closed", 0o000, "closed"),
        file(store, "same/1", 0o644, "conf"),
        file(store, "same/2", 0o755, "conf"),
        entry("closed", 0o500, Node::Dir),
        file(store, "closed/in", 0o444, "read only"),
        entry("tmp", 0o1777, Node::Dir),
        link("sbin", "bin"),
        link("etc/dangling", "/no/where"),
    ])
    .unwrap()
}

fn check(tree: &Tree, dir: &Path) {
    assert_eq!(fs::metadata(dir).unwrap().mtime(), MTIME as i64);
    for e in tree.iter() {
        let meta = fs::symlink_metadata(dir.join(e.path.as_path())).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (MTIME as i64, 0), "{}", e.path);
        match &e.node {
            Node::Symlink { target } => {
                let found = fs::read_link(dir.join(e.path.as_path())).unwrap();
                assert_eq!(found.into_os_string().into_encoded_bytes(), *target);
            }
            node => {
                assert_eq!(meta.mode() & 0o7777, e.mode, "{}", e.path);
                assert_eq!(meta.is_dir(), *node == Node::Dir);
            }
        }
        if let Node::File { digest, size } = &e.node {
            assert_eq!(meta.len(), *size);
            assert_eq!(Digest::of_file(&dir.join(e.path.as_path())).unwrap().0, *digest, "{}", e.path);
        }
    }
    let mut count = 0;
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for found in fs::read_dir(dir).unwrap() {
            let found = found.unwrap();
            count += 1;
            if found.file_type().unwrap().is_dir() {
                stack.push(found.path());
            }
        }
    }
    assert_eq!(count, tree.len(), "nothing beside the tree");
}

#[test]
fn a_materialised_tree_is_as_it_was_said() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let scratch = store.scratch("test").unwrap();
    for how in [Materialise::Shared, Materialise::Private] {
        let to = scratch.path().join(format!("{how:?}"));
        store.materialise(&tree, &to, how).unwrap();
        check(&tree, &to);
    }
}

#[test]
fn shared_files_are_the_blobs_and_private_ones_are_not() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let scratch = store.scratch("test").unwrap();
    let (shared, private) = (scratch.path().join("s"), scratch.path().join("p"));
    store.materialise(&tree, &shared, Materialise::Shared).unwrap();
    store.materialise(&tree, &private, Materialise::Private).unwrap();
    let ino = |dir: &Path, path: &str| fs::metadata(dir.join(path)).unwrap().ino();
    assert_eq!(ino(&shared, "etc/conf"), ino(&shared, "same/1"));
    assert_ne!(ino(&shared, "same/1"), ino(&shared, "same/2"), "one inode per executable bit");
    assert_ne!(ino(&private, "etc/conf"), ino(&private, "same/1"));
    // A step writing all over its private copies reaches neither the store nor the other layout.
    for e in tree.iter().filter(|e| matches!(e.node, Node::File { .. })) {
        let path = private.join(e.path.as_path());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "overwritten").unwrap();
    }
    check(&tree, &shared);
    assert!(store.lost_blobs(&tree).is_empty());
}

#[test]
fn a_captured_tree_equals_the_materialised_one() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let scratch = store.scratch("test").unwrap();
    for options in [CaptureOptions { normalise_modes: false, link: false }, CaptureOptions::outputs()] {
        let to = scratch.path().join(format!("{}", options.link));
        store.materialise(&tree, &to, Materialise::Private).unwrap();
        assert_eq!(store.capture_dir(&to, options).unwrap(), tree);
    }
    // The files are the blobs now; what is read through the store is right.
    for e in tree.iter() {
        if let Node::File { digest, .. } = &e.node {
            store.read(digest).unwrap();
        }
    }
}

#[test]
fn captured_sources_have_one_of_two_modes() {
    let (dir, store) = store();
    let from = dir.path().join("src");
    fs::create_dir_all(from.join("d")).unwrap();
    for (name, mode) in [("a", 0o600), ("b", 0o664), ("c", 0o700), ("d/e", 0o4775)] {
        fs::write(from.join(name), name).unwrap();
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(from.join("d"), fs::Permissions::from_mode(0o2775)).unwrap();
    symlink("a", from.join("l")).unwrap();
    let tree = store.capture_dir(&from, CaptureOptions::sources()).unwrap();
    let modes: Vec<(String, u32)> = tree.iter().map(|e| (e.path.to_string(), e.mode)).collect();
    let expected = [("a", 0o644), ("b", 0o644), ("c", 0o755), ("d", 0o755), ("d/e", 0o755), ("l", 0o777)];
    assert_eq!(modes, expected.map(|(p, m)| (p.to_owned(), m)));
    assert_eq!(fs::metadata(from.join("a")).unwrap().mode() & 0o7777, 0o600, "sources stay as they are");
    assert_eq!(fs::metadata(from.join("a")).unwrap().nlink(), 1);
}

#[test]
fn a_socket_is_refused_with_its_path() {
    let (dir, store) = store();
    let from = dir.path().join("src");
    fs::create_dir(&from).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("sock")).unwrap();
    let error = store.capture_dir(&from, CaptureOptions::outputs()).unwrap_err().to_string();
    assert!(error.contains("src/sock"), "{error}");
}

#[test]
fn a_lost_blob_stops_materialising_and_is_named() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let conf = Digest::of(b"conf");
    let hex = conf.hex();
    fs::write(store.root().join("cas").join(&hex[..2]).join(&hex), "tampered").unwrap();
    let scratch = store.scratch("test").unwrap();
    let error = store.materialise(&tree, &scratch.path().join("t"), Materialise::Private).unwrap_err();
    assert!(matches!(error, BlobError::Corrupt { digest, .. } if digest == conf), "{error}");
    let lost = store.lost_blobs(&tree);
    assert_eq!(lost.keys().collect::<Vec<_>>(), [&conf]);
}

fn unpacked(store: &Store) -> (Tree, Digest, PathBuf) {
    let tree = sample(store);
    let digest = store.put_tree(&tree).unwrap();
    let dir = store.unpacked(&digest).unwrap();
    (tree, digest, dir)
}

#[test]
fn an_unpacked_tree_is_made_once() {
    let (_dir, store) = store();
    let (tree, digest, dir) = unpacked(&store);
    check(&tree, &dir);
    let before = fs::metadata(&dir).unwrap().ino();
    assert_eq!(store.unpacked(&digest).unwrap(), dir);
    let other = Store::open(store.root()).unwrap();
    assert_eq!(other.unpacked(&digest).unwrap(), dir);
    assert_eq!(fs::metadata(&dir).unwrap().ino(), before, "made once");
}

#[test]
fn a_touched_unpacked_tree_is_made_anew() {
    for change in ["removed", "emptied", "same size", "mode", "link", "stamp gone", "stamp of another boot"] {
        let (_dir, store) = store();
        let (tree, digest, dir) = unpacked(&store);
        let root = store.root().to_owned();
        drop(store);
        let conf = dir.join("etc/conf");
        let stamp = dir.with_extension("stamp");
        match change {
            "removed" => fs::remove_file(&conf).unwrap(),
            "emptied" => fs::write(&conf, "").unwrap(),
            "same size" => fs::write(&conf, "CONF").unwrap(),
            "mode" => fs::set_permissions(dir.join("bin/su"), fs::Permissions::from_mode(0o755)).unwrap(),
            "link" => {
                fs::remove_file(dir.join("sbin")).unwrap();
                symlink("etc", dir.join("sbin")).unwrap();
            }
            "stamp gone" => fs::remove_file(&stamp).unwrap(),
            _ => {
                let text = fs::read_to_string(&stamp).unwrap();
                fs::write(&stamp, text.replacen(|c: char| c.is_ascii_hexdigit(), "z", 1)).unwrap();
            }
        }
        let store = Store::open(&root).unwrap();
        match store.unpacked(&digest) {
            Ok(dir) => check(&tree, &dir),
            // A write through the link damaged the blob itself: found, set aside, and a rebuild mends it.
            Err(BlobError::Corrupt { digest: lost, .. }) => {
                assert!(matches!(change, "emptied" | "same size"), "{change}");
                assert_eq!(lost, Digest::of(b"conf"));
                sample(&store);
                check(&tree, &store.unpacked(&digest).unwrap());
            }
            Err(e) => panic!("{change}: {e}"),
        }
    }
}

#[test]
fn a_folder_left_without_its_stamp_by_a_kill_is_not_used() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let digest = store.put_tree(&tree).unwrap();
    let hex = digest.hex();
    let half = store.root().join("unpacked").join(&hex[..2]).join(&hex);
    fs::create_dir_all(half.join("etc")).unwrap();
    fs::write(half.join("etc/conf"), "half a tree").unwrap();
    check(&tree, &store.unpacked(&digest).unwrap());
}

#[test]
fn threads_unpacking_one_tree_get_one_directory() {
    let (_dir, store) = store();
    let tree = sample(&store);
    let digest = store.put_tree(&tree).unwrap();
    std::thread::scope(|scope| {
        let made: Vec<_> = (0..4)
            .map(|_| {
                let store = Store::open(store.root()).unwrap();
                scope.spawn(move || store.unpacked(&digest).unwrap())
            })
            .collect();
        let made: Vec<PathBuf> = made.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(made.windows(2).all(|w| w[0] == w[1]));
        check(&tree, &made[0]);
    });
}

#[test]
fn scratch_goes_with_its_read_only_folders_and_not_through_links() {
    let (dir, store) = store();
    let kept = dir.path().join("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("f"), "x").unwrap();
    let scratch = store.scratch("test").unwrap();
    let path = scratch.path().to_owned();
    fs::create_dir_all(path.join("a/b/c")).unwrap();
    fs::write(path.join("a/b/c/f"), "x").unwrap();
    symlink(&kept, path.join("a/out")).unwrap();
    for (closed, mode) in [("a/b/c", 0o000), ("a/b", 0o500), ("a", 0o400)] {
        fs::set_permissions(path.join(closed), fs::Permissions::from_mode(mode)).unwrap();
    }
    drop(scratch);
    assert!(!path.exists());
    assert!(kept.join("f").exists());
}

#[test]
fn a_tree_laid_over_another_does_not_follow_its_links() {
    let (dir, store) = store();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o750)).unwrap();
    let target = outside.as_os_str().as_encoded_bytes().to_vec();
    let first = Tree::new(vec![entry("a", 0o777, Node::Symlink { target })]).unwrap();
    let second = Tree::with_parents(vec![file(&store, "a/planted", 0o644, "x")]).unwrap();
    let scratch = store.scratch("test").unwrap();
    store.materialise(&first, scratch.path(), Materialise::Private).unwrap();
    let error = store.materialise(&second, scratch.path(), Materialise::Private).unwrap_err().to_string();
    assert!(error.contains("/a"), "{error}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn trees_can_be_laid_over_each_other() {
    let (_dir, store) = store();
    let first =
        Tree::with_parents(vec![file(&store, "a/b/1", 0o644, "1"), entry("c", 0o555, Node::Dir)]).unwrap();
    let second =
        Tree::with_parents(vec![file(&store, "a/2", 0o755, "2"), file(&store, "c/3", 0o644, "3")]).unwrap();
    let scratch = store.scratch("test").unwrap();
    store.materialise(&first, scratch.path(), Materialise::Private).unwrap();
    store.materialise(&second, scratch.path(), Materialise::Private).unwrap();
    let both = mosbuild_cache::merge(&[("1", &first), ("2", &second)]).unwrap().tree;
    check(&both, scratch.path());
}

#[test]
fn a_name_added_to_an_unpacked_tree_is_noticed() {
    for at in ["planted", "etc/planted"] {
        let (_dir, store) = store();
        let (tree, digest, dir) = unpacked(&store);
        fs::write(dir.join(at), "x").unwrap();
        let again = Store::open(store.root()).unwrap().unpacked(&digest).unwrap();
        check(&tree, &again);
    }
}

#[test]
fn an_unpacked_tree_that_is_replaced_stays_for_those_who_have_it_open() {
    let (_dir, store) = store();
    let (tree, digest, dir) = unpacked(&store);
    let mounted = fs::File::open(&dir).unwrap();
    fs::write(dir.join("planted"), "x").unwrap();
    let other = Store::open(store.root()).unwrap();
    check(&tree, &other.unpacked(&digest).unwrap());
    let through = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&mounted)));
    assert_eq!(fs::read_to_string(through.join("etc/conf")).unwrap(), "conf");
}

#[test]
fn names_of_one_inode_are_captured_with_its_mode() {
    let (_dir, store) = store();
    let scratch = store.scratch("test").unwrap();
    for n in 0..200 {
        let path = scratch.path().join(format!("{n:03}"));
        fs::write(&path, n.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        fs::hard_link(&path, scratch.path().join(format!("{n:03}-too"))).unwrap();
    }
    fs::create_dir(scratch.path().join("shut")).unwrap();
    fs::set_permissions(scratch.path().join("shut"), fs::Permissions::from_mode(0o100)).unwrap();
    let tree = store.capture_dir(scratch.path(), CaptureOptions::outputs()).unwrap();
    assert_eq!(tree.len(), 401);
    for e in tree.iter() {
        assert_eq!(e.mode, if e.node == Node::Dir { 0o100 } else { 0o440 }, "{}", e.path);
    }
    assert!(store.lost_blobs(&tree).is_empty());
}

#[test]
fn a_root_is_captured_with_owners_and_attributes() {
    use rustix::fs::{XattrFlags, lsetxattr};
    let (_dir, store) = store();
    let scratch = store.scratch("test").unwrap();
    let path = |name: &str| scratch.path().join(name);
    for name in ["plain", "owned", "marked"] {
        fs::write(path(name), name).unwrap();
    }
    fs::hard_link(path("owned"), path("too")).unwrap();
    fs::create_dir(path("dir")).unwrap();
    symlink("nowhere", path("link")).unwrap();
    let set = |name: &str, attribute: &str, value: &[u8]| {
        lsetxattr(path(name), attribute, value, XattrFlags::empty()).is_ok()
    };
    let user =
        set("marked", "user.b", b"2") && set("marked", "user.a", b"") && set("dir", "user.d", &[7; 3000]);
    assert!(!user || set("marked", "user.overlay.opaque", b"y"));
    // cap_net_bind_service=ep of a root that is user 1000 outside, and the same as root on its own machine has it.
    let mut v2 = [0u8; 20];
    (v2[0], v2[3], v2[5]) = (1, 2, 4);
    let mut v3 = [&v2[..], &1000u32.to_le_bytes()].concat();
    v3[3] = 3;
    let capable = set("marked", "security.capability", &v3);

    let inode = |name: &str| fs::symlink_metadata(path(name)).unwrap().ino();
    let (owned, dir, link) = (inode("owned"), inode("dir"), inode("link"));
    let owner = |meta: &fs::Metadata| match meta.ino() {
        ino if ino == owned => Some((100, 101)),
        ino if ino == dir || ino == link => Some((5, 0)),
        _ => None,
    };
    let tree = store.capture_root(scratch.path(), CaptureOptions::outputs(), &owner).unwrap();
    let mut expected = Vec::new();
    if capable {
        expected.push((b"security.capability".to_vec(), v2.to_vec()));
    }
    if user {
        expected.extend([(b"user.a".to_vec(), Vec::new()), (b"user.b".to_vec(), b"2".to_vec())]);
    }
    for e in tree.iter() {
        let (ids, xattrs) = match e.path.as_bytes() {
            b"owned" | b"too" => ((100, 101), Vec::new()),
            b"dir" => ((5, 0), if user { vec![(b"user.d".to_vec(), vec![7; 3000])] } else { Vec::new() }),
            b"link" => ((5, 0), Vec::new()),
            b"marked" => ((0, 0), expected.clone()),
            _ => ((0, 0), Vec::new()),
        };
        assert_eq!(((e.uid, e.gid), &e.xattrs), (ids, &xattrs), "{}", e.path);
    }
    assert_eq!(tree.len(), 6);
    // What was linked into the store has no attributes: another step may be given it.
    let plain = store.capture_dir(scratch.path(), CaptureOptions::outputs()).unwrap();
    assert!(plain.iter().all(|e| (e.uid, e.gid) == (0, 0) && e.xattrs.is_empty()));
    if user || capable {
        let marked = fs::symlink_metadata(path("marked")).unwrap();
        assert_eq!((marked.nlink(), fs::symlink_metadata(path("plain")).unwrap().nlink()), (1, 2));
    }
}
