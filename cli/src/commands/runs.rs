//! `mosbuild runs`: past runs of this workspace. Reads run records only; mosbuild.yaml may be broken.

use clap::Args;
use mosbuild_engine::run_record::{RunHead, Runs};
use serde_json::json;

use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format::{ago, cut, duration, now, utc};
use crate::session::Place;
use crate::table::{Align, Cell, Table};
use crate::ui::{Paint, Ui};

/// Arguments of `runs`.
#[derive(Args, Debug)]
pub struct RunsArgs {
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
}

/// Lists them, newest first.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &RunsArgs) -> Result<u8, Failure> {
    let runs = Runs::of(&Place::find(global)?.state());
    let heads: Vec<RunHead> = runs.ids().iter().rev().filter_map(|id| runs.head(id)).collect();
    if args.json {
        let list: Vec<_> = heads.iter().map(object).collect();
        ui.json(&json!({"schema": "mosbuild.runs/1", "runs": list}))?;
        return Ok(0);
    }
    if heads.is_empty() {
        ui.note("no run is recorded yet");
        return Ok(0);
    }
    let mut table = Table::new(&[
        ("run", Align::Left),
        ("when", Align::Left),
        ("targets", Align::Left),
        ("built", Align::Right),
        ("cached", Align::Right),
        ("failed", Align::Right),
        ("time", Align::Right),
        ("result", Align::Left),
    ]);
    let now = now();
    for head in &heads {
        table.row([
            head.id.as_str().into(),
            ago(head.started, now).into(),
            cut(&head.requested.join(" "), 40).into(),
            head.built.to_string().into(),
            head.cached.to_string().into(),
            head.failed.to_string().into(),
            duration(head.millis).into(),
            result(head.exit),
        ]);
    }
    ui.out(&table.render(ui.color_out))?;
    Ok(0)
}

fn result(exit: u8) -> Cell {
    match exit {
        0 => Cell::painted("done", Paint::Green),
        130 => Cell::painted("interrupted", Paint::Yellow),
        exit => Cell::painted(format!("failed ({exit})"), Paint::Red),
    }
}

fn object(head: &RunHead) -> serde_json::Value {
    json!({
        "id": head.id,
        "started": head.started,
        "started_utc": utc(head.started),
        "args": head.args,
        "profile": head.profile,
        "requested": head.requested,
        "targets": head.targets.len(),
        "built": head.built,
        "cached": head.cached,
        "failed": head.failed,
        "millis": head.millis,
        "exit": head.exit,
        "nothing_changed_since": head.same_as,
    })
}
