//! How builds end: failures and what they skip, limits, interrupts and kills; nothing is left running or lying about.

use mosbuild_tests::{Marker, Space, assert_store_whole, scratch_left, wait_until};
use serde_json::json;

/// A target whose step leaves a daemon behind and then does what is told.
fn daemon(marker: &Marker, fields: &str, then: &str) -> String {
    format!(
        "  t:\n    rule: command\n    tools: [setsid]\n{fields}    outputs: [o]\n    run: |\n      \
         setsid sh -c 'trap \"\" HUP INT TERM; sleep {m}; echo' </dev/null &\n      \
         (setsid setsid sleep {m} >/dev/null 2>&1 </dev/null &)\n      \
         while test \"$(grep -l -z -x {m} /proc/[0-9]*/cmdline 2>/dev/null | wc -l)\" -lt 2; do sleep 0.05; done\n      \
         echo daemons run\n      {then}\n",
        m = marker.text()
    )
}

const NEXT: &str = "  next: { rule: command, run: 'echo next > \"$OUT/o\"', outputs: [o] }\n";

#[track_caller]
fn gone(space: &Space, marker: &Marker) {
    assert!(wait_until(|| marker.processes().is_empty()), "still there: {:?}", marker.processes());
    space.assert_clean();
    space.builds(&["next"]);
    assert_eq!(space.read("dist/next"), "next\n");
}

#[test]
fn a_daemon_is_gone_after_success() {
    let marker = Marker::new();
    let space = Space::new(&format!("targets:\n{}{NEXT}", daemon(&marker, "", "echo x > \"$OUT/o\"")));
    let output = space.builds(&["t"]);
    assert!(space.log("t").contains("daemons run"), "{output}");
    assert!(marker.processes().is_empty(), "they outlive the build: {:?}", marker.processes());
    gone(&space, &marker);
}

#[test]
fn a_daemon_is_gone_after_failure() {
    let marker = Marker::new();
    let space = Space::new(&format!("targets:\n{}{NEXT}", daemon(&marker, "", "exit 3")));
    space.builds(&["next"]);
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let failure = output.failure("t");
    assert!(failure["message"].as_str().unwrap().contains("exited with code 3"), "{failure:#}");
    assert!(failure["tail"].to_string().contains("daemons run"), "{failure:#}");
    assert!(marker.processes().is_empty(), "they outlive the build: {:?}", marker.processes());
    gone(&space, &marker);
}

