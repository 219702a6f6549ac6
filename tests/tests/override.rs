//! `--override`: a component built from a working copy. Never locked, never uploaded, shown wherever it counts, and
//! gone without a trace in the next build without it.

use std::path::PathBuf;
use std::process::Command;

use mosbuild_tests::archive::text;
use mosbuild_tests::{Space, cause, need};

/// A component of a locked download, with an image of it; and a working copy beside the workspace.
fn space() -> Space {
    let space = Space::new("");
    let upstream = space.base().join("upstream");
    std::fs::create_dir_all(upstream.join("app-1.0.0")).unwrap();
    let manifest = "[package]\nname = \"app\"\nversion = \"1.0.0\"\n";
    std::fs::write(upstream.join("app-1.0.0/Cargo.toml"), manifest).unwrap();
    std::fs::write(upstream.join("app-1.0.0/main.txt"), "upstream\n").unwrap();
    std::fs::write(upstream.join("app-1.0.0/other.txt"), "other\n").unwrap();
    sh(&upstream, "tar -cf app.tar app-1.0.0");
    space.yaml(&format!(
        "targets:\n  app:\n    rule: component\n    source: {{ url: \"file://{}/app.tar\" }}\n    build: |\n      cp main.txt $OUT\n    \
         install: {{ main.txt: /main.txt }}\n  root: {{ rule: rootfs, layers: [app] }}\n  \
         image: {{ rule: cpio, root: root, compress: none }}\n  \
         plain: {{ rule: command, run: \"echo 1 > $OUT/x\", outputs: x }}\ndefault: [image]\n\
         dist: {{ app.tar: app, image: image, \"{{app.version}}_{{app.rev}}\": \"app:main.txt\" }}\n",
        upstream.display()
    ));
    let copy = copy(&space);
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("Cargo.toml"), manifest.replace("1.0.0", "1.1.0-dev")).unwrap();
    std::fs::write(copy.join("main.txt"), "my own\n").unwrap();
    space
}

fn copy(space: &Space) -> PathBuf {
    space.base().join("my_app")
}

