//! References to targets and outputs, the graph that they make, its cycles and order, and paths that overlap.
//! Knows targets by name and what they refer to; knows no rule.

use std::collections::HashMap;
use std::collections::VecDeque;

use petgraph::algo::{kosaraju_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use serde_json::Value as Json;

use super::diag::{Diagnostic, Span};
use super::facts::{OutputDecl, OutputKind, RefKind, RefUse, RuleFacts};
use super::model::{RawTarget, span_of};
use super::names::{Hinter, join, quote};
use super::yaml::{Key, Node};
use super::{DistEntry, ResolvedRef};

/// Written beside what dist names.
const SUMS: [&str; 2] = ["SHA256SUMS", "SHA256SUMS.sig"];

/// The targets of the file, with what is known of each.
pub struct Names<'a> {
    targets: &'a [RawTarget],
    /// Rules and fields; the rule is empty where something is wrong with it.
    values: &'a [(String, Json)],
    /// None where the target's own fields are wrong: then nothing is said about its outputs.
    facts: &'a [Option<RuleFacts>],
    index: HashMap<&'a str, u32>,
    hints: &'a Hinter,
}

impl<'a> Names<'a> {
    /// Indexes targets by name.
    pub fn new(
        targets: &'a [RawTarget],
        values: &'a [(String, Json)],
        facts: &'a [Option<RuleFacts>],
        hints: &'a Hinter,
    ) -> Self {
        let mut index = HashMap::new();
        for (i, target) in targets.iter().enumerate() {
            index.entry(target.name.text.as_str()).or_insert(i as u32);
        }
        Names { targets, values, facts, index, hints }
    }

    /// The target of that name, or an error at the place.
    pub fn target(&self, name: &str, span: Span) -> Result<u32, Diagnostic> {
        self.index.get(name).copied().ok_or_else(|| {
            let problem = Diagnostic::at("unknown-target", span, format!("unknown target {}", quote(name)));
            let near = self.hints.nearest(name, self.targets.iter().map(|t| t.name.text.as_str()));
            match near {
                Some(_) => problem.nearest(near),
                None => problem.label("no target has this name"),
            }
        })
    }

    /// `target` or `target:output`.
    pub fn reference(
        &self,
        text: &str,
        kind: RefKind,
        span: Span,
    ) -> Result<(u32, Option<String>), Diagnostic> {
        let (name, output) = match text.split_once(':') {
            Some((name, output)) => (name, Some(output)),
            None => (text, None),
        };
        let target = self.target(name, span)?;
        if let RefKind::Target | RefKind::Rule(_) = kind {
            return match output {
                None => self.of_rule(target, kind, span).map(|()| (target, None)),
                Some(output) => Err(Diagnostic::at(
                    "wrong-reference",
                    span,
                    format!("a target is wanted here, not its output {}", quote(output)),
                )
                .label(format!("write {}", quote(name)))),
            };
        }
        let Some(facts) = self.facts.get(target as usize).and_then(Option::as_ref) else {
            return Ok((target, output.map(str::to_string)));
        };
        // A tree that is declared as `dir/` may be named so.
        let named = output.map(|output| output.trim_end_matches('/'));
        let found = match named {
            Some(named) => facts.outputs.iter().find(|o| o.name == named),
            None => facts.outputs.first(),
        };
        match output {
            None if kind == RefKind::Any => Ok((target, None)),
            _ if found.is_some() => wanted(text, kind, found, facts, span).map(|output| (target, output)),
            Some(output) => {
                let names = || facts.outputs.iter().map(|o| o.name.as_str());
                let message = format!("target {} has no output {}", quote(name), quote(output));
                let problem = Diagnostic::at("unknown-output", span, message);
                let near = self.hints.nearest(output, names());
                let problem = match near {
                    Some(_) => problem.nearest(near),
                    None => problem.label("no such output"),
                };
                Err(match facts.outputs.is_empty() {
                    true => problem.note(format!("{} has no outputs", quote(name))),
                    false => problem.note(format!("its outputs are {}", join(names(), "and"))),
                })
            }
            None => {
                let message = format!("target {} has no output", quote(name));
                let problem = Diagnostic::at("unknown-output", span, message);
                Err(problem.label("an output is wanted here").note(format!("{} has no outputs", quote(name))))
            }
        }
    }

