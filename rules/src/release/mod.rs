//! Rule `release`: prebuilt files, from a download that is one, or is an archive of them.
//! Knows the fields; what is in a download is in member.rs and install.rs, what its URL says in name.rs.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | source | the pin | downloads the file | the pin changes |
//! | install | the file | takes the members out, checks them, places them | the file or a field changes |

mod install;
mod listing;
mod member;
mod name;

use std::collections::BTreeMap;

use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, FieldPath, OutputDecl, OutputKind, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::fields::{self, Install};
use crate::mode::Mode;
use crate::source::url_fault;
use crate::steps::{builtin, read};
use crate::url;

/// Prebuilt files.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// `https://…`, `http://…` or `file:///…`: a file, an archive (tar or zip), or a compressed file. Locked.
    url: String,
    /// What goes where: the file's name, or a member of the archive, and its path or paths in the image.
    install: BTreeMap<String, Install>,
    /// Permissions where `install` has none, as a quoted octal number; 0755 if absent.
    #[serde(default)]
    mode: Option<Mode>,
    /// Its version; found in the URL if absent.
    #[serde(default)]
    version: Option<String>,
}

impl Rule for Release {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let errors = self.faults();
        if !errors.is_empty() {
            return Err(errors);
        }
        let tree = OutputDecl { name: install::TREE.into(), kind: OutputKind::Tree, path: None, field: None };
        Ok(RuleFacts { outputs: vec![tree], facts: vec!["version"], ..RuleFacts::default() })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let file = url::plan(planner, &self.url);
        let mode = self.mode.as_ref().and_then(Mode::bits).unwrap_or(0o755);
        let version = self.version.clone().or_else(|| name::version(&self.url));
        let params = [
            ("install", fields::placements(&self.install, mode)?),
            ("arch", planner.arch().to_owned()),
            ("name", name::file_name(&self.url).unwrap_or_default()),
            ("version", version.unwrap_or_default()),
        ];
        let done =
            planner.step(builtin("install", install::InstallRelease, vec![read("file", file)], &params));
        planner.output(install::TREE, done, install::TREE);
        Ok(())
    }
}

impl Release {
    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: Option<&str>| {
            errors.push(FieldError { field, message, help: help.map(str::to_owned) });
        };
        if let Some(message) = url_fault(&self.url) {
            fault(field!["url"], message, None);
        } else if name::file_name(&self.url).is_none() {
            fault(field!["url"], format!("{:?} names no file", self.url), None);
        }
        if let Some(mode) = self.mode.as_ref().filter(|mode| mode.bits().is_none()) {
            let help = "permissions are a quoted octal number, as \"0755\"";
            fault(field!["mode"], format!("{:?} is no mode", mode.text()), Some(help));
        }
        if self.version.as_ref().is_some_and(|v| v.trim().is_empty() || v.contains(char::is_control)) {
            fault(field!["version"], "a version is a word".into(), Some("leave it out to take the URL's"));
        }
        for name in self.install.keys() {
            if name.starts_with('/') || name.is_empty() || name.split('/').any(|part| part == "..") {
                let help = "the file's name, or a path within the archive";
                fault(field!["install", name], format!("{name:?} is no name of a member"), Some(help));
            }
        }
        errors.extend(fields::faults(&self.install));
        errors
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_engine::load::path_text;
    use serde_json::json;

    use super::*;

    fn faults(fields: serde_json::Value) -> Vec<String> {
        let release: Release = serde_json::from_value(fields).unwrap();
        let errors = release.declare().err().unwrap_or_default();
        errors.iter().map(|e| format!("{}: {}", path_text(&e.field), e.message)).collect()
    }

    #[test]
    fn a_release_makes_a_tree_and_tells_its_version() {
        let fields = json!({ "url": "https://h/a-1.0", "install": { "a-1.0": "/bin/a" }, "mode": "0700" });
        let release: Release = serde_json::from_value(fields).unwrap();
        let facts = release.declare().unwrap();
        assert_eq!(
            (facts.outputs.len(), facts.outputs[0].name.as_str(), facts.facts),
            (1, "tree", vec!["version"])
        );
        assert!(facts.files.is_empty());
    }

    #[test]
    fn wrong_values_are_all_reported_with_their_fields() {
        let found = faults(json!({
            "url": "ftp://h/x",
            "mode": "rwx",
            "version": " ",
            "install": { "/abs": "/a", "a/../b": "/b", "ok": "relative", "two": { "to": "/a", "mode": "9" } },
        }));
        assert_eq!(
            found,
            [
                "url: \"ftp://h/x\" is no URL: https://…, http://… or file:///… is expected",
                "mode: \"rwx\" is no mode",
                "version: a version is a word",
                "install./abs: \"/abs\" is no name of a member",
                "install.a/../b: \"a/../b\" is no name of a member",
                "install.ok: \"relative\" is no absolute path in the image",
                "install.two.mode: \"9\" is no mode",
                "install.two: /a is where /abs goes already",
            ]
        );
        assert_eq!(
            faults(json!({ "url": "https://h/", "install": {} })),
            ["url: \"https://h/\" names no file", "install: nothing is installed",]
        );
    }
}
