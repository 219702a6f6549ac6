//! Where something comes from, as written in a `source` field or a `from`: a git repository, a published crate, a URL, or
//! a path. Knows what is wrong with one and the input that it stands for; how a crate is fetched is in component/fetch.rs.

pub mod git;

use mosbuild_engine::action::Input;
use mosbuild_engine::load::{FieldPath, FileKind, FileUse};
use mosbuild_engine::plan::Planner;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::component::fetch;
use crate::url;

/// `{git, rev}`, `{crate, version}`, `{url}` or `{path}`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Source {
    /// A commit of a git repository.
    Git(GitSource),
    /// A published crate.
    Crate(CrateSource),
    /// A file to be downloaded.
    Url(UrlSource),
    /// A file or folder.
    Path(PathSource),
}

/// `{git, rev}`: a commit of a git repository, pinned in mosbuild.lock.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GitSource {
    /// `https://…`, `ssh://…`, `user@host:path`, `file:///…`: as git takes it.
    pub git: String,
    /// A branch, a tag (also without its `v`, or with one that it lacks), a commit, or HEAD for the default branch.
    pub rev: String,
}

/// `{crate, version}`: a published crate, pinned in mosbuild.lock.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CrateSource {
    /// Its name.
    #[serde(rename = "crate")]
    pub name: String,
    /// Its version: a whole one is meant exactly, a part is a requirement as in Cargo.toml.
    pub version: String,
}

/// `{url}`: a file to be downloaded, pinned in mosbuild.lock.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct UrlSource {
    /// `https://…`, `http://…` or `file:///…`.
    pub url: String,
}

/// `{path}`: a file or folder of the workspace, or an absolute path. Never locked, always hashed.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PathSource {
    /// Relative paths stay inside of the workspace; absolute ones may lie anywhere.
    pub path: String,
}

impl Source {
    /// The field that is wrong, and how.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        match self {
            Source::Git(source) => {
                let url = git::url_fault(&source.git).map(|fault| ("git", fault));
                url.or_else(|| git::rev_fault(&source.rev).map(|fault| ("rev", fault)))
            }
            Source::Crate(CrateSource { name, version }) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                if name.is_empty() || !name.chars().all(plain) {
                    return Some(("crate", format!("{name:?} is no name of a crate")));
                }
                version.trim().is_empty().then(|| ("version", "a crate needs its version".into()))
            }
            Source::Url(source) => url_fault(&source.url).map(|fault| ("url", fault)),
            Source::Path(_) => None,
        }
    }

    /// A path as the loader checks it; `field` is that of the source.
    pub fn file_use(&self, mut field: FieldPath, kind: FileKind) -> Option<FileUse> {
        let Source::Path(source) = self else { return None };
        field.push("path".into());
        Some(source.file_use(field, kind))
    }

    /// As a step reads it; what is not on this machine is brought in by a step that is added here.
    pub fn plan(&self, planner: &mut Planner<'_>) -> Input {
        self.plan_marked(planner, None)
    }

    /// As [`Source::plan`], for a target that changes what it takes: the fact `rev` of a commit gets the word `mark`.
    pub fn plan_marked(&self, planner: &mut Planner<'_>, mark: Option<&str>) -> Input {
        match self {
            Source::Git(source) => git::plan(planner, source, mark),
            Source::Crate(source) => fetch::plan(planner, source),
            Source::Url(source) => url::plan(planner, &source.url),
            Source::Path(source) => source.input(),
        }
    }

    /// Whether it is a file that a step must unpack to read it as a folder.
    pub fn is_archive(&self) -> bool {
        matches!(self, Source::Url(_))
    }

    /// What it is called, where the thing itself has no name: the last part of its path.
    pub fn name(&self) -> &str {
        let path = match self {
            Source::Git(source) => return git::name(&source.git),
            Source::Crate(source) => &source.name,
            Source::Url(source) => source.url.split(['?', '#']).next().unwrap_or_default(),
            Source::Path(source) => &source.path,
        };
        path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

/// What is wrong with a URL.
pub fn url_fault(url: &str) -> Option<String> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if url.contains(blank) {
        return Some(format!("{url:?} is no URL: it has a blank in it"));
    }
    match url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.starts_with('/') && !rest.is_empty() => None,
        Some(("file", path)) if path.starts_with('/') => None,
        Some(("file", _)) => Some(format!("{url:?} needs an absolute path: file:///…")),
        _ => Some(format!("{url:?} is no URL: https://…, http://… or file:///… is expected")),
    }
}

impl PathSource {
    /// As the step reads it.
    pub fn input(&self) -> Input {
        match self.path.starts_with('/') {
            true => Input::External(self.path.clone().into()),
            false => Input::Path(self.path.clone()),
        }
    }

    /// As the loader checks it; `field` is that of `path`.
    pub fn file_use(&self, field: FieldPath, kind: FileKind) -> FileUse {
        FileUse { field, pattern: self.path.clone(), kind, absolute_ok: true }
    }
}
