//! The detached signature beside SHA256SUMS, made by the user's ssh-keygen in the form that `ssh-keygen -Y verify` checks.
//! Knows the program's command line; neither reads the key nor writes down where it is.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mosbuild_cache::Digest;

use super::BuildError;
use super::place::SUMS;
use crate::framed;
use crate::plan::Dirs;

/// Name of the signature beside `SHA256SUMS`.
pub const SIGNATURE: &str = "SHA256SUMS.sig";
/// The file of `.mosbuild` that has the digest of the signature that mosbuild wrote.
pub const RECORD: &str = "signature";
/// What the signature is for, in ssh-keygen's words: it is good for nothing else.
const NAMESPACE: &str = "file";
const PROGRAM: &str = "ssh-keygen";

/// Refuses, before anything runs, what could not sign.
pub(super) fn check(key: &Path) -> Result<(), BuildError> {
    if let Err(e) = std::fs::File::open(key) {
        return Err(BuildError::new(2, format!("--sign {}: {e}", key.display()))
            .help("name a private key of ssh (`ssh-keygen -t ed25519` makes one), or the public key of one in your agent"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file()) {
        true => Ok(()),
        false => Err(BuildError::new(3, format!("--sign needs {PROGRAM}, which this host does not have"))
            .help("apt-get install openssh-client")),
    }
}

/// Signs what SHA256SUMS says now; the signature's size, if it is another than there was.
pub(super) fn place(dirs: &Dirs, key: &Path) -> Result<Option<u64>, String> {
    let sums = std::fs::read(dirs.dist.join(SUMS)).map_err(|e| format!("{SUMS}: {e}"))?;
    let signature = sign(key, &sums)?;
    let at = dirs.dist.join(SIGNATURE);
    let write = |path: &Path, bytes: &[u8]| {
        framed::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
    };
    let same = std::fs::read(&at).is_ok_and(|there| there == signature);
    write(&dirs.state.join(RECORD), Digest::of(&signature).hex().as_bytes())?;
    if same {
        return Ok(None);
    }
    write(&at, &signature)?;
    Ok(Some(signature.len() as u64))
}

/// Removes a signature of mosbuild's own, which is none of the sums of now.
pub(super) fn remove(dirs: &Dirs) {
    if ours(&dirs.state, &dirs.dist) {
        // One that stays is refused by whoever checks it.
        let _ = std::fs::remove_file(dirs.dist.join(SIGNATURE));
        let _ = std::fs::remove_file(dirs.state.join(RECORD));
    }
}

/// Whether the signature that is there is the one that mosbuild wrote.
pub fn ours(state: &Path, dist: &Path) -> bool {
    let known = std::fs::read_to_string(state.join(RECORD)).ok();
    let there = std::fs::read(dist.join(SIGNATURE)).ok();
    known.zip(there).is_some_and(|(known, there)| known == Digest::of(&there).hex())
}

fn sign(key: &Path, data: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |what: String| format!("{SUMS} could not be signed: {what}");
    // A passphrase is asked for on the terminal itself, or by the user's agent.
    let mut child = Command::new(PROGRAM)
        .args(["-Y", "sign", "-n", NAMESPACE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{PROGRAM}: {e}")))?;
    // It reads all before it writes; the pipe is closed with the statement. One that ended early says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(data));
    let output = child.wait_with_output().map_err(|e| failed(format!("{PROGRAM}: {e}")))?;
    match output.status.success() && output.stdout.starts_with(b"-----BEGIN SSH SIGNATURE-----") {
        true => Ok(output.stdout),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
