//! `mosbuild why`: the engine's explanation in prose or JSON, and which targets a file would rebuild.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use mosbuild_engine::build::{BuildOptions, Forecast, Predicted, named, predict};
use mosbuild_engine::load::Loaded;
use mosbuild_engine::why::{Explainer, members, render};
use serde_json::json;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::format::{count, duration};
use crate::progress::durations;
use crate::session::{Access, Grounds};
use crate::ui::Ui;

/// Arguments of `why`. Exit code: 0 for a hit, 10 for a rebuild or never built, 1 if its last run failed, 2 for an
/// unknown target or run.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// The target
    #[arg(value_name = "TARGET", required_unless_present = "file_path", conflicts_with = "file_path")]
    target: Option<String>,
    /// Say instead which targets read this file, and what changing it costs
    #[arg(id = "file_path", long = "file", value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// What a build would do now, and why; runs nothing
    #[arg(long, conflicts_with = "file_path")]
    predict: bool,
    /// Compare with what this run had, instead of with the result before
    #[arg(long, value_name = "RUN", conflicts_with = "file_path")]
    against: Option<String>,
    /// List every cause
    #[arg(long)]
    all: bool,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Explains.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &WhyArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.store, None, Access::Read)?;
    let loaded = grounds.site.load()?;
    let state = grounds.site.dirs().state;
    if let Some(path) = &args.file {
        return readers(ui, loaded, &state, path, args.json);
    }
    let target = args.target.as_deref().unwrap_or_default();
    named(&loaded, target)?;
    let predicted = match args.predict {
        true => {
            // The network is not used and the lock not written, as by every command that only reads.
            let requested = vec![target.to_owned()];
            let options = BuildOptions { requested, offline: true, ..BuildOptions::default() };
            let mut workspace = grounds.workspace()?;
            let predicted = predict(&mut workspace, &grounds.store, &options)?;
            blocked(&predicted, &members(&loaded, target))?;
            Some(predicted)
        }
        false => None,
    };
    let mut explainer = Explainer::new(&state, &grounds.store, &loaded, &grounds.site.registry);
    if let Some(run) = &args.against
        && !explainer.against(run)
    {
        return Err(
            Failure::usage(format!("unknown run {run}")).help("`mosbuild runs` shows those there are")
        );
    }
    let answer = match predicted {
        Some(predicted) => explainer.predict(target, predicted),
        None => explainer.explain(target),
    };
    match args.json {
        true => {
            let value = serde_json::to_value(&answer).map_err(|e| Failure::new(1, e.to_string()))?;
            ui.json(&value)?;
        }
        false => ui.out(&render(&answer, args.all))?,
    }
    Ok(answer.decision.exit())
}

/// A target that cannot be built here has no key, and so no answer.
fn blocked(predicted: &Predicted, targets: &[&str]) -> Result<(), Failure> {
    for (name, forecast) in &predicted.targets {
        if let Forecast::Blocked(blocked) = forecast
            && targets.contains(&name.as_str())
        {
            let errors = vec![(format!("{name}: {}", blocked.message), blocked.help.clone())];
            return Err(Failure::Errors { exit: blocked.exit, errors });
        }
    }
    Ok(())
}

/// Which targets read a file, and what lies below them.
fn readers(ui: &Ui, mut loaded: Loaded, state: &Path, path: &Path, json: bool) -> Result<u8, Failure> {
    let full = std::path::absolute(path).map_err(|e| Failure::io(path, e))?;
    let named = match full.strip_prefix(&loaded.root) {
        Ok(inside) => inside.to_path_buf(),
        Err(_) => full,
    };
    let readers = reading(&mut loaded, &named);
    let below = below(&loaded, &readers);
    let took = durations(state);
    let name = |t: &u32| loaded.targets[*t as usize].name.as_str();
    let known: Vec<u64> = below.iter().filter_map(|t| took.get(name(t)).copied()).collect();
    let millis: u64 = known.iter().sum();
    let names = |all: &[u32]| all.iter().map(name).map(str::to_owned).collect::<Vec<_>>();
    if json {
        ui.json(&json!({
            "schema": "mosbuild.why-file/1",
            "file": named.display().to_string(),
            "read_by": names(&readers),
            "affected": names(&below),
            "cost_ms": millis,
            "unknown_costs": below.len() - known.len(),
        }))?;
        return Ok(0);
    }
    let mut text = String::new();
    if readers.is_empty() {
        text.push_str(&format!("no target reads {}\n", named.display()));
    } else {
        let rest: Vec<u32> = below.iter().copied().filter(|t| !readers.contains(t)).collect();
        text.push_str(&format!("{} is read by {}\n", named.display(), names(&readers).join(", ")));
        if !rest.is_empty() {
            text.push_str(&format!("what they make goes into {}\n", names(&rest).join(", ")));
        }
        let unknown = match below.len() - known.len() {
            0 => String::new(),
            n => format!(" and {} that nobody has built yet", count(n, "target")),
        };
        text.push_str(&format!(
            "changing it costs at most {}{unknown}; less if some output stays the same\n",
            duration(millis)
        ));
    }
    ui.out(&text)?;
    Ok(0)
}

fn reading(loaded: &mut Loaded, path: &Path) -> Vec<u32> {
    let all: Vec<u32> =
        (0u32..).zip(&loaded.targets).filter(|(_, t)| !t.files.is_empty()).map(|(i, _)| i).collect();
    let mut lists = match loaded.expand(&all) {
        Ok(()) => std::mem::take(&mut loaded.expanded),
        Err(_) => Default::default(),
    };
    if lists.is_empty() {
        // Something matches nothing: those targets read nothing, the others are asked one by one.
        for &t in &all {
            if loaded.expand(&[t]).is_ok() {
                lists.append(&mut loaded.expanded);
            }
        }
    }
    // A folder that is named stands for all that is read below it.
    let reads = |t: &u32| {
        let lists = lists.get(&loaded.targets[*t as usize].name).into_iter().flatten();
        lists.flat_map(|e| &e.files).any(|file| Path::new(file).starts_with(path))
    };
    all.into_iter().filter(reads).collect()
}

/// These targets and all that need them, each behind what it needs; groups left out.
fn below(loaded: &Loaded, from: &[u32]) -> Vec<u32> {
    let mut hit: BTreeSet<u32> = from.iter().copied().collect();
    for &t in &loaded.order {
        if loaded.targets[t as usize].references.iter().any(|r| hit.contains(&r.target)) {
            hit.insert(t);
        }
    }
    let makes = |t: &u32| hit.contains(t) && !loaded.targets[*t as usize].outputs.is_empty();
    loaded.order.iter().copied().filter(makes).collect()
}
