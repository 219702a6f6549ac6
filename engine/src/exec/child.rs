//! What runs between clone and exec: the sandbox's first process sets up the namespaces, then stays as their init.
//!
//! It shares the builder's memory, on a stack of its own: copying the page tables of a builder of 150 MB would cost ten
//! times what all the rest does. So it allocates nothing, takes no lock and writes to its stack alone. It shares errno
//! too, so the builder's thread sleeps until the set-up is done (`Stage::Ready`), and no call fails after that. A step
//! can neither read nor trace it, since it keeps capabilities that no step has.
//! Knows only a compiled `Program` and a few descriptors.

use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::RawFd;
use std::ptr;

use super::program::{Op, Place, Program};

/// What the child was doing when a system call failed.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Started = 1,
    IdMap,
    Privacy,
    Root,
    Op,
    Source,
    Pivot,
    Hostname,
    Fork,
    Stdio,
    Limits,
    Cwd,
    Privileges,
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
    /// All descriptors to keep, sorted.
    pub keep: &'a [RawFd],
    /// The top of a stack for the command's process until it execs.
    pub stack_top: *mut libc::c_void,
    /// Whether to run the command, or only to try the set-up.
    pub execute: bool,
}

struct Failure {
    stage: Stage,
    index: usize,
    errno: i32,
}

type Result<T> = std::result::Result<T, Failure>;

