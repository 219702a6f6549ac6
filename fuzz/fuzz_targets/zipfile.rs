//! Zip archives of arbitrary bytes: every path shown must stay inside the tree, and no more be read than was announced.
//! Does not know what a path is used for.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::tarball::{Kind, Options};
use mosbuild_formats::zipfile::{Error, read};

fuzz_target!(|data: &[u8]| {
    let options = Options { max_bytes: 1 << 22, max_entries: 1000, ..Options::default() };
    let _ = read(Cursor::new(data), &options, |entry, data| {
        assert!(!entry.path.is_empty());
        assert!(entry.path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
        let mut content = Vec::new();
        data.read_to_end(&mut content).map_err(Error::from_data)?;
        if let Kind::File { size } = entry.kind {
            assert_eq!(content.len() as u64, size);
        }
        Ok::<(), Error>(())
    });
});
