//! Names of files and links as a tree that can be asked: what a name, a folder or a glob ends in, and by which links.
//! Knows neither WHENCE nor any disk; links are followed as Linux follows them, within the tree.

use std::collections::{BTreeMap, BTreeSet};

use globset::{Glob, GlobBuilder, GlobMatcher};

/// Links that one path may go through, as in Linux.
const HOPS: usize = 40;
/// The longest request, as the longest path: what is longer is nowhere.
const LONGEST: usize = 4095;
/// Places that one look-up may visit: `**` in a hostile name would visit very many.
const STEPS: usize = 2_000_000;

/// A tree of names.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    top: Folder,
}

type Folder = BTreeMap<String, Node>;

#[derive(Debug, Clone)]
enum Node {
    Folder(Folder),
    File,
    /// Where it leads, from the top.
    Link(String),
}

/// Why a name cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// A link whose name is a file's.
    #[error("there is a file of this name")]
    File,
    /// A link whose name is another link's, which leads elsewhere; or a file whose name is a link's.
    #[error("there is a link of this name that leads elsewhere")]
    Link,
    /// The name of a folder that other names lie in.
    #[error("other names lie below this one")]
    Folder,
    /// A name below that of a file or a link.
    #[error("it lies below the name of a file or a link")]
    Below,
}

/// Where a path ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its place in the tree, no part of which is a link.
    pub path: String,
    /// What is there.
    pub kind: Kind,
    /// Names of the links that it went through, in order.
    pub links: Vec<String>,
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder of names.
    Folder,
}

/// What a name, a folder or a glob stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Files.
    pub files: BTreeSet<String>,
    /// Links that lead to them or into folders that hold them.
    pub links: BTreeSet<String>,
}

/// A glob that would visit too many places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the glob fits far too many names")]
pub struct TooWide;

impl Catalog {
    /// Adds a file by its path, as [`super::Whence`] has it: relative, without `.` and `..`.
    pub fn add_file(&mut self, path: &str) -> Result<(), Clash> {
        match self.add(path, Node::File)? {
            Node::File => Ok(()),
            Node::Link(_) => Err(Clash::Link),
            Node::Folder(_) => Err(Clash::Folder),
        }
    }

    /// Adds a link; `target` is where it leads from the top.
    pub fn add_link(&mut self, name: &str, target: &str) -> Result<(), Clash> {
        match self.add(name, Node::Link(target.to_owned()))? {
            Node::Link(there) if there == target => Ok(()),
            Node::Link(_) => Err(Clash::Link),
            Node::File => Err(Clash::File),
            Node::Folder(_) => Err(Clash::Folder),
        }
    }

    /// Puts a node at a path where nothing is; gives what is there then.
    fn add(&mut self, path: &str, node: Node) -> Result<&Node, Clash> {
        let mut folder = &mut self.top;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok(folder.entry(part.to_owned()).or_insert(node));
            }
            let below = folder.entry(part.to_owned()).or_insert_with(|| Node::Folder(Folder::new()));
            let Node::Folder(below) = below else { return Err(Clash::Below) };
            folder = below;
        }
        Err(Clash::Below)
    }

    /// Follows a path to its end, through links in any of its components; `None` if there is nothing.
    pub fn resolve(&self, path: &str) -> Option<Resolved> {
        let mut todo: Vec<&str> = components(path).rev().collect();
        let mut links = Vec::new();
        let mut at: Vec<&str> = Vec::new();
        let mut folder = Some(&self.top);
        while let Some(part) = todo.pop() {
            match folder?.get(part)? {
                Node::Folder(below) => {
                    at.push(part);
                    folder = Some(below);
                }
                Node::File => {
                    at.push(part);
                    folder = None;
                }
                Node::Link(target) => {
                    if links.len() == HOPS {
                        return None;
                    }
                    at.push(part);
                    links.push(at.join("/"));
                    at.clear();
                    folder = Some(&self.top);
                    todo.extend(components(target).rev());
                }
            }
        }
        let kind = if folder.is_some() { Kind::Folder } else { Kind::File };
        Some(Resolved { path: at.join("/"), kind, links })
    }

    /// What a request stands for: a file's name, a folder, or a glob (`*`, `?`, `[a-z]`, `{a,b}` within a component,
    /// `**` across folders). A folder stands for all below it; a `*` at the end for files only.
    pub fn look_up(&self, request: &str) -> Result<Found, TooWide> {
        let mut walk =
            Walk { catalog: self, found: Found::default(), folders: BTreeSet::new(), steps: STEPS };
        // A name may have a `[` in it and still be no glob.
        match self.resolve(request) {
            Some(end) => walk.take(&end, &[])?,
            None if request.len() > LONGEST || !is_glob(request) => {}
            None => {
                let parts: Vec<Part> = components(request).map(Part::new).collect();
                walk.walk("", &parts, &[])?;
            }
        }
        Ok(walk.found)
    }

    /// Where the link of this name leads, from the top; `None` if the name is no link's.
    pub fn target(&self, link: &str) -> Option<&str> {
        let (folder, name) = link.rsplit_once('/').unwrap_or(("", link));
        match self.folder(folder)?.get(name)? {
            Node::Link(target) => Some(target),
            _ => None,
        }
    }

    /// All names of files and links, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut stack = vec![(String::new(), &self.top)];
        while let Some((at, folder)) = stack.pop() {
            for (name, node) in folder {
                let path = join(&at, name);
                match node {
                    Node::Folder(below) => stack.push((path, below)),
                    _ => names.push(path),
                }
            }
        }
        names.sort_unstable();
        names
    }

    fn folder(&self, path: &str) -> Option<&Folder> {
        components(path).try_fold(&self.top, |folder, part| match folder.get(part) {
            Some(Node::Folder(below)) => Some(below),
            _ => None,
        })
    }
}

