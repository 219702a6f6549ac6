//! The log, the newest line, and the patterns that end a step.

use std::sync::Mutex;
use std::time::Duration;

use super::*;

fn console(expect: &[&str], forbid: &[&str]) -> Option<Console> {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    Some(Console { expect: owned(expect), forbid: owned(forbid), marks: Vec::new() })
}

#[test]
fn marks_are_timed_and_end_nothing() {
    let bench = Bench::new();
    let mut job =
        bench.job("echo early; sleep 0.4; printf 'late '; echo early; sleep 0.2; echo ready; sleep 300");
    let mark = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    job.console = Some(Console {
        expect: vec!["ready".into()],
        marks: vec![mark("first", "early"), mark("second", "late"), mark("third", "never")],
        ..Console::default()
    });
    let outcome = bench.run(&job);
    assert_eq!(outcome.end, End::Expected);
    let names: Vec<&str> = outcome.marks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let (first, second) = (outcome.marks[0].1, outcome.marks[1].1);
    assert!(second - first >= Duration::from_millis(350) && second < outcome.wall, "{:?}", outcome.marks);
}

#[test]
fn patterns_end_a_step() {
    let bench = Bench::new();
    for (script, expect, forbid, end) in [
        ("echo one; echo 'and two.'; sleep 300", &["two", "one"][..], &[][..], End::Expected),
        ("printf 'login: '; sleep 300", &["login:"], &["panic"], End::Expected),
        (
            "echo a; echo 'Kernel panic - x'; sleep 300",
            &["ready"],
            &["panic"],
            End::Forbidden("Kernel panic - x".into()),
        ),
        (
            "printf 'panic ready'; sleep 0.3; echo '!'; sleep 300",
            &["ready"],
            &["panic"],
            End::Forbidden("panic ready!".into()),
        ),
        (
            "printf 'ready\\r\\npanic\\r\\n'; sleep 300",
            &["ready", "never"],
            &["panic"],
            End::Forbidden("panic".into()),
        ),
        ("printf panic; exit 0", &["ready"], &["panic"], End::Forbidden("panic".into())),
    ] {
        let mut job = bench.job(script);
        job.console = console(expect, forbid);
        job.limits.time = Some(Duration::from_secs(20));
        let outcome = bench.run(&job);
        assert_eq!(outcome.end, end, "{script}");
        assert_eq!(outcome.success(), end == End::Expected);
    }
}

#[test]
fn the_line_of_the_last_pattern_is_logged_whole() {
    let bench = Bench::new();
    for (script, end, logged) in [
        ("printf 'x ready'; sleep 0.1; echo ' now'; sleep 300", End::Expected, "x ready now\n"),
        ("printf 'x ready'; sleep 0.1; exit 1", End::Expected, "x ready"),
        (
            "printf 'x ready'; sleep 0.1; echo ' panic'; sleep 300",
            End::Forbidden("x ready panic".into()),
            "x ready panic\n",
        ),
    ] {
        let mut job = bench.job(script);
        job.console = console(&["ready"], &["panic"]);
        job.limits.time = Some(Duration::from_secs(20));
        assert_eq!(bench.run(&job).end, end, "{script}");
        assert_eq!(std::fs::read_to_string(&job.log).unwrap(), logged);
    }
}

#[test]
fn an_end_before_all_patterns_is_no_success() {
    let bench = Bench::new();
    let mut job = bench.job("echo one");
    job.console = console(&["one", "two"], &[]);
    let outcome = bench.run(&job);
    assert_eq!((outcome.end.clone(), outcome.missing.as_slice()), (End::Exit(0), &["two".to_owned()][..]));
    assert!(!outcome.success());
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Watch for Lines {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn both_streams_are_logged_in_order_and_lines_are_told() {
    let bench = Bench::new();
    let script = "echo out; echo err >&2; sleep 0.1; printf '\\377\\n\\n'; sleep 0.1; printf last";
    for (executor, job) in [(&Sandbox as &dyn Executor, bench.job(script)), (&Host, bench.host_job(script))] {
        let lines = Lines::default();
        let outcome = executor.run(&job, &lines).unwrap();
        assert_eq!(std::fs::read(bench.path("log")).unwrap(), b"out\nerr\n\xff\n\nlast");
        assert_eq!(outcome.log_bytes, 15);
        let lines = lines.0.into_inner().unwrap();
        assert!(lines.contains(&"err".to_owned()) && lines.contains(&"\u{fffd}".to_owned()), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "last");
    }
}

#[test]
fn a_flood_is_logged_whole_and_silence_makes_no_file() {
    let bench = Bench::new();
    let outcome = bench.run(&bench.job("head -c 20M /dev/zero | tr '\\0' x"));
    assert_eq!(outcome.log_bytes, 20 << 20);
    assert_eq!(std::fs::metadata(bench.path("log")).unwrap().len(), 20 << 20);
    std::fs::remove_file(bench.path("log")).unwrap();
    assert_eq!(bench.run(&bench.job(":")).log_bytes, 0);
    assert!(!bench.path("log").exists());
}

#[test]
fn a_log_that_cannot_be_written_is_an_error_and_ends_the_step() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("log")).unwrap();
    let text = Sandbox.run(&bench.job("echo x; sleep 300"), &()).unwrap_err().to_string();
    assert!(text.contains("writing the log") && text.contains("Is a directory"), "{text}");
}
