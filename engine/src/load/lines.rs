//! Lines and columns of the YAML parser to offsets of bytes, in one pass over a text.
//! Knows text; knows no YAML.

use std::cell::Cell;

use saphyr_parser::Marker;

use super::diag::Span;

/// Starts of lines, to turn the parser's line and column (in characters) into bytes.
pub(super) struct Lines<'a> {
    text: &'a str,
    base: usize,
    starts: Vec<usize>,
    ascii: bool,
    /// Line, column and offset in it that were asked for last: places mostly go forward, and a file of one long
    /// line must not be counted from its start for each of them.
    last: Cell<(usize, usize, usize)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str, base: usize) -> Self {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        for (i, &b) in bytes.iter().enumerate() {
            if b == b'\n' || (b == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
                starts.push(i + 1);
            }
        }
        Lines { text, base, starts, ascii: text.is_ascii(), last: Cell::default() }
    }

    pub(super) fn offset(&self, mark: &Marker) -> usize {
        let line = mark.line().saturating_sub(1);
        let Some(&start) = self.starts.get(line) else { return self.base + self.text.len() };
        let end = self.starts.get(line + 1).copied().unwrap_or(self.text.len());
        let within = if self.ascii {
            mark.col().min(end - start)
        } else {
            let text = &self.text[start..end];
            let (at, column, offset) = match self.last.get() {
                (at, column, offset) if at == line && column <= mark.col() => (at, column, offset),
                _ => (line, 0, 0),
            };
            let rest = &text[offset..];
            let more = rest.char_indices().nth(mark.col() - column).map_or(rest.len(), |(i, _)| i);
            if offset + more < text.len() {
                self.last.set((at, mark.col(), offset + more));
            }
            offset + more
        };
        self.base + start + within
    }

    pub(super) fn span(&self, span: saphyr_parser::Span) -> Span {
        let start = self.offset(&span.start);
        Span { start, end: self.offset(&span.end).max(start) }
    }
}
