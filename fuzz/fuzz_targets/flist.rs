//! The reader of flists on arbitrary bytes, and blocks that are no blocks. What is read can be listed: every path is one within
//! a tree, and once. Knows no store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::flist::{BlockRef, Limits, block, read};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { entries: 10_000, blocks: 10_000, paths: 1 << 20 };
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.extend_from_slice(data);
    for bytes in [data, &bytes] {
        let Ok(flist) = read(bytes, &limits) else { continue };
        for entry in &flist.entries {
            let fine = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
            assert!(entry.path == "." || entry.path.split('/').all(fine));
        }
        assert!(flist.entries.windows(2).all(|pair| pair[0].path != pair[1].path));
    }
    // With the right name and the key of nothing.
    let _ = block::open(&BlockRef { id: block::hash(data), key: block::hash(b"") }, data.to_vec());
});
