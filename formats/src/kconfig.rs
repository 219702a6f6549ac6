//! Kernel configurations: `.config` files and fragments, what became of a fragment, and which symbols of a
//! Kconfig source a user can set at all. Does not evaluate dependencies: the kernel's own `olddefconfig` does.

mod source;

use std::collections::BTreeMap;
use std::fmt;

pub use source::{Symbol, Symbols};

/// Value of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `y`.
    Yes,
    /// `m`.
    Module,
    /// `n`, or "is not set".
    No,
    /// A string, without quotes and escapes.
    Text(String),
    /// An integer, decimal or hexadecimal as written.
    Number(String),
}

impl Value {
    /// Whether they mean the same: `0x10` is `16`.
    pub fn same(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => match (number(a), number(b)) {
                (Some(a), Some(b)) => a == b,
                _ => a == b,
            },
            _ => self == other,
        }
    }
}

fn number(text: &str) -> Option<i128> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// As it stands after `CONFIG_X=`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Yes => f.write_str("y"),
            Value::Module => f.write_str("m"),
            Value::No => f.write_str("n"),
            Value::Number(number) => f.write_str(number),
            Value::Text(text) => write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        }
    }
}

/// A line that is neither a setting nor a comment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}: {text:?}")]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
    /// The line.
    pub text: String,
}

/// Symbols (without `CONFIG_`) with their values; of several settings the last counts, as in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The settings.
    pub values: BTreeMap<String, Value>,
}

impl Config {
    /// Reads a `.config` or a fragment of one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut config = Config::default();
        for (i, line) in text.lines().enumerate() {
            let fail = |why| Error { line: i + 1, why, text: line.chars().take(120).collect() };
            let trimmed = line.trim();
            if let Some(comment) = trimmed.strip_prefix('#') {
                let unset =
                    comment.trim_start().strip_prefix("CONFIG_").and_then(|c| c.strip_suffix(" is not set"));
                if let Some(symbol) = unset.filter(|s| is_symbol(s)) {
                    config.values.insert(symbol.to_owned(), Value::No);
                }
                continue;
            }
            if trimmed.is_empty() {
                continue;
            }
            let setting = trimmed.strip_prefix("CONFIG_").and_then(|s| s.split_once('='));
            let Some((symbol, value)) = setting else { return Err(fail("no CONFIG_NAME=value")) };
            if !is_symbol(symbol) {
                return Err(fail("no symbol name"));
            }
            let value =
                parse_value(value).ok_or_else(|| fail("neither y, m, n, a number nor a quoted string"))?;
            config.values.insert(symbol.to_owned(), value);
        }
        Ok(config)
    }

    /// Value of a symbol, with or without `CONFIG_`; a symbol that is not there is `n` to the kernel.
    pub fn get(&self, symbol: &str) -> Option<&Value> {
        self.values.get(symbol.strip_prefix("CONFIG_").unwrap_or(symbol))
    }

    /// Whether it is `y` or `m`.
    pub fn enabled(&self, symbol: &str) -> bool {
        matches!(self.get(symbol), Some(Value::Yes | Value::Module))
    }
}

/// In the form of `.config`, sorted by symbol.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (symbol, value) in &self.values {
            match value {
                Value::No => writeln!(f, "# CONFIG_{symbol} is not set")?,
                value => writeln!(f, "CONFIG_{symbol}={value}")?,
            }
        }
        Ok(())
    }
}

fn is_symbol(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn parse_value(text: &str) -> Option<Value> {
    match text {
        "y" => return Some(Value::Yes),
        "m" => return Some(Value::Module),
        "n" => return Some(Value::No),
        _ => {}
    }
    let Some(quoted) = text.strip_prefix('"') else {
        return number(text).map(|_| Value::Number(text.to_owned()));
    };
    let mut out = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => break,
            '\\' => out.push(chars.next()?),
            c => out.push(c),
        }
    }
    chars.next().is_none().then_some(Value::Text(out))
}

/// The last line of a configuration or fragment that sets a symbol, counted from 1.
pub fn line_of(text: &str, symbol: &str) -> Option<usize> {
    let sets = |line: &str| {
        let line = line.trim().trim_start_matches(['#', ' ']);
        let rest = line.strip_prefix("CONFIG_").and_then(|l| l.strip_prefix(symbol));
        rest.is_some_and(|rest| rest.starts_with('=') || rest == " is not set")
    };
    text.lines().enumerate().filter(|(_, l)| sets(l)).last().map(|(i, _)| i + 1)
}

/// A setting of a fragment that is not in the configuration made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Symbol without `CONFIG_`.
    pub symbol: String,
    /// What the fragment asks for.
    pub wanted: Value,
    /// What there is; `None` if the symbol is not there (unknown, or its dependencies are not met).
    pub got: Option<Value>,
}

/// What of `requested` did not come through `olddefconfig`. Asking for `n` is met by absence.
pub fn check_fragment(requested: &Config, resulting: &Config) -> Vec<Missing> {
    let missing = |(symbol, wanted): (&String, &Value)| {
        let got = resulting.values.get(symbol);
        let met = got.map_or(*wanted == Value::No, |got| got.same(wanted));
        (!met).then(|| Missing { symbol: symbol.clone(), wanted: wanted.clone(), got: got.cloned() })
    };
    requested.values.iter().filter_map(missing).collect()
}

/// A symbol that differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Symbol without `CONFIG_`.
    pub symbol: String,
    /// Its value before; `None` if it was not there.
    pub before: Option<Value>,
    /// Its value after; `None` if it is not there.
    pub after: Option<Value>,
}

/// All differences, by symbol. "Is not set" and not there at all differ.
pub fn diff(before: &Config, after: &Config) -> Vec<Change> {
    let mut symbols: Vec<&String> = before.values.keys().chain(after.values.keys()).collect();
    symbols.sort();
    symbols.dedup();
    let change = |symbol: &String| {
        let (before, after) = (before.values.get(symbol), after.values.get(symbol));
        (before != after).then(|| Change {
            symbol: symbol.clone(),
            before: before.cloned(),
            after: after.cloned(),
        })
    };
    symbols.into_iter().filter_map(change).collect()
}
