//! `flist`: what is packed is read back by a reader that knows nothing of mosbuild (scripts/flist-read), and by mosbuild itself;
//! a store never lacks a block of an flist that was placed, and gets each once.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::modules::ModuleDir;
use mosbuild_tests::{Output, Space, repository};

const TARGETS: &str = r#"
targets:
  tree:
    rule: files
    install:
      - { from: files, to: /data }
      - { link: ../data/text, at: /etc/link }
      - { link: /nowhere, at: /etc/absolute }
      - { dir: /var/tmp, mode: "1777" }
      - { node: /dev/console, type: char, major: 5, minor: 1, mode: "0600" }
      - { node: /dev/nvme, type: block, major: 259, minor: 74565, mode: "0660" }
  packed: { rule: flist, root: tree, store: "dir://STORE", tags: { version: "1.2" } }
dist:
  "packed-{packed.blocks}.fl": packed
  tree.tar: tree
"#;

fn space(store: &str) -> Space {
    let space = Space::new(&TARGETS.replace("STORE", store));
    space.write("files/text", "some text that is not short\n".repeat(60_000));
    space.write("files/more", noise(1_300_000, 1));
    space.write("files/twin", noise(1_300_000, 1));
    space.write("files/empty", "");
    space.write("files/deep/er/program", "#!/bin/sh\n");
    space.chmod("files/deep/er/program", 0o755);
    space
}

/// Bytes that do not compress, always the same.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

fn placed(space: &Space, prefix: &str) -> PathBuf {
    let dist = std::fs::read_dir(space.path("dist")).unwrap().flatten().map(|e| e.path());
    let mut found =
        dist.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix)).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{prefix}: {found:?}");
    found.remove(0)
}

/// What the independent reader says; `Err` is what is wrong.
fn read(args: &[&str]) -> Result<String, String> {
    // The system's own Python has the system's packages.
    let python = if Path::new("/usr/bin/python3").is_file() { "/usr/bin/python3" } else { "python3" };
    let output =
        Command::new(python).arg(repository().join("scripts/flist-read")).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("No module named"), "this test needs python3-cryptography: {errors}");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(errors),
    }
}

fn blocks(store: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for folder in std::fs::read_dir(store).into_iter().flatten().flatten() {
        found.extend(std::fs::read_dir(folder.path()).into_iter().flatten().flatten().map(|e| e.path()));
    }
    found
}

fn same_tree(space: &Space, store: &Path) {
    let flist = placed(space, "packed-");
    let found = read(&[flist.to_str().unwrap(), store.to_str().unwrap()]).unwrap();
    let expected = read(&["--tar", space.path("dist/tree.tar").to_str().unwrap()]).unwrap();
    assert_eq!(found, expected);
    assert_eq!(found.lines().count(), 16);
}

#[track_caller]
fn fails(output: &Output, code: i32, texts: &[&str]) {
    assert_eq!(output.code, Some(code), "{output}");
    for text in texts {
        output.says(text);
    }
}

#[test]
fn an_independent_reader_finds_the_same_tree() {
    let space = space("blocks");
    space.builds(&["packed", "tree"]);
    same_tree(&space, &space.path("blocks"));
    // 3 blocks of `more`, which `twin` shares, 4 of `text`, one of `program`; none of `empty`. All of `text` but its last block
    // is the same, and it is not: a block is 512 KiB, and the line does not divide it.
    assert!(space.path("dist/packed-8.fl").is_file());
    assert_eq!(blocks(&space.path("blocks")).len(), 8);
    let names = read(&["--blocks", placed(&space, "packed-").to_str().unwrap()]).unwrap();
    let here = blocks(&space.path("blocks"));
    let here: Vec<_> = here.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), here.into_iter().collect());
    // A block that is damaged is found by the reader.
    let block = blocks(&space.path("blocks")).pop_first().unwrap();
    let mut bytes = std::fs::read(&block).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&block, bytes).unwrap();
    let flist = placed(&space, "packed-");
    let error = read(&[flist.to_str().unwrap(), space.path("blocks").to_str().unwrap()]).unwrap_err();
    assert!(error.contains("other bytes"), "{error}");
}

