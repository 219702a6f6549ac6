//! The real apk in a job with a root of its own: genuine packages, their scripts and triggers, in place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mosbuild_cache::{CaptureOptions, Node, Store, Tree};

use super::*;

const APK: &str = "apk add --no-network --no-cache --no-progress --repositories-file /dev/null --allow-untrusted \
     -X /dev/mosbuild/repo/main -X /dev/mosbuild/repo/community";
const PACKAGES: &str = "dhcpcd chrony openssh-server eudev dosfstools jq doas";

/// A folder of the fixtures; says so when it is not there.
#[allow(clippy::print_stderr)]
fn fixtures() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/alpine");
    if cfg!(target_arch = "x86_64") && path.is_dir() {
        return path.canonicalize().ok();
    }
    eprintln!("not run: {} with packages for this processor is not there", path.display());
    None
}

/// The minirootfs. With `owners`, as its archive says; else everything belongs to whoever runs the test.
fn unpack(fixtures: &Path, to: &Path, owners: bool) {
    std::fs::create_dir(to).unwrap();
    let archive = fixtures.join("minirootfs/alpine-minirootfs-3.19.4-x86_64.tar.gz");
    let owners = if owners { "--same-owner" } else { "--no-same-owner" };
    let unpacked = Command::new("tar").arg("-xpzf").arg(archive).arg(owners).arg("-C").arg(to).status();
    assert!(unpacked.unwrap().success());
}

fn job(bench: &Bench, repo: &Path, root: &Path, script: &str) -> Job {
    Job {
        argv: ["/bin/sh", "-eu", "-c", script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        root: Some(root.to_path_buf()),
        // The one of the minirootfs that is not root's.
        owners: vec![("/etc/shadow".into(), 0, 42)],
        mounts: vec![Mount::read_only(repo, "/dev/mosbuild/repo")],
        log: bench.path("log"),
        ..Job::default()
    }
}

/// Every path with kind, permissions, owner, and content or target.
fn lines(tree: &Tree) -> BTreeMap<String, String> {
    let line = |entry: &mosbuild_cache::Entry| {
        let what = match &entry.node {
            Node::File { digest, .. } => digest.hex(),
            Node::Symlink { target } => String::from_utf8_lossy(target).into_owned(),
            other => other.kind().to_owned(),
        };
        format!("{:o} {}:{} {what}", entry.mode, entry.uid, entry.gid)
    };
    tree.iter().map(|entry| (entry.path.to_string(), line(entry))).collect()
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| format!("{name}: {:?} {:?}", a.get(name), b.get(name)))
        .collect()
}

/// Install into a fresh minirootfs in the sandbox; the tree and the wall time.
fn install(fixtures: &Path, bench: &Bench) -> (BTreeMap<String, String>, Duration) {
    let root = bench.path("alpine");
    unpack(fixtures, &root, false);
    let script = format!("{APK} {PACKAGES}");
    let outcome = bench.run(&job(bench, &fixtures.join("v3.19"), &root, &script));
    let log = bench.log();
    assert!(outcome.success() && !log.contains("ERROR") && !log.contains("WARNING"), "{outcome:?}\n{log}");
    let store = Store::open(&bench.path("store")).unwrap();
    let options = CaptureOptions { link: false, ..CaptureOptions::outputs() };
    let tree = store.capture_root(&root, options, &|meta| outcome.owners.of(meta)).unwrap();
    (lines(&tree), outcome.wall)
}

/// Where the tree is written for the other user's test to compare.
const TREE: &str = "MOSBUILD_TEST_TREE";

