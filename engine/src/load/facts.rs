//! What the loader asks of the rules: their schemas, and what one target refers to, makes and reads.
//! Knows no rule; whoever does implements `RuleFactory`.

use serde::{Deserialize, Serialize};

use super::model::FieldPath;

/// The fields of a rule.
#[derive(Debug, Clone)]
pub struct RuleSchema {
    /// As in `rule: NAME`.
    pub name: String,
    /// Raised whenever the rule reads the same fields in another way.
    pub version: u32,
    /// JSON schema of the fields, without `rule`; as schemars makes it of a struct that denies unknown fields.
    pub schema: serde_json::Value,
}

/// The rules that there are.
pub trait RuleFactory {
    /// Schemas of all rules.
    fn schemas(&self) -> &[RuleSchema];

    /// What a target with these fields refers to, makes and reads. `value` has passed the rule's schema.
    fn facts(&self, rule: &str, value: &serde_json::Value) -> Result<RuleFacts, Vec<FieldError>>;
}

/// What a target refers to, makes and reads.
#[derive(Debug, Clone, Default)]
pub struct RuleFacts {
    /// References to other targets.
    pub references: Vec<RefUse>,
    /// Outputs, the default first; none for a group.
    pub outputs: Vec<OutputDecl>,
    /// Files of the workspace.
    pub files: Vec<FileUse>,
    /// Names of what a build tells of the target, as `{target.NAME}` in `dist` has it.
    pub facts: Vec<&'static str>,
    /// Texts that are a reference if what is before their `:` names a target, and else a path of the workspace.
    pub either: Vec<FileUse>,
}

impl RuleFacts {
    /// Tells references from paths, once the names of the targets are known.
    pub(super) fn decide(&mut self, is_target: impl Fn(&str) -> bool) {
        for used in std::mem::take(&mut self.either) {
            let name = used.pattern.split(':').next().unwrap_or_default();
            if is_target(name) || used.pattern.contains(':') {
                self.references.push(RefUse { field: used.field, text: used.pattern, kind: RefKind::Output });
            } else {
                self.files.push(used);
            }
        }
    }
}

/// What a reference may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefKind {
    /// An output: `target` (its default output, which it must have) or `target:output`.
    Output,
    /// An output that is a file.
    File,
    /// An output that is a tree.
    Tree,
    /// The target as such: no `:output`.
    Target,
    /// A target of this rule, as such.
    Rule(&'static str),
    /// Either: the target as such, with outputs or without, or one output of it.
    Any,
}

/// A reference to another target.
#[derive(Debug, Clone)]
pub struct RefUse {
    /// The field that it stands in.
    pub field: FieldPath,
    /// As written: `target` or `target:output`.
    pub text: String,
    /// What it may name.
    pub kind: RefKind,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OutputKind {
    /// One file.
    File,
    /// A tree of files.
    Tree,
}

/// An output of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDecl {
    /// As in `target:NAME`.
    pub name: String,
    /// File or tree.
    pub kind: OutputKind,
    /// Its path below `$OUT`, for a step that writes there; checked against the target's other paths.
    pub path: Option<String>,
    /// The field that declares it, if one does.
    pub field: Option<FieldPath>,
}

/// What a path in a field may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A file, a folder or a glob.
    Any,
    /// One file; glob characters are characters.
    File,
    /// One folder, with all below it; glob characters are characters.
    Folder,
    /// One file or folder, with all below it; glob characters are characters.
    Path,
}

/// A path, a folder or a glob in the workspace that a target reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileUse {
    /// The field that it stands in.
    pub field: FieldPath,
    /// As written.
    pub pattern: String,
    /// What it may be.
    pub kind: FileKind,
    /// Whether it may be absolute, as `{path: /absolute}` may.
    pub absolute_ok: bool,
}

/// What a rule finds wrong with a field, beyond its type.
#[derive(Debug, Clone)]
pub struct FieldError {
    /// The field.
    pub field: FieldPath,
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}
