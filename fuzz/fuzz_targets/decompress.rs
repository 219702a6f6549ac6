//! gzip, xz and zstd of arbitrary bytes: never more than the bound comes out.
//! Does not know what is inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::compress::decompress;

fuzz_target!(|data: &[u8]| {
    const BOUND: u64 = 1 << 20;
    if let Ok(out) = decompress(data, BOUND) {
        assert!(out.len() as u64 <= BOUND);
    }
});
