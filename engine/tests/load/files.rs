//! Files, folders and globs: what they match, and what is said when they match nothing or leave the workspace.

use std::os::unix::fs::symlink;

use mosbuild_engine::field;
use mosbuild_engine::load::{Expander, FileKind, FileUse};

use crate::toy::{errors, load_all, options, workspace};

fn uses(pattern: &str, kind: FileKind) -> FileUse {
    FileUse { field: field!["inputs", 0], pattern: pattern.into(), kind, absolute_ok: false }
}

fn matches(expander: &Expander, pattern: &str) -> Vec<String> {
    match expander.expand(&uses(pattern, FileKind::Any)) {
        Ok(found) => found.files,
        Err(problem) => vec![format!("error: {}", problem.message)],
    }
}

#[test]
fn nothing_matches() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
    config: src
    source: { path: ./srcs }
"#,
        &["src/main.c"],
    );
    assert_eq!(
        found,
        r#"error[no-file]: there is no file `src/mian.c`
 --> mosbuild.yaml:6:14
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |              ^^^^^^^^^^ did you mean `src/main.c`?

error[no-file]: `src/*.rs` matches nothing
 --> mosbuild.yaml:6:26
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                          ^^^^^^^^^^ no file in the workspace matches

error[no-file]: `scr/**` matches nothing
 --> mosbuild.yaml:6:38
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                                      ^^^^^^^^ did you mean `src`?

error[no-file]: there is no folder `docs/`
 --> mosbuild.yaml:6:48
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                                                ^^^^^ not found in the workspace

error[wrong-file]: `src/main.c/` is a file
 --> mosbuild.yaml:6:55
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                                                       ^^^^^^^^^^^ a folder is wanted here

error[wrong-file]: `a[` is not a glob
 --> mosbuild.yaml:6:68
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                                                                    ^^^^ unclosed character class; missing ']'

error[wrong-file]: `{a,b` is not a glob
 --> mosbuild.yaml:6:74
  |
6 |     inputs: [src/mian.c, "src/*.rs", "scr/**", docs/, src/main.c/, "a[", "{a,b"]
  |                                                                          ^^^^^^ `{` is not closed

error[wrong-file]: `src` is a folder
 --> mosbuild.yaml:7:13
  |
7 |     config: src
  |             ^^^ a file is wanted here

error[no-file]: there is no file `./srcs`
 --> mosbuild.yaml:8:21
  |
8 |     source: { path: ./srcs }
  |                     ^^^^^^ did you mean `src`?
"#
    );
}

#[test]
fn a_path_that_leaves_the_workspace() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    inputs: [../secret, /etc/passwd, src/../../x, "../**"]
"#,
        &["src/main.c"],
    );
    assert_eq!(
        found,
        r#"error[outside]: `../secret` leaves the workspace
 --> mosbuild.yaml:6:14
  |
6 |     inputs: [../secret, /etc/passwd, src/../../x, "../**"]
  |              ^^^^^^^^^ `..` goes above the workspace's root
  |
  = help: only an absolute source may leave it: `{path: /absolute}`

error[outside]: `/etc/passwd` leaves the workspace
 --> mosbuild.yaml:6:25
  |
6 |     inputs: [../secret, /etc/passwd, src/../../x, "../**"]
  |                         ^^^^^^^^^^^ the path is absolute
  |
  = help: only a source may leave it: `{path: /absolute}`

error[outside]: `src/../../x` leaves the workspace
 --> mosbuild.yaml:6:38
  |
6 |     inputs: [../secret, /etc/passwd, src/../../x, "../**"]
  |                                      ^^^^^^^^^^^ `..` goes above the workspace's root
  |
  = help: only an absolute source may leave it: `{path: /absolute}`

error[outside]: `../**` leaves the workspace
 --> mosbuild.yaml:6:51
  |
6 |     inputs: [../secret, /etc/passwd, src/../../x, "../**"]
  |                                                   ^^^^^^^ `..` goes above the workspace's root
  |
  = help: only an absolute source may leave it: `{path: /absolute}`
"#
    );
}

