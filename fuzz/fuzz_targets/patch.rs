//! Patches of arbitrary bytes, applied to arbitrary bytes: paths stay inside the tree, and nothing panics.
//! Does not know what is in a file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::patch::{parse, whole};

fuzz_target!(|data: &[u8]| {
    // The first byte says where the file ends and the patch begins.
    let Some((cut, rest)) = data.split_first() else { return };
    let (base, text) = rest.split_at(usize::from(*cut).min(rest.len()));
    let text = whole(text.to_vec());
    let Ok(files) = parse(&text) else { return };
    for file in files {
        let path = file.change.path();
        assert!(!path.is_empty() && path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
        let _ = (file.apply(base), file.from_nothing(), file.to_nothing());
    }
});
