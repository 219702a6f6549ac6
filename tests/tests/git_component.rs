//! Components out of git repositories, and their dependencies out of others: facts, offline builds, and vendored trees that
//! are the same wherever they were made.

use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::archive::files_below;
use mosbuild_tests::git::{GitServer, PASSWORD, Repository, Serving, USER};
use mosbuild_tests::{Space, cause};
use serde_json::Value;

/// Repositories in `srv`, as a component of several crates and its dependencies have them.
struct Forge {
    space: Space,
    /// The component: a workspace of two crates.
    app: Repository,
}

/// `base` is where the component finds its dependencies.
fn forge(base: impl Fn(&Path) -> String) -> Forge {
    let space = Space::new("").with_rust();
    let srv = space.base().join("srv");
    let base = base(&srv);
    let part = Repository::new(&srv.join("part"));
    part.commit_file("part.rs", "pub const PART: u32 = 40;\n");

    // Two crates with one version, inherited from their workspace, and a submodule.
    let two = Repository::new(&srv.join("two"));
    two.write(
        "Cargo.toml",
        "[workspace]\nmembers = [\"a\", \"deep/b\"]\nresolver = \"2\"\n[workspace.package]\nversion = \"0.4.0\"\n\
         edition = \"2021\"\n[workspace.dependencies]\nb = { path = \"deep/b\" }\n[workspace.lints.rust]\nunused = \"warn\"\n",
    );
    two.write(
        "a/Cargo.toml",
        "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n[dependencies]\nb.workspace = true\n\
         [lints]\nworkspace = true\n",
    );
    two.write(
        "a/src/lib.rs",
        "pub const TEXT: &str = include_str!(\"text.txt\");\npub fn a() -> u32 { b::b() + 1 }\n",
    );
    two.write("a/src/text.txt", "one\ntwo\n");
    two.write(".gitattributes", "*.txt text=auto\n");
    two.write(
        "deep/b/Cargo.toml",
        "[package]\nname = \"b\"\nversion.workspace = true\nedition.workspace = true\n",
    );
    two.write(
        "deep/b/src/lib.rs",
        "#[path = \"../part/part.rs\"]\nmod part;\npub fn b() -> u32 { part::PART }\n",
    );
    two.submodule("deep/b/part", "../part", &part);
    two.commit("two");
    two.git(&["tag", "--annotate", "--message", "x", "v1"]);

    let branched = Repository::new(&srv.join("branched"));
    branched.git(&["checkout", "--quiet", "-b", "dev/x"]);
    branched.write("Cargo.toml", "[package]\nname = \"c\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    branched.commit_file("src/lib.rs", "pub fn c() -> u32 { 1 }\n");
    let exact = Repository::new(&srv.join("exact"));
    exact.write("Cargo.toml", "[package]\nname = \"d\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
    let rev = exact.commit_file("src/lib.rs", "pub fn d() -> u32 { 0 }\n");
    exact.commit_file("src/lib.rs", "pub fn d() -> u32 { 1000 }\n");

    let app = Repository::new(&srv.join("app"));
    app.write("Cargo.toml", "[workspace]\nmembers = [\"app\", \"helper\"]\nresolver = \"2\"\n");
    app.write(
        "app/Cargo.toml",
        format!(
            "[package]\nname = \"app\"\nversion = \"1.2.3\"\nedition = \"2021\"\n[dependencies]\n\
             a = {{ git = \"{base}/two\", tag = \"v1\" }}\nb = {{ git = \"{base}/two\", tag = \"v1\" }}\n\
             helper = {{ path = \"../helper\" }}\n"
        ),
    );
    app.write(
        "app/src/main.rs",
        "fn main() { print!(\"{}{}\", a::TEXT, a::a() + b::b() + helper::help()); }\n",
    );
    app.write(
        "helper/Cargo.toml",
        format!(
            "[package]\nname = \"helper\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n\
             c = {{ git = \"{base}/branched\", branch = \"dev/x\" }}\nd = {{ git = \"{base}/exact\", rev = \"{rev}\" }}\n"
        ),
    );
    app.write("helper/src/lib.rs", "pub fn help() -> u32 { c::c() + d::d() }\n");
    let two_source = format!("git+{base}/two?tag=v1#{}", two.head());
    let package = |name: &str, version: &str, source: Option<&str>, needs: &[&str]| {
        let source = source.map(|source| format!("source = \"{source}\"\n")).unwrap_or_default();
        let needs: String = needs.iter().map(|need| format!(" \"{need}\",\n")).collect();
        let needs = if needs.is_empty() { String::new() } else { format!("dependencies = [\n{needs}]\n") };
        format!("\n[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{source}{needs}")
    };
    let lock: String = [
        "version = 3\n".to_owned(),
        package("a", "0.4.0", Some(&two_source), &["b"]),
        package("app", "1.2.3", None, &["a", "b", "helper"]),
        package("b", "0.4.0", Some(&two_source), &[]),
        package("c", "1.0.0", Some(&format!("git+{base}/branched?branch=dev/x#{}", branched.head())), &[]),
        package("d", "1.0.0", Some(&format!("git+{base}/exact?rev={rev}#{rev}")), &[]),
        package("helper", "0.1.0", None, &["c", "d"]),
    ]
    .concat();
    app.write("Cargo.lock", lock);
    app.commit("app");
    let forge = Forge { space, app };
    forge.space.yaml(&forge.yaml());
    forge
}

impl Forge {
    fn yaml(&self) -> String {
        format!(
            "targets:\n  app:\n    rule: component\n    source: {{ git: \"{}\", rev: main }}\n    package: app\n    \
             target: x86_64-unknown-linux-gnu\n    install: {{ app: /bin/app }}\n\
             dist: {{ \"app-{{app.version}}-{{app.rev}}\": \"app:app\" }}\n",
            self.app.url()
        )
    }

    /// The placed program.
    fn program(&self, space: &Space) -> PathBuf {
        space.path(&format!("dist/app-1.2.3-{}", &self.app.head()[..7]))
    }

    /// The workspace's file and lock in another one, with a store of its own.
    fn elsewhere(&self, name: &str) -> Space {
        let other = self.space.beside(name, "").with_store(&format!("{name}-store"));
        for file in ["mosbuild.yaml", "mosbuild.lock"] {
            other.write(file, self.space.read(file));
        }
        other
    }

    fn home(&self) -> PathBuf {
        self.space.base().join("home")
    }

    /// cargo's checkout of the repository with two crates.
    fn checkout(&self) -> PathBuf {
        let all = files_below(&self.home().join(".cargo/git/checkouts"));
        let text = all.iter().find(|file| file.ends_with("a/src/text.txt")).unwrap();
        text.ancestors().nth(3).unwrap().to_owned()
    }
}

fn says(program: &Path) -> String {
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
}

/// The digest of the vendored crates.
fn vendored(space: &Space) -> String {
    let shown = space.json(&["show", "app", "--json"]);
    let steps = shown["steps"].as_array().unwrap();
    let vendor = steps.iter().find(|s| s["name"] == "vendor").unwrap_or_else(|| panic!("{shown:#}"));
    vendor["outputs"]["vendor"]["digest"].as_str().unwrap_or_else(|| panic!("{vendor:#}")).to_owned()
}

#[test]
fn a_component_and_all_that_it_needs_come_from_repositories() {
    let forge = forge(|srv| format!("file://{}", srv.display()));
    let space = &forge.space;
    space.builds(&[]);
    assert_eq!(says(&forge.program(space)), "one\ntwo\n82");
    let facts = space.json(&["show", "app", "--json"])["facts"].clone();
    assert_eq!(
        (facts["rev"].as_str(), facts["version"].as_str()),
        (Some(&forge.app.head()[..7]), Some("1.2.3"))
    );
    let shown = space.run(&["show", "app"]).stdout;
    assert!(shown.contains(&forge.app.url()) && shown.contains(&forge.app.head()), "{shown}");

    // Another commit with the same program: one compile, and the revision is the new one.
    let before = forge.app.head();
    forge.app.write(
        "app/src/main.rs",
        "fn main() { print!(\"{}{}\", a::TEXT, a::a() + b::b() + helper::help()); } // x\n",
    );
    let after = forge.app.commit("a remark");
    let output = space.run(&["lock", "--update", "app"]);
    assert_eq!(output.code, Some(0), "{output}");
    let output = space.builds(&["--locked"]);
    let ran: Vec<&str> = output.named("step_started", "step");
    assert_eq!(ran, ["build", "prepare", "source"], "{output}");
    assert_eq!(says(&forge.program(space)), "one\ntwo\n82");
    let (code, answer) = space.why("app");
    assert_eq!(code, 10, "{answer:#}");
    let moved = cause(&answer, "spec", "commit");
    assert_eq!((moved["old"].as_str(), moved["new"].as_str()), (Some(before.as_str()), Some(after.as_str())));
}

#[test]
fn what_was_fetched_builds_without_any_repository() {
    let forge = forge(|srv| format!("file://{}", srv.display()));
    let space = &forge.space;
    let output = space.run(&["fetch"]);
    assert_eq!(output.code, Some(0), "{output}");
    let head = forge.app.head();
    std::fs::rename(space.base().join("srv"), space.base().join("gone")).unwrap();
    std::fs::remove_dir_all(forge.home().join(".cargo")).unwrap();
    let fresh = space.beside("fresh", "");
    for file in ["mosbuild.yaml", "mosbuild.lock"] {
        fresh.write(file, space.read(file));
    }
    for space in [space, &fresh] {
        space.builds(&["--offline", "--locked"]);
        assert_eq!(says(&space.path(&format!("dist/app-1.2.3-{}", &head[..7]))), "one\ntwo\n82");
    }
    let lost = fresh.beside("lost", "").with_store("lost-store");
    for file in ["mosbuild.yaml", "mosbuild.lock"] {
        lost.write(file, space.read(file));
    }
    let output = lost.build(&["--offline", "--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
}

/// What the user's git makes of a checkout, and what lies about in it, is not vendored.
#[test]
fn vendored_crates_are_those_of_their_commits() {
    let forge = forge(|srv| format!("file://{}", srv.display()));
    let space = &forge.space;
    space.builds(&[]);
    let right = vendored(space);
    let first = std::fs::read(forge.program(space)).unwrap();

    let checkout = forge.checkout();
    std::fs::write(
        checkout.join("a/src/lib.rs"),
        "pub const TEXT: &str = \"poisoned\"; pub fn a() -> u32 { 0 }",
    )
    .unwrap();
    std::fs::write(checkout.join("a/src/left.rs"), "left by a build script").unwrap();
    std::fs::write(checkout.join("deep/b/part/part.rs"), "pub const PART: u32 = 0;").unwrap();
    let poisoned = forge.elsewhere("poisoned");
    poisoned.builds(&["--locked"]);
    assert_eq!(vendored(&poisoned), right);
    assert_eq!(std::fs::read(forge.program(&poisoned)).unwrap(), first);

    std::fs::write(
        forge.home().join(".gitconfig"),
        format!(
            "[core]\n\tautocrlf = true\n\teol = crlf\n\tattributesFile = {}\n",
            forge.home().join("attributes").display()
        ),
    )
    .unwrap();
    std::fs::write(forge.home().join("attributes"), "* text eol=crlf\n").unwrap();
    std::fs::remove_dir_all(forge.home().join(".cargo")).unwrap();
    let converted = forge.elsewhere("converted");
    converted.builds(&["--locked"]);
    let text = std::fs::read(forge.checkout().join("a/src/text.txt")).unwrap();
    assert_eq!(text, b"one\r\ntwo\r\n", "cargo's checkout is another one");
    assert_eq!(vendored(&converted), right);
    assert_eq!(std::fs::read(forge.program(&converted)).unwrap(), first);

    let manifest = forge.checkout().join("a/Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}# changed\n")).unwrap();
    let changed = forge.elsewhere("changed");
    let output = changed.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("a/Cargo.toml is not what its commit has").says("cargo makes it anew");
}

#[test]
fn dependencies_come_from_mirrors_too() {
    // Nothing listens there.
    let mut forge = forge(|_| "http://127.0.0.1:9/srv".to_owned());
    let srv = forge.space.base().join("srv");
    forge.space.env("MOSBUILD_MIRRORS", format!("http://127.0.0.1:9/srv/=file://{}", srv.display()));
    forge.space.builds(&[]);
    assert_eq!(says(&forge.program(&forge.space)), "one\ntwo\n82");
    let right = vendored(&forge.space);

    // A private server as mirror, its password with the user's git.
    let server = GitServer::new(&srv, Serving { private: true, ..Serving::default() });
    let helper = forge.home().join("helper");
    std::fs::write(
        &helper,
        format!("#!/bin/sh\ntest \"$1\" = get && printf 'username={USER}\\npassword={PASSWORD}\\n'\n"),
    )
    .unwrap();
    Command::new("chmod").arg("755").arg(&helper).status().unwrap();
    std::fs::write(
        forge.home().join(".gitconfig"),
        format!("[credential]\n\thelper = {}\n", helper.display()),
    )
    .unwrap();
    std::fs::remove_dir_all(forge.home().join(".cargo")).unwrap();
    let mut other = forge.elsewhere("other");
    other.env(
        "MOSBUILD_MIRRORS",
        format!("http://127.0.0.1:9/srv/=http://{}/none/,http://{}", server.host(), server.host()),
    );
    let output = other.build(&["--locked", "-v"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(vendored(&other), right);
    assert!(!output.to_string().contains(PASSWORD), "{output}");
    assert!(server.requests().iter().any(|r| r.contains("/two/")), "{:?}", server.requests());

    // Without a mirror it says what cargo said.
    std::fs::remove_dir_all(forge.home().join(".cargo")).unwrap();
    let mut none = forge.elsewhere("none");
    none.unset("MOSBUILD_MIRRORS");
    let output = none.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("cargo vendor failed").says("127.0.0.1:9");
}

#[test]
fn a_script_builds_what_is_no_crate() {
    let space = Space::new("");
    let up = Repository::new(&space.base().join("up"));
    let commit = up.commit_file("x.in", "made\n");
    space.yaml(&format!(
        "targets:\n  x:\n    rule: component\n    source: {{ git: \"{}\", rev: main }}\n    build: sed s/made/built/ x.in > $OUT/x\n    \
         install: {{ x: /bin/x }}\ndist: {{ \"x-{{x.rev}}\": \"x:x\" }}\n",
        up.url()
    ));
    space.builds(&[]);
    assert_eq!(space.read(&format!("dist/x-{}", &commit[..7])), "built\n");
    let facts: Value = space.json(&["show", "x", "--json"])["facts"].clone();
    assert_eq!(facts["rev"].as_str(), Some(&commit[..7]), "{facts:#}");
    assert_eq!(facts.get("version"), None, "{facts:#}");
}
