//! Stripped files against binutils' `strip` and `readelf`, elfutils' `eu-elflint`, and by running them.
//! Knows compilers and the fixtures; the codec knows neither.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{fixtures, tool};
use mosbuild_formats::elf::{self, Kind, Left, strip};
use mosbuild_formats::{compress, modinfo};
use proptest::prelude::*;

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
static int table[1000] = { 1, 2, 3 };
static _Thread_local int mine = 7;
__attribute__((constructor)) static void before(void) { table[3] = 4; }
static int compare(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }
int main(int argc, char **argv) {
    qsort(table, 10, sizeof *table, compare);
    printf("%d %d %d %.3f %d\n", table[0], table[3], mine, sqrt(argc + 1.0), argv[0] != 0);
    return table[0] == 4 ? 0 : 1;
}
"#;

const CXX: &str = r#"
#include <iostream>
#include <stdexcept>
struct Noisy { ~Noisy() { std::cout << "unwound\n"; } };
template <int N> [[gnu::noinline]] void descend() { Noisy n; if constexpr (N == 0) throw std::runtime_error("deep"); else descend<N - 1>(); }
int main() { try { descend<3>(); } catch (const std::exception &e) { std::cout << e.what() << std::endl; return 0; } return 1; }
"#;

const RUST: &str = r#"
fn main() {
    let caught = std::panic::catch_unwind(|| { let v: Vec<u32> = Vec::new(); v[std::env::args().count()] });
    println!("{} {}", caught.is_err(), (1..=10u64).product::<u64>());
}
"#;

/// A folder for one test, with what it builds.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        Bench(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a compiler or linker in the folder.
    fn run(&self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        tool(words[0], &words[1..], self.0.path(), b"");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn program(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.at(name)).unwrap()
    }

    /// What a program prints, which must succeed.
    fn output(&self, name: &str) -> String {
        let library = self.0.path().to_str().unwrap();
        let output = Command::new(self.at(name)).env("LD_LIBRARY_PATH", library).output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Name, type, flags of each section, and the segments, as readelf prints them.
    fn readelf(&self, name: &str, what: &str) -> Vec<String> {
        let text = tool("readelf", &[what, name], self.0.path(), b"");
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains("Warning") && !text.contains("Error"), "{name}: {text}");
        text.lines().map(str::to_owned).collect()
    }

    fn sections(&self, name: &str) -> Vec<String> {
        let line = |line: String| {
            let (_, rest) = line.split_once("] ")?;
            let rest = rest.trim_start();
            // An unnamed section begins with its type.
            let words: Vec<&str> = rest.split_whitespace().collect();
            let name = if words[0] == "NULL" { "" } else { words[0] };
            (!name.is_empty() && name != "Name").then(|| format!("{name} {}", words[1]))
        };
        self.readelf(name, "-SW").into_iter().filter_map(line).collect()
    }

    fn complaints(&self, name: &str) -> Vec<String> {
        let lint = Command::new("eu-elflint").args(["--gnu-ld", name]).current_dir(self.0.path()).output();
        let lint = lint.expect("this test compares with eu-elflint; scripts/test installs elfutils");
        let text = String::from_utf8_lossy(&lint.stdout).into_owned();
        // With the number of the section left out.
        let line = |l: &str| l.split("] ").last().unwrap_or_default().to_owned();
        text.lines().filter(|l| *l != "No errors").map(line).collect()
    }

    /// Strips a file, compares with what binutils makes of it, and gives the name of the result.
    #[track_caller]
    fn stripped(&self, name: &str, strip_program: &str, how: &str) -> String {
        let before = self.read(name);
        let after = strip(&before).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(after.len() < before.len());
        assert_eq!(why(&after), Some(Left::Nothing), "{name} once more");
        assert!(strip(&before).unwrap() == after, "{name} again");
        let (ours, theirs) = (format!("{name}.ours"), format!("{name}.theirs"));
        self.program(&ours, &after);
        self.run(&format!("{strip_program} {how} -o {theirs} {name}"));
        assert_eq!(self.sections(&ours), self.sections(&theirs), "{name}");
        assert_eq!(self.readelf(&ours, "-lW"), self.readelf(name, "-lW"), "{name}");
        let room = self.read(&theirs).len() as i64 - after.len() as i64;
        assert!(room >= -512, "{name}: {} bytes more than binutils leaves", -room);
        let known = [self.complaints(name), self.complaints(&theirs)].concat();
        for complaint in self.complaints(&ours) {
            assert!(known.contains(&complaint), "{name}: eu-elflint: {complaint}");
        }
        ours
    }

    #[track_caller]
    fn runs_as_before(&self, name: &str, strip_program: &str) {
        let ours = self.stripped(name, strip_program, "--strip-all");
        assert_eq!(self.output(&ours), self.output(name), "{name}");
    }
}

