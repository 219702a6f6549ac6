//! What a build leaves in dist/: names, checksums, what is removed and what never is.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mosbuild_tests::{Space, need};
use serde_json::json;

const TWO: &str = r#"targets:
  a: { rule: command, run: 'echo a > "$OUT/o"', outputs: [o] }
  b: { rule: command, run: 'echo b > "$OUT/o"; chmod 755 "$OUT/o"', outputs: [o] }
  t: { rule: command, run: 'mkdir "$OUT/d"; echo x > "$OUT/d/x"; ln -s x "$OUT/d/link"', outputs: [d/] }
"#;

/// sha256sum's judgement of dist/SHA256SUMS.
#[track_caller]
fn sums_are_right(space: &Space, dist: &str, files: &[&str]) {
    need("sha256sum", "coreutils");
    let sums = space.read(&format!("{dist}/SHA256SUMS"));
    let named: Vec<&str> = sums.lines().map(|l| l.split_once("  ").unwrap().1).collect();
    assert_eq!(named, files, "{sums}");
    let checked = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(space.path(dist))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn files_trees_and_checksums() {
    let space = Space::new(&format!("{TWO}dist: {{ deep/er/b.bin: b, tree.tar: t }}\n"));
    let output = space.builds(&["a", "b", "t"]);
    assert_eq!(output.named("placed", "path"), ["dist/a", "dist/deep/er/b.bin", "dist/tree.tar"]);
    sums_are_right(&space, "dist", &["a", "deep/er/b.bin", "tree.tar"]);
    assert_eq!(space.read("dist/a"), "a\n");
    let mode = |p: &str| space.path(p).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("dist/a"), mode("dist/deep/er/b.bin")), (0o644, 0o755));
    // GNU tar reads the tree.
    let listed = Command::new("tar")
        .args(["--numeric-owner", "--utc", "-tvf"])
        .arg(space.path("dist/tree.tar"))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].starts_with("lrwxrwxrwx 0/0") && lines[0].ends_with("link -> x"), "{listed}");
    assert!(lines[1].starts_with("-rw-r--r-- 0/0") && lines[1].ends_with("2025-01-01 00:00 x"), "{listed}");
    // Writing to a placed file does not reach the store.
    space.write("dist/a", "scribble");
    space.remove("dist/a");
    space.builds(&["a"]);
    assert_eq!(space.read("dist/a"), "a\n");
    space.assert_clean();
}

