//! Kernel configurations and images, against real .config files. Knows no kernel source tree.

mod common;

use std::fs;

use mosbuild_formats::compress::{Compression, compress};
use mosbuild_formats::kconfig::{Config, Symbols, Value, check_fragment, diff};
use mosbuild_formats::kernel_image::{self, Kind};
use mosbuild_formats::{bzimage, zboot};
use proptest::prelude::*;

const CONFIGS: [&str; 3] =
    ["zero-os-6.1.52.config", "debian-6.1.0-56-amd64.config", "alpine-linux-virt-6.18.56.config"];

#[test]
fn real_configurations_are_read_whole() {
    let Some(dir) = common::fixtures("kernel-config") else { return };
    for name in CONFIGS {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let config = Config::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        // What is written is what was read, but for order and comments.
        let mut theirs: Vec<&str> = text.lines().filter(|l| l.contains("CONFIG_")).collect();
        theirs.sort_unstable();
        theirs.dedup();
        let ours = config.to_string();
        let mut ours: Vec<&str> = ours.lines().collect();
        ours.sort_unstable();
        assert_eq!(ours, theirs, "{name}");
    }
    let zero_os = Config::parse(&fs::read_to_string(dir.join(CONFIGS[0])).unwrap()).unwrap();
    assert_eq!(zero_os.get("CONFIG_INITRAMFS_SOURCE"), Some(&Value::Text("../../root".into())));
    assert_eq!(zero_os.get("LOCALVERSION"), Some(&Value::Text("-Zero-OS".into())));
    assert_eq!(zero_os.get("BTRFS_FS"), Some(&Value::Module));
    assert!(zero_os.enabled("KERNEL_XZ") && !zero_os.enabled("MODULE_SIG"));
}

#[test]
fn a_fragment_is_checked_against_what_came_of_it() {
    let fragment = Config::parse(
        "# wanted\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\n# CONFIG_D is not set\nCONFIG_E=\"a \\\"b\\\" \\\\\"\n\
         CONFIG_F=0x10\nCONFIG_G=y\nCONFIG_H=\"\"\nCONFIG_I=m\nCONFIG_A=m\n",
    )
    .unwrap();
    assert_eq!(fragment.get("A"), Some(&Value::Module), "the last counts");
    assert_eq!(fragment.get("E"), Some(&Value::Text("a \"b\" \\".into())));
    let result = Config::parse(
        "CONFIG_A=m\nCONFIG_B=y\nCONFIG_D=m\nCONFIG_E=\"a \\\"b\\\" \\\\\"\nCONFIG_F=16\n# CONFIG_G is not set\n",
    )
    .unwrap();
    let missing = check_fragment(&fragment, &result);
    let shown: Vec<String> =
        missing.iter().map(|m| format!("{} {} {:?}", m.symbol, m.wanted, m.got)).collect();
    assert_eq!(shown, ["B m Some(Yes)", "D n Some(Module)", "G y Some(No)", "H \"\" None", "I m None"]);
}

#[test]
fn differences_are_listed_by_symbol() {
    let before = Config::parse("CONFIG_A=y\nCONFIG_B=1\nCONFIG_C=y\n").unwrap();
    let after = Config::parse("CONFIG_A=y\nCONFIG_B=2\n# CONFIG_D is not set\n").unwrap();
    let changes: Vec<_> = diff(&before, &after).into_iter().map(|c| (c.symbol, c.before, c.after)).collect();
    assert_eq!(
        changes,
        [
            ("B".into(), Some(Value::Number("1".into())), Some(Value::Number("2".into()))),
            ("C".into(), Some(Value::Yes), None),
            ("D".into(), None, Some(Value::No)),
        ]
    );
}

#[test]
fn lines_that_are_no_settings_are_named() {
    for (text, line) in
        [("CONFIG_A=y\nFOO=y\n", 2), ("CONFIG_A\n", 1), ("CONFIG_A=yes\n", 1), ("CONFIG_=y", 1)]
    {
        assert_eq!(Config::parse(text).unwrap_err().line, line, "{text}");
    }
    assert!(Config::parse("CONFIG_A=\"open\n").is_err());
    assert!(Config::parse("CONFIG_A=\"x\" y\n").is_err());
}

const KCONFIG: &str = r#"
mainmenu "x"
config PLAIN
	bool "A prompt" if EXPERT
	default y
	help
	  config NOT_A_SYMBOL
	    bool "in help"

	  config NEITHER
config HIDDEN
	tristate
	select PLAIN
menuconfig MENU
	tristate 'Single "quotes"'
config DEFBOOL
	def_bool y
config SPLIT
	string
	prompt "Given apart"
choice
	prompt "of a choice"
config IN_CHOICE
	bool \
	  "continued"
