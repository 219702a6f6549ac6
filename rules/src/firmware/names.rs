//! The first step of `firmware`: the names of firmware in trees of kernel modules, files and built-in ones.
//! A file of its own, so that a module that changes otherwise leaves all that follows alone. Knows no firmware.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::{Digest, Node};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::modinfo::{self, ModuleInfo};
use rayon::prelude::*;

use crate::steps::file_output;

/// Each name of firmware with the modules that have it.
pub type NamesOf = BTreeMap<String, BTreeSet<String>>;

/// Inputs: trees of modules, `000 TARGET`, …; output `names`, a JSON object of [`NamesOf`].
pub struct Names;

impl Builtin for Names {
    fn name(&self) -> &'static str {
        "firmware-names"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("names".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let mut names = NamesOf::new();
        for input in cx.inputs.keys() {
            let shown = input.split_once(' ').map_or(input.as_str(), |(_, name)| name);
            let found = Found::in_tree(cx, input)?;
            if !found.any {
                return Err(StepError::new(format!("{shown} holds no lib/modules/VERSION"))
                    .help("`for` takes a target of rule modules, or linux:modules"));
            }
            let before = names.len();
            found.collect(cx, &mut names)?;
            let new = names.len() - before;
            let builtin = if found.builtin.is_empty() { "" } else { " and in the kernel itself" };
            (cx.log)(&format!("{shown}: {new} names in {} modules{builtin}", found.files.len()));
        }
        let json = serde_json::to_vec_pretty(&names).map_err(|e| StepError::new(e.to_string()))?;
        let output = file_output(cx.store, &json)?;
        Ok(Made { outputs: BTreeMap::from([("names".to_owned(), output)]), ..Made::default() })
    }
}

/// What a tree has of kernels.
#[derive(Default)]
struct Found {
    /// Path and content of each module.
    files: Vec<(String, Digest)>,
    /// Contents of each modules.builtin.modinfo.
    builtin: Vec<Digest>,
    /// Whether there is a folder of a kernel at all.
    any: bool,
}

impl Found {
    fn in_tree(cx: &BuiltinCx<'_>, input: &str) -> Result<Found, StepError> {
        let tree = cx.tree(input)?;
        let mut found = Found::default();
        for entry in tree.iter() {
            let path = entry.path.to_string();
            // Where /lib is a link to usr/lib, a package's modules lie there.
            let below = path.strip_prefix("usr/").unwrap_or(&path).strip_prefix("lib/modules/");
            let Some(below) = below else { continue };
            found.any = true;
            let Node::File { digest, .. } = entry.node else { continue };
            if modinfo::is_module_path(&path) {
                found.files.push((path, digest));
            } else if below.split_once('/').is_some_and(|(_, name)| name == "modules.builtin.modinfo") {
                found.builtin.push(digest);
            }
        }
        Ok(found)
    }

    fn collect(&self, cx: &BuiltinCx<'_>, names: &mut NamesOf) -> Result<(), StepError> {
        let of = |(path, digest): &(String, Digest)| {
            let bytes = cx.store.read(digest)?;
            let info = ModuleInfo::parse(&bytes).map_err(|e| StepError::new(format!("{path}: {e}")))?;
            let firmware: Vec<String> = info.firmware().into_iter().map(str::to_owned).collect();
            Ok((modinfo::name_of_path(path), firmware))
        };
        let of_files = self.files.par_iter().map(of).collect::<Result<Vec<_>, StepError>>()?;
        for (module, firmware) in of_files {
            for name in firmware {
                names.entry(name).or_default().insert(module.clone());
            }
        }
        for digest in &self.builtin {
            for (module, key, name) in modinfo::parse_builtin(&cx.store.read(digest)?) {
                if key == "firmware" {
                    let module = format!("{} (built in)", modinfo::canonical(&module));
                    names.entry(name).or_default().insert(module);
                }
            }
        }
        names.remove("");
        Ok(())
    }
}
