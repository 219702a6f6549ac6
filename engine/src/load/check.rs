//! Checks a target's fields against its rule's schema, giving every error with its place and the nearest name.
//! Knows shapes of values; knows no rule by name.

use super::diag::{Diagnostic, Span};
use super::model::{FieldPath, path_text};
use super::names::{Hinter, join, quote};
use super::shape::{DEEPEST, Schema, Shape, field, int_of};
use super::yaml::{Key, Node, Style, Value};

/// Whose node is checked: names for messages, the place that a missing field is reported at, the hints.
pub struct Subject<'a> {
    /// As `target `a``, or `the file`.
    pub what: String,
    /// As `command`, for the list of fields that it has.
    pub rule: Option<&'a str>,
    /// Where a missing field of the node itself is reported.
    pub key: Span,
    /// Suggestions.
    pub hints: &'a Hinter,
}

impl Schema {
    /// Everything that is wrong with a node.
    pub fn check(&self, node: &Node, subject: &Subject<'_>) -> Vec<Diagnostic> {
        let mut out = Vec::new();
        let mut path = FieldPath::default();
        let mut check = Check { schema: self, subject, path: &mut path };
        check.node(node, &self.root, &mut out, 0);
        out
    }
}

impl Schema {
    /// Errors of keys that are no fields at the top.
    pub fn unknown_fields<'k>(
        &self,
        keys: impl Iterator<Item = &'k Key>,
        subject: &Subject<'_>,
    ) -> Vec<Diagnostic> {
        let Shape::Map { fields, rest: None, .. } = self.follow(&self.root) else { return Vec::new() };
        let check = Check { schema: self, subject, path: &mut FieldPath::default() };
        keys.filter(|key| field(fields, &key.text).is_none())
            .map(|key| check.unknown(key, fields, |_| true).1)
            .collect()
    }
}

struct Check<'c> {
    schema: &'c Schema,
    subject: &'c Subject<'c>,
    path: &'c mut FieldPath,
}

