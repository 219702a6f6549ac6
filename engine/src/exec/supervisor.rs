//! Answering a job's changes of owner: each is written down and answered as done.
//!
//! Knows the kernel's seccomp user notifications. Runs in the thread that waits for the job, between its polls, so there
//! is no thread to end and none to leak; a job that is gone takes its questions along.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::Pid;

use super::ExecError;
use super::filter::{self, Call};
use super::owners::{Owners, Recorder};
use super::resolve::{self, Caller, From};

/// The other end of a job's filter, and what has been recorded.
pub(super) struct Supervisor {
    listener: Option<OwnedFd>,
    recorder: Recorder,
}

/// What the waiting process is told.
enum Answer {
    Done,
    Fail(Errno),
    /// Let the kernel do it. It cannot change an owner here: the job knows one user, and the call's errors are right.
    AskKernel,
}

impl Supervisor {
    /// Take the filter's descriptor out of the message that the command's process sent before it ran the command.
    pub fn receive(socket: &OwnedFd) -> io::Result<Self> {
        let mut byte = 0u8;
        let mut control = MaybeUninit::<ControlMessage>::uninit();
        // SAFETY: all-zero is valid for both structs; they point to buffers that outlive the call, of which the kernel
        // says how much it filled.
        let fd = unsafe {
            let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            let mut message: libc::msghdr = zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of::<ControlMessage>() as _;
            let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
            if libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) < 0 {
                return Err(io::Error::last_os_error());
            }
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()
        };
        // SAFETY: the kernel has just made this descriptor for us.
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        // From Linux 6.6 on: asker and answerer wait for each other, so one processor serves both best.
        // SAFETY: a call with a number. Without it all works, more slowly.
        unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
        Ok(Self { listener: Some(listener), recorder: Recorder::default() })
    }

    /// What to poll for input, or -1 when nobody can ask any more.
    pub fn fd(&self) -> RawFd {
        self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Answer one question, if `events` of a poll say that there is one. An error means that the job must be ended.
    pub fn attend(&mut self, events: i16) -> Result<(), ExecError> {
        let Some(listener) = &self.listener else { return Ok(()) };
        if events & libc::POLLIN == 0 {
            // Every process with the filter is gone.
            if events != 0 {
                self.listener = None;
            }
            return Ok(());
        }
        let listener = listener.as_raw_fd();
        // SAFETY: the kernel demands and fills an all-zero struct of this type.
        let (question, received) = unsafe {
            let mut question: libc::seccomp_notif = zeroed();
            let received = libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut question);
            (question, received)
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // Whoever asked is gone, or we were interrupted.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(()),
                _ => Err(ExecError::io("reading what a sandbox asks", error)),
            };
        }
        let answer = self.answer(listener, &question)?;
        // SAFETY: all-zero is valid.
        let mut response: libc::seccomp_notif_resp = unsafe { zeroed() };
        response.id = question.id;
        match answer {
            Answer::Done => {}
            Answer::Fail(errno) => response.error = -errno.raw_os_error(),
            Answer::AskKernel => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        }
        // SAFETY: a struct of the type that the call reads.
        let sent = unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw mut response) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            // It was killed, or a signal made it ask anew.
            if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINPROGRESS)) {
                return Err(ExecError::io("answering a sandbox", error));
            }
        }
        Ok(())
    }

    fn answer(&mut self, listener: RawFd, question: &libc::seccomp_notif) -> Result<Answer, ExecError> {
        let data = &question.data;
        let (Some(call), Some(tid)) = (filter::call(data.arch, data.nr), Pid::from_raw(question.pid as i32))
        else {
            return Ok(Answer::AskKernel);
        };
        let (uid, gid) = ids(call, &data.args);
        let found = look_up(&Caller::new(tid), call, &data.args);
        // Its number may have become another's while we looked; what was found is thrown away then.
        // SAFETY: the call reads the number.
        let valid = unsafe {
            libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID as _, &raw const question.id) == 0
        };
        if !valid {
            return Ok(Answer::Fail(Errno::INTR));
        }
        let file = match found {
            Ok(file) => file,
            Err(Errno::MFILE | Errno::NFILE) => {
                let error = io::Error::from(Errno::MFILE);
                return Err(ExecError::io("recording the owner of a file (see ulimit -n)", error));
            }
            // As a plain user we enter no directory that is closed to its owner, though the job's root does.
            Err(errno @ Errno::ACCESS) => return Ok(Answer::Fail(errno)),
            // /proc does not let us look into the process.
            Err(Errno::PERM) => return Err(not_allowed()),
            Err(_) => return Ok(Answer::AskKernel),
        };
        if let Err(errno) = resolve::touch_owner(&file) {
            return Ok(Answer::Fail(errno));
        }
        let stat = match rustix::fs::fstat(&file) {
            Ok(stat) => stat,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        self.recorder.set((stat.st_dev, stat.st_ino), file, uid, gid)?;
        Ok(Answer::Done)
    }

    /// What has been recorded.
    pub fn finish(self) -> Owners {
        self.recorder.finish()
    }
}

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// The user and group that a call sets.
fn ids(call: Call, args: &[u64; 6]) -> (u32, u32) {
    let at = if call == Call::Fchownat { 2 } else { 1 };
    (args[at] as u32, args[at + 1] as u32)
}

/// The file that a call is about.
fn look_up(caller: &Caller, call: Call, args: &[u64; 6]) -> Result<OwnedFd, Errno> {
    let by_path = |follow| caller.find(From::Cwd, &caller.string(args[0])?, follow);
    match call {
        Call::Chown => by_path(true),
        Call::Lchown => by_path(false),
        Call::Fchown => caller.open(From::Fd(args[0] as i32)),
        Call::Fchownat => at(caller, args),
    }
}

fn at(caller: &Caller, args: &[u64; 6]) -> Result<OwnedFd, Errno> {
    let flags = args[4] as i32;
    let from = match args[0] as i32 {
        libc::AT_FDCWD => From::Cwd,
        fd => From::Fd(fd),
    };
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let path = caller.string(args[1])?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        return caller.open(from);
    }
    caller.find(from, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
}

fn not_allowed() -> ExecError {
    ExecError::Unavailable(super::probe::cannot_look_into())
}

/// Space for one control message with one descriptor, aligned as the kernel wants it.
#[repr(C)]
pub(super) struct ControlMessage {
    pub header: libc::cmsghdr,
    pub fd: RawFd,
}
