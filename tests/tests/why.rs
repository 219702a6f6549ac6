//! `why` names each cause with its old and new value, and says what came of it by its exit code.

use mosbuild_tests::{Space, blobs, cause, need};
use serde_json::{Value, json};

const CHAIN: &str = r#"default: [two]
targets:
  one:
    rule: command
    inputs: [a.txt]
    env: { FLAG: { host: TEST_FLAG } }
    run: 'cat a.txt > "$OUT/o"; echo "${FLAG-unset}." >> "$OUT/o"'
    outputs: [o]
  two: { rule: command, deps: { x: one }, run: 'cat "$x" > "$OUT/p"', outputs: [p] }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("a.txt", "hello\n");
    space
}

fn values(cause: &Value) -> (&Value, &Value) {
    (&cause["old"], &cause["new"])
}

fn rebuilt(space: &Space, target: &str) -> Value {
    let (code, answer) = space.why(target);
    assert_eq!((code, &answer["decision"]), (10, &json!("rebuilt")), "{answer:#}");
    assert_ne!(answer["old_key"], answer["key"], "{answer:#}");
    answer
}

#[test]
fn never_built_then_built_then_a_hit() {
    let space = chain();
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (10, &json!("never_built")));
    space.builds(&[]);
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (10, &json!("rebuilt")));
    cause(&answer, "new", "never built in this workspace");
    space.builds(&[]);
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (0, &json!("hit")));
    assert_eq!(answer["causes"], json!([]));
    assert_eq!(answer["made_by"].as_array().unwrap().len(), 1, "{answer:#}");
    let text = space.run(&["why", "two"]);
    assert!(text.stdout.starts_with("two came from the cache (in run "), "{text}");
}

