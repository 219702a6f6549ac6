//! What kbuild writes beside each file that it makes, `.NAME.cmd`: the command that made it and what it read; and the
//! names in a thin archive, which is a list of files. Knows neither what a command does nor where files are.
//!
//! A saved command is Makefile text: make read `$$` as `$` and `$(pound)` as `#` (`make-cmd` in scripts/Kbuild.include).

use std::fmt::Write;

use object::read::archive::ArchiveFile;

/// Why a file is none that kbuild writes, or says what is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first line is no `savedcmd_TARGET := COMMAND`.
    #[error("no saved command on its first line")]
    NoCommand,
    /// A variable or function of make in the command.
    #[error("the command has {0:?}, which only make understands")]
    Make(String),
    /// Not a thin archive, or damaged.
    #[error("no thin archive: {0}")]
    Archive(String),
}

/// A `.cmd` file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SavedCommand {
    /// What it makes, relative to the object directory.
    pub target: String,
    /// Shell text, run in the object directory.
    pub command: String,
    /// What the compiler read: the source first, paths as the command has them. Empty if nobody looked.
    pub reads: Vec<String>,
}

impl SavedCommand {
    /// Reads one.
    ///
    /// # Errors
    /// [`Error::NoCommand`] and [`Error::Make`].
    pub fn parse(text: &str) -> Result<SavedCommand, Error> {
        let first = text.lines().next().unwrap_or("");
        // Before 6.4 the variable was named `cmd_TARGET`.
        let named = first.strip_prefix("savedcmd_").or_else(|| first.strip_prefix("cmd_"));
        let (target, command) = named.and_then(|rest| rest.split_once(" := ")).ok_or(Error::NoCommand)?;
        let mut saved =
            SavedCommand { target: target.to_owned(), command: unescape(command.trim())?, reads: Vec::new() };
        if saved.target.is_empty() || saved.command.is_empty() {
            return Err(Error::NoCommand);
        }
        let (source, deps) = (format!("source_{target} := "), format!("deps_{target} := \\"));
        let mut lines = text.lines().skip(1);
        let mut sourced = false;
        while let Some(line) = lines.next() {
            if let Some(source) = line.strip_prefix(&source).filter(|_| !sourced) {
                sourced = true;
                saved.reads.insert(0, source.trim().to_owned());
            } else if line == deps {
                let listed = lines.by_ref().map_while(|line| line.strip_suffix('\\'));
                let files = listed.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('$'));
                saved.reads.extend(files.map(str::to_owned));
            }
        }
        Ok(saved)
    }

    /// As kbuild writes it, without the symbols of the configuration that a file depends on.
    pub fn to_text(&self) -> String {
        let target = &self.target;
        let command = self.command.replace('$', "$$").replace('#', "$(pound)");
        let mut text = format!("savedcmd_{target} := {command}\n");
        if let Some((source, deps)) = self.reads.split_first() {
            let _ = write!(text, "\nsource_{target} := {source}\n\ndeps_{target} := \\\n");
            deps.iter().for_each(|path| {
                let _ = writeln!(text, "  {path} \\");
            });
            let _ = write!(text, "\n{target}: $(deps_{target})\n\n$(deps_{target}):\n");
        }
        text
    }

    /// The words of the command, as far as a shell splits at blanks alone: quotes stay.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.command.split_ascii_whitespace()
    }
}

fn unescape(text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("$(pound)") {
            out.push('#');
            rest = after;
        } else {
            return Err(Error::Make(rest.chars().take(20).collect()));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A command that compresses the kernel: `cat FILES | PROGRAM > TARGET`, or, where the format does not end with the
/// size, `{ cat FILES | PROGRAM; printf SIZE; } > TARGET`, SIZE being the bytes of all FILES as four octal escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compress {
    /// What is compressed, one after the other.
    pub files: Vec<String>,
    /// Reads it, writes it compressed: shell text.
    pub program: String,
    /// Whether its size comes behind, 32 bits with the lowest first.
    pub sized: bool,
}

impl Compress {
    /// `None` if it is of another form.
    pub fn of(saved: &SavedCommand) -> Option<Compress> {
        let body = saved.command.strip_suffix(saved.target.as_str())?.trim_end().strip_suffix('>')?.trim();
        let (body, sized) = match body.strip_prefix('{') {
            Some(grouped) => {
                let grouped = grouped.strip_suffix('}')?.trim().strip_suffix(';')?;
                let (pipe, size) = grouped.rsplit_once(';')?;
                is_size(size.trim()).then_some((pipe, true))?
            }
            None => (body, false),
        };
        let (files, program) = body.trim().strip_prefix("cat ")?.split_once(" | ")?;
        let plain = |text: &str| !text.contains(['|', ';', '&', '>', '<', '{', '}', '`', '$']);
        let files: Vec<String> = files.split_ascii_whitespace().map(str::to_owned).collect();
        let program = program.trim().to_owned();
        (plain(&program) && !files.is_empty() && files.iter().all(|f| plain(f)) && !program.is_empty())
            .then_some(Compress { files, program, sized })
    }
}

fn is_size(text: &str) -> bool {
    let Some(octal) = text.strip_prefix("printf ") else { return false };
    let octal = octal.trim().trim_matches('\'');
    !octal.is_empty() && octal.chars().all(|c| c == '\\' || c.is_digit(8))
}

/// Whether these are the bytes of a thin archive.
pub fn is_thin(bytes: &[u8]) -> bool {
    bytes.starts_with(b"!<thin>\n")
}

/// The files that a thin archive lists, as it names them.
///
/// # Errors
/// [`Error::Archive`].
pub fn thin_members(bytes: &[u8]) -> Result<Vec<String>, Error> {
    let damaged = |e: object::read::Error| Error::Archive(e.to_string());
    if !is_thin(bytes) {
        return Err(Error::Archive("it does not begin with !<thin>".into()));
    }
    let archive = ArchiveFile::parse(bytes).map_err(damaged)?;
    let name = |member: object::read::archive::ArchiveMember<'_>| {
        let name = String::from_utf8(member.name().to_vec());
        name.map_err(|_| Error::Archive("a name is no text".into()))
    };
    archive.members().map(|member| name(member.map_err(damaged)?)).collect()
}
