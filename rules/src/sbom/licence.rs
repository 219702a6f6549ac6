//! Licences as authors write them, told apart into expressions of SPDX and other words. Knows no bill.

/// Longer words are a licence's text, not its name; characters.
const NAME: usize = 100;

/// A licence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Licence {
    /// Nothing tells it.
    Unknown,
    /// An expression of SPDX.
    Expression(String),
    /// Other words.
    Named(String),
}

/// Reads what is written. Cargo's `MIT/Apache-2.0` and names that are nearly right are made right; two expressions that
/// stand beside each other, as Alpine's older packages have them, must both be kept to.
pub fn read(text: &str) -> Licence {
    let text = text.trim();
    if text.is_empty() {
        return Licence::Unknown;
    }
    let right = |text: &str| {
        let canonical = spdx::Expression::canonicalize(text).ok()?.unwrap_or_else(|| text.to_owned());
        spdx::Expression::parse(&canonical).ok().map(|_| canonical)
    };
    if let Some(expression) = right(text) {
        return Licence::Expression(expression);
    }
    let words: Option<Vec<String>> = text.split_whitespace().map(right).collect();
    match words {
        Some(words) => Licence::Expression(words.join(" AND ")),
        None => Licence::Named(text.to_owned()),
    }
}

/// Words of a licence as a name: the first of them, where they are its whole text.
pub fn name_of(words: &str) -> String {
    match words.char_indices().nth(NAME) {
        Some((at, _)) => format!("{}…", words[..at].trim_end()),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_told_from_other_words() {
        let expression = |text: &str| Licence::Expression(text.to_owned());
        assert_eq!(read("MIT"), expression("MIT"));
        assert_eq!(read("MIT/Apache-2.0"), expression("MIT OR Apache-2.0"));
        assert_eq!(
            read("GPL-2.0-only WITH Linux-syscall-note"),
            expression("GPL-2.0-only WITH Linux-syscall-note")
        );
        assert_eq!(read("MIT BSD-3-Clause"), expression("MIT AND BSD-3-Clause"));
        assert_eq!(read("custom"), Licence::Named("custom".into()));
        assert_eq!(
            read("Redistributable. See LICENCE.x for details."),
            Licence::Named("Redistributable. See LICENCE.x for details.".into())
        );
        assert_eq!(read(" "), Licence::Unknown);
    }
}