#[test]
fn a_symlink_that_leaves_the_workspace() {
    let yaml = r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    inputs: [out/secret, "out/*", out/, key, inner/main.c, "inner/*"]
    config: key
"#;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let dir = workspace(yaml, &["src/main.c"]);
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("key")).unwrap();
    symlink("src", dir.path().join("inner")).unwrap();
    assert_eq!(
        load_all(&options(dir.path())).unwrap_err(),
        r#"error[outside]: `out/secret` leaves the workspace
 --> mosbuild.yaml:6:14
  |
6 |     inputs: [out/secret, "out/*", out/, key, inner/main.c, "inner/*"]
  |              ^^^^^^^^^^ `out` is a symlink that leads out of it
  |
  = help: only a source may leave it, by its own name: `{path: /absolute}`

error[outside]: `out/*` leaves the workspace
 --> mosbuild.yaml:6:26
  |
6 |     inputs: [out/secret, "out/*", out/, key, inner/main.c, "inner/*"]
  |                          ^^^^^^^ `out` is a symlink that leads out of it
  |
  = help: only a source may leave it, by its own name: `{path: /absolute}`

error[outside]: `out/` leaves the workspace
 --> mosbuild.yaml:6:35
  |
6 |     inputs: [out/secret, "out/*", out/, key, inner/main.c, "inner/*"]
  |                                   ^^^^ `out` is a symlink that leads out of it
  |
  = help: only a source may leave it, by its own name: `{path: /absolute}`

error[outside]: `key` leaves the workspace
 --> mosbuild.yaml:6:41
  |
6 |     inputs: [out/secret, "out/*", out/, key, inner/main.c, "inner/*"]
  |                                         ^^^ `key` is a symlink that leads out of it
  |
  = help: only a source may leave it, by its own name: `{path: /absolute}`

error[outside]: `key` leaves the workspace
 --> mosbuild.yaml:7:13
  |
7 |     config: key
  |             ^^^ `key` is a symlink that leads out of it
  |
  = help: only a source may leave it, by its own name: `{path: /absolute}`
"#
    );
}

#[test]
fn an_absolute_source_may_leave() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("Cargo.toml"), "").unwrap();
    std::fs::create_dir(outside.path().join(".git")).unwrap();
    std::fs::write(outside.path().join(".git/index"), "").unwrap();
    let shown = outside.path().display();
    let yaml =
        format!("mosbuild: 1\ntargets:\n  a: {{ rule: command, run: x, source: {{ path: \"{shown}\" }} }}\n");
    let dir = workspace(yaml, &[]);
    let loaded = load_all(&options(dir.path())).unwrap();
    let found = &loaded.expanded["a"][0];
    assert_eq!(found.files, [format!("{shown}/Cargo.toml")]);
    assert_eq!(found.dirs_walked, [shown.to_string()]);
}

