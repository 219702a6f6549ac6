//! `mosbuild show`: all that is known of one target, read off its plan, its action records and its results.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use mosbuild_cache::{ActionResult, Digest};
use mosbuild_engine::action::Input;
use mosbuild_engine::load::OutputKind;
use mosbuild_engine::record::{ActionRecord, IMAGE, Part, Value};
use mosbuild_engine::run_record::Runs;
use mosbuild_engine::why::path_of;
use serde_json::{Value as Json, json};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::format::{count, duration, size};
use crate::session::{Access, Session};
use crate::standing::{Forecasted, Standing, State, reason_text, standings, try_forecast};
use crate::ui::{Paint, Ui};

/// Rows of a list of inputs before the rest is only counted.
const ROWS: usize = 30;

/// Arguments of `show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The target
    #[arg(value_name = "TARGET")]
    target: String,
    /// One JSON object for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// One step with what went in and what came out.
struct StepView {
    name: String,
    state: String,
    key: Option<Digest>,
    record: Option<ActionRecord>,
    result: Option<Arc<ActionResult>>,
    cost: Option<u64>,
    /// Input → target:step that makes it.
    origins: BTreeMap<String, String>,
    /// Input → where it comes from.
    sources: BTreeMap<String, Input>,
}

/// Shows.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &ShowArgs) -> Result<u8, Failure> {
    let mut session = Session::open(ui, global, &args.store, Access::Read)?;
    let index = session.target(&args.target)?;
    // What cannot be planned has been said; its definition is shown all the same.
    let found = try_forecast(ui, &mut session, vec![args.target.clone()])?;
    let standing = standings(&session, found.as_ref()).remove(&args.target);
    let steps = match &found {
        Some(found) => steps(&session, found, index)?,
        None => Vec::new(),
    };
    let outputs = outputs(&session, found.as_ref(), index, &steps);
    match args.json {
        true => ui.json(&object(&session, index, standing.as_ref(), &steps, &outputs))?,
        false => ui.out(&text(ui.color_out, &session, index, standing.as_ref(), &steps, &outputs))?,
    }
    Ok(0)
}

fn steps(session: &Session, found: &Forecasted, target: u32) -> Result<Vec<StepView>, Failure> {
    let name = session.name(target);
    let runs = Runs::of(&session.workspace.dirs.state);
    let mut all = Vec::new();
    for &ix in &found.prepared.graph.of_target[target as usize] {
        let Some(note) = found.predicted.steps.get(ix as usize) else { continue };
        let memory = session.workspace.memory.get(name, &note.step);
        // A step that waits for another has no key yet: the last one is shown.
        let key = note.key.or(memory.and_then(|m| m.key));
        let record = key.and_then(|key| match found.predicted.records.get(&key) {
            Some(bytes) => ActionRecord::decode(bytes).ok(),
            None => {
                let records = memory.map(|m| runs.records(&m.record_run)).unwrap_or_default();
                records.get(&key).and_then(|bytes| ActionRecord::decode(bytes).ok())
            }
        });
        let remembered = memory.filter(|m| m.key == key).and_then(|m| m.result.clone());
        let result = match (remembered, key) {
            (Some(result), _) => Some(result),
            (None, Some(key)) => session.store().get_result(&key)?.map(Arc::new),
            (None, None) => None,
        };
        let cost = result.as_ref().map(|r| r.millis).or(memory.and_then(|m| m.millis.last().copied()));
        let origins =
            note.origins.iter().map(|(input, (target, step))| (input.clone(), format!("{target}:{step}")));
        all.push(StepView {
            name: note.step.clone(),
            state: if note.key.is_none() { "waits".into() } else { reason_text(&note.reason) },
            key,
            record,
            cost,
            origins: origins.collect(),
            sources: found.prepared.graph.steps[ix as usize]
                .step
                .inputs
                .iter()
                .map(|input| (input.name.clone(), input.from.clone()))
                .collect(),
            result,
        });
    }
    Ok(all)
}

/// A declared output, with digest and size if it was made.
struct OutputView {
    name: String,
    kind: &'static str,
    made: Option<(Digest, u64)>,
}

fn outputs(
    session: &Session,
    found: Option<&Forecasted>,
    target: u32,
    steps: &[StepView],
) -> Vec<OutputView> {
    let declared = &session.workspace.loaded.targets[target as usize].outputs;
    let view = |output: &mosbuild_engine::load::OutputDecl| {
        let made = found.and_then(|found| {
            let (ix, name) = found.prepared.graph.maker(target, &output.name)?;
            let step = &found.predicted.steps.get(ix as usize)?.step;
            let made = steps.iter().find(|s| s.name == *step)?.result.as_ref()?.outputs.get(name)?;
            Some((made.digest, made.size))
        });
        OutputView { name: output.name.clone(), kind: kind(output.kind), made }
    };
    declared.iter().map(view).collect()
}

