//! The container executor: each job in a container of Docker or Podman, made for it and removed after it.
//!
//! Knows the daemon's answers. A job looks there as it does in the sandbox: the same paths, environment and host name;
//! only its tools are the image's. Whoever kills this program leaves a container, which the next run removes.

mod archive;
mod daemon;
mod image;
mod request;
mod sweep;
mod terminal;
mod words;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::models::ContainerState;
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, InspectContainerOptions, KillContainerOptions,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::output::{LINE_END, Reader};
use super::{CancelToken, End, ExecError, Executor, Job, Outcome, Owners, Watch};
use daemon::{Daemon, soon};
use image::Image;
use request::Request;

pub use words::Trouble;

/// The label that names the process that made a container.
const LABEL_OWNER: &str = "mosbuild.owner";
/// The label that names its user.
const LABEL_USER: &str = "mosbuild.user";

/// Told while an image is brought in: what, bytes so far, bytes in all where known.
pub type Bring = Arc<dyn Fn(&str, u64, Option<u64>) + Send + Sync>;

/// Which image containers are made of, and what bounds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerOptions {
    /// Name with tag or digest, or an id.
    pub image: Option<String>,
    /// A file as `docker save` writes it; `image` then chooses one of several in it.
    pub archive: Option<PathBuf>,
    /// Give the files that are bound in a label that SELinux lets containers read (`:z`).
    pub relabel: bool,
    /// Bytes of memory that a container may use in all, where the step has no bound of its own.
    pub memory: Option<u64>,
    /// Processes that a container may have.
    pub pids: Option<u32>,
}

impl ContainerOptions {
    /// What is set here, and for the rest what `other` sets.
    pub fn or(&self, other: &Self) -> Self {
        // Image and archive belong together: who names one does not mean the other's.
        let own = self.names_image();
        Self {
            image: if own { self.image.clone() } else { other.image.clone() },
            archive: if own { self.archive.clone() } else { other.archive.clone() },
            relabel: self.relabel || other.relabel,
            memory: self.memory.or(other.memory),
            pids: self.pids.or(other.pids),
        }
    }

    /// Whether an image is named.
    pub fn names_image(&self) -> bool {
        self.image.is_some() || self.archive.is_some()
    }
}

/// Runs each job in a container of one image. Cheap to clone.
///
/// Inside: the image, read-only; the job's mounts; a private `/tmp`; no network but `lo`, no capabilities, no new
/// privileges; hostname `mosbuild`; stdin empty. User 0 where the daemon is the caller's own, else the caller's number,
/// called root. The command is process 1, and all others end with it. The job's memory limit bounds the container as
/// a whole. No descriptor can be handed in, so that there is no jobserver.
#[derive(Debug, Clone)]
pub struct Container(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    daemon: Daemon,
    image: Image,
    options: ContainerOptions,
}

impl Container {
    /// Finds the daemon and the image; removes what killed builds left behind. With `bring` an absent image is loaded
    /// or pulled, without it is an error.
    pub fn open(options: &ContainerOptions, bring: Option<&Bring>) -> Result<Self, Trouble> {
        if !options.names_image() {
            return Err(image::none_configured());
        }
        let options = options.clone();
        wait_for(async {
            let daemon = Daemon::find().await?;
            let docker = daemon.client().await?;
            if bring.is_some() {
                // What cannot be removed now is told by whatever fails next, or removed the next time.
                let _ = sweep::sweep(&docker).await;
            }
            let image = image::find(&docker, &daemon, &options, bring).await?;
            Ok(Self(Arc::new(Inner { daemon, image, options })))
        })?
    }

    /// What answers, and where: `Docker 20.10.24 at unix:///var/run/docker.sock`.
    pub fn daemon(&self) -> String {
        let Daemon { name, address, rootless, .. } = &self.0.daemon;
        format!("{name}{} at {address}", if *rootless { ", rootless" } else { "" })
    }

    /// The image as the configuration names it.
    pub fn image_name(&self) -> &str {
        &self.0.image.name
    }

    /// The image's id, `sha256:…`: the digest of its configuration, which names its layers.
    pub fn image_id(&self) -> &str {
        &self.0.image.id
    }

    /// PATH in the image.
    pub fn path(&self) -> &str {
        &self.0.image.path
    }
}

/// Whether a daemon answers, for who only asks; what and where it is.
pub fn answering() -> Result<String, Trouble> {
    wait_for(async {
        let daemon = Daemon::find().await?;
        Ok(format!("{} at {}", daemon.name, daemon.address))
    })?
}

