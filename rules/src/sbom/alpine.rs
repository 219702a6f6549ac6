//! Alpine's packages: those of the lock, with what the installed database tells of them, and those that the root file system
//! brought. Knows the database and the pin; does not know who asks.

use std::collections::{BTreeMap, HashMap};

use mosbuild_cache::{Store, Tree};
use mosbuild_engine::lockfile::Pin;
use mosbuild_formats::apk::db::{Installed, InstalledPackage};

use super::purl::purl;
use super::{Bill, Error, Kind, Part};
use crate::miniroot::database;

/// Adds the packages of a tree, which the target's pin (with its id) must fit; gives the ids of all.
pub fn packages(
    bill: &mut Bill,
    store: &Store,
    tree: &Tree,
    target: &str,
    pin: Option<(&str, &Pin)>,
) -> Result<Vec<String>, Error> {
    let unreadable = |what: String| Error::Unreadable { target: target.into(), what };
    let installed = database(store, tree).map_err(|e| unreadable(e.message))?;
    let installed = installed.ok_or_else(|| unreadable("its tree has no database of packages".into()))?;
    let rows = pin.map(|(_, pin)| pin.tables.get("package").cloned().unwrap_or_default()).unwrap_or_default();
    for (name, row) in &rows {
        let version = installed.get(name).map(|p| p.info.version.as_str());
        if version != row.get("version").map(String::as_str) {
            let there = version.unwrap_or("nothing");
            let locked = row.get("version").map_or("?", String::as_str);
            let what = format!("package {name} {locked} is locked, {there} is installed");
            return Err(Error::Stale { target: target.into(), what });
        }
    }
    let ids: HashMap<&str, String> =
        installed.packages.iter().map(|p| (p.info.name.as_str(), id(p))).collect();
    let providers = providers(&installed);
    let mut all = Vec::new();
    for package in &installed.packages {
        let info = &package.info;
        let mut part = Part::of_purl(Kind::Application, id(package), &info.name, &info.version);
        part.licence.clone_from(&info.license);
        part.description.clone_from(&info.description);
        part.page.clone_from(&info.url);
        if !info.origin.is_empty() {
            part.supplier = format!("Alpine Linux, source package {}", info.origin);
        }
        let needed = info
            .depends
            .iter()
            .filter_map(|d| providers.get(bare(d)).or_else(|| ids.get_key_value(bare(d)).map(|(n, _)| n)));
        part.needs = needed.filter_map(|name| ids.get(name)).filter(|i| **i != part.id).cloned().collect();
        if let (Some((pin_id, _)), Some(row)) = (pin, rows.get(&info.name)) {
            part.pins.insert(format!("{pin_id}: {}", info.name));
            for (algorithm, field) in [("SHA-256", "sha256"), ("BLAKE3", "blake3")] {
                part.hashes.extend(row.get(field).map(|hex| (algorithm, hex.clone())));
            }
            if let Some(repository) = row.get("repository") {
                let slash = if repository.ends_with('/') { "" } else { "/" };
                part.from = format!("{repository}{slash}{}", info.file_name());
            }
        }
        all.push(bill.add(part));
    }
    Ok(all)
}

fn id(package: &InstalledPackage) -> String {
    let info = &package.info;
    purl("apk", "alpine", &info.name, &info.version, &[("arch", &info.arch)])
}

/// A dependency or what is provided, without its version; empty for a conflict.
fn bare(text: &str) -> &str {
    if text.starts_with('!') {
        return "";
    }
    text.split(['<', '>', '=', '~', '@']).next().unwrap_or_default()
}

/// What is provided → the package's name.
fn providers(installed: &Installed) -> BTreeMap<&str, &str> {
    let mut all = BTreeMap::new();
    for package in &installed.packages {
        for provided in &package.info.provides {
            all.entry(bare(provided)).or_insert(package.info.name.as_str());
        }
    }
    for package in &installed.packages {
        all.insert(package.info.name.as_str(), package.info.name.as_str());
    }
    all
}
