//! `why` calls things by the names that people know them by: workspace paths, the file that was read, groups.

use mosbuild_tests::{Space, cause};
use serde_json::{Value, json};

fn taken() -> Space {
    let space = Space::new(
        "targets:\n  system:\n    rule: files\n    install:\n      - { from: root/init, to: /init }\n      \
         - { from: root/etc/app, to: /etc/app }\n  image: { rule: cpio, root: system, compress: none }\n",
    );
    space.write("root/init", "#!/bin/sh\n");
    space.write("root/etc/app/conf/a", "one\n");
    space.builds(&["image"]);
    space
}

fn rebuilt(space: &Space, target: &str) -> Value {
    space.builds(&[target]);
    let (code, answer) = space.why(target);
    assert_eq!(code, 10, "{answer:#}");
    answer
}

#[test]
fn a_file_in_a_folder_that_is_taken_has_its_workspace_path() {
    let space = taken();
    space.write("root/etc/app/conf/a", "two\n");
    cause(&rebuilt(&space, "image"), "file", "root/etc/app/conf/a");
    let text = space.run(&["why", "image"]).stdout;
    assert!(text.contains("  system:install: file root/etc/app/conf/a changed: "), "{text}");
    space.write("root/etc/app/conf/b", "b");
    let answer = rebuilt(&space, "image");
    assert_eq!(cause(&answer, "file", "root/etc/app/conf/b")["change"], "added");
    // A later edit of mosbuild.yaml does not make the answer worse, as long as the file is still that one.
    space.edit_yaml("compress: none", "compress: gzip");
    cause(&space.why("image").1, "file", "root/etc/app/conf/b");
}

#[test]
fn so_has_a_file_that_is_taken_alone() {
    let space = taken();
    space.write("root/init", "#!/bin/sh\n:\n");
    cause(&rebuilt(&space, "system"), "file", "root/init");
    space.chmod("root/init", 0o755);
    let answer = rebuilt(&space, "system");
    let found = cause(&answer, "file", "root/init");
    assert_eq!(
        (&found["change"], &found["old"], &found["new"]),
        (&json!("mode"), &json!("0644"), &json!("0755"))
    );
    space.write("root/init", "#!/bin/sh\n");
    let (code, answer) = space.why_with("image", &["--predict"]);
    assert_eq!(code, 10);
    cause(&answer, "file", "root/init");
}

#[test]
fn a_field_is_placed_in_the_file_that_was_read() {
    let space = Space::new("targets: {}\n");
    let yaml = |text: &str| {
        format!("mosbuild: 1\ntargets:\n  t: {{ rule: command, run: '{text}', outputs: [o] }}\n")
    };
    space.write("other.yaml", yaml("echo 1 > $OUT/o"));
    assert_eq!(space.run(&["-f", "other.yaml", "build", "t"]).code, Some(0));
    space.write("other.yaml", yaml("echo 2 > $OUT/o"));
    assert_eq!(space.run(&["-f", "other.yaml", "build", "t"]).code, Some(0));
    let output = space.run(&["-f", "other.yaml", "why", "t"]);
    assert!(output.stdout.contains(" (other.yaml:3)\n"), "{output}");
}

#[test]
fn a_group_is_as_its_members() {
    let space = Space::new(
        "targets:\n  a: { rule: command, inputs: [a.txt], run: 'grep good a.txt > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, run: 'echo > \"$OUT/o\"', outputs: [o] }\n  \
         inner: { rule: group, deps: [a] }\n  all: { rule: group, deps: [inner, b] }\n",
    );
    space.write("a.txt", "good\n");
    let (code, answer) = space.why("all");
    assert_eq!((code, &answer["decision"]), (10, &json!("never_built")), "{answer:#}");
    space.builds(&["all"]);
    assert_eq!(space.why("all").1["decision"], "rebuilt");
    space.builds(&["all"]);
    let (code, answer) = space.why("all");
    assert_eq!((code, &answer["decision"]), (0, &json!("hit")), "{answer:#}");
    space.write("a.txt", "good and well\n");
    let (code, answer) = space.why_with("all", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("would_run")), "{answer:#}");
    cause(&answer, "file", "a.txt");
    space.write("a.txt", "bad\n");
    assert_eq!(space.build(&["all", "-k"]).code, Some(1));
    let (code, answer) = space.why("all");
    assert_eq!((code, &answer["decision"]), (1, &json!("failed")), "{answer:#}");
    assert!(answer["message"].as_str().unwrap().starts_with("a: "), "{answer:#}");
}

