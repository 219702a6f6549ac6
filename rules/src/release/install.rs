//! The installed tree of a release: members taken out of the download, looked at, and put at their places.
//! Knows the store and ELF; how a member is found is in member.rs.

use std::collections::BTreeMap;
use std::path::Path;

use mosbuild_cache::{Digest, Node, Store};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use object::ReadCache;

use super::listing::{self, Download};
use super::member;
use crate::component::fields::Placement;
use crate::elf;
use crate::steps::{entry, tree_of, tree_output};

/// Name of the output.
pub const TREE: &str = "tree";

/// Input `file`; params `install`, `arch`, `name` (the file's, by its URL) and `version` (may be empty).
pub struct InstallRelease;

impl Builtin for InstallRelease {
    fn name(&self) -> &'static str {
        "release-install"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![(TREE.into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let install: BTreeMap<String, Placement> = serde_json::from_str(cx.param("install"))
            .map_err(|e| StepError::new(format!("param install: {e}")))?;
        let (digest, size, _) = cx.blob("file")?;
        let names: Vec<&str> = install.keys().map(String::as_str).collect();
        let taken = take(cx.store, (digest, size), cx.param("name"), &names)?;
        let mut made = Made::default();
        let mut entries = Vec::new();
        for (name, placement) in &install {
            let Some(&(digest, size)) = taken.get(name) else {
                return Err(StepError::new(format!("{name} was not taken out; this is a fault of mosbuild")));
            };
            if let Some(remark) = look(cx.store, name, &digest, cx.param("arch"))? {
                (cx.warn)(&remark);
                made.notes.push(remark);
            }
            for path in &placement.to {
                entries.push(entry(path.as_bytes(), placement.mode, Node::File { digest, size })?);
            }
        }
        let version = match cx.param("version") {
            "" => digest.hex().chars().take(7).collect(),
            version => version.to_owned(),
        };
        made.facts.insert("version".into(), version);
        made.outputs.insert(TREE.into(), tree_output(cx.store, &tree_of(entries)?)?);
        Ok(made)
    }
}

/// A file in the store: content and size.
type Blob = (Digest, u64);

/// The files that the names of `install` mean.
fn take(
    store: &Store,
    file: Blob,
    called: &str,
    names: &[&str],
) -> Result<BTreeMap<String, Blob>, StepError> {
    let path = store.blob_path(&file.0)?;
    let alone = |right: &str, what: &str, blob: Blob| {
        let wrong = names.iter().find(|name| **name != right);
        match wrong {
            None => Ok(BTreeMap::from([(right.to_owned(), blob)])),
            Some(wrong) => Err(StepError::new(format!("there is no {wrong} in {called}, {what}"))
                .help(format!("write {right} in place of {wrong}"))),
        }
    };
    match Download::of(&path)? {
        Download::Plain => {
            let what = match listing::unsupported(&path) {
                None => "which is no archive but the file itself".to_owned(),
                Some(how) => {
                    format!("which is packed with {how}; what is unpacked is tar, gzip, xz, zstd and zip")
                }
            };
            alone(called, &what, file)
        }
        Download::Single(format) => {
            let right = called.strip_suffix(format.suffix()).unwrap_or(called);
            // Not before it is known that it is wanted.
            if names.iter().any(|name| *name != right) {
                return alone(right, "which is one compressed file", file);
            }
            let mut content = listing::expanded(&path)?;
            let blob = store
                .put_reader(&mut content)
                .map_err(|e| StepError::new(format!("{called} cannot be expanded: {e}")))?;
            alone(right, "", blob)
        }
        archive => from_archive(store, archive, &path, names),
    }
}

fn from_archive(
    store: &Store,
    archive: Download,
    path: &Path,
    names: &[&str],
) -> Result<BTreeMap<String, Blob>, StepError> {
    let members = listing::members(archive, path)?;
    let mut wanted: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
    for name in names {
        wanted.entry(member::find(&members, name)?).or_default().push(name);
    }
    let mut taken = BTreeMap::new();
    listing::each(archive, path, &mut |entry, data| {
        if let Some(names) = wanted.get(&entry.path) {
            let blob = store.put_reader(data)?;
            taken.extend(names.iter().map(|name| ((*name).to_owned(), blob)));
        }
        Ok(())
    })?;
    Ok(taken)
}

/// Refuses a program for another processor; gives what should be said of one that does not run alone.
fn look(store: &Store, name: &str, digest: &Digest, arch: &str) -> Result<Option<String>, StepError> {
    let file = ReadCache::new(std::fs::File::open(store.blob_path(digest)?)?);
    let found = elf::read(&file).map_err(|e| StepError::new(format!("{name} is a damaged ELF file: {e}")))?;
    let Some(program) = found else { return Ok(None) };
    if let Some(machine) = elf::machine(arch)
        && machine != program.machine
        && !program.is_bpf()
    {
        return Err(StepError::new(format!(
            "{name} is for {}, but the image is for {arch}",
            program.machine
        ))
        .help(format!("take the release for {arch}; the architecture is the variable `arch`")));
    }
    Ok(program
        .is_dynamic()
        .then(|| format!("{name} is not static: it {}, which the image must have", program.asks_for())))
}
