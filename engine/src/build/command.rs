//! Runs a command step: lays out what it may see, runs it, captures what it declares.
//! Knows no rule and no scheduling.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use mosbuild_cache::{
    CaptureOptions, Ingest, Materialise, Node, Output, OutputKind, Place as Placing, Scratch, Store, Tree,
};

use super::Resolved;
use super::worker::{Broken, Execution, Job};
use crate::action::{
    Command, CommandOutput, DEPS_DIR, EnvVar, ExecutorKind, OUT_DIR, OutKind, Place, StepError, WORK_DIR,
};
use crate::exec::{
    self, CancelToken, End, Executor, JOBSERVER_READ, JOBSERVER_WRITE, Limits, Mount, Owners, Watch,
};
use crate::inputs::{self, Source};
use crate::plan::StepNode;
use crate::rooted;

/// A step laid out on disk, ready to run.
struct Layout {
    job: exec::Job,
    /// Host directory behind `$OUT`.
    out: PathBuf,
    /// Host directories behind writable inputs that were empty, by sandbox path: outputs may lie there.
    writable: Vec<(String, PathBuf)>,
    /// Of a command in a root of its own, that root and writable inputs: sandbox path, host directory, what was laid
    /// out there.
    roots: Vec<(String, PathBuf, Tree)>,
}

struct Listener<'a> {
    job: &'a Job,
    secrets: Vec<String>,
}

impl Watch for Listener<'_> {
    fn line(&self, line: &str) {
        match self.secrets.is_empty() {
            true => self.job.line(line),
            false => {
                self.job.line(&String::from_utf8_lossy(&masked(line.as_bytes().to_vec(), &self.secrets)))
            }
        }
    }
    fn cancel(&self) -> Option<&CancelToken> {
        Some(&self.job.prepared.cancel)
    }
}

pub(super) fn run(job: &Job, command: &Command, log: &mut Vec<u8>) -> Result<Execution, Broken> {
    let mut scratch = job.store.scratch("step")?;
    let layout = lay_out(job.node(), command, &job.inputs, &job.prepared, &job.store, &mut scratch)?;
    let executor: &dyn Executor = match command.executor {
        ExecutorKind::Sandbox => &exec::Sandbox,
        ExecutorKind::Host => &exec::Host,
    };
    let secrets = secrets(command);
    let outcome = executor.run(&layout.job, &Listener { job, secrets: secrets.clone() });
    if outcome.as_ref().map_or(true, |o| o.log_bytes > 0) {
        *log = masked(std::fs::read(&layout.job.log).unwrap_or_default(), &secrets);
    }
    let broken = |error: StepError, log: &Vec<u8>| Broken { error: Box::new(error), log: log.clone() };
    let outcome = outcome.map_err(|e| broken(StepError::new(e.to_string()).exit(e.exit()), log))?;
    if !outcome.success() {
        return Err(broken(explain(job, command, &outcome, log), log));
    }
    let made = capture(job, command, &layout, &outcome.owners, log);
    let (outputs, mut facts) = made.map_err(|error| broken(error, log))?;
    if command.console.is_some() {
        facts.insert("seconds".into(), format!("{:.1}", outcome.wall.as_secs_f64()));
    }
    if outcome.alone {
        scratch.recycle();
    }
    let sandboxed = command.executor == ExecutorKind::Sandbox;
    Ok(Execution { outputs, facts, notes: Vec::new(), sandboxed })
}

/// Values of the variables that are declared as secrets.
fn secrets(command: &Command) -> Vec<String> {
    let secret = |v: &EnvVar| match v {
        EnvVar::Host { name, secret: true } => std::env::var(name).ok().filter(|v| !v.is_empty()),
        _ => None,
    };
    command.env.values().filter_map(secret).collect()
}

/// A log in which `***` stands for each secret: it is kept, shown and shared.
fn masked(log: Vec<u8>, secrets: &[String]) -> Vec<u8> {
    secrets.iter().fold(log, |log, secret| {
        let finder = memchr::memmem::Finder::new(secret);
        if finder.find(&log).is_none() {
            return log;
        }
        let mut out = Vec::with_capacity(log.len());
        let mut rest = &log[..];
        while let Some(at) = finder.find(rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(b"***");
            rest = &rest[at + secret.len()..];
        }
        out.extend_from_slice(rest);
        out
    })
}

