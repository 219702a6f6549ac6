//! Why a name that a module asks for has no file: the likely reason, from what WHENCE and the source have instead.
//! Knows names; makes no sentence longer than a line.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_engine::load::nearest;
use mosbuild_formats::whence::{self, Found};

use super::select::{Request, Selection};
use super::source::FirmwareSource;

/// Names among which the nearest is looked for: very many would take long.
const COMPARED: usize = 2000;
/// Suffixes of files that a distribution compressed.
const COMPRESSED: [&str; 2] = [".xz", ".zst"];

/// A likely reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No name below lib/firmware.
    NoName(String),
    /// WHENCE names this file, and the source does not have it.
    NotInSource(String),
    /// The source has it, but WHENCE does not name it.
    Unlisted,
    /// The source has it compressed.
    Compressed(String),
    /// A link whose target is not there.
    Dangling,
    /// A file of the same name is elsewhere.
    Moved(String),
    /// Another version that the module asks for is there.
    AnotherVersion(String),
    /// There are other versions, none of which the module asks for.
    OtherVersions(String),
    /// The name most like it.
    Near(String),
    /// A glob that fits nothing.
    NoFit,
    /// Nothing like it.
    Unknown,
}

impl Reason {
    /// What is to be read first: the smallest.
    pub fn rank(&self) -> u8 {
        match self {
            Reason::NotInSource(_) => 0,
            Reason::Unlisted | Reason::Compressed(_) | Reason::Dangling => 1,
            Reason::Moved(_) | Reason::OtherVersions(_) => 2,
            Reason::Near(_) | Reason::Unknown | Reason::NoName(_) => 3,
            Reason::AnotherVersion(_) | Reason::NoFit => 4,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reason::NoName(why) => write!(f, "{why}"),
            Reason::NotInSource(path) => {
                write!(f, "WHENCE names {path}, but the source does not have it")
            }
            Reason::Unlisted => {
                f.write_str("the source has it, but WHENCE does not name it, nor its licence: not taken")
            }
            Reason::Compressed(path) => {
                write!(f, "the source has {path}: take one that is not compressed")
            }
            Reason::Dangling => f.write_str("WHENCE has a link of this name that leads to no file"),
            Reason::Moved(path) => write!(f, "renamed or moved: {path} is there"),
            Reason::AnotherVersion(path) => {
                write!(f, "the driver goes through versions, and {path} is there")
            }
            Reason::OtherVersions(path) => {
                write!(
                    f,
                    "other versions are there, such as {path}: the source is older or newer than the driver"
                )
            }
            Reason::Near(path) => write!(f, "not there; the nearest name is {path}"),
            Reason::NoFit => f.write_str("nothing fits; such files are for certain boards only"),
            Reason::Unknown => f.write_str(
                "nothing like it is there: it may not be redistributed, or comes from the vendor alone",
            ),
        }
    }
}

/// The names that there are, arranged for finding reasons.
pub struct Reasons<'a> {
    selection: &'a Selection,
    source: &'a FirmwareSource<'a>,
    /// By the name without folders.
    by_file: BTreeMap<&'a str, Vec<&'a str>>,
    /// By the name without folders and version.
    by_stem: BTreeMap<String, Vec<&'a str>>,
    /// By folder.
    by_folder: BTreeMap<&'a str, Vec<&'a str>>,
    /// Names that modules ask for and that have a file.
    served: BTreeSet<&'a str>,
}