#[test]
fn an_unknown_target_or_run_is_wrong_usage() {
    let space = chain();
    space.builds(&[]);
    let output = space.run(&["why", "tow"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("two");
    let output = space.run(&["why", "two", "--against", "no-such-run"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("no-such-run");
}

#[test]
fn file_content() {
    let space = chain();
    space.builds(&[]);
    space.write("a.txt", "hello!\n");
    space.builds(&[]);
    let answer = rebuilt(&space, "two");
    let found = cause(&answer, "file", "a.txt");
    assert_eq!(found["change"], "content");
    let old = mosbuild_cache::Digest::of(b"hello\n").short();
    let new = mosbuild_cache::Digest::of(b"hello!\n").short();
    assert_eq!(values(found), (&json!(format!("{old} (6 bytes)")), &json!(format!("{new} (7 bytes)"))));
    assert_eq!(answer["causes"].as_array().unwrap().len(), 1, "nothing else changed: {answer:#}");
    let text = space.run(&["why", "two"]).stdout;
    assert!(text.contains(&format!("file a.txt changed: {old} (6 bytes) → {new} (7 bytes)")), "{text}");
    assert!(text.contains("one:run (ran, output changed) → two:run (ran, output changed)"), "{text}");
}

#[test]
fn file_mode() {
    let space = chain();
    space.builds(&[]);
    space.chmod("a.txt", 0o755);
    space.builds(&[]).counts(1, 1, 0);
    let answer = rebuilt(&space, "one");
    let found = cause(&answer, "file", "a.txt");
    assert_eq!(found["change"], "mode");
    assert_eq!(values(found), (&json!("0644"), &json!("0755")));
    // Bits that mean nothing to a build change nothing.
    space.chmod("a.txt", 0o700);
    space.builds(&[]).counts(0, 2, 0);
}

#[test]
fn files_added_and_removed() {
    let space = Space::new(
        "targets:\n  all: { rule: command, inputs: [d/], run: 'ls -R d > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("d/a", "a");
    space.builds(&["all"]);
    space.write("d/sub/b", "b");
    space.builds(&["all"]).counts(1, 0, 0);
    let answer = rebuilt(&space, "all");
    let found = cause(&answer, "file", "d/sub/b");
    assert_eq!((&found["change"], &found["old"]), (&json!("added"), &Value::Null));
    space.remove("d/a");
    space.builds(&["all"]).counts(1, 0, 0);
    let answer = rebuilt(&space, "all");
    let found = cause(&answer, "file", "d/a");
    assert_eq!((&found["change"], &found["new"]), (&json!("removed"), &Value::Null));
}

#[test]
fn environment_unset_to_empty_to_a_value() {
    let mut space = chain();
    space.builds(&[]);
    assert_eq!(space.read("dist/two"), "hello\nunset.\n");
    space.env("TEST_FLAG", "");
    space.builds(&[]).counts(2, 0, 0);
    assert_eq!(space.read("dist/two"), "hello\n.\n");
    let answer = rebuilt(&space, "two");
    let found = cause(&answer, "env", "FLAG");
    assert_eq!(values(found), (&json!("unset"), &json!("")));
    let text = space.run(&["why", "two"]).stdout;
    assert!(text.contains("environment FLAG changed: unset → \"\""), "{text}");
    space.env("TEST_FLAG", "on");
    space.builds(&[]).counts(2, 0, 0);
    assert_eq!(values(cause(&rebuilt(&space, "two"), "env", "FLAG")), (&json!(""), &json!("on")));
    // Variables that nothing declares matter to nobody.
    space.env("OTHER", "x");
    space.builds(&[]).counts(0, 2, 0);
}

#[test]
fn a_secret_is_never_written_down() {
    let mut space = Space::new(
        "targets:\n  t:\n    rule: command\n    env: { KEY: { host: TEST_KEY, secret: true } }\n    \
         run: 'echo \"key=$KEY.\"; printf %s \"$KEY\" | wc -c > \"$OUT/o\"'\n    outputs: [o]\n",
    );
    space.env("TEST_KEY", "correct-horse-battery");
    let output = space.builds(&["t"]);
    assert_eq!(output.named("step_output", "line"), ["key=***."]);
    assert_eq!(space.log("t"), "key=***.\n");
    assert_eq!(space.read("dist/t").trim(), "21");
    space.env("TEST_KEY", "staple-staple-staple!!");
    space.builds(&["t"]).counts(1, 0, 0);
    let answer = rebuilt(&space, "t");
    let (old, new) = values(cause(&answer, "env", "KEY"));
    assert_ne!(old, new);
    assert!(old.as_str().unwrap().starts_with("(secret "), "{answer:#}");
    let grep = std::process::Command::new("grep")
        .args(["-r", "-l", "-a", "-e", "correct-horse", "-e", "staple-staple"])
        .arg(space.base())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "files that hold the secret");
}

#[test]
fn fields_with_their_lines() {
    let space = chain();
    space.builds(&[]);
    space.edit_yaml("cat \"$x\" >", "tac \"$x\" >");
    space.builds(&[]).counts(1, 1, 0);
    let answer = rebuilt(&space, "two");
    let found = cause(&answer, "spec", "script, line 1");
    assert_eq!(values(found), (&json!("cat \"$x\" > \"$OUT/p\""), &json!("tac \"$x\" > \"$OUT/p\"")));
    assert_eq!(found["line"], 11, "{answer:#}");
    space.edit_yaml("outputs: [p]", "outputs: [p], timeout: 77");
    space.builds(&[]).counts(1, 1, 0);
    let answer = rebuilt(&space, "two");
    let found = cause(&answer, "spec", "timeout");
    assert!(found["new"].as_str().unwrap().contains("77"), "{answer:#}");
}

#[test]
fn a_field_of_a_builtin_rule() {
    let space = Space::new(
        "targets:\n  tree: { rule: files, install: [{ from: a.txt, to: /a }] }\n  \
         image: { rule: cpio, root: tree, compress: none }\n",
    );
    space.write("a.txt", "hello\n");
    space.builds(&["image"]);
    space.edit_yaml("none", "gzip");
    space.builds(&["image"]).counts(1, 1, 0);
    let answer = rebuilt(&space, "image");
    let found = &answer["causes"][0];
    assert_eq!(found["gate"], "spec", "{answer:#}");
    assert!(found["old"].as_str().unwrap().contains("none"), "{answer:#}");
    assert!(found["new"].as_str().unwrap().contains("gzip"), "{answer:#}");
    assert_eq!(found["line"], 5, "{answer:#}");
}

#[test]
fn a_variable_is_seen_where_it_was_put() {
    let space = Space::new(
        "vars: { v: one }\ntargets:\n  t: { rule: command, env: { V: '${v}' }, run: 'echo \"$V\" > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.builds(&["t"]);
    space.builds(&["--set", "v=two", "t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "two\n");
    let answer = rebuilt(&space, "t");
    assert_eq!(values(cause(&answer, "env", "V")), (&json!("one"), &json!("two")));
}

#[test]
fn the_version_of_a_rule() {
    let mut space = chain();
    space.builds(&[]);
    space.env("MOSBUILD_TEST_RULE_VERSION", "command=99");
    // Another version comes with another program, which does not trust the stamp of the old one.
    space.forget_stamp();
    space.builds(&[]).counts(2, 0, 0);
    let answer = rebuilt(&space, "one");
    let found = cause(&answer, "engine", "version of the rule");
    assert_eq!(values(found), (&json!("1"), &json!("99")));
}

#[test]
fn an_evicted_blob() {
    let space = chain();
    space.edit_yaml("cat \"$x\" >", "cat \"$x\" \"$x\" >");
    space.builds(&[]);
    let digest = mosbuild_cache::Digest::of(&space.bytes("dist/two"));
    space.remove("dist");
    for (path, hex) in blobs(space.store()) {
        if hex == digest.hex() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let output = space.builds(&[]);
    assert_eq!(output.started(), ["two"], "{output}");
    output.says(&format!("two: blob {} of output p is missing; it is built again", digest.short()));
    assert_eq!(space.read("dist/two"), "hello\nunset.\nhello\nunset.\n");
    let (code, answer) = space.why("two");
    assert_eq!(code, 10);
    let found = cause(&answer, "blob_lost", "a blob of its output p");
    assert_eq!(values(found), (&json!(digest.short()), &json!("evicted")));
    space.assert_clean();
}

#[test]
fn the_output_of_another_target() {
    // `one` reads a clock, so to speak: forced to run, it makes something else without any cause in its key.
    let space = Space::new(
        "targets:\n  one: { rule: command, run: 'cat /proc/sys/kernel/random/uuid > \"$OUT/o\"', outputs: [o] }\n  \
         two: { rule: command, deps: { x: one }, run: 'cat \"$x\" > \"$OUT/p\"', outputs: [p] }\n",
    );
    space.builds(&["two"]);
    let old = mosbuild_cache::Digest::of(&space.bytes("dist/two")).short();
    space.builds(&["two", "--force", "one"]).counts(2, 0, 0);
    let new = mosbuild_cache::Digest::of(&space.bytes("dist/two")).short();
    let answer = rebuilt(&space, "two");
    let root = &answer["causes"][0];
    assert_eq!((&root["gate"], &root["target"]), (&json!("forced"), &json!("one")), "{answer:#}");
    let hops: Vec<&str> =
        root["chain"].as_array().unwrap().iter().map(|h| h["target"].as_str().unwrap()).collect();
    assert_eq!(hops, ["one", "two"]);
    // Against a run in which `one` is not what changed since: the input itself is named with both digests.
    space.builds(&["two"]).counts(0, 2, 0);
    let all = std::fs::read_dir(space.path(".mosbuild/runs")).unwrap().flatten();
    let mut ids: Vec<String> = all.map(|e| e.file_name().into_string().unwrap()).collect();
    ids.sort();
    let (code, answer) = space.why_with("two", &["--against", &ids[0]]);
    assert_eq!((code, &answer["decision"]), (0, &json!("hit")));
    let root = cause(&answer, "upstream", "x from one:run");
    let (a, b) = values(root);
    assert!(a.as_str().unwrap().starts_with(&old) && b.as_str().unwrap().starts_with(&new), "{answer:#}");
}

#[test]
fn a_tool_that_was_added() {
    need("make", "make");
    let space = chain();
    space.builds(&[]);
    space.edit_yaml("outputs: [p]", "outputs: [p], tools: [make]");
    space.builds(&[]).counts(1, 1, 0);
    let answer = rebuilt(&space, "two");
    let found = cause(&answer, "tool", "make");
    assert_eq!((&found["change"], &found["old"]), (&json!("added"), &Value::Null));
    assert!(
        found["new"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()),
        "a version: {answer:#}"
    );
}

#[test]
fn a_failure_is_told_and_tried_again() {
    let space = chain();
    space.edit_yaml("cat \"$x\" >", "grep good \"$x\" >");
    assert_eq!(space.build(&[]).counts(1, 0, 1).code, Some(1));
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (1, &json!("failed")));
    assert!(answer["message"].as_str().unwrap().contains("code 1"), "{answer:#}");
    let (code, answer) = space.why_with("two", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("would_run")));
    // A failure is no result: with nothing changed it is tried again, and why says so.
    let again = space.build(&[]);
    assert_eq!(again.started(), ["two"], "{again}");
    assert_eq!(again.code, Some(1));
    space.edit_yaml("grep good", "grep hello");
    space.builds(&[]).counts(1, 1, 0);
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (10, &json!("rebuilt")), "{answer:#}");
    assert!(!answer["causes"].as_array().unwrap().is_empty(), "{answer:#}");
}

#[test]
fn failed_before_is_a_cause_of_its_own() {
    // Fails by what it is not told, so that its key stays.
    let mut space = Space::new(
        "targets:\n  t: { rule: command, executor: host, run: 'test -e \"$(cat where)\" && echo ok > \"$OUT/o\"', inputs: [where], outputs: [o] }\n",
    );
    let flag = space.base().join("flag");
    space.write("where", flag.to_str().unwrap());
    assert_eq!(space.build(&["t"]).code, Some(1));
    std::fs::write(&flag, "").unwrap();
    space.builds(&["t"]).counts(1, 0, 0);
    let (code, answer) = space.why("t");
    assert_eq!(code, 10);
    cause(&answer, "failed_before", "its last attempt failed");
    space.unset("NOTHING");
}

#[test]
fn prediction_is_what_happens_then() {
    let space = chain();
    space.builds(&[]);
    let (code, answer) = space.why_with("two", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (0, &json!("hit")));
    space.write("a.txt", "other\n");
    let (code, answer) = space.why_with("one", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("would_run")));
    cause(&answer, "file", "a.txt");
    let (code, answer) = space.why_with("two", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("depends")));
    cause(&answer, "file", "a.txt");
    // Nothing ran, nothing was recorded.
    assert_eq!(space.why("two").0, 10, "the last run built it");
    assert_eq!(space.builds(&[]).started(), ["one", "two"]);
}

#[test]
fn who_reads_a_file() {
    let space = chain();
    space.builds(&[]);
    let answer = space.json(&["why", "--file", "a.txt", "--json"]);
    assert_eq!(answer["schema"], "mosbuild.why-file/1");
    assert_eq!(answer["read_by"], json!(["one"]));
    assert_eq!(answer["affected"], json!(["one", "two"]));
    let text = space.run(&["why", "--file", "b.txt"]);
    assert_eq!((text.code, text.stdout.trim()), (Some(0), "no target reads b.txt"), "{text}");
}

#[test]
fn a_lost_index_loses_no_cause() {
    let space = Space::new(
        "targets:\n  a: { rule: command, inputs: [in], run: 'cat in > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("in", "one\n");
    space.builds(&["a"]);
    space.remove(".mosbuild/state");
    space.write("in", "two\n");
    space.builds(&["a"]);
    let (code, answer) = space.why("a");
    assert_eq!(code, 10, "{answer:#}");
    assert!(answer.to_string().contains("in") && !answer.to_string().contains("never built"), "{answer:#}");
    let text = space.run(&["why", "a"]);
    assert!(text.stdout.contains("file in changed"), "{text}");
}
