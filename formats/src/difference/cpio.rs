//! newc archives, one after another, the last perhaps compressed, as the kernel takes them. Reads them leniently, for
//! the header fields and places of members; the strict reader is `newc`.

use std::borrow::Cow;

use super::{Difference, Member, Place, members, open};
use crate::compress::Format;
use crate::newc::{NAME_MAX, TRAILER};

const HEADER: usize = 110;
/// Names of the header's fields that say something of the member itself.
const FIELDS: [(&str, usize); 8] = [
    ("mtime", 5),
    ("mode", 1),
    ("uid", 2),
    ("gid", 3),
    ("link count", 4),
    ("inode number", 0),
    ("major number", 9),
    ("minor number", 10),
];

pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"070701") || bytes.starts_with(b"070702")
}

/// Members of the plain archives at the beginning, and where what follows them begins.
fn read(bytes: &[u8]) -> Option<(Vec<Member<'_>>, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        while bytes.get(at) == Some(&0) {
            at += 1;
        }
        let Some(rest) = bytes.get(at..).filter(|rest| is(rest)) else { return Some((found, at)) };
        let digits = rest.get(6..HEADER)?;
        let mut fields = [0u32; 13];
        for (field, digits) in fields.iter_mut().zip(digits.chunks_exact(8)) {
            *field = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        let (size, name_size) = (fields[6] as usize, fields[11] as usize);
        if name_size == 0 || name_size > NAME_MAX {
            return None;
        }
        let name = rest.get(HEADER..HEADER + name_size - 1)?;
        let data = (HEADER + name_size).next_multiple_of(4);
        let content = rest.get(data..data.checked_add(size)?)?;
        if name != TRAILER {
            let texts = FIELDS.iter().map(|(field, at)| {
                let value = fields[*at];
                (*field, if *at == 1 { format!("{value:o}") } else { value.to_string() })
            });
            found.push(Member {
                name: String::from_utf8_lossy(name).into_owned(),
                fields: texts.collect(),
                data: Cow::Borrowed(content),
            });
        }
        at += (data + size).next_multiple_of(4);
        at = at.min(bytes.len());
    }
}

pub(super) fn compare(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    let ((a, end_a), (b, end_b)) = (read(first)?, read(second)?);
    if let Some(difference) = members("cpio archive", &a, &b, depth) {
        return Some(difference);
    }
    let (rest_a, rest_b) = (&first[end_a..], &second[end_b..]);
    if rest_a != rest_b && Format::detect(rest_a) != Format::None {
        let offset = end_a as u64;
        return Some(
            open(rest_a, rest_b, depth).within(Place::Part { name: "the archive behind it", offset }),
        );
    }
    None
}
