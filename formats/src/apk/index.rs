//! `APKINDEX.tar.gz`: what a repository holds, read with its signatures and written without.
//! Does not know where packages lie; verifying is `signature::verify` over what [`Index::read`] gives.

use std::io::{self, Read};

use super::members::{Members, Want};
use super::signature::{self, Signature};
use super::{Digests, Error, Limits, PkgInfo, is_file_name_part, version};

const INDEX: &str = "the index";
const FILE: &str = "APKINDEX";

/// One package of an index; also what the installed database keeps about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexEntry {
    /// `C`: `Q1` and base64 of the SHA-1 of the package's control member.
    pub identity: String,
    /// `P`.
    pub name: String,
    /// `V`: version and release.
    pub version: String,
    /// `A`; empty if there is none.
    pub arch: String,
    /// `S`: bytes of the package file.
    pub size: u64,
    /// `I`: bytes when installed.
    pub installed_size: u64,
    /// `T`.
    pub description: String,
    /// `U`.
    pub url: String,
    /// `L`.
    pub license: String,
    /// `o`: the source package; empty if there is none.
    pub origin: String,
    /// `m`; empty if there is none.
    pub maintainer: String,
    /// `t`: seconds since 1970; 0 if there is none.
    pub build_time: u64,
    /// `c`; empty if there is none.
    pub commit: String,
    /// `k`; 0 if there is none.
    pub provider_priority: u64,
    /// `D`: atoms as written.
    pub depends: Vec<String>,
    /// `p`: names or `name=version`.
    pub provides: Vec<String>,
    /// `i`: it installs itself where all of these are.
    pub install_if: Vec<String>,
    /// `r`: packages whose files it may overwrite; in the installed database only.
    pub replaces: Vec<String>,
    /// Fields not known here, in their order.
    pub unknown: Vec<(char, String)>,
}

impl IndexEntry {
    /// What `apk index` writes for a package.
    pub fn from_package(info: &PkgInfo, identity: &str, file_size: u64) -> IndexEntry {
        let info = info.clone();
        IndexEntry {
            identity: identity.to_string(),
            name: info.name,
            version: info.version,
            arch: info.arch,
            size: file_size,
            installed_size: info.size,
            description: info.description,
            url: info.url,
            license: info.license,
            origin: info.origin,
            maintainer: info.maintainer,
            build_time: info.build_date,
            commit: info.commit,
            provider_priority: info.provider_priority,
            depends: info.depends,
            provides: info.provides,
            install_if: info.install_if,
            replaces: vec![],
            unknown: vec![],
        }
    }

    /// Whether apk would install it: not with an unknown upper-case field, which means something it must understand.
    pub fn is_installable(&self) -> bool {
        self.unknown.iter().all(|(key, _)| key.is_ascii_lowercase())
    }

    /// Its file below `repository/arch/`.
    pub fn file_name(&self) -> String {
        format!("{}-{}.apk", self.name, self.version)
    }

