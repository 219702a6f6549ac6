//! Rule `packages`: Alpine packages installed into a tree by that tree's own apk, offline, from what is locked.
//! Knows the fields and which steps follow from them; each step's work is in the files beside this one.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | source | base, list, keys, the pin | the locked packages, each verified and vetted, with an index of them alone | the pin, the list or base changes |
//! | install | base, the packages | `apk add` in a sandbox whose root is base, with scripts and triggers | one of them changes |
//! | finish | what apk left, base | takes out what depends on the day, and checks that all is there | as above |
//!
//! The pin is found by `apk add --simulate` in the same sandbox, on indexes whose signatures this program verified.
//! Only the pin needs indexes and a network; `docs/design.md`, "Packages".

mod fetch;
mod finish;
mod index;
mod resolve;
mod root;
mod world;

pub use world::line_fault;

use std::path::PathBuf;

use mosbuild_engine::action::{Command, CommandOutput, EnvVar, Input, Place, Step, StepInput};
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, OutputKind, RefKind, RefUse, RuleFacts,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::miniroot::{Branch, FetchMiniroot, UnpackMiniroot, is_arch};
use crate::one_or_many::OneOrMany;
use crate::source::{PathSource, url_fault};
use crate::steps::{at, builtin, command, locked, made, read};

/// Alpine packages on top of a root filesystem.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// The tree that they are installed into: a miniroot, or another `packages`.
    base: String,
    /// A file with the packages' names, one a line, with or without a constraint; # starts a comment.
    #[serde(default)]
    list: Option<String>,
    /// Further names.
    #[serde(default)]
    packages: OneOrMany,
    /// Names of Alpine's repositories, or URLs of others; main and community if absent.
    #[serde(default)]
    repositories: OneOrMany,
    /// Public keys that may sign indexes beside those of the base: files named KEY.rsa.pub, or a folder of them.
    #[serde(default)]
    keys: Keys,
    /// Packages that must not be there, whoever asks for them.
    #[serde(default)]
    forbid: OneOrMany,
    /// Whether the packages' scripts and triggers are run; they are if absent.
    #[serde(default)]
    scripts: Scripts,
    /// Architecture as Alpine names it; the workspace's `arch` if absent.
    #[serde(default)]
    arch: Option<String>,
    /// A tree with an apk that runs on this host, where base is of another architecture. Without it the miniroot of the
    /// same release for this host is taken.
    #[serde(default)]
    apk: Option<String>,
}

/// Whether scripts and triggers are run.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Scripts {
    #[default]
    Run,
    Skip,
}

/// One key, or several.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Keys {
    One(Key),
    Many(Vec<Key>),
}

impl Default for Keys {
    fn default() -> Keys {
        Keys::Many(Vec::new())
    }
}

/// A file or folder of the workspace, or `{path: /absolute}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Key {
    Text(String),
    Path(PathSource),
}

impl Keys {
    fn all(&self) -> &[Key] {
        match self {
            Keys::One(key) => std::slice::from_ref(key),
            Keys::Many(keys) => keys,
        }
    }
}

impl Key {
    fn path(&self) -> &str {
        match self {
            Key::Text(path) => path.trim_end_matches('/'),
            Key::Path(source) => source.path.trim_end_matches('/'),
        }
    }
}

/// Alpine's repositories that are meant where none is named.
const REPOSITORIES: [&str; 2] = ["main", "community"];
/// Where install sees the locked packages; below /dev, so that no mount point is left in the tree.
const PACKAGES: &str = "/dev/mosbuild/packages";
/// Where install sees a tree of another architecture.
const FOREIGN: &str = "/dev/mosbuild/root";