impl<'a> Reasons<'a> {
    /// `listed` are all names of files and links.
    pub fn new(
        selection: &'a Selection,
        source: &'a FirmwareSource<'a>,
        listed: &'a [String],
    ) -> Reasons<'a> {
        let mut reasons = Reasons {
            selection,
            source,
            by_file: BTreeMap::new(),
            by_stem: BTreeMap::new(),
            by_folder: BTreeMap::new(),
            served: BTreeSet::new(),
        };
        for path in listed {
            let (folder, file) = split(path);
            reasons.by_file.entry(file).or_default().push(path);
            reasons.by_folder.entry(folder).or_default().push(path);
            if let Some((stem, _)) = versioned(file) {
                reasons.by_stem.entry(stem).or_default().push(path);
            }
        }
        let served = |(_, found): &&(Request, Found)| found.files.iter().any(|path| source.has(path));
        reasons.served = selection.found.iter().filter(served).map(|(r, _)| r.name.as_str()).collect();
        reasons
    }

    /// Why a request has no file.
    pub fn of(&self, request: &Request, found: &Found) -> Reason {
        let name = request.name.as_str();
        if let Some(path) = found.files.first() {
            return Reason::NotInSource(path.clone());
        }
        if let Some(why) = whence::request_fault(name) {
            return Reason::NoName(why);
        }
        if self.selection.whence.is_some() && self.source.has_any(name) {
            return Reason::Unlisted;
        }
        if let Some(path) =
            COMPRESSED.iter().map(|end| format!("{name}{end}")).find(|path| self.source.has(path))
        {
            return Reason::Compressed(path);
        }
        if whence::is_glob(name) {
            return Reason::NoFit;
        }
        let (folder, file) = split(name);
        if self.by_folder.get(folder).is_some_and(|names| names.contains(&name)) {
            return Reason::Dangling;
        }
        if let Some(path) = self.by_file.get(file).and_then(|paths| paths.first()) {
            return Reason::Moved((*path).to_owned());
        }
        if let Some((stem, _)) = versioned(file)
            && let Some(others) = self.by_stem.get(&stem)
        {
            // In the same folder first; of several the newest.
            let newest = |same: bool| {
                let here = others.iter().filter(|path| !same || split(path).0 == folder);
                here.max_by_key(|path| versioned(split(path).1).map(|(_, version)| version))
            };
            let another = others.iter().filter(|path| self.served.contains(*path));
            let another = another.max_by_key(|path| versioned(split(path).1).map(|(_, version)| version));
            if let Some(path) = another {
                return Reason::AnotherVersion((*path).to_owned());
            }
            if let Some(path) = newest(true).or(newest(false)) {
                return Reason::OtherVersions((*path).to_owned());
            }
        }
        let beside = self.by_folder.get(folder).into_iter().flatten().take(COMPARED).copied();
        match nearest(name, beside) {
            Some(path) => Reason::Near(path.to_owned()),
            None => Reason::Unknown,
        }
    }
}

/// Folder and file of a path.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A file's name without the version at its end, and the version: `iwlwifi-cc-a0-77.ucode` is `iwlwifi-cc-a0-.ucode`
/// and 77. `None` if it ends in no number.
fn versioned(file: &str) -> Option<(String, Vec<u64>)> {
    // The suffix has letters: that of bnx2x-e1-7.13.15.0.fw is not .15.
    let dot = file.rfind('.').filter(|at| file[at + 1..].starts_with(|c: char| c.is_ascii_alphabetic()));
    let (stem, suffix) = file.split_at(dot.unwrap_or(file.len()));
    // One letter may end a version: bnx2-mips-09-6.2.1b.
    let body = match stem.strip_suffix(|c: char| c.is_ascii_lowercase()) {
        Some(body) if body.ends_with(|c: char| c.is_ascii_digit()) => body,
        _ => stem,
    };
    let at = body.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let version = body[at..].trim_start_matches('.');
    if version.is_empty() {
        return None;
    }
    let numbers = version.split('.').map(|n| n.parse().unwrap_or(u64::MAX)).collect();
    Some((format!("{}{suffix}", &stem[..body.len() - version.len()]), numbers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_end_names() {
        let of = versioned;
        assert_eq!(of("iwlwifi-cc-a0-77.ucode"), Some(("iwlwifi-cc-a0-.ucode".into(), vec![77])));
        assert_eq!(of("bnx2x-e1-7.13.15.0.fw"), Some(("bnx2x-e1-.fw".into(), vec![7, 13, 15, 0])));
        assert_eq!(of("bnx2-mips-09-6.2.1b.fw"), Some(("bnx2-mips-09-.fw".into(), vec![6, 2, 1])));
        assert_eq!(of("dg2_guc_70.bin"), Some(("dg2_guc_.bin".into(), vec![70])));
        assert_eq!(of("ice-1.3.26.0.pkg"), Some(("ice-.pkg".into(), vec![1, 3, 26, 0])));
        assert_eq!(of("99999999999999999999999.fw"), Some((".fw".into(), vec![u64::MAX])));
        assert_eq!(of("tg3.bin"), Some(("tg.bin".into(), vec![3])));
        for none in ["tg3_tso.bin", "a.fw", "", ".", "...", "é.fw"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
