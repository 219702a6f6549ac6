//! The file that another process means by a path or a descriptor, found as the kernel would find it for that process.
//!
//! Knows /proc and nothing of owners. Every name is looked up in that process's own root and mounts, so no symbolic
//! link of its making leads to the host's files. All descriptors are O_PATH: nothing is opened for reading, and no
//! device or pipe is touched.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::Pid;

/// A thread that waits for an answer.
pub(super) struct Caller {
    tid: Pid,
}

/// Where the lookup of a relative path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The working directory.
    Cwd,
    /// A descriptor.
    Fd(i32),
}

/// How many symbolic links a path may lead over, as in the kernel.
const MOST_LINKS: usize = 40;

const LINK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Caller {
    pub fn new(tid: Pid) -> Self {
        Self { tid }
    }

    /// The NUL-terminated string at an address of the caller. `EFAULT` if there is none, `ENAMETOOLONG` if it is longer
    /// than a path may be.
    pub fn string(&self, address: u64) -> Result<CString, Errno> {
        let mut bytes = vec![0u8; libc::PATH_MAX as usize];
        let length = read_memory(self.tid, address, &mut bytes).map_err(|error| errno(&error))?;
        let whole = length == bytes.len();
        bytes.truncate(length);
        match bytes.iter().position(|&byte| byte == 0) {
            Some(end) => {
                bytes.truncate(end);
                CString::new(bytes).map_err(|_| Errno::FAULT)
            }
            None if whole => Err(Errno::NAMETOOLONG),
            None => Err(Errno::FAULT),
        }
    }

    /// Write to an address of the caller. `EFAULT` if not all of it can be written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
        let pid = self.tid.as_raw_nonzero().get();
        // SAFETY: our part is only read; the remote address is not of this process.
        let count = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
        if count < 0 {
            return Err(errno(&io::Error::last_os_error()));
        }
        if count as usize == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// What a descriptor of the caller's, or its working directory, is.
    pub fn open(&self, from: From) -> Result<OwnedFd, Errno> {
        match from {
            From::Cwd => self.proc("cwd"),
            From::Fd(fd) if fd < 0 => Err(Errno::BADF),
            From::Fd(fd) => self.proc(&format!("fd/{fd}")),
        }
    }

    /// The file that a path names. If `follow` is false and it names a symbolic link, the link.
    pub fn find(&self, from: From, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
        let flags = if follow { OFlags::PATH | OFlags::CLOEXEC } else { LINK };
        let bytes = path.to_bytes();
        if bytes.is_empty() {
            return Err(Errno::NOENT);
        }
        let root = self.proc("root")?;
        if bytes[0] == b'/' {
            match rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
            return walk(&root, root.as_fd(), bytes, follow);
        }
        let start = self.open(from)?;
        match rustix::fs::openat2(&start, path, flags, Mode::empty(), ResolveFlags::BENEATH) {
            // It leads out of the directory, which the kernel cannot bound by the caller's root for us.
            Err(Errno::XDEV | Errno::AGAIN) => walk(&root, start.as_fd(), bytes, follow),
            other => other,
        }
    }

    fn proc(&self, what: &str) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/{}/{what}", self.tid.as_raw_nonzero());
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| match error {
            // Said of the process, not of the file, and to be told apart from a directory that is closed to us.
            Errno::ACCESS => Errno::PERM,
            other => other,
        })
    }
}

/// Name by name, with `..` held back at the root and symbolic links read by us.
fn walk(root: &OwnedFd, start: BorrowedFd<'_>, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::openat(start, c".", DIR, Mode::empty())?;
    let mut rest = path.to_vec();
    let mut links = 0;
    loop {
        if rest.first() == Some(&b'/') {
            at = rustix::fs::openat(root, c".", DIR, Mode::empty())?;
        }
        let begin = rest.iter().position(|&byte| byte != b'/').unwrap_or(rest.len());
        let end = rest[begin..].iter().position(|&byte| byte == b'/').map_or(rest.len(), |end| begin + end);
        let (name, after) = (rest[begin..end].to_vec(), rest[end..].to_vec());
        // What follows a slash must not begin with one, since that would mean the root.
        let more: Vec<u8> = after.iter().copied().skip_while(|&byte| byte == b'/').collect();
        let (last, must_be_dir) = (more.is_empty(), !after.is_empty());
        if name.is_empty() {
            return Ok(at);
        }
        let next = match name.as_slice() {
            b".." if same_place(&at, root)? => rustix::fs::openat(root, c".", DIR, Mode::empty())?,
            b"." | b".." => rustix::fs::openat(&at, OsStr::from_bytes(&name), DIR, Mode::empty())?,
            _ => rustix::fs::openat(&at, OsStr::from_bytes(&name), LINK, Mode::empty())?,
        };
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
        if kind == FileType::Symlink && (!last || follow || must_be_dir) {
            links += 1;
            // The links of /proc say where, not what; the caller falls back on the kernel.
            if links > MOST_LINKS || rustix::fs::fstatfs(&next)?.f_type == libc::PROC_SUPER_MAGIC {
                return Err(Errno::LOOP);
            }
            let mut target = rustix::fs::readlinkat(&next, c"", Vec::new())?.into_bytes();
            if target.is_empty() {
                return Err(Errno::NOENT);
            }
            target.extend_from_slice(&after);
            rest = target;
            continue;
        }
        if (!last || must_be_dir) && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if last {
            return Ok(next);
        }
        (at, rest) = (next, more);
    }
}

