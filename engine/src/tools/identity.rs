//! What a tool is, for keys, and how two such differ, for `why`.
//!
//! Plain data; does not know how it was found out.

use std::collections::BTreeMap;

use mosbuild_cache::Digest;
use serde::{Deserialize, Serialize};

/// What a tool is. Equal identities are taken to behave equally.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The tool's name, as declared.
    pub tool: String,
    /// Name and version of each package, sorted; `alternative NAME` with the path it points to.
    pub packages: Vec<(String, String)>,
    /// The digest of a program that no package owns.
    pub digest: Option<Digest>,
    /// What the program says of itself.
    pub text: Option<String>,
}

/// One difference between two identities of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The package, or `file`, or `version` for what a program says of itself.
    pub what: String,
    /// Before; none if it is new.
    pub old: Option<String>,
    /// After; none if it is gone.
    pub new: Option<String>,
}

impl Identity {
    /// All that differs, sorted by name.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let (old, new) = (self.parts(), new.parts());
        let names: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
        names
            .into_iter()
            .filter(|name| old.get(*name) != new.get(*name))
            .map(|name| Change {
                what: name.clone(),
                old: old.get(name).cloned(),
                new: new.get(name).cloned(),
            })
            .collect()
    }

    fn parts(&self) -> BTreeMap<String, String> {
        let mut parts: BTreeMap<_, _> = self.packages.iter().cloned().collect();
        parts.extend(self.digest.map(|digest| ("file".to_owned(), digest.hex())));
        parts.extend(self.text.clone().map(|text| ("version".to_owned(), text)));
        parts
    }
}
