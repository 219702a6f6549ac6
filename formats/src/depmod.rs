//! The tables that depmod writes beside a kernel's modules, byte for byte those of kmod 30.
//! Knows modules by path and [`ModuleInfo`]; does not know where they are stored or who will load them.
//!
//! Two orders are kmod's accidents and are not copied. Modules that `modules.order` does not name follow in the
//! order of their paths (kmod: of its hash table), and so do the lines of `modules.symbols` by symbol.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;

use crate::modindex::{Index, IndexError};
use crate::modinfo::{self, ModuleInfo};

/// One module of the tree.
#[derive(Debug, Clone)]
pub struct Module {
    /// Path below `lib/modules/VERSION`, with `/`.
    pub path: String,
    /// What it says about itself.
    pub info: ModuleInfo,
}

/// All that the tables are made from.
#[derive(Debug, Default)]
pub struct Input<'a> {
    /// The modules, in any order. Of two with one name, the one below `updates/` counts, else the first path.
    pub modules: &'a [Module],
    /// Text of `modules.order`; empty if there is none.
    pub order: &'a str,
    /// Text of `modules.builtin`, if there is one.
    pub builtin: Option<&'a str>,
    /// Bytes of `modules.builtin.modinfo`, if there is one.
    pub builtin_modinfo: Option<&'a [u8]>,
    /// Symbols the kernel itself exports (see [`exported_by_kernel`]); with them unresolved ones are reported.
    pub kernel_symbols: Option<&'a HashSet<String>>,
}

/// The tables, and what was found on the way.
#[derive(Debug, Default)]
pub struct Tables {
    /// File name (`modules.dep` …) and content, sorted by name.
    pub files: BTreeMap<&'static str, Vec<u8>>,
    /// Module path and the symbol that nothing exports: such a module cannot be loaded.
    pub unresolved: Vec<(String, String)>,
    /// Aliases left out of the index because the format cannot hold them: module path and alias.
    pub skipped_aliases: Vec<(String, String)>,
}

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Modules that need each other.
    #[error("modules need each other in a cycle: {}", .0.join(", "))]
    Cycle(Vec<String>),
    /// A path that is not ASCII, which the index cannot hold.
    #[error("{0:?}: module paths must be ASCII")]
    Path(String),
    /// A table beyond 256 MiB.
    #[error("{0} is too large for its format")]
    TooLarge(&'static str),
}

/// The symbols exported in `System.map`; `None` if it names none, as the placeholder that Debian installs.
pub fn exported_by_kernel(system_map: &str) -> Option<HashSet<String>> {
    let faked = ["__this_module", "_GLOBAL_OFFSET_TABLE_", "TOC."];
    let listed = system_map.lines().filter_map(|l| l.split(' ').nth(2)?.strip_prefix("__ksymtab_"));
    let mut symbols: HashSet<String> = listed.map(str::to_owned).collect();
    if symbols.is_empty() {
        return None;
    }
    symbols.extend(faked.map(str::to_owned));
    Some(symbols)
}

/// A module in its final place, with the indexes of those it needs.
struct Placed<'a> {
    module: &'a Module,
    name: String,
    deps: Vec<usize>,
}

/// Makes all tables.
pub fn tables(input: &Input<'_>) -> Result<Tables, Error> {
    let mut out = Tables::default();
    let mut placed = place(input);
    let symbols = resolve(&mut placed, input.kernel_symbols, &mut out.unresolved);
    let rank = topological_rank(&placed)?;
    let closures: Vec<Vec<usize>> = (0..placed.len()).map(|i| closure(&placed, &rank, i)).collect();

    out.dep(&placed, &closures)?;
    out.alias(&placed)?;
    out.symbols(&placed, &symbols)?;
    out.soft_and_weak(&placed);
    out.devname(&placed);
    out.builtin(input)?;
    Ok(out)
}

