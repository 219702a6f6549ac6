//! Why a command could not do its work, with the exit code that follows. Knows no terminal.

use mosbuild_engine::build::BuildError;
use mosbuild_engine::load::Diagnostics;

/// What ends a command early.
#[derive(Debug)]
pub enum Failure {
    /// Whoever read stdout has gone away: nothing is wrong and nothing more is to be done.
    BrokenPipe,
    /// All has been said; the exit code is left.
    Told(u8),
    /// Errors, each with lines of help.
    Errors {
        /// Exit code.
        exit: u8,
        /// What is wrong.
        errors: Vec<(String, Vec<String>)>,
    },
    /// What is wrong with mosbuild.yaml or the user's settings.
    Diagnostics(Box<Diagnostics>),
}

impl Failure {
    /// One error of an exit class.
    pub fn new(exit: u8, message: impl Into<String>) -> Failure {
        Failure::Errors { exit, errors: vec![(message.into(), Vec::new())] }
    }

    /// Wrong usage: exit code 2.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(2, message)
    }

    /// An error of the operating system, about a path.
    pub fn io(path: &std::path::Path, error: std::io::Error) -> Failure {
        Failure::new(1, format!("{}: {error}", path.display()))
    }

    /// With one more line of help.
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        if let Failure::Errors { errors, .. } = &mut self
            && let Some((_, lines)) = errors.last_mut()
        {
            lines.push(help.into());
        }
        self
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        match error.diagnostics {
            Some(diagnostics) => diagnostics.into(),
            None => Failure::Errors { exit: error.exit, errors: error.errors },
        }
    }
}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Failure {
        Failure::Diagnostics(Box::new(diagnostics))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::new(1, error.to_string()),
        }
    }
}

impl From<mosbuild_engine::s3::S3Error> for Failure {
    fn from(error: mosbuild_engine::s3::S3Error) -> Failure {
        Failure::Errors { exit: error.exit(), errors: vec![(error.message, error.help)] }
    }
}

impl From<mosbuild_cache::StoreError> for Failure {
    fn from(error: mosbuild_cache::StoreError) -> Failure {
        Failure::new(1, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_told_apart_from_other_errors() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(closed), Failure::BrokenPipe));
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(matches!(Failure::from(full), Failure::Errors { exit: 1, .. }));
    }

    #[test]
    fn help_belongs_to_the_last_error() {
        let Failure::Errors { exit, errors } = Failure::usage("wrong").help("do it right") else {
            panic!("not errors")
        };
        assert_eq!((exit, errors), (2, vec![("wrong".into(), vec!["do it right".into()])]));
    }
}
