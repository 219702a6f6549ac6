//! Cycles, shown as paths, and outputs that overlap.

use crate::toy::errors;

#[test]
fn cycle() {
    let found = errors(
        r#"mosbuild: 1
targets:
  rootfs: { rule: command, run: x, outputs: o, deps: { M: modules } }
  modules: { rule: command, run: x, outputs: o, deps: { K: kernel } }
  kernel:
    rule: command
    run: x
    outputs: o
    deps:
      I: initramfs
  initramfs: { rule: command, run: x, outputs: o, deps: { R: rootfs } }
  image: { rule: command, run: x, deps: { K: kernel } }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[cycle]: targets need each other in a cycle: rootfs → modules → kernel → initramfs → rootfs
  --> mosbuild.yaml:3:59
   |
 3 |   rootfs: { rule: command, run: x, outputs: o, deps: { M: modules } }
   |                                                           ^^^^^^^ `rootfs` needs `modules`
 4 |   modules: { rule: command, run: x, outputs: o, deps: { K: kernel } }
   |                                                            ------ `modules` needs `kernel`
...
10 |       I: initramfs
   |          --------- `kernel` needs `initramfs`
11 |   initramfs: { rule: command, run: x, outputs: o, deps: { R: rootfs } }
   |                                                              ------ `initramfs` needs `rootfs`
"#
    );
}

#[test]
fn two_cycles_and_one_with_itself() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: group, deps: [b] }
  b: { rule: group, deps: [a, c] }
  c: { rule: group, deps: c }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[cycle]: targets need each other in a cycle: a → b → a
 --> mosbuild.yaml:3:28
  |
3 |   a: { rule: group, deps: [b] }
  |                            ^ `a` needs `b`
4 |   b: { rule: group, deps: [a, c] }
  |                            - `b` needs `a`

error[cycle]: targets need each other in a cycle: c → c
 --> mosbuild.yaml:5:27
  |
5 |   c: { rule: group, deps: c }
  |                           ^ `c` needs `c`
"#
    );
}

#[test]
fn a_long_cycle_is_cut() {
    let mut yaml = String::from("mosbuild: 1\ntargets:\n");
    for i in 0..3000 {
        yaml.push_str(&format!("  t{i}: {{ rule: group, deps: t{} }}\n", (i + 1) % 3000));
    }
    let found = errors(&yaml, &[]);
    let expected = "error[cycle]: targets need each other in a cycle: t0 → t1 → t2 → t3 → t4 → t5 → t6 → t7 → t8 \
                    → t9 → t10 → t11 → … 2978 more … → t2990 → t2991 → t2992 → t2993 → t2994 → t2995 → t2996 \
                    → t2997 → t2998 → t2999 → t0\n";
    assert_eq!(&found[..expected.len()], expected);
}

#[test]
fn a_cycle_of_variables() {
    let found = errors(
        r#"mosbuild: 1
vars:
  url: "https://${host}/x"
  host: ${mirror}.example
  mirror: ${url}
  own: ${own}
targets: {}
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[cycle]: variables use each other in a cycle: url → host → mirror → url
 --> mosbuild.yaml:3:8
  |
3 |   url: "https://${host}/x"
  |        ^^^^^^^^^^^^^^^^^^^ `url` uses `host`
4 |   host: ${mirror}.example
  |         ----------------- `host` uses `mirror`
5 |   mirror: ${url}
  |           ------ `mirror` uses `url`

error[cycle]: variables use each other in a cycle: own → own
 --> mosbuild.yaml:6:8
  |
6 |   own: ${own}
  |        ^^^^^^ `own` uses `own`
"#
    );
}

#[test]
fn overlapping_outputs() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    outputs: [share/, bin/tool, share/doc]
  b:
    rule: command
    run: x
    outputs:
      - out
      - ./out
      - out2
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[overlapping-outputs]: two of the outputs of target `a` overlap: `share/doc` is inside of `share/`
 --> mosbuild.yaml:6:33
  |
