//! Steps in containers, as far as that needs no daemon: what is asked of one, and what is said where it is absent, refuses,
//! dies, or answers badly. Real ones are for scripts/test-container.

use mosbuild_tests::fake_daemon::{FakeDaemon, IMAGE, IMAGE_ID, Manners};
use mosbuild_tests::{Output, Space, cause, need, scratch_left, wait_until};
use serde_json::{Value, json};

const ONE: &str = "container: { image: 'builder:1' }\ntargets:\n  a:\n    rule: command\n    executor: container\n    \
    inputs: [in put/ü.txt]\n    tools: [no-tool-of-this-host]\n    run: 'echo made > \"$OUT/o\"'\n    outputs: [o]\n";

fn space(yaml: &str) -> Space {
    let space = Space::new(yaml);
    space.write("in put/ü.txt", "x");
    space
}

fn with(yaml: &str, manners: Manners) -> (Space, FakeDaemon) {
    let mut space = space(yaml);
    let daemon = FakeDaemon::start(&space.base().join("d.sock"), manners);
    space.env("DOCKER_HOST", daemon.host());
    (space, daemon)
}

fn well() -> Manners {
    Manners { makes: Some("made\n"), ..Manners::default() }
}

/// A build that fails with this code and says these.
#[track_caller]
fn fails(space: &Space, code: i32, says: &[&str]) -> Output {
    let output = space.build(&["a"]);
    assert_eq!(output.code, Some(code), "{output}");
    for text in says {
        output.says(text);
    }
    output
}

#[test]
fn a_step_in_a_container_sees_its_inputs_and_nothing_else_and_leaves_its_outputs() {
    let (space, daemon) = with(ONE, well());
    space.builds(&["a"]).counts(1, 0, 0);
    assert_eq!(space.read("dist/a"), "made\n");
    assert_eq!(space.log("a"), "from the container\n");
    let made = &daemon.asked_for("POST /containers/create")[0].body;
    let host = &made["HostConfig"];
    assert_eq!((&made["Image"], &made["WorkingDir"]), (&json!(IMAGE_ID), &json!("/build/work")));
    assert_eq!((&host["NetworkMode"], &host["ReadonlyRootfs"]), (&json!("none"), &json!(true)));
    assert_eq!((&host["CapDrop"], &host["SecurityOpt"]), (&json!(["ALL"]), &json!(["no-new-privileges"])));
    let env: Vec<&str> = made["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for line in ["PATH=/usr/bin:/bin", "OUT=/build/out", "HOME=/build/home", "TZ=UTC", "LC_ALL=C.UTF-8"] {
        assert!(env.contains(&line), "{line}: {env:?}");
    }
    assert!(made["Labels"]["mosbuild.owner"].as_str().unwrap().contains(' '), "{made}");
    assert_eq!(daemon.asked_for("DELETE /containers/c1").len(), 1);
    // The image's id is in the key, the host's tools are not: there is no such tool here.
    let shown = space.run(&["show", "a"]).stdout;
    assert!(shown.contains("container") && shown.contains(IMAGE_ID), "{shown}");
    space.builds(&["a"]).counts(0, 1, 0);
    space.forget_stamp();
    space.builds(&["a"]).counts(0, 1, 0);
    assert_eq!(daemon.asked_for("POST /containers/create").len(), 1);
    space.assert_clean();
}

#[test]
fn a_tag_that_moved_is_noticed_and_why_names_both_images() {
    let (space, daemon) = with(ONE, well());
    space.builds(&["a"]).counts(1, 0, 0);
    drop(daemon);
    let other = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
    let moved = Manners { image_id: Some(other), ..well() };
    let _daemon = FakeDaemon::start(&space.base().join("d.sock"), moved);
    let (code, answer) = space.why_with("a", &["--predict"]);
    assert_eq!(code, 10);
    let found = cause(&answer, "tool", "container image");
    assert_eq!((&found["old"], &found["new"]), (&json!(IMAGE_ID), &json!(other)));
    // Although no file has changed.
    space.builds(&["a"]).counts(1, 0, 0);
    let told = space.run(&["why", "a"]);
    assert!(told.stdout.contains("container image"), "{told}");
}

