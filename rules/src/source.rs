//! Where something comes from, as written in a `source` field or a `from`: a published crate, or a path.
//! Knows what is wrong with one and the input that it stands for; how a crate is fetched is in component/fetch.rs.

use mosbuild_engine::action::Input;
use mosbuild_engine::load::{FieldPath, FileKind, FileUse};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::PlanError;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::fetch;

/// `{crate, version}` or `{path}`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Source {
    /// A published crate.
    Crate(CrateSource),
    /// A file or folder.
    Path(PathSource),
}

/// `{crate, version}`: a published crate, pinned in mosbuild.lock.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CrateSource {
    /// Its name.
    #[serde(rename = "crate")]
    pub name: String,
    /// Its version: a whole one is meant exactly, a part is a requirement as in Cargo.toml.
    pub version: String,
}

/// `{path}`: a file or folder of the workspace, or an absolute path. Never locked, always hashed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PathSource {
    /// Relative paths stay inside of the workspace; absolute ones may lie anywhere.
    pub path: String,
}

impl Source {
    /// The field that is wrong, and how.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        let Source::Crate(CrateSource { name, version }) = self else { return None };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Some(("crate", format!("{name:?} is no name of a crate")));
        }
        version.trim().is_empty().then(|| ("version", "a crate needs its version".into()))
    }

    /// A path as the loader checks it; `field` is that of the source.
    pub fn file_use(&self, mut field: FieldPath, kind: FileKind) -> Option<FileUse> {
        let Source::Path(source) = self else { return None };
        field.push("path".into());
        Some(source.file_use(field, kind))
    }

    /// As a step reads it, and a crate's version; a crate is fetched by a step that is added here.
    pub fn plan(&self, planner: &mut Planner<'_>) -> Result<(Input, Option<String>), PlanError> {
        match self {
            Source::Crate(source) => {
                fetch::plan(planner, source).map(|(input, version)| (input, Some(version)))
            }
            Source::Path(source) => Ok((source.input(), None)),
        }
    }
}

impl PathSource {
    /// As the step reads it.
    pub fn input(&self) -> Input {
        match self.path.starts_with('/') {
            true => Input::External(self.path.clone().into()),
            false => Input::Path(self.path.clone()),
        }
    }

    /// As the loader checks it; `field` is that of `path`.
    pub fn file_use(&self, field: FieldPath, kind: FileKind) -> FileUse {
        FileUse { field, pattern: self.path.clone(), kind, absolute_ok: true }
    }
}
