//! Events as lines of text that stay: finished targets, failures, warnings, the summary.
//! Decides what is said at which verbosity; writes nowhere and draws nothing.

use mosbuild_engine::events::{Event, Outcome};

use super::summary;
use crate::format::{clean_line, duration, size};
use crate::ui::{Paint, Ui, annotation, error, warning};

/// Turns events into lines.
pub struct Narrator {
    color: bool,
    github: bool,
    verbosity: i8,
    file: String,
    /// Files placed so far.
    placed: usize,
}

/// How many placed files are named before the rest is counted.
const PLACED: usize = 10;

impl Narrator {
    /// For a terminal or log as `ui` describes it; `file` is how annotations name mosbuild.yaml.
    pub fn new(ui: &Ui, file: String) -> Narrator {
        Narrator { color: ui.color_err, github: ui.github, verbosity: ui.verbosity, file, placed: 0 }
    }

    /// What is to be printed for an event; no line has an end.
    pub fn tell(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Failure { .. } => Some(self.failure(event)),
            Event::RunFinished { .. } => self.end(event),
            Event::PlaceFailed { message } => {
                let text = error(self.color, message, &[]);
                let github = self.github.then(|| annotation("error", None, message));
                Some([Some(text), github].into_iter().flatten().collect::<Vec<_>>().join("\n"))
            }
            _ if self.verbosity < 0 => None,
            Event::Image { image, done, total } if self.verbosity >= 0 => Some(match total {
                Some(total) => format!("image {image}: {} of {}", size(*done), size(*total)),
                None => format!("image {image}: {}", size(*done)),
            }),
            Event::Locked { id } => {
                Some(format!("{}  {id}  (in mosbuild.lock)", Paint::Cyan.on(self.color, "locked ")))
            }
            Event::StepOutput { target, step, line } if self.verbosity > 0 => {
                let place = Paint::Dim.on(self.color, &format!("{target}:{step}|"));
                Some(format!("{place} {}", clean_line(line)))
            }
            Event::StepStarted { target, step, why, .. } if self.verbosity > 0 => {
                let why = if why.is_empty() { String::new() } else { format!("  ({why})") };
                Some(format!("{}  {target}:{step}{why}", Paint::Dim.on(self.color, "running")))
            }
            Event::ItemFinished { target, step, work, item, millis, .. } if self.verbosity > 0 => {
                let word = Paint::Dim.on(self.color, &format!("{work:7}"));
                Some(format!("{word}  {target}:{step}  {}  {}", clean_line(item), duration(*millis)))
            }
            Event::LockStarted { target, step, id } if self.verbosity > 0 => {
                Some(format!("{}  {target}:{step}  ({id})", Paint::Dim.on(self.color, "locking")))
            }
            Event::StepFinished { target, step, outcome: Outcome::Cancelled, .. } => {
                Some(format!("{}  {target}:{step}", Paint::Yellow.on(self.color, "stopped")))
            }
            Event::TargetFinished { target, outcome, millis, same_output } => {
                self.target(target, *outcome, *millis, *same_output)
            }
            Event::SkippedBecause { target, failed } => {
                let text = format!("{target}: skipped because {failed} failed");
                Some(Paint::Yellow.on(self.color, &text))
            }
            Event::Warning { message } => Some(self.warning(message)),
            Event::Placed { path, size: bytes } => {
                self.placed += 1;
                let word = Paint::Green.on(self.color, "placed ");
                (self.placed <= PLACED).then(|| format!("{word}  {path}  {}", size(*bytes)))
            }
            _ => None,
        }
    }

    fn target(&self, target: &str, outcome: Outcome, millis: u64, unchanged: bool) -> Option<String> {
        match outcome {
            Outcome::Ran => {
                let same = if unchanged { "  (output unchanged)" } else { "" };
                let word = Paint::Green.on(self.color, "built  ");
                Some(format!("{word}  {target}  {}{same}", duration(millis)))
            }
            Outcome::Hit if self.verbosity > 0 => {
                Some(format!("{}  {target}", Paint::Dim.on(self.color, "cached ")))
            }
            // Failures, what they skip and stopped steps have said so themselves.
            Outcome::Hit | Outcome::Failed | Outcome::Skipped | Outcome::Cancelled => None,
        }
    }

    fn end(&self, event: &Event) -> Option<String> {
        let summary = summary(event)?;
        match self.placed.saturating_sub(PLACED) {
            0 => Some(summary),
            more => Some(format!("{}  {more} more files\n{summary}", Paint::Green.on(self.color, "placed "))),
        }
    }

    fn warning(&self, message: &str) -> String {
        let text = warning(self.color, message);
        match self.github {
            true => format!("{text}\n{}", annotation("warning", None, message)),
            false => text,
        }
    }

    /// The block of a failure: what, the end of its output, where the whole is, what to do.
    fn failure(&self, event: &Event) -> String {
        let Event::Failure { target, step, message, tail, log, help, line } = event else {
            return String::new();
        };
        let mut lines = vec![error(self.color, &format!("{target}:{step}: {message}"), &[])];
        if self.github && !tail.is_empty() {
            lines.push(format!("::group::output of {target}:{step}"));
            lines.extend(tail.iter().map(|l| clean_line(l)));
            lines.push("::endgroup::".into());
        } else if !tail.is_empty() {
            lines.push("  the end of its output:".into());
            let bar = Paint::Dim.on(self.color, "|");
            lines.extend(tail.iter().map(|l| format!("  {bar} {}", clean_line(l))));
        }
        if let Some(log) = log {
            lines.push(format!("  {}: {log}", Paint::Cyan.on(self.color, "whole log")));
        }
        for text in help {
            lines.push(format!("  {}: {text}", Paint::Cyan.on(self.color, "help")));
        }
        if self.github {
            let place = line.map(|line| (self.file.as_str(), line, None));
            lines.push(annotation("error", place, &format!("{target}:{step}: {message}")));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn narrator(verbosity: i8, github: bool) -> Narrator {
        Narrator { color: false, github, verbosity, file: "mosbuild.yaml".into(), placed: 0 }
    }

    fn ran(target: &str, millis: u64, same_output: bool) -> Event {
        Event::TargetFinished { target: target.into(), outcome: Outcome::Ran, millis, same_output }
    }

    fn failure() -> Event {
        Event::Failure {
            target: "linux".into(),
            step: "compile".into(),
            message: "it exited with code 2 after 3.0 s".into(),
            tail: vec!["cc -c a.c".into(), "a.c:1: \x1b[31merror\x1b[0m".into()],
            log: Some("/w/.mosbuild/runs/1/logs/linux.compile.log".into()),
            help: vec!["`mosbuild shell linux` opens a shell where it ran".into()],
            line: Some(7),
        }
    }

    #[test]
    fn a_built_target_is_one_line_and_says_whether_it_was_cut_off() {
        let mut n = narrator(0, false);
        assert_eq!(n.tell(&ran("kernel", 12_345, false)).unwrap(), "built    kernel  12.3 s");
        assert_eq!(n.tell(&ran("a", 10, true)).unwrap(), "built    a  0.0 s  (output unchanged)");
    }

    #[test]
    fn hits_are_told_only_when_asked() {
        let hit =
            Event::TargetFinished { target: "a".into(), outcome: Outcome::Hit, millis: 0, same_output: true };
        assert_eq!(narrator(0, false).tell(&hit), None);
        assert_eq!(narrator(1, false).tell(&hit).unwrap(), "cached   a");
    }

    #[test]
    fn quiet_leaves_errors_and_the_summary() {
        let mut n = narrator(-1, false);
        assert_eq!(n.tell(&ran("a", 1, false)), None);
        assert_eq!(n.tell(&Event::Warning { message: "x".into() }), None);
        assert!(n.tell(&failure()).is_some());
        let end = Event::RunFinished { built: 1, cached: 2, failed: 0, millis: 1234 };
        assert_eq!(n.tell(&end).unwrap(), "1 built, 2 cached, 0 failed in 1.23 s");
    }

    #[test]
    fn many_placed_files_are_counted() {
        let mut n = narrator(0, false);
        let placed = Event::Placed { path: "dist/x".into(), size: 2048 };
        let told: Vec<_> = (0..PLACED + 5).filter_map(|_| n.tell(&placed)).collect();
        assert_eq!((told.len(), told[0].as_str()), (PLACED, "placed   dist/x  2.0 KiB"));
        let end = Event::RunFinished { built: 15, cached: 0, failed: 0, millis: 20_000 };
        assert_eq!(n.tell(&end).unwrap(), "placed   5 more files\n15 built, 0 cached, 0 failed in 20.0 s");
    }

    #[test]
    fn output_is_prefixed_when_verbose() {
        let line = Event::StepOutput { target: "t".into(), step: "s".into(), line: "a\tb".into() };
        assert_eq!(narrator(0, false).tell(&line), None);
        assert_eq!(narrator(1, false).tell(&line).unwrap(), "t:s| a b");
    }

    #[test]
    fn pieces_of_work_are_told_when_verbose() {
        let event = Event::ItemFinished {
            target: "rootfs".into(),
            step: "strip".into(),
            work: "strip",
            item: "usr/bin/a".into(),
            key: "00".into(),
            millis: 120,
        };
        assert_eq!(narrator(0, false).tell(&event), None);
        assert_eq!(narrator(1, false).tell(&event).unwrap(), "strip    rootfs:strip  usr/bin/a  0.1 s");
    }

    #[test]
    fn a_failure_shows_its_end_its_log_and_the_way_in() {
        assert_eq!(
            narrator(0, false).tell(&failure()).unwrap(),
            "error: linux:compile: it exited with code 2 after 3.0 s\n  \
             the end of its output:\n  | cc -c a.c\n  | a.c:1: error\n  \
             whole log: /w/.mosbuild/runs/1/logs/linux.compile.log\n  \
             help: `mosbuild shell linux` opens a shell where it ran"
        );
    }

    #[test]
    fn on_github_failures_are_grouped_and_annotated() {
        let text = narrator(0, true).tell(&failure()).unwrap();
        assert!(text.contains("\n::group::output of linux:compile\ncc -c a.c\n"), "{text}");
        assert!(text.contains("\n::endgroup::\n"), "{text}");
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "::error file=mosbuild.yaml,line=7::linux:compile: it exited with code 2 after 3.0 s"
        );
    }

    #[test]
    fn a_skipped_target_names_its_reason() {
        let event = Event::SkippedBecause { target: "x".into(), failed: "y".into() };
        assert_eq!(narrator(0, false).tell(&event).unwrap(), "x: skipped because y failed");
    }
}
