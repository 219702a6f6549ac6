//! Profiles: fields and variables laid over those of the file. Maps are merged, everything else is replaced.
//! Knows no rule; `source` alone is replaced whole by its name.

use std::collections::HashMap;

use super::check::Subject;
use super::diag::Diagnostic;
use super::model::Model;
use super::names::{Hinter, join, quote};
use super::shape::Schema;
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

/// Checks the names of fields in the profiles that are not chosen; those of the chosen one are checked where they lie
/// over the target's. `values` are the targets' rules and fields, the rule empty where something is wrong with it.
pub fn fields(
    model: &Model,
    chosen: Option<&str>,
    values: &[(String, serde_json::Value)],
    schemas: &HashMap<&str, Schema>,
    hints: &Hinter,
    out: &mut Vec<Diagnostic>,
) {
    for profile in model.profiles.iter().filter(|p| Some(p.name.text.as_str()) != chosen) {
        for (name, node) in &profile.targets {
            let Some(at) = model.targets.iter().position(|t| t.name.text == name.text) else { continue };
            let rule = match node.get("rule") {
                Some(rule) => rule.text(),
                None => values.get(at).map(|(rule, _)| rule.as_str()),
            };
            let Some((rule, schema)) = rule.and_then(|rule| schemas.get_key_value(rule)) else { continue };
            let what = format!("target {} of {}", quote(&name.text), profile_of(&profile.name));
            let subject = Subject { what, rule: Some(rule), key: name.span, hints };
            let own = node.entries().iter().filter(|(key, _)| key.text != "rule");
            out.extend(schema.unknown_fields(own.map(|(key, _)| key), &subject));
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