/// Whether two descriptors are one directory of one mount.
fn same_place(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    // The number of the mount, STATX_MNT_ID, is there from Linux 5.8 on.
    let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
    let look = |fd: &OwnedFd| {
        let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
        Ok::<_, Errno>((stat.stx_mnt_id, stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
    };
    Ok(look(a)? == look(b)?)
}

/// As much as can be read from there.
fn read_memory(tid: Pid, address: u64, into: &mut [u8]) -> io::Result<usize> {
    const PAGE: usize = 4096;
    // In two parts, so that a string that ends before an unmapped page is read up to there.
    let first = (PAGE - address as usize % PAGE).min(into.len());
    let second = into.len() - first;
    let remote = [
        libc::iovec { iov_base: address as *mut _, iov_len: first },
        libc::iovec { iov_base: address.wrapping_add(first as u64) as *mut _, iov_len: second },
    ];
    let mut local = [IoSliceMut::new(into)];
    let pid = tid.as_raw_nonzero().get();
    // SAFETY: IoSliceMut has the layout of iovec and is a slice of ours; the remote addresses are not of this process.
    let count = unsafe {
        libc::process_vm_readv(pid, local.as_mut_ptr().cast(), 1, remote.as_ptr(), remote.len() as _, 0)
    };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A call that changes no owner, and all else that a change of owner does: set-user-id bits and file capabilities go,
/// ctime moves. The errors are those of a real one: a read-only mount, an immutable file.
pub(super) fn touch_owner(file: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::chownat(file, c"", None, None, AtFlags::EMPTY_PATH)
}

/// Whether /proc is there and about this process, as all of this module needs it.
pub(super) fn proc_is_ours() -> bool {
    let me = rustix::process::getpid().as_raw_nonzero().to_string();
    rustix::fs::readlinkat(CWD, c"/proc/self", Vec::new()).is_ok_and(|link| link.to_bytes() == me.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    type Found = Result<(u64, u64), Errno>;

    fn identity(found: Result<OwnedFd, Errno>) -> Found {
        let stat = rustix::fs::fstat(found?)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::write(dir.path().join("a/f"), "").unwrap();
        let top = dir.path().file_name().unwrap().to_str().unwrap();
        for (target, at) in [
            ("..", "a/b/up"),
            ("../../f", "a/b/c/out"),
            ("../f", "a/b/file"),
            (".", "a/here"),
            ("loop", "a/loop"),
            ("b/", "a/dir"),
            ("f/", "a/slash"),
            ("nothing", "a/dangling"),
            (&format!("../../{top}/a"), "a/far"),
            (&format!("{}/a/b", dir.path().display()), "a/abs"),
            ("//", "a/b/root"),
        ] {
            symlink(target, dir.path().join(at)).unwrap();
        }
        dir
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// This process asks about itself, so the kernel's own lookup is the oracle. No name is that of a link in /proc, which
        /// are left to the kernel.
        #[test]
        fn every_path_leads_where_the_kernel_says(
            parts in prop::collection::vec(prop::sample::select(vec![
                "a", "b", "c", "f", "up", "out", "file", "here", "loop", "dir", "slash", "dangling", "far", "abs",
                "root", ".", "..", "", "..", "tmp", "proc",
            ]), 1..9),
            absolute: bool,
            follow: bool,
        ) {
            static TREE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
            let top = TREE.get_or_init(tree).path();
            let begin = if absolute { format!("{}/", top.display()) } else { String::new() };
            let path = CString::new(begin + &parts.join("/")).unwrap();
            let start = rustix::fs::open(top.join("a"), DIR, Mode::empty()).unwrap();
            let root = rustix::fs::open("/", DIR, Mode::empty()).unwrap();
            let flags = if follow { OFlags::PATH | OFlags::CLOEXEC } else { LINK };
            let kernel = identity(rustix::fs::openat(&start, &path, flags, Mode::empty()));
            let caller = Caller::new(rustix::thread::gettid());
            let fd = From::Fd(std::os::fd::AsRawFd::as_raw_fd(&start));
            prop_assert_eq!(identity(caller.find(fd, &path, follow)), kernel, "{:?}", &path);
            if !path.is_empty() {
                prop_assert_eq!(identity(walk(&root, start.as_fd(), path.to_bytes(), follow)), kernel, "{:?}", &path);
            }
            prop_assert_eq!(caller.string(path.as_ptr() as u64), Ok(path));
        }
    }
}