#[test]
fn globs() {
    let files = [
        "a.c",
        "b.c",
        ".hidden.c",
        "src/a.c",
        "src/a-b/x.c",
        "src/a/x.c",
        "src/a.d/x.c",
        "src/.dot/y.c",
        "doc/[x].md",
        "dist/a.c",
        ".git/a.c",
        ".mosbuild/a.c",
        "src/dist/z.c",
        "src/.git/config",
    ];
    let dir = workspace("", &files);
    let e = Expander::new(dir.path());
    assert_eq!(matches(&e, "*.c"), [".hidden.c", "a.c", "b.c"]);
    assert_eq!(matches(&e, "?.c"), ["a.c", "b.c"]);
    assert_eq!(matches(&e, "[!a].c"), ["b.c"]);
    assert_eq!(matches(&e, "{b,a}.c"), ["a.c", "b.c"]);
    assert_eq!(matches(&e, "{src/a,src/.dot}/*.c"), ["src/.dot/y.c", "src/a/x.c"]);
    // Sorted by bytes of the whole path: `-` and `.` come before `/`.
    assert_eq!(matches(&e, "src/**/x.c"), ["src/a-b/x.c", "src/a.d/x.c", "src/a/x.c"]);
    assert_eq!(
        matches(&e, "**/*.c"),
        [
            ".hidden.c",
            "a.c",
            "b.c",
            "src/.dot/y.c",
            "src/a-b/x.c",
            "src/a.c",
            "src/a.d/x.c",
            "src/a/x.c",
            "src/dist/z.c"
        ]
    );
    assert_eq!(matches(&e, "src/**"), matches(&e, "src/"));
    assert_eq!(matches(&e, "./src//a.c"), ["src/a.c"]);
    assert_eq!(matches(&e, "src/../a.c"), ["a.c"]);
    assert_eq!(matches(&e, "src/a*/"), ["src/a-b/x.c", "src/a.d/x.c", "src/a/x.c"]);
    assert_eq!(matches(&e, "doc/\\[x\\].md"), ["doc/[x].md"]);
    assert_eq!(matches(&e, "*"), [".hidden.c", "a.c", "b.c", "mosbuild.yaml"]);
    assert_eq!(matches(&e, "src/*.h"), ["error: `src/*.h` matches nothing"]);
    assert_eq!(matches(&e, ".git/a.c"), [".git/a.c"]);
    let literal = e.expand(&uses("doc/[x].md", FileKind::File)).unwrap();
    assert_eq!(literal.files, ["doc/[x].md"]);
    let listed = e.expand(&uses("src/*/x.c", FileKind::Any)).unwrap();
    assert!(["src", "src/a", "src/.dot"].iter().all(|dir| listed.dirs_walked.iter().any(|d| d == dir)));
}

#[test]
fn symlinks_enter_as_links() {
    let dir = workspace("", &["src/main.c", "src/sub/deep.c"]);
    symlink("main.c", dir.path().join("src/link.c")).unwrap();
    symlink("sub", dir.path().join("src/dirlink")).unwrap();
    symlink("/nowhere", dir.path().join("src/dangling")).unwrap();
    let e = Expander::new(dir.path());
    // A link to a folder is not walked through: it is one entry.
    assert_eq!(
        matches(&e, "src/"),
        ["src/dangling", "src/dirlink", "src/link.c", "src/main.c", "src/sub/deep.c"]
    );
    assert_eq!(matches(&e, "src/**/*.c"), ["src/link.c", "src/main.c", "src/sub/deep.c"]);
    assert_eq!(matches(&e, "src/link.c"), ["src/link.c"]);
    assert_eq!(matches(&e, "src/dirlink/deep.c"), ["src/dirlink/deep.c"]);
    let problem = e.expand(&uses("src/dangling", FileKind::File)).unwrap_err();
    assert_eq!(problem.message, "`src/dangling` is a symlink to nothing");
}

#[test]
fn a_name_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let dir = workspace("", &["src/a"]);
    std::fs::write(dir.path().join("src").join(std::ffi::OsStr::from_bytes(b"\xe9.c")), "").unwrap();
    let e = Expander::new(dir.path());
    assert_eq!(matches(&e, "src/*.c"), ["error: `src/*.c` holds a name that is not UTF-8"]);
    assert_eq!(matches(&e, "src/a*"), ["src/a"]);
}

#[test]
fn braces_are_bounded() {
    let dir = workspace("", &["a"]);
    let e = Expander::new(dir.path());
    let bomb = "{a,b}".repeat(40);
    let started = std::time::Instant::now();
    assert_eq!(matches(&e, &bomb)[0], format!("error: `{}…` is not a glob", &bomb[..80]));
    assert_eq!(
        matches(&e, &"**/a/".repeat(200)),
        [format!("error: `{}…` matches nothing", &"**/a/".repeat(200)[..80])]
    );
    assert!(started.elapsed().as_secs() < 10);
}

