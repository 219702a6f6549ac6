//! Whether the programs of a root filesystem are of the architecture that its kernel runs: a look before the kernel is
//! linked, where the boot would end in a panic. Knows trees and the heads of ELF files; runs nothing.

use std::collections::BTreeMap;
use std::io::Read;

use mosbuild_cache::{Entry, Node, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};

use crate::arch::Arch;
use crate::elf::{self, Machine};

/// What the kernel runs first.
const INIT: &str = "init";
/// Links that are followed: as many as the kernel does.
const LINKS: usize = 40;
/// Programs that a warning names.
const LISTED: usize = 5;
/// Files below these are for others than the kernel's own processors, or no programs.
const ELSEWHERE: [&str; 4] = ["lib/firmware/", "usr/lib/firmware/", "lib/modules/", "usr/lib/modules/"];

/// Input `root`; param `arch`, of the kernel. No output: an /init that cannot start is an error, others are a warning.
pub struct Programs;

impl Builtin for Programs {
    fn name(&self) -> &'static str {
        "kernel-programs"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let name = cx.param("arch");
        let arch = Arch::named(name).ok_or_else(|| StepError::new(Arch::unknown(name).0))?;
        let root = cx.tree("root")?;
        starts(cx.store, &root, arch)?;
        let mut made = Made::default();
        let mut foreign: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let program = |e: &&Entry| {
            let within = |dir: &str| e.path.as_bytes().starts_with(dir.as_bytes());
            e.mode & 0o111 != 0 && !ELSEWHERE.iter().any(|dir| within(dir))
        };
        for entry in root.iter().filter(program) {
            if let Some(machine) = machine(cx.store, &entry.node)?.filter(|m| !arch.runs(*m)) {
                foreign.entry(machine.to_string()).or_default().push(format!("/{}", entry.path));
            }
        }
        for (machine, paths) in foreign {
            let more = match paths.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let listed = paths[..paths.len().min(LISTED)].join(", ");
            made.notes
                .push(format!("warning: programs for {machine}, the kernel is for {name}: {listed}{more}"));
        }
        made.notes.iter().for_each(|note| (cx.warn)(note.trim_start_matches("warning: ")));
        Ok(made)
    }
}

/// Refuses an /init, or an interpreter of its script, of another architecture. One that is not there is none of ours to
/// judge: `rdinit=` may name another, and the kernel says it.
fn starts(store: &Store, root: &Tree, arch: &Arch) -> Result<(), StepError> {
    let mut wanted = INIT.to_owned();
    let mut through = Vec::new();
    // A script's interpreter may be a script in turn; the kernel allows as many.
    for _ in 0..4 {
        let Some((path, node)) = resolve(root, &wanted) else { return Ok(()) };
        through.push(format!("/{wanted}"));
        if path != wanted {
            through.push(format!("/{path}"));
        }
        if let Some(machine) = machine(store, node)? {
            if arch.runs(machine) {
                return Ok(());
            }
            let text = format!(
                "/init cannot start: {} is a program for {machine}, the kernel is for {}",
                through.join(" → "),
                arch.name
            );
            let help =
                "`arch` of the target that makes it, or `target` of a component, says what it is built for";
            return Err(StepError::new(text).help(help));
        }
        let Node::File { digest, .. } = node else { return Ok(()) };
        let Some(interpreter) = interpreter(&head(store, digest, 256)?) else { return Ok(()) };
        wanted = interpreter;
    }
    Ok(())
}

/// The path after `#!`, without its leading slash.
fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    Some(text.split_whitespace().next()?.trim_start_matches('/').to_owned())
}

/// The machine of an ELF file; `None` for anything else.
fn machine(store: &Store, node: &Node) -> Result<Option<Machine>, StepError> {
    let Node::File { digest, .. } = node else { return Ok(None) };
    Ok(elf::machine_of(&head(store, digest, elf::HEAD)?))
}

fn head(store: &Store, digest: &mosbuild_cache::Digest, length: usize) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::with_capacity(length);
    std::fs::File::open(store.blob_path(digest)?)?.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The path without symlinks, and what is there; links that lead nowhere or out of the tree lead nowhere.
fn resolve<'t>(root: &'t Tree, path: &str) -> Option<(String, &'t Node)> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut at: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                at.pop();
                continue;
            }
            _ => at.push(part),
        }
        let entry = root.get(&TreePath::new(at.join("/")).ok()?)?;
        if let Node::Symlink { target } = &entry.node {
            links += 1;
            if links > LINKS {
                return None;
            }
            let target = String::from_utf8_lossy(target).into_owned();
            at.pop();
            if target.starts_with('/') {
                at.clear();
            }
            todo.extend(target.split('/').rev().map(str::to_owned));
        }
    }
    let path = at.join("/");
    let node = &root.get(&TreePath::new(&path).ok()?)?.node;
    Some((path, node))
}