    /// An error if a target of another rule is wanted; one whose fields are wrong is left alone.
    fn of_rule(&self, target: u32, kind: RefKind, span: Span) -> Result<(), Diagnostic> {
        let (RefKind::Rule(wanted), Some((rule, _))) = (kind, self.values.get(target as usize)) else {
            return Ok(());
        };
        if rule.is_empty() || rule == wanted {
            return Ok(());
        }
        let name = quote(&self.targets[target as usize].name.text);
        let problem = Diagnostic::at("wrong-reference", span, format!("{name} is of rule {}", quote(rule)));
        Err(problem.label(format!("a target of rule {} is wanted here", quote(wanted))))
    }

    /// All references of one target.
    pub fn references(&self, at: usize, uses: &[RefUse], out: &mut Vec<Diagnostic>) -> Vec<ResolvedRef> {
        let mut refs = Vec::with_capacity(uses.len());
        for used in uses {
            let span = || span_of(&used.field, &self.targets[at].node);
            match self.reference(&used.text, used.kind, Span::default()) {
                Ok((target, output)) => refs.push(ResolvedRef { field: used.field.clone(), target, output }),
                Err(problem) => out.push(Diagnostic { span: Some(span()), ..problem }),
            }
        }
        refs
    }

    /// The entries of `dist`: path templates to outputs.
    pub fn dist(&self, entries: &[(Key, Node)], out: &mut Vec<Diagnostic>) -> Vec<DistEntry> {
        let mut dist = Vec::new();
        let mut paths = Vec::new();
        for (key, node) in entries {
            let what = "a path in `dist`";
            let checked = out_path(&key.text, what).and_then(|()| match key.text.as_str() {
                text if SUMS.contains(&text) => {
                    Err(not_a_path(text, what, "mosbuild writes this file itself"))
                }
                text if text.ends_with('/') => {
                    Err(not_a_path(text, what, "it is a file's: a tree is placed as one .tar"))
                }
                _ => Ok(()),
            });
            if let Err(problem) = checked {
                out.push(Diagnostic { span: Some(key.span), ..problem });
                continue;
            }
            self.placeholders(key, out);
            paths.push((key.text.clone(), key.span));
            let Some(text) = node.text() else { continue };
            match self.reference(text, RefKind::Output, node.span) {
                Ok((target, Some(output))) => {
                    dist.push(DistEntry { path: key.text.clone(), target, output: Some(output) });
                }
                // Without an output: the target's own errors are said already.
                Ok((_, None)) => {}
                Err(problem) => out.push(problem),
            }
        }
        overlaps("`dist`", &paths, out);
        dist
    }

    /// An error unless builds of the target tell this fact.
    fn fact(&self, target: u32, fact: &str, span: Span) -> Option<Diagnostic> {
        let known = &self.facts.get(target as usize)?.as_ref()?.facts;
        if known.contains(&fact) {
            return None;
        }
        let name = quote(&self.targets[target as usize].name.text);
        let problem =
            Diagnostic::at("unknown-fact", span, format!("target {name} has no fact {}", quote(fact)));
        let near = self.hints.nearest(fact, known.iter().copied());
        let problem = match near {
            Some(_) => problem.nearest(near),
            None => problem.label("no such fact"),
        };
        Some(match known.is_empty() {
            true => problem.note(format!("{name} has no facts")),
            false => problem.note(format!("its facts are {}", join(known.iter().copied(), "and"))),
        })
    }

    /// `{target.fact}` in a path: both must exist; what the fact is, is known only when the target is built.
    fn placeholders(&self, key: &Key, out: &mut Vec<Diagnostic>) {
        let mut rest = key.text.as_str();
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}').map(|i| open + i) else {
                let problem = Diagnostic::at("wrong-value", key.span, "`{` is not closed");
                out.push(problem.label("as in `{linux.version}`"));
                return;
            };
            let inner = &rest[open + 1..close];
            match inner.rsplit_once('.') {
                Some((target, fact)) if !fact.is_empty() => match self.target(target, key.span) {
                    Ok(index) => out.extend(self.fact(index, fact, key.span)),
                    Err(problem) => out.push(problem),
                },
                _ => {
                    let message = format!("{} is not `{{target.fact}}`", quote(&format!("{{{inner}}}")));
                    out.push(
                        Diagnostic::at("wrong-value", key.span, message).label("as in `{linux.version}`"),
                    );
                }
            }
            rest = &rest[close + 1..];
        }
    }
}

