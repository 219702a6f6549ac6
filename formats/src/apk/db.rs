//! apk's database of what is installed (`lib/apk/db/installed`): packages, and every path with owner, mode and checksum.
//! Read only. Does not know the tree it describes, which scripts may have changed since.

use std::collections::HashMap;

use super::index::field;
use super::{Error, IndexEntry};

const FILE: &str = "lib/apk/db/installed";

/// Owner and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, 07777.
    pub mode: u32,
}

/// A directory with no `M:`.
pub const DIR_DEFAULT: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755 };
/// A file with no `a:`.
pub const FILE_DEFAULT: Attributes = Attributes { uid: 0, gid: 0, mode: 0o644 };

/// The database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// The packages, in the order of the file.
    pub packages: Vec<InstalledPackage>,
}

/// A package that is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstalledPackage {
    /// What its index said about it, and `replaces`. apk 2.14 writes the `r:` of a package without files into the record
    /// of the next one: do not conclude from it.
    pub info: IndexEntry,
    /// `q`.
    pub replaces_priority: u64,
    /// `s`: the tagged repository it came from, as `@edge`; empty if none.
    pub tag: String,
    /// `f`: what went wrong, as `f` (files), `s` (scripts), `x` (xattrs); empty if nothing did.
    pub broken: String,
    /// Its directories with its files in them. Shared ones appear in each package.
    pub dirs: Vec<InstalledDir>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledDir {
    /// `F`: relative, empty for the root itself.
    pub path: Vec<u8>,
    /// `M`, or the default.
    pub attributes: Attributes,
    /// `R`: the files and links in it.
    pub files: Vec<InstalledFile>,
}

/// A file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledFile {
    /// Without its directory.
    pub name: Vec<u8>,
    /// `a`, or the default.
    pub attributes: Attributes,
    /// `Z`: `Q1` and base64 of a SHA-1, or `Q2` of a SHA-256; of a symbolic link, of its target.
    pub checksum: Option<String>,
}

impl Installed {
    /// Parses the file.
    ///
    /// # Errors
    /// [`Error::Line`], also for a path that leads outside of the root.
    pub fn parse(text: &[u8]) -> Result<Installed, Error> {
        let mut packages = vec![];
        let mut package: Option<InstalledPackage> = None;
        for (n, line) in text.split(|b| *b == b'\n').chain([&b""[..]]).enumerate() {
            let wrong = |why: &str| Error::Line { file: FILE, line: n + 1, why: why.to_string() };
            if line.is_empty() {
                if let Some(done) = package.take() {
                    done.info.complete().map_err(wrong)?;
                    packages.push(done);
                }
                continue;
            }
            package.get_or_insert_default().take(line).map_err(|why| wrong(&why))?;
        }
        Ok(Installed { packages })
    }

    /// The package of this name.
    pub fn get(&self, name: &str) -> Option<&InstalledPackage> {
        self.packages.iter().find(|p| p.info.name == name)
    }

    /// Every path of the database with owner and mode; of a directory that several packages have, the first one's,
    /// and the last one's of a file, which overwrote the others.
    pub fn attributes(&self) -> HashMap<Vec<u8>, Attributes> {
        let mut all = HashMap::new();
        for dir in self.packages.iter().flat_map(|p| &p.dirs) {
            if !dir.path.is_empty() {
                all.entry(dir.path.clone()).or_insert(dir.attributes);
            }
            for file in &dir.files {
                let mut path = dir.path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&file.name);
                all.insert(path, file.attributes);
            }
        }
        all
    }
}

impl InstalledPackage {
    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        if let [key @ (b'F' | b'R'), b':', path @ ..] = line {
            return match key {
                b'F' => self.dir(path),
                _ => self.file(path),
            };
        }
        let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8")?;
        let (key, value) = field(line).ok_or("is not of the form \"X:value\"")?;
        match (key, self.dirs.last_mut()) {
            (b'M', Some(dir)) if dir.files.is_empty() => dir.attributes = attributes(value)?,
            (b'M', _) => return Err("M: without a directory".into()),
            (b'a', Some(InstalledDir { files, .. })) if !files.is_empty() => {
                let Some(file) = files.last_mut() else { return Err("a: without a file".into()) };
                file.attributes = attributes(value)?;
            }
            (b'Z', Some(InstalledDir { files, .. })) if !files.is_empty() => {
                let Some(file) = files.last_mut() else { return Err("Z: without a file".into()) };
                file.checksum = Some(value.to_string());
            }
            (b'a' | b'Z', _) => return Err(format!("{}: without a file", char::from(key))),
            (b'q', _) => {
                self.replaces_priority =
                    value.parse().map_err(|_| format!("q: is {value:?}, not a number"))?;
            }
            (b's', _) => self.tag = value.to_string(),
            (b'f', _) => self.broken = value.to_string(),
            (key, _) => {
                if !self.info.set(key, value)? {
                    self.info.unknown.push((char::from(key), value.to_string()));
                }
            }
        }
        Ok(())
    }

    fn dir(&mut self, path: &[u8]) -> Result<(), String> {
        let inside = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
        if !path.is_empty() && !path.split(|b| *b == b'/').all(inside) || path.contains(&0) {
            return Err(format!(
                "F: has the path {:?}, which is not plain and relative",
                String::from_utf8_lossy(path)
            ));
        }
        self.dirs.push(InstalledDir { path: path.to_vec(), attributes: DIR_DEFAULT, files: vec![] });
        Ok(())
    }

    fn file(&mut self, name: &[u8]) -> Result<(), String> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            return Err(format!("R: has the name {:?}, which is not one", String::from_utf8_lossy(name)));
        }
        let Some(dir) = self.dirs.last_mut() else { return Err("R: without a directory".into()) };
        dir.files.push(InstalledFile { name: name.to_vec(), attributes: FILE_DEFAULT, checksum: None });
        Ok(())
    }
}

/// `uid:gid:mode`, the mode in octal; a fourth part is the digest of extended attributes.
fn attributes(text: &str) -> Result<Attributes, String> {
    let wrong = || format!("{text:?} is not uid:gid:mode");
    let mut parts = text.splitn(4, ':');
    let mut part = || parts.next().ok_or_else(wrong);
    let (uid, gid, mode) = (part()?, part()?, part()?);
    let id = |text: &str| text.parse().map_err(|_| wrong());
    let (uid, gid) = (id(uid)?, id(gid)?);
    let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?;
    Ok(Attributes { uid, gid, mode })
}
