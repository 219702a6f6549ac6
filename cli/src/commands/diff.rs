//! `mosbuild diff`: two outputs, files or runs compared by entry, each difference with its cause.

use clap::Args;
use serde_json::{Value, json};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::inspect::{Desk, compare, head};
use crate::ui::Ui;

/// Arguments of `diff`. Exit code: 0 if nothing differs, 1 if something does, 2 for wrong usage.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// TARGET, TARGET:OUTPUT, a file, or a run
    #[arg(value_name = "OLD")]
    old: String,
    /// The other; with two runs, all that both built is compared
    #[arg(value_name = "NEW", required_unless_present = "against", conflicts_with = "against")]
    new: Option<String>,
    /// Compare with what this run left of it
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    /// With --against: as this run left it, instead of the newest that made it
    #[arg(long, value_name = "RUN", requires = "against")]
    run: Option<String>,
    /// Do not show how texts differ
    #[arg(long)]
    brief: bool,
    /// List every cause
    #[arg(long)]
    all: bool,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    /// A folder with the blocks of an flist, a `dir://` store, beside those that it names
    #[arg(long, value_name = "DIR")]
    blocks: Vec<std::path::PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Compares.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &DiffArgs) -> Result<u8, Failure> {
    let mut desk = Desk::open(ui, global, &args.store)?;
    desk.blocks = args.blocks.clone();
    if let (Some(new), Some(runs)) = (&args.new, desk.runs())
        && runs.head(&args.old).is_some()
        && runs.head(new).is_some()
    {
        return of_runs(ui, &desk, new, args);
    }
    let (old, new) = match (&args.new, &args.against) {
        (Some(new), _) => (desk.subject(&args.old, None)?, desk.subject(new, None)?),
        (None, run) => {
            (desk.subject(&args.old, run.as_deref())?, desk.subject(&args.old, args.run.as_deref())?)
        }
    };
    let comparison = compare(&desk, &old, &new, !args.brief)?;
    match args.json {
        true => ui.json(&comparison.object())?,
        false => ui.out(&comparison.text(ui.color_out, args.all))?,
    }
    Ok(u8::from(!comparison.same()))
}

/// What was asked for in the newer run, if the older has it too.
fn of_runs(ui: &Ui, desk: &Desk, new: &str, args: &DiffArgs) -> Result<u8, Failure> {
    let Some((_, loaded)) = &desk.workspace else { return Ok(0) };
    let Some(runs) = desk.runs() else { return Ok(0) };
    let (before, after) = (head(&runs, &args.old)?, head(&runs, new)?);
    let outputs = |name: &&String| {
        loaded.target_index(name).is_some_and(|t| !loaded.targets[t as usize].outputs.is_empty())
    };
    let asked = after.requested.iter().flat_map(|t| mosbuild_engine::why::members(loaded, t));
    let mut targets: Vec<&str> = asked.filter(|t| before.targets.iter().any(|b| b == t)).collect();
    if targets.is_empty() {
        // Requests of other names: what both have of the same.
        targets = after.targets.iter().filter(outputs).map(String::as_str).collect();
        targets.retain(|t| before.targets.iter().any(|b| b == t));
    }
    if targets.is_empty() {
        return Err(Failure::usage(format!("runs {} and {new} have no target in common", args.old)));
    }
    let (mut differ, mut objects): (bool, Vec<Value>) = (false, Vec::new());
    for target in targets {
        let (old, new) = (desk.subject(target, Some(&args.old))?, desk.subject(target, Some(new))?);
        let comparison = compare(desk, &old, &new, !args.brief)?;
        differ |= !comparison.same();
        match args.json {
            true => objects.push(comparison.object()),
            false => ui.out(&comparison.text(ui.color_out, args.all))?,
        }
    }
    if args.json {
        ui.json(&json!({"schema": "mosbuild.diff/1", "outputs": objects, "same": !differ}))?;
    }
    Ok(u8::from(differ))
}
