//! From two action records to the causes of a rebuild: one cause for each component that differs.
//! Knows no run and no chain.

use mosbuild_cache::{Digest, Node, Store, Tree};
use serde::Serialize;

use crate::load;
use crate::record::{ActionRecord, IMAGE, OVERRIDE, Part, Value};

/// Where a reuse failed; the gates of the design, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// `--force` or `--no-cache`.
    Forced,
    /// The target's definition: a field, the script, an output.
    Spec,
    /// mosbuild itself: the rule's version, a builtin's, the record's schema, the platform, the sandbox.
    Engine,
    /// A tool or a package that it needs.
    Tool,
    /// A declared environment variable.
    Env,
    /// A workspace or external file.
    File,
    /// The output of another step.
    Upstream,
    /// The result is gone from the store.
    ResultGone,
    /// A blob of the output is missing or damaged.
    BlobLost,
    /// The last attempt failed.
    FailedBefore,
    /// Never built in this workspace.
    New,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Which gate.
    pub gate: Gate,
    /// The target whose step differs.
    pub target: String,
    /// The step.
    pub step: String,
    /// Path, name or field that differs.
    pub subject: String,
    /// What kind of difference: `content`, `mode`, `added`, `removed`, `version`, `value`, `more` (files than are
    /// named one by one), `override` (by a working copy, or by none any more).
    pub change: &'static str,
    /// Before; `None`: it was not there.
    pub old: Option<String>,
    /// Now; `None`: it is gone.
    pub new: Option<String>,
    /// Line of mosbuild.yaml, for definitions.
    pub line: Option<usize>,
}

/// A difference, before it is known to which target it belongs.
pub(super) struct Difference {
    pub gate: Gate,
    pub subject: String,
    pub change: &'static str,
    pub old: Option<String>,
    pub new: Option<String>,
    /// Field of the definition.
    pub field: Option<load::FieldPath>,
    /// For files and what other steps made: the input's name.
    pub input: Option<String>,
}

/// How many changed files of one large tree are named one by one.
const NAMED_FILES: usize = 200;

/// The kind of difference that a working copy in place of a source is, or its end.
pub(super) const OVERRIDDEN: &str = "override";

/// Every component in which two records differ. Where one is of a working copy and the other of the declared source,
/// that is all there is to say: each file of it is another's.
pub(super) fn records(old: &ActionRecord, new: &ActionRecord, store: &Store) -> Vec<Difference> {
    let policy = Part::Policy(OVERRIDE.into());
    let copy = |record: &ActionRecord| record.parts.get(&policy).map(text);
    if copy(old) != copy(new) {
        return vec![Difference {
            gate: Gate::Spec,
            subject: "source".into(),
            change: OVERRIDDEN,
            old: copy(old),
            new: copy(new),
            field: None,
            input: None,
        }];
    }
    // Another executor has other tools, by its nature.
    let switched = old.parts.get(&Part::Executor) != new.parts.get(&Part::Executor)
        && old.parts.contains_key(&Part::Executor)
        && new.parts.contains_key(&Part::Executor);
    let of_tools = |part: &Part| match part {
        Part::Tool(_) => true,
        Part::Policy(name) => name == IMAGE,
        _ => false,
    };
    let mut found = Vec::new();
    let parts: std::collections::BTreeSet<&Part> = old.parts.keys().chain(new.parts.keys()).collect();
    for part in parts {
        let (a, b) = (old.parts.get(part), new.parts.get(part));
        if a != b && !(switched && of_tools(part)) {
            part_differs(part, a, b, store, &mut found);
        }
    }
    found
}

