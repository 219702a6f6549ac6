//! The checked graph of targets as the rest of the engine sees it, and the files that its targets read.
//! Knows nothing of how it was declared; asks the file again only to show where an error is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::LoadOptions;
use super::diag::{Diagnostic, Diagnostics};
use super::facts::{FileUse, OutputDecl};
use super::files::{Expanded, Expander};
use super::model::{FieldPath, Mirror};
use super::names::Hinter;
use super::source::Source;

/// A reference, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedRef {
    /// The field that it stands in.
    pub field: FieldPath,
    /// The target.
    pub target: u32,
    /// The output; none where the target as such is named.
    pub output: Option<String>,
}

/// What goes to `dist/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistEntry {
    /// Path below `dist/`, with `{target.fact}` still in it.
    pub path: String,
    /// The target.
    pub target: u32,
    /// Its output.
    pub output: String,
}

/// A target's fields as JSON; kept as text and parsed when they are first looked at.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Fields {
    text: String,
    #[serde(skip)]
    value: OnceLock<Json>,
}

impl Fields {
    pub(super) fn new(value: Json) -> Self {
        Fields { text: value.to_string(), value: OnceLock::from(value) }
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl std::ops::Deref for Fields {
    type Target = Json;

    fn deref(&self) -> &Json {
        // The text was written from a value; what a checksum has passed parses again.
        self.value.get_or_init(|| serde_json::from_str(&self.text).unwrap_or_default())
    }
}

/// A target, checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadedTarget {
    /// Its name.
    pub name: String,
    /// Its rule.
    pub rule: String,
    /// Its fields without `rule`, variables replaced, typed as the rule wants them.
    pub value: Fields,
    /// Line of its name in the file, from 1.
    pub line: u32,
    /// What it refers to.
    pub references: Vec<ResolvedRef>,
    /// What it makes; the default first.
    pub outputs: Vec<OutputDecl>,
    /// What it reads of the workspace.
    pub files: Vec<FileUse>,
}

/// The checked file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Loaded {
    /// The workspace.
    #[serde(skip)]
    pub root: PathBuf,
    /// `project`.
    pub project: Option<String>,
    /// `default`; empty if the file names none.
    pub default: Vec<u32>,
    /// All variables with their final text, sorted by name; `arch` and `epoch` are among them.
    pub vars: Vec<(String, String)>,
    /// `epoch`.
    pub epoch: u64,
    /// `arch`.
    pub arch: String,
    /// `mirrors`.
    pub mirrors: Vec<Mirror>,
    /// Targets in the order of the file.
    pub targets: Vec<LoadedTarget>,
    /// `dist`.
    pub dist: Vec<DistEntry>,
    /// All targets, each behind what it needs.
    pub order: Vec<u32>,
    #[serde(skip)]
    pub(super) index: OnceLock<HashMap<String, u32>>,
}

impl Loaded {
    /// The target of that name.
    pub fn target_index(&self, name: &str) -> Option<u32> {
        let index = self.index.get_or_init(|| {
            self.targets.iter().enumerate().map(|(i, target)| (target.name.clone(), i as u32)).collect()
        });
        index.get(name).copied()
    }

    /// The target nearest to a name that does not exist.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        Hinter::default().nearest(name, self.targets.iter().map(|target| target.name.as_str()))
    }

    /// The files that the given targets read, for each target one list per entry of `files`. What matches
    /// nothing or leaves the workspace is an error, shown in the file as `options` loaded it.
    pub fn expand(&self, targets: &[u32], options: &LoadOptions) -> Result<Vec<Vec<Expanded>>, Diagnostics> {
        let expander = Expander::new(&self.root);
        let of =
            |target: &u32| self.targets.get(*target as usize).map(|t| t.files.as_slice()).unwrap_or_default();
        let uses: Vec<&FileUse> = targets.iter().flat_map(of).collect();
        let mut found = expander.expand_all(&uses).into_iter();
        let mut all = Vec::with_capacity(targets.len());
        let mut wrong = Vec::new();
        for target in targets {
            let mut lists = Vec::new();
            for used in of(target) {
                match found.next() {
                    Some(Ok(expanded)) => lists.push(expanded),
                    Some(Err(problem)) => wrong.push((*target, used, problem)),
                    None => {}
                }
            }
            all.push(lists);
        }
        if wrong.is_empty() {
            return Ok(all);
        }
        let places = Source::open(options);
        let problems = wrong.into_iter().map(|(target, used, problem)| {
            let name = self.targets.get(target as usize).map(|t| t.name.as_str()).unwrap_or_default();
            Diagnostic { span: places.span(name, &used.field), ..problem }
        });
        Err(Diagnostics::new(options.shown(), places.text.clone(), problems.collect()))
    }
}