/// The output's name, if it is of the kind that the reference is to name.
fn wanted(
    text: &str,
    kind: RefKind,
    output: Option<&OutputDecl>,
    facts: &RuleFacts,
    span: Span,
) -> Result<Option<String>, Diagnostic> {
    let (is, wanted) = match (kind, output.map(|o| o.kind)) {
        (RefKind::File, Some(OutputKind::Tree)) => ("tree", "file"),
        (RefKind::Tree, Some(OutputKind::File)) => ("file", "tree"),
        _ => return Ok(output.map(|o| o.name.clone())),
    };
    let problem = Diagnostic::at("wrong-reference", span, format!("{} is a {is}", quote(text)));
    let mut problem = problem.label(format!("a {wanted} is wanted here"));
    let kind = if wanted == "tree" { OutputKind::Tree } else { OutputKind::File };
    let others: Vec<&str> =
        facts.outputs.iter().filter(|o| o.kind == kind).map(|o| o.name.as_str()).collect();
    if !others.is_empty() {
        let name = text.split(':').next().unwrap_or(text);
        problem = problem.note(format!("the {wanted}s of {} are {}", quote(name), join(others, "and")));
    }
    Err(problem)
}

/// The graph of targets, dependency to dependent; an edge holds the number of the reference that makes it.
pub type Graph = DiGraph<u32, u32>;

/// Builds the graph from resolved references.
pub fn graph(references: &[Vec<ResolvedRef>]) -> Graph {
    let edges = references.iter().map(Vec::len).sum();
    let mut graph = DiGraph::with_capacity(references.len(), edges);
    for i in 0..references.len() {
        graph.add_node(i as u32);
    }
    for (i, refs) in references.iter().enumerate() {
        for (n, reference) in refs.iter().enumerate() {
            graph.add_edge(NodeIndex::new(reference.target as usize), NodeIndex::new(i), n as u32);
        }
    }
    graph
}

/// Targets in an order in which each comes behind what it needs; or each cycle as an error.
pub fn order(
    graph: &Graph,
    targets: &[RawTarget],
    references: &[Vec<ResolvedRef>],
    out: &mut Vec<Diagnostic>,
) -> Vec<u32> {
    if let Ok(order) = toposort(graph, None) {
        return order.into_iter().map(|n| n.index() as u32).collect();
    }
    for group in kosaraju_scc(graph) {
        // A target in the group that comes first in the file begins the path.
        let Some(first) = group.iter().copied().min() else { continue };
        if group.len() > 1 || graph.contains_edge(first, first) {
            out.push(cycle(graph, first, targets, references));
        }
    }
    Vec::new()
}

/// The shortest cycle through a target, as an error with each hop's place.
fn cycle(
    graph: &Graph,
    first: NodeIndex,
    targets: &[RawTarget],
    references: &[Vec<ResolvedRef>],
) -> Diagnostic {
    // Breadth first along "needs": edges backwards, from the target until it is met again.
    let mut came: HashMap<NodeIndex, (NodeIndex, u32)> = HashMap::new();
    let mut queue = VecDeque::from([first]);
    'search: while let Some(node) = queue.pop_front() {
        let mut needs: Vec<(u32, NodeIndex)> =
            graph.edges_directed(node, petgraph::Incoming).map(|e| (*e.weight(), e.source())).collect();
        needs.sort_unstable();
        for (reference, needed) in needs {
            if let std::collections::hash_map::Entry::Vacant(entry) = came.entry(needed) {
                entry.insert((node, reference));
                if needed == first {
                    break 'search;
                }
                queue.push_back(needed);
            }
        }
    }
    let mut hops: Vec<(usize, u32, usize)> = Vec::new();
    let mut at = first;
    while let Some(&(from, reference)) = came.get(&at) {
        hops.push((from.index(), reference, at.index()));
        at = from;
        if at == first {
            break;
        }
    }
    hops.reverse();
    let name = |i: usize| targets[i].name.text.as_str();
    let mut path: Vec<&str> = hops.iter().map(|&(from, ..)| name(from)).collect();
    path.push(name(first.index()));
    let shown = if path.len() > 24 {
        let (head, tail) = (path[..12].join(" → "), path[path.len() - 11..].join(" → "));
        format!("{head} → … {} more … → {tail}", path.len() - 23)
    } else {
        path.join(" → ")
    };
    let mut places = hops.iter().take(12).map(|&(from, reference, to)| {
        let node = &targets[from].node;
        let span = references[from].get(reference as usize).map_or(node.span, |r| span_of(&r.field, node));
        (span, format!("{} needs {}", quote(name(from)), quote(name(to))))
    });
    let (span, label) = places.next().unwrap_or((targets[first.index()].name.span, String::new()));
    let mut problem =
        Diagnostic::at("cycle", span, format!("targets need each other in a cycle: {shown}")).label(label);
    problem.related.extend(places);
    problem
}

