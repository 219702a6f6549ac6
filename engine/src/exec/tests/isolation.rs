//! What a step sees, and what it cannot do to it.

use super::*;

#[test]
fn a_read_only_input_stays_so_whatever_the_step_tries() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("in")).unwrap();
    std::fs::write(bench.path("in/file"), "kept").unwrap();
    // exec would take the powers of a nested namespace away again, so this stays in one process: unshare user and
    // mount namespaces, show the capabilities, remount /in read-write, unmount it, write.
    let nested = r#"
        syscall(272, 0x10020000) == 0 or die "unshare: $!";
        open(S, "/proc/self/status"); print grep(/CapEff/, <S>);
        my ($in, $none) = ("/in", "none");
        syscall(165, $none, $in, $none, 0x1020, 0) == 0 ? print "remounted\n" : print "remount: $!\n";
        syscall(166, $in, 2) == 0 ? print "unmounted\n" : print "umount: $!\n";
        open(F, ">", "/in/file") ? print "opened\n" : print "open: $!\n";
    "#;
    let mut job = bench.job(
        "set +e
        echo bad > /in/file
        mount -o remount,bind,rw /in
        umount /in
        mount -t tmpfs none /in
        mount --bind /in /build
        unshare -Urm sh -c 'mount -o remount,bind,rw /in; umount /in; echo bad > /in/file'
        perl -e \"$NESTED\"
        chroot / sh -c 'echo bad > /in/file'
        setpriv --ambient-caps +all --inh-caps +all true
        touch /new
        echo bad > /usr/new
        rm -rf /in/file
        grep Cap /proc/self/status
        exit 0",
    );
    job.mounts.push(Mount::read_only(bench.path("in"), "/in"));
    job.env.push(("NESTED".into(), nested.into()));
    assert!(bench.run(&job).success(), "{}", bench.log());
    let log = bench.log();
    assert_eq!(std::fs::read_to_string(bench.path("in/file")).unwrap(), "kept");
    assert!(!Path::new("/usr/new").exists());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(log.contains(&format!("{set}:\t0000000000000000")), "{set} in {log}");
    }
    // The nested namespace was made and its first process has power in it, so it proves something.
    let refused = "remount: Operation not permitted\numount: Invalid argument\nopen: Read-only file system\n";
    assert!(log.contains("CapEff:\t000001ff") && log.contains(refused), "{log}");
}

#[test]
fn writable_places_reach_the_host() {
    let bench = Bench::new();
    bench.output("echo made > /out/file; mkdir /build/dir; umask");
    assert_eq!(std::fs::read_to_string(bench.path("out/file")).unwrap(), "made\n");
    let metadata = std::fs::metadata(bench.path("out/file")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o644);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    assert!(bench.path("build/dir").is_dir());
}

#[test]
fn there_is_no_network() {
    let bench = Bench::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = bench.output(&format!(
        "cat /proc/net/dev; cat /proc/net/route
        bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' && echo reached || echo refused"
    ));
    let devices: Vec<_> = log.lines().filter(|line| line.contains(':')).map(str::trim_start).collect();
    assert!(
        devices.iter().filter(|line| !line.contains("bash")).all(|line| line.starts_with("lo:")),
        "{log}"
    );
    assert!(log.ends_with("refused\n"), "{log}");
}

#[test]
fn loopback_is_there_for_tests_that_talk_to_themselves() {
    let log = Bench::new().output("bash -c 'exec 3<>/dev/tcp/127.0.0.1/9' 2>&1 || true");
    assert!(log.contains("Connection refused"), "{log}");
}

#[test]
fn undeclared_files_of_the_host_are_not_there() {
    let bench = Bench::new();
    std::fs::write(bench.path("secret"), "secret").unwrap();
    let secret = bench.path("secret");
    let log = bench
        .output(&format!("ls -A /; ls -A /home /root 2>&1 || true; cat {} 2>&1 || true", secret.display()));
    let root: Vec<_> = log.lines().take_while(|line| !line.starts_with("ls:")).collect();
    assert!(log.contains("No such file or directory") && !log.contains("\nsecret\n"), "{log}");
    for name in root {
        let known = ["bin", "build", "dev", "etc", "lib", "lib64", "out", "proc", "sbin", "tmp", "usr"];
        assert!(known.contains(&name), "{name} in {log}");
    }
}

#[test]
fn the_surroundings_are_the_same_everywhere() {
    let bench = Bench::new();
    // SAFETY: of no other test's concern: this variable is read by nobody.
    unsafe { std::env::set_var("MOSBUILD_TEST_LEAK", "leaked") };
    let mut job = bench.job(
        "env; hostname; umask; id -u; id -g; pwd; echo pid $$; ulimit -c; ls /proc/self/fd; cat; ls -A /tmp",
    );
    job.env.push(("LC_ALL".into(), "C.UTF-8".into()));
    assert!(bench.run(&job).success());
    // ls has 0, 1, 2 and the folder it reads.
    let expected = "LC_ALL=C.UTF-8\nPATH=/usr/bin:/bin:/usr/sbin\nPWD=/build\nmosbuild\n0022\n0\n0\n/build\npid 2\n0\n0\n1\n2\n3\n";
    let mut lines: Vec<_> = bench.log().lines().map(str::to_owned).collect();
    lines[..3].sort();
    assert_eq!(lines.join("\n") + "\n", expected);
}

