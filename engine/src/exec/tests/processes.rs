//! How steps end, and that nothing of them is left.

use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A daemon as init scripts make them: forked twice, a session of its own, no inherited output.
fn daemon(mark: &str) -> String {
    format!(
        "setsid sh -c 'sh -c \"exec -a {mark} sleep 300\" >/dev/null 2>&1 </dev/null & exit 0' &
        bash -c '(setsid bash -c \"exec -a {mark} sleep 300\" >/dev/null 2>&1 &) ; exit 0'
        sleep 0.2; "
    )
}

/// Processes of the host whose command line begins with this word.
pub(super) fn alive(mark: &str) -> usize {
    let commands = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
    commands.filter(|_| true).map(line).filter(|line| line.starts_with(mark.as_bytes())).count()
}

struct Cancel(CancelToken);

impl Watch for Cancel {
    fn cancel(&self) -> Option<&CancelToken> {
        Some(&self.0)
    }
}

/// Run a daemon-making step to each of the four ends; nothing may be left when `run` has returned.
fn leaves_nothing(executor: &dyn Executor, job: impl Fn(&str) -> Job, kind: &str) {
    let mark = format!("mosbuild-{kind}-{}", std::process::id());
    let daemon = daemon(&mark);
    let seen = format!("{daemon} test $(grep -l {mark} /proc/[0-9]*/cmdline 2>/dev/null | wc -l) -ge 1;");

    let outcome = executor.run(&job(&seen), &()).unwrap();
    assert_eq!((outcome.end, alive(&mark)), (End::Exit(0), 0), "success");

    let outcome = executor.run(&job(&format!("{seen} exit 7")), &()).unwrap();
    assert_eq!((outcome.end, alive(&mark)), (End::Exit(7), 0), "failure");

    let mut slow = job(&format!("{seen} sleep 300"));
    slow.limits.time = Some(Duration::from_millis(1500));
    let outcome = executor.run(&slow, &()).unwrap();
    assert_eq!((outcome.end, alive(&mark)), (End::TimedOut, 0), "timeout");
    assert!(outcome.wall < Duration::from_secs(10), "{:?}", outcome.wall);

    let watch = Cancel(CancelToken::new().unwrap());
    let token = watch.0.clone();
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(1000));
        token.cancel();
        Instant::now()
    });
    let outcome = executor.run(&job(&format!("{seen} sleep 300")), &watch).unwrap();
    assert_eq!((outcome.end, alive(&mark)), (End::Cancelled, 0), "cancel");
    assert!(canceller.join().unwrap().elapsed() < Duration::from_secs(5));
}

#[test]
fn a_sandbox_leaves_no_process() {
    let bench = Bench::new();
    leaves_nothing(&Sandbox, |script| bench.job(script), "sandboxed");
}

/// In a process of its own: orphans are killed when no host job runs, and other tests run some.
#[test]
fn the_host_executor_leaves_no_process() {
    const CHILD: &str = "MOSBUILD_TEST_HOST_ORPHANS";
    if std::env::var_os(CHILD).is_some() {
        let bench = Bench::new();
        leaves_nothing(&Host, |script| bench.host_job(script), "hosted");
        return;
    }
    let name = "exec::tests::processes::the_host_executor_leaves_no_process";
    let me = std::env::current_exe().unwrap();
    let output = Command::new(me).args(["--exact", name]).env(CHILD, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "the test was not found by its name"
    );
}

/// kill -9 of the builder takes its sandboxes along.
#[test]
fn a_killed_builder_leaves_no_sandbox() {
    const CHILD: &str = "MOSBUILD_TEST_KILLED_BUILDER";
    let mark =
        format!("mosbuild-orphaned-{}", std::env::var(CHILD).unwrap_or(std::process::id().to_string()));
    if std::env::var_os(CHILD).is_some() {
        let bench = Bench::new();
        bench.run(&bench.job(&format!("exec bash -c 'exec -a {mark} sleep 300'")));
        return;
    }
    let name = "exec::tests::processes::a_killed_builder_leaves_no_sandbox";
    let me = std::env::current_exe().unwrap();
    let mut builder = Command::new(me)
        .args(["--exact", name])
        .env(CHILD, std::process::id().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let wait_for = |count: usize| {
        let begin = Instant::now();
        while alive(&mark) != count && begin.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(20));
        }
        alive(&mark)
    };
    assert_eq!(wait_for(1), 1);
    builder.kill().unwrap();
    builder.wait().unwrap();
    assert_eq!(wait_for(0), 0);
}

