//! What a root file system consists of: which layer and which package each of its files came from, and what grew since
//! another one. Reads trees and apk's database; lays nothing out. Knows no rule and no command.

use std::collections::{BTreeMap, HashMap};

use mosbuild_cache::{ChangeKind, Digest, Node, Store, Tree, TreePath, diff, merge};
use mosbuild_formats::apk::db::Installed;

use crate::size::human;

/// Where apk has its database, by release.
const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// A package with its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Where files came from.
#[derive(Debug, Default)]
pub struct Origins {
    layers: Vec<String>,
    layer_of: BTreeMap<TreePath, usize>,
    packages: Vec<Package>,
    package_of: HashMap<TreePath, usize>,
}

/// The layers of a list that the step `merge` of a rootfs left, a line `DIGEST NAME` for each; none if the store has lost
/// one.
fn listed(store: &Store, list: &Digest) -> Option<Vec<(String, Tree)>> {
    let text = String::from_utf8(store.read(list).ok()?).ok()?;
    let layer = |line: &str| {
        let (digest, name) = line.split_once(' ')?;
        Some((name.to_owned(), store.get_tree(&digest.parse().ok()?).ok()?))
    };
    text.lines().map(layer).collect()
}

impl Origins {
    /// Of the layers of a list, the output `layers` of a rootfs; nothing is known if the store has lost one.
    pub fn of_list(store: &Store, list: &Digest) -> Origins {
        listed(store, list).map(|layers| Origins::of_layers(store, &layers)).unwrap_or_default()
    }

    /// Of layers laid over each other, the later ones winning.
    pub fn of_layers(store: &Store, layers: &[(String, Tree)]) -> Origins {
        let named: Vec<(&str, &Tree)> = layers.iter().map(|(name, tree)| (name.as_str(), tree)).collect();
        // What could be merged once can be merged again.
        let Ok(merged) = merge(&named) else { return Origins::default() };
        let mut origins = Origins::of_tree(store, &merged.tree);
        origins.layers = layers.iter().map(|(name, _)| name.clone()).collect();
        // A file that a later layer replaced is the package's no more.
        let database = database(&merged.tree).and_then(|(path, _)| merged.from.get(&path).copied());
        origins.package_of.retain(|path, _| merged.from.get(path).copied() == database);
        origins.layer_of = merged.from;
        origins
    }

    /// Of a tree whose layers are not known: packages only.
    pub fn of_tree(store: &Store, tree: &Tree) -> Origins {
        let mut origins = Origins::default();
        let bytes = database(tree).and_then(|(_, digest)| store.read(&digest).ok());
        // A database that cannot be read is said where it is made; here its files are nobody's.
        let installed = bytes.and_then(|bytes| Installed::parse(&bytes).ok()).unwrap_or_default();
        for package in installed.packages {
            let at = origins.packages.len();
            for dir in &package.dirs {
                let folder = real_folder(tree, &dir.path);
                for file in &dir.files {
                    let path = match folder.is_empty() {
                        true => file.name.clone(),
                        false => [&folder[..], b"/", &file.name].concat(),
                    };
                    if let Ok(path) = TreePath::new(path) {
                        origins.package_of.insert(path, at);
                    }
                }
            }
            origins.packages.push(Package { name: package.info.name, version: package.info.version });
        }
        origins
    }

    /// The layer that a path came from.
    pub fn layer(&self, path: &TreePath) -> Option<&str> {
        Some(self.layers.get(*self.layer_of.get(path)?)?.as_str())
    }

