//! `mosbuild verify`: what is planted is found, named and explained; what is reproducible passes; nothing is left behind.
//! Knows no format; where differences lie in files is tested beside the code.

use std::path::Path;

use mosbuild_tests::{Marker, Output, Space, need, scratch_left, wait_until};
use serde_json::Value;

/// Runs verify with --json; exit code and object.
#[track_caller]
fn verify(space: &Space, args: &[&str]) -> (i32, Value) {
    let mut all = vec!["verify", "--json"];
    all.extend(args);
    let output = space.run(&all);
    let object: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    assert_eq!(object["schema"], "mosbuild.verify/1", "{output}");
    let code = output.code.unwrap();
    assert_eq!(code, i32::from(object["same"] != true), "{output}");
    assert_nothing_left(space, &output);
    (code, object)
}

/// Neither scratch in the store nor state in the workspace.
#[track_caller]
fn assert_nothing_left(space: &Space, output: &Output) {
    let left = scratch_left(space.store());
    let left: Vec<_> = left.iter().filter(|p| p.is_dir()).collect();
    assert!(left.is_empty(), "{left:?} after {output}");
}

/// The one difference that there is.
#[track_caller]
fn only(object: &Value) -> &Value {
    let found = object["differences"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{object:#}");
    &found[0]
}

/// Results in the store.
fn results(store: &Path) -> usize {
    let shelves = std::fs::read_dir(store.join("results")).into_iter().flatten().flatten();
    shelves.map(|shelf| std::fs::read_dir(shelf.path()).unwrap().count()).sum()
}

/// Targets that are not reproducible, each in its way.
const PLANTED: &str = r#"
targets:
  archive:
    rule: command
    tools: [cpio, xz]
    outputs: [a.cpio.xz]
    run: |
      mkdir -p tree/etc
      echo "built on $(date)" > tree/etc/release
      echo fixed > tree/etc/motd
      find tree -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
      cd tree
      find . | LC_ALL=C sort | cpio -o -H newc --reproducible --quiet | xz --check=crc32 > "$OUT/a.cpio.xz"
  stamp:
    rule: command
    outputs: [tree/]
    run: mkdir -p "$OUT/tree/etc"; date +%s > "$OUT/tree/etc/stamp"; echo x > "$OUT/tree/etc/x"
  image: { rule: cpio, root: stamp, compress: xz }
  packed: { rule: command, deps: { image: image }, outputs: [p], run: wc -c < "$image" > "$OUT/p"; cat "$image" >> "$OUT/p" }
  order:
    rule: command
    outputs: [list]
    run: seq 100 | sort -R > "$OUT/list"
  random:
    rule: command
    outputs: [id]
    run: head -c 16 /dev/urandom > "$OUT/id"
  program:
    rule: command
    tools: [gcc, as, ld]
    inputs: [a.c]
    outputs: [a]
    run: gcc -DSTAMP="\"$(date +%T.%N)\"" -o "$OUT/a" a.c
  number:
    rule: command
    tools: [gcc, as, ld]
    inputs: [a.c]
    outputs: [a]
    run: gcc -DSTAMP='"x"' -DNUMBER="$(date +%s)" -Wl,--build-id=none -o "$OUT/a" a.c
  jobs:
    rule: command
    outputs: [n]
    run: echo "made with $(nproc) jobs" > "$OUT/n"
"#;

fn planted() -> Space {
    let space = Space::new(PLANTED);
    space.write(
        "a.c",
        "#ifndef NUMBER\n#define NUMBER 3\n#endif\n#include <stdio.h>\nint table[3] = { 1, 2, NUMBER };\n\
         int main(void) { return puts(STAMP) + table[0]; }\n",
    );
    space
}

fn a_planted_time(space: &Space) {
    let (code, object) = verify(space, &["archive"]);
    assert_eq!(code, 1);
    let found = only(&object);
    assert_eq!(
        (&found["target"], &found["step"], &found["output"]),
        (&"archive".into(), &"run".into(), &"a.cpio.xz".into())
    );
    assert_eq!(
        found["place"],
        "line 1, in member etc/release of the cpio archive, in what is compressed with xz"
    );
    assert_eq!(found["reason"]["kind"], "time", "{found:#}");
    assert!(found["first"].as_str().unwrap().starts_with("built on "), "{found:#}");
    assert_ne!(found["first"], found["second"]);
    // The same for people.
    let output = space.run(&["verify", "archive"]);
    assert_eq!(output.code, Some(1), "{output}");
    for text in [
        "archive: not reproducible\n",
        "  archive:run made another a.cpio.xz from the same inputs: line 1, in member etc/release of the cpio archive, in what is compressed with xz\n",
        "    first:  built on ",
        "    second: built on ",
        "    likely: ",
        "SOURCE_DATE_EPOCH",
        "varied: wall clock",
    ] {
        assert!(output.stdout.contains(text), "no {text:?}: {output}");
    }
    assert_eq!(results(space.store()), 0, "a result of a verify is in the store");
    for path in ["dist", ".mosbuild/runs", ".mosbuild/fresh"] {
        assert!(!space.has(path), "a verify left {path} in the workspace");
    }
}

#[test]
fn a_planted_time_is_found_in_the_archive_and_named() {
    need("cpio", "cpio");
    a_planted_time(&planted());
}

#[test]
fn a_planted_time_is_found_by_a_plain_user() {
    a_planted_time(&planted().as_plain_user());
}

#[test]
fn the_first_target_that_differs_is_named_and_not_what_follows() {
    let (_, object) = verify(&planted(), &["packed"]);
    let found = only(&object);
    assert_eq!(
        (&found["target"], &found["place"]),
        (&"stamp".into(), &"line 1, in member etc/stamp of the tree".into())
    );
    let standing = |target: &str| {
        let steps = object["steps"].as_array().unwrap();
        let step = steps.iter().find(|s| s["target"] == target).unwrap();
        (step["standing"].clone(), step["follows"].clone())
    };
    assert_eq!(standing("stamp"), ("differs".into(), Value::Null));
    assert_eq!(standing("image"), ("follows".into(), serde_json::json!(["stamp:run"])));
    assert_eq!(standing("packed"), ("follows".into(), serde_json::json!(["image:pack"])));
}

#[test]
#[allow(clippy::print_stderr)]
fn an_order_a_random_value_and_a_number_of_jobs_are_told_apart() {
    let space = planted();
    for (target, kind, place) in [
        ("order", "order", "order of the lines, from the "),
        ("random", "random", "offset 0x"),
        ("jobs", "processors", "line 1"),
    ] {
        // On one processor there is nothing to vary.
        if target == "jobs" && std::thread::available_parallelism().unwrap().get() == 1 {
            eprintln!("did not run: this host has one processor");
            continue;
        }
        let (code, object) = verify(&space, &[target]);
        let found = only(&object);
        assert_eq!((code, &found["reason"]["kind"]), (1, &kind.into()), "{found:#}");
        assert!(found["place"].as_str().unwrap().starts_with(place), "{found:#}");
    }
    let (code, object) = verify(&space, &["jobs", "--same", "processors"]);
    assert_eq!(code, 0, "{object:#}");
    let kept = object["not_varied"].as_array().unwrap();
    assert!(kept.iter().any(|k| k["what"] == "number of processors"), "{object:#}");
}

#[test]
fn sections_and_symbols_of_programs_are_named() {
    need("gcc", "gcc");
    let space = planted();
    let (_, object) = verify(&space, &["program"]);
    let found = only(&object);
    assert!(found["place"].as_str().unwrap().ends_with("in ELF section .rodata"), "{found:#}");
    assert_eq!(found["reason"]["kind"], "time", "{found:#}");
    let (_, object) = verify(&space, &["number"]);
    let found = only(&object);
    let place = found["place"].as_str().unwrap();
    assert!(place.ends_with("in symbol table+0x8 of the ELF section .data"), "{found:#}");
    assert_eq!(found["reason"]["kind"], "time", "{found:#}");
}

const HOST: &str = r#"
targets:
  path: { rule: command, executor: host, outputs: [p], run: echo "made in $PWD" > "$OUT/p" }
  name: { rule: command, executor: host, outputs: [p], run: uname -n > "$OUT/p" }
  user: { rule: command, executor: host, outputs: [p], run: id -u > "$OUT/p" }
  fixed:
    rule: command
    outputs: [p]
    run: |
      { pwd; uname -n; id -u; umask; locale 2>/dev/null || true; env; date -d @0; echo "$OUT"; ls -l /build; } | grep -v '^total' > "$OUT/p"
"#;

fn seen_of_the_host(space: &Space) {
    for (target, kind) in [("path", "path"), ("name", "hostname"), ("user", "user")] {
        let (_, object) = verify(space, &[target]);
        assert_eq!(only(&object)["reason"]["kind"], kind, "{object:#}");
    }
    // What a sandbox shows is the same for everybody, so nothing of it is a difference.
    let (code, object) = verify(space, &["fixed"]);
    assert_eq!(code, 0, "{object:#}");
    let builds = object["builds"].as_array().unwrap();
    for part in ["user", "hostname", "workspace", "store", "jobs"] {
        assert_ne!(builds[0][part], builds[1][part], "{part} was not varied: {object:#}");
    }
    let (code, object) = verify(space, &["name", "--same", "host"]);
    assert_eq!(code, 0, "{object:#}");
}

#[test]
fn path_host_and_user_are_varied_where_a_step_sees_them() {
    seen_of_the_host(&Space::new(HOST));
}

#[test]
fn path_host_and_user_are_varied_by_a_plain_user_too() {
    seen_of_the_host(&Space::new(HOST).as_plain_user());
}

/// A small image of every kind of step that needs no source from elsewhere.
const GOOD: &str = r#"
targets:
  made:
    rule: command
    tools: [gcc, as, ld]
    inputs: [a.c, many/]
    outputs: [prog, folder/]
    run: |
      gcc -DSTAMP='"x"' -g -o "$OUT/prog" a.c
      mkdir "$OUT/folder"
      cp -r many "$OUT/folder"
  system:
    rule: files
    install:
      - { from: many, to: /many }
      - { from: "made:prog", to: /bin/prog, mode: "0755" }
      - { node: /dev/console, type: char, major: 5, minor: 1, mode: "0600" }
  rootfs: { rule: rootfs, layers: [system, "made:folder"], strip: true }
  initramfs: { rule: cpio, root: rootfs, compress: xz }
  all: { rule: group, deps: [initramfs, made] }
"#;

fn good() -> Space {
    let space = Space::new(GOOD);
    space.write("a.c", "#include <stdio.h>\nint main(void) { return puts(STAMP); }\n");
    for n in 0..200 {
        space.write(&format!("many/{}/file-{n}", n % 7), format!("{n}\n"));
    }
    space
}

#[test]
fn what_is_reproducible_passes() {
    for space in [good(), good().as_plain_user()] {
        let (code, object) = verify(&space, &["all"]);
        assert_eq!(code, 0, "{object:#}");
        for step in object["steps"].as_array().unwrap() {
            assert_eq!(step["standing"], "same", "{step:#}");
            assert_eq!(step["first"], step["second"]);
        }
        assert_eq!(results(space.store()), 0);
        let output = space.run(&["verify", "initramfs"]);
        assert_eq!(output.code, Some(0), "{output}");
        assert!(
            output.stdout.starts_with("initramfs: built twice, apart, and the same, to the byte\n"),
            "{output}"
        );
        assert!(output.stdout.contains("built twice and the same, "), "{output}");
        // The bytes are those of an ordinary build.
        let digest = |object: &Value| {
            let steps = object["steps"].as_array().unwrap();
            let pack = steps.iter().find(|s| s["step"] == "pack").unwrap();
            pack["first"]["outputs"]["file"]["digest"].as_str().unwrap().to_owned()
        };
        space.builds(&["initramfs"]);
        let built = mosbuild_cache::Digest::of(&space.bytes("dist/initramfs"));
        assert_eq!(digest(&object), built.hex());
    }
}

#[test]
fn the_store_stands_for_the_first_build_if_asked() {
    let space = good();
    let output = space.run(&["verify", "--against-store", "initramfs"]);
    assert_eq!(output.code, Some(2), "{output}");
    assert!(
        output.stderr.contains("is not in the store") && output.stderr.contains("mosbuild build"),
        "{output}"
    );
    space.builds(&["initramfs"]);
    let before = results(space.store());
    let (code, object) = verify(&space, &["--against-store", "initramfs"]);
    assert_eq!((code, &object["builds"][0]["stored"]), (0, &Value::Bool(true)), "{object:#}");
    assert_eq!(results(space.store()), before);
    let output = space.run(&["verify", "--against-store", "initramfs"]);
    assert!(
        output.stdout.contains("initramfs: built once more, apart, and as the store has it, to the byte"),
        "{output}"
    );
    assert!(!output.stdout.contains("built twice"), "{output}");

    let space = planted();
    space.builds(&["stamp"]);
    // Its clock has seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (code, object) = verify(&space, &["--against-store", "stamp"]);
    assert_eq!((code, &only(&object)["reason"]["kind"]), (1, &"time".into()), "{object:#}");
}

#[test]
fn what_was_proven_is_not_built_again_if_asked_and_said_to_be() {
    let space = good();
    space.builds(&["initramfs"]);
    let standings = |object: &Value| {
        let steps = object["steps"].as_array().unwrap();
        steps.iter().map(|s| s["standing"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Nothing is proven by a build.
    let (_, object) = verify(&space, &["--skip-proven", "made"]);
    assert_eq!(standings(&object), ["same"]);
    let (_, object) = verify(&space, &["--skip-proven", "initramfs"]);
    let all = standings(&object);
    assert_eq!(all.iter().filter(|s| *s == "proven").count(), 1, "{object:#}");
    assert!(all.iter().all(|s| s == "proven" || s == "same"), "{object:#}");
    let output = space.run(&["verify", "--skip-proven", "initramfs"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert!(
        output.stdout.starts_with("initramfs: nothing was built; all of it was proven before"),
        "{output}"
    );
    // Another input is another key, of which nothing is known.
    space.edit("a.c", "STAMP", "\"other \" STAMP");
    let (_, object) = verify(&space, &["--skip-proven", "made"]);
    assert_eq!(standings(&object), ["same"]);
    // And by itself nothing is skipped.
    let (_, object) = verify(&space, &["made"]);
    assert_eq!(standings(&object), ["same"]);
}

#[test]
fn sources_come_from_the_lock_and_are_not_fetched_again() {
    let space = Space::new("");
    let file = space.base().join("source.txt");
    std::fs::write(&file, "from elsewhere\n").unwrap();
    space.yaml(&format!(
        "targets:\n  got: {{ rule: release, url: \"file://{}\", install: {{ source.txt: /etc/source }} }}\n",
        file.display()
    ));
    let output = space.run(&["verify", "got"]);
    assert_eq!(output.code, Some(4), "{output}");
    space.builds(&["got"]);
    std::fs::remove_file(&file).unwrap();
    let lock = space.read("mosbuild.lock");
    let (code, object) = verify(&space, &["got", "--offline"]);
    assert_eq!(code, 0, "{object:#}");
    let steps = object["steps"].as_array().unwrap();
    assert!(
        steps.iter().any(|s| s["standing"] == "locked") && steps.iter().any(|s| s["standing"] == "same"),
        "{object:#}"
    );
    assert_eq!(space.read("mosbuild.lock"), lock);
}

#[test]
fn what_cannot_be_verified_is_refused_with_what_helps() {
    let mut space = Space::new(
        "targets:\n  bad: { rule: command, outputs: [o], run: exit 3 }\n  ok: { rule: command, outputs: [o], run: echo > $OUT/o }\n  \
         second: { rule: command, executor: host, outputs: [o], run: 'test \"$(uname -n)\" != elsewhere; echo > \"$OUT/o\"' }\n  \
         secret: { rule: command, env: { S: { host: TOKEN, secret: true } }, outputs: [o], run: 'echo > \"$OUT/o\"' }\n",
    );
    let output = space.run(&["verify", "okk"]);
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("did you mean ok?"), "{output}");
    assert_eq!(space.run(&["verify"]).code, Some(2));
    let output = space.run(&["verify", "bad"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    let output = space.run(&["verify", "second"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output}");
    assert!(output.stderr.contains("the second build failed where the first one succeeded"), "{output}");
    let output = space.run(&["verify", "ok", "--override", "ok=."]);
    assert_eq!(output.code, Some(2), "{output}");
    // A secret is hashed with the store's key, which the private stores share.
    space.env("TOKEN", "something secret");
    space.builds(&["secret"]);
    let (code, object) = verify(&space, &["--against-store", "secret"]);
    assert_eq!(code, 0, "{object:#}");
}

#[test]
fn an_interrupt_ends_both_builds_and_leaves_nothing() {
    let marker = Marker::new();
    let space = Space::new(&format!(
        "targets:\n  slow: {{ rule: command, outputs: [o], run: 'sleep {}; echo > \"$OUT/o\"' }}\n",
        marker.text()
    ));
    let mut command = space.command(&["verify", "slow"]);
    let child = command.spawn().unwrap();
    assert!(wait_until(|| !marker.processes().is_empty()), "the step should start");
    mosbuild_tests::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(marker.processes().is_empty());
    let left: Vec<_> = scratch_left(space.store()).into_iter().filter(|p| p.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_events_of_both_builds_are_written() {
    let space = good();
    let file = space.base().join("both");
    let output = space.run(&["verify", "made", "--events", file.to_str().unwrap()]);
    assert_eq!(output.code, Some(0), "{output}");
    let events = mosbuild_tests::read_events(&file);
    let count = |kind: &str| events.iter().filter(|e| e["event"] == kind).count();
    assert_eq!((count("run_started"), count("step_started"), count("run_finished")), (2, 2, 2), "{events:?}");
}
