//! `mosbuild graph`: the targets and what they need, as a tree or a page for people, dot for graphviz, mermaid for
//! documents, JSON for programs.

mod page;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clap::{Args, ValueEnum};
use mosbuild_engine::load::{Loaded, path_text};
use serde_json::{Value as Json, json};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::session::{Access, Session};
use crate::standing::{Standing, State, survey};
use crate::ui::{Paint, Ui};

/// Arguments of `graph`.
#[derive(Args, Debug)]
pub struct GraphArgs {
    /// Only this target and what it needs
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// How a graph is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A tree; what was shown above is not repeated
    Text,
    /// For graphviz
    Dot,
    /// For documents that draw mermaid
    Mermaid,
    /// For programs
    Json,
    /// A page that needs nothing but itself
    Html,
}

type Standings = HashMap<String, Standing>;

/// Shows it.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &GraphArgs) -> Result<u8, Failure> {
    let mut session = Session::open(ui, global, &args.store, Access::Read)?;
    let loaded = session.workspace.loaded.clone();
    let roots = match &args.target {
        Some(name) => vec![session.target(name)?],
        None => roots(&loaded),
    };
    let names = roots.iter().map(|t| session.name(*t).to_owned()).collect();
    let standings = survey(ui, &mut session, names)?;
    let format = if args.json { Format::Json } else { args.format };
    let text = match format {
        Format::Text => text(&loaded, &roots, &standings, ui.color_out),
        Format::Dot => dot(&loaded, &roots, &standings),
        Format::Mermaid => mermaid(&loaded, &roots, &standings),
        Format::Html => page::html(&loaded, &roots, &standings),
        Format::Json => format!("{:#}\n", object(&loaded, &roots, &standings)),
    };
    ui.out(&text)?;
    Ok(0)
}

/// Targets that nothing needs, in the order of the file.
fn roots(loaded: &Loaded) -> Vec<u32> {
    let needed: BTreeSet<u32> =
        loaded.targets.iter().flat_map(|t| t.references.iter().map(|r| r.target)).collect();
    (0..loaded.targets.len() as u32).filter(|t| !needed.contains(t)).collect()
}

/// What a target needs, each once, with the outputs that it takes; in the order of its fields.
fn needs(loaded: &Loaded, target: u32) -> Vec<(u32, Vec<&str>)> {
    let mut all: Vec<(u32, Vec<&str>)> = Vec::new();
    for reference in &loaded.targets[target as usize].references {
        let at = match all.iter().position(|(t, _)| *t == reference.target) {
            Some(at) => at,
            None => {
                all.push((reference.target, Vec::new()));
                all.len() - 1
            }
        };
        if let Some(output) = reference.output.as_deref()
            && !all[at].1.contains(&output)
        {
            all[at].1.push(output);
        }
    }
    all
}

/// The closure of `roots`, each target behind what it needs.
fn closure(loaded: &Loaded, roots: &[u32]) -> Vec<u32> {
    let mut wanted = BTreeSet::new();
    let mut stack = roots.to_vec();
    while let Some(t) = stack.pop() {
        if wanted.insert(t) {
            stack.extend(loaded.targets[t as usize].references.iter().map(|r| r.target));
        }
    }
    loaded.order.iter().copied().filter(|t| wanted.contains(t)).collect()
}

fn text(loaded: &Loaded, roots: &[u32], standings: &Standings, color: bool) -> String {
    let mut out = String::new();
    let mut shown = BTreeSet::new();
    // A stack of what is still to be written, so that a chain of any length is no recursion of that depth.
    let mut stack: Vec<(u32, String, Option<bool>)> =
        roots.iter().rev().map(|t| (*t, String::new(), None)).collect();
    while let Some((t, prefix, last)) = stack.pop() {
        let target = &loaded.targets[t as usize];
        let (branch, below) = match last {
            None => ("", ""),
            Some(false) => ("├── ", "│   "),
            Some(true) => ("└── ", "    "),
        };
        let needs = needs(loaded, t);
        let repeated = !shown.insert(t) && !needs.is_empty();
        let state = standings.get(&target.name).map(|s| &s.state);
        let name = state.map_or(target.name.clone(), |s| s.paint().on(color, &target.name));
        let mut about = target.rule.clone();
        if let Some(state) = state.map(State::text).filter(|s| !s.is_empty()) {
            about = format!("{about}, {state}");
        }
        about.push_str(&copy(loaded, t, ", "));
        if repeated {
            about.push_str(", needs: see above");
        }
        let about = Paint::Dim.on(color, &about);
        out.push_str(&format!("{prefix}{branch}{name}  {about}\n"));
        if repeated {
            continue;
        }
        let prefix = format!("{prefix}{below}");
        let count = needs.len();
        for (at, (need, _)) in needs.into_iter().enumerate().rev() {
            stack.push((need, prefix.clone(), Some(at + 1 == count)));
        }
    }
    out
}

