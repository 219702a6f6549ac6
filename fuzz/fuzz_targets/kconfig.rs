//! Kernel configurations and Kconfig source: what is read and written again must read the same.
//! Does not know any kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::kconfig::{Config, Symbols};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    Symbols::default().scan(text);
    if let Ok(config) = Config::parse(text) {
        assert_eq!(Config::parse(&config.to_string()).as_ref(), Ok(&config));
    }
});
