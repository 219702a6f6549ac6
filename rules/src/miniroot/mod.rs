//! Rule `miniroot`: Alpine's mini root filesystem, by release or by URL, as a tree with its true owners and modes.
//! Knows the fields and which steps follow from them; where a release lies is in release.rs.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | source | the pin | downloads the archive | the pin changes |
//! | unpack | the archive | the tree; says which release, and which apk is in it | it changes |

mod release;
mod source;
mod unpack;

use std::collections::BTreeMap;

use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, FieldPath, OutputDecl, OutputKind, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::source::url_fault;
use crate::steps::{builtin, locked, made, read};

pub use release::{Branch, CDN};
pub use source::FetchMiniroot;
pub use unpack::{UnpackMiniroot, content, database};

/// Alpine's mini root filesystem.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Miniroot {
    /// A branch (`3.22`, whose newest release is locked; `edge`) or a release (`3.22.1`).
    #[serde(default)]
    release: Option<String>,
    /// Architecture as Alpine names it; the workspace's `arch` if absent.
    #[serde(default)]
    arch: Option<String>,
    /// An archive elsewhere, in place of release and arch.
    #[serde(default)]
    url: Option<String>,
}

impl Rule for Miniroot {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: &str| {
            errors.push(FieldError { field, message, help: Some(help.into()) });
        };
        match (&self.release, &self.url) {
            (None, None) => fault(
                FieldPath::new(),
                "miniroot needs release or url".into(),
                "say `release: \"3.22\"`, or give an archive as `url: …`",
            ),
            (Some(_), Some(_)) => fault(
                field!["url"],
                "release and url exclude each other".into(),
                "the url alone says which archive is meant",
            ),
            (Some(text), None) if Branch::parse(text).is_none() => fault(
                field!["release"],
                format!("{text:?} is no release of Alpine"),
                "write a branch such as \"3.22\" or edge, or a release such as \"3.22.1\"",
            ),
            (None, Some(url)) => {
                if let Some(message) = url_fault(url) {
                    fault(field!["url"], message, "an archive as Alpine's minirootfs");
                }
                if self.arch.is_some() {
                    let message = "arch belongs to release; the url alone says which archive is meant";
                    fault(field!["arch"], message.into(), "leave it out");
                }
            }
            _ => {}
        }
        if let Some(arch) = self.arch.as_ref().filter(|a| !is_arch(a)) {
            fault(field!["arch"], format!("{arch:?} is no architecture"), "such as x86_64 or aarch64");
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(RuleFacts {
            outputs: vec![OutputDecl {
                name: "tree".into(),
                kind: OutputKind::Tree,
                path: None,
                field: None,
            }],
            facts: vec!["version", "apk"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let arch = self.arch.as_deref().unwrap_or(planner.arch());
        let (id, params) = match (&self.url, &self.release) {
            (Some(url), _) => (format!("url {url}"), vec![("url", url.clone())]),
            (None, release) => {
                let release = release.as_deref().unwrap_or_default();
                let params = vec![("release", release.to_owned()), ("arch", arch.to_owned())];
                (format!("miniroot {release} {arch}"), params)
            }
        };
        let source = planner.step(locked("source", id, FetchMiniroot, Vec::new(), &params));
        let archive = vec![read("archive", made(source, "file"))];
        let unpack = planner.step(builtin("unpack", UnpackMiniroot, archive, &[]));
        planner.output("tree", unpack, "tree");
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        let entries = [("release", &self.release), ("arch", &self.arch)];
        entries.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?))).collect()
    }
}

/// Whether it can be the name of an architecture, and so a folder of a mirror.
pub fn is_arch(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
