//! Rule `linux`: a kernel compiled once, without an initramfs; rule `kernel` relinks it with one.
//! Knows the fields and which steps follow from them; what make is told is in make.rs.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | unpack | the tarball, commit or folder | the source as a tree | it changes |
//! | configure | source, base, fragments | .config and the release's name | one of them or a tool changes |
//! | check | .config, fragments, source | refuses what did not come out as asked for | as above |
//! | kbuild | source | what the Makefiles make | it changes |
//! | compile | source, the checked .config | image, modules, objects | .config, source or a tool changes |
//! | parts | objects, source | the part of both that the last link takes, and a script for it | they change |
//! | rehearse | that part, image | links once more as make did, and compares | as above |
//! | settle | that part, the verdict | what relinks take: that part, or everything and make | as above |
//!
//! The preflight of a `kernel` reads the output of `check`, and `compile` waits for it; so it does for the check of the
//! names of `modules`, which reads that of `kbuild` too.

mod check;
mod hints;
pub mod kbuild;
pub mod make;
mod relink;
mod settle;
mod unpack;

use std::collections::BTreeMap;

use mosbuild_engine::action::Input;
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, OutputKind, RuleFacts, nearest,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arch::{self, Arch};
use crate::one_or_many::OneOrMany;
use crate::source::Source;
use crate::steps::{at, builtin, command, made, read, writable};
use crate::tools;

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// The longest release that `uname` can hold has 64 characters.
const LONGEST_LOCALVERSION: usize = 48;

/// A kernel, configured and compiled.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Linux {
    /// A tarball, a repository or an unpacked source: `{url}`, `{git, rev}` or `{path}`.
    source: Source,
    /// Make target that the configuration starts from: tinyconfig, defconfig, allnoconfig, …
    #[serde(default)]
    base: Option<String>,
    /// A full configuration to start from; with `base`, files with symbols that are laid over it.
    #[serde(default)]
    config: OneOrMany,
    /// Files with further symbols, laid over it in order.
    #[serde(default)]
    fragments: OneOrMany,
    /// Appended to the version: `-mos`.
    #[serde(default)]
    localversion: Option<String>,
    /// Architecture: x86_64 or aarch64; the workspace's `arch` if absent. Another than the host's is cross-compiled.
    #[serde(default)]
    arch: Option<String>,
    /// Host programs that this configuration needs beside those of every kernel: xz for KERNEL_XZ.
    #[serde(default)]
    tools: OneOrMany,
}

/// The outputs that a relink takes: shell functions, and the objects and sources that these read.
pub const RELINK_SCRIPT: &str = "relink_script";
/// See [`RELINK_SCRIPT`].
pub const RELINK_OBJECTS: &str = "relink_objects";
/// See [`RELINK_SCRIPT`].
pub const RELINK_SOURCE: &str = "relink_source";

/// The targets that make a configuration without asking anybody.
const BASES: [&str; 6] =
    ["tinyconfig", "defconfig", "allnoconfig", "alldefconfig", "allmodconfig", "allyesconfig"];

impl Rule for Linux {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = self.faults();
        errors.extend(tools::faults(&self.tools));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut facts = RuleFacts { facts: vec!["version"], ..RuleFacts::default() };
        if matches!(self.source, Source::Git(_)) {
            facts.facts.push("rev");
        }
        facts.files.extend(self.source.file_use(field!["source"], FileKind::Path));
        let mut file = |field: FieldPath, path: &str| {
            let pattern = path.to_owned();
            facts.files.push(FileUse { field, pattern, kind: FileKind::File, absolute_ok: false });
        };
        for (i, path) in self.config.all().iter().enumerate() {
            file(field!["config", i], path);
        }
        for (i, path) in self.fragments.all().iter().enumerate() {
            file(field!["fragments", i], path);
        }
        // The last are for other rules: what a relink takes, what it is compared with, what modules there are.
        for (name, kind) in [
            ("bzImage", OutputKind::File),
            ("modules", OutputKind::Tree),
            ("objects", OutputKind::Tree),
            ("config", OutputKind::File),
            ("system_map", OutputKind::File),
            ("source", OutputKind::Tree),
            ("release", OutputKind::File),
            ("kbuild", OutputKind::File),
            (RELINK_SCRIPT, OutputKind::File),
            (RELINK_OBJECTS, OutputKind::Tree),
            (RELINK_SOURCE, OutputKind::Tree),
        ] {
            facts.outputs.push(OutputDecl { name: name.into(), kind, path: None, field: None });
        }
        Ok(facts)
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let arch = Arch::planned(self.arch.as_deref().unwrap_or(planner.arch()))?;
        let kbuild = make::Kbuild { arch, epoch: planner.epoch(), tools: self.tools.all() };
        let source = read("source", self.source.plan(planner));
        let unpack = planner.step(builtin("unpack", unpack::Unpack, vec![source], &[]));
        let source = made(unpack, "source");

