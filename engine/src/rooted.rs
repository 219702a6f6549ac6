//! Trees as roots: laid out for a command that runs in one, asked a question in one, captured again with their owners.
//! Knows trees and the sandbox; knows no distribution and no package manager.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mosbuild_cache::{CaptureOptions, Entry, Materialise, Node, Store, Tree};

use crate::action::{BuiltinCx, StepError};
use crate::exec::{self, End, Executor, Limits, Mount, Owners};

/// Longest time that a question may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// A command to be run in a tree, whose output is the answer; what it changes in the tree is lost.
pub struct Question<'a> {
    /// The root.
    pub tree: &'a Tree,
    /// Files and folders of the host, read-only at these places below `/dev`.
    pub binds: Vec<(PathBuf, String)>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
}

/// What came of it.
pub struct Answer {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed, on stdout and stderr.
    pub output: String,
}

/// Runs a command in a copy of a tree.
pub fn ask(cx: &BuiltinCx<'_>, question: &Question<'_>) -> Result<Answer, StepError> {
    let mut at = 0;
    let (root, log) = loop {
        let root = cx.scratch.join(format!("root{at}"));
        if !root.exists() {
            break (root, cx.scratch.join(format!("answer{at}")));
        }
        at += 1;
    };
    let owners = lay_out(cx.store, question.tree, &root)?;
    let text = |s: &String| OsString::from(s);
    let job = exec::Job {
        argv: question.argv.iter().map(text).collect(),
        env: question.env.iter().map(|(k, v)| (text(k), text(v))).collect(),
        cwd: "/".into(),
        mounts: question.binds.iter().map(|(from, at)| Mount::read_only(from, at)).collect(),
        limits: Limits { time: Some(PATIENCE), memory: None },
        log: log.clone(),
        root: Some(root),
        owners,
        ..exec::Job::default()
    };
    let outcome = exec::Sandbox.run(&job, &()).map_err(|e| StepError::new(e.to_string()).exit(e.exit()))?;
    let output = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    match outcome.end {
        End::Exit(code) => Ok(Answer { code: Some(code), output }),
        End::TimedOut => Err(StepError::new(format!("{} did not end in time", question.argv.join(" ")))),
        _ => Ok(Answer { code: None, output }),
    }
}

/// Lays a tree out to be a root; the owners that it has beside 0:0, which no file on disk can have.
pub(crate) fn lay_out(store: &Store, tree: &Tree, to: &Path) -> Result<Vec<(PathBuf, u32, u32)>, StepError> {
    store.materialise(tree, to, Materialise::Private)?;
    let foreign = tree.iter().filter(|e| (e.uid, e.gid) != (0, 0) && is_on_disk(e));
    Ok(foreign.map(|e| (e.path.as_path().to_owned(), e.uid, e.gid)).collect())
}

/// -1, which chown takes as `leave it`.
const NOT_SAID: u32 = u32::MAX;

fn is_on_disk(entry: &Entry) -> bool {
    matches!(entry.node, Node::Dir | Node::File { .. } | Node::Symlink { .. })
}

/// The tree of what a command left in a root that was laid out from `base`. Device nodes of `base` never were on disk:
/// they are kept. A file that the command wrote anew (`sed -i` does so) without naming an owner keeps the one before: the
/// command saw 0:0 by its path, and could not give it back.
pub(crate) fn capture(store: &Store, dir: &Path, owners: &Owners, base: &Tree) -> Result<Tree, StepError> {
    // No user has the number that stands for a file whose owner the command never named.
    let owner = |meta: &Metadata| Some(owners.of(meta).unwrap_or((NOT_SAID, NOT_SAID)));
    let captured = store.capture_root(dir, CaptureOptions::outputs(), &owner)?;
    let mut entries = captured.into_entries();
    for entry in entries.iter_mut().filter(|e| e.uid == NOT_SAID) {
        (entry.uid, entry.gid) = (0, 0);
        if let Some(before) = base.get(&entry.path)
            && std::mem::discriminant(&before.node) == std::mem::discriminant(&entry.node)
        {
            (entry.uid, entry.gid) = (before.uid, before.gid);
        }
    }
    let there: HashSet<_> = entries.iter().map(|e| e.path.clone()).collect();
    entries.extend(base.iter().filter(|e| !is_on_disk(e) && !there.contains(&e.path)).cloned());
    Tree::with_parents(entries).map_err(|e| StepError::new(e.to_string()))
}
