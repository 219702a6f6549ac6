//! Cargo manifests of a source tree to what the steps of a component need: the workspace's root and lock, the
//! version, a stub of every member, and the names of what must not survive the dependency step.
//! Knows the layout of Cargo packages; runs nothing and knows no store.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use mosbuild_engine::action::StepError;
use toml::{Table, Value};

/// What stands in for a member's library: no items, so that no lint of the member can refuse it.
pub const LIB_STUB: &str = "//! Stands in for the library while dependencies are compiled.\n";
/// What stands in for a member's program or build script.
pub const MAIN_STUB: &str = "//! Stands in for the program while dependencies are compiled.\nfn main() {}\n";

/// Fields of `[package]` that cannot change how a dependency is compiled.
const NEUTRAL: [&str; 15] = [
    "authors",
    "badges",
    "categories",
    "default-run",
    "description",
    "documentation",
    "exclude",
    "homepage",
    "include",
    "keywords",
    "license",
    "license-file",
    "metadata",
    "publish",
    "readme",
];

/// A source tree as far as Cargo's layout goes: the paths of its files, and the text of one.
pub struct SourceTree<'a> {
    /// Paths of files, relative to the tree's root.
    pub files: BTreeSet<String>,
    /// Reads a file.
    pub read: &'a dyn Fn(&str) -> Result<String, StepError>,
}

/// A file of the stub tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stub {
    /// New text.
    Text(String),
    /// The source's own file of that path.
    Keep,
}

/// What was found out about a package and its workspace.
#[derive(Debug)]
pub struct Survey {
    /// Folder of the workspace's root manifest and Cargo.lock; empty for the tree's root.
    pub root: String,
    /// The package's version.
    pub version: Option<String>,
    /// The tree that dependencies are compiled from.
    pub stub: BTreeMap<String, Stub>,
    /// Names of the members' packages (`package NAME`) and crates (`crate NAME`).
    pub members: BTreeSet<String>,
}

struct Reader<'a> {
    source: &'a SourceTree<'a>,
    parsed: RefCell<BTreeMap<String, Option<Table>>>,
}

/// Surveys the package in `subdir`, or the member `package` of the workspace that holds it.
pub fn survey(source: &SourceTree<'_>, subdir: &str, package: Option<&str>) -> Result<Survey, StepError> {
    let reader = Reader { source, parsed: RefCell::default() };
    let dir = join("", subdir).ok_or_else(|| StepError::new(format!("subdir {subdir} leaves the source")))?;
    reader.require(&dir)?;
    let root = reader.root_of(&dir);
    let lock_path = at(&root, "Cargo.lock");
    if !source.files.contains(&lock_path) {
        return Err(StepError::new(format!("the source has no {lock_path}"))
            .help("dependencies are compiled exactly as locked: run `cargo generate-lockfile` there and keep the file"));
    }
    let lock: Table = toml::from_str(&(source.read)(&lock_path)?)
        .map_err(|e| StepError::new(format!("{lock_path}: {e}")))?;
    let local = local_packages(&lock);
    let real = reader.patched(&root);
    let mut survey = Survey {
        version: reader.version(&root, &dir, package, &local),
        stub: BTreeMap::from([(lock_path, Stub::Keep)]),
        members: BTreeSet::new(),
        root,
    };
    for path in &source.files {
        if real.iter().any(|dir| below(path, dir)) || is_config(path) {
            survey.stub.insert(path.clone(), Stub::Keep);
        }
    }
    let mut above = BTreeSet::from([survey.root.clone()]);
    for path in source.files.iter().filter(|p| file_name(p) == "Cargo.toml") {
        let dir = parent(path);
        if real.iter().any(|r| below(path, r)) {
            continue;
        }
        let Some(manifest) = reader.manifest(dir) else { continue };
        let Some(name) = text(&manifest, &["package", "name"]) else { continue };
        if !local.contains(name) {
            continue;
        }
        stub_package(source, dir, name, &manifest, &mut survey);
        above.extend(ancestors(dir).map(str::to_owned));
    }
    // Root manifests, for what members inherit from them.
    for dir in above {
        if let Some(manifest) = reader.manifest(&dir)
            && manifest.contains_key("workspace")
        {
            let text = neutral(&manifest)?;
            survey.stub.entry(at(&dir, "Cargo.toml")).or_insert(Stub::Text(text));
        }
    }
    Ok(survey)
}

/// The version in a source's manifest, for sources that are built without Cargo; `None` if there is none.
pub fn version(source: &SourceTree<'_>, subdir: &str, package: Option<&str>) -> Option<String> {
    let reader = Reader { source, parsed: RefCell::default() };
    let dir = join("", subdir)?;
    reader.manifest(&dir)?;
    let root = reader.root_of(&dir);
    reader.version(&root, &dir, package, &BTreeSet::new())
}

