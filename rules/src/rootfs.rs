//! `rootfs`: layers laid over each other, with what is not wanted taken out. Trees in, tree out; nothing is
//! materialised.

use std::collections::BTreeMap;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mosbuild_cache::{Node, Tree, merge};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_or_many::OneOrMany;
use crate::size;
use crate::steps::{builtin, read, tree_output};

/// Layers laid over each other.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// Trees; later ones win.
    layers: OneOrMany,
    /// Paths and globs to take out.
    #[serde(default)]
    remove: OneOrMany,
    /// Sets of files to take out.
    #[serde(default)]
    clean: CleanSets,
    /// A tree whose files are larger is an error.
    max_size: Option<String>,
}

/// One set, or several.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum CleanSets {
    One(Clean),
    Many(Vec<Clean>),
}

/// Files that a running system can do without.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Clean {
    /// What apk keeps of downloads and indexes.
    ApkCache,
    /// The database of installed packages: without it the system's own apk cannot work on it.
    ApkDb,
}

impl Default for CleanSets {
    fn default() -> CleanSets {
        CleanSets::Many(Vec::new())
    }
}

impl CleanSets {
    fn all(&self) -> &[Clean] {
        match self {
            CleanSets::One(set) => std::slice::from_ref(set),
            CleanSets::Many(sets) => sets,
        }
    }
}

impl Clean {
    /// What it takes out.
    fn globs(self) -> &'static [&'static str] {
        match self {
            Clean::ApkCache => &["var/cache/apk/*", "etc/apk/cache"],
            Clean::ApkDb => &["lib/apk", "usr/lib/apk", "etc/apk/world"],
        }
    }
}

/// How many overrides are listed.
const LISTED: usize = 100;