#[test]
fn a_modules_tree_with_its_version_in_the_name() {
    let space = Space::new(
        r#"
targets:
  built: { rule: files, install: [{ from: lib, to: /lib }] }
  modules: { rule: modules, from: built, list: config/modules.conf }
  all: { rule: modules, from: built, all: true }
  packed: { rule: flist, root: all, subdir: /lib/modules, store: "dir://blocks" }
  some: { rule: flist, root: modules, store: "dir://blocks" }
dist:
  "modules-all.fl": packed
  "modules-some-{modules.count}.fl": some
  all.tar: all
  modules.tar: modules
"#,
    );
    let at = "lib/modules/6.1.0-test";
    let dir = ModuleDir::new(&space, at);
    for name in ["ahci", "nvme", "e1000"] {
        dir.module(&format!("kernel/drivers/{name}.ko"), &[]);
    }
    space.write(
        &format!("{at}/modules.order"),
        "kernel/drivers/ahci.ko\nkernel/drivers/nvme.ko\nkernel/drivers/e1000.ko\n",
    );
    space.write(&format!("{at}/modules.builtin"), "");
    space.write("config/modules.conf", "ahci\nnvme\n");
    space.builds(&["packed", "some", "all", "modules"]);
    let store = space.path("blocks");
    // What a node mounts at /lib/modules, and a tree as it is.
    let flists =
        [("modules-all.fl", "all.tar", "lib/modules/", 3), ("modules-some-2.fl", "modules.tar", "", 2)];
    for (flist, tar, below, modules) in flists {
        let flist = space.path(&format!("dist/{flist}"));
        let found = read(&[flist.to_str().unwrap(), store.to_str().unwrap()]).unwrap();
        let expected = read(&["--tar", space.path(&format!("dist/{tar}")).to_str().unwrap()]).unwrap();
        let expected: Vec<&str> = expected.lines().filter_map(|l| l.strip_prefix(below)).collect();
        assert_eq!(found.lines().collect::<Vec<_>>(), expected);
        assert!(found.contains("6.1.0-test/modules.dep\tfile\t0644"), "{found}");
        assert_eq!(found.lines().filter(|l| l.contains(".ko\tfile")).count(), modules);
    }
}

#[test]
fn only_missing_blocks_are_written_and_a_hit_leaves_none_out() {
    let space = space("blocks");
    space.builds(&["packed"]);
    let store = space.path("blocks");
    let stamps = |paths: &BTreeSet<PathBuf>| -> Vec<(PathBuf, u64, i64)> {
        paths
            .iter()
            .map(|p| std::fs::metadata(p).map(|m| (p.clone(), m.ino(), m.ctime_nsec())).unwrap())
            .collect()
    };
    let (first, before) = (blocks(&store), stamps(&blocks(&store)));
    space.write("files/new", noise(600_000, 2));
    let output = space.builds(&["packed"]);
    assert!(
        output.stderr.contains("placed   blocks  586"),
        "only what is new was written: {}",
        output.stderr
    );
    assert_eq!(stamps(&first), before, "what was there was left alone");
    assert_eq!(blocks(&store).len(), first.len() + 2);

    // Nothing to build: a block that is gone, or too short, comes back all the same, from the cache.
    let all = blocks(&store);
    let (gone, short) = (all.first().unwrap(), all.last().unwrap());
    std::fs::remove_file(gone).unwrap();
    std::fs::write(short, "").unwrap();
    let output = space.builds(&["packed"]);
    output.counts(0, 2, 0);
    let again =
        read(&[placed(&space, "packed-").to_str().unwrap(), store.to_str().unwrap(), "--check"]).unwrap();
    assert_eq!(again, "17 entries, whole\n");
    // The whole store, with an empty cache of state beside it.
    std::fs::remove_dir_all(&store).unwrap();
    space.builds(&["packed"]);
    assert_eq!(blocks(&store), all);
    // Nothing that others put there is touched, and nothing is left behind.
    std::fs::write(store.join("README"), "not ours").unwrap();
    space.remove("files/new");
    space.builds(&["packed"]);
    assert!(store.join("README").is_file());
    assert_eq!(blocks(&store), all, "blocks of older flists stay");
}

#[test]
fn a_block_that_the_cache_has_lost_is_made_again() {
    let space = space("blocks");
    space.builds(&["packed"]);
    std::fs::remove_dir_all(space.path("blocks")).unwrap();
    // All blobs but the results: what made them runs again.
    std::fs::remove_dir_all(space.store().join("cas")).unwrap();
    space.builds(&["packed", "tree"]);
    same_tree(&space, &space.path("blocks"));
}

#[test]
fn another_store_costs_no_packing() {
    let space = space("one");
    let yaml = TARGETS.replace("\"dir://STORE\"", "\"dir://one\", route: \"http://mirror.invalid/blocks\"");
    space.yaml(&yaml);
    space.builds(&["packed"]);
    let digest = std::fs::read(placed(&space, "packed-")).unwrap();
    space.yaml(&yaml.replace("dir://one", "dir://two"));
    let output = space.builds(&["packed"]);
    output.counts(0, 2, 0);
    assert_eq!(std::fs::read(placed(&space, "packed-")).unwrap(), digest);
    assert_eq!(blocks(&space.path("two")).len(), blocks(&space.path("one")).len());
    // The route is in the flist, and so in the key.
    space.yaml(&yaml.replace("mirror.invalid", "other.invalid"));
    let output = space.builds(&["packed"]);
    output.counts(1, 1, 0);
}

#[test]
fn bytes_are_the_same_everywhere() {
    let one = space("blocks");
    one.builds(&["packed", "-j", "1"]);
    let two = space("blocks").with_store("elsewhere");
    two.builds(&["packed", "-j", "4"]);
    let bytes = |space: &Space| std::fs::read(placed(space, "packed-")).unwrap();
    assert!(bytes(&one) == bytes(&two));
    let names = |space: &Space| -> Vec<_> {
        blocks(&space.path("blocks")).iter().map(|p| p.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&one), names(&two));
    let plain = space("blocks").as_plain_user();
    plain.builds(&["packed"]);
    assert!(bytes(&plain) == bytes(&one), "by another user");
}

