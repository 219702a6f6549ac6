//! Environment variables as people declare them: a value, or the host's. Knows which names mosbuild sets itself.
//! Knows no rule.

use std::collections::BTreeMap;

use mosbuild_engine::action::EnvVar;
use schemars::JsonSchema;
use serde::Deserialize;

/// A declared environment variable: its value, or the host's variable to take it from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Env {
    /// A text.
    Value(String),
    /// The host's.
    Host(HostVar),
}

/// A variable taken from the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostVar {
    /// Its name on the host.
    pub host: String,
    /// Whether its value must appear in no record and no log.
    #[serde(default)]
    pub secret: bool,
}

/// Names that the executor sets.
const TAKEN: [&str; 8] =
    ["OUT", "PATH", "HOME", "LC_ALL", "TZ", "SOURCE_DATE_EPOCH", "MAKEFLAGS", "CARGO_MAKEFLAGS"];

/// What is wrong with the name of a variable, and what to do; `also` are names that the rule sets.
pub fn fault(name: &str, also: &[&str]) -> Option<(String, &'static str)> {
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain {
        let help = "letters, digits and _, not beginning with a digit";
        return Some((format!("{name:?} is no name of a variable"), help));
    }
    let taken = TAKEN.contains(&name) || also.contains(&name);
    taken.then(|| (format!("{name} is set by mosbuild"), "take another name"))
}

/// The engine's form of declared variables.
pub fn environment(env: &BTreeMap<String, Env>) -> BTreeMap<String, EnvVar> {
    let one = |env: &Env| match env {
        Env::Value(text) => EnvVar::Value(text.clone()),
        Env::Host(from) => EnvVar::Host { name: from.host.clone(), secret: from.secret },
    };
    env.iter().map(|(name, value)| (name.clone(), one(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for right in ["A", "_", "a1", "RUSTFLAGS"] {
            assert_eq!(fault(right, &[]), None);
        }
        for wrong in ["", "1a", "a-b", "A=B", "a b", "ä", "A\0"] {
            assert!(fault(wrong, &[]).unwrap().0.ends_with("is no name of a variable"), "{wrong}");
        }
        assert_eq!(fault("PATH", &[]).unwrap().0, "PATH is set by mosbuild");
        assert_eq!(fault("ARCH", &["ARCH"]).unwrap().0, "ARCH is set by mosbuild");
    }
}
