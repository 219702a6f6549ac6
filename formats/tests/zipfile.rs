//! Zip archives: those that Info-ZIP and Python write, and those written to do harm. Knows no store.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mosbuild_formats::tarball::{Entry, Kind, Options, Summary};
use mosbuild_formats::zipfile::{self, Error};
use proptest::prelude::*;

type Seen = Vec<(Entry, Vec<u8>)>;

fn read_with(bytes: &[u8], options: &Options) -> Result<(Seen, Summary), Error> {
    let mut seen = vec![];
    let summary = zipfile::read(Cursor::new(bytes), options, |entry, data| {
        let mut content = vec![];
        data.read_to_end(&mut content).map_err(Error::from_data)?;
        seen.push((entry.clone(), content));
        Ok::<(), Error>(())
    })?;
    Ok((seen, summary))
}

fn read(bytes: &[u8]) -> Result<Seen, Error> {
    read_with(bytes, &Options::default()).map(|(seen, _)| seen)
}

fn refused(bytes: &[u8]) -> String {
    read(bytes)
        .map(|seen| format!("{:?}", seen.iter().map(|(e, _)| &e.path).collect::<Vec<_>>()))
        .unwrap_err()
        .to_string()
}

/// An archive that Python makes; the script has `z`, a ZipFile to be written, and `entry(name, data, mode, type)`.
fn python(script: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let whole = format!(
        "import zipfile, warnings, sys, struct\nwarnings.simplefilter('ignore')\n\
         z = zipfile.ZipFile('out.zip', 'w', zipfile.ZIP_DEFLATED)\n\
         def entry(name, data=b'', mode=0o100644, how=zipfile.ZIP_DEFLATED):\n \
         i = zipfile.ZipInfo(name)\n \
         i.external_attr = mode << 16\n \
         i.create_system = 3\n \
         i.compress_type = how\n \
         z.writestr(i, data)\n\
         {script}\nz.close()\n"
    );
    common::tool("python3", &["-c", &whole], dir.path(), b"");
    fs::read(dir.path().join("out.zip")).unwrap()
}

fn by_path(seen: &Seen) -> BTreeMap<String, (Kind, u32, Vec<u8>)> {
    let one = |(entry, content): &(Entry, Vec<u8>)| {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        (path, (entry.kind.clone(), entry.mode, content.clone()))
    };
    seen.iter().map(one).collect()
}

/// Info-ZIP's archive of a folder with all that a zip can hold.
fn info_zip(dir: &Path, options: &[&str]) -> Vec<u8> {
    let root = dir.join("tool-1.2");
    fs::create_dir_all(root.join("bin/deep")).unwrap();
    fs::write(root.join("bin/tool"), vec![7; 100_000]).unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("bin/deep/a b"), "text\n").unwrap();
    symlink("bin/tool", root.join("link")).unwrap();
    common::tool("zip", &[options, &["-q", "-r", "out.zip", "tool-1.2"]].concat(), dir, b"");
    fs::read(dir.join("out.zip")).unwrap()
}

#[test]
fn what_info_zip_writes_is_read() {
    for options in [&["--symlinks", "-9"][..], &["--symlinks", "-0"]] {
        let dir = tempfile::tempdir().unwrap();
        let seen = by_path(&read(&info_zip(dir.path(), options)).unwrap());
        let file = |size| Kind::File { size };
        assert_eq!(seen["tool-1.2/bin/tool"], (file(100_000), 0o755, vec![7; 100_000]));
        assert_eq!(seen["tool-1.2/empty"], (file(0), 0o644, vec![]));
        assert_eq!(seen["tool-1.2/bin/deep/a b"], (file(5), 0o644, b"text\n".to_vec()));
        assert_eq!(seen["tool-1.2/link"].0, Kind::Symlink { target: b"bin/tool".to_vec() });
        assert_eq!(seen["tool-1.2/bin"].0, Kind::Dir);
        assert_eq!(seen.len(), 7);
    }
}

#[test]
fn a_stream_that_info_zip_wrote_to_a_pipe_has_its_sizes_behind_the_data() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), vec![1; 5000]).unwrap();
    let bytes = common::tool("zip", &["-q", "-", "a"], dir.path(), b"");
    assert_eq!(read(&bytes).unwrap()[0].1, vec![1; 5000]);
    // Without entries of their own, folders are implied.
    let bytes = python("entry('x/y/z', b'1')");
    let (seen, summary) = read_with(&bytes, &Options { strip_components: 1, ..Options::default() }).unwrap();
    assert_eq!(seen[0].0.path, b"y/z");
    assert_eq!((summary.entries, summary.bytes, summary.implied_dirs), (1, 1, vec![b"y".to_vec()]));
}

