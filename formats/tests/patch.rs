//! Patches as `diff -u` and git write them, applied as GNU patch and git apply them. Knows no store.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use mosbuild_formats::patch::{Change, Error, FilePatch, Mode, Rejected, Why, parse, whole};
use proptest::prelude::*;

/// Applies the only part of a patch.
fn apply(base: &str, text: &str) -> Result<String, Rejected> {
    let files = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{e}:\n{text}"));
    assert_eq!(files.len(), 1, "{text}");
    files[0].apply(base.as_bytes()).map(|applied| String::from_utf8(applied.bytes).unwrap())
}

fn numbered(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

const HUNK: &str = "--- a/f\n+++ b/f\n@@ -10,7 +10,7 @@\n line 10\n line 11\n line 12\n-line 13\n+line XIII\n line 14\n line 15\n line 16\n";

#[test]
fn a_hunk_is_found_where_its_context_is() {
    let expected = |first| numbered(first..30).replace("line 13\n", "line XIII\n");
    assert_eq!(apply(&numbered(1..30), HUNK).unwrap(), expected(1));
    let files = parse(HUNK.as_bytes()).unwrap();
    assert_eq!(files[0].change, Change::Modify(vec![b"f".to_vec()]));
    let applied = files[0].apply(numbered(4..30).as_bytes()).unwrap();
    assert_eq!((applied.bytes, applied.moved), (expected(4).into_bytes(), vec![(1, -3)]));
}

#[test]
fn why_a_hunk_does_not_fit_is_told() {
    let rejected = |base: &str| apply(base, HUNK).unwrap_err();
    let base = numbered(1..30).replace("line 12\n", "line twelve\n");
    let differs = Why::Differs { line: 12, expected: "line 12".into(), found: "line twelve".into() };
    assert_eq!(rejected(&base), Rejected { hunk: 1, of: 1, line: 10, why: differs });
    assert_eq!(rejected(&numbered(1..12)).why, Why::Short { lines: 11 });
    let done = apply(&numbered(1..30), HUNK).unwrap();
    assert_eq!(rejected(&done).why, Why::Applied);
    let crlf = numbered(1..30).replace('\n', "\r\n");
    let text = format!("{:?}", rejected(&crlf).why);
    assert!(text.contains("another end of line"), "{text}");
    // The last hunk of a file has less context behind it, and is at the end only.
    let last = "--- a/f\n+++ b/f\n@@ -2,3 +2,4 @@\n line 2\n line 3\n line 4\n+line 5\n";
    assert_eq!(apply(&numbered(1..5), last).unwrap(), numbered(1..6));
    assert_eq!(apply(&numbered(1..30), last).unwrap_err().why, Why::Applied);
    assert_eq!(
        apply(&numbered(1..5).repeat(2), &last.replace("line 5", "x")).unwrap().lines().last(),
        Some("x")
    );
}

#[test]
fn later_hunks_follow_the_first_and_never_go_before_it() {
    let base = "x\na\nb\nc\n".repeat(6);
    let text = "--- a/f\n+++ b/f\n@@ -6,3 +6,3 @@\n a\n-b\n+B\n c\n@@ -10,3 +10,3 @@\n a\n-b\n+B\n c\n";
    // Three lines more before: both hunks are three lines later, though other places would be nearer.
    let moved = format!("1\n2\n3\n{base}");
    let files = parse(text.as_bytes()).unwrap();
    let applied = files[0].apply(moved.as_bytes()).unwrap();
    assert_eq!(applied.moved, [(1, -1), (2, -1)]);
    let misplaced = "--- a/f\n+++ b/f\n@@ -5,1 +5,1 @@\n-e\n+E\n@@ -7,1 +7,1 @@\n-b\n+B\n";
    let rejected = apply("a\nb\nc\nd\ne\nf\n", misplaced).unwrap_err();
    assert_eq!((rejected.hunk, rejected.of, rejected.line), (2, 2, 7));
}

#[test]
fn ends_of_files_count() {
    let text = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n one\n-two\n\\ No newline at end of file\n+zwei\n";
    assert_eq!(apply("one\ntwo", text).unwrap(), "one\nzwei\n");
    assert!(apply("one\ntwo\n", text).is_err());
    let text = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+eins\n\\ No newline at end of file\n";
    assert_eq!(apply("one\n", text).unwrap(), "eins");
    // A patch that lost its last line's end.
    let cut = whole(b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+eins".to_vec());
    assert_eq!(parse(&cut).unwrap()[0].apply(b"one\n").unwrap().bytes, b"eins\n");
}

#[test]
fn files_come_and_go() {
    let text = "--- /dev/null\n+++ b/new/f\n@@ -0,0 +1,2 @@\n+one\n+two\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n";
    let files = parse(text.as_bytes()).unwrap();
    let changes: Vec<&Change> = files.iter().map(|f| &f.change).collect();
    assert_eq!(changes, [&Change::Create(b"new/f".to_vec()), &Change::Delete(b"old".to_vec())]);
    assert!(files[0].from_nothing() && files[1].to_nothing() && files[0].plain);
    assert_eq!(files[0].apply(b"").unwrap().bytes, b"one\ntwo\n");
    assert_eq!(files[1].apply(b"x\n").unwrap().bytes, b"");
    // As `diff -N` has it, without /dev/null.
    let text = "--- a/f\t1970-01-01 00:00:00\n+++ b/f\t2020-01-01 00:00:00\n@@ -0,0 +1 @@\n+one\n";
    assert!(parse(text.as_bytes()).unwrap()[0].from_nothing());
    // Two names for one file.
    let text = "--- f-1.0/a.c.orig\n+++ f-1.0/a.c\n@@ -1 +1 @@\n-a\n+b\n";
    let files = parse(text.as_bytes()).unwrap();
    assert_eq!(files[0].change, Change::Modify(vec![b"a.c.orig".to_vec(), b"a.c".to_vec()]));
}

#[test]
fn what_is_no_patch_is_refused() {
    let error = |text: &str| parse(text.as_bytes()).map(|f| f.len()).unwrap_err().to_string();
    assert_eq!(error("hello\n"), "it is no unified diff: no `---` and `+++` lines were found");
    assert!(error("").contains("no unified diff"));
    let head = "--- a/f\n+++ b/f\n";
    assert_eq!(error(&format!("{head}@@ -1 +1,2 @@\n-a\n+b\n")), "hunk header does not match hunk");
    assert_eq!(error(&format!("{head}@@ -x +1 @@\n-a\n+b\n")), "can't parse range");
    assert_eq!(
        error(&format!("{head}@@ -1 +1 @@\n-a\n+b\n{head}@@ -1 +1 @@\n-a\n")),
        "hunk header does not match hunk, behind the part for \"f\""
    );
    for (path, why) in [
        ("a/../../x", "path has a '..' component"),
        ("/etc/passwd", "path is absolute"),
        ("file", "\"file\" has no first folder that could be taken off"),
        ("a/", "\"a/\" has no first folder that could be taken off"),
    ] {
        let text = error(&format!("--- {path}\n+++ {path}\n@@ -1 +1 @@\n-a\n+b\n"));
        assert!(text.contains(why), "{path}: {text}");
    }
    // A plain part before the first of git's would be passed over.
    let mixed =
        format!("{head}@@ -1 +1 @@\n-a\n+b\ndiff --git a/g b/g\n--- a/g\n+++ b/g\n@@ -1 +1 @@\n-a\n+b\n");
    assert_eq!(error(&mixed), "it has 2 hunks, but only 1 of them belong to a file");
    let binary = "diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n";
    assert_eq!(error(binary), "\"x\" is changed as a binary, which is not supported");
    let module = "diff --git a/m b/m\nnew file mode 160000\nindex 000..123\n--- /dev/null\n+++ b/m\n@@ -0,0 +1 @@\n+Subproject commit 1\n";
    assert_eq!(error(module), "\"m\" is a submodule, which a patch cannot change");
}

/// A small tree as a map; links and modes as git has them.
type Files = BTreeMap<String, (Mode, Vec<u8>)>;

/// As git does it: what is copied or renamed is taken as it was before all of it.
fn after(mut files: Files, patch: &[FilePatch<'_>]) -> Files {
    let original = files.clone();
    let name = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
    for one in patch {
        let (from, to) = match &one.change {
            Change::Modify(paths) => {
                let found = paths.iter().map(|p| name(p)).find(|p| files.contains_key(p)).unwrap();
                (Some(found.clone()), Some(found))
            }
            Change::Create(path) => (None, Some(name(path))),
            Change::Delete(path) => (Some(name(path)), None),
            Change::Rename { from, to } | Change::Copy { from, to } => (Some(name(from)), Some(name(to))),
        };
        let moved = matches!(one.change, Change::Rename { .. } | Change::Copy { .. });
        let sources = if moved { &original } else { &files };
        let (mode, base) = from.as_ref().map_or((Mode::Regular, vec![]), |from| sources[from].clone());
        if !matches!(one.change, Change::Copy { .. })
            && let Some(from) = &from
        {
            files.remove(from);
        }
        if let Some(to) = to {
            files.insert(to, (one.mode.unwrap_or(mode), one.apply(&base).unwrap().bytes));
        }
    }
    files
}

fn files_of(dir: &Path) -> Files {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let listed = common::tool(
        "find",
        &[".", "-path", "./.git", "-prune", "-o", "!", "-type", "d", "-print"],
        dir,
        b"",
    );
    let one = |path: &str| {
        let at = dir.join(path);
        let meta = at.symlink_metadata().unwrap();
        let found = match (meta.is_symlink(), meta.permissions().mode() & 0o100 != 0) {
            (true, _) => (Mode::Symlink, fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec()),
            (false, true) => (Mode::Executable, fs::read(&at).unwrap()),
            (false, false) => (Mode::Regular, fs::read(&at).unwrap()),
        };
        (path.trim_start_matches("./").to_owned(), found)
    };
    String::from_utf8(listed).unwrap().lines().map(one).collect()
}

fn git(dir: &Path, args: &[&str]) -> Vec<u8> {
    let own = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.autocrlf=false"];
    common::tool("git", &[&own[..], args].concat(), dir, b"")
}

#[test]
fn all_that_git_says_of_a_file_is_done() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    git(dir.path(), &["init", "-q"]);
    fs::create_dir(at("sub")).unwrap();
    for (path, text) in [
        ("changed", numbered(1..40)),
        ("moved", numbered(1..60)),
        ("gone", "bye\n".into()),
        ("sub/mode", "#!/bin/sh\n".into()),
        ("with blank and \"quotes\"", "x\n".into()),
        ("ümlaut", "x\n".into()),
        ("emptied", "was\n".into()),
        ("copied", numbered(1..80)),
    ] {
        fs::write(at(path), text).unwrap();
    }
    symlink("changed", at("link")).unwrap();
    git(dir.path(), &["add", "-A"]);
    git(dir.path(), &["commit", "-qm", "before"]);
    let before = files_of(dir.path());

    fs::write(at("changed"), numbered(1..40).replace("line 7\n", "seven\n").replace("line 30\n", ""))
        .unwrap();
    fs::rename(at("moved"), at("sub/moved there")).unwrap();
    fs::write(at("sub/moved there"), numbered(1..60).replace("line 9\n", "nine\n")).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::set_permissions(at("sub/mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("with blank and \"quotes\""), "y\n").unwrap();
    fs::write(at("ümlaut"), "y").unwrap();
    fs::write(at("emptied"), "").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("program"), "#!/bin/sh\nexit\n").unwrap();
    fs::set_permissions(at("program"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("sub/mode", at("link")).unwrap();
    symlink("nowhere", at("new link")).unwrap();
    fs::write(at("copy"), numbered(1..80).replace("line 50\n", "fifty\n")).unwrap();
    fs::write(at("copied"), numbered(1..80).replace("line 3\n", "three\n")).unwrap();
    git(dir.path(), &["add", "-A"]);
    git(dir.path(), &["commit", "-qm", "after\n\n--- a/no\n+++ b/patch\n"]);
    let expected = files_of(dir.path());

    for args in [
        &["diff", "HEAD~", "HEAD"][..],
        &["diff", "-M", "-C", "--no-renames", "HEAD~", "HEAD"],
        &["diff", "-M", "-C", "-U1", "HEAD~", "HEAD"],
        &["format-patch", "-M", "-C", "--stdout", "HEAD~"],
    ] {
        let text = git(dir.path(), args);
        let patch =
            parse(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{}", String::from_utf8_lossy(&text)));
        let found = after(before.clone(), &patch);
        let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{args:?}");
        for (name, right) in &expected {
            assert!(found[name] == *right, "{args:?}: {name} is {:?}", found[name]);
        }
    }
}

/// What GNU patch without fuzz makes of a file; none if a hunk does not fit.
fn gnu_patch(base: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), base).unwrap();
    fs::write(dir.path().join("p"), text).unwrap();
    let args = ["-p1", "-F0", "-s", "-f", "--no-backup-if-mismatch", "-r", "-", "-i", "p"];
    let output = Command::new("patch").args(args).current_dir(dir.path()).env("LC_ALL", "C").output();
    let output =
        output.unwrap_or_else(|e| panic!("this test compares with patch ({e}); scripts/test installs it"));
    output.status.success().then(|| fs::read(dir.path().join("f")).unwrap_or_default())
}

fn diff(old: &[u8], new: &[u8], context: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (folder, bytes) in [("a", old), ("b", new)] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("f"), bytes).unwrap();
    }
    let width = format!("-U{context}");
    let output = Command::new("diff").args([&width, "a/f", "b/f"]).current_dir(dir.path()).output().unwrap();
    output.stdout
}