/// Removes what killed builds of this user left behind; how many containers. Where no daemon answers there are none.
pub fn sweep_left_behind() -> usize {
    let swept = wait_for(async {
        let docker = Daemon::find().await?.client().await?;
        Ok::<_, Trouble>(sweep::sweep(&docker).await.unwrap_or(0))
    });
    swept.and_then(|swept| swept).unwrap_or(0)
}

fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Trouble::new(format!("making a runtime: {error}")))?;
    let done = runtime.block_on(work);
    // A thread that reads a terminal cannot be woken.
    runtime.shutdown_background();
    Ok(done)
}

impl Executor for Container {
    fn run(&self, job: &Job, watch: &dyn Watch) -> Result<Outcome, ExecError> {
        let mut aside = job.log.clone().into_os_string();
        aside.push(".container");
        let aside = PathBuf::from(aside);
        let done = wait_for(self.0.run(job, watch, &aside));
        let _ = std::fs::remove_dir_all(&aside);
        done?
    }

    fn name(&self) -> &'static str {
        "container"
    }
}

impl Inner {
    async fn run(&self, job: &Job, watch: &dyn Watch, aside: &std::path::Path) -> Result<Outcome, ExecError> {
        let started = Instant::now();
        let docker = self.daemon.client().await?;
        let Request { mut body } =
            Request::new(job, &self.daemon, &self.image.id, &self.options, &sweep::owner(), aside)?;
        let terminal = job.interactive && terminal::is_one();
        body.tty = Some(terminal);
        let made = soon(docker.create_container(None::<CreateContainerOptions>, body)).await;
        let id = made.map_err(|error| self.refused("making the container", &error))?.id;
        let ended = self.attend(&docker, &id, job, watch, started, terminal).await;
        // Also after an error; what stays is swept by the next run.
        let removed = sweep::remove(&docker, &id).await;
        let (seen, end) = ended?;
        Ok(Outcome {
            end,
            wall: started.elapsed(),
            user: Duration::ZERO,
            system: Duration::ZERO,
            max_rss_kib: 0,
            log_bytes: seen.log_bytes,
            missing: seen.missing,
            marks: seen.marks,
            alone: removed.is_ok(),
            owners: Owners::default(),
        })
    }

    async fn attend(
        &self,
        docker: &Docker,
        id: &str,
        job: &Job,
        watch: &dyn Watch,
        started: Instant,
        terminal: bool,
    ) -> Result<(super::output::Seen, End), ExecError> {
        let attach = AttachContainerOptions {
            stdout: true,
            stderr: true,
            stdin: job.interactive,
            stream: true,
            ..AttachContainerOptions::default()
        };
        let attached = soon(docker.attach_container(id, Some(attach))).await;
        let AttachContainerResults { mut output, input } =
            attached.map_err(|error| self.refused("attaching to the container", &error))?;
        let begun = soon(docker.start_container(id, None::<StartContainerOptions>)).await;
        begun.map_err(|error| self.not_started(job, &error))?;
        let _typed = job.interactive.then(|| terminal::Session::open(docker, id, input, terminal));

        let mut reader = Reader::new(job, started);
        let deadline = job.limits.time.and_then(|limit| started.checked_add(limit));
        let cancelled = Cancelled::new(watch.cancel())?;
        let mut killed: Option<End> = None;
        let mut line_end: Option<Instant> = None;
        let mut broken: Option<Error> = None;
        loop {
            let until = [deadline, line_end].into_iter().flatten().min().filter(|_| killed.is_none());
            let stop = tokio::select! {
                piece = output.next() => match piece {
                    Some(Ok(piece)) if job.interactive => { terminal::show(&piece); None }
                    Some(Ok(LogOutput::StdIn { .. })) => None,
                    Some(Ok(piece)) => match reader.take(piece.as_ref(), watch) {
                        Ok(end) => end,
                        Err(error) => { self.kill(docker, id).await; return Err(error); }
                    },
                    Some(Err(error)) => { broken = Some(error); break; }
                    None => break,
                },
                () = cancelled.wait(), if killed.is_none() => Some(End::Cancelled),
                () = sleep_until(until), if until.is_some() => match line_end {
                    Some(end) if Instant::now() >= end => Some(End::Expected),
                    _ => Some(End::TimedOut),
                },
            };
            line_end = line_end.or_else(|| Some(Instant::now() + LINE_END)).filter(|_| reader.all_seen());
            if let (Some(end), None) = (stop, &killed) {
                killed = Some(end);
                self.kill(docker, id).await;
            }
        }
        if let (Some(end), None) = (reader.finish(watch), &killed) {
            killed = Some(end);
            self.kill(docker, id).await;
        }
        // A command that has closed its output may go on.
        let (mut state, mut late) = (None, killed.clone());
        while state.is_none() {
            let left = deadline.filter(|_| late.is_none());
            tokio::select! {
                ended = self.ended(docker, id) => state = Some(ended.map_err(|error| self.lost(broken.as_ref().or(Some(&error))))?),
                () = cancelled.wait(), if late.is_none() => late = Some(End::Cancelled),
                () = sleep_until(left), if left.is_some() => late = Some(End::TimedOut),
            }
            if state.is_none() {
                self.kill(docker, id).await;
            }
        }
        let state = state.unwrap_or_default();
        if let Some(error) = &broken
            && killed.is_none()
        {
            return Err(self.lost(Some(error)).into());
        }
        let code = state.exit_code.unwrap_or(-1);
        if let Some(error) = state.error.filter(|error| !error.is_empty() && code != 0) {
            let error = Error::DockerStreamError { error };
            return Err(self.not_started(job, &error));
        }
        let natural = match state.oom_killed {
            Some(true) if code != 0 => End::OutOfMemory,
            _ => End::Exit(code as i32),
        };
        Ok((reader.seen(None), late.unwrap_or(natural)))
    }

