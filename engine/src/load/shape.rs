//! A rule's JSON schema, compiled: whether a node fits it, how it is described, and the node as typed JSON.
//! Knows the part of JSON Schema that schemars writes; reports nothing and knows no rule by name.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::names::join;
use super::yaml::{Node, Style, Value};

/// How deep references inside a schema are followed at one node: a schema that refers to itself without taking
/// a step into the data would never end.
pub(super) const DEEPEST: usize = 200;

/// `format` of a string that must stand in quotes.
pub(super) const QUOTED: &str = "quoted";

/// What a value may be: a JSON schema, reduced to what the loader checks.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Any,
    Null,
    Bool,
    Int {
        min: i128,
        max: i128,
    },
    Number,
    /// `quoted`: a number without quotes is refused, since readers of YAML differ on what it is.
    Text {
        shortest: usize,
        quoted: bool,
    },
    Word(Vec<String>),
    List {
        item: Box<Shape>,
        shortest: usize,
    },
    Tuple(Vec<Shape>),
    Map {
        fields: Vec<(String, Shape)>,
        required: Vec<String>,
        rest: Option<Box<Shape>>,
    },
    Union(Vec<Shape>),
    Ref(String),
}

/// A schema made ready for checking many nodes.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(super) root: Shape,
    defs: HashMap<String, Shape>,
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

    /// The node as JSON, each scalar typed as the schema wants it. For a node without errors.
    pub fn to_value(&self, node: &Node) -> Json {
        self.value(node, &self.root, 0)
    }

    /// The node with only those of its entries that fit.
    pub(super) fn right_part(&self, node: &Node) -> Node {
        let mut right = node.clone();
        if let (Shape::Map { fields, rest: None, .. }, Value::Map(entries)) =
            (self.follow(&self.root), &mut right.value)
        {
            entries.retain(|(key, value)| {
                field(fields, &key.text).is_some_and(|shape| self.accepts(value, shape, 0))
            });
        }
        right
    }

    pub(super) fn follow<'s>(&'s self, mut shape: &'s Shape) -> &'s Shape {
        for _ in 0..DEEPEST {
            match shape {
                Shape::Ref(name) => shape = self.defs.get(name).unwrap_or(&Shape::Any),
                _ => return shape,
            }
        }
        &Shape::Any
    }

    /// The branches of a union, references followed and unions inside flattened.
    pub(super) fn branches<'s>(&'s self, shape: &'s Shape, out: &mut Vec<&'s Shape>, depth: usize) {
        match self.follow(shape) {
            Shape::Union(inner) if depth < 16 => inner.iter().for_each(|s| self.branches(s, out, depth + 1)),
            other => out.push(other),
        }
    }

    pub(super) fn accepts(&self, node: &Node, shape: &Shape, depth: usize) -> bool {
        if depth > DEEPEST {
            return true;
        }
        match self.follow(shape) {
            Shape::Any => true,
            Shape::Null => node.is_null(),
            Shape::Bool => bool_of(node).is_some(),
            Shape::Int { min, max } => int_of(node).is_some_and(|n| (*min..=*max).contains(&n)),
            Shape::Number => float_of(node).is_some(),
            Shape::Text { shortest, quoted } => {
                let fits = !*quoted || !matches!(node.value, Value::Scalar { style: Style::Plain, .. });
                fits && !node.is_null() && node.text().is_some_and(|t| t.chars().count() >= *shortest)
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

    pub(super) fn describe(&self, shape: &Shape, many: bool, depth: usize) -> String {
        let (one, plural) = match self.follow(shape) {
            Shape::Any | Shape::Ref(_) => ("a value".into(), "values".into()),
            Shape::Null => ("nothing".into(), "nothing".into()),
            Shape::Bool => ("`true` or `false`".into(), "booleans".into()),
            Shape::Int { .. } => ("a whole number".into(), "whole numbers".into()),
            Shape::Number => ("a number".into(), "numbers".into()),
            Shape::Text { quoted: true, .. } => ("a string in quotes".into(), "strings in quotes".into()),
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

pub(super) fn field<'s>(fields: &'s [(String, Shape)], name: &str) -> Option<&'s Shape> {
    fields.iter().find(|(n, _)| n == name).map(|(_, shape)| shape)
}

fn bool_of(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, style: Style::Plain | Style::Var } => match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn int_of(node: &Node) -> Option<i128> {
    match &node.value {
        // A leading zero is octal to some readers and decimal to others: `0755` is text.
        Value::Scalar { text, style: Style::Plain | Style::Var } => {
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
        Value::Scalar { text, style: Style::Plain | Style::Var } => {
            text.parse().ok().filter(|f: &f64| f.is_finite())
        }
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
    let format = object.get("format").and_then(Json::as_str).unwrap_or_default();
    // A bound may be left to the format: a number that the field's type cannot hold has no value.
    let bound = |key: &str| object.get(key).and_then(Json::as_f64).map(|f| f as i128);
    let (low, high) = match format {
        "uint8" => (0, i128::from(u8::MAX)),
        "uint16" => (0, i128::from(u16::MAX)),
        "uint32" => (0, i128::from(u32::MAX)),
        "uint" | "uint64" => (0, i128::from(u64::MAX)),
        "int8" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "int16" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "int32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        _ => (i128::from(i64::MIN), i128::from(u64::MAX)),
    };
    match name {
        "null" => Shape::Null,
        "boolean" => Shape::Bool,
        "integer" => {
            Shape::Int { min: bound("minimum").unwrap_or(low), max: bound("maximum").unwrap_or(high) }
        }
        "number" => Shape::Number,
        "string" => Shape::Text { shortest: length("minLength"), quoted: format == QUOTED },
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
