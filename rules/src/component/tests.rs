//! Tests of the component rule as a whole: surveys of source trees, field errors, and the stub before real cargo.
//! Knows no sandbox: the steps run in one in the end-to-end tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use mosbuild_engine::action::StepError;
use mosbuild_engine::load::path_text;
use mosbuild_engine::rule::Rule;
use serde_json::json;

use super::Component;
use super::manifest::{LIB_STUB, MAIN_STUB, SourceTree, Stub, Survey, join, survey, version};

fn look(files: &[(&str, &str)], subdir: &str, package: Option<&str>) -> Result<Survey, StepError> {
    let texts: BTreeMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &str| Ok(texts[path].to_owned());
    let files: BTreeSet<String> = texts.keys().map(|p| (*p).to_owned()).collect();
    survey(&SourceTree { files, read: &read }, subdir, package)
}

const LOCK: &str = r#"
version = 4
[[package]]
name = "app"
version = "1.2.3"
[[package]]
name = "member-lib"
version = "1.2.3"
[[package]]
name = "itoa"
version = "1.0.99"
[[package]]
name = "libc"
version = "0.2.0"
source = "registry+somewhere"
"#;

fn workspace() -> Vec<(&'static str, &'static str)> {
    vec![
        ("Cargo.lock", LOCK),
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"app\", \"member\"]\nexclude = [\"apart\"]\n[workspace.package]\n\
             version = \"1.2.3\"\n[patch.crates-io]\nitoa = { path = \"patched\" }\n",
        ),
        (".cargo/config.toml", "[build]\n"),
        (
            "app/Cargo.toml",
            "# a comment\n[package]\nname = \"app\"\nversion.workspace = true\ndescription = \"d\"\n\
             [[bin]]\nname = \"odd\"\npath = \"elsewhere/odd.rs\"\n[lints.rust]\ndead_code = \"deny\"\n\
             [[test]]\nname = \"t\"\npath = \"t.rs\"\n",
        ),
        ("app/build.rs", "real"),
        ("app/elsewhere/odd.rs", "real"),
        ("app/src/main.rs", "real"),
        ("app/src/helper.rs", "real"),
        ("app/src/bin/one.rs", "real"),
        ("app/src/bin/two/main.rs", "real"),
        ("app/src/bin/two/part.rs", "real"),
        ("app/tests/data/Cargo.toml", "[package]\nname = \"libc\"\n"),
        ("app/tests/broken/Cargo.toml", "{{ template }}"),
        ("member/Cargo.toml", "[package]\nname = \"member-lib\"\nversion.workspace = true\n"),
        ("member/src/lib.rs", "real"),
        (
            "patched/Cargo.toml",
            "[package]\nname = \"itoa\"\nversion = \"1.0.99\"\n[dependencies]\nhelp = { path = \"../help\" }\n",
        ),
        ("patched/src/lib.rs", "real"),
        ("help/Cargo.toml", "[package]\nname = \"help\"\nversion = \"0.1.0\"\n"),
        ("help/src/lib.rs", "real"),
        ("apart/Cargo.toml", "[package]\nname = \"apart\"\nversion = \"9.0.0\"\n"),
        ("README.md", "real"),
    ]
}

#[test]
fn members_are_stubbed_and_patches_of_dependencies_are_kept() {
    let found = look(&workspace(), "app", None).unwrap();
    assert_eq!((found.root.as_str(), found.version.as_deref()), ("", Some("1.2.3")));
    let of = |wanted: &dyn Fn(&Stub) -> bool| -> Vec<&str> {
        found.stub.iter().filter(|(_, s)| wanted(s)).map(|(p, _)| p.as_str()).collect()
    };
    assert_eq!(
        of(&|s| *s == Stub::Keep),
        [
            ".cargo/config.toml",
            "Cargo.lock",
            "help/Cargo.toml",
            "help/src/lib.rs",
            "patched/Cargo.toml",
            "patched/src/lib.rs"
        ]
    );
    assert_eq!(
        of(&|s| *s == Stub::Text(MAIN_STUB.into())),
        [
            "app/build.rs",
            "app/elsewhere/odd.rs",
            "app/src/bin/one.rs",
            "app/src/bin/two/main.rs",
            "app/src/main.rs"
        ]
    );
    assert_eq!(of(&|s| *s == Stub::Text(LIB_STUB.into())), ["member/src/lib.rs"]);
    // With the root's and the members' manifests that is all: no test data, no module of the sources.
    assert_eq!(found.stub.len(), 6 + 5 + 1 + 3);
    let Stub::Text(manifest) = &found.stub["app/Cargo.toml"] else { panic!("kept as it was") };
    for gone in ["comment", "description", "lints", "[[test]]"] {
        assert!(!manifest.contains(gone), "{gone} in {manifest}");
    }
    let members: Vec<&str> = found.members.iter().map(String::as_str).collect();
    assert_eq!(
        members,
        [
            "crate app",
            "crate member_lib",
            "crate odd",
            "crate one",
            "crate two",
            "package app",
            "package member-lib"
        ]
    );
}

