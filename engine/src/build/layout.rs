//! What a command step may see, laid out: inputs in their places, the environment, the root of those that bring one.
//! Runs nothing and captures nothing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use mosbuild_cache::{Materialise, Node, Output, OutputKind, Place as Placing, Scratch, Store, Tree};

use super::Resolved;
use crate::action::{Command, DEPS_DIR, EnvVar, ExecutorKind, OUT_DIR, Place, StepError, WORK_DIR};
use crate::exec::{self, JOBSERVER_READ, JOBSERVER_WRITE, Limits, Mount};
use crate::inputs::{self, Source};
use crate::plan::StepNode;
use crate::rooted;

/// A step laid out on disk, ready to run.
pub(super) struct Layout {
    pub job: exec::Job,
    /// Host directory behind `$OUT`.
    pub out: PathBuf,
    /// Host directories behind writable inputs that were empty, by sandbox path: outputs may lie there.
    pub writable: Vec<(String, PathBuf)>,
    /// Of a command in a root of its own, that root and writable inputs: sandbox path, host directory, what was laid
    /// out there.
    pub roots: Vec<(String, PathBuf, Tree)>,
}

/// A prepared sandbox for `mosbuild shell`: the job is interactive and runs `sh`.
pub struct ShellStep {
    /// To be run by the command's executor.
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

pub(super) fn lay_out(
    node: &StepNode,
    command: &Command,
    inputs: &[Resolved],
    prepared: &super::Prepared,
    store: &Store,
    scratch: &mut Scratch,
) -> Result<Layout, StepError> {
    let host = command.executor == ExecutorKind::Host;
    let contained = command.executor == ExecutorKind::Container;
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
                } else if !contained && exec::overlay_works(base) {
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
    } else if contained {
        prepared.container.as_ref().map(|container| container.path().into()).unwrap_or_default()
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
    if command.jobserver && contained {
        // No descriptor can be handed in: it has as many jobs as all steps together may have.
        let slots = prepared.pool.slots();
        env.insert("MAKEFLAGS".into(), format!(" -j{slots}").into());
        env.insert("CARGO_BUILD_JOBS".into(), slots.to_string().into());
    } else if command.jobserver {
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
        jobserver: (command.jobserver && !contained).then(|| prepared.pool.fds()),
        console: command.console.as_ref().map(|c| exec::Console {
            expect: c.expect.clone(),
            forbid: c.forbid.clone(),
            marks: c.marks.clone(),
        }),
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
                for entry in store.layout_order(tree) {
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
