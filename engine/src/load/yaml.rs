//! YAML text to a tree of nodes with their places. Scalars stay text: `3.20` is not a number and `no` not a bool.
//! Knows limits on size, depth and aliases; knows nothing of what mosbuild.yaml means.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use super::diag::{Diagnostic, Span};
use super::lines::Lines;
use super::names::quote;

/// Bounds on what is read.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: usize,
    /// Nested lists and maps.
    pub depth: usize,
    /// Scalars, lists and maps in all.
    pub nodes: usize,
    /// What aliases may add: nodes, and one for each 16 bytes of their text.
    pub aliased: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 16 << 20, depth: 64, nodes: 1_000_000, aliased: 100_000 }
    }
}

/// Keys of a map that are looked through one by one.
const FEW: usize = 16;

/// A value with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it stands; for one that came through an alias, where the alias stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing was written.
    Null,
    /// Text.
    Scalar {
        /// The text, unescaped.
        text: String,
        /// How it was written.
        style: Style,
    },
    /// A list.
    Seq(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// How a scalar was written: what a field makes of the same text depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: a number, a boolean or nothing where such a thing is wanted.
    Plain,
    /// In quotes or as a block: text and nothing else.
    Quoted,
    /// Made of variables: typed by the field that takes it, and never nothing.
    Var,
}

/// A key of a map with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The text, unescaped.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The entries of a map; none of anything else.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; a scalar is a list of one.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Seq(items) => items,
            Value::Scalar { .. } => std::slice::from_ref(self),
            _ => &[],
        }
    }

    /// [`Node::entries`], taken out.
    pub fn into_entries(self) -> Vec<(Key, Node)> {
        match self.value {
            Value::Map(entries) => entries,
            _ => Vec::new(),
        }
    }

    /// [`Node::items`], taken out.
    pub fn into_items(self) -> Vec<Node> {
        match self.value {
            Value::Seq(items) => items,
            Value::Scalar { .. } => vec![self],
            _ => Vec::new(),
        }
    }

    /// The entry of a map with that key.
    pub fn entry(&self, key: &str) -> Option<&(Key, Node)> {
        self.entries().iter().find(|(k, _)| k.text == key)
    }

    /// The value of a map under that key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, node)| node)
    }

    /// Whether nothing is there: no text, or a plain `~` or `null`.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar { text, style: Style::Plain } => {
                matches!(text.as_str(), "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }
}

/// What came of parsing: the tree if there is one, and all that is wrong with the text.
#[derive(Debug)]
pub struct Parsed {
    /// The document's root; none if the text cannot be read as YAML at all.
    pub root: Option<Node>,
    /// Errors: one that ended the parse, or any number of duplicate keys.
    pub problems: Vec<Diagnostic>,
}

/// Checks size and encoding, and gives the text without a byte order mark's harm.
pub fn decode<'a>(bytes: &'a [u8], file: &str, limits: &Limits) -> Result<&'a str, Diagnostic> {
    if bytes.len() > limits.bytes {
        let limit = limits.bytes >> 20;
        return Err(Diagnostic::bare("too-large", format!("{file} is larger than {limit} MiB"))
            .note("it declares a build; data belongs in files that it names"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let start = e.valid_up_to();
        let byte = bytes.get(start).copied().unwrap_or_default();
        Diagnostic::at("not-utf8", Span { start, end: start + 3 }, format!("{file} is not UTF-8"))
            .label(format!("byte 0x{byte:02x} is not valid here"))
            .help("save the file as UTF-8")
    })?;
    let control = |c: char| (c.is_control() && !"\t\n\r\u{85}".contains(c)) || c == '\u{feff}';
    match text.char_indices().find(|&(i, c)| control(c) && !(i == 0 && c == '\u{feff}')) {
        Some((start, c)) => {
            let message = format!("a control character (U+{:04X}) in {file}", u32::from(c));
            let span = Span { start, end: start + c.len_utf8() };
            Err(Diagnostic::at("broken-yaml", span, message).label("YAML allows none here"))
        }
        None => Ok(text),
    }
}

/// Parses one document.
pub fn parse(text: &str, limits: &Limits) -> Parsed {
    // The mark counts as part of the first line; the parser would count it as a column or not, by version.
    let (body, base) = match text.strip_prefix('\u{feff}') {
        Some(body) => (body, text.len() - body.len()),
        None => (text, 0),
    };
    let mut builder = Builder {
        lines: Lines::new(body, base),
        limits,
        stack: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        aliased: 0,
        root: None,
        documents: 0,
        problems: Vec::new(),
    };
    match builder.run(Parser::new_from_str(body)) {
        Ok(()) if builder.root.is_none() => {
            let problem = Diagnostic::at("empty", Span::default(), "the file declares nothing")
                .help("begin with `mosbuild: 1`");
            builder.problems.push(problem);
        }
        Ok(()) => {}
        Err(problem) => {
            builder.root = None;
            builder.problems.push(*problem);
        }
    }
    Parsed { root: builder.root, problems: builder.problems }
}

