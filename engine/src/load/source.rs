//! The file read again for places: lines of fields, and spans of errors that are found late.
//! Knows the raw model; checks nothing.

use std::collections::HashMap;

use super::diag::{self, Span};
use super::model::{self, RawTarget, Step, span_of};
use super::names::Hinter;
use super::yaml::{self, Limits};
use super::{LoadOptions, profile};

/// The file read again for places: lines of fields, and spans of errors that are found late.
#[derive(Debug, Default)]
pub struct Source {
    /// Its text.
    pub text: String,
    targets: HashMap<String, RawTarget>,
}

impl Source {
    /// Reads and parses the file, with the profile laid over. What cannot be read has no places.
    pub fn open(options: &LoadOptions) -> Self {
        let text = std::fs::read(options.root.join(&options.file))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let mut source = Source { text, targets: HashMap::new() };
        let limits = Limits::default();
        let Ok(text) = yaml::decode(source.text.as_bytes(), "", &limits) else { return source };
        if let Some(root) = yaml::parse(text, &limits).root {
            let hints = Hinter::default();
            let mut ignored = Vec::new();
            let mut model = model::read(root, &hints, &mut ignored);
            profile::apply(&mut model, options.profile.as_deref(), &hints, &mut ignored);
            source.targets = model.targets.into_iter().map(|t| (t.name.text.clone(), t)).collect();
        }
        source
    }

    /// Place of a field's value, or of what is nearest above it.
    pub fn span(&self, target: &str, field: &[Step]) -> Option<Span> {
        let target = self.targets.get(target)?;
        Some(if field.is_empty() { target.name.span } else { span_of(field, &target.node) })
    }

    /// Line (from 1) of a field's key, of the nearest thing above it if it is not written out.
    pub fn line(&self, target: &str, field: &[Step]) -> Option<usize> {
        let raw = self.targets.get(target)?;
        let span = (0..=field.len())
            .rev()
            .find_map(|n| model::key_span_of(&field[..n], &raw.node))
            .unwrap_or(raw.name.span);
        Some(diag::position(&self.text, span.start).0)
    }
}

/// Line (from 1) of a target's field in the text of a file, without a profile.
pub fn field_line(source: &str, target: &str, field: &[Step]) -> Option<usize> {
    let limits = Limits::default();
    let root = yaml::parse(yaml::decode(source.as_bytes(), "", &limits).ok()?, &limits).root?;
    let (name, node) = root.get("targets")?.entry(target)?;
    let span = (0..=field.len()).rev().find_map(|n| model::key_span_of(&field[..n], node));
    Some(diag::position(source, span.unwrap_or(name.span).start).0)
}
