//! Names that do not exist, each with the nearest that does.

use crate::toy::{Toys, errors, load_all, options, workspace};

#[test]
fn unknown_field() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    inptus: src/
    run: "true"
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-field]: unknown field `inptus` in target `a` (rule `command`)
 --> mosbuild.yaml:5:5
  |
5 |     inptus: src/
  |     ^^^^^^ did you mean `inputs`?
  |
  = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source
"#
    );
}

#[test]
fn unknown_field_of_a_list_item_and_of_the_file() {
    let found = errors(
        r#"mosbuild: 1
targts: {}
targets:
  m:
    rule: modules
    linux: m2
    install:
      - { from: a, to: b }
      - { from: a, too: b }
  m2: { rule: modules, linux: m3 }
  m3: { rule: group, deps: [], colour: red }
"#,
        &["a"],
    );
    assert_eq!(
        found,
        r#"error[unknown-field]: unknown field `targts` in the file
 --> mosbuild.yaml:2:1
  |
2 | targts: {}
  | ^^^^^^ did you mean `targets`?
  |
  = note: the fields are container, default, dist, executor, mirrors, mosbuild, profiles, project, targets, vars

error[unknown-field]: unknown field `too` in `install[1]` of target `m`
 --> mosbuild.yaml:9:20
  |
9 |       - { from: a, too: b }
  |                    ^^^ did you mean `to`?
  |
  = note: the fields are from, mode, to

error[unknown-field]: unknown field `colour` in target `m3` (rule `group`)
  --> mosbuild.yaml:11:32
   |
11 |   m3: { rule: group, deps: [], colour: red }
   |                                ^^^^^^ there is no such field
   |
   = note: the fields are deps
"#
    );
}

#[test]
fn unknown_rule() {
    let found = errors("mosbuild: 1\ntargets:\n  a: { rule: comand, run: x }\n  b: { rule: zzz }\n", &[]);
    assert_eq!(
        found,
        r#"error[unknown-rule]: unknown rule `comand`
 --> mosbuild.yaml:3:14
  |
3 |   a: { rule: comand, run: x }
  |              ^^^^^^ did you mean `command`?
  |
  = note: the rules are command, group, modules

error[unknown-rule]: unknown rule `zzz`
 --> mosbuild.yaml:4:14
  |
4 |   b: { rule: zzz }
  |              ^^^ there is no such rule
  |
  = note: the rules are command, group, modules
"#
    );
}

#[test]
fn no_rule() {
    let found = errors("mosbuild: 1\ntargets:\n  a: { rul: command, run: x }\n", &[]);
    assert_eq!(
        found,
        r#"error[missing-field]: target `a` lacks the field `rule`
 --> mosbuild.yaml:3:3
  |
3 |   a: { rul: command, run: x }
  |   ^ `rule` is required
  |
  = help: is `rul` meant to be `rule`?
"#
    );
}

#[test]
fn unknown_target() {
    let found = errors(
        r#"mosbuild: 1
default: [kernle]
targets:
  kernel: { rule: command, run: x, outputs: image }
  a:
    rule: command
    run: x
    deps: { K: kernl, Z: elsewhere }
dist:
  vmlinuz.efi: kernel
  "v-{kernal.version}.efi": krenel
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-target]: unknown target `kernle`
 --> mosbuild.yaml:2:11
  |
2 | default: [kernle]
  |           ^^^^^^ did you mean `kernel`?

error[unknown-target]: unknown target `kernl`
 --> mosbuild.yaml:8:16
  |
8 |     deps: { K: kernl, Z: elsewhere }
  |                ^^^^^ did you mean `kernel`?

error[unknown-target]: unknown target `elsewhere`
 --> mosbuild.yaml:8:26
  |
8 |     deps: { K: kernl, Z: elsewhere }
  |                          ^^^^^^^^^ no target has this name

error[unknown-target]: unknown target `kernal`
  --> mosbuild.yaml:11:3
   |
11 |   "v-{kernal.version}.efi": krenel
   |   ^^^^^^^^^^^^^^^^^^^^^^^^ did you mean `kernel`?

error[unknown-target]: unknown target `krenel`
  --> mosbuild.yaml:11:29
   |
11 |   "v-{kernal.version}.efi": krenel
   |                             ^^^^^^ did you mean `kernel`?
"#
    );
}

