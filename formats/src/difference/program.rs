//! ELF and PE files by section and symbol. Knows which sections follow from others, so that the cause is named and not
//! what its size moved.

use object::read::{Object, ObjectSection, ObjectSymbol};
use object::{File, SymbolKind};

use super::{Difference, Place, What, bytes, kernel, open};

/// Sections that differ because others do: a digest of the rest, the name of a file with debug information, tables of
/// addresses and names.
const FOLLOWING: [&str; 2] = [".note.gnu.build-id", ".gnu_debuglink"];

pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF") || bytes.starts_with(b"MZ")
}

/// Text tells most, then data, then code, whose addresses follow from the others.
fn rank(name: &str) -> u8 {
    match name {
        _ if FOLLOWING.contains(&name) => 5,
        ".rodata" | ".debug_str" | ".debug_line_str" | ".comment" | ".modinfo" | ".interp" => 0,
        // Of a unified kernel image.
        ".cmdline" | ".osrel" | ".uname" | ".initrd" | ".linux" => 0,
        _ if name.starts_with(".rodata") || name.starts_with(".data") || name.starts_with(".init.data") => 1,
        ".text" => 3,
        _ if name.starts_with(".rel") || name.starts_with(".symtab") || name.starts_with(".strtab") => 4,
        _ => 2,
    }
}

/// A section that differs.
struct Unlike<'a> {
    name: String,
    address: u64,
    first: &'a [u8],
    second: &'a [u8],
}

pub(super) fn compare(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    let (a, b) = (File::parse(first).ok()?, File::parse(second).ok()?);
    let of = if first.starts_with(b"MZ") { "PE" } else { "ELF" };
    let mut best: Option<Unlike<'_>> = None;
    let mut others = b.sections().collect::<Vec<_>>();
    for section in a.sections() {
        let name = section.name().unwrap_or("?").to_owned();
        // Of several with one name, as in relocatable files, the next.
        let at = others.iter().position(|other| other.name() == section.name());
        let Some(other) = at.map(|at| others.remove(at)) else {
            let what = What::Missing { of: "sections", name, in_first: true };
            return Some(Difference::plain(what));
        };
        let (Ok(x), Ok(y)) = (section.data(), other.data()) else { continue };
        if x != y && best.as_ref().is_none_or(|found| rank(&name) < rank(&found.name)) {
            best = Some(Unlike { name, address: section.address(), first: x, second: y });
        }
    }
    let Some(Unlike { name, address, first: x, second: y }) = best else {
        // Symbol tables are no sections to all readers, and headers are none at all.
        let what = bytes::compare(first, second);
        return Some(Difference::plain(what).within(Place::Part { name: "headers or tables", offset: 0 }));
    };
    let at = bytes::position(x, y) as u64;
    let symbol = symbol(&a, address + at);
    let inner = kernel::archive_in(x, y, depth).unwrap_or_else(|| match depth {
        0 => Difference::plain(bytes::compare(x, y)),
        _ => open(x, y, depth - 1),
    });
    Some(inner.within(Place::Section { of, name, symbol }))
}

/// The symbol that an address lies in, of a linked file.
fn symbol(file: &File<'_>, address: u64) -> Option<(String, u64)> {
    let kinds = [SymbolKind::Text, SymbolKind::Data, SymbolKind::Unknown];
    let holds = |s: &object::Symbol<'_, '_>| {
        s.is_definition()
            && kinds.contains(&s.kind())
            && s.address() <= address
            && address - s.address() < s.size().max(1)
    };
    let found = file.symbols().filter(holds).max_by_key(|s| s.address())?;
    let name = found.name().ok().filter(|n| !n.is_empty())?;
    Some((name.to_owned(), address - found.address()))
}