#[test]
fn everything_at_once() {
    let found = errors(
        r#"mosbuild: 1
vars: { channel: dev }
targets:
  a:
    rule: command
    run: x
    inputs: [src/main.c, gone.c]
    deps: { B: b, N: nosuch }
  b:
    rule: command
    run: x
    outputs: [o, o/p]
    deps: { A: c }
    env: { C: "${chanel}" }
  c: { rule: command, run: x, outputs: z, deps: { B: b } }
  d: { rule: comand }
  e: { rule: command, runn: x, memory: much }
  d: { rule: command, run: x }
dist: { x: a:zz }
"#,
        &["src/main.c"],
    );
    assert_eq!(
        found,
        r#"error[no-file]: there is no file `gone.c`
 --> mosbuild.yaml:7:26
  |
7 |     inputs: [src/main.c, gone.c]
  |                          ^^^^^^ not found in the workspace

error[unknown-target]: unknown target `nosuch`
 --> mosbuild.yaml:8:22
  |
8 |     deps: { B: b, N: nosuch }
  |                      ^^^^^^ no target has this name

error[overlapping-outputs]: two of the outputs of target `b` overlap: `o/p` is inside of `o`
  --> mosbuild.yaml:12:18
   |
12 |     outputs: [o, o/p]
   |               -  ^^^ overlaps
   |               |
   |               with this one

error[cycle]: targets need each other in a cycle: b → c → b
  --> mosbuild.yaml:13:16
   |
13 |     deps: { A: c }
   |                ^ `b` needs `c`
14 |     env: { C: "${chanel}" }
15 |   c: { rule: command, run: x, outputs: z, deps: { B: b } }
   |                                                      - `c` needs `b`

error[unknown-var]: unknown variable `chanel`
  --> mosbuild.yaml:14:16
   |
14 |     env: { C: "${chanel}" }
   |                ^^^^^^^^^ did you mean `channel`?

error[unknown-rule]: unknown rule `comand`
  --> mosbuild.yaml:16:14
   |
16 |   d: { rule: comand }
   |              ^^^^^^ did you mean `command`?
   |
   = note: the rules are command, group, modules

error[unknown-field]: unknown field `runn` in target `e` (rule `command`)
  --> mosbuild.yaml:17:23
   |
17 |   e: { rule: command, runn: x, memory: much }
   |                       ^^^^ did you mean `run`?
   |
   = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source

error[wrong-type]: wrong type of `memory` of target `e`
  --> mosbuild.yaml:17:40
   |
17 |   e: { rule: command, runn: x, memory: much }
   |                                        ^^^^ expected a whole number, found `much`

error[duplicate-target]: target `d` is declared twice
  --> mosbuild.yaml:18:3
   |
16 |   d: { rule: comand }
   |   - first given here
17 |   e: { rule: command, runn: x, memory: much }
18 |   d: { rule: command, run: x }
   |   ^ given again here

error[unknown-output]: target `a` has no output `zz`
  --> mosbuild.yaml:19:12
   |
19 | dist: { x: a:zz }
   |            ^^^^ no such output
   |
   = note: `a` has no outputs
"#
    );
}

#[test]
fn what_is_right_in_a_target_is_looked_at_beside_what_is_wrong() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    outputs: [o, o/p]
    memroy: 5
    memory: much
    deps: { B: bb }
    inputs: nosuch
  b: { rule: group, deps: "a:q" }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[overlapping-outputs]: two of the outputs of target `a` overlap: `o/p` is inside of `o`
 --> mosbuild.yaml:6:18
  |
6 |     outputs: [o, o/p]
  |               -  ^^^ overlaps
  |               |
  |               with this one

error[unknown-field]: unknown field `memroy` in target `a` (rule `command`)
 --> mosbuild.yaml:7:5
  |
7 |     memroy: 5
  |     ^^^^^^ did you mean `memory`?
  |
  = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source

error[wrong-type]: wrong type of `memory` of target `a`
 --> mosbuild.yaml:8:13
  |
8 |     memory: much
  |             ^^^^ expected a whole number, found `much`

error[unknown-target]: unknown target `bb`
 --> mosbuild.yaml:9:16
  |
9 |     deps: { B: bb }
  |                ^^ did you mean `b`?

error[no-file]: there is no file `nosuch`
  --> mosbuild.yaml:10:13
   |
10 |     inputs: nosuch
   |             ^^^^^^ not found in the workspace

error[unknown-output]: target `a` has no output `q`
  --> mosbuild.yaml:11:27
   |
11 |   b: { rule: group, deps: "a:q" }
   |                           ^^^^^ did you mean `o`?
   |
   = note: its outputs are `o` and `o/p`
"#
    );
}
