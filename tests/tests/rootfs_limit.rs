//! `max_size` of a root file system and of an archive: what is too large is told with what grew. And the memory that an
//! archive takes: told before a machine is started that has too little.

use mosbuild_tests::Space;
use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;

const YAML: &str = r#"targets:
  base: { rule: files, install: [{ from: base/, to: / }] }
  own: { rule: files, install: [{ from: own/, to: / }] }
  rootfs: { rule: rootfs, layers: [base, own], clean: docs, max_size: 100KiB }
  image: { rule: cpio, root: rootfs, compress: none, max_size: 90KiB }
dist: { rootfs.tar: rootfs, image: image }
"#;

fn space() -> Space {
    let space = Space::new(YAML);
    space.write("base/etc/config", "c".repeat(10_000));
    space.write("base/usr/share/doc/long", "d".repeat(500_000));
    space.write("own/usr/bin/tool", "t".repeat(20_000));
    space.write("own/usr/bin/other", "o".repeat(30_000));
    space
}

#[test]
fn what_grew_in_a_tree_is_named() {
    let space = space();
    space.builds(&["rootfs"]).counts(3, 0, 0);
    space.write("own/usr/bin/tool", "t".repeat(70_000));
    space.write("own/usr/bin/other", "o".repeat(29_000));
    space.write("own/usr/bin/new", "n".repeat(5_000));
    let output = space.build(&["rootfs"]);
    assert_eq!(output.counts(1, 1, 1).code, Some(1));
    let failure = output.failure("rootfs");
    assert_eq!(failure["step"], "limit", "{output}");
    let message = failure["message"].as_str().unwrap();
    assert_eq!(
        message.lines().collect::<Vec<_>>(),
        [
            "the tree has 111.3 KiB and max_size is 100.0 KiB; by layer:",
            "   101.6 KiB  own",
            "     9.8 KiB  base",
            "the largest files:",
            "    68.4 KiB  /usr/bin/tool",
            "    28.3 KiB  /usr/bin/other",
            "     9.8 KiB  /etc/config",
            "     4.9 KiB  /usr/bin/new",
            "since the last build that fitted, +52.7 KiB:",
            "    +52.7 KiB  layer own",
            "    +48.8 KiB  /usr/bin/tool  (layer own)",
            "     +4.9 KiB  /usr/bin/new  (layer own)",
        ]
    );
    output.says("help: raise max_size, or remove what is not needed");

    // What fails is compared with what fitted, however often it is tried; and it is never reused.
    let again = space.build(&["rootfs"]);
    assert_eq!(again.failure("rootfs")["message"], failure["message"]);
    // Smaller again: the step before is a hit, and the comparison is no part of any key.
    space.write("own/usr/bin/tool", "t".repeat(20_000));
    space.write("own/usr/bin/other", "o".repeat(30_000));
    space.remove("own/usr/bin/new");
    space.builds(&["rootfs"]).counts(0, 3, 0);
    // The bound alone is lowered.
    space.edit_yaml("max_size: 100KiB", "max_size: 50KiB");
    let output = space.build(&["rootfs"]);
    output.says("max_size is 50.0 KiB").says("nothing has grown since the last build that fitted");
    assert_eq!(output.started(), ["rootfs"]);
}

#[test]
fn a_first_build_has_nothing_to_compare_with() {
    let space = space();
    space.edit_yaml("max_size: 100KiB", "max_size: 10KiB");
    let output = space.build(&["rootfs"]);
    assert_eq!(output.code, Some(1));
    output.says("no earlier build of this target is known that it could be compared with");
    // In another workspace on this store neither, though the store has all of it.
    let other = space.beside("other", &YAML.replace("max_size: 100KiB", "max_size: 20KiB"));
    for file in ["base/etc/config", "own/usr/bin/tool", "own/usr/bin/other", "base/usr/share/doc/long"] {
        other.write(file, space.read(file));
    }
    other.build(&["rootfs"]).says("no earlier build of this target is known");
}

#[test]
fn what_grew_in_an_archive_is_named() {
    let space = space();
    space.builds(&["image"]).counts(4, 0, 0);
    space.write("own/usr/bin/tool", "t".repeat(60_000));
    let output = space.build(&["image"]);
    assert_eq!(output.counts(2, 1, 1).code, Some(1));
    let message = output.failure("image")["message"].as_str().unwrap();
    assert!(message.starts_with("the archive has 99.0 KiB and max_size is 90.0 KiB; "), "{message}");
    for line in [
        "    58.6 KiB  /usr/bin/tool",
        "the archive itself: +39.0 KiB; before compression, since the last build that fitted, +39.1 KiB:",
        "    +39.1 KiB  /usr/bin/tool",
    ] {
        assert!(message.lines().any(|l| l == line), "{line}\n{message}");
    }
}

