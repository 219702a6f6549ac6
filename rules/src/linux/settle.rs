//! The steps of `linux` that leave what the last link takes: a small part of objects and source with the script that
//! links, or, where these objects are not understood or the script's image is not make's, all of both and make.
//! Knows trees; the files are known to relink.rs.

use std::collections::BTreeSet;

use mosbuild_cache::{Node, Output, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::relink::{self, Compiled, Refused};
use crate::steps::{file_output, tree_of, tree_output};

/// Inputs `objects` and `source`; params `make`, the functions of make, and `arch`. Outputs `script`, `objects`,
/// `source`: of make where the objects are not understood, which is noted.
pub struct Parts;

impl Builtin for Parts {
    fn name(&self) -> &'static str {
        "linux-parts"
    }

    fn version(&self) -> u32 {
        3
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![
            ("script".into(), OutKind::File),
            ("objects".into(), OutKind::Tree),
            ("source".into(), OutKind::Tree),
        ]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let (objects, source) = (cx.tree("objects")?, cx.tree("source")?);
        let compiled = Trees { store: cx.store, objects: &objects, source: &source };
        let planned = match cx.param("arch") {
            "x86_64" => relink::plan(&compiled),
            arch => Err(Refused::Unknown(format!("it is for {arch}, and that of x86_64 is known"))),
        };
        match planned {
            Ok(relink) => {
                let (objects, source) = (part(&objects, &relink.objects)?, part(&source, &relink.source)?);
                let bytes = |tree: &Tree| crate::size::human(tree.file_bytes());
                (cx.log)(&format!("objects {}, source {}", bytes(&objects), bytes(&source)));
                outputs(cx, &relink.script, tree_output(cx.store, &objects)?, tree_output(cx.store, &source)?)
            }
            Err(Refused::Unknown(why)) => {
                let (objects, source) = (tree_output(cx.store, &objects)?, tree_output(cx.store, &source)?);
                let mut made = outputs(cx, cx.param("make"), objects, source)?;
                by_make(cx, &mut made, &why);
                Ok(made)
            }
            Err(Refused::Failed(e)) => Err(e),
        }
    }
}

/// Inputs `verdict` of the rehearsal, `script`, `objects` and `source` of [`Parts`], `all-objects` and `all-source`;
/// param `make`. Outputs as those of [`Parts`]: its own if the verdict is empty, else make's, which is noted.
pub struct Settle;

impl Builtin for Settle {
    fn name(&self) -> &'static str {
        "linux-settle"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Parts.outputs()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let verdict = cx.bytes("verdict")?;
        let verdict = String::from_utf8_lossy(&verdict);
        let tree = |name: &str| tree_output(cx.store, cx.tree(name)?.as_ref());
        if verdict.trim().is_empty() {
            let script = cx.bytes("script")?;
            return outputs(cx, &String::from_utf8_lossy(&script), tree("objects")?, tree("source")?);
        }
        let mut made = outputs(cx, cx.param("make"), tree("all-objects")?, tree("all-source")?)?;
        by_make(
            cx,
            &mut made,
            &format!("tried, the image is not the one that make links: {}", verdict.trim()),
        );
        Ok(made)
    }
}

fn outputs(cx: &BuiltinCx<'_>, script: &str, objects: Output, source: Output) -> Result<Made, StepError> {
    let script = file_output(cx.store, script.as_bytes())?;
    let outputs = [("script", script), ("objects", objects), ("source", source)];
    Ok(Made { outputs: outputs.map(|(name, output)| (name.to_owned(), output)).into(), ..Made::default() })
}

/// Says once, when the kernel was compiled, that its relinks are slow.
fn by_make(cx: &BuiltinCx<'_>, made: &mut Made, why: &str) {
    let text = format!("each relink of this kernel is left to make, which takes longer: {why}");
    (cx.warn)(&text);
    made.notes.push(format!("warning: {text}"));
}

/// These files of a tree, and what their links point at is not asked.
fn part(tree: &Tree, paths: &BTreeSet<String>) -> Result<Tree, StepError> {
    let wanted = paths.iter().filter_map(|path| tree.get(&TreePath::new(path).ok()?).cloned());
    tree_of(wanted.collect())
}

struct Trees<'a> {
    store: &'a Store,
    objects: &'a Tree,
    source: &'a Tree,
}

fn has(tree: &Tree, path: &str) -> bool {
    TreePath::new(path).is_ok_and(|path| tree.get(&path).is_some_and(|e| matches!(e.node, Node::File { .. })))
}

fn below<'t>(tree: &'t Tree, folder: &str) -> impl Iterator<Item = String> + 't {
    let prefix = format!("{folder}/");
    let files = tree.iter().filter(|entry| matches!(entry.node, Node::File { .. }));
    files.map(|entry| entry.path.to_string()).filter(move |path| path.starts_with(&prefix))
}

impl Compiled for Trees<'_> {
    fn object(&self, path: &str) -> Result<Option<Vec<u8>>, StepError> {
        let entry = TreePath::new(path).ok().and_then(|path| self.objects.get(&path));
        match entry.map(|entry| &entry.node) {
            Some(Node::File { digest, .. }) => Ok(Some(self.store.read(digest)?)),
            _ => Ok(None),
        }
    }

    fn objects_below(&self, folder: &str) -> Vec<String> {
        below(self.objects, folder).collect()
    }

    fn has_object(&self, path: &str) -> bool {
        has(self.objects, path)
    }

    fn has_source(&self, path: &str) -> bool {
        has(self.source, path)
    }

    fn sources_in(&self, folder: &str) -> Vec<String> {
        below(self.source, folder).filter(|path| !path[folder.len() + 1..].contains('/')).collect()
    }
}
