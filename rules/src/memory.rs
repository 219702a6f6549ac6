//! How much memory a machine needs at least to unpack an initramfs, told from its tree before anything boots.
//! Knows what the kernel's tmpfs counts; knows no rule and no machine.
//!
//! The kernel unpacks an initramfs into a tmpfs (init/do_mounts.c, `rootfs_init_fs_context`) that may have half of the
//! memory's pages as data, and half as many inodes as there are pages (mm/shmem.c, `shmem_default_max_blocks` and
//! `_inodes`). What does not fit is a "write error" or missing from the end. With `root=`, or a `rootfstype=` other
//! than tmpfs, it is a ramfs, which has no limit. While it unpacks, the archive lies in memory as well.

use std::fmt;

use mosbuild_cache::{Node, Tree};

/// Bytes of a page, of every architecture that we build for as it is usually configured.
const PAGE: u64 = 4096;
/// Targets of symlinks up to this length take no page (mm/shmem.c, `SHORT_SYMLINK_LEN`).
const SHORT_LINK: usize = 128;

/// What an initramfs takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes of its files in whole pages.
    pub unpacked: u64,
    /// Number of its entries, each an inode.
    pub entries: u64,
    /// Bytes of the archive.
    pub packed: u64,
}

impl Forecast {
    /// Of this tree in an archive of so many bytes.
    pub fn of(tree: &Tree, packed: u64) -> Forecast {
        let pages = tree.iter().map(|entry| match &entry.node {
            Node::File { size, .. } => size.div_ceil(PAGE),
            Node::Symlink { target } if target.len() >= SHORT_LINK => 1,
            _ => 0,
        });
        let unpacked = pages.fold(0, u64::saturating_add).saturating_mul(PAGE);
        Forecast { unpacked, entries: tree.len() as u64, packed }
    }

    /// Bytes of memory that a machine must have so that the tmpfs has room. The kernel's own memory comes on top: less
    /// than this cannot do.
    pub fn ram(&self) -> u64 {
        let blocks = self.unpacked.saturating_mul(2);
        let inodes = self.entries.saturating_mul(2 * PAGE);
        blocks.max(inodes).max(self.peak())
    }

    /// Bytes that are taken while it is unpacked: without the tmpfs's limit, the least that can do.
    pub fn peak(&self) -> u64 {
        self.unpacked.saturating_add(self.packed)
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Forecast> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line?.parse().ok()
        };
        Some(Forecast { unpacked: field("unpacked")?, entries: field("entries")?, packed: field("packed")? })
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "unpacked {}\nentries {}\npacked {}", self.unpacked, self.entries, self.packed)
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_cache::{Digest, Entry, TreePath};

    use super::*;

    fn tree(nodes: Vec<(&str, Node)>) -> Tree {
        let entry = |(path, node)| Entry::new(TreePath::new(path).unwrap(), 0o644, node);
        Tree::with_parents(nodes.into_iter().map(entry).collect()).unwrap()
    }

    fn file(size: u64) -> Node {
        Node::File { digest: Digest::of(b""), size }
    }

    #[test]
    fn whole_pages_count_twice() {
        let long = Node::Symlink { target: vec![b'x'; 128] };
        let short = Node::Symlink { target: vec![b'x'; 127] };
        let tree = tree(vec![
            ("a", file(1)),
            ("b", file(4096)),
            ("c", file(4097)),
            ("e", file(0)),
            ("l", long),
            ("s", short),
        ]);
        let forecast = Forecast::of(&tree, 100);
        assert_eq!(forecast, Forecast { unpacked: 5 * 4096, entries: 6, packed: 100 });
        // Six inodes are the tighter bound here.
        assert_eq!(forecast.ram(), 6 * 2 * 4096);
        assert_eq!(Forecast { unpacked: 1 << 20, ..forecast }.ram(), 2 << 20);
        assert_eq!(forecast.peak(), 5 * 4096 + 100);
        assert_eq!(Forecast::parse(&forecast.to_string()), Some(forecast));
        assert_eq!(Forecast::parse("unpacked x\nentries 1\npacked 1\n"), None);
    }
}
