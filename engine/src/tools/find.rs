//! Finding one tool on the host: its file, its owners, what it brings along, and all files this was read off.
//!
//! Does not know how a sandbox will show it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mosbuild_cache::Digest;
use serde::{Deserialize, Serialize};

use super::dpkg::{Dpkg, Id};
use super::identity::Identity;
use super::memo::{Stamp, stamp};
use super::missing::Missing;
use super::{BASE, Surroundings, rust};

/// What is known of a tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Found {
    pub identity: Identity,
    /// Names for PATH, and where the host has them. The tool's own name comes last and wins.
    pub programs: Vec<(String, PathBuf)>,
    /// A Rust toolchain to be bound.
    pub sysroot: Option<PathBuf>,
    /// Everything that was looked at.
    pub stamps: Vec<(PathBuf, Stamp)>,
}

/// Looked through before the user's PATH, so that who builds matters less.
const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];

const ALTERNATIVES: &str = "/etc/alternatives";

/// Headers that stand for a development package where there is no dpkg.
const HEADERS: [(&str, &str); 7] = [
    ("libelf-dev", "/usr/include/libelf.h"),
    ("libssl-dev", "/usr/include/openssl/opensslv.h"),
    ("libc6-dev", "/usr/include/gnu/libc-version.h"),
    ("libc6-dev-amd64-cross", "/usr/x86_64-linux-gnu/include/gnu/libc-version.h"),
    ("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/include/gnu/libc-version.h"),
    ("libncurses-dev", "/usr/include/ncurses.h"),
    ("zlib1g-dev", "/usr/include/zlib.h"),
];

/// What BASE is where there is no dpkg to say which packages are Essential.
const POSIX: &[&str] = &[
    "awk",
    "basename",
    "bash",
    "cat",
    "chgrp",
    "chmod",
    "chown",
    "cksum",
    "cmp",
    "comm",
    "cp",
    "cut",
    "date",
    "dd",
    "diff",
    "dirname",
    "echo",
    "egrep",
    "env",
    "expr",
    "false",
    "fgrep",
    "find",
    "fold",
    "getopt",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hostname",
    "id",
    "install",
    "join",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mv",
    "nl",
    "nproc",
    "od",
    "paste",
    "perl",
    "pr",
    "printf",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "sleep",
    "sort",
    "split",
    "stat",
    "sync",
    "tac",
    "tail",
    "tar",
    "tee",
    "test",
    "touch",
    "tr",
    "true",
    "truncate",
    "tsort",
    "tty",
    "uname",
    "uniq",
    "wc",
    "which",
    "xargs",
    "yes",
    "zcat",
];

/// Collects what is looked at.
#[derive(Debug, Default)]
pub(super) struct Looked(Vec<(PathBuf, Stamp)>);

impl Looked {
    pub fn at(&mut self, path: &Path) {
        if !self.0.iter().any(|(known, _)| known == path) {
            self.0.push((path.to_path_buf(), stamp(path)));
        }
    }
}

/// Find a tool, or BASE.
pub(super) fn find(name: &str, surroundings: &Surroundings, dpkg: Option<&Dpkg>) -> Result<Found, Missing> {
    let mut looked = Looked::default();
    for witness in Dpkg::witnesses(&surroundings.dpkg_root) {
        looked.at(&witness);
    }
    let mut found = match name {
        BASE => base(dpkg, &mut looked),
        "cargo" | "rustc" | "rustdoc" => rust(name, surroundings, dpkg, &mut looked)?,
        _ => program(name, surroundings, dpkg, &mut looked)?,
    };
    found.stamps = looked.0;
    Ok(found)
}

fn base(dpkg: Option<&Dpkg>, looked: &mut Looked) -> Found {
    if let Some(dpkg) = dpkg {
        return of_packages(BASE, dpkg, &dpkg.essential(), false, looked);
    }
    let folders: Vec<PathBuf> = SYSTEM_PATH.iter().map(PathBuf::from).collect();
    let programs: Vec<_> = POSIX
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), search(name, folders.iter(), looked)?)))
        .collect();
    let digests = programs.iter().map(|(name, path)| (name.clone(), file_digest(path, looked)));
    let packages = digests.filter_map(|(name, digest)| Some((name, digest?.hex()))).collect();
    let identity = Identity { tool: BASE.to_owned(), packages, digest: None, text: None };
    Found { identity, programs, sysroot: None, stamps: Vec::new() }
}

fn program(
    name: &str,
    surroundings: &Surroundings,
    dpkg: Option<&Dpkg>,
    looked: &mut Looked,
) -> Result<Found, Missing> {
    let system = SYSTEM_PATH.iter().map(PathBuf::from).collect::<Vec<_>>();
    let path =
        if name.contains('/') { None } else { search(name, system.iter().chain(&surroundings.path), looked) };
    let Some(path) = path else {
        return package_or_header(name, dpkg, looked).ok_or_else(|| Missing::tool(name));
    };
    at(name, &path, dpkg, looked)
}

