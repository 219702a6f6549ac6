//! Whether this host allows sandboxes, and if not, which of its locks is shut and how to open it.
//!
//! Asks the kernel by trying; the settings under /proc/sys are read only to explain a refusal.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::{fs, io};

use super::{ExecError, Sandbox};

/// Why no sandbox can be made here, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this host refuses sandboxes: {reason}\n  to allow them: {remedy}\n  or do without, unsandboxed and marked as such: executor: host"
)]
pub struct Unavailable {
    /// What refuses.
    pub reason: String,
    /// The command or setting that allows it.
    pub remedy: String,
}

/// Try a sandbox, once per process. Takes some milliseconds.
pub fn probe() -> Result<(), Unavailable> {
    static TRIED: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    TRIED.get_or_init(|| attempt("plain", |scratch| Sandbox.rehearse(scratch, Vec::new()))).clone()
}

/// Try a sandbox with a root of its own, once per process: what installing packages needs beside [`probe`].
pub fn probe_root() -> Result<(), Unavailable> {
    static TRIED: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    let attempt = || {
        probe()?;
        // Nothing that this program can try from outside without waiting for itself.
        match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
            Ok(scope) if scope.trim() == "3" => Err(cannot_look_into()),
            _ => attempt("root", |scratch| Sandbox.rehearse_root(scratch)),
        }
    };
    TRIED.get_or_init(attempt).clone()
}

fn attempt(
    name: &str,
    rehearse: impl FnOnce(&std::path::Path) -> Result<(), ExecError>,
) -> Result<(), Unavailable> {
    let scratch = std::env::temp_dir().join(format!("mosbuild-probe-{name}-{}", std::process::id()));
    let made = fs::create_dir(&scratch);
    let tried = match made {
        Ok(()) => rehearse(&scratch),
        Err(error) => Err(ExecError::io(format!("making {}", scratch.display()), error)),
    };
    let _ = fs::remove_dir(&scratch);
    match tried {
        Ok(()) => Ok(()),
        Err(ExecError::Unavailable(unavailable)) => Err(unavailable),
        Err(other) => Err(unavailable(&other.to_string(), "a kernel from 5.12 on with user namespaces")),
    }
}

fn unavailable(reason: &str, remedy: &str) -> Unavailable {
    Unavailable { reason: reason.to_owned(), remedy: remedy.to_owned() }
}

/// The kernel refused to make the namespaces.
pub(super) fn refused_clone(error: io::Error) -> ExecError {
    explain_clone(error, &Settings::read()).into()
}

/// The namespaces were made, but their root has no power in them.
pub(super) fn refused_set_up(error: io::Error) -> ExecError {
    explain_set_up(&error, &Settings::read()).into()
}

/// A file system of the sandbox's own could not be mounted.
pub(super) fn refused_mount(kind: &CStr, error: io::Error) -> ExecError {
    let kind = kind.to_string_lossy();
    if kind != "proc" {
        return explain_set_up(&error, &Settings::read()).into();
    }
    unavailable(
        &format!("parts of /proc are covered, as in a container, so the kernel allows no new one ({error})"),
        "run the container with --security-opt systempaths=unconfined, or --privileged",
    )
    .into()
}

/// The filter that hands changes of owner to this program was refused.
pub(super) fn refused_filter(error: io::Error) -> Unavailable {
    match error.raw_os_error() {
        Some(libc::EBUSY) => unavailable(
            "a container manager answers system calls here itself, and the kernel allows one such filter only",
            CONTAINER,
        ),
        Some(libc::EINVAL | libc::ENOSYS) => unavailable(
            &format!("the kernel knows no seccomp user notifications ({error})"),
            "a kernel from 5.12 on with CONFIG_SECCOMP_FILTER; in a container, --security-opt seccomp=unconfined",
        ),
        _ => unavailable(&format!("installing a seccomp filter is not permitted ({error})"), CONTAINER),
    }
}

/// This program may not see the files of a process that it has started.
pub(super) fn cannot_look_into() -> Unavailable {
    unavailable(
        "this program may not look into the processes that it starts, as under kernel.yama.ptrace_scope=3 or where \
         /proc is another's",
        "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d and start anew, or mount a /proc of this container",
    )
}

