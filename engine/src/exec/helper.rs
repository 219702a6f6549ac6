//! Programs of the host that builtins use where there is a network: git, cargo. They see the user's configuration, have
//! no terminal to ask on, and end with the build. Knows processes; does not know what the programs do.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal, setsid};

use super::orphans;

/// How often cancellation and silence are looked at.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// How long output may come after the end of the program: of what it left running, which may go on.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// A longer line is heard in pieces.
const LONGEST_LINE: usize = 64 << 10;

/// A program to be run.
pub struct Helper<'a> {
    /// Program, arguments, environment and folder; what its streams are is set by [`Helper::run`].
    pub command: Command,
    /// True once the build was interrupted.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// How long it may say nothing at all.
    pub silence: Option<Duration>,
    /// The most bytes that are taken from its standard output.
    pub most: usize,
}

/// Something that it said on its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A line.
    Line(&'a str),
    /// A line that is to be written over by the next: progress.
    Passing(&'a str),
}

/// How it ended.
#[derive(Debug)]
pub enum HelperEnd {
    /// By itself.
    Exit(ExitStatus),
    /// Killed, with all that it started: the build was interrupted.
    Cancelled,
    /// Killed: it said nothing for longer than it may.
    Silent,
    /// Killed: it printed more than it may.
    TooMuch,
}

impl Helper<'_> {
    /// Runs it to its end; how it ended, and its standard output. An error means that it was not started or could not be
    /// listened to.
    pub fn run(mut self, heard: &mut dyn FnMut(Heard<'_>)) -> io::Result<(HelperEnd, Vec<u8>)> {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        own_session(&mut self.command);
        // So that it is not taken for something that a step left behind.
        let (_registered, mut child) = orphans::register(false, || {
            let child = self.command.spawn()?;
            Ok::<_, io::Error>((child.id().cast_signed(), child))
        })?;
        let mut out = Vec::new();
        let end = self.attend(&mut child, &mut out, heard);
        if !matches!(end, Ok(HelperEnd::Exit(status)) if status.success()) {
            // What a success leaves running, a credential cache for instance, is the user's.
            if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
        }
        Ok((end?, out))
    }

    fn attend(
        &self,
        child: &mut Child,
        out: &mut Vec<u8>,
        heard: &mut dyn FnMut(Heard<'_>),
    ) -> io::Result<HelperEnd> {
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let mut lines = Lines::default();
        let mut buffer = vec![0; 64 << 10];
        let mut spoke = Instant::now();
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            let ready = ready(stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd))?;
            if ready[0]
                && let Some(pipe) = &mut stdout
            {
                spoke = Instant::now();
                match pipe.read(&mut buffer)? {
                    0 => stdout = None,
                    n if out.len() + n > self.most => return Ok(HelperEnd::TooMuch),
                    n => out.extend_from_slice(&buffer[..n]),
                }
            }
            if ready[1]
                && let Some(pipe) = &mut stderr
            {
                spoke = Instant::now();
                match pipe.read(&mut buffer)? {
                    0 => stderr = None,
                    n => lines.take(&buffer[..n], heard),
                }
            }
            if (self.cancelled)() {
                return Ok(HelperEnd::Cancelled);
            }
            if ended.is_none() {
                ended = child.try_wait()?.map(|status| (status, Instant::now()));
            }
            if let Some((status, since)) = ended
                && (stdout.is_none() && stderr.is_none() || since.elapsed() > AFTERWARDS)
            {
                lines.end(heard);
                return Ok(HelperEnd::Exit(status));
            }
            if ended.is_none() && self.silence.is_some_and(|most| spoke.elapsed() > most) {
                lines.end(heard);
                return Ok(HelperEnd::Silent);
            }
        }
    }
}

