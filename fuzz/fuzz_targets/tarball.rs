//! Tarballs of arbitrary bytes: every path shown must stay inside the tree.
//! Does not know what a path is used for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::tarball::{Error, Options, read};

fuzz_target!(|data: &[u8]| {
    let options = Options { max_bytes: 1 << 22, max_entries: 1000, ..Options::default() };
    let _ = read(data, &options, |entry, _| {
        assert!(!entry.path.is_empty());
        assert!(entry.path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
        Ok::<(), Error>(())
    });
});
