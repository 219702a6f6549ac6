//! Patches laid over a component's source: a function from a tree to a tree, all of it or nothing.
//! Knows trees; how a patch is read and where a hunk goes is in formats/src/patch.rs.
//!
//! Done here and not by the host's `patch`, so that it needs no sandbox, touches only the files that are named, and
//! says of a hunk that does not fit what is in its way. Context must be there in full (no fuzz): a hunk that would
//! nearly fit may fit in the wrong place.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::{Entry, Node, Store};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::load::nearest;
use mosbuild_formats::patch::{self, Change, FilePatch, Mode, Rejected, Why};

use crate::steps::{entry, tree_of, tree_output};

/// Name of the input that is the patch of this position.
pub fn input(position: usize) -> String {
    format!("patch {}", position + 1)
}

/// Inputs `source` and `patch 1`, …; output `source`.
pub struct ApplyPatches {
    /// The patches as they are declared, for what is said of them.
    pub names: Vec<String>,
}

impl Builtin for ApplyPatches {
    fn name(&self) -> &'static str {
        "component-patch"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("source".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("source")?;
        let mut files: Files = tree.iter().map(|e| (e.path.as_bytes().to_vec(), e.clone())).collect();
        for (position, name) in self.names.iter().enumerate() {
            let text = patch::whole(cx.bytes(&input(position))?);
            let parsed = patch::parse(&text).map_err(|e| {
                StepError::new(format!("{name} cannot be read: {e}"))
                    .help("a unified diff is expected, as `git diff` or `diff -ru old new` write it")
            })?;
            let mut laid =
                Laid { store: cx.store, name, before: files.clone(), files, made: BTreeSet::new() };
            for one in &parsed {
                laid.file(one, &parsed, cx.log)?;
            }
            files = laid.files;
        }
        let patched = tree_output(cx.store, &tree_of(files.into_values().collect())?)?;
        Ok(Made { outputs: BTreeMap::from([("source".to_owned(), patched)]), ..Made::default() })
    }
}

type Files = BTreeMap<Vec<u8>, Entry>;

/// A tree on which one patch is being laid.
struct Laid<'a> {
    store: &'a Store,
    /// The patch.
    name: &'a str,
    /// Before the patch: what git copies or renames is meant as it was then.
    before: Files,
    files: Files,
    /// What this patch has put somewhere: the next part that moves away what was there before does not mean it.
    made: BTreeSet<Vec<u8>>,
}

