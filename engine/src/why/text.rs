//! An explanation in prose. Knows no terminal: plain text, one `String`.

use std::fmt::Write;

use super::diff::OVERRIDDEN;
use super::{Cause, Decision, Explanation, Gate, Hop};

/// How many causes of one kind are listed without `--all`.
const LISTED: usize = 20;
/// The same for what was cut off.
const LISTED_CUT_OFF: usize = 3;
/// How many steps of a chain are named without `--all`.
const LISTED_HOPS: usize = 10;
/// How many tools are named that need the same package.
const LISTED_TOOLS: usize = 4;
/// Longer values are shown where they differ only.
const WIDE: usize = 70;
/// Characters that are shown before the difference then.
const BEFORE: usize = 12;

/// The answer as people read it.
pub fn render(answer: &Explanation, all: bool) -> String {
    let mut out = String::new();
    head(&mut out, answer);
    let listed = if all { usize::MAX } else { LISTED };
    if !answer.causes.is_empty() {
        // A known result of other inputs than last time's is a hit too.
        out.push_str(if answer.decision == Decision::Hit { "\nalthough\n" } else { "\nbecause\n" });
        let groups = grouped(answer.causes.iter().map(|r| (&r.cause, r.chain.as_slice())));
        for (causes, chain) in groups.iter().take(listed) {
            let _ = writeln!(out, "  {}", sentence(causes, &answer.file));
            if chain.len() > 1 {
                let _ = writeln!(out, "    {}", way(chain, all));
            }
        }
        if groups.len() > listed {
            let _ = writeln!(out, "  and {} more (--all)", groups.len() - listed);
        }
    }
    if !answer.cut_off.is_empty() {
        out.push_str("\ndid not matter\n");
        let listed = if all { usize::MAX } else { LISTED_CUT_OFF };
        for cut in &answer.cut_off {
            let did = match cut.millis {
                0 => "its result came from the cache".into(),
                ms => format!("ran {}", duration(ms)),
            };
            let _ = writeln!(out, "  {}:{} {did}; output identical (cut off)", cut.target, cut.step);
            let groups = grouped(cut.causes.iter().map(|c| (c, [].as_slice())));
            for (causes, _) in groups.iter().take(listed) {
                let _ = writeln!(out, "    {}", sentence(causes, &answer.file));
            }
            if groups.len() > listed {
                let _ = writeln!(out, "    and {} more (--all)", groups.len() - listed);
            }
        }
    }
    out
}

/// One cause in one line; `file` is what its line of the definition is of.
pub fn cause_line(cause: &Cause, file: &str) -> String {
    sentence(&[cause], file)
}

/// A chain in one line; the middle of a long one is counted.
fn way(chain: &[Hop], all: bool) -> String {
    let hop = |h: &Hop| format!("{}:{} ({})", h.target, h.step, h.how);
    let mut hops: Vec<String> = chain.iter().map(hop).collect();
    if !all && hops.len() > LISTED_HOPS {
        let (first, last) = (LISTED_HOPS / 2, hops.len() - LISTED_HOPS / 2);
        hops.splice(first..last, [format!("{} more", last - first)]);
    }
    hops.join(" → ")
}

type Group<'a> = (Vec<&'a Cause>, &'a [Hop]);

/// One group for each cause; a package that several tools of a step need is one, whichever of them it is named by.
fn grouped<'a>(causes: impl Iterator<Item = (&'a Cause, &'a [Hop])>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for (cause, chain) in causes {
        if let (Gate::Tool, Some((_, package))) = (cause.gate, cause.subject.split_once(": ")) {
            let key = (&cause.target, &cause.step, package, &cause.old, &cause.new, chain.len());
            let at = *known.entry(key).or_insert(groups.len());
            if let Some((group, _)) = groups.get_mut(at) {
                group.push(cause);
                continue;
            }
        }
        groups.push((vec![cause], chain));
    }
    groups
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
            writeln!(
                out,
                "{} was not built in run {}: {}",
                a.target,
                a.run,
                a.message.as_deref().unwrap_or("")
            )
        }
        Decision::WouldRun => writeln!(out, "{} would be rebuilt", a.target),
        Decision::Depends => {
            let blocked = a.message.as_ref().map(|text| format!(", and {text}")).unwrap_or_default();
            writeln!(out, "{} depends on what others make{blocked}", a.target)
        }
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
    for copy in &a.overrides {
        let whose =
            if copy.target == a.target { "source".into() } else { format!("{}'s source", copy.target) };
        let _ = writeln!(out, "{whose} overridden by {}", copy.by);
    }
}

