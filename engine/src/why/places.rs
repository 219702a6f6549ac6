//! Where the files lie that steps read: workspace paths in place of an input's name and a path below it.
//! Knows plans, no record; a record has neither, so that a moved folder stays a hit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use mosbuild_cache::Digest;

use crate::action::Input;
use crate::load::{LoadOptions, Loaded, Override};
use crate::plan;
use crate::rule::Registry;

/// The files and folders that the steps of some targets take, by target, step and input.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: HashMap<(String, String, String), String>,
    /// The workspace.
    root: PathBuf,
    /// When mosbuild.yaml was last changed, seconds since 1970: runs before that may have had other inputs.
    since: u64,
}

impl Places {
    /// Of a target and all below it, as planned now with the working copies that a run had. Where no plan can be made
    /// nothing is known.
    pub fn of(loaded: &Loaded, registry: &Registry, target: &str, overrides: &[Override]) -> Places {
        if loaded.overrides().map(|(_, o)| o).eq(overrides) {
            return Places::planned(loaded, registry, target).unwrap_or_default();
        }
        let overrides = overrides.iter().map(|o| (o.target.clone(), o.path.clone())).collect();
        let options = LoadOptions { overrides, ..loaded.options().clone() };
        let loaded = crate::load::load(&options, registry, None).ok();
        loaded.and_then(|loaded| Places::planned(&loaded, registry, target)).unwrap_or_default()
    }

    fn planned(loaded: &Loaded, registry: &Registry, target: &str) -> Option<Places> {
        let closure = plan::closure(loaded, &[loaded.target_index(target)?]);
        let graph = plan::plan(loaded, registry, closure).ok()?;
        let mut taken = HashMap::new();
        for node in &graph.steps {
            let target = &loaded.targets[node.target as usize].name;
            for input in &node.step.inputs {
                let Some(path) = taken_path(&input.from) else { continue };
                taken.insert((target.clone(), node.step.name.clone(), input.name.clone()), path);
            }
        }
        Some(Places { taken, root: loaded.root.clone(), since: changed(loaded.options()) })
    }

    /// What to call the file `below` an input, or the input itself where that is empty. The plan of now may be
    /// another than that of a run that `started` before the last change of mosbuild.yaml; then the file must still
    /// have its `new` value.
    pub fn name(
        &self,
        step: (&str, &str),
        input: &str,
        below: &str,
        started: u64,
        new: Option<&str>,
    ) -> String {
        let key = (step.0.to_owned(), step.1.to_owned(), input.to_owned());
        let path = self.taken.get(&key).map(|path| Path::new(path).join(below));
        let path = path.filter(|p| self.since <= started || new.is_some_and(|new| self.has(p, new)));
        match path {
            Some(path) if !path.as_os_str().is_empty() => tidy(&path),
            _ if below.is_empty() => input.to_owned(),
            _ => below.to_owned(),
        }
    }

    /// Whether a file has the content whose digest this value begins with.
    fn has(&self, path: &Path, value: &str) -> bool {
        let bytes = std::fs::read(self.root.join(path));
        bytes.is_ok_and(|bytes| value.starts_with(&Digest::of(&bytes).short()))
    }
}

/// Where an input lies that no step makes; empty for files that are at their workspace paths already.
fn taken_path(input: &Input) -> Option<String> {
    match input {
        Input::Path(path) => Some(path.clone()),
        Input::External(path) => Some(path.display().to_string()),
        Input::Files(_) => Some(String::new()),
        Input::Upstream { .. } | Input::Step { .. } => None,
    }
}

/// The path of a file `below` an input that no step makes, or of the input itself where that is empty.
pub fn path_of(input: &Input, below: &str) -> Option<String> {
    taken_path(input).map(|path| tidy(&Path::new(&path).join(below))).filter(|path| !path.is_empty())
}

/// Without `./`.
fn tidy(path: &Path) -> String {
    let plain: PathBuf = path.components().filter(|c| *c != std::path::Component::CurDir).collect();
    plain.display().to_string()
}

fn changed(options: &LoadOptions) -> u64 {
    let modified = std::fs::metadata(options.root.join(&options.file)).and_then(|m| m.modified());
    modified.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(path: &str, since: u64) -> Places {
        let key = ("t".into(), "run".into(), "in".into());
        Places { taken: [(key, path.into())].into(), root: PathBuf::new(), since }
    }

    #[test]
    fn folders_stand_before_what_is_below_them() {
        let name = |path, below| places(path, 5).name(("t", "run"), "in", below, 5, None);
        assert_eq!(name("etc/app", "conf/a"), "etc/app/conf/a");
        assert_eq!(name("./etc/", "a"), "etc/a");
        assert_eq!(name("init", ""), "init");
        assert_eq!(name("/usr/src/linux", "Makefile"), "/usr/src/linux/Makefile");
        assert_eq!(name("", "src/main.c"), "src/main.c");
        assert_eq!(name(".", "a"), "a");
    }

    #[test]
    fn another_input_is_not_taken_for_it() {
        let places = places("etc", 5);
        assert_eq!(places.name(("t", "run"), "other", "a", 5, None), "a");
        assert_eq!(places.name(("t", "run"), "other", "", 5, None), "other");
    }

    #[test]
    fn a_later_plan_must_lead_to_the_same_content() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/a"), "new").unwrap();
        let places = Places { root: dir.path().into(), ..places("etc", 5) };
        let name = |value: &[u8]| {
            let value = format!("{} (3 bytes)", Digest::of(value).short());
            places.name(("t", "run"), "in", "a", 4, Some(&value))
        };
        assert_eq!((name(b"new").as_str(), name(b"newer").as_str()), ("etc/a", "a"));
        assert_eq!(places.name(("t", "run"), "in", "a", 4, None), "a");
    }
}
