//! Tools are part of keys by the packages they come from, and only declared ones are found.

use std::path::Path;

use mosbuild_tests::{Space, cause, need};
use serde_json::json;

const TWO: &str = r#"targets:
  compiled:
    rule: command
    inputs: [a.c]
    tools: [gcc]
    run: 'gcc -c a.c -o "$OUT/a.o"'
    outputs: [a.o]
  plain: { rule: command, inputs: [a.c], run: 'cp a.c "$OUT/copy"', outputs: [copy] }
  all: { rule: group, deps: [compiled, plain] }
"#;

/// A root with a copy of this host's package database that can be edited.
fn fake_database(at: &Path) {
    let dpkg = at.join("var/lib/dpkg");
    std::fs::create_dir_all(&dpkg).unwrap();
    for name in ["status", "diversions"] {
        std::fs::copy(Path::new("/var/lib/dpkg").join(name), dpkg.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/var/lib/dpkg/info", dpkg.join("info")).unwrap();
}

/// Gives a package another version; gives back both.
fn upgrade(root: &Path, package: &str) -> (String, String) {
    let path = root.join("var/lib/dpkg/status");
    let status = std::fs::read_to_string(&path).unwrap();
    let start = format!("Package: {package}\n");
    let at = status.find(&start).unwrap_or_else(|| panic!("{package} is not installed here"));
    let version = at + status[at..].find("\nVersion: ").unwrap() + "\nVersion: ".len();
    let end = version + status[version..].find('\n').unwrap();
    let old = status[version..end].to_owned();
    let new = format!("{old}+upgraded");
    // As dpkg does it: a new file in place of the old one.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, format!("{}{new}{}", &status[..version], &status[end..])).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    (old, new)
}

#[test]
fn an_upgrade_in_the_closure_of_a_tool_rebuilds_what_uses_it() {
    need("gcc", "gcc");
    let mut space = Space::new(TWO);
    space.write("a.c", "int main(void) { return 0; }\n");
    let root = space.base().join("fake");
    fake_database(&root);
    space.env("MOSBUILD_DPKG_ROOT", &root);
    space.builds(&["all"]).counts(2, 0, 0);
    space.builds(&["all"]).counts(0, 2, 0);
    // gcc owns neither the C library's headers nor the assembler.
    for package in ["libc6-dev", "binutils"] {
        let (old, new) = upgrade(&root, package);
        let output = space.builds(&["all"]);
        output.counts(1, 1, 0);
        assert_eq!(output.started(), ["compiled"], "{output}");
        let (code, answer) = space.why("compiled");
        assert_eq!(code, 10);
        let found = cause(&answer, "tool", &format!("gcc: {package}"));
        assert_eq!(found["change"], "version");
        assert_eq!((&found["old"], &found["new"]), (&json!(old), &json!(new)), "{answer:#}");
        let text = space.run(&["why", "compiled"]).stdout;
        assert!(text.contains(&format!("tool gcc: {package} changed: {old} → {new}")), "{text}");
        assert_eq!(space.why("plain").0, 0, "what does not use gcc is a hit");
    }
    // A package outside of every closure is nobody's business.
    upgrade(&root, "tzdata");
    space.builds(&["all"]).counts(0, 2, 0);
    // And the shell is everybody's.
    let (old, new) = upgrade(&root, "dash");
    space.builds(&["all"]).counts(2, 0, 0);
    let (_, answer) = space.why("plain");
    let found = cause(&answer, "tool", "(essential): dash");
    assert_eq!((&found["old"], &found["new"]), (&json!(old), &json!(new)), "{answer:#}");
}

#[test]
fn an_undeclared_tool_is_not_found_and_the_message_says_what_to_do() {
    need("gcc", "gcc");
    let space =
        Space::new("targets:\n  t: { rule: command, run: 'gcc --version > \"$OUT/o\"', outputs: [o] }\n");
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let failure = output.failure("t");
    let help = failure["help"].to_string();
    assert!(help.contains("add it to tools: [gcc]"), "{failure:#}");
    assert!(failure["tail"].to_string().contains("gcc: not found"), "{failure:#}");
    output.says("add it to tools: [gcc]");
    space.edit_yaml("outputs:", "tools: [gcc], outputs:");
    space.builds(&["t"]);
    assert!(space.read("dist/t").contains("gcc"));
}

#[test]
fn a_tool_that_the_host_lacks_is_told_before_anything_runs() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, deps: { a: a }, tools: [no-such-tool-here], run: 'cp \"$a\" \"$OUT/o\"', outputs: [o] }\n",
    );
    let output = space.build(&["b"]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says("no-such-tool-here: not found");
    assert!(output.started().is_empty(), "{output}");
    let doctor = space.run(&["doctor"]);
    assert_eq!(doctor.code, Some(3), "{doctor}");
    assert!(doctor.stdout.contains("no-such-tool-here"), "{doctor}");
}

