//! `mosbuild.lock`: the pins of every source that may move, read and written as sorted TOML.
//! Knows neither how a pin is found (`Builtin::lock` does) nor when the file is written (build/).
//!
//! ```toml
//! version = 1
//!
//! [[source]]
//! id = "packages image"
//! base = "5c0f…"
//!
//! [source.package]
//! jq = { blake3 = "…", size = "160041", version = "1.7.1-r0" }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use toml::Value;

use crate::rule::PlanError;

/// The file's name beside mosbuild.yaml.
pub const FILE_NAME: &str = "mosbuild.lock";
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct LockFile {
    version: u32,
    #[serde(default)]
    source: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

/// The id of what a source stands for with a profile, where that differs from what it stands for without.
pub fn with_profile(id: &str, profile: &str) -> String {
    format!("{id} (profile {profile})")
}

/// A row of a pin's table: one package, one index.
pub type Row = BTreeMap<String, String>;

/// What a source stood for when it was locked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// Single values: `size`, `blake3`, `version`, …
    pub fields: BTreeMap<String, String>,
    /// Tables by name (`package`, `index`), their rows by name.
    pub tables: BTreeMap<String, BTreeMap<String, Row>>,
}

impl Pin {
    /// A pin of single values.
    pub fn of<const N: usize>(fields: [(&str, String); N]) -> Pin {
        Pin { fields: fields.map(|(k, v)| (k.to_owned(), v)).into(), tables: BTreeMap::new() }
    }

    /// A single value; absent is empty.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The rows of a table, by name.
    pub fn rows(&self, table: &str) -> impl Iterator<Item = (&String, &Row)> {
        self.tables.get(table).into_iter().flatten()
    }

    /// A row of a table.
    pub fn row(&self, table: &str, name: &str) -> Option<&Row> {
        self.tables.get(table)?.get(name)
    }

    fn read(fields: BTreeMap<String, Value>) -> Option<Pin> {
        let mut pin = Pin::default();
        for (name, value) in fields {
            match value {
                Value::String(text) => {
                    pin.fields.insert(name, text);
                }
                Value::Table(table) => {
                    let row = |value: Value| match value {
                        Value::Table(row) => {
                            let text = |(k, v): (String, Value)| Some((k, v.as_str()?.to_owned()));
                            row.into_iter().map(text).collect::<Option<Row>>()
                        }
                        _ => None,
                    };
                    let rows = table.into_iter().map(|(k, v)| Some((k, row(v)?))).collect::<Option<_>>()?;
                    pin.tables.insert(name, rows);
                }
                _ => return None,
            }
        }
        Some(pin)
    }

    fn write(&self, id: &str, out: &mut String) {
        let key = |name: &str| {
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quoted(name) }
        };
        let _ = writeln!(out, "\n[[source]]\nid = {}", quoted(id));
        for (name, value) in &self.fields {
            let _ = writeln!(out, "{} = {}", key(name), quoted(value));
        }
        for (name, rows) in &self.tables {
            let _ = writeln!(out, "\n[source.{}]", key(name));
            for (name, row) in rows {
                let cells: Vec<String> =
                    row.iter().map(|(k, v)| format!("{} = {}", key(k), quoted(v))).collect();
                let _ = writeln!(out, "{} = {{ {} }}", key(name), cells.join(", "));
            }
        }
    }
}

/// A basic string of TOML on one line, whatever is in it: the toml crate would spread some over several.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What may be done about a source that the lock does not have, or not as it is asked for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Find its pin and add it, as cargo does.
    Make,
    /// `--locked`: an error that says so.
    Locked,
}

/// Which pins are to be found anew although the lock has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Update {
    /// None: what the lock has stays.
    #[default]
    Keep,
    /// All.
    All,
    /// Of targets of these names, and packages of these names.
    Names(BTreeSet<String>),
}

