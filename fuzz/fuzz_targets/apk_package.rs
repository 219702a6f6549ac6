//! Packages of arbitrary bytes, as they come and as the data member of a package that is otherwise right.
//! Every path must stay inside; does not know what a path is used for.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::apk::{Digests, Limits, Package};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A control member, cut as apk's are, that vouches for `data`.
fn control(data: &[u8]) -> Vec<u8> {
    let hash: String = Digests::of(data).sha256.iter().map(|b| format!("{b:02x}")).collect();
    let info = format!("pkgname = a\npkgver = 1-r0\ndatahash = {hash}\n");
    let mut header = tar::Header::new_ustar();
    header.set_path(".PKGINFO").unwrap();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(info.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = [header.as_bytes().as_slice(), info.as_bytes()].concat();
    tar.resize(tar.len().next_multiple_of(512), 0);
    gzip(&tar)
}

fuzz_target!(|data: &[u8]| {
    let limits = Limits {
        control_bytes: 1 << 16,
        data_bytes: 1 << 22,
        entries: 1000,
        names_bytes: 1 << 18,
        ..Limits::default()
    };
    let member = gzip(data);
    let built = [control(&member), member].concat();
    for bytes in [data, &built] {
        let Ok(package) = Package::read(bytes, &limits) else { continue };
        assert_eq!(package.size, bytes.len() as u64);
        for entry in package.entries {
            assert!(entry.path.split(|b| *b == b'/').all(|part| !matches!(part, b"" | b"." | b"..")));
        }
    }
});