impl Rule for Rootfs {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        if let Err((at, e)) = matcher(self.remove.all()) {
            let help = Some("globs: * ? [a-z] {a,b} and ** across folders".into());
            errors.push(FieldError { field: field!("remove", at), message: e, help });
        }
        if let Some(max) = &self.max_size
            && size::bytes(max).is_none()
        {
            let help = Some("write it as 60MiB".into());
            errors.push(FieldError {
                field: field!("max_size"),
                message: format!("{max:?} is no size"),
                help,
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let layer = |(i, text): (usize, &String)| RefUse {
            field: field!("layers", i),
            text: text.clone(),
            kind: RefKind::Tree,
        };
        Ok(RuleFacts {
            references: self.layers.all().iter().enumerate().map(layer).collect(),
            outputs: vec![OutputDecl { name: "tree".into(), kind: OutKind::Tree, path: None, field: None }],
            facts: vec!["size"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let mut inputs = Vec::new();
        for (at, layer) in self.layers.all().iter().enumerate() {
            // The number keeps the order of layers in the key.
            inputs.push(read(&format!("{at:03} {layer}"), planner.upstream(layer)?));
        }
        let params = [
            ("remove", self.remove.all().join("\n")),
            (
                "clean",
                self.clean.all().iter().flat_map(|c| c.globs()).copied().collect::<Vec<_>>().join("\n"),
            ),
            ("max_size", self.max_size.clone().unwrap_or_default()),
        ];
        let step = planner.step(builtin("merge", Merge, inputs, &params));
        planner.output("tree", step, "tree");
        Ok(())
    }
}

/// What a path must match to be removed: itself or a folder above it. Globs mean the same with and without a
/// leading `/`.
fn matcher(globs: &[String]) -> Result<GlobSet, (usize, String)> {
    let mut set = GlobSetBuilder::new();
    for (at, glob) in globs.iter().enumerate() {
        let text = glob.trim_start_matches('/').trim_end_matches('/');
        let built = GlobBuilder::new(text).literal_separator(true).build();
        set.add(built.map_err(|e| (at, e.to_string()))?);
    }
    set.build().map_err(|e| (0, e.to_string()))
}

struct Merge;

impl Builtin for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let names: Vec<&String> = cx.inputs.keys().collect();
        let trees = names.iter().map(|n| cx.tree(n)).collect::<Result<Vec<_>, _>>()?;
        let shown = |name: &&String| name.split_once(' ').map_or(name.as_str(), |(_, n)| n).to_owned();
        let names: Vec<String> = names.iter().map(shown).collect();
        let layers: Vec<(&str, &Tree)> =
            names.iter().map(String::as_str).zip(trees.iter().map(|t| &**t)).collect();
        let merged = merge(&layers).map_err(|e| StepError::new(e.to_string()))?;
        if !merged.clashes.is_empty() {
            let lines: Vec<String> = merged
                .clashes
                .iter()
                .map(|c| {
                    let ((a, x), (b, y)) = (&c.earlier, &c.later);
                    format!("  /{}: a {x} in {a}, a {y} in {b}", c.path)
                })
                .collect();
            return Err(StepError::new(format!("layers clash:\n{}", lines.join("\n")))
                .help("remove the path from one of the layers, or leave that layer out"));
        }
        let mut notes: Vec<String> = merged
            .overrides
            .iter()
            .take(LISTED)
            .map(|o| format!("/{}: {} replaces the one of {}", o.path, o.later, o.earlier))
            .collect();
        if merged.overrides.len() > LISTED {
            notes.push(format!("and {} more replaced files", merged.overrides.len() - LISTED));
        }
        notes.iter().for_each(|note| (cx.log)(note));
        let globs: Vec<String> =
            cx.param("remove").lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        let remove = matcher(&globs).map_err(|(_, e)| StepError::new(e))?;
        let mut hit = vec![false; globs.len()];
        let clean: Vec<String> = cx.param("clean").lines().map(str::to_owned).collect();
        let clean = matcher(&clean).map_err(|(_, e)| StepError::new(e))?;
        let tree = merged.tree.filter(|entry| {
            if clean.is_match(entry.path.as_path()) {
                return false;
            }
            let matches = remove.matches(entry.path.as_path());
            matches.iter().for_each(|at| hit[*at] = true);
            matches.is_empty()
        });
        for (glob, _) in globs.iter().zip(&hit).filter(|(_, hit)| !**hit) {
            let note = format!("remove: {glob} matches nothing");
            (cx.log)(&note);
            notes.push(note);
        }
        let size = tree.file_bytes();
        if let Some(max) = size::bytes(cx.param("max_size"))
            && size > max
        {
            let message = format!(
                "the tree has {} and max_size is {}; by layer:\n{}\nthe largest files:\n{}",
                size::human(size),
                size::human(max),
                by_layer(&layers),
                largest(&tree, 10)
            );
            return Err(StepError::new(message).help("raise max_size, or remove what is not needed"));
        }
        Ok(Made {
            outputs: [("tree".into(), tree_output(cx.store, &tree)?)].into(),
            facts: [("size".into(), size.to_string())].into(),
            notes,
        })
    }
}

/// The largest files of a tree, one a line.
pub(crate) fn largest(tree: &Tree, count: usize) -> String {
    let mut files: Vec<(u64, String)> = tree
        .iter()
        .filter_map(|e| match e.node {
            Node::File { size, .. } => Some((size, e.path.to_string())),
            _ => None,
        })
        .collect();
    files.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let lines: Vec<String> = files
        .iter()
        .take(count)
        .map(|(size, path)| format!("  {:>10}  /{path}", size::human(*size)))
        .collect();
    lines.join("\n")
}

fn by_layer(layers: &[(&str, &Tree)]) -> String {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, tree) in layers {
        *sizes.entry(name).or_default() += tree.file_bytes();
    }
    let mut sizes: Vec<_> = sizes.into_iter().collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let lines: Vec<String> =
        sizes.iter().map(|(name, size)| format!("  {:>10}  {name}", size::human(*size))).collect();
    lines.join("\n")
}
