//! Rule `component`: a program of one's own, from a repository, a crate or a folder, built by cargo in steps or by a script.
//! Knows the fields and which steps follow from them; each step's work is in the files beside this one.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | source | the pin | fetches a commit, a published crate or an archive | the pin changes |
//! | unpack | the archive | the source as a tree | it changes |
//! | patch | source, patches | lays the patches over it | it or a patch changes |
//! | prepare | the source | makes the stub: manifests, Cargo.lock, empty targets | any file of the source changes |
//! | vendor | the stub | fetches all that Cargo.lock names | a manifest or Cargo.lock changes |
//! | deps | stub, vendor | compiles dependencies only | as above, or a flag or tool changes |
//! | build | source, vendor, deps | compiles the members | any file of the source changes |
//! | rebuild | as build | with `verify`: compiles the members again, later and one job at a time | as build |
//! | compare | what both left | with `verify`: refuses programs that differ | a program changes |
//! | install | the programs | checks that they may go into an image, places them | a program changes |
//!
//! `source` and `vendor` are the only ones with a network. With `build:` one script takes the place of vendor, deps
//! and build. rebuild waits for build and install for compare, but by gates: `verify` is in none of their keys.

mod check;
mod checkouts;
mod commands;
mod compare;
mod cross;
pub(crate) mod fetch;
pub(crate) mod fields;
mod flags;
mod host;
mod install;
mod manifest;
mod patches;
mod prepare;
#[cfg(test)]
mod tests;
mod vendor;

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_engine::action::{Command, EnvVar, Input, StepInput};
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, OutputKind, RuleFacts, Step as FieldStep, nearest,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::env::{self, Env};
use crate::one_or_many::OneOrMany;
use crate::source::Source;
use crate::steps::{at, builtin, command, made, read, writable};
use crate::tools;
use crate::unpack::UnpackSource;
use fields::Install;

/// A program of one's own, statically linked.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Component {
    /// Where it comes from: `{git, rev}`, `{crate, version}`, `{url}` of an archive, or `{path}`.
    source: Source,
    /// Unified diffs of the workspace, applied in order at the top of the source with -p1.
    #[serde(default)]
    patches: OneOrMany,
    /// Folder of the package within the source.
    #[serde(default)]
    subdir: Option<String>,
    /// Package to build, in a workspace of several.
    #[serde(default)]
    package: Option<String>,
    /// Programs to build; those of `install` if absent.
    #[serde(default)]
    bins: OneOrMany,
    /// Features to switch on.
    #[serde(default)]
    features: OneOrMany,
    /// Whether the default features are on; true if absent.
    #[serde(default)]
    default_features: Option<bool>,
    /// Target triple; ARCH-unknown-linux-musl if absent.
    #[serde(default)]
    target: Option<String>,
    /// Cargo profile; release if absent.
    #[serde(default)]
    profile: Option<String>,
    /// Environment of the build.
    #[serde(default)]
    env: BTreeMap<String, Env>,
    /// Host programs that build scripts need beside compiler and linker.
    #[serde(default)]
    tools: OneOrMany,
    /// Script for `sh -eu`, run in source/subdir with $OUT, $ARCH, $TARGET, $CC and $CROSS_COMPILE in place of cargo.
    #[serde(default)]
    build: Option<String>,
    /// What goes where: a program (with `build` a path under $OUT), and its path or paths in the image.
    install: BTreeMap<String, Install>,
    /// What its programs may be although it is refused otherwise: `dynamic`, `host-paths`.
    #[serde(default)]
    allow: OneOrMany,
    /// Builds it twice and refuses programs that differ.
    #[serde(default)]
    verify: bool,
}

