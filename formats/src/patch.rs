//! Unified diffs as `diff -u` and git write them: read, and applied to the bytes of one file.
//! Knows neither files nor trees; a hunk fits where its whole context is, at the line that it names or at another.
//!
//! The rules for the place of a hunk are those of GNU patch without fuzz (`patch -F0`): offsets carry over to later
//! hunks, a hunk never goes before an earlier one, and one with less context on one side is at that end of the file.

use diffy::patch_set::{FileMode, FileOperation, ParseOptions, PatchKind, PatchSet};
use diffy::{Hunk, Line};

use crate::tarball::Refusal;
use crate::tarball::names::normalize;

/// Largest patch that is read.
pub const LARGEST: usize = 16 << 20;

/// What happens to a file, by paths in the tree that the patch is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is changed in place. A plain diff may name the file in two ways (`a.c.orig`, `a.c`): the first of these
    /// paths that exists is meant.
    Modify(Vec<Vec<u8>>),
    /// It must not be there before.
    Create(Vec<u8>),
    /// It is not there afterwards.
    Delete(Vec<u8>),
    /// It is moved, and may be changed on the way.
    Rename {
        /// Before.
        from: Vec<u8>,
        /// Afterwards.
        to: Vec<u8>,
    },
    /// It is copied, and the copy may be changed.
    Copy {
        /// What is copied.
        from: Vec<u8>,
        /// The copy.
        to: Vec<u8>,
    },
}

/// What git says a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 100644.
    Regular,
    /// 100755.
    Executable,
    /// 120000: the content is what the link says.
    Symlink,
}

/// What a patch does to one file.
pub struct FilePatch<'a> {
    /// What happens to it.
    pub change: Change,
    /// What it is afterwards, where the patch says so.
    pub mode: Option<Mode>,
    /// Whether it comes from a plain diff, which has no other way to say that a file is new or gone than its hunks.
    pub plain: bool,
    patch: diffy::Patch<'a, [u8]>,
}

/// Why a patch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too large.
    #[error("it is larger than {} MiB", LARGEST >> 20)]
    TooLarge,
    /// Not a unified diff, or a damaged one.
    #[error("{what}{}", after.as_ref().map(|file| format!(", behind the part for {file:?}")).unwrap_or_default())]
    Syntax {
        /// What is wrong.
        what: String,
        /// The last file whose part could be read.
        after: Option<String>,
    },
    /// Nothing in it looks like a diff.
    #[error("it is no unified diff: no `---` and `+++` lines were found")]
    Nothing,
    /// Hunks that belong to no file.
    #[error("it has {there} hunks, but only {read} of them belong to a file")]
    Lost {
        /// Lines that begin a hunk.
        there: usize,
        /// Hunks that were understood.
        read: usize,
    },
    /// A binary change.
    #[error("{0:?} is changed as a binary, which is not supported")]
    Binary(String),
    /// A submodule.
    #[error("{0:?} is a submodule, which a patch cannot change")]
    Submodule(String),
    /// A path that could lead outside.
    #[error("{path:?}: {why}")]
    Path {
        /// As in the patch.
        path: String,
        /// Why it is refused.
        why: Refusal,
    },
    /// A path that has no first folder to be taken off.
    #[error("{0:?} has no first folder that could be taken off (patches are applied with -p1)")]
    NoFolder(String),
}

/// Why a hunk does not fit.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which hunk of the file, from 1.
    pub hunk: usize,
    /// Of how many.
    pub of: usize,
    /// Line of the file at which it was expected, from 1.
    pub line: usize,
    /// What it was about, as far as can be told.
    pub why: Why,
}

/// See [`Rejected`].
#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// What it would make is there already.
    Applied,
    /// The file ends before.
    Short {
        /// Lines that it has.
        lines: usize,
    },
    /// A line is another than the hunk expects.
    Differs {
        /// That line, from 1.
        line: usize,
        /// What the hunk has.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// Its lines are there, but not where they may be: before an earlier hunk, or not at the end of the file.
    Misplaced,
}

/// A file after its patch.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Hunks that were found at another line than they name, and by how many lines.
    pub moved: Vec<(usize, i64)>,
}

/// A patch whose last line has an end: one that was lost on the way is put back, as GNU patch does.
pub fn whole(mut text: Vec<u8>) -> Vec<u8> {
    if text.last().is_some_and(|b| *b != b'\n') {
        text.push(b'\n');
    }
    text
}

