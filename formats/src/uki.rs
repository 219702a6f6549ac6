//! Unified kernel images: a stub, which is an EFI program, with kernel, archive and texts as further sections.
//! Knows PE as far as sections go; does not know what a stub does with them, nor signatures (authenticode.rs).
//!
//! The layout is that of UAPI.5 and of systemd's ukify: sections of the stub stay where they are in memory, new ones
//! follow in the order that is asked for, each at the stub's alignments; sizes in the headers follow; no checksum.

use std::mem::size_of;

use object::pe::{self, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};
use object::write::pe::{NtHeaders, Writer};
use object::{LittleEndian as LE, Object, ObjectSection};

/// The section with the kernel.
pub const LINUX: &str = ".linux";
/// The section with what revocations go by, which the stub has one of.
const SBAT: &str = ".sbat";
/// Bound on an image: offsets have 32 bits, and firmware loads all of it into memory.
pub const IMAGE_MAX: u64 = 1 << 31;
/// As many as the format allows an image.
const SECTIONS_MAX: usize = 96;
/// Longest name of a section.
const NAME_MAX: usize = pe::IMAGE_SIZEOF_SHORT_NAME;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No PE file, or a damaged one.
    #[error("not an EFI program of 64 bits: {0}")]
    NoPe(String),
    /// Headers that contradict each other.
    #[error("the EFI program is damaged: {0}")]
    Damaged(String),
    /// A signature would no longer fit.
    #[error("the stub is signed already; a unified kernel image is signed as a whole, when it is complete")]
    Signed,
    /// The stub has it, or it is given twice.
    #[error("there are two sections {0}")]
    Twice(String),
    /// A name that has no room.
    #[error("{0:?} is no name of a section: it has up to 8 printable characters")]
    Name(String),
    /// No room for what the kernel's `.sbat` says.
    #[error("the stub has {room} bytes for .sbat, and with the kernel's lines it has {needed}")]
    Sbat {
        /// Bytes up to the next section.
        room: u64,
        /// Bytes of both.
        needed: u64,
    },
    /// Beyond [`IMAGE_MAX`].
    #[error("the image would have {0} bytes, more than an EFI program may")]
    TooLarge(u64),
}

/// What firmware sees of an EFI program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Machine number of PE.
    pub machine: u16,
    /// Bytes that it takes in memory.
    pub size_of_image: u32,
    /// Alignment of sections in memory.
    pub section_alignment: u32,
    /// Alignment of sections in the file.
    pub file_alignment: u32,
    /// In the order of its headers.
    pub sections: Vec<Section>,
}

/// A section as its header tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// With a dot, mostly.
    pub name: String,
    /// Where it is in memory, from the image's base.
    pub address: u32,
    /// Bytes in memory.
    pub virtual_size: u32,
    /// Where its bytes are in the file.
    pub offset: u32,
    /// How many there are, padding included.
    pub file_size: u32,
}

/// Machine numbers of PE, by the name that `uname -m` has.
pub fn machine_name(machine: u16) -> Option<&'static str> {
    match machine {
        pe::IMAGE_FILE_MACHINE_AMD64 => Some("x86_64"),
        pe::IMAGE_FILE_MACHINE_ARM64 => Some("aarch64"),
        _ => None,
    }
}

/// Reads the headers of an EFI program.
///
/// # Errors
/// Anything but a PE file of 64 bits whose sections lie in it.
pub fn program(bytes: &[u8]) -> Result<Program, Error> {
    let file = parse(bytes)?;
    let header = &file.nt_headers().optional_header();
    let mut sections = Vec::new();
    for section in file.section_table().iter() {
        let (offset, file_size) = (section.pointer_to_raw_data.get(LE), section.size_of_raw_data.get(LE));
        let end = u64::from(offset) + u64::from(file_size);
        let name = String::from_utf8_lossy(section.raw_name()).into_owned();
        if end > bytes.len() as u64 {
            return Err(Error::Damaged(format!("section {name} ends at {end}, the file at {}", bytes.len())));
        }
        sections.push(Section {
            name,
            address: section.virtual_address.get(LE),
            virtual_size: section.virtual_size.get(LE),
            offset,
            file_size,
        });
    }
    Ok(Program {
        machine: file.nt_headers().file_header().machine.get(LE),
        size_of_image: header.size_of_image(),
        section_alignment: header.section_alignment(),
        file_alignment: header.file_alignment(),
        sections,
    })
}

/// The bytes of a section, without padding; `None` if there is none of this name.
///
/// # Errors
/// See [`program`].
pub fn section<'a>(bytes: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Error> {
    let file = parse(bytes)?;
    let found = file.section_by_name(name);
    found.map(|section| section.data().map_err(damaged)).transpose()
}

fn parse(bytes: &[u8]) -> Result<PeFile64<'_>, Error> {
    PeFile64::parse(bytes).map_err(|e| Error::NoPe(e.to_string()))
}

fn damaged(error: impl std::fmt::Display) -> Error {
    Error::Damaged(error.to_string())
}