impl Laid<'_> {
    fn file(
        &mut self,
        one: &FilePatch<'_>,
        all: &[FilePatch<'_>],
        log: &(dyn Fn(&str) + Sync),
    ) -> Result<(), StepError> {
        let (from, to) = match &one.change {
            Change::Modify(paths) => {
                let there = paths.iter().find(|path| self.files.contains_key(*path));
                let path = there.or(paths.last()).cloned().unwrap_or_default();
                match there {
                    // `diff -N` has no other way to say that a file is new.
                    None if one.plain && one.from_nothing() => (None, Some(path)),
                    _ if one.plain && one.to_nothing() => (Some(path), None),
                    _ => (Some(path.clone()), Some(path)),
                }
            }
            Change::Create(path) => (None, Some(path.clone())),
            Change::Delete(path) => (Some(path.clone()), None),
            Change::Rename { from, to } | Change::Copy { from, to } => (Some(from.clone()), Some(to.clone())),
        };
        let moves = matches!(one.change, Change::Rename { .. });
        let copies = matches!(one.change, Change::Copy { .. });
        let base = match &from {
            Some(from) => Some(self.content(from, moves || copies)?),
            None => None,
        };
        if let Some(to) = to.as_ref().filter(|to| from.as_ref() != Some(*to))
            && self.files.contains_key(to)
            && !leaves(all, to)
        {
            return Err(self.refused(to, "the patch makes it, but it is there already"));
        }
        let empty = (Mode::Regular, Vec::new());
        let (mode, bytes) = base.unwrap_or(empty);
        let applied = one.apply(&bytes).map_err(|e| self.rejected(one.change.path(), &e))?;
        for (hunk, lines) in &applied.moved {
            let path = String::from_utf8_lossy(one.change.path());
            log(&format!("{}: {path}: hunk {hunk} applies {lines:+} lines away", self.name));
        }
        if let Some(from) =
            from.filter(|from| !copies && to.as_ref() != Some(from) && !self.made.contains(from))
        {
            if to.is_none() && !applied.bytes.is_empty() {
                return Err(
                    self.refused(&from, "the patch deletes it, but it has more than the patch expects")
                );
            }
            self.files.remove(&from);
            self.drop_empty_folders(&from);
        }
        if let Some(to) = to {
            self.put(to, one.mode.unwrap_or(mode), &applied.bytes)?;
        }
        Ok(())
    }

    /// What is at a path: git's mode and the content.
    fn content(&self, path: &[u8], before: bool) -> Result<(Mode, Vec<u8>), StepError> {
        let files = if before { &self.before } else { &self.files };
        match files.get(path).map(|e| (&e.node, e.mode)) {
            Some((Node::File { digest, .. }, mode)) => {
                let mode = if mode & 0o100 != 0 { Mode::Executable } else { Mode::Regular };
                Ok((mode, self.store.read(digest)?))
            }
            Some((Node::Symlink { target }, _)) => Ok((Mode::Symlink, target.clone())),
            Some(_) => Err(self.refused(path, "it is no file")),
            None => Err(self.absent(path)),
        }
    }

    fn put(&mut self, path: Vec<u8>, mode: Mode, bytes: &[u8]) -> Result<(), StepError> {
        let (bits, node) = match mode {
            Mode::Symlink if bytes.is_empty() || bytes.contains(&0) => {
                return Err(self.refused(&path, "it is no link with that content"));
            }
            Mode::Symlink => (0o777, Node::Symlink { target: bytes.to_vec() }),
            Mode::Regular | Mode::Executable => {
                let digest = self.store.put_bytes(bytes)?;
                let bits = if mode == Mode::Executable { 0o755 } else { 0o644 };
                (bits, Node::File { digest, size: bytes.len() as u64 })
            }
        };
        let made = entry(&path, bits, node)?;
        for above in above(&path) {
            if self.files.get(above).is_some_and(|e| !matches!(e.node, Node::Dir)) {
                return Err(self.refused(&path, &format!("{} is no folder", shown(above))));
            }
        }
        self.made.insert(path.clone());
        self.files.insert(path, made);
        Ok(())
    }

    /// As patch and git do it: a folder goes with the last file in it.
    fn drop_empty_folders(&mut self, path: &[u8]) {
        for folder in above(path) {
            let below = [folder, b"/"].concat();
            let holds = self.files.range(below.clone()..).next().is_some_and(|(p, _)| p.starts_with(&below));
            if holds {
                return;
            }
            self.files.remove(folder);
        }
    }

    fn refused(&self, path: &[u8], why: &str) -> StepError {
        StepError::new(format!("{} does not apply: {}: {why}", self.name, shown(path)))
    }

    fn absent(&self, path: &[u8]) -> StepError {
        let error = self.refused(path, "the source has no such file");
        let wanted = shown(path);
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let names: Vec<String> = self.files.keys().map(|path| shown(path)).collect();
        let same = names.iter().find(|name| base(name) == base(&wanted)).map(String::as_str);
        match same.or_else(|| nearest(&wanted, names.iter().map(String::as_str))) {
            Some(near) => error.help(format!(
                "the source has {near}; patches are applied at its top, without the first folder of their paths (-p1)"
            )),
            None => error
                .help("patches are applied at the source's top, without the first folder of their paths (-p1)"),
        }
    }

    fn rejected(&self, path: &[u8], rejected: &Rejected) -> StepError {
        let Rejected { hunk, of, line, why } = rejected;
        let (why, help) = match why {
            Why::Applied => (
                "what it would make is there already".to_owned(),
                "the source has this change by now: leave the patch out",
            ),
            Why::Short { lines } => (
                format!("the file ends at line {lines}"),
                "make the patch anew for this version of the source",
            ),
            Why::Differs { line, expected, found } => (
                format!("line {line} is {found:?}, expected is {expected:?}"),
                "make the patch anew for this version of the source; its context must be there in full",
            ),
            Why::Misplaced => (
                "its lines are there, but not where they may be".to_owned(),
                "make the patch anew for this version of the source",
            ),
        };
        self.refused(path, &format!("hunk {hunk} of {of}, at line {line}: {why}")).help(help)
    }
}