fn errno() -> i32 {
    // SAFETY: the address of errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// The result of a system call, or the failure of a stage.
fn check(stage: Stage, index: usize, value: libc::c_long) -> Result<RawFd> {
    if value < 0 { Err(Failure { stage, index, errno: errno() }) } else { Ok(value as RawFd) }
}

macro_rules! sys {
    ($stage:expr, $index:expr, $call:expr) => {{
        // SAFETY: pointers given to the call point to NUL-terminated strings or structs that outlive it.
        let value = unsafe { $call };
        check($stage, $index, value as libc::c_long)
    }};
}

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
    if !inherited.execute {
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
        let fd = sys!(Stage::IdMap, index, libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        sys!(Stage::IdMap, index, libc::write(fd, text.as_ptr().cast(), text.len()))?;
        close(fd);
    }
    Ok(())
}

fn close(fd: RawFd) {
    // SAFETY: the descriptor was opened here and is not used again.
    unsafe { libc::close(fd) };
}

fn build_root(inherited: &Inherited<'_>) -> Result<()> {
    let none = ptr::null::<libc::c_char>();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    sys!(Stage::Privacy, 0, libc::mount(none, c"/".as_ptr(), none, private, ptr::null()))?;
    let root = inherited.root.as_ptr();
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    let (kind, data) = (c"tmpfs".as_ptr(), c"mode=0755".as_ptr().cast());
    sys!(Stage::Root, 0, libc::mount(kind, root, kind, flags, data))?;
    sys!(Stage::Root, 1, libc::chdir(root))?;
    let root = sys!(Stage::Root, 2, libc::open(c".".as_ptr(), O_PATH_DIR))?;
    for (index, op) in inherited.program.ops.iter().enumerate() {
        perform(root, index, op)?;
    }
    set_attributes(Stage::Root, 3, root, 0, libc::MOUNT_ATTR_RDONLY)?;
    let here = c".".as_ptr();
    sys!(Stage::Pivot, 0, libc::syscall(libc::SYS_pivot_root, here, here))?;
    sys!(Stage::Pivot, 1, libc::umount2(here, libc::MNT_DETACH))?;
    sys!(Stage::Pivot, 2, libc::chdir(c"/".as_ptr()))?;
    close(root);
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
            let kind = kind.as_ptr();
            sys!(Stage::Op, index, libc::mount(kind, c".".as_ptr(), kind, *flags, data.as_ptr().cast()))?;
            sys!(Stage::Op, index, libc::fchdir(root))?;
            close(target);
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

/// Shared with the command's process, which runs in this memory until it execs.
struct Launch<'a> {
    inherited: &'a Inherited<'a>,
    failure: MaybeUninit<Failure>,
    failed: bool,
}

/// Start process 2. The kernel suspends this process until that one has its own memory or is gone.
fn start_command(inherited: &Inherited<'_>) -> Result<libc::pid_t> {
    let mut launch = Launch { inherited, failure: MaybeUninit::uninit(), failed: false };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = (&raw mut launch).cast();
    let pid = sys!(Stage::Fork, 0, libc::clone(command_entry, inherited.stack_top, flags, argument))?;
    // SAFETY: written by the other process, which is past it; volatile, since the compiler saw no writer.
    if unsafe { ptr::read_volatile(&raw const launch.failed) } {
        // SAFETY: `failed` is set only after `failure` has been.
        return Err(unsafe { launch.failure.assume_init_read() });
    }
    Ok(pid)
}

extern "C" fn command_entry(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the argument is the Launch of `start_command`, which is suspended.
    let launch = unsafe { &mut *argument.cast::<Launch<'_>>() };
    let failure = become_command(launch.inherited);
    launch.failure.write(failure);
    launch.failed = true;
    127
}

/// Everything between fork and exec; comes back only if something failed.
fn become_command(inherited: &Inherited<'_>) -> Failure {
    match prepare(inherited) {
        Ok(()) => execute(inherited.program),
        Err(failure) => failure,
    }
}

fn prepare(inherited: &Inherited<'_>) -> Result<()> {
    let program = inherited.program;
    if !program.interactive {
        sys!(Stage::Stdio, 0, libc::setsid())?;
        sys!(Stage::Stdio, 1, libc::dup2(inherited.null, 0))?;
        sys!(Stage::Stdio, 2, libc::dup2(inherited.output, 1))?;
        sys!(Stage::Stdio, 3, libc::dup2(inherited.output, 2))?;
    }
    if let Some((read, write)) = inherited.jobserver {
        sys!(Stage::Stdio, 4, libc::dup2(read, super::JOBSERVER_READ))?;
        sys!(Stage::Stdio, 5, libc::dup2(write, super::JOBSERVER_WRITE))?;
    }
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    sys!(Stage::Limits, 0, libc::setrlimit(libc::RLIMIT_CORE, &no_core))?;
    if let Some(bytes) = program.memory {
        let bound = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        sys!(Stage::Limits, 1, libc::setrlimit(libc::RLIMIT_DATA, &bound))?;
    }
    // SAFETY: cannot fail.
    unsafe { libc::umask(0o022) };
    drop_privileges()?;
    sys!(Stage::Cwd, 0, libc::chdir(program.cwd.as_ptr()))?;
    reset_signals();
    Ok(())
}

/// No capability is left, and none comes back: root of the namespace could make its read-only mounts writable.
fn drop_privileges() -> Result<()> {
    use libc::prctl;
    sys!(Stage::Privileges, 0, prctl(libc::PR_SET_SECUREBITS, SECURE_BITS, 0, 0, 0))?;
    let mut capability = 0;
    // SAFETY: plain numbers. The loop ends at the first number that the kernel does not know.
    while unsafe { prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == 0 {
        capability += 1;
    }
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    sys!(Stage::Privileges, 1, prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0))?;
    let header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let none = [0u32; 6];
    sys!(Stage::Privileges, 2, libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()))?;
    sys!(Stage::Privileges, 3, prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and KEEP_CAPS locked off.
const SECURE_BITS: libc::c_ulong = 0b1110_1111;

fn reset_signals() {
    // SAFETY: sigaction with SIG_DFL on every signal; the two that cannot be set fail, which is right.
    unsafe {
        let mut default: libc::sigaction = zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            libc::sigaction(signal, &default, ptr::null_mut());
        }
        let mut empty: libc::sigset_t = zeroed();
        libc::sigemptyset(&mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &empty, ptr::null_mut());
    }
}

fn execute(program: &Program) -> Failure {
    // Like execvp: a place where it is not, or is not for us, is passed over; another error is the answer.
    let mut failure = Failure { stage: Stage::Exec, index: 0, errno: libc::ENOENT };
    for (index, candidate) in program.candidates.iter().enumerate() {
        // SAFETY: the arrays end with NULL and outlive the call.
        unsafe { libc::execve(candidate.as_ptr(), program.argv.as_ptr(), program.envp.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => failure = Failure { stage: Stage::Exec, index, errno: libc::EACCES },
            errno => return Failure { stage: Stage::Exec, index, errno },
        }
    }
    failure
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