    /// How the container ended, once it has.
    async fn ended(&self, docker: &Docker, id: &str) -> Result<ContainerState, Error> {
        let options = WaitContainerOptions { condition: "not-running".into() };
        let mut waiting = std::pin::pin!(docker.wait_container(id, Some(options)));
        let code = match waiting.next().await {
            Some(Ok(answer)) => Some(answer.status_code),
            // An exit code other than 0 is told as an error.
            Some(Err(Error::DockerContainerWaitError { code, .. })) => Some(code),
            None => None,
            Some(Err(error)) => return Err(error),
        };
        let mut tries = 0;
        loop {
            match soon(docker.inspect_container(id, None::<InspectContainerOptions>)).await {
                Ok(found) => return Ok(found.state.unwrap_or_default()),
                // Podman tells of a state that Docker has not, `stopped`, until it has tidied up behind the container.
                Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) if tries < 20 => tries += 1,
                Err(Error::JsonDataError { .. } | Error::JsonSerdeError { .. }) if code.is_some() => {
                    return Ok(ContainerState { exit_code: code, ..ContainerState::default() });
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn kill(&self, docker: &Docker, id: &str) {
        let options = KillContainerOptions { signal: "SIGKILL".into() };
        // It may have ended by itself meanwhile.
        let _ = soon(docker.kill_container(id, Some(options))).await;
    }

    fn refused(&self, what: &str, error: &Error) -> Trouble {
        match error {
            Error::DockerResponseServerError { status_code: 404, .. } if what.starts_with("making") => {
                Trouble::new(format!("{} no longer has the image {}", self.daemon.name, self.image.name))
                    .help("build again: it is brought in anew")
            }
            Error::DockerResponseServerError { .. } => words::refusal(what, &self.image.name, error),
            other => self.lost(Some(other)),
        }
    }

    fn not_started(&self, job: &Job, error: &Error) -> ExecError {
        if words::is_not_found(error) {
            let program = job.argv.first().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
            return ExecError::NotInImage { program, image: self.image.name.clone() };
        }
        match error {
            Error::DockerResponseServerError { .. } | Error::DockerStreamError { .. } => {
                words::refusal("starting the container", &self.image.name, error).into()
            }
            other => self.lost(Some(other)).into(),
        }
    }

    fn lost(&self, error: Option<&Error>) -> Trouble {
        words::lost(&self.daemon.name, &self.daemon.address, error)
    }
}

async fn sleep_until(until: Option<Instant>) {
    if let Some(until) = until {
        tokio::time::sleep_until(until.into()).await;
    }
}

/// A cancellation that can be waited for.
struct Cancelled<'a>(Option<(&'a CancelToken, AsyncFd<std::os::fd::BorrowedFd<'a>>)>);

impl<'a> Cancelled<'a> {
    fn new(token: Option<&'a CancelToken>) -> Result<Self, ExecError> {
        use std::os::fd::AsFd;
        let wrap = |token: &'a CancelToken| -> io::Result<_> {
            // SAFETY: the descriptor is borrowed from the token, which outlives this.
            let fd = unsafe { AsyncFd::register_with_interest(token.as_fd(), Interest::READABLE) };
            Ok((token, fd.map_err(io::Error::from)?))
        };
        Ok(Self(
            token.map(wrap).transpose().map_err(|error| ExecError::io("watching for interrupts", error))?,
        ))
    }

    async fn wait(&self) {
        let Some((token, fd)) = &self.0 else { return std::future::pending().await };
        while !token.is_cancelled() {
            // Readable once it is set, and for good.
            if fd.readable().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
