//! Publishing: one file with all that belongs to it into a folder of a bucket, under a name that is made once.
//! Knows no target. See "Publishing" in docs/design.md.

pub mod blocks;
pub mod config;
pub mod index;
pub mod provenance;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mosbuild_cache::Digest;
use mosbuild_engine::fetch::Watch;
use mosbuild_engine::s3::{Bucket, S3Error, Upload};
use sha2::Digest as _;

use crate::failure::Failure;
use crate::made::hex;
use crate::ui::Ui;

/// Media type of kernels and flists.
const BINARY: &str = "application/octet-stream";
const LIMIT: u64 = 256 << 20;

/// A file to be published.
pub struct File<'a> {
    /// The folder in the bucket.
    pub folder: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// Where it is.
    pub path: &'a Path,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hex.
    pub sha256: &'a str,
    /// What goes beside it: what is put behind its name, media type and text.
    pub beside: Vec<(&'static str, &'static str, String)>,
}

/// What a bucket has of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum There {
    /// Nothing of that name.
    Nothing,
    /// The same bytes.
    Same,
    /// Others: size, and SHA-256 in hex if they were read.
    Other(u64, Option<String>),
}

/// What the bucket has under the file's name; the bytes are compared, by their digest.
pub fn there(bucket: &Bucket, file: &File<'_>, watch: &dyn Watch) -> Result<There, S3Error> {
    let key = index::key(file.folder, file.name);
    match bucket.size(&key, watch)? {
        None => return Ok(There::Nothing),
        Some(size) if size != file.size => return Ok(There::Other(size, None)),
        Some(_) => {}
    }
    let (mut sha, mut size) = (sha2::Sha256::new(), 0);
    let read = bucket.read(&key, watch, &mut |piece| {
        sha.update(piece);
        size += piece.len() as u64;
        Ok(())
    })?;
    let found = hex(sha.finalize());
    Ok(match read {
        None => There::Nothing,
        Some(_) if size == file.size && found == file.sha256 => There::Same,
        Some(_) => There::Other(size, Some(found)),
    })
}

/// Why a name cannot be used.
pub fn taken(bucket: &Bucket, file: &File<'_>, size: u64, sha256: Option<&str>) -> Failure {
    let key = index::key(file.folder, file.name);
    let digest = |sha256: &str| sha256.get(..12).unwrap_or(sha256).to_owned();
    let there = match sha256 {
        Some(sha256) => format!("{size} bytes, SHA-256 {}", digest(sha256)),
        None => format!("{size} bytes"),
    };
    let here = format!("{} bytes, SHA-256 {}", file.size, digest(file.sha256));
    let why =
        format!("{key} is in {} already, with other bytes (there {there}; here {here})", bucket.place());
    Failure::new(1, why)
        .help("a published name keeps its bytes: change what the name is made of, a version or a revision")
}

/// Uploads a file and what belongs to it, its SHA-256 last; what is there already is left. `true`: the file was sent.
pub fn publish(bucket: &Bucket, file: &File<'_>, notes: &Path, watch: &dyn Watch) -> Result<bool, Failure> {
    let key = index::key(file.folder, file.name);
    let mut sent = false;
    loop {
        match there(bucket, file, watch)? {
            There::Same => break,
            There::Other(size, sha256) => return Err(taken(bucket, file, size, sha256.as_deref())),
            There::Nothing if sent => {
                return Err(Failure::new(1, format!("{key} is gone again from {}", bucket.place())));
            }
            There::Nothing => {
                let notes = notes.join(Digest::of(key.as_bytes()).short());
                let upload = Upload {
                    file: file.path,
                    size: file.size,
                    digest: file.sha256,
                    kind: BINARY,
                    notes: &notes,
                };
                // Whether it was this one or another that made the object, it is read back.
                bucket.upload(&key, &upload, watch)?;
                sent = true;
            }
        }
    }
    for (ending, kind, text) in &file.beside {
        let key = format!("{key}{ending}");
        // One that is there tells of another run that made the same bytes.
        bucket.put_if_absent(&key, text.clone().into_bytes(), kind, watch)?;
    }
    let (sum_key, sum) = (format!("{key}{}", index::SUM), format!("{}  {}\n", file.sha256, file.name));
    if !bucket.put_if_absent(&sum_key, sum.clone().into_bytes(), "text/plain", watch)? {
        let there = bucket.get(&sum_key, LIMIT, watch)?;
        if there.is_none_or(|there| there.bytes != sum.as_bytes()) {
            let why = format!("{sum_key} in {} is not the SHA-256 of {}", bucket.place(), file.name);
            return Err(Failure::new(1, why).help("delete it and publish again: the file itself is right"));
        }
    }
    Ok(sent)
}

/// Size and SHA-256 of a file, in hex.
pub fn digest(path: &Path) -> Result<(u64, String), Failure> {
    use std::io::Read;
    let failed = |e| Failure::io(path, e);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let (mut sha, mut size, mut buffer) = (sha2::Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            return Ok((size, hex(sha.finalize())));
        }
        sha.update(&buffer[..n]);
        size += n as u64;
    }
}

/// Writes the files of `dist` that tell how others were made, and removes those of files that are no longer published.
pub fn place(dist: &Path, state: &Path, files: &[(String, String)]) -> Result<Vec<PathBuf>, Failure> {
    let list = state.join("attested");
    let before = std::fs::read_to_string(&list).unwrap_or_default();
    if files.is_empty() && before.is_empty() {
        return Ok(Vec::new());
    }
    for old in before.lines().filter(|old| !old.contains('/') && !files.iter().any(|(name, _)| name == old)) {
        // What is not there need not go.
        let _ = std::fs::remove_file(dist.join(old));
    }
    std::fs::create_dir_all(dist).map_err(|e| Failure::io(dist, e))?;
    let mut placed = Vec::new();
    for (name, text) in files {
        let path = dist.join(name);
        std::fs::write(&path, text).map_err(|e| Failure::io(&path, e))?;
        placed.push(path);
    }
    let names: String = files.iter().map(|(name, _)| format!("{name}\n")).collect();
    std::fs::write(&list, names).map_err(|e| Failure::io(&list, e))?;
    Ok(placed)
}

/// Tells the user of uploads: what is said, and now and then how far a large one is.
pub struct Told<'a> {
    ui: &'a Ui,
    last: Mutex<Instant>,
}

impl Told<'_> {
    /// How often a large upload is told of.
    const EVERY: Duration = Duration::from_secs(5);

    /// From now on.
    pub fn new(ui: &Ui) -> Told<'_> {
        Told { ui, last: Mutex::new(Instant::now()) }
    }
}

impl Watch for Told<'_> {
    fn progress(&self, key: &str, done: u64, total: Option<u64>) {
        let Ok(mut last) = self.last.lock() else { return };
        if last.elapsed() < Told::EVERY {
            return;
        }
        *last = Instant::now();
        if let Some(total) = total.filter(|total| *total > 0) {
            self.ui.note(&format!("         {key}  {} %", done * 100 / total));
        }
    }

    fn say(&self, line: &str) {
        self.ui.note(line);
    }
}
