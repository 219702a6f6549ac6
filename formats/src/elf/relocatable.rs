//! Kernel modules without debugging sections, as `strip --strip-debug` makes them: all symbols but the names of source
//! files stay, since the loader of modules reads them. Written by `object`, then compared with what it was.

use object::build::elf::{Builder, Section, SectionData, SectionId};
use object::read::elf::{FileHeader, Rela, SectionHeader, SectionTable, Sym, SymbolTable};
use object::{Endianness, FileKind, SectionIndex, elf};

use super::{Left, is_debug};

/// Largest alignment of a section that is believed.
const MAX_ALIGN: u64 = 1 << 16;

pub(super) fn strip(bytes: &[u8]) -> Result<Vec<u8>, Left> {
    let unknown = |e: object::build::Error| Left::Unknown(e.to_string());
    let mut builder = Builder::read(bytes).map_err(unknown)?;
    if let Some(wrong) = builder
        .sections
        .iter()
        .find(|s| s.sh_addralign > MAX_ALIGN || (s.sh_addralign > 1 && !s.sh_addralign.is_power_of_two()))
    {
        return Err(Left::Damaged(format!("section {} is aligned to {}", wrong.name, wrong.sh_addralign)));
    }
    let debug = |s: &Section<'_>| s.sh_flags & u64::from(elf::SHF_ALLOC) == 0 && is_debug(&s.name);
    let gone: Vec<SectionId> = builder.sections.iter().filter(|s| debug(s)).map(Section::id).collect();
    if gone.is_empty() {
        return Err(Left::Nothing);
    }
    for section in &mut builder.sections {
        let of = section.sh_info_section.is_some_and(|id| gone.contains(&id));
        section.delete =
            gone.contains(&section.id()) || of && matches!(section.data, SectionData::Relocation(_));
    }
    for symbol in &mut builder.symbols {
        let of = symbol.section.is_some_and(|id| gone.contains(&id));
        symbol.delete = of || symbol.st_type() == elf::STT_FILE;
    }
    let mut out = Vec::with_capacity(bytes.len());
    builder.write(&mut out).map_err(unknown)?;
    match FileKind::parse(bytes)? {
        FileKind::Elf32 => check::<elf::FileHeader32<Endianness>>(bytes, &out)?,
        _ => check::<elf::FileHeader64<Endianness>>(bytes, &out)?,
    }
    if out.len() >= bytes.len() { Err(Left::Nothing) } else { Ok(out) }
}

/// One side of the comparison.
struct Side<'d, H: FileHeader> {
    header: &'d H,
    bytes: &'d [u8],
    sections: SectionTable<'d, H>,
    symbols: SymbolTable<'d, H>,
    /// Sections that are compared, in order.
    kept: Vec<SectionIndex>,
    /// Their places in `kept`, by number.
    places: Vec<Option<usize>>,
}

impl<'d, H: FileHeader<Endian = Endianness>> Side<'d, H> {
    fn read(bytes: &'d [u8]) -> Result<Side<'d, H>, Left> {
        let header = H::parse(bytes)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, bytes)?;
        let symbols = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
        let (mut kept, mut places) = (Vec::new(), vec![None; sections.len()]);
        for (index, section) in sections.enumerate().skip(1) {
            let alloc = super::is_alloc(section, endian);
            let target = SectionIndex(section.sh_info(endian) as usize);
            let debug = |s: &H::SectionHeader| {
                !super::is_alloc(s, endian) && sections.section_name(endian, s).is_ok_and(is_debug)
            };
            let relocates = matches!(section.sh_type(endian), elf::SHT_REL | elf::SHT_RELA);
            let of_debug = !alloc && relocates && sections.section(target).is_ok_and(debug);
            if !debug(section) && !of_debug {
                places[index.0] = Some(kept.len());
                kept.push(index);
            }
        }
        Ok(Side { header, bytes, sections, symbols, kept, places })
    }

    /// A section by its place among those that are compared.
    fn place(&self, index: SectionIndex) -> Option<usize> {
        self.places.get(index.0).copied().flatten()
    }

