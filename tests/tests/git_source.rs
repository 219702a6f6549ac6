//! Sources out of git repositories: which commit a rev means, what the lock keeps of it, and the tree that is made of it.
//! The repositories are on this machine; servers are in git_servers.rs, components in git_component.rs.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use mosbuild_tests::archive::{content, members, pin, text};
use mosbuild_tests::git::{Repository, odd_name};
use mosbuild_tests::{Output, Space, cause};

/// A target of one source, as a tree in dist/.
fn target(name: &str, url: &str, rev: &str) -> String {
    format!(
        "  {name}: {{ rule: files, install: [{{ from: {{ git: \"{url}\", rev: \"{rev}\" }}, to: / }}] }}\n"
    )
}

/// A workspace with these targets, placed as NAME.tar, and beside it a repository with a branch, a commit after another, and tags.
fn space(targets: &[(&str, &str)]) -> (Space, Repository) {
    let space = Space::new("");
    let up = Repository::new(&space.base().join("up"));
    up.commit_file("f", "one");
    up.git(&["tag", "v1.0"]);
    up.commit_file("f", "two");
    up.git(&["tag", "--annotate", "--message", "a tag", "2.0"]);
    up.commit_file("f", "three");
    yaml(&space, &up.url(), targets);
    (space, up)
}

fn yaml(space: &Space, url: &str, targets: &[(&str, &str)]) {
    let declared: String = targets.iter().map(|(name, rev)| target(name, url, rev)).collect();
    let placed: String = targets.iter().map(|(name, _)| format!("  {name}.tar: {name}\n")).collect();
    space.yaml(&format!("targets:\n{declared}dist:\n{placed}"));
}

#[track_caller]
fn ok(space: &Space, args: &[&str]) -> Output {
    let output = space.run(args);
    assert_eq!(output.code, Some(0), "{output}");
    output
}

#[track_caller]
fn fails(space: &Space, code: i32, says: &[&str]) -> Output {
    let output = space.build(&[]);
    assert_eq!(output.code, Some(code), "{output}");
    says.iter().for_each(|text| {
        output.says(text);
    });
    output
}

fn placed(space: &Space, name: &str) -> String {
    text(&space.path(&format!("dist/{name}.tar")), "f")
}

#[test]
fn branches_tags_and_commits() {
    let (space, up) = space(&[]);
    let commit = up.git(&["rev-parse", "v1.0"]);
    let tip = up.head();
    // One that no ref is at, so that it must be looked for.
    up.git(&["checkout", "--quiet", "-b", "dev/x"]);
    up.commit_file("f", "four");
    up.commit_file("f", "five");
    let hidden = up.git(&["rev-parse", "HEAD~1"]);
    up.git(&["checkout", "--quiet", "main"]);
    let revs = [
        ("branch", "main", "three"),
        ("slash", "dev/x", "five"),
        ("tag", "v1.0", "one"),
        ("annotated", "2.0", "two"),
        ("with-v", "1.0", "one"),
        ("without-v", "v2.0", "two"),
        ("whole", commit.as_str(), "one"),
        ("short-tip", &tip[..8], "three"),
        ("short", &hidden[..10], "four"),
        ("default", "HEAD", "three"),
        ("ref", "refs/heads/dev/x", "five"),
        ("tag-ref", "refs/tags/2.0", "two"),
    ];
    let targets: Vec<(&str, &str)> = revs.iter().map(|(name, rev, _)| (*name, *rev)).collect();
    yaml(&space, &up.url(), &targets);
    // Those of one commit have one key: who comes second takes the first one's result.
    let summary = space.builds(&[]).summary();
    assert_eq!(summary.built + summary.cached, revs.len());
    for (name, rev, content) in revs {
        assert_eq!(placed(&space, name), content, "{name}");
        let pin = pin(&space, &format!("{} {rev}", up.url()));
        let commit = pin["commit"].as_str().unwrap();
        assert_eq!(commit.len(), 40);
        let facts = space.json(&["show", name, "--json"])["facts"].clone();
        assert_eq!(facts["rev"], commit[..7], "{name}: {facts:#}");
    }
    let reference = |rev: &str| pin(&space, &format!("{} {rev}", up.url())).get("ref").cloned();
    assert_eq!(reference("1.0").unwrap().as_str(), Some("refs/tags/v1.0"));
    assert_eq!(reference("v2.0").unwrap().as_str(), Some("refs/tags/2.0"));
    assert_eq!(reference("HEAD").unwrap().as_str(), Some("refs/heads/main"));
    assert_eq!(reference(&commit), None);
    // Which was taken is said where it is found.
    space.remove("mosbuild.lock");
    let output = ok(&space, &["build", "-v", "with-v"]);
    output.says(&format!("1.0 is tag v1.0, {commit}"));
    ok(&space, &["lock"]);
    space.builds(&["--locked"]).counts(0, revs.len(), 0);
    space.assert_clean();
}

