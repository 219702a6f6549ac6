//! A person's terminal joined to a container's: raw while it lasts, keys passed on, its size followed.
//!
//! Knows nothing of what runs there.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::pin::Pin;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::ResizeContainerTTYOptions;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Whether a person sits here.
pub(super) fn is_one() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Passes a container's output on.
pub(super) fn show(piece: &LogOutput) {
    // Who closed our output is not told through it.
    let _ = match piece {
        LogOutput::StdErr { message } => std::io::stderr().write_all(message),
        other => stdout().write_all(other.as_ref()).and_then(|()| stdout().flush()),
    };
}

/// What is typed goes to the container until this is dropped; then the terminal is as it was.
pub(super) struct Session {
    before: Option<Termios>,
    tasks: Vec<JoinHandle<()>>,
}

impl Session {
    /// Begins to pass on.
    pub fn open(docker: &Docker, id: &str, input: Pin<Box<dyn AsyncWrite + Send>>, terminal: bool) -> Self {
        let before = tcgetattr(stdin()).ok().filter(|_| terminal);
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
        let mut tasks = vec![tokio::spawn(typed(input))];
        if terminal {
            tasks.push(tokio::spawn(resized(docker.clone(), id.to_owned())));
        }
        Self { before, tasks }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

async fn typed(mut input: Pin<Box<dyn AsyncWrite + Send>>) {
    loop {
        let read = tokio::task::spawn_blocking(|| {
            let mut buffer = vec![0; 4096];
            let count = stdin().read(&mut buffer).unwrap_or(0);
            buffer.truncate(count);
            buffer
        });
        match read.await {
            Ok(bytes) if !bytes.is_empty() => {
                if input.write_all(&bytes).await.is_err() || input.flush().await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = input.shutdown().await;
                return;
            }
        }
    }
}

async fn resized(docker: Docker, id: String) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(stdout()) {
            let options = ResizeContainerTTYOptions { h: size.ws_row.into(), w: size.ws_col.into() };
            let _ = docker.resize_container_tty(&id, options).await;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}