    /// The place of a path's layer among [`Origins::layers`].
    pub fn layer_index(&self, path: &TreePath) -> Option<usize> {
        self.layer_of.get(path).copied()
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &[String] {
        &self.layers
    }

    /// The package that a file is of.
    pub fn package(&self, path: &TreePath) -> Option<&Package> {
        self.packages.get(*self.package_of.get(path)?)
    }

    /// The version in which a package is there.
    fn version(&self, name: &str) -> Option<&str> {
        self.packages.iter().find(|p| p.name == name).map(|p| p.version.as_str())
    }
}

/// Where a folder of the database is in the tree: with a merged /usr, what a package has in `lib` is in `usr/lib`.
fn real_folder(tree: &Tree, dir: &[u8]) -> Vec<u8> {
    let (first, rest) = dir.split_at(dir.iter().position(|b| *b == b'/').unwrap_or(dir.len()));
    let top = TreePath::new(first).ok().and_then(|path| tree.get(&path));
    match top.map(|entry| &entry.node) {
        Some(Node::Symlink { target }) => [target.strip_prefix(b"/").unwrap_or(target), rest].concat(),
        _ => dir.to_vec(),
    }
}

fn database(tree: &Tree) -> Option<(TreePath, Digest)> {
    DATABASES.iter().find_map(|path| {
        let entry = tree.get(&TreePath::new(path).ok()?)?;
        match entry.node {
            Node::File { digest, .. } => Some((entry.path.clone(), digest)),
            _ => None,
        }
    })
}

/// A tree with the origins of its files.
pub struct Image<'a> {
    /// What is in it.
    pub tree: &'a Tree,
    /// Where that came from.
    pub origins: &'a Origins,
}

/// One file of which there is more or less than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Bytes more.
    pub bytes: i64,
    /// Its path.
    pub path: TreePath,
    /// Its layer, where known.
    pub layer: Option<String>,
    /// Its package, and its version before and after; a package is new or gone if one is missing.
    pub package: Option<(String, Option<String>, Option<String>)>,
}

/// What changed in size between two images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Bytes more in all.
    pub total: i64,
    /// By layer, the largest growth first; layers that are as large as before are left out.
    pub layers: Vec<(String, i64)>,
    /// By package, likewise: name, version before and after, bytes more.
    pub packages: Vec<(String, Option<String>, Option<String>, i64)>,
    /// Files, likewise.
    pub files: Vec<Delta>,
}

/// Bytes of a node that is a file.
pub fn bytes_of(node: &Node) -> u64 {
    match node {
        Node::File { size, .. } => *size,
        _ => 0,
    }
}

impl Growth {
    /// From one image to another.
    pub fn between(old: &Image<'_>, new: &Image<'_>) -> Growth {
        let mut growth = Growth::default();
        let mut layers: BTreeMap<String, i64> = BTreeMap::new();
        let mut packages: BTreeMap<String, i64> = BTreeMap::new();
        for change in diff(old.tree, new.tree) {
            let (before, after) = match &change.kind {
                ChangeKind::Added(new) => (0, bytes_of(&new.node)),
                ChangeKind::Removed(old) => (bytes_of(&old.node), 0),
                ChangeKind::Changed(old, new) => (bytes_of(&old.node), bytes_of(&new.node)),
            };
            let bytes = after as i64 - before as i64;
            if bytes == 0 {
                continue;
            }
            growth.total += bytes;
            let path = change.path;
            // Of what is gone, where it was.
            let side = if matches!(change.kind, ChangeKind::Removed(_)) { old } else { new };
            let layer = side.origins.layer(&path).map(str::to_owned);
            if let Some(layer) = &layer {
                *layers.entry(layer.clone()).or_default() += bytes;
            }
            let package = side.origins.package(&path).map(|p| {
                *packages.entry(p.name.clone()).or_default() += bytes;
                let version = |image: &Image<'_>| image.origins.version(&p.name).map(str::to_owned);
                (p.name.clone(), version(old), version(new))
            });
            growth.files.push(Delta { bytes, path, layer, package });
        }
        growth.files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
        growth.layers = layers.into_iter().filter(|(_, bytes)| *bytes != 0).collect();
        growth.layers.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let version = |image: &Image<'_>, name: &str| image.origins.version(name).map(str::to_owned);
        growth.packages = packages
            .into_iter()
            .filter(|(_, bytes)| *bytes != 0)
            .map(|(name, bytes)| (name.clone(), version(old, &name), version(new, &name), bytes))
            .collect();
        growth.packages.sort_by(|a, b| b.3.cmp(&a.3).then_with(|| a.0.cmp(&b.0)));
        growth
    }

