//! Where credentials come from: variables and files, never the configuration's own text.
//! Knows no server.

use std::fmt;
use std::path::PathBuf;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a variable of the environment.
    Env(String),
    /// In a file, which holds nothing else; white space around it does not count.
    File(PathBuf),
}

impl Secret {
    /// Its value; `None` if the variable is unset or empty. An error is a line that names the file.
    pub fn read(&self) -> Result<Option<String>, String> {
        let text = match self {
            Secret::Env(name) => match std::env::var(name) {
                Ok(text) => text,
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => return Err(format!("{name} is no text")),
            },
            Secret::File(path) => {
                std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?
            }
        };
        let text = text.trim();
        match (text.is_empty(), self) {
            (false, _) => Ok(Some(text.to_owned())),
            (true, Secret::Env(_)) => Ok(None),
            (true, Secret::File(path)) => Err(format!("{} is empty", path.display())),
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Env(name) => f.write_str(name),
            Secret::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What requests are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name of the key.
    pub access_key: Secret,
    /// The key.
    pub secret_key: Secret,
    /// What temporary keys have besides; may be unset.
    pub session_token: Secret,
}

impl Default for Credentials {
    /// The variables that AWS' own programs read.
    fn default() -> Credentials {
        let env = |name: &str| Secret::Env(name.to_owned());
        Credentials {
            access_key: env("AWS_ACCESS_KEY_ID"),
            secret_key: env("AWS_SECRET_ACCESS_KEY"),
            session_token: env("AWS_SESSION_TOKEN"),
        }
    }
}

/// Credentials as read. Not shown, not even by `Debug`.
pub(super) struct Keys {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl Credentials {
    /// Reads them; an error is a line that names what is missing.
    pub(super) fn read(&self) -> Result<Keys, String> {
        let must = |what: &str, secret: &Secret| match secret.read()? {
            Some(value) => Ok(value),
            None => Err(format!("there is no {what}: {secret} is not set")),
        };
        Ok(Keys {
            access_key: must("access key", &self.access_key)?,
            secret_key: must("secret key", &self.secret_key)?,
            session_token: self.session_token.read()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_a_file_is_its_text_without_the_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let secret = Secret::File(path.clone());
        assert!(secret.read().unwrap_err().contains("key: No such file"));
        std::fs::write(&path, "\n").unwrap();
        assert!(secret.read().unwrap_err().ends_with("key is empty"));
        std::fs::write(&path, "s3cr3t\n").unwrap();
        assert_eq!(secret.read().unwrap().as_deref(), Some("s3cr3t"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let unset = Secret::Env("MOSBUILD_TEST_THAT_NOBODY_SETS".into());
        let credentials = Credentials { access_key: unset, ..Credentials::default() };
        let Err(line) = credentials.read() else { panic!("read") };
        assert_eq!(line, "there is no access key: MOSBUILD_TEST_THAT_NOBODY_SETS is not set");
    }
}
