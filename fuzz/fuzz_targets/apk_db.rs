//! Installed databases of arbitrary bytes: every path must stay inside.
//! Does not know a tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::apk::db::Installed;

fuzz_target!(|data: &[u8]| {
    if let Ok(db) = Installed::parse(data) {
        for (path, attributes) in db.attributes() {
            assert!(path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
            assert!(attributes.mode <= 0o7777);
        }
    }
});
