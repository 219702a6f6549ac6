//! The steps of `linux` that leave what the last link takes: a small part of objects and source with the script that
//! links, or, where these objects are not understood or the script's image is not make's, all of both and make.
//! Knows trees; the files are known to relink.rs.

use std::collections::BTreeSet;

use mosbuild_cache::{Node, Output, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::relink::offsets::Offsets;
use super::relink::{self, Compiled, Refused};
use crate::steps::{file_output, tree_of, tree_output};

/// Inputs `objects` and `source`; params `make`, the functions of make, and `arch`. Outputs `script`, `objects`,
/// `source`: of make where the objects are not understood, which is noted; `readers`, a line for each of
/// [`relink::Relink::readers`].
pub struct Parts;

impl Builtin for Parts {
    fn name(&self) -> &'static str {
        "linux-parts"
    }

    fn version(&self) -> u32 {
        4
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        let mut outputs = Settle.outputs();
        outputs.push(("readers".into(), OutKind::File));
        outputs
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let (objects, source) = (cx.tree("objects")?, cx.tree("source")?);
        let compiled = Trees { store: cx.store, objects: &objects, source: &source };
        let planned = match cx.param("arch") {
            "x86_64" => relink::plan(&compiled),
            arch => Err(Refused::Unknown(format!("it is for {arch}, and that of x86_64 is known"))),
        };
        let readers = planned.as_ref().map(|relink| relink.readers.join("\n")).unwrap_or_default();
        let readers = file_output(cx.store, readers.as_bytes())?;
        let mut made = match planned {
            Ok(relink) => {
                let (objects, source) = (part(&objects, &relink.objects)?, part(&source, &relink.source)?);
                let bytes = |tree: &Tree| crate::size::human(tree.file_bytes());
                (cx.log)(&format!("objects {}, source {}", bytes(&objects), bytes(&source)));
                outputs(
                    cx,
                    &relink.script,
                    tree_output(cx.store, &objects)?,
                    tree_output(cx.store, &source)?,
                )?
            }
            Err(Refused::Unknown(why)) => {
                let (objects, source) = (tree_output(cx.store, &objects)?, tree_output(cx.store, &source)?);
                let mut made = outputs(cx, cx.param("make"), objects, source)?;
                by_make(cx, &mut made, &why);
                made
            }
            Err(Refused::Failed(e)) => return Err(e),
        };
        made.outputs.insert("readers".into(), readers);
        Ok(made)
    }
}

/// Inputs `verdict` and `samples` of the rehearsal, `script`, `objects`, `source` and `readers` of [`Parts`], `all-objects`
/// and `all-source`; param `make`. Outputs `script`, `objects`, `source`: those of [`Parts`] if the verdict is empty, else
/// make's, which is noted. The script gets the places of addresses that the samples tell.
pub struct Settle;

impl Builtin for Settle {
    fn name(&self) -> &'static str {
        "linux-settle"
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![
            ("script".into(), OutKind::File),
            ("objects".into(), OutKind::Tree),
            ("source".into(), OutKind::Tree),
        ]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let verdict = cx.bytes("verdict")?;
        let verdict = String::from_utf8_lossy(&verdict);
        let tree = |name: &str| tree_output(cx.store, cx.tree(name)?.as_ref());
        if verdict.trim().is_empty() {
            let script = cx.bytes("script")?;
            let mut script = String::from_utf8_lossy(&script).into_owned();
            match patched(cx)? {
                Some(functions) => script.push_str(&functions),
                None => (cx.log)(
                    "objects that read addresses of vmlinux are compiled with each link that moves them",
                ),
            }
            return outputs(cx, &script, tree("objects")?, tree("source")?);
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

/// The functions that write addresses into objects, where the samples tell how.
fn patched(cx: &BuiltinCx<'_>) -> Result<Option<String>, StepError> {
    let readers = cx.bytes("readers")?;
    if readers.is_empty() {
        return Ok(Some(String::new()));
    }
    let (objects, samples) = (cx.tree("objects")?, cx.tree("samples")?);
    let file = |tree: &Tree, path: &str| content(cx.store, tree, path);
    let header = file(&objects, relink::VOFFSET)?.unwrap_or_default();
    let Some(offsets) = Offsets::parse(&String::from_utf8_lossy(&header)) else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for path in String::from_utf8_lossy(&readers).lines() {
        let read = [file(&samples, &format!("0/{path}"))?, file(&samples, &format!("1/{path}"))?];
        let (Some(object), [Some(first), Some(second)]) = (file(&objects, path)?, read) else {
            return Ok(None);
        };
        let Some(sites) = offsets.sites(&object, &[first, second]) else {
            return Ok(None);
        };
        (cx.log)(&format!("{path} has addresses at {} places", sites.len()));
        found.push((path.to_owned(), sites));
    }
    Ok(Some(offsets.script(relink::VOFFSET, &found)))
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

/// Bytes of a file; none where it is no file of the tree.
fn content(store: &Store, tree: &Tree, path: &str) -> Result<Option<Vec<u8>>, StepError> {
    match TreePath::new(path).ok().and_then(|path| tree.get(&path)).map(|entry| &entry.node) {
        Some(Node::File { digest, .. }) => Ok(Some(store.read(digest)?)),
        _ => Ok(None),
    }
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
        content(self.store, self.objects, path)
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
