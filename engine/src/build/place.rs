//! Puts requested outputs into dist/: verified, then renamed; files placed earlier and no longer named go.
//! Never touches a file that mosbuild did not place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use mosbuild_cache::{BlobError, Digest, Node, Output, OutputKind, StatCache, Store, Tree};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::driver::{Driver, State};
use super::{Prepared, Workspace, depot, sign};
use crate::framed;
use crate::load::Loaded;
use crate::plan::{Dirs, StepIx};

/// Name of the checksum file beside the placed ones.
pub const SUMS: &str = "SHA256SUMS";

/// What was placed.
#[derive(Default)]
pub(super) struct Placed {
    /// Every file that stands for a requested output now.
    pub all: Vec<PathBuf>,
    /// Those that were written, with their sizes.
    pub new: Vec<(PathBuf, u64)>,
    /// Files that the placed ones are of no use without, outside of dist/.
    pub depots: Vec<PathBuf>,
}

/// Why something could not be placed.
pub(super) enum PlaceError {
    /// A blob is gone: the step, the blob, the step's output.
    Lost(StepIx, Digest, String),
    /// Anything else.
    Io(PathBuf, std::io::Error),
    /// A name that cannot be made of facts.
    Name(String),
    /// No signature.
    Sign(String),
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlaceError::Lost(_, digest, output) => {
                write!(f, "blob {} of output {output} is lost again right after it was built", digest.short())
            }
            PlaceError::Io(path, e) => write!(f, "{}: {e}", path.display()),
            PlaceError::Name(text) | PlaceError::Sign(text) => f.write_str(text),
        }
    }
}

