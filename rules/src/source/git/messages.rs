//! What git says, understood: why it failed, whether another try may help, what a person may do; and lines fit to be logged.
//! Knows git's messages in the C locale; runs nothing.

use mosbuild_engine::fetch::shown;

use super::places::Trouble;

/// What git said before it failed.
#[derive(Debug, Default)]
pub struct Said(pub Vec<String>);

impl Said {
    fn has(&self, any: &[&str]) -> bool {
        self.0.iter().any(|line| any.iter().any(|text| line.contains(text)))
    }

    /// The server was asked for a commit by its name, and takes names of refs only, or does not have it.
    pub fn refused_commit(&self) -> bool {
        self.has(&[
            "Server does not allow request for unadvertised object",
            "dumb http transport does not support shallow",
        ]) || self.unknown_commit()
    }

    /// The server knows no such commit, or does not show it.
    pub fn unknown_commit(&self) -> bool {
        self.has(&["not our ref", "no such remote ref", "couldn't find remote ref"])
    }

    /// The server is a folder of files.
    pub fn dumb(&self) -> bool {
        self.has(&["dumb http transport"])
    }

    /// Another try may end otherwise.
    pub fn may_pass(&self) -> bool {
        self.has(&[
            "early EOF",
            "hung up unexpectedly",
            "unexpected disconnect",
            "RPC failed",
            "Connection reset",
            "Connection timed out",
            "Connection closed",
            "Connection refused",
            "Couldn't connect",
            "Could not connect",
            "Failed to connect",
            "Could not resolve host",
            "Operation too slow",
            "Operation timed out",
            "timed out",
            "transfer closed",
            "Empty reply",
            "returned error: 408",
            "returned error: 429",
            "returned error: 5",
            "nothing came for",
        ]) && !self.unknown_commit()
    }

    /// In one line.
    pub fn reason(&self) -> String {
        let progress = |line: &str| {
            let line = line.strip_prefix("remote: ").unwrap_or(line);
            let begins = [
                "From ",
                " * ",
                "Enumerating ",
                "Counting ",
                "Compressing ",
                "Total ",
                "Receiving ",
                "Resolving ",
            ];
            begins.iter().any(|begin| line.starts_with(begin))
        };
        // What git says of every server that does not speak to it.
        let general = [
            "fatal: Could not read from remote repository.",
            "Please make sure you have the correct access rights",
            "and the repository exists.",
        ];
        let told: Vec<&String> = self.0.iter().filter(|line| !progress(line)).collect();
        let special: Vec<&String> =
            told.iter().copied().filter(|line| !general.contains(&line.as_str())).collect();
        let told = if special.is_empty() { told } else { special };
        let mut lines: Vec<&str> = Vec::new();
        for line in &told[told.len().saturating_sub(4)..] {
            let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ").trim_end_matches('.');
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.join("; ")
    }

    /// What a place did.
    pub fn trouble(&self) -> Trouble {
        let help = if self.has(&["Host key verification failed"]) {
            Some("ssh does not know the host: `git ls-remote URL` asks once, by hand")
        } else if self.has(&[
            "terminal prompts disabled",
            "could not read Username",
            "could not read Password",
            "Authentication failed",
            "Permission denied (",
            "returned error: 401",
            "returned error: 403",
        ]) {
            Some(
                "it is private, or is not there. mosbuild lets git ask for no password: `git ls-remote URL` must work without \
                 a question, by a credential helper, ~/.netrc or ssh-agent",
            )
        } else {
            None
        };
        Trouble {
            reason: self.reason(),
            absent: self.has(&[
                "not found",
                "does not appear to be a git repository",
                "repository not exported",
            ]),
            unreachable: self.has(&[
                "Could not resolve",
                "onnect to",
                "unable to connect",
                "Connection refused",
            ]),
            help: help.map(str::to_owned),
        }
    }
}

/// A line without the name and password of the place that it may repeat.
pub fn hidden(line: &str, place: &str) -> String {
    let (Some(start), hidden) = (place.find("://"), shown(place)) else { return line.to_owned() };
    let secret = |url: &str| {
        let authority = url[start + 3..].split('/').next().unwrap_or_default().to_owned();
        authority.rfind('@').map(|at| authority[..=at].to_owned())
    };
    match (secret(place), secret(&hidden)) {
        (Some(from), Some(to)) if from != to => line.replace(&from, &to),
        _ => line.to_owned(),
    }
}

/// Bytes that came, by `Receiving objects:  45% (450/1000), 1.20 MiB | 500.00 KiB/s`.
pub fn received(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("Receiving objects:")?.split_once("), ")?.1;
    let (number, unit) = rest.split(" |").next()?.trim_end_matches(", done.").split_once(' ')?;
    let unit = match unit {
        "bytes" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Said {
        Said(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn reasons_are_what_matters_of_many_lines() {
        let ssh = said(&[
            "git@h: Permission denied (publickey).",
            "fatal: Could not read from remote repository.",
            "Please make sure you have the correct access rights",
            "and the repository exists.",
        ]);
        assert_eq!(ssh.reason(), "git@h: Permission denied (publickey)");
        assert!(ssh.trouble().help.is_some() && !ssh.may_pass());
        let cut = said(&[
            "remote: Enumerating objects: 3, done.",
            "Receiving objects:  33% (1/3)",
            "error: RPC failed; curl 18 transfer closed with outstanding read data remaining",
            "fatal: early EOF",
        ]);
        assert_eq!(
            cut.reason(),
            "RPC failed; curl 18 transfer closed with outstanding read data remaining; early EOF"
        );
        assert!(cut.may_pass() && cut.trouble().help.is_none());
        let gone = said(&["fatal: remote error: upload-pack: not our ref 1234"]);
        assert!(gone.refused_commit() && gone.unknown_commit() && !gone.may_pass());
        let old = said(&["error: Server does not allow request for unadvertised object 1234"]);
        assert!(old.refused_commit() && !old.unknown_commit());
        assert_eq!(
            said(&["fatal: Could not read from remote repository."]).reason(),
            "Could not read from remote repository"
        );
    }

    #[test]
    fn passwords_of_mirrors_are_not_logged() {
        let place = "https://me:secret@h/x.git";
        let line = "fatal: unable to access 'https://me:secret@h/x.git/': refused";
        assert_eq!(hidden(line, place), "fatal: unable to access 'https://me:***@h/x.git/': refused");
        assert_eq!(hidden("me@h", "ssh://me@h/x"), "me@h");
    }

    #[test]
    fn bytes_that_came() {
        assert_eq!(received("Receiving objects:  45% (450/1000), 1.50 MiB | 500.00 KiB/s"), Some(3 << 19));
        assert_eq!(received("Receiving objects:  45% (450/1000), 12 bytes | 5 bytes/s"), Some(12));
        assert_eq!(received("Receiving objects:  45% (450/1000)"), None);
        assert_eq!(received("remote: Counting objects:  33% (1/3)"), None);
    }
}