    /// What grew, for the text of an error: layers, packages and files that have become larger, as many of each.
    pub fn text(&self, count: usize) -> String {
        let grown = self.files.iter().filter(|f| f.bytes > 0);
        let lines = |all: Vec<String>| {
            let more = all.len().saturating_sub(count);
            let mut lines: Vec<String> = all.into_iter().take(count).collect();
            if more > 0 {
                lines.push(format!("  and {more} more"));
            }
            lines
        };
        let mut out = Vec::new();
        out.extend(lines(
            self.layers
                .iter()
                .filter(|(_, bytes)| *bytes > 0)
                .map(|(layer, bytes)| format!("  {:>11}  layer {layer}", signed(*bytes)))
                .collect(),
        ));
        out.extend(lines(
            self.packages
                .iter()
                .filter(|(.., bytes)| *bytes > 0)
                .map(|(name, old, new, bytes)| {
                    format!("  {:>11}  package {name}{}", signed(*bytes), versions(old, new))
                })
                .collect(),
        ));
        out.extend(lines(
            grown.map(|f| format!("  {:>11}  /{}{}", signed(f.bytes), f.path, f.of())).collect(),
        ));
        out.join("\n")
    }
}

impl Delta {
    /// ` (layer, package)`.
    fn of(&self) -> String {
        let layer = self.layer.as_ref().map(|layer| format!("layer {layer}"));
        let package = self.package.as_ref().map(|(name, ..)| format!("package {name}"));
        let parts: Vec<String> = [layer, package].into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) }
    }
}

/// ` 1.2-r0 → 1.3-r1`, ` 1.3-r1, new`.
pub fn versions(old: &Option<String>, new: &Option<String>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old == new => format!(" {new}"),
        (Some(old), Some(new)) => format!(" {old} → {new}"),
        (None, Some(new)) => format!(" {new}, new"),
        (Some(old), None) => format!(" {old}, gone"),
        (None, None) => String::new(),
    }
}

/// `+3.2 MiB`.
pub fn signed(bytes: i64) -> String {
    format!("{}{}", if bytes < 0 { "-" } else { "+" }, human(bytes.unsigned_abs()))
}

/// Said where there is nothing to compare with.
pub const NEVER_BUILT: &str = "no earlier build of this target is known that it could be compared with";

/// What grew since the last build that fitted, for the text of an error.
pub fn since(growth: &Growth, count: usize) -> String {
    match growth.files.iter().any(|f| f.bytes > 0) {
        true => {
            format!("since the last build that fitted, {}:\n{}", signed(growth.total), growth.text(count))
        }
        false => "nothing has grown since the last build that fitted".into(),
    }
}

