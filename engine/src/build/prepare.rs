//! What a build needs before its first step: the workspace's state, the plan, hashed sources, identified tools.
//! Everything that can be refused is refused here, before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mosbuild_cache::{Digest, StatCache, State, Store};

use super::evaluate::Evaluator;
use super::executors::{self, Executors};
use super::locking::{Wanted, wanted};
use super::{Blocked, BuildError, BuildOptions, Goal, overrides};
use crate::action::{EnvVar, ExecutorKind, Input, Work};
use crate::events::{Event, Sink};
use crate::exec::container::Bring;
use crate::exec::{CancelToken, Container, jobserver::Pool};
use crate::fetch::{FetchOptions, Fetcher};
use crate::inputs::Sources;
use crate::load::{Diagnostics, LoadOptions, Loaded};
use crate::lockfile::{Missing, Pins, with_profile};
use crate::memory::Memory;
use crate::plan::{self, Dirs, StepGraph};
use crate::rule::{PlanError, Registry};
use crate::tools::{BASE, Host, Identity, Missing as MissingTool, together};

/// Which workspace, and how it is loaded: all that is known before anything is read.
#[derive(Clone)]
pub struct Site {
    /// Root, file, profile and `--set`.
    pub load: LoadOptions,
    /// The rules.
    pub registry: Arc<Registry>,
    /// `--out`.
    pub out: Option<PathBuf>,
    /// Where the state is, if not in `.mosbuild`.
    pub state: Option<PathBuf>,
    /// What the user says of executors.
    pub executors: Executors,
}

impl Site {
    /// Host paths of the workspace.
    pub fn dirs(&self) -> Dirs {
        let root = self.load.root.clone();
        Dirs {
            dist: self.out.clone().unwrap_or_else(|| root.join("dist")),
            state: self.state.clone().unwrap_or_else(|| root.join(".mosbuild")),
            root,
        }
    }

    /// Loads and checks the file; the graph comes from the binary form where nothing changed.
    pub fn load(&self) -> Result<Loaded, Diagnostics> {
        crate::load::load(&self.load, &*self.registry, Some(&self.dirs().state.join("graphs")))
    }
}

/// An opened workspace: what was loaded, and what it remembers.
pub struct Workspace {
    /// Which one.
    pub site: Site,
    /// The loaded file.
    pub loaded: Arc<Loaded>,
    /// Host paths.
    pub dirs: Dirs,
    /// sled.
    pub state: State,
    /// Stat cache.
    pub stat_cache: StatCache,
    /// Step memory.
    pub memory: Memory,
    /// The host's tools.
    pub host: Host,
}

impl Workspace {
    /// Loads the file and opens the state; damaged state is left behind, never an error.
    pub fn open(site: &Site) -> Result<Workspace, Diagnostics> {
        let loaded = Arc::new(site.load()?);
        let dirs = site.dirs();
        let state = State::open(&dirs.state);
        let stat_cache = state.get("stat-cache").map(|b| StatCache::decode(&b)).unwrap_or_default();
        let memory = state.get("memory").map(|b| Memory::decode(&b)).unwrap_or_default();
        let host = Host::open(&dirs.state, state.get("tools").as_deref());
        Ok(Workspace { site: site.clone(), loaded, dirs, state, stat_cache, memory, host })
    }

    /// Writes what is remembered.
    pub fn save(&mut self) {
        self.state.put("stat-cache", &self.stat_cache.encode());
        self.state.put("memory", &self.memory.encode());
        if let Some(memo) = self.host.memo() {
            self.state.put("tools", &memo);
        }
        self.state.flush();
    }
}

