//! Several processes on one store, and processes killed at any moment. The processes are this test program itself,
//! started for one of its tests with a variable that says what to do.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mosbuild_cache::{
    ActionResult, CaptureOptions, Digest, Entry, Ingest, Materialise, Node, Output, OutputKind, Store, Tree,
    TreePath, WorkspaceLock,
};

const ROLE: &str = "MOSBUILD_TEST_ROLE";
const ROOT: &str = "MOSBUILD_TEST_ROOT";

fn start(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_with_a_role", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the started processes run; without a role it has nothing to do.
#[test]
fn a_process_with_a_role() {
    let (Ok(role), Some(root)) = (std::env::var(ROLE), std::env::var_os(ROOT)) else { return };
    let root = PathBuf::from(root);
    match role.as_str() {
        "write" => write_for_ever(&root, std::process::id()),
        "write-some" => (0..40).for_each(|n| {
            let store = Store::open(&root.join("store")).unwrap();
            write(&store, n);
        }),
        "hold-workspace" => {
            let _lock = WorkspaceLock::acquire(&root, "mosbuild build", |_| {}).unwrap();
            fs::write(root.join("held"), "").unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        "hold-key" => {
            let store = Store::open(&root.join("store")).unwrap();
            let _lock = store.lock_key(&Digest::of(b"key")).unwrap();
            let _scratch = store.scratch("held").unwrap();
            fs::write(root.join("held"), "").unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        other => panic!("no role {other}"),
    }
}

/// The content that key `n` must give, whoever makes it.
fn content(n: u64, file: u64) -> Vec<u8> {
    let length = (n * 7919 + file * 104_729) % 50_000;
    (0..length).map(|i| (i * (n + 1) + file) as u8).collect()
}

fn key(n: u64) -> Digest {
    Digest::of(&n.to_le_bytes())
}

/// Does what a step does: scratch, files, capture, tree, unpacking, result last.
fn write(store: &Store, n: u64) {
    let scratch = store.scratch("step").unwrap();
    let out = scratch.path().join("out");
    fs::create_dir_all(out.join("d")).unwrap();
    for file in 0..4 {
        fs::write(out.join("d").join(file.to_string()), content(n, file)).unwrap();
    }
    let tree = store.capture_dir(&out, CaptureOptions::outputs()).unwrap();
    let tree_digest = store.put_tree(&tree).unwrap();
    fs::write(scratch.path().join("single"), content(n, 9)).unwrap();
    let (file, size) =
        store.put_file(&scratch.path().join("single"), Ingest::Link { executable: true }).unwrap();
    store.unpacked(&tree_digest).unwrap();
    let output = |kind, digest, size| Output { kind, digest, size };
    let outputs = BTreeMap::from([
        ("file".to_owned(), output(OutputKind::File { executable: true }, file, size)),
        ("tree".to_owned(), output(OutputKind::Tree, tree_digest, tree.file_bytes())),
    ]);
    store
        .put_result(&ActionResult {
            key: key(n),
            outputs,
            facts: BTreeMap::new(),
            log: None,
            notes: Vec::new(),
            sandboxed: true,
            millis: 1,
            run: "r".into(),
            local: false,
        })
        .unwrap();
}

fn write_for_ever(root: &Path, seed: u32) {
    let store = Store::open(&root.join("store")).unwrap();
    for n in u64::from(seed).. {
        write(&store, n % 50);
    }
}

/// Every result that is there leads to the right bytes.
fn check(store: &Store) -> usize {
    let mut found = 0;
    for n in 0..50 {
        let Some(result) = store.get_result(&key(n)).unwrap() else { continue };
        found += 1;
        assert_eq!(store.read(&result.outputs["file"].digest).unwrap(), content(n, 9), "key {n}");
        let digest = result.outputs["tree"].digest;
        let tree = store.get_tree(&digest).unwrap();
        let dir = store.unpacked(&digest).unwrap();
        for file in 0..4 {
            let path = TreePath::new(format!("d/{file}")).unwrap();
            let Some(Entry { node: Node::File { digest, .. }, .. }) = tree.get(&path) else {
                panic!("key {n}: no {path}")
            };
            assert_eq!(store.read(digest).unwrap(), content(n, file), "key {n}, {path}");
            assert_eq!(
                fs::read(dir.join(path.as_path())).unwrap(),
                content(n, file),
                "key {n}, {path}, unpacked"
            );
        }
    }
    found
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_store_that_serves_right_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = 0;
    for round in 0..25u64 {
        let mut child = start("write", dir.path());
        std::thread::sleep(Duration::from_millis(30 + round * 13 % 120));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        found = check(&store);
        // Whoever writes next clears up first.
        drop(store.scratch("next").unwrap());
        // What the dead left is gone; what is there is this process's own.
        let left: Vec<String> = fs::read_dir(store.root().join("tmp"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n != "inflight" && !n.contains(&std::process::id().to_string()))
            .collect();
        assert_eq!(left, Vec::<String>::new(), "round {round}");
        assert!(!store.root().join("corrupt").exists(), "round {round}");
    }
    assert!(found > 0, "the writers never came to a result");
}

#[test]
fn two_processes_writing_the_same_are_both_right() {
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..3).map(|_| start("write-some", dir.path())).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(check(&store), 40);
    assert!(!store.root().join("corrupt").exists());
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_second_in_a_workspace_waits_and_says_for_whom() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start("hold-workspace", dir.path());
    wait_for(&dir.path().join("held"));
    let (tell, told) = mpsc::channel();
    let (path, pid) = (dir.path().to_owned(), child.id().to_string());
    let waiting = std::thread::spawn(move || {
        let tell_holder = tell.clone();
        let lock =
            WorkspaceLock::acquire(&path, "mosbuild test", |who| tell_holder.send(who.to_owned()).unwrap());
        tell.send("got it".into()).unwrap();
        lock.map(drop).unwrap();
    });
    let who = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(who.contains(&pid) && who.contains("mosbuild build"), "{who}");
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
    // The kernel frees the lock of a killed process.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(told.recv_timeout(Duration::from_secs(20)).unwrap(), "got it");
    waiting.join().unwrap();
    let mut text = String::new();
    fs::File::open(dir.path().join("lock")).unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains("mosbuild test") && !text.contains(&pid), "{text}");
}

#[test]
fn a_key_is_made_by_one_at_a_time_and_a_live_processes_scratch_stays() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start("hold-key", dir.path());
    wait_for(&dir.path().join("held"));
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut tmp = fs::read_dir(store.root().join("tmp")).unwrap();
    assert!(tmp.any(|e| e.unwrap().path().join("held0").exists()), "swept while its process lives");
    assert!(!store.lock_key(&Digest::of(b"another key")).unwrap().waited());
    let other = store.clone();
    let waiting = std::thread::spawn(move || other.lock_key(&Digest::of(b"key")).unwrap().waited());
    std::thread::sleep(Duration::from_millis(200));
    assert!(!waiting.is_finished(), "two makers of one key");
    let free = |kind, key: &[u8]| store.try_lock(kind, &Digest::of(key)).unwrap().is_some();
    assert!(!free("keys", b"key") && free("keys", b"a third key") && free("another kind", b"key"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(waiting.join().unwrap());
    // Free again. Whether one waits is not asked: what another test starts has the lock's file for a moment.
    drop(store.lock_key(&Digest::of(b"key")).unwrap());
}

#[test]
fn threads_holding_a_key_exclude_each_other() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _lock = store.lock_key(&Digest::of(b"k")).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two inside");
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
}

#[test]
fn materialising_in_two_handles_at_once_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let one = Store::open(dir.path()).unwrap();
    let entries: Vec<Entry> = (0..300)
        .map(|n: u64| {
            let bytes = content(n % 7, n % 5);
            let node = Node::File { digest: one.put_bytes(&bytes).unwrap(), size: bytes.len() as u64 };
            Entry::new(
                TreePath::new(format!("d{}/{n}", n % 11)).unwrap(),
                if n.is_multiple_of(2) { 0o644 } else { 0o755 },
                node,
            )
        })
        .collect();
    let tree = Tree::with_parents(entries).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (store, tree) = (Store::open(dir.path()).unwrap(), &tree);
            scope.spawn(move || {
                let scratch = store.scratch("m").unwrap();
                for how in [Materialise::Shared, Materialise::Private] {
                    let to = scratch.path().join(format!("{how:?}"));
                    store.materialise(tree, &to, how).unwrap();
                    let as_is = CaptureOptions { normalise_modes: false, link: false };
                    assert_eq!(store.capture_dir(&to, as_is).unwrap(), *tree);
                }
            });
        }
    });
    assert!(!dir.path().join("corrupt").exists());
}
