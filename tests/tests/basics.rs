//! What every build does: builds once, then nothing; cuts off early; follows what changed; keeps results apart.

use mosbuild_tests::{Space, cause};

const CHAIN: &str = r#"default: [two]
targets:
  one: { rule: command, inputs: [a.txt], run: 'sed "/^#/d" a.txt > "$OUT/o"', outputs: [o] }
  two: { rule: command, deps: { x: one }, run: 'cat "$x" "$x" > "$OUT/p"', outputs: [p] }
dist: { twice.txt: two }
"#;

fn chain() -> Space {
    let space = Space::new(CHAIN);
    space.write("a.txt", "hello\n# a comment\n");
    space
}

#[test]
fn the_second_build_builds_nothing() {
    let space = chain();
    let first = space.builds(&[]);
    first.counts(2, 0, 0);
    assert_eq!(first.ended("ran"), ["one", "two"]);
    assert_eq!(space.read("dist/twice.txt"), "hello\nhello\n");
    let second = space.builds(&[]);
    second.counts(0, 2, 0);
    assert!(second.started().is_empty(), "{second}");
    // The same without the short way.
    space.forget_stamp();
    let third = space.builds(&[]);
    third.counts(0, 2, 0);
    assert_eq!(third.named("step_hit", "target"), ["one", "two"], "{third}");
    assert_eq!(space.why("two").0, 0);
    space.assert_clean();
}

#[test]
fn a_removed_comment_is_cut_off() {
    let space = chain();
    space.builds(&[]);
    space.write("a.txt", "hello\n# another comment\n");
    let output = space.builds(&[]);
    output.counts(1, 1, 0);
    assert_eq!(output.started(), ["one"]);
    let ended = output.events.iter().find(|e| e["event"] == "step_finished").unwrap();
    assert_eq!(ended["same_output"], true, "{ended}");
    output.says("(output unchanged)");
    let (code, answer) = space.why("two");
    assert_eq!((code, &answer["decision"]), (0, &"hit".into()));
    assert_eq!(answer["causes"], serde_json::json!([]), "{answer:#}");
    let cut = &answer["cut_off"][0];
    assert_eq!(
        (&cut["target"], &cut["causes"][0]["subject"]),
        (&"one".into(), &"a.txt".into()),
        "{answer:#}"
    );
    let text = space.run(&["why", "two"]).stdout;
    assert!(text.contains("one:run ran") && text.contains("output identical (cut off)"), "{text}");
    assert!(text.contains("file a.txt changed: "), "{text}");
}

#[test]
fn a_change_runs_what_it_reaches_and_why_gives_the_chain() {
    let space = chain();
    space.builds(&[]);
    space.write("a.txt", "changed\n");
    let output = space.builds(&[]);
    output.counts(2, 0, 0);
    assert_eq!(space.read("dist/twice.txt"), "changed\nchanged\n");
    let (code, answer) = space.why("two");
    assert_eq!(code, 10);
    let root = cause(&answer, "file", "a.txt");
    let chain: Vec<_> =
        root["chain"].as_array().unwrap().iter().map(|h| h["target"].as_str().unwrap()).collect();
    assert_eq!(chain, ["one", "two"], "nearest to the cause first: {answer:#}");
    // Back to the former content: everything is a hit, and dist follows.
    space.write("a.txt", "hello\n# yet another way\n");
    let output = space.builds(&[]);
    assert_eq!(output.started(), ["one"], "{output}");
    assert_eq!(space.read("dist/twice.txt"), "hello\nhello\n");
}

#[test]
fn an_edit_within_the_same_second_and_of_the_same_size_is_seen() {
    let space = chain();
    for word in ["aaaaa", "bbbbb", "ccccc", "ddddd"] {
        space.write("a.txt", format!("{word}\n"));
        space.builds(&[]);
        assert_eq!(space.read("dist/twice.txt"), format!("{word}\n{word}\n"));
    }
}

#[test]
fn a_former_mtime_hides_no_edit() {
    let space = chain();
    space.write("a.txt", "aaaaa\n");
    let old = space.path("a.txt").metadata().unwrap().modified().unwrap();
    space.builds(&[]);
    space.write("a.txt", "bbbbb\n");
    std::fs::File::options().write(true).open(space.path("a.txt")).unwrap().set_modified(old).unwrap();
    space.builds(&[]);
    assert_eq!(space.read("dist/twice.txt"), "bbbbb\nbbbbb\n");
}

#[test]
fn the_state_can_be_deleted_or_damaged() {
    let space = chain();
    space.builds(&[]);
    space.remove(".mosbuild");
    space.builds(&[]).counts(0, 2, 0);
    for name in ["state/db", "state/conf", "fresh", "dist"] {
        space.write(&format!(".mosbuild/{name}"), vec![0x5a; 4096]);
        space.write("a.txt", format!("{name}\n"));
        let output = space.builds(&[]);
        output.counts(2, 0, 0);
        assert_eq!(space.read("dist/twice.txt"), format!("{name}\n{name}\n"), "after damage to {name}");
        space.builds(&[]).counts(0, 2, 0);
    }
    for entry in std::fs::read_dir(space.path(".mosbuild/graphs")).unwrap().flatten() {
        std::fs::write(entry.path(), b"no graph").unwrap();
    }
    space.write("a.txt", "graphs\n");
    space.builds(&[]).counts(2, 0, 0);
    assert_eq!(space.read("dist/twice.txt"), "graphs\ngraphs\n");
}

#[test]
fn another_folder_takes_the_results_of_the_first() {
    let space = chain();
    space.builds(&[]);
    let other = space.beside("another/deep/place", CHAIN);
    other.write("a.txt", "hello\n# a comment\n");
    let output = other.builds(&[]);
    output.counts(0, 2, 0);
    assert_eq!(other.bytes("dist/twice.txt"), space.bytes("dist/twice.txt"));
}

#[test]
fn force_runs_one_target_again() {
    let space = chain();
    space.builds(&[]);
    let output = space.builds(&["--force", "one"]);
    output.counts(1, 1, 0);
    assert_eq!(output.started(), ["one"]);
    let (code, answer) = space.why("one");
    assert_eq!(code, 10);
    cause(&answer, "forced", "--force");
    assert_eq!(space.build(&["--force", "oen"]).says("one").code, Some(2));
}

#[test]
fn a_dry_run_tells_and_runs_nothing() {
    let space = chain();
    let text = space.run(&["build", "-n"]);
    assert_eq!(text.code, Some(0), "{text}");
    assert!(text.stdout.contains("one") && text.stdout.contains("two"), "{text}");
    assert!(!space.has("dist"), "a dry run placed something");
    space.builds(&[]);
    space.write("a.txt", "changed\n");
    let text = space.run(&["build", "-n"]);
    let line = |name: &str| text.stdout.lines().find(|l| l.contains(name)).unwrap_or_default().to_owned();
    assert!(line("one").contains("will run (inputs changed)"), "{text}");
    assert!(line("two").contains("depends on one"), "{text}");
    assert_eq!(space.read("dist/twice.txt"), "hello\nhello\n");
    space.builds(&[]).counts(2, 0, 0);
    let text = space.run(&["build", "-n"]);
    assert!(text.stdout.lines().all(|l| l.contains("hit")), "{text}");
}