/// Whether a request may stand for more than one name.
pub fn is_glob(request: &str) -> bool {
    request.contains(['*', '?', '[', '{'])
}

/// What is wrong with a request that can fit nothing.
pub fn request_fault(request: &str) -> Option<String> {
    if components(request).next().is_none() {
        return Some("it names nothing".into());
    }
    if request.starts_with('/') {
        return Some("it is absolute; names are relative to lib/firmware".into());
    }
    if components(request).any(|part| part == "..") {
        return Some("it leads out of lib/firmware".into());
    }
    if request.chars().any(char::is_control) || request.len() > LONGEST {
        return Some("it cannot be a name".into());
    }
    components(request).find_map(|part| glob(part).err()).map(|e| e.kind().to_string())
}

fn glob(component: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(component).literal_separator(true).build()
}

fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// One component of a request.
enum Part {
    Name(String),
    Glob(GlobMatcher),
    /// `**`
    Any,
}

impl Part {
    fn new(text: &str) -> Part {
        if text == "**" {
            return Part::Any;
        }
        match glob(text) {
            Ok(glob) if is_glob(text) => Part::Glob(glob.compile_matcher()),
            _ => Part::Name(text.to_owned()),
        }
    }
}

/// One look-up.
struct Walk<'a> {
    catalog: &'a Catalog,
    found: Found,
    /// Folders that were taken whole: a link may lead to one again.
    folders: BTreeSet<String>,
    steps: usize,
}

impl Walk<'_> {
    /// Matches what is left of a request in a folder that was reached by these links.
    fn walk(&mut self, at: &str, parts: &[Part], links: &[String]) -> Result<(), TooWide> {
        self.steps = self.steps.checked_sub(1).ok_or(TooWide)?;
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        let Some(folder) = self.catalog.folder(at) else { return Ok(()) };
        match part {
            Part::Name(name) => self.step(&join(at, name), rest, links, true),
            Part::Glob(glob) => {
                for name in folder.keys().filter(|name| glob.is_match(name)) {
                    self.step(&join(at, name), rest, links, false)?;
                }
                Ok(())
            }
            Part::Any => {
                if rest.is_empty() {
                    return self.take_folder(at, links);
                }
                self.walk(at, rest, links)?;
                // Links to folders are not crossed: they might lead in circles.
                for (name, node) in folder {
                    if matches!(node, Node::Folder(_)) {
                        self.walk(&join(at, name), parts, links)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Goes on behind one component; `named` tells one written out from one that fits a glob.
    fn step(&mut self, path: &str, rest: &[Part], links: &[String], named: bool) -> Result<(), TooWide> {
        self.steps = self.steps.checked_sub(1).ok_or(TooWide)?;
        let end = self.catalog.resolve(path).filter(|end| links.len() + end.links.len() <= HOPS);
        let Some(end) = end else { return Ok(()) };
        match (rest, end.kind) {
            ([], Kind::Folder) if !named => Ok(()),
            ([], _) => self.take(&end, links),
            (_, Kind::File) => Ok(()),
            (rest, Kind::Folder) => self.walk(&end.path, rest, &[links, &end.links].concat()),
        }
    }

    /// Takes where a path ended, with the links that led there.
    fn take(&mut self, end: &Resolved, links: &[String]) -> Result<(), TooWide> {
        let links = [links, &end.links].concat();
        match end.kind {
            Kind::Folder => self.take_folder(&end.path, &links),
            Kind::File => {
                self.found.files.insert(end.path.clone());
                self.found.links.extend(links);
                Ok(())
            }
        }
    }

    fn take_folder(&mut self, at: &str, links: &[String]) -> Result<(), TooWide> {
        self.found.links.extend(links.iter().cloned());
        if !self.folders.insert(at.to_owned()) {
            return Ok(());
        }
        let Some(folder) = self.catalog.folder(at) else { return Ok(()) };
        for (name, node) in folder {
            self.steps = self.steps.checked_sub(1).ok_or(TooWide)?;
            let path = join(at, name);
            match node {
                Node::File => drop(self.found.files.insert(path)),
                Node::Folder(_) => self.take_folder(&path, &[])?,
                Node::Link(_) => {
                    if let Some(end) = self.catalog.resolve(&path) {
                        self.take(&end, &[])?;
                    }
                }
            }
        }
        Ok(())
    }
}
