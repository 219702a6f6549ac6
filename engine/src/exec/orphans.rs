//! Processes that left their step's session on the host: found as children adopted by this process, and killed.
//!
//! Only the host executor needs it; a sandbox's processes die with their namespace.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use rustix::process::{Pid, Signal, WaitOptions, getpid, getsid, kill_process, waitpid};

/// Processes are started under a read lock and orphans looked for under the write lock, so that a job that has just
/// been started cannot be taken for an orphan.
static STARTING: RwLock<()> = RwLock::new(());

/// First processes of running jobs, of both executors.
static RUNNING: Mutex<Running> = Mutex::new(Running { all: BTreeSet::new(), hosts: 0 });

struct Running {
    all: BTreeSet<i32>,
    hosts: usize,
}

fn running() -> MutexGuard<'static, Running> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A job that runs; dropped when its own processes have been waited for.
pub(super) struct Registered {
    pid: i32,
    host: bool,
}

/// Start a job and remember its first process.
pub(super) fn register<T, E>(
    host: bool,
    start: impl FnOnce() -> Result<(i32, T), E>,
) -> Result<(Registered, T), E> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    let (pid, started) = start()?;
    let mut running = running();
    running.all.insert(pid);
    running.hosts += usize::from(host);
    Ok((Registered { pid, host }, started))
}

impl Registered {
    /// The job has been waited for. Whether nothing is left that could be its: another host job's orphan and its own
    /// cannot be told apart, so that any orphan counts while another runs.
    pub fn end(mut self) -> bool {
        self.leave()
    }

    fn leave(&mut self) -> bool {
        let hosts = {
            let mut running = running();
            if !running.all.remove(&self.pid) {
                return false;
            }
            running.hosts -= usize::from(self.host);
            running.hosts
        };
        if !self.host {
            return true;
        }
        let nobody = |jobs: &BTreeSet<i32>| strangers(jobs).is_some_and(|found| found.is_empty());
        if hosts > 0 {
            return nobody(&running().all);
        }
        let _quiet = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        let running = running();
        // While another host job runs, an orphan may be its and be wanted; whichever ends last clears up.
        match running.hosts {
            0 => kill_all(&running.all),
            _ => nobody(&running.all),
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Children in another session than ours that are no running job: steps get a session of their own, so such a child
/// was left behind by one. `None` where the kernel does not list them.
fn strangers(jobs: &BTreeSet<i32>) -> Option<Vec<Pid>> {
    // The first thread's: orphans are given to it, while jobs are children of the thread that started them.
    let me = getpid().as_raw_nonzero().get();
    let text = fs::read_to_string(format!("/proc/self/task/{me}/children")).ok()?;
    let ours = getsid(None).ok();
    let pids = text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok());
    let pids = pids.filter(|pid| !jobs.contains(pid)).filter_map(Pid::from_raw);
    Some(pids.filter(|pid| getsid(Some(*pid)).ok() != ours).collect())
}

/// Kill every child that a step left behind. Killing it may hand us its children, hence the loop.
fn kill_all(jobs: &BTreeSet<i32>) -> bool {
    for _ in 0..1000 {
        let Some(found) = strangers(jobs) else { return false };
        if found.is_empty() {
            return true;
        }
        for pid in found {
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
    false
}
