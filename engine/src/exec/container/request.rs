//! A job as a daemon's request: mounts, user, limits, environment.
//!
//! Makes the few files that a container needs beside its inputs; speaks to nobody.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount as Bound,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, ResourcesUlimits,
};

use super::daemon::Daemon;
use super::{ContainerOptions, LABEL_OWNER, LABEL_USER};
use crate::exec::{ExecError, HOSTNAME, Job, Mount, owners};

/// What a container is made of.
pub(super) struct Request {
    pub body: ContainerCreateBody,
}

/// Who the step is inside: user 0 where that is the caller, else the caller.
fn user(daemon: &Daemon) -> (u32, u32) {
    match daemon.rootless {
        true => (0, 0),
        false => caller(),
    }
}

/// The caller as the daemon knows it: by the numbers outside of a user namespace that this process may be in.
pub(super) fn caller() -> (u32, u32) {
    let outside = |map: &str, id: u32| {
        let text = fs::read_to_string(map).unwrap_or_default();
        mapped(&text, id).unwrap_or(id)
    };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (outside("/proc/self/uid_map", uid), outside("/proc/self/gid_map", gid))
}

/// What an id inside stands for, by lines of `INSIDE OUTSIDE COUNT`.
fn mapped(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (inside, outside, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let at = id.checked_sub(inside)?;
        (at < count).then(|| outside.checked_add(at))?
    })
}