/// Reads a patch, whose last line must have an end ([`whole`]); paths lose their first folder (`-p1`).
pub fn parse(text: &[u8]) -> Result<Vec<FilePatch<'_>>, Error> {
    if text.len() > LARGEST {
        return Err(Error::TooLarge);
    }
    let starts = |prefix: &'static [u8]| lines(text).filter(move |line| line.starts_with(prefix)).count();
    let git = starts(b"diff --git ") > 0;
    let options = if git { ParseOptions::gitdiff() } else { ParseOptions::unidiff() };
    if !git && starts(b"--- ") == 0 {
        return Err(Error::Nothing);
    }
    let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let mut files: Vec<FilePatch<'_>> = Vec::new();
    let mut hunks = 0;
    for file in PatchSet::parse_bytes(text, options) {
        let file = file.map_err(|e| {
            let said = e.to_string();
            // Bytes are counted from somewhere within the patch.
            let what = said.rsplit_once(": ").map_or(said.as_str(), |(_, what)| what).to_owned();
            Error::Syntax { what, after: files.last().map(|file| shown(file.change.path())) }
        })?;
        let change = change(file.operation())?;
        if let Some(FileMode::Gitlink) = file.new_mode().or(file.old_mode()) {
            return Err(Error::Submodule(shown(change.path())));
        }
        let mode = file.new_mode().map(|mode| match mode {
            FileMode::Executable => Mode::Executable,
            FileMode::Symlink => Mode::Symlink,
            FileMode::Regular | FileMode::Gitlink => Mode::Regular,
        });
        let PatchKind::Text(patch) = file.into_patch() else {
            return Err(Error::Binary(shown(change.path())));
        };
        hunks += patch.hunks().len();
        files.push(FilePatch { change, mode, plain: !git, patch });
    }
    // What the reader passes over as a remark may be a file of its own.
    match starts(b"@@ -") {
        there if there > hunks => Err(Error::Lost { there, read: hunks }),
        _ => Ok(files),
    }
}

impl Change {
    /// The path that it is known by.
    pub fn path(&self) -> &[u8] {
        match self {
            Change::Modify(paths) => paths.last().map_or(&[], Vec::as_slice),
            Change::Create(path) | Change::Delete(path) => path,
            Change::Rename { to, .. } | Change::Copy { to, .. } => to,
        }
    }
}

impl FilePatch<'_> {
    /// Whether it says that the file was not there, or was empty, before.
    pub fn from_nothing(&self) -> bool {
        matches!(self.patch.hunks(), [hunk] if hunk.old_range().is_empty() && hunk.old_range().start() == 0)
    }

    /// Whether it leaves nothing of the file.
    pub fn to_nothing(&self) -> bool {
        matches!(self.patch.hunks(), [hunk] if hunk.new_range().is_empty() && hunk.new_range().start() == 0)
    }

    /// The file after the patch.
    pub fn apply(&self, base: &[u8]) -> Result<Applied, Rejected> {
        let file: Vec<&[u8]> = lines(base).collect();
        let hunks = self.patch.hunks();
        let mut bytes = Vec::with_capacity(base.len());
        let mut moved = Vec::new();
        // Lines of the file that are done, and how many lines later than named the last hunk was found.
        let (mut done, mut drift) = (0, 0);
        for (at, hunk) in hunks.iter().enumerate() {
            let place = Place::of(hunk, drift);
            let Some(found) = place.find(&file, done) else {
                let line = usize::try_from(place.named).unwrap_or(0) + 1;
                return Err(Rejected { hunk: at + 1, of: hunks.len(), line, why: place.why(hunk, &file) });
            };
            let offset = found as i64 - (place.named - drift);
            if offset != 0 {
                moved.push((at + 1, offset));
            }
            drift = offset;
            // Context is copied with what follows: the next hunk may have some of it too.
            let mut old = found;
            for line in hunk.lines() {
                if let Line::Context(_) = line {
                    old += 1;
                    continue;
                }
                bytes.extend(file[done..old].iter().copied().flatten());
                match line {
                    Line::Insert(text) => bytes.extend_from_slice(text),
                    _ => old += 1,
                }
                done = old;
            }
        }
        bytes.extend(file[done..].iter().copied().flatten());
        Ok(Applied { bytes, moved })
    }
}

/// Where a hunk may be.
struct Place<'a> {
    /// The lines that must be there.
    before: Vec<&'a [u8]>,
    /// Where it says, from 0, after what earlier hunks were off.
    named: i64,
    /// Only at the beginning of the file.
    at_start: bool,
    /// Only at its end.
    at_end: bool,
}