/// Everything that the steps need, shared by the workers.
pub struct Prepared {
    /// The workspace as loaded.
    pub loaded: Arc<Loaded>,
    /// The rules.
    pub registry: Arc<Registry>,
    /// The steps.
    pub graph: StepGraph,
    /// Requested targets.
    pub requested: Vec<u32>,
    /// Targets of the closure that have steps: what the summary counts.
    pub counted: Vec<u32>,
    /// Hashed sources.
    pub sources: Sources,
    /// Tool identities.
    pub tools: BTreeMap<String, Identity>,
    /// Where the tools are.
    pub host: Host,
    /// `x86_64-linux`.
    pub platform: String,
    /// Key of the hashes that stand for secrets.
    pub secret_key: [u8; 32],
    /// The jobserver.
    pub pool: Arc<Pool>,
    /// Set by an interrupt.
    pub cancel: CancelToken,
    /// The lock as it was, and as it is by now.
    pub pins: (Pins, Mutex<Pins>),
    /// What is wanted of each step.
    pub wanted: Vec<Wanted>,
    /// Downloads.
    pub fetcher: Fetcher,
    /// Worth saying before the build starts.
    pub warnings: Vec<String>,
    /// Host environment variables that entered keys.
    pub host_env: BTreeSet<String>,
    /// `.mosbuild`.
    pub state: PathBuf,
    /// Targets that cannot be built here; none where a build is prepared.
    pub blocked: BTreeMap<u32, Blocked>,
    /// Why no step can be sandboxed here; never where a build is prepared.
    pub no_sandbox: Option<Blocked>,
    /// Runs the steps that are run in containers.
    pub container: Option<Container>,
}

impl Prepared {
    /// For making keys.
    pub fn evaluator<'a>(&'a self, store: &'a Store) -> Evaluator<'a> {
        Evaluator {
            graph: &self.graph,
            loaded: &self.loaded,
            registry: &self.registry,
            sources: &self.sources,
            tools: &self.tools,
            platform: &self.platform,
            secret_key: &self.secret_key,
            image: self.container.as_ref().map(Container::image_id),
            store,
        }
    }
}

/// Plans, hashes and identifies; refuses what is missing. With a sink, which is told how far it is, an image that containers
/// are made of and that is absent is brought in.
pub fn prepare(
    workspace: &mut Workspace,
    store: &Store,
    options: &BuildOptions,
    sink: Option<&Arc<dyn Sink>>,
) -> Result<Prepared, BuildError> {
    prepare_with(workspace, store, options, Lacking::Refused, sink.map(bring).as_ref())
}

/// Tells of an image that is brought in, now and then.
fn bring(sink: &Arc<dyn Sink>) -> Bring {
    const OFTEN: Duration = Duration::from_secs(2);
    let (sink, last) = (sink.clone(), Mutex::new(None::<Instant>));
    Arc::new(move |image, done, total| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= OFTEN) || Some(done) == total {
            *last = Some(Instant::now());
            sink.event(&Event::Image { image: image.to_owned(), done, total });
        }
    })
}

/// The same for who runs nothing: a target that this host lacks something for is marked, and the others are as they
/// would be without it.
pub fn prepare_what_can_be(
    workspace: &mut Workspace,
    store: &Store,
    options: &BuildOptions,
) -> Result<Prepared, BuildError> {
    prepare_with(workspace, store, options, Lacking::Marked, None)
}

/// What becomes of targets that this host lacks something for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacking {
    Refused,
    Marked,
}

