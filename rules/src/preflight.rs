//! What a kernel's configuration must have for the image to boot, checked before anything is compiled.
//! Knows symbols and archive formats; does not know how configurations are made.

use std::fmt::Write;

use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::compress::Format;
use mosbuild_formats::kconfig::Config;

use crate::arch::Arch;
use crate::reproducible;

/// A symbol and what the image needs it for.
struct Need {
    symbol: &'static str,
    why: String,
}

fn need(symbol: &'static str, why: impl Into<String>) -> Need {
    Need { symbol, why: why.into() }
}

/// Input `config`; params `compress` and `bcj` (of the initramfs, empty if not known), `efi` (yes or no), `arch` and
/// `config-file` (where a person adds symbols). No output: it succeeds or not.
pub struct Preflight;

impl Builtin for Preflight {
    fn name(&self) -> &'static str {
        "kernel-preflight"
    }

    fn version(&self) -> u32 {
        2
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let config = parse(&cx.bytes("config")?)?;
        let arch =
            Arch::named(cx.param("arch")).ok_or_else(|| StepError::new(Arch::unknown(cx.param("arch")).0))?;
        let efi = cx.param("efi") == "yes";
        let needs = required(arch, cx.param("compress"), cx.param("bcj"), efi);
        let lacking: Vec<Need> = needs.into_iter().filter(|n| !config.enabled(n.symbol)).collect();
        if !lacking.is_empty() {
            return Err(refuse(&lacking, cx.param("config-file")));
        }
        let mut made = Made::default();
        for need in advised(arch, efi).into_iter().filter(|n| !config.enabled(n.symbol)) {
            let note = format!("warning: CONFIG_{} is not set: {}", need.symbol, need.why);
            (cx.log)(&note);
            made.notes.push(note);
        }
        for doubt in reproducible::doubts(&config) {
            let note = doubt.warning();
            (cx.log)(&note);
            made.notes.push(note);
        }
        Ok(made)
    }
}

/// Refuses compressed firmware that the kernel could not read. Input `config`; params `compress` (xz or zstd) and
/// `config-file`, as above. No output.
pub struct FirmwarePreflight;

impl Builtin for FirmwarePreflight {
    fn name(&self) -> &'static str {
        "firmware-preflight"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let config = parse(&cx.bytes("config")?)?;
        let lacking = firmware_needs(cx.param("compress"), &config);
        match lacking.is_empty() {
            true => Ok(Made::default()),
            false => {
                Err(refuse(&lacking, cx.param("config-file")).help("or leave `compress` out of the firmware"))
            }
        }
    }
}

/// What the configuration lacks to read compressed firmware.
fn firmware_needs(compress: &str, config: &Config) -> Vec<Need> {
    let symbol = match compress {
        "xz" => "FW_LOADER_COMPRESS_XZ",
        "zstd" => "FW_LOADER_COMPRESS_ZSTD",
        _ => return Vec::new(),
    };
    let why = format!("firmware is compressed with {compress}");
    let mut needs =
        vec![need("FW_LOADER", "without it no driver gets firmware"), need("FW_LOADER_COMPRESS", &why)];
    // Before 5.19 there was xz alone, without a symbol of its own.
    let has_choice =
        ["FW_LOADER_COMPRESS_XZ", "FW_LOADER_COMPRESS_ZSTD"].iter().any(|s| config.get(s).is_some());
    if has_choice || compress != "xz" || !config.enabled("FW_LOADER_COMPRESS") {
        needs.push(need(symbol, why));
    }
    needs.into_iter().filter(|need| !config.enabled(need.symbol)).collect()
}

/// The symbol that a compressed initramfs needs.
fn decompressor(format: &str) -> Option<&'static str> {
    match format {
        "xz" => Some("RD_XZ"),
        "zstd" => Some("RD_ZSTD"),
        "gzip" => Some("RD_GZIP"),
        _ => None,
    }
}

/// xz's filters for programs: name, number in a block's head, and the symbol of the kernel's decoder.
const BCJ: [(&str, u64, &str); 7] = [
    ("x86", 0x04, "XZ_DEC_X86"),
    ("powerpc", 0x05, "XZ_DEC_POWERPC"),
    ("arm", 0x07, "XZ_DEC_ARM"),
    ("armthumb", 0x08, "XZ_DEC_ARMTHUMB"),
    ("sparc", 0x09, "XZ_DEC_SPARC"),
    ("arm64", 0x0a, "XZ_DEC_ARM64"),
    ("riscv", 0x0b, "XZ_DEC_RISCV"),
];

