//! Paths, folders and globs of the workspace to sorted lists of files that lie inside of it.
//! Knows the file system's names and kinds; reads no content and knows no rule.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use globset::{GlobBuilder, GlobMatcher};
use rayon::prelude::*;

use super::diag::{Diagnostic, Span};
use super::facts::{FileKind, FileUse};
use super::names::{Hinter, quote};

/// Folders at the workspace's root that globs and whole folders pass over: what mosbuild and git keep there.
pub const SKIPPED: [&str; 3] = [".mosbuild", "dist", ".git"];
/// A glob's braces may stand for this many globs.
const MOST_BRACES: usize = 256;

/// What a path, folder or glob stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// Files and symlinks, sorted by the bytes of their paths; relative to the root, or absolute.
    pub files: Vec<String>,
    /// Folders that were listed to find them: a new name in one of these may change the list.
    pub dirs_walked: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Link,
    Dir,
    Other,
}

type Listing = Arc<Vec<(OsString, Kind)>>;

/// Expands many patterns over one root, listing each folder once.
#[derive(Debug)]
pub struct Expander {
    root: PathBuf,
    real: PathBuf,
    listings: Mutex<HashMap<PathBuf, Listing>>,
    inside: Mutex<HashMap<PathBuf, bool>>,
    matchers: Mutex<HashMap<String, GlobMatcher>>,
}

enum Part {
    /// `**`
    Deep,
    Name(OsString),
    Glob(GlobMatcher),
}

/// A pattern without its place in the file system.
struct Pattern {
    /// Folders and names before the first glob, made clean of `.` and `..`.
    path: PathBuf,
    /// What follows, for each choice of the braces.
    globs: Vec<Vec<Part>>,
    /// Whether it ends in `/`: all below.
    folder: bool,
}

impl Expander {
    /// For a workspace.
    pub fn new(root: &Path) -> Self {
        let real = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
        Expander {
            root: root.to_path_buf(),
            real,
            listings: Mutex::default(),
            inside: Mutex::default(),
            matchers: Mutex::default(),
        }
    }

    /// What is wrong with a pattern as written, without looking at files.
    pub fn lint(&self, used: &FileUse) -> Option<Diagnostic> {
        self.pattern(used).err()
    }

    /// The files that patterns stand for, in parallel.
    pub fn expand_all(&self, uses: &[&FileUse]) -> Vec<Result<Expanded, Diagnostic>> {
        uses.par_iter().with_min_len(16).map(|used| self.expand(used)).collect()
    }

    /// The files that a pattern stands for; matching nothing is an error. The error has no place yet.
    pub fn expand(&self, used: &FileUse) -> Result<Expanded, Diagnostic> {
        let pattern = self.pattern(used)?;
        if !pattern.globs.is_empty() {
            return self.glob(used, &pattern);
        }
        let path = &pattern.path;
        self.check_inside(used, path.parent().unwrap_or(path))?;
        let kind = match std::fs::symlink_metadata(self.root.join(path)) {
            Ok(meta) => kind_of(meta.file_type()),
            Err(_) => return Err(self.missing(used, path)),
        };
        let kind = if kind == Kind::Link {
            self.check_inside(used, path)?;
            match std::fs::metadata(self.root.join(path)) {
                // A link to a folder is that folder only where a folder is asked for.
                Ok(meta) if meta.is_dir() && (pattern.folder || used.kind == FileKind::Folder) => Kind::Dir,
                Ok(meta) if meta.is_dir() && used.kind == FileKind::File => Kind::Dir,
                Ok(_) => Kind::Link,
                Err(_) if used.kind == FileKind::Any && !pattern.folder => Kind::Link,
                Err(_) => {
                    let message = format!("{} is a symlink to nothing", quote(&used.pattern));
                    return Err(problem("no-file", message));
                }
            }
        } else {
            kind
        };
        let wants_folder = pattern.folder || used.kind == FileKind::Folder;
        match kind {
            Kind::Dir if used.kind == FileKind::File => {
                Err(problem("wrong-file", format!("{} is a folder", quote(&used.pattern)))
                    .label("a file is wanted here"))
            }
            Kind::Dir => {
                let mut walk = Walk::new(self, used.kind != FileKind::Any);
                walk.below(path, path);
                let found = walk.done(used)?;
                // An empty source folder is a source; an empty folder of inputs is most likely a mistake.
                if found.files.is_empty() && used.kind == FileKind::Any {
                    return Err(problem("no-file", format!("{} holds no files", quote(&used.pattern))));
                }
                Ok(found)
            }
            Kind::File | Kind::Link if wants_folder => {
                Err(problem("wrong-file", format!("{} is a file", quote(&used.pattern)))
                    .label("a folder is wanted here"))
            }
            Kind::File | Kind::Link => {
                Ok(Expanded { files: vec![text(used, path)?], dirs_walked: Vec::new() })
            }
            Kind::Other => {
                Err(problem("wrong-file", format!("{} is no file and no folder", quote(&used.pattern))))
            }
        }
    }

