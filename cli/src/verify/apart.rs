//! One of the two builds, in a process of its own: what is varied, then a build in a private store and state.
//! Knows nothing of the other one.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use mosbuild_cache::{Digest, Store};
use mosbuild_engine::build::{Apart, Site};
use mosbuild_engine::exec::elsewhere;
use mosbuild_engine::load::LoadOptions;
use serde_json::json;

use crate::args::GlobalArgs;
use crate::commands::build::{RunArgs, execute};
use crate::commands::verify::{Same, VerifyArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::session::{Grounds, Place};
use crate::settings::{Settings, environment};
use crate::ui::Ui;

/// Which of the two builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Turn {
    /// As the caller is.
    First,
    /// Elsewhere.
    Second,
}

/// Exit code of a build that could not go elsewhere; why is in [`REFUSED`].
pub const CANNOT_GO: u8 = 76;
/// Names in the folder of a build.
pub const STORE: &str = "store";
/// Its state, where its run is recorded.
pub const STATE: &str = "state";
/// Where the workspace lies for a build elsewhere.
pub const WORKSPACE: &str = "another/path/to/the/workspace";
/// What the build saw of its surroundings: JSON.
pub const AROUND: &str = "around.json";
/// Why it could not go elsewhere.
pub const REFUSED: &str = "refused";
/// Its events.
pub const EVENTS: &str = "events";
/// Keys whose results are taken as they are, one a line.
pub const KNOWN: &str = "known";
/// A link to the store below.
pub const BELOW: &str = "below";

/// The user that the second build is.
const USER: u32 = 54_321;
/// The host that it is on.
const HOSTNAME: &str = "elsewhere";
/// The mask of modes that it has.
const UMASK: u32 = 0o077;

/// Builds.
pub fn run(
    ui: &Ui,
    global: &GlobalArgs,
    words: Vec<String>,
    args: &VerifyArgs,
    dir: &Path,
    turn: Turn,
) -> Result<u8, Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |e| Failure::io(&path, e)
    };
    elsewhere::end_with_parent()?;
    let jobs = jobs(args, turn);
    let place = Place::find(global)?;
    let mut root = place.root.clone();
    if turn == Turn::Second {
        elsewhere::set_umask(UMASK);
        if !args.same.contains(&Same::Host) {
            let there = dir.join(WORKSPACE);
            std::fs::create_dir_all(&there).map_err(failed(&there))?;
            if let Err(error) = elsewhere::go(USER, HOSTNAME, &root, &there) {
                let note = dir.join(REFUSED);
                std::fs::write(&note, error.to_string()).map_err(failed(&note))?;
                return Ok(CANNOT_GO);
            }
            root = there;
        }
        if !args.same.contains(&Same::Processors) {
            elsewhere::with_fewer_processors()?;
        }
    }
    let around = json!({
        "user": user(),
        "hostname": elsewhere::hostname(),
        "workspace": root,
        "store": dir.join(STORE),
        "processors": processors(),
        "jobs": jobs,
        "started": now(),
    });
    std::fs::write(dir.join(AROUND), around.to_string()).map_err(failed(dir))?;

    let load = LoadOptions {
        file: place.file,
        profile: global.profile.clone(),
        set: global.set.clone(),
        ..LoadOptions::new(&root)
    };
    let state = dir.join(STATE);
    std::fs::create_dir_all(&state).map_err(failed(&state))?;
    let settings = Settings::read(&environment)?;
    let executors = settings.executors.clone();
    let site = Site {
        load,
        registry: Arc::new(mosbuild_rules::registry()),
        out: None,
        state: Some(state),
        executors,
    };
    interrupt::watch(ui);
    let below = Store::open(&dir.join(BELOW))?;
    let below = match turn {
        Turn::First => below,
        // What the first one downloaded.
        Turn::Second => match dir.parent().map(|pair| pair.join(first_dir()).join(STORE)) {
            Some(other) if other.is_dir() => Store::open_above(&other, &below, false)?,
            _ => below,
        },
    };
    let store = Store::open_above(&dir.join(STORE), &below, turn == Turn::Second)?;
    let grounds = Grounds::apart(site, store, settings);
    let mut run_args = RunArgs::apart(Some(jobs), args.offline, args.store.clone());
    run_args.record_events(dir.join(EVENTS));
    let mut options = run_args.options(&grounds, global, words, args.targets.clone());
    let known = std::fs::read_to_string(dir.join(KNOWN)).unwrap_or_default();
    let known = known.lines().filter_map(|line| line.parse::<Digest>().ok()).collect();
    options.apart = Some(Apart { known, backwards: turn == Turn::Second });
    Ok(execute(ui, &grounds, &options, &run_args)?.head.exit)
}

/// The folder of the first build, beside that of the second.
pub fn first_dir() -> &'static str {
    "first"
}

/// The folder of the second build: another length of path too.
pub fn second_dir() -> &'static str {
    "the-second-one"
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One more than processors in the second build, or than was asked for.
fn jobs(args: &VerifyArgs, turn: Turn) -> u16 {
    let more = u16::from(turn == Turn::Second);
    let asked = args.jobs.unwrap_or_else(|| u16::try_from(processors()).unwrap_or(u16::MAX - 1));
    asked.saturating_add(more)
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
