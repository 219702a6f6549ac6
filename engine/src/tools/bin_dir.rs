//! A folder of links to programs, named by the digest of what is in it: one for all steps with the same tools.
//!
//! Does not know which programs, or why.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use mosbuild_cache::Digest;

/// The folder with these links; made under another name and renamed, so that it is there whole or not at all.
pub(super) fn make(state: &Path, links: &BTreeMap<String, PathBuf>) -> io::Result<PathBuf> {
    let mut listing = Vec::new();
    for (name, target) in links {
        listing.extend_from_slice(name.as_bytes());
        listing.push(0);
        listing.extend_from_slice(target.as_os_str().as_bytes());
        listing.push(0);
    }
    let parent = state.join("bin");
    let folder = parent.join(Digest::of(&listing).hex());
    if folder.is_dir() {
        return Ok(folder);
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = parent.join(format!(".{}.{count}", process::id()));
    fs::create_dir_all(&temporary)?;
    for (name, target) in links {
        symlink(target, temporary.join(name))?;
    }
    match fs::rename(&temporary, &folder) {
        Err(_) if folder.is_dir() => fs::remove_dir_all(&temporary)?,
        other => other?,
    }
    Ok(folder)
}
