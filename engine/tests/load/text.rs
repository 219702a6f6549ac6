//! Text that cannot be read: broken, huge, deep, full of aliases, not UTF-8.

use crate::toy::errors;

#[test]
fn broken_yaml() {
    assert_eq!(
        errors("mosbuild: 1\ntargets:\n  a: { rule: command\n  b: x\n", &[]),
        r#"error[broken-yaml]: this is not valid YAML
 --> mosbuild.yaml:4:4
  |
4 |   b: x
  |    ^ while parsing a flow mapping, did not find expected ',' or '}'
"#
    );
    assert_eq!(
        errors("mosbuild: 1\ntargets:\n\ta: b\n", &[]),
        r#"error[broken-yaml]: this is not valid YAML
 --> mosbuild.yaml:3:2
  |
3 |     a: b
  |     ^ tabs disallowed within this context (block indentation)
"#
    );
    assert_eq!(
        errors("mosbuild: 1\nproject: \"abc\n", &[]),
        r#"error[broken-yaml]: this is not valid YAML
 --> mosbuild.yaml:2:10
  |
2 | project: "abc
  |          ^ while scanning a quoted scalar, found unexpected end of stream
"#
    );
    assert_eq!(
        errors("mosbuild: 1\n  project: abc\n", &[]),
        r#"error[broken-yaml]: this is not valid YAML
 --> mosbuild.yaml:2:10
  |
2 |   project: abc
  |          ^ mapping values are not allowed in this context
"#
    );
}

#[test]
fn what_yaml_has_and_mosbuild_has_not() {
    assert_eq!(
        errors("mosbuild: 1\ntargets: {}\n---\na: b\n", &[]),
        r#"error[broken-yaml]: a second document in the file
 --> mosbuild.yaml:3:1
  |
3 | ---
  | ^^^ the file holds one document
"#
    );
    assert_eq!(
        errors("mosbuild: 1\ntargets: !map {}\n", &[]),
        r#"error[broken-yaml]: a YAML tag (`!…`)
 --> mosbuild.yaml:2:15
  |
2 | targets: !map {}
  |               ^ tags are not used here; quote the text if it begins with `!`
"#
    );
    assert_eq!(
        errors("mosbuild: 1\n? [a, b]\n: c\n", &[]),
        r#"error[broken-yaml]: a key must be a plain name
 --> mosbuild.yaml:2:3
  |
2 | ? [a, b]
  |   ^^^^^^ a list or map cannot be a key
"#
    );
    assert_eq!(
        errors("# nothing\n", &[]),
        r#"error[empty]: the file declares nothing
 --> mosbuild.yaml:1:1
  |
1 | # nothing
  | ^
  |
  = help: begin with `mosbuild: 1`
"#
    );
}

#[test]
fn huge() {
    let mut bytes = b"mosbuild: 1\n".to_vec();
    bytes.resize((16 << 20) + 1, b'#');
    assert_eq!(
        errors(bytes, &[]),
        r#"error[too-large]: mosbuild.yaml is larger than 16 MiB
 |
 = note: it declares a build; data belongs in files that it names
"#
    );
}

#[test]
fn too_many_values() {
    let mut yaml = String::from("mosbuild: 1\nx:\n");
    yaml.push_str(&"- a\n".repeat(1_000_000));
    assert_eq!(
        errors(yaml, &[]),
        r#"error[too-large]: more than 1000000 values in the file
      --> mosbuild.yaml:999998:3
       |
999998 | - a
       |   ^ reading stops here
"#
    );
}

#[test]
fn deep() {
    assert_eq!(
        errors(format!("mosbuild: 1\nx: {}", "[".repeat(70)), &[]),
        r#"error[too-deep]: nested deeper than 64 levels
 --> mosbuild.yaml:2:67
  |
2 | x: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
  |                                                                   ^ this is one too many
"#
    );
    for depth in [255, 256, 5_000] {
        let found = errors(format!("mosbuild: 1\nx: {}{}\n", "[".repeat(depth), "]".repeat(depth)), &[]);
        assert!(found.starts_with("error[too-deep]: nested deeper than 64 levels\n"), "{depth}: {found}");
    }
    let mut yaml = String::from("mosbuild: 1\n");
    for level in 0..70 {
        yaml.push_str(&format!("{}k:\n", " ".repeat(level)));
    }
    let found = errors(yaml, &[]);
    assert!(
        found.contains("error[too-deep]: nested deeper than 64 levels\n  --> mosbuild.yaml:66:65\n"),
        "{found}"
    );
}

