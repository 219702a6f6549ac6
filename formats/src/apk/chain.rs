//! Why a package is in a resolved set: the shortest chain of dependencies from what was asked for.
//! Explains what apk chose; resolves nothing itself.

use std::collections::HashMap;
use std::fmt;

use super::IndexEntry;
use super::atom::{Atom, split_provides};

/// A package of the set.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its identity, for atoms that pin one.
    pub identity: &'a str,
    /// Atoms.
    pub depends: &'a [String],
    /// Names or `name=version`.
    pub provides: &'a [String],
    /// Atoms.
    pub install_if: &'a [String],
}

impl<'a> From<&'a IndexEntry> for Node<'a> {
    fn from(entry: &'a IndexEntry) -> Self {
        Node {
            name: &entry.name,
            version: &entry.version,
            identity: &entry.identity,
            depends: &entry.depends,
            provides: &entry.provides,
            install_if: &entry.install_if,
        }
    }
}

/// Why a package is there, given the one before it in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// It is in the world, as written there.
    Asked(String),
    /// The one before depends on this.
    Depends(String),
    /// All of these are there, the one before being the last to come.
    InstalledIf(Vec<String>),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The package.
    pub package: String,
    /// Why it is there.
    pub because: Because,
}

/// From what was asked for to the package in question, which is the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(pub Vec<Link>);

/// `openrc: asked for as alpine-base → depends on openrc`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(last) = self.0.last() else { return Ok(()) };
        write!(f, "{}: ", last.package)?;
        for (n, Link { package, because }) in self.0.iter().enumerate() {
            // An atom that names the package needs no further word; so:libfoo.so.1 does.
            let by = |atom: &str| match Atom::parse(atom) {
                Ok(atom) if atom.name == *package => String::new(),
                _ => format!(" ({package})"),
            };
            if n > 0 {
                f.write_str(" → ")?;
            }
            match because {
                Because::Asked(atom) if self.0.len() == 1 && atom == package => f.write_str("asked for")?,
                Because::Asked(atom) => write!(f, "asked for as {atom}{}", by(atom))?,
                Because::Depends(atom) => write!(f, "depends on {atom}{}", by(atom))?,
                Because::InstalledIf(atoms) => {
                    write!(f, "{package} installs itself with {}", and(&names(atoms)))?;
                }
            }
        }
        Ok(())
    }
}

/// The names of atoms; conflicts keep their `!`.
fn names(atoms: &[String]) -> Vec<String> {
    let name = |text: &String| match Atom::parse(text) {
        Ok(atom) => format!("{}{}", if atom.conflict { "!" } else { "" }, atom.name),
        Err(_) => text.clone(),
    };
    atoms.iter().map(name).collect()
}

fn and(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [some @ .., last] => format!("{} and {last}", some.join(", ")),
    }
}

/// A set, prepared for questions.
pub struct Set<'a> {
    nodes: Vec<Node<'a>>,
    /// Who provides a name, packages of that name first.
    providers: HashMap<&'a str, Vec<usize>>,
    /// How each package came in: its step, and the package before it. `None` if nothing explains it.
    reached: Vec<Option<(Because, Option<usize>)>>,
}

impl<'a> Set<'a> {
    /// `nodes`: what is installed; `world`: what was asked for. Text that is no atom explains nothing.
    pub fn new(nodes: impl IntoIterator<Item = Node<'a>>, world: &[String]) -> Set<'a> {
        let nodes: Vec<Node<'a>> = nodes.into_iter().collect();
        let mut providers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (n, node) in nodes.iter().enumerate() {
            providers.entry(node.name).or_default().push(n);
        }
        for (n, node) in nodes.iter().enumerate() {
            for (name, _) in node.provides.iter().map(|p| split_provides(p)) {
                providers.entry(name).or_default().push(n);
            }
        }
        let reached = vec![None; nodes.len()];
        let mut set = Set { nodes, providers, reached };
        set.explain(world);
        set
    }

    /// The packages that satisfy an atom; none for a conflict.
    fn satisfying(&self, text: &str) -> Vec<usize> {
        let Ok(atom) = Atom::parse(text) else { return vec![] };
        if atom.conflict {
            return vec![];
        }
        let all = self.providers.get(&atom.name[..]).into_iter().flatten().copied();
        let satisfies = |n: &usize| {
            let Node { name, version, identity, provides, .. } = self.nodes[*n];
            atom.is_satisfied_by(name, version, identity, provides)
        };
        all.filter(satisfies).collect()
    }

    /// Breadth first, so that the first way found to each package is a shortest one.
    fn explain(&mut self, world: &[String]) {
        let mut level: Vec<usize> = vec![];
        for atom in world {
            for n in self.satisfying(atom) {
                if self.reached[n].is_none() {
                    self.reached[n] = Some((Because::Asked(atom.clone()), None));
                    level.push(n);
                }
            }
        }
        // Each rule's atoms with the packages that satisfy them, resolved once.
        let rules: Vec<(usize, Vec<Vec<usize>>)> = (0..self.nodes.len())
            .filter(|n| !self.nodes[*n].install_if.is_empty())
            .map(|n| {
                let wanted = self.nodes[n].install_if.iter().filter(|atom| !atom.starts_with('!'));
                (n, wanted.map(|atom| self.satisfying(atom)).collect())
            })
            .collect();
        while !level.is_empty() {
            let mut next = vec![];
            for &from in &level {
                for atom in self.nodes[from].depends {
                    for n in self.satisfying(atom) {
                        if self.reached[n].is_none() {
                            self.reached[n] = Some((Because::Depends(atom.clone()), Some(from)));
                            next.push(n);
                        }
                    }
                }
            }
            for (n, wanted) in &rules {
                // Complete now, by what came in on this level or before: those of the next one do not count yet.
                let there = |n: &&usize| self.reached[**n].is_some() && !next.contains(*n);
                let complete = wanted.iter().all(|any| any.iter().find(there).is_some());
                let last = wanted.iter().flatten().find(|n| level.contains(n));
                if self.reached[*n].is_none()
                    && complete
                    && let Some(last) = last
                {
                    let atoms = self.nodes[*n].install_if.to_vec();
                    self.reached[*n] = Some((Because::InstalledIf(atoms), Some(*last)));
                    next.push(*n);
                }
            }
            level = next;
        }
    }

    /// The shortest chain to a package of this name, or to one that provides it. `None` if there is none in the set,
    /// or nothing that was asked for leads to it.
    pub fn chain_to(&self, name: &str) -> Option<Chain> {
        let chains = self.providers.get(name)?.iter().filter_map(|n| self.chain(*n));
        chains.min_by_key(|chain| chain.0.len())
    }

    fn chain(&self, n: usize) -> Option<Chain> {
        let mut links = vec![];
        let mut at = Some(n);
        while let Some(n) = at {
            let (because, before) = self.reached[n].clone()?;
            links.push(Link { package: self.nodes[n].name.to_string(), because });
            at = before;
        }
        links.reverse();
        Some(Chain(links))
    }
}

/// [`Set::chain_to`] for a single question.
pub fn chain_to<'a>(
    nodes: impl IntoIterator<Item = Node<'a>>,
    world: &[String],
    name: &str,
) -> Option<Chain> {
    Set::new(nodes, world).chain_to(name)
}
