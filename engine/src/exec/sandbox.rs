//! The sandbox executor: namespaces of the kernel, made without privileges. This is the parent's side.
//!
//! Knows how to start the child, to read its report and to put a failure into words; the set-up itself is `child`.
//! Needs Linux 5.12. A job's thread must stay alive until `run` returns, as it does: the kernel kills the sandbox
//! when that thread dies, which is how a killed builder leaves nothing behind.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::child::{self, Inherited, Report, Stage};
use super::orphans;
use super::output::{self, Seen};
use super::owners::Recorder;
use super::probe;
use super::program::{Op, Program, c_string};
use super::resolve;
use super::supervisor::Supervisor;
use super::{End, ExecError, Executor, Job, Mount, Outcome, Owners, Watch};

/// Runs each job in namespaces of its own. See the module's documentation and [`Job`].
///
/// Inside: user 0 mapped to the caller, no capabilities, no network but `lo`, `/proc` of the job alone, a small `/dev`,
/// an empty `/tmp`, a read-only root that holds only the job's mounts, hostname `mosbuild`, umask 022, no core files,
/// stdin `/dev/null`. Process 1 is an init that ends with the command, and all other processes with it.
///
/// A job with a [root](Job::root) of its own gets that directory as `/`, writable, instead of the read-only root, with
/// `/proc`, `/dev` and `/tmp` mounted over it (an empty `cwd` means `/`); the command has all capabilities, in
/// namespaces nested in those that hold the mounts, so that it may mount, chroot and unshare and cannot undo a read-only
/// mount. It knows one user, 0. A change of owner to any other is answered as done, does all else that one does (it
/// clears set-user-id bits), and is told in [`Outcome::owners`]. `fstat` of an open file says that owner, as programs ask
/// that replace a file by a new version of it; `stat` of a path goes on to say 0:0, so what is copied with `cp -p` is
/// not owned as the original, nor is what is made in a set-group-id directory. Device nodes cannot be made. The mount points are
/// made where the root has none, and removed afterwards. As a plain user, the owner of something in a directory that
/// its own owner may not enter cannot be changed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sandbox;

const STACK: usize = 64 * 1024;

/// What every sandbox of this program needs from it.
struct Common {
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    null: OwnedFd,
}

impl Common {
    fn get() -> Result<&'static Self, ExecError> {
        static COMMON: OnceLock<Common> = OnceLock::new();
        if let Some(common) = COMMON.get() {
            return Ok(common);
        }
        let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
        let null = null.and_then(|null| output::high(null.into()));
        let null = null.map_err(|error| ExecError::io("opening /dev/null", error))?;
        let uid_map = format!("0 {} 1\n", rustix::process::geteuid().as_raw()).into_bytes();
        let gid_map = format!("0 {} 1\n", rustix::process::getegid().as_raw()).into_bytes();
        Ok(COMMON.get_or_init(|| Common { uid_map, gid_map, null }))
    }
}

/// The empty directory on which a job's root is mounted, unseen by all others; beside the job's log, since nothing
/// that the job sees lies in it.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new(job: &Job) -> Result<Self, ExecError> {
        let mut path = job.log.clone().into_os_string();
        path.push(".root");
        let path = PathBuf::from(path);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(ExecError::io(format!("making {}", path.display()), error))
            }
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The mount points that a job's own root did not have.
struct OwnRoot(Vec<PathBuf>);

impl OwnRoot {
    fn new(job: &Job) -> Result<Self, ExecError> {
        let mut made = Self(Vec::new());
        let Some(root) = &job.root else { return Ok(made) };
        if job.log.starts_with(root) {
            return Err(ExecError::Invalid(format!(
                "the log {} lies in the job's own root",
                job.log.display()
            )));
        }
        if !resolve::proc_is_ours() {
            return Err(probe::cannot_look_into().into());
        }
        for name in ["proc", "dev", "tmp"] {
            let path = root.join(name);
            match fs::create_dir(&path) {
                Ok(()) => made.0.push(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                        let path = path.display();
                        let text = format!("{path} is no directory, and /{name} must be one");
                        return Err(ExecError::Invalid(text));
                    }
                }
                Err(error) => return Err(ExecError::io(format!("making {}", path.display()), error)),
            }
        }
        Ok(made)
    }
}