#[test]
fn ends_are_told_apart() {
    let bench = Bench::new();
    let end = |script: &str| bench.run(&bench.job(script)).end;
    assert_eq!(end("exit 0"), End::Exit(0));
    assert_eq!(end("exit 42"), End::Exit(42));
    assert_eq!(end("kill -TERM $$"), End::Signal(libc::SIGTERM));
    assert_eq!(end("kill -KILL $$"), End::Signal(libc::SIGKILL));
    // Not inherited from a Rust program, which ignores it.
    assert_eq!(end("yes | head -n 1; sh -c 'kill -PIPE $$; exit 3'"), End::Exit(128 + libc::SIGPIPE));
    let host = |script: &str| Host.run(&bench.host_job(script), &()).unwrap().end;
    assert_eq!(host("exit 42"), End::Exit(42));
    assert_eq!(host("kill -TERM $$"), End::Signal(libc::SIGTERM));
    assert_eq!(host("sh -c 'kill -PIPE $$; exit 3'"), End::Exit(128 + libc::SIGPIPE));
}

#[test]
fn times_and_memory_are_measured() {
    let bench = Bench::new();
    let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; head -c 80M /dev/zero | tail -c 79M >/dev/null; sleep 0.1";
    for outcome in [bench.run(&bench.job(work)), Host.run(&bench.host_job(work), &()).unwrap()] {
        assert!(outcome.user > Duration::from_millis(20), "{outcome:?}");
        assert!(outcome.wall > Duration::from_millis(100), "{outcome:?}");
        assert!(outcome.max_rss_kib > 70_000, "{outcome:?}");
    }
}

#[test]
fn memory_is_bounded() {
    let bench = Bench::new();
    for (executor, mut job) in [
        (&Sandbox as &dyn Executor, bench.job("sleep 0.1; head -c 200M /dev/zero | tail -c 150M | wc -c")),
        (&Host, bench.host_job("sleep 0.1; head -c 200M /dev/zero | tail -c 150M | wc -c")),
    ] {
        job.limits.memory = Some(64 << 20);
        executor.run(&job, &()).unwrap();
        assert!(bench.log().contains("memory exhausted"), "{}: {}", executor.name(), bench.log());
    }
}

#[test]
fn the_host_executor_gives_what_the_job_says_and_no_more() {
    let bench = Bench::new();
    let job = bench.host_job("env; pwd; umask; ulimit -c; ls /proc/self/fd | wc -l; cat");
    assert!(Host.run(&job, &()).unwrap().success());
    let cwd = bench.path("build").display().to_string();
    let log = bench.log();
    let mut lines: Vec<_> = log.lines().collect();
    lines[..2].sort_unstable();
    assert_eq!(lines, ["PATH=/usr/bin:/bin:/usr/sbin", &format!("PWD={cwd}"), &cwd, "0022", "0", "4"]);

    let absent = Job { cwd: "/absent".into(), ..bench.host_job("true") };
    let text = Host.run(&absent, &()).unwrap_err().to_string();
    assert!(text.contains("entering /absent"), "{text}");
    let unknown = Job { argv: vec!["no-such-program".into()], ..bench.host_job("") };
    let text = Host.run(&unknown, &()).unwrap_err().to_string();
    assert_eq!(text, "no-such-program: command not found; add it to tools");
}

/// The clone happens beside threads that allocate and start processes all the time.
#[test]
fn many_at_once_from_many_threads() {
    let bench = Bench::new();
    thread::scope(|scope| {
        for worker in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..25 {
                    let log = bench.path(&format!("log-{worker}-{round}"));
                    let job = Job { log: log.clone(), ..bench.job(&format!("echo {worker} {round}")) };
                    assert!(bench.run(&job).success());
                    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{worker} {round}\n"));
                    let host = Job { log, ..bench.host_job("exit 3") };
                    assert_eq!(Host.run(&host, &()).unwrap().end, End::Exit(3));
                }
            });
        }
    });
}
