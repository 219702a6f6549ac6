//! A published crate as a source: found through cargo, pinned in mosbuild.lock, fetched again by its pin.
//! Knows how `cargo vendor` leaves a crate; knows no registry and no host name.

use std::path::{Path, PathBuf};

use mosbuild_engine::action::{Builtin, BuiltinCx, Input, Locking, Made, OutKind, StepError};
use mosbuild_engine::lockfile::Pin;
use mosbuild_engine::plan::Planner;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::host::HostCargo;
use crate::source::CrateSource;
use crate::steps::{fetched, locked, made, tree_output};

/// Name of the package that asks for the crate; no crate is called so.
const ASKING: &str = "mosbuild-asks-for-a-crate";

/// A crate as cargo gave it.
struct Fetched {
    /// Its unpacked files.
    dir: PathBuf,
    version: String,
    /// SHA-256 of the .crate, as the registry's index has it and cargo checked it.
    checksum: String,
    /// SHA-256 of its Cargo.lock.
    cargo_lock: String,
}

/// The step that brings a crate in: its tree.
pub fn plan(planner: &mut Planner<'_>, source: &CrateSource) -> Input {
    let CrateSource { name, version } = source;
    let work = FetchCrate { workspace: planner.root().to_owned() };
    let params = [("crate", name.clone()), ("requirement", version.clone())];
    let step = planner.step(locked("source", format!("crate {name} {version}"), work, Vec::new(), &params));
    made(step, "source")
}

/// Brings a published crate in. Params `crate` and `requirement`; pin `version`, `checksum` (of the .crate) and
/// `cargo_lock` (SHA-256 of its Cargo.lock); output `source`.
pub struct FetchCrate {
    /// Directory whose cargo configuration is honoured; in no key, as the checksum says what is right.
    pub workspace: PathBuf,
}

impl Builtin for FetchCrate {
    fn name(&self) -> &'static str {
        "component-source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("source".into(), OutKind::Tree)]
    }

    fn waits(&self) -> bool {
        true
    }

    fn lock(&self, cx: &BuiltinCx<'_>, _: &Locking<'_>) -> Result<Pin, StepError> {
        let (name, requirement) = (cx.param("crate"), cx.param("requirement"));
        if cx.fetcher.offline() {
            let text = format!("crate {name} {requirement} is not in mosbuild.lock, and --offline was given");
            return Err(StepError::new(text).help("run `mosbuild lock` while online").exit(4));
        }
        let cargo = HostCargo { workspace: &self.workspace, cx };
        let got = fetch(&cargo, &cx.scratch, name, requirement)?;
        Ok(Pin::of([("version", got.version), ("checksum", got.checksum), ("cargo_lock", got.cargo_lock)]))
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let pin = cx.pin()?;
        let (name, version) = (cx.param("crate"), pin.field("version"));
        let cargo = HostCargo { workspace: &self.workspace, cx };
        let got = fetch(&cargo, &cx.scratch, name, version)?;
        for (what, locked, now) in [
            ("its checksum", pin.field("checksum"), &got.checksum),
            ("the digest of its Cargo.lock", pin.field("cargo_lock"), &got.cargo_lock),
        ] {
            if locked != now {
                return Err(StepError::new(format!(
                    "crate {name} {version} is not what mosbuild.lock has: {what} is {now}, locked is {locked}"
                ))
                .help("a published crate never changes: look at the registry that cargo is configured to use")
                .exit(4));
            }
        }
        // Neither belongs to the published files, and the second is missing where the crate comes from a mirror
        // directory: the tree shall not depend on where the crate came from.
        for made_by_cargo in [".cargo-checksum.json", ".cargo_vcs_info.json"] {
            remove_if_there(&got.dir.join(made_by_cargo))?;
        }
        let tree = cx.store.capture_dir(&got.dir, fetched())?;
        let mut made = Made::default();
        made.outputs.insert("source".into(), tree_output(cx.store, &tree)?);
        Ok(made)
    }
}

