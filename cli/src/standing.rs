//! How each target stands: fresh, changed, never built, … as a build would find it now, each by itself: what this host
//! lacks for one does not hide the others. Where nothing can be told, as the last run left it. Runs nothing and takes no
//! lock.

use std::collections::HashMap;

use mosbuild_engine::build::{
    Blocked, BuildOptions, Forecast, Predicted, Prepared, predict, prepare_what_can_be,
};
use mosbuild_engine::run_record::{OutcomeCode, Reason, Runs, StepRun};
use serde_json::json;

use crate::failure::Failure;
use crate::format::{few, rough};
use crate::session::Session;
use crate::ui::{Paint, Ui};

/// How a target stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A build would take it from the cache.
    Fresh,
    /// A build would run it, because of this.
    Stale(String),
    /// It was never built here.
    New,
    /// A build would first find what its source stands for.
    Unlocked,
    /// Its last run failed, and nothing has changed since.
    Failed,
    /// Nothing is known to have changed, but its result is gone from the store.
    Gone,
    /// That depends on what this target makes, which would run.
    Waits(String),
    /// It cannot be built on this host, for this reason.
    Blocked(String),
    /// It has no steps of its own.
    Group,
    /// It could not be told; the last run took it from the cache or built it.
    WasBuilt,
}

impl State {
    /// One word, also for programs.
    pub fn word(&self) -> &'static str {
        match self {
            State::Fresh => "fresh",
            State::Stale(_) => "changed",
            State::New => "new",
            State::Unlocked => "unlocked",
            State::Failed => "failed",
            State::Gone => "gone",
            State::Waits(_) => "waits",
            State::Blocked(_) => "blocked",
            State::Group => "group",
            State::WasBuilt => "built",
        }
    }

    /// As shown in a table or tree.
    pub fn text(&self) -> String {
        match self {
            State::Stale(why) => format!("changed ({why})"),
            State::Waits(target) => format!("waits for {target}"),
            State::Blocked(why) => format!("blocked ({})", first_line(why)),
            State::Group => String::new(),
            State::Unlocked => "source not locked".into(),
            other => other.word().into(),
        }
    }

    /// What it cannot be built for here, if that is how it stands.
    pub fn blocked(&self) -> Option<&str> {
        match self {
            State::Blocked(why) => Some(why),
            _ => None,
        }
    }

    /// Its colour.
    pub fn paint(&self) -> Paint {
        match self {
            State::Fresh | State::WasBuilt => Paint::Green,
            State::Stale(_) | State::New | State::Unlocked | State::Gone => Paint::Yellow,
            State::Failed | State::Blocked(_) => Paint::Red,
            State::Waits(_) => Paint::Cyan,
            State::Group => Paint::Dim,
        }
    }
}

/// A target with all that a table shows of it.
#[derive(Clone, Debug)]
pub struct Standing {
    /// How it stands.
    pub state: State,
    /// Bytes of its default output, as last made.
    pub size: Option<u64>,
    /// Milliseconds that its steps took when they last ran.
    pub cost: Option<u64>,
}

/// The plan and what a build would do with it.
pub struct Forecasted {
    /// The plan.
    pub prepared: Prepared,
    /// What would be done; its steps are in the order of the plan's.
    pub predicted: Predicted,
}

/// Plans and predicts; never uses the network and never writes the lock.
pub fn forecast(session: &mut Session, requested: Vec<String>) -> Result<Forecasted, Failure> {
    let options = BuildOptions { requested, offline: true, ..BuildOptions::default() };
    let prepared = prepare_what_can_be(&mut session.workspace, &session.grounds.store, &options)?;
    let predicted = predict(&mut session.workspace, &session.grounds.store, &options)?;
    Ok(Forecasted { prepared, predicted })
}