#[test]
fn objects_may_be_named_by_sha256() {
    let space = Space::new("");
    let up = Repository::of_format(&space.base().join("up"), "sha256");
    let first = up.commit_file("f", "one");
    let second = up.commit_file("f", "two");
    up.commit_file("f", "three");
    yaml(&space, &up.url(), &[("a", "main"), ("b", &first), ("c", &second[..20])]);
    space.builds(&[]);
    let contents = ["a", "b", "c"].map(|name| placed(&space, name));
    assert_eq!(contents, ["three", "one", "two"]);
    assert_eq!(pin(&space, &second[..20])["commit"].as_str(), Some(&second[..]));
}

#[test]
fn of_a_tag_and_a_branch_with_one_name_it_is_the_tag() {
    let (space, up) = space(&[("a", "x"), ("b", "refs/heads/x")]);
    up.git(&["branch", "x", "main"]);
    up.git(&["tag", "x", "v1.0"]);
    let output = space.builds(&[]);
    output.says("a tag and a branch called x").says("`rev: refs/heads/x`");
    assert_eq!((placed(&space, "a"), placed(&space, "b")), ("one".into(), "three".into()));
}

#[test]
fn a_rev_that_is_not_there() {
    let (space, up) = space(&[("a", "mian")]);
    up.git(&["branch", "development"]);
    let output = fails(&space, 4, &["has no branch, tag or commit mian", "did you mean `main`?"]);
    output.says("its branches: development, main").says("its tags: v1.0, 2.0");
    for (rev, says) in [
        ("3.0", "did you mean `2.0`"),
        ("refs/heads/develop", "did you mean `development`"),
        ("abcdef0", "none of their commits begins so"),
        ("0123456789012345678901234567890123456789", "does not have commit 0123456789"),
    ] {
        yaml(&space, &up.url(), &[("a", rev)]);
        fails(&space, 4, &[says]);
    }
    // Neither is a folder without a repository, or an empty one.
    yaml(&space, &format!("file://{}", space.base().display()), &[("a", "main")]);
    fails(&space, 4, &["does not appear to be a git repository"]);
    let empty = Repository::new(&space.base().join("empty"));
    yaml(&space, &empty.url(), &[("a", "HEAD")]);
    fails(&space, 4, &["has no default branch"]);
    assert!(!space.has("mosbuild.lock"));
}