    fn pattern(&self, used: &FileUse) -> Result<Pattern, Diagnostic> {
        let text = used.pattern.as_str();
        if text.is_empty() {
            return Err(problem("wrong-file", "an empty path".into()).label("a path is wanted here"));
        }
        let absolute = text.starts_with('/');
        if absolute && !used.absolute_ok {
            return Err(problem("outside", format!("{} leaves the workspace", quote(text)))
                .label("the path is absolute")
                .help("only a source may leave it: `{path: /absolute}`"));
        }
        let folder = text.ends_with('/');
        let globs = used.kind == FileKind::Any && text.contains(['*', '?', '[', '{', '\\']);
        let choices =
            if globs { braces(text).map_err(|why| not_a_glob(text, &why))? } else { vec![text.to_string()] };
        // Names that all choices begin with, up to the first glob character, are a path to begin from.
        let parts: Vec<Vec<&str>> =
            choices.iter().map(|c| c.split('/').filter(|p| !p.is_empty() && *p != ".").collect()).collect();
        let first: &[&str] = parts.first().map_or(&[], Vec::as_slice);
        let literal = |part: &str| !globs || !part.contains(['*', '?', '[', '\\']);
        let mut shared = 0;
        while shared < first.len()
            && literal(first[shared])
            && parts.iter().all(|p| p.get(shared) == Some(&first[shared]))
        {
            shared += 1;
        }
        let mut path = if absolute { PathBuf::from("/") } else { PathBuf::new() };
        for part in &first[..shared] {
            if *part != ".." {
                path.push(part);
            } else if absolute {
                path.push("..");
            } else if !path.pop() {
                return Err(problem("outside", format!("{} leaves the workspace", quote(text)))
                    .label("`..` goes above the workspace's root")
                    .help("only an absolute source may leave it: `{path: /absolute}`"));
            }
        }
        let mut rest = Vec::new();
        for parts in &parts {
            let mut compiled: Vec<Part> = Vec::new();
            for part in &parts[shared..] {
                match *part {
                    ".." => return Err(not_a_glob(text, "`..` behind a glob")),
                    "**" if matches!(compiled.last(), Some(Part::Deep)) => {}
                    "**" => compiled.push(Part::Deep),
                    part if literal(part) => compiled.push(Part::Name(part.into())),
                    part => compiled.push(Part::Glob(self.matcher(part).map_err(|e| not_a_glob(text, &e))?)),
                }
            }
            if folder && !compiled.is_empty() && !matches!(compiled.last(), Some(Part::Deep)) {
                compiled.push(Part::Deep);
            }
            if !compiled.is_empty() {
                rest.push(compiled);
            }
        }
        Ok(Pattern { path, globs: rest, folder })
    }

    fn matcher(&self, part: &str) -> Result<GlobMatcher, String> {
        let mut known = lock(&self.matchers);
        if let Some(matcher) = known.get(part) {
            return Ok(matcher.clone());
        }
        let glob = GlobBuilder::new(part).literal_separator(true).backslash_escape(true).build();
        let matcher = glob.map_err(|e| e.kind().to_string())?.compile_matcher();
        known.insert(part.to_string(), matcher.clone());
        Ok(matcher)
    }

    fn glob(&self, used: &FileUse, pattern: &Pattern) -> Result<Expanded, Diagnostic> {
        self.check_inside(used, &pattern.path)?;
        let mut walk = Walk::new(self, false);
        for parts in &pattern.globs {
            walk.seen.clear();
            walk.matching(&pattern.path, parts);
        }
        let found = walk.done(used)?;
        if found.files.is_empty() {
            return Err(self.missing(used, &pattern.path));
        }
        Ok(found)
    }

