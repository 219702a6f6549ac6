//! What a step sees, and what it cannot see, reach or change.

use std::io::Read;
use std::net::TcpListener;

use mosbuild_tests::{Space, need};

/// One target `t` with a script as its own file would have it.
fn script(fields: &str, run: &str) -> String {
    let run: String = run.lines().map(|l| format!("      {l}\n")).collect();
    format!("targets:\n  t:\n    rule: command\n{fields}    outputs: [o]\n    run: |\n{run}")
}

#[test]
fn an_undeclared_file_cannot_be_read() {
    let space =
        Space::new(&script("    inputs: [sub/declared]\n", "cat sub/declared > \"$OUT/o\"\ncat sub/hidden"));
    space.write("sub/declared", "yes");
    space.write("sub/hidden", "no");
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let failure = output.failure("t");
    assert!(failure["tail"].to_string().contains("sub/hidden: No such file or directory"), "{failure:#}");
    // The whole log is kept, and named.
    let log = failure["log"].as_str().unwrap();
    assert!(std::fs::read_to_string(space.root().join(log)).unwrap().contains("sub/hidden"), "{failure:#}");
    output.says("whole log: ").says("mosbuild shell t");
}

#[test]
fn the_workspace_is_not_there_by_its_absolute_path_either() {
    let mut space = Space::new(&script(
        "    inputs: [a]\n    env: { W: { host: TEST_W } }\n",
        "for path in \"$W\" \"$W/a\" /root /home /var/lib /tmp/escape; do\n\
         if test -e \"$path\"; then echo \"$path is visible\"; fi\ndone\n\
         ls -a . > \"$OUT/o\"",
    ));
    space.write("a", "");
    space.write("b", "");
    let root = space.root().to_owned();
    space.env("TEST_W", root);
    space.builds(&["t"]);
    let log = space.run(&["log", "t"]).stdout;
    assert!(!log.contains("is visible"), "{log}");
    assert_eq!(space.read("dist/t"), ".\n..\na\n");
}

#[test]
fn inputs_and_tools_cannot_be_written() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'mkdir \"$OUT/d\"; echo right > \"$OUT/d/f\"', outputs: [d/] }\n  \
         t:\n    rule: command\n    deps: { a: a }\n    outputs: [o]\n    run: |\n      \
         (echo wrong > \"$a/f\") || true\n      (echo wrong > \"$a/new\") || true\n      (rm -f \"$a/f\") || true\n      \
         (chmod 777 \"$a/f\") || true\n      (touch /usr/bin/new) || true\n      (echo x > /etc/passwd) || true\n      \
         cat \"$a/f\" > \"$OUT/o\"\n      ls \"$a\" >> \"$OUT/o\"\n",
    );
    space.builds(&["t"]);
    assert_eq!(space.read("dist/t"), "right\nf\n");
    space.assert_clean();
}

#[test]
fn no_network_not_even_the_hosts_loopback() {
    need("perl", "perl-base");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let yaml = script(
        &format!("    tools: [bash]\n    env: {{ PORT: '{port}' }}\n"),
        "if bash -c \"exec 3<>/dev/tcp/127.0.0.1/$PORT\"; then echo reached; fi\n\
         tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > \"$OUT/o\"",
    );
    let space = Space::new(&yaml);
    space.builds(&["t"]);
    let log = space.log("t");
    assert!(log.contains("Connection refused") || log.contains("unreachable"), "{log}");
    assert!(!log.contains("reached"), "{log}");
    assert_eq!(space.read("dist/t"), "lo\n");
    // The same script reaches the listener where it is let.
    space.edit_yaml("rule: command", "rule: command\n    executor: host");
    space.builds(&["t"]);
    assert!(space.log("t").contains("reached"));
}

#[test]
fn environment_umask_locale_and_place_are_fixed() {
    let run = "env | grep -v '^MAKEFLAGS\\|^CARGO_MAKEFLAGS' | sort > \"$OUT/o\"\numask >> \"$OUT/o\"\n\
               hostname >> \"$OUT/o\"\npwd >> \"$OUT/o\"\nid -u >> \"$OUT/o\"\ndate -d @0 +%H:%M%Z >> \"$OUT/o\"\n\
               printf 'b\\nA\\na\\n' | sort | tr '\\n' ' ' >> \"$OUT/o\"";
    let mut space = Space::new(&script("    env: { MINE: x }\n", run));
    for (name, value) in
        [("LANG", "de_DE.UTF-8"), ("TZ", "Asia/Tokyo"), ("CC", "false"), ("SOURCE_DATE_EPOCH", "1")]
    {
        space.env(name, value);
    }
    space.builds(&["t"]);
    let text = space.read("dist/t");
    let expected = "HOME=/build/home\nLC_ALL=C.UTF-8\nMINE=x\nOUT=/build/out\nPATH=/mosbuild/bin\nPWD=/build/work\n\
                    SOURCE_DATE_EPOCH=1735689600\nTZ=UTC\n0022\nmosbuild\n/build/work\n0\n00:00UTC\nA a b ";
    assert_eq!(text, expected);
    // From a shell with another umask, the same.
    let other = space.beside("other", "").with_store("store2");
    other.yaml(&script("    env: { MINE: x }\n", run));
    let program = mosbuild_tests::program();
    let status = std::process::Command::new("sh")
        .args(["-c", "umask 077; exec \"$0\" build -q t", program.to_str().unwrap()])
        .current_dir(other.root())
        .env("MOSBUILD_CACHE_DIR", other.store())
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert_eq!(other.read("dist/t"), expected);
}

