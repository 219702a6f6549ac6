//! Items of a builtin: keyed, looked up, run by as many threads as there are free slots, stored. See *Items* in
//! docs/design.md. Also runs the host tools of builtins. Knows no rule.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mosbuild_cache::{ActionResult, Digest, Output, OutputKind};
use rayon::prelude::*;

use super::evaluate::{kind_text, tool_value};
use super::rewind::lost_blob;
use super::worker::Job;
use crate::action::{BuiltinCx, OUT_DIR, StepError, WORK_DIR};
use crate::events::Event;
use crate::exec::{self, CancelToken, End, Executor, Limits, Mount, Slot, Watch};
use crate::item::{self, Batch, INPUT_DIR, Item, ItemWork, Previous, Services, ToolOutcome, ToolRun};
use crate::record::{ActionRecord, Part, SCHEMA, Value};
use crate::rooted::Answer;
use crate::run_record::Runs;

/// Longest time that a tool may take for one item.
const PATIENCE: Duration = Duration::from_secs(1800);

impl Services for Job {
    fn batch(&self, cx: &BuiltinCx<'_>, work: &dyn ItemWork, items: &[Item]) -> Result<Batch, StepError> {
        let base = self.item_record(work);
        let keys: Vec<Digest> = items.iter().map(|item| key(&base, item)).collect();
        let mut first: HashMap<Digest, usize> = HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            first.entry(*key).or_insert(at);
        }
        let mut unique: Vec<usize> = first.values().copied().collect();
        unique.sort_unstable();
        let found: Vec<Option<ActionResult>> = unique.par_iter().map(|at| self.known(&keys[*at])).collect();
        let mut results: HashMap<Digest, Arc<ActionResult>> = HashMap::new();
        let mut todo = VecDeque::new();
        for (at, found) in unique.iter().zip(found) {
            match found {
                Some(result) => drop(results.insert(keys[*at], Arc::new(result))),
                None => todo.push_back(*at),
            }
        }
        let ran = todo.len();
        let crew = Crew {
            job: self,
            cx,
            work,
            items,
            keys: &keys,
            todo: Mutex::new(todo),
            done: Mutex::new(Done { results, error: None }),
            stop: AtomicBool::new(false),
        };
        std::thread::scope(|scope| crew.labour(scope));
        let Done { results, error } = crew.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = error {
            return Err(error);
        }
        let results: Vec<Arc<ActionResult>> = keys.iter().filter_map(|k| results.get(k).cloned()).collect();
        match results.len() == items.len() {
            true => Ok(Batch { results, ran, known: items.len() - ran }),
            false => Err(StepError::new("interrupted")),
        }
    }

    fn run_tool(&self, cx: &BuiltinCx<'_>, run: &ToolRun) -> Result<ToolOutcome, StepError> {
        let mut scratch = self.store.scratch("tool")?;
        let base = scratch.path().to_owned();
        let (work, out) = (base.join("work"), base.join("out"));
        scratch.dir(&work)?;
        scratch.dir(&out)?;
        scratch.settle()?;
        let names: Vec<String> = run.tools.iter().map(|t| (*t).to_owned()).collect();
        let visible = self.prepared.host.layout(&names)?;
        let mut mounts = visible.mounts;
        mounts.extend([Mount::writable(&work, WORK_DIR), Mount::writable(&out, OUT_DIR)]);
        for (digest, executable, name) in &run.inputs {
            let blob = cx.store.blob_path_as(digest, *executable)?;
            mounts.push(Mount::read_only(blob, format!("{INPUT_DIR}/{name}")));
        }
        let home = PathBuf::from("/build/home");
        mounts.push(Mount::Tmpfs { at: home.clone(), size: 1 << 30 });
        // Nothing here that is not in the key or the same for everybody.
        let mut env = visible.env;
        for (name, value) in [
            ("PATH", OsString::from(visible.path)),
            ("HOME", home.into()),
            ("OUT", OUT_DIR.into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("TZ", "UTC".into()),
            ("SOURCE_DATE_EPOCH", mosbuild_cache::MTIME.to_string().into()),
        ] {
            env.push((name.into(), value));
        }
        let log = base.join("log");
        let job = exec::Job {
            argv: run.argv.iter().map(OsString::from).collect(),
            env,
            cwd: WORK_DIR.into(),
            mounts,
            limits: Limits { time: Some(PATIENCE), memory: None },
            log: log.clone(),
            ..exec::Job::default()
        };
        let ended = exec::Sandbox.run(&job, &Canceller(self));
        let outcome = ended.map_err(|e| StepError::new(e.to_string()).exit(e.exit()))?;
        let output = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let code = match outcome.end {
            End::Exit(code) => Some(code),
            End::Cancelled => return Err(StepError::new("interrupted")),
            End::TimedOut => {
                let minutes = PATIENCE.as_secs() / 60;
                let text = format!("{} did not end within {minutes} minutes", run.argv.join(" "));
                return Err(StepError::new(text));
            }
            _ => None,
        };
        Ok(ToolOutcome { answer: Answer { code, output }, out, _scratch: Some(scratch) })
    }

    fn previous(&self) -> Option<Previous> {
        let before = self.before.as_ref()?;
        let records = Runs::of(&self.prepared.state).records(&before.record_run);
        let record = ActionRecord::decode(records.get(&before.result.key)?).ok()?;
        let digest = |(part, value): (&Part, &Value)| match (part, value) {
            (Part::Input(name), Value::Tree(digest) | Value::File { digest, .. }) => {
                Some((name.clone(), *digest))
            }
            _ => None,
        };
        let inputs = record.parts.iter().filter_map(digest).collect();
        Some(Previous { outputs: before.result.outputs.clone(), inputs })
    }
}

