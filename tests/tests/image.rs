//! `files`, `rootfs` and `cpio` from outside: what goes where with which mode, what clashes, what is too large.

use std::process::Command;

use mosbuild_tests::{Space, need};

/// Mode, owner, size or device, path and link of each member, as GNU tar or cpio list them.
fn tar(space: &Space, path: &str) -> Vec<String> {
    need("tar", "tar");
    let listed = Command::new("tar").arg("-tvf").arg(space.path(path)).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    let short = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {} {} {}", words[0], words[1], words[2], words[5..].join(" "))
    };
    text.lines().map(short).collect()
}

fn paths(space: &Space, path: &str) -> Vec<String> {
    tar(space, path).iter().map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect()
}

#[test]
fn all_forms_of_install() {
    let mut space = Space::new(
        r#"vars: { mode: "0640" }
targets:
  made: { rule: command, run: 'mkdir "$OUT/d"; echo a > "$OUT/d/a"; chmod 700 "$OUT/d/a"; echo f > "$OUT/f"', outputs: [d/, f] }
  system:
    rule: files
    install:
      - { from: config/init, to: /etc/init }
      - { from: made, to: /srv }
      - { from: "made:d/", to: /srv2 }
      - { from: "made:f", to: /usr/bin/ }
      - { from: { path: OUTSIDE }, to: /etc/outside, mode: "4711" }
      - { from: folder/, to: / , mode: "${mode}" }
      - { link: ../x, at: /sbin/init }
      - { dir: /tmp, mode: "1777" }
      - { node: /dev/console, type: char, major: 5, minor: 1, mode: "0600" }
      - { node: /dev/sda, type: block, major: 8, minor: 0 }
dist: { system.tar: system }
"#,
    );
    let outside = space.base().join("outside");
    std::fs::write(&outside, "outside").unwrap();
    space.edit_yaml("OUTSIDE", outside.to_str().unwrap());
    space.write("config/init", "one");
    space.chmod("config/init", 0o600);
    space.write("folder/.dot/run", "#!/bin/sh\n");
    space.chmod("folder/.dot/run", 0o711);
    std::os::unix::fs::symlink("run", space.path("folder/.dot/link")).unwrap();
    space.env("TZ", "UTC");
    space.builds(&["system"]).counts(2, 0, 0);
    assert_eq!(
        tar(&space, "dist/system.tar"),
        [
            "drwxr-xr-x 0/0 0 .dot",
            "lrwxrwxrwx 0/0 0 .dot/link -> run",
            "-rw-r----- 0/0 10 .dot/run",
            "drwxr-xr-x 0/0 0 dev",
            "crw------- 0/0 5,1 dev/console",
            "brw------- 0/0 8,0 dev/sda",
            "drwxr-xr-x 0/0 0 etc",
            "-rw-r--r-- 0/0 3 etc/init",
            "-rws--x--x 0/0 7 etc/outside",
            "drwxr-xr-x 0/0 0 sbin",
            "lrwxrwxrwx 0/0 0 sbin/init -> ../x",
            "drwxr-xr-x 0/0 0 srv",
            "-rwx------ 0/0 2 srv/a",
            "drwxr-xr-x 0/0 0 srv2",
            "-rwx------ 0/0 2 srv2/a",
            "drwxrwxrwt 0/0 0 tmp",
            "drwxr-xr-x 0/0 0 usr",
            "drwxr-xr-x 0/0 0 usr/bin",
            "-rw-r--r-- 0/0 2 usr/bin/f",
        ]
    );
}

#[test]
fn what_cannot_be_installed_is_said_before_anything_runs() {
    let space = Space::new("");
    space.write("f", "f");
    for (item, pointed, text) in [
        ("{ dir: /x, mode: 0755 }", "0755", "write it in quotes: \"0755\""),
        ("{ dir: /x, mode: \"+755\" }", "\"+755\"", "\"+755\" is no mode"),
        ("{ dir: /a/../b }", "/a", "is no path of the image"),
        ("{ link: \"\", at: /l }", "\"\"", "cannot be what a link says"),
        ("{ node: /d, type: char, major: 5000, minor: 1 }", "5000", "expected 0 to 4095"),
        ("{ node: /d, type: fifo, major: 5, minor: 1 }", "fifo", "expected `char` or `block`"),
        (
            "{ from: { svn: x, at: y }, to: /x }",
            "{ svn",
            "a string, `{git, rev}`, `{crate, version}`, `{url}` or `{path}`, found `{svn, at}`",
        ),
        ("{ from: { path: f, rev: y }, to: /x }", "rev", "unknown field `rev`"),
        ("{ from: { crate: a/b, version: 1 }, to: /x }", "a/b", "is no name of a crate"),
        ("{ from: g, to: /x }", "g,", "there is no file `g`"),
        ("{ from: ../f, to: /x }", "..", "leaves the workspace"),
    ] {
        let line = format!("  a: {{ rule: files, install: [{item}] }}");
        space.yaml(&format!("targets:\n{line}\n"));
        let output = space.build(&["a"]);
        assert_eq!(output.code, Some(2), "{item}: {output}");
        let column = line.find(pointed).unwrap() + 1;
        output.says(text).says(&format!("mosbuild.yaml:4:{column}\n"));
    }
}

