//! Where files differ, by archives, programs and images that the real tools made; and for arbitrary bytes.

mod common;

use std::path::Path;
use std::process::Command;

use mosbuild_formats::compress::{Compression, compress};
use mosbuild_formats::difference::{Difference, Surroundings, find};
use proptest::prelude::*;

/// Runs a script of a shell in a new folder and gives a file that it made.
fn made(script: &str, file: &str, with: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out =
        Command::new("sh").args(["-euc", script]).env("WITH", with).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    std::fs::read(dir.path().join(file)).unwrap_or_else(|e| panic!("{}: {e}", Path::new(file).display()))
}

/// The difference of what a script makes with one word and with another.
fn between(script: &str, file: &str, first: &str, second: &str) -> Difference {
    find(&made(script, file, first), &made(script, file, second)).unwrap_or_else(|| panic!("{script}: equal"))
}

const TREE: &str = "mkdir -p t/etc; echo \"made at $WITH\" > t/etc/stamp; echo same > t/etc/same; find t -exec touch -d @7 {} +\n";

fn cpio(more: &str) -> String {
    format!(
        "{TREE}cd t; find . | LC_ALL=C sort | cpio -o -H newc --reproducible --quiet > ../a.cpio; cd ..; {more}"
    )
}

#[test]
fn members_of_archives_are_named() {
    for (script, file, place) in [
        (cpio(""), "a.cpio", "member etc/stamp of the cpio archive"),
        (
            cpio("xz a.cpio"),
            "a.cpio.xz",
            "member etc/stamp of the cpio archive, in what is compressed with xz",
        ),
        (
            cpio("gzip -n a.cpio"),
            "a.cpio.gz",
            "member etc/stamp of the cpio archive, in what is compressed with gzip",
        ),
        (format!("{TREE}tar -cf a.tar -C t etc"), "a.tar", "member etc/stamp of the tar archive"),
        (
            format!("{TREE}tar -cf a.tar t; gzip -n a.tar; ar rcD lib.a a.tar.gz"),
            "lib.a",
            "member t/etc/stamp of the tar archive, in what is compressed with gzip, in member a.tar.gz of the ar archive",
        ),
        (
            format!(
                "{TREE}python3 -c \"
import zipfile
with zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    for name in ('t/etc/same', 't/etc/stamp'):
        z.writestr(zipfile.ZipInfo(name), open(name).read(), zipfile.ZIP_DEFLATED)\""
            ),
            "a.zip",
            "member t/etc/stamp of the zip archive",
        ),
    ] {
        let found = between(&script, file, "noon", "midnight");
        assert_eq!(found.place(), format!("line 1, in {place}"));
        assert_eq!(found.values(), ("made at noon".into(), "made at midnight".into()));
    }
}

#[test]
fn an_archive_behind_another_is_opened_too() {
    // Microcode comes first, not compressed, and the root behind it is.
    let script = cpio(
        "echo early | cpio -o -H newc --quiet > early 2>/dev/null || true; : > x; echo x | cpio -o -H newc --reproducible --quiet > early; gzip -n a.cpio; cat early a.cpio.gz > both",
    );
    let script = script.replace(": > x;", ": > x; touch -d @7 x;");
    let found = between(&script, "both", "noon", "midnight");
    assert!(
        found.place().starts_with(
            "line 1, in member etc/stamp of the cpio archive, in what is compressed with gzip, in the archive behind it at 0x"
        ),
        "{}",
        found.place()
    );
}

#[test]
fn what_is_said_of_members_is_told_where_their_content_is_equal() {
    let times = "mkdir t; echo x > t/a; touch -d @\"$WITH\" t/a; touch -d @7 t\n";
    for (more, file, of) in [
        (
            "cd t; find . | LC_ALL=C sort | cpio -o -H newc --reproducible --quiet > ../a.cpio",
            "a.cpio",
            "member a of the cpio archive",
        ),
        ("tar -cf a.tar t", "a.tar", "member t/a of the tar archive"),
        ("cd t; ar rcU ../lib.a a", "lib.a", "member a of the ar archive"),
    ] {
        let found = between(&format!("{times}{more}"), file, "1700000000", "1700000005");
        assert_eq!(found.place(), format!("mtime, in {of}"));
        assert_eq!(found.values(), ("1700000000".into(), "1700000005".into()));
        let around = Surroundings {
            times: [(1_699_999_999, 1_700_000_001), (1_700_000_004, 1_700_000_006)],
            ..Surroundings::default()
        };
        assert_eq!(found.reason(&around).kind, "time");
        assert!(found.reason(&around).text.contains("the time of the build"), "{found:?}");
        assert!(found.reason(&Surroundings::default()).text.contains("a time of a file"));
    }
    let found = between("echo x > a; touch -d @\"$WITH\" a; gzip -N a", "a.gz", "1700000000", "1700000005");
    assert_eq!(found.place(), "mtime, in what is compressed with gzip");
    let modes = "mkdir t; echo x > t/a; chmod \"$WITH\" t/a; touch -d @7 t/a t; tar -cf a.tar t";
    let found = between(modes, "a.tar", "644", "664");
    assert_eq!(
        (found.place().as_str(), found.reason(&Surroundings::default()).kind),
        ("mode, in member t/a of the tar archive", "umask")
    );
}

