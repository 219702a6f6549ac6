//! mosbuild.yaml to a checked graph of targets: parse, profile, variables, fields, references, files.
//! Gathers every error of every kind before it gives up. Knows no rule but what a `RuleFactory` tells.

// An error ends the load; its size is of no account.
#![allow(clippy::result_large_err)]

pub mod cache;
mod check;
pub mod diag;
pub mod executors;
mod facts;
mod files;
mod lines;
mod loaded;
mod model;
pub mod names;
mod overrides;
mod profile;
mod resolve;
pub mod schema;
mod shape;
mod source;
mod typed;
mod vars;
pub mod yaml;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

pub use diag::{Diagnostic, Diagnostics, Severity, Span};
pub use facts::{
    FieldError, FileKind, FileUse, OutputDecl, OutputKind, RefKind, RefUse, RuleFactory, RuleFacts,
    RuleSchema,
};
pub use files::{Expanded, Expander};
pub use loaded::{DistEntry, Fields, Loaded, LoadedTarget, ResolvedRef};
pub use model::{FieldPath, Mirror, Step, path_text};
pub use names::nearest;
pub use overrides::Override;
pub use source::{Source, field_line};
pub use typed::Typed;

use check::Subject;
use model::{Model, RawTarget, span_of};
use names::{Hinter, quote};
use shape::Schema;
use vars::{Decl, EPOCH, RESERVED, Vars};
use yaml::{Limits, Node};

/// Fields of a target that are left to the shell as they are.
const SCRIPTS: [&str; 2] = ["run", "build"];

