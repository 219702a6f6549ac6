//! Scratch folders that go from step to step: whatever a step left, the next one finds what it asked for and no more.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mosbuild_cache::{Digest, MTIME, Scratch, Store};
use proptest::prelude::*;

/// What a step asks for.
#[derive(Clone, Debug)]
enum Wanted {
    Dir,
    File(Vec<u8>, bool),
    Link(String),
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Adds the parents that are missing; what is below something that is no folder is left out.
fn whole(wanted: BTreeMap<PathBuf, Wanted>) -> BTreeMap<PathBuf, Wanted> {
    let mut out: BTreeMap<PathBuf, Wanted> = BTreeMap::new();
    for (path, what) in wanted {
        let parents: Vec<_> = path.ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
        if parents.iter().all(|p| out.get(*p).is_none_or(|w| matches!(w, Wanted::Dir))) {
            for parent in parents {
                out.insert(parent.to_owned(), Wanted::Dir);
            }
            out.insert(path, what);
        }
    }
    out
}

fn lay(store: &Store, scratch: &mut Scratch, wanted: &BTreeMap<PathBuf, Wanted>) {
    let base = scratch.path().to_owned();
    for (path, what) in wanted {
        let to = base.join(path);
        match what {
            Wanted::Dir => scratch.dir(&to).unwrap(),
            Wanted::Link(target) => scratch.symlink(target.as_ref(), &to).unwrap(),
            Wanted::File(bytes, executable) => {
                let digest = store.put_bytes(bytes).unwrap();
                scratch.place_blob(&digest, *executable, &to).unwrap();
            }
        }
    }
    scratch.settle().unwrap();
}

/// Everything below a folder: kind, mode, mtime, content.
fn seen(dir: &Path) -> BTreeMap<PathBuf, (char, u32, i64, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(at) = stack.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (kind, content) = if meta.is_dir() {
                stack.push(path.clone());
                ('d', Vec::new())
            } else if meta.is_symlink() {
                ('l', fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes())
            } else {
                assert_eq!(meta.nlink(), 1, "{} is not private", path.display());
                ('f', fs::read(&path).unwrap())
            };
            let mode = if kind == 'l' { 0 } else { meta.mode() & 0o7777 };
            out.insert(path.strip_prefix(dir).unwrap().to_owned(), (kind, mode, meta.mtime(), content));
        }
    }
    out
}

fn expected(wanted: &BTreeMap<PathBuf, Wanted>) -> BTreeMap<PathBuf, (char, u32, i64, Vec<u8>)> {
    let entry = |what: &Wanted| match what {
        Wanted::Dir => ('d', 0o755, MTIME as i64, Vec::new()),
        Wanted::Link(target) => ('l', 0, MTIME as i64, target.clone().into_bytes()),
        Wanted::File(bytes, executable) => {
            ('f', if *executable { 0o755 } else { 0o644 }, MTIME as i64, bytes.clone())
        }
    };
    wanted.iter().map(|(path, what)| (path.clone(), entry(what))).collect()
}

fn path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..4)
        .prop_map(|parts| parts.iter().collect())
}

fn wanted() -> impl Strategy<Value = BTreeMap<PathBuf, Wanted>> {
    let what = prop_oneof![
        2 => Just(Wanted::Dir),
        4 => (proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(b, x)| Wanted::File(b, x)),
        1 => "[a-c]{1,3}".prop_map(Wanted::Link),
    ];
    proptest::collection::btree_map(path(), what, 0..8).prop_map(whole)
}

/// What a step does to its folder; what does not apply is nothing.
#[derive(Clone, Debug)]
enum Deed {
    Write(PathBuf, usize),
    Remove(PathBuf),
    Chmod(PathBuf, u32),
    Link(PathBuf),
    HardLink(PathBuf, PathBuf),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (path(), 0..100_000usize).prop_map(|(p, n)| Deed::Write(p, n)),
        path().prop_map(Deed::Remove),
        (path(), 0u32..0o7777).prop_map(|(p, m)| Deed::Chmod(p, m | 0o700)),
        path().prop_map(Deed::Link),
        (path(), path()).prop_map(|(a, b)| Deed::HardLink(a, b)),
    ]
}