/// Tries all it can think of to write to its inputs; whether that fails the step or not, the store stays whole.
fn remounts(as_user: impl Fn(Space) -> Space) {
    let space = as_user(Space::new(
        "targets:\n  a: { rule: command, run: 'mkdir \"$OUT/d\"; echo right > \"$OUT/d/f\"; echo single > \"$OUT/s\"', outputs: [d/, s] }\n  \
         t:\n    rule: command\n    deps: { d: a, s: 'a:s' }\n    tools: [mount, unshare]\n    outputs: [o]\n    run: |\n      \
         exec 2>&1\n      \
         for at in \"$d\" \"$s\" /build /usr; do\n        mount -o remount,rw \"$at\" && echo remounted $at\n        \
         mount -o remount,rw,bind \"$at\" && echo remounted $at\n        \
         unshare -Urm mount -o remount,rw,bind \"$at\" && echo remounted $at\n        \
         unshare -Urm sh -c \"mount -o remount,rw,bind $at; echo wrong > $d/f; echo wrong > $s; chmod 777 $s\"\n        \
         unshare -rm sh -c \"umount $at; echo wrong > $d/f; echo wrong > $s\"\n      done\n      \
         echo wrong > \"$d/f\" && echo written\n      echo wrong > \"$s\" && echo written\n      \
         cat \"$d/f\" \"$s\" > \"$OUT/o\"\n",
    ));
    // The attempts may fail the step or not; either way what is stored is right.
    space.edit_yaml("exec 2>&1", "exec 2>&1; set +e");
    let output = space.build(&["t"]);
    let log = space.run(&["log", "t"]).stdout;
    assert!(log.contains("mount"), "the attempts left no trace: {output}{log}");
    assert!(!log.contains("written"), "{log}");
    space.assert_clean();
    if output.code == Some(0) {
        assert_eq!(space.read("dist/t"), "right\nsingle\n");
    }
    let next = space.beside("next", "targets:\n  a: { rule: command, run: 'mkdir \"$OUT/d\"; echo right > \"$OUT/d/f\"; echo single > \"$OUT/s\"', outputs: [d/, s] }\n  \
         b: { rule: command, deps: { d: a, s: 'a:s' }, run: 'cat \"$d/f\" \"$s\" > \"$OUT/o\"', outputs: [o] }\n");
    next.builds(&["b"]).counts(1, 1, 0);
    assert_eq!(next.read("dist/b"), "right\nsingle\n");
}

#[test]
fn a_step_that_remounts_its_inputs_leaves_the_store_whole() {
    remounts(|space| space);
}

#[test]
fn a_step_of_a_plain_user_that_remounts_its_inputs_leaves_the_store_whole() {
    remounts(Space::as_plain_user);
}

#[test]
fn outputs_are_the_same_for_root_and_for_a_plain_user() {
    let yaml = "targets:\n  a: { rule: command, inputs: [in/], run: 'mkdir \"$OUT/t\"; cp -r in \"$OUT/t/\"; ln -s in \"$OUT/t/link\"; \
                id > \"$OUT/t/id\"; stat -c \"%u %g %a %n\" in in/* >> \"$OUT/t/id\"; chmod 750 \"$OUT/t/in\"', outputs: [t/] }\n  \
                sys: { rule: files, install: [{ from: in, to: /etc/in }, { node: /dev/console, type: char, major: 5, minor: 1 }] }\n  \
                all: { rule: rootfs, layers: [a, sys] }\n  image: { rule: cpio, root: all, compress: none }\n\
                dist: { tree.tar: a, image.cpio: image }\n";
    let root = Space::new(yaml);
    let plain = Space::new(yaml);
    for space in [&root, &plain] {
        space.write("in/plain", "text\n");
        space.write("in/run.sh", "#!/bin/sh\n");
        space.chmod("in/run.sh", 0o755);
    }
    let plain = plain.as_plain_user();
    root.builds(&["image"]).counts(4, 0, 0);
    plain.builds(&["image"]).counts(4, 0, 0);
    for file in ["dist/tree.tar", "dist/image.cpio", "dist/SHA256SUMS"] {
        assert_eq!(root.bytes(file), plain.bytes(file), "{file}");
    }
    root.assert_clean();
    plain.assert_clean();
}