/// What a person needs to hear of a command that did not succeed.
fn explain(job: &Job, command: &Command, outcome: &exec::Outcome, log: &[u8]) -> StepError {
    let seconds = outcome.wall.as_secs_f64();
    let text = match &outcome.end {
        End::Exit(0) | End::Expected => {
            format!("it ended after {seconds:.1} s without printing {}", quoted(&outcome.missing))
        }
        End::Exit(code) => format!("it exited with code {code} after {seconds:.1} s"),
        End::Signal(9) if command.memory.is_some() => "it was killed (memory limit?)".into(),
        End::Signal(signal) => format!("it was killed by signal {signal}"),
        End::TimedOut if !outcome.missing.is_empty() => format!(
            "its time limit of {seconds:.0} s passed without {} in its output",
            quoted(&outcome.missing)
        ),
        End::TimedOut => format!("its time limit passed; it was stopped after {seconds:.0} s"),
        End::Cancelled => "it was interrupted".into(),
        End::Forbidden(line) => format!("its output has a forbidden line: {line}"),
    };
    let mut error = StepError::new(text);
    if outcome.end == End::Exit(127) {
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        if let Some(hint) = crate::tools::explain_127(&tail) {
            error = error.help(hint);
        }
    }
    if command.executor == ExecutorKind::Sandbox && outcome.end != End::Cancelled {
        error = error.help(format!("`mosbuild shell {}` opens a shell where it ran", job.target()));
    }
    error
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ")
}

/// A prepared sandbox for `mosbuild shell`: the job is interactive and runs `sh`.
pub struct ShellStep {
    /// To be run by [`exec::Sandbox`].
    pub job: exec::Job,
    /// Keeps the materialised inputs until the shell ends.
    pub scratch: Scratch,
}

/// Lays out a command step for a person.
pub fn prepare_shell(
    node: &StepNode,
    command: &Command,
    inputs: &[Resolved],
    prepared: &super::Prepared,
    store: &Store,
) -> Result<ShellStep, StepError> {
    let mut scratch = store.scratch("shell")?;
    let mut layout = lay_out(node, command, inputs, prepared, store, &mut scratch)?;
    layout.job.interactive = true;
    layout.job.limits = Limits::default();
    layout.job.console = None;
    layout.job.argv = vec!["sh".into()];
    for name in ["TERM", "COLORTERM"] {
        if let Some(value) = std::env::var_os(name) {
            layout.job.env.push((name.into(), value));
        }
    }
    Ok(ShellStep { job: layout.job, scratch })
}

