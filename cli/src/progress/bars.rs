//! The display on a terminal: a header with what is done and left, and a line for each running step.
//! Events only change a model; one thread draws it ten times a second, so that events cost next to nothing.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mosbuild_engine::events::{Event, Outcome, Sink};

use super::estimate::ToGo;
use super::terminal::{Terminal, usable};
use super::{History, Narrator, SHOWN_STEPS};
use crate::format::{clean_line, cut, elapsed, rough, size};

/// Between two drawings.
const TICK: Duration = Duration::from_millis(100);
/// A build that is over sooner is not drawn at all.
const PATIENCE: Duration = Duration::from_millis(200);
/// Columns of the bar in the header; as in its template.
const BAR: usize = 24;
/// Columns of a step's time.
const TIME: usize = 7;
/// A step's line of output is left out where it has fewer columns.
const LINE: usize = 10;
/// On a terminal of fewer columns the header has no bar.
const NARROW: usize = 70;
/// Between two estimates of the time to go.
const ESTIMATE: Duration = Duration::from_secs(1);

struct Running {
    target: String,
    step: String,
    since: Instant,
    line: String,
}

struct Model {
    narrator: Narrator,
    history: Option<History>,
    targets: usize,
    finished: HashSet<String>,
    hits: usize,
    failed: usize,
    running: Vec<Running>,
    /// Lines to be printed above.
    said: String,
    over: bool,
}

struct Shared {
    model: Mutex<Model>,
    wake: Condvar,
}

/// Draws progress.
pub struct Bars {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Bars {
    /// To stderr.
    pub fn new(narrator: Narrator, history: History) -> Bars {
        let model = Model {
            narrator,
            history: Some(history),
            targets: 0,
            finished: HashSet::new(),
            hits: 0,
            failed: 0,
            running: Vec::new(),
            said: String::new(),
            over: false,
        };
        Bars {
            shared: Arc::new(Shared { model: Mutex::new(model), wake: Condvar::new() }),
            thread: Mutex::new(None),
        }
    }

    /// Ends drawing; what was said and not printed yet is printed.
    pub fn close(&self) {
        self.shared.lock().over = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A drawing thread that died has lost its lines only.
            let _ = thread.join();
        }
        let said = std::mem::take(&mut self.shared.lock().said);
        let _ = std::io::stderr().lock().write_all(said.as_bytes());
    }