impl Update {
    /// Whether all pins of a target are to be found anew.
    pub fn takes(&self, target: &str) -> bool {
        match self {
            Update::Keep => false,
            Update::All => true,
            Update::Names(names) => names.contains(target),
        }
    }

    /// Whether a row of a pin (a package) is to be found anew, though not the whole pin.
    pub fn takes_row(&self, row: &str) -> bool {
        matches!(self, Update::Names(names) if names.contains(row))
    }
}

/// The pins of one workspace.
#[derive(Clone, Debug)]
pub struct Pins {
    entries: BTreeMap<String, Pin>,
    missing: Missing,
    /// Ids added or changed since the file was read.
    changed: BTreeSet<String>,
    dropped: bool,
}

impl Pins {
    /// Reads the lock beside mosbuild.yaml; a missing file has no pins.
    pub fn read(root: &Path, missing: Missing) -> Result<Pins, PlanError> {
        let path = root.join(FILE_NAME);
        let mut entries = BTreeMap::new();
        let damaged = |what: String| {
            PlanError::new(2, format!("{FILE_NAME} cannot be read: {what}"))
                .help("restore it from version control, or delete it to lock every source anew")
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                if let Some(line) = text.lines().position(|line| line.starts_with("<<<<<<< ")) {
                    let what = format!("line {} begins a conflict of a merge", line + 1);
                    return Err(PlanError::new(2, format!("{FILE_NAME} cannot be read: {what}"))
                        .help("take either side whole (`git checkout --ours mosbuild.lock`), then run `mosbuild lock`"));
                }
                let file: LockFile = toml::from_str(&text).map_err(|e| damaged(e.to_string()))?;
                if file.version != VERSION {
                    return Err(PlanError::new(
                        2,
                        format!(
                            "{FILE_NAME} has version {}; this program reads version {VERSION}",
                            file.version
                        ),
                    ));
                }
                for entry in file.source {
                    let pin = Pin::read(entry.fields)
                        .ok_or_else(|| damaged(format!("the entry {:?} is not understood", entry.id)))?;
                    if entries.insert(entry.id.clone(), pin).is_some() {
                        return Err(damaged(format!("{:?} is there twice", entry.id)));
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(PlanError::new(2, format!("{}: {e}", path.display()))),
        }
        Ok(Pins { entries, missing, changed: BTreeSet::new(), dropped: false })
    }

    /// The pin of a source.
    pub fn get(&self, id: &str) -> Option<&Pin> {
        self.entries.get(id)
    }

    /// All pins by id.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Pin)> {
        self.entries.iter()
    }

    /// Whether a missing pin may be made; else why not.
    pub fn may_make(&self, id: &str) -> Result<(), PlanError> {
        match self.missing {
            Missing::Make => Ok(()),
            Missing::Locked => {
                let what = match self.entries.contains_key(id) {
                    true => format!("{FILE_NAME} has {id} as it was asked for before, not as it is now"),
                    false => format!("{id} is not in {FILE_NAME}"),
                };
                Err(PlanError::new(4, format!("{what}, and --locked was given"))
                    .help("run `mosbuild lock`, and commit the lock"))
            }
        }
    }

    /// Adds a pin, or replaces it.
    pub fn insert(&mut self, id: &str, pin: Pin) {
        if self.entries.get(id) != Some(&pin) {
            self.entries.insert(id.to_owned(), pin);
            self.changed.insert(id.to_owned());
        }
    }

    /// Drops pins that nothing asks for any more.
    pub fn retain(&mut self, asked: &BTreeSet<String>) {
        let before = self.entries.len();
        self.entries.retain(|id, _| asked.contains(id));
        self.dropped |= self.entries.len() != before;
    }

    /// Whether there is something to be written.
    pub fn changed(&self) -> bool {
        self.dropped || !self.changed.is_empty()
    }

    /// The file's text.
    fn text(&self) -> String {
        let mut text = format!(
            "# Pins of every source, written by mosbuild. Commit it; do not edit it.\nversion = {VERSION}\n"
        );
        for (id, pin) in &self.entries {
            pin.write(id, &mut text);
        }
        text
    }

    /// Writes the lock if a pin changed; by rename, so that a reader never sees half of it.
    pub fn write(&self, root: &Path) -> std::io::Result<()> {
        if !self.changed() {
            return Ok(());
        }
        let temporary = root.join(format!("{FILE_NAME}.tmp{}", std::process::id()));
        std::fs::write(&temporary, self.text())?;
        std::fs::rename(temporary, root.join(FILE_NAME))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pins_are_written_sorted_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut pins = Pins::read(dir.path(), Missing::Make).unwrap();
        pins.write(dir.path()).unwrap();
        assert!(!dir.path().join(FILE_NAME).exists(), "a lock without pins is not written");
        let mut packages = Pin::of([("base", "5c0f".into())]);
        let row: Row =
            [("version".to_owned(), "1.7.1-r0".to_owned()), ("size".into(), "160041".into())].into();
        packages.tables.entry("package".into()).or_default().insert("jq".into(), row);
        pins.insert("packages image", packages.clone());
        pins.insert("crate a 1.0.0", Pin::of([("checksum", "c".into())]));
        pins.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(
            text,
            "# Pins of every source, written by mosbuild. Commit it; do not edit it.\nversion = 1\n\n\
             [[source]]\nid = \"crate a 1.0.0\"\nchecksum = \"c\"\n\n\
             [[source]]\nid = \"packages image\"\nbase = \"5c0f\"\n\n\
             [source.package]\njq = { size = \"160041\", version = \"1.7.1-r0\" }\n"
        );
        let again = Pins::read(dir.path(), Missing::Locked).unwrap();
        assert_eq!(again.get("packages image"), Some(&packages));
        assert!(!again.changed());
        let refused = again.may_make("crate c 1.0.0").unwrap_err();
        assert_eq!(refused.exit, 4);
        assert!(refused.message.contains("--locked"), "{}", refused.message);
        let mut fewer = again.clone();
        fewer.retain(&["packages image".to_owned()].into());
        assert!(fewer.changed() && fewer.get("crate a 1.0.0").is_none());
    }

    #[test]
    fn a_broken_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let twice = "version = 1\n[[source]]\nid = \"a\"\n[[source]]\nid = \"a\"\n";
        let conflict = "version = 1\n<<<<<<< HEAD\n=======\n>>>>>>> other\n";
        std::fs::write(dir.path().join(FILE_NAME), conflict).unwrap();
        let e = Pins::read(dir.path(), Missing::Make).err().unwrap();
        assert!(e.exit == 2 && e.message.contains("line 2 begins a conflict"), "{}", e.message);
        for text in ["version = [", "version = 2", "version = 1\n[[source]]\nid = \"a\"\nx = 1\n", twice] {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            assert_eq!(Pins::read(dir.path(), Missing::Make).err().unwrap().exit, 2, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_pin_survives_the_file(
            id in ".{0,20}",
            fields in prop::collection::btree_map("[a-z .:/\"]{1,9}", ".{0,20}", 0..4),
            rows in prop::collection::btree_map(".{0,9}", prop::collection::btree_map("[a-z]{1,4}", ".{0,9}", 0..3), 0..4),
        ) {
            prop_assume!(!fields.contains_key("id"));
            let mut pin = Pin { fields, tables: BTreeMap::new() };
            pin.fields.remove("package");
            pin.tables.insert("package".into(), rows);
            let dir = tempfile::tempdir().unwrap();
            let mut pins = Pins::read(dir.path(), Missing::Make).unwrap();
            pins.insert(&id, pin.clone());
            pins.write(dir.path()).unwrap();
            let again = Pins::read(dir.path(), Missing::Make);
            let again = again.map_err(|e| TestCaseError::fail(e.message))?;
            prop_assert_eq!(again.get(&id), Some(&pin));
        }
    }
}
