//! Unified kernel images: read back by our own reader and by binutils, over a stub made here and over systemd's.

use std::path::Path;
use std::process::Command;

use mosbuild_formats::uki::{self, Error, Program};
use object::pe;
use object::write::pe::{NtHeaders, Writer};
use proptest::prelude::*;

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// An EFI program with a section of code at 0x1000 and one of `.sbat` behind, and nothing that runs.
fn program(sbat: &str, size_of_image: u32, signed: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(true, 0x1000, 0x200, &mut bytes);
    writer.reserve_dos_header_and_stub();
    writer.reserve_nt_headers(16);
    writer.reserve_section_headers(2);
    let text = writer.reserve_text_section(0x20);
    let range = writer.reserve_section(*b".sbat\0\0\0", 0x4000_0040, sbat.len() as u32, sbat.len() as u32);
    writer.reserve_virtual_until(size_of_image.max(writer.virtual_len()));
    if signed {
        writer.reserve_certificate_table(8);
    }
    writer.write_dos_header_and_stub().unwrap();
    writer.write_nt_headers(NtHeaders {
        machine: pe::IMAGE_FILE_MACHINE_AMD64,
        time_date_stamp: 7,
        characteristics: pe::IMAGE_FILE_EXECUTABLE_IMAGE,
        major_linker_version: 1,
        minor_linker_version: 2,
        address_of_entry_point: 0x1000,
        image_base: 0,
        major_operating_system_version: 0,
        minor_operating_system_version: 0,
        major_image_version: 3,
        minor_image_version: 4,
        major_subsystem_version: 0,
        minor_subsystem_version: 0,
        subsystem: pe::IMAGE_SUBSYSTEM_EFI_APPLICATION,
        dll_characteristics: 0x100,
        size_of_stack_reserve: 0,
        size_of_stack_commit: 0,
        size_of_heap_reserve: 0,
        size_of_heap_commit: 0,
    });
    writer.write_section_headers();
    writer.write_section(text.file_offset, &[0x90; 0x20]);
    writer.write_section(range.file_offset, sbat.as_bytes());
    if signed {
        writer.write_certificate_table(&[1; 8]);
    }
    bytes
}

/// What must hold of an image that firmware loads, whatever is in it.
fn check(image: &[u8]) -> Program {
    let program = uki::program(image).unwrap();
    let (mut memory, mut file) = (0u64, 0u64);
    for section in &program.sections {
        // objcopy, which systemd's older stubs are made with, does not align its own.
        let own = [".sbat", ".sdmagic"].contains(&section.name.as_str());
        assert!(own || section.address % program.section_alignment == 0, "{section:?}");
        assert_eq!(section.offset % program.file_alignment, 0, "{section:?}");
        assert!(u64::from(section.address) >= memory, "{section:?} lies over the one before");
        assert!(section.file_size == 0 || u64::from(section.offset) >= file, "{section:?}");
        memory = u64::from(section.address) + u64::from(section.virtual_size);
        file = file.max(u64::from(section.offset) + u64::from(section.file_size));
    }
    assert_eq!(file, image.len() as u64);
    assert!(u64::from(program.size_of_image) >= memory);
    assert!(u64::from(program.size_of_image) < memory + u64::from(program.section_alignment));
    program
}

#[test]
fn sections_follow_the_stubs_and_the_kernel_has_the_memory_that_it_asks_for() {
    let stub = program("sbat,1\nstub,1\n", 0, false);
    let kernel = program("sbat,1\nlinux,1\n", 0x50_0000, false);
    let parts: [(&str, &[u8]); 4] =
        [(".osrel", b"ID=x\n"), (".cmdline", b"quiet"), (".initrd", &[7; 5000]), (".linux", &kernel)];
    let image = uki::write(&stub, &parts).unwrap();
    assert_eq!(image, uki::write(&stub, &parts).unwrap());
    let read = check(&image);
    let names: Vec<&str> = read.sections.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, [".text", ".sbat", ".osrel", ".cmdline", ".initrd", ".linux"]);
    assert_eq!(read.sections[0].address, 0x1000);
    assert_eq!(read.sections[5].virtual_size, 0x50_0000);
    assert_eq!(uki::machine_name(read.machine), Some("x86_64"));
    for (name, bytes) in parts {
        assert_eq!(&uki::section(&image, name).unwrap().unwrap()[..bytes.len()], bytes, "{name}");
    }
    assert_eq!(uki::section(&image, ".sbat").unwrap().unwrap(), b"sbat,1\nstub,1\nlinux,1\n");
    assert_eq!(uki::section(&image, ".other").unwrap(), None);
}