#[test]
#[allow(clippy::print_stderr)]
fn mosbuild_reads_what_it_packs_and_what_rfs_packed() {
    let space = space("blocks");
    space.builds(&["packed", "tree"]);
    let listed = space.ok(&["ls", "-l", "packed"]);
    assert!(
        listed
            .stdout
            .lines()
            .any(|l| l.contains("brw-rw----") && l.contains("259") && l.ends_with("dev/nvme")),
        "{}",
        listed.stdout
    );
    let cat = |what: &[&str]| space.ok(what).stdout;
    assert_eq!(cat(&["cat", "packed", "/etc/link"]), "some text that is not short\n".repeat(60_000));
    let flist = placed(&space, "packed-");
    let flist = flist.to_str().unwrap();
    // The blocks are not in the flist: for the file on its own they have to be named where its route says nothing.
    fails(&space.run(&["cat", flist, "data/text"]), 1, &["is not here", "dir://blocks", "--blocks"]);
    assert_eq!(cat(&["cat", flist, "data/deep/er/program", "--blocks", "blocks"]), "#!/bin/sh\n");
    // The one is a tree and the other a file; what is in them is the same.
    let same = space.run(&["diff", "tree", "packed"]);
    assert_eq!(same.stdout.lines().skip(2).collect::<Vec<_>>(), ["a tree → flist"], "{same}");
    // Two flists need no block at all.
    let old = space.path("old.fl");
    std::fs::copy(flist, &old).unwrap();
    space.write("files/text", "short");
    space.builds(&["packed"]);
    let diff = space.run(&["diff", "./old.fl", placed(&space, "packed-").to_str().unwrap()]);
    assert!(
        diff.stdout.contains("data/text") && diff.stdout.contains("1 changed"),
        "{} {}",
        diff.stdout,
        diff.stderr
    );

    let sample = repository().join("../shared/fixtures/flist");
    if !sample.is_dir() {
        eprintln!("did not run: the sample of rfs is not here");
        return;
    }
    let (fl, store) = (sample.join("sample.fl"), sample.join("store"));
    let (fl, store) = (fl.to_str().unwrap(), store.to_str().unwrap());
    let listed = space.ok(&["ls", "-l", fl]);
    assert!(
        listed.stdout.lines().any(|l| l.contains(" 0/42 ") && l.ends_with("etc/motd")),
        "{}",
        listed.stdout
    );
    let motd = cat(&["cat", fl, "etc/link", "--blocks", store]);
    let lines = read(&[fl, store]).unwrap();
    assert!(lines.contains("etc/motd\tfile\t0600\t0:42\t"), "{lines}");
    assert_eq!(motd.len(), 6);
}

#[test]
fn a_store_that_makes_no_sense_is_refused_at_load() {
    let space = space("x");
    for (store, texts) in [
        ("s3://KEY:SECRET@h:9000/mos", &["credentials never stand", "environment"][..]),
        ("s3://h/mos", &["no host with a port"]),
        ("dri:///x", &["did you mean dir://?"]),
        ("dir://../x", &["no path of a store"]),
    ] {
        space.yaml(&TARGETS.replace("dir://STORE", store));
        let output = space.run(&["list"]);
        fails(&output, 2, texts);
        assert!(
            output.stderr.contains("mosbuild.yaml:") && output.stderr.contains("packed"),
            "{}",
            output.stderr
        );
    }
    space.yaml(&TARGETS.replace("\"dir://STORE\"", "\"dir://x\", subdir: a/../b"));
    fails(&space.run(&["list"]), 2, &["it is no folder of the tree"]);
    space.yaml(&TARGETS.replace("\"dir://STORE\"", "\"dir://x\", subdir: dta"));
    fails(&space.run(&["build", "packed"]), 1, &["the tree has no folder dta", "did you mean data?"]);
    space.yaml(&TARGETS.replace("\"dir://STORE\"", "\"dir://x\", route: [\"https://h/x\", \"ftp://h/x\"]"));
    fails(&space.run(&["list"]), 2, &["ftp:// is not known"]);
}

#[test]
fn a_store_that_leads_out_of_the_workspace_or_cannot_be_written_is_an_error() {
    let space = space("out/blocks");
    let outside = space.base().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, space.path("out")).unwrap();
    fails(&space.run(&["build", "packed"]), 1, &["out of the workspace"]);
    assert!(blocks(&outside.join("blocks")).is_empty());
    assert!(!space.path("dist").join("packed-8.fl").exists(), "no flist is placed without its blocks");
    std::fs::remove_file(space.path("out")).unwrap();
    space.write("out", "a file");
    fails(&space.run(&["build", "packed"]), 1, &["out/blocks", "Not a directory"]);
    // Put right, it is a hit.
    space.remove("out");
    let output = space.builds(&["packed"]);
    output.counts(0, 2, 0);
    let block = blocks(&space.path("out/blocks")).pop_first().unwrap();
    assert_eq!(std::fs::metadata(block).unwrap().permissions().mode() & 0o7777, 0o644);
}
