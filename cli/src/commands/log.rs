//! `mosbuild log`: what a step printed when it last ran, whether that was in this run or long ago.

use clap::Args;
use mosbuild_cache::Store;
use mosbuild_engine::build::named;
use mosbuild_engine::run_record::{OutcomeCode, Runs, StepRun};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::session::{Access, Grounds};
use crate::ui::{Paint, Ui};

/// Arguments of `log`.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// The target, or target:step
    #[arg(value_name = "TARGET")]
    target: String,
    /// Only this step
    #[arg(long, value_name = "S")]
    step: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Prints it.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &LogArgs) -> Result<u8, Failure> {
    // The workspace's state is left alone: a build may be running.
    let grounds = Grounds::open(ui, global, &args.store, None, Access::Read)?;
    let (target, step) = split(&args.target, args.step.as_deref());
    named(&grounds.site.load()?, target)?;
    let runs = Runs::of(&grounds.site.dirs().state);
    let steps = last(&runs, target)
        .ok_or_else(|| Failure::new(1, format!("{target} was never built here: it has no log")))?;
    if let Some(step) = step
        && !steps.iter().any(|s| s.step == step)
    {
        let known: Vec<&str> = steps.iter().map(|s| s.step.as_str()).collect();
        return Err(Failure::usage(format!("{target} has no step {step}"))
            .help(format!("its steps are {}", known.join(", "))));
    }
    let mut logs = Vec::new();
    for run in steps.iter().filter(|s| step.is_none_or(|step| s.step == step)) {
        if let Some(bytes) = text(ui, &grounds.store, run) {
            logs.push((&run.step, bytes));
        }
    }
    if logs.is_empty() {
        ui.note(&format!("{} printed nothing", args.target));
    }
    let several = logs.len() > 1;
    for (step, bytes) in logs {
        if several {
            ui.out(&format!("{}\n", Paint::Bold.on(ui.color_out, &format!("── {target}:{step} ──"))))?;
        }
        ui.bytes(&bytes)?;
        if bytes.last().is_some_and(|b| *b != b'\n') {
            ui.out("\n")?;
        }
    }
    Ok(0)
}

/// `target:step`, or the target with the step of `--step`.
pub fn split<'a>(target: &'a str, step: Option<&'a str>) -> (&'a str, Option<&'a str>) {
    match (step, target.split_once(':')) {
        (None, Some((target, step))) => (target, Some(step)),
        (step, _) => (target, step),
    }
}

/// The steps of a target in the last run that came to it.
fn last(runs: &Runs, target: &str) -> Option<Vec<StepRun>> {
    runs.ids().iter().rev().find_map(|id| {
        let head = runs.head(id)?;
        if !head.targets.iter().any(|t| t == target) {
            return None;
        }
        let mut steps = runs.steps(&head)?;
        steps.retain(|s| s.target == target);
        let reached =
            |s: &StepRun| matches!(s.outcome, OutcomeCode::Ran | OutcomeCode::Hit | OutcomeCode::Failed);
        steps.iter().any(reached).then_some(steps)
    })
}

fn text(ui: &Ui, store: &Store, run: &StepRun) -> Option<Vec<u8>> {
    if let Some(path) = &run.log_file {
        match std::fs::read(path) {
            Ok(bytes) => return Some(bytes),
            Err(e) => ui.warn(&format!("{}: {e}", path.display())),
        }
    }
    match store.read(run.log.as_ref()?) {
        Ok(bytes) => Some(bytes),
        Err(e) => {
            ui.warn(&format!("the log of {}:{} is gone from the store: {e}", run.target, run.step));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_step_may_be_named_either_way() {
        assert_eq!(split("linux", None), ("linux", None));
        assert_eq!(split("linux:compile", None), ("linux", Some("compile")));
        assert_eq!(split("linux", Some("compile")), ("linux", Some("compile")));
    }
}
