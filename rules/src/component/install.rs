//! The last step of a component: the installed tree and one file per program, after a look at whether they may go into
//! an image (check.rs). Knows neither cargo nor sources.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node, Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::check::{Checks, HostPaths};
use super::fields::Placement;
use crate::steps::{entry, tree_of, tree_output};

/// Name of the output that holds everything installed.
pub const TREE: &str = "tree";

/// Input `bins`; params `install`, `target` (a triple), `cargo` (`yes`: each is a program), `allow` (words).
pub struct InstallPrograms {
    /// The programs: output names, and paths in `bins`.
    pub names: Vec<String>,
    /// Paths that no program may have in it, beside those of the sandbox.
    pub host: HostPaths,
}

impl Builtin for InstallPrograms {
    fn name(&self) -> &'static str {
        "component-install"
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        let programs = self.names.iter().map(|name| (name.clone(), OutKind::File));
        [(TREE.to_owned(), OutKind::Tree)].into_iter().chain(programs).collect()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let bins = cx.tree("bins")?;
        let install: BTreeMap<String, Placement> = serde_json::from_str(cx.param("install"))
            .map_err(|e| StepError::new(format!("param install: {e}")))?;
        let checks = Checks {
            target: cx.param("target"),
            allow: cx.param("allow").split_whitespace().collect(),
            cargo: cx.param("cargo") == "yes",
            host: &self.host,
        };
        let mut made = Made::default();
        let mut entries = Vec::new();
        for (name, placement) in &install {
            let found = bins.iter().find(|e| e.path.to_string() == *name);
            let Some(Node::File { digest, size }) = found.map(|e| &e.node) else {
                return Err(missing(name, bins.iter()));
            };
            checks.check(name, &cx.store.read(digest)?)?;
            for path in &placement.to {
                let node = Node::File { digest: *digest, size: *size };
                entries.push(entry(path.as_bytes(), placement.mode, node)?);
            }
            let kind = OutputKind::File { executable: placement.mode & 0o100 != 0 };
            made.outputs.insert(name.clone(), Output { kind, digest: *digest, size: *size });
        }
        made.outputs.insert(TREE.into(), tree_output(cx.store, &tree_of(entries)?)?);
        Ok(made)
    }
}

fn missing<'e>(name: &str, entries: impl Iterator<Item = &'e Entry>) -> StepError {
    let files = entries.filter(|e| matches!(e.node, Node::File { .. })).map(|e| e.path.to_string());
    let files: Vec<String> = files.take(20).collect();
    let error = StepError::new(format!("$OUT/{name} was not made, or is no file"));
    match files.is_empty() {
        true => error.help("the build script left no file in $OUT"),
        false => error.help(format!("$OUT has {}", files.join(", "))),
    }
}