/// Checks the paths of one target's outputs: below `$OUT`, and none the same as or inside of another.
pub fn outputs(target: &RawTarget, facts: &RuleFacts, out: &mut Vec<Diagnostic>) {
    let mut paths = Vec::new();
    let mut names: HashMap<&str, Span> = HashMap::new();
    for output in &facts.outputs {
        let span = output.field.as_ref().map_or(target.name.span, |f| span_of(f, &target.node));
        if let Some(path) = &output.path {
            if let Err(problem) = out_path(path, "an output's path") {
                out.push(Diagnostic { span: Some(span), ..problem });
                continue;
            }
            paths.push((path.clone(), span));
        }
        match names.get(output.name.as_str()) {
            Some(&first) if output.path.is_none() => {
                let message =
                    format!("target {} has two outputs {}", quote(&target.name.text), quote(&output.name));
                let problem = Diagnostic::at("overlapping-outputs", span, message).label("again here");
                out.push(if first == span { problem } else { problem.related(first, "first here") });
            }
            _ => {
                names.insert(&output.name, span);
            }
        }
    }
    overlaps(&format!("the outputs of target {}", quote(&target.name.text)), &paths, out);
}

/// A path below an output folder: relative, without `..`.
fn out_path(path: &str, what: &str) -> Result<(), Diagnostic> {
    let why = if path.split('/').all(|part| matches!(part, "" | ".")) {
        "it is empty"
    } else if path.starts_with('/') {
        "it is absolute"
    } else if path.split('/').any(|part| part == "..") {
        "`..` leaves the output folder"
    } else {
        return Ok(());
    };
    Err(not_a_path(path, what, why))
}

fn not_a_path(path: &str, what: &str, why: &str) -> Diagnostic {
    let message = format!("{} cannot be {what}", quote(path));
    Diagnostic::at("wrong-value", Span::default(), message).label(why)
}

/// Reports each path that is the same as another or lies inside of it.
fn overlaps(whose: &str, paths: &[(String, Span)], out: &mut Vec<Diagnostic>) {
    let clean = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_string).collect()
    };
    let mut sorted: Vec<(Vec<String>, usize)> =
        paths.iter().enumerate().map(|(i, (path, _))| (clean(path), i)).collect();
    // Sorted by components, what lies inside of a path follows it directly.
    sorted.sort();
    let mut open: Option<usize> = None;
    for at in 0..sorted.len() {
        if let Some(outer) = open
            && sorted[at].0.starts_with(&sorted[outer].0)
        {
            let ((outer_parts, a), (inner_parts, b)) = (&sorted[outer], &sorted[at]);
            let same = outer_parts.len() == inner_parts.len();
            let (a, b) = (&paths[*a], &paths[*b]);
            let how = if same {
                "are the same path".to_string()
            } else {
                format!("overlap: {} is inside of {}", quote(&b.0), quote(&a.0))
            };
            let message = if same {
                format!("two of {whose} {how}: {}", quote(&a.0))
            } else {
                format!("two of {whose} {how}")
            };
            // The pointer is at the later one in the file, whichever of the two that is.
            let (early, late) = if a.1 <= b.1 { (a, b) } else { (b, a) };
            let problem = Diagnostic::at("overlapping-outputs", late.1, message).label("overlaps");
            out.push(if early.1 == late.1 { problem } else { problem.related(early.1, "with this one") });
        } else {
            open = Some(at);
        }
    }
}
