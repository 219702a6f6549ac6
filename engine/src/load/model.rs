//! The file as declared, before variables and rules: its sections with their places, and paths to fields.
//! Knows the top level of mosbuild.yaml; knows no rule.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::check::Subject;
use super::diag::{Diagnostic, Span};
use super::executors;
use super::names::{Hinter, is_target_name, is_var_name, quote};
use super::shape::Schema;
use super::yaml::{Key, Node, Value};

/// The one version of the file's schema.
pub const VERSION: &str = "1";

/// One step on the way to a field.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// The value of a map under a key.
    Key(String),
    /// An item of a list; item 0 of a lone string is the string.
    Index(usize),
    /// The text of a key itself.
    Name(String),
}

/// The way from a target to one of its fields, as `install[2].from`; [`field!`](crate::field) writes one.
pub type FieldPath = Vec<Step>;

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.to_string())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Step::Key(key.clone())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Step::Index(index)
    }
}

/// A [`FieldPath`] of keys and indices: `field!["install", 2, "from"]`.
#[macro_export]
macro_rules! field {
    ($($step:expr),* $(,)?) => { $crate::load::FieldPath::from([$($crate::load::Step::from($step)),*]) };
}

/// As `install[2].from`.
pub fn path_text(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Index(index) => out.push_str(&format!("[{index}]")),
            Step::Key(key) | Step::Name(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
        }
    }
    out
}

/// The place of a field in a node; of the nearest thing above it where it is not written out.
pub fn span_of(path: &[Step], node: &Node) -> Span {
    let mut node = node;
    for step in path {
        let next = match step {
            Step::Key(key) => node.get(key),
            Step::Index(index) => node.items().get(*index),
            Step::Name(key) => return node.entry(key).map_or(node.span, |(key, _)| key.span),
        };
        match next {
            Some(next) => node = next,
            None => break,
        }
    }
    node.span
}

/// As [`span_of`], but of the key that a field stands under; none where the field is not written out.
pub fn key_span_of(path: &[Step], node: &Node) -> Option<Span> {
    let mut node = node;
    let mut span = None;
    for step in path {
        let (place, below) = match step {
            Step::Key(key) | Step::Name(key) => node.entry(key).map(|(key, node)| (key.span, node)),
            Step::Index(index) => node.items().get(*index).map(|node| (node.span, node)),
        }?;
        span = Some(place);
        node = below;
    }
    span
}

/// A place to download from before the original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Prefix of the original's URL.
    pub from: String,
    /// What is put in its place, in order.
    pub to: Vec<String>,
}

impl Mirror {
    /// What may be put in a URL's place: a URL, or an absolute path as a file URL. `None`: it is neither.
    pub fn place(text: &str) -> Option<String> {
        let text = text.trim();
        let after = |scheme: &str| match text.get(..scheme.len())?.eq_ignore_ascii_case(scheme) {
            true => Some(&text[scheme.len()..]).filter(|rest| !rest.is_empty()),
            false => None,
        };
        let local = after("file:///").or_else(|| after("file://localhost/"));
        if local.or_else(|| after("http://")).or_else(|| after("https://")).is_some() {
            return Some(text.to_owned());
        }
        text.starts_with('/').then(|| format!("file://{}", text.replace('%', "%25")))
    }
}

/// A target as declared: a map with `rule` and the rule's fields.
#[derive(Debug, Clone)]
pub struct RawTarget {
    /// Its name.
    pub name: Key,
    /// Its fields.
    pub node: Node,
}

/// A profile as declared.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: Key,
    /// Its variables.
    pub vars: Vec<(Key, Node)>,
    /// Its fields of targets.
    pub targets: Vec<(Key, Node)>,
}