#[test]
fn two_things_at_one_path() {
    let space = Space::new(
        "targets:\n  same: { rule: files, install: [{ dir: /x }, { from: f, to: /y }, { link: z, at: /y }] }\n  \
         below: { rule: files, install: [{ from: f, to: /y/z/f }, { from: f, to: /y }] }\n  \
         meet: { rule: files, install: [{ dir: /y }, { from: f, to: /y/f }, { dir: /y, mode: \"0711\" }] }\n\
         dist: { meet.tar: meet }\n",
    );
    space.write("f", "f");
    for (target, text) in [
        ("same", "install[1] and install[2] both put something at /y: a file and a symlink"),
        ("below", "install[0] puts /y/z/f below /y, a file of install[1]"),
    ] {
        let output = space.build(&[target]);
        assert_eq!(output.code, Some(1), "{output}");
        output.says(text);
    }
    space.builds(&["meet"]);
    assert_eq!(tar(&space, "dist/meet.tar"), ["drwx--x--x 0/0 0 y", "-rw-r--r-- 0/0 1 y/f"]);
}

/// A folder of crates in place of the registry, as `cargo vendor` leaves one.
#[test]
fn files_of_a_published_crate() {
    let space = Space::new(
        "targets:\n  a: { rule: files, install: [{ from: { crate: mini, version: 1.2.3 }, to: /opt/mini }] }\n\
         dist: { a.tar: a }\n",
    )
    .with_rust();
    let registry = space.base().join("registry");
    let at = registry.join("mini-1.2.3");
    std::fs::create_dir_all(at.join("src")).unwrap();
    for (path, text) in [
        ("Cargo.toml", "[package]\nname = \"mini\"\nversion = \"1.2.3\"\nedition = \"2021\"\n"),
        ("Cargo.lock", "version = 3\n\n[[package]]\nname = \"mini\"\nversion = \"1.2.3\"\n"),
        ("src/lib.rs", ""),
        (".cargo-checksum.json", &format!("{{\"files\":{{}},\"package\":\"{}\"}}", "0".repeat(64))),
    ] {
        std::fs::write(at.join(path), text).unwrap();
    }
    space.write(
        ".cargo/config.toml",
        format!(
            "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = {:?}\n",
            registry.to_str().unwrap()
        ),
    );
    space.builds(&["a"]).counts(1, 0, 0);
    let listed = paths(&space, "dist/a.tar");
    assert!(listed.contains(&"opt/mini/src/lib.rs".to_owned()), "{listed:?}");
    assert!(space.read("mosbuild.lock").contains("1.2.3"));
    space.builds(&["a"]).counts(0, 1, 0);
}

const LAYERS: &str = r#"targets:
  base: { rule: command, run: 'mkdir -p "$OUT/t/etc/sub" "$OUT/t/usr/lib"; echo 1 > "$OUT/t/etc/a"; echo 1 > "$OUT/t/etc/sub/c"; ln -s usr/lib "$OUT/t/lib"; head -c 5000 /dev/zero > "$OUT/t/usr/big"', outputs: t/ }
  over: { rule: files, install: [{ dir: /lib/x }, { from: f, to: etc/a }, { dir: /etc/sub, mode: "0700" }] }
  bad: { rule: files, install: [{ dir: /etc/a }, { from: f, to: /etc/sub }] }
  root: { rule: rootfs, layers: [base, over] }
  clash: { rule: rootfs, layers: [base, bad] }
  less: { rule: rootfs, layers: base, remove: [/etc/sub, "**/big", "/lib", nothing] }
  small: { rule: rootfs, layers: [base, over], max_size: 4KiB }
  image: { rule: cpio, root: root, compress: none }
  packed: { rule: cpio, root: root, compress: { format: xz, level: 9 }, max_size: 100 }
dist: { root.tar: root, less.tar: less }
"#;

#[test]
fn layers_are_merged_and_paths_removed() {
    let space = Space::new(LAYERS);
    space.write("f", "over");
    let output = space.builds(&["root", "less"]);
    output.counts(4, 0, 0);
    assert_eq!(
        tar(&space, "dist/root.tar"),
        [
            "drwxr-xr-x 0/0 0 etc",
            "-rw-r--r-- 0/0 4 etc/a",
            "drwx------ 0/0 0 etc/sub",
            "-rw-r--r-- 0/0 2 etc/sub/c",
            "lrwxrwxrwx 0/0 0 lib -> usr/lib",
            "drwxr-xr-x 0/0 0 usr",
            "-rw-r--r-- 0/0 5000 usr/big",
            "drwxr-xr-x 0/0 0 usr/lib",
            "drwxr-xr-x 0/0 0 usr/lib/x",
        ]
    );
    assert_eq!(paths(&space, "dist/less.tar"), ["etc", "etc/a", "usr", "usr/lib"]);
    for (target, note) in
        [("root", "/etc/a: over replaces the one of base"), ("less", "remove: nothing matches nothing")]
    {
        assert!(space.log(target).contains(note), "{}", space.log(target));
        assert!(space.run(&["show", target]).stdout.contains(note));
    }
    let output = space.build(&["clash"]);
    assert_eq!(output.counts(1, 1, 1).code, Some(1));
    output
        .says("/etc/a: a file in base, a directory in bad")
        .says("/etc/sub: a directory in base, a file in bad");
    let output = space.build(&["small"]);
    assert_eq!(output.code, Some(1));
    output.says("max_size is 4.0 KiB").says("4.9 KiB  /usr/big").says("4.9 KiB  base");
}

#[test]
fn sizes_of_an_archive_are_facts_and_limits() {
    let space = Space::new(LAYERS);
    space.write("f", "over");
    space.builds(&["image"]);
    let size = space.bytes("dist/image").len().to_string();
    let facts = space.json(&["show", "image", "--json"])["facts"].clone();
    assert_eq!((facts["size"].as_str(), facts["unpacked_size"].as_str()), (Some(&*size), Some(&*size)));
    let output = space.build(&["packed"]);
    assert_eq!(output.code, Some(1));
    output.says("max_size is 100 B").says("/usr/big");
}
