//! What is asked for: the lines of a list and inline names, as apk's world takes them.
//! Knows how a line is written; whether there is such a package is apk's to tell.

use std::collections::BTreeMap;
use std::path::Path;

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::rule::PlanError;
use mosbuild_formats::apk::atom::Atom;

/// One package asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As written: `jq`, `jq>1.6`, `!openrc`.
    pub text: String,
    /// Its name alone.
    pub name: String,
    /// `config/packages.list:3`, or `packages`.
    pub place: String,
}

/// What is wrong with a line of a list, its comment taken off.
pub fn line_fault(line: &str) -> Option<String> {
    entry(line).err()
}

/// The name in a line, or what is wrong with the line.
pub fn entry(text: &str) -> Result<String, String> {
    if text.split_whitespace().count() != 1 || text.trim() != text {
        return Err(format!("{text:?} is no package: one name is expected, such as jq or jq>=1.7"));
    }
    if text.starts_with('-') || text.contains('/') || text.contains(|c: char| c.is_control()) {
        return Err(format!("{text:?} is no package's name"));
    }
    let atom = Atom::parse(text).map_err(|e| e.to_string())?;
    match atom.tag {
        Some(tag) => Err(format!("{text:?}: repositories have no tags here, so @{tag} means nothing")),
        None => Ok(atom.name),
    }
}

/// What is wrong with a list, as far as its lines tell; one that cannot be read is refused by who reads it.
pub fn check(path: &Path, name: &str) -> Result<(), PlanError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let wrong = |e: StepError| PlanError { message: e.message, help: e.help, exit: e.exit };
    parse(name, &text).map(drop).map_err(wrong)
}

/// All that a target asks for, sorted by text, each once.
pub fn asked(cx: &BuiltinCx<'_>) -> Result<Vec<Asked>, StepError> {
    let mut all = Vec::new();
    if cx.has("list") {
        let file = cx.param("list");
        let bytes = cx.bytes("list")?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| StepError::new(format!("{file} is not UTF-8")).exit(2))?;
        all = parse(file, text)?;
    }
    for text in cx.param("packages").lines() {
        let name = entry(text).map_err(|why| StepError::new(why).exit(2))?;
        all.push(Asked { text: text.into(), name, place: "packages".into() });
    }
    // The first place of a name is the one that is told.
    all.sort_by(|a, b| a.text.cmp(&b.text));
    all.dedup_by(|b, a| a.text == b.text);
    one_a_name(all)
}

/// One constraint a name: of several apk would take the last and say nothing. A bare name adds nothing to another.
fn one_a_name(all: Vec<Asked>) -> Result<Vec<Asked>, StepError> {
    let mut by_name: BTreeMap<String, Vec<Asked>> = BTreeMap::new();
    for asked in all {
        by_name.entry(asked.name.clone()).or_default().push(asked);
    }
    let mut wrong = Vec::new();
    for (name, of_name) in &mut by_name {
        let bare = |a: &Asked| a.text == *name;
        if of_name.iter().any(|a| !bare(a)) && of_name.iter().all(|a| !a.text.starts_with('!')) {
            of_name.retain(|a| !bare(a));
        }
        if let [_, _, ..] = &of_name[..] {
            let told: Vec<String> = of_name.iter().map(|a| format!("{} ({})", a.text, a.place)).collect();
            wrong.push(format!("the constraints on {name} conflict with each other: {}", told.join(", ")));
        }
    }
    match wrong.is_empty() {
        true => {
            let mut all: Vec<Asked> = by_name.into_values().flatten().collect();
            all.sort_by(|a, b| a.text.cmp(&b.text));
            Ok(all)
        }
        false => Err(StepError::new(wrong.join("\n")).help("apk keeps one constraint a package: write one")),
    }
}

fn parse(file: &str, text: &str) -> Result<Vec<Asked>, StepError> {
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    // Editors of other systems put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (i, line) in text.lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default().trim();
        let place = format!("{file}:{}", i + 1);
        match entry(text) {
            _ if text.is_empty() => {}
            Ok(name) => all.push(Asked { text: text.into(), name, place }),
            Err(why) => wrong.push(format!("{place}: {why}")),
        }
    }
    match wrong.is_empty() {
        true => Ok(all),
        false => {
            Err(StepError::new(wrong.join("\n")).help("write one package a line; # starts a comment").exit(2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_package_a_line() {
        let list = "# tools\nbusybox\n\n  jq>=1.7 # json\n!openrc\nso:libc.musl-x86_64.so.1\n";
        let all = parse("l", list).unwrap();
        let seen: Vec<_> = all.iter().map(|a| (a.text.as_str(), a.name.as_str(), a.place.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("busybox", "busybox", "l:2"),
                ("jq>=1.7", "jq", "l:4"),
                ("!openrc", "openrc", "l:5"),
                ("so:libc.musl-x86_64.so.1", "so:libc.musl-x86_64.so.1", "l:6"),
            ]
        );
    }

    #[test]
    fn lists_of_other_systems() {
        let all = parse("l", "\u{feff}jq\r\n  doas\t# c\r\n\r\nmusl").unwrap();
        let seen: Vec<_> = all.iter().map(|a| (a.text.as_str(), a.place.as_str())).collect();
        assert_eq!(seen, [("jq", "l:1"), ("doas", "l:2"), ("musl", "l:4")]);
    }

    #[test]
    fn a_name_has_one_constraint() {
        let seen = |list: &str| {
            let all = one_a_name(parse("l", list).unwrap());
            all.map(|all| all.into_iter().map(|a| a.text).collect::<Vec<_>>()).map_err(|e| e.message)
        };
        assert_eq!(seen("jq>1\nmusl\njq").unwrap(), ["jq>1", "musl"]);
        assert_eq!(seen("!jq\nmusl").unwrap(), ["!jq", "musl"]);
        for (list, both) in [
            ("jq\n!jq", "jq (l:1), !jq (l:2)"),
            ("jq=1\nmusl\njq>2", "jq=1 (l:1), jq>2 (l:3)"),
            ("jq>1\n!jq", "jq>1 (l:1), !jq (l:2)"),
        ] {
            let refused = seen(list).unwrap_err();
            assert!(refused.contains(both), "{refused}");
        }
    }

    #[test]
    fn all_wrong_lines_are_told() {
        let error = parse("l", "a b\nok\n--root\nx@edge\n$(reboot)\n").unwrap_err();
        assert_eq!(error.exit, 2);
        for place in ["l:1: ", "l:3: ", "l:4: "] {
            assert!(error.message.contains(place), "{}", error.message);
        }
        assert!(!error.message.contains("l:2"), "{}", error.message);
    }
}
