//! From the plan of a target, the lock and what the last build left to a bill of materials. Knows which rule makes what of its
//! sources; runs nothing and fetches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mosbuild_cache::{Digest, Store, Tree};
use mosbuild_engine::action::Input;
use mosbuild_engine::load::Loaded;
use mosbuild_engine::lockfile::{Pin, Pins, with_profile};
use mosbuild_engine::plan::StepGraph;
use serde_json::Value;

use super::purl::{commit, download, purl};
use super::{Bill, Error, Kind, Part, alpine, crates, firmware};

/// The licence of the kernel (its COPYING).
const LINUX: &str = "GPL-2.0-only WITH Linux-syscall-note";

/// What a build left.
pub struct Made<'a> {
    /// (target, step) → its outputs.
    pub outputs: HashMap<(String, String), BTreeMap<String, Digest>>,
    /// Target → its facts.
    pub facts: HashMap<String, BTreeMap<String, String>>,
    /// The store.
    pub store: &'a Store,
}

impl Made<'_> {
    fn tree(&self, target: &str, step: &str, output: &str) -> Result<Option<Tree>, Error> {
        let outputs = self.outputs.get(&(target.to_owned(), step.to_owned()));
        let digest = outputs.and_then(|o| o.get(output));
        Ok(digest.map(|digest| self.store.get_tree(digest)).transpose()?)
    }

    fn fact(&self, target: &str, name: &str) -> String {
        self.facts.get(target).and_then(|f| f.get(name)).cloned().unwrap_or_default()
    }
}