/// Picks one module per name and sorts them by `modules.order`.
fn place<'a>(input: &Input<'a>) -> Vec<Placed<'a>> {
    let mut by_name: BTreeMap<String, &Module> = BTreeMap::new();
    let priority = |m: &Module| (!m.path.starts_with("updates/"), m.path.clone());
    for module in input.modules {
        by_name
            .entry(modinfo::name_of_path(&module.path))
            .and_modify(|old| {
                if priority(module) < priority(old) {
                    *old = module;
                }
            })
            .or_insert(module);
    }
    let order: HashMap<&str, usize> = input.order.lines().enumerate().map(|(i, line)| (line, i)).collect();
    let mut placed: Vec<Placed> =
        by_name.into_iter().map(|(name, module)| Placed { module, name, deps: vec![] }).collect();
    placed.sort_by_key(|p| {
        let path = p.module.path.as_str();
        // modules.order names the files as they were before compression.
        let plain = path.rfind(".ko").map_or(path, |at| &path[..at + 3]);
        (order.get(plain).copied().unwrap_or(usize::MAX), path)
    });
    placed
}

/// Fills in the dependencies; gives the exporter of every symbol.
fn resolve<'a>(
    placed: &mut [Placed<'a>],
    kernel: Option<&HashSet<String>>,
    unresolved: &mut Vec<(String, String)>,
) -> BTreeMap<&'a str, usize> {
    let mut symbols = BTreeMap::new();
    for (i, p) in placed.iter().enumerate() {
        // Of two exporters the later counts.
        symbols.extend(p.module.info.exports.iter().map(|s| (s.as_str(), i)));
    }
    for p in placed.iter_mut() {
        let mut seen = HashSet::new();
        for need in &p.module.info.needs {
            // On PowerPC `.foo` stands for `foo`.
            let name = need.name.strip_prefix('.').unwrap_or(&need.name);
            match symbols.get(name) {
                Some(owner) => {
                    if seen.insert(*owner) {
                        p.deps.push(*owner);
                    }
                }
                None if need.weak => {}
                None => {
                    if kernel.is_some_and(|k| !k.contains(name)) {
                        unresolved.push((p.module.path.clone(), need.name.clone()));
                    }
                }
            }
        }
    }
    symbols
}