fn lay_out(
    node: &StepNode,
    command: &Command,
    inputs: &[Resolved],
    prepared: &super::Prepared,
    store: &Store,
    scratch: &mut Scratch,
) -> Result<Layout, StepError> {
    let host = command.executor == ExecutorKind::Host;
    let rooted = node.step.is_rooted();
    let (mut root, mut owners, mut roots) = (None, Vec::new(), Vec::new());
    let base = &scratch.path().to_owned();
    let (work, out) = (base.join("work"), base.join("out"));
    scratch.dir(&work)?;
    scratch.dir(&out)?;
    let mut mounts = Vec::new();
    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    let mut writable = Vec::new();
    if !host && !rooted {
        mounts.push(Mount::writable(&work, WORK_DIR));
        mounts.push(Mount::writable(&out, OUT_DIR));
    }
    for (at, (input, resolved)) in node.step.inputs.iter().zip(inputs).enumerate() {
        let aside = base.join(format!("in{at}"));
        match &input.place {
            Place::Unplaced => {}
            Place::Work => lay_work(store, scratch, resolved, &work)?,
            Place::ReadOnly(path) if host => {
                let copied = copy_of(store, scratch, resolved, &aside)?;
                if path.starts_with(DEPS_DIR) {
                    env.insert(input.name.clone().into(), copied.into());
                }
            }
            Place::ReadOnly(path) => {
                mounts.push(Mount::read_only(stored(store, resolved)?, path));
                if path.starts_with(DEPS_DIR) {
                    env.insert(input.name.clone().into(), path.into());
                }
            }
            Place::Root => {
                let tree = tree_of(store, resolved)?;
                owners = rooted::lay_out(store, &tree, &aside)?;
                root = Some(aside.clone());
                roots.push(("/".to_owned(), aside, tree));
            }
            Place::Writable(path) if rooted => {
                let tree = tree_of(store, resolved)?;
                lay_copy(store, &tree, &aside)?;
                mounts.push(Mount::writable(&aside, path));
                roots.push((path.clone(), aside, tree));
            }
            Place::Writable(path) => {
                let tree = tree_of(store, resolved)?;
                if tree.is_empty() {
                    scratch.dir(&aside)?;
                    mounts.push(Mount::writable(&aside, path));
                    writable.push((path.clone(), aside));
                } else if exec::overlay_works(base) {
                    let (upper, inner) = (base.join(format!("up{at}")), base.join(format!("wk{at}")));
                    scratch.dir(&upper)?;
                    scratch.dir(&inner)?;
                    let lower = vec![stored(store, resolved)?];
                    mounts.push(Mount::Overlay { lower, upper, work: inner, at: path.into() });
                } else {
                    lay_copy(store, &tree, &aside)?;
                    mounts.push(Mount::writable(&aside, path));
                }
            }
        }
    }
    scratch.settle()?;
    let cwd = match (host, command.cwd.is_empty()) {
        (true, true) => work.clone(),
        (true, false) => work.join(&command.cwd),
        (false, true) => WORK_DIR.into(),
        (false, false) => command.cwd.clone().into(),
    };
    // On the host the step's scratch itself serves: a folder less to make.
    let home = match (host, rooted) {
        (true, _) => base.to_owned(),
        (false, true) => PathBuf::from("/root"),
        (false, false) => PathBuf::from("/build/home"),
    };
    if !host && !rooted {
        mounts.push(Mount::Tmpfs { at: home.clone(), size: 1 << 30 });
    }
    let path = if host {
        std::env::var_os("PATH").unwrap_or_default()
    } else if rooted {
        OsString::from("/usr/sbin:/usr/bin:/sbin:/bin")
    } else {
        let visible = prepared.host.layout(&command.tools)?;
        mounts.splice(0..0, visible.mounts);
        env.extend(visible.env);
        visible.path.into()
    };
    let outside = if host { out.clone() } else { PathBuf::from(OUT_DIR) };
    for (name, value) in [
        ("PATH", path),
        ("HOME", home.into()),
        ("OUT", outside.into()),
        ("LC_ALL", "C.UTF-8".into()),
        ("TZ", "UTC".into()),
        ("SOURCE_DATE_EPOCH", prepared.loaded.epoch.to_string().into()),
    ] {
        env.insert(name.into(), value);
    }
    if rooted {
        env.remove(OsStr::new("OUT"));
    }
    for (name, value) in &command.env {
        let value = match value {
            EnvVar::Value(text) => Some(text.into()),
            EnvVar::Host { name, .. } => std::env::var_os(name),
        };
        if let Some(value) = value {
            env.insert(name.into(), value);
        }
    }
    if command.jobserver {
        let auth = format!(" -j --jobserver-auth={JOBSERVER_READ},{JOBSERVER_WRITE}");
        env.insert("MAKEFLAGS".into(), auth.clone().into());
        env.insert("CARGO_MAKEFLAGS".into(), auth.into());
    }
    let mut argv: Vec<OsString> = Vec::new();
    if let Some(script) = &command.script {
        argv.extend(["sh".into(), "-eu".into(), "-c".into(), script.into(), "run".into()]);
    }
    argv.extend(command.argv.iter().map(OsString::from));
    let job = exec::Job {
        argv,
        env: env.into_iter().collect(),
        cwd,
        root,
        owners,
        mounts,
        limits: Limits { time: command.timeout, memory: command.memory },
        log: base.join("log"),
        jobserver: command.jobserver.then(|| prepared.pool.fds()),
        console: command
            .console
            .as_ref()
            .map(|c| exec::Console { expect: c.expect.clone(), forbid: c.forbid.clone() }),
        interactive: false,
        extra_devices: command.devices.iter().filter(|d| d.exists()).cloned().collect(),
    };
    Ok(Layout { job, out, writable, roots })
}

