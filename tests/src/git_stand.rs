//! A workspace with targets that are trees of commits, and a repository beside it, for tests of sources.

use crate::archive::text;
use crate::git::Repository;
use crate::{Output, Space};

/// A target of one source, as a tree in dist/.
fn target(name: &str, url: &str, rev: &str) -> String {
    format!(
        "  {name}: {{ rule: files, install: [{{ from: {{ git: \"{url}\", rev: \"{rev}\" }}, to: / }}] }}\n"
    )
}

/// A workspace with these targets, placed as NAME.tar, and beside it a repository with a branch, a commit after another, and tags.
pub fn space(targets: &[(&str, &str)]) -> (Space, Repository) {
    let space = Space::new("");
    let up = Repository::new(&space.base().join("up"));
    up.commit_file("f", "one");
    up.git(&["tag", "v1.0"]);
    up.commit_file("f", "two");
    up.git(&["tag", "--annotate", "--message", "a tag", "2.0"]);
    up.commit_file("f", "three");
    declare(&space, &up.url(), targets);
    (space, up)
}

/// Declares these targets, each of a name and a rev of the repository at this URL, placed as NAME.tar.
pub fn declare(space: &Space, url: &str, targets: &[(&str, &str)]) {
    let declared: String = targets.iter().map(|(name, rev)| target(name, url, rev)).collect();
    let placed: String = targets.iter().map(|(name, _)| format!("  {name}.tar: {name}\n")).collect();
    space.yaml(&format!("targets:\n{declared}dist:\n{placed}"));
}

/// Runs a command, which must succeed.
#[track_caller]
pub fn ok(space: &Space, args: &[&str]) -> Output {
    let output = space.run(args);
    assert_eq!(output.code, Some(0), "{output}");
    output
}

/// Runs a build, which must fail with this exit code and say these things.
#[track_caller]
pub fn fails(space: &Space, code: i32, says: &[&str]) -> Output {
    let output = space.build(&[]);
    assert_eq!(output.code, Some(code), "{output}");
    says.iter().for_each(|text| {
        output.says(text);
    });
    output
}

/// What the file `f` of a placed target has.
#[track_caller]
pub fn placed(space: &Space, name: &str) -> String {
    text(&space.path(&format!("dist/{name}.tar")), "f")
}