/// The tool that is this file.
fn at(name: &str, path: &Path, dpkg: Option<&Dpkg>, looked: &mut Looked) -> Result<Found, Missing> {
    let hops = hops(path);
    for hop in &hops {
        looked.at(hop);
    }
    let owners = dpkg.map(|dpkg| (dpkg, dpkg.owners(&hops))).filter(|(_, owners)| !owners.is_empty());
    let mut found = match owners {
        Some((dpkg, owners)) => of_packages(name, dpkg, &owners, true, looked),
        None => {
            let Some(digest) = file_digest(path, looked) else { return Err(Missing::unreadable(name, path)) };
            let identity =
                Identity { tool: name.to_owned(), packages: Vec::new(), digest: Some(digest), text: None };
            Found { identity, programs: Vec::new(), sysroot: None, stamps: Vec::new() }
        }
    };
    found.programs.push((name.to_owned(), path.to_path_buf()));
    Ok(found)
}

fn of_packages(name: &str, dpkg: &Dpkg, ids: &[Id], recommended: bool, looked: &mut Looked) -> Found {
    let closure = dpkg.closure(ids, recommended);
    let mut packages = dpkg.versions(&closure);
    let mut programs = dpkg.programs(&closure);
    looked.at(Path::new(ALTERNATIVES));
    for (name, link, target) in alternatives(&programs) {
        packages.push((format!("alternative {name}"), target));
        programs.push((name, link));
    }
    packages.sort();
    let identity = Identity { tool: name.to_owned(), packages, digest: None, text: None };
    Found { identity, programs, sysroot: None, stamps: Vec::new() }
}

/// Alternatives that point to one of these programs: name, link, target.
fn alternatives(programs: &[(String, PathBuf)]) -> Vec<(String, PathBuf, String)> {
    let real: std::collections::HashSet<PathBuf> =
        programs.iter().filter_map(|(_, path)| fs::canonicalize(path).ok()).collect();
    let mut alternatives = Vec::new();
    for entry in fs::read_dir(ALTERNATIVES).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !fs::canonicalize(&target).is_ok_and(|target| real.contains(&target)) {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let links = SYSTEM_PATH.iter().map(|folder| Path::new(folder).join(&name));
        let link = links.into_iter().find(|link| fs::read_link(link).is_ok_and(|to| to == entry.path()));
        if let Some(link) = link {
            alternatives.push((name, link, target.to_string_lossy().into_owned()));
        }
    }
    alternatives.sort();
    alternatives
}

/// A name that is no program: a package's, for its headers and libraries.
fn package_or_header(name: &str, dpkg: Option<&Dpkg>, looked: &mut Looked) -> Option<Found> {
    if let Some(dpkg) = dpkg {
        let ids = dpkg.installed(name);
        return (!ids.is_empty()).then(|| of_packages(name, dpkg, &ids, true, looked));
    }
    let (_, header) = HEADERS.iter().find(|(package, _)| *package == name)?;
    let digest = Some(file_digest(Path::new(header), looked)?);
    let identity = Identity { tool: name.to_owned(), packages: Vec::new(), digest, text: None };
    Some(Found { identity, programs: Vec::new(), sysroot: None, stamps: Vec::new() })
}

fn rust(
    name: &str,
    surroundings: &Surroundings,
    dpkg: Option<&Dpkg>,
    looked: &mut Looked,
) -> Result<Found, Missing> {
    let system = SYSTEM_PATH.iter().map(PathBuf::from).collect::<Vec<_>>();
    let folders: Vec<&PathBuf> = surroundings.path.iter().chain(&system).collect();
    let toolchain = rust::locate(name, &folders, &surroundings.workspace, looked)?;
    if !toolchain.system {
        let identity = Identity {
            tool: name.to_owned(),
            packages: Vec::new(),
            digest: None,
            text: Some(toolchain.text),
        };
        return Ok(Found {
            identity,
            programs: Vec::new(),
            sysroot: Some(toolchain.sysroot),
            stamps: Vec::new(),
        });
    }
    let mut found = at(name, &toolchain.program, dpkg, looked)?;
    found.identity.text = Some(toolchain.text);
    found.identity.digest = None;
    Ok(found)
}

/// The first folder's file of this name that may be executed.
pub(super) fn search<'a>(
    name: &str,
    folders: impl Iterator<Item = &'a PathBuf>,
    looked: &mut Looked,
) -> Option<PathBuf> {
    for folder in folders {
        looked.at(folder);
        let path = folder.join(name);
        let executable = |file: fs::Metadata| file.is_file() && file.permissions().mode() & 0o111 != 0;
        if fs::metadata(&path).is_ok_and(executable) {
            return Some(path);
        }
    }
    None
}

/// A path and every path that its links lead through, each with its folder's links resolved.
pub(super) fn hops(path: &Path) -> Vec<PathBuf> {
    let real = |path: &Path| match (path.parent().map(fs::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path.to_path_buf(),
    };
    let mut hops = vec![real(path)];
    for _ in 0..40 {
        let last = &hops[hops.len() - 1];
        let Ok(target) = fs::read_link(last) else { break };
        let next = real(&last.parent().unwrap_or(Path::new("/")).join(target));
        hops.push(next);
    }
    hops
}

fn file_digest(path: &Path, looked: &mut Looked) -> Option<Digest> {
    let hops = hops(path);
    for hop in &hops {
        looked.at(hop);
    }
    Digest::of_file(path).ok().map(|(digest, _)| digest)
}
