//! The crates that a component is made of, from its Cargo.lock, with the licences of those that were vendored. Knows Cargo's
//! files; does not know who asks.

use std::collections::BTreeMap;

use mosbuild_cache::{Node, Store, Tree, TreePath};
use serde::Deserialize;

use super::purl::{commit, purl};
use super::{Bill, Error, Kind, Part};

#[derive(Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<Locked>,
}

#[derive(Clone, Deserialize)]
struct Locked {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Manifest {
    package: Option<Fields>,
    workspace: Option<Workspace>,
}

#[derive(Default, Deserialize)]
struct Workspace {
    package: Option<Fields>,
}

/// Of a member they may be a table that refers to the workspace's.
#[derive(Default, Deserialize)]
struct Fields {
    license: Option<toml::Value>,
    description: Option<toml::Value>,
    repository: Option<toml::Value>,
}

/// What a manifest tells of its package.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    licence: String,
    description: String,
    page: String,
}

impl About {
    /// Of a manifest, and that of its workspace, for what it leaves to it.
    fn read(own: &[u8], above: Option<&[u8]>) -> About {
        let parse =
            |bytes: &[u8]| toml::from_str::<Manifest>(&String::from_utf8_lossy(bytes)).unwrap_or_default();
        let own = parse(own).package.unwrap_or_default();
        let above = above.and_then(|bytes| parse(bytes).workspace?.package).unwrap_or_default();
        let text = |own: Option<toml::Value>, above: Option<toml::Value>| {
            let value = if own.as_ref().is_some_and(|v| !v.is_str()) { above } else { own };
            let words = |v: toml::Value| Some(v.as_str()?.split_whitespace().collect::<Vec<_>>().join(" "));
            value.and_then(words).unwrap_or_default()
        };
        About {
            licence: text(own.license, above.license),
            description: text(own.description, above.description),
            page: text(own.repository, above.repository),
        }
    }

    /// Of the package in a folder of a source.
    pub fn of(store: &Store, source: &Tree, subdir: &str) -> Result<About, Error> {
        let folder = subdir.trim_matches('/');
        let path = if folder.is_empty() { "Cargo.toml".to_owned() } else { format!("{folder}/Cargo.toml") };
        let own = file(store, source, &path)?.unwrap_or_default();
        Ok(About::read(&own, file(store, source, "Cargo.toml")?.as_deref()))
    }

    /// Says it of a part that does not say it itself.
    pub fn tell(self, part: &mut Part) {
        for (field, text) in [
            (&mut part.licence, self.licence),
            (&mut part.description, self.description),
            (&mut part.page, self.page),
        ] {
            if field.is_empty() {
                *field = text;
            }
        }
    }
}

/// The file of a tree, if it is one.
pub fn file(store: &Store, tree: &Tree, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let entry = TreePath::new(path).ok().and_then(|path| tree.get(&path));
    match entry.map(|e| &e.node) {
        Some(Node::File { digest, .. }) => Ok(Some(store.read(digest)?)),
        _ => Ok(None),
    }
}

