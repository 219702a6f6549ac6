//! Where two outputs of steps differ: files by `formats::difference`, trees by their entries.
//! Knows stores; knows neither targets nor why two builds were made.

use std::collections::BTreeMap;

use mosbuild_cache::{BlobError, Entry, Node, Output, OutputKind, Store};
use mosbuild_formats::difference::find;
pub use mosbuild_formats::difference::{Difference, Excerpt, Place, Reason, Surroundings, What, is_time};

/// The first difference of two outputs, and how many other files of a tree differ. `None` if they are equal.
///
/// Of several files of a tree the smallest is taken: large ones are made of small ones more often than the other way
/// round.
pub fn outputs(
    (first, one): (&Store, &Output),
    (second, two): (&Store, &Output),
) -> Result<Option<(Difference, usize)>, BlobError> {
    let plain = |difference| Ok(Some((difference, 0)));
    match (one.kind, two.kind) {
        (OutputKind::Tree, OutputKind::Tree) => trees((first, one), (second, two)),
        (OutputKind::File { executable: x }, OutputKind::File { executable: y }) => {
            if let Some(difference) = find(&first.read(&one.digest)?, &second.read(&two.digest)?) {
                return plain(difference);
            }
            let mode = |executable: bool| if executable { "755" } else { "644" }.to_owned();
            match x == y {
                true => Ok(None),
                false => plain(field("mode", mode(x), mode(y))),
            }
        }
        _ => {
            let kind = |output: &Output| match output.kind {
                OutputKind::Tree => "a folder".to_owned(),
                OutputKind::File { .. } => "a file".to_owned(),
            };
            plain(field("kind", kind(one), kind(two)))
        }
    }
}

/// Something about a member, or about the whole, that is not its content.
pub fn field(name: &'static str, first: String, second: String) -> Difference {
    Difference { places: Vec::new(), what: What::Field { name, first, second } }
}

fn trees(
    (first, one): (&Store, &Output),
    (second, two): (&Store, &Output),
) -> Result<Option<(Difference, usize)>, BlobError> {
    let (a, b) = (first.get_tree(&one.digest)?, second.get_tree(&two.digest)?);
    let others: BTreeMap<_, &Entry> = b.iter().map(|e| (&e.path, e)).collect();
    let names: std::collections::BTreeSet<_> = a.iter().map(|e| &e.path).collect();
    let missing = |path: String, in_first| Difference {
        places: Vec::new(),
        what: What::Missing { of: "tree", name: path, in_first },
    };
    let (mut changed, mut told) = (Vec::new(), Vec::new());
    for entry in a.iter() {
        match others.get(&entry.path) {
            None => told.push(missing(entry.path.to_string(), true)),
            Some(other) => match (&entry.node, &other.node) {
                (Node::File { digest: x, size }, Node::File { digest: y, size: other_size }) if x != y => {
                    changed.push((*size.max(other_size), *x, *y, entry.path.to_string()));
                }
                _ if entry != *other => told.push(meta(entry, other)),
                _ => {}
            },
        }
    }
    told.extend(b.iter().filter(|e| !names.contains(&e.path)).map(|e| missing(e.path.to_string(), false)));
    let count = changed.len() + told.len();
    changed.sort();
    let difference = match changed.into_iter().next() {
        Some((_, x, y, path)) => find(&first.read(&x)?, &second.read(&y)?)
            .map(|d| d.within(Place::Member { of: "tree", name: path })),
        None => told.into_iter().next(),
    };
    Ok(difference.map(|d| (d, count.saturating_sub(1))))
}

/// What differs in two entries of one path, beside content.
fn meta(one: &Entry, two: &Entry) -> Difference {
    let kind = |node: &Node| match node {
        Node::Dir => "a folder".to_owned(),
        Node::File { .. } => "a file".to_owned(),
        Node::Symlink { target } => format!("a link to {}", String::from_utf8_lossy(target)),
        Node::Char { major, minor } => format!("character device {major}:{minor}"),
        Node::Block { major, minor } => format!("block device {major}:{minor}"),
        Node::Fifo => "a pipe".to_owned(),
    };
    let difference = match () {
        () if one.node != two.node => field("kind", kind(&one.node), kind(&two.node)),
        () if one.mode != two.mode => field("mode", format!("{:o}", one.mode), format!("{:o}", two.mode)),
        () if one.uid != two.uid => field("uid", one.uid.to_string(), two.uid.to_string()),
        () => field("gid", one.gid.to_string(), two.gid.to_string()),
    };
    difference.within(Place::Member { of: "tree", name: one.path.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(name: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Store, Output) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join(name)).unwrap();
        let from = dir.path().join("tree");
        std::fs::create_dir(&from).unwrap();
        for (path, content) in files {
            std::fs::write(from.join(path), content).unwrap();
        }
        let tree = store.capture_dir(&from, mosbuild_cache::CaptureOptions::outputs()).unwrap();
        let digest = store.put_tree(&tree).unwrap();
        let output = Output { kind: OutputKind::Tree, digest, size: tree.file_bytes() };
        (dir, store, output)
    }

    fn compared(a: &[(&str, &str)], b: &[(&str, &str)]) -> Option<(String, usize)> {
        let (_a, first, one) = captured("a", a);
        let (_b, second, two) = captured("b", b);
        let found = outputs((&first, &one), (&second, &two)).unwrap();
        found.map(|(difference, others)| (difference.place(), others))
    }

    #[test]
    fn the_smallest_file_of_a_tree_is_told() {
        let a = [("big", "built at 12 with more text"), ("small", "at 12"), ("z", "same")];
        let b = [("big", "built at 13 with more text"), ("small", "at 13"), ("z", "same")];
        assert_eq!(compared(&a, &b), Some(("line 1, in member small of the tree".into(), 1)));
        assert_eq!(compared(&a, &a), None);
        let more = [("big", "built at 12 with more text"), ("small", "at 12"), ("x", ""), ("z", "same")];
        assert_eq!(compared(&a, &more), Some(("member x of the tree".into(), 0)));
    }
}
