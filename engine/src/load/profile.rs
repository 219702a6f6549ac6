//! Profiles: fields and variables laid over those of the file. Maps are merged, everything else is replaced.
//! Knows no rule; `source` alone is replaced whole by its name.

use super::diag::Diagnostic;
use super::model::Model;
use super::names::{Hinter, join, quote};
use super::vars::RESERVED;
use super::yaml::{Key, Node, Value};

/// Fields that are replaced whole: half of one source and half of another is no source.
const WHOLE: [&str; 1] = ["source"];

/// Checks the names in all profiles and lays the chosen one over the model.
pub fn apply(model: &mut Model, chosen: Option<&str>, hints: &Hinter, out: &mut Vec<Diagnostic>) {
    check(model, hints, out);
    let Some(chosen) = chosen else { return };
    let names = model.profiles.iter().map(|p| p.name.text.as_str());
    let Some(profile) = model.profiles.iter().find(|p| p.name.text == chosen).cloned() else {
        let near = hints.nearest(chosen, names.clone());
        let mut problem =
            Diagnostic::bare("unknown-profile", format!("--profile: unknown profile {}", quote(chosen)));
        if let Some(near) = near {
            problem = problem.help(format!("did you mean {}?", quote(near)));
        }
        problem = match model.profiles.is_empty() {
            true => problem.note("the file declares no profiles"),
            false => problem.note(format!("the profiles are {}", join(names, "and"))),
        };
        out.push(problem);
        return;
    };
    for (key, node) in profile.vars {
        match model.vars.iter_mut().find(|(k, _)| k.text == key.text) {
            Some((_, old)) => *old = node,
            None => model.vars.push((key, node)),
        }
    }
    for (key, node) in profile.targets {
        if let Some(target) = model.targets.iter_mut().find(|t| t.name.text == key.text) {
            merge(&mut target.node, node);
        }
    }
}

fn check(model: &Model, hints: &Hinter, out: &mut Vec<Diagnostic>) {
    for profile in &model.profiles {
        let vars = || model.vars.iter().map(|(key, _)| key.text.as_str()).chain(RESERVED);
        for (key, _) in &profile.vars {
            if !vars().any(|name| name == key.text) {
                out.push(unknown(
                    profile_of(&profile.name),
                    "variable",
                    "unknown-var",
                    key,
                    hints.nearest(&key.text, vars()),
                ));
            }
        }
        let targets = || model.targets.iter().map(|t| t.name.text.as_str());
        for (key, _) in &profile.targets {
            if !targets().any(|name| name == key.text) {
                out.push(unknown(
                    profile_of(&profile.name),
                    "target",
                    "unknown-target",
                    key,
                    hints.nearest(&key.text, targets()),
                ));
            }
        }
    }
}

fn profile_of(name: &Key) -> String {
    format!("profile {}", quote(&name.text))
}

fn unknown(whose: String, kind: &str, code: &'static str, key: &Key, near: Option<&str>) -> Diagnostic {
    let problem = Diagnostic::at(code, key.span, format!("unknown {kind} {} in {whose}", quote(&key.text)));
    match near {
        Some(_) => problem.nearest(near),
        None => problem.label(format!("a profile sets only what the file declares: there is no such {kind}")),
    }
}

/// Lays a node over another. What is replaced is replaced with its key, whose place is then the profile's.
pub fn merge(under: &mut Node, over: Node) {
    match (&mut under.value, over.value) {
        (Value::Map(old), Value::Map(new)) => {
            for (key, node) in new {
                match old.iter_mut().find(|(k, _)| k.text == key.text) {
                    Some((_, old)) if both_maps(old, &node) && !WHOLE.contains(&key.text.as_str()) => {
                        merge(old, node)
                    }
                    Some(entry) => *entry = (key, node),
                    None => old.push((key, node)),
                }
            }
        }
        (_, value) => *under = Node { span: over.span, value },
    }
}

fn both_maps(a: &Node, b: &Node) -> bool {
    matches!((&a.value, &b.value), (Value::Map(_), Value::Map(_)))
}