fn filtered((name, _, symbol): (&str, u64, &'static str)) -> Need {
    need(symbol, format!("the initramfs went through xz's {name} filter"))
}

fn required(arch: &Arch, compress: &str, bcj: &str, efi: bool) -> Vec<Need> {
    let mut needs = vec![need("BLK_DEV_INITRD", "without it the kernel unpacks no initramfs")];
    if let Some(symbol) = decompressor(compress) {
        needs.push(need(symbol, format!("the initramfs is compressed with {compress}")));
    }
    needs.extend(BCJ.into_iter().filter(|(name, ..)| *name == bcj).map(filtered));
    needs.push(need("BINFMT_ELF", "without it no program starts, /init included"));
    needs.push(need("DEVTMPFS", "the init system mounts /dev from it"));
    if efi {
        needs.push(need(arch.efi, "without it firmware cannot start the image as vmlinuz.efi"));
    }
    needs
}

/// Whose absence is worth a word, although images without it exist.
fn advised(arch: &Arch, efi: bool) -> Vec<Need> {
    let mut needs = vec![
        need("BINFMT_SCRIPT", "scripts that start with #! cannot be run, /init included"),
        need("PRINTK", "the kernel says nothing, not even why it cannot start"),
        need(arch.console.0, "no serial console, which boot tests read"),
        need("PROC_FS", "there is no /proc"),
        need("SYSFS", "there is no /sys"),
        need("TMPFS", "/run and /tmp cannot be mounted, and the root is a ramfs without a bound"),
    ];
    if efi && arch.name == "aarch64" {
        needs.push(need("EFI_ZBOOT", "the image is not compressed"));
    }
    needs
}

fn refuse(lacking: &[Need], file: &str) -> StepError {
    let mut text = String::from("the kernel's configuration lacks what the image needs:");
    for need in lacking {
        let _ = write!(text, "\n  CONFIG_{}: {}", need.symbol, need.why);
    }
    let lines: Vec<String> = lacking.iter().map(|n| format!("CONFIG_{}=y", n.symbol)).collect();
    let place = if file.is_empty() { "a fragment of the linux target" } else { file };
    let mut error = StepError::new(text).help(format!("add to {place}: {}", lines.join(" ")));
    let needs = match lacking.iter().find(|n| Arch::ALL.iter().any(|arch| arch.efi == n.symbol)) {
        Some(need) if need.symbol == "EFI_STUB" => "EFI_STUB needs EFI and ACPI; ",
        Some(_) => "",
        None => return error,
    };
    error = error.help(format!("{needs}`efi: false` says that no firmware starts this image itself"));
    error
}

/// Checks an archive itself, whoever made it, against the configuration of the kernel that will unpack it.
pub fn archive(bytes: &[u8], config: &[u8]) -> Result<(), StepError> {
    let config = parse(config)?;
    let mut lacking = Vec::new();
    let format = Format::detect(bytes);
    let name = match format {
        Format::None if bytes.starts_with(b"070701") || bytes.starts_with(b"070702") => return Ok(()),
        Format::None => {
            let others: [(&[u8], &str, &'static str); 4] = [
                (b"BZh", "bzip2", "RD_BZIP2"),
                (b"\x89LZO", "lzo", "RD_LZO"),
                (b"\x02\x21\x4c\x18", "lz4", "RD_LZ4"),
                (b"\x5d\x00\x00", "lzma", "RD_LZMA"),
            ];
            let Some((_, name, symbol)) = others.iter().find(|(magic, ..)| bytes.starts_with(magic)) else {
                return Err(StepError::new(
                    "the initramfs is neither a newc archive nor compressed as the kernel knows it",
                ));
            };
            if !config.enabled(symbol) {
                lacking.push(need(symbol, format!("the initramfs is compressed with {name}")));
            }
            *name
        }
        Format::Gzip => "gzip",
        Format::Xz => "xz",
        Format::Zstd => "zstd",
    };
    if let Some(symbol) = decompressor(name).filter(|s| !config.enabled(s)) {
        lacking.push(need(symbol, format!("the initramfs is compressed with {name}")));
    }
    if format == Format::Xz {
        let xz = XzHead::parse(bytes).ok_or_else(|| StepError::new("the initramfs is a damaged xz file"))?;
        if !matches!(xz.check, 0 | 1) {
            return Err(StepError::new("the initramfs has an integrity check that the kernel does not know")
                .help("compress it with `xz --check=crc32`"));
        }
        let used = BCJ.into_iter().filter(|(_, number, _)| xz.filters.contains(number));
        lacking.extend(used.filter(|(.., symbol)| !config.enabled(symbol)).map(filtered));
    }
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(refuse(&lacking, "")),
    }
}

fn parse(bytes: &[u8]) -> Result<Config, StepError> {
    Config::parse(&String::from_utf8_lossy(bytes)).map_err(|e| StepError::new(format!(".config: {e}")))
}

/// What the heads of an xz stream and of its first block say.
struct XzHead {
    /// 0 none, 1 CRC32, 4 CRC64, 10 SHA-256.
    check: u8,
    /// Filter numbers: those of `BCJ`, 0x21 is LZMA2.
    filters: Vec<u64>,
}

impl XzHead {
    fn parse(bytes: &[u8]) -> Option<XzHead> {
        let check = bytes.get(7)? & 0x0f;
        let mut rest = bytes.get(12..)?;
        // Size 0 marks the index: a stream without blocks.
        if *rest.first()? == 0 {
            return Some(XzHead { check, filters: Vec::new() });
        }
        let flags = *rest.get(1)?;
        rest = rest.get(2..)?;
        for present in [0x40, 0x80] {
            if flags & present != 0 {
                number(&mut rest)?;
            }
        }
        let mut filters = Vec::new();
        for _ in 0..=flags & 3 {
            filters.push(number(&mut rest)?);
            let properties = usize::try_from(number(&mut rest)?).ok()?;
            rest = rest.get(properties..)?;
        }
        Some(XzHead { check, filters })
    }
}

/// xz's variable-length number.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in 0..9 {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn arch(name: &str) -> &'static Arch {
        Arch::named(name).unwrap()
    }

    fn lacking(config: &str, compress: &str, efi: bool) -> Vec<&'static str> {
        let config = Config::parse(config).unwrap();
        let needs = required(arch("x86_64"), compress, "", efi).into_iter();
        needs.filter(|n| !config.enabled(n.symbol)).map(|n| n.symbol).collect()
    }

    #[test]
    fn each_need_is_found_and_all_are_named_at_once() {
        let full = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_XZ=y\nCONFIG_BINFMT_ELF=y\nCONFIG_DEVTMPFS=y\nCONFIG_EFI_STUB=y\n";
        assert_eq!(lacking(full, "xz", true), [""; 0]);
        assert_eq!(lacking(full, "zstd", true), ["RD_ZSTD"]);
        assert_eq!(lacking(full, "gzip", true), ["RD_GZIP"]);
        assert_eq!(lacking(full, "none", true), [""; 0]);
        for symbol in ["BLK_DEV_INITRD", "RD_XZ", "BINFMT_ELF", "DEVTMPFS", "EFI_STUB"] {
            let without =
                full.replace(&format!("CONFIG_{symbol}=y"), &format!("# CONFIG_{symbol} is not set"));
            assert_eq!(lacking(&without, "xz", true), [symbol]);
        }
        assert_eq!(lacking("", "xz", false), ["BLK_DEV_INITRD", "RD_XZ", "BINFMT_ELF", "DEVTMPFS"]);
        let error = refuse(&required(arch("x86_64"), "xz", "", true)[..2], "config/kernel.fragment");
        assert_eq!(
            error.message,
            "the kernel's configuration lacks what the image needs:\n  \
             CONFIG_BLK_DEV_INITRD: without it the kernel unpacks no initramfs\n  \
             CONFIG_RD_XZ: the initramfs is compressed with xz"
        );
        assert_eq!(error.help, ["add to config/kernel.fragment: CONFIG_BLK_DEV_INITRD=y CONFIG_RD_XZ=y"]);
    }

    #[test]
    fn compressed_firmware_needs_a_kernel_that_reads_it() {
        let lacking = |compress: &str, config: &str| {
            let config = Config::parse(config).unwrap();
            firmware_needs(compress, &config).iter().map(|n| n.symbol).collect::<Vec<_>>()
        };
        let new = "CONFIG_FW_LOADER=y\nCONFIG_FW_LOADER_COMPRESS=y\n";
        let xz =
            format!("{new}CONFIG_FW_LOADER_COMPRESS_XZ=y\n# CONFIG_FW_LOADER_COMPRESS_ZSTD is not set\n");
        let zstd =
            format!("{new}# CONFIG_FW_LOADER_COMPRESS_XZ is not set\nCONFIG_FW_LOADER_COMPRESS_ZSTD=y\n");
        assert_eq!(lacking("xz", &xz), [""; 0]);
        assert_eq!(lacking("zstd", &zstd), [""; 0]);
        assert_eq!(lacking("xz", &zstd), ["FW_LOADER_COMPRESS_XZ"]);
        assert_eq!(lacking("zstd", &xz), ["FW_LOADER_COMPRESS_ZSTD"]);
        assert_eq!(lacking("xz", ""), ["FW_LOADER", "FW_LOADER_COMPRESS", "FW_LOADER_COMPRESS_XZ"]);
        assert_eq!(lacking("none", ""), [""; 0]);
        // 5.3 to 5.18.
        assert_eq!(lacking("xz", new), [""; 0]);
        assert_eq!(lacking("zstd", new), ["FW_LOADER_COMPRESS_ZSTD"]);
    }

    #[test]
    fn hints_are_those_of_the_architecture() {
        let last = |name: &str| {
            let needs = required(arch(name), "xz", "arm64", true);
            assert!(needs.iter().any(|n| n.symbol == "XZ_DEC_ARM64"));
            refuse(&needs[needs.len() - 1..], "f").help.join("; ")
        };
        let no = "`efi: false` says that no firmware starts this image itself";
        assert_eq!(last("x86_64"), format!("add to f: CONFIG_EFI_STUB=y; EFI_STUB needs EFI and ACPI; {no}"));
        assert_eq!(last("aarch64"), format!("add to f: CONFIG_EFI=y; {no}"));
        let of =
            |name: &str, efi: bool| advised(arch(name), efi).iter().map(|n| n.symbol).collect::<Vec<_>>();
        assert!(of("x86_64", true).contains(&"SERIAL_8250_CONSOLE"));
        assert!(of("aarch64", true).ends_with(&["TMPFS", "EFI_ZBOOT"]));
        assert!(of("aarch64", false).contains(&"SERIAL_AMBA_PL011_CONSOLE"));
        assert!(!of("aarch64", false).contains(&"EFI_ZBOOT"));
    }

    fn xz(args: &[&str]) -> Vec<u8> {
        let mut child = Command::new("xz")
            .args(["-c", "-z"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&vec![7; 100_000]).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    #[test]
    fn the_archive_itself_is_looked_at() {
        let config = b"CONFIG_RD_XZ=y\n";
        let fails = |bytes: &[u8], config: &[u8]| archive(bytes, config).unwrap_err().message;
        assert!(archive(&xz(&["--check=crc32"]), config).is_ok());
        assert!(archive(&xz(&["--check=none"]), config).is_ok());
        assert!(fails(&xz(&["--check=crc32"]), b"").contains("CONFIG_RD_XZ"));
        assert!(fails(&xz(&["--check=crc64"]), config).contains("integrity check"));
        assert!(fails(&xz(&["--check=sha256"]), config).contains("integrity check"));
        let filtered = xz(&["--check=crc32", "--x86", "--lzma2=dict=1MiB"]);
        assert!(fails(&filtered, config).contains("CONFIG_XZ_DEC_X86"));
        assert!(archive(&filtered, b"CONFIG_RD_XZ=y\nCONFIG_XZ_DEC_X86=y\n").is_ok());
        let arm = xz(&["--check=crc32", "--arm64", "--lzma2=dict=1MiB"]);
        assert!(fails(&arm, b"CONFIG_RD_XZ=y\nCONFIG_XZ_DEC_X86=y\n").contains("CONFIG_XZ_DEC_ARM64:"));
        let threaded = xz(&["--check=crc32", "-T2", "--block-size=16KiB", "--x86", "--lzma2"]);
        assert!(fails(&threaded, config).contains("CONFIG_XZ_DEC_X86"));
        assert!(archive(b"0707010000", b"").is_ok());
        assert!(fails(b"BZh91AY", b"").contains("CONFIG_RD_BZIP2"));
        assert!(fails(b"", b"").contains("neither"));
        assert!(fails(&xz(&[])[..13], config).contains("damaged"));
    }
}
