//! What the rules want to know of a program: its machine, the loader and libraries that it asks for, its sections.
//! Knows ELF as far as that, and the names of architectures; knows no rule.

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, ReadRef};

pub use mosbuild_formats::elf::MAGIC;

/// Bytes of an ELF file up to its machine number.
pub const HEAD: usize = 20;

/// An ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// What it runs on.
    pub machine: Machine,
    /// The dynamic loader that it asks for (PT_INTERP).
    pub interpreter: Option<String>,
    /// Libraries that it needs (DT_NEEDED).
    pub needed: Vec<String>,
    /// In the order of the file's table.
    pub sections: Vec<Section>,
}

/// A processor with its word and byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `e_machine`.
    pub number: u16,
    /// 64 bits, else 32.
    pub wide: bool,
    /// Little-endian.
    pub little: bool,
}

/// A section with content in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// `.text`, …
    pub name: String,
    /// Where its content is in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Machine {
    const fn wide(number: u16) -> Machine {
        Machine { number, wide: true, little: true }
    }

    const fn narrow(number: u16) -> Machine {
        Machine { number, wide: false, little: true }
    }

    const fn big(self) -> Machine {
        Machine { little: false, ..self }
    }
}

/// The machine of an ELF file by its first [`HEAD`] bytes; none of anything else.
pub fn machine_of(head: &[u8]) -> Option<Machine> {
    let head = head.get(..HEAD)?.strip_prefix(MAGIC)?;
    let (class, data, number) = (head[0], head[1], [head[14], head[15]]);
    let little = data != elf::ELFDATA2MSB;
    let number = if little { u16::from_le_bytes(number) } else { u16::from_be_bytes(number) };
    Some(Machine { number, wide: class != elf::ELFCLASS32, little })
}

/// Architectures as `uname -m` and target triples write them.
const ARCHES: [(&str, Machine); 14] = [
    ("x86_64", Machine::wide(elf::EM_X86_64)),
    ("aarch64", Machine::wide(elf::EM_AARCH64)),
    ("riscv64", Machine::wide(elf::EM_RISCV)),
    ("loongarch64", Machine::wide(elf::EM_LOONGARCH)),
    ("powerpc64le", Machine::wide(elf::EM_PPC64)),
    ("ppc64le", Machine::wide(elf::EM_PPC64)),
    ("powerpc64", Machine::wide(elf::EM_PPC64).big()),
    ("s390x", Machine::wide(elf::EM_S390).big()),
    ("i686", Machine::narrow(elf::EM_386)),
    ("i586", Machine::narrow(elf::EM_386)),
    ("i386", Machine::narrow(elf::EM_386)),
    ("arm", Machine::narrow(elf::EM_ARM)),
    ("riscv32", Machine::narrow(elf::EM_RISCV)),
    ("powerpc", Machine::narrow(elf::EM_PPC).big()),
];

/// The machine of an architecture, or of a target triple by its first word; none of one that is not known here.
pub fn machine(arch: &str) -> Option<Machine> {
    let word = arch.split('-').next().unwrap_or_default();
    let known = |(name, _): &&(&str, Machine)| *name == word;
    // `riscv64gc`, `armv7`, `armv7l`: the name goes on with the processor's extensions.
    let family = |(name, _): &&(&str, Machine)| {
        ["riscv64", "riscv32", "arm"].contains(name) && word.starts_with(name) && !word.starts_with("armeb")
    };
    ARCHES.iter().find(known).or_else(|| ARCHES.iter().find(family)).map(|(_, machine)| *machine)
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match ARCHES.iter().find(|(_, machine)| machine == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(
                f,
                "machine {} ({} bits, {}-endian)",
                self.number,
                if self.wide { 64 } else { 32 },
                if self.little { "little" } else { "big" }
            ),
        }
    }
}

impl Elf {
    /// Whether it does not run alone.
    pub fn is_dynamic(&self) -> bool {
        self.interpreter.is_some() || !self.needed.is_empty()
    }

    /// What it asks for, in words.
    pub fn asks_for(&self) -> String {
        match (&self.interpreter, self.needed.is_empty()) {
            (Some(loader), true) => format!("asks for {loader}"),
            (Some(loader), false) => format!("asks for {loader}, with {}", self.needed.join(", ")),
            (None, _) => format!("needs {}", self.needed.join(", ")),
        }
    }

    /// Code of a virtual machine in the kernel: it runs on any processor.
    pub fn is_bpf(&self) -> bool {
        self.machine.number == elf::EM_BPF
    }

    /// The section that has a place of the file, and how far in it that is.
    pub fn section_at(&self, offset: u64) -> Option<(&Section, u64)> {
        let within = |s: &&Section| s.offset <= offset && offset < s.offset.saturating_add(s.size);
        self.sections.iter().find(within).map(|section| (section, offset - section.offset))
    }

    /// A place of the file in words: `section .rodata, offset 0x12`.
    pub fn place(&self, offset: u64) -> String {
        match self.section_at(offset) {
            Some((section, at)) => format!("section {}, offset {at:#x}", section.name),
            None => format!("outside of its sections, offset {offset:#x} of the file"),
        }
    }
}

/// Reads what is known of an ELF file; none if it is no ELF file.
pub fn read<'d, R: ReadRef<'d>>(data: R) -> object::Result<Option<Elf>> {
    let Ok(ident) = data.read_bytes_at(0, 5) else { return Ok(None) };
    if !ident.starts_with(MAGIC) {
        return Ok(None);
    }
    match ident[4] {
        elf::ELFCLASS32 => of::<FileHeader32<Endianness>, R>(data).map(Some),
        _ => of::<FileHeader64<Endianness>, R>(data).map(Some),
    }
}

