//! EFI programs of anywhere: as a stub, as a kernel, read back.
//! Does not know real stubs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::uki;

fuzz_target!(|data: &[u8]| {
    let _ = uki::program(data);
    let _ = uki::section(data, ".linux");
    if let Ok(image) = uki::write(data, &[(".osrel", b"ID=x\n"), (".linux", data)]) {
        uki::program(&image).unwrap();
    }
});
