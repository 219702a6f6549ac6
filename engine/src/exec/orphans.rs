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

impl Drop for Registered {
    fn drop(&mut self) {
        let last = {
            let mut running = running();
            running.all.remove(&self.pid);
            running.hosts -= usize::from(self.host);
            self.host && running.hosts == 0
        };
        if !last {
            return;
        }
        let _quiet = STARTING.write().unwrap_or_else(PoisonError::into_inner);
        let running = running();
        // While another host job runs, an orphan may be its and be wanted; whichever ends last clears up.
        if running.hosts == 0 {
            kill_all(&running.all);
        }
    }
}

/// Kill every child that is in another session than ours and is no running job: steps get a session of their own,
/// so such a child was left behind by one. Killing it may hand us its children, hence the loop.
fn kill_all(jobs: &BTreeSet<i32>) {
    let me = getpid().as_raw_nonzero().get();
    let path = format!("/proc/self/task/{me}/children");
    let ours = getsid(None).ok();
    for _ in 0..1000 {
        let Ok(text) = fs::read_to_string(&path) else { return };
        let mut found = false;
        for pid in text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
            let Some(pid) = Pid::from_raw(pid).filter(|pid| !jobs.contains(&pid.as_raw_nonzero().get()))
            else {
                continue;
            };
            if getsid(Some(pid)).ok() == ours {
                continue;
            }
            found = true;
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
        if !found {
            return;
        }
    }
}
