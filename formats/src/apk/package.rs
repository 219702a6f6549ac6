//! Reads a package in one pass, as signature members, a control member and a data member, and vets what it installs.
//! Verifies that the parts belong together; whether a key is trusted is decided by `signature::verify`. Unpacks nothing.

use std::io::{self, BufRead, Read};

use tar::EntryType;

use super::members::{Members, Want};
use super::signature::{self, Signature};
use super::{Digests, Error, Limits, PkgInfo, q1};
use crate::tarball::{self, Kind, Refusal};

const SIGNATURE: &str = "the signature part";
const CONTROL: &str = "the control part";
const DATA: &str = "the data part";

/// Longest path and link target that Linux takes.
const PATH_MAX: usize = 4095;

/// One thing that a package installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageEntry {
    /// Relative, without `.`, `..` and empty components, not empty.
    pub path: Vec<u8>,
    /// What it is, with size or link target.
    pub kind: Kind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner's number, which apk takes only if it does not know the name.
    pub uid: u32,
    /// Group's number, likewise.
    pub gid: u32,
    /// Owner's name; may be empty.
    pub uname: Vec<u8>,
    /// Group's name; may be empty.
    pub gname: Vec<u8>,
    /// Seconds since 1970.
    pub mtime: u64,
    /// Extended attributes, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// SHA-1 of a file's data or of a symbolic link's target, as `abuild` notes it; apk copies it to its database.
    pub sha1: Option<[u8; 20]>,
}

/// A package, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its signatures, which are over the control member. None are verified here.
    pub signatures: Vec<Signature>,
    /// Digests of the control member's bytes: what is signed.
    pub signed: Digests,
    /// What indexes call it: [`q1`] of the control member's SHA-1.
    pub identity: String,
    /// `.PKGINFO`.
    pub info: PkgInfo,
    /// Names of its scripts, as `.post-install`, in the order of the archive.
    pub scripts: Vec<String>,
    /// What it installs, in the order of the archive. (apk 2.14 leaves out paths that begin with a dot.)
    pub entries: Vec<PackageEntry>,
    /// Bytes of the whole file.
    pub size: u64,
}

impl Package {
    /// Reads a package to its end, which must be the end of `reader`.
    ///
    /// # Errors
    /// All of [`Error`]: when this returns `Ok`, gzip's checksums and `datahash` were right, and no entry can reach
    /// outside of the root that the package is installed to.
    pub fn read(reader: impl BufRead, limits: &Limits) -> Result<Package, Error> {
        let mut members = Members::new(reader);
        let mut signatures = vec![];
        let mut signature_members = 0;
        let (control, signed) = loop {
            let part = if members.position() == 0 { SIGNATURE } else { CONTROL };
            let Some(mut member) = members.next_member(part, limits.control_bytes, Want::All)? else {
                return Err(match members.position() {
                    0 => Error::Empty,
                    bytes => Error::Truncated { part: CONTROL, bytes },
                });
            };
            let mut tar = vec![];
            if let Err(e) = member.read_to_end(&mut tar) {
                return Err(member.error(e));
            }
            let digests = member.finish()?.digests;
            match signature::read_member(&tar, SIGNATURE)? {
                Some(found) => signatures.extend(found),
                None => break (tar, digests),
            }
            signature_members += 1;
            if signature_members > limits.signatures {
                let limit = limits.signatures as u64;
                return Err(Error::Limit { part: "the package", what: "signature parts", limit });
            }
        };
        let (info, scripts) = read_control(&control)?;
        let identity = q1(&signed.sha1);
        let entries = read_data(&mut members, info.data_hash.as_deref(), limits)?;
        let at = members.position();
        if members.next_member(DATA, 0, Want::Sha256)?.is_some() {
            return Err(Error::Trailing { part: "another gzip member", at });
        }
        Ok(Package { signatures, signed, identity, info, scripts, entries, size: at })
    }
}

/// `.PKGINFO` and the names of the scripts beside it.
fn read_control(tar: &[u8]) -> Result<(PkgInfo, Vec<String>), Error> {
    let damaged = |e: io::Error| Error::Damaged { part: CONTROL, why: e.to_string() };
    let (mut info, mut scripts) = (None, vec![]);
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        if entry.header().entry_type().is_pax_global_extensions() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !name.starts_with('.') || name.contains('/') {
            let why = format!("has {name:?}, where only .PKGINFO and scripts are expected");
            return Err(Error::Damaged { part: CONTROL, why });
        }
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            return Err(Error::Damaged { part: CONTROL, why: format!("{name:?} is no file") });
        }
        if name == ".PKGINFO" {
            let mut text = vec![];
            entry.read_to_end(&mut text).map_err(damaged)?;
            if info.replace(PkgInfo::parse(&text)?).is_some() {
                return Err(Error::Refused { path: name, why: Refusal::Twice });
            }
        } else {
            io::copy(&mut entry, &mut io::sink()).map_err(damaged)?;
            scripts.push(name);
        }
    }
    Ok((info.ok_or(Error::Missing(".PKGINFO in its control part"))?, scripts))
}