    /// An error unless the folder, its symlinks followed, lies inside of the workspace.
    fn check_inside(&self, used: &FileUse, path: &Path) -> Result<(), Diagnostic> {
        if path.is_absolute() || path.as_os_str().is_empty() {
            return Ok(());
        }
        let known = lock(&self.inside).get(path).copied();
        let inside = known.unwrap_or_else(|| {
            // What does not exist leads nowhere; that it is missing is found right after.
            let real = std::fs::canonicalize(self.root.join(path));
            let inside = real.is_ok_and(|real| real.starts_with(&self.real)) || !self.exists(path);
            lock(&self.inside).insert(path.to_path_buf(), inside);
            inside
        });
        if inside {
            return Ok(());
        }
        let message = format!("{} leaves the workspace", quote(&used.pattern));
        let link = path.ancestors().filter(|p| !p.as_os_str().is_empty()).filter(|p| {
            std::fs::symlink_metadata(self.root.join(p)).is_ok_and(|meta| meta.file_type().is_symlink())
        });
        let label = match link.last() {
            Some(link) => format!("{} is a symlink that leads out of it", quote(&link.to_string_lossy())),
            None => "it leads out through a symlink".into(),
        };
        Err(problem("outside", message)
            .label(label)
            .help("only a source may leave it, by its own name: `{path: /absolute}`"))
    }

    /// Whether the path leads to something, its symlinks followed.
    fn exists(&self, path: &Path) -> bool {
        std::fs::metadata(self.root.join(path)).is_ok()
    }

    fn listing(&self, dir: &Path) -> Listing {
        if let Some(listing) = lock(&self.listings).get(dir) {
            return Arc::clone(listing);
        }
        let mut entries = Vec::new();
        // A folder that cannot be read lists as empty: a glob finds nothing there, and says so.
        for entry in std::fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten() {
            if let Ok(kind) = entry.file_type() {
                entries.push((entry.file_name(), kind_of(kind)));
            }
        }
        entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let listing = Arc::new(entries);
        lock(&self.listings).insert(dir.to_path_buf(), Arc::clone(&listing));
        listing
    }

    /// The error for what matches nothing, naming the nearest thing that exists.
    fn missing(&self, used: &FileUse, path: &Path) -> Diagnostic {
        let mut found = PathBuf::new();
        let mut near = None;
        for part in path.components() {
            let next = found.join(part);
            let there = matches!(part, Component::RootDir | Component::ParentDir) || self.exists(&next);
            if !there {
                let listing = self.listing(&found);
                let names: Vec<String> =
                    listing.iter().map(|(n, _)| n.to_string_lossy().into_owned()).collect();
                let hints = Hinter::default();
                near = hints
                    .nearest(&part.as_os_str().to_string_lossy(), names.iter().map(String::as_str))
                    .map(|name| found.join(name).to_string_lossy().into_owned());
                break;
            }
            found = next;
        }
        let glob = used.kind == FileKind::Any && used.pattern.contains(['*', '?', '[', '{']);
        let message = if glob {
            format!("{} matches nothing", quote(&used.pattern))
        } else if used.kind == FileKind::Folder || used.pattern.ends_with('/') {
            format!("there is no folder {}", quote(&used.pattern))
        } else {
            format!("there is no file {}", quote(&used.pattern))
        };
        let problem = problem("no-file", message);
        match near {
            Some(near) => problem.nearest(Some(&near)),
            None if glob => problem.label("no file in the workspace matches"),
            None => problem.label("not found in the workspace"),
        }
    }
}

/// One walk, collecting files and the folders that were listed.
struct Walk<'e> {
    expander: &'e Expander,
    /// Whether `.git` is passed over at the top of the folder: a source's history is not its content.
    source: bool,
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    /// Folders already matched against the rest of a glob from a certain part on.
    seen: HashSet<(PathBuf, usize)>,
}

impl<'e> Walk<'e> {
    fn new(expander: &'e Expander, source: bool) -> Self {
        Walk { expander, source, files: Vec::new(), dirs: Vec::new(), seen: HashSet::new() }
    }

    fn done(mut self, used: &FileUse) -> Result<Expanded, Diagnostic> {
        for list in [&mut self.files, &mut self.dirs] {
            list.sort_unstable_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
            list.dedup();
        }
        let texts =
            |list: &[PathBuf]| list.iter().map(|path| text(used, path)).collect::<Result<Vec<_>, _>>();
        Ok(Expanded { files: texts(&self.files)?, dirs_walked: texts(&self.dirs)? })
    }

