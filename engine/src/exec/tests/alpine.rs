//! The real apk in a job with a root of its own: genuine packages, their scripts and triggers, in place.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::*;

const APK: &str = "apk add --no-network --no-cache --no-progress --repositories-file /dev/null --allow-untrusted \
     -X /dev/mosbuild/repo/main -X /dev/mosbuild/repo/community";
const PACKAGES: &str = "dhcpcd chrony openssh-server eudev dosfstools jq doas";

/// The fixtures; says so when they are not there.
fn fixtures() -> Option<PathBuf> {
    // As a plain user the tests are a copy elsewhere, but know where they were built.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/alpine");
    if path.is_dir() {
        return path.canonicalize().ok();
    }
    println!("not run: {} is not there", path.display());
    None
}

/// The minirootfs, everything owned by whoever runs the test.
fn unpack(fixtures: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let archive = fixtures.join("minirootfs/alpine-minirootfs-3.19.4-x86_64.tar.gz");
    let unpacked =
        Command::new("tar").arg("-xpzf").arg(archive).arg("--no-same-owner").arg("-C").arg(to).status();
    assert!(unpacked.unwrap().success());
}

fn job(bench: &Bench, fixtures: &Path, root: PathBuf, script: &str) -> Job {
    Job {
        argv: ["/bin/sh", "-eu", "-c", script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        root: Some(root),
        mounts: vec![Mount::read_only(fixtures.join("v3.19"), "/dev/mosbuild/repo")],
        log: bench.path("log"),
        ..Job::default()
    }
}

/// Type, permissions and owner of all that lies below.
fn tree(root: &Path, owners: &Owners) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let (uid, gid) = owners.of(&metadata).unwrap_or((0, 0));
            if metadata.is_dir() {
                stack.push(entry.path());
            }
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => 'd',
                kind if kind.is_symlink() => 'l',
                _ => 'f',
            };
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.insert(path, format!("{kind} {:o} {uid}:{gid}", metadata.mode() & 0o7777));
        }
    }
    found
}

#[test]
fn apk_installs_in_place_with_scripts_triggers_and_owners() {
    let Some(fixtures) = fixtures() else { return };
    let bench = Bench::new();
    let root = bench.path("alpine");
    unpack(&fixtures, &root);
    let outcome = bench.run(&job(&bench, &fixtures, root.clone(), &format!("{APK} {PACKAGES}")));
    let log = bench.log();
    assert!(outcome.success(), "{outcome:?}\n{log}");
    println!("{PACKAGES}: {:?}\n{:?}\n{log}", outcome.wall, outcome.owners);
    for (path, entry) in tree(&root, &outcome.owners) {
        if !entry.ends_with(" 0:0") {
            println!("{path} {entry}");
        }
    }
}