/// The same, or nothing where no plan can be made: the reason is said, and past runs have to answer.
pub fn try_forecast(
    ui: &Ui,
    session: &mut Session,
    requested: Vec<String>,
) -> Result<Option<Forecasted>, Failure> {
    match forecast(session, requested) {
        Ok(found) => {
            warn_of_blocked(ui, &found.predicted);
            Ok(Some(found))
        }
        Err(Failure::Errors { errors, .. }) => {
            let reason = errors.first().map(|(message, _)| message.as_str()).unwrap_or_default();
            ui.warn(&format!("states are those of past runs, since no build could start now:\n{reason}"));
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// How the targets stand, by name.
pub fn standings(session: &Session, found: Option<&Forecasted>) -> HashMap<String, Standing> {
    match found {
        Some(found) => of_forecast(session, found),
        None => of_past_runs(session),
    }
}

/// How these targets and all below them stand.
pub fn survey(
    ui: &Ui,
    session: &mut Session,
    requested: Vec<String>,
) -> Result<HashMap<String, Standing>, Failure> {
    let found = try_forecast(ui, session, requested)?;
    Ok(standings(session, found.as_ref()))
}

fn of_forecast(session: &Session, found: &Forecasted) -> HashMap<String, Standing> {
    let Forecasted { prepared, predicted } = found;
    let loaded = &session.workspace.loaded;
    let mut all = HashMap::new();
    for (name, forecast) in &predicted.targets {
        let Some(index) = loaded.target_index(name) else { continue };
        let steps = &prepared.graph.of_target[index as usize];
        let notes: Vec<&StepRun> = steps.iter().filter_map(|s| predicted.steps.get(*s as usize)).collect();
        let standing = Standing {
            state: state(forecast, &notes),
            size: size(session, found, index),
            cost: cost(session, &notes),
        };
        all.insert(name.clone(), standing);
    }
    for &t in &prepared.graph.closure {
        let name = session.name(t).to_owned();
        all.entry(name).or_insert(Standing { state: State::Group, size: None, cost: None });
    }
    all
}

fn state(forecast: &Forecast, notes: &[&StepRun]) -> State {
    match forecast {
        Forecast::Hit => State::Fresh,
        Forecast::Blocked(blocked) => State::Blocked(blocked.message.clone()),
        Forecast::DependsOn(target) => State::Waits(target.clone()),
        Forecast::Run { step, .. } => {
            let note = notes.iter().find(|n| n.step == *step);
            match note.map(|n| &n.reason) {
                Some(Reason::New) => State::New,
                Some(Reason::Unlocked) => State::Unlocked,
                Some(Reason::FailedBefore) => State::Failed,
                Some(Reason::ResultGone | Reason::BlobLost { .. }) => State::Gone,
                Some(_) if notes.len() > 1 => State::Stale(step.clone()),
                Some(reason) => State::Stale(reason_text(reason)),
                None => State::Stale(step.clone()),
            }
        }
    }
}

fn size(session: &Session, found: &Forecasted, target: u32) -> Option<u64> {
    let target_name = session.name(target);
    let output = &session.workspace.loaded.targets[target as usize].outputs.first()?.name;
    let (step, name) = found.prepared.graph.maker(target, output)?;
    let note = found.predicted.steps.get(step as usize)?;
    if let Some((_, size)) = note.outputs.get(name) {
        return Some(*size);
    }
    let memory = session.workspace.memory.get(target_name, &note.step)?;
    Some(memory.result.as_ref()?.outputs.get(name)?.size)
}

/// Sum of the steps' last executions; none if nothing is known of any.
fn cost(session: &Session, notes: &[&StepRun]) -> Option<u64> {
    let of = |note: &&StepRun| match note.outcome {
        OutcomeCode::Hit => Some(note.millis),
        _ => session.workspace.memory.get(&note.target, &note.step)?.millis.last().copied(),
    };
    let known: Vec<u64> = notes.iter().filter_map(of).collect();
    (!known.is_empty()).then(|| known.iter().sum())
}

fn of_past_runs(session: &Session) -> HashMap<String, Standing> {
    let loaded = &session.workspace.loaded;
    let mut all: HashMap<String, Standing> = HashMap::new();
    for target in &loaded.targets {
        let state = if target.outputs.is_empty() { State::Group } else { State::New };
        all.insert(target.name.clone(), Standing { state, size: None, cost: None });
    }
    let mut left: usize = loaded.targets.iter().filter(|t| !t.outputs.is_empty()).count();
    let runs = Runs::of(&session.workspace.dirs.state);
    for id in runs.ids().iter().rev() {
        if left == 0 {
            break;
        }
        let mut here: HashMap<String, Vec<StepRun>> = HashMap::new();
        for step in runs.head(id).and_then(|head| runs.steps(&head)).unwrap_or_default() {
            here.entry(step.target.clone()).or_default().push(step);
        }
        for (name, steps) in here {
            let Some(standing) = all.get_mut(&name).filter(|s| s.state == State::New) else { continue };
            let done = |s: &StepRun| matches!(s.outcome, OutcomeCode::Ran | OutcomeCode::Hit);
            if steps.iter().any(|s| s.outcome == OutcomeCode::Failed) {
                standing.state = State::Failed;
            } else if steps.iter().all(done) {
                standing.state = State::WasBuilt;
            } else {
                continue;
            }
            left -= 1;
            standing.cost = Some(steps.iter().map(|s| s.millis).sum());
            standing.size = steps.last().and_then(|s| s.outputs.values().next()).map(|(_, size)| *size);
        }
    }
    all
}

/// Says what keeps a build from starting: each reason once, with the targets that it is about and what to do.
pub fn warn_of_blocked(ui: &Ui, predicted: &Predicted) {
    let mut reasons: Vec<(&Blocked, Vec<&str>)> = Vec::new();
    for (target, forecast) in &predicted.targets {
        let Forecast::Blocked(blocked) = forecast else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == blocked) {
            Some((_, targets)) => targets.push(target),
            None => reasons.push((blocked, vec![target])),
        }
    }
    for (blocked, targets) in reasons {
        let mut text = format!("no build of {} could start now: {}", few(&targets), blocked.message);
        blocked.help.iter().for_each(|help| text.push_str(&format!("\nhelp: {help}")));
        ui.warn(&text);
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Why a step would run, in a few words.
pub fn reason_text(reason: &Reason) -> String {
    match reason {
        Reason::Hit => "in the cache".into(),
        Reason::Forced => "forced".into(),
        Reason::NoCache => "--no-cache".into(),
        Reason::KeyChanged => "inputs changed".into(),
        Reason::New => "never built here".into(),
        Reason::FailedBefore => "failed before".into(),
        Reason::ResultGone => "its result is gone from the store".into(),
        Reason::BlobLost { output, corrupt: true, .. } => format!("a blob of its output {output} is damaged"),
        Reason::BlobLost { output, .. } => format!("a blob of its output {output} is gone"),
        Reason::NotReached => "not reached".into(),
        Reason::Unlocked => "its source is not in mosbuild.lock".into(),
    }
}

/// The lines of `build -n`.
pub fn forecast_lines(predicted: &Predicted) -> String {
    let mut steps: HashMap<&str, Vec<&StepRun>> = HashMap::new();
    for step in &predicted.steps {
        steps.entry(&step.target).or_default().push(step);
    }
    let line = |(target, forecast): &(String, Forecast)| {
        let steps = steps.get(target.as_str()).map(Vec::as_slice).unwrap_or_default();
        forecast_line(target, forecast, steps) + "\n"
    };
    predicted.targets.iter().map(line).collect()
}

/// The same for programs.
pub fn forecast_object(predicted: &Predicted) -> serde_json::Value {
    let steps: HashMap<(&str, &str), &StepRun> =
        predicted.steps.iter().map(|s| ((s.target.as_str(), s.step.as_str()), s)).collect();
    let one = |(target, forecast): &(String, Forecast)| {
        let (word, step, on, expected) = match forecast {
            Forecast::Hit => ("hit", None, None, None),
            Forecast::DependsOn(other) => ("depends", None, Some(other), None),
            Forecast::Run { step, expected } => ("run", Some(step), None, *expected),
            Forecast::Blocked(_) => ("blocked", None, None, None),
        };
        let reason = step.and_then(|step| Some(&steps.get(&(target.as_str(), step.as_str()))?.reason));
        let why = match forecast {
            Forecast::Blocked(blocked) => Some(blocked.message.clone()),
            _ => reason.map(reason_text),
        };
        json!({
            "name": target,
            "forecast": word,
            "step": step,
            "why": why,
            "depends_on": on,
            "expected_ms": expected,
        })
    };
    let targets: Vec<_> = predicted.targets.iter().map(one).collect();
    json!({"schema": "mosbuild.forecast/1", "targets": targets})
}

fn forecast_line(target: &str, forecast: &Forecast, steps: &[&StepRun]) -> String {
    match forecast {
        Forecast::Hit => format!("{target}: hit"),
        Forecast::DependsOn(other) => format!("{target}: depends on {other}"),
        Forecast::Blocked(blocked) => format!("{target}: blocked ({})", first_line(&blocked.message)),
        Forecast::Run { step, expected } => {
            let reason = steps.iter().find(|s| s.step == *step).map(|s| reason_text(&s.reason));
            let mut why = reason.unwrap_or_else(|| "inputs changed".into());
            if steps.len() > 1 {
                why = format!("{step}: {why}");
            }
            if let Some(expected) = expected.filter(|e| *e >= 1000) {
                why.push_str(&format!("; about {}", rough(expected)));
            }
            format!("{target}: will run ({why})")
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn note(target: &str, step: &str, reason: Reason) -> StepRun {
        StepRun {
            target: target.into(),
            step: step.into(),
            key: None,
            outcome: OutcomeCode::Cancelled,
            reason,
            baseline: None,
            millis: 0,
            same_output: false,
            origins: Default::default(),
            outputs: Default::default(),
            log: None,
            log_file: None,
            made_by: String::new(),
            sandboxed: true,
            message: None,
        }
    }

    #[test]
    fn lines_of_a_dry_run() {
        let changed = note("a", "run", Reason::KeyChanged);
        let (unpack, compile) = (note("linux", "unpack", Reason::Hit), note("linux", "compile", Reason::New));
        let run = |step: &str, expected| Forecast::Run { step: step.into(), expected };
        assert_eq!(forecast_line("k", &Forecast::Hit, &[]), "k: hit");
        assert_eq!(forecast_line("k", &Forecast::DependsOn("a".into()), &[]), "k: depends on a");
        let blocked = Blocked { message: "xz: not found\nmore".into(), help: vec!["get it".into()], exit: 3 };
        assert_eq!(forecast_line("k", &Forecast::Blocked(blocked), &[]), "k: blocked (xz: not found)");
        assert_eq!(forecast_line("a", &run("run", Some(200)), &[&changed]), "a: will run (inputs changed)");
        assert_eq!(
            forecast_line("linux", &run("compile", Some(125_000)), &[&unpack, &compile]),
            "linux: will run (compile: never built here; about 2m 00s)"
        );
    }

    #[test]
    fn states_name_their_gate() {
        let new = note("a", "run", Reason::New);
        let run = Forecast::Run { step: "run".into(), expected: None };
        assert_eq!(state(&run, &[&new]), State::New);
        let failed = note("a", "run", Reason::FailedBefore);
        assert_eq!(state(&run, &[&failed]), State::Failed);
        let unlocked = note("a", "run", Reason::Unlocked);
        assert_eq!(state(&run, &[&unlocked]).text(), "source not locked");
        let changed = note("a", "run", Reason::KeyChanged);
        assert_eq!(state(&run, &[&changed]).text(), "changed (inputs changed)");
        assert_eq!(state(&Forecast::DependsOn("b".into()), &[]).text(), "waits for b");
    }
}
