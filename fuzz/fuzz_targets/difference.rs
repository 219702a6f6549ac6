//! Two files of arbitrary bytes, cut from one input: there is a difference exactly if they differ.
//! Does not know which formats they are taken for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::difference::{Surroundings, find};

fuzz_target!(|data: &[u8]| {
    let Some((&edits, rest)) = data.split_first() else { return };
    // Files that are alike get further than two that have nothing in common.
    let at = usize::from(edits).min(rest.len());
    let (patch, first) = rest.split_at(at);
    let mut second = first.to_vec();
    for pair in patch.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
        if let Some(byte) = second.get_mut(place) {
            *byte = pair[2];
        }
    }
    match find(first, &second) {
        None => assert_eq!(first, second),
        Some(found) => {
            assert_ne!(first, second);
            assert!(!found.place().is_empty());
            found.values();
            found.reason(&Surroundings::default());
        }
    }
});
