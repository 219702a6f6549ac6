//! Why one file of an image differs between two runs: the layer or package that it is from, and what changed there, as `why`
//! knows it. Knows no archive.

use std::collections::HashMap;

use mosbuild_cache::TreePath;
use mosbuild_engine::why::{Cause, Explainer, Explanation};
use mosbuild_rules::contents::Origins;

use crate::inspect::{Desk, Origin};
use crate::sizes::Route;

/// Explains the differences between an output of two runs.
pub struct Causes<'a> {
    explainer: Explainer<'a>,
    run: String,
    asked: String,
    /// The root file system inside, if there is one.
    root: Option<String>,
    known: HashMap<String, Option<Explanation>>,
}

/// Where the files of an output came from.
pub struct Sources {
    origins: Origins,
}

/// Where one file came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct From {
    /// The layer of the root file system, as it stands there.
    pub layer: Option<String>,
    /// The package, with its version.
    pub package: Option<(String, String)>,
}

impl Sources {
    /// Of what is in an output; nothing is known of a file.
    pub fn of(desk: &Desk, origin: Option<&Origin>) -> Sources {
        Sources { origins: origin.and_then(|o| origins(desk, o)).unwrap_or_default() }
    }

    /// Of a path.
    pub fn from(&self, path: &[u8]) -> From {
        let Ok(path) = TreePath::new(path) else { return From::default() };
        let package = self.origins.package(&path).map(|p| (p.name.clone(), p.version.clone()));
        From { layer: self.origins.layer(&path).map(str::to_owned), package }
    }
}

fn origins(desk: &Desk, origin: &Origin) -> Option<Origins> {
    let (grounds, loaded) = desk.workspace.as_ref()?;
    let asked = format!("{}:{}", origin.target, origin.output);
    let route = Route::find(loaded, &grounds.site.registry, &asked).ok()?;
    let runs = desk.runs()?;
    let steps = runs.steps(&runs.head(&origin.run)?)?;
    let own = || steps.iter().filter(|s| s.target == route.root());
    if let Some((layers, _)) = own().find_map(|s| s.outputs.get("layers")) {
        return Some(Origins::of_list(&grounds.store, layers));
    }
    let (digest, _) = own().rev().find_map(|s| s.outputs.get(route.output()))?;
    Some(Origins::of_tree(&grounds.store, &grounds.store.get_tree(digest).ok()?))
}

impl<'a> Causes<'a> {
    /// Between two runs of one output; `None` if they are of different ones.
    pub fn between(desk: &'a Desk, old: Option<&Origin>, new: Option<&Origin>) -> Option<Causes<'a>> {
        let (old, new) = (old?, new?);
        let (grounds, loaded) = desk.workspace.as_ref()?;
        if (&old.target, &old.output) != (&new.target, &new.output) {
            return None;
        }
        let dirs = grounds.site.dirs();
        let mut explainer = Explainer::new(&dirs.state, &grounds.store, loaded, &grounds.site.registry);
        if !explainer.against(&old.run) {
            return None;
        }
        let asked = format!("{}:{}", new.target, new.output);
        let root = Route::find(loaded, &grounds.site.registry, &asked).ok().map(|r| r.root().to_owned());
        let (run, asked) = (new.run.clone(), new.target.clone());
        Some(Causes { explainer, run, asked, root, known: HashMap::new() })
    }

    fn explanation(&mut self, target: &str) -> Vec<Cause> {
        if !self.known.contains_key(target) {
            let answer = self.explainer.explain_in(target, &self.run);
            self.known.insert(target.to_owned(), answer);
        }
        let answer = self.known.get(target).and_then(Option::as_ref);
        answer.map(|a| a.causes.iter().map(|c| c.cause.clone()).collect()).unwrap_or_default()
    }

    /// What changed of the whole.
    pub fn of_all(&mut self) -> Vec<Cause> {
        let asked = self.asked.clone();
        self.explanation(&asked)
    }

    /// What changed of the file, or in the layer that it is from, or in what is made of all layers.
    pub fn of(&mut self, path: &[u8], from: &From) -> Vec<Cause> {
        let layer = from.layer.as_deref().map(|l| l.split(':').next().unwrap_or(l).to_owned());
        if let Some(layer) = layer {
            let causes = self.explanation(&layer);
            if !causes.is_empty() {
                return nearest(causes, path, from);
            }
        }
        if let Some(root) = self.root.clone() {
            let causes = self.explanation(&root);
            let own: Vec<Cause> = causes.iter().filter(|c| c.target == root).cloned().collect();
            if !own.is_empty() {
                return own;
            }
            if !causes.is_empty() {
                return nearest(causes, path, from);
            }
        }
        nearest(self.of_all(), path, from)
    }
}

/// Of several causes those that name the file's package, or a file of its name; else all.
fn nearest(causes: Vec<Cause>, path: &[u8], from: &From) -> Vec<Cause> {
    let names = |cause: &Cause, name: &str| cause.subject.split([' ', ':']).any(|word| word == name);
    if let Some((package, _)) = &from.package {
        let of: Vec<Cause> = causes.iter().filter(|c| names(c, package)).cloned().collect();
        if !of.is_empty() {
            return of;
        }
    }
    // As many last components alike as any cause has.
    let common = |cause: &Cause| {
        let subject = cause.subject.as_bytes();
        let (own, its) = (path.rsplit(|b| *b == b'/'), subject.rsplit(|b| *b == b'/'));
        own.zip(its).take_while(|(a, b)| a == b).count()
    };
    let most = causes.iter().map(common).max().unwrap_or(0);
    match most {
        0 => causes,
        most => causes.into_iter().filter(|c| common(c) == most).collect(),
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_engine::why::Gate;

    use super::*;

    fn cause(subject: &str) -> Cause {
        Cause {
            gate: Gate::File,
            target: "t".into(),
            step: "s".into(),
            subject: subject.into(),
            change: "content",
            old: None,
            new: None,
            line: None,
        }
    }

    #[test]
    fn the_cause_that_names_the_file_or_its_package_is_taken() {
        let subjects = |path: &str, package: Option<&str>, all: &[&str]| {
            let from = From { layer: None, package: package.map(|p| (p.into(), "1".into())) };
            let causes = all.iter().map(|s| cause(s)).collect();
            let near = nearest(causes, path.as_bytes(), &from);
            near.into_iter().map(|c| c.subject).collect::<Vec<_>>()
        };
        assert_eq!(subjects("etc/a/b", None, &["root/etc/a/b", "root/etc/c/b"]), ["root/etc/a/b"]);
        assert_eq!(subjects("etc/b", None, &["x", "y"]), ["x", "y"]);
        assert_eq!(subjects("bin/t", Some("tool"), &["package tool", "package other"]), ["package tool"]);
        assert_eq!(subjects("bin/t", Some("to"), &["package tool", "x"]), ["package tool", "x"]);
    }
}
