//! WHENCE and requests for what is in it: paths stay inside, and what is found is what was listed.
//! Does not know any linux-firmware.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::whence::Whence;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // The first line is a request, the rest WHENCE.
    let (request, text) = text.split_once('\n').unwrap_or(("*", &text));
    let Ok(whence) = Whence::parse(text) else { return };
    let catalog = whence.catalog();
    for file in &whence.files {
        assert!(file.path.split('/').all(|part| !matches!(part, "" | "." | "..")));
    }
    let names = catalog.names();
    if let Ok(found) = catalog.look_up(request) {
        let known = |name: &String| names.binary_search(name).is_ok();
        assert!(found.files.iter().all(known) && found.links.iter().all(known));
    }
    let _ = whence.excerpt(0..whence.sections.len());
});