    fn skips(&self, dir: &Path, top: &Path, name: &OsStr) -> bool {
        (dir.as_os_str().is_empty() && SKIPPED.iter().any(|s| name == *s))
            || (self.source && dir == top && name == ".git")
    }

    /// All files below a folder.
    fn below(&mut self, dir: &Path, top: &Path) {
        let mut todo = vec![dir.to_path_buf()];
        while let Some(dir) = todo.pop() {
            for (name, kind) in self.expander.listing(&dir).iter() {
                match kind {
                    _ if self.skips(&dir, top, name) => {}
                    Kind::File | Kind::Link => self.files.push(dir.join(name)),
                    Kind::Dir => todo.push(dir.join(name)),
                    Kind::Other => {}
                }
            }
            self.dirs.push(dir);
        }
    }

    /// Files below a folder that match the rest of a glob.
    fn matching(&mut self, dir: &Path, parts: &[Part]) {
        if !self.seen.insert((dir.to_path_buf(), parts.len())) {
            return;
        }
        let Some((part, rest)) = parts.split_first() else { return };
        if matches!(part, Part::Deep) && rest.is_empty() {
            return self.below(dir, Path::new(""));
        }
        let listing = self.expander.listing(dir);
        self.dirs.push(dir.to_path_buf());
        if matches!(part, Part::Deep) {
            self.matching(dir, rest);
        }
        for (name, kind) in listing.iter() {
            let (taken, below) = match part {
                Part::Deep => (*kind == Kind::Dir, parts),
                Part::Name(wanted) => (name == wanted, rest),
                Part::Glob(glob) => (glob.is_match(Path::new(name)), rest),
            };
            // A folder that a glob names outright is not passed over.
            if !taken || (!matches!(part, Part::Name(_)) && self.skips(dir, Path::new(""), name)) {
                continue;
            }
            match kind {
                Kind::Dir => self.matching(&dir.join(name), below),
                Kind::File | Kind::Link if rest.is_empty() => self.files.push(dir.join(name)),
                _ => {}
            }
        }
    }
}

/// Writes out `{a,b}`, nested or not, so that a choice may hold a `/`.
fn braces(text: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut todo = vec![text.to_string()];
    while let Some(text) = todo.pop() {
        if done.len() + todo.len() > MOST_BRACES {
            return Err(format!("its braces stand for more than {MOST_BRACES} globs"));
        }
        let mut depth = 0;
        let (mut open, mut commas, mut close) = (None, Vec::new(), None);
        let mut class = false;
        let mut escaped = false;
        for (i, c) in text.char_indices() {
            if std::mem::take(&mut escaped) {
                continue;
            }
            match c {
                '\\' => escaped = true,
                '[' if !class => class = true,
                ']' if class => class = false,
                _ if class => {}
                '{' => {
                    depth += 1;
                    open = open.or(Some(i));
                }
                ',' if depth == 1 => commas.push(i),
                '}' if depth > 0 => {
                    depth -= 1;
                    if depth == 0 {
                        close = Some(i);
                        break;
                    }
                }
                _ => {}
            }
        }
        match (open, close) {
            (None, _) => done.push(text),
            (Some(_), None) => return Err("`{` is not closed".into()),
            (Some(open), Some(close)) => {
                let mut from = open + 1;
                for &end in commas.iter().chain([&close]) {
                    todo.push(format!("{}{}{}", &text[..open], &text[from..end], &text[close + 1..]));
                    from = end + 1;
                }
            }
        }
    }
    done.sort();
    Ok(done)
}

fn text(used: &FileUse, path: &Path) -> Result<String, Diagnostic> {
    path.to_str().map(str::to_string).ok_or_else(|| {
        let message = format!("{} holds a name that is not UTF-8", quote(&used.pattern));
        problem("wrong-file", message).label(format!("it is {}", quote(&path.to_string_lossy())))
    })
}

fn not_a_glob(text: &str, why: &str) -> Diagnostic {
    problem("wrong-file", format!("{} is not a glob", quote(text))).label(why)
}

fn problem(code: &'static str, message: String) -> Diagnostic {
    Diagnostic::at(code, Span::default(), message)
}

fn kind_of(kind: std::fs::FileType) -> Kind {
    match kind {
        k if k.is_symlink() => Kind::Link,
        k if k.is_dir() => Kind::Dir,
        k if k.is_file() => Kind::File,
        _ => Kind::Other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere cannot leave a listing half-made: entries are inserted whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