impl Driver<'_> {
    /// Places the outputs of what has been built.
    pub(super) fn place(&mut self) -> Result<Placed, PlaceError> {
        let prepared = self.prepared.clone();
        let states = &self.states;
        let facts = |t: u32| {
            let mut facts = BTreeMap::new();
            for &s in &prepared.graph.of_target[t as usize] {
                if let State::Done(result, _) = &states[s as usize] {
                    facts.extend(result.facts.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            facts
        };
        let output = |t: u32, name: &str| {
            let (step, output) = prepared.graph.maker(t, name)?;
            match &states[step as usize] {
                State::Done(result, _) => {
                    Some((step, output.to_owned(), result.outputs.get(output)?.clone()))
                }
                _ => None,
            }
        };
        let Workspace { dirs, stat_cache, .. } = &mut *self.workspace;
        place(&prepared, dirs, self.store, stat_cache, (&facts, &output), self.options.sign.as_deref())
    }
}

/// What mosbuild knows of a file that it placed.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    /// Digest of the output: of the file, or of the tree that the .tar was made of.
    output: Digest,
    /// Digest of the file itself.
    file: Digest,
    executable: bool,
    sha256: String,
}

type Manifest = BTreeMap<String, Known>;

/// Facts of a target.
pub(super) type Facts<'a> = dyn Fn(u32) -> BTreeMap<String, String> + 'a;
/// The step, its output's name and the output behind (target, output).
pub(super) type Outputs<'a> = dyn Fn(u32, &str) -> Option<(StepIx, String, Output)> + 'a;

pub(super) fn place(
    prepared: &Prepared,
    dirs: &Dirs,
    store: &Store,
    stat_cache: &mut StatCache,
    (facts, output): (&Facts<'_>, &Outputs<'_>),
    key: Option<&Path>,
) -> Result<Placed, PlaceError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e| PlaceError::Io(path, e)
    };
    let manifest_path = dirs.state.join("dist");
    let before: Manifest =
        std::fs::read(&manifest_path).ok().and_then(|b| framed::decode(b"mdst", 1, &b)).unwrap_or_default();
    let mut after = Manifest::new();
    let mut placed = Placed::default();
    let mut unmade = Vec::new();
    for (template, target, name) in wanted(prepared) {
        let default = || prepared.loaded.targets[target as usize].outputs.first().map(|o| o.name.clone());
        let Some(name) = name.or_else(default) else { continue };
        let Some((step, step_output, made)) = output(target, &name) else {
            // It failed or was not reached: what an earlier build placed is still its last good one.
            unmade.push(template);
            continue;
        };
        let path = fill_name(&template, &prepared.loaded, facts)
            .map_err(|text| PlaceError::Name(format!("dist: {text}")))?;
        let to = dirs.dist.join(&path);
        // First the files that it needs: what is in dist/ never waits for them.
        for depot in prepared.graph.depots.iter().filter(|d| d.target == target && d.output == name) {
            let Some((folder, (step, files, made))) = depot.folder.as_ref().zip(output(target, &depot.files))
            else {
                continue;
            };
            let lost = |e: BlobError| match e {
                BlobError::Missing(d) | BlobError::Corrupt { digest: d, .. } => {
                    PlaceError::Lost(step, d, files.clone())
                }
                other => PlaceError::Io(folder.clone(), std::io::Error::other(other.to_string())),
            };
            let tree = store.get_tree(&made.digest).map_err(lost)?;
            let filled = depot::fill(store, &tree, folder, dirs).map_err(|e| match e {
                depot::FillError::Blob(e) => lost(e),
                depot::FillError::Io(path, e) => PlaceError::Io(path, e),
            })?;
            placed.depots.extend(filled.all);
            if filled.new > 0 {
                placed.new.push((shown(dirs, folder), filled.new));
            }
        }
        let executable = matches!(made.kind, OutputKind::File { executable: true });
        let current = stat_cache.digest_file(&to).ok().map(|m| (m.digest, m.executable));
        let known = before.get(&path).filter(|k| {
            k.output == made.digest && k.executable == executable && current == Some((k.file, executable))
        });
        let known = match known {
            Some(known) => known.clone(),
            None => {
                if let Some(parent) = to.parent() {
                    std::fs::create_dir_all(parent).map_err(io(parent))?;
                }
                let lost = |e: BlobError| match e {
                    BlobError::Missing(d) | BlobError::Corrupt { digest: d, .. } => {
                        PlaceError::Lost(step, d, step_output.clone())
                    }
                    other => PlaceError::Io(to.clone(), std::io::Error::other(other.to_string())),
                };
                let temporary = to.with_file_name(format!(".{}.mosbuild-new", file_name(&to)));
                // A leftover of a killed run.
                let _ = std::fs::remove_file(&temporary);
                match made.kind {
                    OutputKind::File { executable } => {
                        store.place_blob(&made.digest, executable, &temporary).map_err(lost)?;
                    }
                    OutputKind::Tree => {
                        let tree = store.get_tree(&made.digest).map_err(lost)?;
                        let epoch = prepared.loaded.epoch;
                        write_tar(store, &tree, epoch, &temporary).map_err(|e| match e {
                            TarError::Blob(e) => lost(e),
                            TarError::Io(e) => PlaceError::Io(to.clone(), e),
                        })?;
                    }
                }
                let bytes = std::fs::File::open(&temporary).map_err(io(&temporary))?;
                let (file, sha256, size) = digests(bytes).map_err(io(&temporary))?;
                std::fs::rename(&temporary, &to).map_err(io(&to))?;
                placed.new.push((shown(dirs, &to), size));
                Known { output: made.digest, file, executable, sha256 }
            }
        };
        after.insert(path, known);
        placed.all.push(to);
    }
    if after.is_empty() && before.is_empty() {
        return Ok(placed);
    }
    // What another request placed stays, unless no dist entry and no target names it any more.
    let named = nameable(prepared, &before, &unmade);
    for (path, known) in &before {
        if after.contains_key(path) {
            continue;
        }
        let at = dirs.dist.join(path);
        let ours = stat_cache.digest_file(&at).is_ok_and(|m| m.digest == known.file);
        if !ours {
            continue;
        }
        if named.contains(path) {
            after.insert(path.clone(), known.clone());
        } else {
            std::fs::remove_file(&at).map_err(io(&at))?;
            for parent in at.ancestors().skip(1).take_while(|p| p.starts_with(&dirs.dist) && *p != dirs.dist)
            {
                // One that is not empty refuses, and stays.
                let _ = std::fs::remove_dir(parent);
            }
        }
    }
    let sums: String = after.iter().map(|(path, k)| format!("{}  {path}\n", k.sha256)).collect();
    let sums_path = dirs.dist.join(SUMS);
    if std::fs::read(&sums_path).ok().as_deref() != Some(sums.as_bytes()) {
        std::fs::create_dir_all(&dirs.dist).map_err(io(&dirs.dist))?;
        sign::remove(dirs);
        framed::write(&sums_path, sums.as_bytes()).map_err(io(&sums_path))?;
    }
    std::fs::create_dir_all(&dirs.state).map_err(io(&dirs.state))?;
    framed::write(&manifest_path, &framed::encode(b"mdst", 1, &after)).map_err(io(&manifest_path))?;
    if let Some(key) = key
        && let Some(size) = sign::place(dirs, key).map_err(PlaceError::Sign)?
    {
        placed.new.push((shown(dirs, &dirs.dist.join(sign::SIGNATURE)), size));
    }
    Ok(placed)
}

