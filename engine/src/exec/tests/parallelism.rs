//! The jobserver, counted from inside by a real make.

use super::*;

const MAKEFILE: &str = "\
all: a b c d e f
a b c d e f:
\t@mkdir running-$@; ls -d running-* | wc -l; sleep 0.3; rmdir running-$@
.PHONY: all a b c d e f
";

/// How many recipes make ran at once, at most.
fn most(bench: &Bench, executor: &dyn Executor, job: Job, pool: &Pool) -> usize {
    std::fs::write(bench.path("build/Makefile"), MAKEFILE).unwrap();
    let mut job = Job { jobserver: Some(pool.fds()), ..job };
    job.env.extend(Pool::env());
    let slot = pool.acquire().unwrap();
    let outcome = executor.run(&job, &()).unwrap();
    drop(slot);
    let log = bench.log();
    assert!(outcome.success() && !log.contains("warning"), "{log}");
    log.lines().filter_map(|line| line.parse().ok()).max().unwrap()
}

#[test]
fn make_runs_as_many_children_as_there_are_slots() {
    let bench = Bench::new();
    for slots in [1, 2, 4] {
        let pool = Pool::new(slots).unwrap();
        assert_eq!(most(&bench, &Sandbox, bench.job("make"), &pool), slots, "sandbox");
        assert_eq!(pool.available().unwrap(), slots);
        assert_eq!(most(&bench, &Host, bench.host_job("make"), &pool), slots, "host");
        assert_eq!(pool.available().unwrap(), slots);
    }
}

#[test]
fn a_slot_in_use_elsewhere_is_not_given_to_make() {
    let bench = Bench::new();
    let pool = Pool::new(3).unwrap();
    let _other = pool.acquire().unwrap();
    assert_eq!(most(&bench, &Sandbox, bench.job("make"), &pool), 2);
}

#[test]
fn tokens_of_a_killed_step_come_back() {
    let bench = Bench::new();
    let pool = Pool::new(4).unwrap();
    let slot = pool.acquire().unwrap();
    let mut job =
        Job { jobserver: Some(pool.fds()), ..bench.job("head -c 3 <&3 >/dev/null; echo taken; sleep 300") };
    job.console = Some(Console { expect: vec!["taken".into()], ..Console::default() });
    assert_eq!(bench.run(&job).end, End::Expected);
    assert_eq!(pool.available().unwrap(), 0);
    drop(slot);
    let all: Vec<_> = (0..4).map(|_| pool.acquire().unwrap()).collect();
    assert!(pool.try_acquire().unwrap().is_none());
    drop(all);
    // Nor do tokens that a step made up stay.
    let forge = Job { jobserver: Some(pool.fds()), ..bench.job("printf ++++++ >&4") };
    let slot = pool.acquire().unwrap();
    assert!(bench.run(&forge).success());
    drop(slot);
    assert_eq!(std::iter::from_fn(|| pool.try_acquire().unwrap().map(std::mem::forget)).count(), 4);
}

#[test]
fn waiting_for_a_slot_ends_when_one_is_given_back() {
    let pool = Pool::new(1).unwrap();
    let slot = pool.acquire().unwrap();
    let waiter = std::thread::spawn({
        let pool = pool.clone();
        move || pool.acquire().map(drop).is_ok()
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiter.is_finished());
    drop(slot);
    assert!(waiter.join().unwrap());
}

#[test]
fn cargo_understands_the_same_jobserver() {
    let pool = Pool::new(2).unwrap();
    let (_, flags) = &Pool::env()[1];
    let flags = flags.to_str().unwrap();
    assert_eq!(flags, "-j --jobserver-fds=3,4 --jobserver-auth=3,4");
    assert_eq!(Pool::env()[0].1, " -j --jobserver-auth=3,4");
    assert!(pool.fds().0 > 9 && pool.fds().1 > 9);
}