impl Drop for OwnRoot {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_dir(path);
        }
    }
}

/// The job as it is run: with a root of its own it begins there.
fn with_cwd(job: &Job) -> Cow<'_, Job> {
    if job.root.is_some() && job.cwd.as_os_str().is_empty() {
        return Cow::Owned(Job { cwd: "/".into(), ..job.clone() });
    }
    Cow::Borrowed(job)
}

impl Sandbox {
    /// The same with a root of the job's own, nested namespaces and the filter.
    pub(super) fn rehearse_root(self, scratch: &Path) -> Result<(), ExecError> {
        let root = scratch.join("root");
        fs::create_dir(&root).map_err(|error| ExecError::io(format!("making {}", root.display()), error))?;
        let (argv, log) = (vec!["true".into()], scratch.join("rehearsal"));
        let job = Job { argv, log, root: Some(root.clone()), ..Job::default() };
        let tried = self.execute(&job, &(), false).map(drop);
        let _ = fs::remove_dir(&root);
        tried
    }

    /// Set a sandbox with these mounts up and take it down again, running nothing. `scratch` is a folder to use.
    pub(super) fn rehearse(self, scratch: &Path, mounts: Vec<Mount>) -> Result<(), ExecError> {
        let (argv, cwd, log) = (vec!["true".into()], "/".into(), scratch.join("rehearsal"));
        self.execute(&Job { argv, cwd, log, mounts, ..Job::default() }, &(), false).map(drop)
    }

    fn execute(self, job: &Job, watch: &dyn Watch, execute: bool) -> Result<Outcome, ExecError> {
        let common = Common::get()?;
        let job = &*with_cwd(job);
        let _own_root = OwnRoot::new(job)?;
        let mount_point = MountPoint::new(job)?;
        let root = c_string(mount_point.0.as_os_str())?;
        let recorder = match &job.root {
            Some(root) => Recorder::new(root, &job.owners)?,
            None => Recorder::default(),
        };
        let program = Program::compile(job)?;
        let pipe = || output::pipe().map_err(|error| ExecError::io("making a pipe", error));
        let ((output, output_write), (status, status_write)) = (pipe()?, pipe()?);
        let (mut stack, mut command_stack) = (new_stack(), new_stack());
        let mut keep = vec![status_write.as_raw_fd(), output_write.as_raw_fd(), common.null.as_raw_fd()];
        let socket = match job.root {
            Some(_) => Some(socket_pair()?),
            None => None,
        };
        let filter = socket.as_ref().map(|(_, theirs)| theirs.as_raw_fd());
        keep.extend(filter);
        keep.extend(job.jobserver.iter().flat_map(|&(read, write)| [read, write]));
        keep.sort_unstable();
        let inherited = Inherited {
            program: &program,
            root: &root,
            uid_map: &common.uid_map,
            gid_map: &common.gid_map,
            status: status_write.as_raw_fd(),
            output: output_write.as_raw_fd(),
            null: common.null.as_raw_fd(),
            jobserver: job.jobserver,
            filter,
            keep: &keep,
            stack_top: command_stack.as_mut_ptr_range().end.cast(),
            execute,
        };
        let started = Instant::now();
        let (registered, pidfd) = orphans::register(false, || spawn(&inherited, &mut stack))?;
        drop((output_write, status_write));
        let first = read_report(&status);
        let ready = first.is_some_and(|report| report.stage == Stage::Ready as u32);
        let receive = |(ours, _): &(OwnedFd, OwnedFd)| Supervisor::receive(ours, recorder);
        let supervisor = socket.as_ref().filter(|_| ready).map(receive).transpose();
        drop(socket);

        let kill = || {
            // Process 1 of the namespace: the kernel kills all others of it before it counts as gone.
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        };
        let (supervisor, refused) = match supervisor {
            Ok(supervisor) => (supervisor, None),
            Err(error) => (None, Some(ExecError::io("taking over a sandbox's filter", error))),
        };
        if refused.is_some() {
            kill();
        }
        let mut supervisor = supervisor;
        let seen = output::attend(job, watch, &output, &pidfd, started, supervisor.as_mut(), kill);
        let ended = reap(&pidfd);
        drop(registered);
        if job.interactive {
            take_terminal_back();
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let (seen, exit) = (seen?, ended?);
        let report = if ready { read_report(&status) } else { first };
        let owners = supervisor.map(Supervisor::finish).unwrap_or_default();
        let outcome = outcome(job, &program, seen, report, exit, started.elapsed())?;
        Ok(Outcome { owners, ..outcome })
    }
}

impl Executor for Sandbox {
    fn run(&self, job: &Job, watch: &dyn Watch) -> Result<Outcome, ExecError> {
        self.execute(job, watch, true)
    }

