//! What an image consists of, gathered from what a past run left in the store: the way from an image or archive to its
//! root file system, the stages of that, its layers, packages and files. Runs nothing and writes nothing.

mod html;
mod json;
mod text;
mod treemap;

use std::collections::BTreeMap;

use mosbuild_cache::{Digest, Node, Store, Tree, TreePath};
use mosbuild_engine::load::{Loaded, OutputKind};
use mosbuild_engine::rule::Registry;
use mosbuild_engine::run_record::{RunHead, Runs, StepRun};
use mosbuild_rules::contents::{Growth, Image, Origins, Package, bytes_of};
use mosbuild_rules::memory::Forecast;
use mosbuild_rules::shares::Shares;

use crate::failure::Failure;

pub use html::page;
pub use json::object;
pub use text::text;

/// How many targets lie between an image and its root file system at most.
const DEEPEST: usize = 8;

/// A target on the way from what was asked for to the root file system.
struct Wrapper {
    target: String,
    rule: String,
    output: String,
    /// Of an archive: its format and level.
    compress: Option<(String, String)>,
}

/// The way to a root file system.
pub struct Route {
    /// Images and archives around it, the outermost first.
    wrappers: Vec<Wrapper>,
    /// The target that makes the tree, and its output.
    root: (String, String),
}

impl Route {
    /// From a target, or `target:output`, as the workspace is declared now.
    pub fn find(loaded: &Loaded, registry: &Registry, asked: &str) -> Result<Route, Failure> {
        let mut wrappers = Vec::new();
        let mut at = asked.to_owned();
        for _ in 0..DEEPEST {
            let (name, output) = at.split_once(':').map_or((at.as_str(), None), |(n, o)| (n, Some(o)));
            let index = mosbuild_engine::build::named(loaded, name)?;
            let target = &loaded.targets[index as usize];
            let chosen = match output {
                Some(o) => target.outputs.iter().find(|d| d.name == o.trim_end_matches('/')),
                None => target.outputs.first(),
            };
            let Some(chosen) = chosen else {
                let what = output.map_or("makes nothing".to_owned(), |o| format!("has no output {o}"));
                return Err(Failure::usage(format!("{name} {what}")));
            };
            if chosen.kind == OutputKind::Tree {
                return Ok(Route { wrappers, root: (name.to_owned(), chosen.name.clone()) });
            }
            let rule = registry.instantiate(&target.rule, &target.value).map_err(Failure::usage)?;
            let mut says = rule.advertise();
            let Some(next) = says.remove("root").or_else(|| says.remove("initramfs")) else {
                let text = format!(
                    "{at} has no root file system in it that is known: it is of rule {}",
                    target.rule
                );
                return Err(
                    Failure::usage(text).help("ask for an image, an archive or a tree: `mosbuild list`")
                );
            };
            wrappers.push(Wrapper {
                target: name.to_owned(),
                rule: target.rule.clone(),
                output: chosen.name.clone(),
                compress: says.remove("compress").zip(says.remove("level")),
            });
            at = next;
        }
        Err(Failure::usage(format!("{asked} holds archives in archives")))
    }

    /// The tree's target.
    pub fn root(&self) -> &str {
        &self.root.0
    }

    /// The tree's output.
    pub fn output(&self) -> &str {
        &self.root.1
    }
}

/// A tree at some point of its way.
pub struct Stage {
    /// The step that made it.
    pub step: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// How many files.
    pub files: usize,
    tree: Tree,
}

/// An image or archive around the tree.
pub struct Around {
    /// The target.
    pub target: String,
    /// Its rule.
    pub rule: String,
    /// Format and level of an archive.
    pub compress: Option<(String, String)>,
    /// Its bytes, if the run made it.
    pub bytes: Option<u64>,
    /// What memory an archive takes.
    pub forecast: Option<Forecast>,
}