/// Edges run the way things are made: from what is needed to what needs it.
fn dot(loaded: &Loaded, roots: &[u32], standings: &Standings) -> String {
    let mut out = String::from(
        "digraph mosbuild {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=white];\n",
    );
    let closure = closure(loaded, roots);
    for &t in &closure {
        let target = &loaded.targets[t as usize];
        let fill = standings.get(&target.name).map_or("white", |s| fill(&s.state));
        let label = quoted(&format!("{}\n{}{}", target.name, target.rule, copy(loaded, t, "\n")));
        out.push_str(&format!("  {} [label={label}, fillcolor={}];\n", quoted(&target.name), quoted(fill)));
    }
    for &t in &closure {
        let target = &loaded.targets[t as usize];
        for (need, outputs) in needs(loaded, t) {
            let label = edge_label(loaded, need, &outputs).map(|text| format!(" [label={}]", quoted(&text)));
            let from = quoted(&loaded.targets[need as usize].name);
            out.push_str(&format!("  {from} -> {}{};\n", quoted(&target.name), label.unwrap_or_default()));
        }
    }
    out.push_str("}\n");
    out
}

/// As dot; names are numbers, since a word such as `end` would be one of mermaid's own.
fn mermaid(loaded: &Loaded, roots: &[u32], standings: &Standings) -> String {
    let mut out = String::from("graph LR\n");
    let closure = closure(loaded, roots);
    let label = |text: &str| text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
    for &t in &closure {
        let target = &loaded.targets[t as usize];
        let copy = label(&copy(loaded, t, "\n")).replace('\n', "<br>");
        out.push_str(&format!("  t{t}[\"{}<br>{}{copy}\"]\n", label(&target.name), label(&target.rule)));
    }
    for &t in &closure {
        for (need, outputs) in needs(loaded, t) {
            let label = edge_label(loaded, need, &outputs).map(|text| format!("|\"{}\"|", label(&text)));
            out.push_str(&format!("  t{need} -->{} t{t}\n", label.unwrap_or_default()));
        }
    }
    for &t in &closure {
        if let Some(standing) = standings.get(&loaded.targets[t as usize].name) {
            out.push_str(&format!("  style t{t} fill:{},color:#222\n", fill(&standing.state)));
        }
    }
    out
}

/// The working copy that takes the place of a target's source, behind a separator.
fn copy(loaded: &Loaded, target: u32, before: &str) -> String {
    let copy = loaded.overridden(target);
    copy.map(|o| format!("{before}overridden by {}", o.given)).unwrap_or_default()
}

/// The outputs that are taken, where they are not the default one alone.
fn edge_label(loaded: &Loaded, from: u32, outputs: &[&str]) -> Option<String> {
    let first = loaded.targets[from as usize].outputs.first().map(|o| o.name.as_str());
    match outputs {
        [] => None,
        [only] if Some(*only) == first => None,
        several => Some(several.join(", ")),
    }
}