/// What a sandbox has of /etc that says who one is; the caller is `root` here as there.
fn identity((uid, gid): (u32, u32)) -> [(&'static str, String); 4] {
    let nobody = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
    [
        ("/etc/passwd", format!("root:x:{uid}:{gid}:root:/build/home:/bin/sh\n{nobody}")),
        ("/etc/group", format!("root:x:{gid}:\nnogroup:x:65534:\n")),
        ("/etc/hosts", format!("127.0.0.1 localhost {HOSTNAME}\n")),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
    ]
}

impl Request {
    /// For a daemon; `aside` is a folder of the job's own for files that are bound in.
    pub fn new(
        job: &Job,
        daemon: &Daemon,
        image: &str,
        options: &ContainerOptions,
        owner: &str,
        aside: &Path,
    ) -> Result<Self, ExecError> {
        if job.root.is_some() {
            return Err(ExecError::Invalid("a command with a root of its own needs a sandbox".into()));
        }
        let made = |error| ExecError::io(format!("making {}", aside.display()), error);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(aside).map_err(made)?;
        let user = user(daemon);
        let mut host = HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            ulimits: Some(limits()),
            tmpfs: Some(HashMap::from([("/tmp".into(), "rw,exec,nosuid,nodev,mode=1777".into())])),
            memory: job.limits.memory.or(options.memory).map(|bytes| bytes as i64),
            pids_limit: options.pids.map(i64::from),
            userns_mode: daemon.remaps.then(|| "host".into()),
            ..HostConfig::default()
        };
        if !daemon.bounds_memory
            && let Some(bytes) = host.memory.take()
        {
            // Of each process then, as in the sandbox.
            host.ulimits.get_or_insert_default().push(ulimit("data", bytes));
        }
        // As much swap as memory: none.
        host.memory_swap = host.memory;
        let labelled = options.relabel;
        if daemon.selinux && !labelled {
            host.security_opt.get_or_insert_default().push("label=disable".into());
        }
        let mut count = 0;
        let mut place = |from: Option<PathBuf>, at: &Path, writable: bool| -> Result<(), ExecError> {
            let from = match from {
                Some(from) => from,
                None => {
                    count += 1;
                    let from = aside.join(count.to_string());
                    fs::create_dir(&from).map_err(made)?;
                    from
                }
            };
            bind(&mut host, &from, at, writable, labelled)
        };
        for (at, text) in identity(user) {
            let file = aside.join(at.replace('/', "_"));
            fs::write(&file, text).map_err(made)?;
            place(Some(file), Path::new(at), false)?;
        }
        for (number, mount) in job.mounts.iter().enumerate() {
            match mount {
                Mount::Bind { from, at, writable, .. } => place(Some(from.clone()), at, *writable)?,
                Mount::Tmpfs { at, .. } => place(None, at, true)?,
                Mount::Dir { at } => place(None, at, false)?,
                Mount::File { at, contents } => {
                    let file = aside.join(format!("file{number}"));
                    fs::write(&file, contents).map_err(made)?;
                    place(Some(file), at, false)?;
                }
                Mount::Overlay { at, .. } | Mount::Symlink { at, .. } => {
                    let at = at.display();
                    return Err(ExecError::Invalid(format!("{at}: a container has binds only")));
                }
            }
        }
        host.devices = Some(job.extra_devices.iter().map(|path| device(path)).collect::<Result<_, _>>()?);
        let env = job.env.iter().map(|(name, value)| Ok(format!("{}={}", text(name)?, text(value)?)));
        let argv = job.argv.iter().map(|arg| text(arg)).collect::<Result<Vec<_>, _>>()?;
        let body = ContainerCreateBody {
            hostname: Some(HOSTNAME.into()),
            user: Some(format!("{}:{}", user.0, user.1)),
            attach_stdin: Some(job.interactive),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(job.interactive),
            stdin_once: Some(job.interactive),
            env: Some(env.collect::<Result<_, ExecError>>()?),
            image: Some(image.to_owned()),
            working_dir: Some(text(job.cwd.as_os_str())?),
            // Not `cmd`: it would stand behind the image's own entrypoint.
            entrypoint: Some(argv),
            network_disabled: Some(true),
            labels: Some(HashMap::from([
                (LABEL_OWNER.into(), owner.to_owned()),
                (LABEL_USER.into(), caller().0.to_string()),
            ])),
            healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        Ok(Self { body })
    }
}

/// No core files, and else the caller's own limits, as in the sandbox: a daemon's are above what a machine may allow it.
fn limits() -> Vec<ResourcesUlimits> {
    use rustix::process::{Resource, getrlimit};
    let number = |bound: Option<u64>| bound.and_then(|bound| i64::try_from(bound).ok()).unwrap_or(-1);
    let own = |name: &str, soft: Option<u64>, hard: Option<u64>| ResourcesUlimits {
        name: Some(name.into()),
        soft: Some(number(soft)),
        hard: Some(number(hard)),
    };
    let (files, processes) = (getrlimit(Resource::Nofile), getrlimit(Resource::Nproc));
    let files = match owners::limit_to_restore() {
        Some(before) => own("nofile", Some(before.rlim_cur), Some(before.rlim_max)),
        None => own("nofile", files.current, files.maximum),
    };
    vec![ulimit("core", 0), files, own("nproc", processes.current, processes.maximum)]
}

fn ulimit(name: &str, bound: i64) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.into()), soft: Some(bound), hard: Some(bound) }
}

fn bind(
    host: &mut HostConfig,
    from: &Path,
    at: &Path,
    writable: bool,
    relabel: bool,
) -> Result<(), ExecError> {
    let (source, target) = (text(from.as_os_str())?, text(at.as_os_str())?);
    if relabel {
        // Only this older form knows of labels, and it has no way to write a colon.
        if source.contains(':') || target.contains(':') {
            return Err(ExecError::Invalid(format!("{source}: a path with a colon cannot be relabelled")));
        }
        let mode = if writable { "rw" } else { "ro" };
        host.binds.get_or_insert_default().push(format!("{source}:{target}:{mode},z"));
        return Ok(());
    }
    // The newer form refuses a source that the daemon does not see; the older would make a folder there.
    host.mounts.get_or_insert_default().push(Bound {
        target: Some(target),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(!writable),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..MountBindOptions::default()
        }),
        ..Bound::default()
    });
    Ok(())
}

fn device(path: &Path) -> Result<DeviceMapping, ExecError> {
    let path = text(path.as_os_str())?;
    Ok(DeviceMapping {
        path_on_host: Some(path.clone()),
        path_in_container: Some(path),
        cgroup_permissions: Some("rw".into()),
    })
}

