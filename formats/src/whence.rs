//! WHENCE, the list in linux-firmware of what each file is: its driver, its licence, and links that are not in git.
//! Knows the text and the names in it; does not know which of the files are there, nor what asks for them.
//!
//! Read as linux-firmware's own copy-firmware.sh and check_whence.py read it: keywords at the start of a line, quotes
//! taken off, `\` before a character that is meant as it stands, link targets relative to the link's folder. All else is
//! free text, most of it licences. Sections end at a dashed line.

mod catalog;
mod names;

use std::fmt;

pub use catalog::{Catalog, Clash, Found, Kind, Resolved, TooWide, is_glob, request_fault};
pub use names::target as link_target;

/// What WHENCE says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whence {
    /// Parts between dashed lines that name something, in order.
    pub sections: Vec<Section>,
    /// Files; a path that is given in several sections is there several times.
    pub files: Vec<File>,
    /// Links. One whose name is also a file's is not made by anybody: the file is what there is.
    pub links: Vec<Link>,
}

/// What belongs to one driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Line that it begins at, counted from 1.
    pub line: usize,
    /// Texts behind `Driver:`.
    pub drivers: Vec<String>,
    /// Its licences, in order.
    pub licences: Vec<Licence>,
    /// Paths of source code that lies beside the files.
    pub sources: Vec<String>,
    /// The whole section as it stands, without the dashed lines.
    pub text: String,
}

/// A licence with the text behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Licence {
    /// Its line, counted from 1.
    pub line: usize,
    /// What stands behind the keyword.
    pub title: String,
    /// Files that it refers to for the whole text, by the names they have at the top or in LICENSES/.
    pub texts: Vec<String>,
}

/// A firmware file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Below lib/firmware.
    pub path: String,
    /// Given as `RawFile:`: something other than the kernel's loader reads it, so that it must not be compressed.
    pub raw: bool,
    /// Its section, an index into [`Whence::sections`].
    pub section: usize,
    /// Its licence, an index into the section's: the next one behind it, or else the last one before it.
    pub licence: Option<usize>,
    /// Behind `Version:`, if that follows.
    pub version: Option<String>,
    /// Its line, counted from 1.
    pub line: usize,
}

/// A symbolic link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Below lib/firmware.
    pub name: String,
    /// Where it leads, below lib/firmware too: a file, a folder of files, or another link.
    pub target: String,
    /// Its section, an index into [`Whence::sections`].
    pub section: usize,
    /// Its line, counted from 1.
    pub line: usize,
}

/// A line that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// The line, cut to a length that can be shown.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}", self.line, self.text, self.why)
    }
}

/// All lines that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

/// Of very many wrong lines these are shown.
const SHOWN: usize = 20;

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{error}", if i == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more lines"),
        }
    }
}

impl std::error::Error for Errors {}

/// The keywords that mean something here.
enum Keyword {
    Driver,
    File,
    RawFile,
    Link,
    Source,
    Version,
    Info,
    Licence,
}

/// A keyword and what stands behind its colon; `None` is free text.
fn keyword(line: &str) -> Option<(Keyword, &str)> {
    let (word, rest) = line.split_once(':')?;
    let keyword = match word {
        "Driver" => Keyword::Driver,
        "File" => Keyword::File,
        "RawFile" => Keyword::RawFile,
        "Link" => Keyword::Link,
        "Source" => Keyword::Source,
        "Version" => Keyword::Version,
        "Info" => Keyword::Info,
        "Licence" | "License" => Keyword::Licence,
        _ => return None,
    };
    Some((keyword, rest.trim()))
}

impl Whence {
    /// Reads WHENCE. Bytes that are not UTF-8 are replaced before, by whoever reads the file.
    pub fn parse(text: &str) -> Result<Whence, Errors> {
        let mut reader = Reader::default();
        for (i, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            reader.line(i + 1, line.trim_end());
        }
        reader.end_section();
        let whence = reader.whence;
        if let Err(errors) = whence.checked_catalog() {
            reader.errors.extend(errors);
        }
        match reader.errors.is_empty() {
            true => Ok(whence),
            false => {
                reader.errors.sort_by_key(|e| e.line);
                Err(Errors(reader.errors))
            }
        }
    }

    /// The names, ready to be looked up.
    pub fn catalog(&self) -> Catalog {
        // `parse` has refused what contradicts itself; of a value made by hand the first of two is taken.
        self.build_catalog(|_, _| {})
    }

    fn checked_catalog(&self) -> Result<Catalog, Vec<Error>> {
        let mut errors = Vec::new();
        let catalog = self.build_catalog(|line, error| errors.push((line, error)));
        let error = |(line, (text, why))| Error { line, text, why };
        match errors.is_empty() {
            true => Ok(catalog),
            false => Err(errors.into_iter().map(error).collect()),
        }
    }