impl<'a> Place<'a> {
    fn of(hunk: &Hunk<'a, [u8]>, drift: i64) -> Place<'a> {
        let context = |line: &&Line<'a, [u8]>| matches!(line, Line::Context(_));
        let leading = hunk.lines().iter().take_while(context).count();
        let trailing = hunk.lines().iter().rev().take_while(context).count();
        let range = hunk.old_range();
        // `-5,0` is behind line 5, `-5,1` is line 5.
        let first = range.start() - usize::from(!range.is_empty() && range.start() > 0);
        Place {
            before: before(hunk).collect(),
            named: first as i64 + drift,
            at_start: leading < trailing && range.start() <= 1,
            at_end: trailing < leading,
        }
    }

    /// The line of the file, from 0, where it is; not before `done`.
    fn find(&self, file: &[&[u8]], done: usize) -> Option<usize> {
        let last = file.len().checked_sub(self.before.len())?;
        let fits = |at: usize| at >= done && at <= last && file[at..].starts_with(&self.before);
        if self.at_start || self.at_end {
            return Some(if self.at_start { 0 } else { last }).filter(|at| fits(*at));
        }
        // Without a line to find it by, only where it says.
        if self.before.is_empty() {
            return usize::try_from(self.named).ok().filter(|at| fits(*at));
        }
        let near = usize::try_from(self.named).unwrap_or(0).min(last);
        let farthest = near.max(last - near);
        (0..=farthest).find_map(|off| {
            let later = Some(near + off).filter(|at| fits(*at));
            later.or_else(|| near.checked_sub(off).filter(|at| fits(*at)))
        })
    }

    /// Why it fits nowhere.
    fn why(&self, hunk: &Hunk<'_, [u8]>, file: &[&[u8]]) -> Why {
        let at = usize::try_from(self.named).unwrap_or(0).min(file.len());
        let made: Vec<&[u8]> = after(hunk).collect();
        if !made.is_empty() && file.windows(made.len()).any(|lines| lines == made) {
            return Why::Applied;
        }
        let shown = |line: &[u8]| String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned();
        for (off, expected) in self.before.iter().enumerate() {
            match file.get(at + off) {
                None => return Why::Short { lines: file.len() },
                Some(found) if found != expected => {
                    let (expected, found) = (shown(expected), shown(found));
                    // They may differ in what is not shown: the end of the line.
                    return match expected == found {
                        true => Why::Differs {
                            line: at + off + 1,
                            expected: format!("{expected} (another end of line)"),
                            found,
                        },
                        false => Why::Differs { line: at + off + 1, expected, found },
                    };
                }
                Some(_) => {}
            }
        }
        Why::Misplaced
    }
}

fn before<'h, 'a>(hunk: &'h Hunk<'a, [u8]>) -> impl Iterator<Item = &'a [u8]> + 'h {
    hunk.lines().iter().filter_map(|line| match line {
        Line::Context(text) | Line::Delete(text) => Some(*text),
        Line::Insert(_) => None,
    })
}

fn after<'h, 'a>(hunk: &'h Hunk<'a, [u8]>) -> impl Iterator<Item = &'a [u8]> + 'h {
    hunk.lines().iter().filter_map(|line| match line {
        Line::Context(text) | Line::Insert(text) => Some(*text),
        Line::Delete(_) => None,
    })
}

/// Lines with their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
}

fn change(operation: &FileOperation<'_, [u8]>) -> Result<Change, Error> {
    Ok(match operation {
        FileOperation::Create(path) => Change::Create(stripped(path)?),
        FileOperation::Delete(path) => Change::Delete(stripped(path)?),
        FileOperation::Modify { original, modified } => {
            let mut paths = vec![stripped(original)?, stripped(modified)?];
            paths.dedup();
            Change::Modify(paths)
        }
        // These have no `a/` before them.
        FileOperation::Rename { from, to } => Change::Rename { from: clean(from, from)?, to: clean(to, to)? },
        FileOperation::Copy { from, to } => Change::Copy { from: clean(from, from)?, to: clean(to, to)? },
    })
}

fn stripped(whole: &[u8]) -> Result<Vec<u8>, Error> {
    let Some(slash) = whole.iter().position(|b| *b == b'/').filter(|at| *at > 0) else {
        let shown = String::from_utf8_lossy(whole).into_owned();
        return Err(match whole.first() {
            Some(b'/') => Error::Path { path: shown, why: Refusal::Absolute },
            _ => Error::NoFolder(shown),
        });
    };
    let rest = &whole[slash..];
    let slashes = rest.iter().take_while(|b| **b == b'/').count();
    clean(&rest[slashes..], whole)
}

fn clean(path: &[u8], whole: &[u8]) -> Result<Vec<u8>, Error> {
    let shown = || String::from_utf8_lossy(whole).into_owned();
    match normalize(path, 0) {
        Ok(Some(path)) => Ok(path),
        Ok(None) => Err(Error::NoFolder(shown())),
        Err(why) => Err(Error::Path { path: shown(), why }),
    }
}

/// The difference of two texts in the unified form, without the lines that name the files; empty if they are equal.
pub fn unified(old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let patch = diffy::create_patch(old, new).to_string();
    // Behind `--- original` and `+++ modified`.
    patch.splitn(3, '\n').nth(2).unwrap_or_default().to_owned()
}