#[test]
fn a_daemon_is_gone_after_the_time_limit() {
    let marker = Marker::new();
    let space = Space::new(&format!(
        "targets:\n{}{NEXT}",
        daemon(&marker, "    timeout: 2\n", &format!("sleep {}", marker.text()))
    ));
    space.builds(&["next"]);
    let output = space.build(&["t"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let message = output.failure("t")["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("its time limit passed; it was stopped after 2"), "{message}");
    assert!(marker.processes().is_empty(), "they outlive the build: {:?}", marker.processes());
    gone(&space, &marker);
}

#[test]
fn a_daemon_is_gone_after_an_interrupt() {
    interrupted(|space| space);
}

#[test]
fn a_daemon_of_a_plain_user_is_gone_after_an_interrupt() {
    interrupted(Space::as_plain_user);
}

fn interrupted(as_user: impl Fn(Space) -> Space) {
    let marker = Marker::new();
    let space = as_user(Space::new(&format!(
        "targets:\n{}{NEXT}",
        daemon(&marker, "", &format!("sleep {}", marker.text()))
    )));
    space.builds(&["next"]);
    let mut running = space.start(&["t"]);
    running.wait_for_processes(&marker, 3);
    running.signal("INT");
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    assert!(marker.processes().is_empty(), "they outlive the build: {:?}", marker.processes());
    let (code, answer) = space.why("t");
    assert_eq!((code, &answer["decision"]), (1, &json!("not_run")), "{answer:#}");
    gone(&space, &marker);
}

#[test]
fn steps_of_the_host_leave_nothing_either() {
    let marker = Marker::new();
    let fields = "    executor: host\n";
    let space = Space::new(&format!(
        "targets:\n{}{NEXT}",
        daemon(&marker, fields, &format!("sleep {}", marker.text()))
    ));
    space.builds(&["next"]);
    let mut running = space.start(&["t"]);
    running.wait_for_processes(&marker, 3);
    running.signal("TERM");
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    gone(&space, &marker);
}

#[test]
fn a_killed_build_leaves_nothing_that_the_next_one_trips_over() {
    let marker = Marker::new();
    let space = Space::new(&format!(
        "targets:\n{}{NEXT}",
        daemon(&marker, "", &format!("head -c 5000000 /dev/zero > \"$OUT/o\"; sleep {}", marker.text()))
    ));
    let mut running = space.start(&["t"]);
    running.wait_for_processes(&marker, 3);
    running.signal("KILL");
    let output = running.finish();
    assert_eq!(output.code, None, "{output}");
    assert!(
        wait_until(|| marker.processes().is_empty()),
        "the sandbox dies with mosbuild: {:?}",
        marker.processes()
    );
    space.builds(&["next"]);
    // An unlocked, empty lock file of the killed step's key may stay.
    let left = scratch_left(space.store());
    assert!(
        left.iter().all(|p| p.metadata().unwrap().len() == 0 && p.parent().unwrap().ends_with("inflight")),
        "{left:?}"
    );
    space.edit_yaml(&format!("sleep {}\n  next", marker.text()), "true\n  next");
    space.builds(&["t"]).counts(1, 0, 0);
    assert_eq!(space.bytes("dist/t"), vec![0; 5_000_000]);
    assert_store_whole(space.store());
}

const FORKED: &str = "default: [all]\ntargets:\n  \
    bad: { rule: command, run: 'echo no good; exit 4', outputs: [o] }\n  \
    above: { rule: command, deps: { x: bad }, run: 'cp \"$x\" \"$OUT/o\"', outputs: [o] }\n  \
    top: { rule: command, deps: { x: above, y: good2 }, run: 'cp \"$x\" \"$OUT/o\"', outputs: [o] }\n  \
    good: { rule: command, run: 'sleep 0.3; echo good > \"$OUT/o\"', outputs: [o] }\n  \
    good2: { rule: command, deps: { x: good }, run: 'echo two; cp \"$x\" \"$OUT/o\"', outputs: [o] }\n  \
    good3: { rule: command, deps: { x: good2 }, run: 'cp \"$x\" \"$OUT/o\"', outputs: [o] }\n  \
    all: { rule: group, deps: [top, good3] }\n";

#[test]
fn keep_going_builds_all_that_does_not_depend_on_the_failure() {
    let space = Space::new(FORKED);
    let output = space.build(&["-k", "-j2"]);
    assert_eq!(output.counts(3, 0, 1).code, Some(1));
    assert_eq!(output.ended("ran"), ["good", "good2", "good3"]);
    assert_eq!(output.named("failure", "target"), ["bad"]);
    let skipped: Vec<_> = output
        .events
        .iter()
        .filter(|e| e["event"] == "skipped_because")
        .map(|e| (e["target"].as_str().unwrap(), e["failed"].as_str().unwrap()))
        .collect();
    assert!(skipped.contains(&("above", "bad")) && skipped.contains(&("top", "bad")), "{skipped:?}");
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    output.says("above: skipped because bad failed").says("top: skipped because bad failed");
    let (code, answer) = space.why("top");
    assert_eq!((code, &answer["decision"]), (1, &json!("not_run")));
    assert!(answer["message"].as_str().unwrap().contains("bad"), "{answer:#}");
    // What was made is kept.
    let output = space.build(&["-k"]);
    output.counts(0, 3, 1);
    assert_eq!(output.started(), ["bad"]);
}

#[test]
fn without_keep_going_nothing_new_is_started() {
    let space = Space::new(FORKED);
    let output = space.build(&["-j2"]);
    assert_eq!(output.code, Some(1), "{output}");
    assert_eq!(output.named("failure", "target"), ["bad"]);
    assert!(!output.started().contains(&"good3"), "{output}");
    let failure = output.failure("bad");
    assert_eq!(failure["tail"], json!(["no good"]), "{failure:#}");
    assert_eq!(failure["line"], 5, "{failure:#}");
    output.summary();
    assert!(!space.has("dist/all"));
}

#[test]
fn a_second_build_of_the_workspace_waits_and_says_for_whom() {
    let space = Space::new(
        "targets:\n  a: { rule: command, run: 'sleep 1.5; echo a > \"$OUT/o\"', outputs: [o] }\n  \
         b: { rule: command, deps: { x: a }, run: 'cp \"$x\" \"$OUT/o\"', outputs: [o] }\n",
    );
    let mut first = space.start(&["a"]);
    first.wait_for_start("a");
    let pid = first.id();
    let second = space.start(&["b"]);
    // Commands that only read do not wait.
    let listed = space.run(&["list"]);
    assert_eq!(listed.code, Some(0), "{listed}");
    assert!(first.runs(), "`list` waited for the build");
    let (first, second) = (first.finish(), second.finish());
    first.counts(1, 0, 0);
    second.counts(1, 1, 0);
    assert_eq!(second.started(), ["b"], "the first one's result is taken");
    second.says("wait").says(&pid.to_string());
}

#[test]
fn two_workspaces_on_one_store_do_the_same_work_once() {
    let yaml = "targets:\n  a: { rule: command, run: 'sleep 1; cat /proc/sys/kernel/random/uuid > \"$OUT/o\"', outputs: [o] }\n";
    let one = Space::new(yaml);
    let two = one.beside("two", yaml);
    let mut first = one.start(&["a"]);
    first.wait_for_start("a");
    let second = two.start(&["a"]);
    first.finish().counts(1, 0, 0);
    let second = second.finish();
    assert_eq!(second.code, Some(0), "{second}");
    assert_eq!(one.read("dist/a"), two.read("dist/a"), "one of the two took the other's result");
    one.assert_clean();
}