fn kind(kind: OutputKind) -> &'static str {
    match kind {
        OutputKind::File => "file",
        OutputKind::Tree => "tree",
    }
}

fn facts(steps: &[StepView]) -> BTreeMap<&str, &str> {
    let results = steps.iter().filter_map(|s| s.result.as_ref());
    results.flat_map(|r| r.facts.iter().map(|(k, v)| (k.as_str(), v.as_str()))).collect()
}

fn text(
    color: bool,
    session: &Session,
    index: u32,
    standing: Option<&Standing>,
    steps: &[StepView],
    outputs: &[OutputView],
) -> String {
    let target = &session.workspace.loaded.targets[index as usize];
    let head = |text: &str| Paint::Bold.on(color, text);
    let mut out = format!(
        "{}  {}, {}:{}\n",
        head(&target.name),
        target.rule,
        session.workspace.loaded.file_name(),
        target.line
    );
    if let Some(standing) = standing.filter(|s| s.state != State::Group) {
        let state = standing.state.paint().on(color, &standing.state.text());
        let cost = standing.cost.map(|c| format!(", last cost {}", duration(c))).unwrap_or_default();
        out.push_str(&format!("state: {state}{cost}\n"));
    }
    if let Some(copy) = session.workspace.loaded.overridden(index) {
        let text =
            format!("source overridden by {}; what is made of it never leaves this machine", copy.given);
        out.push_str(&format!("{}\n", Paint::Yellow.on(color, &text)));
    }
    out.push_str(&format!("\n{}\n", head("definition")));
    yaml(&target.value, 1, &mut out);
    if !outputs.is_empty() {
        out.push_str(&format!("\n{}\n", head("outputs")));
        let width = outputs.iter().map(|o| o.name.chars().count()).max().unwrap_or(0);
        let fresh = standing.is_some_and(|s| s.state == State::Fresh);
        for o in outputs {
            let made = match &o.made {
                Some((digest, bytes)) => format!("{}  {}", digest.short(), size(*bytes)),
                // What nothing refers to is not put together.
                None if fresh => "not asked for".into(),
                None => "not made yet".into(),
            };
            out.push_str(&format!("  {:width$}  {}  {made}\n", o.name, o.kind));
        }
    }
    let facts = facts(steps);
    if !facts.is_empty() {
        out.push_str(&format!("\n{}\n", head("facts")));
        for (name, value) in facts {
            out.push_str(&format!("  {name}: {value}\n"));
        }
    }
    for step in steps {
        step_text(color, &target.name, step, &mut out);
    }
    out
}

fn step_text(color: bool, target: &str, step: &StepView, out: &mut String) {
    let key = step.key.map(|k| format!(", key {}", k.short())).unwrap_or_default();
    let cost = step.cost.map(|c| format!(", {}", duration(c))).unwrap_or_default();
    let title = Paint::Bold.on(color, &format!("step {target}:{}", step.name));
    out.push_str(&format!("\n{title}  {}{key}{cost}\n", step.state));
    let rows: Vec<(String, String)> = step
        .record
        .iter()
        .flat_map(|r| &r.parts)
        .filter_map(|(part, value)| row(part, value, step))
        .collect();
    let width = rows.iter().take(ROWS).map(|(name, _)| name.chars().count()).max().unwrap_or(0).min(40);
    for (name, value) in rows.iter().take(ROWS) {
        out.push_str(&format!("  {name:width$}  {value}\n"));
    }
    if rows.len() > ROWS {
        out.push_str(&format!("  and {} more; --json has all\n", rows.len() - ROWS));
    }
    if let Some(result) = &step.result {
        for note in &result.notes {
            out.push_str(&format!("  {} {note}\n", Paint::Cyan.on(color, "note:")));
        }
        if result.local {
            out.push_str(&format!("  {}\n", Paint::Yellow.on(color, "made of a working copy (--override)")));
        }
        if !result.sandboxed {
            out.push_str(&format!("  {}\n", Paint::Yellow.on(color, "made without a sandbox")));
        }
        out.push_str(&format!("  made by run {}\n", result.run));
    }
}