#[test]
fn devices_and_scratch_work() {
    let log = Bench::new().output(
        "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c
        echo through > /dev/stderr; echo t > /tmp/t; echo s > /dev/shm/s; cat /dev/fd/0 < /tmp/t
        chmod 666 /dev/null 2>/dev/null && echo changed
        ls /dev | tr '\\n' ' '; ls -d /proc/[0-9]* | wc -l",
    );
    let expected = "4\n4\nthrough\nt\nfd full null random shm stderr stdin stdout tty urandom zero ";
    let processes = log.strip_prefix(expected).unwrap_or_else(|| panic!("{log}"));
    // init, the shell, ls, wc: the host's are not among them.
    assert!(processes.trim().parse::<usize>().unwrap() <= 5, "{log}");
}

#[test]
fn process_one_can_be_neither_read_nor_traced() {
    let log = Bench::new().output(
        "set +e; head -c 1 /proc/1/mem; cat /proc/1/environ; cat /proc/1/fd/2; ls /proc/1/root; kill -9 1; sleep 0.1; echo alive",
    );
    assert_eq!(log.matches("Permission denied").count(), 4, "{log}");
    assert!(log.ends_with("alive\n"), "{log}");
}

#[test]
fn an_overlay_keeps_its_layers() {
    let bench = Bench::new();
    // Names that overlayfs's option syntax would take for its own.
    let (low, top) = (bench.path("lo,w:er\\"), bench.path("top"));
    for dir in [&low, &top, &bench.path("up:per,"), &bench.path("wo:rk")] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(low.join("a"), "low a").unwrap();
    std::fs::write(low.join("b"), "low b").unwrap();
    std::fs::write(top.join("a"), "top a").unwrap();
    let mut job = bench.job("cat /over/a /over/b; echo new > /over/c; rm /over/b; mkdir /over/d");
    job.mounts.push(Mount::Overlay {
        lower: vec![top.clone(), low.clone()],
        upper: bench.path("up:per,"),
        work: bench.path("wo:rk"),
        at: "/over".into(),
    });
    assert!(bench.run(&job).success(), "{}", bench.log());
    assert_eq!(bench.log(), "top alow b");
    assert_eq!(std::fs::read_to_string(bench.path("up:per,/c")).unwrap(), "new\n");
    assert!(low.join("b").exists() && bench.path("up:per,/d").is_dir());
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let whiteout = std::fs::symlink_metadata(bench.path("up:per,/b")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

#[test]
fn a_refused_overlay_is_told_apart() {
    let bench = Bench::new();
    let mut job = bench.job("true");
    job.mounts.push(Mount::Overlay {
        lower: vec![bench.path("build")],
        upper: bench.path("out"),
        work: bench.path("absent"),
        at: "/over".into(),
    });
    let error = Sandbox.run(&job, &()).unwrap_err();
    assert!(error.is_overlay_refused(), "{error}");
}

#[test]
fn mounts_lie_in_each_other_and_no_symlink_leads_out() {
    let bench = Bench::new();
    std::os::unix::fs::symlink("/etc", bench.path("build/link")).unwrap();
    std::fs::write(bench.path("one"), "one").unwrap();
    let mut job = bench
        .job("cat /build/sub/one /etc/mosbuild-test; test -d /build/deep/er; df /build/mem | grep -c tmpfs");
    job.mounts.extend([
        Mount::read_only(bench.path("one"), "/build/sub/one"),
        Mount::File { at: "/build/link/mosbuild-test".into(), contents: b"two".to_vec() },
        Mount::Dir { at: "/build/deep/er".into() },
        Mount::Tmpfs { at: "/build/mem".into(), size: 1 << 20 },
    ]);
    assert!(bench.run(&job).success(), "{}", bench.log());
    assert_eq!(bench.log(), "onetwo1\n");
    assert!(!Path::new("/etc/mosbuild-test").exists());
}

#[test]
fn failures_of_the_set_up_name_the_path_and_the_way_out() {
    let bench = Bench::new();
    let with = |mount| {
        let mut job = bench.job("true");
        job.mounts.push(mount);
        Sandbox.run(&job, &()).unwrap_err().to_string()
    };
    assert_eq!(
        with(Mount::read_only("/nowhere/x", "/in")),
        "preparing the sandbox: binding /nowhere/x at /in: No such file or directory (os error 2)"
    );
    assert!(
        with(Mount::Dir { at: "/usr/new".into() })
            .contains("; it would have to be made in a read-only mount")
    );
    assert!(with(Mount::Dir { at: "/a/../b".into() }).contains("cannot be a place"));

    let absent = Job { cwd: "/absent".into(), ..bench.job("true") };
    let text = Sandbox.run(&absent, &()).unwrap_err().to_string();
    assert!(text.contains("entering /absent") && text.contains("no mount brings"), "{text}");

    let unknown =
        Job { argv: vec!["flex".into()], env: vec![("PATH".into(), "/nonexistent".into())], ..bench.job("") };
    let text = Sandbox.run(&unknown, &()).unwrap_err().to_string();
    assert_eq!(text, "flex: command not found; add it to tools");

    std::fs::write(bench.path("build/data"), "data").unwrap();
    let data = Job { argv: vec!["/build/data".into()], ..bench.job("") };
    let text = Sandbox.run(&data, &()).unwrap_err().to_string();
    assert!(text.contains("cannot execute /build/data: Permission denied"), "{text}");
}