#[test]
fn full_of_aliases() {
    let mut yaml = String::from("mosbuild: 1\nx0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        yaml.push_str(&format!("x{i}: &a{i} [{aliases}]\n"));
    }
    assert_eq!(
        errors(yaml, &[]),
        r#"error[alias]: anchors and aliases make more than 100000 values
 --> mosbuild.yaml:6:9
  |
6 | x4: &a4 [*a3, *a3, *a3, *a3, *a3, *a3, *a3, *a3, *a3]
  |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ the limit is passed here
"#
    );
    assert_eq!(
        errors("mosbuild: 1\nx: &a [b, *a]\n", &[]),
        r#"error[alias]: an alias stands inside of what it names
 --> mosbuild.yaml:2:11
  |
2 | x: &a [b, *a]
  |           ^^ this would never end
"#
    );
}

#[test]
fn aliases_that_nest() {
    let mut yaml = String::from("mosbuild: 1\nx0: &a0 [x]\n");
    for i in 1..80 {
        yaml.push_str(&format!("x{i}: &a{i} [*a{}]\n", i - 1));
    }
    let found = errors(yaml, &[]);
    assert!(found.starts_with("error[too-deep]: nested deeper than 64 levels\n"), "{found}");
}

#[test]
fn not_utf8() {
    assert_eq!(
        errors(b"mosbuild: 1\nproject: caf\xe9\n", &[]),
        r#"error[not-utf8]: mosbuild.yaml is not UTF-8
 --> mosbuild.yaml:2:13
  |
2 | project: caf�
  |             ^ byte 0xe9 is not valid here
  |
  = help: save the file as UTF-8
"#
    );
    assert_eq!(
        errors(b"\xff\xfem\0o\0s\0", &[]),
        r#"error[not-utf8]: mosbuild.yaml is not UTF-8
 --> mosbuild.yaml:1:1
  |
1 | ��m␀o␀s␀
  | ^ byte 0xff is not valid here
  |
  = help: save the file as UTF-8
"#
    );
    assert_eq!(
        errors(b"mosbuild: 1\nproject: a\0b\n", &[]),
        r#"error[broken-yaml]: a control character (U+0000) in mosbuild.yaml
 --> mosbuild.yaml:2:11
  |
2 | project: a␀b
  |           ^ YAML allows none here
"#
    );
}

#[test]
fn byte_order_mark_and_carriage_returns() {
    let found = errors("\u{feff}mosbuild: 1\r\ntargets:\r\n  a:\r\n    rule: comand\r\n    run: ü\r\n", &[]);
    assert_eq!(
        found,
        r#"error[unknown-rule]: unknown rule `comand`
 --> mosbuild.yaml:4:11
  |
4 |     rule: comand
  |           ^^^^^^ did you mean `command`?
  |
  = note: the rules are command, group, modules
"#
    );
    let found = errors("\u{feff}mosbuild: 3\r\ntargets: {}\r\n", &[]);
    assert!(found.contains("--> mosbuild.yaml:1:12\n"), "{found}");
}

#[test]
fn columns_count_characters() {
    let found = errors("mosbuild: 1\ntargets:\n  a: { rule: command, run: äöü, mmory: 1 }\n", &[]);
    assert_eq!(
        found,
        r#"error[unknown-field]: unknown field `mmory` in target `a` (rule `command`)
 --> mosbuild.yaml:3:33
  |
3 |   a: { rule: command, run: äöü, mmory: 1 }
  |                                 ^^^^^ did you mean `memory`?
  |
  = note: the fields are config, deps, env, executor, inputs, keep, memory, outputs, run, source
"#
    );
}
