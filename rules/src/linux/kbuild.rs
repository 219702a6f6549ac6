//! What the source's Makefiles make, as a small file: rule `modules` tells by it, before anything is compiled, which
//! names the kernel will not have. Knows trees; what a Makefile means is in formats.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::kbuild::{Kbuild, is_makefile};
use rayon::prelude::*;

use crate::steps::file_output;

/// Input `source`; output `kbuild`, as [`Kbuild::to_text`] writes it.
pub struct ReadMakefiles;

impl Builtin for ReadMakefiles {
    fn name(&self) -> &'static str {
        "linux-kbuild"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("kbuild".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let source = cx.tree("source")?;
        let makefiles: Vec<(String, &Entry)> = source
            .iter()
            .map(|entry| (entry.path.to_string(), entry))
            .filter(|(path, _)| is_makefile(path) && !path.contains(char::is_control))
            .collect();
        let read = |(path, entry): &(String, &Entry)| {
            let mut kbuild = Kbuild::default();
            if let Node::File { digest, .. } = &entry.node {
                kbuild.scan(path, &String::from_utf8_lossy(&cx.store.read(digest)?));
            }
            Ok(kbuild)
        };
        let all = makefiles.par_iter().map(read).collect::<Result<Vec<_>, StepError>>()?;
        let mut kbuild = Kbuild::default();
        all.into_iter().for_each(|one| kbuild.extend(one));
        (cx.log)(&format!("{} Makefiles", makefiles.len()));
        let output = file_output(cx.store, kbuild.to_text().as_bytes())?;
        Ok(Made { outputs: BTreeMap::from([("kbuild".to_owned(), output)]), ..Made::default() })
    }
}