/// Causes of one group in one line.
fn sentence(causes: &[&Cause], file: &str) -> String {
    let Some(c) = causes.first() else { return String::new() };
    let at = match (c.line, c.gate) {
        (Some(line), Gate::Spec | Gate::Env) => format!(" ({file}:{line})"),
        _ => String::new(),
    };
    let whose = match c.step.is_empty() {
        true => c.target.clone(),
        false => format!("{}:{}", c.target, c.step),
    };
    let what = match c.gate {
        Gate::Forced => format!("{} was given", c.subject),
        Gate::New | Gate::FailedBefore => c.subject.clone(),
        // No value changed: its source is to be locked first.
        Gate::Spec if c.old.is_none() && c.new.is_none() => c.subject.clone(),
        Gate::ResultGone => format!("{} (key {})", c.subject, c.old.as_deref().unwrap_or("?")),
        Gate::BlobLost => format!(
            "{} is {}: {}",
            c.subject,
            c.new.as_deref().unwrap_or("gone"),
            c.old.as_deref().unwrap_or("?")
        ),
        Gate::File => format!("file {} {}", c.subject, change(c)),
        Gate::Env => format!("environment {} {}", c.subject, change(c)),
        Gate::Tool => format!("tool {} {}", tools(causes), change(c)),
        Gate::Spec if c.change == OVERRIDDEN => match &c.new {
            Some(copy) => format!("{} overridden by {copy}", c.subject),
            None => format!("{} no longer overridden", c.subject),
        },
        Gate::Spec => format!("field {} {}", c.subject, change(c)),
        Gate::Engine => format!("{} {}", c.subject, change(c)),
        Gate::Upstream => format!("input {} {}", c.subject, change(c)),
    };
    format!("{whose}: {what}{at}")
}

/// `gcc, make: libc6`: the tools and the package of theirs.
fn tools(causes: &[&Cause]) -> String {
    let parts: Vec<_> = causes.iter().filter_map(|c| c.subject.split_once(": ")).collect();
    match (parts.as_slice(), causes) {
        ([(_, package), _, ..], _) => {
            let mut names: Vec<&str> = parts.iter().map(|(tool, _)| *tool).collect();
            let more = names.len().saturating_sub(LISTED_TOOLS);
            names.truncate(LISTED_TOOLS);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}: {package}", names.join(", "))
        }
        (_, [c, ..]) => c.subject.clone(),
        _ => String::new(),
    }
}

fn change(c: &Cause) -> String {
    let show = |t: &Option<String>| match t {
        None => "absent".to_owned(),
        Some(t) if t.is_empty() => "\"\"".to_owned(),
        Some(t) if t.contains('\n') => format!("{} …", t.lines().next().unwrap_or("")),
        Some(t) => cut(t, WIDE),
    };
    match (c.change, &c.old, &c.new) {
        ("mode", ..) => format!("changed mode {} → {}", show(&c.old), show(&c.new)),
        ("added", ..) => format!("was added: {}", show(&c.new)),
        ("removed", ..) => format!("was removed: {}", show(&c.old)),
        (_, Some(old), Some(new)) if old.len().max(new.len()) > WIDE => {
            let (old, new) = differing(&old.replace('\n', " "), &new.replace('\n', " "));
            format!("changed: {old} → {new}")
        }
        _ => format!("changed: {} → {}", show(&c.old), show(&c.new)),
    }
}

/// Two long texts without most of what they begin with alike.
fn differing(old: &str, new: &str) -> (String, String) {
    let same = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(BEFORE);
    let part = |text: &str| {
        let rest: String = text.chars().skip(from).collect();
        let shown = cut(&rest, WIDE);
        if from > 0 { format!("…{shown}") } else { shown }
    };
    (part(old), part(new))
}

fn cut(text: &str, width: usize) -> String {
    match text.chars().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width - 1).chain(['…']).collect(),
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

#[cfg(test)]
mod tests {
    use super::super::RootCause;
    use super::*;

