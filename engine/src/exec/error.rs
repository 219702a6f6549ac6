//! Why a command could not be started, in words that say what to do.
//!
//! A command that started and failed is an `Outcome`, not an error.

use std::io;
use std::path::PathBuf;

use super::probe::Unavailable;

/// The command was never started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// This host refuses sandboxes.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),

    /// A daemon that runs containers is not there, refuses, or went away.
    #[error(transparent)]
    Container(#[from] super::container::Trouble),

    /// The kernel or the file system refuses an overlay here; the caller can copy instead.
    #[error("the overlay at {} was refused: {source}", at.display())]
    OverlayRefused {
        /// Where it was to be, inside.
        at: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// The program is not in the sandbox.
    #[error("{program}: command not found; add it to tools")]
    NotFound {
        /// As given in argv.
        program: String,
    },

    /// The program is not in the container's image.
    #[error("{program}: command not found in the image {image}; the image must bring it")]
    NotInImage {
        /// As given in argv.
        program: String,
        /// As the configuration names it.
        image: String,
    },

    /// The program is there and cannot be executed.
    #[error("cannot execute {program}: {source}")]
    Exec {
        /// As given in argv.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// A step of preparing the sandbox failed.
    #[error("preparing the sandbox: {what}: {source}{hint}")]
    Setup {
        /// The stage and the path it was about.
        what: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do, if that is known; begins with a separator.
        hint: &'static str,
    },

    /// The job cannot be expressed to the kernel.
    #[error("{0}")]
    Invalid(String),

    /// Something of our own failed: a pipe, the log file, a wait.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ExecError {
    pub(super) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// mosbuild's exit code for it: something is missing on this host, or (a full disk) the step failed.
    pub fn exit(&self) -> u8 {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        let full = |e: &io::Error| matches!(e.kind(), StorageFull | QuotaExceeded);
        match self {
            Self::Io { source, .. } | Self::Setup { source, .. } if full(source) => 1,
            Self::Container(trouble) => trouble.exit,
            _ => 3,
        }
    }

    /// Whether the caller can help itself by copying the layers instead of overlaying them.
    pub fn is_overlay_refused(&self) -> bool {
        matches!(self, Self::OverlayRefused { .. })
    }
}