#[test]
fn what_cannot_be_an_image_is_refused() {
    let stub = program("sbat,1\n", 0, false);
    let text = |stub: &[u8], parts: &[(&str, &[u8])]| uki::write(stub, parts).unwrap_err().to_string();
    assert!(text(b"MZ", &[]).starts_with("not an EFI program of 64 bits: "));
    assert!(text(&stub, &[(".linux", b"HdrS")]).starts_with("not an EFI program of 64 bits: "));
    assert_eq!(text(&stub, &[(".sbat", b"x")]), "there are two sections .sbat");
    assert_eq!(
        text(&stub, &[(".too-long", b"x")]),
        "\".too-long\" is no name of a section: it has up to 8 printable characters"
    );
    assert!(matches!(uki::write(&program("", 0, true), &[]), Err(Error::Signed)));
    let kernel = program(&"k,1\n".repeat(2000), 0, false);
    assert!(uki::write(&stub, &[(".linux", &kernel)]).is_ok(), "the last section may grow");
    let twice = uki::write(&stub, &[(".a", b"1")]).unwrap();
    let kernel = program(&(0..2000).map(|n| format!("k{n},1\n")).collect::<String>(), 0, false);
    let error = uki::write(&twice, &[(".linux", &kernel)]).unwrap_err();
    assert!(matches!(error, Error::Sbat { room: 0x1000, .. }), "{error}");
    // As many sections as have headers before the first one.
    let many: Vec<String> = (0..97).map(|n| format!(".s{n}")).collect();
    let parts: Vec<(&str, &[u8])> = many.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
    assert_eq!(text(&stub, &parts), "the EFI program is damaged: 99 sections");
    let last = uki::write(&stub, &parts[..90]).unwrap();
    assert_eq!(check(&last).sections.len(), 92);
    let mut cut = stub.clone();
    cut.truncate(0x300);
    assert!(uki::write(&cut, &[]).is_err());
}

/// binutils and systemd's own stub.
#[test]
#[allow(clippy::print_stderr)]
fn objdump_reads_an_image_over_systemds_stub() {
    if !Path::new(STUB).exists() {
        eprintln!("did not run: there is no {STUB} (apt-get install systemd-boot-efi)");
        return;
    }
    let stub = std::fs::read(STUB).unwrap();
    let kernel = program("", 0x20_0000, false);
    let parts: [(&str, &[u8]); 3] =
        [(".osrel", b"ID=x\n"), (".cmdline", b"console=ttyS0 quiet"), (".linux", &kernel)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uki.efi");
    std::fs::write(&path, uki::write(&stub, &parts).unwrap()).unwrap();
    check(&std::fs::read(&path).unwrap());
    let objdump = |flags: &[&str]| {
        let out = Command::new("objdump").args(flags).arg(&path).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let (headers, private) = (objdump(&["-h"]), objdump(&["-p"]));
    assert!(headers.contains("pei-x86-64"), "{headers}");
    for name in [".text", ".sbat", ".osrel", ".cmdline", ".linux"] {
        assert_eq!(headers.matches(&format!(" {name} ")).count(), 1, "{headers}");
    }
    let size = uki::program(&std::fs::read(&path).unwrap()).unwrap().size_of_image;
    assert!(private.contains(&format!("SizeOfImage\t\t{size:08x}")), "{private}");
    assert!(private.contains("CheckSum\t\t00000000") && private.contains("(EFI application)"), "{private}");
    // What objcopy takes out is what was put in.
    for (name, bytes) in parts {
        let out = dir.path().join("section");
        let to = format!("{name}={}", out.display());
        let copied = Command::new("objcopy")
            .args(["-O", "binary", "--dump-section", &to])
            .arg(&path)
            .arg("/dev/null")
            .status();
        assert!(copied.unwrap().success());
        assert!(std::fs::read(&out).unwrap().starts_with(bytes), "{name}");
    }
    // The sections of the stub are where they were, with what was in them.
    let (before, after) = (uki::program(&stub).unwrap(), std::fs::read(&path).unwrap());
    for old in &before.sections {
        let image = uki::program(&after).unwrap();
        let new = image.sections.iter().find(|s| s.name == old.name).unwrap();
        assert_eq!((new.address, new.virtual_size), (old.address, old.virtual_size));
        assert_eq!(uki::section(&after, &old.name).unwrap(), uki::section(&stub, &old.name).unwrap());
    }
}

proptest! {
    #[test]
    fn whatever_is_put_in_is_read_back(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..8)) {
        let stub = program("sbat,1\n", 0, false);
        let names: Vec<String> = (0..parts.len()).map(|n| format!(".p{n}")).collect();
        let sections: Vec<(&str, &[u8])> =
            names.iter().map(String::as_str).zip(parts.iter().map(Vec::as_slice)).collect();
        let image = uki::write(&stub, &sections).unwrap();
        check(&image);
        for (name, bytes) in &sections {
            prop_assert_eq!(uki::section(&image, name).unwrap().unwrap(), *bytes);
        }
    }

    #[test]
    fn a_damaged_stub_is_an_error_or_an_image(at in 0usize..0x400, value: u8, more in 0usize..0x400, other: u8) {
        let mut stub = program("sbat,1\n", 0, false);
        stub[at] = value;
        stub[more] = other;
        if let Ok(image) = uki::write(&stub, &[(".osrel", b"ID=x\n")]) {
            let _ = uki::program(&image);
        }
    }
}
