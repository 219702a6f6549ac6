//! Values of a wrong type or kind, fields that are missing, and what is given twice.

use crate::toy::errors;

#[test]
fn wrong_type() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: [x]
    inputs: { a: b }
    deps: text
    memory: lots
    keep: "true"
    env: { A: [1], B: 2 }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-type]: wrong type of `run` of target `a`
 --> mosbuild.yaml:5:10
  |
5 |     run: [x]
  |          ^^^ expected a string, found a list

error[wrong-type]: wrong type of `inputs` of target `a`
 --> mosbuild.yaml:6:13
  |
6 |     inputs: { a: b }
  |             ^^^^^^^^ expected a string or a list of strings, found a map

error[wrong-type]: wrong type of `deps` of target `a`
 --> mosbuild.yaml:7:11
  |
7 |     deps: text
  |           ^^^^ expected a map of names to strings, found `text`

error[wrong-type]: wrong type of `memory` of target `a`
 --> mosbuild.yaml:8:13
  |
8 |     memory: lots
  |             ^^^^ expected a whole number, found `lots`

error[wrong-type]: wrong type of `keep` of target `a`
 --> mosbuild.yaml:9:11
  |
9 |     keep: "true"
  |           ^^^^^^ expected `true` or `false`, found the string `true`
  |
  = help: write it without quotes

error[wrong-type]: wrong type of `env.A` of target `a`
  --> mosbuild.yaml:10:15
   |
10 |     env: { A: [1], B: 2 }
   |               ^^^ expected a string, found a list
"#
    );
}

#[test]
fn wrong_type_of_a_choice() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, source: { git: url } }
  b: { rule: command, run: x, source: { giit: url, rev: main } }
  c: { rule: command, run: x, source: zinit }
  d: { rule: command, run: x, source: { url: x } }
  e: { rule: command, run: x, source: { pth: x } }
  m:
    rule: modules
    linux: a
    install:
      - text
      - { }
      - { from: [a], to: b }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[missing-field]: `source` of target `a` lacks the field `rev`
 --> mosbuild.yaml:3:39
  |
3 |   a: { rule: command, run: x, source: { git: url } }
  |                                       ^^^^^^^^^^^^ `rev` is required

error[unknown-field]: unknown field `giit` in `source` of target `b`
 --> mosbuild.yaml:4:41
  |
4 |   b: { rule: command, run: x, source: { giit: url, rev: main } }
  |                                         ^^^^ did you mean `git`?
  |
  = note: the fields are git, rev

error[wrong-type]: wrong type of `source` of target `c`
 --> mosbuild.yaml:5:39
  |
5 |   c: { rule: command, run: x, source: zinit }
  |                                       ^^^^^ expected `{git, rev}`, `{crate, version}` or `{path}`, found `zinit`

error[wrong-type]: wrong type of `source` of target `d`
 --> mosbuild.yaml:6:39
  |
6 |   d: { rule: command, run: x, source: { url: x } }
  |                                       ^^^^^^^^^^ expected `{git, rev}`, `{crate, version}` or `{path}`, found `{url}`

error[unknown-field]: unknown field `pth` in `source` of target `e`
 --> mosbuild.yaml:7:41
  |
7 |   e: { rule: command, run: x, source: { pth: x } }
  |                                         ^^^ did you mean `path`?
  |
  = note: the fields are path

error[wrong-type]: wrong type of `install[0]` of target `m`
  --> mosbuild.yaml:12:9
   |
12 |       - text
   |         ^^^^ expected `{from, to}` or `{link, at}`, found `text`

error[wrong-type]: wrong type of `install[1]` of target `m`
  --> mosbuild.yaml:13:9
   |
13 |       - { }
   |         ^^^ expected `{from, to}` or `{link, at}`, found a map

error[wrong-type]: wrong type of `install[2].from` of target `m`
  --> mosbuild.yaml:14:17
   |
14 |       - { from: [a], to: b }
   |                 ^^^ expected a string, found a list
"#
    );
}