fn of<'d, H: FileHeader<Endian = Endianness>, R: ReadRef<'d>>(data: R) -> object::Result<Elf> {
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let machine = Machine {
        number: header.e_machine(endian),
        wide: header.is_class_64(),
        little: endian == Endianness::Little,
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let segments = header.program_headers(endian, data)?;
    let (mut interpreter, mut needed) = (None, Vec::new());
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, data)? {
            interpreter = Some(text(path));
        }
        let Some(dynamic) = segment.dynamic(endian, data)? else { continue };
        let value = |tag: u32| {
            let found = dynamic.iter().find(|d| d.tag32(endian) == Some(tag));
            found.map(|d| d.d_val(endian).into())
        };
        let (at, size): (u64, u64) = (value(elf::DT_STRTAB).unwrap_or(0), value(elf::DT_STRSZ).unwrap_or(0));
        let strings = segments.iter().find_map(|s| s.data_range(endian, data, at, size).ok().flatten());
        for entry in dynamic.iter().filter(|d| d.tag32(endian) == Some(elf::DT_NEEDED)) {
            let from = usize::try_from(entry.d_val(endian).into()).unwrap_or(usize::MAX);
            let name = strings.and_then(|s| s.get(from..)).unwrap_or_default();
            needed.push(text(name.split(|b| *b == 0).next().unwrap_or_default()));
        }
    }
    let table = header.sections(endian, data)?;
    let mut sections = Vec::new();
    for section in table.iter() {
        if let Some((offset, size)) = section.file_range(endian).filter(|(_, size)| *size > 0) {
            let name = text(table.section_name(endian, section).unwrap_or_default());
            sections.push(Section { name, offset, size });
        }
    }
    Ok(Elf { machine, interpreter, needed, sections })
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// A program for `machine` that GNU as made; its section .text holds `text`.
    pub fn made(dir: &Path, text: &str) -> Vec<u8> {
        let source = format!(".section .rodata\n.asciz \"{text}\"\n.text\n.globl _start\n_start: nop\n");
        std::fs::write(dir.join("a.s"), source).unwrap();
        for (program, args) in [("as", &["-o", "a.o", "a.s"][..]), ("ld", &["-o", "a", "a.o"])] {
            let run = Command::new(program).args(args).current_dir(dir).status();
            assert!(run.unwrap().success(), "{program}: binutils are needed");
        }
        std::fs::read(dir.join("a")).unwrap()
    }

    /// The same program, as if it were for another machine.
    pub fn foreign(mut program: Vec<u8>, machine: u16) -> Vec<u8> {
        program[18..20].copy_from_slice(&machine.to_le_bytes());
        program
    }

    #[test]
    fn this_very_test_is_dynamic() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = read(&this[..]).unwrap().unwrap();
        assert_eq!(Some(elf.machine), machine(std::env::consts::ARCH));
        assert!(elf.interpreter.as_ref().is_some_and(|loader| loader.contains("ld-")), "{elf:?}");
        assert!(elf.needed.iter().any(|library| library.starts_with("libc.")), "{:?}", elf.needed);
        assert!(elf.is_dynamic() && elf.asks_for().starts_with("asks for /lib"), "{}", elf.asks_for());
        assert!(elf.sections.iter().any(|s| s.name == ".text"));
    }

    #[test]
    fn what_the_assembler_made_is_static_and_has_its_sections() {
        let dir = tempfile::tempdir().unwrap();
        let program = made(dir.path(), "here it is");
        let elf = read(&program[..]).unwrap().unwrap();
        assert!(!elf.is_dynamic());
        assert_eq!(machine_of(&program), Some(elf.machine));
        let at = program.windows(4).position(|w| w == b"here").unwrap() as u64;
        let (section, offset) = elf.section_at(at).unwrap();
        assert_eq!((section.name.as_str(), offset), (".rodata", 0));
        assert_eq!(elf.place(at + 5), "section .rodata, offset 0x5");
        assert_eq!(elf.place(0), "outside of its sections, offset 0x0 of the file");
        let other = read(&foreign(program, elf::EM_AARCH64)[..]).unwrap().unwrap();
        assert_eq!(other.machine.to_string(), "aarch64");
    }

    #[test]
    fn what_is_no_elf_file_is_none_and_damage_is_an_error() {
        for other in [&b""[..], b"\x7fEL", b"#!/bin/sh\n"] {
            assert_eq!(read(other).unwrap(), None);
            assert_eq!(machine_of(other), None);
        }
        assert!(read(&b"\x7fELF\x02\x01\x01 and no more"[..]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let program = made(dir.path(), "x");
        for cut in 0..program.len().min(400) {
            let _ = read(&program[..cut]);
        }
        for at in 0..program.len() {
            let mut damaged = program.clone();
            damaged[at] ^= 0xff;
            let _ = read(&damaged[..]);
        }
    }

    #[test]
    fn triples_name_machines() {
        for (triple, name) in [
            ("x86_64-unknown-linux-musl", "x86_64"),
            ("aarch64-unknown-linux-gnu", "aarch64"),
            ("riscv64gc-unknown-linux-musl", "riscv64"),
            ("armv7-unknown-linux-musleabihf", "arm"),
            ("i686-unknown-linux-musl", "i686"),
            ("powerpc64le-unknown-linux-gnu", "powerpc64le"),
            ("x86_64", "x86_64"),
        ] {
            assert_eq!(machine(triple).unwrap().to_string(), name, "{triple}");
        }
        assert_eq!(machine("wasm32-unknown-unknown"), None);
        assert_eq!(machine("armebv7r-none-eabi"), None);
        assert_eq!(Machine::narrow(8).big().to_string(), "machine 8 (32 bits, big-endian)");
    }
}
