//! The binary index of kmod (`modules.*.bin`): a trie of ASCII keys with values ordered by priority.
//! Knows only its layout, that of kmod up to 33 (children before their parent); not what keys and values mean.
//!
//! File: magic, version and offset of the root node, then nodes, all numbers big-endian. A node is its prefix
//! (NUL-terminated), the range of child characters with one offset each, and its values. The high bits of an
//! offset say which of the three the node has.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
const OFFSET_MASK: u32 = 0x0FFF_FFFF;

#[derive(Default)]
struct Node {
    prefix: Vec<u8>,
    children: BTreeMap<u8, Node>,
    values: Vec<(u32, Vec<u8>)>,
}

/// An index being made.
#[derive(Default)]
pub(crate) struct Index {
    root: Node,
}

/// A key or value the format cannot hold, or an index that outgrew its 28-bit offsets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IndexError {
    NotAscii,
    TooLarge,
}

impl Index {
    /// Adds a value. Of equal priorities the later one comes first, as in kmod.
    pub(crate) fn insert(&mut self, key: &str, value: &str, priority: u32) -> Result<(), IndexError> {
        let plain = |s: &str| s.bytes().all(|b| b.is_ascii() && b != 0);
        if !plain(key) || !plain(value) {
            return Err(IndexError::NotAscii);
        }
        let mut node = &mut self.root;
        let mut rest = key.as_bytes();
        loop {
            let common = node.prefix.iter().zip(rest).take_while(|(a, b)| a == b).count();
            if common < node.prefix.len() {
                node.split(common);
            }
            rest = &rest[common..];
            let Some((first, tail)) = rest.split_first() else { break };
            node = node
                .children
                .entry(*first)
                .or_insert_with(|| Node { prefix: tail.to_vec(), ..Node::default() });
            rest = tail;
        }
        let at = node.values.iter().position(|(p, _)| *p >= priority).unwrap_or(node.values.len());
        node.values.insert(at, (priority, value.as_bytes().to_vec()));
        Ok(())
    }

    /// The file.
    pub(crate) fn write(&self) -> Result<Vec<u8>, IndexError> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
        out.extend([0; 4]);
        let root = self.root.write(&mut out)?;
        out[8..12].copy_from_slice(&root.to_be_bytes());
        Ok(out)
    }
}

impl Node {
    /// Cuts the node at `at` in its prefix: what follows becomes its only child.
    fn split(&mut self, at: usize) {
        let mut lower = std::mem::take(self);
        let tail = lower.prefix.split_off(at);
        self.prefix = std::mem::replace(&mut lower.prefix, tail[1..].to_vec());
        self.children.insert(tail[0], lower);
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<u32, IndexError> {
        let range = self.children.keys().next().zip(self.children.keys().next_back());
        let mut offsets = Vec::new();
        if let Some((first, last)) = range {
            for c in *first..=*last {
                offsets.push(match self.children.get(&c) {
                    Some(child) => child.write(out)?,
                    None => 0,
                });
            }
        }
        let mut offset = u32::try_from(out.len()).unwrap_or(u32::MAX);
        if offset > OFFSET_MASK {
            return Err(IndexError::TooLarge);
        }
        if !self.prefix.is_empty() {
            out.extend_from_slice(&self.prefix);
            out.push(0);
            offset |= HAS_PREFIX;
        }
        if let Some((first, last)) = range {
            out.extend([*first, *last]);
            out.extend(offsets.iter().flat_map(|o| o.to_be_bytes()));
            offset |= HAS_CHILDREN;
        }
        if !self.values.is_empty() {
            out.extend((self.values.len() as u32).to_be_bytes());
            for (priority, value) in &self.values {
                out.extend(priority.to_be_bytes());
                out.extend_from_slice(value);
                out.push(0);
            }
            offset |= HAS_VALUES;
        }
        Ok(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows the file as kmod does.
    fn lookup(file: &[u8], key: &str) -> Vec<(u32, String)> {
        let word = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let text = |at: usize| {
            let end = file[at..].iter().position(|b| *b == 0).unwrap() + at;
            (String::from_utf8(file[at..end].to_vec()).unwrap(), end + 1)
        };
        let (mut offset, mut rest) = (word(8), key);
        loop {
            let mut at = (offset & OFFSET_MASK) as usize;
            if offset & HAS_PREFIX != 0 {
                let (prefix, next) = text(at);
                let Some(tail) = rest.strip_prefix(&prefix) else { return vec![] };
                (rest, at) = (tail, next);
            }
            let mut child = 0;
            if offset & HAS_CHILDREN != 0 {
                let (first, last) = (file[at], file[at + 1]);
                if let Some(c) = rest.bytes().next()
                    && (first..=last).contains(&c)
                {
                    child = word(at + 2 + 4 * usize::from(c - first));
                }
                at += 2 + 4 * (usize::from(last - first) + 1);
            }
            if rest.is_empty() {
                let mut values = vec![];
                if offset & HAS_VALUES != 0 {
                    let count = word(at);
                    at += 4;
                    for _ in 0..count {
                        let (value, next) = text(at + 4);
                        values.push((word(at), value));
                        at = next;
                    }
                }
                return values;
            }
            if child == 0 {
                return vec![];
            }
            (offset, rest) = (child, &rest[1..]);
        }
    }

    proptest::proptest! {
        #[test]
        fn every_key_is_found_with_its_values_by_priority(
            entries in proptest::collection::vec(("[a-d]{0,6}", "[a-z]{0,3}", 0u32..5), 0..60)
        ) {
            let mut index = Index::default();
            for (key, value, priority) in &entries {
                index.insert(key, value, *priority).unwrap();
            }
            let file = index.write().unwrap();
            for (key, _, _) in &entries {
                let mut wanted: Vec<_> =
                    entries.iter().rev().filter(|e| e.0 == *key).map(|e| (e.2, e.1.clone())).collect();
                wanted.sort_by_key(|(priority, _)| *priority);
                proptest::prop_assert_eq!(lookup(&file, key), wanted);
            }
            proptest::prop_assert!(lookup(&file, "e").is_empty());
        }
    }

    #[test]
    fn what_is_not_ascii_is_refused() {
        assert_eq!(Index::default().insert("ä", "x", 0), Err(IndexError::NotAscii));
    }
}
