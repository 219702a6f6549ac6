//! `strip` from outside, on programs that compilers made and on Alpine's: what runs afterwards, what is left alone, and
//! that each file is stripped once, whatever tree it is in.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::archive::{content, members};
use mosbuild_tests::{Output, Space, blobs, need};

const YAML: &str = r#"targets:
  one: { rule: command, inputs: one.c, tools: [gcc], run: 'gcc -g -o "$OUT/one" one.c', outputs: one }
  two: { rule: command, inputs: two.c, tools: [gcc], run: 'gcc -g -static -o "$OUT/two" two.c', outputs: two }
  lib:
    rule: command
    inputs: lib.c
    tools: [gcc]
    run: |
      gcc -g -shared -fPIC -Wl,-soname,libx.so -o "$OUT/libx.so" lib.c
      gcc -g -ffreestanding -c -o "$OUT/plain.ko" lib.c
      cp "$OUT/plain.ko" "$OUT/signed.ko"
      printf '~Module signature appended~\n' >> "$OUT/signed.ko"
      gcc -g -c -o "$OUT/object.o" lib.c -DNO_INFO
    outputs: [libx.so, plain.ko, signed.ko, object.o]
  system:
    rule: files
    install:
      - { from: one, to: /usr/bin/one, mode: "4711" }
      - { from: one, to: /usr/bin/again, mode: "0755" }
      - { from: two, to: /usr/bin/two, mode: "0755" }
      - { from: two, to: /usr/lib/firmware/dsp.elf }
      - { from: "lib:libx.so", to: /usr/lib/libx.so }
      - { from: "lib:plain.ko", to: /lib/modules/6.12/plain.ko }
      - { from: "lib:signed.ko", to: /lib/modules/6.12/signed.ko }
      - { from: "lib:object.o", to: /usr/lib/object.o }
      - { from: script, to: /usr/bin/script.so, mode: "0755" }
      - { link: one, at: /usr/bin/link }
  rootfs: { rule: rootfs, layers: system, strip: true }
  other: { rule: rootfs, layers: [system, more], strip: { exclude: /usr/bin/two } }
  some: { rule: rootfs, layers: system, strip: [usr/lib/**] }
  more: { rule: files, install: [{ dir: /more }] }
  image: { rule: cpio, root: rootfs, compress: none }
dist: { system.tar: system, rootfs.tar: rootfs, other.tar: other, some.tar: some, image: image }
"#;

const LIB: &str = r#"
#ifndef NO_INFO
static const char info[] __attribute__((section(".modinfo"), used)) = "license=GPL\0depends=";
#endif
static int count;
int next(int n) { count += n; return count; }
"#;

fn program(text: &str) -> String {
    format!("#include <stdio.h>\nint main(void) {{ puts(\"{text}\"); return 0; }}\n")
}

fn space() -> Space {
    need("gcc", "gcc");
    let space = Space::new(YAML);
    fill(&space);
    space
}

fn fill(space: &Space) {
    space.write("one.c", program("one"));
    space.write("two.c", program("two"));
    space.write("lib.c", LIB);
    space.write("script", "#!/bin/sh\necho script\n");
    space.chmod("script", 0o755);
}

/// What was worked on, sorted.
fn items(output: &Output) -> Vec<&str> {
    output.named("item_finished", "item")
}

/// A file of a placed tar, as a program.
fn unpacked(space: &Space, archive: &str, member: &str) -> PathBuf {
    let path = space.base().join(member.replace('/', "_"));
    std::fs::write(&path, content(&space.path(archive), member)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn prints(program: &Path) -> String {
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
}

#[test]
fn programs_run_and_are_as_small_as_binutils_makes_them() {
    need("strip", "binutils");
    let space = space();
    space.builds(&["rootfs", "system"]);
    let (before, after) = (members(&space.path("dist/system.tar")), members(&space.path("dist/rootfs.tar")));
    let about = |e: &mosbuild_tests::archive::Entry| (e.mode.clone(), e.owner.clone(), e.link.clone());
    for (path, entry) in &before {
        assert_eq!(about(entry), about(&after[path]), "{path}");
    }
    assert_eq!(before.len(), after.len());
    assert_eq!(after["usr/bin/one"].mode, "-rws--x--x");
    let same = |path: &str| {
        content(&space.path("dist/system.tar"), path) == content(&space.path("dist/rootfs.tar"), path)
    };
    for untouched in
        ["usr/lib/firmware/dsp.elf", "lib/modules/6.12/signed.ko", "usr/lib/object.o", "usr/bin/script.so"]
    {
        assert!(same(untouched), "{untouched}");
    }
    for (path, how) in [
        ("usr/bin/one", "--strip-all"),
        ("usr/bin/two", "--strip-all"),
        ("usr/lib/libx.so", "--strip-all"),
        ("lib/modules/6.12/plain.ko", "--strip-debug"),
    ] {
        let whole = unpacked(&space, "dist/system.tar", path);
        assert!(Command::new("strip").arg(how).arg(&whole).status().unwrap().success());
        let theirs = whole.metadata().unwrap().len();
        let ours = content(&space.path("dist/rootfs.tar"), path).len() as u64;
        assert!(ours <= theirs + 512 && !same(path), "{path}: {ours}, binutils {theirs}");
    }
    assert_eq!(prints(&unpacked(&space, "dist/rootfs.tar", "usr/bin/one")), "one\n");
    assert_eq!(prints(&unpacked(&space, "dist/rootfs.tar", "usr/bin/two")), "two\n");
    let log = space.log("rootfs");
    for line in [
        "6 of 7 files stripped, 1 known",
        "5 of 7 ELF files have become smaller",
        "1 signed module is left as it is",
        "left as it is: /usr/lib/object.o: it is an object file for a linker",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(space.run(&["show", "rootfs"]).stdout.contains("note: strip: 1 signed module"));
    space.assert_clean();
}

#[test]
fn one_changed_program_is_one_strip() {
    let space = space();
    let output = space.builds(&["image"]);
    assert_eq!(items(&output).len(), 6, "{:?}", items(&output));
    let event = output.events.iter().find(|e| e["event"] == "item_finished").unwrap();
    assert_eq!(
        (event["target"].as_str(), event["step"].as_str()),
        (Some("rootfs"), Some("strip")),
        "{event}"
    );
    assert_eq!((event["work"].as_str(), event["key"].as_str().map(str::len)), (Some("strip"), Some(64)));
    assert!(event["millis"].is_u64());

    space.write("two.c", program("changed"));
    let output = space.builds(&["image"]);
    assert_eq!(items(&output), ["usr/bin/two"]);
    assert_eq!(output.started(), ["image", "rootfs", "system", "two"]);
    assert!(space.log("rootfs").contains("1 of 7 files stripped, 6 known"), "{}", space.log("rootfs"));
    assert_eq!(prints(&unpacked(&space, "dist/rootfs.tar", "usr/bin/two")), "changed\n");

    // A remark: the compiler makes the same program, and nothing below runs.
    space.write("two.c", format!("{}// a remark\n", program("changed")));
    let output = space.builds(&["image"]);
    assert_eq!((items(&output).len(), output.started()), (0, vec!["two"]));

    // Another tree with the same files strips none of them; nor does another workspace on this store.
    let output = space.builds(&["other", "some"]);
    assert_eq!(items(&output), [""; 0]);
    let same = |archive: &str, path: &str| {
        content(&space.path(archive), path) == content(&space.path("dist/rootfs.tar"), path)
    };
    assert!(same("dist/other.tar", "usr/bin/one") && !same("dist/other.tar", "usr/bin/two"));
    assert!(same("dist/some.tar", "usr/lib/libx.so") && !same("dist/some.tar", "usr/bin/one"));
    let beside = space.beside("beside", YAML);
    fill(&beside);
    let output = beside.builds(&["rootfs"]);
    assert_eq!(items(&output), [""; 0], "`two` was built before");
}

#[test]
fn nothing_known_is_taken_where_that_is_asked_for() {
    let space = space();
    space.builds(&["rootfs"]);
    let first = space.bytes("dist/rootfs.tar");
    let output = space.builds(&["rootfs", "--force", "rootfs"]);
    assert_eq!(items(&output).len(), 6);
    let output = space.builds(&["rootfs", "--no-cache"]);
    assert_eq!(items(&output).len(), 6);
    assert_eq!(space.bytes("dist/rootfs.tar"), first);

    // --no-cache leaves nothing either: a fresh store stays without results.
    let fresh = space.beside("fresh", YAML).with_store("fresh store");
    fill(&fresh);
    fresh.builds(&["rootfs", "--no-cache"]);
    let output = fresh.builds(&["rootfs"]);
    assert_eq!(items(&output).len(), 6);
    assert_eq!(fresh.bytes("dist/rootfs.tar"), first);
}

#[test]
fn a_lost_blob_costs_the_strip_that_made_it() {
    let space = space();
    space.builds(&["rootfs"]);
    let first = space.bytes("dist/rootfs.tar");
    let stripped = content(&space.path("dist/rootfs.tar"), "usr/bin/two");
    let lost = mosbuild_cache::Digest::of(&stripped).hex();
    let mut found = 0;
    for (path, hex) in blobs(space.store()) {
        if hex == lost {
            std::fs::remove_file(path).unwrap();
            found += 1;
        }
    }
    assert!(found > 0);
    space.remove("dist");
    space.forget_stamp();
    let output = space.builds(&["rootfs"]);
    assert_eq!(items(&output), ["usr/bin/two"], "{output}");
    output.says("is missing; it is built again");
    assert_eq!(space.bytes("dist/rootfs.tar"), first);
    space.assert_clean();
}

#[test]
fn jobs_and_users_make_no_difference() {
    let space = space();
    space.builds(&["rootfs", "-j", "1"]);
    let plain = Space::new(YAML).as_plain_user();
    fill(&plain);
    plain.builds(&["rootfs", "-j", "4"]);
    assert_eq!(plain.bytes("dist/rootfs.tar"), space.bytes("dist/rootfs.tar"));
    plain.assert_clean();
}

/// Alpine's own programs in a stripped tree, run by the loader in it.
#[test]
fn a_tree_of_packages_runs() {
    for alpine in Alpine::all() {
        let list = alpine.list();
        let stand = Stand::new(&alpine, list);
        let yaml = stand.yaml(&[stand.mirror.url()], list, "");
        let rootfs =
            "  rootfs: { rule: rootfs, layers: packages, strip: true }\ndist: { rootfs.tar: rootfs, ";
        stand.space.yaml(&yaml.replace("dist: { ", rootfs));
        stand.space.builds(&["rootfs", "packages"]);
        let (before, after) =
            (members(&stand.space.path("dist/packages.tar")), members(&stand.space.path("dist/rootfs.tar")));
        for (path, entry) in &before {
            let now = &after[path];
            assert_eq!(
                (&entry.mode, &entry.owner, &entry.link),
                (&now.mode, &now.owner, &now.link),
                "{path}"
            );
        }
        assert_eq!(before.len(), after.len());
        let root = stand.space.base().join("root");
        std::fs::create_dir(&root).unwrap();
        let tar = Command::new("tar")
            .args(["--no-same-owner", "-xf"])
            .arg(stand.space.path("dist/rootfs.tar"))
            .arg("-C")
            .arg(&root)
            .status();
        assert!(tar.unwrap().success());
        for (program, argument) in
            [("bin/busybox", "--help"), ("sbin/apk", "--version"), (alpine.setuid().1, "-h")]
        {
            if !root.join(program).is_file() {
                continue;
            }
            let libraries =
                ["lib", "usr/lib", "usr/lib/sudo"].map(|dir| root.join(dir).display().to_string()).join(":");
            let ran = Command::new(root.join("lib/ld-musl-x86_64.so.1"))
                .args(["--library-path", &libraries])
                .arg(root.join(program))
                .arg(argument)
                .output()
                .unwrap();
            let said = ran.stdout.len() + ran.stderr.len();
            let text = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(
                said > 20 && !text.contains("Error loading") && !text.contains("relocating"),
                "{program}: {ran:?}"
            );
            assert!(ran.status.code().is_some(), "{program} was killed: {ran:?}");
        }
    }
}
