//! `mosbuild size` from outside: layers, packages, files, stages and archives of what the last build left, and what changed
//! since another one; for people, for programs and as a page.

use std::collections::BTreeMap;

use mosbuild_tests::Space;
use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;
use mosbuild_tests::archive::{files_below, members};
use serde_json::Value;

const YAML: &str = r#"targets:
  base: { rule: files, install: [{ from: base/, to: / }] }
  own: { rule: files, install: [{ from: own/, to: / }] }
  rootfs: { rule: rootfs, layers: [base, own], clean: docs, remove: /etc/unwanted }
  image: { rule: cpio, root: rootfs, compress: { format: xz, level: 3 } }
  direct: { rule: cpio, root: base, compress: gzip }
  text: { rule: command, run: 'echo x > "$OUT/x"', outputs: x }
dist: { image: image, rootfs.tar: rootfs, direct: direct }
"#;

fn space() -> Space {
    let space = Space::new(YAML);
    let noise: Vec<u8> =
        (0u32..60_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8 ^ (n >> 7) as u8).collect();
    space.write("base/usr/bin/noise", &noise);
    space.write("base/usr/share/doc/long", "d".repeat(50_000));
    space.write("base/etc/unwanted", "u".repeat(1_000));
    space.write("base/etc/config", "c".repeat(500));
    space.write("own/usr/bin/zeros", vec![0; 80_000]);
    space.write("own/etc/config", "o".repeat(700));
    space
}

fn by<'v>(list: &'v Value, key: &str) -> BTreeMap<&'v str, &'v Value> {
    list.as_array().unwrap().iter().map(|row| (row[key].as_str().unwrap_or_default(), row)).collect()
}

