//! `rootfs`: layers laid over each other, cleaned, stripped, packed, and held within a size. Trees in, tree out; nothing
//! is laid out but the programs that upx packs. Knows the fields and the steps; the work is in the other files.
//!
//! ```text
//! merge ─▶ clean ─▶ strip ─▶ upx ─▶ limit      each only if a field asks for it
//! ```

mod clean;
mod elves;
mod globs;
mod limit;
mod merge;
mod strip;
mod upx;
mod which;

use mosbuild_cache::Tree;
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError, StepInput};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, FieldPath, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_or_many::OneOrMany;
use crate::size;
use crate::steps::{builtin, made, read, tree_output};
use clean::{Clean, Cleaning};
use globs::Globs;
use which::Which;

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 2;

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
    /// Whether programs, libraries and modules lose what only linkers and debuggers read: true, globs of some, or
    /// `{exclude: globs}`.
    #[serde(default)]
    strip: Which,
    /// Whether upx packs programs: true, globs of some, or `{exclude: globs}`. The effect is measured; under xz it is often
    /// a loss.
    #[serde(default)]
    upx: Which,
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

impl Rule for Rootfs {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut check = |mut field: FieldPath, globs: &[String]| {
            if let Err((at, e)) = Globs::new(globs) {
                let help = Some("globs: * ? [a-z] {a,b} and ** across folders".into());
                field.push(at.into());
                errors.push(FieldError { field, message: e, help });
            }
        };
        check(field!("remove"), self.remove.all());
        for (name, which) in [("strip", &self.strip), ("upx", &self.upx)] {
            let (globs, exclude) = which.globs();
            check(if exclude { field!(name, "exclude") } else { field!(name) }, globs);
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
        let merge = planner.step(builtin("merge", merge::Merge, inputs, &[]));
        let mut chain = Chain { planner, last: merge };
        let sets = self.clean.all();
        if !sets.is_empty() || !self.remove.is_empty() {
            let names: Vec<&str> = sets.iter().map(|set| set.name()).collect();
            let params = [("sets", names.join("\n")), ("remove", self.remove.all().join("\n"))];
            chain.then("clean", Cleaning { sets: sets.to_vec() }, &params, None);
        }
        if self.strip.asks() {
            chain.then("strip", strip::Strip, &self.strip.params(), None);
        }
        if self.upx.asks() {
            chain.then("upx", upx::Upx, &self.upx.params(), None);
        }
        if let Some(max) = &self.max_size {
            let layers = read("layers", made(merge, "layers"));
            chain.then("limit", limit::Limit, &[("max_size", max.clone())], Some(layers));
        }
        let last = chain.last;
        planner.output("tree", last, "tree");
        Ok(())
    }
}

/// Steps of which each reads the tree of the one before.
struct Chain<'p, 'a> {
    planner: &'p mut Planner<'a>,
    last: usize,
}

impl Chain<'_, '_> {
    fn then(
        &mut self,
        name: &str,
        work: impl Builtin + 'static,
        params: &[(&str, String)],
        more: Option<StepInput>,
    ) {
        let mut inputs = vec![read("tree", made(self.last, "tree"))];
        inputs.extend(more);
        self.last = self.planner.step(builtin(name, work, inputs, params));
    }
}

/// A tree as the result of a step.
fn finished(cx: &BuiltinCx<'_>, tree: &Tree, notes: Vec<String>) -> Result<Made, StepError> {
    Ok(Made {
        outputs: [("tree".into(), tree_output(cx.store, tree)?)].into(),
        facts: [("size".into(), tree.file_bytes().to_string())].into(),
        notes,
    })
}

/// The lines of a param; none of an empty one.
fn lines(param: &str) -> Vec<String> {
    param.lines().map(str::to_owned).collect()
}

/// `: 45.3 MiB → 30.1 MiB`; nothing if there was nothing.
fn saved(before: u64, after: u64) -> String {
    match before {
        0 => String::new(),
        _ => format!(": {} → {}", size::human(before), size::human(after)),
    }
}