/// What a person wants to see of a record; the definition above says the rest.
fn row(part: &Part, value: &Value, step: &StepView) -> Option<(String, String)> {
    let from = |input: &str| step.origins.get(input).map(|o| format!("  from {o}")).unwrap_or_default();
    let path_at = |input: &str, below: &str| path_of(step.sources.get(input)?, below);
    Some(match part {
        Part::File(_, _) if *value == Value::Unset => return None,
        Part::File(input, path) => (path_at(input, path).unwrap_or(path.clone()), value_text(value)),
        Part::Input(name) => {
            (path_at(name, "").unwrap_or(name.clone()), format!("{}{}", value_text(value), from(name)))
        }
        Part::Tool(name) => (format!("tool {name}"), tool_text(name, value)),
        Part::Env(name) => (format!("env {name}"), value_text(value)),
        Part::Param(name) => (format!("param {name}"), value_text(value)),
        Part::Executor => ("executor".into(), value_text(value)),
        Part::Policy(name) if name == IMAGE => (IMAGE.into(), value_text(value)),
        _ => return None,
    })
}

fn tool_text(name: &str, value: &Value) -> String {
    let Value::Packages(packages) = value else { return value_text(value) };
    // The package that brings the tool is mostly called like it; all of them are in --json.
    let main = packages.iter().find(|(p, _)| p == name || p.starts_with(&format!("{name}-")));
    match (main, packages.as_slice()) {
        (_, [(package, version)]) => format!("{package} {version}"),
        (Some((package, version)), all) => {
            format!("{package} {version} and {}", count(all.len() - 1, "package"))
        }
        (None, all) => count(all.len(), "package"),
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Unset => "unset".into(),
        Value::Text(text) => one_line(text),
        Value::List(list) => list.iter().map(|t| one_line(t)).collect::<Vec<_>>().join(" "),
        Value::Number(n) => n.to_string(),
        Value::Secret(_) => "secret".into(),
        Value::File { digest, size: bytes, executable } => {
            let executable = if *executable { ", executable" } else { "" };
            format!("{}  {}{executable}", digest.short(), size(*bytes))
        }
        Value::Tree(digest) => format!("{}  tree", digest.short()),
        Value::Link(target) => format!("-> {target}"),
        Value::Packages(list) => count(list.len(), "package"),
    }
}

fn one_line(text: &str) -> String {
    match text.trim_end().split_once('\n') {
        Some((first, rest)) => format!("{first} … ({} lines)", rest.lines().count() + 1),
        None => text.trim_end().to_owned(),
    }
}

/// A value as YAML, well enough for people; not read back by anything.
fn yaml(value: &Json, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Json::Object(map) => {
            for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                out.push_str(&format!("{indent}{key}:"));
                under_key(value, depth, out);
            }
        }
        Json::Array(list) => {
            for item in list {
                out.push_str(&format!("{indent}-"));
                under_key(item, depth, out);
            }
        }
        scalar => out.push_str(&format!("{indent}{}\n", scalar_text(scalar))),
    }
}

fn under_key(value: &Json, depth: usize, out: &mut String) {
    match value {
        Json::Object(map) if map.is_empty() => out.push_str(" {}\n"),
        Json::Array(list) if list.iter().all(|v| !v.is_object() && !v.is_array()) => {
            let items: Vec<String> = list.iter().map(scalar_text).collect();
            out.push_str(&format!(" [{}]\n", items.join(", ")));
        }
        Json::Object(_) | Json::Array(_) => {
            out.push('\n');
            yaml(value, depth + 1, out);
        }
        Json::String(text) if text.contains('\n') => {
            out.push_str(" |\n");
            for line in text.lines() {
                out.push_str(&format!("{}{line}\n", "  ".repeat(depth + 1)));
            }
        }
        scalar => out.push_str(&format!(" {}\n", scalar_text(scalar))),
    }
}

fn scalar_text(value: &Json) -> String {
    match value {
        Json::String(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_./-+=@$% ".contains(c);
            let quoted =
                text.is_empty() || !text.chars().all(plain) || text.starts_with([' ', '-', '@', '%']);
            if quoted { value.to_string() } else { text.clone() }
        }
        other => other.to_string(),
    }
}

