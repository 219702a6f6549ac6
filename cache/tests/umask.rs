//! Nothing that is stored or placed depends on the umask. A program of its own, since the umask is the process's.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mosbuild_cache::{Digest, Entry, Ingest, Materialise, Node, Store, Tree, TreePath};

#[test]
fn modes_do_not_depend_on_the_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let from = dir.path().join("from");
    fs::write(&from, "content").unwrap();
    let (digest, size) = store.put_file(&from, Ingest::Copy).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (executable, expected) in [(false, 0o644), (true, 0o755)] {
        let to = dir.path().join(format!("source-{executable}"));
        store.place_source(&from, &to, Digest::of(b"content"), executable).unwrap();
        assert_eq!(mode(&to), expected, "place_source");
        let to = dir.path().join(format!("blob-{executable}"));
        store.place_blob(&digest, executable, &to).unwrap();
        assert_eq!(mode(&to), expected, "place_blob");
        assert_eq!(mode(&store.blob_path_as(&digest, executable).unwrap()), expected, "blob_path_as");
    }
    let file = |path: &str, mode| Entry::new(TreePath::new(path).unwrap(), mode, Node::File { digest, size });
    let tree = Tree::with_parents(vec![file("d/a", 0o644), file("d/b", 0o755), file("d/c", 0o666)]).unwrap();
    for how in [Materialise::Shared, Materialise::Private] {
        let to = dir.path().join(format!("{how:?}"));
        store.materialise(&tree, &to, how).unwrap();
        for entry in tree.iter() {
            assert_eq!(mode(&to.join(entry.path.as_path())), entry.mode, "{how:?} {}", entry.path);
        }
    }
}