#[test]
fn wrong_value() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, executor: hots }
  b: { rule: command, run: x, executor: cloud }
  c: { rule: command, run: x, memory: -1 }
  d: { rule: command, run: x, keep: yes }
  e: { rule: command, run: x, deps: { 1x: a } }
  f: { rule: command, run: }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-value]: `executor` of target `a` cannot be `hots`
 --> mosbuild.yaml:3:41
  |
3 |   a: { rule: command, run: x, executor: hots }
  |                                         ^^^^ did you mean `host`?
  |
  = note: expected `sandbox` or `host`

error[wrong-value]: `executor` of target `b` cannot be `cloud`
 --> mosbuild.yaml:4:41
  |
4 |   b: { rule: command, run: x, executor: cloud }
  |                                         ^^^^^ expected `sandbox` or `host`

error[wrong-value]: `memory` of target `c` is a number out of range
 --> mosbuild.yaml:5:39
  |
5 |   c: { rule: command, run: x, memory: -1 }
  |                                       ^^ expected at least 0

error[wrong-type]: wrong type of `keep` of target `d`
 --> mosbuild.yaml:6:37
  |
6 |   d: { rule: command, run: x, keep: yes }
  |                                     ^^^ expected `true` or `false`, found `yes`
  |
  = help: write `true` or `false`

error[wrong-value]: `deps.1x` of target `e`: a variable cannot begin with a digit
 --> mosbuild.yaml:7:43
  |
7 |   e: { rule: command, run: x, deps: { 1x: a } }
  |                                           ^
  |
  = help: rename it

error[wrong-type]: wrong type of `run` of target `f`
 --> mosbuild.yaml:8:26
  |
8 |   f: { rule: command, run: }
  |                          ^ expected a string, found nothing
  |
  = help: an empty string is written `""`
"#
    );
}

#[test]
fn missing_field() {
    let found = errors("mosbuild: 1\ntargets:\n  a:\n    rule: command\n    inputs: x\n", &["x"]);
    assert_eq!(
        found,
        r#"error[missing-field]: target `a` lacks the field `run`
 --> mosbuild.yaml:3:3
  |
3 |   a:
  |   ^ `run` is required
"#
    );
}

#[test]
fn wrong_sections() {
    let found = errors(
        r#"mosbuild: 1
default: { a: b }
vars: [a]
mirrors: [{ form: a, to: /b }]
targets:
  a: command
dist: kernel
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-type]: wrong type of `default` of the file
 --> mosbuild.yaml:2:10
  |
2 | default: { a: b }
  |          ^^^^^^^^ expected a string or a list of strings, found a map

error[wrong-type]: wrong type of `vars` of the file
 --> mosbuild.yaml:3:7
  |
3 | vars: [a]
  |       ^^^ expected a map of names to strings, found a list

error[unknown-field]: unknown field `form` in `mirrors[0]` of the file
 --> mosbuild.yaml:4:13
  |
4 | mirrors: [{ form: a, to: /b }]
  |             ^^^^ did you mean `from`?
  |
  = note: the fields are from, to

error[wrong-type]: wrong type of `targets.a` of the file
 --> mosbuild.yaml:6:6
  |
6 |   a: command
  |      ^^^^^^^ expected a map, found `command`

error[wrong-type]: wrong type of `dist` of the file
 --> mosbuild.yaml:7:7
  |
7 | dist: kernel
  |       ^^^^^^ expected a map of names to strings, found `kernel`
"#
    );
}

#[test]
fn version() {
    assert_eq!(
        errors("mosbuild: 2\ntargets: {}\n", &[]),
        r#"error[version]: schema version `2` is not known
 --> mosbuild.yaml:1:11
  |
1 | mosbuild: 2
  |           ^ this mosbuild reads version 1
"#
    );
    assert_eq!(
        errors("targets: {}\n", &[]),
        r#"error[missing-field]: the file lacks the field `mosbuild`
 --> mosbuild.yaml:1:1
  |
1 | targets: {}
  | ^ `mosbuild` is required
"#
    );
    assert_eq!(
        errors("- a\n- b\n", &[]),
        r#"error[wrong-type]: wrong type of the file
 --> mosbuild.yaml:1:1
  |
1 | - a
  | ^^^ expected `{mosbuild, targets}`, found a list
"#
    );
}

