//! Diagnostics: an error with its place in the file, drawn with the source text and a pointer at it.
//! Knows byte offsets and text; knows nothing of YAML, targets or rules.

use std::borrow::Cow;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// How many diagnostics are drawn; the rest is counted.
pub const SHOWN: usize = 100;
/// A line longer than this is not drawn: its position alone is given.
const LONGEST_LINE: usize = 4096;

/// A range of bytes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

/// Whether the build may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is run.
    Error,
    /// Said, and gone on.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// A stable short name of the kind, as `unknown-field`.
    pub code: &'static str,
    /// What is wrong, in one line.
    pub message: String,
    /// Where; none for what is not in the file (`--set`, a file that cannot be read).
    pub span: Option<Span>,
    /// Said beside the pointer; may be empty.
    pub label: String,
    /// Further facts.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Vec<String>,
    /// Other places that belong to it, each with a label.
    pub related: Vec<(Span, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn at(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Diagnostic { span: Some(span), ..Self::bare(code, message) }
    }

    /// An error that has no place in the file.
    pub fn bare(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            code,
            message: message.into(),
            span: None,
            label: String::new(),
            notes: Vec::new(),
            help: Vec::new(),
            related: Vec::new(),
        }
    }

    /// With a label beside the pointer.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// With advice.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// With another place.
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    /// With the label "did you mean `name`?" if there is a near name.
    pub fn nearest(self, name: Option<&str>) -> Self {
        match name {
            Some(name) => self.label(format!("did you mean {}?", super::names::quote(name))),
            None => self,
        }
    }
}

/// Everything that is wrong, with the text that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// The file as named to the user.
    pub file: String,
    /// Its text; bytes that are not UTF-8 are replaced.
    pub source: String,
    /// What is wrong, sorted by place.
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts by place (what has none comes first) and drops exact repeats.
    pub fn new(file: impl Into<String>, source: impl Into<String>, mut items: Vec<Diagnostic>) -> Self {
        items.sort_by(|a, b| (a.span, a.code, &a.message).cmp(&(b.span, b.code, &b.message)));
        items.dedup();
        Diagnostics { file: file.into(), source: source.into(), items }
    }

    /// The whole text for a terminal or a log.
    pub fn render(&self, color: bool) -> String {
        render(&self.items, &self.file, &self.source, color)
    }

    /// Line and column of a diagnostic, both from 1, for annotations of CI systems.
    pub fn position(&self, item: &Diagnostic) -> Option<(usize, usize)> {
        item.span.map(|span| position(&self.source, span.start))
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Line and column (in characters) of an offset, both from 1.
pub fn position(source: &str, offset: usize) -> (usize, usize) {
    let offset = floor(source, offset);
    let before = &source[..offset];
    let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (line, before[start..].chars().count() + 1)
}

/// Draws diagnostics one below the other, each with a blank line behind it.
pub fn render(items: &[Diagnostic], file: &str, source: &str, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut out = String::new();
    for item in items.iter().take(SHOWN) {
        out.push_str(renderer.render(&[group(item, file, source)]).trim_end());
        out.push_str("\n\n");
    }
    if items.len() > SHOWN {
        out.push_str(&format!("and {} more\n", items.len() - SHOWN));
    } else if out.ends_with("\n\n") {
        out.pop();
    }
    out
}

fn group<'a>(item: &'a Diagnostic, file: &'a str, source: &'a str) -> Group<'a> {
    let level = match item.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(item.message.as_str()).id(item.code));
    if let Some(span) = item.span {
        group = match excerpt(item, span, source) {
            Some(Excerpt { first_line, text, marks }) => {
                let mut snippet = Snippet::source(text).line_start(first_line).path(file);
                for (range, label, primary) in marks {
                    let kind = if primary { AnnotationKind::Primary } else { AnnotationKind::Context };
                    let mark = kind.span(range);
                    snippet = snippet.annotation(if label.is_empty() { mark } else { mark.label(label) });
                }
                group.element(snippet)
            }
            None => {
                let (line, column) = position(source, span.start);
                let mut group = group.element(Origin::path(file).line(line).char_column(column));
                if !item.label.is_empty() {
                    group = group.element(Level::NOTE.message(item.label.as_str()));
                }
                group
            }
        };
    }
    for note in &item.notes {
        group = group.element(Level::NOTE.message(note.as_str()));
    }
    for help in &item.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    group
}

type Mark<'a> = (std::ops::Range<usize>, &'a str, bool);

struct Excerpt<'a> {
    first_line: usize,
    text: Cow<'a, str>,
    /// Place, label, whether it is the primary one.
    marks: Vec<Mark<'a>>,
}

/// The lines that hold all places of a diagnostic, with the places as offsets into them. Each place is cut to
/// its first line: a map of fifty lines is pointed at, not framed.
fn excerpt<'a>(item: &'a Diagnostic, span: Span, source: &'a str) -> Option<Excerpt<'a>> {
    let mut marks = vec![(one_line(source, span), item.label.as_str(), true)];
    for (span, label) in &item.related {
        marks.push((one_line(source, *span), label.as_str(), false));
    }
    let low = marks.iter().map(|(range, ..)| range.start).min()?;
    let high = marks.iter().map(|(range, ..)| range.end).max()?;
    let start = source[..low].rfind('\n').map_or(0, |i| i + 1);
    let end = source[high..].find('\n').map_or(source.len(), |i| high + i);
    if source[start..end].lines().any(|line| line.len() > LONGEST_LINE) {
        return None;
    }
    for (range, ..) in &mut marks {
        *range = range.start - start..range.end - start;
    }
    let first_line = source[..start].bytes().filter(|&b| b == b'\n').count() + 1;
    let text = source[start..end].trim_end_matches('\r');
    if !text.contains("\r\n") {
        return Some(Excerpt { first_line, text: text.into(), marks });
    }
    // Carriage returns at ends of lines would be drawn.
    for (range, ..) in &mut marks {
        let ends = |until: usize| text[..until.min(text.len())].matches("\r\n").count();
        *range = range.start - ends(range.start)..range.end - ends(range.end);
    }
    Some(Excerpt { first_line, text: text.replace("\r\n", "\n").into(), marks })
}

fn one_line(source: &str, span: Span) -> std::ops::Range<usize> {
    let start = floor(source, span.start);
    let end = floor(source, span.end.max(start));
    let text = &source[start..end];
    let cut = text.find(['\n', '\r']).map_or(text.len(), |i| i);
    let cut = text[..cut].trim_end().len();
    if cut > 0 {
        return start..start + cut;
    }
    // Nothing to underline: take one character, so that the pointer is seen.
    let next = source[start..].chars().next().filter(|c| !"\r\n".contains(*c)).map_or(0, char::len_utf8);
    start..start + next
}

fn floor(source: &str, offset: usize) -> usize {
    let mut offset = offset.min(source.len());
    while !source.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