#[test]
fn an_order_and_a_missing_member_are_told_from_content() {
    let order = "echo 1 > a; echo 2 > b; touch -d @7 a b; for f in $WITH; do echo $f; done | cpio -o -H newc --reproducible --quiet > x";
    let found = between(order, "x", "a b", "b a");
    // GNU cpio numbers inodes in the order of the archive, which follows from it.
    assert!(
        ["inode number", "order of the members"].iter().any(|text| found.place().starts_with(text)),
        "{}",
        found.place()
    );
    assert_eq!(found.reason(&Surroundings::default()).kind, "order");
    let found = between("echo 1 > a; echo 2 > b; touch -d @7 a b; tar -cf x $WITH", "x", "a b", "b a");
    assert_eq!(found.place(), "order of the members, from the 1. on");
    assert_eq!(found.values(), ("a".into(), "b".into()));
    let found = between("echo 1 > a; echo 2 > b; touch -d @7 a b; tar -cf x $WITH", "x", "a b", "a");
    assert_eq!(found.place(), "member b of the tar archive");
    assert_eq!(found.values(), ("it is there".into(), "it is not there".into()));
    let found = between("for w in $WITH; do echo $w; done > x", "x", "z y x", "x y z");
    assert_eq!(
        (found.place().as_str(), found.reason(&Surroundings::default()).kind),
        ("order of the lines, from the 1. on", "order")
    );
}

#[test]
fn equal_content_that_is_compressed_otherwise_is_told() {
    let found = between("seq 100000 > a; xz -k --$WITH a", "a.xz", "fast", "best");
    assert_eq!(found.place(), "how it is compressed, in what is compressed with xz");
    assert_eq!(found.reason(&Surroundings::default()).kind, "compression");
}

const PROGRAM: &str = r#"cat > a.c << 'END'
#include <stdio.h>
int table[4] = { 1, 2, NUMBER, 4 };
const char *const stamp = STAMP;
int main(void) { return puts(stamp) + table[0]; }
END
"#;

#[test]
fn sections_and_symbols_of_programs_are_named() {
    let text = format!("{PROGRAM}gcc -DNUMBER=3 -DSTAMP=\"\\\"$WITH\\\"\" -o a a.c");
    let found = between(&text, "a", "built 12:30:01 now", "built 12:30:07 now");
    assert!(found.place().ends_with("in ELF section .rodata"), "{}", found.place());
    assert_eq!(found.values().0, "\"built 12:30:01 now\"");
    assert_eq!(found.reason(&Surroundings::default()).kind, "time");
    let number = format!("{PROGRAM}gcc -DNUMBER=$WITH -DSTAMP='\"x\"' -Wl,--build-id=none -o a a.c");
    let found = between(&number, "a", "3", "9");
    assert!(found.place().ends_with("in symbol table+0x8 of the ELF section .data"), "{}", found.place());
    let id = format!("{PROGRAM}gcc -DNUMBER=3 -DSTAMP='\"x\"' -Wl,--build-id=0x$WITH -o a a.c");
    let found = between(&id, "a", "0102030405060708", "0102030405060709");
    assert!(found.place().contains("ELF section .note.gnu.build-id"), "{}", found.place());
    assert_eq!(found.reason(&Surroundings::default()).kind, "random");
    // A path, in an object inside a static library.
    let path = format!(
        "mkdir -p \"$WITH\"; cd \"$WITH\"; {PROGRAM}gcc -DNUMBER=3 -DSTAMP=__FILE__ -c \"$PWD/a.c\" -o a.o; ar rcD ../lib.a a.o"
    );
    let found = between(&path, "lib.a", "first-path", "other-path");
    assert!(found.place().ends_with("of the ar archive"), "{}", found.place());
    let around = Surroundings {
        paths: [vec!["first-path".into()], vec!["other-path".into()]],
        ..Surroundings::default()
    };
    assert_eq!(found.reason(&around).kind, "path");
}

