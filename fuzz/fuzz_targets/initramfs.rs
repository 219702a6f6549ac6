//! Initramfs files, and kernels with one inside: what is found lies within the input and expands within the bound.
//! Does not know what is in the archives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::initramfs::{Parts, begins, embedded};
use mosbuild_formats::kernel_image;

fuzz_target!(|data: &[u8]| {
    let mut end = 0;
    for part in Parts::new(data, 1 << 20) {
        let Ok((part, bytes)) = part else { break };
        assert!(part.offset >= end && part.offset + part.packed <= data.len() && bytes.len() <= 1 << 20);
        end = part.offset + part.packed;
    }
    if let Ok((kernel, _)) = kernel_image::expanded(data)
        && let Some(found) = embedded(&kernel)
    {
        assert!(begins(found));
    }
});