/// Text of few different lines, so that hunks fit in several places.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![Just("a\n"), Just("b\n"), Just("c\n"), Just("\n")];
    (prop::collection::vec(line, 1..40), any::<bool>()).prop_map(|(lines, cut)| {
        let mut text = lines.concat().into_bytes();
        if cut && text.len() > 1 {
            text.pop();
        }
        text
    })
}

/// Some lines taken out, put in or changed.
fn edited(text: &[u8], edits: &[(u8, u8)]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    for (at, how) in edits {
        let at = usize::from(*at) % (lines.len() + 1);
        match how % 3 {
            0 => lines.insert(at, vec![b'd' + how % 4, b'\n']),
            1 if at < lines.len() => drop(lines.remove(at)),
            _ if at < lines.len() => lines[at] = b"z\n".to_vec(),
            _ => {}
        }
    }
    lines.concat()
}

fn edits() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((any::<u8>(), any::<u8>()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_diff_writes_gives_the_new_file(old in text(), by in edits(), context in 0usize..4) {
        let new = edited(&old, &by);
        let patch = diff(&old, &new, context);
        prop_assume!(!patch.is_empty() && !new.is_empty());
        let patch = parse(&patch).unwrap();
        prop_assert_eq!(patch[0].apply(&old).unwrap().bytes, new);
    }

    #[test]
    fn a_file_that_went_on_is_patched_as_gnu_patch_does_it(
        old in text(), by in edits(), meanwhile in edits(), context in 1usize..4,
    ) {
        let new = edited(&old, &by);
        let patch = diff(&old, &new, context);
        let now = edited(&old, &meanwhile);
        prop_assume!(!patch.is_empty() && !new.is_empty() && !now.is_empty());
        let theirs = gnu_patch(&now, &patch);
        let ours = parse(&patch).unwrap()[0].apply(&now).ok().map(|applied| applied.bytes);
        prop_assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(&patch));
    }

    #[test]
    fn arbitrary_text_never_panics(
        lines in prop::collection::vec(prop_oneof![
            Just("--- a/f".to_owned()), Just("+++ b/f".to_owned()), Just("+++ /dev/null".to_owned()),
            Just("diff --git a/f b/f".to_owned()), Just("rename from x".to_owned()), Just("rename to y".to_owned()),
            Just("new file mode 100755".to_owned()), Just("\\ No newline at end of file".to_owned()),
            "@@ -[0-9]{1,2}(,[0-9])? \\+[0-9]{1,2}(,[0-9])? @@", "[ +-][ab]?", ".{0,6}",
        ], 0..30),
        base in text(),
    ) {
        let text = lines.join("\n") + "\n";
        if let Ok(files) = parse(text.as_bytes()) {
            for file in files {
                let _ = (file.apply(&base), file.from_nothing(), file.to_nothing());
            }
        }
    }
}

#[test]
fn a_patch_of_any_size_is_refused() {
    let large = vec![b'\n'; mosbuild_formats::patch::LARGEST + 1];
    assert!(matches!(parse(&large), Err(Error::TooLarge)));
}