#[test]
fn against_a_run_cut_off_means_the_same_output_as_in_that_run() {
    let space = Space::new(
        "targets:\n  a: { rule: command, inputs: [a.txt], run: 'head -n 1 a.txt > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, deps: { x: a }, run: 'cat \"$x\" > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("a.txt", "one\n");
    space.builds(&["b"]);
    let first = space.json(&["runs", "--json"])["runs"][0]["id"].as_str().unwrap().to_owned();
    space.write("a.txt", "two\n");
    space.builds(&["b"]).counts(2, 0, 0);
    space.write("a.txt", "two\nmore\n");
    space.builds(&["b"]).counts(1, 1, 0);
    // Since the run before, nothing came of it; since the first one, something did.
    let answer = space.why("b").1;
    assert_eq!((&answer["causes"], &answer["cut_off"][0]["target"]), (&json!([]), &json!("a")), "{answer:#}");
    let answer = space.why_with("b", &["--against", &first]).1;
    assert_eq!(answer["cut_off"], json!([]), "{answer:#}");
    cause(&answer, "file", "a.txt");
    let text = space.run(&["why", "b", "--against", &first]).stdout;
    assert!(text.contains("\nalthough\n  a:run: file a.txt changed: "), "{text}");
}

#[test]
fn steps_of_an_interrupted_run_were_stopped() {
    let space = Space::new(
        "targets:\n  a: { rule: command, inputs: [a.txt], run: 'sleep 20; echo > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, deps: { x: a }, run: 'cat \"$x\" > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("a.txt", "");
    let mut running = space.start(&["b"]);
    running.wait_for_start("a");
    running.signal("INT");
    assert_eq!(running.finish().code, Some(130));
    let (code, answer) = space.why("b");
    assert_eq!((code, &answer["decision"]), (1, &json!("not_run")), "{answer:#}");
    assert_eq!(answer["message"], "the run was interrupted");
    let hows: Vec<&Value> =
        answer["causes"][0]["chain"].as_array().unwrap().iter().map(|h| &h["how"]).collect();
    assert_eq!(hows, ["stopped", "stopped"], "{answer:#}");
    let (_, answer) = space.why_with("b", &["--predict"]);
    let hows: Vec<&Value> =
        answer["causes"][0]["chain"].as_array().unwrap().iter().map(|h| &h["how"]).collect();
    assert_eq!(hows, ["would run", "waits"], "{answer:#}");
}

#[test]
fn a_chain_of_any_length_is_followed() {
    const LENGTH: usize = 3000;
    let mut yaml = String::from(
        "targets:\n  t0: { rule: command, executor: host, inputs: [x], run: 'cp x \"$OUT/o\"', outputs: [o] }\n",
    );
    for n in 1..LENGTH {
        let before = n - 1;
        yaml.push_str(&format!(
            "  t{n}: {{ rule: command, executor: host, deps: {{ A: t{before} }}, run: 'cp \"$A\" \"$OUT/o\"', outputs: [o] }}\n"
        ));
    }
    let space = Space::new(&yaml);
    let last = format!("t{}", LENGTH - 1);
    space.write("x", "1");
    space.builds(&[&last]);
    space.write("x", "2");
    space.builds(&[&last]);
    let answer = space.why(&last).1;
    assert_eq!(cause(&answer, "file", "x")["chain"].as_array().unwrap().len(), LENGTH);
    let text = space.run(&["why", &last]).stdout;
    assert!(text.contains(&format!(" → {} more → ", LENGTH - 10)), "{text}");
}

#[test]
fn a_step_that_the_other_run_did_not_have_is_said_to_be_new_in_this_one() {
    let space = taken();
    let first = space.json(&["runs", "--json"])["runs"][0]["id"].as_str().unwrap().to_owned();
    space.edit_yaml("targets:\n", "targets:\n  other: { rule: cpio, root: system, compress: gzip }\n");
    space.builds(&["other"]);
    space.builds(&["other"]);
    let (code, answer) = space.why_with("other", &["--against", &first]);
    assert_eq!((code, &answer["decision"]), (0, &json!("hit")), "{answer:#}");
    cause(&answer, "new", "not built in the run that it is compared with");
}

#[test]
fn what_was_not_reached_because_another_target_failed_says_so() {
    let space = Space::new(
        "targets:\n  bad: { rule: command, run: 'exit 1', outputs: [o] }\n  \
         bb: { rule: command, deps: { x: bad }, run: 'true', outputs: [o] }\n  \
         late: { rule: command, run: 'echo > \"$OUT/o\"', outputs: [o] }\n",
    );
    // The longer way goes first, so that `late` has not begun when `bad` fails.
    assert_eq!(space.build(&["-j1", "bb", "late"]).code, Some(1));
    let (code, answer) = space.why("late");
    assert_eq!((code, &answer["decision"]), (1, &json!("not_run")), "{answer:#}");
    assert_eq!(answer["message"], "the run ended when bad failed; with -k it would have gone on");
    assert_eq!(space.why("bb").1["message"], "skipped because bad failed");
}
