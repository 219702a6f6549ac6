//! The store's files as tests look at them: blobs by digest, damage, leftovers.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mosbuild_cache::Digest;

/// The files of all blobs with the digests that their names promise; `.x` files are the executable form.
pub fn blobs(store: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for shelf in std::fs::read_dir(store.join("cas")).unwrap().flatten() {
        for file in std::fs::read_dir(shelf.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            let hex = name.strip_suffix(".x").unwrap_or(&name).to_owned();
            found.push((file.path(), hex));
        }
    }
    found.sort();
    found
}

/// Asserts that every blob is what its name says, and that there are some.
#[track_caller]
pub fn assert_store_whole(store: &Path) {
    let all = blobs(store);
    assert!(!all.is_empty(), "{} has no blobs", store.display());
    for (path, hex) in all {
        let (digest, _) = Digest::of_file(&path).unwrap();
        assert_eq!(digest.hex(), hex, "{} is damaged", path.display());
    }
}

/// What work left in the store's scratch; lock files stand there for good, but nobody may hold one.
pub fn scratch_left(store: &Path) -> Vec<PathBuf> {
    let tmp = store.join("tmp");
    let mut left: Vec<PathBuf> = std::fs::read_dir(&tmp)
        .map(|dir| dir.flatten().map(|e| e.path()).filter(|p| !p.ends_with("inflight")).collect())
        .unwrap_or_default();
    let held = |path: &PathBuf| std::fs::File::open(path).is_ok_and(|file| file.try_lock().is_err());
    let locks = std::fs::read_dir(tmp.join("inflight")).into_iter().flatten().flatten().map(|e| e.path());
    left.extend(locks.filter(held));
    left
}

/// Flips one bit in the middle of a file, in place, whatever its mode.
pub fn flip_a_byte(path: &Path) {
    let mut bytes = Vec::new();
    std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(!bytes.is_empty(), "{} is empty", path.display());
    let mode = path.metadata().unwrap().permissions().mode();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
