//! The checked graph of targets as the rest of the engine sees it, and the files that its targets read.
//! Knows nothing of how it was declared; asks the file again only to show where an error is.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::OnceLock;

use mosbuild_cache::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::LoadOptions;
use super::diag::{Diagnostic, Diagnostics};
use super::executors::Execution;
use super::facts::{FileUse, OutputDecl};
use super::files::{Expanded, Expander};
use super::model::{FieldPath, Mirror};
use super::names::nearest;
use super::overrides::Override;
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
    pub output: Option<String>,
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
    pub line: usize,
    /// What it refers to.
    pub references: Vec<ResolvedRef>,
    /// What it makes; the default first.
    pub outputs: Vec<OutputDecl>,
    /// What it reads of the workspace.
    pub files: Vec<FileUse>,
}

/// The checked file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Loaded {
    /// The workspace.
    #[serde(skip)]
    pub root: PathBuf,
    /// Digest of all that the graph is made from: text, profile, `--set`, host, rules.
    pub digest: Digest,
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
    /// `executor` and `container`.
    pub execution: Execution,
    /// Names of `profiles`.
    pub profiles: Vec<String>,
    /// Targets in the order of the file.
    pub targets: Vec<LoadedTarget>,
    /// `dist`.
    pub dist: Vec<DistEntry>,
    /// All targets, each behind what it needs.
    pub order: Vec<u32>,
    /// What the files of targets stand for, by target, one for each of its `files`; filled by [`Loaded::expand`].
    #[serde(skip)]
    pub expanded: BTreeMap<String, Vec<Expanded>>,
    /// Targets whose source is a working copy.
    #[serde(skip)]
    pub(super) overridden: BTreeMap<u32, Override>,
    #[serde(skip)]
    pub(super) options: LoadOptions,
    #[serde(skip)]
    pub(super) index: OnceLock<HashMap<String, u32>>,
}

impl Default for Loaded {
    fn default() -> Self {
        Loaded {
            root: PathBuf::new(),
            digest: Digest([0; 32]),
            project: None,
            default: Vec::new(),
            vars: Vec::new(),
            epoch: 0,
            arch: String::new(),
            mirrors: Vec::new(),
            execution: Execution::default(),
            profiles: Vec::new(),
            targets: Vec::new(),
            dist: Vec::new(),
            order: Vec::new(),
            expanded: BTreeMap::new(),
            overridden: BTreeMap::new(),
            options: LoadOptions::default(),
            index: OnceLock::new(),
        }
    }
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
        nearest(name, self.targets.iter().map(|target| target.name.as_str()))
    }

    /// The file as it is named to the user.
    pub fn file_name(&self) -> String {
        self.options.shown()
    }

    /// How it was loaded.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Finds the files that the given targets read, into [`Loaded::expanded`]. What matches nothing or leaves
    /// the workspace is an error, shown in the text of the file.
    pub fn expand(&mut self, targets: &[u32]) -> Result<(), Diagnostics> {
        let expander = Expander::new(&self.root);
        let targets: Vec<&LoadedTarget> =
            targets.iter().filter_map(|t| self.targets.get(*t as usize)).collect();
        let uses: Vec<&FileUse> = targets.iter().flat_map(|target| &target.files).collect();
        let mut found = expander.expand_all(&uses).into_iter();
        let mut all = BTreeMap::new();
        let mut wrong = Vec::new();
        for target in targets {
            let mut lists = Vec::with_capacity(target.files.len());
            for (used, result) in target.files.iter().zip(&mut found) {
                match result {
                    Ok(expanded) => lists.push(expanded),
                    Err(problem) => wrong.push((target.name.as_str(), used, problem)),
                }
            }
            all.insert(target.name.clone(), lists);
        }
        if wrong.is_empty() {
            self.expanded = all;
            return Ok(());
        }
        let places = Source::open(&self.options);
        let problems = wrong
            .into_iter()
            .map(|(target, used, problem)| Diagnostic { span: places.span(target, &used.field), ..problem });
        Err(Diagnostics::new(self.file_name(), places.text.clone(), problems.collect()))
    }
}
