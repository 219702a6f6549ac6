//! The short way: when not one file, tool, variable or placed output changed since a complete build, there is
//! nothing to plan. A stamp that cannot prove this is ignored. Knows no rule.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mosbuild_cache::{Digest, Store};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::place::Placed;
use super::{BuildOptions, Goal, Prepared, Report, Site, Workspace, overrides};
use crate::events::{EVENTS_SCHEMA, Event, Outcome, Sink};
use crate::exec::{Container, ContainerOptions};
use crate::framed;
use crate::load::Override;
use crate::lockfile;
use crate::run_record::{RunHead, Runs, new_id};

const VERSION: u32 = 3;
/// A file whose stamps are younger than this when the stamp is taken may change again unseen, where the file
/// system's clock is coarse (facts: racy git).
const RACY_NANOS: i128 = 20_000_000;

/// Variables that decide which tools are found.
const TOOL_ENV: [&str; 6] =
    ["PATH", "HOME", "RUSTUP_TOOLCHAIN", "MOSBUILD_DPKG_ROOT", "DOCKER_HOST", "CONTAINER_HOST"];

#[derive(Serialize, Deserialize)]
struct Stamp {
    /// What was asked: requested targets, dist directory, host variables.
    request: Request,
    /// Image that containers were made of, and its id then, where its name may stand for another by now.
    image: Option<(ContainerOptions, String)>,
    /// Stat of every file, folder and tool that the keys were made from, and of the placed files.
    stats: Vec<(PathBuf, Stat)>,
    /// The run whose steps and records this state equals.
    run: String,
    /// Requested targets, resolved.
    requested: Vec<String>,
    /// Targets of the closure.
    targets: Vec<String>,
    placed: Vec<PathBuf>,
    /// Working copies in place of sources, of the closure.
    overrides: Vec<Override>,
    /// Those that nothing in it needs.
    in_vain: Vec<Override>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    graph: Digest,
    requested: Vec<String>,
    dist: PathBuf,
    /// By name, a keyed hash of each deciding variable's value: some are secrets.
    env: BTreeMap<String, Option<Digest>>,
    /// Working copies in place of sources.
    overrides: Vec<(String, PathBuf)>,
    /// What the user says of executors.
    executors: String,
}

/// Keyed hashes of host variables as they are now.
fn env_hashes(names: impl Iterator<Item = String>, key: &[u8; 32]) -> BTreeMap<String, Option<Digest>> {
    let hash = |name: &str| {
        let value = std::env::var_os(name)?;
        Some(Digest::of(&[&key[..], value.as_encoded_bytes()].concat()))
    };
    names.map(|name| (name.clone(), hash(&name))).collect()
}

impl Request {
    fn new(
        graph: Digest,
        site: &Site,
        options: &BuildOptions,
        env: BTreeMap<String, Option<Digest>>,
    ) -> Request {
        let given = &site.load.overrides;
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let executors = format!("{:?}", site.executors);
        let overrides = given.iter().map(|(target, path)| (target.clone(), absolute(path))).collect();
        Request {
            graph,
            requested: options.requested.clone(),
            dist: site.dirs().dist,
            env,
            overrides,
            executors,
        }
    }

    /// The request for the file as it is now.
    fn of(site: &Site, options: &BuildOptions, env: BTreeMap<String, Option<Digest>>) -> Option<Request> {
        let bytes = std::fs::read(site.load.root.join(&site.load.file)).ok()?;
        let schemas = crate::load::RuleFactory::schemas(&*site.registry);
        Some(Request::new(crate::load::cache::key(&bytes, &site.load, schemas), site, options, env))
    }
}

/// What tells that a path is as it was; `None` fields: it was absent.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Stat(Option<(u64, u64, u64, u32, i64, i64)>);

impl Stat {
    fn of(path: &Path) -> Stat {
        Stat(std::fs::symlink_metadata(path).ok().map(|m| {
            let nanos = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
            let mtime = nanos(m.mtime(), m.mtime_nsec());
            (m.dev(), m.ino(), m.size(), m.mode(), mtime, nanos(m.ctime(), m.ctime_nsec()))
        }))
    }

    fn settled(&self, began: i128) -> bool {
        self.0.is_none_or(|s| i128::from(s.4.max(s.5)) < began - RACY_NANOS)
    }
}

fn now_nanos() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128)
}

