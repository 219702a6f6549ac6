//! Which files of an image something is done to: all, none, those of some globs, or all but some.

use mosbuild_cache::TreePath;
use mosbuild_engine::action::{BuiltinCx, StepError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::globs::Globs;
use super::lines;
use crate::one_or_many::OneOrMany;

/// All, none, or some.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Which {
    /// All, or none.
    All(bool),
    /// Those that one of these globs covers.
    Only(OneOrMany),
    /// All but some.
    But(But),
}

/// All but some.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct But {
    /// Globs.
    exclude: OneOrMany,
}

impl Default for Which {
    fn default() -> Which {
        Which::All(false)
    }
}

impl Which {
    /// Whether anything is asked for.
    pub fn asks(&self) -> bool {
        match self {
            Which::All(all) => *all,
            Which::Only(globs) => !globs.is_empty(),
            Which::But(_) => true,
        }
    }

    /// The globs as written, and whether they stand below `exclude`.
    pub fn globs(&self) -> (&[String], bool) {
        match self {
            Which::All(_) => (&[], false),
            Which::Only(globs) => (globs.all(), false),
            Which::But(but) => (but.exclude.all(), true),
        }
    }

    /// The params `only` and `exclude` of a step.
    pub fn params(&self) -> [(&'static str, String); 2] {
        let (globs, exclude) = self.globs();
        let text = globs.join("\n");
        match exclude {
            true => [("only", String::new()), ("exclude", text)],
            false => [("only", text), ("exclude", String::new())],
        }
    }
}

/// Compiled from a step's params.
pub struct Chosen {
    only: Option<Globs>,
    exclude: Globs,
}

impl Chosen {
    /// From the params `only` and `exclude`.
    pub fn of(cx: &BuiltinCx<'_>) -> Result<Chosen, StepError> {
        let compile = |name| Globs::new(&lines(cx.param(name))).map_err(|(_, e)| StepError::new(e));
        let only = (!cx.param("only").is_empty()).then(|| compile("only")).transpose()?;
        Ok(Chosen { only, exclude: compile("exclude")? })
    }

    /// Whether a file is meant.
    pub fn has(&self, path: &TreePath) -> bool {
        self.only.as_ref().is_none_or(|only| only.covers(path)) && !self.exclude.covers(path)
    }
}