impl Rule for Packages {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let errors = self.faults();
        if !errors.is_empty() {
            return Err(errors);
        }
        let tree = |name: &str, text: &String| RefUse {
            field: field![name],
            text: text.clone(),
            kind: RefKind::Tree,
        };
        let mut facts = RuleFacts {
            references: vec![tree("base", &self.base)],
            outputs: vec![OutputDecl {
                name: "tree".into(),
                kind: OutputKind::Tree,
                path: None,
                field: None,
            }],
            facts: vec!["count"],
            ..RuleFacts::default()
        };
        facts.references.extend(self.apk.iter().map(|apk| tree("apk", apk)));
        facts.files.extend(self.list.iter().map(|path| FileUse {
            field: field!["list"],
            pattern: path.clone(),
            kind: FileKind::File,
            absolute_ok: false,
        }));
        for (i, key) in self.keys.all().iter().enumerate() {
            facts.files.push(match key {
                Key::Text(_) => FileUse {
                    field: field!["keys", i],
                    pattern: key.path().into(),
                    kind: FileKind::Path,
                    absolute_ok: false,
                },
                Key::Path(source) => source.file_use(field!["keys", i, "path"], FileKind::Path),
            });
        }
        Ok(facts)
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        if let Some(path) = &self.list {
            // What is wrong with it is told before anything runs; the step reads what was hashed.
            world::check(&planner.root().join(path), path)?;
        }
        let arch = self.arch.as_deref().unwrap_or(planner.arch()).to_owned();
        let base = planner.upstream(&self.base)?;
        let host = match arch == std::env::consts::ARCH {
            true => None,
            false => Some(self.host_apk(planner, &arch)?),
        };

        let mut inputs = vec![read("base", base.clone())];
        inputs.extend(host.clone().map(|host| read("apk", host)));
        if let Some(path) = &self.list {
            inputs.push(read("list", Input::Path(path.clone())));
        }
        let mut keys = Vec::new();
        for (i, key) in self.keys.all().iter().enumerate() {
            let from = match key {
                Key::Text(_) => Input::Path(key.path().into()),
                Key::Path(source) => source.input(),
            };
            let name = format!("key {i:03}");
            inputs.push(read(&name, from));
            keys.push(format!("{name}\t{}", key.path().rsplit('/').next().unwrap_or_default()));
        }
        let lines = |list: &OneOrMany| list.all().join("\n");
        let repositories = match self.repositories.is_empty() {
            true => REPOSITORIES.join("\n"),
            false => lines(&self.repositories),
        };
        let params = [
            ("list", self.list.clone().unwrap_or_default()),
            ("packages", lines(&self.packages)),
            ("repositories", repositories),
            ("arch", arch.clone()),
            ("forbid", lines(&self.forbid)),
            ("keys", keys.join("\n")),
        ];
        let id = format!("packages {}", planner.name());
        let source = planner.step(locked("source", id, fetch::FetchPackages, inputs, &params));

        let scripts = match self.scripts {
            Scripts::Skip => Some("they are not run: `scripts: skip`"),
            Scripts::Run if host.is_some() && !runs_here(&arch) => {
                Some("they cannot be run here: no binfmt of this architecture is registered with flag F")
            }
            Scripts::Run => None,
        };
        if host.is_some() {
            planner.watch(binfmt(&arch));
        }
        let packages = at("packages", made(source, "packages"), PACKAGES);
        let install = planner.step(match &host {
            None => install(base.clone(), packages, scripts.is_some()),
            Some(host) => install_foreign(host.clone(), base.clone(), packages, scripts.is_some(), &arch),
        });
        let inputs = vec![
            read("installed", made(install, "tree")),
            read("base", base),
            read("packages", made(source, "packages")),
        ];
        let params =
            [("epoch", planner.epoch().to_string()), ("scripts", scripts.unwrap_or_default().into())];
        let finish = planner.step(builtin("finish", finish::Finish, inputs, &params));
        planner.output("tree", finish, "tree");
        Ok(())
    }
}

/// `apk add` in the tree itself.
fn install(base: Input, packages: StepInput, skip: bool) -> Step {
    let flags = if skip { " --no-scripts" } else { "" };
    let script = script(&format!("apk add {}{flags}", root::FLAGS), "");
    command(
        "install",
        apk_command(vec!["/bin/sh".into(), "-euc".into(), script], "/"),
        vec![rooted("base", base), packages],
    )
}

/// `apk add` of the host's architecture on a tree of another.
fn install_foreign(host: Input, base: Input, packages: StepInput, skip: bool, arch: &str) -> Step {
    let flags = if skip { " --no-scripts" } else { "" };
    let script = script(&format!("apk add --root {FOREIGN} --arch {arch} {}{flags}", root::FLAGS), FOREIGN);
    let base = StepInput { name: "base".into(), from: base, place: Place::Writable(FOREIGN.into()) };
    let argv = vec!["/bin/sh".into(), "-euc".into(), script];
    command("install", apk_command(argv, FOREIGN), vec![rooted("apk", host), base, packages])
}

