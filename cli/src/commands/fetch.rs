//! `mosbuild fetch`: downloads all that mosbuild.lock names, so that a build needs no network.
//! Knows no protocol; the steps that bring sources in do their work as in a build.

use clap::Args;
use mosbuild_engine::build::Goal;

use super::build::{RunArgs, execute};
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::session::{Access, Grounds};
use crate::ui::Ui;

/// Arguments of `fetch`.
#[derive(Args, Debug)]
pub struct FetchArgs {
    /// Targets whose sources, and those of all below them, are downloaded; all if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// Fetches.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &FetchArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.run.store, None, Access::Write)?;
    let mut options = args.run.options(&grounds, global, words, args.targets.clone());
    options.goal = Goal::Fetch;
    let report = execute(ui, &grounds, &options, &args.run)?;
    if report.head.exit == 0 {
        ui.note("all sources are in the store: `mosbuild build --offline` finds them");
    }
    Ok(report.head.exit)
}
