//! The main step of `firmware`: what was asked for, as files, links and licences.
//! Knows WHENCE and the source; how entries are made is in place.rs, what is said of the rest in report.rs.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::whence::{Catalog, Found, Whence};

use super::names::NamesOf;
use super::reason::{self, Reason};
use super::report::{self, Missing};
use super::source::FirmwareSource;
use super::{place, version_in};
use crate::steps::{tree_of, tree_output};

/// Inputs `source` and, where there are modules, `names`; params `extra` (one a line), `compress`, `licenses` and
/// `version` (empty if the source's name tells none). Output `tree`; facts `version`, `count`, `missing`.
pub struct Select;

/// A name that is asked for.
pub struct Request {
    /// A path, a folder or a glob below lib/firmware.
    pub name: String,
    /// The modules that have it; none of a name in `extra`.
    pub modules: Vec<String>,
}

impl Request {
    /// Whether a person asked for it.
    pub fn is_extra(&self) -> bool {
        self.modules.is_empty()
    }
}

/// What the names asked for stand for.
pub struct Selection {
    /// `None`: the source has no WHENCE, and its own names are what there is.
    pub whence: Option<Whence>,
    /// Names of firmware.
    pub names: Catalog,
    /// Each request with what it found, in the order of requests.
    pub found: Vec<(Request, Found)>,
}

impl Builtin for Select {
    fn name(&self) -> &'static str {
        "firmware-select"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let mut selection = None;
        let mut source = FirmwareSource::open(cx, "source", &mut |text| {
            let whence = Whence::parse(text).map_err(|e| {
                StepError::new(format!("WHENCE of the source cannot be read:\n{e}"))
                    .help("a copy of the source with these lines mended can be given as {path: …}")
            })?;
            let names = whence.catalog();
            let new = Selection::new(Some(whence), names, requests(cx)?)?;
            let paths = new.paths();
            selection = Some(new);
            Ok(paths)
        })?;
        let selection = match selection {
            Some(selection) if source.whence.is_some() => selection,
            _ => {
                if cx.param("compress") != "none" {
                    return Err(StepError::new(
                        "the source has no WHENCE, so nothing tells which files must not be compressed",
                    )
                    .help("leave compress out, or take a source that has WHENCE at its top"));
                }
                (cx.warn)(report::NO_WHENCE);
                let selection = Selection::new(None, source.names.clone(), requests(cx)?)?;
                source.bring(&selection.paths())?;
                selection
            }
        };
        let missing = selection.missing(&source)?;
        let placed = place::place(cx, &source, &selection)?;
        let mut notes = Vec::new();
        if selection.whence.is_none() {
            notes.push(report::NO_WHENCE.to_owned());
        }
        let asked = selection.found.len();
        if let Some(warning) = report::short(&missing, asked) {
            (cx.warn)(&warning);
        }
        notes.extend(report::whole(&missing));
        notes.extend(placed.notes);
        notes.iter().for_each(|note| (cx.log)(note));
        (cx.log)(&format!("{} files and {} links for {asked} names", placed.count, placed.links));

        let version = match cx.param("version") {
            "" => version_in(&source.top).unwrap_or_else(|| source.digest.hex()[..7].to_owned()),
            version => version.to_owned(),
        };
        let tree = tree_output(cx.store, &tree_of(placed.entries)?)?;
        let facts = [
            ("version", version),
            ("count", placed.count.to_string()),
            ("missing", missing.len().to_string()),
        ];
        Ok(Made {
            outputs: BTreeMap::from([("tree".to_owned(), tree)]),
            facts: facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            notes,
        })
    }
}

/// What is asked for: by modules, and in `extra`.
fn requests(cx: &BuiltinCx<'_>) -> Result<Vec<Request>, StepError> {
    let mut requests = Vec::new();
    if cx.has("names") {
        let names: NamesOf = serde_json::from_slice(&cx.bytes("names")?)
            .map_err(|e| StepError::new(format!("the list of names is damaged: {e}")))?;
        let request = |(name, modules): (String, BTreeSet<String>)| Request {
            name,
            modules: modules.into_iter().collect(),
        };
        requests.extend(names.into_iter().map(request));
    }
    let extra = cx.param("extra").lines().filter(|line| !line.is_empty());
    requests.extend(extra.map(|name| Request { name: name.to_owned(), modules: Vec::new() }));
    Ok(requests)
}

impl Selection {
    fn new(whence: Option<Whence>, names: Catalog, requests: Vec<Request>) -> Result<Selection, StepError> {
        let look_up = |request: Request| {
            let found = names.look_up(&request.name);
            let found = found.map_err(|e| StepError::new(format!("{}: {e}", request.name)))?;
            Ok((request, found))
        };
        let found = requests.into_iter().map(look_up).collect::<Result<_, StepError>>()?;
        Ok(Selection { whence, names, found })
    }

    /// Files of firmware that were found.
    pub fn files(&self) -> BTreeSet<&String> {
        self.found.iter().flat_map(|(_, found)| &found.files).collect()
    }

    /// Paths of the source that are needed for the tree, where there are such.
    fn paths(&self) -> BTreeSet<String> {
        let mut paths: BTreeSet<String> = self.files().into_iter().cloned().collect();
        if let Some(whence) = &self.whence {
            let files = whence.files.iter().filter(|file| paths.contains(&file.path));
            let texts: BTreeSet<&String> =
                files.filter_map(|file| whence.licence(file)).flat_map(|licence| &licence.texts).collect();
            let places: Vec<String> =
                texts.into_iter().flat_map(|text| place::licence_places(text)).collect();
            paths.extend(places);
        }
        paths
    }

    /// Names for which there is no file. One that a person asked for is an error.
    fn missing(&self, source: &FirmwareSource<'_>) -> Result<Vec<Missing>, StepError> {
        let listed = self.names.names();
        let lacks = |(_, found): &&(Request, Found)| !found.files.iter().any(|path| source.has(path));
        let (lacking, served): (Vec<_>, Vec<_>) = self.found.iter().partition(lacks);
        let (extra, named): (Vec<_>, Vec<_>) =
            lacking.into_iter().partition(|(request, _)| request.is_extra());
        if !extra.is_empty() {
            return Err(report::extra_missing(self, source, &listed, &extra));
        }
        let reasons = reason::Reasons::new(self, source, &listed);
        let missing = |(request, found): &(Request, Found)| Missing {
            name: request.name.clone(),
            modules: request.modules.clone(),
            reason: reasons.of(request, found),
        };
        let mut all: Vec<Missing> = named.into_iter().map(missing).collect();
        // Of a folder or a glob some files may be there and others not.
        let mut told: BTreeSet<&String> = BTreeSet::new();
        for (request, found) in served {
            for path in found.files.iter().filter(|path| !source.has(path)) {
                if told.insert(path) {
                    let reason = Reason::NotInSource(path.clone());
                    all.push(Missing { name: path.clone(), modules: request.modules.clone(), reason });
                }
            }
        }
        Ok(all)
    }
}
