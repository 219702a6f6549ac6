//! What to tell a person whose host or whose step lacks a program.
//!
//! The table names Debian's packages; on other systems it is a hint.

use std::fmt;
use std::path::Path;

/// A tool that this host does not have, or that does not work on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// As declared.
    pub tool: String,
    /// `gcc: not found`.
    pub message: String,
    /// `on Debian: apt-get install gcc`.
    pub help: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.message)?;
        self.help.iter().try_for_each(|help| write!(formatter, "; {help}"))
    }
}

impl std::error::Error for Missing {}

/// Programs and the packages that have them, where the names differ.
const PACKAGES: &[(&str, &str)] = &[
    ("addr2line", "binutils"),
    ("ar", "binutils"),
    ("as", "binutils"),
    ("busybox", "busybox-static"),
    ("c++", "g++"),
    ("cc", "gcc"),
    ("cmp", "diffutils"),
    ("cpp", "cpp"),
    ("depmod", "kmod"),
    ("hexdump", "bsdextrautils"),
    ("ld", "binutils"),
    ("ld.lld", "lld"),
    ("lsmod", "kmod"),
    ("mcopy", "mtools"),
    ("mformat", "mtools"),
    ("mkfs.vfat", "dosfstools"),
    ("modinfo", "kmod"),
    ("modprobe", "kmod"),
    ("musl-gcc", "musl-tools"),
    ("x86_64-linux-musl-gcc", "musl-tools"),
    ("ninja", "ninja-build"),
    ("nm", "binutils"),
    ("objcopy", "binutils"),
    ("objdump", "binutils"),
    ("ovmf", "ovmf"),
    ("pkg-config", "pkgconf"),
    ("protoc", "protobuf-compiler"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("ranlib", "binutils"),
    ("readelf", "binutils"),
    ("strip", "binutils"),
    ("unxz", "xz-utils"),
    ("unzstd", "zstd"),
    ("xxd", "xxd"),
    ("xz", "xz-utils"),
];

/// Programs and packages that have the same name, so that it can be said without a guess.
const SAME: &[&str] = &[
    "autoconf",
    "automake",
    "bc",
    "bison",
    "cargo",
    "clang",
    "cmake",
    "cpio",
    "curl",
    "file",
    "flex",
    "g++",
    "gawk",
    "gcc",
    "git",
    "gzip",
    "kmod",
    "libc6-dev-amd64-cross",
    "libc6-dev-arm64-cross",
    "libelf-dev",
    "libncurses-dev",
    "libssl-dev",
    "libtool",
    "lz4",
    "lzop",
    "m4",
    "make",
    "musl-tools",
    "nasm",
    "openssl",
    "pahole",
    "patch",
    "perl",
    "python3",
    "rsync",
    "rustc",
    "squashfs-tools",
    "strace",
    "unzip",
    "wget",
    "xorriso",
    "xz-utils",
    "zip",
    "zstd",
];

/// How to get a program.
fn install(tool: &str) -> String {
    if matches!(tool, "cargo" | "rustc" | "rustdoc") {
        return "install a Rust toolchain with rustup; on Debian: apt-get install cargo".to_owned();
    }
    if let Some((arch, _)) = tool.split_once("-linux-gnu-") {
        // Debian's cross tools; the compiler brings binutils along.
        return format!("on Debian: apt-get install gcc-{}-linux-gnu", arch.replace('_', "-"));
    }
    let other = PACKAGES.iter().find(|(program, _)| *program == tool).map(|(_, package)| *package);
    if tool == "upx" {
        return "on Debian: apt-get install upx-ucl (Debian 12: from bookworm-backports)".to_owned();
    }
    match other.or_else(|| SAME.iter().find(|name| **name == tool).copied()) {
        Some(package) => format!("on Debian: apt-get install {package}"),
        None => format!("on Debian: `apt-file search bin/{tool}` names the package that has it"),
    }
}

impl Missing {
    /// A program that is not on PATH.
    pub fn tool(tool: &str) -> Self {
        Self { tool: tool.to_owned(), message: not_found_text(tool), help: vec![install(tool)] }
    }

    pub(super) fn unreadable(tool: &str, path: &Path) -> Self {
        let message = format!("{tool}: {} cannot be read, so it cannot be identified", path.display());
        Self { tool: tool.to_owned(), message, help: Vec::new() }
    }

    pub(super) fn broken(tool: &str, reason: &str) -> Self {
        let message = format!("{tool}: found, but it does not work: {reason}");
        Self { tool: tool.to_owned(), message, help: vec![install(tool)] }
    }
}

/// What to say of several: those that one package brings are named together.
pub fn together(missing: Vec<Missing>) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(Vec<String>, Missing)> = Vec::new();
    for one in missing {
        let not_found = |m: &Missing| m.message == not_found_text(&m.tool);
        match all.iter_mut().find(|(_, first)| not_found(first) && not_found(&one) && first.help == one.help)
        {
            Some((tools, _)) => tools.push(one.tool),
            None => all.push((vec![one.tool.clone()], one)),
        }
    }
    let said = |(tools, first): (Vec<String>, Missing)| match tools.len() {
        1 => (first.message, first.help),
        _ => (not_found_text(&tools.join(", ")), first.help),
    };
    all.into_iter().map(said).collect()
}