/// Installs what is asked for. A log that apk 3 began has the time in it, and would differ with each run.
fn script(apk: &str, tree: &str) -> String {
    let log = format!("{tree}/var/log/apk.log");
    format!(
        "set -f\nlogged=false\n[ ! -e {log} ] || logged=true\n{apk} -X {PACKAGES} $(cat {PACKAGES}/world)\n$logged || rm -f {log}"
    )
}

fn rooted(name: &str, from: Input) -> StepInput {
    StepInput { name: name.into(), from, place: Place::Root }
}

fn apk_command(argv: Vec<String>, tree: &str) -> Command {
    let path = ("PATH".to_owned(), EnvVar::Value(root::PATH.into()));
    Command {
        argv,
        cwd: "/".into(),
        env: [path].into(),
        outputs: vec![CommandOutput { name: "tree".into(), path: tree.into(), kind: OutputKind::Tree }],
        ..Command::default()
    }
}

/// Where the kernel says what runs programs of an architecture, by the name that QEMU's packages give it.
fn binfmt(arch: &str) -> PathBuf {
    format!("/proc/sys/fs/binfmt_misc/qemu-{arch}").into()
}

/// Whether the kernel hands programs of an architecture to an emulator that it holds open (flag F), which therefore
/// need not be in the tree.
fn runs_here(arch: &str) -> bool {
    let entry = std::fs::read_to_string(binfmt(arch)).unwrap_or_default();
    let flags = entry.lines().find_map(|line| line.strip_prefix("flags: "));
    entry.starts_with("enabled") && flags.is_some_and(|flags| flags.contains('F'))
}

impl Packages {
    /// A tree with an apk for this host: the one named, else the miniroot of base's release.
    fn host_apk(&self, planner: &mut Planner<'_>, arch: &str) -> Result<Input, PlanError> {
        if let Some(apk) = &self.apk {
            return planner.upstream(apk);
        }
        let here = std::env::consts::ARCH;
        let release = planner.advertised(&self.base, "release").filter(|r| Branch::parse(r).is_some());
        let release = release.ok_or_else(|| {
            PlanError::new(2, format!("{arch} packages need an apk that runs on this {here} host"))
                .help(format!("declare a miniroot of {here}, and name it here as `apk: NAME`"))
        })?;
        let params = [("release", release.clone()), ("arch", here.to_owned())];
        let id = format!("miniroot {release} {here}");
        let fetched = planner.step(locked("apk-source", id, FetchMiniroot, Vec::new(), &params));
        let archive = vec![read("archive", made(fetched, "file"))];
        let tree = planner.step(builtin("apk", UnpackMiniroot, archive, &[]));
        Ok(made(tree, "tree"))
    }

    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: Option<String>| {
            errors.push(FieldError { field, message, help });
        };
        if self.list.is_none() && self.packages.is_empty() {
            let help = "say `list: config/packages.list`, or `packages: [busybox, …]`";
            fault(
                FieldPath::new(),
                "packages needs list or packages: it names no package".into(),
                Some(help.into()),
            );
        }
        for (i, text) in self.packages.all().iter().enumerate() {
            match world::entry(text) {
                Err(why) => fault(field!["packages", i], why, None),
                Ok(name) if self.forbid.all().contains(&name) => {
                    let help = "take it out of one of them".to_owned();
                    fault(
                        field!["packages", i],
                        format!("{name} is asked for, and forbidden by `forbid`"),
                        Some(help),
                    );
                }
                Ok(_) => {}
            }
        }
        for (i, text) in self.forbid.all().iter().enumerate() {
            if world::entry(text).as_deref() != Ok(text.as_str()) {
                fault(field!["forbid", i], format!("{text:?} is no package's name"), None);
            }
        }
        for (i, text) in self.repositories.all().iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let wrong = match text.contains("://") {
                true => url_fault(text),
                false if text.starts_with('/') => None,
                false => (text.is_empty() || !text.chars().all(plain)).then(|| {
                    format!("{text:?} is no repository: a name such as main, or a URL, is expected")
                }),
            };
            if let Some(message) = wrong {
                fault(field!["repositories", i], message, None);
            }
        }
        if let Some(arch) = self.arch.as_ref().filter(|a| !is_arch(a)) {
            fault(
                field!["arch"],
                format!("{arch:?} is no architecture"),
                Some("such as x86_64 or aarch64".into()),
            );
        }
        errors
    }
}