    /// Takes one field; `Ok(false)` if the key is not known.
    pub(super) fn set(&mut self, key: u8, value: &str) -> Result<bool, String> {
        let text = || value.to_string();
        let words = || {
            let blanks = value.bytes().filter(|b| *b == b' ').count();
            let mut words = Vec::with_capacity(if value.is_empty() { 0 } else { blanks + 1 });
            words.extend(value.split_ascii_whitespace().map(String::from));
            words
        };
        let number = || match value {
            "" => Ok(0),
            _ => value
                .parse()
                .map_err(|_| format!("{}: is {value:?}, where a number is expected", char::from(key))),
        };
        let part = || match is_file_name_part(value) {
            true => Ok(value.to_string()),
            false => Err(format!("{}: is {value:?}, which cannot stand in a file name", char::from(key))),
        };
        match key {
            b'C' => self.identity = text(),
            b'P' => self.name = part()?,
            b'V' => self.version = part()?,
            b'A' if value.is_empty() => {}
            b'A' => self.arch = part()?,
            b'S' => self.size = number()?,
            b'I' => self.installed_size = number()?,
            b'T' => self.description = text(),
            b'U' => self.url = text(),
            b'L' => self.license = text(),
            b'o' => self.origin = text(),
            b'm' => self.maintainer = text(),
            b't' => self.build_time = number()?,
            b'c' => self.commit = text(),
            b'k' => self.provider_priority = number()?,
            b'D' => self.depends = words(),
            b'p' => self.provides = words(),
            b'i' => self.install_if = words(),
            b'r' => self.replaces = words(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What every record must have.
    pub(super) fn complete(&self) -> Result<(), &'static str> {
        match () {
            () if self.name.is_empty() => Err("the record above has no P: (name)"),
            () if self.version.is_empty() => Err("the record above has no V: (version)"),
            () if self.identity.is_empty() => Err("the record above has no C: (identity)"),
            () => Ok(()),
        }
    }

    /// Its record as `apk index` writes it, without the blank line after it. Line breaks in values become blanks.
    fn write(&self, out: &mut String) {
        let mut line = |key: char, value: &str| {
            out.push(key);
            out.push(':');
            out.extend(value.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
            out.push('\n');
        };
        let mut optional = |key, value: &str| {
            if !value.is_empty() {
                line(key, value);
            }
        };
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        optional('C', &self.identity);
        optional('P', &self.name);
        optional('V', &self.version);
        optional('A', &self.arch);
        optional('S', &self.size.to_string());
        optional('I', &self.installed_size.to_string());
        line('T', &self.description);
        line('U', &self.url);
        line('L', &self.license);
        let mut optional = |key, value: &str| {
            if !value.is_empty() {
                line(key, value);
            }
        };
        optional('o', &self.origin);
        optional('m', &self.maintainer);
        optional('t', &number(self.build_time));
        optional('c', &self.commit);
        optional('k', &number(self.provider_priority));
        optional('D', &self.depends.join(" "));
        optional('p', &self.provides.join(" "));
        optional('i', &self.install_if.join(" "));
        for (key, value) in &self.unknown {
            line(*key, value);
        }
    }
}

/// An index, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its signatures, over everything after them. None are verified here.
    pub signatures: Vec<Signature>,
    /// Digests of the bytes after the signatures: what is signed.
    pub signed: Digests,
    /// `DESCRIPTION`, as `v3.19.1-643-gec825d20535`; empty if there is none.
    pub description: String,
    /// The packages, in the order of the file.
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// Reads a whole `APKINDEX.tar.gz`.
    pub fn read(bytes: &[u8], limits: &Limits) -> Result<Index, Error> {
        let mut members = Members::new(bytes);
        let (mut signatures, mut tar, mut begin) = (vec![], vec![], 0);
        let mut signature_members = 0;
        while let Some(mut member) =
            members.next_member(INDEX, limits.index_bytes.saturating_sub(tar.len() as u64), Want::Sha256)?
        {
            let start = tar.len();
            if let Err(e) = member.read_to_end(&mut tar) {
                return Err(member.error(e));
            }
            member.finish()?;
            // Members after the first unsigned one are all content, whatever they call themselves.
            if start == 0
                && let Some(found) = signature::read_member(&tar, INDEX)?
            {
                signatures.extend(found);
                tar.clear();
                begin = members.position() as usize;
                signature_members += 1;
                if signature_members > limits.signatures {
                    let limit = limits.signatures as u64;
                    return Err(Error::Limit { part: INDEX, what: "signature parts", limit });
                }
            }
        }
        let content = bytes.get(begin..).unwrap_or_default();
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        if content.is_empty() {
            return Err(Error::Truncated { part: INDEX, bytes: bytes.len() as u64 });
        }
        let (mut description, mut text) = (String::new(), None);
        let damaged = |e: io::Error| Error::Damaged { part: INDEX, why: e.to_string() };
        for entry in tar::Archive::new(&tar[..]).entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let name = entry.path_bytes().into_owned();
            // Not more than there is, whatever the header says.
            let mut data = Vec::with_capacity(entry.size().min(tar.len() as u64) as usize);
            entry.read_to_end(&mut data).map_err(damaged)?;
            match &name[..] {
                b"DESCRIPTION" => description = String::from_utf8_lossy(&data).trim_end().to_string(),
                b"APKINDEX" if text.is_some() => {
                    return Err(Error::Damaged { part: INDEX, why: "has APKINDEX twice".into() });
                }
                b"APKINDEX" => text = Some(data),
                b".PKGINFO" => {
                    return Err(Error::Damaged { part: INDEX, why: "is a package, not an index".into() });
                }
                _ => {}
            }
        }
        let text = text.ok_or(Error::Missing("APKINDEX inside"))?;
        Ok(Index { signatures, signed: Digests::of(content), description, entries: parse_entries(&text)? })
    }
}

/// Parses the text of an `APKINDEX`: records of lines `key:value`, each ended by an empty line.
pub fn parse_entries(text: &[u8]) -> Result<Vec<IndexEntry>, Error> {
    let mut entries = vec![];
    let mut entry: Option<IndexEntry> = None;
    // The empty line after the last record may be missing.
    for (n, line) in text.split(|b| *b == b'\n').chain([&b""[..]]).enumerate() {
        let wrong = |why: &str| Error::Line { file: FILE, line: n + 1, why: why.to_string() };
        let line = std::str::from_utf8(line).map_err(|_| wrong("is not UTF-8"))?;
        if line.is_empty() {
            if let Some(done) = entry.take() {
                done.complete().map_err(wrong)?;
                entries.push(done);
            }
            continue;
        }
        let entry = entry.get_or_insert_default();
        let (key, value) = field(line).ok_or_else(|| wrong("is not of the form \"X:value\""))?;
        if !entry.set(key, value).map_err(|why| wrong(&why))? {
            entry.unknown.push((char::from(key), value.to_string()));
        }
    }
    Ok(entries)
}

/// Key and value of a line `X:value`.
pub(super) fn field(line: &str) -> Option<(u8, &str)> {
    match line.as_bytes() {
        [key, b':', ..] if key.is_ascii_graphic() => Some((*key, &line[2..])),
        _ => None,
    }
}

/// An unsigned `APKINDEX.tar.gz`, as `apk index` makes: apk takes it with `--allow-untrusted`.
///
/// Sorted by name and version; equal entries give equal bytes, on every machine.
pub fn write_index(description: &str, entries: &[IndexEntry]) -> Vec<u8> {
    let mut sorted: Vec<&IndexEntry> = entries.iter().collect();
    sorted.sort_by(|a, b| {
        let by_name = a.name.cmp(&b.name).then_with(|| version::compare(&a.version, &b.version));
        by_name.then_with(|| (&a.version, &a.identity).cmp(&(&b.version, &b.identity)))
    });
    let mut text = String::new();
    for entry in sorted {
        entry.write(&mut text);
        text.push('\n');
    }
    let mut tar = vec![];
    for (name, data) in [("DESCRIPTION", description), ("APKINDEX", &text)] {
        tar.extend_from_slice(header(name, data.len() as u64).as_bytes());
        tar.extend_from_slice(data.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend([0; 1024]);
    gzip(&tar)
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let field = &mut header.as_old_mut().name;
    field[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    // Without it apk takes the entry for no file, and the index for wrongly signed.
    header.set_entry_type(tar::EntryType::Regular);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    if let Some(ustar) = header.as_ustar_mut() {
        // Both fit, being short; the fields are 32 bytes long.
        ustar.uname[..4].copy_from_slice(b"root");
        ustar.gname[..4].copy_from_slice(b"root");
    }
    header.set_cksum();
    header
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::bufread::GzEncoder::new(data, flate2::Compression::new(6));
    let mut out = vec![];
    // Reading from memory cannot fail; what a failure would leave is no gzip, which every reader refuses.
    let _ = encoder.read_to_end(&mut out);
    out
}
