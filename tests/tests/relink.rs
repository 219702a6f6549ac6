//! What makes a changed image cheap, without a kernel: archives of segments, and the fields of `kernel` as they are
//! checked at load. What is linked is compared by scripts/test-quickstart and scripts/relink-matrix.

use std::process::{Command, Stdio};

use mosbuild_tests::{Space, need};

/// Kind, path and checksum of what an archive unpacks to, by the real tools; the same for whatever it is made of.
fn unpacked(space: &Space, archive: &str, with: &str) -> String {
    for (program, package) in [(with, with), ("cpio", "cpio")] {
        need(program, package);
    }
    // GNU cpio stops at the end of the first archive, the kernel does not: one run for each.
    let script = format!(
        "{with} -dc \"$1\" > \"$2/all\"; cd \"$2\"; mkdir tree; \
         (cd tree; while cpio -idu --quiet; do :; done) < all 2> /dev/null || :; \
         find tree \\( -type f -exec sha256sum {{}} + \\) -o -printf '%p %y %m %l\\n' | sort"
    );
    let at = tempfile::tempdir_in(space.base()).unwrap();
    let run = Command::new("sh")
        .args(["-euc", &script, "sh"])
        .args([space.path(archive).as_path(), at.path()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn of_an_archive_of_segments_only_what_changed_is_compressed_again() {
    for format in ["xz", "zstd", "gzip"] {
        let yaml = format!(
            r#"targets:
  system: {{ rule: files, install: [{{ from: tree/, to: /srv, mode: "0644" }}, {{ link: a, at: /srv/link }}] }}
  whole: {{ rule: cpio, root: system, compress: {format} }}
  parts: {{ rule: cpio, root: system, compress: {{ format: {format}, segments: true }} }}
"#
        );
        let space = Space::new(&yaml);
        for n in 0..60u32 {
            let noise: Vec<u8> = (0..100_000u32).map(|k| (k.wrapping_mul(n + 3) >> 7) as u8).collect();
            space.write(&format!("tree/d{}/f{n}", n / 7), noise);
        }
        space.builds(&["whole", "parts"]).counts(3, 0, 0);
        let tree = unpacked(&space, "dist/parts", format);
        assert_eq!(tree, unpacked(&space, "dist/whole", format));
        assert!(tree.lines().count() > 65, "{tree}");
        let log = space.log("parts");
        let said = |log: &str| log.split_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<usize>>();
        let all = said(&log)[1];
        assert!(all >= 6 && said(&log)[0] <= all, "{log}");
        let before = space.bytes("dist/parts");
        space.write("tree/d4/f30", "another");
        space.builds(&["parts"]).counts(2, 0, 0);
        let log = space.log("parts");
        assert!((1..=2).contains(&said(&log)[0]), "{log}");
        assert_ne!(space.bytes("dist/parts"), before);
        // As one who never built it gets it.
        let other = space.beside("other", &yaml).with_store("other-store");
        for entry in 0..60u32 {
            let path = format!("tree/d{}/f{entry}", entry / 7);
            other.write(&path, space.bytes(&path));
        }
        other.builds(&["parts"]);
        assert_eq!(other.bytes("dist/parts"), space.bytes("dist/parts"));
    }
}

#[test]
fn slots_and_levels_are_checked_at_load() {
    let space = Space::new(
        r#"targets:
  linux: { rule: linux, source: { path: linux }, base: tinyconfig }
  a: { rule: command, run: ': > "$OUT/a"', outputs: [a] }
  small: { rule: kernel, linux: linux, initramfs: a, slot: 12 }
  large: { rule: kernel, linux: linux, initramfs: a, slot: 1GiB }
  level: { rule: kernel, linux: linux, initramfs: a, level: 23 }
  both: { rule: kernel, linux: linux, initramfs: a, make: true, level: 2 }
"#,
    );
    space.write("linux/Makefile", "");
    let out = space.run(&["build", "-n"]);
    assert_eq!(out.code, Some(2), "{out}");
    for text in [
        "\"12\" is no size of a slot",
        "\"1GiB\" is no size of a slot",
        "write it as 64MiB",
        "no program that compresses kernels has a level 23",
        "make knows neither slot nor level",
    ] {
        assert!(out.stderr.contains(text), "{text}: {}", out.stderr);
    }
}