fn act(base: &Path, keep: &Path, deed: &Deed) {
    match deed {
        Deed::Write(path, n) => {
            let path = base.join(path);
            if path.parent().is_some_and(|p| !p.is_symlink()) {
                let _ = fs::create_dir_all(path.parent().unwrap());
                if !path.is_symlink() {
                    let _ = fs::write(&path, vec![7; *n]);
                }
            }
        }
        Deed::Remove(path) => {
            let _ = fs::remove_file(base.join(path));
        }
        Deed::Chmod(path, mode) => {
            if fs::symlink_metadata(base.join(path)).is_ok_and(|m| !m.is_symlink()) {
                let _ = fs::set_permissions(base.join(path), fs::Permissions::from_mode(*mode));
            }
        }
        Deed::Link(path) => {
            let _ = symlink("/etc", base.join(path));
        }
        Deed::HardLink(from, to) => {
            if fs::symlink_metadata(base.join(from)).is_ok_and(|m| m.is_file()) {
                let _ = fs::hard_link(base.join(from), base.join(to));
                let _ =
                    fs::hard_link(base.join(from), keep.join(Digest::of(format!("{to:?}").as_bytes()).hex()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_step_finds_what_it_asked_for_and_no_more(
        steps in proptest::collection::vec((wanted(), proptest::collection::vec(deed(), 0..6)), 1..6)
    ) {
        let (dir, store) = store();
        let keep = dir.path().join("keep");
        fs::create_dir(&keep).unwrap();
        let mut kept: BTreeMap<PathBuf, (char, u32, i64, Vec<u8>)> = BTreeMap::new();
        for (wanted, deeds) in steps {
            let mut scratch = store.scratch("step").unwrap();
            lay(&store, &mut scratch, &wanted);
            prop_assert_eq!(seen(scratch.path()), expected(&wanted));
            // A file that has a name elsewhere is nobody's to write over.
            for (name, before) in &kept {
                prop_assert_eq!(&fs::read(keep.join(name)).unwrap(), &before.3);
            }
            for deed in &deeds {
                act(scratch.path(), &keep, deed);
            }
            kept = fs::read_dir(&keep).unwrap().map(|e| e.unwrap()).map(|e| {
                (PathBuf::from(e.file_name()), ('f', 0, 0, fs::read(e.path()).unwrap()))
            }).collect();
            scratch.recycle();
        }
    }
}

#[test]
fn small_folders_go_from_step_to_step_and_others_are_removed() {
    let (_dir, store) = store();
    let first = store.scratch("step").unwrap();
    let path = first.path().to_owned();
    fs::write(path.join("small"), "x").unwrap();
    first.recycle();
    let second = store.scratch("step").unwrap();
    assert_eq!(second.path(), path, "the small folder was not taken again");
    fs::write(path.join("large"), vec![0; 1 << 20]).unwrap();
    second.recycle();
    let third = store.scratch("step").unwrap();
    assert_eq!(third.path(), path);
    assert!(!path.join("large").exists(), "a large file keeps its blocks");
    for n in 0..100 {
        fs::write(path.join(format!("many{n}")), "x").unwrap();
    }
    third.recycle();
    assert!(!path.exists(), "a folder of many files is still there");
    let fourth = store.scratch("step").unwrap();
    let path = fourth.path().to_owned();
    drop(fourth);
    assert!(!path.exists(), "what was not recycled is still there");
}

#[test]
#[allow(clippy::print_stderr)]
fn extended_attributes_do_not_reach_the_next_step() {
    let (_dir, store) = store();
    let scratch = store.scratch("step").unwrap();
    let path = scratch.path().to_owned();
    fs::create_dir(path.join("work")).unwrap();
    fs::write(path.join("work/f"), "x").unwrap();
    let set = |at: &Path| rustix::fs::setxattr(at, "user.left", b"behind", rustix::fs::XattrFlags::empty());
    if set(&path.join("work/f")).is_err() {
        eprintln!("not run: this file system has no user attributes");
        return;
    }
    scratch.recycle();
    let mut scratch = store.scratch("step").unwrap();
    let digest = store.put_bytes(b"y").unwrap();
    scratch.dir(&path.join("work")).unwrap();
    scratch.place_blob(&digest, false, &path.join("work/f")).unwrap();
    scratch.settle().unwrap();
    let mut names = [0; 64];
    assert_eq!(rustix::fs::llistxattr(path.join("work/f"), &mut names).unwrap(), 0);
    set(&path.join("work")).unwrap();
    scratch.recycle();
    assert!(!path.exists(), "a folder with an attribute is taken again");
}
