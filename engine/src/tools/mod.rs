//! The host's programs that steps may use: where they are, what they are (for keys), and how a sandbox shows them.
//!
//! Knows dpkg's database and rustup. Knows no target, no key and no scheduler.
//!
//! # What a step finds on its PATH
//! The declared tools; every program of the packages that own them and of those packages' installed dependencies
//! (so `gcc` brings `as` and `ld`); and the programs of the host's Essential packages and their dependencies (`sh`,
//! coreutils, `grep`, …). All of these are in the key: the first two by the tool's identity, the last by that of
//! [`BASE`]. `/usr` as a whole is visible read-only, so an absolute path into it still reaches a program that is not
//! declared and is in no key.
//!
//! # Identity
//! On a host with dpkg: names and versions of the packages that own the tool, of what they recommend directly
//! (libc6-dev is only recommended by gcc), and of the dependency closure of these; and where an alternative points.
//! A tool that no package owns: the digest of its file. Rust: `-vV`. A package's name is accepted as a tool too, for
//! headers and libraries (`libelf-dev`).

mod bin_dir;
mod dpkg;
mod find;
mod identity;
mod memo;
mod missing;
mod rust;
mod system;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::exec::Mount;

use dpkg::Dpkg;
use find::Found;
use memo::Memo;

pub use identity::{Change, Identity};
pub use missing::{Missing, explain_127, explain_tool, together};

/// The name under which [`Host::identify`] gives the identity of what every step can use undeclared.
pub const BASE: &str = "(essential)";

/// Where a sandbox has the programs of its PATH.
pub const BIN_DIR: &str = "/mosbuild/bin";
/// Where a sandbox has a Rust toolchain that is not the distribution's.
pub const RUST_DIR: &str = "/mosbuild/rust";
/// Where a sandbox has declared programs that the host keeps outside of /usr.
const FILES_DIR: &str = "/mosbuild/tools";

/// What a sandbox must be given so that tools are found in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    /// System folders, a minimal /etc, and [`BIN_DIR`]; to be mounted before anything else.
    pub mounts: Vec<Mount>,
    /// The value of PATH.
    pub path: String,
    /// Variables that the tools need.
    pub env: Vec<(OsString, OsString)>,
}

/// The host's tools. Cheap to clone; clones share what they have learnt.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: PathBuf,
    surroundings: Surroundings,
    known: Mutex<Known>,
}

/// What of the process's surroundings decides which tools are found.
#[derive(Debug, Clone)]
struct Surroundings {
    /// Folders of the user's PATH.
    path: Vec<PathBuf>,
    /// Below this is `var/lib/dpkg`.
    dpkg_root: PathBuf,
    /// The workspace: a toolchain file there chooses the Rust toolchain.
    workspace: PathBuf,
}

#[derive(Debug, Default)]
struct Known {
    memo: Memo,
    changed: bool,
    /// Looked at in this run.
    found: BTreeMap<String, Arc<Found>>,
    visible: HashMap<Vec<String>, Arc<Visible>>,
    dpkg: Option<Option<Arc<Dpkg>>>,
}

impl Host {
    /// The tools of this host. `state` is the workspace's state folder: folders of links are kept in it, and its
    /// parent is the workspace. `memo` is what [`Host::memo`] gave in an earlier run; anything else is ignored.
    /// `MOSBUILD_DPKG_ROOT` in the environment names another root for dpkg's database.
    pub fn open(state: &Path, memo: Option<&[u8]>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let surroundings = Surroundings {
            path: std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect(),
            dpkg_root: std::env::var_os("MOSBUILD_DPKG_ROOT").map_or("/".into(), PathBuf::from),
            workspace: state.parent().unwrap_or(state).to_path_buf(),
        };
        Self::with(state, memo, surroundings)
    }

    fn with(state: &Path, memo: Option<&[u8]>, surroundings: Surroundings) -> Self {
        let memo = memo.map(Memo::decode).unwrap_or_default();
        let known = Mutex::new(Known { memo, ..Known::default() });
        Self(Arc::new(Inner { state: state.to_path_buf(), surroundings, known }))
    }

    /// The identity of each tool, and that of [`BASE`]; or every tool that is missing.
    pub fn identify(&self, names: &[String]) -> Result<BTreeMap<String, Identity>, Vec<Missing>> {
        let (identities, missing) = self.identify_what_is_there(names);
        if missing.is_empty() { Ok(identities) } else { Err(missing) }
    }

    /// The identities of the tools that are there, and of [`BASE`], and every tool that is missing.
    pub fn identify_what_is_there(&self, names: &[String]) -> (BTreeMap<String, Identity>, Vec<Missing>) {
        let mut known = self.known();
        let (mut identities, mut missing) = (BTreeMap::new(), Vec::new());
        for name in names.iter().map(String::as_str).chain([BASE]) {
            match self.found(&mut known, name) {
                Ok(found) => {
                    identities.insert(name.to_owned(), found.identity.clone());
                }
                Err(tool) => missing.push(tool),
            }
        }
        (identities, missing)
    }

    /// What a step with these tools sees. The same folder of links serves all steps with the same tools.
    pub fn layout(&self, names: &[String]) -> io::Result<Visible> {
        let mut key: Vec<String> = names.to_vec();
        key.sort();
        key.dedup();
        let mut known = self.known();
        if let Some(visible) = known.visible.get(&key) {
            return Ok(Visible::clone(visible));
        }
        let missing = |tool: Missing| io::Error::new(io::ErrorKind::NotFound, tool.to_string());
        let base = self.found(&mut known, BASE).map_err(missing)?;
        let tools: Vec<_> =
            key.iter().map(|name| self.found(&mut known, name)).collect::<Result<_, _>>().map_err(missing)?;
        let visible = Arc::new(system::visible(&self.0.state, &base, &tools)?);
        known.visible.insert(key, visible.clone());
        Ok(Visible::clone(&visible))
    }

    /// Paths by whose stat it can be told that the tools identified in this run are what they were.
    pub fn watched(&self) -> Vec<PathBuf> {
        let known = self.known();
        let mut paths: Vec<PathBuf> = known
            .found
            .values()
            .flat_map(|found| found.stamps.iter().map(|(path, _)| path.clone()))
            .collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Bytes to give to the next [`Host::open`]; none if they would be the same as this time.
    pub fn memo(&self) -> Option<Vec<u8>> {
        let known = self.known();
        known.changed.then(|| known.memo.encode())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, known: &mut Known, name: &str) -> Result<Arc<Found>, Missing> {
        if let Some(found) = known.found.get(name) {
            return Ok(found.clone());
        }
        let surroundings = &self.0.surroundings;
        let key = memo::key(name, surroundings);
        let found = match known.memo.recall(&key) {
            Some(found) => found,
            None => {
                let root = &surroundings.dpkg_root;
                let dpkg = known.dpkg.get_or_insert_with(|| Dpkg::read(root).map(Arc::new)).clone();
                let found = Arc::new(find::find(name, surroundings, dpkg.as_deref())?);
                known.memo.remember(key, found.clone());
                known.changed = true;
                found
            }
        };
        known.found.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}
