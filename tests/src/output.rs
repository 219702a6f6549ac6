//! What a run of the program left: exit code, both streams, events.
//! Knows the events' JSON and the summary line.

use std::fmt;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;

/// What a run left.
#[derive(Debug)]
pub struct Output {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Events of a build.
    pub events: Vec<Value>,
    args: Vec<String>,
}

/// The numbers of the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Targets built.
    pub built: usize,
    /// Targets from the cache.
    pub cached: usize,
    /// Targets failed.
    pub failed: usize,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} ended with {:?}", self.args, self.code)?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// The whole lines of a file of events.
pub fn read_events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in event {line:?}")))
        .collect()
}

impl Output {
    pub(crate) fn of(mut command: Command, args: &[&str], events: Option<&Path>) -> Output {
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Output::wait(child, args, events)
    }

    pub(crate) fn wait(child: Child, args: &[&str], events: Option<&Path>) -> Output {
        let output = child.wait_with_output().unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            events: events.map(read_events).unwrap_or_default(),
            args: args.iter().map(|a| a.to_string()).collect(),
        }
    }

    /// The last line of standard error, which must be the summary, and must agree with the last event.
    #[track_caller]
    pub fn summary(&self) -> Summary {
        let last = self.stderr.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split(' ').collect();
        let [built, "built,", cached, "cached,", failed, "failed", "in", seconds, "s"] = words[..] else {
            panic!("the last line is no summary: {self}");
        };
        assert!(seconds.parse::<f64>().is_ok(), "{last}");
        let number = |text: &str| text.parse::<usize>().unwrap_or_else(|e| panic!("{e}: {last}"));
        let summary = Summary { built: number(built), cached: number(cached), failed: number(failed) };
        let end = self.events.last().unwrap_or_else(|| panic!("no events: {self}"));
        assert_eq!(end["event"], "run_finished", "{end}");
        let told = (end["built"].as_u64(), end["cached"].as_u64(), end["failed"].as_u64());
        let seen = (Some(summary.built as u64), Some(summary.cached as u64), Some(summary.failed as u64));
        assert_eq!(told, seen, "the last event and the last line disagree: {self}");
        summary
    }

    /// Asserts the numbers of the summary.
    #[track_caller]
    pub fn counts(&self, built: usize, cached: usize, failed: usize) -> &Output {
        assert_eq!(self.summary(), Summary { built, cached, failed }, "{self}");
        self
    }

    /// The names in events of a kind, sorted.
    pub fn named(&self, kind: &str, field: &str) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.events.iter().filter(|e| e["event"] == kind).filter_map(|e| e[field].as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Targets of which a step was started, sorted.
    pub fn started(&self) -> Vec<&str> {
        let mut names = self.named("step_started", "target");
        names.dedup();
        names
    }

    /// Targets that came to an end in this way, sorted.
    pub fn ended(&self, outcome: &str) -> Vec<&str> {
        let ended = |e: &&Value| e["event"] == "target_finished" && e["outcome"] == outcome;
        let mut names: Vec<&str> =
            self.events.iter().filter(ended).filter_map(|e| e["target"].as_str()).collect();
        names.sort_unstable();
        names
    }

    /// The failure of a target.
    #[track_caller]
    pub fn failure(&self, target: &str) -> &Value {
        let found = self.events.iter().find(|e| e["event"] == "failure" && e["target"] == target);
        found.unwrap_or_else(|| panic!("no failure of {target}: {self}"))
    }

    /// Asserts that standard error has this text.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Output {
        assert!(self.stderr.contains(text), "standard error lacks {text:?}: {self}");
        self
    }
}