fn prepare_with(
    workspace: &mut Workspace,
    store: &Store,
    options: &BuildOptions,
    lacking: Lacking,
    bring: Option<&Bring>,
) -> Result<Prepared, BuildError> {
    overrides::refuse_locked(&workspace.loaded, options.locked)?;
    let secret_key = secret_key(store.root())?;
    workspace.memory.of_store(Digest::of(&secret_key));
    let requested = requested(&workspace.loaded, &options.requested, options.goal)?;
    let closure = plan::closure(&workspace.loaded, &requested);
    Arc::make_mut(&mut workspace.loaded).expand(&closure)?;
    let loaded = workspace.loaded.clone();
    for name in &options.force {
        named(&loaded, name)?;
    }
    let missing = if options.locked { Missing::Locked } else { Missing::Make };
    let pins = Pins::read(&workspace.dirs.root, missing)?;
    let (mut graph, mut errors) = plan::plan_what_can_be(&loaded, &workspace.site.registry, closure);
    // Who only brings sources in compiles nothing.
    if options.goal == Goal::Build {
        errors.append(&mut graph.lacks);
    }
    if lacking == Lacking::Refused && !errors.is_empty() {
        return Err(not_planned(&loaded, errors));
    }
    // Of several reasons for one target the first is told.
    let mut blocked: BTreeMap<u32, Blocked> = errors.into_iter().rev().map(|(t, e)| (t, e.into())).collect();

    let mut active = wanted(&graph, options.goal);
    locked(&graph, &active, &pins, loaded.options().profile.as_deref())?;

    let executing = executors::decide(
        &mut graph,
        &loaded,
        &workspace.site.executors,
        &|ix| active[ix] == Wanted::Run,
        bring,
    );
    if lacking == Lacking::Refused
        && let Some(error) = executing.refusal(&loaded)
    {
        return Err(error);
    }
    let (no_sandbox, no_container) = executing.blocked();
    if let Some(refused) = &no_container {
        block_containers(&graph, refused, &mut active, &mut blocked);
    }

    let mut wanted: Vec<(u32, Input)> = Vec::new();
    let mut tool_names = BTreeSet::new();
    let mut host_env = BTreeSet::new();
    for (node, active) in graph.steps.iter().zip(&active) {
        if *active == Wanted::No {
            continue;
        }
        if let Work::Builtin(b) = &node.step.work
            && *active == Wanted::Run
        {
            tool_names.extend(b.tools().iter().map(|t| (*t).to_owned()));
        }
        for input in &node.step.inputs {
            if !matches!(input.from, Input::Upstream { .. } | Input::Step { .. }) {
                wanted.push((node.target, input.from.clone()));
            }
        }
        if let Work::Command(c) = &node.step.work {
            // Those of a container are its image's.
            if *active == Wanted::Run && c.executor != ExecutorKind::Container {
                tool_names.extend(c.tools.iter().cloned());
            }
            host_env.extend(c.env.values().filter_map(|v| match v {
                EnvVar::Host { name, .. } => Some(name.clone()),
                EnvVar::Value(_) => None,
            }));
        }
    }
    wanted.sort_unstable();
    wanted.dedup();
    let sources = Sources::collect(&loaded, &wanted, &mut workspace.stat_cache)
        .map_err(|e| BuildError::new(2, e.to_string()))?;
    let names: Vec<String> = tool_names.into_iter().collect();
    let (tools, missing) = workspace.host.identify_what_is_there(&names);
    if lacking == Lacking::Refused && !missing.is_empty() {
        return Err(BuildError { exit: 3, diagnostics: None, errors: together(missing) });
    }
    block_for_tools(&graph, &missing, &mut active, &mut blocked);
    let jobs = match options.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let counts = |t: &u32| {
        blocked.contains_key(t)
            || graph.of_target[*t as usize].iter().any(|s| active[*s as usize] != Wanted::No)
    };
    let counted = graph.closure.iter().copied().filter(counts).collect();
    let mirrors = options.mirrors.iter().chain(&loaded.mirrors).cloned().collect();
    let fetch = FetchOptions { mirrors, offline: options.offline, ..FetchOptions::default() };
    let mut warnings = Vec::new();
    if let Some(reason) = workspace.state.degraded() {
        warnings.push(format!("{reason}; this build is slower, not wrong"));
    }
    let copies = overrides::within(&loaded, &graph.closure);
    warnings.extend(overrides::warnings(&copies, &overrides::outside(&loaded, &graph.closure)));
    Ok(Prepared {
        registry: workspace.site.registry.clone(),
        host: workspace.host.clone(),
        platform: format!("{}-linux", std::env::consts::ARCH),
        secret_key,
        pool: Arc::new(Pool::new(jobs)?),
        cancel: CancelToken::new()?,
        pins: (pins.clone(), Mutex::new(pins)),
        wanted: active,
        fetcher: Fetcher::new(fetch),
        loaded,
        graph,
        requested,
        counted,
        sources,
        tools,
        warnings,
        host_env,
        state: workspace.dirs.state.clone(),
        blocked,
        no_sandbox,
        container: executing.container,
    })
}

/// What cannot be planned, each with its place in the file.
fn not_planned(loaded: &Loaded, errors: plan::PlanErrors) -> BuildError {
    let exit = errors.iter().map(|(_, e)| e.exit).max().unwrap_or(2);
    let placed = |(t, e): (u32, PlanError)| {
        let target = &loaded.targets[t as usize];
        (format!("{}:{}: {}: {}", loaded.file_name(), target.line, target.name, e.message), e.help)
    };
    BuildError { exit, diagnostics: None, errors: errors.into_iter().map(placed).collect() }
}