        let mut inputs = vec![at("source", source.clone(), make::SOURCE)];
        let base = match self.full() {
            Some(path) => {
                inputs.push(at(path, Input::Path(path.clone()), make::BASE_CONFIG));
                make::Base::File
            }
            None => make::Base::Target(self.base.as_deref().unwrap_or("defconfig")),
        };
        let mut fragments = Vec::new();
        for (i, path) in self.laid_over().enumerate() {
            let place = format!("/config/{i}.fragment");
            inputs.push(at(path, Input::Path(path.clone()), &place));
            fragments.push(place);
        }
        let configure = kbuild.configure(&base, fragments, self.localversion.as_deref());
        let configure = planner.step(command("configure", configure, inputs));

        let asked = self.laid_over().chain(self.full());
        let mut inputs = vec![read("config", made(configure, "config")), read("source", source.clone())];
        inputs.extend(asked.map(|path| read(path, Input::Path(path.clone()))));
        let params = [
            ("fragments", self.laid_over().cloned().collect::<Vec<_>>().join("\n")),
            ("full", self.full().cloned().unwrap_or_default()),
            ("tools", self.tools.all().join(" ")),
            ("arch", arch.name.to_owned()),
        ];
        let check = planner.step(builtin("check", check::CheckConfig, inputs, &params));

        let makefiles = vec![read("source", source.clone())];
        let makefiles = planner.step(builtin("kbuild", kbuild::ReadMakefiles, makefiles, &[]));

        let inputs = vec![
            at("config", made(check, "config"), make::CONFIG),
            at("source", source.clone(), make::SOURCE),
        ];
        let compile = planner.step(command("compile", kbuild.compile(), inputs));
        for name in ["bzImage", "modules", "objects", "system_map"] {
            planner.output(name, compile, name);
        }
        self.plan_relink(planner, &kbuild, compile, source);
        planner.output("config", check, "config");
        planner.output("source", unpack, "source");
        planner.output("release", configure, "release");
        planner.output("kbuild", makefiles, "kbuild");
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        let config = self.laid_over().last().or(self.full());
        let entries = [
            ("tools", Some(self.tools.all().join(" "))),
            (arch::ARCH, self.arch.clone()),
            ("config-file", config.cloned()),
            (
                "config-files",
                Some(self.laid_over().chain(self.full()).cloned().collect::<Vec<_>>().join("\n")),
            ),
        ];
        entries.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect()
    }
}

