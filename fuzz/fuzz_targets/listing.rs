//! Index pages of servers: whatever they say, a name is one step down and nothing else.
//! Does not know what is fetched from there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_engine::fetch::listing::names;

fuzz_target!(|data: &[u8]| {
    for name in names(&String::from_utf8_lossy(data), "http://h/a/b/") {
        let stem = name.strip_suffix('/').unwrap_or(&name);
        assert!(!stem.is_empty() && stem != "." && stem != ".." && !stem.contains(['/', '\0', '\n']));
    }
});