/// Daemons speak JSON, which has no other text than UTF-8.
fn text(text: &OsStr) -> Result<String, ExecError> {
    text.to_str().map(str::to_owned).ok_or_else(|| {
        ExecError::Invalid(format!("{:?} is not UTF-8, and a container takes nothing else", text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Limits;

    fn daemon() -> Daemon {
        Daemon {
            address: super::super::daemon::Address::Tcp("127.0.0.1:1".into()),
            name: "Docker 1".into(),
            rootless: false,
            remaps: false,
            selinux: false,
            arch: "amd64".into(),
            bounds_memory: true,
        }
    }

    fn request(job: &Job, daemon: &Daemon, options: &ContainerOptions) -> Result<HostConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let made = Request::new(job, daemon, "i", options, "me", dir.path());
        made.map(|made| made.body.host_config.unwrap()).map_err(|error| error.to_string())
    }

    fn job() -> Job {
        Job {
            argv: vec!["sh".into()],
            mounts: vec![Mount::read_only("/a b/ü", "/build/deps/x"), Mount::writable("/s", "/build/out")],
            limits: Limits { memory: Some(64 << 20), ..Limits::default() },
            ..Job::default()
        }
    }

    #[test]
    fn a_container_has_no_privileges_no_network_and_its_inputs_read_only() {
        let host = request(&job(), &daemon(), &ContainerOptions::default()).unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!((host.network_mode.as_deref(), host.readonly_rootfs), (Some("none"), Some(true)));
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        let mounts = host.mounts.unwrap();
        let of = |at: &str| mounts.iter().find(|m| m.target.as_deref() == Some(at)).unwrap();
        assert_eq!(of("/build/deps/x").source.as_deref(), Some("/a b/ü"));
        assert_eq!((of("/build/deps/x").read_only, of("/build/out").read_only), (Some(true), Some(false)));
        assert!(host.userns_mode.is_none() && host.binds.is_none());
    }

    #[test]
    fn mapped_users_and_labels_are_asked_for_only_where_they_are() {
        let relabel = ContainerOptions { relabel: true, ..ContainerOptions::default() };
        let host = request(&job(), &Daemon { remaps: true, ..daemon() }, &relabel).unwrap();
        assert_eq!(host.userns_mode.as_deref(), Some("host"));
        assert!(host.binds.unwrap().contains(&"/a b/ü:/build/deps/x:ro,z".to_owned()));
        assert!(host.mounts.is_none());
        let strict = Daemon { selinux: true, ..daemon() };
        let host = request(&job(), &strict, &ContainerOptions::default()).unwrap();
        assert!(host.security_opt.unwrap().contains(&"label=disable".to_owned()));
        let colon = Job { mounts: vec![Mount::read_only("/a:b", "/x")], ..job() };
        assert!(request(&colon, &daemon(), &relabel).unwrap_err().contains("colon"));
        assert!(request(&colon, &daemon(), &ContainerOptions::default()).is_ok());
    }

    #[test]
    fn a_caller_in_a_user_namespace_is_known_by_its_number_outside() {
        assert_eq!(mapped("0 0 4294967295\n", 1000), Some(1000));
        assert_eq!(mapped("4711 0 1\n", 4711), Some(0));
        assert_eq!(mapped("0 1000 1\n1 100000 65536\n", 7), Some(100_006));
        assert_eq!((mapped("4711 0 1\n", 5), mapped("x", 0), mapped("", 0)), (None, None, None));
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let bad = Job { argv: vec![OsStr::from_bytes(b"\xff").into()], ..job() };
        assert!(request(&bad, &daemon(), &ContainerOptions::default()).unwrap_err().contains("UTF-8"));
        let rooted = Job { root: Some("/r".into()), ..job() };
        assert!(request(&rooted, &daemon(), &ContainerOptions::default()).unwrap_err().contains("sandbox"));
    }
}