#[test]
fn a_switch_of_executor_is_one_cause_and_its_tools_are_none() {
    let yaml = ONE
        .replace("    executor: container\n", "    executor: sandbox\n")
        .replace("no-tool-of-this-host", "");
    let yaml = yaml.replace("    tools: []\n", "");
    let (space, _daemon) = with(&yaml, well());
    space.builds(&["a"]);
    space.edit_yaml("executor: sandbox", "executor: container");
    let output = space.builds(&["a"]);
    output.counts(1, 0, 0);
    let (code, answer) = space.why("a");
    assert_eq!(code, 10);
    let found = cause(&answer, "spec", "executor");
    assert_eq!((&found["old"], &found["new"]), (&json!("sandbox"), &json!("container")));
    assert_eq!(answer["causes"].as_array().unwrap().len(), 1, "{answer:#}");
    // Keyed apart, and the same bytes.
    let finished = output.events.iter().find(|e| e["event"] == "step_finished").unwrap();
    assert_eq!(finished["same_output"], true, "{finished}");
}

#[test]
fn no_socket_is_told_with_the_ways_to_one() {
    let mut space = space(ONE);
    space.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    fails(
        &space,
        3,
        &["no daemon that runs containers", "/nonexistent/docker.sock", "systemctl start docker"],
    );
    space.env("DOCKER_HOST", "tcp://build.example:2375");
    fails(&space, 3, &["does not see the files that steps are given"]);
    let doctor = space.run(&["doctor"]);
    assert_eq!(doctor.code, Some(3), "{doctor}");
    // Who only asks is answered.
    let listed = space.run(&["list"]);
    assert!(listed.code == Some(0) && listed.stdout.contains("blocked"), "{listed}");
}

#[test]
fn a_socket_that_nobody_listens_at_or_that_talks_nonsense_is_told() {
    let (mut space, daemon) = with(ONE, Manners { babbles: true, ..well() });
    fails(&space, 3, &["gives no proper answer", "docker version"]);
    drop(daemon);
    let path = space.base().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    space.env("DOCKER_HOST", format!("unix://{}", path.display()));
    fails(&space, 3, &["nobody listens", "systemctl start docker"]);
}

#[test]
#[allow(clippy::print_stderr)]
fn a_socket_that_one_may_not_use_names_the_group() {
    if std::fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap() != 0 {
        eprintln!("did not run: only root can make a socket that the user of the test may not use");
        return;
    }
    let mut space = space(ONE);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(dir.path(), open).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    space.env("DOCKER_HOST", format!("unix://{}", path.display()));
    let space = space.as_plain_user();
    fails(&space, 3, &["Permission denied", "usermod -aG docker"]);
}

#[test]
fn an_absent_image_is_pulled_with_progress_and_a_failed_pull_says_how_to_do_without() {
    let (space, daemon) = with(ONE, Manners { has_no_image: true, ..well() });
    // Who only asks pulls nothing.
    let listed = space.run(&["list"]);
    assert!(listed.stdout.contains("has no image builder:1"), "{listed}");
    let output = space.builds(&["a"]);
    output.says("image builder:1: 5 B of 10 B");
    assert!(output.events.iter().any(|e| e["event"] == "image" && e["done"] == 5), "{output}");
    let pulled = &daemon.asked_for("POST /images/create")[0].query;
    assert!(pulled.contains("fromImage=builder") && pulled.contains("tag=1"), "{pulled}");
    drop(daemon);

    let broken = Manners { has_no_image: true, pull_fails: Some("manifest unknown"), ..well() };
    let (space, _daemon) = with(ONE, broken);
    fails(&space, 3, &["pulling builder:1: manifest unknown", "archive: FILE.tar"]);
}

#[test]
fn an_archive_is_loaded_once_and_only_where_the_image_is_absent() {
    let yaml = ONE.replace("image: 'builder:1'", "archive: image.tar");
    let (space, daemon) = with(&yaml, Manners { has_no_image: true, ..well() });
    write_archive(&space.path("image.tar"));
    space.builds(&["a"]).says("image.tar:");
    space.forget_stamp();
    space.builds(&["a"]);
    assert_eq!(daemon.asked_for("POST /images/load").len(), 1);
    // What the daemon has is looked for by the id that is in the archive.
    assert!(daemon.asked().iter().any(|a| a.what.starts_with("GET /images/sha256:")), "{:?}", daemon.asked());
    space.write("image.tar", "no archive");
    space.forget_stamp();
    fails(&space, 3, &["image.tar: not a tar archive", "docker save -o FILE"]);
}

#[test]
fn no_image_named_or_one_for_another_machine_is_refused_before_anything_runs() {
    let (space, _daemon) = with(&ONE.replace("container: { image: 'builder:1' }\n", ""), well());
    fails(&space, 3, &["no image is named", "MOSBUILD_CONTAINER_IMAGE"]);
    let (space, daemon) = with(ONE, Manners { arch: Some("s390x"), ..well() });
    fails(&space, 3, &["builder:1 is an image for s390x, and this machine is amd64"]);
    assert!(daemon.asked_for("POST /containers").is_empty());
}