impl Rule for Component {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = self.faults();
        errors.extend(tools::faults(&self.tools));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut facts = RuleFacts { facts: vec!["rev", "version"], ..RuleFacts::default() };
        facts.files.extend(self.source.file_use(field!["source"], FileKind::Folder));
        for (at, path) in self.patches.all().iter().enumerate() {
            let field = match self.patches {
                OneOrMany::One(_) => field!["patches"],
                OneOrMany::Many(_) => field!["patches", at],
            };
            facts.files.push(FileUse {
                field,
                pattern: path.clone(),
                kind: FileKind::File,
                absolute_ok: false,
            });
        }
        let output = |name: &str, kind, field| OutputDecl { name: name.to_owned(), kind, path: None, field };
        facts.outputs.push(output(install::TREE, OutputKind::Tree, None));
        for name in self.install.keys() {
            facts.outputs.push(output(name, OutputKind::File, Some(field_name("install", name))));
        }
        Ok(facts)
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let subdir = self.subdir.as_deref().unwrap_or("");
        let package = self.package.as_deref().unwrap_or("");
        let target = self.target.clone().unwrap_or_else(|| format!("{}-unknown-linux-musl", planner.arch()));
        let uses_rust = self.build.as_ref().is_none_or(|script| script.contains("cargo"));
        if uses_rust && let Err(error) = host::require_target(planner.root(), &target) {
            match error.exit {
                3 => planner.lacks(error),
                _ => return Err(error),
            }
        }
        let mark = self.mark(planner);
        let mut source = self.source.plan_marked(planner, mark);
        if self.source.is_archive() {
            let unpack = builtin("unpack", UnpackSource, vec![read("source", source)], &[]);
            source = made(planner.step(unpack), "source");
        }
        if !self.patches.is_empty() {
            source = self.plan_patches(planner, source);
        }
        let mut about = vec![
            ("package", package.into()),
            ("subdir", subdir.into()),
            ("crate", prepare::crate_param(&self.source).into()),
        ];
        about.extend(mark.map(|mark| ("mark", mark.to_owned())));
        let prepare = planner.step(builtin(
            "prepare",
            prepare::Prepare { cargo: self.build.is_none() },
            vec![read("source", source)],
            &about,
        ));
        let env = env::environment(&self.env);
        let (build, inputs) = match &self.build {
            Some(text) => {
                let tools = self.tools.all();
                let script = commands::script(text, subdir, &target, &env, tools);
                (script, vec![placed_source(prepare)])
            }
            None => self.plan_cargo(planner, prepare, &target, &env),
        };
        let build = self.plan_build(planner, build, inputs)?;
        let placements = fields::placements(&self.install, 0o755)?;
        let names: Vec<String> = self.install.keys().cloned().collect();
        let mut held_to = vec![
            ("install", placements),
            ("target", target),
            ("cargo", if self.build.is_none() { "yes" } else { "no" }.into()),
        ];
        if !self.allow.is_empty() {
            let allowed: BTreeSet<&str> = self.allow.all().iter().map(String::as_str).collect();
            held_to.push(("allow", allowed.into_iter().collect::<Vec<_>>().join(" ")));
        }
        let done = planner.step(builtin(
            "install",
            install::InstallPrograms { names: names.clone(), host: check::HostPaths::of(planner.root()) },
            vec![read("bins", made(build, "bins"))],
            &held_to,
        ));
        for name in names.iter().map(String::as_str).chain([install::TREE]) {
            planner.output(name, done, name);
        }
        Ok(())
    }
}

impl Component {
    fn plan_patches(&self, planner: &mut Planner<'_>, source: Input) -> Input {
        let names = self.patches.all();
        let one = |(at, path): (usize, &String)| read(&patches::input(at), Input::Path(path.clone()));
        let inputs = std::iter::once(read("source", source)).chain(names.iter().enumerate().map(one));
        let work = patches::ApplyPatches { names: names.to_vec() };
        made(planner.step(builtin("patch", work, inputs.collect(), &[])), "source")
    }

