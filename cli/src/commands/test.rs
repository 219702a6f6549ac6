//! `mosbuild test`: builds boot-test targets and says which passed. A pass is a result like any other: it is
//! cached.

use std::collections::HashMap;

use clap::Args;
use mosbuild_engine::build::named;
use mosbuild_engine::events::Outcome;
use mosbuild_engine::load::Loaded;
use mosbuild_engine::run_record::{OutcomeCode, Runs};
use serde_json::json;

use super::build::{RunArgs, execute};
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format::duration;
use crate::session::{Access, Grounds};
use crate::table::{Align, Cell, Table};
use crate::ui::{Paint, Ui};

/// The rule whose targets are tests.
pub const RULE: &str = "boot-test";

/// Arguments of `test`.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Tests; all targets of rule boot-test if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// Tests.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &TestArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.run.store, None, Access::Write)?;
    let tests = tests(&grounds.site.load()?, &args.targets)?;
    let options = args.run.options(&grounds, global, words, tests.clone());
    let report = execute(ui, &grounds, &options, &args.run)?;
    let runs = Runs::of(&grounds.site.dirs().state);
    let mut outcomes: HashMap<String, (Outcome, u64)> = HashMap::new();
    let steps = runs.head(&report.head.id).and_then(|head| runs.steps(&head)).unwrap_or_default();
    for step in steps.iter().filter(|s| tests.contains(&s.target)) {
        let entry = outcomes.entry(step.target.clone()).or_insert((Outcome::Hit, 0));
        entry.0 = worse(entry.0, step.outcome);
        entry.1 += step.millis;
    }
    if args.json {
        let list: Vec<_> = tests.iter().map(|test| object(test, outcomes.get(test).copied())).collect();
        ui.json(&json!({"schema": "mosbuild.test/1", "run": report.head.id, "tests": list}))?;
        return Ok(report.head.exit);
    }
    let mut table = Table::new(&[("test", Align::Left), ("result", Align::Left), ("time", Align::Right)]);
    for test in &tests {
        let (cell, millis) = match outcomes.get(test) {
            Some((Outcome::Ran, millis)) => (Cell::painted("pass", Paint::Green), Some(*millis)),
            Some((Outcome::Hit, millis)) => (Cell::painted("pass (cached)", Paint::Green), Some(*millis)),
            Some((Outcome::Failed, millis)) => (Cell::painted("fail", Paint::Red), Some(*millis)),
            Some((Outcome::Skipped | Outcome::Cancelled, _)) | None => {
                (Cell::painted("not run", Paint::Yellow), None)
            }
        };
        table.row([test.as_str().into(), cell, millis.map(duration).unwrap_or_default().into()]);
    }
    ui.out(&table.render(ui.color_out))?;
    Ok(report.head.exit)
}

fn object(test: &str, outcome: Option<(Outcome, u64)>) -> serde_json::Value {
    let (result, millis) = match outcome {
        Some((Outcome::Ran | Outcome::Hit, millis)) => ("pass", Some(millis)),
        Some((Outcome::Failed, millis)) => ("fail", Some(millis)),
        Some((Outcome::Skipped | Outcome::Cancelled, _)) | None => ("not_run", None),
    };
    let cached = matches!(outcome, Some((Outcome::Hit, _)));
    json!({"name": test, "result": result, "cached": cached, "millis": millis})
}

fn tests(loaded: &Loaded, names: &[String]) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        let all: Vec<String> =
            loaded.targets.iter().filter(|t| t.rule == RULE).map(|t| t.name.clone()).collect();
        return match all.is_empty() {
            true => Err(Failure::usage(format!("no target has the rule {RULE}: there is nothing to test"))),
            false => Ok(all),
        };
    }
    for name in names {
        let rule = &loaded.targets[named(loaded, name)? as usize].rule;
        if rule != RULE {
            return Err(Failure::usage(format!("{name} is no test: its rule is {rule}, not {RULE}"))
                .help(format!("`mosbuild build {name}` builds it")));
        }
    }
    Ok(names.to_vec())
}

fn worse(a: Outcome, b: OutcomeCode) -> Outcome {
    let rank = |o: Outcome| match o {
        Outcome::Hit => 0,
        Outcome::Ran => 1,
        Outcome::Skipped => 2,
        Outcome::Cancelled => 3,
        Outcome::Failed => 4,
    };
    let b = Outcome::from(b);
    if rank(b) > rank(a) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_the_result_and_whether_it_is_known() {
        let hit = object("boot", Some((Outcome::Hit, 7)));
        assert_eq!(hit, json!({"name": "boot", "result": "pass", "cached": true, "millis": 7}));
        let skipped = object("boot", Some((Outcome::Skipped, 0)));
        assert_eq!(skipped, json!({"name": "boot", "result": "not_run", "cached": false, "millis": null}));
    }

    #[test]
    fn a_test_is_as_good_as_its_worst_step() {
        assert_eq!(worse(Outcome::Hit, OutcomeCode::Ran), Outcome::Ran);
        assert_eq!(worse(Outcome::Failed, OutcomeCode::Hit), Outcome::Failed);
        assert_eq!(worse(Outcome::Ran, OutcomeCode::Cancelled), Outcome::Cancelled);
    }
}
