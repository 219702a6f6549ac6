//! What goes where, as components and releases have it in `install`, and what is wrong with values of the right type.
//! Knows no step.

use std::collections::BTreeMap;

use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, FieldPath};
use mosbuild_engine::rule::PlanError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// The permission bits if they are written; `Err` has the text that is no mode.
    pub fn mode(&self) -> Result<Option<u32>, &str> {
        let Install::With(InstallWith { mode: Some(mode), .. }) = self else { return Ok(None) };
        mode.bits().map(Some).ok_or(mode.text())
    }

    /// Where it goes, with the mode that it has if none is written.
    pub fn placement(&self, mode: u32) -> Placement {
        let to = self.to().iter().filter_map(|path| image_path(path)).map(str::to_owned).collect();
        Placement { to, mode: self.mode().ok().flatten().unwrap_or(mode) }
    }
}

/// Where something goes, as the param `install` of a step has it (JSON, a map by name).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// Paths in the image, without a leading slash.
    pub to: Vec<String>,
    /// Permission bits.
    pub mode: u32,
}

/// The param `install` of these entries.
pub fn placements(install: &BTreeMap<String, Install>, mode: u32) -> Result<String, PlanError> {
    let all: BTreeMap<&str, Placement> =
        install.iter().map(|(name, one)| (name.as_str(), one.placement(mode))).collect();
    serde_json::to_string(&all).map_err(|e| PlanError::new(2, format!("install: {e}")))
}

/// What is wrong with the paths and modes of an `install`; its keys are another matter.
pub fn faults(install: &BTreeMap<String, Install>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut fault = |field: FieldPath, message: String, help: Option<&str>| {
        errors.push(FieldError { field, message, help: help.map(str::to_owned) });
    };
    if install.is_empty() {
        let help = "say what goes where: {name: /path}";
        fault(field!["install"], "nothing is installed".into(), Some(help));
    }
    let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, install) in install {
        let field = field!["install", name];
        if let Err(mode) = install.mode() {
            let help = "permissions are a quoted octal number, as \"0755\"";
            fault(field!["install", name, "mode"], format!("{mode:?} is no mode"), Some(help));
        }
        if install.to().is_empty() {
            fault(field.clone(), format!("{name} is installed nowhere"), None);
        }
        for path in install.to() {
            if image_path(path).is_none() {
                fault(field.clone(), format!("{path:?} is no absolute path in the image"), None);
            } else if let Some(other) = taken.insert(path, name) {
                fault(field.clone(), format!("{path} is where {other} goes already"), None);
            }
        }
    }
    errors
}

/// An absolute path in the image, without its leading slash; `None` if it is none or leaves the image.
pub fn image_path(path: &str) -> Option<&str> {
    let inner = path.strip_prefix('/')?;
    let clean = inner.split('/').all(|part| !matches!(part, "" | "." | ".."));
    clean.then_some(inner)
}