#[test]
fn a_shell_word_is_not_taken_for_a_tool() {
    // Code 127 by hand: no advice about tools that would be wrong.
    let space = Space::new("targets:\n  t: { rule: command, run: 'exit 127', outputs: [o] }\n");
    let output = space.build(&["t"]);
    assert_eq!(output.code, Some(1));
    assert!(!output.stderr.contains("add it to tools"), "{output}");
}

/// What the host lacks for one target hides no other: each is shown as it is, by every command that only reads.
#[test]
fn targets_that_cannot_be_built_here_are_marked_and_the_others_are_as_they_are() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, deps: { a: a }, tools: [no-such-tool-here], run: 'cp \"$a\" \"$OUT/o\"', outputs: [o] }\n  \
         c: { rule: component, source: { path: src }, target: riscv64gc-unknown-linux-musl, install: { p: /p } }\n  \
         d: { rule: command, deps: { b: b }, run: 'cp \"$b\" \"$OUT/o\"', outputs: [o] }\n  \
         e: { rule: rootfs, layers: [c] }\n  f: { rule: command, deps: { a: a }, run: 'cp \"$a\" \"$OUT/o\"', outputs: [o] }\n  \
         all: { rule: group, deps: [d, e, f] }\n",
    )
    .with_rust();
    space.write("src/Cargo.toml", "[package]\nname = \"p\"\nversion = \"1.0.0\"\n");
    space.builds(&["a"]);

    let said = "no-such-tool-here: not found";
    let rust = "the Rust target riscv64gc-unknown-linux-musl is not installed";
    let output = space.run(&["build", "-n", "all"]);
    assert_eq!(output.code, Some(0), "{output}");
    let expected = format!(
        "a: hit\nb: blocked ({said})\nc: blocked ({rust})\nd: depends on b\ne: depends on c\nf: will run (never built here)\n"
    );
    let mut lines: Vec<&str> = output.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expected.lines().collect::<Vec<_>>(), "{output}");
    output.says(&format!("no build of b could start now: {said}")).says("rustup target add riscv64gc");
    let forecast = space.json(&["build", "-n", "--json", "all"]);
    let of = |name: &str| forecast["targets"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
    assert_eq!((&of("c")["forecast"], &of("c")["why"]), (&"blocked".into(), &rust.into()));
    assert_eq!(of("e")["depends_on"], "c");

    let listed = space.json(&["list", "--json"]);
    let graph = space.json(&["graph", "--json", "all"]);
    for answer in [&listed, &graph] {
        let of =
            |name: &str| answer["targets"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap();
        let states =
            ["a", "b", "c", "d", "e", "f"].map(|name| of(name)["state"].as_str().unwrap().to_owned());
        assert_eq!(states, ["fresh", "blocked", "blocked", "waits", "waits", "new"], "{answer:#}");
        assert_eq!(of("b")["blocked"], said);
    }
    for format in ["text", "dot"] {
        let output = space.run(&["graph", "--format", format]);
        assert_eq!(output.code, Some(0), "{output}");
        output.says(&format!("no build of c could start now: {rust}"));
    }
    let shown = space.json(&["show", "c", "--json"]);
    assert_eq!((&shown["state"], &shown["blocked"]), (&"blocked".into(), &rust.into()));

    let output = space.run(&["why", "b", "--predict"]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says(&format!("b: {said}"));
    let output = space.run(&["why", "e", "--predict"]);
    assert_eq!(output.code, Some(10), "{output}");
    assert!(output.stdout.contains(&format!("c cannot be built here: {rust}")), "{output}");
    // A build is refused as before, all of it said at once.
    let output = space.build(&["all"]);
    assert_eq!(output.code, Some(3), "{output}");
    assert!(output.started().is_empty(), "{output}");
    let doctor = space.run(&["doctor"]);
    assert_eq!(doctor.code, Some(3), "{doctor}");
    for text in [said, rust, "rustup target add riscv64gc"] {
        assert!(doctor.stdout.contains(text), "{doctor}");
    }
}
