//! The newc reader on arbitrary bytes; what it accepts must be bounded by the input.
//! Does not know compression.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::newc::{Limits, Reader};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { entries: 10_000, bytes: 1 << 20 };
    let mut total = 0;
    for member in Reader::new(data, limits).members() {
        match member {
            Ok((_, content)) => total += content.len(),
            Err(_) => break,
        }
    }
    assert!(total <= data.len());
});
