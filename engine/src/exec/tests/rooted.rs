//! A job with a root of its own: what its root user may do, and whom the files belong to afterwards.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A small root of the host's own programs and their libraries.
fn small_root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    let programs =
        "sh cat chmod chown chroot cp ln ls mkdir mknod mount mv perl rm sleep stat touch unshare umount";
    let mut files = BTreeSet::new();
    for name in programs.split(' ') {
        let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|place| Path::new(place).join(name));
        let program = places.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name}"));
        let listed = Command::new("ldd").arg(&program).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        files.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy(program, root.join("bin").join(name)).unwrap();
    }
    for file in files {
        let to = root.join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::fs::create_dir(root.join("d")).unwrap();
    root
}

fn rooted(bench: &Bench, root: PathBuf, script: &str) -> Job {
    Job {
        argv: ["/bin/sh", "-eu", "-c", script].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/bin:/usr/bin:/sbin:/usr/sbin".into())],
        root: Some(root),
        log: bench.path("log"),
        ..Job::default()
    }
}

/// A bench with such a root, and the owners that a script gives.
struct Rooted {
    bench: Bench,
    root: PathBuf,
}

impl Rooted {
    fn new() -> Self {
        let bench = Bench::new();
        let root = small_root(bench.dir.path());
        Self { bench, root }
    }

    fn job(&self, script: &str) -> Job {
        rooted(&self.bench, self.root.clone(), script)
    }

    fn output(&self, script: &str) -> (Outcome, String) {
        let _ = std::fs::remove_file(self.bench.path("log"));
        let outcome = self.bench.run(&self.job(script));
        assert!(outcome.success(), "{script}: {outcome:?}\n{}", self.bench.log());
        (outcome, self.bench.log())
    }

    fn owner(&self, outcome: &Outcome, path: &str) -> Option<(u32, u32)> {
        outcome.owners.of(&std::fs::symlink_metadata(self.root.join(path)).unwrap())
    }
}

#[test]
fn owners_are_recorded_and_no_file_is_given_away() {
    let rooted = Rooted::new();
    let (outcome, log) = rooted.output(
        "cd d; touch a b c e; ln -s a link; mkdir dir; ln b b2; ln -s /d/c far; ln -s ../../d up
        chown 5:6 a; chown 7 b2; chown :8 c; chown 0:0 e
        chown 1:2 e; chown 0:0 e
        chown -h 3:4 link; chown 9:9 far; chown :3 far; chown -R 11:12 dir; stat -c %u:%g a",
    );
    let of = |path| rooted.owner(&outcome, path);
    assert_eq!(of("d/a"), Some((5, 6)));
    assert_eq!((of("d/b"), of("d/b2")), (Some((7, 0)), Some((7, 0))));
    assert_eq!((of("d/c"), of("d/far")), (Some((9, 3)), None));
    assert_eq!((of("d/e"), of("d/link"), of("d/dir")), (None, Some((3, 4)), Some((11, 12))));
    assert_eq!(outcome.owners.len(), 5);
    assert_eq!(log, "0:0\n");
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(rooted.root.join("d")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().uid(), me);
    }
    assert_eq!(outcome.owners.clone(), outcome.owners);
}

