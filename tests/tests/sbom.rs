//! `mosbuild sbom` from outside: every entry of the lock and every crate is a part, with its licence; both forms are what their
//! standards want, by scripts/check-sbom; equal images have equal bills.

use std::collections::BTreeMap;
use std::process::Command;

use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;
use mosbuild_tests::{Space, need, repository};
use serde_json::Value;

/// What scripts/check-sbom says of a bill.
#[track_caller]
fn checked(space: &Space, bill: &str, name: &str) {
    need("python3", "python3");
    let path = space.base().join(name);
    std::fs::write(&path, bill).unwrap();
    let output = Command::new(repository().join("scripts/check-sbom"))
        .arg(&path)
        .arg(space.path("mosbuild.lock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Where pip could not bring the standards' tools; CI has them.
    #[allow(clippy::print_stderr)]
    if output.status.code() == Some(3) && std::env::var("CI").as_deref() != Ok("true") {
        eprintln!("did not run: {said}");
        return;
    }
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stdout));
}

fn parts(bill: &Value) -> BTreeMap<&str, &Value> {
    bill["components"].as_array().unwrap().iter().map(|c| (c["bom-ref"].as_str().unwrap(), c)).collect()
}

#[track_caller]
fn bills(space: &Space, target: &str) -> (Value, Value) {
    let mut both = Vec::new();
    for (format, name) in [("spdx", "bill.spdx.json"), ("cyclonedx", "bill.cdx.json")] {
        let output = space.run(&["sbom", target, "--format", format]);
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(space.run(&["sbom", target, "--format", format]).stdout, output.stdout);
        checked(space, &output.stdout, name);
        both.push(serde_json::from_str(&output.stdout).unwrap());
    }
    let cyclonedx = both.pop().unwrap();
    (both.pop().unwrap(), cyclonedx)
}

#[test]
fn packages_have_what_lock_and_database_tell() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["tool"]);
        stand.own(&[
            Apk::new("tool", "1.0+x-r0").depends("helper").file("usr/bin/tool", "t"),
            Apk::new("helper", "2-r1"),
        ]);
        let yaml = stand.yaml(&[stand.mirror.url()], &["tool"], "");
        let image = "  image: { rule: cpio, root: packages, compress: gzip }\ndist: { image: image, ";
        stand.space.yaml(&yaml.replace("dist: { ", image));
        let never = stand.space.run(&["sbom", "image"]);
        assert_eq!(never.code, Some(2), "{never}");
        never.says("image was never built here");
        stand.space.builds(&["image"]);
        let (spdx, cyclonedx) = bills(&stand.space, "image");
        let parts = parts(&cyclonedx);
        let of = |name: &str| {
            let prefix = format!("pkg:apk/alpine/{name}@");
            parts.iter().find(|(id, _)| id.starts_with(&prefix)).map(|(_, part)| *part).unwrap()
        };
        let tool = of("tool");
        assert_eq!(tool["purl"], "pkg:apk/alpine/tool@1.0%2Bx-r0?arch=x86_64");
        assert_eq!(tool["licenses"][0]["expression"], "MIT", "{tool:#}");
        assert_eq!(tool["properties"][0]["value"], "packages packages: tool");
        assert!(tool["hashes"].as_array().unwrap().iter().any(|h| h["alg"] == "SHA-256"));
        let edges = cyclonedx["dependencies"].as_array().unwrap();
        let needs = edges.iter().find(|e| e["ref"] == tool["bom-ref"]).unwrap();
        assert!(needs["dependsOn"].as_array().unwrap().contains(&of("helper")["bom-ref"]), "{needs:#}");
        // What the miniroot brought is in the image too, and in no row of the lock.
        assert!(of("musl")["properties"].is_null() && of("busybox")["licenses"].is_array());
        let count: usize = stand.space.json(&["show", "packages", "--json"])["facts"]["count"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(parts.keys().filter(|id| id.starts_with("pkg:apk/")).count(), count);
        assert_eq!(spdx["packages"].as_array().unwrap().len(), parts.len() + 1);
        assert_eq!(spdx["creationInfo"]["created"], "2025-01-01T00:00:00Z");
        let image = stand.space.run(&["ls", "image", "--json"]).stdout;
        let image: Value = serde_json::from_str(&image).unwrap();
        let hashes = &cyclonedx["metadata"]["component"]["hashes"];
        assert!(hashes.as_array().unwrap().iter().any(|h| h["content"] == image["blake3"]), "{hashes:#}");
    }
}

#[test]
fn components_have_their_crates_sources_and_patches() {
    let space = Space::new(
        r#"targets:
  app:
    rule: component
    source: { path: app }
    subdir: cli
    target: x86_64-unknown-linux-gnu
    patches: fix.patch
    install: { app: /usr/bin/app }
  other: { rule: release, url: "file://PREBUILT", install: { prebuilt-1.4: /usr/bin/other }, mode: "0755" }
  rootfs: { rule: rootfs, layers: [app, other] }
"#,
    )
    .with_rust();
    let prebuilt = space.base().join("prebuilt-1.4");
    need("busybox", "busybox-static");
    std::fs::copy("/bin/busybox", &prebuilt).unwrap();
    space.edit_yaml("PREBUILT", prebuilt.to_str().unwrap());
    space.edit_yaml(", mode: \"0755\"", "");
    space.write("app/Cargo.toml", "[workspace]\nmembers = [\"cli\", \"lib\"]\nresolver = \"3\"\n[workspace.package]\nlicense = \"MIT/Apache-2.0\"\n");
    space.write("app/cli/Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.3.0\"\nedition = \"2024\"\nlicense.workspace = true\n[dependencies]\nown = { path = \"../lib\" }\n");
    space.write("app/cli/src/main.rs", "fn main() {\n    own::hello();\n}\n");
    space.write("app/lib/Cargo.toml", "[package]\nname = \"own\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    space.write("app/lib/src/lib.rs", "pub fn hello() {}\n");
    space.write(
        "app/Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.3.0\"\ndependencies = [\n \"own\",\n]\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n",
    );
    space.write(
        "fix.patch",
        "--- a/lib/src/lib.rs\n+++ b/lib/src/lib.rs\n@@ -1 +1 @@\n-pub fn hello() {}\n+pub fn hello() { }\n",
    );
    space.builds(&["rootfs"]);
    let (spdx, cyclonedx) = bills(&space, "rootfs");
    let parts = parts(&cyclonedx);
    let app = parts.iter().find(|(id, _)| id.starts_with("pkg:generic/app")).unwrap().1;
    assert_eq!(app["licenses"][0]["expression"], "MIT OR Apache-2.0", "{app:#}");
    assert!(
        app["pedigree"]["patches"][0]["diff"]["text"]["content"]
            .as_str()
            .unwrap()
            .contains("pub fn hello() { }")
    );
    let id = app["bom-ref"].as_str().unwrap();
    for member in ["app@0.3.0", "own@0.1.0"] {
        assert!(parts.contains_key(format!("{id}#{member}").as_str()), "{member}");
    }
    let other = parts.iter().find(|(id, _)| id.starts_with("pkg:generic/other")).unwrap().1;
    assert!(other["properties"][0]["value"].as_str().unwrap().starts_with("url file://"), "{other:#}");
    let kinds: Vec<&str> = spdx["relationships"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["relationshipType"].as_str().unwrap())
        .collect();
    for (kind, count) in [("DESCRIBES", 1), ("CONTAINS", 2), ("PATCH_FOR", 1), ("DEPENDS_ON", 3)] {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), count, "{kind}");
    }
}
