//! Where commands look and what they leave behind: other folders, busy or lost state, other consumers of their words.

use mosbuild_tests::{Space, cause};
use serde_json::{Value, json};

const TWO: &str = r#"default: [b]
targets:
  a: { rule: command, inputs: [in.txt], run: 'cat in.txt > "$OUT/o"', outputs: [o] }
  b: { rule: command, deps: { x: a }, run: 'cat "$x" > "$OUT/o"', outputs: [o] }
  slow: { rule: command, run: 'sleep 20; echo > "$OUT/o"', outputs: [o] }
"#;

fn two() -> Space {
    let space = Space::new(TWO);
    space.write("in.txt", "in\n");
    space
}

fn states(space: &Space) -> Vec<(String, String)> {
    let list = space.json(&["list", "--json"]);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    list["targets"].as_array().unwrap().iter().map(|t| (text(&t["name"]), text(&t["state"]))).collect()
}

fn fresh(space: &Space) -> Vec<String> {
    states(space).into_iter().filter(|(_, state)| state == "fresh").map(|(name, _)| name).collect()
}

#[test]
fn a_folder_without_a_file_is_left_as_it_is() {
    let space = two();
    let empty = space.base().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let at = empty.to_str().unwrap();
    for args in
        [&["-C", at, "build"][..], &["-C", at, "test"], &["-C", at, "shell", "a"], &["-C", at, "list"]]
    {
        let output = space.run(args);
        assert_eq!(output.code, Some(2), "{output}");
        output.says("mosbuild.yaml");
        assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "{output}");
    }
}

#[test]
fn the_workspace_is_found_from_a_folder_in_it() {
    let space = two();
    space.write("deep/er/file", "");
    let mut command = space.command(&["build"]);
    command.current_dir(space.path("deep/er"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(space.has("dist/b") && !space.has("deep/er/dist") && !space.has("deep/er/.mosbuild"));
    // With -C the folder itself is meant.
    assert_eq!(space.run(&["-C", "deep", "list"]).code, Some(2));
}

#[test]
fn with_another_directory_other_paths_are_meant_from_there() {
    let space = two();
    let mut command = space.command(&["-C", "work", "build", "--out", "out", "--events", "events.json"]);
    command.current_dir(space.base());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(space.has("out/b") && space.has("events.json") && !space.has("dist"));
    assert!(!space.base().join("out").exists());
}

#[test]
fn who_reads_during_a_build_sees_what_is_built() {
    let space = two();
    space.builds(&[]);
    let mut running = space.start(&["slow"]);
    running.wait_for_start("slow");
    assert_eq!(fresh(&space), ["a", "b"]);
    assert_eq!(space.why("b").0, 10);
    let show = space.json(&["show", "b", "--json"]);
    assert_eq!((&show["state"], &show["outputs"][0]["size"]), (&json!("fresh"), &json!(3)), "{show:#}");
    space.write("in.txt", "other\n");
    let (code, answer) = space.why_with("a", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("would_run")));
    let old = mosbuild_cache::Digest::of(b"in\n").short();
    assert_eq!(cause(&answer, "file", "in.txt")["old"], json!(format!("{old} (3 bytes)")));
    assert!(running.runs(), "it read without waiting");
    running.signal("INT");
    assert_eq!(running.finish().code, Some(130));
}

#[test]
fn an_interrupt_ends_the_wait_for_another_build() {
    let space = two();
    let mut running = space.start(&["slow"]);
    running.wait_for_start("slow");
    let mut waiting = space.command(&["build", "a"]).spawn().unwrap();
    let mut stderr = std::io::BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.starts_with("waiting for process "), "{line}");
    mosbuild_tests::signal(waiting.id(), "INT");
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
    line.clear();
    std::io::Read::read_to_string(&mut stderr, &mut line).unwrap();
    assert_eq!(line, "interrupted\n");
    assert!(running.runs(), "the other one goes on");
    running.signal("TERM");
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    output.counts(0, 0, 0);
}