    /// All that a symbol says, its section by place; `None` for one that goes.
    fn symbol(&self, endian: Endianness, at: object::SymbolIndex) -> Result<Option<Symbol<'d>>, Left> {
        if at.0 == 0 {
            return Ok(Some(Symbol::default()));
        }
        let symbol = self.symbols.symbol(at)?;
        let section = self.symbols.symbol_section(endian, symbol, at)?;
        let place = section.map(|index| self.place(index));
        if place == Some(None) || symbol.st_type() == elf::STT_FILE {
            return Ok(None);
        }
        Ok(Some(Symbol {
            name: self.symbols.symbol_name(endian, symbol)?,
            info: symbol.st_info(),
            other: symbol.st_other(),
            value: symbol.st_value(endian).into(),
            size: symbol.st_size(endian).into(),
            place: place.flatten(),
            special: if section.is_none() { symbol.st_shndx(endian) } else { 0 },
        }))
    }

    fn all_symbols(&self, endian: Endianness) -> Result<Vec<Symbol<'d>>, Left> {
        let mut all = Vec::new();
        for at in 1..self.symbols.len() {
            all.extend(self.symbol(endian, object::SymbolIndex(at))?);
        }
        Ok(all)
    }

    /// Relocations: offset, type, addend, symbol.
    fn relocations(
        &self,
        endian: Endianness,
        section: &H::SectionHeader,
    ) -> Result<Vec<(u64, u32, i64, Symbol<'d>)>, Left> {
        let mips = self.header.is_mips64el(endian);
        let mut all = Vec::new();
        let mut add = |rela: H::Rela| {
            let symbol = rela.symbol(endian, mips).unwrap_or(object::SymbolIndex(0));
            let symbol = self.symbol(endian, symbol)?;
            let symbol = symbol.ok_or_else(|| Left::Unknown("a relocation against what goes".into()))?;
            let offset = rela.r_offset(endian).into();
            all.push((offset, rela.r_type(endian, mips), rela.r_addend(endian).into(), symbol));
            Ok::<(), Left>(())
        };
        if let Some((rels, _)) = section.rel(endian, self.bytes)? {
            rels.iter().try_for_each(|rel| add((*rel).into()))?;
        }
        if let Some((relas, _)) = section.rela(endian, self.bytes)? {
            relas.iter().try_for_each(|rela| add(*rela))?;
        }
        Ok(all)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Symbol<'d> {
    name: &'d [u8],
    info: u8,
    other: u8,
    value: u64,
    size: u64,
    place: Option<usize>,
    special: u16,
}

/// Looks at what was written: each section that is to be there says the same of the same bytes, each relocation refers
/// to an equal symbol, and no other symbol is gone.
fn check<H: FileHeader<Endian = Endianness>>(old: &[u8], new: &[u8]) -> Result<(), Left> {
    let (before, after) = (Side::<H>::read(old)?, Side::<H>::read(new)?);
    let endian = before.header.endian()?;
    let head = |s: &Side<'_, H>| {
        let h = s.header;
        let numbers = (h.e_type(endian), h.e_machine(endian), h.e_flags(endian), h.e_version(endian));
        (numbers, h.e_ident().os_abi, h.e_ident().abi_version, h.e_entry(endian).into())
    };
    if head(&before) != head(&after) || before.kept.len() != after.kept.len() {
        return Err(Left::Differs("its header".into()));
    }
    for (a, b) in before.kept.iter().zip(&after.kept) {
        let (x, y) = (before.sections.section(*a)?, after.sections.section(*b)?);
        let name = before.sections.section_name(endian, x)?;
        let differs = || Left::Differs(format!("section {}", String::from_utf8_lossy(name)));
        let about = |side: &Side<'_, H>, s: &H::SectionHeader| {
            let link = side.place(SectionIndex(s.sh_link(endian) as usize));
            let sizes =
                (s.sh_addr(endian).into(), s.sh_addralign(endian).into(), s.sh_entsize(endian).into());
            (s.sh_type(endian), s.sh_flags(endian).into(), sizes, link)
        };
        if name != after.sections.section_name(endian, y)? || about(&before, x) != about(&after, y) {
            return Err(differs());
        }
        let same = match x.sh_type(endian) {
            elf::SHT_REL | elf::SHT_RELA => {
                let target = |side: &Side<'_, H>, s: &H::SectionHeader| {
                    side.place(SectionIndex(s.sh_info(endian) as usize))
                };
                target(&before, x) == target(&after, y)
                    && before.relocations(endian, x)? == after.relocations(endian, y)?
            }
            elf::SHT_SYMTAB => {
                // The writer may order them anew within what is local and what is not.
                let (mut x, mut y) = (before.all_symbols(endian)?, after.all_symbols(endian)?);
                x.sort_unstable();
                y.sort_unstable();
                x == y
            }
            // Made anew for the symbols and the names.
            elf::SHT_STRTAB | elf::SHT_SYMTAB_SHNDX => true,
            elf::SHT_NOBITS => x.sh_size(endian).into() == y.sh_size(endian).into(),
            _ => x.sh_info(endian) == y.sh_info(endian) && x.data(endian, old)? == y.data(endian, new)?,
        };
        if !same {
            return Err(differs());
        }
    }
    Ok(())
}
