//! Runs a builtin step: gives it its inputs, checks that it made what it declares.
//! Knows no rule.

use std::sync::Mutex;

use mosbuild_cache::OutputKind;

use super::Resolved;
use super::worker::{Broken, Execution, Job};
use crate::action::{Available, Builtin, BuiltinCx, OutKind, StepError};
use crate::inputs::Source;

pub(super) fn run(job: &Job, work: &dyn Builtin, log: &mut Vec<u8>) -> Result<Execution, Broken> {
    let scratch = job.store.scratch("builtin")?;
    let mut inputs = std::collections::BTreeMap::new();
    for (input, resolved) in job.node().step.inputs.iter().zip(&job.inputs) {
        inputs.insert(input.name.clone(), available(job, resolved)?);
    }
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
        cancelled: &|| job.prepared.cancel.is_cancelled(),
    };
    let made = work.run(&cx);
    drop(cx);
    *log = written.into_inner().unwrap_or_default();
    let made = made.map_err(|error| Broken { error: Box::new(error), log: log.clone() })?;
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

fn available(job: &Job, resolved: &Resolved) -> Result<Available, Broken> {
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
                let tree = std::sync::Arc::new(job.store.get_tree(&output.digest)?);
                Available::Tree { tree, digest: output.digest, root: None }
            }
        },
    })
}
