//! `mosbuild sbom`: every package, crate, source and licence in an image, in a standard's form.

use clap::{Args, ValueEnum};
use mosbuild_engine::build::named;
use mosbuild_engine::lockfile::{Missing, Pins};
use mosbuild_engine::run_record::{OutcomeCode, Runs, StepRun};
use mosbuild_rules::sbom;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::inspect::head;
use crate::made::Made;
use crate::session::{Access, Grounds};
use crate::ui::Ui;

/// Arguments of `sbom`.
#[derive(Args, Debug)]
pub struct SbomArgs {
    /// The target: an image, or a part of one
    #[arg(value_name = "TARGET")]
    target: String,
    /// The standard: SPDX 2.3 or CycloneDX 1.6, both as JSON
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "spdx")]
    format: Format,
    /// As this run left it, instead of the newest that made it
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.6
    Cyclonedx,
}

/// Writes it to stdout.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &SbomArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.store, None, Access::Read)?;
    let loaded = grounds.site.load()?;
    let index = named(&loaded, &args.target)?;
    let target = &args.target;
    let pins = Pins::read(&loaded.root, Missing::Locked).map_err(|e| Failure::new(e.exit, e.message))?;

    // What a run left of all that the image is made of.
    let runs = Runs::of(&grounds.site.dirs().state);
    let complete = |id: &str| {
        let head = runs.head(id).filter(|head| head.targets.iter().any(|t| t == target))?;
        let steps = runs.steps(&head)?;
        // Steps that only look have no outputs.
        let done = |s: &StepRun| matches!(s.outcome, OutcomeCode::Ran | OutcomeCode::Hit);
        let whole = steps.iter().filter(|s| s.target == *target).all(done);
        whole.then_some(steps)
    };
    let steps = match &args.run {
        Some(id) => {
            head(&runs, id)?;
            complete(id).ok_or_else(|| Failure::usage(format!("run {id} did not build {target}")))?
        }
        None => runs.ids().iter().rev().find_map(|id| complete(id)).ok_or_else(|| {
            Failure::usage(format!("{target} was never built here"))
                .help(format!("`mosbuild build {target}` builds it; licences are read off what that leaves"))
        })?,
    };
    let bill = Made::of(&grounds, &loaded, &[index], &steps)?.bill(index, &pins)?;
    ui.out(&match args.format {
        Format::Spdx => sbom::spdx(&bill),
        Format::Cyclonedx => sbom::cyclonedx(&bill),
    })?;
    Ok(0)
}
