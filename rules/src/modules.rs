//! Rule `modules`: the kernel modules of an image with all that they need, and the tables that find them.
//! Knows a tree with lib/modules/VERSION in it; does not know which kernel it came from.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use mosbuild_cache::{Entry, Node, Store, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Input, Made, OutKind, StepError, StepInput};
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, RefKind, RefUse, RuleFacts,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::closure::{Catalog, Closure, State};
use mosbuild_formats::depmod;
use mosbuild_formats::modinfo::{self, ModuleInfo};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arch::Arch;
use crate::module_check::{CheckModules, FRAGMENT};
use crate::one_or_many::OneOrMany;
use crate::steps::{builtin, file_entry, read, tree_of, tree_output};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// The param that says that every module is taken.
const ALL: &str = "all";

/// Lists that kbuild installs; depmod's tables are made beside them.
const LISTS: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// A set of kernel modules, closed over their dependencies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// A tree that holds lib/modules/VERSION: `linux:modules`.
    from: String,
    /// A file with the modules' names, one a line; # starts a comment.
    #[serde(default)]
    list: Option<String>,
    /// Further names.
    #[serde(default)]
    extra: OneOrMany,
    /// Every module, for nodes that mount them after boot; then there is neither `list` nor `extra`.
    #[serde(default)]
    all: bool,
    /// Absolute path of a file in the image that receives the names asked for, in order, one a line.
    #[serde(default)]
    load: Option<String>,
}