/// What a run left of a target.
pub struct Sizes {
    /// The run.
    pub run: RunHead,
    /// The tree's target.
    pub root: String,
    /// The trees, from the layers merged to the last.
    pub stages: Vec<Stage>,
    /// What is around it, from the tree outwards.
    pub around: Vec<Around>,
    origins: Origins,
}

/// One row of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Name of a layer, package or file.
    pub name: String,
    /// Layer of a file; version of a package.
    pub of: String,
    /// Package of a file.
    pub package: String,
    /// How many files.
    pub files: usize,
    /// Bytes in the tree as it was merged.
    pub before: u64,
    /// Bytes in the image.
    pub bytes: u64,
    /// Bytes of the archive, estimated.
    pub share: u64,
}

/// The rows of an image.
pub struct Rows {
    /// By layer, the largest first.
    pub layers: Vec<Row>,
    /// By package, likewise, and what no package has.
    pub packages: Vec<Row>,
    /// By file, likewise.
    pub files: Vec<Row>,
}

/// What is of no package or layer.
const NONE: &str = "(none)";

impl Sizes {
    /// What the newest run left in which the tree was made, or what this one left.
    pub fn gather(store: &Store, runs: &Runs, route: &Route, run: Option<&str>) -> Result<Sizes, Failure> {
        if let Some(id) = run {
            let head = runs.head(id).ok_or_else(|| {
                Failure::usage(format!("unknown run {id}")).help("`mosbuild runs` shows those there are")
            })?;
            let found = Sizes::of_run(store, runs, route, head)?;
            return found.ok_or_else(|| Failure::usage(format!("run {id} did not build {}", route.root())));
        }
        for id in runs.ids().iter().rev() {
            if let Some(head) = runs.head(id)
                && let Some(sizes) = Sizes::of_run(store, runs, route, head)?
            {
                return Ok(sizes);
            }
        }
        let root = route.root();
        Err(Failure::usage(format!("{root} was never built here"))
            .help(format!("`mosbuild build {root}` builds it; `size` only reads what a build left")))
    }

    fn of_run(store: &Store, runs: &Runs, route: &Route, head: RunHead) -> Result<Option<Sizes>, Failure> {
        let (root, output) = &route.root;
        if !head.targets.contains(root) {
            return Ok(None);
        }
        let Some(steps) = runs.steps(&head) else { return Ok(None) };
        let of = |target: &str| steps.iter().filter(|s| s.target == target).collect::<Vec<_>>();
        let own = of(root);
        let makes = |s: &&&StepRun| s.outputs.contains_key(output);
        // One step after another hands the tree on; the last one only looks whether it is small enough, and may refuse.
        let stages = own.iter().filter(makes).filter(|s| s.step != "limit");
        let complete = own.iter().all(|s| s.key.is_some() && (s.step == "limit" || !s.outputs.is_empty()));
        if !complete || own.iter().filter(makes).count() == 0 {
            return Ok(None);
        }
        let mut found = Vec::new();
        for step in stages {
            let tree = tree(store, &step.outputs[output].0, root)?;
            let files = tree.iter().filter(|e| matches!(e.node, Node::File { .. })).count();
            found.push(Stage { step: step.step.clone(), bytes: tree.file_bytes(), files, tree });
        }
        let list = own.iter().find_map(|s| s.outputs.get("layers")).map(|(digest, _)| *digest);
        let Some(last) = found.last() else { return Ok(None) };
        let origins = match list {
            Some(list) => Origins::of_list(store, &list),
            None => Origins::of_tree(store, &last.tree),
        };
        let around = route.wrappers.iter().rev().map(|w| {
            let steps = of(&w.target);
            let made = |name: &str| steps.iter().rev().find_map(|s| s.outputs.get(name).copied());
            let forecast = made("ram").and_then(|(digest, _)| store.read(&digest).ok());
            Around {
                target: w.target.clone(),
                rule: w.rule.clone(),
                compress: w.compress.clone(),
                bytes: made(&w.output).map(|(_, bytes)| bytes),
                forecast: forecast.and_then(|b| Forecast::parse(&String::from_utf8_lossy(&b))),
            }
        });
        let around = around.collect();
        Ok(Some(Sizes { run: head, root: root.clone(), around, stages: found, origins }))
    }