/// Whether some part of a patch moves away or deletes what is at a path.
fn leaves(all: &[FilePatch<'_>], path: &[u8]) -> bool {
    all.iter().any(|one| match &one.change {
        Change::Rename { from, .. } | Change::Delete(from) => from == path,
        _ => false,
    })
}

/// Folders above a path, nearest first.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let up = |path: &&[u8]| path.iter().rposition(|b| *b == b'/');
    std::iter::successors(Some(path), move |path| up(path).map(|slash| &path[..slash])).skip(1)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use mosbuild_cache::{CaptureOptions, Tree, TreePath};
    use mosbuild_engine::action::Available;

    use super::*;
    use crate::steps::bench;

    fn has(tree: &Tree, path: &str) -> bool {
        TreePath::new(path).is_ok_and(|path| tree.get(&path).is_some())
    }

    struct Bench {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Bench {
        fn new() -> Bench {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store")).unwrap();
            Bench { dir, store }
        }

        fn source(&self, files: &[(&str, &str)]) -> std::path::PathBuf {
            let at = self.dir.path().join("source");
            for (path, text) in files {
                let path = at.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            at
        }

        fn apply(&self, source: &Path, patches: &[&str]) -> Result<Tree, StepError> {
            let tree = self.store.capture_dir(source, CaptureOptions::outputs()).unwrap();
            let digest = self.store.put_tree(&tree).unwrap();
            let mut inputs = BTreeMap::from([(
                "source".to_owned(),
                Available::Tree { tree: tree.into(), digest, root: None },
            )]);
            for (position, text) in patches.iter().enumerate() {
                let digest = self.store.put_bytes(text.as_bytes()).unwrap();
                let size = text.len() as u64;
                inputs
                    .insert(input(position), Available::File { digest, size, executable: false, path: None });
            }
            let names = (1..=patches.len()).map(|n| format!("patches/{n}.patch")).collect();
            let made = bench::run(
                &ApplyPatches { names },
                (&self.store, self.dir.path()),
                inputs,
                &BTreeMap::new(),
            )?;
            Ok(self.store.get_tree(&made.outputs["source"].digest).unwrap())
        }

        fn text(&self, tree: &Tree, path: &str) -> String {
            let Node::File { digest, .. } = tree.get(&TreePath::new(path).unwrap()).unwrap().node else {
                panic!()
            };
            String::from_utf8(self.store.read(&digest).unwrap()).unwrap()
        }
    }

    const ONE: &str = "--- a/src/main.c\n+++ b/src/main.c\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n";

    #[test]
    fn patches_go_on_top_of_each_other() {
        let bench = Bench::new();
        let source = bench.source(&[("src/main.c", "one\ntwo\nthree\n"), ("old/gone", "x\n")]);
        let two = "--- a/src/main.c\n+++ b/src/main.c\n@@ -1,3 +1,3 @@\n one\n-zwei\n+deux\n three\n\
                   --- a/old/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n--- /dev/null\n+++ b/new/made\n@@ -0,0 +1 @@\n+y\n";
        let tree = bench.apply(&source, &[ONE, two]).unwrap();
        assert_eq!(bench.text(&tree, "src/main.c"), "one\ndeux\nthree\n");
        assert_eq!(bench.text(&tree, "new/made"), "y\n");
        assert!(!has(&tree, "old/gone") && !has(&tree, "old"));
    }

    #[test]
    fn what_is_in_the_way_is_told_with_patch_file_and_hunk() {
        let bench = Bench::new();
        let source = bench.source(&[("src/main.c", "one\nother\nthree\n"), ("src/lib.c", "x\n")]);
        let error = bench.apply(&source, &[ONE]).unwrap_err();
        assert_eq!(
            error.message,
            "patches/1.patch does not apply: src/main.c: hunk 1 of 1, at line 1: line 2 is \"other\", expected is \"two\""
        );
        let absent = ONE.replace("src/main.c", "main.c");
        let error = bench.apply(&source, &[&absent]).unwrap_err();
        assert_eq!(error.message, "patches/1.patch does not apply: main.c: the source has no such file");
        assert!(error.help[0].starts_with("the source has src/main.c;"), "{:?}", error.help);
        let create = "--- /dev/null\n+++ b/src/lib.c\n@@ -0,0 +1 @@\n+y\n";
        let error = bench.apply(&source, &[create]).unwrap_err();
        assert!(
            error.message.ends_with("src/lib.c: the patch makes it, but it is there already"),
            "{}",
            error.message
        );
        let below = "--- /dev/null\n+++ b/src/lib.c/x\n@@ -0,0 +1 @@\n+y\n";
        let error = bench.apply(&source, &[below]).unwrap_err();
        assert!(error.message.ends_with("src/lib.c/x: src/lib.c is no folder"), "{}", error.message);
        let delete = "--- a/src/main.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n";
        let error = bench.apply(&source, &[delete]).unwrap_err();
        assert!(error.message.ends_with("it has more than the patch expects"), "{}", error.message);
        let folder = ONE.replace("src/main.c", "src");
        assert!(bench.apply(&source, &[&folder]).unwrap_err().message.ends_with("src: it is no file"));
        let error = bench.apply(&source, &["hello\n"]).unwrap_err();
        assert!(
            error.message.starts_with("patches/1.patch cannot be read: it is no unified diff"),
            "{}",
            error.message
        );
        let again = bench.source(&[("src/main.c", "one\nzwei\nthree\n")]);
        let error = bench.apply(&again, &[ONE]).unwrap_err();
        assert!(error.message.ends_with("what it would make is there already"), "{}", error.message);
    }

    #[test]
    fn names_of_plain_diffs_are_looked_for() {
        let bench = Bench::new();
        let source = bench.source(&[("a.c", "one\n"), ("b.c", "one\n")]);
        let text = "--- x/a.c.orig\t2020-01-01\n+++ x/a.c\t2020-01-02\n@@ -1 +1 @@\n-one\n+two\n\
                    --- x/new.c\t1970-01-01\n+++ x/new.c\t2020-01-02\n@@ -0,0 +1 @@\n+new\n\
                    --- x/b.c\t2020-01-01\n+++ x/b.c\t1970-01-01\n@@ -1 +0,0 @@\n-one\n";
        let tree = bench.apply(&source, &[text]).unwrap();
        assert_eq!((bench.text(&tree, "a.c"), bench.text(&tree, "new.c")), ("two\n".into(), "new\n".into()));
        assert!(!has(&tree, "b.c"));
    }

    /// Two files that change places, links and modes: as `git apply` leaves them.
    #[test]
    fn what_git_writes_gives_what_git_makes_of_it() {
        let bench = Bench::new();
        let source =
            bench.source(&[("a", &"a\n".repeat(400)), ("b", &"b\n".repeat(400)), ("run", "#!/bin/sh\n")]);
        let git = |script: &str| {
            let own = "git() { command git -c user.name=x -c user.email=x@example.org \"$@\"; }\n";
            let run =
                Command::new("sh").args(["-euc", &format!("{own}{script}")]).current_dir(&source).output();
            let run = run.unwrap();
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
            String::from_utf8(run.stdout).unwrap()
        };
        git("git init -q; ln -s a link; git add -A; git commit -qm one");
        let before = bench.dir.path().join("before");
        assert!(Command::new("cp").arg("-a").arg(&source).arg(&before).status().unwrap().success());
        git(
            "mv a x; mv b a; mv x b; sed -i '3s/.*/changed/' a; chmod 755 run; rm link; ln -s run link; ln -s b new; \
             mkdir d; echo 1 > d/e; git add -A; git commit -qm two",
        );
        let patch = git("git diff -M -B HEAD~ HEAD");
        assert!(patch.contains("rename from"), "{patch}");
        for dir in [&source, &before] {
            std::fs::remove_dir_all(dir.join(".git")).unwrap();
        }
        let expected = bench.store.capture_dir(&source, CaptureOptions::outputs()).unwrap();
        let made = bench.apply(&before, &[&patch]).unwrap();
        let listed = |tree: &Tree| {
            tree.iter().map(|e| format!("{} {:o} {:?}", e.path, e.mode, e.node)).collect::<Vec<_>>()
        };
        assert_eq!(listed(&made), listed(&expected));
    }
}