/// Asks for the crate as a dependency and lets cargo unpack it: the one way that works alike with the default
/// registry, mirrors, directory and local-registry sources.
fn fetch(cargo: &HostCargo<'_>, scratch: &Path, name: &str, version: &str) -> Result<Fetched, StepError> {
    let mut dependency = Table::new();
    dependency.insert("package".into(), Value::String(name.to_owned()));
    dependency.insert("version".into(), Value::String(requirement(version)));
    dependency.insert("default-features".into(), Value::Boolean(false));
    let package = [("name", ASKING), ("version", "0.0.0"), ("edition", "2021")];
    let package: Table =
        package.map(|(k, v)| (k.to_owned(), Value::String(v.to_owned()))).into_iter().collect();
    let mut manifest = Table::new();
    manifest.insert("package".into(), package.into());
    manifest.insert("workspace".into(), Table::new().into());
    manifest
        .insert("lib".into(), Table::from_iter([("path".to_owned(), Value::String("lib.rs".into()))]).into());
    manifest
        .insert("dependencies".into(), Table::from_iter([("wanted".to_owned(), dependency.into())]).into());
    let text = toml::to_string(&manifest).map_err(|e| StepError::new(e.to_string()))?;
    let asking = scratch.join("ask");
    std::fs::create_dir_all(&asking)?;
    std::fs::write(asking.join("Cargo.toml"), text)?;
    std::fs::write(asking.join("lib.rs"), "")?;
    let manifest = asking.join("Cargo.toml");
    let vendored = scratch.join("crates");
    let args = ["vendor", "--versioned-dirs", "--respect-source-config", "--manifest-path"].map(Path::new);
    cargo.run(&[&args[..], &[&manifest, &vendored]].concat())?;
    let version = resolved(&std::fs::read_to_string(asking.join("Cargo.lock"))?, name)?;
    let dir = vendored.join(format!("{name}-{version}"));
    let checksum = checksum(&dir)?.ok_or_else(|| {
        StepError::new(format!("cargo knows no checksum of crate {name} {version}")).exit(4)
    })?;
    let lock = std::fs::read(dir.join("Cargo.lock")).map_err(|_| {
        StepError::new(format!("crate {name} {version} was published without its Cargo.lock"))
            .help("take its source as {path: …} with a Cargo.lock beside it")
            .exit(4)
    })?;
    Ok(Fetched { dir, version, checksum, cargo_lock: hex(&Sha256::digest(&lock)) })
}

/// A whole version means exactly it; anything else is a requirement as in Cargo.toml.
fn requirement(version: &str) -> String {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let whole = core.split('.').count() == 3 && core.split('.').all(|p| p.parse::<u64>().is_ok());
    if whole { format!("={version}") } else { version.to_owned() }
}

/// The version that a Cargo.lock gives the asking package's only dependency.
fn resolved(lock: &str, name: &str) -> Result<String, StepError> {
    let lock: Table = toml::from_str(lock).map_err(|e| StepError::new(format!("Cargo.lock: {e}")))?;
    let packages = || lock.get("package").and_then(Value::as_array).into_iter().flatten();
    let of = |p: &Value, key: &str| p.get(key).and_then(Value::as_str).map(str::to_owned);
    let asking = packages().find(|p| of(p, "name").as_deref() == Some(ASKING));
    let wanted = asking.and_then(|p| p.get("dependencies")?.as_array()?.first()?.as_str().map(str::to_owned));
    let wanted = wanted.unwrap_or_default();
    let mut words = wanted.split(' ');
    let (found, version) = (words.next().unwrap_or_default(), words.next().map(str::to_owned));
    // Several versions of one name in the lock: the dependency says which.
    let version = version.or_else(|| {
        packages().find(|p| of(p, "name").as_deref() == Some(found)).and_then(|p| of(p, "version"))
    });
    match version {
        Some(version) if found == name => Ok(version),
        _ => Err(StepError::new(format!("cargo found no crate {name}")).exit(4)),
    }
}

/// The `package` checksum of a vendored crate; `None` for what came from a git repository.
pub fn checksum(dir: &Path) -> Result<Option<String>, StepError> {
    let path = dir.join(".cargo-checksum.json");
    let text =
        std::fs::read(&path).map_err(|e| StepError::new(format!("{}: {e}", path.display())).exit(4))?;
    let json: Json =
        serde_json::from_slice(&text).map_err(|e| StepError::new(format!("{}: {e}", path.display())))?;
    Ok(json.get("package").and_then(Json::as_str).map(str::to_owned))
}

/// Removes a file that may be absent.
pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_version_is_exact_and_a_part_is_a_requirement() {
        for (given, wanted) in [
            ("0.3.8", "=0.3.8"),
            ("1.0.0-rc.1", "=1.0.0-rc.1"),
            ("1.2.3+build", "=1.2.3+build"),
            ("0.3", "0.3"),
            ("^1.2.3", "^1.2.3"),
            (">=1, <2", ">=1, <2"),
        ] {
            assert_eq!(requirement(given), wanted);
        }
    }

    #[test]
    fn the_lock_says_which_version_was_taken() {
        let lock = |dependency: &str| {
            format!(
                "version = 4\n[[package]]\nname = \"{ASKING}\"\nversion = \"0.0.0\"\ndependencies = [\"{dependency}\"]\n\
                 [[package]]\nname = \"zinit\"\nversion = \"0.2.0\"\n[[package]]\nname = \"zinit\"\nversion = \"0.3.8\"\n"
            )
        };
        assert_eq!(resolved(&lock("zinit 0.3.8"), "zinit").unwrap(), "0.3.8");
        assert_eq!(resolved(&lock("zinit"), "zinit").unwrap(), "0.2.0");
        assert_eq!(resolved(&lock("other"), "zinit").unwrap_err().exit, 4);
    }
}
