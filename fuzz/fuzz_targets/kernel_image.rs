//! Kernel images of whatever kind: a release that is found is one, and what is unpacked is bounded.
//! Does not know any kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::{kernel_image, zboot};

fuzz_target!(|data: &[u8]| {
    if let Ok(release) = kernel_image::release(data) {
        assert!(!release.is_empty() && !release.contains('\n'));
    }
    if let Ok(image) = zboot::unpack(data) {
        assert!(image.len() as u64 <= zboot::IMAGE_MAX);
    }
});
