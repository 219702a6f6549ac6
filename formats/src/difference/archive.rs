//! tar archives and ar archives (static libraries, Debian packages) as lists of members. Knows neither compression nor
//! what members hold.

use std::borrow::Cow;
use std::io::Read;

use object::read::archive::ArchiveFile;

use super::{Difference, Member, UNPACKED_MAX, members};

pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

pub(super) fn compare_tar(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    members("tar archive", &tar(first)?, &tar(second)?, depth)
}

fn tar(bytes: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut archive = tar::Archive::new(bytes);
    let mut found = Vec::new();
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let header = entry.header();
        let number = |value: std::io::Result<u64>| value.map_or_else(|_| "?".into(), |v| v.to_string());
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let fields = vec![
            ("mtime", number(header.mtime())),
            ("mode", header.mode().map_or_else(|_| "?".into(), |m| format!("{m:o}"))),
            ("uid", number(header.uid())),
            ("gid", number(header.gid())),
            ("user name", text(header.username_bytes())),
            ("group name", text(header.groupname_bytes())),
            ("kind", format!("{:?}", header.entry_type())),
            ("link", text(entry.link_name_bytes().as_deref())),
        ];
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut data = Vec::new();
        // A sparse file may say that it is larger than the archive.
        (&mut entry).take(UNPACKED_MAX).read_to_end(&mut data).ok()?;
        found.push(Member { name, fields, data: Cow::Owned(data) });
    }
    Some(found)
}

pub(super) fn is_ar(bytes: &[u8]) -> bool {
    bytes.starts_with(b"!<arch>\n")
}

pub(super) fn compare_ar(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    members("ar archive", &ar(first)?, &ar(second)?, depth)
}

fn ar(bytes: &[u8]) -> Option<Vec<Member<'_>>> {
    let archive = ArchiveFile::parse(bytes).ok()?;
    let mut found = Vec::new();
    for member in archive.members() {
        let member = member.ok()?;
        let number = |value: Option<u64>| value.map_or_else(|| "?".into(), |v| v.to_string());
        let fields = vec![
            ("mtime", number(member.date())),
            ("uid", number(member.uid())),
            ("gid", number(member.gid())),
            ("mode", member.mode().map_or_else(|| "?".into(), |m| format!("{m:o}"))),
        ];
        let name = String::from_utf8_lossy(member.name()).into_owned();
        found.push(Member { name, fields, data: Cow::Borrowed(member.data(bytes).ok()?) });
    }
    Some(found)
}
