//! The tree that is made of a commit: modes, links, names, submodules, whoever makes it and whatever their settings are; and
//! what is refused or told. Which commit it is, is tested in git_source.rs.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use mosbuild_tests::Space;
use mosbuild_tests::archive::{content, members, pin, text};
use mosbuild_tests::git::{Repository, odd_name};
use mosbuild_tests::git_stand::{declare, fails, ok, placed, space};

#[test]
fn objects_may_be_named_by_sha256() {
    let space = Space::new("");
    let up = Repository::of_format(&space.base().join("up"), "sha256");
    let first = up.commit_file("f", "one");
    let second = up.commit_file("f", "two");
    up.commit_file("f", "three");
    declare(&space, &up.url(), &[("a", "main"), ("b", &first), ("c", &second[..20])]);
    space.builds(&[]);
    let contents = ["a", "b", "c"].map(|name| placed(&space, name));
    assert_eq!(contents, ["three", "one", "two"]);
    assert_eq!(pin(&space, &second[..20])["commit"].as_str(), Some(&second[..]));
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
        declare(&space, &up.url(), &[("a", branch)]);
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