/// Rank of each module in kmod's order: those that nothing needs first, taken from the end of a stack.
fn topological_rank(placed: &[Placed<'_>]) -> Result<Vec<usize>, Error> {
    let mut users = vec![0usize; placed.len()];
    for dep in placed.iter().flat_map(|p| &p.deps) {
        users[*dep] += 1;
    }
    let mut roots: Vec<usize> = (0..placed.len()).filter(|i| users[*i] == 0).collect();
    let mut rank = vec![usize::MAX; placed.len()];
    let mut next = 0;
    while let Some(i) = roots.pop() {
        rank[i] = next;
        next += 1;
        for dep in &placed[i].deps {
            users[*dep] -= 1;
            if users[*dep] == 0 {
                roots.push(*dep);
            }
        }
    }
    if next < placed.len() {
        let stuck = (0..placed.len()).filter(|i| rank[*i] == usize::MAX);
        return Err(Error::Cycle(stuck.map(|i| placed[i].module.path.clone()).collect()));
    }
    Ok(rank)
}

/// All that module `i` needs, also indirectly, by rank.
fn closure(placed: &[Placed<'_>], rank: &[usize], i: usize) -> Vec<usize> {
    let mut all = BTreeSet::new();
    let mut todo = vec![i];
    while let Some(i) = todo.pop() {
        todo.extend(placed[i].deps.iter().filter(|d| all.insert((rank[**d], **d))));
    }
    all.into_iter().map(|(_, i)| i).collect()
}

impl Tables {
    fn dep(&mut self, placed: &[Placed<'_>], closures: &[Vec<usize>]) -> Result<(), Error> {
        let mut text = String::new();
        let mut index = Index::default();
        for (i, (p, deps)) in placed.iter().zip(closures).enumerate() {
            let mut line = format!("{}:", p.module.path);
            for dep in deps {
                line.push(' ');
                line.push_str(&placed[*dep].module.path);
            }
            index.insert(&p.name, &line, i as u32).map_err(|_| Error::Path(p.module.path.clone()))?;
            text.push_str(&line);
            text.push('\n');
        }
        self.files.insert("modules.dep", text.into_bytes());
        self.index("modules.dep.bin", &index)
    }

    fn alias(&mut self, placed: &[Placed<'_>]) -> Result<(), Error> {
        let mut text = String::from("# Aliases extracted from modules themselves.\n");
        let mut index = Index::default();
        for (i, p) in placed.iter().enumerate() {
            for alias in p.module.info.all("alias") {
                text.push_str(&format!("alias {alias} {}\n", p.name));
                let done = normalize_alias(alias).map(|key| index.insert(&key, &p.name, i as u32));
                if done != Some(Ok(())) {
                    self.skipped_aliases.push((p.module.path.clone(), alias.to_owned()));
                }
            }
        }
        self.files.insert("modules.alias", text.into_bytes());
        self.index("modules.alias.bin", &index)
    }

    fn symbols(&mut self, placed: &[Placed<'_>], symbols: &BTreeMap<&str, usize>) -> Result<(), Error> {
        let mut text = String::from("# Aliases for symbols, used by symbol_request().\n");
        let mut index = Index::default();
        for (symbol, i) in symbols {
            let owner = &placed[*i].name;
            text.push_str(&format!("alias symbol:{symbol} {owner}\n"));
            // A symbol that is not ASCII can be in no kernel source; it is of no use as a key.
            let _ = index.insert(&format!("symbol:{symbol}"), owner, *i as u32);
        }
        self.files.insert("modules.symbols", text.into_bytes());
        self.index("modules.symbols.bin", &index)
    }

    fn soft_and_weak(&mut self, placed: &[Placed<'_>]) {
        for (file, title, key) in
            [("modules.softdep", "Soft", "softdep"), ("modules.weakdep", "Weak", "weakdep")]
        {
            let mut text = format!("# {title} dependencies extracted from modules themselves.\n");
            for p in placed {
                for value in p.module.info.all(key) {
                    text.push_str(&format!("{key} {} {value}\n", p.name));
                }
            }
            self.files.insert(file, text.into_bytes());
        }
    }

    fn devname(&mut self, placed: &[Placed<'_>]) {
        let mut text = String::new();
        for p in placed {
            let mut name = None;
            let mut numbers = None;
            for alias in p.module.info.all("alias") {
                if let Some(devname) = alias.strip_prefix("devname:") {
                    name = Some(devname);
                } else if let Some(n) = alias.strip_prefix("char-major-").and_then(two_numbers) {
                    numbers = Some(('c', n));
                } else if let Some(n) = alias.strip_prefix("block-major-").and_then(two_numbers) {
                    numbers = Some(('b', n));
                }
                if let (Some(name), Some((kind, (major, minor)))) = (name, numbers) {
                    if text.is_empty() {
                        text.push_str("# Device nodes to trigger on-demand module loading.\n");
                    }
                    let _ = writeln!(text, "{} {name} {kind}{major}:{minor}", p.name);
                    break;
                }
            }
        }
        self.files.insert("modules.devname", text.into_bytes());
    }

    fn builtin(&mut self, input: &Input<'_>) -> Result<(), Error> {
        if let Some(text) = input.builtin {
            let mut index = Index::default();
            for line in text.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_alphabetic())) {
                let _ = index.insert(&modinfo::name_of_path(line), "", 0);
            }
            self.index("modules.builtin.bin", &index)?;
        }
        if let Some(bytes) = input.builtin_modinfo {
            let mut index = Index::default();
            for (module, key, value) in modinfo::parse_builtin(bytes) {
                if key == "alias" && !value.is_empty() {
                    let done = normalize_alias(&value).map(|key| index.insert(&key, &module, 0));
                    if done != Some(Ok(())) {
                        self.skipped_aliases.push((module, value));
                    }
                }
            }
            self.index("modules.builtin.alias.bin", &index)?;
        }
        Ok(())
    }

    fn index(&mut self, name: &'static str, index: &Index) -> Result<(), Error> {
        let bytes = index.write().map_err(|e: IndexError| {
            debug_assert_eq!(e, IndexError::TooLarge);
            Error::TooLarge(name)
        })?;
        self.files.insert(name, bytes);
        Ok(())
    }
}

/// `-` is `_` outside of brackets; `None` if brackets do not match.
fn normalize_alias(alias: &str) -> Option<String> {
    let mut inside = false;
    let mut out = String::with_capacity(alias.len());
    for c in alias.chars() {
        match c {
            ']' if !inside => return None,
            ']' => inside = false,
            '[' => inside = true,
            _ => {}
        }
        out.push(if c == '-' && !inside { '_' } else { c });
    }
    (!inside).then_some(out)
}

/// `10-229`, as scanf reads it: what follows is ignored.
fn two_numbers(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('-')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}
