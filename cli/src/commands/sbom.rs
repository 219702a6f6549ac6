//! `mosbuild sbom`: every package, crate, source and licence in an image, in a standard's form.

use std::collections::{BTreeMap, HashMap};

use clap::{Args, ValueEnum};
use mosbuild_engine::build::named;
use mosbuild_engine::load::OutputKind;
use mosbuild_engine::lockfile::{Missing, Pins};
use mosbuild_engine::plan;
use mosbuild_engine::run_record::{OutcomeCode, Runs, StepRun};
use mosbuild_rules::sbom::{self, Made};
use sha2::Digest as _;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::inspect::head;
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
    let closure = plan::closure(&loaded, &[index]);
    let (graph, errors) = plan::plan_what_can_be(&loaded, &grounds.site.registry, closure);
    if let Some((at, error)) = errors.into_iter().next() {
        let name = &loaded.targets[at as usize].name;
        return Err(Failure::new(error.exit, format!("{name} cannot be planned: {}", error.message)));
    }
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
    let (mut outputs, mut facts) = (HashMap::new(), HashMap::<String, BTreeMap<String, String>>::new());
    for step in &steps {
        let made = step.outputs.iter().map(|(name, (digest, _))| (name.clone(), *digest));
        outputs.insert((step.target.clone(), step.step.clone()), made.collect::<BTreeMap<_, _>>());
        if let Some(result) = step.key.and_then(|key| grounds.store.get_result(&key).ok().flatten()) {
            facts.entry(step.target.clone()).or_default().extend(result.facts);
        }
    }
    let mut hashes = BTreeMap::new();
    let declared = loaded.targets[index as usize].outputs.first();
    if let Some(output) = declared.filter(|o| o.kind == OutputKind::File)
        && let Some((step, name)) = graph.maker(index, &output.name)
        && let Some(digest) = outputs
            .get(&(target.clone(), graph.steps[step as usize].step.name.clone()))
            .and_then(|o| o.get(name))
    {
        let again = format!("`mosbuild build {target}` makes it again");
        let bytes = grounds.store.read(digest).map_err(|e| Failure::new(1, e.to_string()).help(again))?;
        let sum: String = sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        hashes.insert("BLAKE3", digest.hex());
        hashes.insert("SHA-256", sum);
    }
    let made = Made { outputs, facts, store: &grounds.store };
    let bill = sbom::gather(&loaded, &graph, &pins, (target, hashes), &made).map_err(|e| {
        let failure = Failure::new(1, e.to_string());
        failure.help(format!("`mosbuild build {target}` makes what is missing"))
    })?;
    ui.out(&match args.format {
        Format::Spdx => sbom::spdx(&bill),
        Format::Cyclonedx => sbom::cyclonedx(&bill),
    })?;
    Ok(0)
}
