//! The command's process between clone and exec: its descriptors, its limits, its privileges.
//!
//! It runs in the builder's memory, as `child` does and by the same rules, while process 1 sleeps. In the ordinary mode
//! it drops every privilege. In a job with a root of its own it has all of them instead, in user and mount namespaces
//! nested in those of process 1, so that what process 1 mounted is locked; and a filter hands its chowns to the builder.

use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::RawFd;
use std::ptr;

use super::child::{Failure, Inherited, Result, Stage, check, close, errno, sys, write_file};
use super::filter;
use super::program::Program;
use super::supervisor::ControlMessage;

/// Shared with the command's process, which runs in this memory until it execs.
struct Launch<'a> {
    inherited: &'a Inherited<'a>,
    failure: MaybeUninit<Failure>,
    failed: bool,
}

/// Start process 2. The kernel suspends this process until that one has its own memory or is gone.
pub(super) fn start_command(inherited: &Inherited<'_>) -> Result<libc::pid_t> {
    let mut launch = Launch { inherited, failure: MaybeUninit::uninit(), failed: false };
    let (stage, nested) = match inherited.filter {
        Some(_) => (Stage::Nested, libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
        None => (Stage::Fork, 0),
    };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | nested;
    let argument = (&raw mut launch).cast();
    let pid = sys!(stage, 0, libc::clone(command_entry, inherited.stack_top, flags, argument))?;
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
        Ok(()) if inherited.execute => execute(inherited.program),
        // SAFETY: ends this process alone.
        Ok(()) => unsafe { libc::_exit(0) },
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
    if let Some(bound) = &program.open_files {
        sys!(Stage::Limits, 2, libc::setrlimit(libc::RLIMIT_NOFILE, bound))?;
    }
    // SAFETY: cannot fail.
    unsafe { libc::umask(0o022) };
    match inherited.filter {
        Some(socket) => become_root(socket)?,
        None => drop_privileges()?,
    }
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

/// User 0 of the nested user namespace, with every capability in it and in nothing else: what process 1 mounted is
/// another namespace's, so a read-only mount stays one.
fn become_root(socket: RawFd) -> Result<()> {
    // That setgroups is denied is inherited.
    write_file(Stage::Nested, 1, c"/proc/self/uid_map", b"0 0 1\n")?;
    write_file(Stage::Nested, 2, c"/proc/self/gid_map", b"0 0 1\n")?;
    sys!(Stage::Privileges, 3, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
    let program =
        libc::sock_fprog { len: filter::FILTER.len() as u16, filter: filter::FILTER.as_ptr().cast_mut() };
    // Without the second flag an older kernel would slow the job down by its guards against speculation.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    let listener = sys!(Stage::Filter, 0, libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program))?;
    send_descriptor(socket, listener)?;
    close(listener);
    Ok(())
}

fn send_descriptor(socket: RawFd, fd: RawFd) -> Result<()> {
    // SAFETY: all-zero is valid for these structs; the message points to others of this frame.
    let (mut control, mut message): (ControlMessage, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<RawFd>()) as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.fd = fd;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<ControlMessage>() as _;
    sys!(Stage::Filter, 1, libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL))?;
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