#[test]
fn an_open_shell_keeps_nobody_from_building() {
    let space = two();
    space.builds(&["a"]);
    let mut shell = space.command(&["shell", "b", "--", "sh", "-c", "echo open; sleep 20"]).spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut said)
        .unwrap();
    assert_eq!(said, "open\n");
    let output = space.builds(&["b"]);
    assert!(!output.stderr.contains("waiting"), "{output}");
    assert!(shell.try_wait().unwrap().is_none(), "it was open all the time");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn a_lost_index_is_made_again_from_the_runs() {
    let space = two();
    space.builds(&[]);
    space.remove(".mosbuild/state");
    assert_eq!(fresh(&space), ["a", "b"]);
    space.write("in.txt", "other\n");
    let (code, answer) = space.why_with("b", &["--predict"]);
    assert_eq!((code, &answer["decision"]), (10, &json!("depends")));
    assert_eq!(cause(&answer, "file", "in.txt")["change"], "content");
    let list = space.json(&["list", "--json"]);
    assert!(list["targets"][0]["cost_ms"].is_number(), "{list:#}");
}

#[test]
fn forcing_what_is_not_built_is_said_to_be_in_vain() {
    let space = two();
    space.builds(&[]);
    let output = space.builds(&["--force", "slow"]);
    output.counts(0, 2, 0);
    output.says("warning: --force slow has no effect");
    let output = space.builds(&["--force", "a"]);
    assert!(!output.stderr.contains("no effect"), "{output}");
}

#[test]
fn the_summary_is_last_although_the_events_cannot_be_written() {
    let space = two();
    let output = space.run(&["build", "--events", "/dev/full"]);
    output.says("warning: --events: ");
    let last = output.stderr.lines().last().unwrap();
    assert!(last.starts_with("2 built, 0 cached, 0 failed in "), "{output}");
}

#[test]
fn forecasts_and_graphs_as_json() {
    let space = two();
    space.builds(&["a"]);
    let forecast = space.json(&["build", "-n", "--json", "b", "slow"]);
    assert_eq!(forecast["schema"], "mosbuild.forecast/1");
    let targets = forecast["targets"].as_array().unwrap();
    let of = |name: &str| targets.iter().find(|t| t["name"] == name).unwrap();
    assert_eq!(of("a")["forecast"], "hit");
    assert_eq!((&of("b")["forecast"], &of("b")["why"]), (&json!("run"), &json!("never built here")));
    space.write("in.txt", "other\n");
    let forecast = space.json(&["build", "-n", "--json"]);
    assert_eq!(forecast["targets"][1]["depends_on"], "a", "{forecast:#}");
    assert_eq!(space.run(&["build", "--json"]).code, Some(2));
    assert_eq!(space.json(&["graph", "--json"]), space.json(&["graph", "--format", "json"]));
}

#[test]
fn annotations_name_the_file_from_the_top_of_the_checkout() {
    let mut space = two();
    space.env("GITHUB_ACTIONS", "true");
    space.env("GITHUB_WORKSPACE", space.base());
    space.edit_yaml("rule: command, deps", "rule: comand, deps");
    let output = space.run(&["list"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("::error file=work/mosbuild.yaml,line=6,col=");
}

#[test]
fn show_names_inputs_by_their_paths() {
    let space = Space::new(
        "targets:\n  s: { rule: files, install: [{ from: root/init, to: /init }, { from: root/etc, to: /etc }] }\n",
    );
    space.write("root/init", "x");
    space.write("root/etc/conf/a", "a");
    space.builds(&["s"]);
    let text = space.run(&["show", "s"]).stdout;
    assert!(text.contains("\n  root/init ") && text.contains("\n  root/etc/conf/a "), "{text}");
}

#[test]
fn a_build_that_breaks_off_is_summed_up() {
    // A large folder's tree is kept in the store before its step is keyed; here it cannot be.
    let space = Space::new(
        "targets:\n  t: { rule: command, inputs: [d/], run: 'ls d > \"$OUT/o\"', outputs: [o] }\n",
    );
    for n in 0..300 {
        space.write(&format!("d/{n}"), "");
    }
    let cas = space.store().join("cas");
    std::fs::create_dir_all(&cas).unwrap();
    for shelf in 0..256 {
        std::fs::write(cas.join(format!("{shelf:02x}")), "in the way").unwrap();
    }
    let output = space.build(&["t"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.counts(0, 0, 1);
    output.says("error: ");
    assert_eq!(output.stderr.matches("error: ").count(), 1, "said once: {output}");
}
