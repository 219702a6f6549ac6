//! The host executor: plain processes that see the whole host. For hosts that refuse sandboxes.
//!
//! Uses posix_spawn (vfork inside) and no thread, so that a step costs little more than its process.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::orphans;
use super::output;
use super::program::{PointerArray, argv, c_string, candidates, envp};
use super::{End, ExecError, Executor, JOBSERVER_READ, JOBSERVER_WRITE, Job, Outcome, Owners, Watch, owners};

/// Runs each job as a plain process in a session of its own, killed as a group at the end.
///
/// Processes that leave the session and are orphaned are adopted by this program and killed when no host job is
/// running any more: with one job at a time that is at its end. A process that left and still has a living parent
/// outside the group is found only after that parent is gone. The memory limit is set just after the start.
///
/// The first job sets this program's own umask to 022, makes it adopt orphans, and marks the descriptors that it was
/// started with beside stdio (an outer make's, say) as closing on exec: all properties of the whole process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

fn set_process_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        // Refused only by kernels that have no subreapers; then daemons outlive their step.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        // SAFETY: closes nothing here; what is opened in Rust closes on exec anyway.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    });
}

impl Executor for Host {
    fn run(&self, job: &Job, watch: &dyn Watch) -> Result<Outcome, ExecError> {
        if job.root.is_some() {
            return Err(ExecError::Invalid(
                "a command with a root of its own needs a sandbox: remove `executor: host`".into(),
            ));
        }
        set_process_up();
        let started = Instant::now();
        let (output, output_write) = output::pipe().map_err(|error| ExecError::io("making a pipe", error))?;
        let (registered, pid) = orphans::register(true, || {
            let pid = spawn(job, &output_write)?;
            Ok::<_, ExecError>((pid.as_raw_nonzero().get(), pid))
        })?;
        drop(output_write);
        limit(pid, job);
        let kill_group = || {
            let _ = kill_process_group(pid, Signal::KILL);
        };
        let kill = || {
            // By itself too, in case it has not become the leader of its group yet.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            kill_group();
        };
        let seen = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => output::attend(job, watch, &output, &pidfd, started, None, kill),
            Err(error) => {
                kill();
                Err(ExecError::io("watching a process", error))
            }
        };
        // Before it is waited for: until then its number belongs to its group and to nobody else.
        if !job.interactive {
            kill_group();
        }
        let (status, usage) = wait(pid)?;
        let alone = registered.end();
        let seen = seen?;
        let natural = if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        };
        Ok(Outcome {
            end: seen.killed.unwrap_or(natural),
            wall: started.elapsed(),
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            max_rss_kib: usage.ru_maxrss as u64,
            log_bytes: seen.log_bytes,
            missing: seen.missing,
            marks: seen.marks,
            alone,
            owners: Owners::default(),
        })
    }

    fn name(&self) -> &'static str {
        "host"
    }
}

