//! The first difference of plain bytes: a line if both are text, else an offset with what lies around it.
//! Knows no container.

use std::fmt::Write;

use super::What;

/// Bytes of text shown before a difference, and behind it.
const AROUND: usize = 40;
/// Bytes in a line of a hexadecimal excerpt.
const ROW: usize = 16;
/// Text that is looked at for the order of its lines.
const LINES_MAX: usize = 32 << 20;

/// What lies around the first differing byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Of the first differing byte.
    pub offset: u64,
    /// Bytes of the first file around it.
    pub first: Vec<u8>,
    /// The same of the second.
    pub second: Vec<u8>,
    /// Where the first differing byte is in them.
    pub at: usize,
    /// Lengths of both files, where they differ.
    pub lengths: Option<(u64, u64)>,
}

impl Excerpt {
    /// Around the first difference of two byte strings.
    pub(super) fn new(first: &[u8], second: &[u8]) -> Excerpt {
        let at = position(first, second);
        let from = at.saturating_sub(AROUND);
        let cut = |bytes: &[u8]| bytes[from.min(bytes.len())..(at + AROUND).min(bytes.len())].to_vec();
        let lengths = (first.len() != second.len()).then_some((first.len() as u64, second.len() as u64));
        Excerpt { offset: at as u64, first: cut(first), second: cut(second), at: at - from, lengths }
    }

    /// One side as a person reads it: the text around the place, else a row of hexadecimal digits.
    pub fn shown(&self, side: &[u8]) -> String {
        if let (Some(_), Some(_)) = (text_around(&self.first, self.at), text_around(&self.second, self.at))
            && let Some(text) = text_around(side, self.at)
        {
            return format!("{text:?}");
        }
        if side.len() <= self.at {
            return "it ends there".into();
        }
        let from = self.at.saturating_sub(ROW / 2);
        let row = &side[from..(from + ROW).min(side.len())];
        let mut out = format!("{:08x} ", self.offset - (self.at - from) as u64);
        for byte in row {
            let _ = write!(out, " {byte:02x}");
        }
        let plain = row.iter().map(|b| if is_plain(*b) { char::from(*b) } else { '.' });
        let _ = write!(out, "{:width$}  |{}|", "", plain.collect::<String>(), width = 3 * (ROW - row.len()));
        out
    }
}

fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// Of the first differing byte.
pub(super) fn position(first: &[u8], second: &[u8]) -> usize {
    // Blocks first: what is compared may be a whole kernel.
    const BLOCK: usize = 4096;
    let same = first.chunks(BLOCK).zip(second.chunks(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    let from = same.min(first.len()).min(second.len());
    let rest = first[from..].iter().zip(&second[from..]).position(|(a, b)| a != b);
    rest.map_or(first.len().min(second.len()), |at| from + at)
}

/// The printable text that a place lies in, if it has at least four characters.
fn text_around(bytes: &[u8], at: usize) -> Option<String> {
    bytes.get(at).filter(|b| is_plain(**b))?;
    let from = bytes[..at].iter().rposition(|b| !is_plain(*b)).map_or(0, |p| p + 1);
    let to = bytes[at..].iter().position(|b| !is_plain(*b)).map_or(bytes.len(), |p| at + p);
    (to - from >= 4).then(|| String::from_utf8_lossy(&bytes[from..to]).into_owned())
}

/// What differs in two byte strings that do.
pub(super) fn compare(first: &[u8], second: &[u8]) -> What {
    lines(first, second).unwrap_or_else(|| What::Bytes(Excerpt::new(first, second)))
}

/// As texts, if both are.
fn lines(first: &[u8], second: &[u8]) -> Option<What> {
    let text = |bytes: &'_ [u8]| bytes.len() <= LINES_MAX && !bytes.contains(&0);
    if !text(first) || !text(second) {
        return None;
    }
    let (a, b) = (std::str::from_utf8(first).ok()?, std::str::from_utf8(second).ok()?);
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let at = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
    let sorted = |lines: &[&str]| {
        let mut lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        lines.sort_unstable();
        lines
    };
    let line = |lines: &[&str]| lines.get(at).map(|l| (*l).to_owned());
    if let (Some(x), Some(y)) = (line(&a), line(&b)) {
        if a.len() == b.len() && sorted(&a) == sorted(&b) {
            let (first, second) = (clipped(&x, 0), clipped(&y, 0));
            return Some(What::Order { of: "lines", position: at + 1, first, second });
        }
        let column = position(x.as_bytes(), y.as_bytes());
        return Some(What::Line { number: at + 1, first: clipped(&x, column), second: clipped(&y, column) });
    }
    if a.len() == b.len() {
        // Only the ends of lines differ.
        return None;
    }
    let shown = |lines: &[&str]| line(lines).map_or("it ends there".into(), |l| clipped(&l, 0));
    Some(What::Line { number: at + 1, first: shown(&a), second: shown(&b) })
}

/// What of a line is around a column, in bytes.
fn clipped(line: &str, column: usize) -> String {
    const WIDTH: usize = 100;
    if line.len() <= WIDTH {
        return line.to_owned();
    }
    let floor = |mut at: usize| {
        while !line.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let from = floor(column.saturating_sub(AROUND).min(line.len()));
    let to = floor((from + WIDTH).min(line.len()));
    let dots = |cut: bool| if cut { "…" } else { "" };
    format!("{}{}{}", dots(from > 0), &line[from..to], dots(to < line.len()))
}

/// Whether a text has a time of day, a date, or seconds since 1970 in it.
pub fn is_time(text: &str) -> bool {
    let pattern: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    ["00:00", "0000-00", "0000/00", "000000000"].iter().any(|form| pattern.contains(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_byte_is_found_in_large_files_too() {
        let mut a = vec![1u8; 100_000];
        for at in [0, 1, 4095, 4096, 4097, 99_999] {
            let mut b = a.clone();
            b[at] = 2;
            assert_eq!(position(&a, &b), at);
        }
        a.truncate(8192);
        assert_eq!(position(&a, &[1u8; 8192][..8000]), 8000);
        assert_eq!(position(&a, &[1u8; 9000]), 8192);
    }

    #[test]
    fn lines_are_shown_around_the_difference() {
        let what = compare(b"a\nbuilt at 12\n", b"a\nbuilt at 13\n");
        assert_eq!(what, What::Line { number: 2, first: "built at 12".into(), second: "built at 13".into() });
        let what = compare(b"a\nb\nc\n", b"a\nc\nb\n");
        assert_eq!(what, What::Order { of: "lines", position: 2, first: "b".into(), second: "c".into() });
        let what = compare(b"a\n", b"a\nb\n");
        assert_eq!(what, What::Line { number: 2, first: "it ends there".into(), second: "b".into() });
        let long = "é".repeat(300);
        let What::Line { first, second, .. } =
            compare(format!("{long}x").as_bytes(), format!("{long}y").as_bytes())
        else {
            panic!("not a line")
        };
        assert!(first.ends_with('x') && second.ends_with('y') && first.starts_with('…'), "{first} {second}");
        // Ends of lines, and the end of the file, are bytes.
        assert!(matches!(compare(b"a\n", b"a"), What::Bytes(_)));
        assert!(matches!(compare(b"a\n", b"a\r\n"), What::Bytes(_)));
    }

    #[test]
    fn bytes_are_shown_in_hexadecimal_unless_both_are_text() {
        let What::Bytes(excerpt) = compare(b"\0\x01\x02\x03", b"\0\x01\x09\x03") else { panic!("not bytes") };
        assert_eq!(excerpt.offset, 2);
        assert!(excerpt.shown(&excerpt.second).starts_with("00000000  00 01 09 03 "), "{excerpt:?}");
        let What::Bytes(excerpt) = compare(b"\0built 12:30\0", b"\0built 12:31\0") else {
            panic!("not bytes")
        };
        assert_eq!(excerpt.shown(&excerpt.first), "\"built 12:30\"");
        let What::Bytes(excerpt) = compare(b"\0ab", b"\0ab\0c") else { panic!("not bytes") };
        assert_eq!(excerpt.shown(&excerpt.first), "it ends there");
        assert_eq!(excerpt.lengths, Some((3, 5)));
    }

    #[test]
    fn times_are_told_from_other_numbers() {
        for time in ["at 12:30:01", "2025-11-29", "built 1764423801.55", "Nov 29 2025 10:11:12"] {
            assert!(is_time(time), "{time}");
        }
        for other in ["name78name154", "v1.2.3", "0x12ab:7", "", "tmp-1234"] {
            assert!(!is_time(other), "{other}");
        }
    }
}