/// Why a file is left as it is.
fn why(bytes: &[u8]) -> Option<Left> {
    strip(bytes).err()
}

/// The last loaded part at the end of the file, behind everything else, as patchelf leaves one.
fn last_segment_moved(bytes: &[u8]) -> Vec<u8> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let small = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let mut out = bytes.to_vec();
    let mut headers = (0..small(0x38)).map(|n| number(0x20) as usize + n * 56);
    let load = headers.rfind(|at| bytes[*at] == 1 && number(at + 32) > 0).unwrap();
    let (from, size) = (number(load + 8), number(load + 32));
    let to = (bytes.len() as u64).next_multiple_of(0x1000) + from % 0x1000;
    out.resize((to + size) as usize, 0);
    out[to as usize..].copy_from_slice(&bytes[from as usize..(from + size) as usize]);
    out[load + 8..load + 16].copy_from_slice(&to.to_le_bytes());
    for n in 0..small(0x3c) {
        let section = number(0x28) as usize + n * 64;
        let (flags, offset) = (number(section + 8), number(section + 24));
        if flags & 2 != 0 && (from..from + size).contains(&offset) {
            out[section + 24..section + 32].copy_from_slice(&(offset - from + to).to_le_bytes());
        }
    }
    out
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[allow(clippy::print_stderr)]
fn not_run(why: &str) {
    eprintln!("did not run: {why}");
}

#[test]
fn programs_of_c() {
    let bench = Bench::new();
    bench.write("a.c", C);
    for (name, how) in [
        ("dynamic", "-g"),
        ("static", "-g -static"),
        ("static-pie", "-g -static-pie"),
        ("fixed", "-g -no-pie"),
        ("plain", "-O2"),
        ("relocations", "-g -Wl,--emit-relocs"),
        ("compressed", "-g -gz=zlib -Wl,--compress-debug-sections=zlib"),
        ("separate-code", "-g -Wl,-z,noseparate-code -Wl,--build-id=sha1 -Wl,--hash-style=both"),
        ("packed-relr", "-g -Wl,-z,pack-relative-relocs"),
        ("gold", "-g -fuse-ld=gold"),
    ] {
        bench.run(&format!("gcc {how} -o {name} a.c -lm"));
        bench.runs_as_before(name, "strip");
        assert_eq!(elf::kind(&bench.read(name)).unwrap(), Kind::Program, "{name}");
    }
    assert_eq!(bench.sections("dynamic.ours").iter().filter(|s| s.starts_with(".symtab")).count(), 0);
    assert!(bench.sections("dynamic.ours").contains(&".dynsym DYNSYM".to_owned()));
}

#[test]
fn exceptions_are_caught_and_panics_too() {
    let bench = Bench::new();
    bench.write("a.cc", CXX);
    bench.run("g++ -g -o dynamic a.cc");
    bench.run("g++ -g -static -o static a.cc");
    bench.write("a.rs", RUST);
    bench.run("rustc -g --edition 2021 -o rust a.rs");
    bench.run("rustc -g --edition 2021 -C target-feature=+crt-static -o rust-static a.rs");
    for name in ["dynamic", "static", "rust", "rust-static"] {
        bench.runs_as_before(name, "strip");
    }
}