fn part_differs(
    part: &Part,
    old: Option<&Value>,
    new: Option<&Value>,
    store: &Store,
    out: &mut Vec<Difference>,
) {
    let change = match (old, new) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "value",
    };
    let mut push = |gate, subject: String, field: Option<load::FieldPath>| {
        let (old, new) = (old.map(text), new.map(text));
        out.push(Difference { gate, subject, change, old, new, field, input: None });
    };
    let field = |name: &str| Some(vec![load::Step::from(name)]);
    match part {
        Part::Schema => push(Gate::Engine, "schema of the action record".into(), None),
        Part::Rule => push(Gate::Spec, "rule".into(), field("rule")),
        Part::RuleVersion => push(Gate::Engine, "version of the rule".into(), None),
        Part::Step => push(Gate::Engine, "step".into(), None),
        Part::Builtin => push(Gate::Engine, "builtin".into(), None),
        Part::BuiltinVersion => push(Gate::Engine, "version of the builtin".into(), None),
        Part::Platform => push(Gate::Engine, "platform".into(), None),
        Part::Executor => push(Gate::Spec, "executor".into(), field("executor")),
        Part::Policy(name) if name == IMAGE => {
            push(Gate::Tool, "container image".into(), Some(vec!["container".into(), IMAGE.into()]));
        }
        Part::Policy(name) => push(Gate::Spec, name.clone(), field(name)),
        Part::Argv => push(Gate::Spec, "argv".into(), field("argv")),
        Part::Script => {
            // Split so that a last newline is a line too: it may be all that differs.
            let lines = |script: Option<&Value>| -> Vec<String> {
                script.map(text).map(|t| t.split('\n').map(str::to_owned).collect()).unwrap_or_default()
            };
            let (x, y) = (lines(old), lines(new));
            let differing = x.iter().zip(&y).position(|(x, y)| x != y);
            let at = differing.unwrap_or(x.len().min(y.len()));
            let line = |lines: &[String]| lines.get(at).map(|l| l.trim().to_owned());
            out.push(Difference {
                gate: Gate::Spec,
                subject: format!("script, line {}", at + 1),
                change,
                old: line(&x),
                new: line(&y),
                field: field("run"),
                input: None,
            });
        }
        Part::Param(name) => push(Gate::Spec, name.clone(), field(name)),
        Part::Env(name) => push(Gate::Env, name.clone(), Some(vec!["env".into(), name.into()])),
        Part::Output(name) => push(Gate::Spec, format!("output {name}"), field("outputs")),
        Part::Tool(tool) => tools(tool, old, new, out),
        Part::File(input, path) => file(input, path, old, new, out),
        Part::Input(name) => match (old, new) {
            (Some(Value::Tree(a)), Some(Value::Tree(b))) if trees(name, a, b, store, out) => {}
            (Some(Value::File { .. }), Some(Value::File { .. })) => file(name, "", old, new, out),
            _ => {
                let (old, new) = (old.map(text), new.map(text));
                let (gate, input) = (Gate::Upstream, Some(name.clone()));
                let change = if change == "value" { "content" } else { change };
                out.push(Difference { gate, subject: String::new(), change, old, new, field: None, input });
            }
        },
    }
}

/// One difference for each package of a tool's closure that differs; one alone for a tool that is new or gone.
fn tools(tool: &str, old: Option<&Value>, new: Option<&Value>, out: &mut Vec<Difference>) {
    let mut push = |subject, change, old, new| {
        out.push(Difference { gate: Gate::Tool, subject, change, old, new, field: None, input: None });
    };
    let (Some(Value::Packages(a)), Some(Value::Packages(b))) = (old, new) else {
        let change = if old.is_none() { "added" } else { "removed" };
        return push(tool.to_owned(), change, old.map(|v| whole(tool, v)), new.map(|v| whole(tool, v)));
    };
    let names: std::collections::BTreeSet<&String> = a.iter().chain(b).map(|(n, _)| n).collect();
    for name in names {
        let (x, y) = (version(a, name), version(b, name));
        if x != y {
            let change = match (x, y) {
                (None, _) => "added",
                (_, None) => "removed",
                _ => "version",
            };
            let subject = if name == tool { tool.to_owned() } else { format!("{tool}: {name}") };
            push(subject, change, x.map(str::to_owned), y.map(str::to_owned));
        }
    }
}

fn version<'a>(list: &'a [(String, String)], name: &str) -> Option<&'a str> {
    list.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// A tool in a few words: its version, and how many packages it needs.