#[test]
fn unknown_output() {
    let found = errors(
        r#"mosbuild: 1
targets:
  base: { rule: command, run: x, outputs: [build.log, bin/] }
  all: { rule: group, deps: [base, "base:bin/"] }
  a:
    rule: command
    run: x
    deps:
      A: base:biuld.log
      B: base:other
      C: all:x
      D: all
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-output]: target `base` has no output `biuld.log`
 --> mosbuild.yaml:9:10
  |
9 |       A: base:biuld.log
  |          ^^^^^^^^^^^^^^ did you mean `build.log`?
  |
  = note: its outputs are `build.log` and `bin`

error[unknown-output]: target `base` has no output `other`
  --> mosbuild.yaml:10:10
   |
10 |       B: base:other
   |          ^^^^^^^^^^ no such output
   |
   = note: its outputs are `build.log` and `bin`

error[unknown-output]: target `all` has no output `x`
  --> mosbuild.yaml:11:10
   |
11 |       C: all:x
   |          ^^^^^ no such output
   |
   = note: `all` has no outputs

error[unknown-output]: target `all` has no output
  --> mosbuild.yaml:12:10
   |
12 |       D: all
   |          ^^^ an output is wanted here
   |
   = note: `all` has no outputs
"#
    );
}

#[test]
fn an_output_where_a_target_is_wanted() {
    let found = errors(
        r#"mosbuild: 1
targets:
  linux: { rule: command, run: x, outputs: image }
  m: { rule: modules, linux: "linux:image" }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-reference]: a target is wanted here, not its output `image`
 --> mosbuild.yaml:4:30
  |
4 |   m: { rule: modules, linux: "linux:image" }
  |                              ^^^^^^^^^^^^^ write `linux`
"#
    );
}

#[test]
fn unknown_variable() {
    let found = errors(
        r#"mosbuild: 1
vars: { channel: dev, name: "mos-${chanel}" }
targets:
  a:
    rule: command
    run: echo ${this_is_the_shells}
    env:
      A: $${literal} ${cahnnel}
      B: "${HOME}"
      C: "${x:-y}"
      D: "${open"
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-var]: unknown variable `chanel`
 --> mosbuild.yaml:2:34
  |
2 | vars: { channel: dev, name: "mos-${chanel}" }
  |                                  ^^^^^^^^^ did you mean `channel`?

error[unknown-var]: unknown variable `cahnnel`
 --> mosbuild.yaml:8:22
  |
8 |       A: $${literal} ${cahnnel}
  |                      ^^^^^^^^^^ did you mean `channel`?

error[unknown-var]: unknown variable `HOME`
 --> mosbuild.yaml:9:11
  |
9 |       B: "${HOME}"
  |           ^^^^^^^ not declared in `vars`
  |
  = help: a literal `${` is written `$${`

error[unknown-var]: unknown variable `x:-y`
  --> mosbuild.yaml:10:11
   |
10 |       C: "${x:-y}"
   |           ^^^^^^^ this cannot be a variable's name
   |
   = help: a literal `${` is written `$${`; scripts (`run`, `build`) are left to the shell as they are

error[unknown-var]: `${` is not closed
  --> mosbuild.yaml:11:11
   |
11 |       D: "${open"
   |           ^^
   |
   = help: a literal `${` is written `$${`
"#
    );
}

#[test]
fn unknown_names_in_a_profile() {
    let found = errors(
        r#"mosbuild: 1
vars: { channel: dev }
profiles:
  testing:
    vars: { chanel: testing, arch: riscv64 }
    targets:
      bb: { run: y }
    target: {}
targets:
  b: { rule: command, run: x }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-var]: unknown variable `chanel` in profile `testing`
 --> mosbuild.yaml:5:13
  |
5 |     vars: { chanel: testing, arch: riscv64 }
  |             ^^^^^^ did you mean `channel`?

error[unknown-target]: unknown target `bb` in profile `testing`
 --> mosbuild.yaml:7:7
  |
7 |       bb: { run: y }
  |       ^^ did you mean `b`?

error[unknown-field]: unknown field `target` in `profiles.testing` of the file
 --> mosbuild.yaml:8:5
  |
8 |     target: {}
  |     ^^^^^^ did you mean `targets`?
  |
  = note: the fields are targets, vars
"#
    );
}