#[test]
fn a_library_with_versions() {
    let bench = Bench::new();
    bench.write("lib.c", "int twice(int n) { return 2 * n; } int hidden(int n) { return n; }\n");
    bench.write("lib.map", "V_1 { global: twice; local: *; };\n");
    bench.write(
        "a.c",
        "#include <stdio.h>\nint twice(int); int main(void) { printf(\"%d\\n\", twice(21)); }\n",
    );
    bench.run(
        "gcc -g -shared -fPIC -Wl,--version-script=lib.map -Wl,-soname,libtwice.so -o libtwice.so lib.c",
    );
    bench.run("gcc -g -o a a.c libtwice.so");
    let before = bench.output("a");
    assert_eq!(elf::kind(&bench.read("libtwice.so")).unwrap(), Kind::Library);
    let ours = bench.stripped("libtwice.so", "strip", "--strip-all");
    assert_eq!(bench.readelf(&ours, "-VW").concat(), bench.readelf("libtwice.so", "-VW").concat());
    assert_eq!(bench.readelf(&ours, "--dyn-syms"), bench.readelf("libtwice.so", "--dyn-syms"));
    fs::rename(bench.at(&ours), bench.at("libtwice.so")).unwrap();
    assert_eq!(bench.output("a"), before);
    // The C library has a name and an interpreter, and is not started.
    let libc = fs::read("/lib/x86_64-linux-gnu/libc.so.6");
    if let Ok(libc) = libc {
        assert_eq!(elf::kind(&libc).unwrap(), Kind::Library);
    }
}

#[test]
fn other_classes_and_architectures() {
    let bench = Bench::new();
    // Without a C library: what the compiler and the linker have is enough.
    bench.write(
        "a.c",
        "static const char text[] = \"thirty-two\\n\";\n\
         void _start(void) { int n; __asm__ volatile (\"int $0x80\" : \"=a\"(n) : \"a\"(4), \"b\"(1), \"c\"(text), \"d\"(11) : \"memory\");\n\
         __asm__ volatile (\"int $0x80\" : : \"a\"(1), \"b\"(0)); }\n",
    );
    bench.run("gcc -m32 -g -nostdlib -ffreestanding -fno-pie -no-pie -static -o narrow a.c");
    assert_eq!(bench.output("narrow"), "thirty-two\n");
    bench.runs_as_before("narrow", "strip");
    bench.run("gcc -m32 -g -nostdlib -ffreestanding -fpic -shared -o libnarrow.so a.c");
    bench.stripped("libnarrow.so", "strip", "--strip-all");
    if !has("aarch64-linux-gnu-as") {
        return not_run("aarch64-linux-gnu-as is not here: apt-get install binutils-aarch64-linux-gnu");
    }
    bench.write("b.s", ".globl _start\n_start:\n mov x8, 93\n mov x0, 0\n svc 0\n.data\nv: .quad _start\n");
    bench.run("aarch64-linux-gnu-as -g -o b.o b.s");
    bench.run("aarch64-linux-gnu-ld -static -o arm b.o");
    bench.run("aarch64-linux-gnu-ld -shared -soname libarm.so -o libarm.so b.o");
    for name in ["arm", "libarm.so"] {
        bench.stripped(name, "aarch64-linux-gnu-strip", "--strip-all");
    }
    if has("aarch64-linux-gnu-gcc") {
        bench.write("c.c", C);
        bench.run("aarch64-linux-gnu-gcc -g -static -o arm-c c.c -lm");
        bench.stripped("arm-c", "aarch64-linux-gnu-strip", "--strip-all");
    }
}

