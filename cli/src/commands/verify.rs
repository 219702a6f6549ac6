//! `mosbuild verify`: builds targets twice, apart, in surroundings that differ, and compares all that was made.
//! Knows the order of things; the builds are verify/pair.rs and apart.rs, the comparison is verify/compare.rs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mosbuild_cache::{Digest, Store};
use mosbuild_engine::build::predict;
use mosbuild_engine::load::Loaded;
use mosbuild_engine::plan::closure;

use super::build::RunArgs;
use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::progress::requested;
use crate::session::{Access, Grounds, Session};
use crate::ui::Ui;
use crate::verify::apart::{self, Turn};
use crate::verify::compare::{Compared, Side};
use crate::verify::pair::Pair;
use crate::verify::report;

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Targets; all that they are made of is compared too
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<String>,
    /// Build once, and compare with the results that the store has, as a build before left them
    #[arg(long)]
    against_store: bool,
    /// Take steps that an earlier verify of this store proved under the same key as proven, in place of running them
    #[arg(long)]
    skip_proven: bool,
    /// Leave this as it is in both builds; may be repeated
    #[arg(long, value_enum, value_name = "WHAT")]
    pub same: Vec<Same>,
    /// Steps of the first build that run at once [default: one for each processor]; the second has one more
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4095))]
    pub jobs: Option<u16>,
    /// Never use the network
    #[arg(long)]
    pub offline: bool,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Write every event of both builds, one after the other, as a line of JSON to this file, or to stdout for -
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    events: Option<PathBuf>,
    /// One of the two builds, which verify starts itself: its folder
    #[arg(long, value_name = "DIR", hide = true)]
    apart: Option<PathBuf>,
    /// Which one
    #[arg(long, value_name = "TURN", value_enum, hide = true, requires = "apart")]
    turn: Option<Turn>,
}

/// What can be kept from differing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Same {
    /// User, host name and path of the workspace, whose change needs namespaces
    Host,
    /// The number of processors: the second build has one fewer, where there are several
    Processors,
}

impl VerifyArgs {
    /// The flags that the two builds get as well.
    pub fn passed_on(&self) -> Vec<String> {
        let mut words = Vec::new();
        for same in self.same.iter().filter_map(Same::to_possible_value) {
            words.extend(["--same".to_owned(), same.get_name().to_owned()]);
        }
        if self.offline {
            words.push("--offline".into());
        }
        words.extend(self.targets.iter().cloned());
        words
    }
}

/// Verifies, or is one of the builds of it.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &VerifyArgs) -> Result<u8, Failure> {
    if let (Some(dir), Some(turn)) = (&args.apart, args.turn) {
        return apart::run(ui, global, words, args, dir, turn);
    }
    let grounds = Grounds::open(ui, global, &args.store, None, Access::Read)?;
    let loaded = grounds.site.load()?;
    refuse_boot_tests(&loaded, &args.targets)?;
    interrupt::watch(ui);
    let run_args = RunArgs::apart(args.jobs, args.offline, args.store.clone());
    let mut options = run_args.options(&grounds, global, words, args.targets.clone());
    options.goal = mosbuild_engine::build::Goal::Build;
    let mut session = Session::on(grounds)?;
    let predicted = predict(&mut session.workspace, &session.grounds.store, &options)?;
    let store = session.grounds.store.clone();
    let mut known = BTreeSet::new();
    if args.skip_proven {
        known.extend(predicted.steps.iter().filter_map(|s| s.key).filter(|key| is_proven(&store, key)));
    }
    let first = match args.against_store {
        true => Some(Side::of_store(&store, predicted.steps, &loaded)?),
        false => None,
    };
    let pair = Pair { ui, global, args, store: &store, known: &known, events: args.events.as_deref() };
    let (first, second, scratch) = match pair.build(first)? {
        Ok(built) => built,
        Err(exit) => return Ok(exit),
    };
    let compared = Compared::new(&loaded, first, second, &known)?;
    compared.keep_proofs(&store)?;
    match args.json {
        true => ui.json(&report::object(&compared, &args.targets))?,
        false => ui.out(&report::text(&compared, &args.targets))?,
    }
    drop(scratch);
    Ok(u8::from(!compared.is_same()))
}

/// Whether a step ran twice alike, and the store has what it made then.
fn is_proven(store: &Store, key: &Digest) -> bool {
    let result = store.get_result(key).ok().flatten();
    result.zip(store.get_proof(key)).is_some_and(|(result, proof)| result.outputs == proof.outputs)
}

/// The log of a boot is never the same twice.
fn refuse_boot_tests(loaded: &Loaded, names: &[String]) -> Result<(), Failure> {
    for name in names {
        mosbuild_engine::build::named(loaded, name)?;
    }
    for target in closure(loaded, &requested(loaded, names)) {
        let target = &loaded.targets[target as usize];
        if target.rule == "boot-test" {
            let message = format!("{} is a boot test, whose log is never the same twice", target.name);
            return Err(Failure::usage(message).help("verify what it boots"));
        }
    }
    Ok(())
}
