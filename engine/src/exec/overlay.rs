//! Whether the kernel lays overlays over a file system, found by trying it.
//!
//! Does not know what the overlay would be for; a caller that hears no copies instead.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use super::{Mount, Sandbox};

/// Whether an overlay whose layers are on the file system of `scratch` works in a sandbox. `scratch` is a directory
/// that may be written to. Tried once per file system.
pub fn overlay_works(scratch: &Path) -> bool {
    static KNOWN: Mutex<Option<HashMap<u64, bool>>> = Mutex::new(None);
    let Ok(metadata) = fs::metadata(scratch) else { return false };
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known.get_or_insert_default().entry(metadata.dev()).or_insert_with(|| attempt(scratch).unwrap_or(false))
}

fn attempt(scratch: &Path) -> io::Result<bool> {
    let base = scratch.join(".overlay-probe");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| base.join(name));
    for dir in [&base, &lower, &upper, &work] {
        fs::create_dir(dir)?;
    }
    let overlay = Mount::Overlay { lower: vec![lower], upper, work: work.clone(), at: "/overlay".into() };
    let works = Sandbox.rehearse(&base, vec![overlay]).is_ok();
    // The kernel makes a folder without permissions in there, which is empty.
    let _ = fs::remove_dir(work.join("work"));
    let _ = fs::remove_dir_all(&base);
    Ok(works)
}
