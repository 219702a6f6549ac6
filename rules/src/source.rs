//! Where something comes from, as written in a `source` field.
//! Knows paths; what is fetched and locked is the rule's own concern.

use mosbuild_engine::action::Input;
use mosbuild_engine::load::{FieldPath, FileKind, FileUse};
use schemars::JsonSchema;
use serde::Deserialize;

/// `{path}`: a file or folder of the workspace, or an absolute path. Never locked, always hashed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PathSource {
    /// Relative paths stay inside of the workspace; absolute ones may lie anywhere.
    pub path: String,
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