enum Items {
    Seq(Vec<Node>),
    Map(Entries),
}

/// A map under construction.
#[derive(Default)]
struct Entries {
    entries: Vec<(Key, Node)>,
    /// The key whose value comes next.
    key: Option<Key>,
    /// Values under `<<`.
    merges: Vec<Node>,
    /// Keys by name, once there are too many to look through.
    index: HashMap<String, Span>,
}

impl Entries {
    fn find(&self, name: &str) -> Option<Span> {
        if self.entries.len() <= FEW {
            return self.entries.iter().find(|(key, _)| key.text == name).map(|(key, _)| key.span);
        }
        self.index.get(name).copied()
    }

    fn push(&mut self, key: Key, node: Node) {
        self.entries.push((key, node));
        // At the crossing all keys so far enter the index, then each new one.
        let from = match self.entries.len() {
            n if n <= FEW => return,
            n if n == FEW + 1 => 0,
            n => n - 1,
        };
        for (key, _) in &self.entries[from..] {
            self.index.insert(key.text.clone(), key.span);
        }
    }
}

struct Frame {
    items: Items,
    start: Span,
    anchor: usize,
    /// Height of the highest child so far: an alias must not nest deeper than the limit either.
    height: usize,
    weight: usize,
}

struct Anchor {
    node: Node,
    height: usize,
    weight: usize,
}

struct Builder<'a> {
    lines: Lines<'a>,
    limits: &'a Limits,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchor>,
    nodes: usize,
    aliased: usize,
    root: Option<Node>,
    documents: usize,
    problems: Vec<Diagnostic>,
}

type Fatal = Box<Diagnostic>;

impl<'a> Builder<'a> {
    fn run(&mut self, mut parser: Parser<'a, StrInput<'a>>) -> Result<(), Fatal> {
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|e| {
                let start = self.lines.offset(e.marker());
                // The parser looks ahead in flows, and meets its own limit before ours.
                if e.info().contains("recursion limit") {
                    return Box::new(self.too_deep(Span { start, end: start }));
                }
                let problem =
                    Diagnostic::at("broken-yaml", Span { start, end: start }, "this is not valid YAML");
                Box::new(problem.label(e.info().to_string()))
            })?;
            let span = self.lines.span(span);
            match event {
                Event::DocumentStart(_) => {
                    self.documents += 1;
                    if self.documents > 1 {
                        let problem = Diagnostic::at("broken-yaml", span, "a second document in the file");
                        return Err(Box::new(problem.label("the file holds one document")));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.count(span)?;
                    refuse_tag(tag.is_some(), span)?;
                    let plain = style == ScalarStyle::Plain;
                    let style = if plain { Style::Plain } else { Style::Quoted };
                    // The parser gives `~` both for a written one and for nothing.
                    let value = if plain && (text.is_empty() || (text == "~" && span.start == span.end)) {
                        Value::Null
                    } else {
                        Value::Scalar { text: text.into_owned(), style }
                    };
                    let weight = 1 + value_len(&value) / 16;
                    self.add(Node { span, value }, anchor, 0, weight)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    refuse_tag(tag.is_some(), span)?;
                    self.open(Items::Seq(Vec::new()), span, anchor)?;
                }
                Event::MappingStart(anchor, tag) => {
                    refuse_tag(tag.is_some(), span)?;
                    self.open(Items::Map(Entries::default()), span, anchor)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
                Event::Alias(id) => self.alias(id, span)?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, span: Span) -> Result<(), Fatal> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            let message = format!("more than {} values in the file", self.limits.nodes);
            return Err(Box::new(Diagnostic::at("too-large", span, message).label("reading stops here")));
        }
        Ok(())
    }

    fn open(&mut self, items: Items, span: Span, anchor: usize) -> Result<(), Fatal> {
        self.count(span)?;
        if self.stack.len() >= self.limits.depth {
            return Err(Box::new(self.too_deep(span)));
        }
        self.stack.push(Frame { items, start: span, anchor, height: 0, weight: 1 });
        Ok(())
    }

    fn too_deep(&self, span: Span) -> Diagnostic {
        let message = format!("nested deeper than {} levels", self.limits.depth);
        Diagnostic::at("too-deep", span, message).label("this is one too many")
    }