    fn cause(gate: Gate, subject: &str, old: &str, new: &str) -> Cause {
        Cause {
            gate,
            target: "t".into(),
            step: "run".into(),
            subject: subject.into(),
            change: "value",
            old: Some(old.into()),
            new: Some(new.into()),
            line: Some(7),
        }
    }

    fn answer(decision: Decision, causes: Vec<Cause>) -> Explanation {
        let causes = causes.into_iter().map(|cause| RootCause { cause, chain: Vec::new() }).collect();
        Explanation {
            schema: super::super::SCHEMA,
            target: "t".into(),
            file: "other.yaml".into(),
            decision,
            run: "1".into(),
            started: 0,
            made_by: Vec::new(),
            old_key: None,
            key: None,
            millis: 0,
            causes,
            cut_off: Vec::new(),
            message: None,
            overrides: Vec::new(),
        }
    }

    #[test]
    fn a_working_copy_is_named_and_so_is_its_end() {
        let began = Cause { change: OVERRIDDEN, old: None, ..cause(Gate::Spec, "source", "", "../t") };
        let ended =
            Cause { change: OVERRIDDEN, new: None, ..cause(Gate::Spec, "source", "a working copy", "") };
        let mut both =
            answer(Decision::Rebuilt, vec![Cause { line: None, ..began }, Cause { line: None, ..ended }]);
        let by =
            |target: &str| super::super::Overridden { target: target.into(), by: format!("../{target}") };
        both.overrides = vec![by("t"), by("other")];
        let text = render(&both, false);
        assert!(
            text.ends_with(
                "source overridden by ../t\nother's source overridden by ../other\n\nbecause\n  \
                 t:run: source overridden by ../t\n  t:run: source no longer overridden\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_definition_names_its_place_in_the_file_that_was_read() {
        let text = render(&answer(Decision::Rebuilt, vec![cause(Gate::Spec, "timeout", "1", "2")]), false);
        assert!(
            text.ends_with("\nbecause\n  t:run: field timeout changed: 1 → 2 (other.yaml:7)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_hit_came_although_something_differs() {
        let text = render(&answer(Decision::Hit, vec![cause(Gate::Env, "A", "", "2")]), false);
        assert!(text.contains("\nalthough\n  t:run: environment A changed: \"\" → 2"), "{text}");
    }

    #[test]
    fn a_package_of_several_tools_is_one_line() {
        let tools = ["gcc: libc6", "make: libc6", "gcc: cpp", "sh"];
        let causes = tools.map(|tool| cause(Gate::Tool, tool, "1", "2")).to_vec();
        let text = render(&answer(Decision::Rebuilt, causes), false);
        let lines: Vec<&str> = text.lines().skip_while(|l| *l != "because").skip(1).collect();
        assert_eq!(
            lines,
            [
                "  t:run: tool gcc, make: libc6 changed: 1 → 2",
                "  t:run: tool gcc: cpp changed: 1 → 2",
                "  t:run: tool sh changed: 1 → 2",
            ]
        );
    }

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let long = |end: &str| format!("{}{end}", "x".repeat(100));
        let text = change(&cause(Gate::Spec, "install", &long("a"), &long("b")));
        assert_eq!(text, format!("changed: …{0}a → …{0}b", "x".repeat(12)));
        let wide = change(&cause(Gate::Spec, "install", "a", &"b".repeat(200)));
        assert_eq!(wide, format!("changed: a → {}…", "b".repeat(69)));
    }

    #[test]
    fn the_middle_of_a_long_way_is_counted() {
        let hop = |n: usize| Hop { target: format!("t{n}"), step: "run".into(), how: "hit".into() };
        let chain: Vec<Hop> = (0..100).map(hop).collect();
        let text = way(&chain, false);
        assert!(text.contains("t4:run (hit) → 90 more → t95:run (hit)"), "{text}");
        assert_eq!(way(&chain, true).matches(" → ").count(), 99);
        assert_eq!(way(&chain[..10], false).matches(" → ").count(), 9);
    }

    #[test]
    fn many_causes_are_counted_unless_all_are_wanted() {
        let causes: Vec<Cause> = (0..25).map(|n| cause(Gate::File, &format!("f{n}"), "1", "2")).collect();
        let answer = answer(Decision::Rebuilt, causes);
        assert!(render(&answer, false).ends_with("  and 5 more (--all)\n"));
        assert!(render(&answer, true).ends_with("file f24 changed: 1 → 2\n"));
    }
}
