//! Runs a builtin step, or finds its pin: gives it its inputs, checks that it made what it declares.
//! Knows no rule.

use std::collections::BTreeMap;
use std::sync::Mutex;

use mosbuild_cache::{OutputKind, Store};

use super::Resolved;
use super::worker::{Broken, Execution, Job};
use crate::action::{Available, Builtin, BuiltinCx, Locking, OutKind, StepError};
use crate::events::Event;
use crate::inputs::Source;
use crate::lockfile::Pin;
use crate::plan::StepNode;

pub(super) fn run(job: &Job, work: &dyn Builtin, log: &mut Vec<u8>) -> Result<Execution, Broken> {
    let made = with(job, log, |cx| work.run(cx))?;
    for (name, kind) in work.outputs() {
        let fits = made.outputs.get(&name).is_some_and(|o| {
            matches!(
                (o.kind, kind),
                (OutputKind::Tree, OutKind::Tree) | (OutputKind::File { .. }, OutKind::File)
            )
        });
        if !fits {
            let text = format!("{} did not make its output {name}; this is a fault of mosbuild", work.name());
            return Err(StepError::new(text).into());
        }
    }
    Ok(Execution { outputs: made.outputs, facts: made.facts, notes: made.notes, sandboxed: true })
}

/// Finds the pin of the step's source.
pub(super) fn lock(
    job: &Job,
    work: &dyn Builtin,
    locking: &Locking<'_>,
    log: &mut Vec<u8>,
) -> Result<Pin, Broken> {
    let id = job.node().step.pin.as_deref().unwrap_or_default();
    with(job, log, |cx| work.lock(cx, locking)).map_err(|mut broken| {
        if job.prepared.fetcher.offline() && broken.error.exit == 4 {
            let why = &broken.error.message;
            broken.error.message = format!(
                "{id} is not in mosbuild.lock as it is asked for, and cannot be locked offline: {why}"
            );
        }
        broken
    })
}

/// Gives a builtin its inputs, a folder of its own, and ears for what it says.
fn with<T>(
    job: &Job,
    log: &mut Vec<u8>,
    act: impl FnOnce(&BuiltinCx<'_>) -> Result<T, StepError>,
) -> Result<T, Broken> {
    let scratch = job.store.scratch("builtin")?;
    let inputs = by_name(&job.store, job.node(), &job.inputs)?;
    let written = Mutex::new(Vec::new());
    let say = |line: &str| {
        if let Ok(mut log) = written.lock() {
            log.extend_from_slice(line.as_bytes());
            log.push(b'\n');
        }
        job.line(line);
    };
    let cx = BuiltinCx {
        inputs,
        params: &job.node().step.params,
        store: &job.store,
        scratch: scratch.path().to_owned(),
        log: &say,
        warn: &|text| {
            say(text);
            job.sink.event(&Event::Warning { message: format!("{}: {text}", job.target()) });
        },
        cancelled: &|| job.prepared.cancel.is_cancelled(),
        pin: job.pin.as_ref(),
        fetcher: &job.prepared.fetcher,
        progress: &|url, done, total| job.download(url, done, total),
        services: job,
    };
    let made = act(&cx);
    drop(cx);
    *log = written.into_inner().unwrap_or_default();
    made.map_err(|error| Broken { error: Box::new(error), log: log.clone() })
}

/// A step's inputs as a builtin sees them.
pub(super) fn by_name(
    store: &Store,
    node: &StepNode,
    inputs: &[Resolved],
) -> Result<BTreeMap<String, Available>, StepError> {
    let named = node.step.inputs.iter().zip(inputs);
    named.map(|(input, resolved)| Ok((input.name.clone(), available(store, resolved)?))).collect()
}

fn available(store: &Store, resolved: &Resolved) -> Result<Available, StepError> {
    Ok(match resolved {
        Resolved::Source(source) => match &**source {
            Source::File { path, digest, size, executable } => Available::File {
                digest: *digest,
                size: *size,
                executable: *executable,
                path: Some(path.clone()),
            },
            Source::Tree { root, tree, digest } => {
                Available::Tree { tree: tree.clone(), digest: *digest, root: Some(root.clone()) }
            }
        },
        Resolved::Made(output) => match output.kind {
            OutputKind::File { executable } => {
                Available::File { digest: output.digest, size: output.size, executable, path: None }
            }
            OutputKind::Tree => {
                let tree = std::sync::Arc::new(store.get_tree(&output.digest)?);
                Available::Tree { tree, digest: output.digest, root: None }
            }
        },
    })
}
