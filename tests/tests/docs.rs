//! The documents about the MOS image say what is so: tests that they name exist, and every place that the image's
//! sources come from is in the list of what was not tried. Reads documents; builds nothing.

use std::collections::BTreeSet;

use mosbuild_tests::mos::PROFILES;
use mosbuild_tests::{Space, repository};
use serde_json::Value;

fn document(name: &str) -> String {
    std::fs::read_to_string(repository().join("docs").join(name)).unwrap()
}

/// The texts in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Rows of the tables, each as its cells; headings and their rules left out.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let table = |line: &&str| line.starts_with("| ") && !line.starts_with("| ---");
    text.lines()
        .filter(table)
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect()
}

/// What is wrong with what a cell names: `tests/tests/x.rs`, or `tests/tests/x.rs::name` for one test of it.
fn fault(named: &str) -> Option<String> {
    let (path, test) = named.split_once("::").map_or((named, None), |(path, test)| (path, Some(test)));
    let Ok(text) = std::fs::read_to_string(repository().join(path)) else {
        return Some(format!("there is no file {path}"));
    };
    let test = test?;
    (!text.contains(&format!("fn {test}("))).then(|| format!("{path} has no test {test}"))
}

fn is_path(text: &str) -> bool {
    ["tests/", "scripts/", "rules/", "formats/", "engine/", "cache/", "cli/", "examples/"]
        .iter()
        .any(|folder| text.starts_with(folder))
}

#[test]
fn each_feature_of_the_old_pipeline_has_a_row_with_a_test_that_exists() {
    let text = document("parity.md");
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows(&text) {
        let [feature, _, shown] = row[..] else { panic!("a row has three cells: {row:?}") };
        if feature == "feature" {
            continue;
        }
        count += 1;
        let named: Vec<&str> = quoted(shown).filter(|text| is_path(text)).collect();
        // What is not there yet says so in the middle cell, and has nothing to show.
        if named.is_empty() && !row[1].starts_with("not yet") {
            wrong.push(format!("{feature}: no test is named"));
        }
        wrong
            .extend(named.iter().filter_map(|named| fault(named)).map(|fault| format!("{feature}: {fault}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "{count} features");
}

#[test]
fn what_a_document_names_wrongly_is_found() {
    assert_eq!(fault("tests/tests/docs.rs"), None);
    assert_eq!(fault("tests/tests/docs.rs::what_a_document_names_wrongly_is_found"), None);
    assert_eq!(fault("tests/tests/gone.rs").unwrap(), "there is no file tests/tests/gone.rs");
    assert!(fault("tests/tests/docs.rs::gone").unwrap().contains("has no test gone"));
}

/// Commands and files that the documents tell people to use.
#[test]
fn what_the_manual_of_the_image_names_is_there() {
    let text = document("mos.md");
    for named in quoted(&text) {
        let path = named.trim_end_matches('/');
        let plain = !path.contains(['*', ' ', '{']) && !path.contains("NAME");
        if plain && (path.starts_with("config/") || path == "mosbuild.yaml") {
            assert!(repository().join(path).exists(), "docs/mos.md names {path}");
        }
    }
    let yaml = std::fs::read_to_string(repository().join("mosbuild.yaml")).unwrap();
    for target in ["kernel", "kernel_full", "runtime", "rootfs", "rootfs_full", "channel"] {
        assert!(
            text.contains(&format!("`{target}`")) || text.contains(&format!("build {target}")),
            "{target}"
        );
        assert!(yaml.contains(&format!("\n  {target}:")), "{target}");
    }
}

#[test]
fn every_source_of_the_image_is_in_the_list_of_what_was_not_tried() {
    let text = document("mos.md");
    let (_, list) = text.split_once("\n## What was not tried\n").unwrap();
    let listed: BTreeSet<&str> = quoted(list).collect();
    let space = Space::mos();
    let mut missing = BTreeSet::new();
    for profile in PROFILES {
        let names = space.json(&["--profile", profile, "list", "--json"]);
        for target in names["targets"].as_array().unwrap() {
            let name = target["name"].as_str().unwrap();
            // Profiles differ in revisions of components alone.
            if profile != PROFILES[0] && target["rule"] != "component" {
                continue;
            }
            let shown = space.json(&["--profile", profile, "show", name, "--json"]);
            let definition = &shown["definition"];
            let mut need = |text: &Value| {
                if let Some(text) = text.as_str().filter(|text| !listed.contains(text)) {
                    missing.insert(format!("{name} ({profile}): {text}"));
                }
            };
            for source in [definition, &definition["source"]] {
                need(&source["url"]);
                need(&source["git"]);
                need(&source["rev"]);
            }
        }
    }
    assert!(missing.is_empty(), "docs/mos.md does not list:\n{missing:#?}");
    // Beside the targets: the mirror that miniroot and packages stand for, and what nodes fetch themselves.
    assert!(listed.contains("https://dl-cdn.alpinelinux.org/alpine/"));
    let manifests = "https://s3.example.com:9000/mos/flists/mos_runtimes/channels/";
    assert!(listed.contains(manifests));
    for profile in PROFILES {
        let conf = repository().join(format!("config/profiles/{profile}/channel.conf"));
        assert!(std::fs::read_to_string(conf).unwrap().contains(manifests), "{profile}");
    }
}
