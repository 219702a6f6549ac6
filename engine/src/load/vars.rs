//! Variables: `${name}` in strings, variables that use variables, `$${` for a literal `${`.
//! Knows text and names; knows no target and no rule.

use std::collections::HashMap;

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};

use super::diag::{Diagnostic, Span};
use super::names::{Hinter, is_var_name, quote};
use super::yaml::{Key, Node, Style, Value};

/// No string grows past this by replacement.
const LONGEST: usize = 1 << 20;
/// Nor do all strings together.
const TOTAL: usize = 64 << 20;

/// The default of `epoch`: 2025-01-01, and never 0, which tools take for "not set".
pub const EPOCH: &str = "1735689600";
/// Variables that exist without being declared.
pub const RESERVED: [&str; 2] = ["arch", "epoch"];

/// A variable before replacement.
#[derive(Debug, Clone)]
pub struct Decl {
    /// Its text.
    pub text: String,
    /// Where the text stands; none for `--set` and reserved ones.
    pub span: Option<Span>,
}

/// Variables with their final text.
#[derive(Debug, Default)]
pub struct Vars {
    values: HashMap<String, String>,
    /// Names in the order of the file, for suggestions.
    names: Vec<String>,
    spent: usize,
    cyclic: bool,
}

enum Part<'t> {
    Text(&'t str),
    Name(&'t str),
    Open,
}

/// Splits a string at its variables.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut out = Vec::new();
    let mut from = 0;
    let mut at = 0;
    while let Some(i) = text[at..].find('$').map(|i| at + i) {
        if text[i..].starts_with("$${") {
            out.push(Part::Text(&text[from..i]));
            out.push(Part::Text("${"));
            at = i + 3;
            from = at;
        } else if text[i..].starts_with("${") {
            out.push(Part::Text(&text[from..i]));
            match text[i + 2..].find('}') {
                Some(end) => {
                    out.push(Part::Name(&text[i + 2..i + 2 + end]));
                    at = i + 3 + end;
                    from = at;
                }
                None => {
                    out.push(Part::Open);
                    return out;
                }
            }
        } else {
            at = i + 1;
        }
    }
    out.push(Part::Text(&text[from..]));
    out
}

impl Vars {
    /// Puts the texts of variables into each other. `source` is the file, to point at a name inside a string.
    pub fn resolve(
        decls: &[(String, Decl)],
        source: &str,
        hints: &Hinter,
        out: &mut Vec<Diagnostic>,
    ) -> Vars {
        let mut vars =
            Vars { names: decls.iter().map(|(name, _)| name.clone()).collect(), ..Vars::default() };
        let index: HashMap<&str, usize> =
            decls.iter().enumerate().map(|(i, (name, _))| (name.as_str(), i)).collect();
        let mut graph: DiGraph<(), ()> = DiGraph::new();
        for _ in decls {
            graph.add_node(());
        }
        for (i, (_, decl)) in decls.iter().enumerate() {
            for part in parts(&decl.text) {
                if let Part::Name(name) = part
                    && let Some(&j) = index.get(name)
                {
                    graph.add_edge(NodeIndex::new(j), NodeIndex::new(i), ());
                }
            }
        }
        let order = match toposort(&graph, None) {
            Ok(order) => order,
            Err(_) => {
                for group in kosaraju_scc(&graph) {
                    let mut members: Vec<usize> = group.iter().map(|n| n.index()).collect();
                    members.sort_unstable();
                    let first = members[0];
                    let itself = graph.contains_edge(NodeIndex::new(first), NodeIndex::new(first));
                    if members.len() > 1 || itself {
                        out.push(cycle(decls, &index, &members));
                    }
                }
                Vec::new()
            }
        };
        if order.is_empty() {
            // In a cycle nothing has a value; every name still exists, so that no use of it is called unknown.
            vars.values = decls.iter().map(|(name, _)| (name.clone(), String::new())).collect();
            vars.cyclic = true;
            return vars;
        }
        for node in order {
            let Some((name, decl)) = decls.get(node.index()) else { continue };
            let place = decl.span.unwrap_or_default();
            let mut found = Vec::new();
            let text =
                vars.replace(&decl.text, place, source, hints, &mut found).unwrap_or(decl.text.clone());
            if decl.span.is_none() {
                for problem in &mut found {
                    problem.span = None;
                    problem.message = format!("--set {name}: {}", problem.message);
                }
            }
            out.append(&mut found);
            vars.values.insert(name.clone(), text);
        }
        vars
    }

