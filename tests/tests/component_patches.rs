//! Patches over a component's source: applied in order, all or nothing, and seen in its facts.

use mosbuild_tests::archive::text;
use mosbuild_tests::git::Repository;
use mosbuild_tests::{Space, cause};

const YAML: &str = "targets:\n  app:\n    rule: component\n    source: { path: app }\n    patches: [patches/1.patch, \
                    patches/2.patch]\n    build: |\n      cp -r . $OUT\n    install: { main.txt: /main.txt }\n\
                    dist: { app.tar: app, \"{app.version} {app.rev}\": \"app:main.txt\" }\n";

const ONE: &str = "Says something of it first.\n\n--- a/main.txt\n+++ b/main.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n";
const TWO: &str = "diff --git a/main.txt b/main.txt\n--- a/main.txt\n+++ b/main.txt\n@@ -1,3 +1,4 @@\n one\n zwei\n three\n+four\n\
                   diff --git a/new.sh b/new.sh\nnew file mode 100755\n--- /dev/null\n+++ b/new.sh\n@@ -0,0 +1,2 @@\n+#!/bin/sh\n+exit\n\
                   diff --git a/old b/moved/old\nsimilarity index 100%\nrename from old\nrename to moved/old\n";

fn space() -> Space {
    let space = Space::new(YAML);
    space.write("app/main.txt", "one\ntwo\nthree\n");
    space.write("app/old", "old\n");
    space.write("app/Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.2.3\"\n");
    space.write("patches/1.patch", ONE);
    space.write("patches/2.patch", TWO);
    space
}

#[test]
fn patches_are_applied_in_order_and_mark_the_facts() {
    let space = space();
    space.edit_yaml(
        "install: { main.txt: /main.txt }",
        "install: { main.txt: /main.txt, new.sh: /new.sh, moved/old: /old }",
    );
    space.builds(&[]);
    let tar = space.path("dist/app.tar");
    assert_eq!(text(&tar, "main.txt"), "one\nzwei\nthree\nfour\n");
    assert_eq!(text(&tar, "new.sh"), "#!/bin/sh\nexit\n");
    assert_eq!(text(&tar, "old"), "old\n");
    let facts = space.json(&["show", "app", "--json"])["facts"].clone();
    assert_eq!(facts["version"], "1.2.3+patched");
    let rev = facts["rev"].as_str().unwrap();
    assert!(rev.len() == 15 && rev.ends_with("-patched"), "{rev}");
    assert!(space.has(&format!("dist/1.2.3+patched {rev}")));

    // A patch that changed, and one less.
    space.edit("patches/1.patch", "+zwei", "+deux");
    space.edit("patches/2.patch", " zwei", " deux");
    let output = space.builds(&[]);
    assert_eq!(text(&tar, "main.txt"), "one\ndeux\nthree\nfour\n");
    assert!(output.named("step_started", "step").contains(&"patch"));
    let (_, answer) = space.why("app");
    cause(&answer, "file", "patches/1.patch");
    cause(&answer, "file", "patches/2.patch");
    // What is said in it does not matter to the source.
    space.edit("patches/1.patch", "Says something", "Says more");
    let output = space.builds(&[]);
    assert_eq!(output.named("step_started", "step"), ["patch"]);
    space.edit_yaml("patches: [patches/1.patch, patches/2.patch]", "patches: patches/1.patch");
    space.edit_yaml(", new.sh: /new.sh, moved/old: /old", "");
    space.builds(&[]);
    assert_eq!(text(&tar, "main.txt"), "one\ndeux\nthree\n");
    space.edit_yaml("    patches: patches/1.patch\n", "");
    space.builds(&[]);
    assert_eq!(space.json(&["show", "app", "--json"])["facts"]["version"], "1.2.3");
}

#[test]
fn a_hunk_that_does_not_apply_is_named_and_nothing_is_stored() {
    let space = space();
    space.edit("app/main.txt", "three", "drei");
    let output = space.build(&[]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let failure = output.failure("app");
    assert_eq!(failure["step"], "patch", "{output}");
    assert_eq!(
        failure["message"],
        "patches/1.patch does not apply: main.txt: hunk 1 of 1, at line 1: line 3 is \"drei\", expected is \"three\""
    );
    assert_eq!(output.started(), ["app"]);
    // The second fails when the first has been laid: the workspace's source is as it was, and so is the next try.
    space.edit("app/main.txt", "drei", "three");
    space.edit("patches/2.patch", " zwei", " two");
    let output = space.build(&[]);
    output.says("patches/2.patch does not apply: main.txt: hunk 1 of 1, at line 1: line 2 is \"zwei\", expected is \"two\"");
    assert_eq!(space.read("app/main.txt"), "one\ntwo\nthree\n");
    space.edit("patches/2.patch", " two", " zwei");
    space.builds(&[]);
    space.assert_clean();

    space.write("patches/1.patch", "no patch at all\n");
    space.build(&[]).says("patches/1.patch cannot be read: it is no unified diff");
    space.write("patches/1.patch", ONE.replace("main.txt", "src/main.txt"));
    let output = space.build(&[]);
    output
        .says("patches/1.patch does not apply: src/main.txt: the source has no such file")
        .says("the source has main.txt");
    space.write(
        "patches/1.patch",
        ONE.replace("a/main.txt", "a/../../etc/passwd").replace("b/main.txt", "b/../../etc/passwd"),
    );
    space.build(&[]).says("path has a '..' component");
}

#[test]
fn a_patch_that_is_not_there_is_an_error_of_the_file() {
    let space = space();
    space.edit_yaml("patches/2.patch", "patches/3.patch");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("patches/3.patch").says("mosbuild.yaml:");
    space.edit_yaml("patches/3.patch", "/etc/hostname");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(2), "{output}");
}

/// A patched commit is not that commit: its revision says so.
#[test]
fn a_patched_commit_is_marked() {
    let space = space();
    let upstream = Repository::new(&space.base().join("upstream"));
    upstream.write("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.2.3\"\n");
    let commit = upstream.commit_file("main.txt", "one\ntwo\nthree\n");
    let source = format!("source: {{ git: \"{}\", rev: HEAD }}", upstream.url());
    space.edit_yaml("source: { path: app }", &source);
    space.edit_yaml("patches: [patches/1.patch, patches/2.patch]", "patches: patches/1.patch");
    space.builds(&[]);
    assert!(space.has(&format!("dist/1.2.3+patched {}-patched", &commit[..7])));
    space.edit_yaml("    patches: patches/1.patch\n", "");
    space.builds(&[]);
    assert!(space.has(&format!("dist/1.2.3 {}", &commit[..7])));
}
