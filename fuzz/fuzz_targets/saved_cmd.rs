//! Kbuild's saved commands and thin archives: whatever is in one, what was read is written as it is read again.
//! Does not know any kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::saved_cmd::{Compress, SavedCommand, thin_members};

fuzz_target!(|data: &[u8]| {
    let _ = thin_members(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(saved) = SavedCommand::parse(text) {
        assert_eq!(SavedCommand::parse(&saved.to_text()), Ok(saved.clone()));
        let _ = Compress::of(&saved);
    }
});
