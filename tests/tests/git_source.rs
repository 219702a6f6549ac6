//! Sources out of git repositories: which commit a rev means, what the lock keeps of it, and where it may come from. The
//! repositories are on this machine; servers are in git_servers.rs, the trees in git_tree.rs, components in git_component.rs.

use mosbuild_tests::archive::pin;
use mosbuild_tests::git::Repository;
use mosbuild_tests::git_stand::{declare, fails, ok, placed, space};
use mosbuild_tests::{Space, cause};

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
    declare(&space, &up.url(), &targets);
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
        declare(&space, &up.url(), &[("a", rev)]);
        fails(&space, 4, &[says]);
    }
    // Neither is a folder without a repository, or an empty one.
    declare(&space, &format!("file://{}", space.base().display()), &[("a", "main")]);
    fails(&space, 4, &["does not appear to be a git repository"]);
    let empty = Repository::new(&space.base().join("empty"));
    declare(&space, &empty.url(), &[("a", "HEAD")]);
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
    declare(&space, "http://127.0.0.1:9/up", &[("a", "main")]);
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