fn fill(state: &State) -> &'static str {
    match state {
        State::Fresh | State::WasBuilt => "#d5f0d5",
        State::Stale(_) | State::New | State::Unlocked | State::Gone => "#fff1c2",
        State::Failed | State::Blocked(_) => "#f7c9c9",
        State::Waits(_) => "#d3e8f7",
        State::Group => "#eeeeee",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn object(loaded: &Loaded, roots: &[u32], standings: &Standings) -> Json {
    let name = |t: u32| loaded.targets[t as usize].name.as_str();
    let targets: Vec<Json> = closure(loaded, roots)
        .into_iter()
        .map(|t| {
            let target = &loaded.targets[t as usize];
            let state = standings.get(&target.name).map(|s| &s.state);
            let needs: Vec<Json> = target
                .references
                .iter()
                .map(|r| json!({"target": name(r.target), "output": r.output, "field": path_text(&r.field)}))
                .collect();
            let outputs: BTreeMap<&str, &str> = target
                .outputs
                .iter()
                .map(|o| {
                    let tree = o.kind == mosbuild_engine::load::OutputKind::Tree;
                    (o.name.as_str(), if tree { "tree" } else { "file" })
                })
                .collect();
            json!({
                "name": target.name,
                "rule": target.rule,
                "line": target.line,
                "state": state.map(State::word),
                "overridden_by": loaded.overridden(t).map(|o| &o.given),
                "blocked": state.and_then(State::blocked),
                "outputs": outputs,
                "needs": needs,
            })
        })
        .collect();
    json!({
        "schema": "mosbuild.graph/1",
        "roots": roots.iter().map(|t| name(*t)).collect::<Vec<_>>(),
        "targets": targets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosbuild_engine::load::{LoadedTarget, OutputDecl, OutputKind, ResolvedRef};

    /// kernel needs linux and initramfs; initramfs needs modules; modules needs linux:modules.
    pub(super) fn graph() -> Loaded {
        let target = |name: &str, needs: &[(u32, Option<&str>)]| LoadedTarget {
            name: name.into(),
            rule: "r".into(),
            value: Default::default(),
            line: 1,
            references: needs
                .iter()
                .map(|(t, o)| ResolvedRef {
                    field: vec!["needs".into()],
                    target: *t,
                    output: o.map(str::to_owned),
                })
                .collect(),
            outputs: vec![OutputDecl { name: "out".into(), kind: OutputKind::File, path: None, field: None }],
            files: Vec::new(),
        };
        let mut loaded = Loaded::default();
        loaded.targets = vec![
            target("linux", &[]),
            target("modules", &[(0, Some("modules"))]),
            target("initramfs", &[(1, Some("out"))]),
            target("kernel", &[(0, None), (2, Some("out"))]),
        ];
        loaded.order = vec![0, 1, 2, 3];
        loaded
    }

    pub(super) fn standings() -> Standings {
        [("linux", State::Fresh), ("modules", State::Stale("inputs changed".into()))]
            .map(|(name, state)| (name.to_owned(), Standing { state, size: None, cost: None }))
            .into()
    }

    #[test]
    fn a_tree_shows_each_subtree_once() {
        let loaded = graph();
        assert_eq!(roots(&loaded), [3]);
        assert_eq!(
            text(&loaded, &[3], &standings(), false),
            "kernel  r\n\
             ├── linux  r, fresh\n\
             └── initramfs  r\n    \
                 └── modules  r, changed (inputs changed)\n        \
                     └── linux  r, fresh\n"
        );
        let twice = text(&loaded, &[2, 3], &standings(), false);
        assert!(twice.contains("└── initramfs  r, needs: see above\n"), "{twice}");
    }

    #[test]
    fn dot_quotes_and_labels_what_is_not_the_default() {
        let mut loaded = graph();
        loaded.targets[0].rule = "a \"b\" \\".into();
        let text = dot(&loaded, &[3], &standings());
        assert!(text.contains(r##""linux" [label="linux\na \"b\" \\", fillcolor="#d5f0d5"];"##), "{text}");
        assert!(text.contains("\"linux\" -> \"modules\" [label=\"modules\"];"), "{text}");
        assert!(text.contains("\"initramfs\" -> \"kernel\";"), "{text}");
    }

    #[test]
    fn mermaid_numbers_names_and_escapes_labels() {
        let mut loaded = graph();
        loaded.targets[0].rule = "a \"b\" <i>".into();
        let text = mermaid(&loaded, &[3], &standings());
        assert!(text.starts_with("graph LR\n  t0[\"linux<br>a &quot;b&quot; &lt;i>\"]\n"), "{text}");
        assert!(text.contains("  t0 -->|\"modules\"| t1\n  t1 --> t2\n  t0 --> t3\n  t2 --> t3\n"), "{text}");
        assert!(
            text.ends_with("  style t0 fill:#d5f0d5,color:#222\n  style t1 fill:#fff1c2,color:#222\n"),
            "{text}"
        );
    }

    #[test]
    fn json_names_fields_and_outputs() {
        let json = object(&graph(), &[1], &standings());
        assert_eq!(json["schema"], "mosbuild.graph/1");
        assert_eq!(json["targets"].as_array().unwrap().len(), 2);
        let needs = &json["targets"][1]["needs"][0];
        assert_eq!((needs["target"].as_str(), needs["output"].as_str()), (Some("linux"), Some("modules")));
        assert_eq!(json["targets"][1]["state"], "changed");
    }
}
