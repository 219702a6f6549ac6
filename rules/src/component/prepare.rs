//! The first step of a component: its source without what build tools leave in a checkout, the stub of it that
//! dependencies are compiled from, and the facts. Knows trees; runs no program.

use std::collections::BTreeMap;

use mosbuild_cache::{Node, Store, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::manifest::{self, SourceTree, Stub};
use crate::source::Source;
use crate::steps::{file_entry, file_output, tree_of, tree_output};

/// Largest manifest or lock that is read.
const LARGEST_TEXT: u64 = 16 << 20;

/// Who tells the revision: `yes`, a published crate by its version; `git`, the step that brought the commit in; empty,
/// the tree itself.
pub fn crate_param(source: &Source) -> &'static str {
    match source {
        Source::Crate(_) => "yes",
        Source::Git(_) => "git",
        Source::Url(_) | Source::Path(_) => "",
    }
}

/// Input `source`; outputs `source`, and with cargo `stub`, `members` (what [`manifest::Survey::members`] has, and
/// `root FOLDER`) and `empty` (a tree with nothing in it, for a command to write to). Params: `subdir`, `package`,
/// `crate` (see [`crate_param`]), `mark` (a word that version and revision get, as the source is not what they name).
pub struct Prepare {
    /// Whether cargo will build it.
    pub cargo: bool,
}

impl Builtin for Prepare {
    fn name(&self) -> &'static str {
        if self.cargo { "component-prepare" } else { "component-prepare-script" }
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        let mut all = vec![("source".to_owned(), OutKind::Tree)];
        if self.cargo {
            all.extend([
                ("stub".to_owned(), OutKind::Tree),
                ("members".to_owned(), OutKind::File),
                ("empty".to_owned(), OutKind::Tree),
            ]);
        }
        all
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let given = cx.tree("source")?;
        let source = without_caches(&given)?;
        let files = source.iter().filter(|e| matches!(e.node, Node::File { .. }));
        let read = |path: &str| read_text(cx.store, &source, path);
        let view = SourceTree { files: files.map(|e| e.path.to_string()).collect(), read: &read };
        let subdir = cx.param("subdir");
        let package = Some(cx.param("package")).filter(|p| !p.is_empty());
        let mut made = Made::default();
        made.outputs.insert("source".into(), tree_output(cx.store, &source)?);
        let version = if self.cargo {
            let survey = manifest::survey(&view, subdir, package)?;
            let stub = stub_tree(cx.store, &source, &survey.stub)?;
            let lines = survey.members.iter().map(|m| format!("{m}\n"));
            let members: String = lines.chain([format!("root {}\n", survey.root)]).collect();
            made.outputs.insert("stub".into(), tree_output(cx.store, &stub)?);
            made.outputs.insert("members".into(), file_output(cx.store, members.as_bytes())?);
            made.outputs.insert("empty".into(), tree_output(cx.store, &tree_of(Vec::new())?)?);
            survey.version
        } else {
            manifest::version(&view, subdir, package)
        };
        match cx.param("crate") {
            "yes" => {
                let version = manifest::version(&view, "", None);
                let version = version.ok_or_else(|| StepError::new("the crate has no version"))?;
                made.facts.insert("version".into(), version.clone());
                made.facts.insert("rev".into(), version);
            }
            "git" => made.facts.extend(version.map(|v| ("version".to_owned(), v))),
            _ => {
                made.facts.extend(version.map(|v| ("version".to_owned(), v)));
                // Of what is built: a cache folder in the checkout is no revision.
                made.facts.insert("rev".into(), source.digest().hex().chars().take(7).collect());
            }
        }
        mark(&mut made.facts, cx.param("mark"));
        Ok(made)
    }
}

/// `1.2.3+patched`, which is a version to cargo too, and `abc1234-patched`.
fn mark(facts: &mut BTreeMap<String, String>, mark: &str) {
    for (name, sign) in [("version", '+'), ("rev", '-')] {
        if let Some(value) = facts.get_mut(name).filter(|_| !mark.is_empty()) {
            // What is behind a first `+` has dots between its parts.
            let sign = if sign == '+' && value.contains('+') { '.' } else { sign };
            value.push(sign);
            value.push_str(mark);
        }
    }
}

/// The tree without git's folder and without folders that a CACHEDIR.TAG marks (cargo's target directory).
fn without_caches(tree: &Tree) -> Result<Tree, StepError> {
    let caches: Vec<String> = tree
        .iter()
        .map(|e| e.path.to_string())
        .filter_map(|p| p.strip_suffix("/CACHEDIR.TAG").map(str::to_owned))
        .collect();
    let within = |path: &str, dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
    let kept = tree.iter().filter(|e| {
        let path = e.path.to_string();
        !within(&path, ".git") && !caches.iter().any(|c| within(&path, c))
    });
    tree_of(kept.cloned().collect())
}

fn stub_tree(store: &Store, source: &Tree, stubs: &BTreeMap<String, Stub>) -> Result<Tree, StepError> {
    let mut entries = Vec::with_capacity(stubs.len());
    for entry in source.iter() {
        if let Some(Stub::Keep) = stubs.get(&entry.path.to_string()) {
            entries.push(entry.clone());
        }
    }
    for (path, stub) in stubs {
        if let Stub::Text(text) = stub {
            entries.push(file_entry(store, path, text.as_bytes())?);
        }
    }
    tree_of(entries)
}

fn read_text(store: &Store, tree: &Tree, path: &str) -> Result<String, StepError> {
    let found = tree.iter().find(|e| e.path.to_string() == path).map(|e| &e.node);
    let Some(Node::File { digest, size }) = found else {
        return Err(StepError::new(format!("the source has no {path}")));
    };
    if *size > LARGEST_TEXT {
        return Err(StepError::new(format!("{path} has {size} bytes, which is no manifest")));
    }
    String::from_utf8(store.read(digest)?).map_err(|_| StepError::new(format!("{path} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_named_source_says_so() {
        let facts = |version: &str| {
            BTreeMap::from([("version".to_owned(), version.to_owned()), ("rev".into(), "abc1234".into())])
        };
        let mut plain = facts("1.2.3");
        mark(&mut plain, "");
        assert_eq!(plain, facts("1.2.3"));
        let mut patched = facts("1.2.3");
        mark(&mut patched, "patched");
        assert_eq!(
            (patched["version"].as_str(), patched["rev"].as_str()),
            ("1.2.3+patched", "abc1234-patched")
        );
        let mut built = facts("1.2.3+build.7");
        mark(&mut built, "override");
        assert_eq!(built["version"], "1.2.3+build.7.override");
    }
}