#[test]
fn zip64_and_a_program_before_the_archive_are_read() {
    let bytes = python(
        "z.close(); z = zipfile.ZipFile('out.zip', 'w')\nwith z.open('big', 'w', force_zip64=True) as f: f.write(b'x' * 10)",
    );
    assert_eq!(read(&bytes).unwrap()[0].1, b"xxxxxxxxxx");
    let bytes = [b"#!/bin/sh\nexit\n".as_slice(), &python("entry('a', b'1' * 999)")].concat();
    assert_eq!(read(&bytes).unwrap()[0].1, vec![b'1'; 999]);
    assert!(read(&python("pass")).unwrap().is_empty());
}

#[test]
fn windows_paths_are_paths() {
    let seen = read(&python("entry('x', b'')\nz.filelist[0].filename = 'dir\\\\a.txt'")).unwrap();
    assert_eq!(seen[0].0.path, b"dir/a.txt");
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for (name, why) in [
        ("../up", "has a '..' component"),
        ("a/../../up", "has a '..' component"),
        ("/etc/passwd", "is absolute"),
        ("..\\\\up", "has a '..' component"),
    ] {
        let text = refused(&python(&format!("entry('x', b'1')\nz.filelist[0].filename = '{name}'")));
        assert!(text.contains(why), "{name}: {text}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (script, why) in [
        ("entry('a', b'1')\nentry('a', b'2')", "\"a\": appears twice"),
        ("entry('a', b'1')\nentry('a/b', b'2')", "lies below something that is no directory"),
        ("entry('l', b'/etc', 0o120777)\nentry('l/passwd', b'2')", "lies below a symbolic link"),
        ("entry('a/b', b'1')\nentry('a', b'2')", "replaces a directory that has entries"),
        ("entry('p', b'', 0o010644)", "is of a type not known"),
        ("entry('l', b'', 0o120777)", "link without a target"),
        ("entry('l', b'x' * 5000, 0o120777)", "longer than 4095 bytes"),
        (
            "entry('b', b'1' * 1000, how=zipfile.ZIP_BZIP2)",
            "compressed with 12 (BZIP2), which is not supported",
        ),
        (
            "entry('b', b'1' * 1000, how=zipfile.ZIP_LZMA)",
            "compressed with 14 (LZMA), which is not supported",
        ),
        ("entry('a', b'1')\nz.filelist[0].flag_bits |= 1", "is encrypted"),
    ] {
        let text = refused(&python(script));
        assert!(text.contains(why), "{script}: {text}");
    }
}

#[test]
fn damage_is_found_wherever_it_is() {
    let bytes = python("entry('a', bytes(range(256)) * 20, how=zipfile.ZIP_STORED)");
    let mut flipped = bytes.clone();
    flipped[200] ^= 1;
    let text = refused(&flipped);
    assert!(text.starts_with("zip: \"a\": is damaged: Invalid checksum"), "{text}");
    for cut in [0, 1, 30, bytes.len() / 2, bytes.len() - 1] {
        assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    // More, or less, than it says.
    for said in [100, 9000] {
        let lies = python(&format!("entry('a', b'1' * 5000)\nz.filelist[0].file_size = {said}"));
        let text = refused(&lies);
        assert!(text.contains("is damaged"), "{said}: {text}");
    }
}

#[test]
fn bombs_are_refused_before_they_burst() {
    let options = Options { max_bytes: 1000, max_entries: 3, ..Options::default() };
    let limit = |script: &str| read_with(&python(script), &options).unwrap_err().to_string();
    assert_eq!(limit("entry('a', b'0' * 1001)"), "zip: more than 1000 bytes");
    assert_eq!(limit("for i in range(4): entry(str(i), b'')"), "zip: more than 3 entries");
    // Announced as small: what comes is measured.
    let text = limit("entry('a', b'0' * 100000)\nz.filelist[0].file_size = 10");
    assert!(text.contains("is damaged"), "{text}");
    // Many entries over the same data.
    let text = refused(&python(
        "entry('a', b'0' * 100000)\nentry('b', b'')\nb = z.filelist[1]\na = z.filelist[0]\n\
         b.header_offset, b.file_size, b.compress_size, b.CRC = a.header_offset, a.file_size, a.compress_size, a.CRC",
    ));
    assert!(text.contains("shares its data with another entry"), "{text}");
    // An end that announces fewer entries than there are hides some from other readers.
    let mut bytes = python("entry('a', b'1')\nentry('b', b'2')");
    let end = bytes.len() - 22;
    bytes[end + 8] = 1;
    bytes[end + 10] = 1;
    assert_eq!(refused(&bytes), "zip: 2 entries were found where 1 are announced");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&bytes);
    }
}

#[test]
fn a_flipped_bit_gives_an_error_or_what_was_written() {
    let bytes = python("entry('dir/a', b'hello' * 50)\nentry('b', b'1', how=zipfile.ZIP_STORED)");
    let whole = by_path(&read(&bytes).unwrap());
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            let Ok(seen) = read(&flipped) else { continue };
            // Names and modes have no checksum; content does.
            for (kind, _, content) in by_path(&seen).into_values() {
                let known = whole.values().any(|(_, _, right)| *right == content);
                assert!(known || !matches!(kind, Kind::File { .. }), "byte {at} was flipped unnoticed");
            }
        }
    }
}
