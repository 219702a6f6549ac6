//! The user's mirrors: `mirrors` of the settings and MOSBUILD_MIRRORS. Knows their forms; asks no server.

use mosbuild_engine::load::yaml::{Node, Value};
use mosbuild_engine::load::{Diagnostic, Mirror};

use crate::failure::Failure;

/// The variable: `FROM=TO` pairs separated by blanks, or `FROM=TO,TO`, e.g.
/// `https://example.org/alpine/=file:///srv/alpine/`.
pub const VARIABLE: &str = "MOSBUILD_MIRRORS";

/// Where in a `FROM=TO` the second begins: URLs hold `=` themselves.
fn split(pair: &str) -> Option<(&str, &str)> {
    let starts = |rest: &str| ["http://", "https://", "file://", "/"].iter().any(|s| rest.starts_with(s));
    let mut at = pair.match_indices('=').map(|(at, _)| at);
    at.find(|at| starts(&pair[at + 1..])).map(|at| (&pair[..at], &pair[at + 1..]))
}

/// Those of the variable.
pub fn from_variable(text: &str) -> Result<Vec<Mirror>, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("{VARIABLE}: {what:?} is no mirror"))
            .help("write FROM=TO, both URLs; several are separated by blanks, and several TO by commas")
    };
    let mut mirrors = Vec::new();
    for pair in text.split(|c: char| c.is_whitespace() || c == ';').filter(|p| !p.is_empty()) {
        let (from, to) = split(pair).ok_or_else(|| wrong(pair))?;
        let from = Mirror::place(from).ok_or_else(|| wrong(pair))?;
        let to =
            to.split(',').map(Mirror::place).collect::<Option<Vec<String>>>().ok_or_else(|| wrong(pair))?;
        mirrors.push(Mirror { from, to });
    }
    Ok(mirrors)
}

/// Those of the settings' file: the same as in mosbuild.yaml.
pub fn from_node(node: &Node, problems: &mut Vec<Diagnostic>) -> Vec<Mirror> {
    let wrong = |node: &Node, why: &str| {
        Diagnostic::at("wrong-value", node.span, "wrong value of `mirrors`").label(why.to_owned())
    };
    let Value::Seq(items) = &node.value else {
        problems.push(wrong(node, "expected a list of { from: URL, to: [URL, …] }"));
        return Vec::new();
    };
    let mut mirrors = Vec::new();
    for item in items {
        let Value::Map(entries) = &item.value else {
            problems.push(wrong(item, "expected { from: URL, to: [URL, …] }"));
            continue;
        };
        let (mut from, mut to) = (None, Vec::new());
        for (key, value) in entries {
            let read: Option<Vec<String>> = value.items().iter().map(|n| Mirror::place(n.text()?)).collect();
            match (key.text.as_str(), read) {
                ("from", Some(mut read)) if read.len() == 1 => from = read.pop(),
                ("to", Some(read)) => to = read,
                ("from" | "to", _) => problems.push(wrong(value, "expected a URL, or an absolute path")),
                _ => problems.push(wrong(value, "a mirror has `from` and `to` alone")),
            }
        }
        match from {
            Some(from) if !to.is_empty() => mirrors.push(Mirror { from, to }),
            _ => problems.push(wrong(item, "a mirror needs `from` and `to`")),
        }
    }
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_has_pairs() {
        let text = "https://a.example/x/=file:///srv/x/ https://b.example/?q=1=http://c.example/,/srv/b";
        let mirrors = from_variable(text).unwrap();
        assert_eq!(
            (mirrors[0].from.as_str(), mirrors[0].to[0].as_str()),
            ("https://a.example/x/", "file:///srv/x/")
        );
        assert_eq!(mirrors[1].from, "https://b.example/?q=1");
        assert_eq!(mirrors[1].to, ["http://c.example/", "file:///srv/b"]);
        assert!(from_variable("").unwrap().is_empty());
        for wrong in ["https://a.example/", "a=b", "https://a.example/=ftp://b", "https://a.example/=http://"]
        {
            assert!(from_variable(wrong).is_err(), "{wrong}");
        }
    }
}
