//! What a group stands for: it has no steps of its own, so that an answer about it is one about its members.
//! Knows the graph, no run.

use std::collections::HashSet;

use crate::load::Loaded;

/// The targets that a target stands for: those of a group, groups in it resolved; itself where it is none.
pub fn members<'l>(loaded: &'l Loaded, target: &'l str) -> Vec<&'l str> {
    let group = |t: u32| loaded.targets[t as usize].outputs.is_empty();
    let Some(asked) = loaded.target_index(target).filter(|t| group(*t)) else { return vec![target] };
    let mut found = Vec::new();
    let mut stack = vec![asked];
    let mut seen = HashSet::new();
    while let Some(t) = stack.pop() {
        if !seen.insert(t) {
            continue;
        }
        match group(t) {
            true => stack.extend(loaded.targets[t as usize].references.iter().rev().map(|r| r.target)),
            false => found.push(loaded.targets[t as usize].name.as_str()),
        }
    }
    found
}