/// Every file of workspace and store with its time.
fn times(space: &Space) -> BTreeMap<std::path::PathBuf, std::time::SystemTime> {
    let all = files_below(&space.base()).into_iter();
    all.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn layers_files_stages_and_the_archive() {
    let space = space();
    let run = space.run(&["size", "image"]);
    assert_eq!(run.code, Some(2), "{run}");
    run.says("rootfs was never built here").says("`mosbuild build rootfs`");
    space.builds(&["image", "rootfs"]);
    let facts = space.json(&["show", "image", "--json"])["facts"].clone();
    let before = times(&space);

    let object = space.json(&["size", "image", "--json"]);
    assert_eq!(
        (object["schema"].as_str(), object["root"].as_str()),
        (Some("mosbuild.size/1"), Some("rootfs"))
    );
    let stages: Vec<_> = object["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["step"].as_str().unwrap(), s["bytes"].as_u64().unwrap()))
        .collect();
    assert_eq!(stages, [("merge", 60_000 + 50_000 + 1_000 + 80_000 + 700), ("clean", 60_000 + 80_000 + 700)]);
    let archive = &object["around"][0];
    let packed = space.bytes("dist/image").len() as u64;
    assert_eq!(
        (archive["bytes"].as_u64(), archive["format"].as_str(), archive["level"].as_u64()),
        (Some(packed), Some("xz"), Some(3))
    );
    assert_eq!(archive["memory"]["packed"].as_u64(), Some(packed));
    assert_eq!(archive["memory"]["ram"].to_string(), facts["ram"].as_str().unwrap());

    let layers = by(&object["layers"], "name");
    let number = |row: &Value, field: &str| row[field].as_u64().unwrap();
    assert_eq!((number(layers["base"], "bytes"), number(layers["base"], "merged_bytes")), (60_000, 111_000));
    assert_eq!((number(layers["own"], "bytes"), number(layers["own"], "files")), (80_700, 2));
    let shares: u64 = layers.values().map(|l| number(l, "share")).sum();
    assert!(shares <= packed && shares + 4 >= packed, "{shares} of {packed}");
    assert!(
        number(layers["base"], "share") > 10 * number(layers["own"], "share"),
        "noise against zeros: {object:#}"
    );

    // Every file of the tree, with its size.
    let files = by(&object["files"], "path");
    let placed = members(&space.path("dist/rootfs.tar"));
    let placed: BTreeMap<&str, u64> = placed
        .iter()
        .filter(|(_, e)| e.mode.starts_with('-'))
        .map(|(p, e)| (p.as_str(), e.size.parse().unwrap()))
        .collect();
    let told: BTreeMap<&str, u64> = files.iter().map(|(p, f)| (*p, number(f, "bytes"))).collect();
    assert_eq!(told, placed);
    assert_eq!(files["etc/config"]["layer"], "own");
    assert_eq!(object["packages"], serde_json::json!([]));

    let text = space.run(&["size", "image"]).stdout;
    for line in
        ["merge", "clean", "image, xz -3", "own", "/usr/bin/zeros", "≈ in the archive", "a machine needs"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    // Reading writes nothing.
    let written: Vec<_> =
        times(&space).into_iter().filter(|(path, at)| before.get(path) != Some(at)).collect();
    assert!(written.is_empty(), "{written:?}");

    // Without an archive around it, and through an archive of a tree that no rootfs made.
    let alone = space.json(&["size", "rootfs", "--json"]);
    assert_eq!((alone["around"].as_array().unwrap().len(), alone["against"].is_null()), (0, true));
    assert!(space.run(&["size", "rootfs"]).stdout.contains("≈ compressed"));
    space.builds(&["direct"]);
    let direct = space.json(&["size", "direct", "--json"]);
    assert_eq!((direct["root"].as_str(), direct["layers"].as_array().unwrap().len()), (Some("base"), 0));
    assert_eq!(direct["around"][0]["format"], "gzip");
}

#[test]
fn what_has_no_tree_is_said() {
    let space = space();
    for (args, text) in [
        (vec!["size", "text"], "text has no root file system in it that is known: it is of rule command"),
        (vec!["size", "rootfs:file"], "rootfs has no output file"),
        (vec!["size", "imagf"], "unknown target imagf"),
        (vec!["size", "rootfs", "--against", "x"], "rootfs was never built here"),
    ] {
        let run = space.run(&args);
        assert_eq!(run.code, Some(2), "{run}");
        run.says(text);
    }
    space.builds(&["rootfs"]);
    let run = space.run(&["size", "rootfs", "--against", "x"]);
    assert_eq!(run.code, Some(2), "{run}");
    run.says("unknown run x").says("`mosbuild runs`");
    space.builds(&["text"]);
    let last = space.json(&["runs", "--json"])["runs"][0]["id"].as_str().unwrap().to_owned();
    space.run(&["size", "rootfs", "--against", &last]).says("did not build rootfs");
    // An archive that was not built is no reason to say nothing.
    let object = space.json(&["size", "image", "--json"]);
    assert!(object["around"][0]["bytes"].is_null(), "{object}");
    assert!(space.run(&["size", "image"]).stdout.contains("not built"));
}

#[test]
fn the_difference_to_another_run() {
    let space = space();
    space.builds(&["image"]);
    let first = space.json(&["runs", "--json"])["runs"][0]["id"].as_str().unwrap().to_owned();
    let packed = space.bytes("dist/image").len() as i64;
    // A build with nothing to do is a run like any other.
    space.builds(&["image"]);
    let same = space.json(&["size", "image", "--against", &first, "--json"]);
    assert_eq!(
        (same["against"]["bytes"].as_i64(), same["against"]["files"].as_array().unwrap().len()),
        (Some(0), 0)
    );
    assert!(space.run(&["size", "image", "--against", &first]).stdout.contains("nothing has another size"));

    space.write("own/usr/bin/zeros", vec![0; 100_000]);
    space.write("own/usr/bin/new", "n".repeat(3_000));
    space.remove("base/usr/bin/noise");
    space.write("base/usr/bin/less", "l");
    space.builds(&["image"]);
    let object = space.json(&["size", "image", "--against", &first, "--json"]);
    let against = &object["against"];
    assert_eq!(against["run"], *first);
    assert_eq!(against["bytes"].as_i64(), Some(20_000 + 3_000 - 60_000 + 1));
    let layers = by(&against["layers"], "name");
    assert_eq!(
        (layers["own"]["bytes"].as_i64(), layers["base"]["bytes"].as_i64()),
        (Some(23_000), Some(1 - 60_000))
    );
    let files = by(&against["files"], "path");
    assert_eq!(files["usr/bin/noise"]["bytes"].as_i64(), Some(-60_000));
    assert_eq!(files["usr/bin/noise"]["layer"], "base", "of what is gone, where it was");
    assert_eq!(files.len(), 4);
    let around = &against["around"][0];
    assert_eq!(around["bytes"].as_i64(), Some(space.bytes("dist/image").len() as i64 - packed));
    let text = space.run(&["size", "image", "--against", &first]).stdout;
    for line in [
        "+22.5 KiB  layer own",
        "-58.6 KiB  layer base",
        "-58.6 KiB  /usr/bin/noise",
        "+2.9 KiB  /usr/bin/new",
        "-36.1 KiB  rootfs",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

/// What is too large is just what one wants to look into: its tree was made.
#[test]
fn a_tree_that_is_too_large_is_shown() {
    let space = space();
    space.edit_yaml("clean: docs", "clean: docs, max_size: 1KiB");
    assert_eq!(space.build(&["rootfs"]).code, Some(1));
    let object = space.json(&["size", "rootfs", "--json"]);
    assert_eq!(object["stages"].as_array().unwrap().last().unwrap()["bytes"].as_u64(), Some(140_700));
}

#[test]
fn packages_are_told_by_the_database_in_the_tree() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["tool"]);
        stand.own(&[Apk::new("tool", "1.0-r0")
            .file("usr/bin/tool", &"t".repeat(9_000))
            .file("usr/bin/taken", "t")]);
        let yaml = stand.yaml(&[stand.mirror.url()], &["tool"], "");
        let rootfs = "  own: { rule: files, install: [{ from: taken, to: /usr/bin/taken }] }\n  \
                      rootfs: { rule: rootfs, layers: [packages, own], clean: apk-db }\ndist: { rootfs.tar: rootfs, ";
        stand.space.yaml(&yaml.replace("dist: { ", rootfs));
        stand.space.write("taken", "own");
        stand.space.builds(&["rootfs"]);
        // The database is not in the image any more; what it said of the merged tree counts.
        let object = stand.space.json(&["size", "rootfs", "--json"]);
        let packages = by(&object["packages"], "name");
        assert_eq!(
            (packages["tool"]["version"].as_str(), packages["tool"]["bytes"].as_u64()),
            (Some("1.0-r0"), Some(9_000))
        );
        assert!(packages["busybox"]["bytes"].as_u64().unwrap() > 100_000, "{:#}", packages["busybox"]);
        let files = by(&object["files"], "path");
        assert_eq!(
            (&files["usr/bin/tool"]["package"], &files["usr/bin/tool"]["layer"]),
            (&"tool".into(), &"packages".into())
        );
        assert!(files["usr/bin/taken"]["package"].is_null() && files["usr/bin/taken"]["layer"] == "own");
        let sum =
            |rows: &Value| rows.as_array().unwrap().iter().map(|r| r["bytes"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(&object["packages"]), sum(&object["files"]));
        assert_eq!(sum(&object["layers"]), sum(&object["files"]));
    }
}

#[test]
fn a_page_is_complete_in_itself() {
    let space = space();
    space.write("own/usr/bin/<b>&", "x".repeat(5_000));
    space.builds(&["image"]);
    let first = space.json(&["runs", "--json"])["runs"][0]["id"].as_str().unwrap().to_owned();
    space.write("own/usr/bin/zeros", vec![0; 90_000]);
    space.builds(&["image"]);
    let html = space.run(&["size", "image", "--html", "--against", &first]).stdout;
    assert!(html.starts_with("<!doctype html>\n") && html.trim_end().ends_with("</html>"), "{html}");
    for foreign in ["http:", "https:", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    for part in ["<svg", "/usr/bin/zeros", "/usr/bin/&lt;b&gt;&amp;", "layer own", &first, "xz -3"] {
        assert!(html.contains(part), "{part}");
    }
    // Every element that is opened is closed.
    for tag in ["table", "tr", "td", "div", "svg", "title", "span", "details", "h2", "p"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let both = space.run(&["size", "image", "--html", "--json"]);
    assert_eq!(both.code, Some(2), "{both}");
}
