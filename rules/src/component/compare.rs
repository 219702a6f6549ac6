//! Whether a component's two builds gave the same programs, and if not, where they differ and what that may come from.
//! Knows ELF sections; runs nothing.

use mosbuild_cache::{Digest, Node, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::difference::is_time;

use crate::elf::{self, Elf};

/// Sections that differ because others do: a digest of the rest, the name of a file with debug information.
const FOLLOWING: [&str; 2] = [".note.gnu.build-id", ".gnu_debuglink"];
/// Bytes of text shown from each side.
const SHOWN: usize = 60;

/// Inputs `first` and `second`: what the two builds left. No output: it succeeds or it fails.
pub struct Compare {
    /// The programs that are installed.
    pub names: Vec<String>,
}

impl Builtin for Compare {
    fn name(&self) -> &'static str {
        "component-compare"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let (first, second) = (cx.tree("first")?, cx.tree("second")?);
        for name in &self.names {
            // What is missing in the first is told by the step that installs it.
            let Some(one) = digest(&first, name) else { continue };
            let Some(two) = digest(&second, name) else {
                return Err(StepError::new(format!(
                    "{name} is not reproducible: the second build did not make it"
                )));
            };
            if one != two {
                let (one, two) = (cx.store.read(&one)?, cx.store.read(&two)?);
                return Err(difference(name, &one, &two));
            }
        }
        (cx.log)(&format!("built twice, the same: {}", self.names.join(", ")));
        Ok(Made::default())
    }
}

fn digest(tree: &Tree, name: &str) -> Option<Digest> {
    let found = tree.iter().find(|e| e.path.to_string() == *name).map(|e| &e.node);
    match found {
        Some(Node::File { digest, .. }) => Some(*digest),
        _ => None,
    }
}

/// The error of a program of which two builds differ.
fn difference(name: &str, one: &[u8], two: &[u8]) -> StepError {
    let first = elf::read(one).ok().flatten();
    let second = elf::read(two).ok().flatten();
    let found = match (&first, &second) {
        (Some(a), Some(b)) => of_sections((a, one), (b, two)),
        _ => None,
    };
    let (section, at, a, b) = match &found {
        Some((section, at, a, b)) => (Some(section.as_str()), *at, *a, *b),
        None => (None, first_difference(one, two), one, two),
    };
    let place = match section {
        Some(section) => format!("section {section}, offset {at:#x}"),
        None => format!("offset {at:#x} of the file"),
    };
    let (x, y) = (text_around(a, at), text_around(b, at));
    let mut message = format!("{name} is not reproducible: two builds of the same source differ at {place}");
    match (&x, &y) {
        (Some(x), Some(y)) => message.push_str(&format!("\nfirst:  {x:?}\nsecond: {y:?}")),
        _ if one.len() != two.len() => {
            message.push_str(&format!("\nthe first has {} bytes, the second {}", one.len(), two.len()));
        }
        _ => {}
    }
    let texts = x.zip(y);
    StepError::new(message)
        .help(reason(section, texts.as_ref()))
        .help("the second build ran later, one job at a time; `verify: false` leaves it out")
}

/// The first section of both files that differs for a reason of its own: name, offset in it, both contents.
type Differing<'a> = (String, usize, &'a [u8], &'a [u8]);

fn of_sections<'a>((a, one): (&Elf, &'a [u8]), (b, two): (&Elf, &'a [u8])) -> Option<Differing<'a>> {
    let content = |bytes: &'a [u8], section: &elf::Section| {
        let from = usize::try_from(section.offset).ok()?;
        bytes.get(from..from.checked_add(usize::try_from(section.size).ok()?)?)
    };
    // Text tells most, then data, then code, whose addresses follow from the others.
    let rank = |name: &str| match name {
        ".rodata" | ".debug_str" | ".debug_line_str" | ".comment" => 0,
        name if name.starts_with(".rodata") || name.starts_with(".data") => 1,
        ".text" => 2,
        _ => 3,
    };
    let mut found: Vec<Differing<'a>> = Vec::new();
    for section in a.sections.iter().filter(|s| !FOLLOWING.contains(&s.name.as_str())) {
        let other = b.sections.iter().find(|s| s.name == section.name);
        let (Some(x), Some(y)) = (content(one, section), other.and_then(|s| content(two, s))) else {
            continue;
        };
        if x != y {
            found.push((section.name.clone(), first_difference(x, y), x, y));
        }
    }
    found.into_iter().min_by_key(|(name, ..)| rank(name))
}

