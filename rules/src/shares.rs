//! What layers and files take of a compressed archive. One stream has no exact shares: each layer is compressed alone,
//! quickly, and the results are scaled to what the archive really has; a layer's share goes to its files by what each
//! has alone. Knows the formats of archives; knows no rule.

use std::collections::HashMap;
use std::io::{self, Write};

use mosbuild_cache::{BlobError, Digest, Node, Store, Tree, TreePath};
use mosbuild_formats::compress::{Compression, Encoder};
use rayon::prelude::*;

use crate::contents::Origins;

/// Shares of an archive, in bytes.
#[derive(Debug, Default)]
pub struct Shares {
    /// By layer, in the order of [`Origins::layers`]; what is of none comes last.
    pub layers: Vec<u64>,
    files: HashMap<TreePath, u64>,
}

impl Shares {
    /// The share of a file.
    pub fn file(&self, path: &TreePath) -> u64 {
        self.files.get(path).copied().unwrap_or(0)
    }

    /// Estimates the shares of a tree. `format` is that of the archive (`xz`, `zstd`, `gzip`, `none`); with `size`, its
    /// bytes, the shares add up to that, and without they are what the layers have alone.
    ///
    /// # Errors
    /// [`BlobError`] if the store has lost a file.
    pub fn estimate(
        store: &Store,
        tree: &Tree,
        origins: &Origins,
        format: &str,
        size: Option<u64>,
    ) -> Result<Shares, BlobError> {
        let mut layers: Vec<Vec<(&TreePath, Digest)>> = vec![Vec::new(); origins.layers().len() + 1];
        for entry in tree.iter() {
            if let Node::File { digest, .. } = entry.node {
                let at = origins.layer_index(&entry.path).unwrap_or(layers.len() - 1);
                layers[at].push((&entry.path, digest));
            }
        }
        let threads = rayon::current_num_threads() as u32;
        let alone: Vec<u64> = layers
            .iter()
            .map(|files| measured(store, files.iter().map(|(_, d)| *d), quick(format), threads))
            .collect::<Result<_, _>>()?;
        let sum: u64 = alone.iter().sum();
        let scale = |n: u64| match (size, sum) {
            (Some(size), 1..) => (n as u128 * u128::from(size) / u128::from(sum)) as u64,
            _ => n,
        };
        let scaled: Vec<u64> = alone.iter().map(|n| scale(*n)).collect();
        let mut files = HashMap::new();
        for (of, share) in layers.iter().zip(&scaled) {
            let each: Vec<u64> = of
                .par_iter()
                .map(|(_, digest)| measured(store, std::iter::once(*digest), quicker(format), 1))
                .collect::<Result<_, _>>()?;
            let sum: u64 = each.iter().sum::<u64>().max(1);
            for ((path, _), own) in of.iter().zip(each) {
                let own = (u128::from(own) * u128::from(*share) / u128::from(sum)) as u64;
                files.insert((*path).clone(), own);
            }
        }
        Ok(Shares { layers: scaled, files })
    }
}

/// The format at a level that takes seconds for an image.
fn quick(format: &str) -> Compression {
    match format {
        "none" => Compression::None,
        "gzip" => Compression::Gzip { level: 6 },
        "zstd" => Compression::Zstd { level: 6 },
        _ => Compression::Xz { level: 0 },
    }
}

/// For thousands of single files: the weights within a layer.
fn quicker(format: &str) -> Compression {
    match format {
        "none" => Compression::None,
        _ => Compression::Zstd { level: 3 },
    }
}

/// Bytes of these files compressed as one stream; none if they are empty, whatever the frame takes.
fn measured(
    store: &Store,
    files: impl Iterator<Item = Digest>,
    how: Compression,
    threads: u32,
) -> Result<u64, BlobError> {
    // Memory is written to, and the levels are our own: neither fails.
    let Ok(mut encoder) = Encoder::new(Counter(0), how, threads) else { return Ok(0) };
    let mut any = false;
    for digest in files {
        let bytes = store.read(&digest)?;
        any |= !bytes.is_empty() && encoder.write_all(&bytes).is_ok();
    }
    Ok(match (any, encoder.finish()) {
        (true, Ok(counter)) => counter.0,
        _ => 0,
    })
}

/// Counts what is written.
pub struct Counter(pub u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_cache::Entry;

    use super::*;

    #[test]
    fn shares_add_up_to_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let noise: Vec<u8> =
            (0u32..20_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (n >> 5) as u8).collect();
        let file = |path: &str, bytes: &[u8]| {
            let node = Node::File { digest: store.put_bytes(bytes).unwrap(), size: bytes.len() as u64 };
            Entry::new(TreePath::new(path).unwrap(), 0o644, node)
        };
        let a = Tree::with_parents(vec![file("a/noise", &noise), file("a/zeros", &[0; 50_000])]).unwrap();
        let b = Tree::with_parents(vec![file("b/zeros", &[0; 90_000]), file("b/empty", b"")]).unwrap();
        let layers = [("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())];
        let origins = Origins::of_layers(&store, &layers);
        let tree = mosbuild_cache::merge(&[("a", &a), ("b", &b)]).unwrap().tree;
        for format in ["xz", "zstd", "gzip", "none"] {
            let shares = Shares::estimate(&store, &tree, &origins, format, Some(10_000)).unwrap();
            let sum: u64 = shares.layers.iter().sum();
            assert!((9_990..=10_000).contains(&sum), "{format}: {sum}");
            let of = |path: &str| shares.file(&TreePath::new(path).unwrap());
            assert_eq!(of("b/empty"), 0);
            if format != "none" {
                assert!(of("a/noise") > 9_000 && of("b/zeros") < 500, "{format}: {shares:?}");
            }
            let files = of("a/noise") + of("a/zeros");
            assert!(files <= shares.layers[0] && files + 2 >= shares.layers[0], "{format}");
        }
        let alone = Shares::estimate(&store, &tree, &origins, "none", None).unwrap();
        assert_eq!(alone.layers, [70_000, 90_000, 0]);
    }
}