#[test]
fn every_call_and_every_way_to_say_a_path_is_understood() {
    let rooted = Rooted::new();
    // Through a descriptor of a directory, `..` over it and over the root, links that leave it, a file without a name,
    // the working directory; and as the kernel counts them on this processor, the calls by number.
    let (outcome, log) = rooted.output(
        "mkdir -p d/e/f x; touch d/one d/two x/three d/e/five d/e/six x/s; ln -s ../../x d/e/x; ln -s /x d/e/abs
        ln -s . x/here; ln -s loop x/loop
        cd /d/e
        chown 10:1 ../one; chown 11:1 f/../../two; chown 12:1 ../../../../x/three; chown 13:1 x/../d/e/five
        chown 14:1 abs/s; chown 15:1 x/; chown -h 16:1 abs; chown 17:1 x/here/here/../d/e/f/; chown 18:1 .
        perl -e 'open(F, \"<\", \"six\") or die; chown(20, 1, *F) == 1 or die \"fchown $!\";
            open(G, \">\", \"gone\"); unlink \"gone\"; chown(21, 1, *G) == 1 or die \"gone: $!\";
            sub t { my ($what, $uid, $path) = @_; print $what, \" \", (chown($uid, 1, $path) ? \"ok\" : $!), \"\\n\"; }
            t(\"absent\", 1, \"nothing\"); t(\"empty\", 1, \"\"); t(\"no dir\", 1, \"six/x\"); t(\"slash\", 1, \"six/\");
            t(\"loop\", 1, \"/x/loop\"); t(\"long\", 1, \"a\" x 5000); t(\"proc\", 1, \"/proc/self/status\");
            t(\"magic\", 1, \"/proc/self/fd/1\"); t(\"null\", 1, \"/dev/null\"); t(\"up\", 1, \"../../../nothing\");'",
    );
    let of = |path| rooted.owner(&outcome, path).map(|(uid, _)| uid);
    for (path, uid) in [
        ("d/one", 10),
        ("d/two", 11),
        ("x/three", 12),
        ("d/e/five", 13),
        ("x/s", 14),
        ("x", 15),
        ("d/e/abs", 16),
        ("d/e/f", 17),
        ("d/e", 18),
        ("d/e/six", 20),
    ] {
        assert_eq!(of(path), Some(uid), "{path}");
    }
    assert_eq!(
        log,
        "absent No such file or directory\nempty No such file or directory\nno dir Not a directory\n\
         slash Not a directory\nloop Too many levels of symbolic links\nlong File name too long\n\
         proc Invalid argument\nmagic Invalid argument\nnull Read-only file system\nup No such file or directory\n"
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_calls_by_number() {
    let rooted = Rooted::new();
    let script = r#"perl -e '
        my ($a, $l, $e, $rel) = ("/d/a", "/d/l", "", "../d/b");
        open(A, ">", $_) for ($a, "/d/b", "/d/c"); symlink("c", $l); opendir(D, "/bin");
        sub t { print $_[0] == 0 ? "ok\n" : "$!\n" }
        t(syscall(92, $a, 1, 2)); t(syscall(94, $l, 3, 4)); t(syscall(93, fileno(A), 5, -1));
        t(syscall(260, fileno(D), $rel, 6, 7, 0)); t(syscall(260, fileno(A), $e, -1, 9, 0x1000));
        t(syscall(260, fileno(D), $l, 8, 8, 0)); t(syscall(260, fileno(D), $l, 8, 8, 0x7000));
        t(syscall(92, 12345, 1, 2)); t(syscall(93, 99, 1, 2)); t(syscall(260, fileno(D), $e, 1, 1, 0));
        open(A, "<", "/d/a"); my $s = "\0" x 200; syscall(262, fileno(A), $e, $s, 0x1000) == 0 or die;
        print join(":", (unpack("Q3L3", $s))[4,5]), "\n"; $s = "\0" x 200; syscall(262, fileno(D), $a, $s, 0x1000);
        print join(":", (unpack("Q3L3", $s))[4,5]), "\n"; t(syscall(5, fileno(A), 4096)); t(syscall(5, 99, $s));'"#;
    let (outcome, log) = rooted.output(script);
    let answers: Vec<_> = log.lines().collect();
    assert_eq!(answers[..6], ["ok"; 6]);
    assert_eq!(
        answers[6..],
        [
            "Invalid argument",
            "Bad address",
            "Bad file descriptor",
            "No such file or directory",
            "1:2",
            "0:0",
            "Bad address",
            "Bad file descriptor"
        ]
    );
    assert_eq!(rooted.owner(&outcome, "d/a"), Some((1, 2)));
    // The handle A was left on the last file.
    assert_eq!(rooted.owner(&outcome, "d/c"), Some((8, 8)));
    assert_eq!((rooted.owner(&outcome, "d/l"), rooted.owner(&outcome, "d/b")), (Some((3, 4)), Some((6, 7))));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn capabilities_of_files_are_captured_as_a_real_root_sets_them() {
    let rooted = Rooted::new();
    // setxattr of cap_net_bind_service=ep, as setcap does it.
    let (outcome, _) = rooted.output(
        r#"perl -e 'open(A, ">", "/d/tool"); my ($f, $n) = ("/d/tool", "security.capability");
        my $v = pack("V5", 0x2000001, 1024, 0, 0, 0);
        syscall(188, $f, $n, $v, 20, 0) == 0 or die "$!"; chown(3, 4, "/d") or die;'"#,
    );
    let store = mosbuild_cache::Store::open(&rooted.bench.path("store")).unwrap();
    let options = mosbuild_cache::CaptureOptions::outputs();
    let tree = store.capture_root(&rooted.root, options, &|meta| outcome.owners.of(meta)).unwrap();
    let entry = |path: &str| tree.iter().find(|entry| entry.path.as_bytes() == path.as_bytes()).unwrap();
    let value = [0x0200_0001u32, 1024, 0, 0, 0].map(u32::to_le_bytes).concat();
    assert_eq!(entry("d/tool").xattrs, [(b"security.capability".to_vec(), value)]);
    assert_eq!((entry("d").uid, entry("d").gid, entry("d/tool").uid), (3, 4, 0));
}

#[test]
fn a_number_used_again_has_no_owner() {
    let rooted = Rooted::new();
    let (outcome, _) = rooted.output(
        "cd d; for i in 1 2 3 4 5 6 7 8; do touch old$i; chown 5:5 old$i; rm old$i; touch new$i; done
        touch temp; chown 6:6 temp; mv temp kept",
    );
    for entry in std::fs::read_dir(rooted.root.join("d")).unwrap() {
        let entry = entry.unwrap();
        let expected = (entry.file_name() == "kept").then_some((6, 6));
        assert_eq!(outcome.owners.of(&entry.metadata().unwrap()), expected, "{:?}", entry.file_name());
    }
}

#[test]
fn owners_from_before_last_and_are_carried_over() {
    let rooted = Rooted::new();
    for name in ["kept", "changed", "undone", "edited", "moved", "gone", "half"] {
        std::fs::write(rooted.root.join("d").join(name), "text").unwrap();
    }
    // As adduser edits the shadow file: the old one stays under another name.
    let mut job = rooted.job(
        r#"cd d; chown 1:1 changed; chown 0:0 undone; mv moved there; rm gone; chown :7 half
        perl -e 'open(OLD, "<", "edited"); my @old = stat(OLD); open(NEW, ">", "new");
            chown($old[4], $old[5], *NEW) == 1 or die "$!"; link("edited", "edited-"); rename("new", "edited");
            open(BIN, "<", "/bin/sh"); my @bin = stat(BIN); print "$old[4]:$old[5] $old[7] $bin[4]:$bin[5]\n";'"#,
    );
    let all = ["kept", "changed", "undone", "edited", "moved", "gone", "half"];
    job.owners = all.map(|name| (Path::new("/d").join(name), 10, 42)).to_vec();
    let outcome = rooted.bench.run(&job);
    assert!(outcome.success(), "{}", rooted.bench.log());
    assert_eq!(rooted.bench.log(), "10:42 4 0:0\n");
    for (path, owner) in [
        ("d/kept", Some((10, 42))),
        ("d/changed", Some((1, 1))),
        ("d/undone", Some((0, 0))),
        ("d/edited", Some((10, 42))),
        ("d/edited-", Some((10, 42))),
        ("d/there", Some((10, 42))),
        ("d/half", Some((10, 7))),
    ] {
        assert_eq!(rooted.owner(&outcome, path), owner, "{path}");
    }
    job.owners = vec![("/d/absent".into(), 1, 1)];
    let text = Sandbox.run(&job, &()).unwrap_err().to_string();
    assert_eq!(text, "finding the owned file /d/absent: No such file or directory (os error 2)");
}

#[test]
fn a_change_of_owner_does_all_else_that_a_real_one_does() {
    let rooted = Rooted::new();
    let (outcome, _) = rooted.output(
        "cd d; touch a b c; chmod 4755 a; chown 0:0 a; chmod 6755 b; chown 5 b; chmod 2755 b
        mkdir m; chmod 2755 m; chown 5:5 m",
    );
    let mode = |path| std::fs::metadata(rooted.root.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("d/a"), mode("d/b"), mode("d/m")), (0o755, 0o2755, 0o2755));
    assert_eq!(outcome.owners.len(), 2);
}

#[test]
fn root_inside_may_do_its_work_and_undo_no_mount() {
    let rooted = Rooted::new();
    let bench = &rooted.bench;
    std::fs::create_dir(bench.path("packages")).unwrap();
    std::fs::write(bench.path("packages/file"), "kept").unwrap();
    let mut job = rooted.job(
        "set +e
        echo bad > /dev/mosbuild/packages/file
        mount -o remount,bind,rw /dev/mosbuild/packages && echo REMOUNTED
        mount -o remount,rw /dev/mosbuild/packages && echo REMOUNTED
        umount /dev/mosbuild/packages && echo UNMOUNTED
        umount -l /dev && echo UNMOUNTED
        mount --bind /dev/mosbuild/packages /d && mount -o remount,bind,rw /d && echo REBOUND
        umount /d
        chown 5:5 /dev/mosbuild/packages/file && echo CHOWNED
        unshare -m sh -c 'mount --make-rprivate / && mount -t tmpfs none /d && echo private; mount -o remount,bind,rw /dev/mosbuild/packages && echo REMOUNTED'
        unshare -Urm sh -c 'mount -o remount,bind,rw /dev/mosbuild/packages && echo REMOUNTED'
        mkdir -p /d/sub/proc; mount --rbind /proc /d/sub/proc && ls /d/sub/proc/2/exe; umount /d/sub/proc
        unshare -pf --mount-proc sh -c 'echo $$ of its own'
        mount --rbind /bin /d/sub && chroot / sh -c 'echo chrooted'; umount /d/sub
        mknod /d/null c 1 3 2>/dev/null || echo no device
        cat /proc/1/environ 2>/dev/null && echo READ
        echo $$; ls /dev /proc/1 >/dev/null && echo x > /dev/null && echo t > /tmp/t && echo t > /dev/shm/t
        rm -rf /dev/mosbuild/packages/file
        exit 0",
    );
    job.mounts.push(Mount::read_only(bench.path("packages"), "/dev/mosbuild/packages"));
    let outcome = bench.run(&job);
    let log = bench.log();
    assert!(outcome.success(), "{log}");
    assert_eq!(std::fs::read_to_string(bench.path("packages/file")).unwrap(), "kept");
    let said: Vec<_> = log.lines().filter(|line| !line.contains(": ") && !line.contains("dmesg")).collect();
    assert_eq!(said, ["private", "/d/sub/proc/2/exe", "1 of its own", "chrooted", "no device", "2"], "{log}");
    assert!(log.contains("file: Read-only file system"), "{log}");
    assert_eq!(outcome.owners.len(), 0);
}

#[test]
fn nothing_is_left_in_the_root() {
    let rooted = Rooted::new();
    let names = || {
        let entries = std::fs::read_dir(&rooted.root).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let before = names();
    rooted.output("echo made > /d/made; echo x > /tmp/x; echo y > /dev/y; test $(pwd) = /");
    assert_eq!(names(), before);
    assert_eq!(std::fs::read_to_string(rooted.root.join("d/made")).unwrap(), "made\n");
    // A root that has them keeps them.
    std::fs::create_dir(rooted.root.join("tmp")).unwrap();
    std::fs::write(rooted.root.join("tmp/own"), "").unwrap();
    let (_, log) = rooted.output("ls /tmp; stat -c %a /tmp");
    assert_eq!((log.as_str(), rooted.root.join("tmp/own").exists()), ("1777\n", true));
}

#[test]
fn bad_jobs_are_refused_in_words() {
    let rooted = Rooted::new();
    let say = |job: &Job| Sandbox.run(job, &()).unwrap_err().to_string();
    let mut job = rooted.job("true");
    job.mounts.push(Mount::Dir { at: "/etc/x".into() });
    assert_eq!(say(&job), "/etc/x: a job with a root of its own may have mounts below /dev only");
    job.mounts = vec![Mount::read_only("/usr", "/dev/../etc")];
    assert!(say(&job).contains("/dev/../etc"), "{}", say(&job));
    let absent = Job { root: Some("/nowhere/root".into()), ..rooted.job("true") };
    assert!(say(&absent).contains("/nowhere/root"), "{}", say(&absent));
    let inside = Job { log: rooted.root.join("log"), ..rooted.job("true") };
    assert!(say(&inside).contains("lies in the job's own root"));
    let unknown = Job { argv: vec!["apk".into()], ..rooted.job("") };
    assert_eq!(say(&unknown), "cannot execute apk: No such file or directory (os error 2)");
    std::os::unix::fs::symlink("/etc", rooted.root.join("tmp")).unwrap();
    assert!(say(&rooted.job("true")).contains("tmp is no directory"));
    assert!(Host.run(&rooted.job("true"), &()).unwrap_err().to_string().contains("needs a sandbox"));
}

struct Cancel(CancelToken);

impl Watch for Cancel {
    fn cancel(&self) -> Option<&CancelToken> {
        Some(&self.0)
    }
}

#[test]
fn a_job_that_asks_all_the_time_ends_when_it_must() {
    let rooted = Rooted::new();
    let busy = "touch /d/x; (while :; do chown 5 /d/x; done) & (while :; do chown 6 /d/x; done) & ";
    let started = Instant::now();
    let mut slow = rooted.job(&format!("{busy} sleep 300"));
    slow.limits.time = Some(Duration::from_millis(500));
    assert_eq!(rooted.bench.run(&slow).end, End::TimedOut);

    let watch = Cancel(CancelToken::new().unwrap());
    let token = watch.0.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        token.cancel();
    });
    let outcome = Sandbox.run(&rooted.job(&format!("{busy} sleep 300")), &watch).unwrap();
    assert_eq!(outcome.end, End::Cancelled);
    canceller.join().unwrap();

    assert_eq!(rooted.bench.run(&rooted.job(&format!("{busy} sleep 0.2; exit 7"))).end, End::Exit(7));
    let mut watched = rooted.job(&format!("{busy} echo ready; sleep 300"));
    watched.console = Some(Console { expect: vec!["ready".into()], ..Console::default() });
    assert_eq!(rooted.bench.run(&watched).end, End::Expected);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn files_are_found_from_roots_and_namespaces_within() {
    let rooted = Rooted::new();
    let (outcome, _) = rooted.output(
        r#"mkdir d/in x; touch d/in/a d/b x/c x/d x/e x/pid x/mounted; ln -s /in/a d/link
        perl -e 'chroot("/d") or die; chdir("/") or die; chown(1, 1, "/../../in/../link") == 1 or die "a $!";
            chown(2, 2, "../../b") == 1 or die "b $!"; chown(9, 9, "/x/c") and die; chown(9, 9, "../x/c") and die;'
        perl -e 'chdir("/x"); chroot("/d"); chown(3, 3, "../x/d") == 1 or die; chown(9, 9, "/x/c") and die;
            chown(9, 9, "../d/../x/e") and die; chown(4, 4, "../x/./e") == 1 or die'
        unshare -pf --mount-proc sh -c 'chown 5:5 /x/pid'
        unshare -m sh -c 'mount --bind /x /d/in && touch /d/in/mounted && chown 6:6 /d/in/mounted
            cd /d/in && chown 7:7 ../in/c && mount -t tmpfs none /x && touch /x/pid && chown 8:8 /x/pid'
        "#,
    );
    for (path, id) in
        [("d/in/a", 1), ("d/b", 2), ("x/d", 3), ("x/e", 4), ("x/pid", 5), ("x/mounted", 6), ("x/c", 7)]
    {
        assert_eq!(rooted.owner(&outcome, path), Some((id, id)), "{path}");
    }
    // The one in the tmpfs too.
    assert_eq!(outcome.owners.len(), 8);
}

#[test]
fn a_killed_builder_leaves_nothing() {
    const CHILD: &str = "MOSBUILD_TEST_KILLED_ROOT";
    let mark = format!("mosbuild-rooted-{}", std::env::var(CHILD).unwrap_or(std::process::id().to_string()));
    if std::env::var_os(CHILD).is_some() {
        let script = format!("exec perl -e '$0 = \"{mark}\"; while (1) {{ chown(5, 5, \"/d\") }}'");
        let rooted = Rooted::new();
        rooted.bench.run(&rooted.job(&script));
        return;
    }
    let mut builder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "exec::tests::rooted::a_killed_builder_leaves_nothing"])
        .env(CHILD, std::process::id().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let wait_for = |count: usize| {
        let begin = Instant::now();
        while processes::alive(&mark) != count && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
        }
        processes::alive(&mark)
    };
    assert_eq!(wait_for(1), 1);
    builder.kill().unwrap();
    builder.wait().unwrap();
    assert_eq!(wait_for(0), 0);
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes_and_then_told() {
    const CHILD: &str = "MOSBUILD_TEST_OPEN_FILES";
    if std::env::var_os(CHILD).is_some() {
        let rooted = Rooted::new();
        let many = |count: usize| {
            format!(
                "perl -e 'for (1..{count}) {{ open(F, \">\", \"/d/$_\"); close F; chown(5, 5, \"/d/$_\") or die $!; }}'"
            )
        };
        let (outcome, _) = rooted.output(&many(1000));
        assert_eq!(outcome.owners.len(), 1000);
        drop(outcome);
        // Raised for this program, and for no command.
        assert_eq!(rooted.output("ulimit -Sn; ulimit -Hn").1, "300\n2000\n");
        let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert!(soft.is_some_and(|soft| soft > 1000), "{soft:?}");
        let error = Sandbox.run(&rooted.job(&many(3000)), &()).unwrap_err().to_string();
        assert!(error.contains("more than 1024 files") && error.contains("ulimit -n"), "{error}");
        return;
    }
    let output = Command::new("prlimit")
        .arg("--nofile=300:2000")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "exec::tests::rooted::the_limit_of_open_files_is_raised_as_far_as_it_goes_and_then_told",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[allow(clippy::print_stderr)]
fn many_chowns_are_quick_and_no_descriptor_leaks() {
    let rooted = Rooted::new();
    let held = || {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        // As the job saw them; no other test has names of digits.
        let number =
            |link: &Path| link.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        links.filter(|link| link.starts_with("/d") && number(link)).count()
    };
    let loop_of = |what: &str| format!("perl -e 'for (1..10000) {{ {what} }}'");
    rooted.output(&loop_of("open(F, \">\", \"/d/$_\"); close F;"));
    let (plain, _) = rooted.output(&loop_of("-e \"/d/$_\" or die;"));
    let (outcome, _) = rooted.output(&loop_of("chown(5, 6, \"/d/$_\") == 1 or die $!;"));
    assert_eq!((outcome.owners.len(), held()), (10_000, 10_000));
    let recorded = outcome.wall.saturating_sub(plain.wall) / 10_000;
    drop(outcome);
    assert_eq!(held(), 0);
    let (outcome, _) = rooted.output(&loop_of("chown(0, 0, \"/d/$_\") == 1 or die $!;"));
    assert!(outcome.owners.is_empty());
    let forgotten = outcome.wall.saturating_sub(plain.wall) / 10_000;
    eprintln!("{recorded:?} for a chown that is recorded, {forgotten:?} for one to 0:0");
    assert!(recorded < Duration::from_millis(1) && forgotten < Duration::from_millis(1));
}