    fn name(&self) -> &'static str {
        "sandbox"
    }
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), ExecError> {
    let mut fds = [-1; 2];
    // SAFETY: two descriptors into an array of two.
    let made = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    let failed = |error| ExecError::io("making a socket", error);
    if made < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made these descriptors for us.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    Ok((ours, output::high(theirs).map_err(failed)?))
}

fn new_stack() -> Vec<MaybeUninit<u128>> {
    vec![MaybeUninit::uninit(); STACK / size_of::<u128>()]
}

/// Clone, with the sandbox's process 1 on its own stack in our memory. All that it uses must outlive it: its caller
/// waits for its end on every path.
fn spawn(inherited: &Inherited<'_>, stack: &mut [MaybeUninit<u128>]) -> Result<(i32, OwnedFd), ExecError> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_PIDFD
        | libc::CLONE_VM
        | libc::SIGCHLD;
    let argument = ptr::from_ref(inherited).cast_mut().cast();
    let top = stack.as_mut_ptr_range().end.cast();

    // No handler of ours may run on that stack; signals stay blocked in process 1 for good.
    // SAFETY: sigset operations on our own sets. The child gets a stack of its own and an argument that outlives it,
    // and keeps to system calls, see `child`.
    let pid = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (zeroed(), zeroed());
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::clone(child::main, top, flags, argument, &raw mut pidfd);
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid < 0 {
            return Err(probe::refused_clone(error));
        }
        pid
    };
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// How process 1 itself ended: 0, or the signal that killed it.
fn reap(pidfd: &OwnedFd) -> Result<i32, ExecError> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(status) => return Ok(status.and_then(|status| status.terminating_signal()).unwrap_or(0)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ExecError::io("waiting for a sandbox to end", error)),
        }
    }
}

/// A shell with job control leaves the terminal to a group that is gone.
fn take_terminal_back() {
    // SAFETY: signal sets of our own; tcsetpgrp on our stdin, with SIGTTOU blocked so that it does not stop us.
    unsafe {
        let (mut stop, mut before): (libc::sigset_t, libc::sigset_t) = (zeroed(), zeroed());
        libc::sigemptyset(&mut stop);
        libc::sigaddset(&mut stop, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &stop, &mut before);
        libc::tcsetpgrp(0, libc::getpgrp());
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
    }
}

/// Wait for a report; none comes if process 1 was killed.
fn read_report(status: &OwnedFd) -> Option<Report> {
    let mut bytes = [0u8; Report::SIZE];
    let mut fds = [PollFd::new(status, PollFlags::IN)];
    while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
    let count = rustix::io::read(status, &mut bytes).ok()?;
    // SAFETY: Report is repr(C) of plain integers, any bytes are a valid one; read unaligned.
    (count == Report::SIZE).then(|| unsafe { ptr::read_unaligned(bytes.as_ptr().cast::<Report>()) })
}

