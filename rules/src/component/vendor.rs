//! The locked fetch of everything that a component depends on, into a tree that the offline steps see as CARGO_HOME.
//! Knows `cargo vendor` and `cargo metadata`; keyed by manifests and Cargo.lock alone. What of git dependencies is not the
//! commit's is put right in checkouts.rs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mosbuild_cache::Materialise;
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use super::checkouts;
use super::commands::VENDOR;
use super::fetch::{checksum, remove_if_there};
use super::host::HostCargo;
use super::manifest::at;
use crate::steps::{fetched, tree_output};

/// Inputs `stub` and `members`; param `target`; output `vendor`: `config.toml` and `crates/NAME-VERSION/…`.
pub struct Vendor {
    /// Directory whose cargo configuration is honoured; in no key, as Cargo.lock has the checksums.
    pub workspace: PathBuf,
}

impl Builtin for Vendor {
    fn name(&self) -> &'static str {
        "component-vendor"
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("vendor".into(), OutKind::Tree)]
    }

    fn waits(&self) -> bool {
        true
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let stub = cx.tree("stub")?;
        let source = cx.scratch.join("source");
        cx.store.materialise(&stub, &source, Materialise::Private)?;
        let members = String::from_utf8_lossy(&cx.bytes("members")?).into_owned();
        let root = members.lines().find_map(|l| l.strip_prefix("root ")).unwrap_or_default();
        let manifest = source.join(at(root, "Cargo.toml"));
        close_workspace(&manifest)?;
        let cargo = HostCargo { workspace: &self.workspace, cx };
        let home = cx.scratch.join("home");
        let crates = home.join("crates");
        std::fs::create_dir_all(&crates)?;
        let mut common: Vec<OsString> = vec!["--locked".into(), "--manifest-path".into(), manifest.into()];
        for own in [".cargo/config.toml", ".cargo/config"] {
            let path = source.join(at(root, own));
            if path.is_file() {
                common.extend(["--config".into(), path.into()]);
                break;
            }
        }
        let mut args: Vec<OsString> =
            ["vendor", "--versioned-dirs", "--respect-source-config"].map(Into::into).into();
        args.extend(common.iter().cloned());
        args.push(crates.clone().into());
        let lock = std::fs::read_to_string(source.join(at(root, "Cargo.lock"))).unwrap_or_default();
        let config = cargo.run_by_mirrors(&args, &repositories(&lock))?;
        let mut args: Vec<OsString> =
            ["metadata", "--format-version", "1", "--all-features"].map(Into::into).into();
        args.extend(common);
        for platform in platforms(cx.param("target")) {
            args.extend(["--filter-platform".into(), platform.into()]);
        }
        let metadata = serde_json::from_slice(&cargo.run(&args)?).map_err(|_| bad_metadata())?;
        let used = packages(&metadata)?;
        checkouts::restore(cx, &metadata, &crates)?;
        let emptied = clean(&crates, &used)?;
        std::fs::write(home.join("config.toml"), offline_config(&config)?)?;
        (cx.log)(&format!("{} crates, {emptied} of them for other platforms only", used.len() + emptied));
        let tree = cx.store.capture_dir(&home, fetched())?;
        let mut made = Made::default();
        made.outputs.insert("vendor".into(), tree_output(cx.store, &tree)?);
        Ok(made)
    }
}

/// Makes the manifest its own workspace's root, so that cargo does not look for one above the scratch directory.
fn close_workspace(manifest: &Path) -> Result<(), StepError> {
    let text = std::fs::read_to_string(manifest)?;
    let table: Table = toml::from_str(&text).map_err(|e| StepError::new(format!("Cargo.toml: {e}")))?;
    if table.contains_key("workspace") || table.get("package").is_some_and(|p| p.get("workspace").is_some()) {
        return Ok(());
    }
    // Written anew: the materialised file may be read-only.
    std::fs::remove_file(manifest)?;
    Ok(std::fs::write(manifest, format!("{text}\n[workspace]\n"))?)
}

/// The component's platform, and those that its build scripts and proc-macros may run on.
fn platforms(target: &str) -> BTreeSet<String> {
    let host = std::env::consts::ARCH;
    [target.to_owned(), format!("{host}-unknown-linux-gnu"), format!("{host}-unknown-linux-musl")].into()
}