#[test]
fn epoch() {
    assert_eq!(
        errors("mosbuild: 1\nvars: { epoch: 0 }\ntargets: {}\n", &[]),
        r#"error[wrong-value]: `epoch` cannot be `0`
 --> mosbuild.yaml:2:16
  |
2 | vars: { epoch: 0 }
  |                ^ a number of seconds since 1970 is wanted, 1 to 4294967295
"#
    );
}

#[test]
fn duplicate_key() {
    let found = errors(
        "mosbuild: 1\ntargets:\n  a:\n    rule: command\n    run: x\n    env:\n      A: 1\n    run: y\n",
        &[],
    );
    assert_eq!(
        found,
        r#"error[duplicate-key]: key `run` is given twice
 --> mosbuild.yaml:8:5
  |
5 |     run: x
  |     --- first given here
...
8 |     run: y
  |     ^^^ given again here
"#
    );
}

#[test]
fn duplicate_target() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x }
  b: { rule: command, run: x }
  a: { rule: command, run: z }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[duplicate-target]: target `a` is declared twice
 --> mosbuild.yaml:5:3
  |
3 |   a: { rule: command, run: x }
  |   - first given here
4 |   b: { rule: command, run: x }
5 |   a: { rule: command, run: z }
  |   ^ given again here
"#
    );
}

#[test]
fn duplicates_are_found_in_long_maps() {
    let mut yaml = String::from("mosbuild: 1\ntargets: {}\nvars:\n");
    for i in (0..40).chain([0, 39]) {
        yaml.push_str(&format!("  v{i}: x\n"));
    }
    let found = errors(&yaml, &[]);
    assert_eq!(found.matches("error[duplicate-key]").count(), 2, "{found}");
}

#[test]
fn numbers_that_no_field_holds_and_modes_without_quotes() {
    let found = errors(
        r#"mosbuild: 1
vars: { mode: 0755, big: 99999999999 }
targets:
  a: { rule: command, run: x, memory: 4294967296 }
  b: { rule: command, run: x, memory: "${big}" }
  m:
    rule: modules
    linux: a
    install:
      - { from: x, to: b, mode: 0755 }
      - { from: x, to: b, mode: "0755" }
      - { from: x, to: b, mode: "${mode}" }
"#,
        &["x"],
    );
    assert_eq!(
        found,
        r#"error[wrong-value]: `memory` of target `a` is a number out of range
 --> mosbuild.yaml:4:39
  |
4 |   a: { rule: command, run: x, memory: 4294967296 }
  |                                       ^^^^^^^^^^ expected 0 to 4294967295

error[wrong-value]: `memory` of target `b` is a number out of range
 --> mosbuild.yaml:5:39
  |
5 |   b: { rule: command, run: x, memory: "${big}" }
  |                                       ^^^^^^^^ expected 0 to 4294967295

error[wrong-type]: wrong type of `install[0].mode` of target `m`
  --> mosbuild.yaml:10:33
   |
10 |       - { from: x, to: b, mode: 0755 }
   |                                 ^^^^ expected a string in quotes, found `0755`
   |
   = help: write it in quotes: "0755"
"#
    );
}

#[test]
fn keys_that_variables_make_equal() {
    let found = errors(
        r#"mosbuild: 1
vars: { a: X, b: X }
targets:
  a:
    rule: command
    run: x
    outputs: o
    env: { "${a}": 1, "${b}": 2, Y: 3 }
dist: { "${a}": a, X: a }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[duplicate-key]: key `X` is given twice
 --> mosbuild.yaml:8:23
  |
8 |     env: { "${a}": 1, "${b}": 2, Y: 3 }
  |            ------     ^^^^^^ given again here, by a variable's text
  |            |
  |            first given here

error[duplicate-key]: key `X` is given twice
 --> mosbuild.yaml:9:20
  |
9 | dist: { "${a}": a, X: a }
  |         ------     ^ given again here, by a variable's text
  |         |
  |         first given here
"#
    );
}