/// Reads and vets the data member. Only a package without `datahash` may be without one.
fn read_data<R: BufRead>(
    members: &mut Members<R>,
    expected: Option<&str>,
    limits: &Limits,
) -> Result<Vec<PackageEntry>, Error> {
    let options = tarball::Options {
        max_bytes: limits.data_bytes,
        max_entries: limits.entries,
        ..tarball::Options::default()
    };
    let at = members.position();
    let member = members.next_member(DATA, tarball::stream_max(&options), Want::Sha256)?;
    let (mut member, expected) = match (member, expected) {
        (None, None) => return Ok(vec![]),
        (None, Some(_)) => return Err(Error::Truncated { part: DATA, bytes: at }),
        (Some(_), None) => {
            return Err(Error::Missing("datahash in its .PKGINFO, so that nothing vouches for its data"));
        }
        (Some(member), Some(expected)) => (member, expected),
    };
    let mut entries = vec![];
    let mut names_bytes = 0u64;
    let take = |entry: &tarball::Entry, extra: Extra, _: &mut dyn Read| {
        names_bytes += extra.bytes(entry);
        if names_bytes > limits.names_bytes {
            let limit = limits.names_bytes;
            return Err(tarball::Error::Limit { what: "bytes of names and attributes", limit });
        }
        let tarball::Entry { path, mode, uid, gid, kind } = entry.clone();
        let Extra { uname, gname, mtime, xattrs, sha1 } = extra;
        entries.push(PackageEntry { path, kind, mode, uid, gid, uname, gname, mtime, xattrs, sha1 });
        Ok(())
    };
    let walked = tarball::walk(&mut member, false, &options, extra, take);
    let checked = walked.and_then(|(_, mut rest)| only_zeros(&mut rest));
    if let Err(e) = checked {
        return Err(match e {
            // A truncated or oversized stream surfaces as whatever the archive made of it.
            tarball::Error::Io(e) => member.error(e),
            other if member.broken() => member.error(io::Error::other(other)),
            tarball::Error::Refused { path, why } => Error::Refused { path, why },
            tarball::Error::Limit { what, limit } => Error::Limit { part: DATA, what, limit },
            other => Error::Damaged { part: DATA, why: other.to_string() },
        });
    }
    let actual = hex(&member.finish()?.digests.sha256);
    match actual == expected {
        true => Ok(entries),
        false => Err(Error::DataHash { expected: expected.to_string(), actual }),
    }
}

/// apk goes on after a single empty block: what follows would be installed without having been vetted.
fn only_zeros(rest: &mut impl Read) -> Result<(), tarball::Error> {
    let mut buf = [0; 4096];
    loop {
        match rest.read(&mut buf).map_err(tarball::convert)? {
            0 => return Ok(()),
            n if buf[..n].iter().all(|b| *b == 0) => {}
            _ => return Err(io::Error::other("something follows the end of the archive").into()),
        }
    }
}

/// Names that apk 2.14 takes for part of the control member wherever it meets them: a script among the data would run.
fn is_control(path: &[u8]) -> bool {
    const NAMES: [&[u8]; 9] = [
        b".PKGINFO",
        b".INSTALL",
        b".pre-install",
        b".post-install",
        b".pre-deinstall",
        b".post-deinstall",
        b".pre-upgrade",
        b".post-upgrade",
        b".trigger",
    ];
    let path = path.strip_prefix(b"./").unwrap_or(path);
    NAMES.contains(&path) || path.starts_with(b".SIGN.")
}

/// What `tarball::Entry` does not have.
struct Extra {
    uname: Vec<u8>,
    gname: Vec<u8>,
    mtime: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sha1: Option<[u8; 20]>,
}

impl Extra {
    /// What the entry costs in memory.
    fn bytes(&self, entry: &tarball::Entry) -> u64 {
        let target = match &entry.kind {
            Kind::HardLink { to } => to.len(),
            Kind::Symlink { target } => target.len(),
            _ => 0,
        };
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        (entry.path.len() + target + self.uname.len() + self.gname.len() + xattrs) as u64
    }
}

fn extra<R: Read>(raw: &mut tar::Entry<'_, R>) -> Result<Extra, tarball::Error> {
    let path = String::from_utf8_lossy(&raw.path_bytes()).into_owned();
    let refuse = |why| Err(tarball::Error::Refused { path: path.clone(), why });
    if raw.header().as_bytes()[0] == 0 {
        return refuse(Refusal::NoName);
    }
    if is_control(&raw.path_bytes()) {
        return refuse(Refusal::Control);
    }
    let target = raw.link_name_bytes().map_or(0, |target| target.len());
    if raw.path_bytes().len() > PATH_MAX || target > PATH_MAX {
        return refuse(Refusal::TooLong);
    }
    let header = raw.header();
    let size = header.entry_size()?;
    let mut extra = Extra {
        uname: header.username_bytes().unwrap_or_default().to_vec(),
        gname: header.groupname_bytes().unwrap_or_default().to_vec(),
        mtime: header.mtime()?,
        xattrs: vec![],
        sha1: None,
    };
    for record in raw.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            extra.xattrs.push((name.to_vec(), value.to_vec()));
        } else if key == b"APK-TOOLS.checksum.SHA1" {
            extra.sha1 = unhex(value);
        } else if key == b"size" && value != size.to_string().as_bytes() {
            return refuse(Refusal::PaxSize);
        }
    }
    Ok(extra)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
