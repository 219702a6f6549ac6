//! `mosbuild lock`: pins every source in mosbuild.lock, and prints what changed.
//! Builds only what a pin is found from (the tree that packages are resolved in).

use std::collections::BTreeSet;

use clap::Args;
use mosbuild_engine::build::Goal;
use mosbuild_engine::lockfile::{FILE_NAME, Missing, Pins, Update};

use super::build::{RunArgs, execute};
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::lock_diff;
use crate::session::{Access, Grounds};
use crate::ui::Ui;

/// Arguments of `lock`.
#[derive(Args, Debug)]
pub struct LockArgs {
    /// Find pins anew although mosbuild.lock has them: all, or those of these targets or packages
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with = "locked")]
    update: Option<Vec<String>>,
    #[command(flatten)]
    run: RunArgs,
}

/// Locks.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &LockArgs) -> Result<u8, Failure> {
    if let Some((target, _)) = global.overrides.first() {
        return Err(Failure::usage(format!(
            "--override {target} has no place in `lock`: a working copy is never locked"
        ))
        .help("without it, the source that mosbuild.yaml names is locked"));
    }
    let grounds = Grounds::open(ui, global, &args.run.store, None, Access::Write)?;
    let mut options = args.run.options(&grounds, global, words, Vec::new());
    options.goal = Goal::Lock;
    options.update = match &args.update {
        None => Update::Keep,
        Some(names) if names.is_empty() => Update::All,
        Some(names) => {
            known(&grounds, names)?;
            Update::Names(names.iter().cloned().collect())
        }
    };
    let report = execute(ui, &grounds, &options, &args.run)?;
    if let Some((before, after)) = &report.pins {
        let changes = lock_diff::changes(before, after);
        match changes.is_empty() {
            true if report.head.exit == 0 => ui.note(&format!("{FILE_NAME} is up to date")),
            true => {}
            false => ui.out(&changes)?,
        }
    }
    Ok(report.head.exit)
}

/// Every name must be a target or a locked package: a misspelt one would update nothing.
fn known(grounds: &Grounds, names: &[String]) -> Result<(), Failure> {
    let loaded = grounds.site.load()?;
    let pins = Pins::read(&loaded.root, Missing::Make).map_err(|e| Failure::new(e.exit, e.message))?;
    let rows: BTreeSet<&str> = pins
        .iter()
        .flat_map(|(_, pin)| pin.tables.values().flatten().map(|(name, _)| name.as_str()))
        .collect();
    for name in names {
        if loaded.target_index(name).is_some() || rows.contains(name.as_str()) {
            continue;
        }
        let failure = Failure::usage(format!("{name} is neither a target nor a package in {FILE_NAME}"));
        let targets = loaded.targets.iter().map(|t| t.name.as_str());
        return Err(match mosbuild_engine::load::nearest(name, targets.chain(rows.iter().copied())) {
            Some(near) => failure.help(format!("did you mean {near}?")),
            None => failure.help("`mosbuild list` shows the targets"),
        });
    }
    Ok(())
}
