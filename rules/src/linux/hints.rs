//! Why a symbol did not come out as asked for, as far as a look at its definition tells.
//! Evaluates no expression: it names the symbols of a dependency that are off.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_engine::load::nearest;
use mosbuild_formats::kconfig::{Config, Symbols, Value};

/// Symbol to the expressions after `depends on` in its definitions.
pub type Depends = BTreeMap<String, Vec<String>>;

/// Adds the dependencies that one Kconfig file states; those of enclosing menus and `if` are not seen.
pub fn dependencies(text: &str, into: &mut Depends) {
    let mut symbol: Option<&str> = None;
    for line in text.lines() {
        let line = line.trim();
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match keyword {
            "config" | "menuconfig" => symbol = Some(rest.trim()),
            "choice" | "endchoice" | "menu" | "endmenu" | "comment" | "if" | "endif" | "source" => {
                symbol = None
            }
            "depends" => {
                if let (Some(symbol), Some(expression)) = (symbol, rest.trim().strip_prefix("on ")) {
                    let expressions = into.entry(symbol.to_owned()).or_default();
                    expressions.push(expression.trim_end_matches('\\').trim().to_owned());
                }
            }
            _ => {}
        }
    }
}

/// One line of reasons; `None` if there is nothing to say.
pub fn hint(
    symbol: &str,
    wanted: &Value,
    result: &Config,
    symbols: &Symbols,
    depends: &Depends,
) -> Option<String> {
    let known = match symbols.symbols.get(symbol) {
        Some(known) => known,
        // Without a scanned source nothing can be said.
        None if symbols.symbols.is_empty() => return None,
        None => {
            let near = nearest(symbol, symbols.symbols.keys().map(String::as_str));
            let near = near.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            return Some(format!("this kernel has no such symbol{near}"));
        }
    };
    if *wanted == Value::No {
        return Some("another symbol selects it, or it is the default".into());
    }
    if known.prompt.is_none() {
        return Some("it has no prompt: only another symbol can select it".into());
    }
    if *wanted == Value::Module && known.kind.as_deref() == Some("bool") {
        return Some("it cannot be a module".into());
    }
    let mut expressions: Vec<&str> = depends.get(symbol).into_iter().flatten().map(String::as_str).collect();
    expressions.extend(known.condition.as_deref());
    if expressions.is_empty() {
        return None;
    }
    let off: BTreeSet<&str> =
        expressions.iter().flat_map(|e| names(e)).filter(|name| !result.enabled(name)).collect();
    let off = match off.len() {
        0 => String::new(),
        1 => format!("; {} is not set", off.into_iter().collect::<String>()),
        _ => format!("; {} are not set", off.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Some(format!("it depends on {}{off}", expressions.join(" && ")))
}

/// Symbols that an expression asks to be on.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression
        .split(['&', '|', '(', ')', ' '])
        .filter(move |w| !w.is_empty() && w.chars().all(word) && !matches!(*w, "y" | "m" | "n" | "if"))
}