fn whole(tool: &str, value: &Value) -> String {
    let Value::Packages(list) = value else { return text(value) };
    let packages = |n: usize| format!("{n} package{}", if n == 1 { "" } else { "s" });
    match (version(list, tool), list.len()) {
        (Some(version), 1) => version.to_owned(),
        (Some(version), n) => format!("{version} and {} that it needs", packages(n - 1)),
        (None, n) => packages(n),
    }
}

/// What differs in an entry of a tree that is an input, or, where `path` is empty, in an input that is a file.
fn file(input: &str, path: &str, old: Option<&Value>, new: Option<&Value>, out: &mut Vec<Difference>) {
    let mut push = |change, old, new| {
        // Whether another step made it is known to whoever knows the step.
        let gate = if path.is_empty() { Gate::Upstream } else { Gate::File };
        let (subject, input) = (path.to_owned(), Some(input.to_owned()));
        out.push(Difference { gate, subject, change, old, new, field: None, input });
    };
    match (old, new) {
        (
            Some(Value::File { digest: a, executable: x, .. }),
            Some(Value::File { digest: b, executable: y, .. }),
        ) => {
            if a != b {
                push("content", old.map(entry), new.map(entry));
            }
            if x != y {
                push("mode", Some(mode(*x)), Some(mode(*y)));
            }
        }
        (None, _) => push("added", None, new.map(entry)),
        (_, None) => push("removed", old.map(entry), None),
        _ => push("content", old.map(entry), new.map(entry)),
    }
}

/// An entry of a tree as people read it.
fn entry(value: &Value) -> String {
    match value {
        Value::Unset => "a folder".into(),
        other => text(other),
    }
}

fn mode(executable: bool) -> String {
    if executable { "0755".into() } else { "0644".into() }
}

/// The changed files of a large source tree; false if the trees are not at hand (then the digests must do).
fn trees(name: &str, a: &Digest, b: &Digest, store: &Store, out: &mut Vec<Difference>) -> bool {
    let (Ok(old), Ok(new)) = (store.get_tree(a), store.get_tree(b)) else { return false };
    let before = out.len();
    let all: std::collections::BTreeSet<_> = old.iter().chain(new.iter()).map(|e| e.path.clone()).collect();
    let value = |tree: &Tree, path| {
        let entry = tree.get(path)?;
        Some(match &entry.node {
            Node::File { digest, size } => {
                Value::File { digest: *digest, size: *size, executable: entry.mode & 0o100 != 0 }
            }
            Node::Symlink { target } => Value::Link(String::from_utf8_lossy(target).into_owned()),
            _ => Value::Unset,
        })
    };
    let mut more = 0;
    for path in &all {
        let (x, y) = (value(&old, path), value(&new, path));
        if x != y {
            if out.len() - before < NAMED_FILES {
                file(name, &path.to_string(), x.as_ref(), y.as_ref(), out);
            } else {
                more += 1;
            }
        }
    }
    if more > 0 {
        out.push(Difference {
            gate: Gate::File,
            subject: format!("{more} more files"),
            change: "more",
            old: Some(a.short()),
            new: Some(b.short()),
            field: None,
            input: Some(name.to_owned()),
        });
    }
    out.len() > before
}