    /// The final text of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether they use each other in a cycle, so that none has a text.
    pub fn cyclic(&self) -> bool {
        self.cyclic
    }

    /// All variables, sorted by name.
    pub fn sorted(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = self.values.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        all.sort();
        all
    }

    /// The text with its variables replaced; none if there are none in it.
    fn replace(
        &mut self,
        text: &str,
        span: Span,
        source: &str,
        hints: &Hinter,
        out: &mut Vec<Diagnostic>,
    ) -> Option<String> {
        if !text.contains("${") {
            return None;
        }
        let mut result = String::new();
        for part in parts(text) {
            match part {
                Part::Text(text) => result.push_str(text),
                Part::Open => {
                    let problem =
                        Diagnostic::at("unknown-var", within(source, span, "${"), "`${` is not closed");
                    out.push(problem.help("a literal `${` is written `$${`"));
                }
                Part::Name(name) => match self.values.get(name) {
                    Some(value) => {
                        self.spent += value.len();
                        if result.len() + value.len() > LONGEST || self.spent > TOTAL {
                            let message = "variables make the text too large";
                            let place = within(source, span, &format!("${{{name}}}"));
                            let limit = format!("a string may grow to {} MiB", LONGEST >> 20);
                            out.push(Diagnostic::at("too-large", place, message).label(limit));
                            return Some(result);
                        }
                        result.push_str(value);
                    }
                    None => out.push(self.unknown(name, span, source, hints)),
                },
            }
        }
        Some(result)
    }

    fn unknown(&self, name: &str, span: Span, source: &str, hints: &Hinter) -> Diagnostic {
        let near = hints.nearest(name, self.names.iter().map(String::as_str));
        let place = within(source, span, &format!("${{{name}}}"));
        let problem = Diagnostic::at("unknown-var", place, format!("unknown variable {}", quote(name)));
        match near {
            Some(_) => problem.nearest(near),
            None if is_var_name(name) => {
                problem.label("not declared in `vars`").help("a literal `${` is written `$${`")
            }
            None => problem.label("this cannot be a variable's name").help(
                "a literal `${` is written `$${`; scripts (`run`, `build`) are left to the shell as they are",
            ),
        }
    }

    /// Replaces in every string below a node: values and keys, except under the named fields at the top.
    pub fn apply(
        &mut self,
        node: &mut Node,
        except: &[&str],
        source: &str,
        hints: &Hinter,
        out: &mut Vec<Diagnostic>,
    ) {
        let span = node.span;
        match &mut node.value {
            Value::Null => {}
            Value::Scalar { text, style } => {
                if let Some(new) = self.replace(text, span, source, hints, out) {
                    *style = Style::Var;
                    *text = new;
                }
            }
            Value::Seq(items) => items.iter_mut().for_each(|n| self.apply(n, &[], source, hints, out)),
            Value::Map(entries) => {
                let mut renamed = false;
                for (key, node) in entries.iter_mut() {
                    if except.contains(&key.text.as_str()) {
                        continue;
                    }
                    if let Some(new) = self.replace(&key.text, key.span, source, hints, out) {
                        key.text = new;
                        renamed = true;
                    }
                    self.apply(node, &[], source, hints, out);
                }
                if renamed {
                    drop_repeats(entries, out);
                }
            }
        }
    }
}