impl Rule for Modules {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let names = self.list.is_some() || !self.extra.is_empty();
        if !names && !self.all {
            errors.push(FieldError {
                field: FieldPath::new(),
                message: "modules needs list or extra: it names no module".into(),
                help: Some("`all: true` takes every module".into()),
            });
        }
        if self.all && (names || self.load.is_some()) {
            errors.push(FieldError {
                field: field!["all"],
                message: "all modules are taken, and some are named".into(),
                help: Some("leave out all, or list, extra and load".into()),
            });
        }
        if let Some(load) = self.load.as_deref().filter(|path| image_path(path).is_none()) {
            errors.push(FieldError {
                field: field!["load"],
                message: format!("{load:?} is no absolute path in the image"),
                help: Some("such as /etc/modules".into()),
            });
        }
        for (i, name) in self.extra.all().iter().enumerate().filter(|(_, name)| !is_name(name)) {
            errors.push(FieldError {
                field: field!["extra", i],
                message: format!("{name:?} is no module's name"),
                help: None,
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let list = self.list.iter().map(|path| FileUse {
            field: field!["list"],
            pattern: path.clone(),
            kind: FileKind::File,
            absolute_ok: false,
        });
        Ok(RuleFacts {
            references: vec![RefUse { field: field!["from"], text: self.from.clone(), kind: RefKind::Tree }],
            outputs: vec![OutputDecl { name: "tree".into(), kind: OutKind::Tree, path: None, field: None }],
            files: list.collect(),
            facts: vec!["count"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let list = self.list.iter().map(|path| read("list", Input::Path(path.clone())));
        let list: Vec<StepInput> = list.collect();
        let names = [("list", self.list.clone().unwrap_or_default()), ("extra", self.extra.all().join("\n"))];
        let mut inputs = vec![read("from", planner.upstream(&self.from)?)];
        if planner.rule_of(&self.from) == Some("linux") && self.all {
            inputs.push(read("system_map", planner.upstream_output(&self.from, "system_map")?));
        } else if planner.rule_of(&self.from) == Some("linux") {
            self.check(planner, &list, &names)?;
            // The kernel's own symbols: with them a module that lacks one is found now, not when the image boots.
            inputs.push(read("system_map", planner.upstream_output(&self.from, "system_map")?));
        }
        inputs.extend(list);
        let [list, extra] = names;
        let mut params = vec![list, extra, ("load", self.load.clone().unwrap_or_default())];
        if self.all {
            params.push((ALL, "yes".to_owned()));
        }
        let select = planner.step(builtin("select", Select, inputs, &params));
        planner.output("tree", select, "tree");
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        [("from".to_owned(), self.from.clone())].into()
    }
}

impl Modules {
    /// A step that looks for the names in the kernel's source and configuration, before it is compiled.
    fn check(
        &self,
        planner: &mut Planner<'_>,
        list: &[StepInput],
        names: &[(&str, String)],
    ) -> Result<(), PlanError> {
        let of_linux = |output: &str| planner.upstream_output(&self.from, output);
        let mut inputs = list.to_vec();
        for output in ["kbuild", "config", "source"] {
            inputs.push(read(output, of_linux(output)?));
        }
        let advertised = |key: &str| planner.advertised(&self.from, key).unwrap_or_default();
        let files = advertised("config-files");
        for path in files.lines() {
            inputs.push(read(&format!("{FRAGMENT}{path}"), Input::Path(path.into())));
        }
        let folder = Arch::of_kernel(planner, &self.from)?.folder.to_owned();
        let params = [names, &[("folder", folder), ("files", files)]].concat();
        let mut step = builtin("check", CheckModules, inputs, &params);
        step.gates = vec![(planner.target_index(&self.from)?, "compile".into())];
        planner.step(step);
        Ok(())
    }
}

/// An absolute path in the image, without its leading slash; `None` if it is none or leaves the image.
pub fn image_path(path: &str) -> Option<&str> {
    let inner = path.strip_prefix('/')?;
    inner.split('/').all(|part| !matches!(part, "" | "." | "..")).then_some(inner)
}

/// What is wrong with a line of a list, its comment taken off.
pub fn line_fault(line: &str) -> Option<String> {
    (!is_name(line)).then(|| format!("{line:?} is no module's name: one a line is expected"))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '/' || c == '#')
}

/// Inputs `from` and, where there are, `list` and `system_map`; params `list` (the file's name), `extra` (one a
/// line), `load` and, if it is to be every module, `all`. Output `tree`, fact `count`.
pub struct Select;

impl Builtin for Select {
    fn name(&self) -> &'static str {
        "modules-select"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let wanted = wanted(cx)?;
        let set = ModuleSet::read(cx.store, &*cx.tree("from")?)?;
        let kernel_symbols = match cx.has("system_map") {
            true => depmod::exported_by_kernel(&String::from_utf8_lossy(&cx.bytes("system_map")?)),
            false => None,
        };
        let selected = match cx.param(ALL) {
            "yes" => Selected { paths: set.entries.keys().cloned().collect(), notes: Vec::new() },
            _ => set.select(&wanted)?,
        };
        for note in &selected.notes {
            (cx.log)(note);
        }
        let mut entries = set.files(cx.store, &selected.paths, kernel_symbols.as_ref())?;
        if let Some(path) = image_path(cx.param("load")) {
            let names: String = wanted.iter().map(|w| format!("{}\n", w.name)).collect();
            entries.push(file_entry(cx.store, path, names.as_bytes())?);
        }
        let count = selected.paths.len();
        (cx.log)(&format!("{count} of the {} modules of {}", set.modules.len(), set.version));
        let tree = tree_output(cx.store, &tree_of(entries)?)?;
        Ok(Made {
            outputs: BTreeMap::from([("tree".to_owned(), tree)]),
            facts: BTreeMap::from([("count".to_owned(), count.to_string())]),
            notes: selected.notes,
        })
    }
}

/// A name asked for, and where.
pub struct Wanted {
    /// As written.
    pub name: String,
    /// `config/modules.conf:3`.
    pub place: String,
}

/// What the input `list` and the param `extra` ask for, each name once.
pub fn wanted(cx: &BuiltinCx<'_>) -> Result<Vec<Wanted>, StepError> {
    let mut wanted = Vec::new();
    if cx.has("list") {
        let bytes = cx.bytes("list")?;
        let name = cx.param("list");
        let text = std::str::from_utf8(&bytes).map_err(|_| StepError::new(format!("{name} is not UTF-8")))?;
        wanted = parse_list(name, text)?;
    }
    let extra = cx.param("extra").lines();
    wanted.extend(extra.map(|name| Wanted { name: name.into(), place: "extra".into() }));
    let mut seen = HashSet::new();
    wanted.retain(|w| seen.insert(modinfo::canonical(&w.name)));
    Ok(wanted)
}

fn parse_list(file: &str, text: &str) -> Result<Vec<Wanted>, StepError> {
    let mut wanted = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        let place = format!("{file}:{}", i + 1);
        match line_fault(name) {
            None => wanted.push(Wanted { name: name.into(), place }),
            Some(_) if name.is_empty() => {}
            Some(fault) => return Err(StepError::new(format!("{place}: {fault}"))),
        }
    }
    Ok(wanted)
}

/// All modules of a kernel.
struct ModuleSet {
    version: String,
    /// Path below lib/modules/VERSION, in the order of paths.
    modules: Vec<depmod::Module>,
    /// By the same paths.
    entries: BTreeMap<String, Entry>,
    /// Content of [`LISTS`], empty where there is none.
    lists: [Option<Vec<u8>>; 3],
}

/// What is needed for the names asked for.
struct Selected {
    paths: BTreeSet<String>,
    notes: Vec<String>,
}

impl ModuleSet {
    fn read(store: &Store, tree: &Tree) -> Result<ModuleSet, StepError> {
        let mut versions = BTreeSet::new();
        for entry in tree.iter() {
            let path = entry.path.to_string();
            if let Some(rest) = path.strip_prefix("lib/modules/")
                && (rest.contains('/') || matches!(entry.node, Node::Dir))
            {
                versions.insert(rest.split('/').next().unwrap_or_default().to_owned());
            }
        }
        let mut found = versions.into_iter();
        let version = match (found.next(), found.next()) {
            (Some(version), None) => version,
            (None, _) => return Err(StepError::new("from holds no lib/modules/VERSION")),
            (Some(a), Some(b)) => {
                return Err(StepError::new(format!("from holds modules of several kernels: {a}, {b}")));
            }
        };
        let prefix = format!("lib/modules/{version}/");
        let mut entries = BTreeMap::new();
        let mut lists = [None, None, None];
        for entry in tree.iter() {
            let Node::File { digest, .. } = &entry.node else { continue };
            let path = entry.path.to_string();
            let Some(path) = path.strip_prefix(&prefix) else { continue };
            if let Some(at) = LISTS.iter().position(|name| *name == path) {
                lists[at] = Some(store.read(digest)?);
            } else if modinfo::is_module_path(path) {
                entries.insert(path.to_owned(), entry.clone());
            }
        }
        let parse = |(path, entry): (&String, &Entry)| match &entry.node {
            Node::File { digest, .. } => {
                let info = ModuleInfo::parse(&store.read(digest)?)
                    .map_err(|e| StepError::new(format!("{prefix}{path}: {e}")))?;
                Ok(depmod::Module { path: path.clone(), info })
            }
            _ => Err(StepError::new(format!("{prefix}{path} is not a file"))),
        };
        let all: Vec<(&String, &Entry)> = entries.iter().collect();
        let modules = all.into_par_iter().map(parse).collect::<Result<Vec<_>, StepError>>()?;
        Ok(ModuleSet { version, modules, entries, lists })
    }

    fn text(&self, list: usize) -> String {
        String::from_utf8_lossy(self.lists[list].as_deref().unwrap_or_default()).into_owned()
    }

    fn select(&self, wanted: &[Wanted]) -> Result<Selected, StepError> {
        let modules = self.modules.iter().map(|m| (m.path.as_str(), &m.info));
        let catalog = Catalog::new(modules, &self.text(1), self.lists[2].as_deref().unwrap_or_default());
        let names: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
        let closure = catalog.closure(&names);
        let problems = problems(wanted, &closure);
        if !problems.is_empty() {
            let list = problems.iter().map(|p| format!("\n  {p}")).collect::<String>();
            let text = format!("modules of {} that are asked for are not there:{list}", self.version);
            return Err(StepError::new(text)
                .help("a module that the kernel is not built with needs its symbol set to m"));
        }
        let mut notes = Vec::new();
        for (name, state) in &closure.wanted {
            if matches!(state, State::BuiltIn) {
                notes.push(format!("{name} is built into the kernel"));
            }
        }
        for (module, needs) in &closure.soft_absent {
            notes.push(format!("{module} would like to have {needs}, which this kernel has not"));
        }
        Ok(Selected { paths: closure.paths.into_iter().collect(), notes })
    }

    /// The entries of the image: modules as they are, the lists cut to them, depmod's tables.
    fn files(
        &self,
        store: &Store,
        paths: &BTreeSet<String>,
        kernel_symbols: Option<&HashSet<String>>,
    ) -> Result<Vec<Entry>, StepError> {
        let prefix = format!("lib/modules/{}", self.version);
        let chosen: Vec<depmod::Module> =
            self.modules.iter().filter(|m| paths.contains(&m.path)).cloned().collect();
        let plain = |path: &str| path.find(".ko").map_or(path.to_owned(), |at| path[..at + 3].to_owned());
        let kept: BTreeSet<String> = paths.iter().map(|p| plain(p)).collect();
        let order: String =
            self.text(0).lines().filter(|l| kept.contains(&plain(l))).map(|l| format!("{l}\n")).collect();
        let builtin = self.text(1);
        let tables = depmod::tables(&depmod::Input {
            modules: &chosen,
            order: &order,
            builtin: self.lists[1].as_ref().map(|_| builtin.as_str()),
            builtin_modinfo: self.lists[2].as_deref(),
            kernel_symbols,
        })
        .map_err(|e| StepError::new(e.to_string()))?;
        if !tables.unresolved.is_empty() {
            let list: String =
                tables.unresolved.iter().map(|(path, symbol)| format!("\n  {path}: {symbol}")).collect();
            return Err(StepError::new(format!("symbols that nothing exports:{list}"))
                .help("these modules are not of the kernel that `from` names"));
        }
        let mut entries: Vec<Entry> = paths.iter().filter_map(|p| self.entries.get(p).cloned()).collect();
        for (name, content) in
            LISTS.iter().zip([Some(order.as_bytes()), self.lists[1].as_deref(), self.lists[2].as_deref()])
        {
            if let Some(content) = content {
                entries.push(file_entry(store, &format!("{prefix}/{name}"), content)?);
            }
        }
        for (name, content) in &tables.files {
            entries.push(file_entry(store, &format!("{prefix}/{name}"), content)?);
        }
        Ok(entries)
    }
}

fn problems(wanted: &[Wanted], closure: &Closure) -> Vec<String> {
    let near = |name: &Option<String>| match name {
        Some(name) => format!("; did you mean {name}?"),
        None => String::new(),
    };
    let mut out = Vec::new();
    for (name, state) in &closure.wanted {
        if let State::Absent { nearest } = state {
            let place = wanted.iter().find(|w| w.name == *name).map_or("", |w| &w.place);
            out.push(format!("{place}: {name} is neither a module nor built in{}", near(nearest)));
        }
    }
    for broken in &closure.broken {
        let text =
            format!("{} needs {}, which is nowhere{}", broken.module, broken.needs, near(&broken.nearest));
        out.push(text);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mosbuild_cache::CaptureOptions;

    use super::*;

    fn wanted(names: &[&str]) -> Vec<Wanted> {
        names.iter().map(|n| Wanted { name: (*n).into(), place: "list:1".into() }).collect()
    }

    /// A set of the fixture modules of a kernel, if the fixtures are there.
    fn fixture(name: &str) -> Option<(tempfile::TempDir, Store, ModuleSet)> {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures/modules").join(name);
        if !from.exists() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root/lib/modules");
        std::fs::create_dir_all(&root).unwrap();
        let status =
            std::process::Command::new("cp").arg("-r").arg(&from).arg(root.join("1.2-x")).status().unwrap();
        assert!(status.success());
        let store = Store::open(&dir.path().join("store")).unwrap();
        let tree = store.capture_dir(&dir.path().join("root"), CaptureOptions::outputs()).unwrap();
        let set = ModuleSet::read(&store, &tree).unwrap();
        assert_eq!(set.version, "1.2-x");
        Some((dir, store, set))
    }

    #[test]
    fn lists_have_one_name_a_line() {
        let names =
            |text| parse_list("m.conf", text).map(|l| l.iter().map(|w| w.name.clone()).collect::<Vec<_>>());
        assert_eq!(names("# a\n\nvirtio_net # b\n  r8169\n").unwrap(), ["virtio_net", "r8169"]);
        let error = names("a\nvirtio net\n").unwrap_err();
        assert_eq!(error.message, "m.conf:2: \"virtio net\" is no module's name: one a line is expected");
    }

    #[test]
    fn the_closure_of_real_modules_and_their_tables() {
        let Some((dir, store, set)) = fixture("debian-6.1.0-56-amd64") else { return };
        let selected = set.select(&wanted(&["virtio-net", "r8169"])).unwrap();
        let names: BTreeSet<String> = selected.paths.iter().map(|p| modinfo::name_of_path(p)).collect();
        for needed in
            ["virtio_net", "net_failover", "failover", "virtio", "virtio_ring", "r8169", "libphy", "realtek"]
        {
            assert!(names.contains(needed), "{needed} is not in {names:?}");
        }
        let entries = set.files(&store, &selected.paths, None).unwrap();
        let tree = tree_of(entries).unwrap();
        let out = dir.path().join("out");
        store.materialise(&tree, &out, mosbuild_cache::Materialise::Private).unwrap();
        let base = out.join("lib/modules/1.2-x");
        let text = |name: &str| std::fs::read_to_string(base.join(name)).unwrap();
        assert_eq!(text("modules.dep").lines().count(), selected.paths.len());
        assert!(text("modules.order").lines().all(|l| selected.paths.contains(l)));
        assert!(text("modules.softdep").contains("softdep r8169 pre: realtek"));
        // kmod resolves an alias of the set by our tables alone.
        let shown = std::process::Command::new("modprobe")
            .args(["--show-depends", "--dirname"])
            .arg(&out)
            .args(["--set-version", "1.2-x", "virtio_net"])
            .output();
        if let Ok(shown) = shown {
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(
                shown.contains("net_failover.ko") && shown.trim_end().ends_with("virtio_net.ko"),
                "{shown}"
            );
        }
    }

    #[test]
    fn absent_modules_are_all_named_with_the_nearest_name() {
        let Some((_dir, _store, set)) = fixture("debian-6.1.0-56-amd64") else { return };
        let error = set.select(&wanted(&["virtio_nett", "r8169", "no_such_thing_at_all"])).err().unwrap();
        assert_eq!(
            error.message,
            "modules of 1.2-x that are asked for are not there:\n  \
             list:1: virtio_nett is neither a module nor built in; did you mean virtio_net?\n  \
             list:1: no_such_thing_at_all is neither a module nor built in"
        );
    }

    #[test]
    fn compressed_modules_and_built_in_ones() {
        let Some((_dir, store, set)) = fixture("alpine-6.18.56-0-virt") else { return };
        let builtin = modinfo::name_of_path(set.text(1).lines().next().unwrap());
        let selected = set.select(&wanted(&[&builtin, "virtio_net"])).unwrap();
        assert_eq!(selected.notes[0], format!("{builtin} is built into the kernel"));
        assert!(selected.paths.iter().all(|p| p.ends_with(".ko.gz")), "{:?}", selected.paths);
        let tree = tree_of(set.files(&store, &selected.paths, None).unwrap()).unwrap();
        let files: Vec<String> = tree.iter().map(|e| e.path.to_string()).collect();
        for name in
            ["modules.dep", "modules.dep.bin", "modules.alias.bin", "modules.builtin.bin", "modules.weakdep"]
        {
            assert!(files.contains(&format!("lib/modules/1.2-x/{name}")), "{name}: {files:?}");
        }
    }
}