/// The Cargo.lock of a package in a folder of a source: there or above it.
pub fn lock_of(store: &Store, source: &Tree, subdir: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut folder = subdir.trim_matches('/');
    loop {
        let path = if folder.is_empty() { "Cargo.lock".to_owned() } else { format!("{folder}/Cargo.lock") };
        if let Some(bytes) = file(store, source, &path)? {
            return Ok(Some(bytes));
        }
        if folder.is_empty() {
            return Ok(None);
        }
        folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

/// Adds all packages of a Cargo.lock, as parts of a component.
pub fn crates(
    bill: &mut Bill,
    store: &Store,
    (target, owner): (&str, &str),
    lock: &[u8],
    vendor: Option<&Tree>,
) -> Result<(), Error> {
    let unreadable =
        |what: String| Error::Unreadable { target: target.into(), what: format!("Cargo.lock: {what}") };
    let text = std::str::from_utf8(lock).map_err(|e| unreadable(e.to_string()))?;
    let lock: CargoLock = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    let single = lock.package.iter().filter(|p| p.source.is_none()).count() == 1;
    let id = |package: &Locked| match package.source {
        // The only member is the component itself.
        None if single => owner.to_owned(),
        _ => id(package, owner),
    };
    let ids: Vec<String> = lock.package.iter().map(id).collect();
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, package) in lock.package.iter().enumerate() {
        by_name.entry(&package.name).or_default().push(at);
    }
    // `name`, `name version` or `name version (source)`: as much as is needed to be one package's.
    let resolve = |text: &str| {
        let mut words = text.split(' ');
        let (name, version) = (words.next()?, words.next());
        let source = words.next().map(|s| s.trim_matches(['(', ')']));
        let fits = |at: &&usize| {
            let package = &lock.package[**at];
            let same_source = source.is_none_or(|s| {
                package.source.as_deref().is_some_and(|own| own == s || own.split('#').next() == Some(s))
            });
            version.is_none_or(|v| v == package.version) && same_source
        };
        by_name.get(name)?.iter().find(fits).map(|at| ids[*at].clone())
    };
    for (package, id) in lock.package.iter().zip(&ids) {
        let mut part = Part::of_purl(Kind::Library, id.clone(), &package.name, &package.version);
        if package.source.is_none() {
            // A member of the component's own workspace: not a package that could be had elsewhere.
            part.purl = None;
        }
        part.hashes.extend(package.checksum.clone().map(|sum| ("SHA-256", sum)));
        part.needs = package.dependencies.iter().filter_map(|d| resolve(d)).collect();
        let folder = format!("crates/{}-{}/Cargo.toml", package.name, package.version);
        let manifest = vendor.map(|tree| file(store, tree, &folder)).transpose()?.flatten();
        if let Some(manifest) = manifest {
            About::read(&manifest, None).tell(&mut part);
        }
        bill.add(part);
    }
    // The members are what the component is; of a crate that is one itself, that one.
    let members: Vec<String> =
        lock.package.iter().zip(&ids).filter(|(p, _)| p.source.is_none()).map(|(_, id)| id.clone()).collect();
    if let Some(part) = bill.parts.get_mut(owner) {
        part.needs.extend(members.into_iter().filter(|id| id != owner));
    }
    Ok(())
}

/// A registry's crate by its name and version, one of a repository by its commit, a member by who it is of.
fn id(package: &Locked, owner: &str) -> String {
    let Locked { name, version, .. } = package;
    match package.source.as_deref() {
        None => format!("{owner}#{name}@{version}"),
        Some(source) => match source.strip_prefix("git+").and_then(|rest| rest.split_once('#')) {
            Some((url, rev)) => {
                let url = url.split('?').next().unwrap_or(url);
                format!("{}#{name}", commit(url, rev))
            }
            None => purl("cargo", "", name, version, &[]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_leave_to_their_workspace_what_they_say_is_its() {
        let own = b"[package]\nname = \"a\"\nlicense.workspace = true\ndescription = \"\"\"of\n two\"\"\"\n";
        let above = b"[workspace.package]\nlicense = \"MIT\"\nrepository = \"r\"\n";
        let about = About::read(own, Some(above));
        assert_eq!(
            (about.licence.as_str(), about.description.as_str(), about.page.as_str()),
            ("MIT", "of two", "")
        );
        assert_eq!(About::read(b"no toml", None), About::default());
    }

    #[test]
    fn crates_have_their_registrys_name_and_commits_their_repositorys() {
        let locked = |source: Option<&str>| Locked {
            name: "a".into(),
            version: "1.0.0".into(),
            source: source.map(str::to_owned),
            checksum: None,
            dependencies: Vec::new(),
        };
        assert_eq!(id(&locked(Some("registry+https://example.org/index")), "o"), "pkg:cargo/a@1.0.0");
        assert_eq!(id(&locked(Some("git+https://github.com/o/r?rev=x#abc")), "o"), "pkg:github/o/r@abc#a");
        assert_eq!(id(&locked(None), "o"), "o#a@1.0.0");
    }
}