endchoice
config HIDDEN
	int "another definition"
comment "none"
	bool "no symbol's"
"#;

#[test]
fn symbols_with_a_prompt_are_told_from_those_without() {
    let mut symbols = Symbols::default();
    symbols.scan(KCONFIG);
    let names: Vec<&str> = symbols.symbols.keys().map(String::as_str).collect();
    assert_eq!(names, ["DEFBOOL", "HIDDEN", "IN_CHOICE", "MENU", "PLAIN", "SPLIT"]);
    assert_eq!(symbols.has_prompt("CONFIG_PLAIN"), Some(true));
    assert_eq!(symbols.symbols["PLAIN"].condition.as_deref(), Some("EXPERT"));
    assert_eq!(symbols.symbols["MENU"].prompt.as_deref(), Some("Single \"quotes\""));
    assert_eq!(symbols.has_prompt("DEFBOOL"), Some(false));
    assert_eq!(symbols.symbols["DEFBOOL"].kind.as_deref(), Some("bool"));
    assert_eq!(symbols.has_prompt("SPLIT"), Some(true));
    assert_eq!(symbols.has_prompt("IN_CHOICE"), Some(true));
    assert_eq!(symbols.has_prompt("HIDDEN"), Some(true), "one definition of two has one");
    assert_eq!(symbols.has_prompt("NEITHER"), None);
}

/// "Is not set" is written only of symbols a user can see (or that another implies), so each of them must be found to have a prompt.
/// MOSBUILD_TEST_KCONFIG names a configured kernel source tree.
#[test]
#[allow(clippy::print_stderr)]
fn every_symbol_that_is_not_set_has_a_prompt() {
    let Some(tree) = std::env::var_os("MOSBUILD_TEST_KCONFIG") else {
        eprintln!("did not run: MOSBUILD_TEST_KCONFIG names no configured kernel source tree");
        return;
    };
    let mut symbols = Symbols::default();
    let mut implied = std::collections::BTreeSet::new();
    let mut todo = vec![std::path::PathBuf::from(&tree)];
    let config = fs::read_to_string(todo[0].join(".config")).unwrap();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else if name.starts_with("Kconfig") {
                let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                symbols.scan(&text);
                let words =
                    text.lines().filter_map(|l| l.trim().strip_prefix("imply ")?.split_whitespace().next());
                implied.extend(words.map(str::to_owned));
            }
        }
    }
    let config = Config::parse(&config).unwrap();
    let unset = config.values.iter().filter(|(_, v)| **v == Value::No);
    let wrong: Vec<&String> = unset
        .map(|(symbol, _)| symbol)
        .filter(|s| symbols.has_prompt(s) != Some(true))
        .filter(|s| !implied.contains(*s))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let unknown: Vec<&String> = config.values.keys().filter(|s| symbols.has_prompt(s).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn image(text: &[u8], pointer: u16) -> Vec<u8> {
    let mut image = vec![0; 0x600];
    image[0x1f1] = 2;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&pointer.to_le_bytes());
    let at = usize::from(pointer) + 0x200;
    if let Some(place) = image.get_mut(at..at + text.len()) {
        place.copy_from_slice(text);
    }
    image
}

#[test]
fn the_version_is_read_within_bounds() {
    let good = image(b"6.1.52-Zero-OS (mos@mos) #1 SMP\0", 0x100);
    assert_eq!(bzimage::version(&good), Ok("6.1.52-Zero-OS (mos@mos) #1 SMP"));
    assert_eq!(bzimage::release(&good), Ok("6.1.52-Zero-OS"));
    assert_eq!(bzimage::version(&image(b"", 0)), Err(bzimage::Error::NoVersion));
    assert_eq!(bzimage::version(&image(b"", 0xffff)), Err(bzimage::Error::OutOfBounds));
    assert_eq!(bzimage::version(&image(&[b'x'; 0x100], 0x300)), Err(bzimage::Error::OutOfBounds));
    assert_eq!(bzimage::version(&image(b"\0", 0x100)), Err(bzimage::Error::NoVersion));
    let mut short = image(b"behind the setup part\0", 0x300);
    short[0x1f1] = 1;
    assert_eq!(bzimage::version(&short), Err(bzimage::Error::OutOfBounds));
    assert_eq!(bzimage::version(&good[..0x205]), Err(bzimage::Error::NoHeader));
    assert_eq!(bzimage::version(&good[..0x20e]), Err(bzimage::Error::NoHeader));
    assert_eq!(bzimage::version(b"\x7fELF"), Err(bzimage::Error::NoHeader));
}

/// An arm64 Image: its header, and this text behind it.
fn arm64(text: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image.extend_from_slice(text);
    image
}