#[test]
fn what_is_no_repository_or_rev_is_said_at_load() {
    let space = Space::new("");
    for (source, field, says) in [
        ("{ git: \"ext::sh -c x\", rev: main }", "git:", "no URL"),
        ("{ git: \"ext::sh\", rev: main }", "git:", "no URL of a repository"),
        ("{ git: \"--upload-pack=x\", rev: main }", "git:", "no URL of a repository"),
        ("{ git: /srv/x, rev: main }", "git:", "write it as file:///srv/x"),
        ("{ git: \"ssh://-oProxyCommand=x/y\", rev: main }", "git:", "no URL of a repository"),
        ("{ git: \"https://me:word@h/x\", rev: main }", "git:", "has a password in it"),
        ("{ git: \"https://h/x\", rev: \"-f\" }", "rev:", "no name of a branch, a tag or a commit"),
        ("{ git: \"https://h/x\", rev: \"a..b\" }", "rev:", "no name of a branch, a tag or a commit"),
        ("{ git: \"https://h/x\", rev: \"\" }", "rev:", "needs a rev"),
        ("{ git: \"https://h/x\" }", "{ git", "lacks the field `rev`"),
        ("{ git: \"https://h/x\", rev: a, path: b }", "path", "unknown field `path`"),
    ] {
        for (name, rule) in [
            ("files", format!("  a: {{ rule: files, install: [{{ from: {source}, to: /x }}] }}")),
            ("component", format!("  a: {{ rule: component, source: {source}, install: {{ a: /a }} }}")),
            ("linux", format!("  a: {{ rule: linux, base: tinyconfig, source: {source} }}")),
        ] {
            space.yaml(&format!("targets:\n{rule}\n"));
            let output = space.build(&[]);
            assert_eq!(output.code, Some(2), "{name} {source}: {output}");
            output.says(says).says("mosbuild.yaml:4:");
            let column = rule.find(field).unwrap();
            let told: usize = output
                .stderr
                .split("mosbuild.yaml:4:")
                .nth(1)
                .unwrap()
                .lines()
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert!(told > column && told <= column + 8, "{name} {source}: {output}");
        }
    }
}

