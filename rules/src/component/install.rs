//! The last step of a component: the installed tree and one file per program, after a look at whether what cargo
//! linked runs without a dynamic loader. Knows ELF program headers; knows neither cargo nor sources.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node, Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use object::elf::{FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use serde::{Deserialize, Serialize};

use crate::steps::{entry, tree_of, tree_output};

/// Name of the output that holds everything installed.
pub const TREE: &str = "tree";

/// Where a program goes, as the param `install` has it (JSON, a map by program).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Placement {
    /// Paths in the image, without a leading slash.
    pub to: Vec<String>,
    /// Permission bits.
    pub mode: u32,
}

/// Input `bins`; params `install` and `static` (`yes`: a program that needs a loader is an error).
pub struct InstallPrograms {
    /// The programs: output names, and paths in `bins`.
    pub names: Vec<String>,
}

impl Builtin for InstallPrograms {
    fn name(&self) -> &'static str {
        "component-install"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        let programs = self.names.iter().map(|name| (name.clone(), OutKind::File));
        [(TREE.to_owned(), OutKind::Tree)].into_iter().chain(programs).collect()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let bins = cx.tree("bins")?;
        let install: BTreeMap<String, Placement> = serde_json::from_str(cx.param("install"))
            .map_err(|e| StepError::new(format!("param install: {e}")))?;
        let mut made = Made::default();
        let mut entries = Vec::new();
        for (name, placement) in &install {
            let found = bins.iter().find(|e| e.path.to_string() == *name);
            let Some(Node::File { digest, size }) = found.map(|e| &e.node) else {
                return Err(missing(name, bins.iter()));
            };
            if cx.param("static") == "yes" {
                check_static(name, &cx.store.read(digest)?)?;
            }
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

fn check_static(name: &str, program: &[u8]) -> Result<(), StepError> {
    match interpreter(program) {
        Ok(None) => Ok(()),
        Ok(Some(loader)) => Err(StepError::new(format!("{name} is not static: it asks for {loader}")).help(
            "a linker or crt-static setting in the source's .cargo/config.toml or in `env` overrides ours",
        )),
        Err(e) => Err(StepError::new(format!("{name} is no ELF program: {e}"))),
    }
}

/// The dynamic loader that a program asks for.
fn interpreter(program: &[u8]) -> object::Result<Option<String>> {
    fn of<H: FileHeader<Endian = Endianness>>(program: &[u8]) -> object::Result<Option<String>> {
        let header = H::parse(program)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, program)? {
            if let Some(path) = segment.interpreter(endian, program)? {
                return Ok(Some(String::from_utf8_lossy(path).into_owned()));
            }
        }
        Ok(None)
    }
    match FileKind::parse(program)? {
        FileKind::Elf32 => of::<FileHeader32<Endianness>>(program),
        _ => of::<FileHeader64<Endianness>>(program),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused_by_the_name_of_its_loader() {
        // This very test is one.
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let loader = interpreter(&this).unwrap().unwrap();
        let error = check_static("tests", &this).unwrap_err().message;
        assert!(loader.contains("ld-"), "{loader}");
        assert_eq!(error, format!("tests is not static: it asks for {loader}"));
    }

    #[test]
    fn a_script_is_no_program() {
        assert!(check_static("x", b"#!/bin/sh\n").unwrap_err().message.contains("no ELF program"));
        assert!(interpreter(&[]).is_err());
    }
}
