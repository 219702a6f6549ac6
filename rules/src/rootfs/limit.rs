//! The bound on a root file system: what is too large is told with its layers, its largest files, and what grew since the
//! last build that fitted.

use std::collections::BTreeMap;

use mosbuild_cache::Tree;
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::finished;
use crate::contents::{Growth, Image, NEVER_BUILT, Origins, bytes_of, largest, since};
use crate::size::{bytes, human};

/// How many of each are named.
const NAMED: usize = 10;

/// Inputs `tree` and `layers` (see [`super::merge::Merge`]); param `max_size`. Output `tree`, the same; fact `size`.
pub struct Limit;

impl Builtin for Limit {
    fn name(&self) -> &'static str {
        "rootfs-limit"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("tree")?;
        match bytes(cx.param("max_size")) {
            Some(max) if tree.file_bytes() > max => Err(too_large(cx, &tree, max)?),
            _ => finished(cx, &tree, Vec::new()),
        }
    }
}

fn too_large(cx: &BuiltinCx<'_>, tree: &Tree, max: u64) -> Result<StepError, StepError> {
    let origins = Origins::of_list(cx.store, &cx.blob("layers")?.0);
    let message = format!(
        "the tree has {} and max_size is {}; by layer:\n{}\nthe largest files:\n{}\n{}",
        human(tree.file_bytes()),
        human(max),
        by_layer(tree, &origins),
        largest(tree, NAMED),
        grown(cx, tree, &origins)
    );
    Ok(StepError::new(message).help("raise max_size, or remove what is not needed"))
}

fn grown(cx: &BuiltinCx<'_>, tree: &Tree, origins_now: &Origins) -> String {
    let before = cx.previous().and_then(|previous| {
        let tree = cx.store.get_tree(&previous.outputs.get("tree")?.digest).ok()?;
        Some((tree, Origins::of_list(cx.store, previous.inputs.get("layers")?)))
    });
    let Some((old, origins_then)) = before else {
        return NEVER_BUILT.into();
    };
    let growth =
        Growth::between(&Image { tree: &old, origins: &origins_then }, &Image { tree, origins: origins_now });
    since(&growth, NAMED)
}

fn by_layer(tree: &Tree, origins: &Origins) -> String {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in tree.iter() {
        if let Some(layer) = origins.layer(&entry.path) {
            *sizes.entry(layer).or_default() += bytes_of(&entry.node);
        }
    }
    let mut sizes: Vec<_> = sizes.into_iter().filter(|(_, size)| *size > 0).collect();
    sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let lines: Vec<String> =
        sizes.iter().map(|(name, size)| format!("  {:>10}  {name}", human(*size))).collect();
    lines.join("\n")
}