fn first_difference(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()))
}

/// The text that lies around a place, if it is text.
fn text_around(bytes: &[u8], at: usize) -> Option<String> {
    let plain = |b: &u8| (b' '..=b'~').contains(b);
    bytes.get(at).filter(|b| plain(b))?;
    let from =
        bytes[..at].iter().rposition(|b| !plain(b)).map_or(0, |p| p + 1).max(at.saturating_sub(SHOWN / 2));
    let to = bytes[at..].iter().position(|b| !plain(b)).map_or(bytes.len(), |p| at + p).min(at + SHOWN);
    let text = String::from_utf8_lossy(&bytes[from..to]).into_owned();
    (text.len() >= 4).then_some(text)
}

/// What a difference most likely comes from.
fn reason(section: Option<&str>, texts: Option<&(String, String)>) -> &'static str {
    if let Some((x, y)) = texts {
        if is_time(x) && is_time(y) {
            return "that looks like a time: the source or its build script should take SOURCE_DATE_EPOCH for now";
        }
        if section.is_some_and(|s| s.starts_with(".debug")) {
            return "its debug information differs: strip it, or look at what the names are made of";
        }
        return "that looks like a random or temporary name, or an order that is not fixed: HashMap iteration, a \
                glob or a folder that is read unsorted";
    }
    match section {
        Some(".text") | Some(".rela.dyn") | Some(".eh_frame") => {
            "code is laid out in another order: what a build script or macro generates has no fixed order, or the \
             number of jobs decides; for Rust try `env: { CARGO_PROFILE_RELEASE_CODEGEN_UNITS: \"1\" }`"
        }
        Some(section) if section.starts_with(".debug") => "its debug information differs: strip it",
        _ => {
            "data of it is random, or in an order that is not fixed: a build script that uses HashMap, time or /dev/urandom"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::made;

    fn told(one: &[u8], two: &[u8]) -> (String, String) {
        let error = difference("app", one, two);
        (error.message, error.help[0].clone())
    }

    #[test]
    fn a_text_is_shown_from_both_sides_with_its_section() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (made(dir.path(), "built 12:30:01 today"), made(dir.path(), "built 12:30:03 today"));
        let (message, help) = told(&one, &two);
        assert_eq!(
            message,
            "app is not reproducible: two builds of the same source differ at section .rodata, offset 0xd\n\
             first:  \"built 12:30:01 today\"\nsecond: \"built 12:30:03 today\""
        );
        assert!(help.contains("SOURCE_DATE_EPOCH"), "{help}");
        let (_, help) = told(&made(dir.path(), "name tmpAbCd"), &made(dir.path(), "name tmpXyZw"));
        assert!(help.contains("random or temporary name"), "{help}");
    }

    #[test]
    fn sections_are_compared_though_sizes_moved_all_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (message, _) =
            told(&made(dir.path(), "a short text"), &made(dir.path(), "a short text, and more"));
        assert!(message.contains("differ at section .rodata, offset 0xc"), "{message}");
    }

    #[test]
    fn what_is_no_program_is_compared_as_it_is() {
        let (message, _) = told(b"#!/bin/sh\necho 1\n", b"#!/bin/sh\necho 2\n");
        assert!(message.contains("differ at offset 0xf of the file\nfirst:  \"echo 1\""), "{message}");
        let (message, _) = told(&[0, 1, 2], &[0, 1, 2, 3]);
        assert!(
            message.ends_with("offset 0x3 of the file\nthe first has 3 bytes, the second 4"),
            "{message}"
        );
    }
}
