//! An explanation in prose. Knows no terminal: plain text, one `String`.

use std::fmt::Write;

use super::{Cause, Decision, Explanation, Gate};

/// How many causes of one kind are listed without `--all`.
const LISTED: usize = 20;

/// The answer as people read it.
pub fn render(answer: &Explanation, all: bool) -> String {
    let mut out = String::new();
    head(&mut out, answer);
    let listed = if all { usize::MAX } else { LISTED };
    if !answer.causes.is_empty() {
        out.push_str("\nbecause\n");
        for root in answer.causes.iter().take(listed) {
            let _ = writeln!(out, "  {}", sentence(&root.cause));
            if root.chain.len() > 1 {
                let hops: Vec<String> =
                    root.chain.iter().map(|h| format!("{}:{} ({})", h.target, h.step, h.how)).collect();
                let _ = writeln!(out, "    {}", hops.join(" → "));
            }
        }
        if answer.causes.len() > listed {
            let _ = writeln!(out, "  and {} more (--all)", answer.causes.len() - listed);
        }
    }
    if !answer.cut_off.is_empty() {
        out.push_str("\ndid not matter\n");
        for cut in &answer.cut_off {
            let did = match cut.millis {
                0 => "its result came from the cache".into(),
                ms => format!("ran {}", duration(ms)),
            };
            let causes: Vec<String> = cut.causes.iter().take(3).map(sentence).collect();
            let more = cut.causes.len().saturating_sub(3);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let _ = writeln!(
                out,
                "  {}:{} {did}; output identical (cut off)\n    {}{more}",
                cut.target,
                cut.step,
                causes.join("; ")
            );
        }
    }
    out
}

fn head(out: &mut String, a: &Explanation) {
    let time = duration(a.millis);
    let short = |k: &Option<String>| k.as_ref().map(|k| k.chars().take(12).collect::<String>());
    let _ = match a.decision {
        Decision::Hit => {
            let made = match a.made_by.is_empty() {
                true => String::new(),
                false => format!(", made by run {}", a.made_by.join(", ")),
            };
            let saved = if a.millis > 0 { format!("; that saved {time}") } else { String::new() };
            let run = if a.run.is_empty() { "it would be a hit".into() } else { format!("in run {}", a.run) };
            writeln!(out, "{} came from the cache ({run}{made}){saved}", a.target)
        }
        Decision::Rebuilt => writeln!(out, "{} was rebuilt in run {}, {time}", a.target, a.run),
        Decision::NeverBuilt => writeln!(out, "{} was never built here", a.target),
        Decision::Failed => {
            writeln!(out, "{} failed in run {}: {}", a.target, a.run, a.message.as_deref().unwrap_or(""))
        }
        Decision::NotRun => {
            let why = a.message.as_deref().unwrap_or("the run was interrupted");
            writeln!(out, "{} was not built in run {}: {why}", a.target, a.run)
        }
        Decision::WouldRun => writeln!(out, "{} would be rebuilt", a.target),
        Decision::Depends => writeln!(out, "{} depends on what others make", a.target),
    };
    match (short(&a.old_key), short(&a.key)) {
        (Some(old), Some(new)) if old != new => {
            let _ = writeln!(out, "key {old} → {new}");
        }
        (_, Some(key)) => {
            let _ = writeln!(out, "key {key}");
        }
        _ => {}
    }
}

/// One cause in one line.
fn sentence(c: &Cause) -> String {
    let at = match (c.line, c.gate) {
        (Some(line), Gate::Spec | Gate::Env) => format!(" (mosbuild.yaml:{line})"),
        _ => String::new(),
    };
    let whose = match c.step.is_empty() {
        true => c.target.clone(),
        false => format!("{}:{}", c.target, c.step),
    };
    let what = match c.gate {
        Gate::Forced => format!("{} was given", c.subject),
        Gate::New | Gate::FailedBefore => c.subject.clone(),
        Gate::ResultGone => format!("{} (key {})", c.subject, c.old.as_deref().unwrap_or("?")),
        Gate::BlobLost => format!(
            "{} is {}: {}",
            c.subject,
            c.new.as_deref().unwrap_or("gone"),
            c.old.as_deref().unwrap_or("?")
        ),
        Gate::File => format!("file {} {}", c.subject, change(c)),
        Gate::Env => format!("environment {} {}", c.subject, change(c)),
        Gate::Tool => format!("tool {} {}", c.subject, change(c)),
        Gate::Spec => format!("field {} {}", c.subject, change(c)),
        Gate::Engine => format!("{} {}", c.subject, change(c)),
        Gate::Upstream => format!("input {} {}", c.subject, change(c)),
    };
    format!("{whose}: {what}{at}")
}

fn change(c: &Cause) -> String {
    let show = |t: &Option<String>| match t {
        None => "absent".to_owned(),
        Some(t) if t.is_empty() => "\"\"".to_owned(),
        Some(t) if t.contains('\n') => format!("{} …", t.lines().next().unwrap_or("")),
        Some(t) => t.clone(),
    };
    match c.change {
        "mode" => format!("changed mode {} → {}", show(&c.old), show(&c.new)),
        "added" => format!("was added: {}", show(&c.new)),
        "removed" => format!("was removed: {}", show(&c.old)),
        _ => format!("changed: {} → {}", show(&c.old), show(&c.new)),
    }
}

/// Milliseconds as people read them.
fn duration(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => format!("{}m{:02}s", millis / 60_000, millis / 1000 % 60),
    }
}