#[test]
fn a_daemon_that_dies_in_mid_step_fails_the_step_and_says_so() {
    let (space, _daemon) = with(ONE, Manners { dies: true, ..well() });
    fails(&space, 1, &["went away while the step ran", "start it again"]);
    assert!(scratch_left(space.store()).is_empty());
}

#[test]
fn what_the_daemon_refuses_is_told_with_what_helps() {
    for (what, code, message, exit, says) in [
        ("POST /containers/create", 500, "mkdir /var/lib: no space left on device", 1, "docker system prune"),
        (
            "POST /containers/c1/start",
            500,
            "crun: cgroups in hybrid mode not supported",
            3,
            "runtime = \"runc\"",
        ),
        ("POST /containers/create", 400, "bind source path does not exist: /x", 3, "--cache-dir"),
        (
            "POST /containers/c1/start",
            400,
            "exec: \"sh\": executable file not found in $PATH",
            3,
            "sh: command not found in the image builder:1",
        ),
        ("POST /containers/create", 404, "No such image: builder:1", 3, "brought in anew"),
    ] {
        let (space, daemon) = with(ONE, Manners { refuses: vec![(what, code, message)], ..well() });
        fails(&space, exit, &[says]);
        // What was made is removed all the same.
        assert_eq!(
            daemon.asked_for("DELETE /containers/c1").len(),
            usize::from(what.ends_with("start")),
            "{says}"
        );
        assert!(scratch_left(space.store()).is_empty());
    }
}

#[test]
fn memory_and_time_end_a_step_each_with_its_name() {
    let limited = ONE.replace("    outputs:", "    memory: 64MiB\n    outputs:");
    let (space, daemon) = with(&limited, Manners { exit: 137, out_of_memory: true, ..well() });
    fails(&space, 1, &["for want of memory", "64 MiB in all"]);
    assert_eq!(daemon.asked_for("POST /containers/create")[0].body["HostConfig"]["Memory"], 64 << 20);
    let (space, daemon) =
        with(&ONE.replace("    outputs:", "    timeout: 1\n    outputs:"), Manners { hangs: true, ..well() });
    fails(&space, 1, &["its time limit passed"]);
    assert_eq!(daemon.asked_for("POST /containers/c1/kill").len(), 1);
    assert_eq!(daemon.asked_for("DELETE /containers/c1").len(), 1);
}

#[test]
fn an_interrupt_kills_and_removes_the_container() {
    let (space, daemon) = with(ONE, Manners { hangs: true, ..well() });
    let mut running = space.start(&["a"]);
    running.wait_for_start("a");
    assert!(wait_until(|| !daemon.asked_for("POST /containers/c1/start").is_empty()));
    running.signal("INT");
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    assert_eq!(daemon.asked_for("DELETE /containers/c1").len(), 1);
}

#[test]
fn only_containers_of_the_dead_are_swept() {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().to_owned();
    let (boot, ns, me) = (boot.trim(), space.display(), std::process::id());
    let left = vec![
        ("mine", format!("{boot} {ns} {me} {start}")),
        ("dead", format!("{boot} {ns} {me} 1")),
        ("other", format!("{boot} pid:[1] {me} 1")),
        ("unknown", "of whom?".to_owned()),
    ];
    let (space, daemon) = with(ONE, Manners { left, ..well() });
    space.builds(&["a"]);
    let removed: Vec<String> = daemon.asked_for("DELETE").into_iter().map(|a| a.what).collect();
    assert_eq!(removed, ["DELETE /containers/dead", "DELETE /containers/c1"]);
}

#[test]
fn users_that_are_mapped_and_labels_are_seen_to() {
    let mapped = Manners { security: vec!["name=seccomp,profile=default", "name=userns"], ..well() };
    let (space, daemon) = with(ONE, mapped);
    space.builds(&["a"]);
    assert_eq!(daemon.asked_for("POST /containers/create")[0].body["HostConfig"]["UsernsMode"], "host");
    let (space, daemon) = with(ONE, Manners { security: vec!["name=rootless"], ..well() });
    space.builds(&["a"]);
    assert_eq!(daemon.asked_for("POST /containers/create")[0].body["User"], "0:0");
    let labelled = ONE.replace("image: 'builder:1'", "image: 'builder:1', relabel: true");
    let (space, daemon) = with(&labelled, Manners { security: vec!["name=selinux"], makes: None, ..well() });
    // The fake daemon finds no output where binds are told the older way.
    fails(&space, 1, &["did not make its output"]);
    let binds = daemon.asked_for("POST /containers/create")[0].body["HostConfig"]["Binds"].clone();
    assert!(binds.as_array().unwrap().iter().all(|b| b.as_str().unwrap().ends_with(",z")), "{binds}");
}