/// Gathers: one part for each entry of the lock that a target of the closure takes, and for each row of its packages; and
/// what these consist of.
pub fn gather(
    loaded: &Loaded,
    graph: &StepGraph,
    pins: &Pins,
    (target, hashes): (&str, BTreeMap<&'static str, String>),
    made: &Made<'_>,
) -> Result<Bill, Error> {
    let mut bill = Bill {
        project: loaded.project.clone().unwrap_or_default(),
        target: target.to_owned(),
        epoch: loaded.epoch,
        hashes,
        parts: BTreeMap::new(),
        top: BTreeSet::new(),
    };
    let profile = loaded.options().profile.clone();
    for &index in &graph.closure {
        let target = &loaded.targets[index as usize];
        let steps = graph.of_target[index as usize].iter().map(|s| &graph.steps[*s as usize].step);
        let mut owners = Vec::new();
        for step in steps.clone() {
            let Some(id) = &step.pin else { continue };
            let own = profile.as_deref().map(|p| with_profile(id, p)).filter(|id| pins.get(id).is_some());
            let id = own.as_deref().unwrap_or(id);
            let Some(pin) = pins.get(id) else { continue };
            if target.rule == "packages" {
                let tree = made.tree(&target.name, "finish", "tree")?.unwrap_or_default();
                let all = alpine::packages(&mut bill, made.store, &tree, &target.name, Some((id, pin)))?;
                bill.top.extend(all);
                continue;
            }
            let part = of_pin(id, pin, &target.rule, &target.name, made);
            owners.push(bill.add(part));
        }
        let field = |name: &str| target.value.get(name);
        // A source of this machine is in no lock, but in the image.
        if owners.is_empty() && matches!(target.rule.as_str(), "component" | "linux" | "firmware") {
            let mut part = local(&target.rule, &target.name, made);
            part.description = "from a folder or file of this machine".into();
            owners.push(bill.add(part));
        }
        bill.top.extend(owners.iter().cloned());
        let Some(owner) = owners.first().cloned() else { continue };
        match target.rule.as_str() {
            "component" => {
                let inputs = steps.clone().filter(|s| s.name == "patch").flat_map(|s| &s.inputs);
                let patched = inputs.filter(|input| input.name != "source");
                let mut patches = Vec::new();
                for input in patched {
                    let Input::Path(path) = &input.from else { continue };
                    let text = std::fs::read(loaded.root.join(path)).unwrap_or_default();
                    patches.push((path.clone(), String::from_utf8_lossy(&text).into_owned()));
                }
                if let Some(part) = bill.parts.get_mut(&owner) {
                    part.patches = patches;
                }
                if field("build").is_some() {
                    continue;
                }
                let Some(source) = made.tree(&target.name, "prepare", "source")? else { continue };
                let subdir = field("subdir").and_then(Value::as_str).unwrap_or_default();
                let vendor = made.tree(&target.name, "vendor", "vendor")?;
                let about = crates::About::of(made.store, &source, subdir)?;
                if let Some(part) = bill.parts.get_mut(&owner) {
                    about.tell(part);
                }
                if let Some(lock) = crates::lock_of(made.store, &source, subdir)? {
                    crates::crates(&mut bill, made.store, (&target.name, &owner), &lock, vendor.as_ref())?;
                }
            }
            "firmware" => {
                if let Some(tree) = made.tree(&target.name, "select", "tree")? {
                    let files = firmware::files(&mut bill, made.store, &tree, &owner)?;
                    if let Some(part) = bill.parts.get_mut(&owner) {
                        part.needs.extend(files);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(bill)
}

/// What a rule makes of its source.
fn kind(rule: &str) -> Kind {
    match rule {
        "miniroot" => Kind::System,
        "linux" => Kind::Kernel,
        "firmware" => Kind::Firmware,
        "component" | "release" => Kind::Application,
        _ => Kind::File,
    }
}

fn licence(rule: &str) -> &'static str {
    if rule == "linux" { LINUX } else { "" }
}

/// A part that the lock does not know.
fn local(rule: &str, target: &str, made: &Made<'_>) -> Part {
    let name = if rule == "linux" { "linux" } else { target };
    let version = made.fact(target, "version");
    let purl = purl("generic", "", name, &version, &[]);
    Part { licence: licence(rule).into(), ..Part::of_purl(kind(rule), purl, name, version) }
}

/// An entry of the lock as a part.
fn of_pin(id: &str, pin: &Pin, rule: &str, target: &str, made: &Made<'_>) -> Part {
    // What is behind a profile's entry is no part of the source's name.
    let plain = id.split(" (profile ").next().unwrap_or(id);
    let (scheme, rest) = plain.split_once(' ').unwrap_or(("", plain));
    let version = made.fact(target, "version");
    let named = if rule == "linux" { "linux".to_owned() } else { target.to_owned() };
    let mut part = match scheme {
        "crate" => {
            let name = rest.split(' ').next().unwrap_or(rest);
            let version = pin.field("version");
            Part::of_purl(kind(rule), purl("cargo", "", name, version, &[]), name, version)
        }
        "git" => {
            let url = rest.split(' ').next().unwrap_or(rest);
            let rev = pin.field("commit");
            let mut part = Part::of_purl(kind(rule), commit(url, rev), named, rev);
            part.from = if url.contains("://") { format!("git+{url}@{rev}") } else { String::new() };
            part.hashes.insert("SHA-1", rev.to_owned());
            part
        }
        _ => {
            let url = if scheme == "url" { rest } else { pin.field("url") };
            let name = if rule == "miniroot" { "alpine-minirootfs".to_owned() } else { named };
            let version =
                if pin.field("version").is_empty() { version } else { pin.field("version").to_owned() };
            let mut part =
                Part::of_purl(kind(rule), download(&name, &version, url, pin.field("sha256")), name, version);
            part.from = url.to_owned();
            part
        }
    };
    for (algorithm, field) in [("SHA-256", "sha256"), ("SHA-256", "checksum"), ("BLAKE3", "blake3")] {
        if !pin.field(field).is_empty() {
            part.hashes.insert(algorithm, pin.field(field).to_owned());
        }
    }
    // A commit of git's newer kind.
    if part.hashes.get("SHA-1").is_some_and(|hex| hex.len() != 40) {
        part.hashes.remove("SHA-1");
    }
    part.licence = licence(rule).into();
    part.pins.insert(id.to_owned());
    part
}