/// Makes a command begin a session of its own: there is no terminal that it could ask on, all that it starts is one
/// group, and the first process dies with the thread that started it.
fn own_session(command: &mut Command) {
    let begin = || {
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec; both are single system calls that allocate nothing and take no lock.
    unsafe { command.pre_exec(begin) };
}

/// Which of the two can be read, waiting a tick for it.
fn ready(
    stdout: Option<std::os::fd::BorrowedFd<'_>>,
    stderr: Option<std::os::fd::BorrowedFd<'_>>,
) -> io::Result<[bool; 2]> {
    let both = [stdout, stderr];
    let mut open: Vec<PollFd<'_>> =
        both.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut open, Some(&TICK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut events = open.iter().map(|fd| !fd.revents().is_empty());
    Ok(both.map(|fd| fd.is_some() && events.next().unwrap_or_default()))
}

/// Bytes that become lines.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], heard: &mut dyn FnMut(Heard<'_>)) {
        for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\r')) {
            self.begun.extend_from_slice(piece);
            match piece.last() {
                Some(b'\r') => self.say(true, heard),
                Some(b'\n') => self.say(false, heard),
                _ if self.begun.len() > LONGEST_LINE => self.say(false, heard),
                _ => {}
            }
        }
    }

    fn end(&mut self, heard: &mut dyn FnMut(Heard<'_>)) {
        self.say(false, heard);
    }

    fn say(&mut self, passing: bool, heard: &mut dyn FnMut(Heard<'_>)) {
        let text = String::from_utf8_lossy(&self.begun);
        let line = text.trim_end();
        if !line.is_empty() {
            heard(if passing { Heard::Passing(line) } else { Heard::Line(line) });
        }
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run(
        script: &str,
        cancelled: &(dyn Fn() -> bool + Sync),
        silence: Option<Duration>,
    ) -> (HelperEnd, Vec<u8>, Vec<String>) {
        let helper = Helper { command: shell(script), cancelled, silence, most: 1 << 20 };
        let mut said = Vec::new();
        let mut heard = |heard: Heard<'_>| {
            said.push(match heard {
                Heard::Line(line) => line.to_owned(),
                Heard::Passing(line) => format!("~{line}"),
            });
        };
        let (end, out) = helper.run(&mut heard).unwrap();
        (end, out, said)
    }

    #[test]
    fn output_and_messages_are_told_apart() {
        let (end, out, said) =
            run("printf 'a\\0b'; printf '1%%\\r2%%\\rdone\\n\\nlast' >&2; exit 3", &|| false, None);
        assert!(matches!(end, HelperEnd::Exit(status) if status.code() == Some(3)), "{end:?}");
        assert_eq!(
            (&out[..], said),
            (&b"a\0b"[..], ["~1%", "~2%", "done", "last"].map(str::to_owned).into())
        );
    }

    #[test]
    fn it_has_no_terminal_and_no_input() {
        let script = "cat; (: < /dev/tty) 2> /dev/null && echo terminal; exit 0";
        let (end, out, _) = run(script, &|| false, None);
        assert!(matches!(end, HelperEnd::Exit(status) if status.success()));
        assert_eq!(out, b"");
    }

    #[test]
    fn all_of_it_is_killed_when_cancelled_or_silent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // A child that holds both pipes open, and one of its own.
        let script = format!("(sleep 100 & echo $! > {0}.x; mv {0}.x {0}; wait) & wait", file.display());
        let seen = AtomicBool::new(false);
        let cancelled = || {
            seen.fetch_or(file.exists(), Ordering::Relaxed);
            seen.load(Ordering::Relaxed)
        };
        let gone = || {
            let pid = std::fs::read_to_string(&file).unwrap();
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        for silence in [None, Some(Duration::from_millis(500))] {
            let _ = std::fs::remove_file(&file);
            seen.store(false, Ordering::Relaxed);
            let no = || false;
            let (end, ..) = match silence {
                None => run(&script, &cancelled, None),
                Some(_) => run(&script, &no, silence),
            };
            match silence {
                None => assert!(matches!(end, HelperEnd::Cancelled), "{end:?}"),
                Some(_) => assert!(matches!(end, HelperEnd::Silent), "{end:?}"),
            }
            let since = Instant::now();
            while !gone() && since.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(gone());
        }
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let since = Instant::now();
        let (end, out, _) = run("sleep 4 & echo done", &|| false, None);
        assert!(matches!(end, HelperEnd::Exit(status) if status.success()));
        assert_eq!(out, b"done\n");
        assert!(since.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn too_much_output_ends_it() {
        let (end, ..) = run("yes", &|| false, None);
        assert!(matches!(end, HelperEnd::TooMuch), "{end:?}");
    }

    #[test]
    fn a_program_that_is_not_there() {
        let helper = Helper {
            command: Command::new("/no/such/program"),
            cancelled: &|| false,
            silence: None,
            most: 1,
        };
        assert_eq!(helper.run(&mut |_| {}).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