/// The repositories that a Cargo.lock names.
fn repositories(lock: &str) -> Vec<&str> {
    let sources = lock.lines().filter_map(|line| line.strip_prefix("source = \"git+"));
    let mut found: Vec<&str> = sources.filter_map(|url| url.split(['?', '#', '"']).next()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn bad_metadata() -> StepError {
    StepError::new("cargo metadata's output is not understood")
}

/// `NAME-VERSION` of each package that these platforms need, with any features.
fn packages(metadata: &Json) -> Result<BTreeSet<String>, StepError> {
    let all = metadata.get("packages").and_then(Json::as_array).ok_or_else(bad_metadata)?;
    let name = |p: &Json| Some(format!("{}-{}", p.get("name")?.as_str()?, p.get("version")?.as_str()?));
    // Without a source they are members or patches, which are not vendored.
    let vendored = all.iter().filter(|p| p.get("source").is_some_and(|s| !s.is_null()));
    vendored.map(name).collect::<Option<_>>().ok_or_else(bad_metadata)
}

/// Empties crates that no platform of ours compiles (cargo resolves them, so their manifests must stay; the ones
/// for Windows are three quarters of a usual tree), and drops what depends on where a crate came from: the list of
/// its files' checksums, since the store has its own, and the record of its repository.
fn clean(crates: &Path, used: &BTreeSet<String>) -> Result<usize, StepError> {
    let mut emptied = 0;
    for entry in std::fs::read_dir(crates)? {
        let entry = entry?;
        let dir = entry.path();
        let package = checksum(&dir)?;
        if !used.contains(entry.file_name().to_string_lossy().as_ref()) {
            emptied += 1;
            let manifest = hollow(&std::fs::read_to_string(dir.join("Cargo.toml"))?)?;
            std::fs::remove_dir_all(&dir)?;
            std::fs::create_dir_all(dir.join("src"))?;
            std::fs::write(dir.join("Cargo.toml"), manifest)?;
            std::fs::write(dir.join("src/lib.rs"), "")?;
        }
        let record = json!({ "files": {}, "package": package }).to_string();
        remove_if_there(&dir.join(".cargo-checksum.json"))?;
        std::fs::write(dir.join(".cargo-checksum.json"), record)?;
        remove_if_there(&dir.join(".cargo_vcs_info.json"))?;
    }
    Ok(emptied)
}

/// The manifest of an emptied crate: an empty library, and nothing that would need another file.
fn hollow(manifest: &str) -> Result<String, StepError> {
    let bad = |e: &dyn std::fmt::Display| StepError::new(format!("a dependency's Cargo.toml: {e}"));
    let mut table: Table = toml::from_str(manifest).map_err(|e| bad(&e))?;
    for targets in ["bin", "example", "test", "bench"] {
        table.remove(targets);
    }
    if let Some(package) = table.get_mut("package").and_then(Value::as_table_mut) {
        for field in ["build", "links", "default-run"] {
            package.remove(field);
        }
    }
    if let Some(lib) = table.get_mut("lib").and_then(Value::as_table_mut) {
        lib.insert("path".into(), Value::String("src/lib.rs".into()));
    }
    toml::to_string(&table).map_err(|e| bad(&e))
}

/// What `cargo vendor` printed, with the path that the sandbox has; the default registry is always replaced.
fn offline_config(printed: &[u8]) -> Result<String, StepError> {
    let bad = |e: String| StepError::new(format!("cargo vendor's configuration is not understood: {e}"));
    let printed = std::str::from_utf8(printed).map_err(|e| bad(e.to_string()))?;
    let mut config: Table = toml::from_str(printed).map_err(|e| bad(e.to_string()))?;
    let sources = config.entry("source").or_insert_with(|| Table::new().into());
    let sources = sources.as_table_mut().ok_or_else(|| bad("source is no table".into()))?;
    let text = |key: &str, value: &str| Table::from_iter([(key.to_owned(), Value::String(value.to_owned()))]);
    sources.insert("vendored-sources".into(), text("directory", &format!("{VENDOR}/crates")).into());
    sources.entry("crates-io").or_insert_with(|| text("replace-with", "vendored-sources").into());
    toml::to_string(&config).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_the_path_of_the_sandbox_and_always_replaces_the_default_registry() {
        let git = "git+https://example.invalid/x.git?rev=1";
        let printed = format!(
            "[source.\"{git}\"]\ngit = \"https://example.invalid/x.git\"\nrev = \"1\"\n\
             replace-with = \"vendored-sources\"\n[source.vendored-sources]\ndirectory = \"/tmp/anywhere\"\n"
        );
        for (printed, sources) in [(printed.as_str(), 3), ("", 2)] {
            let config: Table = toml::from_str(&offline_config(printed.as_bytes()).unwrap()).unwrap();
            let source = config["source"].as_table().unwrap();
            assert_eq!(source.len(), sources);
            assert_eq!(source["vendored-sources"]["directory"].as_str(), Some("/vendor/crates"));
            assert_eq!(source["crates-io"]["replace-with"].as_str(), Some("vendored-sources"));
        }
        assert!(offline_config(b"[source").is_err());
    }

    #[test]
    fn unused_crates_are_emptied_and_records_do_not_tell_where_a_crate_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = "[package]\nname = \"windows-x\"\nversion = \"1.0.0\"\nbuild = \"build.rs\"\nlinks = \"x\"\n\
                        [lib]\nname = \"wx\"\npath = \"src/odd.rs\"\n[[bin]]\nname = \"tool\"\n[features]\na = []\n";
        for name in ["windows-x-1.0.0", "used-1.0.0"] {
            let at = dir.path().join(name);
            std::fs::create_dir_all(at.join("src")).unwrap();
            std::fs::write(at.join("Cargo.toml"), manifest).unwrap();
            std::fs::write(at.join("src/odd.rs"), "code").unwrap();
            std::fs::write(at.join(".cargo_vcs_info.json"), "{}").unwrap();
            std::fs::write(at.join(".cargo-checksum.json"), r#"{"files":{"a":"b"},"package":"abc"}"#)
                .unwrap();
        }
        assert_eq!(clean(dir.path(), &["used-1.0.0".to_owned()].into()).unwrap(), 1);
        let (used, unused) = (dir.path().join("used-1.0.0"), dir.path().join("windows-x-1.0.0"));
        for at in [&used, &unused] {
            let record = std::fs::read_to_string(at.join(".cargo-checksum.json")).unwrap();
            assert_eq!(record, r#"{"files":{},"package":"abc"}"#);
            assert!(!at.join(".cargo_vcs_info.json").exists());
        }
        assert_eq!(std::fs::read_to_string(used.join("Cargo.toml")).unwrap(), manifest);
        assert!(used.join("src/odd.rs").exists() && !unused.join("src/odd.rs").exists());
        let hollow: Table =
            toml::from_str(&std::fs::read_to_string(unused.join("Cargo.toml")).unwrap()).unwrap();
        assert_eq!(hollow["lib"]["path"].as_str(), Some("src/lib.rs"));
        assert!(hollow.get("bin").is_none() && hollow["package"].get("links").is_none());
        assert!(hollow["features"].get("a").is_some());
        assert!(unused.join("src/lib.rs").exists());
    }

    #[test]
    fn repositories_of_a_lock() {
        let lock = "name = \"a\"\nsource = \"git+https://h/b.git?branch=x#0123\"\n\nsource = \"git+ssh://me@h/a#45\"\n\
                    source = \"registry+https://h/index\"\nsource = \"git+https://h/b.git?branch=x#0123\"\n";
        assert_eq!(repositories(lock), ["https://h/b.git", "ssh://me@h/a"]);
    }

    #[test]
    fn members_are_not_among_the_vendored_packages() {
        let metadata = json!({ "packages": [
            { "name": "a", "version": "1.0.0", "source": "registry+x" },
            { "name": "own", "version": "1.0.0", "source": null },
        ]});
        let found = packages(&metadata).unwrap();
        assert_eq!(found, BTreeSet::from(["a-1.0.0".to_owned()]));
        assert!(packages(&json!({})).is_err());
    }
}
