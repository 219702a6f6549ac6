//! ELF files of an image: what kind each is, and the same file without what only linkers and debuggers read.
//! Any architecture, class and byte order; nothing is run. Does not know where a file lies in the image.
//!
//! Programs and libraries lose what `strip` of binutils takes (linked.rs), kernel modules what its `--strip-debug`
//! takes (relocatable.rs). A file of which that cannot be done without doubt is left as it is, with a reason.

mod linked;
mod relocatable;

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind};

use crate::modinfo;

/// What begins an ELF file.
pub const MAGIC: &[u8; 4] = b"\x7fELF";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is started: fixed at its address, or position-independent.
    Program,
    /// It is loaded by a program.
    Library,
    /// A kernel module.
    Module,
    /// An object file, for a linker (or a BPF program).
    Object,
    /// Anything else: a core dump.
    Other,
}

/// Why a file is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// It has nothing of what is taken out.
    #[error("there is nothing to take out")]
    Nothing,
    /// A module with a signature, which any change breaks.
    #[error("it is signed")]
    Signed,
    /// An object file: its symbols are what it is for.
    #[error("it is an object file for a linker")]
    Object,
    /// A core dump, or of a kind that we do not know.
    #[error("it is neither a program nor a library nor a kernel module")]
    Kind,
    /// Without section headers nothing tells what is not loaded; packers such as UPX make such files.
    #[error("it has no section headers")]
    NoSections,
    /// A self-extracting program: what reads its own file behind the ELF part finds it by its offset.
    #[error("data is appended to it")]
    Appended,
    /// Taking it out would move what is loaded.
    #[error("loaded parts lie behind what would be taken out")]
    Behind,
    /// It contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Something about it is unknown to us.
    #[error("it has what is not understood: {0}")]
    Unknown(String),
    /// The result was looked at and is not what it should be: a fault of ours that harms nobody.
    #[error("the stripped file would differ in {0}")]
    Differs(String),
}

impl From<object::read::Error> for Left {
    fn from(e: object::read::Error) -> Left {
        Left::Damaged(e.to_string())
    }
}

/// The file without what is not needed at run time, or why it is left as it is.
///
/// # Errors
/// [`Left`]; what is no ELF file is [`Left::Damaged`].
pub fn strip(bytes: &[u8]) -> Result<Vec<u8>, Left> {
    if modinfo::is_signed(bytes) {
        return Err(Left::Signed);
    }
    match kind(bytes)? {
        Kind::Program | Kind::Library => linked::strip(bytes),
        Kind::Module => relocatable::strip(bytes),
        Kind::Object => Err(Left::Object),
        Kind::Other => Err(Left::Kind),
    }
}

/// Whether data is appended to a program, which finds it in its own file by its offset. Of one without section headers
/// that cannot be told: it counts as not.
///
/// # Errors
/// [`Left::Damaged`] of what is no program or library.
pub fn is_appended_to(bytes: &[u8]) -> Result<bool, Left> {
    linked::is_appended_to(bytes)
}

/// Bytes of memory that the loaded parts of a program or library take, in whole pages of 4 KiB.
///
/// # Errors
/// [`object::read::Error`] of a file that is none, or damaged.
pub fn loaded_bytes(bytes: &[u8]) -> Result<u64, object::read::Error> {
    fn of<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<u64, object::read::Error> {
        let header = H::parse(bytes)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, bytes)?.iter();
        let loaded = segments.filter(|s| s.p_type(endian) == elf::PT_LOAD);
        let pages = loaded.map(|s| {
            let (at, size): (u64, u64) = (s.p_vaddr(endian).into(), s.p_memsz(endian).into());
            (at % PAGE).saturating_add(size).div_ceil(PAGE)
        });
        Ok(pages.fold(0, u64::saturating_add).saturating_mul(PAGE))
    }
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => of::<elf::FileHeader32<Endianness>>(bytes),
        _ => of::<elf::FileHeader64<Endianness>>(bytes),
    }
}

/// Bytes of a page.
const PAGE: u64 = 4096;

/// What an ELF file is.
///
/// # Errors
/// [`object::read::Error`] of a file that is none, or damaged.
pub fn kind(bytes: &[u8]) -> Result<Kind, object::read::Error> {
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => kind_of::<elf::FileHeader32<Endianness>>(bytes),
        _ => kind_of::<elf::FileHeader64<Endianness>>(bytes),
    }
}

fn kind_of<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Kind, object::read::Error> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    Ok(match header.e_type(endian) {
        elf::ET_EXEC => Kind::Program,
        elf::ET_DYN if is_program(header, endian, bytes)? => Kind::Program,
        elf::ET_DYN => Kind::Library,
        elf::ET_REL => match header.sections(endian, bytes)?.section_by_name(endian, b".modinfo") {
            Some(_) => Kind::Module,
            None => Kind::Object,
        },
        _ => Kind::Other,
    })
}

/// Whether a position-independent file is started by itself: it asks for a loader or says that it is a program, and
/// has no name by which others load it (a C library can often be started too).
fn is_program<H: FileHeader<Endian = Endianness>>(
    header: &H,
    endian: Endianness,
    bytes: &[u8],
) -> Result<bool, object::read::Error> {
    let (mut interpreter, mut says_so, mut named) = (false, false, false);
    for segment in header.program_headers(endian, bytes)? {
        interpreter |= segment.p_type(endian) == elf::PT_INTERP;
        for entry in segment.dynamic(endian, bytes)?.unwrap_or_default() {
            match entry.tag32(endian) {
                Some(elf::DT_NULL) => break,
                Some(elf::DT_SONAME) => named = true,
                Some(elf::DT_FLAGS_1) => {
                    says_so |= entry.d_val(endian).into() & u64::from(elf::DF_1_PIE) != 0;
                }
                _ => {}
            }
        }
    }
    Ok(!named && (interpreter || says_so))
}

/// Names of sections that only debuggers read, as binutils has them (bfd/elf.c).
fn is_debug(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 7] = [
        b".debug",
        b".zdebug",
        b".gnu.debuglto_.debug_",
        b".gnu.linkonce.wi.",
        b".line",
        b".stab",
        b".gdb_index",
    ];
    PREFIXES.iter().any(|p| name.starts_with(p))
}

fn is_alloc<S: SectionHeader<Endian = Endianness>>(section: &S, endian: Endianness) -> bool {
    section.sh_flags(endian).into() & u64::from(elf::SHF_ALLOC) != 0
}