6 |     outputs: [share/, bin/tool, share/doc]
  |               ------            ^^^^^^^^^ overlaps
  |               |
  |               with this one

error[overlapping-outputs]: two of the outputs of target `b` are the same path: `out`
  --> mosbuild.yaml:12:9
   |
11 |       - out
   |         --- with this one
12 |       - ./out
   |         ^^^^^ overlaps
"#
    );
}

#[test]
fn overlapping_dist_entries() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, outputs: o }
dist:
  img/kernel: a
  img: a
  boot: a
  ./boot: a
  "v-{a.version}": a
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[overlapping-outputs]: two of `dist` overlap: `img/kernel` is inside of `img`
 --> mosbuild.yaml:6:3
  |
5 |   img/kernel: a
  |   ---------- with this one
6 |   img: a
  |   ^^^ overlaps

error[overlapping-outputs]: two of `dist` are the same path: `boot`
 --> mosbuild.yaml:8:3
  |
7 |   boot: a
  |   ---- with this one
8 |   ./boot: a
  |   ^^^^^^ overlaps
"#
    );
}

#[test]
fn paths_of_outputs_stay_where_outputs_go() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a:
    rule: command
    run: x
    outputs: [../o, /etc/passwd, ok]
dist:
  ../x: a:ok
  "v-{a": a:ok
  "v-{a}": a:ok
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-value]: `../o` cannot be an output's path
 --> mosbuild.yaml:6:15
  |
6 |     outputs: [../o, /etc/passwd, ok]
  |               ^^^^ `..` leaves the output folder

error[wrong-value]: `/etc/passwd` cannot be an output's path
 --> mosbuild.yaml:6:21
  |
6 |     outputs: [../o, /etc/passwd, ok]
  |                     ^^^^^^^^^^^ it is absolute

error[wrong-value]: `../x` cannot be a path in `dist`
 --> mosbuild.yaml:8:3
  |
8 |   ../x: a:ok
  |   ^^^^ `..` leaves the output folder

error[wrong-value]: `{` is not closed
 --> mosbuild.yaml:9:3
  |
9 |   "v-{a": a:ok
  |   ^^^^^^ as in `{linux.version}`

error[wrong-value]: `{a}` is not `{target.fact}`
  --> mosbuild.yaml:10:3
   |
10 |   "v-{a}": a:ok
   |   ^^^^^^^ as in `{linux.version}`
"#
    );
}

#[test]
fn a_file_where_a_tree_is_wanted() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, outputs: [o, d/] }
  right: { rule: modules, linux: a, from: "a:d/" }
  m: { rule: modules, linux: a, from: a }
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-reference]: `a` is a file
 --> mosbuild.yaml:5:39
  |
5 |   m: { rule: modules, linux: a, from: a }
  |                                       ^ a tree is wanted here
  |
  = note: the trees of `a` are `d`
"#
    );
}

#[test]
fn paths_in_dist_are_files() {
    let found = errors(
        r#"mosbuild: 1
targets:
  a: { rule: command, run: x, outputs: o }
dist:
  tree/: a
  ./.: a
  SHA256SUMS: a
  deep/SHA256SUMS: a
"#,
        &[],
    );
    assert_eq!(
        found,
        r#"error[wrong-value]: `tree/` cannot be a path in `dist`
 --> mosbuild.yaml:5:3
  |
5 |   tree/: a
  |   ^^^^^ it is a file's: a tree is placed as one .tar

error[wrong-value]: `./.` cannot be a path in `dist`
 --> mosbuild.yaml:6:3
  |
6 |   ./.: a
  |   ^^^ it is empty

error[wrong-value]: `SHA256SUMS` cannot be a path in `dist`
 --> mosbuild.yaml:7:3
  |
7 |   SHA256SUMS: a
  |   ^^^^^^^^^^ mosbuild writes this file itself
"#
    );
}
