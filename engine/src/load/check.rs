//! Checks a node against a rule's JSON schema, giving every error with its place, and turns it into typed JSON.
//! Knows the part of JSON Schema that schemars writes; knows no rule by name.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::diag::{Diagnostic, Span};
use super::model::{FieldPath, path_text};
use super::names::{Hinter, join, quote};
use super::yaml::{Node, Value};

/// How deep references inside a schema are followed at one node: a schema that refers to itself without taking
/// a step into the data would never end.
const DEEPEST: usize = 200;

/// What a value may be: a JSON schema, reduced to what the loader checks.
#[derive(Debug, Clone)]
enum Shape {
    Any,
    Null,
    Bool,
    Int { min: Option<i128>, max: Option<i128> },
    Number,
    Text { shortest: usize },
    Word(Vec<String>),
    List { item: Box<Shape>, shortest: usize },
    Tuple(Vec<Shape>),
    Map { fields: Vec<(String, Shape)>, required: Vec<String>, rest: Option<Box<Shape>> },
    Union(Vec<Shape>),
    Ref(String),
}

/// A schema made ready for checking many nodes.
#[derive(Debug, Clone)]
pub struct Schema {
    root: Shape,
    defs: HashMap<String, Shape>,
}

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
    /// Compiles a JSON schema. What is not understood in it accepts anything.
    pub fn new(schema: &Json) -> Self {
        let mut defs = HashMap::new();
        for place in ["$defs", "definitions"] {
            for (name, def) in schema.get(place).and_then(Json::as_object).into_iter().flatten() {
                defs.insert(name.clone(), shape(def));
            }
        }
        Schema { root: shape(schema), defs }
    }

    /// Names of the fields at the top.
    pub fn fields(&self) -> Vec<&str> {
        match self.follow(&self.root) {
            Shape::Map { fields, .. } => fields.iter().map(|(name, _)| name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Everything that is wrong with a node.
    pub fn check(&self, node: &Node, subject: &Subject<'_>) -> Vec<Diagnostic> {
        let mut out = Vec::new();
        let mut path = FieldPath::default();
        let mut check = Check { schema: self, subject, path: &mut path };
        check.node(node, &self.root, &mut out, 0);
        out
    }

    /// The node as JSON, each scalar typed as the schema wants it. For a node without errors.
    pub fn to_value(&self, node: &Node) -> Json {
        self.value(node, &self.root, 0)
    }

    fn follow<'s>(&'s self, mut shape: &'s Shape) -> &'s Shape {
        for _ in 0..DEEPEST {
            match shape {
                Shape::Ref(name) => shape = self.defs.get(name).unwrap_or(&Shape::Any),
                _ => return shape,
            }
        }
        &Shape::Any
    }

    /// The branches of a union, references followed and unions inside flattened.
    fn branches<'s>(&'s self, shape: &'s Shape, out: &mut Vec<&'s Shape>, depth: usize) {
        match self.follow(shape) {
            Shape::Union(inner) if depth < 16 => inner.iter().for_each(|s| self.branches(s, out, depth + 1)),
            other => out.push(other),
        }
    }

    fn accepts(&self, node: &Node, shape: &Shape, depth: usize) -> bool {
        if depth > DEEPEST {
            return true;
        }
        match self.follow(shape) {
            Shape::Any => true,
            Shape::Null => node.is_null(),
            Shape::Bool => bool_of(node).is_some(),
            Shape::Int { min, max } => {
                int_of(node).is_some_and(|n| min.is_none_or(|m| n >= m) && max.is_none_or(|m| n <= m))
            }
            Shape::Number => float_of(node).is_some(),
            Shape::Text { shortest } => {
                !node.is_null() && node.text().is_some_and(|t| t.chars().count() >= *shortest)
            }
            Shape::Word(words) => node.text().is_some_and(|t| words.iter().any(|w| w == t)),
            Shape::List { item, shortest } => match &node.value {
                Value::Seq(items) => {
                    items.len() >= *shortest && items.iter().all(|n| self.accepts(n, item, depth + 1))
                }
                _ => false,
            },
            Shape::Tuple(shapes) => match &node.value {
                Value::Seq(items) => {
                    items.len() == shapes.len()
                        && items.iter().zip(shapes).all(|(n, s)| self.accepts(n, s, depth + 1))
                }
                _ => false,
            },
            Shape::Map { fields, required, rest } => match &node.value {
                Value::Map(entries) => {
                    required.iter().all(|name| node.get(name).is_some())
                        && entries.iter().all(|(key, value)| match field(fields, &key.text) {
                            Some(shape) => self.accepts(value, shape, depth + 1),
                            None => rest.as_ref().is_some_and(|rest| self.accepts(value, rest, depth + 1)),
                        })
                }
                _ => false,
            },
            union => {
                let mut branches = Vec::new();
                self.branches(union, &mut branches, 0);
                branches.iter().any(|b| self.accepts(node, b, depth + 1))
            }
        }
    }

    /// The first branch of a union that takes the node: the one serde would take of an untagged enum.
    fn pick<'s>(&'s self, node: &Node, union: &'s Shape, depth: usize) -> Option<&'s Shape> {
        let mut branches = Vec::new();
        self.branches(union, &mut branches, 0);
        branches.into_iter().find(|branch| self.accepts(node, branch, depth + 1))
    }

    fn value(&self, node: &Node, shape: &Shape, depth: usize) -> Json {
        if depth > DEEPEST {
            return Json::Null;
        }
        let below = |node: &Node, shape: &Shape| self.value(node, shape, depth + 1);
        match self.follow(shape) {
            Shape::Bool => bool_of(node).map_or(Json::Null, Json::Bool),
            Shape::Int { .. } => int_of(node).map_or(Json::Null, |n| match u64::try_from(n) {
                Ok(n) => Json::from(n),
                Err(_) => i64::try_from(n).map_or(Json::Null, Json::from),
            }),
            Shape::Number => float_of(node).map_or(Json::Null, Json::from),
            Shape::Null => Json::Null,
            Shape::List { item, .. } => {
                Json::Array(node.items().iter().map(|node| below(node, item)).collect())
            }
            Shape::Tuple(shapes) => {
                Json::Array(node.items().iter().zip(shapes).map(|(node, shape)| below(node, shape)).collect())
            }
            Shape::Map { fields, rest, .. } => {
                let rest = rest.as_deref().unwrap_or(&Shape::Any);
                let entries = node.entries().iter();
                let typed = |(key, node): &(super::yaml::Key, Node)| {
                    (key.text.clone(), below(node, field(fields, &key.text).unwrap_or(rest)))
                };
                Json::Object(entries.map(typed).collect())
            }
            union @ Shape::Union(_) => match self.pick(node, union, depth) {
                Some(branch) => below(node, branch),
                None => untyped(node),
            },
            _ => untyped(node),
        }
    }

    fn describe(&self, shape: &Shape, many: bool, depth: usize) -> String {
        let (one, plural) = match self.follow(shape) {
            Shape::Any | Shape::Ref(_) => ("a value".into(), "values".into()),
            Shape::Null => ("nothing".into(), "nothing".into()),
            Shape::Bool => ("`true` or `false`".into(), "booleans".into()),
            Shape::Int { .. } => ("a whole number".into(), "whole numbers".into()),
            Shape::Number => ("a number".into(), "numbers".into()),
            Shape::Text { .. } => ("a string".into(), "strings".into()),
            Shape::Word(words) => {
                let words = join(words.iter().map(String::as_str), "or");
                (words.clone(), words)
            }
            Shape::List { item, .. } if depth < 4 => {
                let items = self.describe(item, true, depth + 1);
                (format!("a list of {items}"), format!("lists of {items}"))
            }
            Shape::List { .. } => ("a list".into(), "lists".into()),
            Shape::Tuple(shapes) => (format!("a list of {}", shapes.len()), "lists".into()),
            Shape::Map { fields, required, rest } => match rest {
                None => {
                    let needed: Vec<&str> = required.iter().map(String::as_str).collect();
                    let named = if needed.is_empty() {
                        fields.iter().map(|(name, _)| name.as_str()).take(6).collect()
                    } else {
                        needed
                    };
                    let text = format!("`{{{}}}`", named.join(", "));
                    (text.clone(), text)
                }
                Some(rest) if depth < 4 && !matches!(**rest, Shape::Any) => {
                    let values = self.describe(rest, true, depth + 1);
                    (format!("a map of names to {values}"), format!("maps of names to {values}"))
                }
                Some(_) => ("a map".into(), "maps".into()),
            },
            union => {
                let mut branches = Vec::new();
                self.branches(union, &mut branches, 0);
                let mut texts: Vec<String> = Vec::new();
                for branch in branches.into_iter().filter(|b| !matches!(b, Shape::Null)) {
                    let text = self.describe(branch, many, depth + 1);
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
                let text = match texts.pop() {
                    None => "nothing".into(),
                    Some(last) if texts.is_empty() => last,
                    Some(last) => format!("{} or {last}", texts.join(", ")),
                };
                (text.clone(), text)
            }
        };
        if many { plural } else { one }
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
                let bounds = match (min, max) {
                    (Some(min), Some(max)) => format!("expected {min} to {max}"),
                    (Some(min), None) => format!("expected at least {min}"),
                    (None, Some(max)) => format!("expected at most {max}"),
                    (None, None) => String::from("out of range"),
                };
                out.push(self.wrong(node, "a number out of range", &bounds));
            }
            Shape::Text { shortest } if node.text().is_some() && !node.is_null() => {
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
                    let free = fields.iter().map(|(name, _)| name.as_str()).filter(|f| node.get(f).is_none());
                    let near = self.subject.hints.nearest(&key.text, free);
                    meant.extend(near);
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

    /// No branch takes the node: reports against the one that was most likely meant.
    fn union(&mut self, node: &Node, union: &Shape, out: &mut Vec<Diagnostic>, depth: usize) {
        let mut branches = Vec::new();
        self.schema.branches(union, &mut branches, 0);
        let mut best: Option<(usize, usize, Vec<Diagnostic>)> = None;
        let mut tied = false;
        for branch in branches {
            let known = match (branch, &node.value) {
                (Shape::Map { fields, rest, .. }, Value::Map(entries)) => {
                    let known = entries.iter().filter(|(k, _)| field(fields, &k.text).is_some()).count();
                    known * 2 + usize::from(rest.is_some())
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
        let found = found(node);
        let expected = self.schema.describe(shape, false, 0);
        let mut problem = Diagnostic::at("wrong-type", node.span, format!("wrong type of {}", self.place()))
            .label(format!("expected {expected}, found {found}"));
        let mut branches = Vec::new();
        self.schema.branches(shape, &mut branches, 0);
        let wants = |f: fn(&Shape) -> bool| branches.iter().any(|b| f(b));
        if let Value::Scalar { text, plain: false } = &node.value {
            let bare = Node { span: node.span, value: Value::Scalar { text: text.clone(), plain: true } };
            if self.schema.accepts(&bare, shape, 0) {
                problem = problem.help("write it without quotes");
            }
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

fn field<'s>(fields: &'s [(String, Shape)], name: &str) -> Option<&'s Shape> {
    fields.iter().find(|(n, _)| n == name).map(|(_, shape)| shape)
}

fn found(node: &Node) -> String {
    match &node.value {
        _ if node.is_null() => "nothing".into(),
        Value::Null => "nothing".into(),
        Value::Seq(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
        Value::Scalar { text, plain } => {
            let text = if text.chars().count() > 40 {
                let cut: String = text.chars().take(40).collect();
                format!("{cut}…")
            } else {
                text.clone()
            };
            if *plain { quote(&text) } else { format!("the string {}", quote(&text)) }
        }
    }
}

fn bool_of(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, plain: true } => match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn int_of(node: &Node) -> Option<i128> {
    match &node.value {
        // A leading zero is octal to some readers and decimal to others: `0755` is text.
        Value::Scalar { text, plain: true } => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let leading = digits.len() > 1 && digits.starts_with('0');
            let decimal =
                !digits.is_empty() && digits.len() < 30 && digits.bytes().all(|b| b.is_ascii_digit());
            if decimal && !leading { text.parse().ok() } else { None }
        }
        _ => None,
    }
}

fn float_of(node: &Node) -> Option<f64> {
    match &node.value {
        Value::Scalar { text, plain: true } => text.parse().ok().filter(|f: &f64| f.is_finite()),
        _ => None,
    }
}

fn untyped(node: &Node) -> Json {
    match &node.value {
        _ if node.is_null() => Json::Null,
        Value::Null => Json::Null,
        Value::Scalar { text, .. } => Json::String(text.clone()),
        Value::Seq(items) => Json::Array(items.iter().map(untyped).collect()),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), untyped(node))).collect())
        }
    }
}

fn shape(schema: &Json) -> Shape {
    let Some(object) = schema.as_object() else { return Shape::Any };
    if let Some(name) = object.get("$ref").and_then(Json::as_str) {
        return match name.rsplit_once('/') {
            Some((_, name)) => Shape::Ref(name.to_string()),
            None => Shape::Any,
        };
    }
    if let Some(word) = object.get("const") {
        return Shape::Word(vec![word_of(word)]);
    }
    if let Some(words) = object.get("enum").and_then(Json::as_array) {
        let texts = words.iter().filter(|w| !w.is_null()).map(word_of).collect();
        let words_only = Shape::Word(texts);
        return if words.iter().any(Json::is_null) {
            Shape::Union(vec![words_only, Shape::Null])
        } else {
            words_only
        };
    }
    for place in ["anyOf", "oneOf"] {
        if let Some(branches) = object.get(place).and_then(Json::as_array) {
            return union(branches.iter().map(shape).collect());
        }
    }
    if let Some([only]) = object.get("allOf").and_then(Json::as_array).map(Vec::as_slice) {
        return shape(only);
    }
    match object.get("type") {
        Some(Json::String(name)) => typed(name, object),
        Some(Json::Array(names)) => {
            union(names.iter().filter_map(Json::as_str).map(|name| typed(name, object)).collect())
        }
        _ if object.contains_key("properties") => typed("object", object),
        _ => Shape::Any,
    }
}

/// Variants with descriptions of their own come as one constant each: together they are one set of words.
fn union(branches: Vec<Shape>) -> Shape {
    let mut words = Vec::new();
    let mut others = Vec::new();
    for branch in branches {
        match branch {
            Shape::Word(more) => words.extend(more),
            other => others.push(other),
        }
    }
    match (words.is_empty(), others.is_empty()) {
        (false, true) => Shape::Word(words),
        (false, false) => {
            others.insert(0, Shape::Word(words));
            Shape::Union(others)
        }
        _ => Shape::Union(others),
    }
}

fn word_of(word: &Json) -> String {
    word.as_str().map_or_else(|| word.to_string(), str::to_string)
}

fn typed(name: &str, object: &serde_json::Map<String, Json>) -> Shape {
    let length = |key: &str| object.get(key).and_then(Json::as_u64).unwrap_or_default() as usize;
    let bound = |key: &str| object.get(key).and_then(Json::as_f64).map(|f| f as i128);
    match name {
        "null" => Shape::Null,
        "boolean" => Shape::Bool,
        "integer" => Shape::Int { min: bound("minimum"), max: bound("maximum") },
        "number" => Shape::Number,
        "string" => Shape::Text { shortest: length("minLength") },
        "array" => match object.get("prefixItems").and_then(Json::as_array) {
            Some(items) => Shape::Tuple(items.iter().map(shape).collect()),
            None => {
                let item = Box::new(object.get("items").map_or(Shape::Any, shape));
                Shape::List { item, shortest: length("minItems") }
            }
        },
        "object" => {
            let properties = object.get("properties").and_then(Json::as_object);
            let fields = properties.into_iter().flatten().map(|(k, v)| (k.clone(), shape(v))).collect();
            let required = object.get("required").and_then(Json::as_array).into_iter().flatten();
            let required = required.filter_map(Json::as_str).map(str::to_string).collect();
            let closed = object.get("additionalProperties").or_else(|| object.get("unevaluatedProperties"));
            let rest = match closed {
                Some(Json::Bool(false)) => None,
                Some(schema) => Some(Box::new(shape(schema))),
                None => Some(Box::new(Shape::Any)),
            };
            Shape::Map { fields, required, rest }
        }
        _ => Shape::Any,
    }
}
