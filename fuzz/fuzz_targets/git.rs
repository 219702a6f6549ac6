//! What git prints, made of arbitrary bytes: refs, entries of trees, headers, settings, URLs of submodules.
//! Does not know repositories.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::git::{Entry, Header, Refs, is_lfs_pointer, path_fault, relative_url, submodules};

fuzz_target!(|data: &[u8]| {
    let _ = (Refs::parse(data), Header::parse(data), submodules(data), is_lfs_pointer(data));
    if let Ok(entry) = Entry::parse(data)
        && path_fault(&entry.path).is_none()
    {
        assert!(!entry.path.starts_with(b"/") && !entry.path.split(|b| *b == b'/').any(|part| part == b".."));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let (parent, url) = text.split_once('\n').unwrap_or((text, "../x"));
        if let Some(meant) = relative_url(parent, url)
            && url.starts_with('.')
            && let Some((scheme, rest)) = parent.trim_end_matches('/').split_once("://")
        {
            let host = rest.split('/').next().unwrap_or_default();
            assert!(meant.starts_with(&format!("{scheme}://{host}/")), "{parent} {url} {meant}");
        }
    }
});
