//! Permissions as people write them: an octal number in quotes, since readers of YAML differ on what `0755` is.
//! Knows no rule.

use schemars::JsonSchema;
use serde::Deserialize;

/// Permissions: a quoted octal number.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(transparent)]
#[schemars(inline, extend("format" = "quoted"))]
pub struct Mode(String);

impl Mode {
    /// What is written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The bits; none if it is no octal number of three or four digits.
    pub fn bits(&self) -> Option<u32> {
        let octal = (3..=4).contains(&self.0.len()) && self.0.bytes().all(|b| (b'0'..=b'7').contains(&b));
        u32::from_str_radix(&self.0, 8).ok().filter(|_| octal)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn modes() {
        let bits = |text: &str| super::Mode(text.into()).bits();
        assert_eq!(bits("0755"), Some(0o755));
        assert_eq!(bits("755"), Some(0o755));
        assert_eq!(bits("4711"), Some(0o4711));
        for bad in ["", "7", "99", "0888", "77777", "+755", "-755", "0o755", "rwx", " 755", "07_5"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }
}