/// Lays an input into the working directory: private copies, so that the step sees a snapshot and may write
/// beside (or over) them without touching the workspace or the store.
fn lay_work(store: &Store, scratch: &mut Scratch, resolved: &Resolved, work: &Path) -> Result<(), StepError> {
    match resolved {
        Resolved::Source(source) => match &**source {
            Source::File { path, digest, executable, .. } => {
                let name = path.file_name().unwrap_or_default();
                place_source(scratch, path, &work.join(name), *digest, *executable)
            }
            Source::Tree { root, tree, .. } => {
                for entry in tree.iter() {
                    let to = work.join(entry.path.as_path());
                    match &entry.node {
                        Node::Dir => scratch.dir(&to)?,
                        Node::File { digest, .. } => {
                            let from = root.join(entry.path.as_path());
                            place_source(scratch, &from, &to, *digest, entry.mode & 0o100 != 0)?;
                        }
                        Node::Symlink { target } => {
                            use std::os::unix::ffi::OsStrExt;
                            scratch.symlink(OsStr::from_bytes(target), &to)?;
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
        },
        Resolved::Made(output) => match output.kind {
            OutputKind::Tree => lay_copy(store, &store.get_tree(&output.digest)?, work),
            OutputKind::File { executable } => {
                Ok(scratch.place_blob(&output.digest, executable, &work.join("input"))?)
            }
        },
    }
}

fn place_source(
    scratch: &mut Scratch,
    from: &Path,
    to: &Path,
    digest: mosbuild_cache::Digest,
    executable: bool,
) -> Result<(), StepError> {
    match scratch.place_source(from, to, digest, executable)? {
        Placing::Placed => Ok(()),
        Placing::Changed => Err(inputs::changed(from)),
    }
}

fn lay_copy(store: &Store, tree: &Tree, to: &Path) -> Result<(), StepError> {
    Ok(store.materialise(tree, to, Materialise::Private)?)
}

/// The tree of a tree input, its blobs in the store.
fn tree_of(store: &Store, resolved: &Resolved) -> Result<Tree, StepError> {
    match resolved {
        Resolved::Made(output) => Ok(store.get_tree(&output.digest)?),
        Resolved::Source(source) => match &**source {
            Source::Tree { root, tree, .. } => {
                inputs::ingest_tree(store, root, tree)?;
                Ok((**tree).clone())
            }
            Source::File { path, .. } => Err(StepError::new(format!("{} is not a folder", path.display()))),
        },
    }
}

/// A path in the store that holds the input, to be mounted read-only.
fn stored(store: &Store, resolved: &Resolved) -> Result<PathBuf, StepError> {
    match resolved {
        Resolved::Made(output) => match output.kind {
            OutputKind::File { executable } => Ok(store.blob_path_as(&output.digest, executable)?),
            OutputKind::Tree => Ok(store.unpacked(&output.digest)?),
        },
        Resolved::Source(source) => match &**source {
            Source::File { path, digest, executable, .. } => {
                inputs::ingest_file(store, path, *digest)?;
                Ok(store.blob_path_as(digest, *executable)?)
            }
            Source::Tree { root, tree, digest } => {
                inputs::ingest_tree(store, root, tree)?;
                store.put_tree(tree)?;
                Ok(store.unpacked(digest)?)
            }
        },
    }
}

/// A private copy of an input, for the host executor: what it writes there reaches nobody.
fn copy_of(
    store: &Store,
    scratch: &mut Scratch,
    resolved: &Resolved,
    to: &Path,
) -> Result<PathBuf, StepError> {
    match resolved {
        Resolved::Made(Output { kind: OutputKind::File { executable }, digest, .. }) => {
            scratch.place_blob(digest, *executable, to)?;
        }
        Resolved::Source(source) if matches!(**source, Source::File { .. }) => {
            if let Source::File { path, digest, executable, .. } = &**source {
                place_source(scratch, path, to, *digest, *executable)?;
            }
        }
        _ => lay_copy(store, &tree_of(store, resolved)?, to)?,
    }
    Ok(to.to_owned())
}

type Captured = (BTreeMap<String, Output>, BTreeMap<String, String>);

fn capture(
    job: &Job,
    command: &Command,
    layout: &Layout,
    owners: &Owners,
    log: &[u8],
) -> Result<Captured, StepError> {
    let mut facts = BTreeMap::new();
    for (name, path) in &command.facts {
        let text = std::fs::read_to_string(layout.out.join(path))
            .map_err(|e| StepError::new(format!("fact {name}, read from $OUT/{path}: {e}")))?;
        facts.insert(name.clone(), text.trim().to_owned());
    }
    let mut outputs = BTreeMap::new();
    for output in &command.outputs {
        let made = match output.path.as_str() {
            "<log>" => {
                let digest = job.store.put_bytes(log)?;
                let kind = OutputKind::File { executable: false };
                Output { kind, digest, size: log.len() as u64 }
            }
            path => match layout.roots.iter().find(|(at, ..)| at == path) {
                Some((_, dir, base)) => {
                    let tree = rooted::capture(&job.store, dir, owners, base)?;
                    let digest = job.store.put_tree(&tree)?;
                    Output { kind: OutputKind::Tree, digest, size: tree.file_bytes() }
                }
                None => capture_one(job, command, output, layout)?,
            },
        };
        outputs.insert(output.name.clone(), made);
    }
    Ok((outputs, facts))
}

fn capture_one(
    job: &Job,
    command: &Command,
    output: &CommandOutput,
    layout: &Layout,
) -> Result<Output, StepError> {
    let at = host_path(output, layout);
    let shown = match output.path.starts_with('/') {
        true => output.path.clone(),
        false => format!("$OUT/{}", output.path),
    };
    let meta = match std::fs::symlink_metadata(&at) {
        Ok(meta) => meta,
        Err(_) => return Err(absent(output, &shown, &layout.out)),
    };
    match output.kind {
        OutKind::File if meta.is_file() => {
            use std::os::unix::fs::PermissionsExt;
            let executable = meta.permissions().mode() & 0o100 != 0;
            // A tree may hold files that are outputs themselves; then they are not moved away.
            let how = match command.outputs.iter().all(|o| o.kind == OutKind::File) {
                true => Ingest::Move { executable },
                false => Ingest::Link { executable },
            };
            let (digest, size) = job.store.put_file(&at, how)?;
            Ok(Output { kind: OutputKind::File { executable }, digest, size })
        }
        OutKind::Tree if meta.is_dir() => {
            let tree = job.store.capture_dir(&at, CaptureOptions::outputs())?;
            let size = tree.file_bytes();
            let digest = job.store.put_tree(&tree)?;
            Ok(Output { kind: OutputKind::Tree, digest, size })
        }
        OutKind::File => {
            Err(StepError::new(format!("{shown} is declared as a file, but is {}", kind_of(&meta)))
                .help("declare it with a trailing / if it is a tree"))
        }
        OutKind::Tree => {
            Err(StepError::new(format!("{shown} is declared as a tree, but is {}", kind_of(&meta)))
                .help("declare it without the trailing / if it is a file"))
        }
    }
}

fn host_path(output: &CommandOutput, layout: &Layout) -> PathBuf {
    for (inside, outside) in &layout.writable {
        if let Ok(rest) = Path::new(&output.path).strip_prefix(inside) {
            return if rest.as_os_str().is_empty() { outside.clone() } else { outside.join(rest) };
        }
    }
    match output.path.trim_end_matches('/') {
        "" => layout.out.clone(),
        path => layout.out.join(path),
    }
}

fn kind_of(meta: &std::fs::Metadata) -> &'static str {
    match meta {
        m if m.is_file() => "a file",
        m if m.is_dir() => "a folder",
        m if m.is_symlink() => "a symlink",
        _ => "neither a file nor a folder",
    }
}

fn absent(output: &CommandOutput, shown: &str, out: &Path) -> StepError {
    let error =
        StepError::new(format!("it succeeded, but did not make its output {} ({shown})", output.name));
    let mut names: Vec<String> = std::fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.is_empty() {
        true => error.help("$OUT is empty; write outputs to \"$OUT\"/NAME"),
        false => error.help(format!("$OUT holds: {}", names.join(", "))),
    }
}
