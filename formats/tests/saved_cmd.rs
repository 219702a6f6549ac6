//! Saved commands as kbuild writes them, and thin archives of the real ar. Knows no kernel.

mod common;

use mosbuild_formats::saved_cmd::{Compress, Error, SavedCommand, is_thin, thin_members};
use proptest::prelude::*;

/// As 6.12 leaves it.
const DATA: &str = r#"savedcmd_usr/initramfs_data.o := gcc -Wp,-MMD,usr/.initramfs_data.o.d -I./include -DKBUILD_MODFILE='"usr/initramfs_data"' -c -o usr/initramfs_data.o /src/linux/usr/initramfs_data.S  ; ./tools/objtool/objtool --uaccess   usr/initramfs_data.o

source_usr/initramfs_data.o := /src/linux/usr/initramfs_data.S

deps_usr/initramfs_data.o := \
    $(wildcard include/config/64BIT) \
  /src/linux/include/linux/compiler-version.h \
    $(wildcard include/config/CC_VERSION_TEXT) \
  include/generated/autoconf.h \

usr/initramfs_data.o: $(deps_usr/initramfs_data.o)

$(deps_usr/initramfs_data.o):

usr/initramfs_data.o: $(wildcard ./tools/objtool/objtool)
"#;
const ZOFFSET: &str = "savedcmd_a/zoffset.h := nm a/vmlinux | sed -n -e 's/^\\(_end\\)$$/$(pound)define ZO_\\1/p' > a/zoffset.h\n";

#[test]
fn commands_and_what_was_read() {
    let saved = SavedCommand::parse(DATA).unwrap();
    assert_eq!(saved.target, "usr/initramfs_data.o");
    assert!(
        saved.command.starts_with("gcc -Wp,")
            && saved.command.ends_with("objtool --uaccess   usr/initramfs_data.o")
    );
    assert_eq!(
        saved.reads,
        [
            "/src/linux/usr/initramfs_data.S",
            "/src/linux/include/linux/compiler-version.h",
            "include/generated/autoconf.h"
        ]
    );
    assert_eq!(saved.words().nth(1), Some("-Wp,-MMD,usr/.initramfs_data.o.d"));
    let zoffset = SavedCommand::parse(ZOFFSET).unwrap();
    assert_eq!(zoffset.command, "nm a/vmlinux | sed -n -e 's/^\\(_end\\)$/#define ZO_\\1/p' > a/zoffset.h");
    assert_eq!(zoffset.to_text(), ZOFFSET);
    // Kernels before 6.4.
    assert_eq!(SavedCommand::parse("cmd_a.o := as a\n").unwrap().command, "as a");
}

#[test]
fn what_is_not_understood_is_said() {
    assert_eq!(SavedCommand::parse(""), Err(Error::NoCommand));
    assert_eq!(SavedCommand::parse("a.o: a.c\n"), Err(Error::NoCommand));
    assert_eq!(SavedCommand::parse("savedcmd_a := \n"), Err(Error::NoCommand));
    let error = SavedCommand::parse("savedcmd_a := echo $(shell date) b\n").unwrap_err();
    assert_eq!(error.to_string(), r#"the command has "$(shell date) b", which only make understands"#);
}

#[test]
fn compressions() {
    let of = |text: &str| {
        Compress::of(&SavedCommand { target: "c/v.xz".into(), command: text.into(), reads: Vec::new() })
    };
    let plain = of("cat c/v c/relocs | gzip -n -f -9 > c/v.xz").unwrap();
    assert_eq!(
        (plain.files.join(" ").as_str(), plain.program.as_str(), plain.sized),
        ("c/v c/relocs", "gzip -n -f -9", false)
    );
    let sized =
        of(r"{ cat c/v | sh /src/linux/scripts/xz_wrap.sh; printf \144\220\001\000; } > c/v.xz").unwrap();
    assert_eq!((sized.program.as_str(), sized.sized), ("sh /src/linux/scripts/xz_wrap.sh", true));
    let lz4 =
        of(r"{ cat c/v | lz4 -l -9 - -;                   printf \144\220\001\000; } > c/v.xz").unwrap();
    assert_eq!(lz4.program, "lz4 -l -9 - -");
    for other in [
        "gzip < c/v > c/v.xz",
        "cat c/v | gzip > c/other",
        "cat c/v | gzip | tee x > c/v.xz",
        "{ cat c/v | gzip; rm -r x; } > c/v.xz",
        "{ cat c/v | gzip; printf $(x); } > c/v.xz",
        "cat c/`v` | gzip > c/v.xz",
        "",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn members_are_those_that_ar_lists() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("drivers/a-folder-with-a-long-name")).unwrap();
    let names = ["a.o", "drivers/a-folder-with-a-long-name/built.o", "drivers/b.o"];
    for name in names {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    common::tool("ar", &[&["cDPrST", "thin.a"], &names[..]].concat(), dir.path(), b"");
    let bytes = std::fs::read(dir.path().join("thin.a")).unwrap();
    assert_eq!(thin_members(&bytes).unwrap(), names);
    common::tool("ar", &["cr", "fat.a", "a.o"], dir.path(), b"");
    let fat = std::fs::read(dir.path().join("fat.a")).unwrap();
    assert!(!is_thin(&fat) && thin_members(&fat).is_err());
    for end in 0..bytes.len() {
        let _ = thin_members(&bytes[..end]);
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(target in "[a-z/._-]{1,20}", command in "[ -~]{0,60}", reads in proptest::collection::vec("/?[a-z][a-z/._-]{0,20}", 0..5)) {
        let command = command.trim().to_owned();
        prop_assume!(!command.is_empty());
        let saved = SavedCommand { target, command, reads };
        prop_assert_eq!(SavedCommand::parse(&saved.to_text()), Ok(saved));
    }

    #[test]
    fn nothing_panics(text in "(savedcmd_|cmd_|deps_a|source_a| := |[$(){}\\\\|>;a\n ]){0,40}") {
        if let Ok(saved) = SavedCommand::parse(&text) {
            prop_assert_eq!(SavedCommand::parse(&saved.to_text()), Ok(saved.clone()));
            let _ = Compress::of(&saved);
        }
    }

    #[test]
    fn damaged_archives_do_not_panic(edits in proptest::collection::vec((0usize..300, any::<u8>()), 1..8)) {
        let mut bytes = b"!<thin>\n//                                              14        `\ninit/main.o/\n\n/0              0           0     0     644     1234      `\n".to_vec();
        prop_assert_eq!(thin_members(&bytes).unwrap(), ["init/main.o"]);
        for (at, byte) in edits {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = thin_members(&bytes);
    }
}