/// A bzImage as to its header (Documentation/arch/x86/boot.rst), around a kernel that the linker made, around an archive.
fn image(kernel: &[u8], note: u8) -> Vec<u8> {
    let mut image = vec![0u8; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x300] = note;
    let boot = [0x90u8; 64];
    image.extend(boot);
    let payload = compress(kernel, Compression::Xz { level: 1 }, 1).unwrap();
    image[0x248..0x24c].copy_from_slice(&(boot.len() as u32).to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
    image.extend(&payload);
    image.extend((kernel.len() as u32).to_le_bytes());
    image.extend([0x90u8; 32]);
    image
}

#[test]
fn a_difference_deep_in_a_kernel_image_is_found() {
    // As in vmlinux: the archive lies in .init.data behind other data, and no symbol says where.
    let kernel = |with: &str, compressed: bool| {
        let pack = if compressed { "xz -9 a.cpio; mv a.cpio.xz archive" } else { "mv a.cpio archive" };
        let link = r#"
cat > k.S << 'END'
.section .init.data, "aw"
.fill 9000, 1, 7
.incbin "archive"
.fill 900, 1, 9
.text
.globl _start
_start: nop
END
gcc -nostdlib -static -Wl,--build-id=none -o k k.S; strip k"#;
        made(&format!("{}{link}", cpio(pack)), "k", with)
    };
    for compressed in [false, true] {
        let (a, b) = (image(&kernel("noon", compressed), 0), image(&kernel("dawn", compressed), 0));
        let place = find(&a, &b).unwrap().place();
        assert!(place.starts_with("line 1, in member etc/stamp of the cpio archive, in "), "{place}");
        // A plain archive is found by its member, a compressed one by its beginning, behind 9000 bytes.
        let at =
            if compressed { "in the built-in archive at 0x2328" } else { "in the built-in archive at 0x2" };
        assert!(place.contains(at), "{place}");
        assert!(place.ends_with("in ELF section .init.data, in the compressed kernel at 0x440"), "{place}");
    }
    let k = kernel("noon", true);
    let place = find(&image(&k, 1), &image(&k, 2)).unwrap().place();
    assert_eq!(place, "offset 0x300, in the setup code at 0x0");
}

#[test]
fn binary_times_are_told_by_the_time_of_the_build() {
    let around = Surroundings {
        times: [(1_700_000_000, 1_700_000_010), (1_700_000_100, 1_700_000_110)],
        ..Surroundings::default()
    };
    let file = |time: u32, big: bool| {
        let mut bytes = vec![0u8, 1, 2, 3, 4, 5];
        bytes.extend(if big { time.to_be_bytes() } else { time.to_le_bytes() });
        bytes.extend([0xff, 0]);
        bytes
    };
    for big in [false, true] {
        let found = find(&file(1_700_000_004, big), &file(1_700_000_105, big)).unwrap();
        assert_eq!(found.reason(&around).kind, "time", "{found:?}");
        let found = find(&file(12_345, big), &file(54_321, big)).unwrap();
        assert_eq!(found.reason(&around).kind, "random", "{found:?}");
    }
    for (one, two, kind) in [
        ("epoch=1700000004\n", "epoch=1700000106\n", "time"),
        ("millis=1700000004123\n", "millis=1700000106123\n", "time"),
        ("made with 2 jobs\n", "made with 1 jobs\n", "processors"),
        ("host vm-one\n", "host vm-two\n", "hostname"),
        ("id d41d8cd9\n", "id 00b204e9\n", "random"),
    ] {
        let around =
            Surroundings { processors: [2, 1], hosts: ["vm-one".into(), "vm-two".into()], ..around.clone() };
        assert_eq!(find(one.as_bytes(), two.as_bytes()).unwrap().reason(&around).kind, kind, "{one}");
    }
}

/// Some containers to be damaged.
fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(|| {
        vec![
            made(&cpio(""), "a.cpio", "noon"),
            made(&cpio("xz a.cpio"), "a.cpio.xz", "noon"),
            made(&format!("{TREE}tar -cf a.tar t"), "a.tar", "noon"),
            made(&format!("{TREE}ar rcD lib.a t/etc/*"), "lib.a", "noon"),
            made(&format!("{PROGRAM}gcc -DNUMBER=3 -DSTAMP='\"x\"' -c -o a a.c"), "a", ""),
            image(b"no program", 0),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_the_bytes_there_is_an_answer_exactly_if_they_differ(
        which in 0usize..6, edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
    ) {
        let first = samples()[which].clone();
        let mut second = first.clone();
        for (at, byte) in edits {
            let at = at.index(second.len());
            second[at] = byte;
        }
        if cuts {
            second.truncate(cut.index(second.len()));
        }
        for (a, b) in [(&first, &second), (&second, &first)] {
            match find(a, b) {
                None => prop_assert_eq!(a, b),
                Some(found) => {
                    prop_assert_ne!(a, b);
                    prop_assert!(!found.place().is_empty());
                    found.values();
                    found.reason(&Surroundings::default());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_compared(a in proptest::collection::vec(any::<u8>(), 0..300), b in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(find(&a, &b).is_none(), a == b);
    }
}