impl Linux {
    /// The steps after `compile`.
    fn plan_relink(
        &self,
        planner: &mut Planner<'_>,
        kbuild: &make::Kbuild<'_>,
        compile: usize,
        source: Input,
    ) {
        let by_make = ("make", kbuild.by_make());
        let inputs = vec![read("objects", made(compile, "objects")), read("source", source.clone())];
        let params = [by_make.clone(), ("arch", kbuild.arch.name.to_owned())];
        let parts = planner.step(builtin("parts", settle::Parts, inputs, &params));
        let inputs = vec![
            at("source", made(parts, "source"), make::SOURCE),
            writable("objects", made(parts, "objects"), make::OBJECTS),
            at("script", made(parts, "script"), make::FUNCTIONS),
            at("image", made(compile, "bzImage"), make::IMAGE),
        ];
        let rehearse = planner.step(command("rehearse", kbuild.rehearse(), inputs));
        let inputs = vec![
            read("verdict", made(rehearse, "verdict")),
            read("samples", made(rehearse, "samples")),
            read("readers", made(parts, "readers")),
            read("script", made(parts, "script")),
            read("objects", made(parts, "objects")),
            read("source", made(parts, "source")),
            read("all-objects", made(compile, "objects")),
            read("all-source", source),
        ];
        let settle = planner.step(builtin("settle", settle::Settle, inputs, &[by_make]));
        for (name, made) in
            [(RELINK_SCRIPT, "script"), (RELINK_OBJECTS, "objects"), (RELINK_SOURCE, "source")]
        {
            planner.output(name, settle, made);
        }
    }

    /// The full configuration that is started from.
    fn full(&self) -> Option<&String> {
        self.config.all().first().filter(|_| self.base.is_none())
    }

    /// What is laid over the base or the full configuration, in order.
    fn laid_over(&self) -> impl Iterator<Item = &String> {
        let config = self.config.all().iter().filter(|_| self.base.is_some());
        config.chain(self.fragments.all())
    }

    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: Option<String>| {
            errors.push(FieldError { field, message, help });
        };
        match (&self.base, self.config.all().len()) {
            (None, 0) => {
                let help = "say `base: defconfig` (or tinyconfig, …), or give a full configuration as `config: FILE`";
                fault(FieldPath::new(), "linux needs base or config".into(), Some(help.into()));
            }
            (None, 2..) => {
                let help = "with `base` they are laid over it; or name the others as `fragments`";
                fault(field!["config", 1], "there is one full configuration".into(), Some(help.into()));
            }
            (Some(base), _) if !is_base(base) => {
                let help = match nearest(base, BASES) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("known are {} and NAME_defconfig", BASES.join(", ")),
                };
                fault(field!["base"], format!("{base:?} makes no configuration"), Some(help));
            }
            _ => {}
        }
        match self.source.fault() {
            Some((name, message)) => fault(field!["source", name], message, None),
            None if matches!(self.source, Source::Crate(_)) => {
                let help = "write {url: …}, {git: …, rev: …} or {path: …}";
                fault(field!["source"], "a kernel is no crate".into(), Some(help.into()));
            }
            None => {}
        }
        if let Some(name) = self.arch.as_deref().filter(|name| Arch::named(name).is_none()) {
            let (message, help) = Arch::unknown(name);
            fault(field!["arch"], message, Some(help));
        }
        if let Some(text) = &self.localversion {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._+~".contains(c);
            if !text.chars().all(plain) || text.len() > LONGEST_LOCALVERSION {
                let help = format!("at most {LONGEST_LOCALVERSION} letters, digits and - . _ + ~");
                fault(field!["localversion"], format!("{text:?} cannot be part of a release"), Some(help));
            }
        }
        let mut seen: Vec<&String> = Vec::new();
        for (name, paths) in [("config", &self.config), ("fragments", &self.fragments)] {
            for (i, path) in paths.all().iter().enumerate() {
                if ["config", "source"].contains(&path.as_str()) || seen.contains(&path) {
                    let message = format!("{path} is used twice, or is named like an input");
                    fault(field![name, i], message, None);
                }
                seen.push(path);
            }
        }
        errors
    }
}

/// The programs of `tools` that a configuration needs; none if it is not one.
pub fn programs(config: &str) -> std::collections::BTreeSet<&'static str> {
    let config = mosbuild_formats::kconfig::Config::parse(config).unwrap_or_default();
    check::programs(&config).map(|(_, program)| program).collect()
}

fn is_base(text: &str) -> bool {
    let board = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    BASES.contains(&text)
        || text.strip_suffix("_defconfig").is_some_and(|name| !name.is_empty() && board(name))
}