    fn build_catalog(&self, mut clash: impl FnMut(usize, (String, String))) -> Catalog {
        let mut catalog = Catalog::default();
        for file in &self.files {
            if let Err(e) = catalog.add_file(&file.path) {
                clash(file.line, (format!("File: {}", file.path), e.to_string()));
            }
        }
        for link in &self.links {
            match catalog.add_link(&link.name, &link.target) {
                Ok(()) | Err(Clash::File) => {}
                Err(e) => {
                    let text = format!("Link: {} -> {}", link.name, link.target);
                    clash(link.line, (text, e.to_string()));
                }
            }
        }
        catalog
    }

    /// The licence of a file.
    pub fn licence(&self, file: &File) -> Option<&Licence> {
        self.sections.get(file.section)?.licences.get(file.licence?)
    }

    /// These sections as a WHENCE of their own, as they stand: the licences of their files are in them.
    pub fn excerpt(&self, sections: impl IntoIterator<Item = usize>) -> String {
        let rule = "-".repeat(74);
        let text = |i| self.sections.get(i).map(|s: &Section| format!("{rule}\n\n{}\n\n", s.text.trim()));
        sections.into_iter().filter_map(text).collect()
    }
}

impl Section {
    /// The first words behind `Driver:`, which mostly are a module's name.
    pub fn driver_names(&self) -> impl Iterator<Item = &str> {
        let first = |text: &String| text.split_whitespace().next().map(str::len).unwrap_or(0);
        self.drivers.iter().map(move |text| text[..first(text)].trim_end_matches([':', ',']))
    }
}

/// WHENCE while it is read.
#[derive(Default)]
struct Reader {
    whence: Whence,
    errors: Vec<Error>,
    section: Section,
    /// Where the section's files begin.
    first_file: usize,
    /// Whether the section has a keyword at all: the head of WHENCE has none.
    names_something: bool,
    /// Free text now goes on with this licence.
    licence_text: Option<String>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        if line.len() >= 10 && line.bytes().all(|b| b == b'-') {
            return self.end_section();
        }
        if self.section.line == 0 {
            self.section.line = number;
        }
        self.section.text.push_str(line);
        self.section.text.push('\n');
        let Some((keyword, value)) = keyword(line) else {
            if let Some(text) = &mut self.licence_text {
                text.push(' ');
                text.push_str(line);
            }
            return;
        };
        self.end_licence();
        self.names_something = true;
        let done = match keyword {
            Keyword::Driver => {
                self.section.drivers.push(value.to_owned());
                Ok(())
            }
            Keyword::File => self.file(number, value, false),
            Keyword::RawFile => self.file(number, value, true),
            Keyword::Link => self.link(number, value),
            Keyword::Source => {
                // Only told, never taken; older ones name whole folders.
                self.section.sources.extend(names::one(value).ok().filter(|path| !path.is_empty()));
                Ok(())
            }
            Keyword::Version => {
                let here = self.whence.files[self.first_file..].last_mut();
                if let Some(file) = here.filter(|_| !value.is_empty()) {
                    file.version.get_or_insert_with(|| value.to_owned());
                }
                Ok(())
            }
            Keyword::Info => Ok(()),
            Keyword::Licence => {
                let licence = Licence { line: number, title: value.to_owned(), texts: Vec::new() };
                self.section.licences.push(licence);
                self.licence_text = Some(value.to_owned());
                Ok(())
            }
        };
        if let Err(why) = done {
            let text = line.chars().take(120).collect();
            self.errors.push(Error { line: number, text, why });
        }
    }

    fn file(&mut self, line: usize, value: &str, raw: bool) -> Result<(), String> {
        let path = names::file(&names::one(value)?)?;
        let section = self.whence.sections.len();
        self.whence.files.push(File { path, raw, section, line, ..File::default() });
        Ok(())
    }

    fn link(&mut self, line: usize, value: &str) -> Result<(), String> {
        let (name, target) = names::arrow(value)?;
        let name = names::file(&name)?;
        let target = names::target(&name, &target)?;
        self.whence.links.push(Link { name, target, section: self.whence.sections.len(), line });
        Ok(())
    }

    fn end_licence(&mut self) {
        if let (Some(text), Some(licence)) = (self.licence_text.take(), self.section.licences.last_mut()) {
            licence.texts = names::licence_texts(&licence.title, &text);
        }
    }

    fn end_section(&mut self) {
        self.end_licence();
        let section = std::mem::take(&mut self.section);
        for file in &mut self.whence.files[self.first_file..] {
            let next = section.licences.iter().position(|l| l.line > file.line);
            file.licence = next.or(section.licences.len().checked_sub(1));
        }
        self.first_file = self.whence.files.len();
        if std::mem::take(&mut self.names_something) {
            self.whence.sections.push(section);
        }
    }
}
