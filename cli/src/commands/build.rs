//! `mosbuild build`: runs the engine with a display, or says what it would do.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mosbuild_engine::build::{BuildOptions, Goal, Report, build, overrides, predict};
use mosbuild_engine::lockfile::Update;
use mosbuild_engine::plan::closure;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::progress::{Display, History, JsonLines, Watched, requested};
use crate::session::{Access, Grounds, Session};
use crate::standing::{forecast_lines, forecast_object, warn_of_blocked};
use crate::ui::{Ui, annotated_file};

/// Arguments of `build`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Targets; the default ones if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
    /// Say of each target whether it is a hit, will run and why, or depends on another; run nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// With -n: one JSON object for programs
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Run the steps of this target although their results are known; may be repeated
    #[arg(long, value_name = "T")]
    force: Vec<String>,
    /// Put results here instead of dist/
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Sign SHA256SUMS with this key of ssh: a private one, or the public one of a key in your agent
    #[arg(long, value_name = "KEY", env = "MOSBUILD_SIGN_KEY", value_hint = clap::ValueHint::FilePath)]
    sign: Option<PathBuf>,
}

/// Arguments of every command that builds.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Steps that run at once [default: $MOSBUILD_JOBS, else `jobs` of the user's settings, else one for each processor]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    jobs: Option<u16>,
    /// Go on with what does not depend on a failure
    #[arg(short = 'k', long)]
    keep_going: bool,
    /// Fail where mosbuild.lock would have to change
    #[arg(long)]
    locked: bool,
    /// Never use the network
    #[arg(long)]
    offline: bool,
    /// Neither look results up nor keep them
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// Write every event as a line of JSON to this file, or to stdout for -
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    events: Option<PathBuf>,
}

/// Builds, or predicts.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &BuildArgs) -> Result<u8, Failure> {
    let access = if args.dry_run { Access::Read } else { Access::Write };
    let grounds = Grounds::open(ui, global, &args.run.store, args.out.as_deref(), access)?;
    let mut options = args.run.options(&grounds, global, words, args.targets.clone());
    options.force.clone_from(&args.force);
    options.sign = args.sign.clone().filter(|key| !key.as_os_str().is_empty());
    forced_in_vain(ui, &grounds, &options)?;
    if !args.dry_run {
        return Ok(execute(ui, &grounds, &options, &args.run)?.head.exit);
    }
    let mut session = Session::on(grounds)?;
    let loaded = session.workspace.loaded.clone();
    let planned = closure(&loaded, &requested(&loaded, &options.requested));
    let (within, outside) = (overrides::within(&loaded, &planned), overrides::outside(&loaded, &planned));
    for warning in overrides::warnings(&within, &outside) {
        ui.warn(&warning);
    }
    let predicted = predict(&mut session.workspace, &session.grounds.store, &options)?;
    match args.json {
        true => ui.json(&forecast_object(&predicted))?,
        false => ui.out(&forecast_lines(&predicted))?,
    }
    warn_of_blocked(ui, &predicted);
    Ok(0)
}

/// Says of which forced targets nothing is built.
fn forced_in_vain(ui: &Ui, grounds: &Grounds, options: &BuildOptions) -> Result<(), Failure> {
    if options.force.is_empty() {
        return Ok(());
    }
    let loaded = grounds.site.load()?;
    let built = closure(&loaded, &requested(&loaded, &options.requested));
    for name in &options.force {
        if loaded.target_index(name).is_some_and(|t| !built.contains(&t)) {
            ui.warn(&format!("--force {name} has no effect: nothing that is built needs {name}"));
        }
    }
    Ok(())
}

impl RunArgs {
    /// Of a build that is compared: by the lock as it is.
    pub fn apart(jobs: Option<u16>, offline: bool, store: StoreArgs) -> RunArgs {
        RunArgs { jobs, offline, store, locked: true, ..RunArgs::default() }
    }

    /// Writes events to this file.
    pub fn record_events(&mut self, to: PathBuf) {
        self.events = Some(to);
    }

    /// As the engine wants them.
    pub fn options(
        &self,
        grounds: &Grounds,
        global: &GlobalArgs,
        words: Vec<String>,
        requested: Vec<String>,
    ) -> BuildOptions {
        BuildOptions {
            requested,
            jobs: self.jobs.map(usize::from).or(grounds.settings.jobs).unwrap_or(0),
            keep_going: self.keep_going,
            force: Vec::new(),
            locked: self.locked,
            offline: self.offline,
            no_cache: self.no_cache,
            goal: Goal::Build,
            apart: None,
            update: Update::Keep,
            mirrors: grounds.settings.mirrors.clone(),
            args: words,
            profile: global.profile.clone(),
            sign: None,
        }
    }
}

/// Builds with a display and, if wanted, a file of events.
pub fn execute(
    ui: &Ui,
    grounds: &Grounds,
    options: &BuildOptions,
    args: &RunArgs,
) -> Result<Report, Failure> {
    let site = &grounds.site;
    let jobs = match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let history = History::new(site.clone(), options.requested.clone(), jobs);
    let display = Display::new(ui, annotated_file(&site.load.root.join(&site.load.file)), history);
    let events = args.events.as_deref().map(JsonLines::open).transpose()?.map(Arc::new);
    let watched = Arc::new(Watched::new(events.clone(), display.sink()));
    let built = build(site, &grounds.store, options, watched.clone());
    display.close();
    let built = match built.map_err(Failure::from) {
        Err(Failure::Errors { exit, errors }) if watched.broken_off() => {
            for (message, help) in &errors {
                ui.error(message, help);
            }
            watched.sum_up();
            Err(Failure::Told(exit))
        }
        other => other,
    };
    // After a summary this has been said already.
    if let Some(error) = events.and_then(|e| e.finish()) {
        ui.error(&error, &[]);
    }
    built
}