struct Canceller<'a>(&'a Job);

impl Watch for Canceller<'_> {
    fn cancel(&self) -> Option<&CancelToken> {
        Some(&self.0.prepared.cancel)
    }
}

impl Job {
    /// What is in the key of every item of a batch.
    fn item_record(&self, work: &dyn ItemWork) -> ActionRecord {
        let mut record = ActionRecord::default();
        record.set(Part::Schema, Value::Number(u64::from(SCHEMA)));
        record.text(Part::Builtin, work.name());
        record.set(Part::BuiltinVersion, Value::Number(u64::from(work.version())));
        for (name, value) in work.params() {
            record.text(Part::Param(name), value);
        }
        if !work.tools().is_empty() {
            record.text(Part::Platform, &self.prepared.platform);
            for tool in work.tools().iter().copied().chain([crate::tools::BASE]) {
                if let Some(identity) = self.prepared.tools.get(tool) {
                    record.set(Part::Tool(tool.to_owned()), tool_value(identity));
                }
            }
        }
        record.text(Part::Output("file".into()), kind_text(crate::action::OutKind::File));
        record
    }

    /// A result that may be taken: one of which a blob is missing or damaged is none.
    fn known(&self, key: &Digest) -> Option<ActionResult> {
        if self.anew || !self.keep {
            return None;
        }
        let result = self.store.get_result(key).ok().flatten()?;
        let whole = result.outputs.values().all(|o: &Output| lost_blob(&self.store, o).is_none());
        if !whole {
            self.store.forget_result(key);
        }
        whole.then_some(result)
    }
}

fn key(base: &ActionRecord, item: &Item) -> Digest {
    let mut record = base.clone();
    let value = Value::File { digest: item.digest, size: item.size, executable: false };
    record.set(Part::Input("file".into()), value);
    record.key()
}

/// The threads of a batch, and what they share.
struct Crew<'a> {
    job: &'a Job,
    cx: &'a BuiltinCx<'a>,
    work: &'a dyn ItemWork,
    items: &'a [Item],
    keys: &'a [Digest],
    todo: Mutex<VecDeque<usize>>,
    done: Mutex<Done>,
    stop: AtomicBool,
}

/// What the threads have come to.
struct Done {
    /// By key.
    results: HashMap<Digest, Arc<ActionResult>>,
    /// The first one.
    error: Option<StepError>,
}

impl Crew<'_> {
    /// Works until nothing is left; a slot that is free by then brings another thread. The step's own slot is the one
    /// of the thread that begins.
    fn labour<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>) {
        while let Some(at) = self.next() {
            if self.some_left()
                && let Ok(Some(slot)) = self.job.prepared.pool.try_acquire()
            {
                scope.spawn(move || self.help(scope, slot));
            }
            let outcome = self.one(at);
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(result) => drop(done.results.insert(self.keys[at], Arc::new(result))),
                Err(error) => {
                    self.stop.store(true, Ordering::Relaxed);
                    done.error.get_or_insert(error);
                }
            }
        }
    }

    fn help<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>, slot: Slot) {
        self.labour(scope);
        drop(slot);
    }

    fn next(&self) -> Option<usize> {
        if self.stop.load(Ordering::Relaxed) || (self.cx.cancelled)() {
            return None;
        }
        self.todo.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn some_left(&self) -> bool {
        !self.todo.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn one(&self, at: usize) -> Result<ActionResult, StepError> {
        let item = &self.items[at];
        let started = Instant::now();
        let made = self.work.run(self.cx, item).map_err(|mut e| {
            if e.lost.is_none() {
                e.message = format!("{}: {}", item.name, e.message);
            }
            e
        })?;
        let fits = made.outputs.get("file").is_some_and(|o| matches!(o.kind, OutputKind::File { .. }));
        if !fits {
            let name = self.work.name();
            return Err(StepError::new(format!("{name} made no file; this is a fault of mosbuild")));
        }
        let millis = started.elapsed().as_millis() as u64;
        let result = item::result(self.keys[at], made, millis, self.job.run.clone(), self.job.local);
        if self.job.keep {
            self.job.store.put_result(&result)?;
        }
        self.job.sink.event(&Event::ItemFinished {
            target: self.job.target().to_owned(),
            step: self.job.node().step.name.clone(),
            work: self.work.name(),
            item: item.name.clone(),
            key: result.key.hex(),
            millis,
        });
        Ok(result)
    }
}
