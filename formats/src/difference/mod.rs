//! Where two files differ: the member of the archive, the section and symbol of the program, the part of the kernel
//! image, down to the bytes; and what that may come from. Knows formats; knows neither builds nor where bytes lie.
//!
//! Both sides are taken for the same format only if both are; anything doubtful is compared as plain bytes, so that
//! there is always an answer. Containers are opened from the outside in: an ELF file in a cpio archive in an xz file in
//! a kernel image is named by all four.

mod archive;
mod bytes;
mod cpio;
mod kernel;
mod program;
mod reason;
mod zip;

pub use bytes::{Excerpt, is_time};
pub use reason::{Reason, Surroundings};

use crate::compress::{self, Format};

/// Containers within containers that are opened.
const DEPTH: usize = 12;
/// Bound on what one compressed piece may hold.
const UNPACKED_MAX: u64 = 1 << 30;

/// One step from the outside in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// What is compressed: `xz`.
    Compressed(&'static str),
    /// Something that has a name in a container.
    Member {
        /// The container: `cpio archive`, `tar archive`, `zip archive`, `ar archive`, `tree`.
        of: &'static str,
        /// The member's name.
        name: String,
    },
    /// A section of an ELF or PE file.
    Section {
        /// `ELF` or `PE`.
        of: &'static str,
        /// Its name.
        name: String,
        /// The symbol that has the place, and how far into it.
        symbol: Option<(String, u64)>,
    },
    /// A part of a file that has no name of its own: `setup code`, `compressed kernel`.
    Part {
        /// Its name.
        name: &'static str,
        /// Where it begins.
        offset: u64,
    },
}

/// What is different there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Bytes.
    Bytes(Excerpt),
    /// A line of a text.
    Line {
        /// From 1.
        number: usize,
        /// What is around the first difference, of the first file.
        first: String,
        /// The same of the second.
        second: String,
    },
    /// Something about a member that is not its content.
    Field {
        /// `mtime`, `mode`, …
        name: &'static str,
        /// Of the first.
        first: String,
        /// Of the second.
        second: String,
    },
    /// A member that only one of the two has.
    Missing {
        /// What it is a member of.
        of: &'static str,
        /// Its name.
        name: String,
        /// Whether the first has it.
        in_first: bool,
    },
    /// The same members, lines or entries in another order.
    Order {
        /// What they are: `members`, `lines`.
        of: &'static str,
        /// Which one is the first that differs, from 1.
        position: usize,
        /// What the first has there.
        first: String,
        /// What the second has there.
        second: String,
    },
    /// The same content, compressed otherwise.
    Compression,
}

/// The first difference of two files that is not a consequence of another one, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// From the outside in.
    pub places: Vec<Place>,
    /// What differs there.
    pub what: What,
}

impl Difference {
    /// One without places.
    fn plain(what: What) -> Difference {
        Difference { places: Vec::new(), what }
    }

    /// The same within something.
    pub fn within(mut self, place: Place) -> Difference {
        self.places.insert(0, place);
        self
    }

    /// The place in words, the innermost first: `member etc/stamp of the cpio archive in xz, line 1`.
    pub fn place(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        match &self.what {
            What::Bytes(excerpt) => words.push(format!("offset {:#x}", excerpt.offset)),
            What::Line { number, .. } => words.push(format!("line {number}")),
            What::Field { name, .. } => words.push((*name).to_owned()),
            What::Missing { of, name, .. } => words.push(format!("member {name} of the {of}")),
            What::Order { of, position, .. } => {
                words.push(format!("order of the {of}, from the {position}. on"))
            }
            What::Compression => words.push("how it is compressed".into()),
        }
        for place in self.places.iter().rev() {
            words.push(match place {
                Place::Compressed(format) => format!("what is compressed with {format}"),
                Place::Member { of, name } => format!("member {name} of the {of}"),
                Place::Section { of, name, symbol } => match symbol {
                    Some((symbol, 0)) => format!("symbol {symbol} of the {of} section {name}"),
                    Some((symbol, by)) => format!("symbol {symbol}+{by:#x} of the {of} section {name}"),
                    None => format!("{of} section {name}"),
                },
                Place::Part { name, offset } => format!("{name} at {offset:#x}"),
            });
        }
        words.join(", in ")
    }

    /// What both have there, a line each; hexadecimal where it is no text.
    pub fn values(&self) -> (String, String) {
        match &self.what {
            What::Bytes(excerpt) => (excerpt.shown(&excerpt.first), excerpt.shown(&excerpt.second)),
            What::Line { first, second, .. }
            | What::Field { first, second, .. }
            | What::Order { first, second, .. } => (first.clone(), second.clone()),
            What::Missing { in_first, .. } => match in_first {
                true => ("it is there".into(), "it is not there".into()),
                false => ("it is not there".into(), "it is there".into()),
            },
            What::Compression => {
                ("the same content".into(), "the same content, in other compressed bytes".into())
            }
        }
    }
}