fn object(
    session: &Session,
    index: u32,
    standing: Option<&Standing>,
    steps: &[StepView],
    outputs: &[OutputView],
) -> Json {
    let target = &session.workspace.loaded.targets[index as usize];
    let step = |s: &StepView| {
        let parts = |r: &ActionRecord| r.parts.iter().map(|(p, v)| part_object(p, v, s)).collect::<Vec<_>>();
        json!({
            "name": s.name,
            "state": s.state,
            "key": s.key.map(|k| k.hex()),
            "cost_ms": s.cost,
            "record": s.record.as_ref().map(parts),
            "outputs": s.result.as_ref().map(|r| {
                r.outputs.iter().map(|(n, o)| (n.clone(), json!({"digest": o.digest.hex(), "size": o.size})))
                    .collect::<serde_json::Map<_, _>>()
            }),
            "notes": s.result.as_ref().map(|r| &r.notes),
            "log": s.result.as_ref().and_then(|r| r.log).map(|d| d.hex()),
            "sandboxed": s.result.as_ref().map(|r| r.sandboxed),
            "local": s.result.as_ref().map(|r| r.local),
            "made_by": s.result.as_ref().map(|r| &r.run),
        })
    };
    let output = |o: &OutputView| {
        json!({
            "name": o.name,
            "kind": o.kind,
            "digest": o.made.map(|m| m.0.hex()),
            "size": o.made.map(|m| m.1),
        })
    };
    let definition: &Json = &target.value;
    json!({
        "schema": "mosbuild.show/1",
        "name": target.name,
        "rule": target.rule,
        "file": session.workspace.loaded.file_name(),
        "line": target.line,
        "definition": definition,
        "overridden_by": session.workspace.loaded.overridden(index).map(|o| &o.given),
        "state": standing.map(|s| s.state.word()),
        "waits_for": match standing.map(|s| &s.state) { Some(State::Waits(on)) => Some(on), _ => None },
        "blocked": standing.and_then(|s| s.state.blocked()),
        "cost_ms": standing.and_then(|s| s.cost),
        "outputs": outputs.iter().map(output).collect::<Vec<_>>(),
        "facts": facts(steps),
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
    })
}

fn part_object(part: &Part, value: &Value, step: &StepView) -> Json {
    let (kind, name) = match part {
        Part::Schema => ("schema", None),
        Part::Rule => ("rule", None),
        Part::RuleVersion => ("rule_version", None),
        Part::Step => ("step", None),
        Part::Builtin => ("builtin", None),
        Part::BuiltinVersion => ("builtin_version", None),
        Part::Platform => ("platform", None),
        Part::Executor => ("executor", None),
        Part::Argv => ("argv", None),
        Part::Script => ("script", None),
        Part::Policy(name) => ("policy", Some(name)),
        Part::Param(name) => ("param", Some(name)),
        Part::Env(name) => ("env", Some(name)),
        Part::Tool(name) => ("tool", Some(name)),
        Part::File(_, path) => ("file", Some(path)),
        Part::Input(name) => ("input", Some(name)),
        Part::Output(name) => ("output", Some(name)),
    };
    let value = match value {
        Value::Unset => json!({"unset": true}),
        Value::Text(text) => json!({"text": text}),
        Value::List(list) => json!({"list": list}),
        Value::Number(number) => json!({"number": number}),
        // A keyed hash: it says whether two secrets are equal, and nothing else.
        Value::Secret(digest) => json!({"secret": digest.short().to_string()}),
        Value::File { digest, size, executable } => {
            json!({"digest": digest.hex(), "size": size, "executable": executable})
        }
        Value::Tree(digest) => json!({"tree": digest.hex()}),
        Value::Link(target) => json!({"link": target}),
        Value::Packages(list) => json!({"packages": list.iter().cloned().collect::<BTreeMap<_, _>>()}),
    };
    let mut object = json!({"part": kind, "value": value});
    if let Some(name) = name {
        object["name"] = json!(name);
    }
    if let Part::File(input, _) = part {
        object["input"] = json!(input);
    }
    if let Part::Input(name) = part
        && let Some(origin) = step.origins.get(name)
    {
        object["from"] = json!(origin);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_read_like_the_file() {
        let mut out = String::new();
        let value = json!({
            "run": "cc a.c\ncp a \"$OUT\"",
            "outputs": ["a", "b c"],
            "env": {"V": "1: 2"},
            "none": null,
            "empty": {},
            "install": [{"from": "x", "mode": "0755"}],
        });
        yaml(&value, 1, &mut out);
        assert_eq!(
            out,
            "  run: |\n    cc a.c\n    cp a \"$OUT\"\n  outputs: [a, b c]\n  env:\n    V: \"1: 2\"\n  \
             empty: {}\n  install:\n    -\n      from: x\n      mode: 0755\n"
        );
    }

    #[test]
    fn tools_are_named_by_their_package() {
        let packages = [("binutils", "2.40"), ("gcc-12", "12.2"), ("libc6-dev", "2.36")]
            .map(|(a, b)| (String::from(a), String::from(b)))
            .to_vec();
        assert_eq!(tool_text("gcc", &Value::Packages(packages.clone())), "gcc-12 12.2 and 2 packages");
        assert_eq!(tool_text("(essential)", &Value::Packages(packages)), "3 packages");
        assert_eq!(tool_text("x", &Value::Packages(vec![("a".into(), "1".into())])), "a 1");
        assert_eq!(one_line("a\nb\nc\n"), "a … (3 lines)");
    }
}