#[cfg(test)]
mod tests {
    use mosbuild_engine::action::Available;

    use super::*;
    use crate::steps::{bench, entry, tree_of};

    fn program(machine: u16) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes
    }

    /// Paths with a link's target after `->`, or contents, as a root; what the step says of it.
    fn run(files: &[(&str, &[u8])], arch: &str) -> Result<Vec<String>, StepError> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let made = files.iter().map(|(path, bytes)| match path.split_once(" -> ") {
            Some((at, target)) => {
                entry(at.as_bytes(), 0o777, Node::Symlink { target: target.into() }).unwrap()
            }
            None => {
                let (digest, size) = (store.put_bytes(bytes).unwrap(), bytes.len() as u64);
                entry(path.as_bytes(), 0o755, Node::File { digest, size }).unwrap()
            }
        });
        let tree = tree_of(made.collect()).unwrap();
        let digest = tree.digest();
        let input = Available::Tree { tree: std::sync::Arc::new(tree), digest, root: None };
        let (at, params) = ((&store, dir.path()), [("arch".to_owned(), arch.to_owned())].into());
        let made = bench::run(&Programs, at, [("root".to_owned(), input)], &params)?;
        Ok(made.notes)
    }

    #[test]
    fn an_init_of_another_architecture_is_named_with_the_way_to_it() {
        let (x86, arm) = (program(object::elf::EM_X86_64), program(object::elf::EM_AARCH64));
        let script: &[u8] = b"#! /bin/sh -e\necho\n";
        let busybox = |program: &'static [u8]| {
            vec![
                ("bin -> usr/bin", &b""[..]),
                ("usr/bin/sh -> ./busybox", b""),
                ("usr/bin/busybox", program),
                ("init", script),
            ]
        };
        let leak = |bytes: &[u8]| -> &'static [u8] { Box::leak(bytes.to_vec().into_boxed_slice()) };
        let error = run(&busybox(leak(&x86)), "aarch64").unwrap_err();
        assert_eq!(
            error.message,
            "/init cannot start: /init → /bin/sh → /usr/bin/busybox is a program for x86_64, the kernel is for aarch64"
        );
        assert!(run(&busybox(leak(&arm)), "aarch64").unwrap().is_empty());
        let error = run(&[("init -> /sbin/my_init", b""), ("sbin/my_init", &arm)], "x86_64").unwrap_err();
        assert_eq!(
            error.message,
            "/init cannot start: /init → /sbin/my_init is a program for aarch64, the kernel is for x86_64"
        );
        // Nothing to say of: none, one that leads nowhere or in a circle, what is no program.
        for files in [
            &[("etc/x", &b""[..])][..],
            &[("init -> ../../gone", b"")],
            &[("init -> init", b"")],
            &[("init", b"\x7fELF")],
            &[("init", b"#!\n")],
            &[("init", b"#!/init\n")],
        ] {
            assert!(run(files, "x86_64").unwrap().is_empty());
        }
        // A 32-bit program, which the kernel may run.
        assert!(run(&[("init", &program(object::elf::EM_ARM))], "aarch64").unwrap().is_empty());
    }

    #[test]
    fn other_programs_of_another_architecture_are_a_warning() {
        let (x86, arm, odd) = (
            program(object::elf::EM_X86_64),
            program(object::elf::EM_AARCH64),
            program(object::elf::EM_RISCV),
        );
        let mut files: Vec<(String, &[u8])> = (0..7).map(|n| (format!("usr/bin/p{n}"), &x86[..])).collect();
        files.push(("init".into(), &arm));
        files.push(("lib/firmware/coprocessor".into(), &x86));
        files.push(("usr/bin/other".into(), &odd));
        let files: Vec<(&str, &[u8])> = files.iter().map(|(p, b)| (p.as_str(), *b)).collect();
        assert_eq!(
            run(&files, "aarch64").unwrap(),
            [
                "warning: programs for riscv64, the kernel is for aarch64: /usr/bin/other",
                "warning: programs for x86_64, the kernel is for aarch64: /usr/bin/p0, /usr/bin/p1, /usr/bin/p2, \
                 /usr/bin/p3, /usr/bin/p4 and 2 more",
            ]
        );
    }
}
