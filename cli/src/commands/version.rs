//! `mosbuild version`: the program's version and those of what it reads and writes.

use clap::Args;
use mosbuild_engine::{events, record};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::ui::Ui;

/// Arguments of `version`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
}

/// Prints it.
pub fn run(ui: &Ui, args: &VersionArgs) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if !args.json {
        ui.out(&format!("mosbuild {version}\n"))?;
        return Ok(0);
    }
    let rules: Map<String, Value> =
        mosbuild_rules::registry().versions().into_iter().map(|(name, n)| (name.into(), n.into())).collect();
    ui.json(&json!({
        "schema": "mosbuild.version/1",
        "version": version,
        "record": record::SCHEMA,
        "events": events::EVENTS_SCHEMA,
        "rules": rules,
    }))?;
    Ok(0)
}
