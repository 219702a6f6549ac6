//! The disks of a machine, which stay in `.mosbuild/disks/` from start to start, as does what firmware remembers.
//! Knows files; does not know what is on them.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::format::size;

/// Bytes of a disk where nothing else is said. It is sparse.
pub const SIZE: u64 = 10 << 30;

/// The folder in the workspace's state.
pub fn folder(state: &Path) -> PathBuf {
    state.join("disks")
}

/// Paths of so many disks of a target's machine: those that are there as they are, the rest empty. With `reset` all are
/// empty, and none is left beyond them.
///
/// # Errors
/// A disk that is there with another size than the one asked for.
pub fn prepare(
    folder: &Path,
    target: &str,
    count: u32,
    wanted: Option<u64>,
    reset: bool,
) -> Result<Vec<PathBuf>, Failure> {
    let path = |n: u32| folder.join(format!("{target}-{n}.img"));
    std::fs::create_dir_all(folder).map_err(|e| Failure::io(folder, e))?;
    if reset {
        remove(&variables(folder, target))?;
        for n in (0..).take_while(|n| path(*n).exists()) {
            remove(&path(n))?;
        }
    }
    let mut paths = Vec::new();
    for path in (0..count).map(path) {
        match std::fs::metadata(&path) {
            Ok(there) => {
                if let Some(wanted) = wanted.filter(|wanted| *wanted != there.len()) {
                    let (is, asked) = (size(there.len()), size(wanted));
                    let text = format!("{} has {is}, not the {asked} of --disk-size", path.display());
                    return Err(Failure::usage(text).help("--reset makes the disks anew, empty"));
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let made = File::create_new(&path).and_then(|file| file.set_len(wanted.unwrap_or(SIZE)));
                made.map_err(|e| Failure::io(&path, e))?;
            }
            Err(e) => return Err(Failure::io(&path, e)),
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Where firmware keeps its variables for a target's machine.
pub fn variables(folder: &Path, target: &str) -> PathBuf {
    folder.join(format!("{target}-variables.fd"))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Failure::io(path, e)),
        _ => Ok(()),
    }
}