#[test]
fn a_comment_or_a_source_file_does_not_change_the_stub() {
    let before = look(&workspace(), "app", None).unwrap();
    let mut files = workspace();
    for (path, text) in &mut files {
        match *path {
            "app/src/helper.rs" | "app/src/main.rs" | "README.md" => *text = "other",
            "member/Cargo.toml" => *text = "#!\n[package]\nname = \"member-lib\"\nversion.workspace = true\n",
            _ => {}
        }
    }
    files.push(("app/src/new.rs", "new"));
    let after = look(&files, "app", None).unwrap();
    assert_eq!((before.stub, before.members), (after.stub, after.members));
}

#[test]
fn roots_versions_and_what_is_missing() {
    // Excluded from the workspace: a root of its own, whose lock is missing.
    let error = look(&workspace(), "apart", None).unwrap_err();
    assert_eq!(error.message, "the source has no apart/Cargo.lock");
    assert!(error.help[0].contains("cargo generate-lockfile"));
    let error = look(&workspace(), "nowhere", None).unwrap_err();
    assert_eq!(error.message, "the source has no nowhere/Cargo.toml");
    assert_eq!(error.help, ["leave `subdir` out, or name a package's folder"]);
    let error = look(&[("deep/er/Cargo.toml", ""), ("x", "")], "", None).unwrap_err();
    assert_eq!(
        (error.message.as_str(), error.help[0].as_str()),
        ("the source has no Cargo.toml", "set `subdir: deep/er`")
    );
    assert_eq!(look(&workspace(), "", Some("itoa")).unwrap().version.as_deref(), Some("1.0.99"));
    assert!(look(&workspace(), "../x", None).unwrap_err().message.contains("leaves the source"));
    let read = |_: &str| Ok("[package]\nname = \"a\"\nversion = \"4.5.6\"\n".to_owned());
    let tree = SourceTree { files: ["Cargo.toml".to_owned()].into(), read: &read };
    assert_eq!(version(&tree, "", None).as_deref(), Some("4.5.6"));
    assert_eq!(version(&SourceTree { files: BTreeSet::new(), read: &read }, "", None), None);
}

#[test]
fn paths_are_cleaned_and_stay_inside() {
    assert_eq!(join("a/b", "../c/./d").as_deref(), Some("a/c/d"));
    assert_eq!(join("a", "..").as_deref(), Some(""));
    assert_eq!(join("a", "../.."), None);
    assert_eq!(join("a", "/etc"), None);
}

/// The stub of a package that refuses almost everything by its lints is compiled by the real cargo.
#[test]
fn cargo_builds_the_stub() {
    let files = [
        (
            "Cargo.toml",
            "[workspace]\nmembers = [\"app\", \"derive\"]\nresolver = \"2\"\n[workspace.lints.rust]\n\
             missing_docs = \"forbid\"\nwarnings = \"deny\"\nunsafe_code = \"forbid\"\n",
        ),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\nreadme = \"R.md\"\nlicense-file = \"L\"\n\
             default-run = \"app\"\n[lints]\nworkspace = true\n[dependencies]\nderive = { path = \"../derive\" }\n\
             [[bin]]\nname = \"app\"\nrequired-features = [\"f\"]\n[[bench]]\nname = \"speed\"\nharness = false\n\
             [features]\nf = []\n",
        ),
        ("app/build.rs", "compile_error!();"),
        ("app/src/main.rs", "compile_error!();"),
        ("app/src/lib.rs", "compile_error!();"),
        ("app/src/bin/more.rs", "compile_error!();"),
        ("app/benches/speed.rs", "compile_error!();"),
        (
            "derive/Cargo.toml",
            "[package]\nname = \"derive\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n\
             [lints]\nworkspace = true\n",
        ),
        ("derive/src/lib.rs", "compile_error!();"),
        (
            "Cargo.lock",
            "version = 3\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"derive\"]\n\
             [[package]]\nname = \"derive\"\nversion = \"0.1.0\"\n",
        ),
    ];
    let found = look(&files, "app", None).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (path, stub) in &found.stub {
        let to = dir.path().join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let kept = files.iter().find(|(p, _)| p == path).map(|(_, text)| (*text).to_owned());
        std::fs::write(to, if let Stub::Text(text) = stub { text.clone() } else { kept.unwrap() }).unwrap();
    }
    let built = Command::new("cargo")
        .args(["build", "--locked", "--offline", "--features", "f", "--bin", "app", "--bin", "more"])
        .current_dir(dir.path().join("app"))
        .env("CARGO_TARGET_DIR", dir.path().join("target"))
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{told}");
    assert!(Path::new(&dir.path().join("target/debug/more")).is_file());
}

fn component(fields: serde_json::Value) -> Component {
    serde_json::from_value(fields).unwrap()
}

/// Each error as `field: message`.
fn faults(fields: serde_json::Value) -> Vec<String> {
    let errors = component(fields).declare().err().unwrap_or_default();
    errors.iter().map(|e| format!("{}: {}", path_text(&e.field), e.message)).collect()
}

