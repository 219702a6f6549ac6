//! Makes this process, and all that it starts, see itself as another user on another host, with the workspace at another
//! path: for a build whose result is to be compared with one made here. Knows no build.
//!
//! Needs what the sandbox needs, and no privileges: a user namespace in which the caller has another number, and mount
//! and UTS namespaces below it. What the caller owns stays its own; root is without its privileges over other files.

use std::io;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, UnshareFlags};

/// Becomes another user, on a host of another name, that has `workspace` at `elsewhere`, an empty directory, as well.
/// To be called before the process has a second thread. After an error nothing of the process is to be relied on.
pub fn go(user: u32, hostname: &str, workspace: &Path, elsewhere: &Path) -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWUTS;
    // SAFETY: there is one thread, and no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {uid} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("{user} {gid} 1\n"))?;
    rustix::system::sethostname(hostname.as_bytes())?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind_recursive(workspace, elsewhere)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

/// Leaves this process one processor fewer, but one at least; how many it then has. Counts for threads that are started
/// later.
pub fn with_fewer_processors() -> io::Result<usize> {
    let mut set = rustix::thread::sched_getaffinity(None)?;
    if set.count() > 1
        && let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|cpu| set.is_set(*cpu))
    {
        set.unset(last);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    Ok(set.count() as usize)
}

/// Ends this process by SIGTERM when the one that started it is gone.
pub fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?)
}

/// Sets the mask of what is made without a mode of its own.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// The name of this host.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether a folder lists its files in an order that depends on the order in which they were made. Some file systems
/// order names by themselves.
pub fn lists_in_order_of_creation(scratch: &Path) -> io::Result<bool> {
    let listed = |name: &str, backwards: bool| -> io::Result<Vec<std::ffi::OsString>> {
        let dir = scratch.join(name);
        std::fs::create_dir(&dir)?;
        let mut names: Vec<String> = (0..24).map(|n| format!("file-{n}")).collect();
        if backwards {
            names.reverse();
        }
        for name in &names {
            std::fs::write(dir.join(name), "")?;
        }
        let found = std::fs::read_dir(&dir)?.map(|e| Ok(e?.file_name())).collect();
        std::fs::remove_dir_all(&dir)?;
        found
    };
    Ok(listed("forwards", false)? != listed("backwards", true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_folder_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        // Either answer may be right; what is left behind may not be.
        lists_in_order_of_creation(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // A file system that is known to keep it.
        if let Ok(memory) = tempfile::tempdir_in("/dev/shm") {
            assert!(lists_in_order_of_creation(memory.path()).unwrap());
        }
    }
}