/// An EFI zboot image as zboot-header.S lays it out, with this payload.
fn zimg(name: &[u8], payload: &[u8], appended: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    image[..8].copy_from_slice(b"MZ\0\0zimg");
    image[8..12].copy_from_slice(&0x400_u32.to_le_bytes());
    image[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image[24..24 + name.len()].copy_from_slice(name);
    [&image, payload, appended].concat()
}

#[test]
fn a_release_is_read_off_the_banner() {
    let text =
        b"Linux version %s\0Linux version  (\0Linux version 6.12.44-mos (mosbuild@mosbuild) (gcc) #1 SMP\n\0\
                 Linux version 5.0-archive (a@b)";
    let image = arm64(text);
    assert_eq!(kernel_image::kind(&image), Some(Kind::Arm64Image));
    assert_eq!(kernel_image::release(&image).unwrap(), "6.12.44-mos");
    for (name, how, appended) in [
        (&b"gzip"[..], Compression::Gzip { level: 9 }, &b""[..]),
        (b"zstd22", Compression::Zstd { level: 19 }, &[0, 0x10, 0, 0]),
        (b"xzkern", Compression::Xz { level: 6 }, &[0, 0x10, 0, 0]),
    ] {
        let packed = zimg(name, &compress(&image, how, 1).unwrap(), appended);
        assert_eq!(kernel_image::kind(&packed), Some(Kind::Zboot));
        assert!(zboot::unpack(&packed).unwrap() == image);
        assert_eq!(kernel_image::release(&packed).unwrap(), "6.12.44-mos");
    }
    let said = |image: &[u8]| kernel_image::release(image).unwrap_err().to_string();
    assert_eq!(said(&arm64(b"Linux version 6.12")), "kernel image has no version text");
    assert!(said(b"\x7fELF").starts_with("not a kernel image"));
    let lz4 = zimg(b"lz4", b"\x02\x21\x4c\x18", b"");
    assert_eq!(said(&lz4), "the EFI zboot image is compressed with \"lz4\", which cannot be read here");
    let mut far = zimg(b"gzip", b"\x1f\x8b", b"");
    assert!(said(&far).starts_with("the payload of the EFI zboot image: "), "{}", said(&far));
    far[12] = 0xff;
    assert!(said(&far).contains("out of bounds"));
    assert!(said(&far[..40]).contains("no zimg"));
}

/// MOSBUILD_TEST_BZIMAGE names a kernel image; file(1) must agree.
#[test]
#[allow(clippy::print_stderr)]
fn file_agrees_about_a_real_image() {
    let Some(path) = std::env::var_os("MOSBUILD_TEST_BZIMAGE") else {
        eprintln!("did not run: MOSBUILD_TEST_BZIMAGE names no kernel image");
        return;
    };
    let image = fs::read(&path).unwrap();
    let theirs = common::tool("file", &["-b", path.to_str().unwrap()], std::path::Path::new("/"), b"");
    let theirs = String::from_utf8(theirs).unwrap();
    let ours = bzimage::version(&image).unwrap();
    assert!(theirs.contains(&format!("version {ours}, ")), "{ours}: {theirs}");
}

proptest! {
    #[test]
    fn odd_text_does_not_panic(text in "(CONFIG_[A-C]=[ym\"\\\\0-9x]{0,4}|# CONFIG_A is not set|[\\PC\n]{0,6}|\n)*") {
        if let Ok(config) = Config::parse(&text) {
            // What is written reads back the same.
            prop_assert_eq!(&Config::parse(&config.to_string()).unwrap(), &config);
        }
    }

    #[test]
    fn odd_source_does_not_panic(text in "((menu)?config |help|bool|prompt|[\"'\\\\\n\t A-C])*") {
        Symbols::default().scan(&text);
    }

    #[test]
    fn odd_images_do_not_panic(pointer: u16, sectors: u8, len in 0usize..0x600) {
        let mut image = image(b"x", pointer);
        image[0x1f1] = sectors;
        let _ = bzimage::version(&image);
        let _ = bzimage::release(&image[..len]);
    }

    #[test]
    fn odd_arm64_images_do_not_panic(header in prop::collection::vec(any::<u8>(), 0..80), gzip: bool, len in 0usize..0x480) {
        let payload = compress(&arm64(b"Linux version 1 ("), Compression::Gzip { level: 1 }, 1).unwrap();
        let mut image = if gzip { zimg(b"gzip", &payload, b"") } else { arm64(b"Linux version 1 (") };
        image.truncate(image.len().min(len.max(8)));
        let _ = kernel_image::release(&image);
        for (at, byte) in header.iter().enumerate().skip(8) {
            if let Some(place) = image.get_mut(at) {
                *place = *byte;
            }
        }
        let _ = kernel_image::release(&image);
        let _ = zboot::unpack(&header);
    }
}
