//! What runs between clone and exec: the sandbox's first process sets up the namespaces, then stays as their init.
//!
//! It shares the builder's memory, on a stack of its own: copying the page tables of a builder of 150 MB would cost ten
//! times what all the rest does. So it allocates nothing, takes no lock and writes to its stack alone. It shares errno
//! too, so the builder's thread sleeps until the set-up is done (`Stage::Ready`), and no call fails after that. A step
//! can neither read nor trace it, since it keeps capabilities that no step has.
//! Knows only a compiled `Program` and a few descriptors. The command's own process is `command`.

use std::ffi::CStr;
use std::mem::{size_of, zeroed};
use std::os::fd::RawFd;
use std::ptr;

use super::command::start_command;
use super::program::{Op, Place, Program};

/// What the child was doing when a system call failed.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Started = 1,
    IdMap,
    Privacy,
    Root,
    /// The job's own root directory.
    OwnRoot,
    Op,
    Source,
    Pivot,
    Hostname,
    Fork,
    /// The namespaces nested in the sandbox's, for a job with a root of its own.
    Nested,
    Stdio,
    Limits,
    Cwd,
    Privileges,
    /// The filter that hands chown to the builder.
    Filter,
    Exec,
    /// Not a failure: the command runs, and another report will follow.
    Ready,
    /// Not a failure: the command has ended.
    Ended,
    /// Not a failure: the set-up works, and no command was asked for.
    Probed,
}

/// What the child tells the parent, in one write.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Report {
    pub stage: u32,
    /// Which op, or how many times exec was tried.
    pub index: u32,
    pub errno: i32,
    /// As wait4 gives it.
    pub status: i32,
    pub user_us: u64,
    pub system_us: u64,
    pub max_rss_kib: u64,
}

impl Report {
    pub const SIZE: usize = size_of::<Self>();

    fn failure(stage: Stage, index: usize, errno: i32) -> Self {
        Self {
            stage: stage as u32,
            index: index as u32,
            errno,
            status: 0,
            user_us: 0,
            system_us: 0,
            max_rss_kib: 0,
        }
    }
}

/// Everything the child needs beside the program. All descriptors are above 9 and close on exec.
pub(super) struct Inherited<'a> {
    pub program: &'a Program,
    /// An empty directory of the host on which the new root is mounted.
    pub root: &'a CStr,
    /// Contents of uid_map and gid_map.
    pub uid_map: &'a [u8],
    pub gid_map: &'a [u8],
    pub status: RawFd,
    pub output: RawFd,
    pub null: RawFd,
    pub jobserver: Option<(RawFd, RawFd)>,
    /// For a job with a root of its own: the socket that the filter's descriptor is sent through.
    pub filter: Option<RawFd>,
    /// All descriptors to keep, sorted.
    pub keep: &'a [RawFd],
    /// The top of a stack for the command's process until it execs.
    pub stack_top: *mut libc::c_void,
    /// Whether to run the command, or only to try the set-up.
    pub execute: bool,
}

pub(super) struct Failure {
    pub stage: Stage,
    pub index: usize,
    pub errno: i32,
}

pub(super) type Result<T> = std::result::Result<T, Failure>;