#[test]
fn what_is_left_as_it_is() {
    let bench = Bench::new();
    bench.write("a.c", C);
    bench.run("gcc -g -c -o a.o a.c");
    bench.run("gcc -g -o a a.c -lm");
    assert_eq!(why(&bench.read("a.o")), Some(Left::Object));
    let whole = bench.read("a");

    let appended = [&whole[..], b"PK\x03\x04 an archive that the program finds behind itself"].concat();
    assert_eq!(why(&appended), Some(Left::Appended));
    assert_eq!((elf::is_appended_to(&appended), elf::is_appended_to(&whole)), (Ok(true), Ok(false)));
    let padded = [&whole[..], &[0; 300]].concat();
    assert!(strip(&padded).unwrap() == strip(&whole).unwrap());

    let mut headless = whole.clone();
    headless[0x28..0x30].fill(0);
    headless[0x3c..0x40].fill(0);
    assert_eq!(why(&headless), Some(Left::NoSections));
    assert_eq!(elf::is_appended_to(&headless), Ok(false));

    bench.write("b.c", "int v = 5; void _start(void) { for (;;) v++; }\n");
    bench.run("gcc -g -nostdlib -static -no-pie -o b b.c");
    assert_eq!(why(&last_segment_moved(&bench.read("b"))), Some(Left::Behind));

    for damaged in [&whole[..whole.len() / 3], b"#!/bin/sh\n", b""] {
        assert!(matches!(why(damaged), Some(Left::Damaged(_))), "{:?}", why(damaged));
    }

    let signed = [&whole[..], b"~Module signature appended~\n"].concat();
    assert_eq!(why(&signed), Some(Left::Signed));
    if !has("upx") {
        return not_run("upx is not here: scripts/setup test says how it comes");
    }
    bench.run("gcc -static -o b a.c -lm");
    bench.run("upx -qqq -o packed b");
    assert_eq!(why(&bench.read("packed")), Some(Left::NoSections));
    assert_eq!(elf::is_appended_to(&bench.read("packed")), Ok(false));
}

#[test]
fn debug_links_stay() {
    let bench = Bench::new();
    bench.write("a.c", C);
    bench.run("gcc -g -o a a.c -lm");
    bench.run("objcopy --only-keep-debug a a.debug");
    bench.run("objcopy --add-gnu-debuglink=a.debug a");
    bench.runs_as_before("a", "strip");
    assert!(bench.sections("a.ours").iter().any(|s| s.starts_with(".gnu_debuglink ")));
}

const MODULE: &str = r#"
#define SECTION(s) __attribute__((section(s), used))
static const char info[] SECTION(".modinfo") = "license=GPL\0depends=\0vermagic=6.12 SMP mod_unload ";
struct version { unsigned long crc; char name[56]; };
static const struct version versions[] SECTION("__versions") = { { 0x1234, "module_layout" }, { 7, "printk" } };
extern int _printk(const char *, ...);
static int count;
static int __attribute__((noinline)) helper(int n) { count += n; return _printk("n %d\n", count); }
int init_module(void) { return helper(1); }
void cleanup_module(void) { helper(-1); }
int shared_symbol(void) { return count; }
static int (*const table[])(void) SECTION("__ksymtab") = { shared_symbol, init_module };
"#;