/// The report of a build that has nothing to do; `None` if that cannot be told from the stamp.
pub(super) fn unchanged(
    site: &Site,
    store: &Store,
    options: &BuildOptions,
    sink: &dyn Sink,
    started: Instant,
) -> Option<Report> {
    if !options.force.is_empty() || options.no_cache || options.goal != Goal::Build {
        return None;
    }
    let dirs = site.dirs();
    let stamp: Stamp = framed::decode(b"mfsh", VERSION, &std::fs::read(dirs.state.join("fresh")).ok()?)?;
    let key = super::prepare::secret_key(store.root()).ok()?;
    let env = env_hashes(stamp.request.env.keys().cloned(), &key);
    if Request::of(site, options, env)? != stamp.request {
        return None;
    }
    let same = |(path, stat): &(PathBuf, Stat)| Stat::of(path) == *stat;
    let all = match stamp.stats.len() {
        0..256 => stamp.stats.iter().all(same),
        _ => stamp.stats.par_iter().with_min_len(128).all(same),
    };
    if let Some((options, id)) = &stamp.image
        && !Container::open(options, None).is_ok_and(|container| container.image_id() == id)
    {
        return None;
    }
    let runs = Runs::of(&dirs.state);
    if !all || !runs.dir(&stamp.run).join("steps").exists() {
        return None;
    }
    let head = RunHead {
        id: new_id(),
        started: (now_nanos() / 1_000_000_000) as u64,
        args: options.args.clone(),
        profile: options.profile.clone(),
        requested: stamp.requested,
        cached: stamp.targets.len(),
        targets: stamp.targets,
        same_as: Some(stamp.run),
        overrides: stamp.overrides,
        ..RunHead::default()
    };
    for message in overrides::warnings(&head.overrides, &stamp.in_vain) {
        sink.event(&Event::Warning { message });
    }
    sink.event(&Event::RunStarted {
        schema: EVENTS_SCHEMA,
        run: head.id.clone(),
        targets: head.targets.len(),
        steps: 0,
    });
    for target in &head.targets {
        let target = target.clone();
        sink.event(&Event::TargetFinished { target, outcome: Outcome::Hit, millis: 0, same_output: true });
    }
    let head = RunHead { millis: started.elapsed().as_millis() as u64, ..head };
    // A run that cannot be recorded is only missing from `runs`.
    let _ = runs.write(&head, [].into_iter(), &BTreeMap::new());
    let finished = Event::RunFinished { built: 0, cached: head.cached, failed: 0, millis: head.millis };
    sink.event(&finished);
    Some(Report { head, placed: stamp.placed, failed: Vec::new(), pins: None })
}

/// Writes the stamp of a complete build.
pub(super) fn remember(
    workspace: &Workspace,
    prepared: &Prepared,
    options: &BuildOptions,
    head: &RunHead,
    placed: &Placed,
    began: SystemTime,
) {
    let path = workspace.dirs.state.join("fresh");
    let mut paths: Vec<PathBuf> = prepared.sources.seen.clone();
    for expanded in prepared.loaded.expanded.values().flatten() {
        paths.extend(expanded.dirs_walked.iter().map(|d| prepared.loaded.root.join(d)));
        paths.extend(expanded.files.iter().map(|f| prepared.loaded.root.join(f)));
    }
    paths.extend(prepared.host.watched());
    paths.extend(prepared.graph.watched.iter().cloned());
    if prepared.container.is_some() {
        paths.extend(workspace.site.executors.options(&prepared.loaded).archive);
    }
    paths.extend(placed.all.iter().cloned());
    paths.extend(placed.depots.iter().cloned());
    paths.push(workspace.dirs.dist.join(super::place::SUMS));
    paths.push(workspace.dirs.root.join(lockfile::FILE_NAME));
    paths.sort_unstable();
    paths.dedup();
    let stats: Vec<(PathBuf, Stat)> =
        paths.into_par_iter().map(|p| (Stat::of(&p), p)).map(|(s, p)| (p, s)).collect();
    // What changed since the build began may have changed after it was hashed. Only what mosbuild wrote itself may be
    // that young.
    let began = began.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128);
    let depots: HashSet<&Path> = placed.depots.iter().map(PathBuf::as_path).collect();
    let ours = |p: &PathBuf| {
        depots.contains(p.as_path())
            || p.starts_with(&workspace.dirs.dist)
            || prepared.pins_changed() && p.ends_with(lockfile::FILE_NAME)
    };
    if !stats.iter().all(|(p, s)| ours(p) || s.settled(began)) {
        let _ = std::fs::remove_file(&path);
        return;
    }
    let deciding = TOOL_ENV.iter().map(|n| (*n).to_owned()).chain(prepared.host_env.iter().cloned());
    let env = env_hashes(deciding, &prepared.secret_key);
    // The digest of the text that was built, which may have been edited since.
    let request = Request::new(prepared.loaded.digest, &workspace.site, options, env);
    let image = prepared.container.as_ref().map(|container| {
        let options = workspace.site.executors.options(&prepared.loaded);
        (options, container.image_id().to_owned())
    });
    // An archive is a file like others, above; a name may stand for another image by now.
    let image = image.filter(|(options, _)| options.archive.is_none());
    let stamp = Stamp {
        request,
        image,
        requested: head.requested.clone(),
        stats,
        run: head.id.clone(),
        targets: head.targets.clone(),
        placed: placed.all.clone(),
        overrides: head.overrides.clone(),
        in_vain: overrides::outside(&prepared.loaded, &prepared.graph.closure),
    };
    // Without a stamp the next build only takes the long way.
    let _ = framed::write(&path, &framed::encode(b"mfsh", VERSION, &stamp));
}
