//! The verdict, for people and for programs. Says what was built twice, what was taken as it is, and what was varied.

use std::collections::BTreeMap;
use std::fmt::Write;

use mosbuild_cache::Digest;
use serde_json::{Value, json};

use super::compare::{Around, Compared, Found, Standing};

/// Version of the JSON form.
const SCHEMA: &str = "mosbuild.verify/1";

/// What every step sees alike, by whomever and wherever it is run.
const FIXED: &str = "time zone, locale, umask, environment; in the sandbox also user, host name and paths";

/// For people.
pub fn text(compared: &Compared, asked: &[String]) -> String {
    let mut out = String::new();
    let names = asked.join(", ");
    let twice = match compared.first.around.stored {
        true => "built once more, apart, and as the store has it",
        false => "built twice, apart, and the same",
    };
    match compared.is_same() {
        true => {
            let ran = by_target(compared, |s| *s == Standing::Same);
            let _ = match ran.is_empty() {
                true => writeln!(
                    out,
                    "{names}: nothing was built; all of it was proven before or is a locked source"
                ),
                false => writeln!(out, "{names}: {twice}, to the byte"),
            };
        }
        false => {
            let _ = writeln!(out, "{names}: not reproducible");
        }
    }
    for found in &compared.found {
        difference(&mut out, found);
    }
    let mut list = |title: &str, wanted: &dyn Fn(&Standing) -> bool| {
        let steps = by_target(compared, wanted);
        if !steps.is_empty() {
            let count: usize = steps.values().map(Vec::len).sum();
            let texts: Vec<String> = steps.iter().map(|(t, s)| format!("{t} ({})", s.join(", "))).collect();
            let _ = writeln!(out, "{title}, {}: {}", count_of(count, "step"), texts.join("; "));
        }
    };
    let same = match compared.first.around.stored {
        true => "built once and compared with the store",
        false => "built twice and the same",
    };
    list(same, &|s| *s == Standing::Same);
    list("differ only because of that", &|s| matches!(s, Standing::Follows(_)));
    list("not built, proven by a verify before", &|s| matches!(s, Standing::Proven(_)));
    list("not built, sources that the lock names by digest", &|s| *s == Standing::Locked);
    let _ = writeln!(out, "{}", around("first", &compared.first.around));
    let _ = writeln!(out, "{}", around("second", &compared.second.around));
    let (varied, alike) = variations(&compared.first.around, &compared.second.around);
    let _ = writeln!(out, "varied: {}", varied.join(", "));
    for (what, why) in alike {
        let _ = writeln!(out, "not varied: {what} ({why})");
    }
    let _ = writeln!(out, "the same for every step, as in any build: {FIXED}");
    out
}

fn count_of(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn difference(out: &mut String, found: &Found) {
    let Found { target, step, output, difference, others } = found;
    let _ = match difference {
        None => writeln!(out, "  {target}:{step} made another {output} from the same inputs"),
        Some((difference, reason)) => {
            let (first, second) = difference.values();
            let _ = writeln!(
                out,
                "  {target}:{step} made another {output} from the same inputs: {}",
                difference.place()
            );
            let _ = writeln!(out, "    first:  {first}\n    second: {second}");
            let _ = match others {
                0 => Ok(()),
                n => writeln!(out, "    {} of it differ too", count_of(*n, "other file")),
            };
            writeln!(out, "    likely: {}", reason.text)
        }
    };
}

/// Steps that became this, by target.
fn by_target(compared: &Compared, wanted: impl Fn(&Standing) -> bool) -> BTreeMap<&str, Vec<&str>> {
    let mut steps: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (step, standing) in &compared.steps {
        if wanted(standing) {
            steps.entry(&step.target).or_default().push(&step.step);
        }
    }
    steps
}

fn around(which: &str, around: &Around) -> String {
    if around.stored {
        return format!("{which}: the results in {}", around.store);
    }
    let Around { user, hostname, workspace, store, processors, jobs, .. } = around;
    format!(
        "{which}: user {user} on {hostname}, {}, -j {jobs}, workspace {workspace}, store {store}",
        count_of(*processors, "processor")
    )
}

/// What differed around the two builds, and what did not, with the reason.
fn variations(first: &Around, second: &Around) -> (Vec<&'static str>, Vec<(&'static str, String)>) {
    let mut varied = vec!["wall clock", "paths of store and scratch", "order of steps", "-j"];
    let mut alike = Vec::new();
    if first.stored {
        // Nothing is known of how it was made but that it was in another place, at another time.
        varied = vec!["wall clock", "paths of store and scratch"];
        alike.push((
            "what else differs from how the store's results were made",
            "that is not recorded".to_owned(),
        ));
    }
    let mut part = |what: &'static str, differs: bool, why: String| match differs {
        true => varied.push(what),
        false => alike.push((what, why)),
    };
    let here = match &second.refused {
        Some(why) => format!("this host refuses it: {why}"),
        None => "--same host".to_owned(),
    };
    part("user, host name and path of the workspace", second.workspace != first.workspace, here);
    if !first.stored {
        let why = match first.processors {
            1 => "there is one".to_owned(),
            _ => "--same processors".to_owned(),
        };
        part("number of processors", first.processors != second.processors, why);
    }
    let why = "the store's file system orders names itself".to_owned();
    part("order of files in folders", second.in_order_of_creation, why);
    varied.push("time zone, locale, umask and user's name around the build");
    (varied, alike)
}