#[test]
fn a_step_of_the_host_sees_the_host_and_its_result_is_marked() {
    let mut space = Space::new(&script(
        "    executor: host\n    inputs: [a]\n    env: { W: { host: TEST_W } }\n",
        "cat a > \"$OUT/o\"\nls \"$W\"",
    ));
    let root = space.root().to_owned();
    space.env("TEST_W", root);
    space.write("a", "in\n");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "in\n");
    assert!(space.log("t").contains("mosbuild.yaml"), "it sees the workspace");
    let shown = space.json(&["show", "t", "--json"]);
    assert_eq!(shown["steps"][0]["sandboxed"], false, "{shown:#}");
    let text = space.run(&["show", "t"]).stdout;
    assert!(text.to_lowercase().contains("without a sandbox") || text.contains("not sandboxed"), "{text}");
    space.builds(&["t"]).counts(0, 1, 0);
    space.edit_yaml("    executor: host\n", "");
    space.edit_yaml("\n      ls \"$W\"", "");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.json(&["show", "t", "--json"])["steps"][0]["sandboxed"], true);
}

#[test]
fn a_missing_output_is_told_with_what_there_is() {
    let space = Space::new(&script("", "echo x > \"$OUT/other\""));
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    output.says("it succeeded, but did not make its output o").says("$OUT holds: other");
    space.edit_yaml("echo x > \"$OUT/other\"", "true");
    space.build(&["t"]).says("$OUT is empty; write outputs to \"$OUT\"/NAME");
    space.edit_yaml("true", "mkdir \"$OUT/o\"");
    let output = space.build(&["t"]);
    assert_eq!(output.code, Some(1));
    output.says("folder");
}

#[test]
fn a_memory_limit_stops_what_takes_more() {
    let space = Space::new(&script(
        "    tools: [perl]\n    memory: 64MiB\n",
        "perl -e '$x = \"a\" x (400 << 20); print length $x' > \"$OUT/o\"",
    ));
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let failure = output.failure("t");
    let said = failure["tail"].to_string() + &failure["message"].to_string();
    assert!(said.to_lowercase().contains("memory"), "{failure:#}");
    space.edit_yaml("64MiB", "2GiB");
    space.builds(&["t"]);
}

#[test]
fn an_input_edited_while_its_step_runs_is_a_snapshot_and_the_next_build_sees_the_edit() {
    let space = Space::new(&script("    inputs: [a]\n", "sleep 1.5\ncat a > \"$OUT/o\""));
    space.write("a", "before\n");
    let mut running = space.start(&["t"]);
    running.wait_for_start("t");
    std::thread::sleep(std::time::Duration::from_millis(700));
    space.write("a", "after\n");
    let output = running.finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(space.read("dist/t"), "before\n");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "after\n");
}

#[test]
fn a_definition_edited_while_its_step_runs_counts_in_the_next_build() {
    let space = Space::new(&script("", "sleep 1.5\necho before > \"$OUT/o\""));
    let mut running = space.start(&["t"]);
    running.wait_for_start("t");
    std::thread::sleep(std::time::Duration::from_millis(500));
    space.edit_yaml("echo before", "echo after");
    let output = running.finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(space.read("dist/t"), "before\n");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/t"), "after\n");
}

#[test]
fn makes_children_share_the_slots_of_the_build() {
    need("make", "make");
    let makefile = "all: 1 2 3 4 5 6\n%:\n\t@echo start >> log; sleep 0.4; echo end >> log\n";
    let space = Space::new(&script(
        "    inputs: [Makefile]\n    tools: [make]\n",
        "make -s\nawk '/start/ { n++; if (n > max) max = n } /end/ { n-- } END { print max }' log > \"$OUT/o\"",
    ));
    space.write("Makefile", makefile);
    for jobs in ["1", "2", "3"] {
        space.builds(&["-j", jobs, "--force", "t", "t"]);
        assert_eq!(space.read("dist/t").trim(), jobs, "children of make at once with -j {jobs}");
        let log = space.run(&["log", "t"]).stdout;
        assert!(!log.contains("jobserver"), "make complains: {log}");
    }
}

#[test]
fn two_makes_share_the_same_slots() {
    need("make", "make");
    // Both write when they start and end; the host executor lets them write to one file.
    let yaml = |name: &str| {
        format!(
            "  {name}:\n    rule: command\n    executor: host\n    inputs: [Makefile, where]\n    tools: [make]\n    \
             run: 'LOG=$(cat where) make -s; echo {name} > \"$OUT/o\"'\n    outputs: [o]\n"
        )
    };
    let space =
        Space::new(&format!("targets:\n{}{}  all: {{ rule: group, deps: [a, b] }}\n", yaml("a"), yaml("b")));
    space.write("Makefile", "all: 1 2 3 4\n%:\n\t@echo start >> $(LOG); sleep 0.3; echo end >> $(LOG)\n");
    let log = space.base().join("log");
    space.write("where", log.to_str().unwrap());
    space.builds(&["-j2", "all"]).counts(2, 0, 0);
    let mut text = String::new();
    std::fs::File::open(log).unwrap().read_to_string(&mut text).unwrap();
    let (mut now, mut most) = (0, 0);
    for line in text.lines() {
        now += if line == "start" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((most, now), (2, 0), "{text}");
}
