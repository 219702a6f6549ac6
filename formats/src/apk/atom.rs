//! Dependency atoms (`!busybox>=1.36@edge`, `so:libc.so.6`, `/bin/sh`) and what packages provide (`cmd:sh=1.36-r0`).
//! Tells whether one satisfies the other. Chooses nothing: resolving is apk's work.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// How a version is compared with an atom's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterEqual,
    /// `~`: begins with.
    Fuzzy,
    /// `<~`
    LessFuzzy,
    /// `>~`
    GreaterFuzzy,
    /// `><`: the package of this very identity.
    Checksum,
}

impl Op {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Equal => "=",
            Op::Less => "<",
            Op::LessEqual => "<=",
            Op::Greater => ">",
            Op::GreaterEqual => ">=",
            Op::Fuzzy => "~",
            Op::LessFuzzy => "<~",
            Op::GreaterFuzzy => ">~",
            Op::Checksum => "><",
        }
    }

    /// apk reads each character by itself: `=>` is `>=`, and `~=` is `~`.
    fn parse(text: &str) -> Option<Op> {
        let has = |c| text.contains(c);
        Some(match (has('<'), has('>'), has('='), has('~')) {
            (false, false, true, false) => Op::Equal,
            (false, false, _, true) => Op::Fuzzy,
            (true, false, false, false) => Op::Less,
            (true, false, true, false) => Op::LessEqual,
            (true, false, _, true) => Op::LessFuzzy,
            (false, true, false, false) => Op::Greater,
            (false, true, true, false) => Op::GreaterEqual,
            (false, true, _, true) => Op::GreaterFuzzy,
            (true, true, false, false) => Op::Checksum,
            _ => return None,
        })
    }
}

/// What a package, or the world file, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Atom {
    /// `!`: must not be there.
    pub conflict: bool,
    /// A package, or something provided.
    pub name: String,
    /// The tagged repository, without `@`; in the world file only.
    pub tag: Option<String>,
    /// Which versions.
    pub version: Option<(Op, String)>,
}

/// Text that is no atom.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no dependency: {why}; expected [!]name[operator version], as busybox>=1.36")]
pub struct AtomError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Atom {
    /// Parses one atom.
    pub fn parse(text: &str) -> Result<Atom, AtomError> {
        let wrong = |why| Err(AtomError { text: text.to_string(), why });
        let (conflict, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let is_op = |c: char| matches!(c, '<' | '>' | '=' | '~');
        let (name, version) = match rest.find(is_op) {
            None => (rest, None),
            Some(at) => {
                let (name, rest) = rest.split_at(at);
                let version = rest.trim_start_matches(is_op);
                let Some(op) = Op::parse(&rest[..rest.len() - version.len()]) else {
                    return wrong("the operator is not one of = < > <= >= ~ <~ >~ ><");
                };
                if version.is_empty() {
                    return wrong("the version is missing");
                }
                (name, Some((op, version)))
            }
        };
        let (name, tag) = match name.split_once('@') {
            Some((name, tag)) => (name, Some(tag)),
            None => (name, None),
        };
        if version.is_some_and(|(_, version)| version.contains('@')) {
            return wrong("the tag must stand before the operator");
        }
        if name.is_empty() {
            return wrong("the name is missing");
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return wrong("it has white space");
        }
        if tag == Some("") {
            return wrong("the tag is missing");
        }
        Ok(Atom {
            conflict,
            name: name.to_string(),
            tag: tag.map(String::from),
            version: version.map(|(op, version)| (op, version.to_string())),
        })
    }

    /// Whether this version of what is named will do. Something provided without a version (`None`) does for every
    /// one, as apk has it; [`Op::Checksum`] is told by [`Atom::is_satisfied_by`] only.
    pub fn accepts(&self, candidate: Option<&str>) -> bool {
        let (Some((op, wanted)), Some(candidate)) = (&self.version, candidate) else { return true };
        let order = version::compare(candidate, wanted);
        let prefix = || version::matches_prefix(candidate, wanted);
        match op {
            Op::Equal => order == Ordering::Equal,
            Op::Less => order == Ordering::Less,
            Op::LessEqual => order != Ordering::Greater,
            Op::Greater => order == Ordering::Greater,
            Op::GreaterEqual => order != Ordering::Less,
            Op::Fuzzy => prefix(),
            Op::LessFuzzy => prefix() || order == Ordering::Less,
            Op::GreaterFuzzy => prefix() || order == Ordering::Greater,
            Op::Checksum => false,
        }
    }

    /// Whether a package is what is named, itself or by what it provides, in a version that will do. `!` is not
    /// looked at: of a conflict this tells whether the package is in conflict.
    pub fn is_satisfied_by(&self, name: &str, version: &str, identity: &str, provides: &[String]) -> bool {
        let by = |name: &str, version: Option<&str>| {
            name == self.name
                && match &self.version {
                    Some((Op::Checksum, wanted)) => wanted == identity,
                    _ => self.accepts(version),
                }
        };
        by(name, Some(version))
            || provides.iter().map(|p| split_provides(p)).any(|(name, version)| by(name, version))
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Atom { conflict, name, tag, version } = self;
        write!(f, "{}{name}", if *conflict { "!" } else { "" })?;
        if let Some(tag) = tag {
            write!(f, "@{tag}")?;
        }
        match version {
            Some((op, version)) => write!(f, "{}{version}", op.as_str()),
            None => Ok(()),
        }
    }
}

/// What is provided, and in which version: `name` or `name=version`.
pub fn split_provides(text: &str) -> (&str, Option<&str>) {
    match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text, None),
    }
}
