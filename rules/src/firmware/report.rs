//! What is said of names without a file: a bounded warning, the whole list, and the error of a person's own names.
//! Knows reasons as they are worded in reason.rs; does not know how a selection is made.

use std::collections::BTreeMap;

use mosbuild_engine::action::StepError;
use mosbuild_engine::load::nearest;
use mosbuild_formats::whence::{self, Catalog, Found, Kind};

use super::reason::{Reason, split};
use super::select::{Request, Selection};
use super::source::FirmwareSource;

/// Drivers that the warning names.
const SHOWN: usize = 8;
/// Nearest names that are told.
const NEAREST: usize = 3;

/// Said once of a source without WHENCE.
pub const NO_WHENCE: &str =
    "the source has no WHENCE at its top: files are taken by name, and nothing tells their licences";

/// A name that modules ask for, without a file.
pub struct Missing {
    /// As in the modules.
    pub name: String,
    /// The modules; none of what `extra` stands for.
    pub modules: Vec<String>,
    /// Why, most likely.
    pub reason: Reason,
}

/// By the modules that ask for them.
fn by_driver(missing: &[Missing]) -> Vec<(String, Vec<&Missing>)> {
    let mut drivers: BTreeMap<String, Vec<&Missing>> = BTreeMap::new();
    for one in missing {
        let driver = if one.modules.is_empty() { "extra".to_owned() } else { one.modules.join(", ") };
        drivers.entry(driver).or_default().push(one);
    }
    let mut drivers: Vec<_> = drivers.into_iter().collect();
    for (_, names) in &mut drivers {
        names.sort_by_key(|one| one.reason.rank());
    }
    // What most likely breaks something comes first; the sort keeps the order of names.
    drivers.sort_by_key(|(_, names)| names.first().map(|one| one.reason.rank()));
    drivers
}

/// The warning on the terminal: a line for each driver, not too many.
pub fn short(missing: &[Missing], asked: usize) -> Option<String> {
    let drivers = by_driver(missing);
    if drivers.is_empty() {
        return None;
    }
    let mut text = format!("{} of {asked} names have no file (`mosbuild show` lists them)", missing.len());
    for (driver, names) in drivers.iter().take(SHOWN) {
        let Some(first) = names.first() else { continue };
        let more = match names.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        text.push_str(&format!("\n{driver}: {}{more}: {}", first.name, first.reason));
    }
    if drivers.len() > SHOWN {
        text.push_str(&format!("\nand {} more drivers", drivers.len() - SHOWN));
    }
    Some(text)
}

/// A line for each name.
pub fn whole(missing: &[Missing]) -> Vec<String> {
    let drivers = by_driver(missing);
    let line =
        |driver: &str, one: &Missing| format!("warning: {driver} asks for {}: {}", one.name, one.reason);
    drivers.iter().flat_map(|(driver, names)| names.iter().map(move |one| line(driver, one))).collect()
}

/// Names in `extra` that nothing fits.
pub fn extra_missing(
    selection: &Selection,
    source: &FirmwareSource<'_>,
    listed: &[String],
    extra: &[&(Request, Found)],
) -> StepError {
    let list = if selection.whence.is_some() { "WHENCE" } else { "the source" };
    let mut text = String::from("names in `extra` that have no file:");
    for (request, found) in extra {
        let name = request.name.as_str();
        let why = match found.files.first() {
            Some(path) => Reason::NotInSource(path.clone()).to_string(),
            None if selection.whence.is_some() && source.has_any(name) => Reason::Unlisted.to_string(),
            None => match nearest_names(name, listed, &selection.names) {
                near if near.is_empty() => format!("{list} has nothing like it"),
                near => format!("{list} has no such name; the nearest are {}", near.join(", ")),
            },
        };
        text.push_str(&format!("\n  {name}: {why}"));
    }
    StepError::new(text).help(
        "names are relative to lib/firmware; a folder (amdgpu/) and globs (rtl_nic/*) stand for all in them",
    )
}

/// The names most like one that is not there; of a glob, with its folder made right.
fn nearest_names(name: &str, listed: &[String], names: &Catalog) -> Vec<String> {
    let mut near: Vec<String> = Vec::new();
    if whence::is_glob(name) || name.ends_with('/') {
        let plain = name.split('/').take_while(|part| !whence::is_glob(part) && !part.is_empty());
        let plain: Vec<&str> = plain.collect();
        let folder = plain.join("/");
        let rest = name[folder.len()..].trim_start_matches('/');
        let mut folders: Vec<&str> = listed.iter().map(|path| split(path).0).collect();
        folders.dedup();
        let is_folder = |path: &&str| names.resolve(path).is_some_and(|end| end.kind == Kind::Folder);
        folders.extend(listed.iter().map(String::as_str).filter(is_folder));
        let others = folders.into_iter().filter(|other| !other.is_empty() && *other != folder);
        near.extend(nearest(&folder, others).map(|folder| format!("{folder}/{rest}")));
        return near;
    }
    // The same file in another folder is nearer than any other spelling.
    let file = split(name).1;
    near.extend(listed.iter().filter(|path| split(path).1 == file).take(NEAREST).cloned());
    while near.len() < NEAREST {
        let others = listed.iter().filter(|path| !near.contains(path)).map(String::as_str);
        let Some(next) = nearest(name, others).map(str::to_owned) else { break };
        near.push(next);
    }
    near
}
