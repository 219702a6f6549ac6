//! Layers laid over each other, the later ones winning; a clash of kinds is an error. Trees in, tree out.

use mosbuild_cache::{Tree, merge};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use super::finished;
use crate::steps::file_output;

/// How many overrides are listed.
const LISTED: usize = 100;

/// Inputs are the layers, `NNN NAME`. Outputs `tree` and `layers`: a line for each, the digest of its tree and its
/// name. Fact `size`.
pub struct Merge;

impl Builtin for Merge {
    fn name(&self) -> &'static str {
        "merge"
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree), ("layers".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let mut list = String::new();
        let mut layers = Vec::new();
        for name in cx.inputs.keys() {
            let tree = cx.tree(name)?;
            let name = name.split_once(' ').map_or(name.as_str(), |(_, n)| n);
            // Of a layer out of the workspace the encoding is not in the store yet.
            let digest = cx.store.put_tree(&tree)?;
            list.push_str(&format!("{} {name}\n", digest.hex()));
            layers.push((name.to_owned(), tree));
        }
        let layers: Vec<(&str, &Tree)> = layers.iter().map(|(name, tree)| (name.as_str(), &**tree)).collect();
        let merged = merge(&layers).map_err(|e| StepError::new(e.to_string()))?;
        if !merged.clashes.is_empty() {
            let lines: Vec<String> = merged
                .clashes
                .iter()
                .map(|c| {
                    let ((a, x), (b, y)) = (&c.earlier, &c.later);
                    format!("  /{}: a {x} in {a}, a {y} in {b}", c.path)
                })
                .collect();
            return Err(StepError::new(format!("layers clash:\n{}", lines.join("\n")))
                .help("remove the path from one of the layers, or leave that layer out"));
        }
        let mut notes: Vec<String> = merged
            .overrides
            .iter()
            .take(LISTED)
            .map(|o| format!("/{}: {} replaces the one of {}", o.path, o.later, o.earlier))
            .collect();
        if merged.overrides.len() > LISTED {
            notes.push(format!("and {} more replaced files", merged.overrides.len() - LISTED));
        }
        notes.iter().for_each(|note| (cx.log)(note));
        let mut made = finished(cx, &merged.tree, notes)?;
        made.outputs.insert("layers".into(), file_output(cx.store, list.as_bytes())?);
        Ok(made)
    }
}
