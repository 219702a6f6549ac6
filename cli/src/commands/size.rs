//! `mosbuild size`: what is in an image, by layer, package and file, before and after compression.

use clap::Args;
use mosbuild_engine::run_record::Runs;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::session::{Access, Grounds};
use crate::sizes::{Route, Sizes, object, page, text};
use crate::ui::Ui;

/// Arguments of `size`.
#[derive(Args, Debug)]
pub struct SizeArgs {
    /// The target: a root file system, or an archive or image that holds one
    #[arg(value_name = "TARGET")]
    target: String,
    /// Say also what changed since this run
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    /// A page for a browser, complete in itself
    #[arg(long, conflicts_with = "json")]
    html: bool,
    /// List every package and file
    #[arg(long)]
    all: bool,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Tells.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &SizeArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.store, None, Access::Read)?;
    let loaded = grounds.site.load()?;
    let runs = Runs::of(&grounds.site.dirs().state);
    let route = Route::find(&loaded, &grounds.site.registry, &args.target)?;
    let sizes = Sizes::gather(&grounds.store, &runs, &route, None)?;
    let earlier = match &args.against {
        Some(run) => Some(Sizes::gather(&grounds.store, &runs, &route, Some(run))?),
        None => None,
    };
    let growth = earlier.as_ref().map(|earlier| sizes.since(earlier));
    let against = earlier.as_ref().zip(growth.as_ref());
    let rows = sizes.rows(&grounds.store)?;
    match (args.html, args.json) {
        (true, _) => ui.out(&page(
            &args.target,
            loaded.project.as_deref().unwrap_or_default(),
            &sizes,
            &rows,
            against,
        ))?,
        (_, true) => ui.json(&object(&args.target, &sizes, &rows, against))?,
        _ => ui.out(&text(&sizes, &rows, against, args.all, ui.color_out))?,
    }
    Ok(0)
}