fn not_found_text(tools: &str) -> String {
    format!("{tools}: not found")
}

/// The program that a step did not find, read off the end of its output, and what to do about it.
pub fn explain_127(log_tail: &str) -> Option<String> {
    let name = log_tail.lines().rev().find_map(not_found)?;
    Some(format!("{name}: command not found; add it to tools: [{name}]"))
}

/// The program that a build tool did not find for itself, read off the end of its output, and what to do about it.
pub fn explain_tool(log_tail: &str) -> Option<String> {
    let name = log_tail.lines().rev().find_map(not_found_by_cargo)?;
    Some(format!("{name}: command not found; add it to tools: [{name}] ({})", install(name)))
}

/// The name in a line as rustc, cargo's build scripts and the crates that these use write it.
fn not_found_by_cargo(line: &str) -> Option<&str> {
    // Before the name, behind it.
    let forms = [
        ("failed to find tool \"", '"'),
        ("Failed to find tool. Is `", '`'),
        ("error: linker `", '`'),
        ("is `", '`'),
        ("Could not find `", '`'),
    ];
    if line.contains("The pkg-config command could not be found") {
        return Some("pkg-config");
    }
    let (name, rest) = forms.iter().find_map(|(before, behind)| {
        let (_, rest) = line.split_once(before)?;
        rest.split_once(*behind)
    })?;
    let linker = line.contains("linker `") && rest.starts_with(" not found");
    let asked = rest.trim_start().trim_end_matches(['?', '.']).ends_with("installed");
    let said = linker || asked || line.contains("find tool \"") || line.contains("Could not find `protoc`");
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    (said && !name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// The name in a line as shells, env and make write it.
fn not_found(line: &str) -> Option<&str> {
    let line = line.trim_end();
    let rest = match line.strip_suffix(": command not found").or_else(|| line.strip_suffix(": not found")) {
        Some(rest) => rest,
        None => {
            let rest = line.strip_suffix(": No such file or directory")?;
            // Said of files as well; only these say it of commands.
            let (who, _) = rest.split_once(": ")?;
            let who = who.rsplit('/').next().unwrap_or(who);
            let who = who.split('[').next().unwrap_or(who);
            if !matches!(who, "make" | "gmake" | "env" | "xargs") {
                return None;
            }
            rest
        }
    };
    let name = rest.rsplit(": ").next().unwrap_or(rest).trim();
    let name = name.trim_matches(['\'', '"', '`', '\u{2018}', '\u{2019}']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    (!name.is_empty() && name.chars().all(plain)).then_some(name)
}
