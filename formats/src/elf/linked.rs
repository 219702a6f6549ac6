//! Programs and shared libraries without symbol table and debugging sections, as `strip` of binutils makes them.
//! What is loaded stays byte for byte where it is: the file's beginning is copied up to the end of the last loaded
//! part, then come the sections that stay and new section headers. Nothing else is understood, so nothing else can break.

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endian, Endianness, FileKind};

use super::{Left, is_alloc, is_debug};

pub(super) fn strip(bytes: &[u8]) -> Result<Vec<u8>, Left> {
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => strip_as::<elf::FileHeader32<Endianness>>(bytes),
        _ => strip_as::<elf::FileHeader64<Endianness>>(bytes),
    }
}

/// A section header, as wide as any class has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    name: u32,
    kind: u32,
    flags: u64,
    addr: u64,
    offset: u64,
    size: u64,
    link: u32,
    info: u32,
    align: u64,
    entsize: u64,
}

/// What becomes of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is loaded, or lies in front of the end of what is: it stays where it is.
    Stays,
    /// It is written again behind what is loaded.
    Moves,
    /// The names of sections, made anew.
    Names,
    /// It goes.
    Goes,
}

struct Section<'d> {
    header: Header,
    name: &'d [u8],
    data: &'d [u8],
    fate: Fate,
}

impl Section<'_> {
    fn has_data(&self) -> bool {
        self.header.kind != elf::SHT_NOBITS && self.header.size > 0
    }

    fn range(&self) -> (u64, u64) {
        (self.header.offset, self.header.offset.saturating_add(self.header.size))
    }
}

/// Whether a program or library has data behind its loaded parts that no section claims. Without sections nothing tells.
pub(super) fn is_appended_to(bytes: &[u8]) -> Result<bool, Left> {
    fn of<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<bool, Left> {
        let header = H::parse(bytes)?;
        let endian = header.endian()?;
        let sections = match read::<H>(bytes) {
            Err(Left::NoSections) => return Ok(false),
            other => other?,
        };
        let end = loaded_end(header, endian, bytes, &sections)?;
        Ok(unclaimed(header, endian, bytes, &sections, end).is_err())
    }
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => of::<elf::FileHeader32<Endianness>>(bytes),
        _ => of::<elf::FileHeader64<Endianness>>(bytes),
    }
}

/// The sections, each to stay or to move.
fn read<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Vec<Section<'_>>, Left> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    let table = header.sections(endian, bytes)?;
    if table.len() <= 1 {
        return Err(Left::NoSections);
    }
    let names = header.section_strings_index(endian, bytes)?.0;
    let mut sections = Vec::with_capacity(table.len());
    for (index, s) in table.enumerate() {
        let read = |e: object::read::Error| Left::Damaged(format!("section {}: {e}", index.0));
        sections.push(Section {
            header: Header {
                name: 0,
                kind: s.sh_type(endian),
                flags: s.sh_flags(endian).into(),
                addr: s.sh_addr(endian).into(),
                offset: s.sh_offset(endian).into(),
                size: s.sh_size(endian).into(),
                link: s.sh_link(endian),
                info: s.sh_info(endian),
                align: s.sh_addralign(endian).into(),
                entsize: s.sh_entsize(endian).into(),
            },
            name: if index.0 == 0 { b"" } else { table.section_name(endian, s).map_err(read)? },
            data: if index.0 == 0 { b"" } else { s.data(endian, bytes).map_err(read)? },
            fate: match (index.0, is_alloc(s, endian)) {
                (0, _) | (_, true) => Fate::Stays,
                (n, _) if n == names => Fate::Names,
                _ => Fate::Moves,
            },
        });
    }
    Ok(sections)
}

fn strip_as<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Vec<u8>, Left> {
    let mut sections = read::<H>(bytes)?;
    judge(&mut sections)?;
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    let end = loaded_end(header, endian, bytes, &sections)?;
    unclaimed(header, endian, bytes, &sections, end)?;
    if sections.iter().any(|s| s.fate == Fate::Goes && s.has_data() && s.header.offset < end) {
        return Err(Left::Behind);
    }
    for section in &mut sections {
        if section.fate == Fate::Moves && section.has_data() && section.header.offset < end {
            section.fate = Fate::Stays;
        }
    }
    let out = write(bytes, &sections, end as usize, endian, header.is_type_64())?;
    check::<H>(bytes, &out, end as usize)?;
    if out.len() >= bytes.len() { Err(Left::Nothing) } else { Ok(out) }
}

