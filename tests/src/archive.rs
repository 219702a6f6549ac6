//! Archives and locks as tests look at them: what GNU tar lists, what mosbuild.lock names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Space, need};

/// What GNU tar says of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `-rwsr-xr-x`
    pub mode: String,
    /// `0/42`
    pub owner: String,
    /// Bytes, or `5,1` of a device.
    pub size: String,
    /// `2024-09-06 11:35:00`
    pub time: String,
    /// What a symlink says; what a hard link is another name of, behind `link to `.
    pub link: Option<String>,
}

impl Entry {
    /// All but the time.
    pub fn timeless(&self) -> Entry {
        Entry { time: String::new(), ..self.clone() }
    }
}

/// The members of a tar, compressed or not, by path without `./` before it or `/` at its end.
#[track_caller]
pub fn members(archive: &Path) -> BTreeMap<String, Entry> {
    need("tar", "tar");
    let mut command = Command::new("tar");
    command
        .args(["--numeric-owner", "--full-time", "--quoting-style=literal", "-tvf"])
        .arg(archive)
        .env("TZ", "UTC");
    let listed = command.output().unwrap();
    assert!(listed.status.success(), "{}: {listed:?}", archive.display());
    let mut members = BTreeMap::new();
    for line in String::from_utf8(listed.stdout).unwrap().lines() {
        let mut words = line.splitn(2, ' ');
        let next = |rest: &mut &str| {
            *rest = rest.trim_start();
            let (word, more) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
            *rest = more;
            word.to_owned()
        };
        let (mode, mut rest) = (words.next().unwrap().to_owned(), words.next().unwrap());
        let (owner, size, day, clock) = (next(&mut rest), next(&mut rest), next(&mut rest), next(&mut rest));
        let name = &rest[1..];
        let (name, link) = match (mode.as_bytes()[0], name.split_once(" -> "), name.split_once(" link to ")) {
            (b'l', Some((name, link)), _) => (name, Some(link.to_owned())),
            (b'h', _, Some((name, link))) => (name, Some(format!("link to {link}"))),
            _ => (name, None),
        };
        let name = name.strip_prefix("./").unwrap_or(name).trim_end_matches('/');
        let entry = Entry { mode, owner, size, time: format!("{day} {clock}"), link };
        assert!(members.insert(name.to_owned(), entry).is_none(), "{name} is in {} twice", archive.display());
    }
    members
}

/// The content of a member of a tar that mosbuild placed.
#[track_caller]
pub fn content(archive: &Path, member: &str) -> Vec<u8> {
    let read = Command::new("tar").arg("-xOf").arg(archive).arg(member).output().unwrap();
    assert!(read.status.success(), "{}: {member}: {read:?}", archive.display());
    read.stdout
}

/// The same as text.
#[track_caller]
pub fn text(archive: &Path, member: &str) -> String {
    String::from_utf8(content(archive, member)).unwrap()
}

/// Names and versions in apk's database, in its order.
pub fn installed(database: &str) -> Vec<(String, String)> {
    let field = |record: &str, letter: &str| {
        let line = record.lines().find_map(|line| line.strip_prefix(letter));
        line.unwrap_or_else(|| panic!("no {letter} in {record}")).to_owned()
    };
    let records = database.split("\n\n").filter(|r| !r.trim().is_empty());
    records.map(|r| (field(r, "P:"), field(r, "V:"))).collect()
}

/// What mosbuild.lock has of the source whose id has this in it.
#[track_caller]
pub fn pin(space: &Space, id: &str) -> toml::Table {
    let lock: toml::Table = space.read("mosbuild.lock").parse().unwrap();
    let sources = lock["source"].as_array().unwrap();
    let fits = |s: &&toml::Value| s["id"].as_str().unwrap().contains(id);
    let found = sources.iter().find(fits).unwrap_or_else(|| panic!("nothing of {id} in {lock}"));
    found.as_table().unwrap().clone()
}

/// The SHA-256 of a file, by another program.
pub fn sha256(path: &Path) -> String {
    sum("sha256sum", path)
}

/// The SHA-512 of a file, by another program.
pub fn sha512(path: &Path) -> String {
    sum("sha512sum", path)
}

fn sum(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

/// The files below a folder, links not followed.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files.sort();
    files
}