/// The kernel settings that are known to refuse user namespaces.
#[derive(Debug, Default, Clone)]
struct Settings {
    unprivileged_userns_clone: Option<String>,
    max_user_namespaces: Option<String>,
    apparmor_restrict: Option<String>,
}

impl Settings {
    fn read() -> Self {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
        };
        Self {
            unprivileged_userns_clone: read("kernel/unprivileged_userns_clone"),
            max_user_namespaces: read("user/max_user_namespaces"),
            apparmor_restrict: read("kernel/apparmor_restrict_unprivileged_userns"),
        }
    }
}

const CONTAINER: &str = "run the container with --security-opt seccomp=unconfined, or --privileged";

fn explain_clone(error: io::Error, settings: &Settings) -> Unavailable {
    if settings.unprivileged_userns_clone.as_deref() == Some("0") {
        return unavailable(
            "kernel.unprivileged_userns_clone is 0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        );
    }
    if settings.max_user_namespaces.as_deref() == Some("0") {
        let remedy = "sudo sysctl -w user.max_user_namespaces=15000";
        return unavailable("user.max_user_namespaces is 0", remedy);
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC) => unavailable(
            "the number of user namespaces is at its bound, or they are nested too deeply",
            "raise user.max_user_namespaces with sysctl, here and in any container around",
        ),
        Some(libc::ENOSYS) => unavailable(
            "the kernel knows no namespaces, or a container's seccomp profile hides them",
            CONTAINER,
        ),
        Some(libc::EPERM) => unavailable(
            "making namespaces is not permitted, as under a container's seccomp profile",
            CONTAINER,
        ),
        Some(libc::EAGAIN | libc::ENOMEM) => {
            unavailable(&format!("no process could be made ({error})"), "free memory, or raise ulimit -u")
        }
        _ => unavailable(
            &format!("the kernel refuses user, mount, pid, net, ipc or uts namespaces ({error})"),
            "a kernel with CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS, CONFIG_IPC_NS and CONFIG_UTS_NS",
        ),
    }
}

fn explain_set_up(error: &io::Error, settings: &Settings) -> Unavailable {
    if settings.apparmor_restrict.as_deref() == Some("1") {
        return unavailable(
            "AppArmor denies it: kernel.apparmor_restrict_unprivileged_userns is 1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for mosbuild with `userns,`",
        );
    }
    unavailable(
        &format!("a security module or seccomp profile denies mounting in a new namespace ({error})"),
        CONTAINER,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clone_refusal(errno: i32, settings: &Settings) -> String {
        explain_clone(io::Error::from_raw_os_error(errno), settings).to_string()
    }

    fn filter_refusal(errno: i32) -> String {
        refused_filter(io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn every_refusal_names_its_lock_the_key_and_the_way_without() {
        let none = Settings::default();
        let debian = Settings { unprivileged_userns_clone: Some("0".into()), ..none.clone() };
        let zero = Settings { max_user_namespaces: Some("0".into()), ..none.clone() };
        let ubuntu = Settings { apparmor_restrict: Some("1".into()), ..none.clone() };
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        for (text, lock, key) in [
            (clone_refusal(libc::EPERM, &debian), "unprivileged_userns_clone is 0", "sysctl -w"),
            (clone_refusal(libc::ENOSPC, &zero), "max_user_namespaces is 0", "sysctl -w"),
            (clone_refusal(libc::EPERM, &none), "seccomp", "--security-opt seccomp=unconfined"),
            (clone_refusal(libc::EINVAL, &none), "refuses user, mount", "CONFIG_USER_NS"),
            (explain_set_up(&denied, &ubuntu).to_string(), "AppArmor", "restrict_unprivileged_userns=0"),
            (explain_set_up(&denied, &none).to_string(), "security module", "--privileged"),
            (refused_mount(c"proc", denied).to_string(), "/proc are covered", "systempaths=unconfined"),
            (filter_refusal(libc::EBUSY), "container manager", "--security-opt seccomp=unconfined"),
            (filter_refusal(libc::EINVAL), "no seccomp user notifications", "CONFIG_SECCOMP_FILTER"),
            (filter_refusal(libc::EPERM), "not permitted", "--privileged"),
            (cannot_look_into().to_string(), "ptrace_scope=3", "/etc/sysctl.d"),
        ] {
            assert!(text.contains(lock) && text.contains(key) && text.contains("executor: host"), "{text}");
        }
    }
}