/// The largest files of a tree, one a line.
pub fn largest(tree: &Tree, count: usize) -> String {
    let mut files: Vec<(u64, String)> = tree
        .iter()
        .filter(|e| matches!(e.node, Node::File { .. }))
        .map(|e| (bytes_of(&e.node), e.path.to_string()))
        .collect();
    files.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let lines: Vec<String> =
        files.iter().take(count).map(|(size, path)| format!("  {:>10}  /{path}", human(*size))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use mosbuild_cache::Entry;

    use super::*;

    fn file(store: &Store, path: &str, bytes: &[u8]) -> Entry {
        let digest = store.put_bytes(bytes).unwrap();
        Entry::new(TreePath::new(path).unwrap(), 0o644, Node::File { digest, size: bytes.len() as u64 })
    }

    fn tree(store: &Store, files: &[(&str, &[u8])]) -> Tree {
        Tree::with_parents(files.iter().map(|(path, bytes)| file(store, path, bytes)).collect()).unwrap()
    }

    fn packages(version: &str, size: usize) -> (String, Vec<u8>) {
        let db = format!(
            "C:Q1abcdefghijklmnopqrstuvwxyz0=\nP:tool\nV:{version}\nA:x86_64\nS:1\nI:1\nT:t\nU:u\nL:MIT\nF:usr/bin\nR:tool\nR:other\n\n"
        );
        (db, vec![b'x'; size])
    }

    fn layers(store: &Store, version: &str, size: usize, own: usize) -> Vec<(String, Tree)> {
        let (db, tool) = packages(version, size);
        let base = tree(
            store,
            &[("lib/apk/db/installed", db.as_bytes()), ("usr/bin/tool", &tool), ("usr/bin/other", b"1")],
        );
        let own = tree(store, &[("usr/bin/other", &vec![b'o'; own]), ("usr/bin/mine", b"mine")]);
        vec![("packages".into(), base), ("own".into(), own)]
    }

    #[test]
    fn files_have_a_layer_and_a_package() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let origins = Origins::of_layers(&store, &layers(&store, "1.2-r0", 100, 10));
        let of = |path: &str| {
            let path = TreePath::new(path).unwrap();
            (origins.layer(&path), origins.package(&path).map(|p| p.name.as_str()))
        };
        assert_eq!(of("usr/bin/tool"), (Some("packages"), Some("tool")));
        assert_eq!(of("usr/bin/other"), (Some("own"), None), "a later layer replaced it");
        assert_eq!(of("usr/bin/mine"), (Some("own"), None));
        assert_eq!(of("nothing"), (None, None));
    }

    #[test]
    fn a_merged_usr_hides_no_package() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (db, _) = packages("1.0-r0", 1);
        let db = db.replace("F:usr/bin", "F:bin");
        let mut entries =
            vec![file(&store, "usr/lib/apk/db/installed", db.as_bytes()), file(&store, "usr/bin/tool", b"t")];
        for (path, target) in [("bin", "usr/bin"), ("lib", "/usr/lib")] {
            let node = Node::Symlink { target: target.into() };
            entries.push(Entry::new(TreePath::new(path).unwrap(), 0o777, node));
        }
        let tree = Tree::with_parents(entries).unwrap();
        let origins = Origins::of_tree(&store, &tree);
        let package = origins.package(&TreePath::new("usr/bin/tool").unwrap()).unwrap();
        assert_eq!(package.name, "tool");
        assert_eq!(real_folder(&tree, b"lib/x"), b"usr/lib/x");
        assert_eq!(real_folder(&tree, b""), b"");
    }

    #[test]
    fn what_grew_is_named_by_layer_package_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (a, b) = (layers(&store, "1.2-r0", 1000, 5000), layers(&store, "1.3-r1", 5096, 4000));
        let merged = |layers: &[(String, Tree)]| {
            let named: Vec<(&str, &Tree)> = layers.iter().map(|(n, t)| (n.as_str(), t)).collect();
            merge(&named).unwrap().tree
        };
        let (old, new) = (merged(&a), merged(&b));
        let (from, to) = (Origins::of_layers(&store, &a), Origins::of_layers(&store, &b));
        let growth =
            Growth::between(&Image { tree: &old, origins: &from }, &Image { tree: &new, origins: &to });
        assert_eq!(growth.total, 4096 - 1000);
        assert_eq!(growth.layers, [("packages".to_owned(), 4096), ("own".to_owned(), -1000)]);
        assert_eq!(
            growth.text(3),
            "     +4.0 KiB  layer packages\n     +4.0 KiB  package tool 1.2-r0 → 1.3-r1\n     \
             +4.0 KiB  /usr/bin/tool  (layer packages, package tool)"
        );
        assert_eq!(growth.files.last().unwrap().bytes, -1000);
    }
}