pub(super) fn errno() -> i32 {
    // SAFETY: the address of errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// The result of a system call, or the failure of a stage.
pub(super) fn check(stage: Stage, index: usize, value: libc::c_long) -> Result<RawFd> {
    if value < 0 { Err(Failure { stage, index, errno: errno() }) } else { Ok(value as RawFd) }
}

macro_rules! sys {
    ($stage:expr, $index:expr, $call:expr) => {{
        // SAFETY: pointers given to the call point to NUL-terminated strings or structs that outlive it.
        let value = unsafe { $call };
        check($stage, $index, value as libc::c_long)
    }};
}
pub(super) use sys;

/// The life of the sandbox's process 1, as libc's clone calls it. Never returns.
///
/// The argument is an `Inherited` that outlives this process. To be run in a new process with all signals blocked.
pub(super) extern "C" fn main(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent passes an `Inherited` and keeps it until it has waited for this process.
    let inherited = unsafe { &*argument.cast::<Inherited<'_>>() };
    let report = match life(inherited) {
        Ok(report) => report,
        Err(failure) => Report::failure(failure.stage, failure.index, failure.errno),
    };
    send(inherited, &report);
    // SAFETY: ends this process alone, and takes all others of its namespace along.
    unsafe { libc::_exit(0) }
}

fn send(inherited: &Inherited<'_>, report: &Report) {
    // SAFETY: the report is plain memory. If nobody reads, nobody is there any more who could care.
    unsafe { libc::write(inherited.status, ptr::from_ref(report).cast(), Report::SIZE) };
}

fn life(inherited: &Inherited<'_>) -> Result<Report> {
    close_all_but(inherited.keep);
    die_with_parent(inherited.status)?;
    map_ids(inherited)?;
    build_root(inherited)?;
    loopback_up();
    let name = inherited.program.hostname;
    sys!(Stage::Hostname, 0, libc::sethostname(name.as_ptr().cast(), name.len()))?;
    if !inherited.execute && inherited.filter.is_none() {
        return Ok(Report::failure(Stage::Probed, 0, 0));
    }
    let command = start_command(inherited)?;
    send(inherited, &Report::failure(Stage::Ready, 0, 0));
    reap(command)
}

fn close_all_but(keep: &[RawFd]) {
    let mut next = 3;
    for &fd in keep {
        if fd > next {
            close_range(next as u32, fd as u32 - 1);
        }
        next = fd + 1;
    }
    close_range(next as u32, u32::MAX);
}

fn close_range(first: u32, last: u32) {
    // SAFETY: closes descriptors that nothing in this process uses.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

fn die_with_parent(status: RawFd) -> Result<()> {
    sys!(Stage::Started, 0, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
    // The parent may have died before that call; then nobody holds the other end of the pipe.
    let mut poll = libc::pollfd { fd: status, events: 0, revents: 0 };
    sys!(Stage::Started, 1, libc::poll(&mut poll, 1, 0))?;
    if poll.revents & libc::POLLERR != 0 {
        // SAFETY: nothing to clean up.
        unsafe { libc::_exit(0) }
    }
    Ok(())
}

fn map_ids(inherited: &Inherited<'_>) -> Result<()> {
    let files: [(&CStr, &[u8]); 3] = [
        (c"/proc/self/setgroups", b"deny"),
        (c"/proc/self/uid_map", inherited.uid_map),
        (c"/proc/self/gid_map", inherited.gid_map),
    ];
    for (index, (path, text)) in files.into_iter().enumerate() {
        write_file(Stage::IdMap, index, path, text)?;
    }
    Ok(())
}

pub(super) fn write_file(stage: Stage, index: usize, path: &CStr, text: &[u8]) -> Result<()> {
    let fd = sys!(stage, index, libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
    sys!(stage, index, libc::write(fd, text.as_ptr().cast(), text.len()))?;
    close(fd);
    Ok(())
}

pub(super) fn close(fd: RawFd) {
    // SAFETY: the descriptor was opened here and is not used again.
    unsafe { libc::close(fd) };
}

fn build_root(inherited: &Inherited<'_>) -> Result<()> {
    let none = ptr::null::<libc::c_char>();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    sys!(Stage::Privacy, 0, libc::mount(none, c"/".as_ptr(), none, private, ptr::null()))?;
    let root = inherited.root.as_ptr();
    match &inherited.program.root {
        None => {
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            let (kind, data) = (c"tmpfs".as_ptr(), c"mode=0755".as_ptr().cast());
            sys!(Stage::Root, 0, libc::mount(kind, root, kind, flags, data))?;
        }
        Some(own) => graft_root(own, root)?,
    }
    sys!(Stage::Root, 1, libc::chdir(root))?;
    let root = sys!(Stage::Root, 2, libc::open(c".".as_ptr(), O_PATH_DIR))?;
    for (index, op) in inherited.program.ops.iter().enumerate() {
        perform(root, index, op)?;
    }
    if inherited.program.root.is_none() {
        set_attributes(Stage::Root, 3, root, 0, libc::MOUNT_ATTR_RDONLY)?;
    }
    let here = c".".as_ptr();
    sys!(Stage::Pivot, 0, libc::syscall(libc::SYS_pivot_root, here, here))?;
    sys!(Stage::Pivot, 1, libc::umount2(here, libc::MNT_DETACH))?;
    sys!(Stage::Pivot, 2, libc::chdir(c"/".as_ptr()))?;
    close(root);
    Ok(())
}

/// Mount a directory of the host, to be the root, where the root is to be.
fn graft_root(own: &CStr, at: *const libc::c_char) -> Result<()> {
    let (here, empty) = (libc::AT_FDCWD, c"".as_ptr());
    let open_tree = libc::SYS_open_tree;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
    let tree = sys!(Stage::OwnRoot, 0, libc::syscall(open_tree, here, own.as_ptr(), flags))?;
    set_attributes(Stage::OwnRoot, 1, tree, 0, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV)?;
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    sys!(Stage::OwnRoot, 2, libc::syscall(libc::SYS_move_mount, tree, empty, here, at, flags))?;
    close(tree);
    Ok(())
}

const O_PATH_DIR: libc::c_int = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;

fn perform(root: RawFd, index: usize, op: &Op) -> Result<()> {
    match op {
        Op::Dir(place) => {
            let dir = open_beneath(root, index, &place.dir, O_PATH_DIR)?;
            make_dir(index, dir, &place.name)?;
            close(dir);
        }
        Op::Symlink(target, place) => {
            let dir = open_beneath(root, index, &place.dir, O_PATH_DIR)?;
            sys!(Stage::Op, index, libc::symlinkat(target.as_ptr(), dir, place.name.as_ptr()))?;
            close(dir);
        }
        Op::File(contents, place) => {
            let dir = open_beneath(root, index, &place.dir, O_PATH_DIR)?;
            let fd = make_file(index, dir, &place.name)?;
            let mut rest = contents.as_slice();
            while !rest.is_empty() {
                let count = sys!(Stage::Op, index, libc::write(fd, rest.as_ptr().cast(), rest.len()))?;
                rest = &rest[count as usize..];
            }
            close(fd);
            close(dir);
        }
        Op::Bind { from, to, recursive, attributes } => bind(root, index, from, to, *recursive, *attributes)?,
        Op::Mount { kind, to, flags, data } => {
            let target = open_beneath(root, index, &to.path, O_PATH_DIR)?;
            sys!(Stage::Op, index, libc::fchdir(target))?;
            let of = kind.as_ptr();
            let made =
                sys!(Stage::Op, index, libc::mount(of, c".".as_ptr(), of, *flags, data.as_ptr().cast()));
            sys!(Stage::Op, index, libc::fchdir(root))?;
            close(target);
            match made {
                // Parts of /proc are covered, as in a container, and the kernel allows no new one that would uncover
                // them: then the container's own, covers and all. Its /proc/self is right all the same.
                Err(failure) if failure.errno == libc::EPERM && *kind == c"proc" => {
                    let attributes =
                        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
                    bind(root, index, c"/proc", to, true, attributes).map_err(|_| failure)?;
                }
                other => drop(other?),
            }
        }
    }
    Ok(())
}

/// Open a path of the new root as if it were the root already: no symlink in it leads to the host.
fn open_beneath(root: RawFd, index: usize, path: &CStr, flags: libc::c_int) -> Result<RawFd> {
    // SAFETY: an all-zero open_how is valid.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT;
    let size = size_of::<libc::open_how>();
    sys!(Stage::Op, index, libc::syscall(libc::SYS_openat2, root, path.as_ptr(), &raw const how, size))
}

fn make_dir(index: usize, dir: RawFd, name: &CStr) -> Result<()> {
    match sys!(Stage::Op, index, libc::mkdirat(dir, name.as_ptr(), 0o755)) {
        Err(failure) if failure.errno != libc::EEXIST => Err(failure),
        _ => Ok(()),
    }
}

fn make_file(index: usize, dir: RawFd, name: &CStr) -> Result<RawFd> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    sys!(Stage::Op, index, libc::openat(dir, name.as_ptr(), flags, 0o644 as libc::c_uint))
}

/// Graft a detached copy of `from` onto a mount point of its kind, which is made if it is missing.
fn bind(root: RawFd, index: usize, from: &CStr, to: &Place, recursive: bool, attributes: u64) -> Result<()> {
    let depth = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | depth;
    let open_tree = libc::SYS_open_tree;
    let tree = sys!(Stage::Source, index, libc::syscall(open_tree, libc::AT_FDCWD, from.as_ptr(), flags))?;
    set_attributes(Stage::Source, index, tree, depth, attributes)?;
    let target = match open_beneath(root, index, &to.path, libc::O_PATH) {
        Err(failure) if failure.errno == libc::ENOENT => {
            make_mount_point(root, index, tree, to)?;
            open_beneath(root, index, &to.path, libc::O_PATH)?
        }
        other => other?,
    };
    let empty = c"".as_ptr();
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    sys!(Stage::Op, index, libc::syscall(libc::SYS_move_mount, tree, empty, target, empty, flags))?;
    close(tree);
    close(target);
    Ok(())
}

const OPEN_TREE_CLONE: libc::c_int = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

fn make_mount_point(root: RawFd, index: usize, tree: RawFd, to: &Place) -> Result<()> {
    // SAFETY: an all-zero stat is valid.
    let mut stat: libc::stat = unsafe { zeroed() };
    sys!(Stage::Source, index, libc::fstat(tree, &mut stat))?;
    let dir = open_beneath(root, index, &to.dir, O_PATH_DIR)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        make_dir(index, dir, &to.name)?;
    } else {
        close(make_file(index, dir, &to.name)?);
    }
    close(dir);
    Ok(())
}

fn set_attributes(
    stage: Stage,
    index: usize,
    mount: RawFd,
    flags: libc::c_int,
    attributes: u64,
) -> Result<()> {
    // SAFETY: an all-zero mount_attr is valid.
    let mut attr: libc::mount_attr = unsafe { zeroed() };
    attr.attr_set = attributes;
    let (size, flags) = (size_of::<libc::mount_attr>(), flags | libc::AT_EMPTY_PATH);
    let call = libc::SYS_mount_setattr;
    sys!(stage, index, libc::syscall(call, mount, c"".as_ptr(), flags, &raw const attr, size))?;
    Ok(())
}

/// Bring `lo` up, for steps whose tests talk to themselves. It is all the network there is; that it fails is no harm.
fn loopback_up() {
    // SAFETY: the request is a zeroed ifreq with a name and flags.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return;
        }
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(fd, libc::SIOCSIFFLAGS, &request);
        libc::close(fd);
    }
}

/// Wait for every process that ends, until it is the command's own.
fn reap(command: libc::pid_t) -> Result<Report> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        let pid = unsafe { libc::wait4(-1, &mut status, 0, ptr::null_mut()) };
        if pid == command {
            break;
        }
        if pid < 0 && errno() != libc::EINTR {
            return Err(Failure { stage: Stage::Fork, index: 1, errno: errno() });
        }
    }
    // SAFETY: an all-zero rusage is valid, and the call cannot fail.
    let usage = unsafe {
        let mut usage: libc::rusage = zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    Ok(Report {
        status,
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: usage.ru_maxrss as u64,
        ..Report::failure(Stage::Ended, 0, 0)
    })
}

fn micros(time: libc::timeval) -> u64 {
    time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64
}
