//! The command line as scripts see it: exit codes, streams, JSON, and that nothing is run when something is wrong.

use std::io::Read;
use std::process::Command;

use mosbuild_tests::{Space, need, repository};
use serde_json::{Value, json};

const TWO: &str = r#"default: [b]
targets:
  a: { rule: command, inputs: [in.txt], run: 'cat in.txt > "$OUT/o"', outputs: [o] }
  b: { rule: command, deps: { x: a }, run: 'cat "$x" > "$OUT/o"; echo said', outputs: [o] }
"#;

fn two() -> Space {
    let space = Space::new(TWO);
    space.write("in.txt", "in\n");
    space
}

#[test]
fn wrong_usage_is_2_with_a_hint() {
    let space = two();
    for args in [
        &["bild"][..],
        &["build", "--no-such-flag"],
        &[],
        &["build", "-j", "0"],
        &["--set", "novalue", "build"],
    ] {
        let output = space.run(args);
        assert_eq!(output.code, Some(2), "{output}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output}");
    }
    space.run(&["bild"]).says("build");
    let output = space.run(&["build", "bb"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("bb").says("b");
    assert!(!space.has("dist"));
    // Commands and rules of later work are absent.
    for command in ["publish", "verify", "sbom", "cache", "size", "init"] {
        assert_eq!(space.run(&[command]).code, Some(2), "{command}");
    }
    let output = space.beside("uki", "targets:\n  u: { rule: uki }\n").run(&["list"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("uki");
}

#[test]
fn no_workspace_is_2() {
    let space = two();
    let empty = space.base().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let output = space.run(&["-C", empty.to_str().unwrap(), "build"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("mosbuild.yaml");
    let output = space.run(&["-f", "other.yaml", "build"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("other.yaml");
}

#[test]
fn diagnostics_come_all_at_once_with_the_place_and_nothing_is_run() {
    let space = two();
    space.yaml(
        "default: [c]\ntargets:\n  ok: { rule: command, run: 'echo > \"$OUT/o\"', outputs: [o] }\n  \
         a: { rule: comand, run: x, outputs: [o] }\n  b: { rule: command, deps: { x: okk }, run: '${nope} x', outputs: [o], inpts: [] }\n  \
         d: { rule: command, inputs: [missing.txt], run: x, outputs: [o], env: { V: '${nope}' } }\n",
    );
    let output = space.build(&["ok"]);
    assert_eq!(output.code, Some(2), "{output}");
    for text in
        ["comand", "command", "okk", "inpts", "inputs", "nope", "mosbuild.yaml:6:", "mosbuild.yaml:7:", "^"]
    {
        output.says(text);
    }
    assert!(
        !output.stderr.contains(" built, "),
        "nothing was built, so there is nothing to sum up: {output}"
    );
    assert!(!space.has("dist"), "{output}");
    assert!(!space.store().join("cas").is_dir() || mosbuild_tests::blobs(space.store()).is_empty());
}

#[test]
fn a_file_that_is_missing_is_told_before_anything_runs() {
    let space = two();
    space.remove("in.txt");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("in.txt").says("mosbuild.yaml:5:");
    assert!(output.started().is_empty());
}

#[test]
fn a_crate_that_is_not_locked_is_4_when_offline() {
    let space = Space::new(
        "targets:\n  c: { rule: component, source: { crate: zinit, version: 0.3.8 }, target: x86_64-unknown-linux-gnu, install: { zinit: /sbin/zinit } }\n",
    )
    .with_rust();
    let output = space.build(&["--offline", "c"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("zinit").says("offline");
    assert!(!space.has("mosbuild.lock"), "{output}");
    let output = space.build(&["--locked", "c"]);
    assert!(matches!(output.code, Some(2 | 4)), "{output}");
    output.says("lock");
    assert!(!space.has("mosbuild.lock"), "{output}");
}

#[test]
fn results_go_to_stdout_and_messages_to_stderr() {
    let space = two();
    let output = space.builds(&[]);
    assert_eq!(output.stdout, "");
    let output = space.run(&["list"]);
    assert!(output.stderr.is_empty() && output.stdout.contains("fresh"), "{output}");
    assert_eq!(space.log("b"), "said\n");
    let version = space.run(&["version"]);
    assert!(version.stdout.starts_with("mosbuild 0."), "{version}");
    assert_eq!(space.run(&["--version"]).code, Some(0));
    // Events on stdout are JSON lines.
    let output = space.run(&["build", "--events", "-"]);
    let kinds: Vec<Value> =
        output.stdout.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["event"].clone()).collect();
    assert_eq!(kinds.first(), Some(&json!("run_started")), "{output}");
    assert_eq!(kinds.last(), Some(&json!("run_finished")), "{output}");
}

#[test]
fn quiet_and_verbose() {
    let space = two();
    let output = space.builds(&["-q"]);
    assert_eq!(output.stderr.lines().count(), 1, "only the summary: {output}");
    space.write("in.txt", "again\n");
    let output = space.builds(&["-v"]);
    output.says("running  a:run  (inputs changed)").says("b:run| said");
    assert!(!output.stderr.contains('\x1b') && !output.stderr.contains('\r'), "plain lines: {output}");
    let output = space.builds(&["--color", "always", "--force", "b", "-v"]);
    assert!(output.stderr.contains("\x1b["), "{output}");
}

#[test]
fn github_gets_groups_and_annotations() {
    let mut space = two();
    space.env("GITHUB_ACTIONS", "true");
    space.env("CI", "true");
    space.edit_yaml("echo said", "echo bad news; exit 5");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1));
    output.says("::group::output of b:run\nsaid".replace("said", "bad news").as_str()).says("::endgroup::");
    output.says("::error file=mosbuild.yaml,line=6::b:run: it exited with code 5");
}

#[test]
fn every_output_line_is_told_when_verbose() {
    let space = Space::new(
        "targets:\n  t: { rule: command, run: 'for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; touch \"$OUT/o\"', outputs: [o] }\n",
    );
    let output = space.builds(&["-v", "t"]);
    for line in ["line 1", "line 2", "line 3", "line 4", "line 5", "err"] {
        output.says(&format!("t:run| {line}\n"));
    }
}

#[test]
fn json_of_list_show_graph_and_runs() {
    let space = two();
    let list = space.json(&["list", "--json"]);
    assert_eq!(list["schema"], "mosbuild.list/1");
    let states: Vec<_> = list["targets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].clone(), t["default"].clone()))
        .collect();
    assert_eq!(states, [(json!("a"), json!(false)), (json!("b"), json!(true))]);
    space.builds(&[]);
    let list = space.json(&["list", "--json"]);
    assert!(
        list["targets"].as_array().unwrap().iter().all(|t| t["state"] == "fresh" && t["size"] == 3),
        "{list:#}"
    );
    let show = space.json(&["show", "b", "--json"]);
    assert_eq!(
        (&show["schema"], &show["name"], &show["line"]),
        (&json!("mosbuild.show/1"), &json!("b"), &json!(6))
    );
    let digest = mosbuild_cache::Digest::of(b"in\n").hex();
    assert_eq!(show["outputs"][0]["digest"], json!(digest));
    let step = &show["steps"][0];
    assert_eq!(step["key"], space.why("b").1["key"]);
    assert_eq!(step["sandboxed"], true);
    let record = step["record"].as_array().unwrap();
    assert!(record.iter().any(|p| p["part"] == "script"), "{record:#?}");
    let graph = space.json(&["graph", "--format", "json"]);
    assert!(graph["schema"].as_str().unwrap().starts_with("mosbuild.graph/"), "{graph:#}");
    let text = graph.to_string();
    assert!(text.contains("\"a\"") && text.contains("\"b\""), "{graph:#}");
    let runs = space.json(&["runs", "--json"]);
    assert!(runs["schema"].as_str().unwrap().starts_with("mosbuild.runs/"), "{runs:#}");
}

#[test]
fn the_graph_in_dot_is_read_by_graphviz_and_shown_as_a_tree() {
    let space = two();
    let text = space.run(&["graph"]).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("b  command"), "{text}");
    assert!(lines[1].starts_with("└── a  command"), "{text}");
    let dot = space.run(&["graph", "--format", "dot"]).stdout;
    assert!(dot.starts_with("digraph mosbuild {") && dot.contains("\"a\" -> \"b\""), "{dot}");
}

#[test]
fn completions_for_each_shell() {
    let space = two();
    for shell in ["bash", "zsh", "fish"] {
        let output = space.run(&["completions", shell]);
        assert_eq!(output.code, Some(0), "{output}");
        assert!(output.stdout.contains("mosbuild") && output.stdout.contains("keep-going"), "{shell}");
    }
    let script = space.base().join("completions.bash");
    std::fs::write(&script, space.run(&["completions", "bash"]).stdout).unwrap();
    let sourced = Command::new("bash")
        .args(["--norc", "-c", "source \"$0\" && complete -p mosbuild"])
        .arg(&script)
        .output()
        .unwrap();
    assert!(sourced.status.success(), "{}", String::from_utf8_lossy(&sourced.stderr));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut yaml = String::from("targets:\n");
    for i in 0..2000 {
        yaml.push_str(&format!("  target{i}: {{ rule: command, run: 'true', outputs: [o] }}\n"));
    }
    let space = Space::new(&yaml);
    for args in [
        &["list"][..],
        &["graph"],
        &["graph", "--format", "json"],
        &["schema"],
        &["completions", "bash"],
        &["build", "-n", "target1"],
    ] {
        let mut child = space.command(args).spawn().unwrap();
        // The reader goes away at once.
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap();
        assert!(!said.contains("panic") && !said.contains("Broken pipe"), "{args:?}: {said}");
        assert_ne!(status.code(), Some(101), "{args:?}");
    }
}

#[test]
fn only_reading_writes_nothing() {
    let space = two();
    for args in [&["list"][..], &["graph"], &["show", "a"], &["why", "a"], &["runs"], &["build", "-n"]] {
        space.run(args);
    }
    assert!(!space.has("dist") && !space.has("mosbuild.lock"));
    assert!(
        !space.has(".mosbuild/runs")
            || std::fs::read_dir(space.path(".mosbuild/runs")).unwrap().next().is_none()
    );
}

#[test]
fn the_schema_accepts_the_examples_and_refuses_what_the_program_refuses() {
    need("python3", "python3");
    let space = two();
    let schema = space.base().join("schema.json");
    std::fs::write(&schema, space.run(&["schema"]).stdout).unwrap();
    let mut examples = vec![space.path("mosbuild.yaml")];
    for example in std::fs::read_dir(repository().join("examples")).unwrap().flatten() {
        examples.push(example.path().join("mosbuild.yaml"));
    }
    assert!(examples.len() > 1, "there are no examples");
    // BaseLoader keeps every scalar a text, as mosbuild reads variables; the numbers are those the schema knows.
    let check = r#"
import json, sys
try:
    import jsonschema, yaml
except ImportError as e:
    sys.exit("this test needs %s: apt-get install python3-jsonschema python3-yaml" % e.name)
schema = json.load(open(sys.argv[1]))
kind = jsonschema.validators.validator_for(schema)
kind.check_schema(schema)
validator = kind(schema)
failed = False
for path in sys.argv[2:]:
    errors = list(validator.iter_errors(yaml.safe_load(open(path))))
    for e in errors:
        print("%s: %s: %s" % (path, "/".join(map(str, e.absolute_path)), e.message))
        failed = True
sys.exit(3 if failed else 0)
"#;
    let run = |files: &[std::path::PathBuf]| {
        Command::new("python3").arg("-c").arg(check).arg(&schema).args(files).output().unwrap()
    };
    let text = |o: &std::process::Output| {
        String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr)
    };
    let output = run(&examples);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for (name, wrong) in [
        ("field", "targets:\n  a: { rule: command, run: x, outputs: [o], inpts: [b] }\n"),
        ("rule", "targets:\n  a: { rule: comand, run: x, outputs: [o] }\n"),
        ("type", "targets:\n  a: { rule: command, run: [x], outputs: [o] }\n"),
        ("top", "targts: {}\ntargets:\n  a: { rule: group, deps: [] }\n"),
    ] {
        let other = space.beside(name, wrong);
        assert_eq!(other.run(&["list"]).code, Some(2), "{wrong}");
        let output = run(&[other.path("mosbuild.yaml")]);
        assert_eq!(output.status.code(), Some(3), "the schema takes {wrong}: {}", text(&output));
    }
}
