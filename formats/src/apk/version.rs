//! Alpine's order of versions: `1.2.3b_rc4_p5~c0ffee-r6`.
//! Serves messages and diffs only; what is installed is decided by apk.
//!
//! As apk 3 has it; apk 2.14 differs in numbers that are all zeros (1.0 > 1.00) or longer than 32 bits, and in `~hash`,
//! which it does not know. Compared part by part. Numbers after a dot count as text if one of them begins with a zero (so 1.05 < 1.1), all others
//! as numbers. Where one version ends or goes on differently: a pre-release suffix (alpha, beta, pre, rc) is less than
//! the end, anything else more, the more the earlier its kind comes in the order of a version.

use std::cmp::Ordering;

/// One part. Equal variants are compared by value, unlike ones by [`Part::rank`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    /// The first number.
    First(&'a str),
    /// A number after a dot or a letter.
    Number(&'a str),
    Letter(u8),
    /// Its place among [`SUFFIXES`].
    Suffix(usize),
    SuffixNumber(&'a str),
    Hash(&'a str),
    Revision(&'a str),
    End,
    /// What apk does not take for a version; nothing after it is looked at.
    Invalid,
}

const SUFFIXES: [&str; 9] = ["alpha", "beta", "pre", "rc", "cvs", "svn", "git", "hg", "p"];
/// How many of them come before the release.
const PRE: usize = 4;

impl Part<'_> {
    /// Order of parts of unlike kinds; also the order in which kinds may follow each other, backwards.
    fn rank(self) -> u8 {
        match self {
            Part::Suffix(n) if n < PRE => 0,
            Part::Invalid => 1,
            Part::End => 2,
            Part::Revision(_) => 3,
            Part::Hash(_) => 4,
            Part::SuffixNumber(_) => 5,
            Part::Suffix(_) => 6,
            Part::Letter(_) => 7,
            Part::Number(_) => 8,
            Part::First(_) => 9,
        }
    }

    fn cmp(self, other: Part<'_>) -> Ordering {
        match (self, other) {
            (Part::Number(a), Part::Number(b)) if a.starts_with('0') || b.starts_with('0') => a.cmp(b),
            (Part::First(a), Part::First(b))
            | (Part::Number(a), Part::Number(b))
            | (Part::SuffixNumber(a), Part::SuffixNumber(b))
            | (Part::Revision(a), Part::Revision(b)) => number(a).cmp(&number(b)),
            (Part::Letter(a), Part::Letter(b)) => a.cmp(&b),
            (Part::Suffix(a), Part::Suffix(b)) => a.cmp(&b),
            (Part::Hash(a), Part::Hash(b)) => a.cmp(b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

/// Digits as something that orders as their value does, however many they are.
fn number(digits: &str) -> (usize, &str) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits)
}

struct Parts<'a> {
    rest: &'a str,
    last: Option<Part<'a>>,
}

impl<'a> Parts<'a> {
    fn new(version: &'a str) -> Self {
        Parts { rest: version, last: None }
    }

    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let len = self.rest.bytes().take_while(|b| accept(*b)).count();
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn digits(&mut self, part: fn(&'a str) -> Part<'a>) -> Part<'a> {
        match self.take(|b| b.is_ascii_digit()) {
            "" => Part::Invalid,
            digits => part(digits),
        }
    }

    /// The next part; [`Part::End`] and [`Part::Invalid`] are the last ones.
    fn next(&mut self) -> Part<'a> {
        let part = self.parse();
        self.last = Some(part);
        part
    }

    fn parse(&mut self) -> Part<'a> {
        let Some(last) = self.last else { return self.digits(Part::First) };
        let Some(first) = self.rest.bytes().next() else { return Part::End };
        // The rank of a pre-release suffix is out of line.
        let last_rank = if let Part::Suffix(_) = last { 6 } else { last.rank() };
        match first {
            b'a'..=b'z' if last_rank >= 8 => {
                self.take_one();
                Part::Letter(first)
            }
            b'.' if last_rank >= 8 => {
                self.take_one();
                self.digits(Part::Number)
            }
            b'0'..=b'9' if last_rank == 6 => self.digits(Part::SuffixNumber),
            // 0.99f7: apk 2.14 takes it, and Alpine 3.19 has it; apk 3 does not.
            b'0'..=b'9' if last_rank == 7 => self.digits(Part::Number),
            b'_' if last_rank >= 5 => {
                self.take_one();
                let name = self.take(|b| b.is_ascii_lowercase());
                SUFFIXES.iter().position(|s| *s == name).map_or(Part::Invalid, Part::Suffix)
            }
            b'~' if last_rank >= 5 => {
                self.take_one();
                match self.take(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                    "" => Part::Invalid,
                    hash => Part::Hash(hash),
                }
            }
            b'-' if last_rank >= 4 && self.rest.starts_with("-r") => {
                self.take_one();
                self.take_one();
                self.digits(Part::Revision)
            }
            _ => Part::Invalid,
        }
    }

    /// Drops one byte, known to be ASCII.
    fn take_one(&mut self) {
        self.rest = &self.rest[1..];
    }
}

/// Whether apk takes the text for a version.
pub fn is_valid(version: &str) -> bool {
    let mut parts = Parts::new(version);
    loop {
        match parts.next() {
            Part::End => return true,
            Part::Invalid => return false,
            _ => {}
        }
    }
}

/// Which of two versions is older. Invalid text is compared up to where it is one.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (Parts::new(a), Parts::new(b));
    loop {
        let (x, y) = (a.next(), b.next());
        match x.cmp(y) {
            Ordering::Equal if matches!(x, Part::End | Part::Invalid) => return Ordering::Equal,
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
}

/// Whether `version` begins with all parts of `prefix`, as `~` asks: 1.2.3 matches 1.2, and 1.23 does not.
pub fn matches_prefix(version: &str, prefix: &str) -> bool {
    let (mut a, mut b) = (Parts::new(version), Parts::new(prefix));
    loop {
        match (a.next(), b.next()) {
            (_, Part::End) => return true,
            (Part::Invalid, Part::Invalid) => return true,
            (x, y) if x.cmp(y) != Ordering::Equal => return false,
            _ => {}
        }
    }
}
