//! `--override NAME=PATH`: a target's source is a working copy for this once. A checked graph is changed after it was
//! loaded, so that neither the file nor the graph that is kept in binary form knows of it.
//! Knows no rule but that a source is in the field `source`, which may be `{path}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::diag::{Diagnostic, Diagnostics};
use super::loaded::{Fields, Loaded};
use super::names::{nearest, quote};
use super::{LoadOptions, RuleFactory};

/// The field that a working copy takes the place of.
const SOURCE: &str = "source";
/// Fields that are about the declared source: a working copy is taken as it is.
const OF_SOURCE: [&str; 1] = ["patches"];

/// A target whose source is a working copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The target.
    pub target: String,
    /// The folder as it was given.
    pub given: String,
    /// The folder.
    pub path: PathBuf,
}

/// Puts the working copies of the options in place; an unknown target, one without a source, and a path that is no
/// folder are errors.
pub(super) fn apply(
    loaded: &mut Loaded,
    options: &LoadOptions,
    factory: &dyn RuleFactory,
) -> Result<(), Diagnostics> {
    let mut problems = Vec::new();
    // Of two for one target the later one is meant, as with `--set`.
    let last: BTreeMap<&str, &Path> =
        options.overrides.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
    for (name, given) in last {
        if let Err(problem) = one(loaded, name, given, factory) {
            problems.push(problem);
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Diagnostics::new(options.shown(), "", problems)),
    }
}

fn one(loaded: &mut Loaded, name: &str, given: &Path, factory: &dyn RuleFactory) -> Result<(), Diagnostic> {
    let wrong = |what: String| Diagnostic::bare("override", format!("--override: {what}"));
    let Some(index) = loaded.target_index(name) else {
        let problem = wrong(format!("unknown target {}", quote(name)));
        return Err(match loaded.nearest(name) {
            Some(near) => problem.help(format!("did you mean {}?", quote(near))),
            None => problem.help("`mosbuild list` shows the targets"),
        });
    };
    let target = &loaded.targets[index as usize];
    if target.value.get(SOURCE).is_none() {
        let problem = wrong(format!(
            "target {} (rule {}) has no source that a folder could take the place of",
            quote(name),
            target.rule
        ));
        let with = loaded.targets.iter().filter(|t| t.value.get(SOURCE).is_some());
        let names: Vec<&str> = with.map(|t| t.name.as_str()).collect();
        return Err(match names.is_empty() {
            true => problem,
            false => problem.help(format!("targets with one: {}", names.join(", "))),
        });
    }
    let path = folder(given).map_err(|(what, near)| {
        let problem = wrong(format!("{}: {what}", given.display()));
        match near {
            Some(near) => problem.help(format!("did you mean {near}?")),
            None => problem.help("the folder of a working copy is wanted, relative to the current folder"),
        }
    })?;
    let Some(text) = path.to_str() else {
        return Err(wrong(format!("{}: its path is not UTF-8", path.display())));
    };
    let mut value: Json = (*target.value).clone();
    if let Some(fields) = value.as_object_mut() {
        fields.insert(SOURCE.into(), json!({ "path": text }));
        for field in OF_SOURCE {
            fields.remove(field);
        }
    }
    let facts = factory.facts(&target.rule, &value).map_err(|errors| {
        let first = errors.into_iter().next().map(|e| e.message).unwrap_or_default();
        wrong(format!("target {} (rule {}) takes no folder as its source: {first}", quote(name), target.rule))
    })?;
    let made = Override { target: name.to_owned(), given: given.display().to_string(), path };
    let target = &mut loaded.targets[index as usize];
    target.value = Fields::new(value);
    target.files = facts.files;
    loaded.overridden.insert(index, made);
    Ok(())
}

/// The folder, without links and `..`; or what is wrong, and the sibling that may have been meant.
fn folder(given: &Path) -> Result<PathBuf, (String, Option<String>)> {
    match given.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(("it is no folder".into(), None)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(("there is no such folder".into(), sibling(given)))
        }
        Err(e) => Err((e.to_string(), None)),
    }
}

fn sibling(given: &Path) -> Option<String> {
    let name = given.file_name()?.to_str()?;
    let parent = given.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = std::fs::read_dir(parent).ok()?.flatten().filter(|e| e.path().is_dir());
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    let near = nearest(name, names.iter().map(String::as_str))?;
    Some(given.with_file_name(near).display().to_string())
}

impl Loaded {
    /// The working copy that a target is built from.
    pub fn overridden(&self, target: u32) -> Option<&Override> {
        self.overridden.get(&target)
    }

    /// All of them, by target.
    pub fn overrides(&self) -> impl Iterator<Item = (u32, &Override)> {
        self.overridden.iter().map(|(target, o)| (*target, o))
    }
}
