//! Nearest names: what a user who wrote a name that does not exist probably meant, and how names are quoted.
//! Knows no YAML and no rule.

use std::cell::Cell;

/// Comparisons that one load may spend on suggestions; past it errors come without one rather than late.
const BUDGET: usize = 200_000;

/// Finds nearest names within a budget, so that ten thousand wrong names in ten thousand cost no minutes.
#[derive(Debug)]
pub struct Hinter {
    left: Cell<usize>,
}

impl Default for Hinter {
    fn default() -> Self {
        Hinter { left: Cell::new(BUDGET) }
    }
}

impl Hinter {
    /// The candidate nearest to `name`, if one is near enough to be what was meant.
    pub fn nearest<'a>(&self, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        if name.is_empty() || name.len() > 200 {
            return None;
        }
        let wanted = fold(name);
        let limit = (wanted.chars().count() / 3).max(1);
        let mut best: Option<(usize, &str)> = None;
        for candidate in candidates {
            let left = self.left.get();
            if left == 0 {
                break;
            }
            if candidate.len().abs_diff(name.len()) > limit * 4 {
                continue;
            }
            self.left.set(left - 1);
            let distance = strsim::damerau_levenshtein(&wanted, &fold(candidate));
            // On a tie the first candidate wins: the order of the file, which is stable.
            if distance <= limit && best.is_none_or(|(d, _)| distance < d) {
                best = Some((distance, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }
}

/// The name nearest to one that does not exist, if one is near enough to be what was meant.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    Hinter::default().nearest(name, names)
}

/// Case, `-` and `_` are no difference when names are compared for nearness.
fn fold(name: &str) -> String {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// A name from the file in backticks, with control characters escaped and its length bounded.
pub fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (i, c) in text.chars().enumerate() {
        if i == 80 {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('`');
    out
}

/// "`a`, `b` or `c`": names in backticks, joined by a last word, cut after a dozen.
pub fn join<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names.len().min(12);
    let mut out = String::new();
    for (i, name) in names[..shown].iter().enumerate() {
        if i > 0 && i + 1 == names.len() {
            out.push_str(&format!(" {last} "));
        } else if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&quote(name));
    }
    if names.len() > shown {
        out.push_str(&format!(" and {} more", names.len() - shown));
    }
    out
}

/// Whether a name may be a target's: letters, digits and `_ . + -`, starting with a letter, digit or `_`.
pub fn is_target_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c))
}

/// Whether a name may be a variable's: letters, digits, `_` and `-`, not starting with a digit.
pub fn is_var_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found_and_the_far_is_not() {
        let hints = Hinter::default();
        let names = ["layers", "remove", "strip", "max_size"];
        assert_eq!(hints.nearest("layer", names), Some("layers"));
        assert_eq!(hints.nearest("max-size", names), Some("max_size"));
        assert_eq!(hints.nearest("stirp", names), Some("strip"));
        assert_eq!(hints.nearest("colour", names), None);
        assert_eq!(hints.nearest("", names), None);
    }

    #[test]
    fn the_budget_ends_the_search() {
        let hints = Hinter { left: Cell::new(1) };
        assert_eq!(hints.nearest("ab", ["xx", "ab"]), None);
    }

    #[test]
    fn quoted_names_carry_no_control_characters() {
        assert_eq!(quote("a\u{1b}[31m\n"), "`a\\u{1b}[31m\\n`");
        assert_eq!(join(["a", "b", "c"], "or"), "`a`, `b` or `c`");
    }
}
