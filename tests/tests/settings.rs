//! Where the store is, how a host that refuses sandboxes is told, shells in sandboxes, and building without the cache.

use std::io::Write;
use std::process::{Command, Stdio};

use mosbuild_tests::{Space, need};

const ONE: &str = "targets:\n  a: { rule: command, run: 'echo a > \"$OUT/o\"', outputs: [o] }\n";

#[test]
fn the_store_is_where_the_flag_the_variable_or_the_settings_say() {
    let mut space = Space::new(ONE);
    let there = |name: &str| space.base().join(name).join("cas").is_dir();
    let flag = space.base().join("flag");
    space.builds(&["--cache-dir", flag.to_str().unwrap(), "a"]).counts(1, 0, 0);
    assert!(there("flag") && !there("store"));
    space.builds(&["a"]);
    assert!(there("store"));
    let config = space.base().join("home/.config/mosbuild");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(
        config.join("config.yaml"),
        format!("cache_dir: {}\n", space.base().join("configured").display()),
    )
    .unwrap();
    space.env("MOSBUILD_CACHE_DIR", "");
    space.builds(&["--force", "a", "a"]);
    assert!(space.base().join("configured/cas").is_dir());
    std::fs::write(config.join("config.yaml"), "cache_dri: x\n").unwrap();
    let output = space.build(&["a"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("cache_dri").says("cache_dir");
    std::fs::remove_file(config.join("config.yaml")).unwrap();
    space.builds(&["--force", "a", "a"]);
    assert!(space.base().join("home/.cache/mosbuild/cas").is_dir());
    space.env("MOSBUILD_JOBS", "many");
    assert_eq!(space.build(&["a"]).says("MOSBUILD_JOBS").code, Some(2));
}

#[test]
fn what_is_remembered_of_one_store_is_no_hit_in_another() {
    let space = Space::new(ONE);
    space.builds(&["a"]).counts(1, 0, 0);
    let other = space.base().join("other");
    space.builds(&["--cache-dir", other.to_str().unwrap(), "a"]).counts(1, 0, 0);
    space.remove("dist");
    let output = space.builds(&["--cache-dir", other.to_str().unwrap(), "a"]);
    output.counts(0, 1, 0);
    assert!(!output.stderr.contains("warning"), "{output}");
}

#[test]
fn a_store_that_cannot_be_written_is_still_read() {
    need("unshare", "util-linux");
    let space = Space::new(ONE);
    space.builds(&["a"]);
    space.edit_yaml("echo a", "echo b");
    let store = space.store().display().to_string();
    for (args, code) in
        [(["why", "a", "--predict"], 10), (["list", "--color", "never"], 0), (["build", "a", "-q"], 1)]
    {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-Urm", "sh", "-c", script, &store]).arg(mosbuild_tests::program()).args(args);
        let output = command.current_dir(space.root()).env("MOSBUILD_CACHE_DIR", &store).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        if code == 1 {
            assert!(said.contains("Read-only file system"), "{said}");
        }
    }
}

#[test]
fn without_the_cache_nothing_is_taken_and_nothing_kept() {
    let space = Space::new(ONE);
    space.builds(&["--no-cache", "a"]).counts(1, 0, 0);
    space.builds(&["--no-cache", "a"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/a"), "a\n");
    space.builds(&["a"]).counts(1, 0, 0);
    space.builds(&["a"]).counts(0, 1, 0);
}

#[test]
fn a_host_that_refuses_sandboxes_is_told_why_and_what_to_do() {
    need("unshare", "util-linux");
    let space = Space::new(&format!(
        "{ONE}  h: {{ rule: command, executor: host, run: 'echo h > \"$OUT/o\"', outputs: [o] }}\n"
    ));
    let refused = |target: &str| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces; exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-Ur", "sh", "-c", script, "sh"])
            .arg(mosbuild_tests::program())
            .args(["build", target]);
        command.current_dir(space.root()).env("MOSBUILD_CACHE_DIR", space.store());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused("a");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("steps cannot be sandboxed here: user.max_user_namespaces is 0"), "{said}");
    assert!(
        said.contains("sysctl -w user.max_user_namespaces=") && said.contains("executor: host"),
        "{said}"
    );
    let (code, said) = refused("h");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(space.read("dist/h"), "h\n");
}

#[test]
fn a_shell_stands_where_the_step_ran() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'echo made > \"$OUT/o\"', outputs: [o] }\n  \
         t: { rule: command, inputs: [in.txt], deps: { a: a }, env: { MINE: x }, run: 'exit 9', outputs: [o] }\n",
    );
    space.write("in.txt", "in\n");
    let before = space.run(&["shell", "t", "--", "true"]);
    assert_eq!(before.code, Some(1), "{before}");
    before.says("mosbuild build a");
    assert_eq!(space.build(&["t"]).code, Some(1));
    let output = space.run(&[
        "shell",
        "t",
        "--",
        "sh",
        "-c",
        "pwd; ls; cat in.txt $a; echo $MINE; echo lost > in.txt",
    ]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(output.stdout, "/build/work\nin.txt\nin\nmade\nx\n");
    assert_eq!(space.read("in.txt"), "in\n");
    assert_eq!(space.run(&["shell", "t", "--", "false"]).code, Some(1));
    // As with a person, but through a pipe.
    let mut command = space.command(&["shell", "t"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"cat $a\nexit 5\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("made"), "{said}{told}");
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("exit 9"), "the introduction shows what the step runs: {told}");
    space.assert_clean();
}

#[test]
fn runs_and_logs_of_the_past() {
    let space = Space::new(
        "targets:\n  t: { rule: command, inputs: [in.txt], run: 'echo log of $(cat in.txt); cp in.txt \"$OUT/o\"', outputs: [o] }\n",
    );
    space.write("in.txt", "one");
    space.builds(&["t"]);
    space.write("in.txt", "two");
    space.builds(&["t"]);
    space.builds(&["t"]);
    assert_eq!(space.log("t"), "log of two\n", "a hit shows the output of the run that made it");
    let runs = space.run(&["runs"]).stdout;
    assert_eq!(runs.lines().count(), 4, "a head and three runs: {runs}");
    let (code, _) = space.why("t");
    assert_eq!(code, 0);
    let unknown = space.run(&["log", "u"]);
    assert_eq!(unknown.code, Some(2), "{unknown}");
}

#[test]
fn doctor_is_content_with_what_is_there() {
    let space = Space::new(ONE);
    let output = space.run(&["doctor"]);
    assert_eq!(output.code, Some(0), "{output}");
}
