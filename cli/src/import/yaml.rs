//! A target as YAML text: fields in the order in which they are given, remarks as comments.
//! Knows how a scalar is written; knows no rule.

/// A target to be printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Line of the file that it comes from; 0 is all of it.
    pub line: usize,
    /// Lines above it.
    pub comments: Vec<String>,
    /// Fields and their values, which are YAML already.
    pub fields: Vec<(&'static str, String)>,
    /// Whether it is printed as a comment.
    pub off: bool,
}

impl Block {
    /// A target of a rule.
    pub fn new(name: &str, line: usize, rule: &str) -> Block {
        Block { name: name.into(), line, fields: vec![("rule", rule.into())], ..Block::default() }
    }

    /// A target of a rule whose fields are the entries of a [`map`], all in one line.
    pub fn inline(name: &str, rule: &str, entries: &str) -> Block {
        let fields = entries.trim_start_matches("{ ").trim_end_matches(" }");
        let line = format!("{{ rule: {rule}, {fields} }}");
        Block { name: name.into(), fields: vec![("", line)], ..Block::default() }
    }

    /// Its rule.
    pub fn rule(&self) -> &str {
        match self.fields.first() {
            Some(("rule", rule)) => rule,
            Some((_, line)) => {
                let rest = line.trim_start_matches("{ rule: ");
                rest.split(',').next().unwrap_or_default()
            }
            None => "",
        }
    }

    /// With one more field; `value` is YAML.
    pub fn with(mut self, field: &'static str, value: impl Into<String>) -> Block {
        self.fields.push((field, value.into()));
        self
    }

    /// The lines, below `targets:`.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.comments.iter().map(|comment| format!("  # {comment}")).collect();
        let before = if self.off { "  # " } else { "  " };
        match self.fields.as_slice() {
            [("", line)] => lines.push(format!("{before}{}: {line}", scalar(&self.name))),
            fields => {
                lines.push(format!("{before}{}:", scalar(&self.name)));
                let field = |(field, value): &(&str, String)| {
                    let value = value.replace('\n', &format!("\n{before}    "));
                    format!("{before}  {field}:{}{value}", if value.starts_with('\n') { "" } else { " " })
                };
                lines.extend(fields.iter().map(field));
            }
        }
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// A text as a scalar; what looks like a variable stays text.
pub fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let other = |text: &str| {
        let lower = text.to_ascii_lowercase();
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&lower.as_str())
    };
    let starts = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
    if text.starts_with(starts) && text.chars().all(plain) && !other(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `[a, b]`, each a text.
pub fn list(texts: &[&str]) -> String {
    format!("[{}]", texts.iter().map(|text| scalar(text)).collect::<Vec<_>>().join(", "))
}

/// A list with an entry a line; the entries are YAML.
pub fn lines(entries: &[String]) -> String {
    entries.iter().map(|entry| format!("\n- {entry}")).collect()
}

/// `{ a: x, b: y }`, the values texts.
pub fn map(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{}: {}", scalar(key), scalar(value))).collect();
    format!("{{ {} }}", entries.join(", "))
}