/// (path template, target, output) of everything that this request places.
fn wanted(prepared: &Prepared) -> Vec<(String, u32, Option<String>)> {
    let loaded = &prepared.loaded;
    let closure: BTreeSet<u32> = prepared.graph.closure.iter().copied().collect();
    let mut wanted = Vec::new();
    let mut covered = BTreeSet::new();
    for entry in &loaded.dist {
        if closure.contains(&entry.target) {
            wanted.push((entry.path.clone(), entry.target, entry.output.clone()));
            covered.insert(entry.target);
        }
    }
    for &t in &prepared.requested {
        let target = &loaded.targets[t as usize];
        if let Some(output) = target.outputs.first().filter(|_| !covered.contains(&t)) {
            let tree = output.kind == crate::action::OutKind::Tree;
            let suffix = if tree { ".tar" } else { "" };
            wanted.push((format!("{}{suffix}", target.name), t, Some(output.name.clone())));
        }
    }
    wanted
}

/// Paths placed earlier that some dist entry or target may still name. A template with facts is taken as a
/// pattern, so that a versioned file of a former build of another target stays.
fn nameable(prepared: &Prepared, before: &Manifest, unmade: &[String]) -> BTreeSet<String> {
    let loaded = &prepared.loaded;
    let closure: BTreeSet<u32> = prepared.graph.closure.iter().copied().collect();
    let outside: Vec<&str> =
        loaded.dist.iter().filter(|d| !closure.contains(&d.target)).map(|d| d.path.as_str()).collect();
    let by_name = |path: &str| {
        let name = path.strip_suffix(".tar").unwrap_or(path);
        let requested = |t: u32| prepared.requested.contains(&t);
        loaded.target_index(name).is_some_and(|t| !requested(t) && !loaded.dist.iter().any(|d| d.target == t))
    };
    let templates = outside.iter().copied().chain(unmade.iter().map(String::as_str));
    let fits = |path: &&String| templates.clone().any(|t| template_fits(t, path)) || by_name(path);
    before.keys().filter(fits).cloned().collect()
}

/// Whether a path could come from a template, `{…}` standing for any text.
fn template_fits(template: &str, path: &str) -> bool {
    match template.split_once('{') {
        None => template == path,
        Some((head, rest)) => {
            let (_, tail) = rest.split_once('}').unwrap_or(("", ""));
            let Some(after) = path.strip_prefix(head) else { return false };
            (0..=after.len()).filter(|i| after.is_char_boundary(*i)).any(|i| template_fits(tail, &after[i..]))
        }
    }
}