/// Where two files first differ; `None` if they are equal.
pub fn find(first: &[u8], second: &[u8]) -> Option<Difference> {
    (first != second).then(|| open(first, second, DEPTH))
}

/// As [`find`], of what is known to differ.
fn open(first: &[u8], second: &[u8], depth: usize) -> Difference {
    let inside = match depth {
        0 => None,
        _ => container(first, second, depth - 1),
    };
    inside.unwrap_or_else(|| Difference::plain(bytes::compare(first, second)))
}

/// Opens both if both are the same kind of container. `None` if they are not, or if the difference lies in nothing
/// that the format has a name for.
fn container(first: &[u8], second: &[u8], depth: usize) -> Option<Difference> {
    let format = Format::detect(first);
    if format != Format::None && format == Format::detect(second) {
        return compressed(first, second, format, depth);
    }
    let both = |is: fn(&[u8]) -> bool| is(first) && is(second);
    if both(kernel::is) {
        return kernel::compare(first, second, depth);
    }
    if both(cpio::is) {
        return cpio::compare(first, second, depth);
    }
    if both(program::is) {
        return program::compare(first, second, depth);
    }
    if both(zip::is) {
        return zip::compare(first, second, depth);
    }
    if both(archive::is_ar) {
        return archive::compare_ar(first, second, depth);
    }
    if both(archive::is_tar) {
        return archive::compare_tar(first, second, depth);
    }
    None
}

fn compressed(first: &[u8], second: &[u8], format: Format, depth: usize) -> Option<Difference> {
    let name = match format {
        Format::Gzip => "gzip",
        Format::Xz => "xz",
        Format::Zstd => "zstd",
        Format::None => return None,
    };
    if let Some(difference) = gzip_time(first, second).filter(|_| format == Format::Gzip) {
        return Some(Difference::plain(difference).within(Place::Compressed(name)));
    }
    let unpack = |bytes: &[u8]| compress::decompress(bytes, UNPACKED_MAX).ok();
    let (a, b) = (unpack(first)?, unpack(second)?);
    let inside = match a == b {
        true => Difference::plain(What::Compression),
        false => open(&a, &b, depth),
    };
    Some(inside.within(Place::Compressed(name)))
}

/// The time in the header of a gzip file (RFC 1952), which is 0 in one that is reproducible.
fn gzip_time(first: &[u8], second: &[u8]) -> Option<What> {
    let time = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?));
    let (a, b) = (time(first)?, time(second)?);
    (a != b).then(|| What::Field { name: "mtime", first: a.to_string(), second: b.to_string() })
}

/// A member of a container, for [`members`].
struct Member<'a> {
    name: String,
    /// Fields by name, as text.
    fields: Vec<(&'static str, String)>,
    data: std::borrow::Cow<'a, [u8]>,
}

/// Compares containers by their members: who is there, in which order, with which fields and content. `None` if all of
/// that is equal.
fn members(
    of: &'static str,
    first: &[Member<'_>],
    second: &[Member<'_>],
    depth: usize,
) -> Option<Difference> {
    use std::collections::BTreeMap;
    // Names may come twice: the second `x` is another member than the first.
    let numbered = |list: &[Member<'_>]| {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut number = |m: &Member<'_>| {
            let n = seen.entry(m.name.clone()).or_default();
            *n += 1;
            (m.name.clone(), *n)
        };
        list.iter().map(&mut number).collect::<Vec<_>>()
    };
    let (a, b) = (numbered(first), numbered(second));
    let index: BTreeMap<&(String, usize), usize> =
        b.iter().enumerate().map(|(at, name)| (name, at)).collect();
    let known: std::collections::BTreeSet<&(String, usize)> = a.iter().collect();
    // Content first: what a member holds tells more than when it was written, and where it lies.
    let common =
        || a.iter().zip(first).filter_map(|(name, one)| Some((name, one, &second[*index.get(name)?])));
    let place = |name: &(String, usize)| Place::Member { of, name: name.0.clone() };
    if let Some((name, one, two)) = common().find(|(_, one, two)| one.data != two.data) {
        return Some(open(&one.data, &two.data, depth).within(place(name)));
    }
    for (name, one, two) in common() {
        let unlike = one.fields.iter().zip(&two.fields).find(|((_, x), (_, y))| x != y);
        if let Some(((field, x), (_, y))) = unlike {
            let what = What::Field { name: field, first: x.clone(), second: y.clone() };
            return Some(Difference::plain(what).within(place(name)));
        }
    }
    let missing = |name: &(String, usize), in_first| {
        Some(Difference::plain(What::Missing { of, name: name.0.clone(), in_first }))
    };
    if let Some(name) = a.iter().find(|name| !index.contains_key(name)) {
        return missing(name, true);
    }
    if let Some(name) = b.iter().find(|name| !known.contains(name)) {
        return missing(name, false);
    }
    let at = a.iter().zip(&b).position(|(x, y)| x != y)?;
    Some(Difference::plain(What::Order {
        of: "members",
        position: at + 1,
        first: a[at].0.clone(),
        second: b[at].0.clone(),
    }))
}