#[test]
fn files_no_longer_named_go_and_foreign_files_stay() {
    let space = Space::new(&format!("{TWO}dist: {{ one: a, two: b }}\n"));
    space.builds(&["a", "b"]);
    space.write("dist/foreign", "mine");
    space.write("dist/deep/foreign", "mine too");
    space.edit_yaml("one: a, two: b", "uno: a, two: b");
    space.builds(&["a"]);
    assert!(space.has("dist/uno") && space.has("dist/two") && !space.has("dist/one"));
    sums_are_right(&space, "dist", &["two", "uno"]);
    // A file that was ours but has been written by somebody since is not ours any more.
    space.write("dist/uno", "mine now");
    space.edit_yaml("uno: a", "eins: a");
    space.builds(&["a", "b"]);
    assert_eq!(space.read("dist/uno"), "mine now");
    assert_eq!(space.read("dist/foreign"), "mine");
    sums_are_right(&space, "dist", &["eins", "two"]);
    let output = space.run(&["clean"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert!(!space.has("dist/eins") && !space.has("dist/two") && !space.has("dist/SHA256SUMS"), "{output}");
    assert_eq!(space.read("dist/foreign"), "mine");
    assert_eq!(space.read("dist/deep/foreign"), "mine too");
    assert_eq!(space.read("dist/uno"), "mine now");
    // The store was not touched.
    space.builds(&["a", "b"]).counts(0, 2, 0);
}

#[test]
fn folders_that_are_empty_then_go_too() {
    let space = Space::new(
        "dist: { deep/er/a.bin: a }\ntargets:\n  \
         a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.builds(&["a"]);
    assert_eq!(space.read("dist/deep/er/a.bin"), "a\n");
    space.edit_yaml("deep/er/a.bin", "a.bin");
    space.builds(&["a"]);
    assert!(space.has("dist/a.bin") && !space.has("dist/deep"));
}

#[test]
fn a_failure_keeps_what_an_earlier_build_placed() {
    let space = Space::new("targets:\n  a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n");
    space.builds(&["a"]);
    space.edit_yaml("echo a", "exit 1; echo a");
    assert_eq!(space.build(&["a"]).code, Some(1));
    assert_eq!(space.read("dist/a"), "a\n");
    assert!(space.read("dist/SHA256SUMS").ends_with("  a\n"));
}

#[test]
fn facts_fill_names_and_old_versions_go() {
    let space = Space::new(
        "vars: { n: '1' }\ntargets:\n  tree: { rule: files, install: [{ from: a, to: /a }] }\n  \
         root: { rule: rootfs, layers: [tree] }\n  image: { rule: cpio, root: root, compress: none }\n\
         dist: { 'image-{root.size}-{image.size}.cpio': image }\n",
    );
    space.write("a", "four");
    space.builds(&["image"]);
    let size = |n: usize| format!("dist/image-{n}-512.cpio");
    assert!(
        space.has(&size(4)),
        "{:?}",
        std::fs::read_dir(space.path("dist")).unwrap().flatten().collect::<Vec<_>>()
    );
    space.write("a", "seven77");
    space.builds(&["image"]);
    assert!(space.has(&size(7)) && !space.has(&size(4)));
    space.edit_yaml("{root.size}", "{root.colour}");
    let output = space.build(&["image"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("target `root` has no fact `colour`").says("its facts are `size`");
    assert!(space.has(&size(7)), "the last build's files are left alone");
}

#[test]
fn out_replaces_dist() {
    let space = Space::new(&format!("{TWO}dist: {{ first: a }}\n"));
    space.builds(&["--out", "elsewhere/deep", "a", "b"]);
    assert!(!space.has("dist"));
    assert_eq!(space.read("elsewhere/deep/first"), "a\n");
    sums_are_right(&space, "elsewhere/deep", &["b", "first"]);
}

#[test]
fn groups_build_their_members_and_count_for_nothing() {
    let space = Space::new(&format!(
        "default: [all]\n{TWO}  all: {{ rule: group, deps: [a, more] }}\n  more: {{ rule: group, deps: [b] }}\n"
    ));
    let output = space.builds(&[]);
    output.counts(2, 0, 0);
    assert_eq!(output.ended("ran"), ["a", "b"]);
    space.builds(&[]).counts(0, 2, 0);
}

#[test]
fn profiles_and_set_in_their_order() {
    let space = Space::new(
        "vars: { who: file, other: file }\nprofiles:\n  p:\n    vars: { who: profile }\n    targets: { t: { env: { EXTRA: more } } }\n\
         targets:\n  t: { rule: command, env: { W: '${who}', O: '${other}', LIT: '$${who}' }, run: 'echo \"$W $O $LIT ${EXTRA-none}\" > \"$OUT/o\"', outputs: [o] }\n",
    );
    let said = |args: &[&str]| {
        space.builds(args);
        space.read("dist/t")
    };
    assert_eq!(said(&["t"]), "file file ${who} none\n");
    assert_eq!(said(&["--profile", "p", "t"]), "profile file ${who} more\n");
    assert_eq!(said(&["--profile", "p", "--set", "who=set", "t"]), "set file ${who} more\n");
    assert_eq!(said(&["--set", "who=a b", "--set", "other=", "t"]), "a b  ${who} none\n");
    space.builds(&["t"]).counts(0, 1, 0);
    let output = space.build(&["--set", "whom=x", "t"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("whom").says("who");
    let output = space.build(&["--profile", "q", "t"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("q").says("p");
}

#[test]
fn layers_merge_clash_and_have_a_size() {
    let space = Space::new(
        "targets:\n  low: { rule: files, install: [{ from: files, to: / }, { link: usr/lib, at: /lib }, { dir: /usr/lib }] }\n  \
         high: { rule: files, install: [{ from: file, to: /etc/conf }, { from: file, to: /lib/new }] }\n  \
         root: { rule: rootfs, layers: [low, high], remove: ['/doc/**', 'nothing/here'] }\n",
    );
    space.write("files/etc/conf", "low\n");
    space.write("files/doc/a/b", "doc\n");
    space.write("file", "high\n");
    space.builds(&["root"]);
    let list = Command::new("tar").arg("-tf").arg(space.path("dist/root.tar")).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let names: Vec<&str> = list.lines().map(|l| l.trim_end_matches('/')).collect();
    assert!(names.contains(&"usr/lib/new"), "a folder follows a symlink to a folder: {list}");
    assert!(!names.contains(&"doc/a/b"), "{list}");
    let conf =
        Command::new("tar").arg("-xOf").arg(space.path("dist/root.tar")).arg("etc/conf").output().unwrap();
    assert_eq!(conf.stdout, b"high\n", "the later layer wins");
    let log = space.log("root");
    assert!(log.contains("/etc/conf: high replaces the one of low"), "{log}");
    assert!(log.contains("remove: nothing/here matches nothing"), "{log}");
    let shown = space.run(&["show", "root"]).stdout;
    assert!(shown.contains("/etc/conf: high replaces the one of low"), "{shown}");
    assert_eq!(space.json(&["show", "root", "--json"])["facts"]["size"], json!("10"));
    // Too large: the largest contributors are named.
    space.edit_yaml("layers: [low, high],", "layers: [low, high], max_size: 1KiB,");
    space.write("file", vec![b'x'; 3000]);
    let output = space.build(&["root"]);
    assert_eq!(output.counts(1, 1, 1).code, Some(1));
    let message = output.failure("root")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("max_size is 1.0 KiB") && message.contains("/etc/conf") && message.contains("high"),
        "{message}"
    );
    // A clash of kinds.
    space.edit_yaml("max_size: 1KiB, ", "");
    space.edit_yaml("to: /etc/conf", "to: /etc");
    let output = space.build(&["root"]);
    assert_eq!(output.code, Some(1));
    output.says("layers clash:").says("/etc: a directory in low, a file in high");
}

#[test]
fn gnu_cpio_reads_our_archives_and_jobs_do_not_change_their_bytes() {
    need("cpio", "cpio");
    let yaml = "targets:\n  sys: { rule: files, install: [{ from: in, to: /etc/in }, { link: in/a, at: /etc/link }, \
                { node: /dev/console, type: char, major: 5, minor: 1, mode: \"0600\" }, { dir: /tmp, mode: \"1777\" }, \
                { from: in/a, to: /bin/a, mode: \"4755\" }] }\n  \
                none: { rule: cpio, root: sys, compress: none }\n  gzip: { rule: cpio, root: sys, compress: gzip }\n  \
                xz: { rule: cpio, root: sys, compress: xz }\n  zstd: { rule: cpio, root: sys, compress: zstd }\n  \
                all: { rule: group, deps: [none, gzip, xz, zstd] }\n\
                dist: { i: none, i.gz: gzip, i.xz: xz, i.zst: zstd }\n";
    let one = Space::new(yaml);
    let two = Space::new(yaml);
    for (space, jobs) in [(&one, "-j1"), (&two, "-j2")] {
        space.write("in/a", "a\n".repeat(100_000));
        space.write("in/b", "b\n");
        space.builds(&[jobs, "all"]).counts(5, 0, 0);
    }
    for file in ["dist/i", "dist/i.gz", "dist/i.xz", "dist/i.zst", "dist/SHA256SUMS"] {
        assert!(one.bytes(file) == two.bytes(file), "{file} differs between -j1 and -j2");
    }
    let cpio = |args: &[&str], input: &str| {
        let input = std::fs::File::open(one.path(input)).unwrap();
        let output = Command::new("cpio").args(args).stdin(input).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let names = cpio(&["-t", "--quiet"], "dist/i");
    let names: Vec<&str> = names.lines().collect();
    assert_eq!(
        names,
        ["bin", "bin/a", "dev", "dev/console", "etc", "etc/in", "etc/in/a", "etc/in/b", "etc/link", "tmp"]
    );
    let long = cpio(&["-tv", "--quiet", "-n"], "dist/i");
    let line = |end: &str| long.lines().find(|l| l.ends_with(end)).unwrap_or_else(|| panic!("{end}: {long}"));
    assert!(
        line(" dev/console").starts_with("crw-------") && line(" dev/console").contains("5,   1"),
        "{long}"
    );
    assert!(line(" bin/a").starts_with("-rwsr-xr-x"), "{long}");
    assert!(line(" tmp").starts_with("drwxrwxrwt"), "{long}");
    assert!(line("etc/link -> in/a").starts_with("lrwxrwxrwx"), "{long}");
    // The usual programs unpack each form to the same bytes.
    let plain = one.bytes("dist/i");
    for (program, package, file) in
        [("gzip", "gzip", "dist/i.gz"), ("xz", "xz-utils", "dist/i.xz"), ("zstd", "zstd", "dist/i.zst")]
    {
        need(program, package);
        let output = Command::new(program).arg("-dc").arg(one.path(file)).output().unwrap();
        assert!(output.status.success() && output.stdout == plain, "{file}");
    }
}

/// ssh-keygen's judgement of a signature over dist/SHA256SUMS.
fn verified(space: &Space, signature: &str) -> bool {
    let verify = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-n", "file", "-I", "release@example.org"])
        .arg("-f")
        .arg(space.base().join("signers"))
        .arg("-s")
        .arg(space.path(signature))
        .stdin(std::fs::File::open(space.path("dist/SHA256SUMS")).unwrap())
        .output()
        .unwrap();
    verify.status.success()
}

#[test]
fn sums_are_signed_by_a_key_of_ssh() {
    need("ssh-keygen", "openssh-client");
    let space = Space::new(&format!("{TWO}dist: {{ one: a, two: b }}\n"));
    let key = space.base().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "c", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    std::fs::write(space.base().join("signers"), format!("release@example.org {public}")).unwrap();
    let key = key.to_str().unwrap();

    let missing = space.build(&["a", "--sign", "nowhere"]);
    assert_eq!(missing.code, Some(2), "{missing}");
    missing.says("--sign nowhere: ").says("ssh-keygen -t ed25519");
    assert!(!space.has("dist"), "nothing was run");

    let output = space.builds(&["a", "--sign", key]);
    assert_eq!(output.named("placed", "path"), ["dist/SHA256SUMS.sig", "dist/one"]);
    sums_are_right(&space, "dist", &["one"]);
    assert!(verified(&space, "dist/SHA256SUMS.sig"));
    // Nothing changed: the same signature, and it stays without the key.
    let signature = space.bytes("dist/SHA256SUMS.sig");
    assert!(space.builds(&["a", "--sign", key]).named("placed", "path").is_empty());
    space.builds(&["a"]);
    assert_eq!(space.bytes("dist/SHA256SUMS.sig"), signature);
    // What it is none of any more has none.
    space.builds(&["b"]);
    sums_are_right(&space, "dist", &["one", "two"]);
    assert!(!space.has("dist/SHA256SUMS.sig"));
    space.write("dist/SHA256SUMS.sig", &signature);
    assert!(!verified(&space, "dist/SHA256SUMS.sig"), "of other sums");
    // That one was not written by mosbuild, and is left alone until it is to write one itself.
    space.edit_yaml("two: b", "zwei: b");
    space.builds(&["b"]);
    assert_eq!(space.bytes("dist/SHA256SUMS.sig"), signature);
    let mut space = space;
    space.env("MOSBUILD_SIGN_KEY", key);
    space.builds(&[]);
    assert!(verified(&space, "dist/SHA256SUMS.sig"));
    // A file that is no key cannot sign: the build has failed, and no old signature stands for the new sums.
    space.write("no-key", "text");
    space.chmod("no-key", 0o600);
    space.edit_yaml("zwei: b", "two: b");
    let output = space.build(&["--sign", "no-key", "b"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("SHA256SUMS could not be signed: ");
    assert!(!space.has("dist/SHA256SUMS.sig"));
    space.builds(&["b"]);
    assert_eq!(space.run(&["clean"]).code, Some(0));
    assert!(!space.has("dist"), "the signature went with what it was of");

    // The key is nowhere: neither its bytes nor its place.
    let secret = std::fs::read_to_string(key).unwrap();
    let secret = secret.lines().nth(2).unwrap();
    for path in mosbuild_tests::archive::files_below(&space.base()) {
        if path.parent() == Some(&space.base()) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(!has(secret), "{}", path.display());
    }
}

#[test]
fn the_names_of_sums_and_signature_are_mosbuilds_own() {
    for name in ["SHA256SUMS", "SHA256SUMS.sig"] {
        let space = Space::new(&format!("{TWO}dist: {{ {name}: a }}\n"));
        let output = space.build(&["a"]);
        assert_eq!(output.code, Some(2), "{output}");
        output.says("mosbuild writes this file itself");
    }
}