#[test]
fn unknown_profile() {
    let dir = workspace("mosbuild: 1\nprofiles: { testing: {}, release: {} }\ntargets: {}\n", &[]);
    let mut options = options(dir.path());
    options.profile = Some("tetsing".into());
    assert_eq!(
        load_all(&options).unwrap_err(),
        r#"error[unknown-profile]: --profile: unknown profile `tetsing`
 |
 = note: the profiles are `testing` and `release`
 = help: did you mean `testing`?
"#
    );
    options.profile = Some("release".into());
    assert!(load_all(&options).is_ok());
}

#[test]
fn set_of_an_unknown_variable() {
    let dir = workspace("mosbuild: 1\nvars: { channel: dev }\ntargets: {}\n", &[]);
    let mut options = options(dir.path());
    options.set = vec![("chanel".into(), "x".into()), ("channel".into(), "${nope}".into())];
    assert_eq!(
        load_all(&options).unwrap_err(),
        r#"error[unknown-var]: --set channel: unknown variable `nope`
 |
 = help: a literal `${` is written `$${`

error[unknown-var]: --set: unknown variable `chanel`
 |
 = note: the variables are `channel`, `arch` and `epoch`
 = help: did you mean `channel`?
"#
    );
}

#[test]
fn names_of_targets_and_variables() {
    let found = errors("mosbuild: 1\nvars: { 1a: x }\ntargets:\n  \"b:c\": { rule: group, deps: [] }\n", &[]);
    assert_eq!(
        found,
        r#"error[bad-name]: `1a` cannot be a variable's name
 --> mosbuild.yaml:2:9
  |
2 | vars: { 1a: x }
  |         ^^ letters, digits, `_` and `-` may be used

error[bad-name]: `b:c` cannot be a target's name
 --> mosbuild.yaml:4:3
  |
4 |   "b:c": { rule: group, deps: [] }
  |   ^^^^^ letters, digits, `_`, `-`, `.` and `+` may be used
"#
    );
}

#[test]
fn ten_thousand_unknown_names_take_no_minutes() {
    let mut yaml = String::from("mosbuild: 1\ntargets:\n");
    for i in 0..5000 {
        yaml.push_str(&format!("  target{i}: {{ rule: group, deps: [targte{i}] }}\n"));
    }
    let dir = workspace(&yaml, &[]);
    let start = std::time::Instant::now();
    let found = mosbuild_engine::load::load(&options(dir.path()), &Toys::new(), None).unwrap_err();
    assert_eq!(found.items.len(), 5000);
    assert!(found.render(false).ends_with("\nand 4900 more\n"));
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

#[test]
fn unknown_field_in_a_profile_that_is_not_chosen() {
    let found = errors(
        r#"mosbuild: 1
profiles:
  testing:
    targets:
      b: { runn: y, env: { NEW: 1 } }
      g: { rule: command, dpes: b, run: x }
targets:
  b: { rule: command, run: x }
  g: { rule: group, deps: b }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-field]: unknown field `runn` in target `b` of profile `testing` (rule `command`)
 --> mosbuild.yaml:5:12
  |
5 |       b: { runn: y, env: { NEW: 1 } }
  |            ^^^^ did you mean `run`?
  |
  = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source

error[unknown-field]: unknown field `dpes` in target `g` of profile `testing` (rule `command`)
 --> mosbuild.yaml:6:27
  |
6 |       g: { rule: command, dpes: b, run: x }
  |                           ^^^^ did you mean `deps`?
  |
  = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source
"#
    );
}

#[test]
fn unknown_fact() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, outputs: o }
  g: { rule: group, deps: a }
dist:
  "v-{a.version}": a
  "v-{a.versoin}": a
  "v-{g.count}": a
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[unknown-fact]: target `a` has no fact `versoin`
 --> mosbuild.yaml:7:3
  |
7 |   "v-{a.versoin}": a
  |   ^^^^^^^^^^^^^^^ did you mean `version`?
  |
  = note: its facts are `version` and `size`

error[unknown-fact]: target `g` has no fact `count`
 --> mosbuild.yaml:8:3
  |
8 |   "v-{g.count}": a
  |   ^^^^^^^^^^^^^ no such fact
  |
  = note: `g` has no facts
"#
    );
}