#[test]
fn the_tree_is_what_the_commit_has_and_nothing_of_the_host() {
    let (space, up) = space(&[("a", "odd")]);
    up.git(&["checkout", "--quiet", "-b", "odd"]);
    up.write("run.sh", "#!/bin/sh\r\n$Id$ $Format:%H$\r\n");
    std::fs::set_permissions(up.dir().join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    up.write("crlf.txt", "a\r\nb\r\n");
    up.write("large", vec![7; 9 << 20]);
    up.write("empty", "");
    // Attributes by which a checkout or an archive would have other bytes.
    up.write(".gitattributes", "*.txt -text\nrun.sh ident export-subst -text\n");
    std::os::unix::fs::symlink("../../outside", up.dir().join("link")).unwrap();
    up.commit("odd");
    // A later commit does not change what was stored; it changes what a checkout makes of it.
    up.write(
        ".gitattributes",
        "*.txt text eol=crlf\nrun.sh ident export-subst text eol=lf\nempty export-ignore\n",
    );
    up.git(&["add", ".gitattributes"]);
    up.git(&["commit", "--quiet", "-m", "attributes"]);
    std::fs::write(
        space.base().join("home/.gitconfig"),
        "[core]\n\tautocrlf = true\n\teol = crlf\n\thooksPath = /nowhere\n[fetch]\n\tfsckObjects = true\n",
    )
    .unwrap();
    let space = space.as_plain_user();
    space.builds(&[]);
    let tar = space.path("dist/a.tar");
    let all = members(&tar);
    let of = |path: &str| (all[path].mode.as_str(), all[path].owner.as_str(), all[path].link.as_deref());
    assert_eq!(of("run.sh"), ("-rwxr-xr-x", "0/0", None));
    assert_eq!(of("f"), ("-rw-r--r--", "0/0", None));
    assert_eq!(of("link"), ("lrwxrwxrwx", "0/0", Some("../../outside")));
    assert_eq!(content(&tar, "run.sh"), b"#!/bin/sh\r\n$Id$ $Format:%H$\r\n");
    assert_eq!(content(&tar, "crlf.txt"), b"a\r\nb\r\n");
    assert_eq!(all["empty"].size, "0");
    assert_eq!(all["large"].size, (9 << 20).to_string());
}

#[test]
fn names_are_bytes() {
    let (space, up) = space(&[("a", "main")]);
    up.write(odd_name(), "odd");
    up.write("a b/\"q\"\n\t", "quoted");
    std::os::unix::fs::symlink(odd_name(), up.dir().join("link")).unwrap();
    up.commit("odd");
    space.builds(&[]);
    let mut tar = std::process::Command::new("tar");
    let listed = tar.args(["--quoting-style=escape", "-tvf"]).arg(space.path("dist/a.tar")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in [" a b/\"q\"\\n\\t\n", " odd-\\377\\351-name\n", " link -> odd-\\377\\351-name\n"] {
        assert!(listed.contains(name), "{name:?}: {listed}");
    }
    assert!(odd_name().as_os_str().as_bytes().contains(&0xff));
}

#[test]
fn root_and_a_plain_user_make_one_tree() {
    let (space, up) = space(&[("a", "main")]);
    up.write("bin/x", "x");
    std::fs::set_permissions(up.dir().join("bin/x"), std::fs::Permissions::from_mode(0o700)).unwrap();
    up.commit("x");
    space.builds(&[]);
    let yaml = space.read("mosbuild.yaml");
    let (lock, image) = (space.read("mosbuild.lock"), space.bytes("dist/a.tar"));
    let other = space.beside("other", "").with_store("other-store").as_plain_user();
    other.write("mosbuild.yaml", yaml);
    other.builds(&[]);
    assert_eq!((other.read("mosbuild.lock"), other.bytes("dist/a.tar")), (lock, image));
}

#[test]
fn trees_that_no_checkout_would_write_are_refused() {
    let (space, up) = space(&[]);
    let blob = up.git_with(&["hash-object", "-w", "--stdin"], b"x");
    let tree = up.git_with(&["mktree", "-z"], format!("100644 blob {blob}\tconfig\0").as_bytes());
    let link = up.git_with(&["hash-object", "-w", "--stdin"], b"/etc");
    let long = "n".repeat(300);
    for (branch, record, says) in [
        ("git", format!("040000 tree {tree}\t.git\0"), "path has a '.git' component"),
        ("up", format!("040000 tree {tree}\t..\0"), "path has a '..' component"),
        ("dot", format!("040000 tree {tree}\t.\0"), "path has a '.' component"),
        ("long", format!("100644 blob {blob}\t{long}\0"), "longer than 255 bytes"),
        ("twice", format!("120000 blob {link}\ta\0040000 tree {tree}\ta\0"), "commit "),
    ] {
        up.commit_tree(branch, record.as_bytes());
        yaml(&space, &up.url(), &[("a", branch)]);
        fails(&space, 4, &[says]);
    }
    assert!(!space.has("mosbuild.lock"));
}

#[test]
fn submodules_come_along() {
    let (space, up) = space(&[("a", "main")]);
    let base = space.base();
    let (inner, outer) = (Repository::new(&base.join("inner")), Repository::new(&base.join("deep/outer")));
    inner.commit_file("i", "inner");
    let moved = inner.head();
    outer.write("o", "outer");
    outer.submodule("in", "../../inner", &inner);
    outer.commit("outer");
    up.submodule("libs/outer", "../deep/outer/", &outer);
    up.submodule("libs/again", &inner.url(), &inner);
    let none = up.commit("submodules");
    // One that has moved on: the commit that is recorded counts.
    inner.commit_file("i", "later");
    space.builds(&[]);
    let tar = space.path("dist/a.tar");
    assert_eq!(text(&tar, "libs/outer/o"), "outer");
    assert_eq!(text(&tar, "libs/outer/in/i"), "inner");
    assert_eq!(text(&tar, "libs/again/i"), "inner");
    assert!(members(&tar).contains_key(".gitmodules"));
    let lock = space.read("mosbuild.lock");
    assert!(lock.contains(&none) && !lock.contains(&moved), "{lock}");

    // A submodule's commit is part of the commit: it changes with it.
    up.git(&["-C", "libs/again", "pull", "--quiet", "origin", "main"]);
    up.commit("moved on");
    let output = ok(&space, &["lock", "--update"]);
    assert!(output.stdout.contains(&format!("{} → {}", &none[..12], &up.head()[..12])), "{output}");
    space.builds(&["--locked"]);
    assert_eq!(text(&tar, "libs/again/i"), "later");
    assert_eq!(text(&tar, "libs/outer/in/i"), "inner");

    // What was left out on purpose is an empty folder.
    up.git(&["config", "--file", ".gitmodules", "submodule.libs/again.update", "none"]);
    up.commit("none");
    ok(&space, &["lock", "--update"]);
    space.builds(&["--locked"]);
    let all = members(&tar);
    assert!(all["libs/again"].mode.starts_with('d') && !all.contains_key("libs/again/i"));
    space.assert_clean();
}

#[test]
fn a_submodule_that_cannot_be_had_is_named() {
    let (space, up) = space(&[("a", "main")]);
    let lib = Repository::new(&space.base().join("lib"));
    lib.commit_file("l", "lib");
    up.submodule("libs/l", "../lib", &lib);
    up.commit("lib");
    let set = |url: &str| {
        up.git(&["config", "--file", ".gitmodules", "submodule.libs/l.url", url]);
        up.commit(url);
    };
    for (url, says) in [
        ("../nothing", "does not appear to be a git repository"),
        ("ext::sh -c true", "no URL"),
        ("-oProxyCommand=x:y", "no URL"),
        ("../../../../../../../../../../../../x", "leads out of"),
    ] {
        set(url);
        fails(&space, 4, &["submodule libs/l: ", says]);
    }
    set("../lib");
    // Gone from where it was.
    lib.git(&["commit", "--quiet", "--amend", "-m", "other"]);
    lib.prune();
    fails(&space, 4, &["submodule libs/l: ", "does not have commit"]);
    up.git(&["rm", "--quiet", "--cached", ".gitmodules"]);
    up.git(&["commit", "--quiet", "-m", "nowhere"]);
    fails(&space, 4, &["submodule libs/l: it is not in .gitmodules"]);
    assert!(!space.has("mosbuild.lock"));
}

#[test]
fn pointers_of_lfs_are_told() {
    let (space, up) = space(&[("a", "main")]);
    let pointer =
        format!("version https://git-lfs.example.org/spec/v1\noid sha256:{}\nsize 5\n", "0".repeat(64));
    up.write("big.bin", &pointer);
    up.commit("not yet");
    let output = space.builds(&[]);
    assert!(!output.stderr.contains("LFS"), "{output}");
    up.write(".gitattributes", "*.bin filter=lfs diff=lfs -text\n");
    // As the filter would leave it: the pointer.
    up.git(&["-c", "filter.lfs.clean=cat", "add", "--all"]);
    up.git(&["-c", "filter.lfs.clean=cat", "commit", "--quiet", "-m", "lfs"]);
    ok(&space, &["lock", "--update"]);
    let output = space.builds(&[]);
    output.says("pointers of Git LFS").says("big.bin");
    assert!(ok(&space, &["show", "a"]).stdout.contains("big.bin"), "shown on a hit too");
    assert_eq!(content(&space.path("dist/a.tar"), "big.bin"), pointer.as_bytes());
}

#[test]
fn a_branch_moves_when_it_is_asked_to() {
    let (space, up) = space(&[("a", "main"), ("b", "v1.0")]);
    space.builds(&[]);
    let (before, lock) = (up.head(), space.read("mosbuild.lock"));
    let after = up.commit_file("f", "four");
    space.builds(&["--force", "a"]);
    ok(&space, &["lock"]).says("up to date");
    assert_eq!(space.read("mosbuild.lock"), lock);
    assert_eq!(placed(&space, "a"), "three");
    ok(&space, &["lock", "--update", "b"]).says("up to date");

    let output = ok(&space, &["lock", "--update", "a"]);
    let line = format!("changed git {} main {} → {}\n", up.url(), &before[..12], &after[..12]);
    assert_eq!(output.stdout, line);
    space.builds(&["--locked"]).counts(1, 1, 0);
    assert_eq!(placed(&space, "a"), "four");
    let (code, answer) = space.why("a");
    assert_eq!(code, 10);
    let moved = cause(&answer, "spec", "commit");
    assert_eq!((moved["old"].as_str(), moved["new"].as_str()), (Some(before.as_str()), Some(after.as_str())));
    let told = space.run(&["why", "a"]).stdout;
    assert!(told.contains(&format!("a:source: field commit changed: {before} → {after}")), "{told}");

    // The same commit by another name is the same build.
    space.edit_yaml("rev: \"main\"", &format!("rev: \"{after}\""));
    space.builds(&[]).counts(0, 2, 0);
    let output = space.build(&["--locked", "b"]);
    assert_eq!(output.code, Some(0), "{output}");
    space.edit_yaml(&after, "v1.0");
    ok(&space, &["lock"]);
    space.remove("mosbuild.lock");
    let output = space.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says(&format!("git {} v1.0 is not in mosbuild.lock", up.url()));
}

#[test]
fn a_tag_that_moved_is_told_when_it_is_taken() {
    let (space, up) = space(&[("a", "v1.0")]);
    space.builds(&[]);
    let before = up.git(&["rev-parse", "v1.0"]);
    up.git(&["tag", "--force", "v1.0", "main"]);
    space.builds(&["--force", "a", "--locked"]);
    assert_eq!(placed(&space, "a"), "one");
    let output = ok(&space, &["lock", "--update"]);
    output.says("tag v1.0 of").says(&format!("was moved, from {before} to {}", up.head()));
    space.builds(&[]);
    assert_eq!(placed(&space, "a"), "three");
}

#[test]
fn a_commit_that_is_gone() {
    let (space, up) = space(&[("a", "main")]);
    space.builds(&[]);
    let gone = up.head();
    up.git(&["commit", "--quiet", "--amend", "-m", "rewritten"]);
    up.prune();
    // The store has it; who does not have the store, is told.
    space.builds(&["--force", "a", "--locked"]);
    let other =
        space.beside("other", &space.read("mosbuild.yaml").replacen("mosbuild: 1\nproject: test\n", "", 1));
    let other = other.with_store("empty");
    other.write("mosbuild.lock", space.read("mosbuild.lock"));
    let output = other.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output
        .says(&format!("does not have commit {gone}, or not any more; branch main is at {} now", up.head()));
    output.says("mosbuild lock --update");
    ok(&other, &["lock", "--update", "a"]);
    other.builds(&["--locked"]);
}

#[test]
fn a_lock_that_says_something_else_is_not_believed() {
    let (space, _up) = space(&[("a", "main")]);
    space.builds(&[]);
    let lock = space.read("mosbuild.lock");
    let field = |name: &str| lock.lines().find(|l| l.starts_with(&format!("{name} = "))).unwrap().to_owned();
    for (line, with, says) in [
        (
            field("tree"),
            format!("tree = \"{}\"", "0".repeat(64)),
            "makes another tree than mosbuild.lock has",
        ),
        (field("tree"), "tree = \"x\"".into(), "no whole commit and tree"),
        (field("commit"), "commit = \"--upload-pack=x\"".into(), "no whole commit and tree"),
        (field("commit"), "commit = \"main\"".into(), "no whole commit and tree"),
    ] {
        space.write("mosbuild.lock", lock.replace(&line, &with));
        let output = fails(&space, 4, &[says]);
        assert!(output.stderr.contains("lock --update"), "{output}");
        ok(&space, &["lock", "--update"]);
        assert_eq!(space.read("mosbuild.lock"), lock);
    }
    space.builds(&["--locked"]);
}

#[test]
fn what_was_fetched_needs_no_upstream() {
    let (space, up) = space(&[("a", "main")]);
    ok(&space, &["fetch"]).says("`mosbuild build --offline` finds them");
    std::fs::rename(up.dir(), space.base().join("gone")).unwrap();
    space.builds(&["--offline", "--locked"]);
    assert_eq!(placed(&space, "a"), "three");
    // Another workspace with the store and the lock; and one that has the results taken away.
    let fresh = space.beside("fresh", "");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        fresh.write(name, space.read(name));
    }
    fresh.builds(&["--offline", "--locked"]);
    std::fs::remove_dir_all(space.store().join("results")).unwrap();
    fresh.forget_stamp();
    fresh.builds(&["--offline", "--locked", "--force", "a"]);
    assert_eq!(placed(&fresh, "a"), "three");
    // Where a blob is lost, it says what it cannot get.
    let empty = space.beside("empty", "").with_store("empty-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        empty.write(name, space.read(name));
    }
    let output = empty.build(&["--offline", "--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("could not be fetched").says("does not appear to be a git repository");
}

#[test]
fn offline_no_server_is_asked() {
    let (space, up) = space(&[]);
    // Nothing listens there; it would be told otherwise.
    yaml(&space, "http://127.0.0.1:9/up", &[("a", "main")]);
    let output = space.build(&["--offline"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("git http://127.0.0.1:9/up main is not in mosbuild.lock as it is asked for, and cannot be locked offline");
    assert!(!output.stderr.contains("Connection refused"), "{output}");
    // A mirror on this machine is no network.
    let mirrored = space.read("mosbuild.yaml").replace(
        "targets:",
        &format!(
            "mirrors: [{{ from: \"http://127.0.0.1:9/\", to: [\"file://{}\"] }}]\ntargets:",
            space.base().display()
        ),
    );
    space.write("mosbuild.yaml", mirrored);
    space.builds(&["--offline"]);
    assert_eq!(placed(&space, "a"), "three");
    assert!(!space.read("mosbuild.lock").contains(&up.url()), "mirrors are not in the lock");
}

#[test]
fn mirrors_come_first_and_the_original_last() {
    let (mut space, up) = space(&[("a", "main")]);
    let base = space.base();
    // A mirror that is behind, and one that is not there.
    up.git(&["clone", "--quiet", "--bare", &up.url(), base.join("mirror/up").to_str().unwrap()]);
    up.commit_file("f", "newer");
    let mirror = |to: &str| format!("file://{}/=file://{}/{to}/", base.display(), base.display());
    space.env("MOSBUILD_MIRRORS", mirror("none"));
    let output = ok(&space, &["build", "-v"]);
    output.says("; next is file://");
    assert_eq!(placed(&space, "a"), "newer");
    space.remove("mosbuild.lock");
    space.env("MOSBUILD_MIRRORS", mirror("mirror"));
    space.builds(&[]);
    assert_eq!(placed(&space, "a"), "three");
    // A commit that the mirror does not have yet comes from the original.
    space.unset("MOSBUILD_MIRRORS");
    ok(&space, &["lock", "--update"]);
    space.env("MOSBUILD_MIRRORS", mirror("mirror"));
    let other = space.beside("other", "").with_store("other-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        other.write(name, space.read(name));
    }
    other.builds(&["--locked"]);
    assert_eq!(placed(&other, "a"), "newer");
}

#[test]
fn without_git_it_says_how_to_get_it() {
    let (mut space, _up) = space(&[("a", "main")]);
    let bin = space.base().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    space.env("PATH", &bin);
    let output = space.build(&[]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says("git: not found").says("apt-get install git");
    let doctor = space.run(&["doctor"]);
    assert_eq!(doctor.code, Some(3), "{doctor}");
    assert!(doctor.stdout.contains("apt-get install git"), "{doctor}");
    space.env("PATH", &path);
    space.builds(&[]);
    // What the store has needs no git.
    space.env("PATH", &bin);
    space.builds(&["--force", "a"]);
}

/// A hook's environment names the repository that it runs in, which is not the one that is meant.
#[test]
fn a_build_in_a_hook_is_not_led_astray() {
    let (mut space, up) = space(&[("a", "main")]);
    let other = Repository::new(&space.base().join("committed-to"));
    other.commit_file("f", "other");
    let git_dir = other.dir().join(".git");
    for (name, value) in [
        ("GIT_DIR", git_dir.clone()),
        ("GIT_INDEX_FILE", git_dir.join("index")),
        ("GIT_WORK_TREE", other.dir().to_owned()),
        ("GIT_OBJECT_DIRECTORY", git_dir.join("objects")),
    ] {
        space.env(name, value);
    }
    let before = other.git(&["count-objects", "-v"]);
    space.builds(&[]);
    assert_eq!(placed(&space, "a"), "three");
    assert_eq!(other.git(&["count-objects", "-v"]), before);
    assert_eq!(other.git(&["status", "--porcelain"]), "");
    assert!(pin(&space, &up.url())["commit"].as_str() == Some(&up.head()));
}

#[test]
fn a_kernel_from_a_repository_is_not_taken_for_an_archive() {
    let (space, up) = space(&[]);
    space.yaml(&format!(
        "targets:\n  linux: {{ rule: linux, base: tinyconfig, source: {{ git: \"{}\", rev: main }} }}\n\
         dist: {{ \"vmlinuz-{{linux.version}}-{{linux.rev}}\": linux }}\n",
        up.url()
    ));
    let output = space.build(&[]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("linux:unpack: this is no kernel source: it has no Kconfig at its top");
}