#[test]
fn outputs_are_the_tree_and_each_program() {
    let facts = component(json!({
        "source": { "path": "my/app" },
        "install": { "one": "/bin/one", "two": { "to": ["/a", "/b"], "mode": "0700" } },
    }))
    .declare()
    .unwrap();
    let names: Vec<&str> = facts.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["tree", "one", "two"]);
    assert_eq!(facts.files[0].pattern, "my/app");
    let crates =
        json!({ "source": { "crate": "zinit", "version": "0.3.8" }, "install": { "zinit": "/bin/zinit" } });
    assert!(component(crates).declare().unwrap().files.is_empty());
}

#[test]
fn wrong_values_are_all_reported_with_their_fields() {
    let found = faults(json!({
        "source": { "crate": "zinit/x", "version": "1" },
        "subdir": "../..",
        "profile": "-x",
        "bins": ["a b"],
        "env": { "RUSTFLAGS": { "host": "RUSTFLAGS" }, "A=B": "x", "PATH": "/x", "CARGO_HOME": "/x", "ARCH": "x" },
        "install": {
            "one": "bin/one",
            "tree": "/t",
            "two": { "to": "/same", "mode": "rwx" },
            "zwei": "/same",
            "../up": { "to": [] },
        },
    }));
    assert_eq!(
        found,
        [
            "source.crate: \"zinit/x\" is no name of a crate",
            "subdir: subdir leaves the source",
            "profile: \"-x\" is no profile",
            "bins: \"a b\" is no name of a program",
            "env.A=B: \"A=B\" is no name of a variable",
            "env.CARGO_HOME: CARGO_HOME is set by mosbuild",
            "env.PATH: PATH is set by mosbuild",
            "env.RUSTFLAGS: RUSTFLAGS cannot come from the host",
            "install.../up: \"../up\" is no name of a program",
            "install.tree: a program called tree would hide the output tree",
            "install.../up: ../up is installed nowhere",
            "install.one: \"bin/one\" is no absolute path in the image",
            "install.two.mode: \"rwx\" is no mode",
            "install.zwei: /same is where two goes already",
        ]
    );
}

#[test]
fn a_crate_has_a_name_and_a_version() {
    let of = |source| faults(json!({ "source": source, "install": { "a": "/a" } }));
    assert_eq!(of(json!({ "crate": "a-b_1", "version": "1" })), Vec::<String>::new());
    assert_eq!(
        of(json!({ "crate": "a/../b", "version": "1" })),
        ["source.crate: \"a/../b\" is no name of a crate"]
    );
    assert_eq!(of(json!({ "crate": "a", "version": " " })), ["source.version: a crate needs its version"]);
}

#[test]
fn what_can_be_allowed_is_known_by_name() {
    let of = |allow| faults(json!({ "source": { "path": "a" }, "install": { "a": "/a" }, "allow": allow }));
    assert_eq!(of(json!("dynamic")), Vec::<String>::new());
    assert_eq!(of(json!(["dynamic", "host-paths"])), Vec::<String>::new());
    assert_eq!(of(json!("host-path")), ["allow: \"host-path\" cannot be allowed"]);
    let fields = json!({ "source": { "path": "a" }, "install": { "a": "/a" }, "allow": ["host-path", "x"] });
    let errors = component(fields).declare().unwrap_err();
    let help: Vec<&str> = errors.iter().filter_map(|e| e.help.as_deref()).collect();
    assert_eq!(help, ["did you mean host-paths?", "what can be allowed is dynamic and host-paths"]);
}

#[test]
fn patches_are_files_of_the_workspace() {
    let of = |patches| {
        let fields = json!({ "source": { "path": "a" }, "install": { "a": "/a" }, "patches": patches });
        let files = component(fields).declare().unwrap().files;
        files[1..].iter().map(|f| format!("{}: {}", path_text(&f.field), f.pattern)).collect::<Vec<_>>()
    };
    assert_eq!(of(json!("p/one.patch")), ["patches: p/one.patch"]);
    assert_eq!(of(json!(["a", "b"])), ["patches[0]: a", "patches[1]: b"]);
}

#[test]
fn a_script_has_variables_of_its_own() {
    let of = |name: &str| {
        let env = json!({ name: "x" });
        faults(json!({ "source": { "path": "a" }, "build": "true", "install": { "a": "/a" }, "env": env }))
    };
    assert_eq!(of("CARGO_HOME"), Vec::<String>::new());
    assert_eq!(of("ARCH"), ["env.ARCH: ARCH is set by mosbuild"]);
}

#[test]
fn a_script_installs_paths_below_out() {
    let with =
        |name: &str| faults(json!({ "source": { "path": "a" }, "build": "true", "install": { name: "/a" } }));
    assert_eq!(with("usr/bin/a"), Vec::<String>::new());
    assert_eq!(with("usr//a"), ["install.usr//a: \"usr//a\" is no path under $OUT"]);
    assert_eq!(with("/a"), ["install./a: \"/a\" is no path under $OUT"]);
}