/// Blocks the targets with steps for which no container can be had: without the image they have no key.
fn block_containers(
    graph: &StepGraph,
    refused: &Blocked,
    active: &mut [Wanted],
    blocked: &mut BTreeMap<u32, Blocked>,
) {
    for (node, active) in graph.steps.iter().zip(active) {
        if matches!(&node.step.work, Work::Command(c) if c.executor == ExecutorKind::Container) {
            *active = Wanted::No;
            blocked.entry(node.target).or_insert_with(|| refused.clone());
        }
    }
}

/// Blocks the targets with steps for which a tool is missing. Such a step has no key, since it has no identity of the
/// tool: nothing is wanted of it.
fn block_for_tools(
    graph: &StepGraph,
    missing: &[MissingTool],
    active: &mut [Wanted],
    blocked: &mut BTreeMap<u32, Blocked>,
) {
    for (node, active) in graph.steps.iter().zip(active) {
        let needs = |m: &&MissingTool| match &node.step.work {
            Work::Command(c) => {
                c.executor != ExecutorKind::Container && c.tools.contains(&m.tool)
                    || m.tool == BASE && c.executor == ExecutorKind::Sandbox
            }
            Work::Builtin(b) => {
                let tools = b.tools();
                tools.contains(&m.tool.as_str()) || m.tool == BASE && !tools.is_empty()
            }
        };
        for tool in missing.iter().filter(needs) {
            *active = Wanted::No;
            let new = Blocked { message: String::new(), help: Vec::new(), exit: 3 };
            let told = blocked.entry(node.target).or_insert(new);
            if !told.message.contains(&tool.message) {
                let before = if told.message.is_empty() { "" } else { "; " };
                told.message.push_str(&format!("{before}{}", tool.message));
                told.help.extend(tool.help.iter().cloned());
            }
        }
    }
}

/// With `--locked`, says of every source at once that it is not in the lock.
fn locked(
    graph: &StepGraph,
    active: &[Wanted],
    pins: &Pins,
    profile: Option<&str>,
) -> Result<(), BuildError> {
    let own = |id: &str| profile.is_some_and(|p| pins.get(&with_profile(id, p)).is_some());
    let mut errors: Vec<(String, Vec<String>)> = Vec::new();
    for (node, active) in graph.steps.iter().zip(active) {
        if let (Some(id), true) = (&node.step.pin, *active != Wanted::No)
            && pins.get(id).is_none()
            && !own(id)
            && let Err(e) = pins.may_make(id)
            && errors.iter().all(|(message, _)| *message != e.message)
        {
            errors.push((e.message, e.help));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(BuildError { exit: 4, errors, diagnostics: None }),
    }
}

/// The requested targets, or the default ones; where there is no default, those that no other target refers to, as
/// ninja takes them; all for a lock or a fetch.
pub(super) fn requested(loaded: &Loaded, names: &[String], goal: Goal) -> Result<Vec<u32>, BuildError> {
    if !names.is_empty() {
        return names.iter().map(|n| named(loaded, n)).collect();
    }
    if goal != Goal::Build {
        return Ok(loaded.order.clone());
    }
    match loaded.default.is_empty() {
        false => Ok(loaded.default.clone()),
        true => {
            let used: BTreeSet<u32> =
                loaded.targets.iter().flat_map(|t| t.references.iter().map(|r| r.target)).collect();
            Ok(loaded.order.iter().copied().filter(|t| !used.contains(t)).collect())
        }
    }
}

/// A target by name, with the nearest right name in the error.
pub fn named(loaded: &Loaded, name: &str) -> Result<u32, BuildError> {
    loaded.target_index(name).ok_or_else(|| {
        let error = BuildError::new(2, format!("unknown target {name}"));
        match loaded.nearest(name) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error.help("`mosbuild list` shows the targets"),
        }
    })
}

/// The random key by which secrets are hashed: made once per store, readable by its owner only.
pub(super) fn secret_key(store: &Path) -> std::io::Result<[u8; 32]> {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    let path = store.join("secret.key");
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = bytes.try_into()
    {
        return Ok(key);
    }
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let temporary = store.join(format!("secret.key.tmp{}", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?.write_all(&key)?;
    // The first process to link its key wins; the others read that one.
    match std::fs::hard_link(&temporary, &path) {
        Ok(()) => std::fs::remove_file(&temporary)?,
        Err(_) => {
            std::fs::remove_file(&temporary)?;
            if let Ok(bytes) = std::fs::read(&path)
                && let Ok(first) = bytes.try_into()
            {
                key = first;
            }
        }
    }
    Ok(key)
}
