//! What a daemon refuses or reports, in words that say what to do.
//!
//! Asks nobody; knows the texts of Docker, Podman and their runtimes.

use std::fmt;
use std::io;

use bollard::errors::Error;

use super::daemon::Address;

/// Why no container could be had, or none went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong.
    pub message: String,
    /// What to do, one line each.
    pub help: Vec<String>,
    /// mosbuild's exit code for it: 1 a step failed, 3 the host lacks something.
    pub exit: u8,
}

impl Trouble {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: Vec::new(), exit: 3 }
    }

    pub(super) fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    fn fails(mut self) -> Self {
        self.exit = 1;
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Trouble {}

const START: &str = "start one: `systemctl start docker`, or `systemctl --user start podman.socket`, or \
                     `podman system service --time=0 &`";

/// None of the addresses has a daemon that answers.
pub(super) fn no_daemon(mut tried: Vec<(Address, Trouble)>) -> Trouble {
    let there = |(address, _): &(Address, Trouble)| match address {
        Address::Unix(path) => path.exists(),
        Address::Tcp(_) => true,
    };
    // A socket that is there and does not answer is the one to speak of.
    if let Some(at) = tried.iter().position(there) {
        return tried.swap_remove(at).1;
    }
    if tried.len() == 1 {
        return tried.swap_remove(0).1;
    }
    let places: Vec<String> = tried.iter().map(|(address, _)| address.to_string()).collect();
    Trouble::new(format!("no daemon that runs containers: there is no {}", places.join(", no ")))
        .help(START)
        .help("or name its socket: DOCKER_HOST=unix:///PATH")
}

/// Nobody listens, or may be spoken to.
pub(super) fn refused(address: &Address, error: &io::Error) -> Trouble {
    let trouble = Trouble::new(format!("no daemon that runs containers answers at {address}: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => trouble
            .help("you may not use this socket: join its group (`sudo usermod -aG docker $USER`, then log in anew)")
            .help("or run Podman as yourself: `systemctl --user start podman.socket`"),
        io::ErrorKind::ConnectionRefused => {
            trouble.help("the socket is there, and nobody listens: the daemon has ended").help(START)
        }
        _ => trouble.help(START).help("or name its socket: DOCKER_HOST=unix:///PATH"),
    }
}

/// It listens, and its answer is none.
pub(super) fn unreachable(address: &Address, error: &Error) -> Trouble {
    match error {
        Error::RequestTimeoutError => Trouble::new(format!("the daemon at {address} does not answer")),
        error => Trouble::new(format!("the daemon at {address} gives no proper answer: {}", said(error))),
    }
    .help("see whether it is well: `docker version`, `podman version`")
}

/// It went away while a step ran.
pub(super) fn lost(daemon: &str, address: &Address, error: Option<&Error>) -> Trouble {
    let why = error.map(|error| format!(" ({})", said(error))).unwrap_or_default();
    Trouble::new(format!("{daemon} at {address} went away while the step ran{why}"))
        .help("start it again and build anew; what is left of the container is removed then")
        .fails()
}

/// A request was refused.
pub(super) fn refusal(what: &str, image: &str, error: &Error) -> Trouble {
    let text = said(error);
    let lower = text.to_lowercase();
    let has = |part: &str| lower.contains(part);
    let base = || Trouble::new(format!("{what}: {text}"));
    if has("no space left") || has("disk quota exceeded") {
        return base()
            .help(
                "the daemon's disk is full: `docker system df` says by what, `docker system prune` frees it",
            )
            .fails();
    }
    if has("hybrid mode") || (has("crun") && has("cgroup")) {
        return base()
            .help("crun refuses a host whose cgroups are partly v1; runc does not")
            .help("install runc, and set `runtime = \"runc\"` below [engine] in containers.conf");
    }
    if has("bind source path does not exist") || (has("statfs") && has("no such file")) {
        return base()
            .help("the daemon does not see this machine's files as they are here: it runs in a virtual machine, in another container, or as a snap")
            .help("use a daemon of this machine, and a store that it sees (--cache-dir)");
    }
    if has("exec format error") {
        return base().help(format!("programs of {image} are for another architecture"));
    }
    if has("selinux") || has("relabel") || has("lsetxattr") {
        return base()
            .help("SELinux keeps the container from its files: see `relabel` in docs/containers.md");
    }
    if has("memory") && (has("cgroup") || has("limit")) {
        return base().help("this daemon cannot bound memory (rootless, on cgroups v1): leave `memory` out");
    }
    base()
}

/// Whether the daemon says that argv[0] is not in the image.
pub(super) fn is_not_found(error: &Error) -> bool {
    let text = said(error).to_lowercase();
    text.contains("executable file not found")
        || (text.contains("exec") && text.contains("no such file or directory"))
        || text.contains("stat: no such file") && text.contains("exec")
}

/// What an error says, without the client's own prefixes.
pub(super) fn said(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        other => {
            // The innermost reason is the one that a person can do something about.
            let mut reason: &dyn std::error::Error = other;
            let mut text = other.to_string();
            while let Some(source) = reason.source() {
                reason = source;
                text = format!("{}", reason);
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(message: &str) -> Error {
        Error::DockerResponseServerError { status_code: 500, message: message.into() }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        for (text, help, exit) in [
            ("write /var/lib/x: no space left on device", "prune", 1),
            ("crun: cgroups in hybrid mode not supported, drop all controllers from cgroupv2", "runc", 3),
            ("invalid mount config for type \"bind\": bind source path does not exist: /s", "--cache-dir", 3),
            ("exec /bin/sh: exec format error", "another architecture", 3),
            ("lsetxattr /s: operation not supported", "relabel", 3),
        ] {
            let trouble = refusal("starting the container", "builder:1", &server(text));
            assert!(trouble.to_string().contains(help) && trouble.message.contains(text), "{trouble}");
            assert_eq!(trouble.exit, exit, "{text}");
        }
    }

    #[test]
    fn a_program_that_is_not_in_the_image_is_told_apart() {
        for text in [
            "OCI runtime create failed: runc create failed: exec: \"nope\": executable file not found in $PATH: unknown",
            "exec: \"/opt/x\": stat /opt/x: no such file or directory",
            "crun: executable file `nope` not found in $PATH: No such file or directory: OCI runtime attempted to invoke a command that was not found: executable file not found",
        ] {
            assert!(is_not_found(&server(text)), "{text}");
        }
        assert!(!is_not_found(&server("no space left on device")));
    }

    #[test]
    fn a_socket_that_is_there_is_the_one_to_speak_of() {
        let dir = tempfile::tempdir().unwrap();
        let (absent, there) = (Address::Unix(dir.path().join("no")), Address::Unix(dir.path().to_path_buf()));
        let gone = || refused(&absent, &io::ErrorKind::NotFound.into());
        let denied = || refused(&there, &io::ErrorKind::PermissionDenied.into());
        let trouble = no_daemon(vec![(absent.clone(), gone()), (there.clone(), denied())]);
        assert!(trouble.to_string().contains("usermod -aG docker"), "{trouble}");
        let trouble = no_daemon(vec![(absent.clone(), gone()), (absent.clone(), gone())]);
        assert!(trouble.message.starts_with("no daemon that runs containers"), "{trouble}");
        assert!(trouble.to_string().contains("systemctl start docker"), "{trouble}");
    }
}