#[test]
fn target_rule_workspace_and_user_choose_in_this_order() {
    let three = |top: &str| {
        format!(
            "{top}container: {{ image: 'builder:1' }}\ntargets:\n  a: {{ rule: command, run: 'echo made > \"$OUT/o\"', \
             outputs: [o] }}\n  b: {{ rule: command, executor: sandbox, run: 'echo b > \"$OUT/o\"', outputs: [o] }}\n"
        )
    };
    let by = |space: &Space, target: &str| {
        let shown = space.run(&["show", target]).stdout;
        let line = shown
            .lines()
            .find(|line| line.contains("executor"))
            .unwrap_or_else(|| panic!("{shown}"))
            .to_owned();
        ["sandbox", "container", "host"].into_iter().find(|word| line.contains(word)).unwrap_or("none")
    };
    for (top, user, a) in [
        ("", "", "sandbox"),
        ("", "container", "container"),
        ("", "host", "host"),
        ("executor: container\n", "host", "container"),
        ("executor: auto\n", "", "sandbox"),
        ("executor: { command: container, default: host }\n", "", "container"),
        ("executor: { kernel: container, default: host }\n", "", "host"),
    ] {
        let (mut space, _daemon) = with(&three(top), well());
        space.env("MOSBUILD_EXECUTOR", user);
        space.builds(&["a", "b"]).counts(2, 0, 0);
        assert_eq!((by(&space, "a"), by(&space, "b")), (a, "sandbox"), "{top:?} {user:?}");
    }
    let space = space(&three("executor: { comand: host }\n"));
    fails(&space, 2, &["comand", "did you mean `command`?"]);
    let space = self::space(&three("executor: docker\n"));
    fails(&space, 2, &["executor", "auto"]);
}

#[test]
fn auto_takes_a_container_where_the_sandbox_is_refused_and_doctor_says_why() {
    need("unshare", "util-linux");
    let yaml =
        ONE.replace("    executor: container\n", "").replace("    tools: [no-tool-of-this-host]\n", "");
    let (space, daemon) = with(&yaml, well());
    let refusing = |args: &[&str]| {
        let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"";
        let plain = space.command(args);
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script]).arg(plain.get_program()).args(args);
        command.current_dir(space.root()).env_clear();
        plain.get_envs().for_each(|(name, value)| {
            command.env(name, value.unwrap_or_default());
        });
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = refusing(&["doctor"]);
    assert!(text.contains("auto is the container") && text.contains("max_user_namespaces is 0"), "{text}");
    assert!(text.contains("Docker 1.0") && text.contains(IMAGE), "{text}");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = refusing(&["build", "a"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(daemon.asked_for("POST /containers/create").len(), 1);
    space.yaml(&yaml[yaml.find("targets").unwrap()..]);
    let (code, text) = refusing(&["build", "a"]);
    assert_eq!(code, Some(3), "{text}");
    for said in ["steps cannot be sandboxed here", "sysctl -w", "no image is named", "executor: host"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn a_proc_that_is_partly_covered_as_in_a_container_is_no_obstacle_to_the_sandbox() {
    need("unshare", "util-linux");
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'readlink /proc/self > \"$OUT/o\"', outputs: [o] }\n",
    );
    let script = "mount -t tmpfs none /proc/fs && mount -t tmpfs none /proc/bus && exec \"$0\" build a";
    let plain = space.command(&["build", "a"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(plain.get_program());
    command.current_dir(space.root()).env_clear();
    plain.get_envs().for_each(|(name, value)| {
        command.env(name, value.unwrap_or_default());
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(space.read("dist/a").trim().parse::<u32>().is_ok(), "{}", space.read("dist/a"));
}

#[test]
fn what_needs_paths_of_its_own_cannot_run_on_the_host() {
    let space = Space::new(
        "targets:\n  linux: { rule: linux, source: { path: src }, base: tinyconfig, executor: host }\n",
    );
    space.write("src/Makefile", "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 0\n");
    let output = space.build(&["linux"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("mosbuild.yaml:4: linux: a linux cannot run on the host itself");
}

/// An archive with the configuration of an image.
fn write_archive(path: &std::path::Path) {
    let config = r#"{"architecture":"amd64","os":"linux","config":{}}"#;
    let list = r#"[{"Config":"c.json","RepoTags":["builder:1"],"Layers":[]}]"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.json"), config).unwrap();
    std::fs::write(dir.path().join("manifest.json"), list).unwrap();
    let status = std::process::Command::new("tar")
        .arg("-cf")
        .arg(path)
        .arg("-C")
        .arg(dir.path())
        .args(["c.json", "manifest.json"])
        .status();
    assert!(status.unwrap().success());
}