fn sh(dir: &std::path::Path, script: &str) -> String {
    let git = "git() { command git -c user.name=x -c user.email=x@example.org \"$@\"; }\n";
    let run = Command::new("sh").args(["-euc", &format!("{git}{script}")]).current_dir(dir).output().unwrap();
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

const OVERRIDE: [&str; 2] = ["--override", "app=../my_app"];
const WARNING: &str =
    "warning: --override: app from ../my_app; not what mosbuild.yaml and mosbuild.lock name\n";

fn main_txt(space: &Space) -> String {
    text(&space.path("dist/app.tar"), "main.txt")
}

fn facts(space: &Space, args: &[&str]) -> (String, String) {
    let shown = space.json(&[&["show", "app", "--json"], args].concat());
    let fact = |name: &str| shown["facts"][name].as_str().unwrap().to_owned();
    (fact("version"), fact("rev"))
}

#[test]
fn a_working_copy_takes_the_sources_place_and_leaves_it_again() {
    let space = space();
    space.builds(&[]).counts(3, 0, 0);
    assert_eq!(main_txt(&space), "upstream\n");
    let lock = space.read("mosbuild.lock");
    let declared = facts(&space, &[]);
    assert_eq!(declared.0, "1.0.0");

    let output = space.builds(&OVERRIDE);
    output.counts(3, 0, 0).says(WARNING);
    assert_eq!(output.stderr.matches("--override").count(), 1, "{output}");
    assert_eq!(main_txt(&space), "my own\n");
    assert_eq!(space.read("mosbuild.lock"), lock);
    let (version, rev) = facts(&space, &OVERRIDE);
    assert_eq!(version, "1.1.0-dev+override");
    let (digest, mark) = rev.split_once('-').unwrap();
    assert!(
        digest.len() == 7 && digest.bytes().all(|b| b.is_ascii_hexdigit()) && mark == "override",
        "{rev}"
    );
    // The names of what is placed say so; those of before are gone.
    assert!(space.has(&format!("dist/1.1.0-dev+override_{rev}")));
    assert!(!space.has(&format!("dist/1.0.0_{}", declared.1)));

    // `why` needs no flag to tell of a run that had one.
    let (code, answer) = space.why("image");
    assert_eq!(code, 10);
    let because = cause(&answer, "spec", "source");
    assert_eq!((because["change"].as_str(), because["new"].as_str()), (Some("override"), Some("../my_app")));
    assert_eq!(because["target"], "app");
    assert_eq!(answer["causes"].as_array().unwrap().len(), 1, "{answer:#}");
    assert_eq!(answer["overrides"], serde_json::json!([{ "target": "app", "by": "../my_app" }]));
    let told = space.run(&["why", "app"]).stdout;
    assert!(told.contains("app:prepare: source overridden by ../my_app\n"), "{told}");

    // Nothing to do: told at once, with the warning all the same.
    space.builds(&OVERRIDE).counts(0, 3, 0).says(WARNING);
    assert_eq!(space.why("app").0, 0);
    assert!(space.run(&["why", "app"]).stdout.contains("source overridden by ../my_app\n"));

    // Right after it, without: at once what the file says, nothing is made again.
    let output = space.builds(&[]);
    output.counts(0, 3, 0);
    assert!(!output.stderr.contains("override"), "{output}");
    assert_eq!(main_txt(&space), "upstream\n");
    assert_eq!(facts(&space, &[]), declared);
    let told = space.run(&["why", "app"]).stdout;
    assert!(told.contains("source no longer overridden"), "{told}");
    // And with it again; the fresh stamp is of one or the other.
    space.builds(&OVERRIDE).counts(0, 3, 0);
    assert_eq!(main_txt(&space), "my own\n");
    space.builds(&[]).counts(0, 3, 0);
    assert_eq!(main_txt(&space), "upstream\n");
    // The pin stays, as `lock` sees it too.
    assert_eq!(space.run(&["lock"]).code, Some(0));
    assert_eq!(space.read("mosbuild.lock"), lock);
    space.builds(&["--locked", "--offline"]).counts(0, 3, 0);
    space.assert_clean();
}

#[test]
fn edits_in_a_working_copy_are_seen_and_named() {
    let space = space();
    space.builds(&OVERRIDE);
    std::fs::write(copy(&space).join("main.txt"), "edited\n").unwrap();
    space.builds(&OVERRIDE).counts(3, 0, 0);
    assert_eq!(main_txt(&space), "edited\n");
    let (_, answer) = space.why("app");
    let named = copy(&space).join("main.txt").display().to_string();
    cause(&answer, "file", &named);
    // What cannot matter: git's folder, caches, and a file that nothing is made of.
    sh(
        &copy(&space),
        "mkdir .git target; echo x > .git/HEAD; echo 'Signature: 8a477f597d28d172789f06886806bc55' > target/CACHEDIR.TAG",
    );
    space.builds(&OVERRIDE).counts(0, 3, 0);
    std::fs::write(copy(&space).join("new.txt"), "new\n").unwrap();
    let output = space.builds(&OVERRIDE);
    output.counts(1, 2, 0);
    assert_eq!(output.started(), ["app"]);
    // The same as the declared source where it counts: what is below is a hit of before.
    let same = self::space();
    same.builds(&[]);
    std::fs::write(copy(&same).join("main.txt"), "upstream\n").unwrap();
    same.builds(&OVERRIDE).counts(1, 2, 0);
}

#[test]
fn what_is_made_of_a_working_copy_is_marked_and_nothing_else() {
    let space = space();
    space.builds(&[]);
    let local = |target: &str, args: &[&str]| {
        let shown = space.json(&[&["show", target, "--json"], args].concat());
        let steps = shown["steps"].as_array().unwrap().clone();
        steps.iter().map(|s| s["local"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    for target in ["app", "root", "image"] {
        assert!(local(target, &[]).iter().all(|local| !local), "{target}");
    }
    space.builds(&[&OVERRIDE[..], &["image", "plain"]].concat());
    for target in ["app", "root", "image"] {
        assert!(local(target, &OVERRIDE).iter().all(|local| *local), "{target}");
    }
    assert_eq!(local("plain", &OVERRIDE), [false]);
    let shown = space.run(&[&["show", "app"], &OVERRIDE[..]].concat()).stdout;
    assert!(
        shown.contains("source overridden by ../my_app; what is made of it never leaves this machine"),
        "{shown}"
    );
    assert!(shown.contains("made of a working copy (--override)"), "{shown}");
    for target in ["app", "root", "image"] {
        assert!(local(target, &[]).iter().all(|local| !local), "{target}");
    }
}

#[test]
fn commands_that_plan_know_of_it() {
    let space = space();
    space.builds(&[]);
    let run = |args: &[&str]| {
        let output = space.run(&[args, &OVERRIDE].concat());
        assert!(matches!(output.code, Some(0 | 10)), "{output}");
        output
    };
    let predicted = run(&["why", "app", "--predict"]).stdout;
    assert!(predicted.contains("source overridden by ../my_app\n"), "{predicted}");
    assert!(predicted.contains("app:prepare: source overridden by ../my_app"), "{predicted}");
    let dry = run(&["build", "-n"]);
    assert!(dry.stdout.contains("app: will run"), "{dry}");
    dry.says(WARNING);
    assert!(run(&["list"]).stdout.contains("overridden by ../my_app"));
    assert!(run(&["graph"]).stdout.contains("overridden by ../my_app"));
    assert!(run(&["graph", "--format", "dot"]).stdout.contains("overridden by ../my_app"));
    let listed: serde_json::Value = serde_json::from_str(&run(&["list", "--json"]).stdout).unwrap();
    assert_eq!(listed["targets"][0]["overridden_by"], "../my_app");
    assert_eq!(listed["targets"][1]["overridden_by"], serde_json::Value::Null);
    // Nothing of this was a build.
    space.builds(&[]).counts(0, 3, 0);
    space.builds(&OVERRIDE);
    let output = space.run(&["shell", "app", "--override", "app=../my_app", "--", "cat", "main.txt"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "my own\n"), "{output}");
    // Before the command too, the last of two wins, and from another folder.
    std::fs::create_dir_all(space.base().join("elsewhere/deep")).unwrap();
    std::fs::write(space.base().join("elsewhere/main.txt"), "elsewhere\n").unwrap();
    std::fs::copy(copy(&space).join("Cargo.toml"), space.base().join("elsewhere/Cargo.toml")).unwrap();
    let mut command = space.command(&[
        "--override",
        "app=../../my_app",
        "-f",
        "../../work/mosbuild.yaml",
        "build",
        "--override",
        "app=..",
    ]);
    command.current_dir(space.base().join("elsewhere/deep"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(main_txt(&space), "elsewhere\n");
}

#[test]
fn patches_of_the_declared_source_are_left_out() {
    let space = space();
    space.write("fix.patch", "--- a/main.txt\n+++ b/main.txt\n@@ -1 +1 @@\n-upstream\n+patched\n");
    space.edit_yaml("    build:", "    patches: fix.patch\n    build:");
    space.builds(&[]);
    assert_eq!((main_txt(&space).as_str(), facts(&space, &[]).0.as_str()), ("patched\n", "1.0.0+patched"));
    space.builds(&OVERRIDE);
    assert_eq!(
        (main_txt(&space).as_str(), facts(&space, &OVERRIDE).0.as_str()),
        ("my own\n", "1.1.0-dev+override")
    );
    // Not even looked for.
    space.remove("fix.patch");
    space.builds(&OVERRIDE);
}

#[test]
fn a_locked_build_refuses_it_and_says_how_the_copy_stands() {
    need("git", "git");
    let space = space();
    space.builds(&[]);
    let locked = |space: &Space| {
        let output = space.build(&[&["--locked"], &OVERRIDE[..]].concat());
        assert_eq!(output.code, Some(2), "{output}");
        output.says("error: app is overridden by ../my_app, which --locked does not allow");
        output.says("or build without --locked, or without --override");
        assert!(output.events.is_empty(), "{output}");
        output
    };
    locked(&space).says("../my_app is no git checkout");
    let head = sh(&copy(&space), "git init -q; git add -A; git commit -qm one; git rev-parse --short=7 HEAD");
    let head = head.trim();
    locked(&space).says(&format!("../my_app is a git checkout at {head} without changes: name that commit"));
    sh(&copy(&space), "echo more >> main.txt; echo new > new.txt; mkdir d; echo 1 > d/a; echo 2 > d/b");
    locked(&space).says(&format!("../my_app is a git checkout at {head} with 4 files changed: commit them"));
    let output = space.run(&[&["build", "-n", "--locked"], &OVERRIDE[..]].concat());
    assert_eq!(output.code, Some(2), "{output}");
    // Nothing was built, and what was is as it was.
    assert_eq!(main_txt(&space), "upstream\n");
    // Also where there would be nothing to do.
    space.builds(&OVERRIDE);
    locked(&space);
}

#[test]
fn what_cannot_be_overridden_is_refused_by_name() {
    let space = space();
    let refused = |args: &[&str]| {
        let output = space.run(args);
        assert_eq!(output.code, Some(2), "{output}");
        output
    };
    refused(&["build", "--override", "ap=../my_app"])
        .says("--override: unknown target `ap`")
        .says("did you mean `app`?");
    refused(&["list", "--override", "zzzzzz=../my_app"]).says("`mosbuild list` shows the targets");
    refused(&["build", "--override", "plain=../my_app"])
        .says("--override: target `plain` (rule command) has no source that a folder could take the place of")
        .says("targets with one: app");
    refused(&["build", "--override", "app=../my_ap"])
        .says("--override: ../my_ap: there is no such folder")
        .says("did you mean ../my_app?");
    refused(&["build", "--override", "app=mosbuild.yaml"]).says("mosbuild.yaml: it is no folder");
    refused(&["build", "--override", "app"]).says("write TARGET=FOLDER");
    refused(&["lock", "--override", "app=../my_app"]).says("a working copy is never locked");
    // Several at once are told all at once.
    refused(&["build", "--override", "x=..", "--override", "app=nowhere"])
        .says("unknown target `x`")
        .says("nowhere: there is no such folder");
    // One that nothing needs is a warning.
    let output = space.builds(&["plain", "--override", "app=../my_app"]);
    output.counts(1, 0, 0).says("--override app has no effect: nothing that is built needs it");
    let again = space.builds(&["plain", "--override", "app=../my_app"]);
    again.counts(0, 1, 0).says("--override app has no effect");
    assert!(!space.has("mosbuild.lock"));
}

#[test]
fn a_crate_and_its_dependencies_from_a_working_copy() {
    // Of cargo, in steps: what the copy shares with the declared source is not compiled again.
    let yaml = "targets:\n  app: { rule: component, source: { path: app }, target: x86_64-unknown-linux-gnu, install: { app: /app } }\n";
    let space = Space::new(yaml).with_rust();
    for at in ["app", "../copy"] {
        space.write(
            &format!("{at}/Cargo.toml"),
            "[package]\nname = \"app\"\nversion = \"1.2.3\"\nedition = \"2021\"\n",
        );
        space.write(
            &format!("{at}/Cargo.lock"),
            "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"1.2.3\"\n",
        );
        space.write(&format!("{at}/src/main.rs"), format!("fn main() {{ println!(\"{at}\"); }}\n"));
    }
    space.builds(&[]);
    let output = space.builds(&["--override", "app=../copy"]);
    let steps = output.named("step_started", "step");
    assert_eq!(steps, ["build", "install", "prepare"], "{output}");
    assert_eq!(facts(&space, &["--override", "app=../copy"]).0, "1.2.3+override");
}
