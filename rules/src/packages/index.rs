//! The indexes of repositories: where they lie, whose signature they have, what they offer.
//! Knows apk's repositories; resolves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::fetch::Request;
use mosbuild_engine::lockfile::{Pin, Row};
use mosbuild_formats::apk::{self, Index, IndexEntry, Key, Limits};

use super::root::Root;
use crate::miniroot::{Branch, CDN};
use crate::url::{request, row};

/// The largest index that is taken.
const LARGEST: u64 = 256 << 20;

/// A repository with its index.
pub struct Repository {
    /// Its folder for the architecture, with a `/` at the end.
    pub folder: String,
    /// What the lock keeps of the index.
    pub row: Row,
    /// The bytes as they were signed.
    pub bytes: Vec<u8>,
    /// What it offers.
    pub index: Index,
}

/// Folders of the repositories, from their names or URLs.
pub fn folders(cx: &BuiltinCx<'_>, root: &Root) -> Result<Vec<String>, StepError> {
    let arch = cx.param("arch");
    let branch = || {
        let branch = Branch::parse(&root.release).ok_or_else(|| {
            StepError::new(format!("base is of release {:?}, which is none of Alpine's", root.release))
                .help("write the repositories as URLs")
        })?;
        Ok::<String, StepError>(branch.folder)
    };
    cx.param("repositories")
        .lines()
        .map(|name| {
            let url = match name {
                url if url.contains("://") => url.to_owned(),
                path if path.starts_with('/') => format!("file://{path}"),
                name => format!("{CDN}{}/{name}", branch()?),
            };
            Ok(format!("{}/{arch}/", url.trim_end_matches('/')))
        })
        .collect()
}

/// Where the index of a folder lies.
pub fn place(folder: &str) -> String {
    format!("{folder}APKINDEX.tar.gz")
}

/// The indexes of these folders, verified. Those that the lock names and the store has are taken from there, unless
/// all are wanted `fresh`.
pub fn read_all(
    cx: &BuiltinCx<'_>,
    root: &Root,
    folders: &[String],
    previous: Option<&Pin>,
    fresh: bool,
) -> Result<Vec<Repository>, StepError> {
    let keys = keys(cx, root)?;
    let there = |r: &Request| r.expected.as_ref().is_some_and(|e| cx.store.blob_path(&e.blake3).is_ok());
    let wanted = |folder: &String| {
        let url = place(folder);
        let locked = previous.and_then(|pin| pin.row("index", &url)).filter(|_| !fresh);
        let locked = locked.and_then(|row| request(&url, row).ok()).filter(there);
        locked.unwrap_or(Request { url, expected: None, max_size: LARGEST })
    };
    let requests: Vec<Request> = folders.iter().map(wanted).collect();
    let mut all = Vec::new();
    for (folder, fetched) in folders.iter().zip(cx.fetch_all(&requests)?) {
        let bytes = cx.store.read(&fetched.digest)?;
        let index = verified(folder, &bytes, &keys)?;
        (cx.log)(&format!("{folder}: {} packages, {}", index.entries.len(), index.description));
        all.push(Repository { folder: folder.clone(), row: row(&fetched), bytes, index });
    }
    Ok(all)
}

/// An index whose signature is by one of the keys.
fn verified(folder: &str, bytes: &[u8], keys: &[Key]) -> Result<Index, StepError> {
    let wrong = |what: String| StepError::new(format!("{}: {what}", place(folder))).exit(4);
    let index = Index::read(bytes, &Limits::default()).map_err(|e| {
        wrong(format!("this is no index of packages: {e}"))
            .help("the mirror is damaged, or this is no repository")
    })?;
    apk::verify(&index.signatures, &index.signed, keys).map_err(|e| {
        wrong(format!("the index is not trusted: {e}"))
            .help(format!("trusted are {}", names(keys)))
            .help("if the repository is yours, name the public half of its key in `keys`")
    })?;
    Ok(index)
}

fn names(keys: &[Key]) -> String {
    match keys.is_empty() {
        true => "no keys at all".into(),
        false => keys.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", "),
    }
}

/// The keys of the base, and those that are declared.
fn keys(cx: &BuiltinCx<'_>, root: &Root) -> Result<Vec<Key>, StepError> {
    let mut pems: BTreeMap<String, Vec<u8>> = root.keys.iter().cloned().collect();
    for line in cx.param("keys").lines() {
        let Some((input, name)) = line.split_once('\t') else { continue };
        match cx.tree(input) {
            Ok(folder) => {
                for entry in folder.iter() {
                    let name = String::from_utf8_lossy(entry.path.name()).into_owned();
                    if let mosbuild_cache::Node::File { digest, .. } = &entry.node
                        && name.ends_with(".pub")
                    {
                        pems.insert(name, cx.store.read(digest)?);
                    }
                }
            }
            Err(_) => {
                pems.insert(name.to_owned(), cx.bytes(input)?);
            }
        }
    }
    let key = |(name, pem): (String, Vec<u8>)| {
        Key::from_pem(name.clone(), &pem).map_err(|e| StepError::new(format!("key {name}: {e}")).exit(2))
    };
    pems.into_iter().map(key).collect()
}

/// Lays the indexes out as local repositories below a folder of the host; their places in the sandbox, in order.
pub fn lay_out(
    repositories: &[Repository],
    arch: &str,
    host: &Path,
    inside: &str,
) -> std::io::Result<Vec<String>> {
    let mut places = Vec::new();
    for (i, repository) in repositories.iter().enumerate() {
        let folder: PathBuf = host.join(i.to_string()).join(arch);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("APKINDEX.tar.gz"), &repository.bytes)?;
        places.push(format!("{inside}/{i}"));
    }
    Ok(places)
}

/// The entry that apk chose: the first repository that has it.
pub fn find<'r>(
    repositories: &'r [Repository],
    name: &str,
    version: &str,
) -> Option<(&'r Repository, &'r IndexEntry)> {
    repositories.iter().find_map(|repository| {
        let entry = repository.index.entries.iter().find(|e| e.name == name && e.version == version)?;
        Some((repository, entry))
    })
}
