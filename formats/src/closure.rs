//! From the modules a user names to the modules an image needs, and the order to load them in.
//! Knows dependencies by name, alias and built-in list; does not know symbols, files or firmware.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::modinfo::{self, ModuleInfo, canonical};

/// What is known of one module.
#[derive(Debug, Clone, Default)]
struct Known {
    depends: Vec<String>,
    pre: Vec<String>,
    post: Vec<String>,
    weak: Vec<String>,
    path: String,
}

/// All modules of a kernel, as files or built in.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    modules: BTreeMap<String, Known>,
    builtin: BTreeSet<String>,
    /// Aliases without wildcards to the modules (or built-ins) that have them.
    aliases: HashMap<String, BTreeSet<String>>,
}

/// Where a module asked for is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In files, by their paths: one, or several that share the alias asked for.
    File(Vec<String>),
    /// In the kernel itself: nothing to do.
    BuiltIn,
    /// Nowhere.
    Absent {
        /// The name most like it, if there is one.
        nearest: Option<String>,
    },
}

/// A module that another cannot do without, and that is nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The module that needs it.
    pub module: String,
    /// What it needs.
    pub needs: String,
    /// The name most like it, if there is one.
    pub nearest: Option<String>,
}

/// What the modules asked for bring with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// Each name asked for with its state, in the order asked.
    pub wanted: Vec<(String, State)>,
    /// Canonical names of all modules needed, each after what it depends on.
    pub load_order: Vec<String>,
    /// Paths of the same modules, in the same order.
    pub paths: Vec<String>,
    /// Hard dependencies that are absent: an error.
    pub broken: Vec<Broken>,
    /// Soft and weak dependencies that are absent, as (module, dependency): no error.
    pub soft_absent: Vec<(String, String)>,
}

impl Catalog {
    /// From module files, the text of `modules.builtin` and the bytes of `modules.builtin.modinfo` (may be empty).
    pub fn new<'a>(
        modules: impl IntoIterator<Item = (&'a str, &'a ModuleInfo)>,
        builtin: &str,
        builtin_modinfo: &[u8],
    ) -> Self {
        let mut catalog = Catalog::default();
        for (path, info) in modules {
            let name = modinfo::name_of_path(path);
            let list = |names: Vec<&str>| names.into_iter().map(canonical).collect();
            let soft = info.softdeps();
            let known = Known {
                depends: list(info.depends()),
                pre: soft.pre.iter().map(|n| canonical(n)).collect(),
                post: soft.post.iter().map(|n| canonical(n)).collect(),
                weak: list(info.weakdeps()),
                path: path.to_owned(),
            };
            for alias in info.all("alias") {
                catalog.alias(alias, &name);
            }
            catalog.modules.insert(name, known);
        }
        for line in builtin.lines().filter(|l| !l.is_empty()) {
            catalog.builtin.insert(modinfo::name_of_path(line));
        }
        for (module, key, value) in modinfo::parse_builtin(builtin_modinfo) {
            let module = canonical(&module);
            if key == "alias" {
                catalog.alias(&value, &module);
            }
            catalog.builtin.insert(module);
        }
        catalog
    }

    fn alias(&mut self, alias: &str, module: &str) {
        if !alias.contains(['*', '?', '[']) {
            self.aliases.entry(canonical(alias)).or_default().insert(module.to_owned());
        }
    }

    /// Where `name` is; `-` and `_` are equal. A module file comes before a built-in, a name before an alias.
    pub fn state(&self, name: &str) -> State {
        match self.find(name) {
            Found::Files(names) => {
                State::File(names.iter().filter_map(|n| Some(self.modules.get(*n)?.path.clone())).collect())
            }
            Found::BuiltIn => State::BuiltIn,
            Found::Nowhere => State::Absent { nearest: self.nearest(name) },
        }
    }

    fn find(&self, name: &str) -> Found<'_> {
        let name = canonical(name);
        if let Some((name, _)) = self.modules.get_key_value(&name) {
            return Found::Files(vec![name]);
        }
        if self.builtin.contains(&name) {
            return Found::BuiltIn;
        }
        match self.aliases.get(&name) {
            Some(owners) => {
                let files: Vec<&str> =
                    owners.iter().filter(|o| self.modules.contains_key(*o)).map(String::as_str).collect();
                if files.is_empty() { Found::BuiltIn } else { Found::Files(files) }
            }
            None => Found::Nowhere,
        }
    }

    /// The name most like `name`, if it is like enough to be meant.
    fn nearest(&self, name: &str) -> Option<String> {
        let name = canonical(name);
        let bound = (name.chars().count() / 3).max(1);
        let names = self.modules.keys().chain(&self.builtin);
        let (distance, best) = names.map(|n| (strsim::osa_distance(&name, n), n)).min()?;
        (distance <= bound).then(|| best.clone())
    }

    /// Follows hard, soft (both directions) and weak dependencies from the modules named.
    pub fn closure<S: AsRef<str>>(&self, wanted: &[S]) -> Closure {
        let mut out = Closure::default();
        let mut entered = HashSet::new();
        for name in wanted {
            let name = name.as_ref();
            out.wanted.push((name.to_owned(), self.state(name)));
            if let Found::Files(names) = self.find(name) {
                for name in names {
                    self.follow(name, &mut entered, &mut out);
                }
            }
        }
        out
    }

    fn follow<'a>(&'a self, start: &'a str, entered: &mut HashSet<&'a str>, out: &mut Closure) {
        let mut stack = vec![Step::Enter(start)];
        while let Some(step) = stack.pop() {
            let (name, known) = match step {
                Step::Load(name, path) => {
                    out.load_order.push(name.to_owned());
                    out.paths.push(path.to_owned());
                    continue;
                }
                Step::Enter(name) => match self.modules.get(name) {
                    Some(known) if entered.insert(name) => (name, known),
                    _ => continue,
                },
            };
            // Last in, first out: what is to come before the module goes on the stack after it.
            let mut soft = |deps: &'a [String], stack: &mut Vec<Step<'a>>| {
                for dep in deps.iter().rev() {
                    match self.find(dep) {
                        Found::Files(names) => stack.extend(names.into_iter().rev().map(Step::Enter)),
                        Found::BuiltIn => {}
                        Found::Nowhere => out.soft_absent.push((name.to_owned(), dep.clone())),
                    }
                }
            };
            soft(&known.weak, &mut stack);
            soft(&known.post, &mut stack);
            stack.push(Step::Load(name, &known.path));
            soft(&known.pre, &mut stack);
            for dep in known.depends.iter().rev() {
                match self.find(dep) {
                    Found::Files(names) => stack.extend(names.into_iter().rev().map(Step::Enter)),
                    Found::BuiltIn => {}
                    Found::Nowhere => out.broken.push(Broken {
                        module: name.to_owned(),
                        needs: dep.clone(),
                        nearest: self.nearest(dep),
                    }),
                }
            }
        }
    }
}

enum Found<'a> {
    Files(Vec<&'a str>),
    BuiltIn,
    Nowhere,
}

enum Step<'a> {
    Enter(&'a str),
    Load(&'a str, &'a str),
}