fn spawn(job: &Job, output: &OwnedFd) -> Result<Pid, ExecError> {
    let (candidates, argv, envp) = (candidates(job)?, argv(job)?, envp(job)?);
    let cwd = c_string(job.cwd.as_os_str())?;
    let mut actions = Actions::new()?;
    if !job.interactive {
        actions.open_null(c"/dev/null")?;
        actions.dup2(output.as_raw_fd(), 1)?;
        actions.dup2(output.as_raw_fd(), 2)?;
    }
    if let Some((read, write)) = job.jobserver {
        actions.dup2(read, JOBSERVER_READ)?;
        actions.dup2(write, JOBSERVER_WRITE)?;
    }
    actions.chdir(&cwd)?;
    let attributes = Attributes::new(!job.interactive)?;
    let mut last = libc::ENOENT;
    // Looked at before: a process that fails to exec costs as much as one that does.
    let usable = |path: &&CString| rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXEC_OK).is_ok();
    let found = candidates.iter().find(usable);
    for candidate in found.into_iter().chain(candidates.iter().filter(|_| found.is_none())) {
        match spawn_one(candidate, &actions, &attributes, &argv, &envp) {
            Ok(pid) => return Ok(pid),
            Err(errno @ (libc::ENOENT | libc::ENOTDIR | libc::EACCES)) => {
                last = if errno == libc::EACCES { errno } else { last };
            }
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(refusal(job, last))
}

/// posix_spawn tells only one number for its whole preparation, so a missing working directory is told apart here.
fn refusal(job: &Job, errno: i32) -> ExecError {
    let source = io::Error::from_raw_os_error(errno);
    let program = job.argv.first().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
    if !job.cwd.is_dir() {
        return ExecError::Setup { what: format!("entering {}", job.cwd.display()), source, hint: "" };
    }
    match errno {
        libc::ENOENT => ExecError::NotFound { program },
        _ => ExecError::Exec { program, source },
    }
}

fn spawn_one(
    path: &CString,
    actions: &Actions,
    attributes: &Attributes,
    argv: &PointerArray,
    envp: &PointerArray,
) -> Result<Pid, i32> {
    let mut pid = 0;
    // SAFETY: all arguments are initialised and outlive the call; the arrays end with NULL.
    let errno = unsafe {
        libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            &actions.0,
            &attributes.0,
            argv.as_mut_ptr(),
            envp.as_mut_ptr(),
        )
    };
    match (errno, Pid::from_raw(pid)) {
        (0, Some(pid)) => Ok(pid),
        (errno, _) => Err(errno),
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> Result<Self, ExecError> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialised by the call, or not used.
        unsafe {
            done(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Self(actions.assume_init()))
        }
    }

    fn open_null(&mut self, null: &CStr) -> Result<(), ExecError> {
        // SAFETY: initialised in `new`; the path is copied.
        done(unsafe {
            libc::posix_spawn_file_actions_addopen(&mut self.0, 0, null.as_ptr(), libc::O_RDONLY, 0)
        })
    }

    fn dup2(&mut self, from: i32, to: i32) -> Result<(), ExecError> {
        // SAFETY: initialised in `new`.
        done(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }

    fn chdir(&mut self, path: &CString) -> Result<(), ExecError> {
        // SAFETY: initialised in `new`; the path is copied.
        done(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, path.as_ptr()) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

/// POSIX_SPAWN_SETSID, which the libc crate does not have; the same in glibc and musl.
const SET_SESSION: libc::c_int = 0x80;

impl Attributes {
    /// No signal ignored that this program ignores, none blocked, and a session of its own.
    fn new(session: bool) -> Result<Self, ExecError> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialised by the first call before the others use it; the sets are plain memory.
        unsafe {
            done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut this = Self(attributes.assume_init());
            let (mut none, mut ignored): (libc::sigset_t, libc::sigset_t) = (zeroed(), zeroed());
            libc::sigemptyset(&mut none);
            // The one signal that Rust programs ignore; those that are handled are reset by exec. All of them would
            // be 64 system calls a process.
            libc::sigemptyset(&mut ignored);
            libc::sigaddset(&mut ignored, libc::SIGPIPE);
            let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
            flags |= if session { SET_SESSION } else { 0 };
            done(libc::posix_spawnattr_setsigmask(&mut this.0, &none))?;
            done(libc::posix_spawnattr_setsigdefault(&mut this.0, &ignored))?;
            done(libc::posix_spawnattr_setflags(&mut this.0, flags as libc::c_short))?;
            Ok(this)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

fn done(errno: i32) -> Result<(), ExecError> {
    match errno {
        0 => Ok(()),
        errno => Err(ExecError::io("preparing a process", io::Error::from_raw_os_error(errno))),
    }
}

fn limit(pid: Pid, job: &Job) {
    use rustix::process::{Resource, Rlimit, prlimit};
    // A process that is gone already needs no limit, so errors do not matter.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = prlimit(Some(pid), Resource::Core, none);
    if let Some(found) = owners::limit_to_restore() {
        let (current, maximum) = (Some(found.rlim_cur), Some(found.rlim_max));
        let _ = prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum });
    }
    if let Some(bytes) = job.limits.memory {
        let _ = prlimit(Some(pid), Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
}

fn wait(pid: Pid) -> Result<(i32, libc::rusage), ExecError> {
    let mut status = 0;
    loop {
        // SAFETY: an all-zero rusage is valid; the pointers are ours.
        let (done, usage) = unsafe {
            let mut usage: libc::rusage = zeroed();
            (libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, ptr::from_mut(&mut usage)), usage)
        };
        if done > 0 {
            return Ok((status, usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(ExecError::io("waiting for a process", error));
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}