#[test]
fn apk_installs_in_place_with_scripts_triggers_and_owners() {
    let Some(fixtures) = fixtures() else { return };
    let bench = Bench::new();
    let (tree, _) = install(&fixtures, &bench);
    let of = |path: &str| tree.get(path).unwrap_or_else(|| panic!("no {path}")).as_str();
    for (path, start) in [
        ("usr/bin/doas", "4755 0:0 "),
        ("var/lib/dhcpcd", "2755 101:102 "),
        ("var/log/chrony", "2755 100:101 "),
        ("etc/chrony", "755 100:101 "),
        ("tmp", "1777 0:0 "),
        ("bin/ls", "777 0:0 /bin/busybox"),
        ("sbin/mkfs.vfat", "777 0:0 "),
    ] {
        assert!(of(path).starts_with(start), "{path}: {}", of(path));
    }
    assert!(!tree.keys().any(|path| path.starts_with("dev/") || path.starts_with("proc/")), "{tree:?}");
    assert_eq!(std::fs::read_dir(bench.path("alpine/tmp")).unwrap().count(), 0);

    // The image's own apk goes on in it, and an owner given before stays the caller's to carry over.
    let root = bench.path("alpine");
    let fix = "apk fix --no-network --no-cache --no-progress --repositories-file /dev/null --allow-untrusted \
         -X /dev/mosbuild/repo/main alpine-baselayout-data && apk audit --system && apk info | wc -l";
    let outcome = bench.run(&job(&bench, &fixtures.join("v3.19"), &root, fix));
    assert!(outcome.success(), "{}", bench.log());
    let shadow = ["etc/shadow", "etc/shadow.apk-new"].map(|name| std::fs::metadata(root.join(name)));
    let owners: Vec<_> = shadow.iter().flatten().map(|meta| outcome.owners.of(meta)).collect();
    assert!(owners.contains(&Some((0, 42))), "{owners:?} {:?}\n{}", outcome.owners, bench.log());

    if let Some(path) = std::env::var_os(TREE) {
        let text: Vec<_> = tree.iter().map(|(path, line)| format!("{path}\t{line}\n")).collect();
        std::fs::write(path, text.concat()).unwrap();
    }
}

/// As real root in a plain chroot, as root in the sandbox, and as a plain user in the sandbox: one tree.
#[test]
#[allow(clippy::print_stderr)]
fn the_tree_is_that_of_a_real_root() {
    let Some(fixtures) = fixtures() else { return };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let (mine, sandboxed) = install(&fixtures, &bench);

    let text = bench.path("tree");
    std::fs::set_permissions(bench.dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let copy = bench.path("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
        .arg(&copy)
        .args(["--exact", "exec::tests::alpine::apk_installs_in_place_with_scripts_triggers_and_owners"])
        .env("TMPDIR", bench.dir.path())
        .env(TREE, &text)
        .current_dir(bench.dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = std::fs::read_to_string(text).unwrap();
    let plain: BTreeMap<_, _> = text
        .lines()
        .map(|line| line.split_once('\t').map(|(path, rest)| (path.to_owned(), rest.to_owned())).unwrap())
        .collect();
    assert_eq!(differing(&mine, &plain), Vec::<String>::new());

    let real = bench.path("real");
    unpack(&fixtures, &real, true);
    let mut command = Command::new("unshare");
    let script = "umask 022 && mount -t tmpfs none $0/dev && mount -t tmpfs none $0/tmp && mkdir -p $0/dev/mosbuild/repo && \
         mount --bind $1 $0/dev/mosbuild/repo && touch $0/dev/null && mount --bind /dev/null $0/dev/null && \
         mount -t proc proc $0/proc && exec chroot $0 sh -c \"$2\"";
    command.args(["-m", "-p", "-f", "sh", "-c", script]).arg(&real).arg(fixtures.join("v3.19"));
    command.arg(format!("{APK} {PACKAGES}")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let started = Instant::now();
    let output = command.output().unwrap();
    let wall = started.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("apk add {PACKAGES}: {sandboxed:?} in the sandbox, {wall:?} as root in a chroot");
    let store = Store::open(&bench.path("real-store")).unwrap();
    let options = CaptureOptions { link: false, ..CaptureOptions::outputs() };
    use std::os::unix::fs::MetadataExt;
    let tree = store.capture_root(&real, options, &|meta| Some((meta.uid(), meta.gid()))).unwrap();
    assert_eq!(differing(&mine, &lines(&tree)), Vec::<String>::new());
}
