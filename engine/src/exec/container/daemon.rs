//! Finding the daemon that runs containers, Docker's or Podman's, and asking it what it is.
//!
//! Knows sockets and where they usually are. Knows no image and no step.

use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::SystemInfoCgroupVersionEnum;
use bollard::{API_DEFAULT_VERSION, Docker};

use super::words::{self, Trouble};

/// How long an answer that needs no work may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the client itself: a step may run for days, and Podman answers a wait only at its end.
const FOREVER: u64 = 10 * 365 * 24 * 3600;

/// Where a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// Host and port of this machine.
    Tcp(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Address {
    /// Whether the socket is another's than root's.
    fn is_of_a_user(&self) -> bool {
        match self {
            Self::Unix(path) => std::fs::metadata(path).is_ok_and(|socket| socket.uid() != 0),
            Self::Tcp(_) => false,
        }
    }
}

/// A daemon that has answered.
#[derive(Debug, Clone)]
pub(super) struct Daemon {
    pub address: Address,
    /// `Docker 20.10.24`.
    pub name: String,
    /// Its user 0 is the user that runs it.
    pub rootless: bool,
    /// It maps users to others, unless told not to.
    pub remaps: bool,
    pub selinux: bool,
    /// As Go writes it: `amd64`.
    pub arch: String,
    /// Whether it can bound the memory of a container.
    pub bounds_memory: bool,
}

/// The addresses that are tried, in order. One that the environment names is the only one.
fn candidates(env: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Address>, Trouble> {
    for name in ["DOCKER_HOST", "CONTAINER_HOST"] {
        if let Some(text) = env(name).filter(|text| !text.is_empty()) {
            return Ok(vec![parse(name, &text)?]);
        }
    }
    let mut found = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(runtime) = env("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        found.push(Path::new(&runtime).join("docker.sock"));
        found.push(Path::new(&runtime).join("podman/podman.sock"));
    }
    found.push(PathBuf::from("/run/podman/podman.sock"));
    Ok(found.into_iter().map(Address::Unix).collect())
}

fn parse(variable: &str, text: &str) -> Result<Address, Trouble> {
    let wrong = |why: &str| {
        Err(Trouble::new(format!("{variable}={text}: {why}"))
            .help("name a socket of this machine: unix:///PATH, or tcp://127.0.0.1:PORT"))
    };
    if let Some(path) = text.strip_prefix("unix://") {
        return match Path::new(path).is_absolute() {
            true => Ok(Address::Unix(path.into())),
            false => wrong("the path of the socket must be absolute"),
        };
    }
    let Some(address) = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")) else {
        return wrong("neither unix:// nor tcp://");
    };
    let address = address.trim_end_matches('/');
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host {
        "localhost" | "127.0.0.1" | "[::1]" => Ok(Address::Tcp(address.to_owned())),
        _ => wrong("a daemon on another machine does not see the files that steps are given"),
    }
}

impl Daemon {
    /// The first daemon that answers, or what each of them said.
    pub async fn find() -> Result<Self, Trouble> {
        let mut tried = Vec::new();
        for address in candidates(&|name| std::env::var(name).ok())? {
            match Self::at(address.clone()).await {
                Ok(daemon) => return Ok(daemon),
                Err(trouble) => tried.push((address, trouble)),
            }
        }
        Err(words::no_daemon(tried))
    }

    async fn at(address: Address) -> Result<Self, Trouble> {
        let failed = |error| words::unreachable(&address, &error);
        if let Address::Unix(path) = &address {
            std::os::unix::net::UnixStream::connect(path)
                .map_err(|error: io::Error| words::refused(&address, &error))?;
        }
        let docker = client(&address).map_err(failed)?.negotiate_version();
        let docker = soon(docker).await.map_err(failed)?;
        let (version, info) = (soon(docker.version()).await.map_err(failed)?, soon(docker.info()).await);
        let info = info.map_err(failed)?;
        let components = version.components.unwrap_or_default();
        let podman = components.iter().any(|part| part.name.starts_with("Podman"));
        let options = info.security_options.unwrap_or_default();
        let has = |name: &str| options.iter().any(|option| option.split(',').any(|part| part == name));
        let number = version.version.unwrap_or_default();
        // Podman says it to Docker's clients in a field of its own, and nowhere that all versions have.
        let rootless = has("name=rootless") || podman && address.is_of_a_user();
        // There, cgroups are root's alone.
        let v1 = info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1);
        Ok(Self {
            name: format!("{} {number}", if podman { "Podman" } else { "Docker" }),
            rootless,
            remaps: has("name=userns"),
            selinux: has("name=selinux"),
            arch: version.arch.unwrap_or_default(),
            bounds_memory: info.memory_limit.unwrap_or(false) && !(rootless && v1),
            address,
        })
    }

    /// A client of the calling runtime: it may not outlive it.
    pub async fn client(&self) -> Result<Docker, Trouble> {
        let failed = |error| words::unreachable(&self.address, &error);
        let client = client(&self.address).map_err(failed)?;
        soon(client.negotiate_version()).await.map_err(failed)
    }
}

fn client(address: &Address) -> Result<Docker, bollard::errors::Error> {
    match address {
        Address::Unix(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), FOREVER, API_DEFAULT_VERSION)
        }
        Address::Tcp(address) => Docker::connect_with_http(address, FOREVER, API_DEFAULT_VERSION),
    }
}

/// The answer to a question that needs no work of the daemon.
pub(super) async fn soon<T>(
    answer: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, bollard::errors::Error> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(bollard::errors::Error::RequestTimeoutError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let env = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let found = candidates(&env).map_err(|trouble| trouble.to_string())?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn sockets_are_tried_in_order_unless_one_is_named() {
        let run = [("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(
            from(&run).unwrap(),
            [
                "unix:///var/run/docker.sock",
                "unix:///run/user/7/docker.sock",
                "unix:///run/user/7/podman/podman.sock",
                "unix:///run/podman/podman.sock"
            ]
        );
        assert_eq!(from(&[("DOCKER_HOST", "unix:///a b/s")]).unwrap(), ["unix:///a b/s"]);
        assert_eq!(from(&[("DOCKER_HOST", ""), ("CONTAINER_HOST", "unix:///p")]).unwrap(), ["unix:///p"]);
        assert_eq!(from(&[("DOCKER_HOST", "tcp://localhost:2375")]).unwrap(), ["tcp://localhost:2375"]);
    }

    #[test]
    fn an_address_that_cannot_serve_is_refused_with_the_reason() {
        for (text, why) in [
            ("tcp://build.example:2375", "does not see the files"),
            ("ssh://me@host", "neither unix://"),
            ("unix://relative", "must be absolute"),
        ] {
            let error = from(&[("DOCKER_HOST", text)]).unwrap_err();
            assert!(error.contains("DOCKER_HOST=") && error.contains(why), "{error}");
        }
    }
}
