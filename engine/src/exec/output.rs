//! Waiting for a running job in the calling thread: its output, its end, its limit, its cancellation, in one poll.
//!
//! Writes the log and looks for console patterns. Does not know how the job was started or how to reap it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::supervisor::Supervisor;
use super::{Console, End, ExecError, Job, Watch};

/// A line longer than this is looked at in pieces.
const MAX_LINE: usize = 64 * 1024;
/// How long the line with the last expected pattern may take to end: a prompt never does.
pub(super) const LINE_END: Duration = Duration::from_millis(500);

/// What happened to a job, as far as it can be seen from outside.
pub(super) struct Seen {
    /// Why we killed it, if we did.
    pub killed: Option<End>,
    pub log_bytes: u64,
    pub missing: Vec<String>,
    pub marks: Vec<(String, Duration)>,
}

/// A pipe for output: the read end does not block, both are above 9, so that dup2 onto 0–4 never hits them.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (read, write) = (high(read)?, high(write)?);
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// The same descriptor above 9.
pub(super) fn high(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 9 { Ok(fd) } else { Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 10)?) }
}

/// Look after a job until `pidfd` says that it has ended, and answer its questions. `kill` may be called twice.
pub(super) fn attend(
    job: &Job,
    watch: &dyn Watch,
    output: &OwnedFd,
    pidfd: &OwnedFd,
    started: Instant,
    mut supervisor: Option<&mut Supervisor>,
    mut kill: impl FnMut(),
) -> Result<Seen, ExecError> {
    let deadline = job.limits.time.and_then(|limit| started.checked_add(limit));
    let cancel = watch.cancel();
    let cancel_fd: RawFd = cancel.map_or(-1, |token| token.as_fd().as_raw_fd());
    let mut reader = Reader::new(job, started);
    let mut killed: Option<End> = None;
    let mut line_end: Option<Instant> = None;
    let mut open = true;
    let mut failure = None;
    loop {
        let running = killed.is_none();
        let output_fd = if open { output.as_raw_fd() } else { -1 };
        let mut fds = [
            poll_in(output_fd),
            poll_in(pidfd.as_raw_fd()),
            poll_in(if running { cancel_fd } else { -1 }),
            poll_in(supervisor.as_ref().map_or(-1, |supervisor| supervisor.fd())),
        ];
        let timeout = [deadline, line_end].into_iter().flatten().min().filter(|_| running).map_or(-1, until);
        // SAFETY: four valid entries; negative descriptors are passed over.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), 4, timeout) };
        if count < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            failure.get_or_insert(ExecError::io("waiting for a step", io::Error::last_os_error()));
            kill();
            break;
        }
        let ended = count > 0 && fds[1].revents != 0;
        if let Some(asked) = supervisor.as_mut().filter(|_| count > 0)
            && let Err(error) = asked.attend(fds[3].revents)
        {
            failure.get_or_insert(error);
            supervisor = None;
            if !ended {
                kill();
            }
        }
        if count > 0 && fds[0].revents != 0 || ended {
            match reader.read(output, watch, ended) {
                Ok(Progress::More) => {}
                Ok(Progress::Closed) => open = false,
                Ok(Progress::Stop(end)) if killed.is_none() => {
                    killed = Some(end);
                    kill();
                }
                Ok(Progress::Stop(_)) => {}
                Err(error) => {
                    if failure.is_none() && !ended {
                        kill();
                    }
                    failure.get_or_insert(error);
                    open = false;
                }
            }
        }
        if ended {
            break;
        }
        if killed.is_none() && cancel.is_some_and(|token| token.is_cancelled()) {
            killed = Some(End::Cancelled);
            kill();
        }
        line_end = line_end.or_else(|| Some(Instant::now() + LINE_END)).filter(|_| reader.all_seen());
        if killed.is_none() && line_end.is_some_and(|end| Instant::now() >= end) {
            killed = Some(End::Expected);
            kill();
        }
        if killed.is_none() && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            killed = Some(End::TimedOut);
            kill();
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(reader.seen(killed)),
    }
}