/// A value as people read it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Unset => "unset".into(),
        Value::Text(t) => t.clone(),
        Value::List(list) => list.join(" "),
        Value::Number(n) => n.to_string(),
        Value::Secret(d) => format!("(secret {})", d.short()),
        Value::File { digest, size, .. } => format!("{} ({size} bytes)", digest.short()),
        Value::Tree(d) => d.short(),
        Value::Link(t) => format!("-> {t}"),
        Value::Packages(list) => list.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            Just(Part::Schema),
            Just(Part::Rule),
            Just(Part::RuleVersion),
            Just(Part::Step),
            Just(Part::Builtin),
            Just(Part::BuiltinVersion),
            Just(Part::Platform),
            Just(Part::Executor),
            "[a-z]{1,4}".prop_map(Part::Policy),
            Just(Part::Argv),
            Just(Part::Script),
            "[a-z]{1,4}".prop_map(Part::Param),
            "[A-Z]{1,4}".prop_map(Part::Env),
            "[a-z]{1,4}".prop_map(Part::Tool),
            ("[a-z]{1,3}", "[a-z]{1,3}(/[a-z]{1,3})?").prop_map(|(a, b)| Part::File(a, b)),
            "[a-z]{1,4}".prop_map(Part::Input),
            "[a-z]{1,4}".prop_map(Part::Output),
        ]
    }

    /// A part with a value of a kind that it has in real records.
    fn component() -> impl Strategy<Value = (Part, Value)> {
        (part(), any::<[u8; 2]>(), "[a-z\n]{0,6}", any::<bool>(), any::<bool>()).prop_map(
            |(part, bytes, text, executable, other)| {
                let digest = Digest::of(&bytes);
                let file = Value::File { digest, size: 2, executable };
                let value = match &part {
                    Part::Schema | Part::RuleVersion | Part::BuiltinVersion => Value::Number(bytes[0].into()),
                    Part::Argv => Value::List(vec![text]),
                    Part::Env(_) if other => Value::Unset,
                    Part::Env(_) if executable => Value::Secret(digest),
                    Part::Tool(name) => {
                        let version = |n: u8| format!("{}", n % 4);
                        let mut packages =
                            vec![("libc6".into(), version(bytes[0])), (name.clone(), version(bytes[1]))];
                        packages.truncate(if other { 2 } else { 1 });
                        packages.sort();
                        Value::Packages(packages)
                    }
                    Part::File(..) if other => Value::Link(text),
                    Part::Input(_) if other => Value::Tree(digest),
                    Part::File(..) | Part::Input(_) => file,
                    _ => Value::Text(text),
                };
                (part, value)
            },
        )
    }

    fn record() -> impl Strategy<Value = ActionRecord> {
        let parts = proptest::collection::vec(component(), 0..10);
        parts.prop_map(|parts| ActionRecord { parts: parts.into_iter().collect() })
    }

    /// Whether a difference is one of this part.
    fn about(found: &Difference, part: &Part) -> bool {
        let named = |name: &str| found.subject == name;
        match part {
            Part::Rule => found.gate == Gate::Spec && named("rule"),
            Part::Schema
            | Part::RuleVersion
            | Part::Step
            | Part::Builtin
            | Part::BuiltinVersion
            | Part::Platform => found.gate == Gate::Engine,
            Part::Executor => found.gate == Gate::Spec && named("executor"),
            Part::Argv => found.gate == Gate::Spec && named("argv"),
            Part::Script => found.gate == Gate::Spec && found.subject.starts_with("script, line "),
            Part::Policy(name) | Part::Param(name) => found.gate == Gate::Spec && named(name),
            Part::Env(name) => found.gate == Gate::Env && named(name),
            Part::Tool(name) => {
                let package = found.subject.strip_prefix(&format!("{name}: "));
                found.gate == Gate::Tool && (named(name) || package == Some("libc6"))
            }
            Part::File(input, path) => {
                found.gate == Gate::File && named(path) && found.input.as_ref() == Some(input)
            }
            Part::Input(name) => found.gate == Gate::Upstream && found.input.as_ref() == Some(name),
            Part::Output(name) => found.gate == Gate::Spec && named(&format!("output {name}")),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn what_was_changed_is_named_and_nothing_else() {
        let (_dir, store) = store();
        proptest!(|(old in record(), (part, value) in component(), remove in any::<bool>())| {
            let mut new = old.clone();
            match remove {
                true => { new.parts.remove(&part); }
                false => new.set(part.clone(), value),
            }
            let found = records(&old, &new, &store);
            prop_assert_eq!(found.is_empty(), old.key() == new.key());
            for difference in &found {
                prop_assert!(about(difference, &part), "{:?} for {:?}", difference.subject, part);
                // Both sides are there, as far as they were there.
                prop_assert!(difference.old.is_some() || difference.new.is_some());
            }
        });
    }

    #[test]
    fn records_differ_exactly_when_something_is_named() {
        let (_dir, store) = store();
        proptest!(|(old in record(), new in record())| {
            prop_assert_eq!(records(&old, &new, &store).is_empty(), old.key() == new.key());
            prop_assert!(records(&old, &old, &store).is_empty());
        });
    }
}