#[test]
fn modules_keep_all_but_debugging() {
    let bench = Bench::new();
    bench.write("m.c", MODULE);
    bench.write("n.c", "int other(int n) { return n * 3; }\n");
    let compilers = [
        ("gcc", "ld", "strip"),
        ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ld", "aarch64-linux-gnu-strip"),
    ];
    for (compiler, linker, strip_program) in compilers {
        if !has(compiler) {
            not_run(&format!("{compiler} is not here"));
            continue;
        }
        for (name, how) in [("m", ""), ("sections", "-ffunction-sections -fdata-sections"), ("wide", "-fPIC")]
        {
            for source in ["m", "n"] {
                bench.run(&format!("{compiler} -g -O2 -ffreestanding {how} -c -o {source}.o {source}.c"));
            }
            let module = format!("{name}.ko");
            bench.run(&format!("{linker} -r -o {module} m.o n.o"));
            let before = bench.read(&module);
            assert_eq!(elf::kind(&before).unwrap(), Kind::Module);
            let ours = bench.stripped(&module, strip_program, "--strip-debug");
            let after = bench.read(&ours);
            let (old, new) = (modinfo::ModuleInfo::parse(&before), modinfo::ModuleInfo::parse(&after));
            assert_eq!(old.unwrap(), new.unwrap());
            // The same relocations against the same symbols, but for their numbers.
            let relocations = |name: &str| -> Vec<String> {
                let of = |line: String| {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let is = words.len() >= 4 && words[2].starts_with("R_");
                    is.then(|| [&words[..1], &words[2..]].concat().join(" "))
                };
                let lines = bench.readelf(name, "-rW").into_iter();
                let mut debug = false;
                let kept = lines.filter(|l| {
                    if l.starts_with("Relocation section") {
                        debug = l.contains(".debug");
                    }
                    !debug
                });
                kept.filter_map(of).collect()
            };
            assert!(!relocations(&ours).is_empty());
            assert_eq!(relocations(&ours), relocations(&module), "{module}");
            let names = |name: &str| -> Vec<String> {
                let text = tool("nm", &["-f", "posix", name], bench.0.path(), b"");
                let text = String::from_utf8(text).unwrap();
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(names(&ours), names(&format!("{module}.theirs")), "{module}");
        }
    }
}

#[test]
fn real_modules() {
    let Some(debian) = fixtures("modules/debian-6.1.0-56-amd64") else { return };
    let bench = Bench::new();
    let (mut signed, mut plain) = (0, 0);
    for (name, bytes) in modules(&debian) {
        assert_eq!(why(&bytes), Some(Left::Signed), "{name}");
        signed += 1;
        // Without the signature: BTF, ORC tables, versions and debugging that we add.
        let at = bytes.len() - 28 - 12;
        let length = u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let unsigned = &bytes[..at - length];
        assert_eq!(why(unsigned), Some(Left::Nothing), "{name}");
        fs::write(bench.at("m.ko"), unsigned).unwrap();
        fs::write(bench.at("info"), [7; 5000]).unwrap();
        bench.run("objcopy --add-section .debug_info=info m.ko d.ko");
        let ours = bench.stripped("d.ko", "strip", "--strip-debug");
        assert_eq!(
            modinfo::ModuleInfo::parse(&bench.read(&ours)).unwrap(),
            modinfo::ModuleInfo::parse(unsigned).unwrap()
        );
        let sections = bench.sections(&ours);
        for kept in
            [".BTF", "__versions", ".orc_unwind_ip", ".rela.orc_unwind_ip", ".gnu.linkonce.this_module"]
        {
            let had = bench.sections("m.ko").iter().any(|s| s.starts_with(&format!("{kept} ")));
            assert_eq!(sections.iter().any(|s| s.starts_with(&format!("{kept} "))), had, "{name} {kept}");
        }
        plain += 1;
    }
    assert!(signed > 20 && plain > 20);
    let Some(alpine) = fixtures("modules/alpine-6.18.56-0-virt") else { return };
    for (name, bytes) in modules(&alpine) {
        assert!(!bytes.starts_with(elf::MAGIC), "{name} is compressed");
        let bytes = compress::decompress(&bytes, 1 << 30).unwrap();
        assert_eq!(why(&bytes), Some(Left::Signed), "{name}");
    }
}

fn modules(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_str().is_some_and(modinfo::is_module_path) {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// A small program and a small module to damage.
fn small() -> [Vec<u8>; 2] {
    static MADE: std::sync::OnceLock<[Vec<u8>; 2]> = std::sync::OnceLock::new();
    let made = MADE.get_or_init(|| {
        let bench = Bench::new();
        bench.write("a.c", "int v = 5; int main(void) { return v - 5; }\n");
        bench.run("gcc -g -o a a.c");
        bench.write("m.c", MODULE);
        bench.run("gcc -g -ffreestanding -c -o m.ko m.c");
        [bench.read("a"), bench.read("m.ko")]
    });
    made.clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 3000 }))]

    /// Whatever is damaged: no panic, no growth without bound, and what is loaded of what is given back is unchanged.
    #[test]
    fn damaged_files_are_left_or_stripped(
        which in 0usize..2,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_headers in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small()[which].clone();
        let headers = usize::from_le_bytes(bytes[0x28..0x30].try_into().unwrap());
        for (at, value) in flips {
            // Where most harm is done: the file header, the program headers, the section headers.
            let at = match in_headers {
                true if at.index(2) == 0 => at.index(0x200),
                true => headers + at.index(bytes.len() - headers),
                false => at.index(bytes.len()),
            };
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(stripped) = strip(&bytes) {
            prop_assert!(stripped.len() < bytes.len());
            prop_assert!(elf::kind(&stripped).is_ok());
        }
    }

    #[test]
    fn arbitrary_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = strip(&bytes);
        if bytes.len() > 20 {
            bytes[..5].copy_from_slice(b"\x7fELF\x02");
            bytes[5..7].copy_from_slice(&[1, 1]);
        }
        let _ = strip(&bytes);
        let _ = elf::kind(&bytes);
    }
}