/// Fills `{target.fact}` in. An error is a line that names the template and the facts that there are.
pub fn fill_name(
    template: &str,
    loaded: &Loaded,
    facts: &dyn Fn(u32) -> BTreeMap<String, String>,
) -> Result<String, String> {
    let mut path = String::new();
    let mut rest = template;
    while let Some((head, tail)) = rest.split_once('{') {
        path.push_str(head);
        let (inside, after) = tail.split_once('}').unwrap_or((tail, ""));
        let (name, fact) = inside.rsplit_once('.').unwrap_or((inside, ""));
        let target = loaded.target_index(name);
        let facts = target.map(facts).unwrap_or_default();
        let Some(value) = facts.get(fact) else {
            let known: Vec<&str> = facts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            return Err(format!("{template}: {name} has no fact {fact:?}; its facts: {known}"));
        };
        path.extend(value.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }));
        rest = after;
    }
    path.push_str(rest);
    Ok(path)
}

fn shown(dirs: &Dirs, path: &Path) -> PathBuf {
    path.strip_prefix(&dirs.root).unwrap_or(path).to_owned()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// BLAKE3, SHA-256 in hex and size, in one pass.
fn digests(mut file: std::fs::File) -> std::io::Result<(Digest, String, u64)> {
    use std::io::Read;
    let (mut blake, mut sha, mut size) = (mosbuild_cache::Hasher::new(), sha2::Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        blake.update(&buffer[..n]);
        sha.update(&buffer[..n]);
        size += n as u64;
    }
    let hex = sha.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((blake.finish(), hex, size))
}

enum TarError {
    Blob(BlobError),
    Io(std::io::Error),
}

impl From<std::io::Error> for TarError {
    fn from(e: std::io::Error) -> TarError {
        TarError::Io(e)
    }
}

/// A tree as a reproducible tar: entries in the tree's order, mtime = epoch.
fn write_tar(store: &Store, tree: &Tree, epoch: u64, to: &Path) -> Result<(), TarError> {
    use std::os::unix::ffi::OsStrExt;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(to)?));
    for entry in tree.iter() {
        let mut header = tar::Header::new_gnu();
        header.set_mode(entry.mode);
        header.set_uid(u64::from(entry.uid));
        header.set_gid(u64::from(entry.gid));
        header.set_mtime(epoch);
        header.set_size(0);
        let path = entry.path.as_path();
        let device = |header: &mut tar::Header, kind, major, minor| {
            header.set_entry_type(kind);
            header.set_device_major(major)?;
            header.set_device_minor(minor)
        };
        match &entry.node {
            Node::File { digest, size } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(*size);
                let path_in_store = store.blob_path(digest).map_err(TarError::Blob)?;
                tar.append_data(&mut header, path, std::fs::File::open(path_in_store)?)?;
                continue;
            }
            Node::Symlink { target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                // As it is written: `append_link` would tidy `/` and `./a//b` up.
                if header.set_link_name_literal(target).is_ok() {
                    tar.append_data(&mut header, path, std::io::empty())?;
                } else {
                    tar.append_link(&mut header, path, std::ffi::OsStr::from_bytes(target))?;
                }
                continue;
            }
            Node::Dir => header.set_entry_type(tar::EntryType::Directory),
            Node::Char { major, minor } => device(&mut header, tar::EntryType::Char, *major, *minor)?,
            Node::Block { major, minor } => device(&mut header, tar::EntryType::Block, *major, *minor)?,
            Node::Fifo => header.set_entry_type(tar::EntryType::Fifo),
        }
        tar.append_data(&mut header, path, std::io::empty())?;
    }
    tar.into_inner()?.into_inner().map_err(|e| TarError::Io(e.into_error()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::template_fits;

    #[test]
    fn templates_fit_what_they_could_have_made() {
        assert!(template_fits("vmlinuz.efi", "vmlinuz.efi"));
        assert!(!template_fits("vmlinuz.efi", "vmlinuz.efi2"));
        assert!(template_fits("v-{linux.version}-{my.rev}.efi", "v-6.12-MOS-abc1234.efi"));
        assert!(!template_fits("v-{linux.version}.efi", "initramfs.cpio.xz"));
    }
}
