//! Types of a component's fields, and what is wrong with values that have the right type.
//! Knows no step.

use std::collections::BTreeMap;

use mosbuild_engine::action::EnvVar;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_or_many::OneOrMany;

/// Where a component comes from: `{crate, version}` or `{path}`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A published crate, with `version`; pinned in mosbuild.lock.
    #[serde(rename = "crate", default)]
    pub name: Option<String>,
    /// Its version: a whole one is meant exactly, a part is a requirement as in Cargo.toml.
    #[serde(default)]
    pub version: Option<String>,
    /// A folder of the workspace, or an absolute one; never pinned, always hashed.
    #[serde(default)]
    pub path: Option<String>,
}

/// A source whose fields fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Name and version of a published crate.
    Crate(&'a str, &'a str),
    /// A folder.
    Path(&'a str),
}

impl Source {
    /// Which kind of source it is; else the field that is wrong, and how.
    pub fn kind(&self) -> Result<Origin<'_>, (&'static str, String)> {
        match (&self.name, &self.version, &self.path) {
            (Some(name), Some(version), None) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if name.is_empty() || !name.chars().all(plain) {
                    return Err(("crate", format!("{name:?} is no name of a crate")));
                }
                Ok(Origin::Crate(name, version))
            }
            (None, None, Some(path)) => Ok(Origin::Path(path)),
            (Some(_), None, None) => Err(("crate", "a crate needs its version: {crate, version}".into())),
            (Some(_), _, Some(_)) => Err(("path", "a source is a crate or a path, not both".into())),
            (None, Some(_), _) => Err(("version", "version belongs to a crate: {crate, version}".into())),
            (None, None, None) => Err(("", "a source is {crate, version} or {path}".into())),
        }
    }
}

/// Where a program goes: one path, or paths and a mode.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Install {
    /// At this path, 0755.
    At(String),
    /// At these paths.
    With(InstallWith),
}

/// Paths and mode of an installed program.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallWith {
    /// Where to: one path or several.
    pub to: OneOrMany,
    /// Permissions as a quoted octal number; 0755 if absent.
    #[serde(default)]
    pub mode: Option<String>,
}

impl Install {
    /// The paths as written.
    pub fn to(&self) -> &[String] {
        match self {
            Install::At(path) => std::slice::from_ref(path),
            Install::With(with) => with.to.all(),
        }
    }

    /// The permission bits; `Err` has the text that is no mode.
    pub fn mode(&self) -> Result<u32, &str> {
        let Install::With(InstallWith { mode: Some(text), .. }) = self else { return Ok(0o755) };
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        u32::from_str_radix(text, 8).ok().filter(|_| octal).ok_or(text.as_str())
    }
}

/// An absolute path in the image, without its leading slash; `None` if it is none or leaves the image.
pub fn image_path(path: &str) -> Option<&str> {
    let inner = path.strip_prefix('/')?;
    let clean = inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    clean.then_some(inner)
}

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

/// The engine's form of declared variables.
pub fn environment(env: &BTreeMap<String, Env>) -> BTreeMap<String, EnvVar> {
    let one = |env: &Env| match env {
        Env::Value(text) => EnvVar::Value(text.clone()),
        Env::Host(from) => EnvVar::Host { name: from.host.clone(), secret: from.secret },
    };
    env.iter().map(|(name, value)| (name.clone(), one(value))).collect()
}
