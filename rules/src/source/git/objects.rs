//! What is in a repository of this machine: the entries of a commit's tree, and the contents of objects, as streams.
//! Makes no tree and stores nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use mosbuild_engine::action::StepError;
use mosbuild_formats::git::{self, Entry, Header, Kind, Submodule};
use mosbuild_formats::tarball::Options;

use super::program::Git;

/// Bytes of all paths of a tree.
const PATHS_MAX: usize = 1 << 30;
/// Longest record of a list: a path and what stands before it.
const RECORD_MAX: u64 = 1 << 16;

/// Takes a blob: its name, its size, its bytes.
pub type Show<'a> = dyn FnMut(&str, u64, &mut dyn Read) -> Result<(), StepError> + 'a;

/// The entries of a commit's tree and all below it, each with a path that may be written.
pub fn entries(git: &Git<'_>, dir: &Path, commit: &str) -> Result<Vec<Entry>, StepError> {
    let limits = Options::default();
    let mut listing = git.piped(dir, &["ls-tree", "-r", "-z", "-l", "--full-tree", commit])?;
    drop(listing.child.stdin.take());
    let mut lines = BufReader::with_capacity(1 << 16, take(listing.child.stdout.take())?);
    let (mut entries, mut bytes, mut paths) = (Vec::new(), 0_u64, 0);
    let mut record = Vec::new();
    loop {
        record.clear();
        if (&mut lines).take(RECORD_MAX).read_until(0, &mut record)? == 0 {
            break;
        }
        if record.pop() != Some(0) {
            return Err(StepError::new("git ls-tree: its output ends in the middle").exit(4));
        }
        let entry = Entry::parse(&record).map_err(|e| StepError::new(e.to_string()).exit(4))?;
        if let Some(why) = git::path_fault(&entry.path) {
            let path = String::from_utf8_lossy(&entry.path);
            return Err(StepError::new(format!("{path:?} of commit {commit}: {why}")).exit(4));
        }
        bytes = bytes.saturating_add(entry.size);
        paths += entry.path.len();
        if entries.len() as u64 >= limits.max_entries || bytes > limits.max_bytes || paths > PATHS_MAX {
            let text = format!(
                "commit {commit} is larger than what is taken for a source: {} entries, {} bytes",
                limits.max_entries, limits.max_bytes
            );
            return Err(StepError::new(text).exit(4));
        }
        if entries.len() % 4096 == 0 && (git.cx.cancelled)() {
            return Err(StepError::new("interrupted"));
        }
        entries.push(entry);
    }
    listing.finish()?;
    Ok(entries)
}

/// Shows the content of each blob, in order; what is not read of it is passed over.
pub fn each_blob(git: &Git<'_>, dir: &Path, blobs: &[&str], show: &mut Show<'_>) -> Result<(), StepError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let mut reading = git.piped(dir, &["cat-file", "--batch", "--buffer"])?;
    let mut asking = reading.child.stdin.take().ok_or_else(no_pipe)?;
    let mut out = BufReader::with_capacity(1 << 18, take(reading.child.stdout.take())?);
    std::thread::scope(|scope| {
        // git reads on while it writes; so must we. If it ends early, its end tells.
        scope.spawn(move || {
            let mut text = Vec::with_capacity(1 << 16);
            for chunk in blobs.chunks(1024) {
                text.clear();
                for blob in chunk {
                    text.extend_from_slice(blob.as_bytes());
                    text.push(b'\n');
                }
                if asking.write_all(&text).is_err() {
                    return;
                }
            }
        });
        let read = show_all(&mut out, blobs, show);
        if read.is_err() {
            // The other thread may be waiting for it to read.
            let _ = reading.child.kill();
        }
        read
    })?;
    reading.finish()
}

fn show_all(out: &mut impl BufRead, blobs: &[&str], show: &mut Show<'_>) -> Result<(), StepError> {
    let mut line = Vec::new();
    for blob in blobs {
        line.clear();
        out.take(RECORD_MAX).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(StepError::new("git cat-file: its output ends too early").exit(4));
        }
        let size = match Header::parse(&line).map_err(|e| StepError::new(e.to_string()).exit(4))? {
            Header::Object { class, size } if class == "blob" => size,
            Header::Object { class, .. } => {
                return Err(StepError::new(format!("object {blob} is no file but a {class}")).exit(4));
            }
            Header::Missing => {
                return Err(StepError::new(format!("object {blob} did not come along")).exit(4));
            }
        };
        let mut content = out.take(size);
        show(blob, size, &mut content)?;
        std::io::copy(&mut content, &mut std::io::sink())?;
        let left = content.limit();
        let mut end = [0];
        out.read_exact(&mut end)?;
        if left != 0 || end != *b"\n" {
            return Err(StepError::new("git cat-file: its output is not understood").exit(4));
        }
    }
    Ok(())
}

/// What the `.gitmodules` among these entries says.
pub fn submodules(git: &Git<'_>, dir: &Path, entries: &[Entry]) -> Result<Vec<Submodule>, StepError> {
    let Some(file) = entries.iter().find(|e| e.path == b".gitmodules") else { return Ok(Vec::new()) };
    if !matches!(file.kind, Kind::File { .. }) {
        return Err(StepError::new(".gitmodules is no file").exit(4));
    }
    let out = git.local(dir, &["config", "--blob", &file.object, "--null", "--list"])?;
    git::submodules(&out).map_err(|e| StepError::new(format!(".gitmodules: {e}")).exit(4))
}

fn take<T>(pipe: Option<T>) -> Result<T, StepError> {
    pipe.ok_or_else(no_pipe)
}

fn no_pipe() -> StepError {
    StepError::new("git: no pipe")
}
