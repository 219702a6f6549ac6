//! Makefiles of the kernel: whatever is in one, what was read is written as it is read again.
//! Does not know any kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::kbuild::Kbuild;
use mosbuild_formats::kconfig::Config;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut kbuild = Kbuild::default();
    kbuild.scan("Makefile", text);
    let written = kbuild.to_text();
    let read = Kbuild::parse(&written).expect("what was written");
    assert_eq!(read.to_text(), written);
    let _ = read.verdict("virtio_net", &Config::default(), "x86");
    let _ = Kbuild::parse(text);
});