/// A package that was updated is named with both versions.
#[test]
fn a_package_that_grew_is_named() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["tool"]);
    let tool = |version: &str, size: usize| {
        Apk::new("tool", version).file("usr/bin/tool", &"t".repeat(size)).file("usr/bin/same", "same")
    };
    stand.own(&[tool("1.2-r0", 10_000)]);
    let yaml = stand.yaml(&[stand.mirror.url()], &["tool"], "");
    let more = |max: &str| {
        let rootfs = format!(
            "  rootfs: {{ rule: rootfs, layers: packages, max_size: {max} }}\n  \
             image: {{ rule: cpio, root: rootfs, compress: gzip, max_size: 30MiB }}\ndist: {{ rootfs.tar: rootfs, "
        );
        yaml.replace("dist: { ", &rootfs)
    };
    stand.space.yaml(&more("60MiB"));
    stand.space.builds(&["image"]);
    let bytes = stand.space.json(&["show", "rootfs", "--json"])["facts"]["size"].clone();
    let bytes: u64 = bytes.as_str().unwrap().parse().unwrap();
    stand.own(&[tool("1.3-r1", 400_000)]);
    let locked = stand.space.run(&["lock", "--update", "packages"]);
    assert_eq!(locked.code, Some(0), "{locked}");
    stand.space.yaml(&more(&(bytes + 1000).to_string()));
    let output = stand.space.build(&["rootfs"]);
    assert_eq!(output.code, Some(1), "{output}");
    output
        .says("+380.9 KiB  package tool 1.2-r0 → 1.3-r1")
        .says("+380.9 KiB  /usr/bin/tool  (layer packages, package tool)");
    assert!(!output.stderr.contains("/usr/bin/same"), "{output}");
    // The archive says so too.
    let image = stand.space.read("mosbuild.yaml").replace("max_size: 30MiB", "max_size: 1KiB");
    stand
        .space
        .write("mosbuild.yaml", image.replace(&format!("max_size: {}", bytes + 1000), "max_size: 60MiB"));
    stand.space.build(&["image"]).says("package tool 1.2-r0 → 1.3-r1");
}

const BOOT: &str = r#"targets:
  fake: { rule: files, install: [{ from: kernel, to: /kernel }] }
  made: { rule: command, inputs: kernel, run: 'cp kernel "$OUT/kernel"', outputs: kernel }
  rootfs: { rule: rootfs, layers: [system] }
  system: { rule: files, install: [{ from: big, to: /big }, { from: small, to: /small }] }
  image: { rule: cpio, root: rootfs, compress: gzip }
  boot: { rule: boot-test, kernel: made, initramfs: image, memory: 64M, expect: READY, timeout: 5 }
"#;

#[test]
fn a_machine_with_too_little_memory_is_not_started() {
    mosbuild_tests::need("qemu-system-x86_64", "qemu-system-x86");
    let space = Space::new(BOOT);
    space.write("kernel", "no kernel");
    space.write("big", vec![0; 40 << 20]);
    space.write("small", "x");
    let output = space.build(&["boot"]);
    assert_eq!(output.code, Some(1), "{output}");
    let failure = output.failure("boot");
    assert_eq!(failure["step"], "memory", "{failure}");
    output
        .says("the machine has 64.0 MiB of memory, and image needs 80.0 MiB at least")
        .says("unpacked it has 40.0 MiB in 2 entries, and the kernel gives its root file system half of the memory")
        .says("`memory: 256M`");
    let started =
        |step: &str| output.events.iter().any(|e| e["event"] == "step_started" && e["step"] == step);
    assert!(started("memory") && !started("boot"), "{output}");
    // Whole pages of 4 KiB, twice.
    let facts = space.json(&["show", "image", "--json"])["facts"].clone();
    assert_eq!(facts["ram"], (2 * ((40 << 20) + 4096)).to_string(), "{facts}");

    // With enough of it the machine is started, and fails for another reason: this is no kernel.
    space.edit_yaml("memory: 64M", "memory: 128M");
    let output = space.build(&["boot"]);
    assert_eq!(output.failure("boot")["step"], "boot", "{output}");
    // A ramfs has no limit; what counts is that archive and files fit.
    space.edit_yaml("memory: 128M", "memory: 48M, cmdline: rootfstype=ramfs");
    assert_eq!(space.build(&["boot"]).failure("boot")["step"], "boot");
    space.edit_yaml("memory: 48M", "memory: 32M");
    space.build(&["boot"]).says("the machine has 32.0 MiB of memory, and image needs 40.0 MiB at least");
}