impl Check<'_> {
    fn node(&mut self, node: &Node, shape: &Shape, out: &mut Vec<Diagnostic>, depth: usize) {
        if depth > DEEPEST || self.schema.accepts(node, shape, depth) {
            return;
        }
        match self.schema.follow(shape) {
            Shape::List { item, shortest } => match &node.value {
                Value::Seq(items) if items.len() < *shortest => {
                    out.push(self.wrong(node, "an empty list", "at least one is needed"));
                }
                Value::Seq(items) => {
                    for (i, node) in items.iter().enumerate() {
                        self.path.push(i.into());
                        self.node(node, item, out, depth + 1);
                        self.path.pop();
                    }
                }
                _ => out.push(self.mismatch(node, shape)),
            },
            Shape::Tuple(shapes) => match &node.value {
                Value::Seq(items) if items.len() == shapes.len() => {
                    for (i, (node, shape)) in items.iter().zip(shapes).enumerate() {
                        self.path.push(i.into());
                        self.node(node, shape, out, depth + 1);
                        self.path.pop();
                    }
                }
                _ => out.push(self.mismatch(node, shape)),
            },
            Shape::Map { fields, required, rest } => match &node.value {
                Value::Map(_) => self.map(node, fields, required, rest.as_deref(), out, depth),
                _ => out.push(self.mismatch(node, shape)),
            },
            Shape::Union(_) => self.union(node, shape, out, depth),
            Shape::Word(words) => match node.text() {
                Some(text) if !node.is_null() => {
                    let near = self.subject.hints.nearest(text, words.iter().map(String::as_str));
                    let message = format!("{} cannot be {}", self.place(), quote(text));
                    let expected = join(words.iter().map(String::as_str), "or");
                    let problem = Diagnostic::at("wrong-value", node.span, message);
                    out.push(match near {
                        Some(_) => problem.nearest(near).note(format!("expected {expected}")),
                        None => problem.label(format!("expected {expected}")),
                    });
                }
                _ => out.push(self.mismatch(node, shape)),
            },
            Shape::Int { min, max } if int_of(node).is_some() => {
                // What is only the type's bound tells nobody anything.
                let bounds = match *max >= i128::from(u32::MAX) && int_of(node).is_some_and(|n| n < *min) {
                    true => format!("expected at least {min}"),
                    false => format!("expected {min} to {max}"),
                };
                out.push(self.wrong(node, "a number out of range", &bounds));
            }
            Shape::Text { quoted: true, .. }
                if matches!(node.value, Value::Scalar { style: Style::Plain, .. }) =>
            {
                out.push(self.mismatch(node, shape));
            }
            Shape::Text { shortest, .. } if node.text().is_some() && !node.is_null() => {
                let least = if *shortest == 1 {
                    "it may not be empty".into()
                } else {
                    format!("at least {shortest} characters are needed")
                };
                out.push(self.wrong(node, "too short", &least));
            }
            _ => out.push(self.mismatch(node, shape)),
        }
    }

    fn map(
        &mut self,
        node: &Node,
        fields: &[(String, Shape)],
        required: &[String],
        rest: Option<&Shape>,
        out: &mut Vec<Diagnostic>,
        depth: usize,
    ) {
        let missing: Vec<&str> =
            required.iter().map(String::as_str).filter(|f| node.get(f).is_none()).collect();
        let mut meant: Vec<&str> = Vec::new();
        for (key, value) in node.entries() {
            match field(fields, &key.text).or(rest) {
                Some(shape) => {
                    self.path.push((&key.text).into());
                    self.node(value, shape, out, depth + 1);
                    self.path.pop();
                }
                None => {
                    let (near, problem) = self.unknown(key, fields, |f| node.get(f).is_none());
                    meant.extend(near);
                    out.push(problem);
                }
            }
        }
        for name in missing.into_iter().filter(|name| !meant.contains(name)) {
            let span = if self.path.is_empty() { self.subject.key } else { node.span };
            let message = format!("{} lacks the field {}", self.place(), quote(name));
            out.push(
                Diagnostic::at("missing-field", span, message).label(format!("{} is required", quote(name))),
            );
        }
    }

    /// The error of a field that does not exist, and the one that was most likely meant: one that is `free`, not given
    /// yet, before one that is.
    fn unknown<'f>(
        &self,
        key: &Key,
        fields: &'f [(String, Shape)],
        free: impl Fn(&str) -> bool,
    ) -> (Option<&'f str>, Diagnostic) {
        let all = || fields.iter().map(|(name, _)| name.as_str());
        let hints = self.subject.hints;
        let near =
            hints.nearest(&key.text, all().filter(|f| free(f))).or_else(|| hints.nearest(&key.text, all()));
        let rule = match self.subject.rule.filter(|_| self.path.is_empty()) {
            Some(rule) => format!(" (rule {})", quote(rule)),
            None => String::new(),
        };
        let message = format!("unknown field {} in {}{rule}", quote(&key.text), self.place());
        let mut problem = Diagnostic::at("unknown-field", key.span, message).nearest(near);
        if near.is_none() {
            problem = problem.label("there is no such field");
        }
        if !fields.is_empty() {
            problem = problem.note(format!("the fields are {}", list(fields)));
        }
        (near, problem)
    }

    /// No branch takes the node: reports against the one that was most likely meant.
    fn union(&mut self, node: &Node, union: &Shape, out: &mut Vec<Diagnostic>, depth: usize) {
        let mut branches = Vec::new();
        self.schema.branches(union, &mut branches, 0);
        let mut best: Option<(usize, usize, Vec<Diagnostic>)> = None;
        let mut tied = false;
        // The only branch that is a map is meant by each map, even one that has none of its fields.
        let only = branches.iter().filter(|b| matches!(b, Shape::Map { .. })).count() == 1;
        for branch in branches {
            let known = match (branch, &node.value) {
                (Shape::Map { fields, rest, .. }, Value::Map(entries)) => {
                    let known = entries.iter().filter(|(k, _)| field(fields, &k.text).is_some()).count();
                    let near = |key: &str| {
                        self.subject.hints.nearest(key, fields.iter().map(|(f, _)| f.as_str())).is_some()
                    };
                    let meant = only && !entries.is_empty()
                        || known == 0 && entries.iter().any(|(k, _)| near(&k.text));
                    known * 2 + usize::from(rest.is_some() || meant)
                }
                (Shape::List { .. } | Shape::Tuple(_), Value::Seq(_)) => 1,
                (Shape::Word(_), Value::Scalar { .. }) => 1,
                (Shape::Int { .. }, Value::Scalar { .. }) if int_of(node).is_some() => 1,
                (Shape::Text { .. }, Value::Scalar { .. }) if !node.is_null() => 1,
                _ => 0,
            };
            if known == 0 {
                continue;
            }
            let mut found = Vec::new();
            self.node(node, branch, &mut found, depth + 1);
            let better = match &best {
                None => true,
                Some((k, n, _)) => known > *k || (known == *k && found.len() < *n),
            };
            let equal =
                best.as_ref().is_some_and(|(k, n, f)| known == *k && found.len() == *n && *f != found);
            if better {
                best = Some((known, found.len(), found));
                tied = false;
            } else if equal {
                tied = true;
            }
        }
        match best {
            Some((_, _, found)) if !tied => out.extend(found),
            _ => out.push(self.mismatch(node, union)),
        }
    }

    fn mismatch(&self, node: &Node, shape: &Shape) -> Diagnostic {
        let mut branches = Vec::new();
        self.schema.branches(shape, &mut branches, 0);
        let wants = |f: fn(&Shape) -> bool| branches.iter().any(|b| f(b));
        let found = match &node.value {
            // Where maps of several kinds may stand, the keys tell what this one was to be.
            Value::Map(entries) if wants(|b| matches!(b, Shape::Map { .. })) && !entries.is_empty() => {
                let keys: Vec<&str> = entries.iter().map(|(key, _)| key.text.as_str()).take(6).collect();
                quote(&format!("{{{}}}", keys.join(", ")))
            }
            _ => found(node),
        };
        let expected = self.schema.describe(shape, false, 0);
        let mut problem = Diagnostic::at("wrong-type", node.span, format!("wrong type of {}", self.place()))
            .label(format!("expected {expected}, found {found}"));
        let as_if = |text: &str, style| {
            let value = Value::Scalar { text: text.to_string(), style };
            self.schema.accepts(&Node { span: node.span, value }, shape, 0)
        };
        if let Value::Scalar { text, style: Style::Quoted } = &node.value {
            if as_if(text, Style::Plain) {
                problem = problem.help("write it without quotes");
            }
        } else if let Value::Scalar { text, style: Style::Plain } = &node.value
            && !node.is_null()
            && as_if(text, Style::Quoted)
        {
            problem = problem.help(format!("write it in quotes: \"{text}\""));
        } else if node.text().is_some_and(|t| matches!(t, "yes" | "no" | "on" | "off"))
            && wants(|b| matches!(b, Shape::Bool))
        {
            problem = problem.help("write `true` or `false`");
        } else if node.is_null() && wants(|b| matches!(b, Shape::Text { .. })) {
            problem = problem.help("an empty string is written `\"\"`");
        }
        problem
    }

    fn wrong(&self, node: &Node, what: &str, label: &str) -> Diagnostic {
        Diagnostic::at("wrong-value", node.span, format!("{} is {what}", self.place())).label(label)
    }

    /// As "`install[2].from` of target `a`", or the subject alone at the top.
    fn place(&self) -> String {
        if self.path.is_empty() {
            return self.subject.what.clone();
        }
        format!("{} of {}", quote(&path_text(self.path)), self.subject.what)
    }
}

fn list(fields: &[(String, Shape)]) -> String {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let mut out = String::new();
    for (i, name) in names.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        out.push_str(name);
    }
    out
}

fn found(node: &Node) -> String {
    match &node.value {
        _ if node.is_null() => "nothing".into(),
        Value::Null => "nothing".into(),
        Value::Seq(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
        Value::Scalar { text, style } => {
            let text = if text.chars().count() > 40 {
                let cut: String = text.chars().take(40).collect();
                format!("{cut}…")
            } else {
                text.clone()
            };
            match style {
                Style::Quoted => format!("the string {}", quote(&text)),
                Style::Plain | Style::Var => quote(&text),
            }
        }
    }
}
