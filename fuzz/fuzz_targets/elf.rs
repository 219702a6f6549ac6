//! ELF files stripped of whatever they claim to have.
//! Does not know real programs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::elf;

fuzz_target!(|data: &[u8]| {
    if let Ok(stripped) = elf::strip(data) {
        assert!(stripped.len() < data.len());
        assert!(elf::kind(&stripped).is_ok());
    }
});
