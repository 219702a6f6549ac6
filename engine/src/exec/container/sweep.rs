//! Containers that a killed build left behind: told by a label that names the process that made them, and removed.
//!
//! Removes nothing whose maker lives, or of which that cannot be told.

use std::collections::HashMap;
use std::fs;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, RemoveContainerOptions};

use super::daemon::soon;
use super::{LABEL_OWNER, LABEL_USER, request};

/// This process, so that another can tell whether it lives: boot, pid namespace, pid and start.
pub(super) fn owner() -> String {
    let pid = std::process::id();
    format!("{} {} {pid} {}", boot(), namespace(), started(pid).unwrap_or_default())
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// When a process began, in ticks since the boot; none if there is no such process.
fn started(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19).map(str::to_owned)
}

/// Whether the process of a label is surely gone.
fn is_dead(owner: &str) -> bool {
    let mut parts = owner.split(' ');
    let (Some(its_boot), Some(its_namespace), Some(pid), Some(start)) =
        (parts.next(), parts.next(), parts.next().and_then(|pid| pid.parse().ok()), parts.next())
    else {
        return false;
    };
    if its_boot.is_empty() || start.is_empty() {
        return false;
    }
    // No process outlives its boot; those of another namespace cannot be looked at from here.
    its_boot != boot() || its_namespace == namespace() && started(pid).as_deref() != Some(start)
}

/// Removes this user's containers whose makers are gone; how many.
pub(super) async fn sweep(docker: &Docker) -> Result<usize, bollard::errors::Error> {
    let mine = format!("{LABEL_USER}={}", request::caller().0);
    let filters = HashMap::from([("label".to_owned(), vec![LABEL_OWNER.to_owned(), mine])]);
    let options =
        ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
    let mut removed = 0;
    for found in soon(docker.list_containers(Some(options))).await? {
        let owner = found.labels.as_ref().and_then(|labels| labels.get(LABEL_OWNER));
        if let (Some(id), true) = (found.id, owner.is_some_and(|owner| is_dead(owner))) {
            removed += usize::from(remove(docker, &id).await.is_ok());
        }
    }
    Ok(removed)
}

/// Removes a container, running or not, with what it has of its own.
pub(super) async fn remove(docker: &Docker, id: &str) -> Result<(), bollard::errors::Error> {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    soon(docker.remove_container(id, Some(options))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_surely_gone_counts_as_dead() {
        assert!(!is_dead(&owner()));
        let parts: Vec<String> = owner().split(' ').map(str::to_owned).collect();
        let with = |at: usize, text: &str| {
            let mut parts = parts.clone();
            parts[at] = text.to_owned();
            parts.join(" ")
        };
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&with(0, "another-boot")));
        assert!(is_dead(&with(2, &child.id().to_string())));
        assert!(is_dead(&with(3, "1")));
        // Another namespace's pids say nothing here; nor does a label that is not understood.
        assert!(!is_dead(&with(1, "pid:[1]").replace(&parts[2], "4194304")));
        for text in ["", "x", "a b c d", "a b 1"] {
            assert!(!is_dead(text), "{text}");
        }
    }
}
