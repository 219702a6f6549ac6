//! `mosbuild test`: builds boot-test targets and says which passed. A pass is a result like any other: it is
//! cached.

use std::collections::{BTreeMap, HashMap};

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
use crate::session::{Access, Grounds, Session};
use crate::table::{Align, Cell, Table};
use crate::ui::{Paint, Ui};

/// The rule whose targets are tests.
pub const RULE: &str = "boot-test";

/// The step of such a target that starts the machine.
const BOOT: &str = "boot";
/// Columns about how soon what was there, and their facts.
const TIMES: [(&str, &str); 3] =
    [("kernel", "kernel_seconds"), ("init", "init_seconds"), ("marker", "seconds")];

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
    let times = times(grounds, &tests)?;
    let mut outcomes: HashMap<String, (Outcome, u64)> = HashMap::new();
    let steps = runs.head(&report.head.id).and_then(|head| runs.steps(&head)).unwrap_or_default();
    for step in steps.iter().filter(|s| tests.contains(&s.target)) {
        let entry = outcomes.entry(step.target.clone()).or_insert((Outcome::Hit, 0));
        entry.0 = worse(entry.0, step.outcome);
        entry.1 += step.millis;
    }
    if args.json {
        let list: Vec<_> =
            tests.iter().map(|test| object(test, outcomes.get(test).copied(), times.get(test))).collect();
        ui.json(&json!({"schema": "mosbuild.test/1", "run": report.head.id, "tests": list}))?;
        return Ok(report.head.exit);
    }
    let mut columns = vec![("test", Align::Left), ("result", Align::Left), ("time", Align::Right)];
    columns.extend(TIMES.map(|(name, _)| (name, Align::Right)));
    let mut table = Table::new(&columns);
    for test in &tests {
        let (cell, millis) = match outcomes.get(test) {
            Some((Outcome::Ran, millis)) => (Cell::painted("pass", Paint::Green), Some(*millis)),
            Some((Outcome::Hit, millis)) => (Cell::painted("pass (cached)", Paint::Green), Some(*millis)),
            Some((Outcome::Failed, millis)) => (Cell::painted("fail", Paint::Red), Some(*millis)),
            Some((Outcome::Skipped | Outcome::Cancelled, _)) | None => {
                (Cell::painted("not run", Paint::Yellow), None)
            }
        };
        let passed = matches!(outcomes.get(test), Some((Outcome::Ran | Outcome::Hit, _)));
        let times = times.get(test).filter(|_| passed);
        let time = |fact: &str| times.and_then(|t| t.get(fact)).map(|t| format!("{t} s")).unwrap_or_default();
        let mut row: Vec<Cell> =
            vec![test.as_str().into(), cell, millis.map(duration).unwrap_or_default().into()];
        row.extend(TIMES.map(|(_, fact)| Cell::from(time(fact))));
        table.cells(row);
    }
    ui.out(&table.render(ui.color_out))?;
    Ok(report.head.exit)
}

/// What a test's result says of how soon what was there, by fact.
type Times = BTreeMap<String, String>;

/// The facts of each test's last success.
fn times(grounds: Grounds, tests: &[String]) -> Result<HashMap<String, Times>, Failure> {
    let session = Session::on(grounds)?;
    let of = |test: &String| {
        let facts = &session.workspace.memory.get(test, BOOT)?.result.as_ref()?.facts;
        Some((test.clone(), facts.clone()))
    };
    Ok(tests.iter().filter_map(of).collect())
}

fn object(test: &str, outcome: Option<(Outcome, u64)>, times: Option<&Times>) -> serde_json::Value {
    let (result, millis) = match outcome {
        Some((Outcome::Ran | Outcome::Hit, millis)) => ("pass", Some(millis)),
        Some((Outcome::Failed, millis)) => ("fail", Some(millis)),
        Some((Outcome::Skipped | Outcome::Cancelled, _)) | None => ("not_run", None),
    };
    let cached = matches!(outcome, Some((Outcome::Hit, _)));
    let mut object = json!({"name": test, "result": result, "cached": cached, "millis": millis});
    for (_, fact) in TIMES.iter().filter(|_| result == "pass") {
        let seconds = times.and_then(|times| times.get(*fact)).and_then(|text| text.parse::<f64>().ok());
        object[*fact] = json!(seconds);
    }
    object
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
        let times = Times::from([("seconds".to_owned(), "2.5".to_owned())]);
        let hit = object("boot", Some((Outcome::Hit, 7)), Some(&times));
        assert_eq!(
            hit,
            json!({
                "name": "boot", "result": "pass", "cached": true, "millis": 7,
                "kernel_seconds": null, "init_seconds": null, "seconds": 2.5,
            })
        );
        let skipped = object("boot", Some((Outcome::Skipped, 0)), Some(&times));
        assert_eq!(skipped, json!({"name": "boot", "result": "not_run", "cached": false, "millis": null}));
    }

    #[test]
    fn a_test_is_as_good_as_its_worst_step() {
        assert_eq!(worse(Outcome::Hit, OutcomeCode::Ran), Outcome::Ran);
        assert_eq!(worse(Outcome::Failed, OutcomeCode::Hit), Outcome::Failed);
        assert_eq!(worse(Outcome::Ran, OutcomeCode::Cancelled), Outcome::Cancelled);
    }
}