/// The file as declared.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// `project`.
    pub project: Option<Node>,
    /// `default`, one node a name.
    pub default: Vec<Node>,
    /// `vars`.
    pub vars: Vec<(Key, Node)>,
    /// `profiles`.
    pub profiles: Vec<Profile>,
    /// `mirrors`.
    pub mirrors: Vec<Node>,
    /// `executor`.
    pub executor: Option<Node>,
    /// `container`.
    pub container: Option<Node>,
    /// `targets`.
    pub targets: Vec<RawTarget>,
    /// `dist`.
    pub dist: Vec<(Key, Node)>,
}

/// JSON schema of the top level, targets left open.
fn outline() -> serde_json::Value {
    let text = json!({"type": "string"});
    let texts = json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]});
    let texts_by_name = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let open = json!({"type": "object", "additionalProperties": true});
    let profile = json!({"type": "object", "additionalProperties": false, "properties": {
        "vars": texts_by_name, "targets": {"type": "object", "additionalProperties": open},
    }});
    let mirror = json!({"type": "object", "additionalProperties": false, "required": ["from", "to"],
        "properties": {"from": text, "to": texts}});
    json!({
        "type": "object", "additionalProperties": false, "required": ["mosbuild", "targets"],
        "properties": {
            "mosbuild": true, "project": text, "default": texts, "vars": texts_by_name,
            "profiles": {"type": "object", "additionalProperties": profile},
            "mirrors": {"type": "array", "items": mirror},
            "executor": executors::schema(),
            "container": executors::container_schema(),
            "targets": {"type": "object", "additionalProperties": open},
            "dist": texts_by_name,
        },
    })
}

/// Reads the sections; whatever is wrong with them is reported, and what is right is taken.
pub fn read(mut root: Node, hints: &Hinter, out: &mut Vec<Diagnostic>) -> Model {
    // An empty section is an empty section, not a wrong type.
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|(key, node)| key.text == "targets" || !node.is_null());
    }
    let start = Span { start: root.span.start, end: root.span.start };
    let subject = Subject { what: "the file".into(), rule: None, key: start, hints };
    out.extend(Schema::new(&outline()).check(&root, &subject));
    if let Some((_, node)) = root.entry("mosbuild")
        && node.text() != Some(VERSION)
    {
        let found = node.text().map_or_else(|| "nothing".into(), quote);
        let problem = Diagnostic::at("version", node.span, format!("schema version {found} is not known"));
        out.push(problem.label(format!("this mosbuild reads version {VERSION}")));
    }
    let mut model = Model::default();
    for (section, node) in root.into_entries() {
        match section.text.as_str() {
            "project" => model.project = Some(node),
            "default" => model.default = node.into_items(),
            "vars" => model.vars = node.into_entries(),
            "profiles" => model.profiles = node.into_entries().into_iter().map(profile).collect(),
            "mirrors" => model.mirrors = node.into_items(),
            "executor" => model.executor = Some(node),
            "container" => model.container = Some(node),
            "targets" => {
                let targets = node.into_entries().into_iter();
                model.targets = targets.map(|(name, node)| RawTarget { name, node }).collect();
            }
            "dist" => model.dist = node.into_entries(),
            _ => {}
        }
    }
    for target in &model.targets {
        let name = &target.name;
        if !is_target_name(&name.text) {
            let message = format!("{} cannot be a target's name", quote(&name.text));
            let problem = Diagnostic::at("bad-name", name.span, message);
            out.push(problem.label("letters, digits, `_`, `-`, `.` and `+` may be used"));
        }
    }
    for (name, _) in &model.vars {
        if !is_var_name(&name.text) {
            let message = format!("{} cannot be a variable's name", quote(&name.text));
            let problem = Diagnostic::at("bad-name", name.span, message);
            out.push(problem.label("letters, digits, `_` and `-` may be used"));
        }
    }
    model
}

fn profile((name, node): (Key, Node)) -> Profile {
    let mut profile = Profile { name, vars: Vec::new(), targets: Vec::new() };
    for (part, node) in node.into_entries() {
        match part.text.as_str() {
            "vars" => profile.vars = node.into_entries(),
            "targets" => profile.targets = node.into_entries(),
            _ => {}
        }
    }
    profile
}
