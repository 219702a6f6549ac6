//! Removal of whole folders that copes with read-only ones, paths longer than PATH_MAX and any depth: a step may
//! leave all of these. Knows nothing of what it removes; never follows a symlink.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Folders nested deeper than this are moved to the top first, so that neither stack nor descriptors run out.
const DEPTH: usize = 64;

/// Removes a folder and all below it; nothing there is fine.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_dir(rfs::CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut moved = 0;
    // Each round removes all but what was too deep, which it moves to the top.
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            return Ok(rfs::rmdir(path)?);
        }
    }
}

fn open_dir<P: rustix::path::Arg + Copy>(at: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rfs::openat(at, name, flags, Mode::empty());
    let fd = match open() {
        Err(Errno::ACCESS) => {
            rfs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            open()?
        }
        other => other?,
    };
    if !Mode::from_raw_mode(rfs::fstat(&fd)?.st_mode).contains(Mode::RWXU) {
        rfs::fchmod(&fd, Mode::RWXU)?;
    }
    Ok(fd)
}

fn empty(top: &OwnedFd, dir: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    // Names first: removing while reading skips entries on some file systems.
    let mut names: Vec<(CString, FileType)> = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in &names {
        let name = name.as_c_str();
        if *kind != FileType::Directory {
            match rfs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // A folder after all, on a file system whose listings do not say.
                Err(Errno::ISDIR) => {}
                Err(e) => return Err(e),
            }
        }
        let inner = open_dir(dir.as_fd(), name)?;
        if depth >= DEPTH {
            loop {
                *moved += 1;
                let to = format!(".deep-{moved}");
                match rfs::renameat_with(dir, name, top, &to, rfs::RenameFlags::NOREPLACE) {
                    Err(Errno::EXIST) => {}
                    other => break other?,
                }
            }
            continue;
        }
        empty(top, &inner, depth + 1, moved)?;
        match rfs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_is_deep_or_read_only_and_nothing_behind_links() {
        let tmp = tempfile::tempdir().unwrap();
        let keep = tmp.path().join("keep");
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("f"), "x").unwrap();
        let top = tmp.path().join("top");
        let closed = top.join("closed");
        std::fs::create_dir_all(closed.join("in")).unwrap();
        std::os::unix::fs::symlink(&keep, top.join("link")).unwrap();
        std::fs::write(closed.join("in/f"), "x").unwrap();
        rfs::chmod(closed.join("in"), Mode::empty()).unwrap();
        rfs::chmod(&closed, Mode::RUSR).unwrap();
        // 2,000 levels of long names: far beyond PATH_MAX, so made by descriptor.
        let name = "d".repeat(200);
        let mut at = open_dir(rfs::CWD, &top).unwrap();
        for _ in 0..2000 {
            rfs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = open_dir(at.as_fd(), name.as_str()).unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert!(!top.exists() && keep.join("f").exists());
        remove_tree(&top).unwrap();
    }
}