    fn close(&mut self, end: Span) -> Result<(), Fatal> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let value = match frame.items {
            Items::Seq(items) => Value::Seq(items),
            Items::Map(mut map) => {
                for (key, node) in std::mem::take(&mut map.merges).into_iter().flat_map(merged) {
                    // What the map says itself wins over what it merges; an earlier merge wins over a later one.
                    if map.find(&key.text).is_none() {
                        map.push(key, node);
                    }
                }
                Value::Map(map.entries)
            }
        };
        let span = Span { start: frame.start.start, end: end.end.max(frame.start.end) };
        self.add(Node { span, value }, frame.anchor, frame.height + 1, frame.weight)
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Fatal> {
        let Some(anchor) = self.anchors.get(&id) else {
            let problem = Diagnostic::at("alias", span, "an alias stands inside of what it names");
            return Err(Box::new(problem.label("this would never end")));
        };
        let (height, weight) = (anchor.height, anchor.weight);
        self.aliased += weight;
        if self.aliased > self.limits.aliased {
            let message = format!("anchors and aliases make more than {} values", self.limits.aliased);
            return Err(Box::new(Diagnostic::at("alias", span, message).label("the limit is passed here")));
        }
        if self.stack.len() + height > self.limits.depth {
            return Err(Box::new(self.too_deep(span)));
        }
        let mut node = anchor.node.clone();
        node.span = span;
        self.add(node, 0, height, weight)
    }

    /// A finished node goes to its parent, as key or value.
    fn add(&mut self, node: Node, anchor: usize, height: usize, weight: usize) -> Result<(), Fatal> {
        if anchor != 0 {
            // An anchored node is kept once more: nested anchors would double it at each level.
            self.aliased += weight;
            if self.aliased > self.limits.aliased {
                let message = format!("anchors and aliases make more than {} values", self.limits.aliased);
                return Err(Box::new(
                    Diagnostic::at("alias", node.span, message).label("the limit is passed here"),
                ));
            }
            self.anchors.insert(anchor, Anchor { node: node.clone(), height, weight });
        }
        let depth = self.stack.len();
        let in_targets = depth == 2
            && matches!(&self.stack[0].items, Items::Map(Entries { key: Some(key), .. }) if key.text == "targets");
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.height = frame.height.max(height);
        frame.weight += weight;
        match &mut frame.items {
            Items::Seq(items) => items.push(node),
            Items::Map(map) => match map.key.take() {
                None => {
                    let text = match node.value {
                        Value::Scalar { text, .. } => text,
                        Value::Null => String::new(),
                        _ => {
                            let problem =
                                Diagnostic::at("broken-yaml", node.span, "a key must be a plain name");
                            return Err(Box::new(problem.label("a list or map cannot be a key")));
                        }
                    };
                    map.key = Some(Key { text, span: node.span });
                }
                Some(key) if key.text == "<<" => {
                    if !node.entries().is_empty()
                        || node.items().iter().all(|n| matches!(n.value, Value::Map(_)))
                    {
                        map.merges.push(node);
                    } else {
                        let problem =
                            Diagnostic::at("wrong-type", node.span, "`<<` merges a map or a list of maps");
                        self.problems.push(problem.label("this is neither"));
                    }
                }
                Some(key) => match map.find(&key.text) {
                    Some(first) => {
                        let name = quote(&key.text);
                        let problem = if in_targets {
                            Diagnostic::at(
                                "duplicate-target",
                                key.span,
                                format!("target {name} is declared twice"),
                            )
                        } else {
                            Diagnostic::at("duplicate-key", key.span, format!("key {name} is given twice"))
                        };
                        self.problems
                            .push(problem.label("given again here").related(first, "first given here"));
                    }
                    None => map.push(key, node),
                },
            },
        }
        Ok(())
    }
}

fn merged(node: Node) -> Vec<(Key, Node)> {
    match node.value {
        Value::Map(entries) => entries,
        Value::Seq(items) => items.into_iter().flat_map(merged).collect(),
        _ => Vec::new(),
    }
}

fn value_len(value: &Value) -> usize {
    match value {
        Value::Scalar { text, .. } => text.len(),
        _ => 0,
    }
}

fn refuse_tag(tagged: bool, span: Span) -> Result<(), Fatal> {
    if tagged {
        let problem = Diagnostic::at("broken-yaml", span, "a YAML tag (`!…`)");
        return Err(Box::new(problem.label("tags are not used here; quote the text if it begins with `!`")));
    }
    Ok(())
}