    /// The tree that goes into the image.
    fn tree(&self) -> &Tree {
        // There is one at least.
        &self.stages[self.stages.len() - 1].tree
    }

    /// The archive that the tree is in.
    pub fn archive(&self) -> Option<&Around> {
        self.around.iter().find(|a| a.compress.is_some())
    }

    /// The tables. Reads and compresses every file once.
    pub fn rows(&self, store: &Store) -> Result<Rows, Failure> {
        let archive = self.archive();
        let format = archive.and_then(|a| a.compress.as_ref()).map_or("xz", |(format, _)| format);
        let size = archive.and_then(|a| a.bytes);
        let shares = Shares::estimate(store, self.tree(), &self.origins, format, size)
            .map_err(|e| Failure::new(1, format!("{}: {e}", self.root)).help(again(&self.root)))?;
        let before = &self.stages[0].tree;
        let mut layers: BTreeMap<&str, Row> = BTreeMap::new();
        let mut packages: BTreeMap<(&str, &str), Row> = BTreeMap::new();
        let mut files = Vec::new();
        let mut add = |path: &TreePath, before: u64, bytes: Option<u64>| {
            let layer = self.origins.layer(path).unwrap_or(NONE);
            let package = self.origins.package(path);
            let of = package.map_or((NONE, ""), |Package { name, version }| (name, version));
            let share = if bytes.is_some() { shares.file(path) } else { 0 };
            for row in [layers.entry(layer).or_default(), packages.entry(of).or_default()] {
                row.before += before;
                row.bytes += bytes.unwrap_or(0);
                row.share += share;
                row.files += usize::from(bytes.is_some());
            }
            if let Some(bytes) = bytes {
                files.push(Row {
                    name: path.to_string(),
                    of: layer.to_owned(),
                    package: package.map(|p| p.name.clone()).unwrap_or_default(),
                    files: 1,
                    before,
                    bytes,
                    share,
                });
            }
        };
        for entry in self.tree().iter().filter(|e| matches!(e.node, Node::File { .. })) {
            let was = before.get(&entry.path).map_or(0, |e| bytes_of(&e.node));
            add(&entry.path, was, Some(bytes_of(&entry.node)));
        }
        let gone = |path: &TreePath| self.tree().get(path).is_none();
        for entry in before.iter().filter(|e| matches!(e.node, Node::File { .. }) && gone(&e.path)) {
            add(&entry.path, bytes_of(&entry.node), None);
        }
        let mut layers: Vec<Row> =
            layers.into_iter().map(|(name, row)| Row { name: name.into(), ..row }).collect();
        let mut packages: Vec<Row> = packages
            .into_iter()
            .map(|((name, version), row)| Row { name: name.into(), of: version.into(), ..row })
            .collect();
        for rows in [&mut layers, &mut packages, &mut files] {
            rows.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        }
        // Where no file is of a package, there is no table of them.
        if packages.iter().all(|row| row.name == NONE) {
            packages.clear();
        }
        if layers.iter().all(|row| row.name == NONE) {
            layers.clear();
        }
        Ok(Rows { layers, packages, files })
    }

    /// What there is more or less of than in an earlier run.
    pub fn since(&self, earlier: &Sizes) -> Growth {
        Growth::between(
            &Image { tree: earlier.tree(), origins: &earlier.origins },
            &Image { tree: self.tree(), origins: &self.origins },
        )
    }
}

fn tree(store: &Store, digest: &Digest, root: &str) -> Result<Tree, Failure> {
    store.get_tree(digest).map_err(|e| Failure::new(1, format!("{root}: {e}")).help(again(root)))
}

fn again(root: &str) -> String {
    format!("`mosbuild build {root}` makes it again")
}