/// What is loaded, and how.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The workspace: folder that relative paths begin at.
    pub root: PathBuf,
    /// The file, relative to the root or absolute.
    pub file: PathBuf,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--set`, in order.
    pub set: Vec<(String, String)>,
    /// The default of `arch`.
    pub arch: String,
    /// `--override`, in order: targets and the folders that are their sources for this once, relative to the current
    /// one.
    pub overrides: Vec<(String, PathBuf)>,
}

impl LoadOptions {
    /// `mosbuild.yaml` of a workspace, for this host.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        LoadOptions {
            root: root.into(),
            file: PathBuf::from("mosbuild.yaml"),
            profile: None,
            set: Vec::new(),
            arch: host_arch(),
            overrides: Vec::new(),
        }
    }

    /// The file as it is named to the user.
    pub fn shown(&self) -> String {
        self.file.strip_prefix(&self.root).unwrap_or(&self.file).to_string_lossy().into_owned()
    }
}

/// This host's architecture, as `uname -m` writes it.
pub fn host_arch() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// Loads, checks and resolves the file; every error is reported at once. With a folder for it, the result is
/// kept there and taken from there while nothing that it depends on changes. Files are not looked at, unless
/// there is another error to report with theirs: [`Loaded::expand`] does that.
pub fn load(
    options: &LoadOptions,
    factory: &dyn RuleFactory,
    cache_dir: Option<&Path>,
) -> Result<Loaded, Diagnostics> {
    let mut loaded = declared(options, factory, cache_dir)?;
    overrides::apply(&mut loaded, options, factory)?;
    Ok(loaded)
}

/// What the file says.
fn declared(
    options: &LoadOptions,
    factory: &dyn RuleFactory,
    cache_dir: Option<&Path>,
) -> Result<Loaded, Diagnostics> {
    let shown = options.shown();
    let bytes = read(options).map_err(|problem| Diagnostics::new(shown.clone(), "", vec![problem]))?;
    let digest = cache::key(&bytes, options, factory.schemas());
    let finish = |loaded| Loaded { root: options.root.clone(), options: options.clone(), digest, ..loaded };
    if let Some(loaded) = cache_dir.and_then(|dir| cache::get(dir, &digest)) {
        return Ok(finish(loaded));
    }
    let limits = Limits::default();
    let text = yaml::decode(&bytes, &shown, &limits).map_err(|problem| {
        // A text too large to read is too large to draw.
        let text = if bytes.len() > limits.bytes { "".into() } else { String::from_utf8_lossy(&bytes) };
        Diagnostics::new(shown.clone(), text, vec![problem])
    })?;
    let mut problems = Vec::new();
    match resolve_text(text, options, factory, &mut problems) {
        Some(loaded) if problems.is_empty() => {
            let loaded = finish(loaded);
            if let Some(dir) = cache_dir {
                cache::put(dir, &digest, &loaded);
            }
            Ok(loaded)
        }
        _ => Err(Diagnostics::new(shown, text, problems)),
    }
}

fn read(options: &LoadOptions) -> Result<Vec<u8>, Diagnostic> {
    use std::io::Read;
    let shown = options.shown();
    let path = options.root.join(&options.file);
    let failed = |e: std::io::Error| {
        let problem = Diagnostic::bare("no-file", format!("{shown} cannot be read: {e}"));
        match e.kind() {
            std::io::ErrorKind::NotFound => {
                problem.help("run in the folder that holds it, or name it with -C or -f")
            }
            _ => problem,
        }
    };
    let file = std::fs::File::open(&path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte above the limit tells that it is passed, without reading a device to its end.
    file.take(Limits::default().bytes as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn resolve_text(
    text: &str,
    options: &LoadOptions,
    factory: &dyn RuleFactory,
    out: &mut Vec<Diagnostic>,
) -> Option<Loaded> {
    let hints = Hinter::default();
    let parsed = yaml::parse(text, &Limits::default());
    out.extend(parsed.problems);
    let mut model = model::read(parsed.root?, &hints, out);
    profile::apply(&mut model, options.profile.as_deref(), &hints, out);
    let vars = replace(&mut model, text, options, &hints, out);
    let epoch = epoch(&model, &vars, options, out);

    let compiled: HashMap<&str, Schema> =
        factory.schemas().iter().map(|rule| (rule.name.as_str(), Schema::new(&rule.schema))).collect();
    let mut values = Vec::with_capacity(model.targets.len());
    let mut facts = Vec::with_capacity(model.targets.len());
    for target in &mut model.targets {
        let checked = fields(target, factory, &compiled, &hints, out);
        let (rule, value, found) = match checked {
            Some((rule, value, found)) => (rule, value, Some(found)),
            None => (String::new(), Json::Null, None),
        };
        values.push((rule, value));
        facts.push(found);
    }

    profile::fields(&model, options.profile.as_deref(), &values, &compiled, &hints, out);
    let known: std::collections::HashSet<&str> =
        model.targets.iter().map(|target| target.name.text.as_str()).collect();
    for found in facts.iter_mut().flatten() {
        found.decide(|name| known.contains(name));
    }
    let names = resolve::Names::new(&model.targets, &values, &facts, &hints);
    let mut references = Vec::with_capacity(model.targets.len());
    let expander = Expander::new(&options.root);
    for (i, found) in facts.iter().enumerate() {
        let uses = found.as_ref().map(|f| f.references.as_slice()).unwrap_or_default();
        references.push(names.references(i, uses, out));
        if let Some(found) = found {
            resolve::outputs(&model.targets[i], found, out);
            for used in &found.files {
                if let Some(problem) = expander.lint(used) {
                    out.push(Diagnostic {
                        span: Some(span_of(&used.field, &model.targets[i].node)),
                        ..problem
                    });
                }
            }
        }
    }
    let default = model.default.iter().filter_map(|node| match names.target(node.text()?, node.span) {
        Ok(target) => Some(target),
        Err(problem) => {
            out.push(problem);
            None
        }
    });
    let default = default.collect();
    let mirrors = model.mirrors.iter().map(|node| mirror(node, out)).collect();
    let execution = executors::read(&model, factory, &hints, out);
    let dist = names.dist(&model.dist, out);
    let order = resolve::order(&resolve::graph(&references), &model.targets, &references, out);
    if !out.is_empty() {
        missing_files(&model, &facts, &expander, out);
        return None;
    }
    let lines = LineIndex::new(text);
    let targets = model.targets.into_iter().zip(values).zip(facts).zip(references);
    let targets = targets.map(|(((raw, (rule, value)), found), references)| {
        let found = found.unwrap_or_default();
        LoadedTarget {
            line: lines.line(raw.name.span.start),
            name: raw.name.text,
            rule,
            value: Fields::new(value),
            references,
            outputs: found.outputs,
            files: found.files,
        }
    });
    Some(Loaded {
        project: model.project.as_ref().and_then(Node::text).map(str::to_string),
        default,
        epoch,
        arch: vars.get("arch").unwrap_or_default().to_string(),
        mirrors,
        execution,
        profiles: model.profiles.iter().map(|p| p.name.text.clone()).collect(),
        vars: vars.sorted(),
        targets: targets.collect(),
        dist,
        order,
        ..Loaded::default()
    })
}

/// A mirror; one that no download could be tried from is a problem.
fn mirror(node: &Node, out: &mut Vec<Diagnostic>) -> Mirror {
    let mut to = Vec::new();
    for item in node.get("to").map(Node::items).unwrap_or_default() {
        let text = item.text().unwrap_or_default();
        match Mirror::place(text) {
            Some(place) => to.push(place),
            None => out.push(
                Diagnostic::at(
                    "wrong-value",
                    item.span,
                    format!("`to` of a mirror: {} is no place", quote(text)),
                )
                .help("write https://…, http://…, file:///… or an absolute path"),
            ),
        }
    }
    Mirror { from: node.get("from").and_then(Node::text).unwrap_or_default().to_string(), to }
}

/// Variables of the file, its profile and `--set`, put into every string of the model.
fn replace(
    model: &mut Model,
    text: &str,
    options: &LoadOptions,
    hints: &Hinter,
    out: &mut Vec<Diagnostic>,
) -> Vars {
    let mut decls: Vec<(String, Decl)> = Vec::new();
    for (key, node) in &model.vars {
        decls.push((
            key.text.clone(),
            Decl { text: node.text().unwrap_or_default().to_string(), span: Some(node.span) },
        ));
    }
    for (name, value) in RESERVED.into_iter().zip([options.arch.as_str(), EPOCH]) {
        if !decls.iter().any(|(known, _)| known == name) {
            decls.push((name.to_string(), Decl { text: value.to_string(), span: None }));
        }
    }
    for (name, value) in &options.set {
        match decls.iter_mut().find(|(known, _)| known == name) {
            Some((_, decl)) => *decl = Decl { text: value.clone(), span: None },
            None => {
                let mut problem =
                    Diagnostic::bare("unknown-var", format!("--set: unknown variable {}", quote(name)));
                if let Some(near) = hints.nearest(name, decls.iter().map(|(name, _)| name.as_str())) {
                    problem = problem.help(format!("did you mean {}?", quote(near)));
                }
                let known = names::join(decls.iter().map(|(name, _)| name.as_str()), "and");
                out.push(problem.note(format!("the variables are {known}")));
            }
        }
    }
    let mut vars = Vars::resolve(&decls, text, hints, out);
    let mut apply = |node: &mut Node, except: &[&str]| vars.apply(node, except, text, hints, out);
    model.project.iter_mut().for_each(|node| apply(node, &[]));
    model.default.iter_mut().for_each(|node| apply(node, &[]));
    model.mirrors.iter_mut().for_each(|node| apply(node, &[]));
    model.executor.iter_mut().chain(&mut model.container).for_each(|node| apply(node, &[]));
    model.targets.iter_mut().for_each(|target| apply(&mut target.node, &SCRIPTS));
    let span = Span::default();
    let mut dist = Node { span, value: yaml::Value::Map(std::mem::take(&mut model.dist)) };
    apply(&mut dist, &[]);
    if let yaml::Value::Map(entries) = dist.value {
        model.dist = entries;
    }
    vars
}

fn epoch(model: &Model, vars: &Vars, options: &LoadOptions, out: &mut Vec<Diagnostic>) -> u64 {
    let text = vars.get("epoch").unwrap_or_default();
    if let Some(epoch) = text.parse::<u32>().ok().filter(|&e| e > 0) {
        return u64::from(epoch);
    }
    if vars.cyclic() {
        return 0;
    }
    let message = format!("`epoch` cannot be {}", quote(text));
    let set = options.set.iter().any(|(name, _)| name == "epoch");
    let place = model.vars.iter().find(|(key, _)| key.text == "epoch").filter(|_| !set);
    let why = "a number of seconds since 1970 is wanted, 1 to 4294967295";
    out.push(match place {
        Some((_, node)) => Diagnostic::at("wrong-value", node.span, message).label(why),
        None => Diagnostic::bare("wrong-value", format!("--set: {message}")).note(why),
    });
    0
}

/// One target's rule, its fields as JSON, and what its rule says of them; none if anything is wrong.
fn fields(
    target: &mut RawTarget,
    factory: &dyn RuleFactory,
    compiled: &HashMap<&str, Schema>,
    hints: &Hinter,
    out: &mut Vec<Diagnostic>,
) -> Option<(String, Json, RuleFacts)> {
    let what = format!("target {}", quote(&target.name.text));
    let yaml::Value::Map(entries) = &mut target.node.value else { return None };
    let Some(at) = entries.iter().position(|(key, _)| key.text == "rule") else {
        let mut problem =
            Diagnostic::at("missing-field", target.name.span, format!("{what} lacks the field `rule`"))
                .label("`rule` is required");
        if let Some(near) = hints.nearest("rule", entries.iter().map(|(key, _)| key.text.as_str())) {
            problem = problem.help(format!("is {} meant to be `rule`?", quote(near)));
        }
        out.push(problem);
        return None;
    };
    // What is left are the rule's own fields.
    let (_, rule_node) = entries.remove(at);
    let node = &target.node;
    let Some(rule) = rule_node.text() else {
        let problem = Diagnostic::at("wrong-type", rule_node.span, format!("wrong type of `rule` of {what}"));
        out.push(problem.label("expected the name of a rule"));
        return None;
    };
    let Some(schema) = compiled.get(rule) else {
        let mut rules: Vec<&str> = compiled.keys().copied().collect();
        rules.sort_unstable();
        let near = hints.nearest(rule, rules.iter().copied());
        let mut problem =
            Diagnostic::at("unknown-rule", rule_node.span, format!("unknown rule {}", quote(rule)));
        problem = if near.is_some() { problem.nearest(near) } else { problem.label("there is no such rule") };
        out.push(problem.note(format!("the rules are {}", rules.join(", "))));
        return None;
    };
    let subject = Subject { what: what.clone(), rule: Some(rule), key: target.name.span, hints };
    let wrong = schema.check(node, &subject);
    if !wrong.is_empty() {
        out.extend(wrong);
        // What the right fields refer to and read is looked at all the same; what the rule misses in them is not, since
        // that may be what is written wrongly.
        let right = schema.right_part(node);
        let value = schema.check(&right, &subject).is_empty().then(|| schema.to_value(&right))?;
        return factory.facts(rule, &value).ok().map(|found| (rule.to_string(), value, found));
    }
    let value = schema.to_value(node);
    match factory.facts(rule, &value) {
        Ok(found) => Some((rule.to_string(), value, found)),
        Err(errors) => {
            for error in errors {
                let place = match error.field.is_empty() {
                    true => (target.name.span, what.clone()),
                    false => (
                        span_of(&error.field, node),
                        format!("{} of {what}", quote(&path_text(&error.field))),
                    ),
                };
                let problem =
                    Diagnostic::at("wrong-value", place.0, format!("{}: {}", place.1, error.message));
                out.push(error.help.into_iter().fold(problem, Diagnostic::help));
            }
            None
        }
    }
}

/// Errors of files, to be reported along with others.
fn missing_files(model: &Model, facts: &[Option<RuleFacts>], expander: &Expander, out: &mut Vec<Diagnostic>) {
    let known = facts.iter().zip(&model.targets);
    let uses: Vec<(&FileUse, &RawTarget)> = known
        .filter_map(|(found, target)| found.as_ref().map(|found| (found, target)))
        .flat_map(|(found, target)| found.files.iter().map(move |used| (used, target)))
        .collect();
    let plain: Vec<&FileUse> = uses.iter().map(|(used, _)| *used).collect();
    for (result, (used, target)) in expander.expand_all(&plain).into_iter().zip(uses) {
        if let Err(problem) = result {
            out.push(Diagnostic { span: Some(span_of(&used.field, &target.node)), ..problem });
        }
    }
}

struct LineIndex(Vec<usize>);

impl LineIndex {
    fn new(text: &str) -> Self {
        LineIndex(text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(i, _)| i).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|&end| end < offset) + 1
    }
}