    /// What its facts say beside the source's own version and revision.
    fn mark(&self, planner: &Planner<'_>) -> Option<&'static str> {
        match planner.is_overridden() {
            true => Some("override"),
            false => (!self.patches.is_empty()).then_some("patched"),
        }
    }

    /// The build, and with `verify` once more, with what compares the two.
    fn plan_build(
        &self,
        planner: &mut Planner<'_>,
        build: Command,
        inputs: Vec<StepInput>,
    ) -> Result<usize, PlanError> {
        if !self.verify {
            return Ok(planner.step(command("build", build, inputs)));
        }
        let target = planner.target_index(planner.name())?;
        let again = commands::again(&build, self.build.is_none());
        let mut first = command("build", build, inputs.clone());
        first.gates.push((target, "rebuild".into()));
        let first = planner.step(first);
        let second = planner.step(command("rebuild", again, inputs));
        let work = compare::Compare { names: self.install.keys().cloned().collect() };
        let both = vec![read("first", made(first, "bins")), read("second", made(second, "bins"))];
        let mut compare = builtin("compare", work, both, &[]);
        compare.gates.push((target, "install".into()));
        planner.step(compare);
        Ok(first)
    }

    fn plan_cargo(
        &self,
        planner: &mut Planner<'_>,
        prepare: usize,
        target: &str,
        env: &BTreeMap<String, EnvVar>,
    ) -> (Command, Vec<StepInput>) {
        let mut bins: BTreeSet<&str> = self.bins.all().iter().map(String::as_str).collect();
        bins.extend(self.install.keys().map(String::as_str));
        let cargo = commands::Cargo {
            subdir: self.subdir.as_deref().unwrap_or(""),
            package: self.package.as_deref(),
            bins: bins.into_iter().collect(),
            features: self.features.all(),
            default_features: self.default_features.unwrap_or(true),
            target,
            profile: self.profile.as_deref().unwrap_or("release"),
            env,
            tools: self.tools.all(),
        };
        let fetched = planner.step(builtin(
            "vendor",
            vendor::Vendor { workspace: planner.root().to_owned() },
            vec![read("stub", made(prepare, "stub")), read("members", made(prepare, "members"))],
            &[("target", target.to_owned())],
        ));
        let vendor = at("vendor", made(fetched, "vendor"), commands::VENDOR);
        let inputs = vec![
            at("stub", made(prepare, "stub"), commands::SOURCE),
            at("members", made(prepare, "members"), commands::MEMBERS),
            writable("empty", made(prepare, "empty"), commands::TARGET),
            vendor.clone(),
        ];
        let deps = planner.step(command("deps", cargo.dependencies(), inputs));
        let compiled = writable("target", made(deps, "target"), commands::TARGET);
        (cargo.members(), vec![placed_source(prepare), compiled, vendor])
    }

    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: Option<&str>| {
            errors.push(FieldError { field, message, help: help.map(str::to_owned) });
        };
        if let Some((field, message)) = self.source.fault() {
            fault(field!["source", field], message, None);
        }
        if self.subdir.as_deref().is_some_and(|dir| manifest::join("", dir).is_none()) {
            fault(field!["subdir"], "subdir leaves the source".into(), None);
        }
        let word = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !text.is_empty() && !text.starts_with(['-', '.']) && text.chars().all(plain)
        };
        for (field, value) in
            [("package", &self.package), ("target", &self.target), ("profile", &self.profile)]
        {
            if let Some(value) = value.as_ref().filter(|v| !word(v)) {
                fault(field![field], format!("{value:?} is no {field}"), None);
            }
        }
        for name in self.bins.all().iter().filter(|name| !word(name)) {
            fault(field!["bins"], format!("{name:?} is no name of a program"), None);
        }
        for name in self.env.keys() {
            let also: &[&str] =
                if self.build.is_some() { &commands::OF_SCRIPTS } else { &commands::OF_CARGO };
            if let Some((message, help)) = env::fault(name, also) {
                fault(field_name("env", name), message, Some(help));
            }
        }
        for name in flags::WITH_OURS {
            if self.env.get(name).is_some_and(|v| matches!(v, Env::Host(_))) {
                let help = "write the flags out: they are added to mosbuild's own, and decide the result";
                fault(field!["env", name], format!("{name} cannot come from the host"), Some(help));
            }
        }
        for name in self.allow.all().iter().filter(|name| !check::ALLOWED.contains(&name.as_str())) {
            let near = nearest(name, check::ALLOWED).map(|near| format!("did you mean {near}?"));
            let help =
                near.unwrap_or_else(|| format!("what can be allowed is {}", check::ALLOWED.join(" and ")));
            fault(field!["allow"], format!("{name:?} cannot be allowed"), Some(&help));
        }
        for name in self.install.keys() {
            let key = field_name("install", name);
            let clean = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if name == install::TREE {
                fault(key, "a program called tree would hide the output tree".into(), None);
            } else if self.build.is_none() && !word(name) {
                fault(key, format!("{name:?} is no name of a program"), None);
            } else if !clean {
                fault(key, format!("{name:?} is no path under $OUT"), None);
            }
        }
        errors.extend(fields::faults(&self.install));
        errors
    }
}

/// The key itself of an entry.
fn field_name(field: &str, name: &str) -> FieldPath {
    vec![FieldStep::from(field), FieldStep::Name(name.to_owned())]
}

/// Writable, since build scripts of some packages write beside their source.
fn placed_source(prepare: usize) -> StepInput {
    writable("source", made(prepare, "source"), commands::SOURCE)
}
