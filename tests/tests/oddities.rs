//! Things that steps and people do although nobody asked them to: odd files, odd names, odd output, many targets.

use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use mosbuild_tests::{Space, cause};

/// One target `t` that makes a tree with this script, copied by `u` and placed as u.tar.
fn tree(run: &str) -> String {
    let run: String = run.lines().map(|l| format!("      {l}\n")).collect();
    format!(
        "targets:\n  t:\n    rule: command\n    outputs: [d/]\n    run: |\n      mkdir \"$OUT/d\"; cd \"$OUT/d\"\n{run}  \
         u: {{ rule: command, deps: {{ x: t }}, run: 'cp -a \"$x\" \"$OUT/d\"', outputs: [d/] }}\n"
    )
}

fn listing(space: &Space, tar: &str) -> String {
    let output = Command::new("tar")
        .args(["--numeric-owner", "--quoting-style=escape", "-tvf"])
        .arg(space.path(tar))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn odd_names_survive_store_and_dist() {
    let space = Space::new(&tree(
        "touch 'a b' \"$(printf 'new\\nline')\" \"$(printf 'latin\\351')\" -- -dash '*' 'ä'\nmkdir -p empty/deeper\n\
         ln -s 'to nowhere' broken\nln -s / root\nln -s ./a//b/ dots\nln 'a b' hard\nprintf x > hard",
    ));
    space.builds(&["u", "t"]);
    assert_eq!(space.bytes("dist/t.tar"), space.bytes("dist/u.tar"));
    let list = listing(&space, "dist/u.tar");
    for name in [
        "a b",
        "new\\nline",
        "latin\\351",
        "-dash",
        "*",
        "empty/deeper",
        "broken -> to nowhere",
        "dots -> ./a//b/",
        "root -> /",
        "hard",
    ] {
        assert!(list.lines().any(|l| l.ends_with(&format!(" {name}"))), "{name}: {list}");
    }
    space.assert_clean();
}

#[test]
fn locked_folders_and_files_are_taken_and_cleared_away_also_for_a_plain_user() {
    let space = Space::new(&tree(
        "mkdir ro; echo x > ro/f; chmod 400 ro/f; chmod 555 ro .; umask 777; touch ../left",
    ))
    .as_plain_user();
    space.builds(&["u"]);
    let list = listing(&space, "dist/u.tar");
    assert!(list.contains("ro/f"), "{list}");
    space.assert_clean();
    space.remove(".mosbuild");
    space.builds(&["u"]).counts(0, 2, 0);
}

#[test]
fn what_cannot_be_an_output_is_refused_by_name() {
    for (make, name) in [("mkfifo pipe", "pipe"), ("mkdir sub; mkfifo sub/p2", "sub/p2")] {
        let space = Space::new(&tree(make));
        let output = space.build(&["t"]);
        if output.code == Some(0) {
            // Pipes are part of trees: then they must survive.
            assert!(
                listing(&space, "dist/t.tar").lines().any(|l| l.starts_with('p') && l.ends_with(name)),
                "{output}"
            );
        } else {
            assert_eq!(output.code, Some(1), "{output}");
            output.says(name);
        }
        space.assert_clean();
    }
    // A symlink that leads out of $OUT is no file of the step.
    let space =
        Space::new("targets:\n  t: { rule: command, run: 'ln -s /etc/passwd \"$OUT/o\"', outputs: [o] }\n");
    let output = space.build(&["t"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("symlink");
}

#[test]
fn odd_output_of_a_step_is_kept_whole_and_shown_clean() {
    let space = Space::new(
        "targets:\n  t: { rule: command, run: 'printf \"\\033[31mred\\033[0m \\377\\000 end\"; head -c 300000 /dev/zero | tr \"\\\\0\" x; echo; seq 1 20000; exit 1', outputs: [o] }\n",
    );
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    assert!(!output.stderr.contains('\x1b'), "escape sequences reach the screen");
    let failure = output.failure("t");
    assert_eq!(failure["tail"].as_array().unwrap().last().unwrap(), "20000", "{failure:#}");
    let log = std::fs::read(space.root().join(failure["log"].as_str().unwrap())).unwrap();
    assert!(log.starts_with(b"\x1b[31mred\x1b[0m \xff\0 end"), "the log is kept as it was");
    assert_eq!(log.iter().filter(|b| **b == b'\n').count(), 20001);
}

#[test]
fn standard_input_is_empty() {
    let space = Space::new("targets:\n  t: { rule: command, run: 'wc -c > \"$OUT/o\"', outputs: [o] }\n");
    space.builds(&["t"]);
    assert_eq!(space.read("dist/t").trim(), "0");
}

#[test]
fn globs_follow_what_comes_and_goes() {
    let space = Space::new(
        "targets:\n  t: { rule: command, inputs: ['src/**/*.txt'], run: 'find src -type f | sort > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("src/b.txt", "");
    space.write("src/a/.dot.txt", "");
    space.write("src/a/other", "");
    space.builds(&["t"]);
    assert_eq!(space.read("dist/t"), "src/a/.dot.txt\nsrc/b.txt\n");
    space.write("src/a/more", "not matched");
    space.builds(&["t"]).counts(0, 1, 0);
    space.write("src/new/deep/c.txt", "");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "src/a/.dot.txt\nsrc/b.txt\nsrc/new/deep/c.txt\n");
    cause(&space.why("t").1, "file", "src/new/deep/c.txt");
    space.remove("src/b.txt");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "src/a/.dot.txt\nsrc/new/deep/c.txt\n");
}

#[test]
fn symlinks_of_the_workspace_are_followed_by_what_they_say() {
    let space = Space::new(
        "targets:\n  t: { rule: command, inputs: [d/], run: 'readlink d/link > \"$OUT/o\"; cat d/link >> \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("d/one", "1\n");
    space.write("d/two", "2\n");
    std::os::unix::fs::symlink("one", space.path("d/link")).unwrap();
    space.builds(&["t"]);
    assert_eq!(space.read("dist/t"), "one\n1\n");
    space.remove("d/link");
    std::os::unix::fs::symlink("two", space.path("d/link")).unwrap();
    space.builds(&["t"]).counts(1, 0, 0);
    let (_, answer) = space.why("t");
    let found = cause(&answer, "file", "d/link");
    assert_eq!((&found["old"], &found["new"]), (&"-> one".into(), &"-> two".into()), "{answer:#}");
}

#[test]
fn names_of_inputs_may_be_odd_too() {
    let space = Space::new(
        "targets:\n  t: { rule: command, inputs: [d/], run: 'cat d/* > \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("d/a b\"c'$", "x\n");
    space.write("d/new\nline", "y\n");
    let output = space.build(&["t"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(space.read("dist/t"), "x\ny\n");
    // A name that is no UTF-8 works or is refused by name; it is not passed over.
    let odd = space.path("d").join(std::ffi::OsStr::from_bytes(b"latin\xe9"));
    std::fs::write(odd, "z\n").unwrap();
    let output = space.build(&["t"]);
    match output.code {
        Some(0) => assert_eq!(space.read("dist/t"), "x\nz\ny\n"),
        code => {
            assert_eq!(code, Some(2), "{output}");
            output.says("latin");
        }
    }
}

#[test]
fn comments_and_order_in_the_definition_change_nothing() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n  b: { rule: command, deps: { x: a }, run: 'cp \"$x\" \"$OUT/o\"', outputs: [o] }\n",
    );
    space.builds(&["b"]);
    space.yaml("# A comment.\ntargets:\n  renamed:\n    outputs: [o]\n    rule: command\n    deps: { x: a }\n    run: cp \"$x\" \"$OUT/o\"\n  a: { outputs: [o], run: 'echo a > \"$OUT/o\"', rule: command }\n");
    space.builds(&["renamed"]).counts(0, 2, 0);
    assert_eq!(space.read("dist/renamed"), "a\n");
}

#[test]
fn equal_work_of_two_targets_is_done_once() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'sleep 0.3; cat /proc/sys/kernel/random/uuid > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, run: 'sleep 0.3; cat /proc/sys/kernel/random/uuid > \"$OUT/o\"', outputs: [o] }\n",
    );
    let output = space.builds(&["-j2", "a", "b"]);
    assert_eq!(space.read("dist/a"), space.read("dist/b"), "{output}");
    space.builds(&["a", "b"]).counts(0, 2, 0);
}

#[test]
fn three_hundred_targets_from_two_processes_at_once() {
    let mut yaml = String::from("targets:\n");
    for i in 0..300 {
        let deps =
            if i < 30 { String::new() } else { format!("deps: {{ x: t{}, y: t{} }}, ", i - 30, i - 17) };
        let run = if i < 30 {
            format!("echo {i} > \"$OUT/o\"")
        } else {
            format!("cat $x $y | cksum > \"$OUT/o\"; echo {i} >> \"$OUT/o\"")
        };
        yaml.push_str(&format!("  t{i}: {{ rule: command, {deps}run: '{run}', outputs: [o] }}\n"));
    }
    let all: Vec<String> = (270..300).map(|i| format!("t{i}")).collect();
    yaml.push_str(&format!("  all: {{ rule: group, deps: [{}] }}\ndist: {{ last: t299 }}\n", all.join(", ")));
    let one = Space::new(&yaml);
    let two = one.beside("two", &yaml);
    let (first, second) = (one.start(&["-j2", "all"]), two.start(&["-j2", "all"]));
    let (first, second) = (first.finish(), second.finish());
    assert_eq!((first.code, second.code), (Some(0), Some(0)), "{first}{second}");
    let (a, b) = (first.summary(), second.summary());
    assert_eq!((a.built + a.cached, b.built + b.cached), (300, 300));
    assert_eq!(one.bytes("dist/last"), two.bytes("dist/last"));
    one.assert_clean();
    one.builds(&["all"]).counts(0, 300, 0);
}

#[test]
fn fields_of_a_command_that_cannot_be_meant() {
    let space = Space::new("");
    for (fields, text) in [
        ("run: ':', outputs: { a: [x] }", "wrong type of `outputs.a`"),
        ("run: ':', outputs: [x, x/]", "two of the outputs of target `a` are the same path: `x`"),
        ("run: ':', outputs: { a: x, a/: y }", "two outputs are called a"),
        ("run: ':', outputs: x, tools: /usr/bin/gcc", "\"/usr/bin/gcc\" is no name of a program"),
        ("run: ':', outputs: x, memory: 0", "\"0\" is no size of memory"),
        ("run: ':', outputs: x, timeout: 0", "expected 1 to 31536000"),
        ("run: ':', outputs: x, timeout: 18446744073709551615", "expected 1 to 31536000"),
        ("argv: [''], outputs: x", "`argv` names no program"),
        ("run: ':', outputs: x, env: { A: 1 }, deps: { A: a }", "A is the name of a dep as well"),
        ("run: ':', outputs: x, deps: { 1a: a }", "\"1a\" is no name of a variable"),
        ("run: ':', outputs: x, env: { PATH: x }", "PATH is set by mosbuild"),
    ] {
        space.yaml(&format!("targets:\n  a: {{ rule: command, {fields} }}\n"));
        let output = space.build(&["a"]);
        assert_eq!(output.code, Some(2), "{fields}: {output}");
        output.says(text).says("mosbuild.yaml:4:");
    }
}
