//! `mosbuild.lock`: the pins of every source that may move, read and written as sorted TOML.
//! Knows neither how a pin is found (rules do) nor when the file is written (build/).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::rule::PlanError;

/// The file's name beside mosbuild.yaml.
pub const FILE_NAME: &str = "mosbuild.lock";

#[derive(Serialize, Deserialize)]
struct LockFile {
    version: u32,
    #[serde(default)]
    source: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    id: String,
    #[serde(flatten)]
    fields: BTreeMap<String, String>,
}

/// What may be done about a source that the lock does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Find its pin and add it, as cargo does.
    Make,
    /// `--locked`: an error that says so.
    Locked,
    /// `--offline`, and commands that only read.
    Offline,
}

/// The pins of one workspace while it is planned.
pub struct Pins {
    entries: BTreeMap<String, BTreeMap<String, String>>,
    missing: Missing,
    /// Ids added since the file was read.
    pub added: Vec<String>,
}

impl Pins {
    /// Reads the lock beside mosbuild.yaml; a missing file has no pins.
    pub fn read(root: &Path, missing: Missing) -> Result<Pins, PlanError> {
        let path = root.join(FILE_NAME);
        let mut entries = BTreeMap::new();
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let file: LockFile = toml::from_str(&text).map_err(|e| {
                    PlanError::new(2, format!("{FILE_NAME} cannot be read: {e}"))
                        .help("restore it from version control, or delete it to lock every source anew")
                })?;
                if file.version != 1 {
                    return Err(PlanError::new(
                        2,
                        format!("{FILE_NAME} has version {}; this program reads version 1", file.version),
                    ));
                }
                entries.extend(file.source.into_iter().map(|e| (e.id, e.fields)));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(PlanError::new(2, format!("{}: {e}", path.display()))),
        }
        Ok(Pins { entries, missing, added: Vec::new() })
    }

    /// The fields of a source's pin.
    pub fn get_or_make(
        &mut self,
        id: &str,
        make: impl FnOnce() -> Result<BTreeMap<String, String>, PlanError>,
    ) -> Result<BTreeMap<String, String>, PlanError> {
        if let Some(fields) = self.entries.get(id) {
            return Ok(fields.clone());
        }
        match self.missing {
            Missing::Make => {
                let fields = make()?;
                self.entries.insert(id.into(), fields.clone());
                self.added.push(id.into());
                Ok(fields)
            }
            Missing::Locked => {
                Err(PlanError::new(4, format!("{id} is not in {FILE_NAME}, and --locked was given"))
                    .help("run `mosbuild build` without --locked once, and commit the lock"))
            }
            Missing::Offline => {
                Err(PlanError::new(4, format!("{id} is not in {FILE_NAME}, and the network may not be used"))
                    .help("run `mosbuild build` without --offline once, and commit the lock"))
            }
        }
    }

    /// Writes the lock if pins were added; by rename, so that a reader never sees half of it.
    pub fn write(&self, root: &Path) -> std::io::Result<()> {
        if self.added.is_empty() {
            return Ok(());
        }
        let source = self
            .entries
            .iter()
            .map(|(id, fields)| Entry { id: id.clone(), fields: fields.clone() })
            .collect();
        let body = toml::to_string(&LockFile { version: 1, source }).map_err(std::io::Error::other)?;
        let text = format!("# Pins of every source, written by mosbuild. Commit it; do not edit it.\n{body}");
        let temporary = root.join(format!("{FILE_NAME}.tmp{}", std::process::id()));
        std::fs::write(&temporary, text)?;
        std::fs::rename(temporary, root.join(FILE_NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_made_once_written_sorted_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut pins = Pins::read(dir.path(), Missing::Make).unwrap();
        for id in ["crate b 2.0.0", "crate a 1.0.0"] {
            let made = pins.get_or_make(id, || Ok([("checksum".to_owned(), format!("sum of {id}"))].into()));
            assert_eq!(made.unwrap()["checksum"], format!("sum of {id}"));
        }
        pins.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert!(text.find("crate a").unwrap() < text.find("crate b").unwrap(), "{text}");
        let mut again = Pins::read(dir.path(), Missing::Locked).unwrap();
        let fields = again.get_or_make("crate a 1.0.0", || panic!("made twice")).unwrap();
        assert_eq!(fields["checksum"], "sum of crate a 1.0.0");
        let refused = again.get_or_make("crate c 1.0.0", || panic!("made although locked")).unwrap_err();
        assert_eq!(refused.exit, 4);
        assert!(refused.message.contains("--locked"));
    }

    #[test]
    fn a_broken_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "version = [").unwrap();
        assert_eq!(Pins::read(dir.path(), Missing::Make).err().unwrap().exit, 2);
    }
}