/// For programs.
pub fn object(compared: &Compared, asked: &[String]) -> Value {
    let outputs = |key: Option<Digest>, outputs: &BTreeMap<String, (Digest, u64)>| {
        let each = outputs
            .iter()
            .map(|(name, (digest, size))| (name.clone(), json!({ "digest": digest.hex(), "size": size })));
        json!({ "key": key.map(|k| k.hex()), "outputs": each.collect::<serde_json::Map<_, _>>() })
    };
    let second: BTreeMap<(&str, &str), _> =
        compared.second.steps.iter().map(|s| ((s.target.as_str(), s.step.as_str()), s)).collect();
    let steps = compared.steps.iter().map(|(step, standing)| {
        let (standing, more) = match standing {
            Standing::Same => ("same", Value::Null),
            Standing::Locked => ("locked", Value::Null),
            Standing::Proven(at) => ("proven", json!(at)),
            Standing::Differs => ("differs", Value::Null),
            Standing::Follows(above) => {
                ("follows", json!(above.iter().map(|(t, s)| format!("{t}:{s}")).collect::<Vec<_>>()))
            }
        };
        let mut object = json!({
            "target": step.target,
            "step": step.step,
            "standing": standing,
            "first": outputs(step.key, &step.outputs),
            "second": second.get(&(step.target.as_str(), step.step.as_str())).map(|s| outputs(s.key, &s.outputs)),
        });
        match standing {
            "proven" => object["proven_at"] = more,
            "follows" => object["follows"] = more,
            _ => {}
        }
        object
    });
    let differences = compared.found.iter().map(|found| {
        let mut object = json!({
            "target": found.target,
            "step": found.step,
            "output": found.output,
            "others": found.others,
        });
        if let Some((difference, reason)) = &found.difference {
            let (first, second) = difference.values();
            object["place"] = json!(difference.place());
            object["first"] = json!(first);
            object["second"] = json!(second);
            object["reason"] = json!({ "kind": reason.kind, "text": reason.text });
        }
        object
    });
    let build = |around: &Around| match around.stored {
        true => json!({ "stored": true, "store": around.store }),
        false => json!({
            "stored": false,
            "user": around.user,
            "hostname": around.hostname,
            "workspace": around.workspace,
            "store": around.store,
            "processors": around.processors,
            "jobs": around.jobs,
            "started": around.started,
            "ended": around.ended,
        }),
    };
    let (varied, alike) = variations(&compared.first.around, &compared.second.around);
    let alike: Vec<Value> =
        alike.into_iter().map(|(what, why)| json!({ "what": what, "why": why })).collect();
    json!({
        "schema": SCHEMA,
        "targets": asked,
        "same": compared.is_same(),
        "steps": steps.collect::<Vec<_>>(),
        "differences": differences.collect::<Vec<_>>(),
        "builds": [build(&compared.first.around), build(&compared.second.around)],
        "varied": varied,
        "not_varied": alike,
    })
}