    fn start(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            *thread = std::thread::Builder::new().name("progress".into()).spawn(move || draw(&shared)).ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Bars {
    fn event(&self, event: &Event) {
        let over = {
            let mut model = self.shared.lock();
            model.take(event);
            matches!(event, Event::RunFinished { .. }) || model.over
        };
        match event {
            Event::RunStarted { .. } => self.start(),
            // What comes behind the summary, or before the start, is printed at once.
            _ if over => self.close(),
            _ => {}
        }
    }
}

impl Model {
    fn take(&mut self, event: &Event) {
        match event {
            Event::RunStarted { targets, .. } => self.targets = *targets,
            Event::StepStarted { target, step, .. } | Event::LockStarted { target, step, .. } => {
                self.running.push(Running {
                    target: target.clone(),
                    step: step.clone(),
                    since: Instant::now(),
                    line: String::new(),
                })
            }
            Event::StepOutput { target, step, line } => {
                let running = self.running.iter_mut().find(|r| r.target == *target && r.step == *step);
                if let Some(running) = running {
                    running.line.clone_from(line);
                }
            }
            Event::ItemFinished { target, step, item, .. } => {
                let running = self.running.iter_mut().find(|r| r.target == *target && r.step == *step);
                if let Some(running) = running {
                    running.line.clone_from(item);
                }
            }
            Event::Download { target, step, url, done, total } => {
                let running = self.running.iter_mut().find(|r| r.target == *target && r.step == *step);
                if let Some(running) = running {
                    running.line = download(url, *done, *total);
                }
            }
            Event::StepFinished { target, step, .. } | Event::LockFinished { target, step, .. } => {
                self.running.retain(|r| r.target != *target || r.step != *step);
            }
            Event::TargetFinished { target, outcome, .. } => {
                // A target whose blob was lost is finished twice, and counts once.
                let first = self.finished.insert(target.clone());
                self.hits += usize::from(first && *outcome == Outcome::Hit);
                self.failed += usize::from(first && *outcome == Outcome::Failed);
            }
            _ => {}
        }
        if let Some(text) = self.narrator.tell(event) {
            self.said.push_str(&text);
            self.said.push('\n');
        }
    }

    /// `19/40 targets, 7 cached, 3 running, 21 left, about 2m 10s to go`.
    fn header(&self, to_go: Option<ToGo>) -> String {
        let left = self.targets.saturating_sub(self.finished.len());
        let mut parts = vec![
            format!("{}/{} targets", self.finished.len(), self.targets),
            format!("{} cached", self.hits),
        ];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{} running", self.running.len()));
        parts.push(format!("{left} left"));
        match to_go {
            Some(ToGo { millis: 0, .. }) | None => {}
            Some(ToGo { millis, at_least: false }) => parts.push(format!("about {} to go", rough(millis))),
            Some(ToGo { millis, at_least: true }) => parts.push(format!("over {} to go", rough(millis))),
        }
        parts.join(", ")
    }

    /// Name with time, and the last line of output, of each running step; cut to these columns.
    fn rows(&self, width: usize) -> Vec<(String, String)> {
        let now = Instant::now();
        let names =
            self.running.iter().take(SHOWN_STEPS).map(|r| r.name().chars().count()).max().unwrap_or(0);
        // A long name is cut rather than the time behind it.
        let names = names.min(width.saturating_sub(2 + 2 + TIME));
        let row = |r: &Running| {
            let millis = now.duration_since(r.since).as_millis() as u64;
            let prefix = format!("{:names$}  {:>TIME$}", cut(&r.name(), names), elapsed(millis));
            let left = width.saturating_sub(prefix.chars().count() + 4);
            // Too few letters tell nothing.
            let line = if left < LINE { String::new() } else { cut(&clean_line(&r.line), left) };
            (prefix, line)
        };
        let mut rows: Vec<_> = self.running.iter().take(SHOWN_STEPS).map(row).collect();
        if self.running.len() > SHOWN_STEPS {
            rows.push((format!("and {} more", self.running.len() - SHOWN_STEPS), String::new()));
        }
        rows
    }
}

impl Running {
    fn name(&self) -> String {
        format!("{}:{}", self.target, self.step)
    }
}

/// `jq-1.7.1-r0.apk  120 KiB of 160 KiB`.
fn download(url: &str, done: u64, total: Option<u64>) -> String {
    let name = url.rsplit('/').find(|part| !part.is_empty()).unwrap_or(url);
    match total {
        Some(total) => format!("{name}  {} of {}", size(done), size(total)),
        None => format!("{name}  {}", size(done)),
    }
}

/// The drawing thread.
fn draw(shared: &Shared) {
    {
        let model = shared.lock();
        let waited = shared.wake.wait_timeout_while(model, PATIENCE, |m| !m.over);
        if waited.is_ok_and(|(model, _)| model.over) {
            return;
        }
    }
    let multi = MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(
        Box::new(Terminal::default()),
        20,
    ));
    let header = multi.add(ProgressBar::new(0));
    header.set_style(bar());
    let mut was_narrow = false;
    let mut lines: Vec<ProgressBar> = Vec::new();
    let mut history = shared.lock().history.take();
    let (mut to_go, mut estimated) = (None, None::<Instant>);
    loop {
        let due = estimated.is_none_or(|at| at.elapsed() >= ESTIMATE);
        if due && let Some(history) = &mut history {
            // Not under the lock: past runs are read the first time.
            let (finished, running) = shared.lock().standing();
            to_go = history.estimate(&finished, &running);
            estimated = Some(Instant::now());
        }
        let model = shared.lock();
        let waited = shared.wake.wait_timeout_while(model, TICK, |m| !m.over);
        let mut model = waited.unwrap_or_else(PoisonError::into_inner).0;
        if model.over {
            break;
        }
        let said = std::mem::take(&mut model.said);
        let width = usable();
        let (rows, message) = (model.rows(width), model.header(to_go));
        let (done, targets) = (model.finished.len() as u64, model.targets as u64);
        drop(model);
        if !said.is_empty() {
            // A terminal that has gone away shows nothing; the build goes on.
            let _ = multi.println(said.trim_end_matches('\n'));
        }
        header.set_length(targets);
        header.set_position(done);
        let narrow = width < NARROW;
        if narrow != was_narrow {
            header.set_style(if narrow { style("{msg}") } else { bar() });
            was_narrow = narrow;
        }
        header.set_message(cut(&message, if narrow { width } else { width.saturating_sub(BAR + 1) }));
        while lines.len() > rows.len() {
            if let Some(line) = lines.pop() {
                line.finish_and_clear();
                multi.remove(&line);
            }
        }
        while lines.len() < rows.len() {
            let line = multi.add(ProgressBar::new_spinner());
            line.set_style(style("  {prefix:.cyan}  {msg:.dim}"));
            lines.push(line);
        }
        for (line, (prefix, message)) in lines.iter().zip(rows) {
            line.set_prefix(prefix);
            line.set_message(message);
            line.tick();
        }
    }
    let _ = multi.clear();
}

impl Model {
    fn standing(&self) -> (HashSet<String>, HashMap<String, u64>) {
        let mut running: HashMap<String, u64> = HashMap::new();
        for r in &self.running {
            *running.entry(r.target.clone()).or_default() += r.since.elapsed().as_millis() as u64;
        }
        (self.finished.clone(), running)
    }
}

fn bar() -> ProgressStyle {
    style("{bar:24.green/dim} {msg}").progress_chars("=> ")
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; one that is wrong falls back to indicatif's own.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::super::narrator::tests::narrator;
    use super::*;

    fn model() -> Model {
        Model {
            narrator: narrator(0, false),
            history: None,
            targets: 0,
            finished: HashSet::new(),
            hits: 0,
            failed: 0,
            running: Vec::new(),
            said: String::new(),
            over: false,
        }
    }

    fn finished(target: &str, outcome: Outcome) -> Event {
        Event::TargetFinished { target: target.into(), outcome, millis: 10, same_output: false }
    }

    #[test]
    fn the_header_counts_what_is_left() {
        let mut model = model();
        model.take(&Event::RunStarted { schema: "x", run: "r".into(), targets: 5, steps: 9 });
        model.take(&finished("a", Outcome::Hit));
        model.take(&finished("a", Outcome::Ran));
        model.take(&finished("b", Outcome::Ran));
        let (target, step) = ("c".to_owned(), "run".to_owned());
        let started = Event::StepStarted {
            target: target.clone(),
            step: step.clone(),
            key: String::new(),
            why: String::new(),
        };
        model.take(&started);
        model.take(&Event::StepOutput { target, step, line: "CC  a.o".into() });
        assert_eq!(model.header(None), "2/5 targets, 1 cached, 1 running, 3 left");
        let to_go = ToGo { millis: 130_000, at_least: false };
        assert_eq!(model.header(Some(to_go)), "2/5 targets, 1 cached, 1 running, 3 left, about 2m 10s to go");
        let over = ToGo { at_least: true, ..to_go };
        assert!(model.header(Some(over)).ends_with("over 2m 10s to go"));
        assert_eq!(model.rows(80)[0].1, "CC  a.o");
        assert_eq!(model.said, "built    a  0.0 s\nbuilt    b  0.0 s\n");
    }

    #[test]
    fn more_steps_than_lines_are_counted() {
        let mut model = model();
        for n in 0..SHOWN_STEPS + 3 {
            let (target, step) = (format!("t{n}"), "run".into());
            model.take(&Event::StepStarted { target, step, key: String::new(), why: String::new() });
        }
        let rows = model.rows(80);
        // However long the name, the time is there.
        let (target, step) = ("a-target-with-quite-a-long-name".to_owned(), "run".into());
        model.running.clear();
        model.take(&Event::StepStarted { target, step, key: String::new(), why: String::new() });
        assert_eq!(model.rows(26), [("a-target-with-…      0 s".to_owned(), String::new())]);
        for n in 0..SHOWN_STEPS + 2 {
            let (target, step) = (format!("t{n}"), "run".into());
            model.take(&Event::StepStarted { target, step, key: String::new(), why: String::new() });
        }
        assert!(model.rows(20).iter().all(|(a, b)| a.chars().count() + b.chars().count() <= 20));
        assert_eq!((rows.len(), rows.last().unwrap().0.as_str()), (SHOWN_STEPS + 1, "and 3 more"));
    }
}