fn outcome(
    job: &Job,
    program: &Program,
    seen: Seen,
    report: Option<Report>,
    exit: i32,
    wall: Duration,
) -> Result<Outcome, ExecError> {
    let natural = match report {
        Some(report) if report.stage == Stage::Ended as u32 => {
            if libc::WIFSIGNALED(report.status) {
                End::Signal(libc::WTERMSIG(report.status))
            } else {
                End::Exit(libc::WEXITSTATUS(report.status))
            }
        }
        Some(report) if report.stage == Stage::Probed as u32 => End::Exit(0),
        Some(report) => return Err(failure(job, program, report)),
        // No report: somebody killed process 1.
        None => End::Signal(if exit == 0 { libc::SIGKILL } else { exit }),
    };
    let report = report.unwrap_or(Report {
        stage: 0,
        index: 0,
        errno: 0,
        status: 0,
        user_us: 0,
        system_us: 0,
        max_rss_kib: 0,
    });
    Ok(Outcome {
        end: seen.killed.unwrap_or(natural),
        wall,
        user: Duration::from_micros(report.user_us),
        system: Duration::from_micros(report.system_us),
        max_rss_kib: report.max_rss_kib,
        log_bytes: seen.log_bytes,
        missing: seen.missing,
        marks: seen.marks,
        alone: true,
        owners: Owners::default(),
    })
}

/// The child's report of a failure, in words.
fn failure(job: &Job, program: &Program, report: Report) -> ExecError {
    let index = report.index as usize;
    let source = io::Error::from_raw_os_error(report.errno);
    let name = |at: usize| job.argv.get(at).map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    let inside = || program.paths.get(index).cloned().unwrap_or_default();
    let is = |stage: Stage| report.stage == stage as u32;
    if is(Stage::Exec) {
        return match report.errno {
            libc::ENOENT if job.root.is_none() => ExecError::NotFound { program: name(0) },
            _ => ExecError::Exec { program: name(0), source },
        };
    }
    if is(Stage::Op) {
        return match program.ops.get(index) {
            Some(Op::Mount { kind, .. }) if *kind == c"overlay" => {
                ExecError::OverlayRefused { at: inside(), source }
            }
            Some(Op::Mount { kind, .. }) if report.errno == libc::EPERM => probe::refused_mount(kind, source),
            _ => setup(format!("making {}", inside().display()), source, read_only_hint(report.errno)),
        };
    }
    if is(Stage::Source) {
        let from = match program.ops.get(index) {
            Some(Op::Bind { from, .. }) => from.to_string_lossy().into_owned(),
            _ => String::new(),
        };
        let what = format!("binding {from} at {}", inside().display());
        let hint = if report.errno == libc::EINVAL {
            "; bind it recursively: there are mounts below it"
        } else {
            ""
        };
        return setup(what, source, hint);
    }
    if is(Stage::Cwd) {
        return setup(format!("entering {}", job.cwd.display()), source, "; no mount brings that directory");
    }
    if is(Stage::OwnRoot) {
        let root = job.root.as_deref().unwrap_or(Path::new("")).display();
        return setup(
            format!("making {root} the root"),
            source,
            "; it must be on a file system without more mounts below",
        );
    }
    if is(Stage::Nested) && index == 0 {
        return probe::refused_clone(source);
    }
    if is(Stage::Nested) {
        return probe::refused_set_up(source);
    }
    if is(Stage::Filter) {
        return probe::refused_filter(source).into();
    }
    if is(Stage::IdMap) || is(Stage::Privacy) || is(Stage::Root) {
        return probe::refused_set_up(source);
    }
    let what = match report.stage {
        stage if stage == Stage::Pivot as u32 => "changing the root",
        stage if stage == Stage::Hostname as u32 => "setting the hostname",
        stage if stage == Stage::Fork as u32 => "starting the command's process",
        stage if stage == Stage::Stdio as u32 => "connecting the output",
        stage if stage == Stage::Limits as u32 => "setting limits",
        stage if stage == Stage::Privileges as u32 => "dropping privileges",
        _ => "starting",
    };
    setup(what.to_owned(), source, "")
}

fn setup(what: String, source: io::Error, hint: &'static str) -> ExecError {
    ExecError::Setup { what, source, hint }
}

fn read_only_hint(errno: i32) -> &'static str {
    if errno == libc::EROFS { "; it would have to be made in a read-only mount" } else { "" }
}
