//! Working copies in place of sources (`--override`), as a build tells of them, and why `--locked` refuses them.
//! Knows git as far as asking a checkout how it stands; changes nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use super::BuildError;
use super::driver::{Driver, State};
use crate::load::{Loaded, Override};
use crate::plan::StepIx;

/// Working copies of targets that are built.
pub fn within(loaded: &Loaded, closure: &[u32]) -> Vec<Override> {
    loaded.overrides().filter(|(target, _)| closure.contains(target)).map(|(_, o)| o.clone()).collect()
}

/// Working copies of targets that nothing needs that is built.
pub fn outside(loaded: &Loaded, closure: &[u32]) -> Vec<Override> {
    loaded.overrides().filter(|(target, _)| !closure.contains(target)).map(|(_, o)| o.clone()).collect()
}

/// What a build with working copies says before it starts: one line of those that count, one of each that does not.
pub fn warnings(within: &[Override], outside: &[Override]) -> Vec<String> {
    let from = |o: &Override| format!("{} from {}", o.target, o.given);
    let all: Vec<String> = within.iter().map(from).collect();
    let mut warnings = Vec::new();
    if !all.is_empty() {
        warnings
            .push(format!("--override: {}; not what mosbuild.yaml and mosbuild.lock name", all.join(", ")));
    }
    warnings.extend(
        outside
            .iter()
            .map(|o| format!("--override {} has no effect: nothing that is built needs it", o.target)),
    );
    warnings
}

impl Driver<'_> {
    /// Whether a step reads a working copy, or what was made of one.
    pub(super) fn is_local(&self, ix: StepIx) -> bool {
        let node = &self.prepared.graph.steps[ix as usize];
        let local = |need: &StepIx| matches!(&self.states[*need as usize], State::Done(r, _) if r.local);
        node.overridden || node.needs.iter().any(local)
    }
}

/// A locked build is what the lock names, and nothing else.
pub(super) fn refuse_locked(loaded: &Loaded, locked: bool) -> Result<(), BuildError> {
    let mut errors = Vec::new();
    for (_, Override { target, given, path }) in loaded.overrides().filter(|_| locked) {
        let mut help = Vec::new();
        match checkout(path) {
            Some(Checkout { head, changed: 0 }) => help.push(format!(
                "{given} is a git checkout at {head} without changes: name that commit in `source`, and run `mosbuild lock`"
            )),
            Some(Checkout { head, changed }) => help.push(format!(
                "{given} is a git checkout at {head} with {changed} file{} changed: commit them, name the commit in \
                 `source`, and run `mosbuild lock`",
                if changed == 1 { "" } else { "s" }
            )),
            None => help.push(format!("{given} is no git checkout: nothing can be said of its state")),
        }
        help.push("or build without --locked, or without --override".into());
        errors.push((format!("{target} is overridden by {given}, which --locked does not allow"), help));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(BuildError { exit: 2, errors, diagnostics: None }),
    }
}

/// How a checkout stands.
struct Checkout {
    /// Its commit, short.
    head: String,
    /// Files below the folder that differ from it.
    changed: usize,
}

/// Asks git; none if the folder is no checkout, or git is not there.
fn checkout(path: &Path) -> Option<Checkout> {
    let git = |args: &[&str]| {
        // A checkout's own configuration may name programs to be run.
        let output = Command::new("git")
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-C"])
            .arg(path)
            .args(args)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("LC_ALL", "C")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then_some(output.stdout)
    };
    let head = git(&["rev-parse", "--short=7", "HEAD"])?;
    let status = git(&["status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", "."])?;
    Some(Checkout {
        head: String::from_utf8_lossy(&head).trim().to_owned(),
        changed: status.split(|b| *b == 0).filter(|entry| !entry.is_empty()).count(),
    })
}