/// Reports keys that variables made equal, and keeps the first of each.
fn drop_repeats(entries: &mut Vec<(Key, Node)>, out: &mut Vec<Diagnostic>) {
    let mut first: HashMap<String, Span> = HashMap::new();
    entries.retain(|(key, _)| match first.get(&key.text) {
        Some(&before) => {
            let message = format!("key {} is given twice", quote(&key.text));
            let problem = Diagnostic::at("duplicate-key", key.span, message);
            out.push(
                problem.label("given again here, by a variable's text").related(before, "first given here"),
            );
            false
        }
        None => {
            first.insert(key.text.clone(), key.span);
            true
        }
    });
}

fn cycle(decls: &[(String, Decl)], index: &HashMap<&str, usize>, members: &[usize]) -> Diagnostic {
    // Follow first uses inside the group until a variable comes again: that is a cycle.
    let mut path = vec![members[0]];
    let last = loop {
        let at = path[path.len() - 1];
        let uses = parts(&decls[at].1.text).into_iter().filter_map(|part| match part {
            Part::Name(name) => index.get(name).copied().filter(|j| members.contains(j)),
            _ => None,
        });
        match uses.into_iter().next() {
            Some(next) if path.contains(&next) => break next,
            Some(next) => path.push(next),
            None => break at,
        }
    };
    let from = path.iter().position(|&p| p == last).unwrap_or_default();
    let path = &path[from..];
    let mut names: Vec<&str> = path.iter().map(|&i| decls[i].0.as_str()).collect();
    names.push(&decls[last].0);
    let message = format!("variables use each other in a cycle: {}", names.join(" → "));
    let mut places = path.iter().enumerate().filter_map(|(i, &at)| {
        decls[at].1.span.map(|span| (span, format!("{} uses {}", quote(names[i]), quote(names[i + 1]))))
    });
    match places.next() {
        Some((span, label)) => {
            let mut problem = Diagnostic::at("cycle", span, message).label(label);
            problem.related.extend(places);
            problem
        }
        None => Diagnostic::bare("cycle", message),
    }
}

/// The place of a piece of a string, where the string stands in the file as it is; else the whole string.
fn within(source: &str, span: Span, piece: &str) -> Span {
    let Some(text) = source.get(span.start..span.end) else { return span };
    let mut from = 0;
    while let Some(i) = text[from..].find(piece).map(|i| from + i) {
        if i > 0 && text.as_bytes()[i - 1] == b'$' && text[i..].starts_with("${") {
            from = i + 1;
            continue;
        }
        return Span { start: span.start + i, end: span.start + i + piece.len() };
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(pairs: &[(&str, &str)], text: &str) -> (String, usize) {
        let decls: Vec<(String, Decl)> = pairs
            .iter()
            .map(|(name, text)| (name.to_string(), Decl { text: text.to_string(), span: None }))
            .collect();
        let mut out = Vec::new();
        let hints = Hinter::default();
        let mut vars = Vars::resolve(&decls, "", &hints, &mut out);
        let text = vars.replace(text, Span::default(), "", &hints, &mut out);
        (text.unwrap_or_default(), out.len())
    }

    #[test]
    fn variables_use_variables_in_any_order() {
        let (text, errors) =
            resolved(&[("url", "http/${v}"), ("v", "6.${minor}"), ("minor", "12")], "<${url}>");
        assert_eq!((text.as_str(), errors), ("<http/6.12>", 0));
    }

    #[test]
    fn a_doubled_dollar_is_literal() {
        let (text, errors) = resolved(&[("a", "1")], "$${a} $a $$ ${a}$$${a}");
        assert_eq!((text.as_str(), errors), ("${a} $a $$ 1$${a}", 0));
    }

    #[test]
    fn growth_is_bounded() {
        let text = "${a}".repeat(1000);
        let big = "x".repeat(2000);
        let (text, errors) = resolved(&[("a", &big)], &text);
        assert!(text.len() <= LONGEST);
        assert_eq!(errors, 1);
    }
}