/// A section as it is written.
struct Put<'a> {
    name: [u8; NAME_MAX],
    characteristics: u32,
    /// `None`: behind the one before.
    address: Option<u32>,
    virtual_size: u32,
    data: std::borrow::Cow<'a, [u8]>,
}

impl Put<'_> {
    fn name(&self) -> String {
        String::from_utf8_lossy(&self.name).trim_end_matches('\0').to_owned()
    }

    /// Where a section of the stub ends in memory; of others 0.
    fn end(&self) -> u64 {
        self.address.map_or(0, |address| u64::from(address) + u64::from(self.virtual_size))
    }
}

/// The stub with these sections behind its own. The kernel's (`.linux`) takes as much memory as it asks for itself, and
/// its lines of `.sbat` are put behind the stub's.
///
/// # Errors
/// A stub that is no EFI program, is damaged or signed; sections that it has; a kernel that is no EFI program; too much.
pub fn write(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let file = parse(stub)?;
    let nt = file.nt_headers();
    let optional = nt.optional_header();
    if file.data_directory(pe::IMAGE_DIRECTORY_ENTRY_SECURITY).is_some_and(|d| d.size.get(LE) != 0) {
        return Err(Error::Signed);
    }
    let (in_memory, in_file) = (optional.section_alignment(), optional.file_alignment());
    let aligned = |n: u32| n.is_power_of_two() && (1 << 4..=1 << 16).contains(&n);
    if !aligned(in_memory) || !aligned(in_file) {
        return Err(Error::Damaged(format!("its sections are aligned to {in_memory} and {in_file}")));
    }
    let kernel = sections.iter().find(|(name, _)| *name == LINUX).map(|(_, bytes)| *bytes);
    let mut put = of_stub(&file, kernel)?;
    for (name, data) in sections {
        put.push(added(name, data)?);
    }
    for (i, one) in put.iter().enumerate() {
        if put[..i].iter().any(|other| other.name == one.name) {
            return Err(Error::Twice(one.name()));
        }
    }
    // What has been checked here cannot overflow the writer's numbers.
    if put.len() > SECTIONS_MAX {
        return Err(Error::Damaged(format!("{} sections", put.len())));
    }
    if let Some(one) = put.iter().find(|one| one.end() > u64::from(optional.size_of_image())) {
        return Err(Error::Damaged(format!("section {} ends beyond its image", one.name())));
    }
    let room = |one: &Put| {
        u64::from(one.virtual_size).max(one.data.len() as u64) + u64::from(in_memory.max(in_file))
    };
    let total = put.iter().map(room).sum::<u64>() + u64::from(optional.size_of_image()) + stub.len() as u64;
    if total > IMAGE_MAX {
        return Err(Error::TooLarge(total));
    }

    let dos_stub = stub.get(size_of::<pe::ImageDosHeader>()..nt_offset(&file) as usize).unwrap_or_default();
    let mut bytes = Vec::new();
    // Stubs made with objcopy have sections at addresses that are less aligned than their headers say.
    let addresses = put.iter().filter_map(|one| one.address);
    let grain = addresses.fold(in_memory, |grain, address| grain.min(1 << address.trailing_zeros().min(16)));
    let mut writer = Writer::new(true, grain, in_file, &mut bytes);
    writer.reserve_dos_header();
    writer.reserve(dos_stub.len() as u32, 1);
    writer.reserve_nt_headers(optional.number_of_rva_and_sizes().min(16) as usize);
    writer.reserve_section_headers(put.len() as u16);
    let mut ranges = Vec::new();
    let mut moved = false;
    for (i, one) in put.iter().enumerate() {
        let address = one.address.unwrap_or_else(|| writer.virtual_len().next_multiple_of(in_memory));
        if address < writer.virtual_len() {
            return Err(Error::Damaged(match i {
                0 => format!("the headers of {} sections have no room before {}", put.len(), one.name()),
                _ => format!("section {} lies over the one before", one.name()),
            }));
        }
        writer.reserve_virtual_until(address);
        let range =
            writer.reserve_section(one.name, one.characteristics, one.virtual_size, one.data.len() as u32);
        let before = file.section_table().iter().nth(i).map_or(0, |s| s.pointer_to_raw_data.get(LE));
        moved |= one.address.is_some() && before != range.file_offset;
        ranges.push(range);
    }
    writer.reserve_virtual_until(writer.virtual_len().next_multiple_of(in_memory));
    for (i, directory) in file.data_directories().enumerate() {
        // What is there for debuggers names places in the file.
        if !(i == pe::IMAGE_DIRECTORY_ENTRY_DEBUG && moved) {
            writer.set_data_directory(i, directory.virtual_address.get(LE), directory.size.get(LE));
        }
    }
    let mut dos = *file.dos_header();
    dos.e_lfanew.set(LE, writer.nt_headers_offset());
    writer.write_custom_dos_header(&dos).map_err(damaged)?;
    writer.write(dos_stub);
    writer.write_nt_headers(headers(nt));
    writer.write_section_headers();
    for (one, range) in put.iter().zip(&ranges) {
        writer.write_section(range.file_offset, &one.data);
    }
    let at = writer.nt_headers_offset() as usize;
    let written = bytes.get_mut(at..).and_then(|rest| object::from_bytes_mut::<ImageNtHeaders64>(rest).ok());
    if let Some((headers, _)) = written {
        headers.optional_header.section_alignment.set(LE, in_memory);
    }
    Ok(bytes)
}

