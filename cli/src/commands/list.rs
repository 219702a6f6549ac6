//! `mosbuild list`: the targets as a table.

use clap::Args;
use serde_json::json;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::format::{duration, size};
use crate::session::{Access, Session};
use crate::standing::{State, survey};
use crate::table::{Align, Cell, Table};
use crate::ui::Ui;

/// Arguments of `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Lists.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &ListArgs) -> Result<u8, Failure> {
    let mut session = Session::open(ui, global, &args.store, Access::Read)?;
    let loaded = session.workspace.loaded.clone();
    let names = loaded.targets.iter().map(|t| t.name.clone()).collect();
    let standings = survey(ui, &mut session, names)?;
    if args.json {
        let targets: Vec<_> = (0u32..)
            .zip(&loaded.targets)
            .map(|(index, target)| {
                let standing = standings.get(&target.name);
                let state = standing.map(|s| &s.state);
                json!({
                    "name": target.name,
                    "rule": target.rule,
                    "line": target.line,
                    "default": loaded.default.contains(&index),
                    "state": state.map(State::word),
                    "overridden_by": loaded.overridden(index).map(|o| &o.given),
                    "waits_for": match state { Some(State::Waits(on)) => Some(on), _ => None },
                    "blocked": state.and_then(State::blocked),
                    "size": standing.and_then(|s| s.size),
                    "cost_ms": standing.and_then(|s| s.cost),
                })
            })
            .collect();
        ui.json(&json!({"schema": "mosbuild.list/1", "project": loaded.project, "targets": targets}))?;
        return Ok(0);
    }
    let mut table = Table::new(&[
        ("target", Align::Left),
        ("rule", Align::Left),
        ("state", Align::Left),
        ("size", Align::Right),
        ("cost", Align::Right),
    ]);
    for (index, target) in (0u32..).zip(&loaded.targets) {
        let standing = standings.get(&target.name);
        let copy =
            loaded.overridden(index).map(|o| format!(", overridden by {}", o.given)).unwrap_or_default();
        let state =
            standing.map(|s| Cell::painted(s.state.text() + &copy, s.state.paint())).unwrap_or_default();
        table.row([
            target.name.as_str().into(),
            target.rule.as_str().into(),
            state,
            standing.and_then(|s| s.size).map(size).unwrap_or_default().into(),
            standing.and_then(|s| s.cost).map(duration).unwrap_or_default().into(),
        ]);
    }
    ui.out(&table.render(ui.color_out))?;
    Ok(0)
}
