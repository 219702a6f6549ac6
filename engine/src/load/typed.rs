//! A file of settings beside mosbuild.yaml, read into a struct and checked as the fields of a rule are: all errors, each with
//! its place and the nearest right name. Knows no such file.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::check::Subject;
use super::diag::{Diagnostic, Diagnostics, Span};
use super::model::{Step, span_of};
use super::names::Hinter;
use super::shape::Schema;
use super::yaml::{self, Limits, Node, Value};

/// A file's content, with the places of its fields.
#[derive(Debug)]
pub struct Typed<T> {
    /// What the file says.
    pub value: T,
    shown: String,
    source: String,
    root: Node,
}

impl<T: DeserializeOwned + JsonSchema> Typed<T> {
    /// Reads a file; `None` if there is none. `shown` is how it is named to the user, `what` what it is: `the settings`.
    pub fn read(path: &Path, shown: &str, what: &str) -> Result<Option<Typed<T>>, Diagnostics> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound) => return Ok(None),
            Err(e) => {
                let problem = Diagnostic::bare("unreadable", format!("{shown} cannot be read: {e}"));
                return Err(Diagnostics::new(shown, "", vec![problem]));
            }
        };
        let limits = Limits::default();
        let text = yaml::decode(&bytes, shown, &limits)
            .map_err(|problem| Diagnostics::new(shown, String::from_utf8_lossy(&bytes), vec![problem]))?;
        Typed::parse(text, shown, what).map(Some)
    }

    /// Of its text.
    pub fn parse(text: &str, shown: &str, what: &str) -> Result<Typed<T>, Diagnostics> {
        let wrong = |problems| Diagnostics::new(shown, text, problems);
        let mut parsed = yaml::parse(text, &Limits::default());
        // What is missing in it is told better by its fields.
        parsed.problems.retain(|problem| problem.code != "empty");
        if !parsed.problems.is_empty() {
            return Err(wrong(parsed.problems));
        }
        let empty = || Node { span: Span::default(), value: Value::Map(Vec::new()) };
        let root = parsed.root.filter(|root| !root.is_null()).unwrap_or_else(empty);
        let schema = Schema::new(&schemars::schema_for!(T).into());
        let hints = Hinter::default();
        let key = Span { start: root.span.start, end: root.span.start };
        let subject = Subject { what: what.to_owned(), rule: None, key, hints: &hints };
        let problems = schema.check(&root, &subject);
        if !problems.is_empty() {
            return Err(wrong(problems));
        }
        let value = serde_json::from_value(schema.to_value(&root))
            .map_err(|e| wrong(vec![Diagnostic::at("wrong-value", root.span, e.to_string())]))?;
        Ok(Typed { value, shown: shown.to_owned(), source: text.to_owned(), root })
    }
}

impl<T> Typed<T> {
    /// The place of a field, or of what is nearest above it.
    pub fn span(&self, field: &[&str]) -> Span {
        let path: Vec<Step> = field.iter().map(|name| (*name).into()).collect();
        span_of(&path, &self.root)
    }

    /// What else is wrong with the file.
    pub fn problems(&self, problems: Vec<Diagnostic>) -> Diagnostics {
        Diagnostics::new(&self.shown, &self.source, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        bucket: String,
        #[serde(default)]
        tries: u32,
    }

    #[test]
    fn fields_are_typed_and_wrong_ones_are_told_with_their_places() {
        let read = |text: &str| Typed::<Settings>::parse(text, "config/x.yaml", "the settings");
        let file = read("bucket: 12\ntries: 3\n").unwrap();
        assert_eq!((file.value.bucket.as_str(), file.value.tries), ("12", 3));
        assert_eq!(file.span(&["tries"]).start, 18);
        let text = read("buckt: a\ntries: x\n").unwrap_err().to_string();
        assert!(text.contains("config/x.yaml:1:1") && text.contains("did you mean `bucket`?"), "{text}");
        assert!(text.contains("config/x.yaml:2:8"), "{text}");
        let text = read("# nothing\n").unwrap_err().to_string();
        assert!(text.contains("config/x.yaml") && text.contains("bucket"), "{text}");
    }
}
