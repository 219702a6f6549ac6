//! Types of a component's fields, and what is wrong with values that have the right type.
//! Knows no step.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::mode::Mode;
use crate::one_or_many::OneOrMany;

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
    pub mode: Option<Mode>,
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
        let Install::With(InstallWith { mode: Some(mode), .. }) = self else { return Ok(0o755) };
        mode.bits().ok_or(mode.text())
    }
}

/// An absolute path in the image, without its leading slash; `None` if it is none or leaves the image.
pub fn image_path(path: &str) -> Option<&str> {
    let inner = path.strip_prefix('/')?;
    let clean = inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    clean.then_some(inner)
}