impl Reader<'_> {
    fn manifest(&self, dir: &str) -> Option<Table> {
        let mut parsed = self.parsed.borrow_mut();
        let read = || {
            let path = at(dir, "Cargo.toml");
            if !self.source.files.contains(&path) {
                return None;
            }
            toml::from_str((self.source.read)(&path).ok()?.as_str()).ok()
        };
        parsed.entry(dir.to_owned()).or_insert_with(read).clone()
    }

    fn require(&self, dir: &str) -> Result<Table, StepError> {
        let path = at(dir, "Cargo.toml");
        if !self.source.files.contains(&path) {
            let help = match self.source.files.iter().find(|p| file_name(p) == "Cargo.toml") {
                Some(other) if parent(other).is_empty() => {
                    "leave `subdir` out, or name a package's folder".into()
                }
                Some(other) => format!("set `subdir: {}`", parent(other)),
                None => "give a script in `build`, if it is not built by cargo".into(),
            };
            return Err(StepError::new(format!("the source has no {path}")).help(help));
        }
        let read = (self.source.read)(&path)?;
        toml::from_str(&read).map_err(|e| StepError::new(format!("{path}: {e}")))
    }

    /// The folder of the root manifest of the workspace that the package in `dir` is a member of.
    fn root_of(&self, dir: &str) -> String {
        let Some(own) = self.manifest(dir) else { return dir.to_owned() };
        if own.contains_key("workspace") {
            return dir.to_owned();
        }
        if let Some(root) = text(&own, &["package", "workspace"]).and_then(|root| join(dir, root)) {
            return root;
        }
        for above in ancestors(dir) {
            let Some(manifest) = self.manifest(above) else { continue };
            let Some(workspace) = manifest.get("workspace") else { continue };
            let excluded = strings(workspace.get("exclude"));
            let out = excluded.iter().filter_map(|e| join(above, e)).any(|e| dir == e || below(dir, &e));
            return if out { dir.to_owned() } else { above.to_owned() };
        }
        dir.to_owned()
    }

    fn version(
        &self,
        root: &str,
        dir: &str,
        package: Option<&str>,
        local: &BTreeSet<String>,
    ) -> Option<String> {
        let shared = self.manifest(root);
        let shared = shared.as_ref().and_then(|m| text(m, &["workspace", "package", "version"]));
        let own = match package {
            None => self.manifest(dir),
            Some(name) => {
                let dirs =
                    self.source.files.iter().filter(|p| file_name(p) == "Cargo.toml").map(|p| parent(p));
                dirs.filter_map(|d| self.manifest(d)).find(|m| text(m, &["package", "name"]) == Some(name))
            }
        };
        let own = own.filter(|m| m.contains_key("package")).or_else(|| {
            // A workspace without a package of its own: the version of its only member, if it has one.
            let only = local.iter().next().filter(|_| local.len() == 1)?;
            let dirs = self.source.files.iter().filter(|p| file_name(p) == "Cargo.toml").map(|p| parent(p));
            dirs.filter_map(|d| self.manifest(d)).find(|m| text(m, &["package", "name"]) == Some(only))
        });
        match own.as_ref().and_then(|m| m.get("package")).and_then(|p| p.get("version")) {
            Some(Value::String(version)) => Some(version.clone()),
            _ => shared.map(str::to_owned),
        }
    }

    /// Folders of packages that `[patch]` puts in place of dependencies, with the packages that those need: other
    /// people's crates are compiled against them, so they are dependencies, not members.
    fn patched(&self, root: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let manifest = self.manifest(root).unwrap_or_default();
        let patches = manifest.get("patch").and_then(Value::as_table);
        let mut queue: Vec<String> = patches
            .into_iter()
            .flat_map(|registries| registries.values())
            .filter_map(Value::as_table)
            .flat_map(|patches| patches.values())
            .filter_map(|patch| join(root, patch.get("path")?.as_str()?))
            .collect();
        let shared = manifest.get("workspace").and_then(|w| w.get("dependencies"));
        while let Some(dir) = queue.pop() {
            // The whole source cannot be a dependency of itself.
            if dir.is_empty() || !found.insert(dir.clone()) {
                continue;
            }
            let Some(own) = self.manifest(&dir) else { continue };
            let targets = own.get("target").and_then(Value::as_table);
            let tables =
                targets.into_iter().flat_map(|t| t.values()).filter_map(Value::as_table).chain([&own]);
            for table in tables {
                for kind in ["dependencies", "build-dependencies"] {
                    for (name, dependency) in table.get(kind).and_then(Value::as_table).into_iter().flatten()
                    {
                        if let Some(path) = dependency.get("path").and_then(Value::as_str) {
                            queue.extend(join(&dir, path));
                        } else if dependency.get("workspace").is_some()
                            && let Some(path) = shared.and_then(|s| s.get(name)?.get("path")?.as_str())
                        {
                            queue.extend(join(root, path));
                        }
                    }
                }
            }
        }
        found
    }
}