/// Finds what goes: of the sections that are not loaded the symbols with their names, relocations that a linker left
/// in, and what debuggers read.
fn judge(sections: &mut [Section<'_>]) -> Result<(), Left> {
    let mut strings = Vec::new();
    for section in sections.iter_mut().filter(|s| s.fate == Fate::Moves) {
        let kind = section.header.kind;
        let goes = matches!(
            kind,
            elf::SHT_SYMTAB | elf::SHT_SYMTAB_SHNDX | elf::SHT_REL | elf::SHT_RELA | elf::SHT_NULL
        );
        if goes || is_debug(section.name) {
            section.fate = Fate::Goes;
        }
        if kind == elf::SHT_SYMTAB {
            strings.push(section.header.link as usize);
        }
    }
    for at in strings {
        // One that something else refers to stays.
        let used = |s: &Section<'_>| s.fate != Fate::Goes && s.header.link as usize == at;
        if !sections.iter().any(used)
            && let Some(section) = sections.get_mut(at)
            && section.fate == Fate::Moves
        {
            section.fate = Fate::Goes;
        }
    }
    match sections.iter().any(|s| s.fate == Fate::Goes) {
        true => Ok(()),
        false => Err(Left::Nothing),
    }
}

/// Where what is loaded ends in the file: segments, their headers and sections with SHF_ALLOC.
fn loaded_end<H: FileHeader<Endian = Endianness>>(
    header: &H,
    endian: Endianness,
    bytes: &[u8],
    sections: &[Section<'_>],
) -> Result<u64, Left> {
    let segments = header.program_headers(endian, bytes)?;
    let table = u64::from(header.e_phentsize(endian)).saturating_mul(segments.len() as u64);
    let mut end = u64::from(header.e_ehsize(endian)).max(size_of::<H>() as u64);
    if table > 0 {
        end = end.max(header.e_phoff(endian).into().saturating_add(table));
    }
    for segment in segments {
        let size: u64 = segment.p_filesz(endian).into();
        if size > 0 {
            end = end.max(segment.p_offset(endian).into().saturating_add(size));
        }
    }
    for section in sections.iter().skip(1).filter(|s| s.fate == Fate::Stays && s.has_data()) {
        end = end.max(section.range().1);
    }
    match end <= bytes.len() as u64 {
        true => Ok(end),
        false => Err(Left::Damaged(format!("it should have {end} bytes at least, and has {}", bytes.len()))),
    }
}

/// Refuses a file that has bytes behind its loaded parts which no section or header claims: somebody finds them by
/// their offset. Padding is zero.
fn unclaimed<H: FileHeader<Endian = Endianness>>(
    header: &H,
    endian: Endianness,
    bytes: &[u8],
    sections: &[Section<'_>],
    end: u64,
) -> Result<(), Left> {
    let table = u64::from(header.e_shentsize(endian)).saturating_mul(sections.len() as u64);
    let at: u64 = header.e_shoff(endian).into();
    let mut claimed = vec![(0, end), (at, at.saturating_add(table))];
    claimed.extend(sections.iter().skip(1).filter(|s| s.has_data()).map(Section::range));
    claimed.push((bytes.len() as u64, u64::MAX));
    claimed.sort_unstable();
    let mut reached = 0;
    for (from, to) in claimed {
        if from > reached {
            let gap = bytes.get(reached as usize..from as usize).unwrap_or_default();
            if gap.iter().any(|b| *b != 0) {
                return Err(Left::Appended);
            }
        }
        reached = reached.max(to);
    }
    Ok(())
}

/// New numbers of sections. Those that stay keep theirs: symbols in loaded tables refer to them by number. What goes
/// from among them becomes an inactive header.
fn number(sections: &[Section<'_>]) -> Vec<Option<u32>> {
    let fixed = sections.iter().rposition(|s| s.fate == Fate::Stays).unwrap_or(0);
    let mut next = fixed as u32 + 1;
    let number = |(at, section): (usize, &Section<'_>)| match section.fate {
        Fate::Goes => None,
        _ if at <= fixed => Some(at as u32),
        _ => {
            next += 1;
            Some(next - 1)
        }
    };
    sections.iter().enumerate().map(number).collect()
}

fn write(
    bytes: &[u8],
    sections: &[Section<'_>],
    end: usize,
    endian: Endianness,
    wide: bool,
) -> Result<Vec<u8>, Left> {
    let numbers = number(sections);
    let count = numbers.iter().flatten().max().map_or(0, |last| last + 1);
    if count >= u32::from(elf::SHN_LORESERVE) {
        return Err(Left::Unknown(format!("{count} sections")));
    }
    let mut headers = vec![Header::default(); count as usize];
    let mut out = bytes[..end].to_vec();
    let mut names = vec![0u8];
    let mut names_at = 0;
    let new = |old: u32| numbers.get(old as usize).copied().flatten().unwrap_or(0);
    for (section, number) in sections.iter().zip(&numbers).skip(1) {
        let Some(number) = *number else { continue };
        let mut header = section.header;
        header.name = names.len() as u32;
        names.extend_from_slice(section.name);
        names.push(0);
        header.link = new(header.link);
        let relocates = matches!(header.kind, elf::SHT_REL | elf::SHT_RELA);
        if relocates || header.flags & u64::from(elf::SHF_INFO_LINK) != 0 {
            header.info = new(header.info);
        }
        match section.fate {
            Fate::Moves if section.has_data() => {
                pad(&mut out, header.align)?;
                header.offset = out.len() as u64;
                out.extend_from_slice(section.data);
            }
            Fate::Names => names_at = number,
            // Of one without data the offset says nothing, but readers complain of one behind the end.
            _ if !section.has_data() => header.offset = header.offset.min(end as u64),
            _ => {}
        }
        headers[number as usize] = header;
    }
    if names_at > 0 {
        let header = &mut headers[names_at as usize];
        (header.offset, header.size) = (out.len() as u64, names.len() as u64);
        out.extend_from_slice(&names);
    } else {
        headers.iter_mut().for_each(|h| h.name = 0);
    }
    pad(&mut out, if wide { 8 } else { 4 })?;
    let at = out.len() as u64;
    for header in &headers {
        header.write(&mut out, endian, wide);
    }
    point(&mut out, endian, wide, at, count as u16, names_at as u16);
    Ok(out)
}

fn pad(out: &mut Vec<u8>, align: u64) -> Result<(), Left> {
    match align {
        0 | 1 => Ok(()),
        2..=0x1_0000 => {
            out.resize(out.len().next_multiple_of(align as usize), 0);
            Ok(())
        }
        _ => Err(Left::Unknown(format!("a section that is not loaded, aligned to {align}"))),
    }
}

impl Header {
    fn write(&self, out: &mut Vec<u8>, endian: Endianness, wide: bool) {
        // In both classes the fields have this order; those of an address's width are marked.
        for (value, address) in [
            (u64::from(self.name), false),
            (u64::from(self.kind), false),
            (self.flags, true),
            (self.addr, true),
            (self.offset, true),
            (self.size, true),
            (u64::from(self.link), false),
            (u64::from(self.info), false),
            (self.align, true),
            (self.entsize, true),
        ] {
            match address && wide {
                true => out.extend_from_slice(&endian.write_u64_bytes(value)),
                false => out.extend_from_slice(&endian.write_u32_bytes(value as u32)),
            }
        }
    }
}

/// Where the file header has the place, the number and the names of sections: e_shoff, e_shnum, e_shstrndx.
fn pointers(wide: bool) -> [std::ops::Range<usize>; 3] {
    match wide {
        true => [0x28..0x30, 0x3c..0x3e, 0x3e..0x40],
        false => [0x20..0x24, 0x30..0x32, 0x32..0x34],
    }
}

fn point(out: &mut [u8], endian: Endianness, wide: bool, at: u64, count: u16, names: u16) {
    let [offset, number, strings] = pointers(wide);
    match wide {
        true => out[offset].copy_from_slice(&endian.write_u64_bytes(at)),
        false => out[offset].copy_from_slice(&endian.write_u32_bytes(at as u32)),
    }
    out[number].copy_from_slice(&endian.write_u16_bytes(count));
    out[strings].copy_from_slice(&endian.write_u16_bytes(names));
}

/// Looks at what was made: every loaded byte is what it was, but for the three fields that point at section headers,
/// and every section that is left says the same of the same bytes.
fn check<H: FileHeader<Endian = Endianness>>(old: &[u8], new: &[u8], end: usize) -> Result<(), Left> {
    let differs = |what: &str| Left::Differs(what.into());
    let pointers = pointers(H::parse(old)?.is_type_64());
    let beginning = |bytes: &[u8]| {
        let mut copy = bytes.get(..end)?.to_vec();
        for field in &pointers {
            copy.get_mut(field.clone())?.fill(0);
        }
        Some(copy)
    };
    if beginning(old).is_none_or(|b| Some(b) != beginning(new)) {
        return Err(differs("what is loaded"));
    }
    let (before, after) = (H::parse(old)?, H::parse(new)?);
    let endian = before.endian()?;
    if before.program_headers(endian, old)?.len() != after.program_headers(endian, new)?.len() {
        return Err(differs("its segments"));
    }
    let (sections, left) = (before.sections(endian, old)?, after.sections(endian, new)?);
    let names = after.section_strings_index(endian, new)?;
    let mut rest = sections.enumerate().skip(1);
    for (index, section) in left.enumerate().skip(1) {
        if section.sh_type(endian) == elf::SHT_NULL || index == names {
            continue;
        }
        let name = left.section_name(endian, section)?;
        let same = |other: &H::SectionHeader| {
            section.sh_type(endian) == other.sh_type(endian)
                && section.sh_flags(endian).into() == other.sh_flags(endian).into()
                && section.sh_addr(endian).into() == other.sh_addr(endian).into()
                && section.sh_size(endian).into() == other.sh_size(endian).into()
                && section.sh_addralign(endian).into() == other.sh_addralign(endian).into()
                && section.sh_entsize(endian).into() == other.sh_entsize(endian).into()
        };
        let data = section.data(endian, new)?;
        let is = |other: &H::SectionHeader| {
            same(other)
                && sections.section_name(endian, other).is_ok_and(|n| n == name)
                && other.data(endian, old).is_ok_and(|d| d == data)
        };
        // They come in the order that they had.
        if !rest.any(|(_, other)| is(other)) {
            return Err(Left::Differs(format!("section {}", String::from_utf8_lossy(name))));
        }
    }
    Ok(())
}
