//! Indexes of arbitrary bytes; what parses as text must come back from what is written.
//! Does not know signatures' keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::apk::index::{parse_entries, write_index};
use mosbuild_formats::apk::{Index, Limits};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { index_bytes: 1 << 22, ..Limits::default() };
    let _ = Index::read(data, &limits);
    if let Ok(entries) = parse_entries(data) {
        let written = write_index("fuzz", &entries);
        let again = Index::read(&written, &Limits::default()).unwrap();
        assert_eq!(again.entries.len(), entries.len());
        assert_eq!(write_index("fuzz", &again.entries), written);
    }
});
