//! `executor` and `container` of mosbuild.yaml: who runs commands, and in which image.
//! Knows the fields; what can be had on this host is `build::executors`'s to find.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::diag::Diagnostic;
use super::facts::RuleFactory;
use super::model::Model;
use super::names::{Hinter, quote};
use super::yaml::{Node, Value};
use crate::exec::ContainerOptions;
use crate::rule::EXECUTOR;

/// Who is to run a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The sandbox where it works, else a container.
    #[default]
    Auto,
    /// Namespaces of this host.
    Sandbox,
    /// Docker or Podman.
    Container,
    /// The host itself.
    Host,
}

/// The words for it, in the order in which they are offered.
pub const WORDS: [&str; 4] = ["auto", "sandbox", "container", "host"];

impl Choice {
    /// From its word.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "auto" => Self::Auto,
            "sandbox" => Self::Sandbox,
            "container" => Self::Container,
            "host" => Self::Host,
            _ => return None,
        })
    }

    /// This one, unless it leaves the choice to the next.
    pub fn or(self, next: Self) -> Self {
        if self == Self::Auto { next } else { self }
    }
}

/// What the file says of executors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Of all targets that neither say it themselves nor by their rule.
    pub default: Choice,
    /// By rule.
    pub rules: BTreeMap<String, Choice>,
    /// `container`; its archive is relative to the workspace unless it is absolute.
    pub container: ContainerOptions,
}

/// Schema of a target's `executor`.
pub fn field_schema() -> Json {
    json!({"enum": WORDS, "description": "Who runs it: the sandbox where it works and else a container (auto), \
        one of these, or the host itself"})
}

/// Schema of the file's `executor`: a word, or words by rule, with `default` for the others.
pub fn schema() -> Json {
    json!({"anyOf": [{"enum": WORDS}, {"type": "object", "additionalProperties": {"enum": WORDS}}]})
}

/// Schema of the file's `container`.
pub fn container_schema() -> Json {
    json!({"type": "object", "additionalProperties": false, "properties": {
        "image": {"type": "string", "description": "Name with tag or, better, digest"},
        "archive": {"type": "string", "description": "A file that `docker save` or `podman save` wrote"},
        "relabel": {"type": "boolean", "description": "Let SELinux give containers access to the files bound in (:z)"},
        "memory": {"type": "string", "description": "Of a container in all, where the target has no bound: 8GiB"},
        "pids": {"type": "integer", "minimum": 1, "description": "Processes of a container"},
    }})
}

/// Reads both sections; their shapes have been checked.
pub(super) fn read(
    model: &Model,
    factory: &dyn RuleFactory,
    hints: &Hinter,
    out: &mut Vec<Diagnostic>,
) -> Execution {
    let mut execution = Execution::default();
    let choice = |node: &Node| node.text().and_then(Choice::parse);
    if let Some(node) = &model.executor {
        match &node.value {
            Value::Map(entries) => {
                for (key, node) in entries {
                    let Some(choice) = choice(node) else { continue };
                    match key.text.as_str() {
                        "default" => execution.default = choice,
                        rule => {
                            out.extend(no_such_rule(rule, factory, hints).map(|(message, near)| {
                                Diagnostic::at("unknown-rule", key.span, message)
                                    .nearest(near.as_deref())
                                    .note("`executor` takes rules that run commands, and `default`")
                            }));
                            execution.rules.insert(rule.to_owned(), choice);
                        }
                    }
                }
            }
            _ => execution.default = choice(node).unwrap_or_default(),
        }
    }
    if let Some(node) = &model.container {
        let (options, problems) = container(node);
        execution.container = options;
        out.extend(problems);
    }
    execution
}

/// Of a rule that runs no commands, or is none.
fn no_such_rule(rule: &str, factory: &dyn RuleFactory, hints: &Hinter) -> Option<(String, Option<String>)> {
    let runs = |schema: &Json| schema.get("properties").is_some_and(|fields| fields.get(EXECUTOR).is_some());
    let able: Vec<&str> =
        factory.schemas().iter().filter(|s| runs(&s.schema)).map(|s| s.name.as_str()).collect();
    if able.contains(&rule) {
        return None;
    }
    let near = hints.nearest(rule, able.iter().copied()).map(str::to_owned);
    Some((format!("no rule {} runs commands", quote(rule)), near))
}

/// The options that a map gives, in mosbuild.yaml or in the user's settings, and what is wrong with it.
pub fn container(node: &Node) -> (ContainerOptions, Vec<Diagnostic>) {
    let (mut options, mut problems) = (ContainerOptions::default(), Vec::new());
    let Value::Map(entries) = &node.value else {
        let problem = Diagnostic::at("wrong-type", node.span, "wrong type of `container`");
        return (options, vec![problem.label("expected { image: NAME } or { archive: FILE }")]);
    };
    for (key, node) in entries {
        let text = node.text().filter(|text| !text.is_empty());
        match (key.text.as_str(), text) {
            ("image", Some(text)) => options.image = Some(text.to_owned()),
            ("archive", Some(text)) => options.archive = Some(PathBuf::from(text)),
            ("relabel", Some("true" | "false")) => options.relabel = text == Some("true"),
            ("memory", Some(text)) => options.memory = size(text),
            ("pids", Some(text)) => options.pids = text.parse().ok().filter(|count| *count > 0),
            _ => {}
        }
        let known = match key.text.as_str() {
            "image" | "archive" => text.is_some(),
            "relabel" => matches!(text, Some("true" | "false")),
            "memory" => options.memory.is_some(),
            "pids" => options.pids.is_some(),
            _ => false,
        };
        if !known {
            let what = format!("wrong value of {} of `container`", quote(&key.text));
            let problem = Diagnostic::at("wrong-value", node.span, what);
            problems.push(
                problem.label("it has image, archive, relabel: true|false, memory: 8GiB, pids: NUMBER"),
            );
        }
    }
    (options, problems)
}

/// Bytes of `512MiB`, `8GiB`.
fn size(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match &text[at..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => 1,
        _ => return None,
    };
    text[..at].parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}