fn nt_offset(file: &PeFile64<'_>) -> u32 {
    file.dos_header().nt_headers_offset()
}

/// The stub's own sections, with the kernel's lines in `.sbat`.
fn of_stub<'a>(file: &PeFile64<'a>, kernel: Option<&[u8]>) -> Result<Vec<Put<'a>>, Error> {
    let kernels = kernel.map(|kernel| section(kernel, SBAT)).transpose()?.flatten().unwrap_or_default();
    let table: Vec<_> = file.section_table().iter().collect();
    let mut put = Vec::new();
    for (i, section) in table.iter().enumerate() {
        let data = section.pe_data(file.data()).map_err(damaged)?;
        let mut one = Put {
            name: section.name,
            characteristics: section.characteristics.get(LE),
            address: Some(section.virtual_address.get(LE)),
            virtual_size: section.virtual_size.get(LE),
            data: data.into(),
        };
        if section.raw_name() == SBAT.as_bytes() && !kernels.is_empty() {
            let merged = sbat(data, kernels);
            let end = table.get(i + 1).map_or(u32::MAX, |next| next.virtual_address.get(LE));
            let room = u64::from(end.saturating_sub(section.virtual_address.get(LE)));
            if merged.len() as u64 > room {
                return Err(Error::Sbat { room, needed: merged.len() as u64 });
            }
            one.virtual_size = merged.len() as u32;
            one.data = merged.into();
        }
        put.push(one);
    }
    Ok(put)
}

/// The lines of both, the first line, which says what `.sbat` itself is, once.
fn sbat(stub: &[u8], kernel: &[u8]) -> Vec<u8> {
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches(['\0', '\n']).to_owned();
    let mut all: Vec<String> = lines(stub).lines().map(str::to_owned).collect();
    for line in lines(kernel).lines() {
        if !all.iter().any(|known| known == line) {
            all.push(line.to_owned());
        }
    }
    let mut bytes = all.join("\n").into_bytes();
    bytes.push(b'\n');
    bytes
}

fn added<'a>(name: &str, data: &'a [u8]) -> Result<Put<'a>, Error> {
    let mut padded = [0; NAME_MAX];
    match padded.get_mut(..name.len()) {
        Some(place) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) => {
            place.copy_from_slice(name.as_bytes());
        }
        _ => return Err(Error::Name(name.into())),
    }
    let size = u32::try_from(data.len()).map_err(|_| Error::TooLarge(data.len() as u64))?;
    let (virtual_size, kind) = match name {
        // Older kernels run in place, and need the memory behind their file.
        LINUX => (size.max(program(data)?.size_of_image), pe::IMAGE_SCN_CNT_CODE),
        _ => (size, pe::IMAGE_SCN_CNT_INITIALIZED_DATA),
    };
    let characteristics = kind | pe::IMAGE_SCN_MEM_READ;
    Ok(Put { name: padded, characteristics, address: None, virtual_size, data: data.into() })
}

/// The stub's own headers; all that is about sizes is counted by the writer.
fn headers(nt: &ImageNtHeaders64) -> NtHeaders {
    let (file, optional) = (&nt.file_header, &nt.optional_header);
    NtHeaders {
        machine: file.machine.get(LE),
        time_date_stamp: file.time_date_stamp.get(LE),
        // Of symbols, which stubs of systemd before 253 may have, nothing is taken over.
        characteristics: file.characteristics.get(LE) | pe::IMAGE_FILE_LOCAL_SYMS_STRIPPED,
        major_linker_version: optional.major_linker_version,
        minor_linker_version: optional.minor_linker_version,
        address_of_entry_point: optional.address_of_entry_point.get(LE),
        image_base: optional.image_base.get(LE),
        major_operating_system_version: optional.major_operating_system_version.get(LE),
        minor_operating_system_version: optional.minor_operating_system_version.get(LE),
        major_image_version: optional.major_image_version.get(LE),
        minor_image_version: optional.minor_image_version.get(LE),
        major_subsystem_version: optional.major_subsystem_version.get(LE),
        minor_subsystem_version: optional.minor_subsystem_version.get(LE),
        subsystem: optional.subsystem.get(LE),
        dll_characteristics: optional.dll_characteristics.get(LE),
        size_of_stack_reserve: optional.size_of_stack_reserve.get(LE),
        size_of_stack_commit: optional.size_of_stack_commit.get(LE),
        size_of_heap_reserve: optional.size_of_heap_reserve.get(LE),
        size_of_heap_commit: optional.size_of_heap_commit.get(LE),
    }
}