/// Adds a member's manifest, a stub for each of its targets, and the names of what they compile to.
fn stub_package(source: &SourceTree<'_>, dir: &str, name: &str, manifest: &Table, survey: &mut Survey) {
    if let Ok(text) = neutral(manifest) {
        survey.stub.insert(at(dir, "Cargo.toml"), Stub::Text(text));
    }
    let crate_name = |name: &str| format!("crate {}", name.replace('-', "_"));
    survey.members.insert(format!("package {name}"));
    survey.members.insert(crate_name(name));
    let mut libs = Vec::new();
    let mut mains = Vec::new();
    match text(manifest, &["lib", "path"]) {
        Some(path) => libs.extend(join(dir, path)),
        None => libs.extend(Some(at(dir, "src/lib.rs")).filter(|p| source.files.contains(p))),
    }
    survey.members.extend(text(manifest, &["lib", "name"]).map(crate_name));
    for bin in manifest.get("bin").and_then(Value::as_array).into_iter().flatten() {
        survey.members.extend(bin.get("name").and_then(Value::as_str).map(crate_name));
        mains.extend(bin.get("path").and_then(Value::as_str).and_then(|path| join(dir, path)));
    }
    // Found by their place, as Cargo does; the folder holds nothing else that Cargo would look at.
    let programs = at(dir, "src/bin");
    for path in source.files.iter().filter(|p| below(p, &programs)) {
        let inner = &path[programs.len() + 1..];
        let stem = match inner.split_once('/') {
            None => inner.strip_suffix(".rs"),
            Some((folder, "main.rs")) => Some(folder),
            Some(_) => None,
        };
        if let Some(stem) = stem {
            survey.members.insert(crate_name(stem));
            mains.push(path.clone());
        }
    }
    mains.extend(Some(at(dir, "src/main.rs")).filter(|p| source.files.contains(p)));
    match manifest.get("package").and_then(|p| p.get("build")) {
        Some(Value::Boolean(false)) => {}
        Some(Value::String(path)) => mains.extend(join(dir, path)),
        _ => mains.extend(Some(at(dir, "build.rs")).filter(|p| source.files.contains(p))),
    }
    for path in libs {
        survey.stub.insert(path, Stub::Text(LIB_STUB.into()));
    }
    for path in mains {
        survey.stub.insert(path, Stub::Text(MAIN_STUB.into()));
    }
}

/// A manifest without what cannot matter to dependencies: comments, descriptions, lints (a stub may offend
/// against them), tests, examples and benches.
fn neutral(manifest: &Table) -> Result<String, StepError> {
    let mut manifest = manifest.clone();
    for field in ["lints", "badges", "example", "test", "bench"] {
        manifest.remove(field);
    }
    if let Some(package) = manifest.get_mut("package").and_then(Value::as_table_mut) {
        for field in NEUTRAL {
            package.remove(field);
        }
    }
    if let Some(workspace) = manifest.get_mut("workspace").and_then(Value::as_table_mut) {
        workspace.remove("metadata");
    }
    toml::to_string(&manifest).map_err(|e| StepError::new(format!("a manifest cannot be written back: {e}")))
}

/// Names of the packages that a Cargo.lock gives no source for: members, and packages found by path.
fn local_packages(lock: &Table) -> BTreeSet<String> {
    let packages = lock.get("package").and_then(Value::as_array);
    let local = packages.into_iter().flatten().filter(|p| p.get("source").is_none());
    local.filter_map(|p| p.get("name")?.as_str().map(str::to_owned)).collect()
}

fn text<'t>(table: &'t Table, path: &[&str]) -> Option<&'t str> {
    let (first, rest) = path.split_first()?;
    let mut value = table.get(*first)?;
    for key in rest {
        value = value.get(*key)?;
    }
    value.as_str()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn is_config(path: &str) -> bool {
    [".cargo/config.toml", ".cargo/config"].iter().any(|c| path == *c || path.ends_with(&format!("/{c}")))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Folders above `dir`, nearest first, down to the root `""`; none for the root itself.
fn ancestors(dir: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(dir), |d| (!d.is_empty()).then(|| parent(d))).skip(1)
}

fn below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// `name` in `dir`.
pub fn at(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// `path` seen from `dir`, made clean of `.` and `..`; `None` if it is absolute or leaves the tree.
pub fn join(dir: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = dir.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
