//! Answering a job's changes of owner: each is written down and answered as done; an fstat of such a file says so.
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
    pub fn receive(socket: &OwnedFd, recorder: Recorder) -> io::Result<Self> {
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
        Ok(Self { listener: Some(listener), recorder })
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
        if matches!(call, Call::Fstat | Call::Newfstatat) && self.recorder.is_empty() {
            return Ok(Answer::AskKernel);
        }
        let caller = Caller::new(tid);
        let found = look_up(&caller, call, &data.args);
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
        let (uid, gid) = match call {
            Call::Fstat => return Ok(self.stat(&caller, &file, data.args[1])),
            Call::Newfstatat => return Ok(self.stat(&caller, &file, data.args[2])),
            Call::Fchownat => (data.args[2], data.args[3]),
            Call::Chown | Call::Lchown | Call::Fchown => (data.args[1], data.args[2]),
        };
        if let Err(errno) = resolve::touch_owner(&file) {
            return Ok(Answer::Fail(errno));
        }
        let stat = match rustix::fs::fstat(&file) {
            Ok(stat) => stat,
            Err(errno) => return Ok(Answer::Fail(errno)),
        };
        self.recorder.set((stat.st_dev, stat.st_ino), file, uid as u32, gid as u32)?;
        Ok(Answer::Done)
    }

    /// Fill in a `struct stat` of the caller's, if the file has an owner that the kernel does not know of.
    fn stat(&self, caller: &Caller, file: &OwnedFd, address: u64) -> Answer {
        // SAFETY: all-zero is valid. On 64-bit processors libc's struct is the kernel's.
        let mut stat: libc::stat = unsafe { zeroed() };
        // SAFETY: a descriptor and a struct of ours.
        if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } < 0 {
            return Answer::AskKernel;
        }
        let Some((uid, gid)) = self.recorder.get((stat.st_dev, stat.st_ino)) else {
            return Answer::AskKernel;
        };
        (stat.st_uid, stat.st_gid) = (uid, gid);
        // SAFETY: the bytes of a plain struct that was zeroed, padding and all.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const stat).cast(), size_of::<libc::stat>()) };
        match caller.write(address, bytes) {
            Ok(()) => Answer::Done,
            Err(errno) => Answer::Fail(errno),
        }
    }

    /// What has been recorded.
    pub fn finish(self) -> Owners {
        self.recorder.finish()
    }
}

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// The file that a call is about.
fn look_up(caller: &Caller, call: Call, args: &[u64; 6]) -> Result<OwnedFd, Errno> {
    let by_path = |follow| caller.find(From::Cwd, &caller.string(args[0])?, follow);
    match call {
        Call::Chown => by_path(true),
        Call::Lchown => by_path(false),
        Call::Fchown | Call::Fstat => caller.open(From::Fd(args[0] as i32)),
        Call::Fchownat => at(caller, args[0], args[1], args[4] as i32),
        // A name is given, for all the flag: the kernel's to answer, as all of that kind.
        Call::Newfstatat if !caller.string(args[1])?.is_empty() => Err(Errno::NOSYS),
        Call::Newfstatat => at(caller, args[0], args[1], args[3] as i32 & libc::AT_EMPTY_PATH),
    }
}

fn at(caller: &Caller, dir: u64, path: u64, flags: i32) -> Result<OwnedFd, Errno> {
    let from = match dir as i32 {
        libc::AT_FDCWD => From::Cwd,
        fd => From::Fd(fd),
    };
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let path = caller.string(path)?;
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
