//! Zip archives (wheels, jars) as lists of members, with the times that most reproducible ones set to 1980.

use std::borrow::Cow;
use std::io::Read;

use rawzip::{CompressionMethod, ZipArchive};

use super::{Difference, Member, UNPACKED_MAX, members};
use crate::zipfile::MAGIC;

pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

pub(super) fn compare(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    members("zip archive", &read(first)?, &read(second)?, depth)
}

fn read(bytes: &[u8]) -> Option<Vec<Member<'static>>> {
    let archive = ZipArchive::from_slice(bytes).ok()?;
    let mut found = Vec::new();
    for record in archive.entries() {
        let record = record.ok()?;
        let entry = archive.get_entry(record.wayfinder()).ok()?;
        let packed = entry.data();
        let data = match record.compression_method() {
            CompressionMethod::DEFLATE => {
                let mut data = Vec::new();
                flate2::read::DeflateDecoder::new(packed).take(UNPACKED_MAX).read_to_end(&mut data).ok()?;
                Cow::Owned(data)
            }
            _ => Cow::Owned(packed.to_vec()),
        };
        let fields = vec![
            ("mtime", format!("{:?}", record.last_modified())),
            ("mode", format!("{:o}", record.mode().value())),
            ("compression", format!("{:?}", record.compression_method())),
        ];
        let name = String::from_utf8_lossy(record.file_path().as_ref()).into_owned();
        found.push(Member { name, fields, data });
    }
    Some(found)
}
