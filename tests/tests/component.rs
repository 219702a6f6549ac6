//! Components built by cargo from a folder: what is compiled again when, and what that reaches.

use std::process::Command;

use mosbuild_tests::{Space, cause};

const YAML: &str = r#"targets:
  app: { rule: component, source: { path: app }, target: x86_64-unknown-linux-gnu, install: { app: /bin/app } }
  root: { rule: rootfs, layers: [app] }
  image: { rule: cpio, root: root, compress: none }
dist: { app.tar: app, image: image }
"#;

fn space() -> Space {
    let space = Space::new(YAML).with_rust();
    fill(&space);
    space
}

fn fill(space: &Space) {
    space.write("app/Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.2.3\"\nedition = \"2021\"\n");
    space.write("app/Cargo.lock", "version = 3\n\n[[package]]\nname = \"app\"\nversion = \"1.2.3\"\n");
    space.write("app/src/main.rs", "fn main() {\n    println!(\"first\");\n}\n");
}

fn says(space: &Space) -> String {
    let dir = space.base().join("unpacked");
    std::fs::create_dir_all(&dir).unwrap();
    let status =
        Command::new("tar").arg("-xf").arg(space.path("dist/app.tar")).arg("-C").arg(&dir).status().unwrap();
    assert!(status.success());
    let output = Command::new(dir.join("bin/app")).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn edits_comments_and_equal_mtimes() {
    let space = space();
    space.builds(&["image", "app"]).counts(3, 0, 0);
    assert_eq!(says(&space), "first\n");
    let file = Command::new("file").arg("-b").arg(space.base().join("unpacked/bin/app")).output();
    if let Ok(file) = file {
        let text = String::from_utf8_lossy(&file.stdout).into_owned();
        assert!(text.contains("static"), "{text}");
    }
    let facts = space.json(&["show", "app", "--json"])["facts"].clone();
    assert_eq!(facts["version"], "1.2.3", "{facts:#}");

    // A comment at the end changes no byte of the program: what is made of it are hits.
    space.write("app/src/main.rs", "fn main() {\n    println!(\"first\");\n}\n// A comment.\n");
    let output = space.builds(&["image", "app"]);
    output.counts(1, 2, 0);
    assert_eq!(output.started(), ["app"]);
    let (code, answer) = space.why("image");
    assert_eq!(code, 0, "{answer:#}");
    let text = space.run(&["why", "image"]).stdout;
    assert!(text.contains("output identical (cut off)") && text.contains("src/main.rs"), "{text}");

    // Another program under the same size and mtime.
    let main = space.path("app/src/main.rs");
    let time = main.metadata().unwrap().modified().unwrap();
    space.write("app/src/main.rs", "fn main() {\n    println!(\"other\");\n}\n// A comment.\n");
    std::fs::File::options().write(true).open(&main).unwrap().set_modified(time).unwrap();
    space.builds(&["image", "app"]).counts(3, 0, 0);
    assert_eq!(says(&space), "other\n");
    let (code, answer) = space.why("image");
    assert_eq!(code, 10);
    cause(&answer, "file", "app/src/main.rs");
}

#[test]
fn two_folders_and_two_stores_give_the_same_bytes() {
    let one = space();
    let two = one.beside("some/where/else", YAML).with_store("another-store");
    fill(&two);
    one.builds(&["image"]);
    let output = two.builds(&["image"]);
    output.counts(3, 0, 0);
    assert_eq!(one.bytes("dist/image"), two.bytes("dist/image"));
}

#[test]
fn an_error_of_the_compiler_is_shown() {
    let space = space();
    space.write("app/src/main.rs", "fn main() { nonsense }\n");
    let output = space.build(&["image"]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    let tail = output.failure("app")["tail"].to_string();
    assert!(tail.contains("nonsense") && tail.contains("src/main.rs:1:13"), "{tail}");
}

#[test]
fn a_target_without_its_standard_library_is_3() {
    let space = space();
    space.edit_yaml("x86_64-unknown-linux-gnu", "riscv64gc-unknown-linux-musl");
    let output = space.build(&["app"]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says("riscv64gc-unknown-linux-musl is not installed").says("rustup target add");
    space.edit_yaml("riscv64gc-unknown-linux-musl", "pdp11-unknown-unix");
    let output = space.build(&["app"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("pdp11-unknown-unix");
}

#[test]
fn a_rustc_that_does_not_work_is_3_in_its_own_words() {
    let mut space = space();
    space.unset("RUSTUP_HOME");
    let bin = space.base().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let proxy = "#!/bin/sh\necho 'error: no default toolchain is configured' >&2\n\
                 echo \"help: run 'rustup default stable'\" >&2\necho >&2\necho 'Stack backtrace:' >&2\nexit 1\n";
    for name in ["rustc", "cargo"] {
        std::fs::write(bin.join(name), proxy).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    space.env("PATH", format!("{}:{path}", bin.display()));
    let output = space.build(&["app"]);
    assert_eq!(output.code, Some(3), "{output}");
    output.says("mosbuild.yaml:4: app: rustc is there, but it does not work: error: no default toolchain is configured");
    output.says("help: run 'rustup default stable'");
    assert!(!output.stderr.contains("backtrace"), "{output}");
}