fn poll_in(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Milliseconds until then, rounded up, as poll wants them.
fn until(deadline: Instant) -> i32 {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    left.as_millis().min(i32::MAX as u128) as i32
}

enum Progress {
    More,
    Closed,
    Stop(End),
}

/// Takes a job's output, from wherever it comes: into the log, and past the patterns.
pub(super) struct Reader {
    log: Log,
    scan: Scan,
}

impl Reader {
    pub fn new(job: &Job, started: Instant) -> Self {
        let scan = Scan::new(job.console.as_ref(), started);
        Self { log: Log { path: job.log.clone(), file: None, written: 0 }, scan }
    }

    /// A piece of output; what it ends the job by, if it does.
    pub fn take(&mut self, bytes: &[u8], watch: &dyn Watch) -> Result<Option<End>, ExecError> {
        self.log.write(bytes)?;
        Ok(self.scan.feed(bytes, watch))
    }

    /// There is no more output.
    pub fn finish(&mut self, watch: &dyn Watch) -> Option<End> {
        self.scan.finish(watch)
    }

    /// Since when only the end of a line is waited for: all that is expected has been seen in it.
    pub fn all_seen(&self) -> bool {
        self.scan.all_seen
    }

    /// What has been seen by now.
    pub fn seen(&self, killed: Option<End>) -> Seen {
        let (missing, marks) = (self.scan.missing(), self.scan.marks());
        Seen { killed, log_bytes: self.log.written, missing, marks }
    }

    /// Take what is there. At the end of the job, take all that is left in the pipe, but do not wait for writers:
    /// a process that has escaped may hold it open.
    fn read(&mut self, output: &OwnedFd, watch: &dyn Watch, last: bool) -> Result<Progress, ExecError> {
        let mut buffer = [0u8; 32 * 1024];
        let mut stop = None;
        loop {
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    let bytes = &buffer[..count];
                    let end = self.take(bytes, watch)?;
                    stop = stop.or(end);
                    if !last {
                        return Ok(stop.map_or(Progress::More, Progress::Stop));
                    }
                }
                Err(rustix::io::Errno::AGAIN) if !last => return Ok(Progress::More),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ExecError::io("reading a step's output", error)),
            }
        }
        let end = self.finish(watch);
        Ok(stop.or(end).map_or(Progress::Closed, Progress::Stop))
    }
}

struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ExecError> {
        let what = |path: &Path| format!("writing the log {}", path.display());
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file =
                    File::create(&self.path).map_err(|error| ExecError::io(what(&self.path), error))?;
                self.file.insert(file)
            }
        };
        file.write_all(bytes).map_err(|error| ExecError::io(what(&self.path), error))?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Splits output into lines and compares them with the patterns.
struct Scan {
    forbid: Vec<String>,
    expect: Vec<(String, bool)>,
    /// Name, pattern, and when it was first seen.
    marks: Vec<(String, String, Option<Duration>)>,
    started: Instant,
    partial: Vec<u8>,
    /// All that is expected was seen, the last of it in a line that has not ended.
    all_seen: bool,
}

impl Scan {
    fn new(console: Option<&Console>, started: Instant) -> Self {
        let console = console.cloned().unwrap_or_default();
        let expect = console.expect.into_iter().map(|pattern| (pattern, false)).collect();
        let marks = console.marks.into_iter().map(|(name, pattern)| (name, pattern, None)).collect();
        Self { forbid: console.forbid, expect, marks, started, partial: Vec::new(), all_seen: false }
    }

    fn missing(&self) -> Vec<String> {
        self.expect.iter().filter(|(_, seen)| !seen).map(|(pattern, _)| pattern.clone()).collect()
    }

    fn marks(&self) -> Vec<(String, Duration)> {
        self.marks.iter().filter_map(|(name, _, seen)| Some((name.clone(), (*seen)?))).collect()
    }

    fn feed(&mut self, bytes: &[u8], watch: &dyn Watch) -> Option<End> {
        let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') else {
            self.partial.extend_from_slice(bytes);
            return self.partial_line(watch);
        };
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(&bytes[..last]);
        self.partial.extend_from_slice(&bytes[last + 1..]);
        for line in whole.split(|&byte| byte == b'\n').map(text) {
            watch.line(&line);
            if let Some(end) = self.line(&line) {
                return Some(end);
            }
        }
        self.partial_line(watch)
    }

    /// A prompt has no line end, so expected patterns are looked for in what there is of the last line too; the rest
    /// of the line is given a moment. A forbidden one waits for its line to be whole, since the line is what is
    /// reported.
    fn partial_line(&mut self, watch: &dyn Watch) -> Option<End> {
        if self.partial.len() > MAX_LINE {
            return self.finish(watch);
        }
        if self.partial.is_empty() || self.expect.is_empty() {
            return None;
        }
        let line = text(&self.partial);
        self.all_seen = !self.forbidden(&line) && self.expected(&line).is_some();
        None
    }

    fn finish(&mut self, watch: &dyn Watch) -> Option<End> {
        let partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            return None;
        }
        let line = text(&partial);
        watch.line(&line);
        self.line(&line)
    }

    fn line(&mut self, line: &str) -> Option<End> {
        for (_, pattern, seen) in self.marks.iter_mut().filter(|(.., seen)| seen.is_none()) {
            *seen = line.contains(pattern.as_str()).then(|| self.started.elapsed());
        }
        if self.forbidden(line) { Some(End::Forbidden(line.to_owned())) } else { self.expected(line) }
    }

    fn forbidden(&self, line: &str) -> bool {
        self.forbid.iter().any(|pattern| line.contains(pattern.as_str()))
    }

    fn expected(&mut self, line: &str) -> Option<End> {
        if self.expect.is_empty() {
            return None;
        }
        for (pattern, seen) in &mut self.expect {
            *seen = *seen || line.contains(pattern.as_str());
        }
        self.expect.iter().all(|(_, seen)| *seen).then_some(End::Expected)
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
}
