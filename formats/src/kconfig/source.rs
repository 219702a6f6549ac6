//! A scan of Kconfig source for the symbols in it and whether they have a prompt: only those can be set by a user.
//! Knows no expressions and follows no `source` lines; the caller scans each file.

use std::collections::BTreeMap;

/// What is known of a symbol, over all its definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbol {
    /// `bool`, `tristate`, `string`, `int` or `hex`, if one of its definitions says so.
    pub kind: Option<String>,
    /// Text of its prompt. Without one a setting in `.config` is ignored: others select it or its default holds.
    pub prompt: Option<String>,
    /// The prompt's own condition (`if EXPERT`), as written.
    pub condition: Option<String>,
}

/// Symbols of any number of Kconfig files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// By name without `CONFIG_`.
    pub symbols: BTreeMap<String, Symbol>,
}

impl Symbols {
    /// Adds the definitions of one file.
    pub fn scan(&mut self, text: &str) {
        let mut current: Option<String> = None;
        let mut help: Option<Help> = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let indent = indentation(line);
            let blank = line.trim().is_empty();
            match help {
                Some(_) if blank => continue,
                // The first line sets the depth of the text; it ends where a line is less deep.
                Some(Help::Starts(keyword)) if indent > keyword => {
                    help = Some(Help::Runs(indent));
                    continue;
                }
                Some(Help::Runs(depth)) if indent >= depth => continue,
                _ => help = None,
            }
            let mut joined = line.to_owned();
            while joined.ends_with('\\') {
                joined.pop();
                match lines.next() {
                    Some(next) => joined.push_str(next),
                    None => break,
                }
            }
            let (keyword, rest) = word(joined.trim_start());
            match keyword {
                "config" | "menuconfig" => {
                    let (name, _) = word(rest);
                    current = (!name.is_empty()).then(|| name.to_owned());
                    if let Some(name) = &current {
                        self.symbols.entry(name.clone()).or_default();
                    }
                }
                "choice" | "endchoice" | "comment" | "menu" | "endmenu" | "if" | "endif" | "source"
                | "mainmenu" => {
                    current = None;
                }
                "help" | "---help---" => help = Some(Help::Starts(indent)),
                "bool" | "tristate" | "string" | "int" | "hex" | "prompt" | "def_bool" | "def_tristate" => {
                    if let Some(symbol) = current.as_ref().and_then(|name| self.symbols.get_mut(name)) {
                        symbol.define(keyword, rest);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether a symbol, with or without `CONFIG_`, exists and has a prompt. `None`: there is no such symbol.
    pub fn has_prompt(&self, symbol: &str) -> Option<bool> {
        let symbol = symbol.strip_prefix("CONFIG_").unwrap_or(symbol);
        self.symbols.get(symbol).map(|s| s.prompt.is_some())
    }
}

enum Help {
    /// Keyword seen at this depth, no text yet.
    Starts(usize),
    /// Text of at least this depth.
    Runs(usize),
}

impl Symbol {
    fn define(&mut self, keyword: &str, rest: &str) {
        match keyword {
            "prompt" => {}
            "def_bool" | "def_tristate" => {
                self.kind.get_or_insert_with(|| keyword["def_".len()..].to_owned());
                return;
            }
            kind => {
                self.kind.get_or_insert_with(|| kind.to_owned());
            }
        }
        if let Some((text, after)) = quoted(rest) {
            let condition = after.trim_start().strip_prefix("if ").map(|c| c.trim().to_owned());
            // A definition whose prompt is unconditional wins over one whose prompt is not.
            if self.prompt.is_none() || condition.is_none() {
                self.prompt = Some(text);
                self.condition = condition;
            }
        }
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => out.push(chars.next()?.1),
            c if c == quote => return Some((out, &text[i + c.len_utf8()..])),
            c => out.push(c),
        }
    }
    None
}

/// Depth of the line's first character, tabs to the next multiple of 8, as Kconfig counts.
fn indentation(line: &str) -> usize {
    let mut depth = 0;
    for c in line.chars() {
        match c {
            ' ' => depth += 1,
            '\t' => depth = (depth / 8 + 1) * 8,
            _ => break,
        }
    }
    depth
}
