//! dpkg's database: installed packages, who owns a file, who depends on whom.
//!
//! Reads `var/lib/dpkg` of a root and nothing else. Package versions are compared nowhere: dpkg has seen to them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// An index into the packages.
pub(super) type Id = usize;

#[derive(Debug)]
pub(super) struct Dpkg {
    folder: PathBuf,
    packages: Vec<Package>,
    by_name: HashMap<String, Vec<Id>>,
    provided: HashMap<String, Vec<Id>>,
    /// Diverted path, where it went, the package whose file took its place (empty: the administrator's).
    diversions: Vec<(String, String, String)>,
    native: String,
    /// The files of each package, read when first asked for.
    lists: Vec<OnceLock<String>>,
}

#[derive(Debug, Default)]
struct Package {
    name: String,
    architecture: String,
    version: String,
    /// Groups of alternatives.
    depends: Vec<Vec<String>>,
    recommends: Vec<Vec<String>>,
    provides: Vec<String>,
    essential: bool,
}

/// The folders whose files are programs.
const PROGRAM_DIRS: [&str; 4] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];

impl Dpkg {
    /// The database of a root; none if the root has none.
    pub fn read(root: &Path) -> Option<Self> {
        let folder = Self::folder(root);
        let status = fs::read(folder.join("status")).ok()?;
        let mut packages: Vec<Package> =
            String::from_utf8_lossy(&status).split("\n\n").filter_map(package).collect();
        packages.sort_by(|a, b| (&a.name, &a.architecture).cmp(&(&b.name, &b.architecture)));
        let (mut by_name, mut provided) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (id, package) in packages.iter().enumerate() {
            by_name.entry(package.name.clone()).or_default().push(id);
            for name in &package.provides {
                provided.entry(name.clone()).or_default().push(id);
            }
        }
        let own = packages.iter().find(|package| package.name == "dpkg");
        let native = own.map(|package| package.architecture.clone()).unwrap_or_default();
        let diversions = fs::read_to_string(folder.join("diversions")).unwrap_or_default();
        let lines: Vec<&str> = diversions.lines().collect();
        let diversions = lines.chunks_exact(3).map(|part| {
            let by = if part[2] == ":" { "" } else { part[2] };
            (part[0].to_owned(), part[1].to_owned(), by.to_owned())
        });
        let diversions = diversions.collect();
        let lists = packages.iter().map(|_| OnceLock::new()).collect();
        Some(Self { folder, packages, by_name, provided, diversions, native, lists })
    }

    fn folder(root: &Path) -> PathBuf {
        root.join("var/lib/dpkg")
    }

    /// The files whose change may change any answer. dpkg replaces `status` whenever it has done anything.
    pub fn witnesses(root: &Path) -> [PathBuf; 2] {
        [Self::folder(root).join("status"), Self::folder(root).join("diversions")]
    }

    /// An installed package of this name.
    pub fn installed(&self, name: &str) -> Vec<Id> {
        self.named(name.split(':').next().unwrap_or(name))
    }

    /// Essential packages.
    pub fn essential(&self) -> Vec<Id> {
        (0..self.packages.len()).filter(|&id| self.packages[id].essential).collect()
    }

    /// The packages that own any of these paths; a path may be in its form before or after the merge of /usr.
    pub fn owners(&self, paths: &[PathBuf]) -> Vec<Id> {
        let mut wanted: HashSet<String> = HashSet::new();
        let mut only: HashMap<String, &str> = HashMap::new();
        for path in paths.iter().flat_map(|path| forms(&path.to_string_lossy())) {
            for (from, to, by) in &self.diversions {
                if *to == path {
                    wanted.insert(from.clone());
                } else if *from == path {
                    only.insert(from.clone(), by);
                }
            }
            wanted.insert(path);
        }
        let owns = |id: &Id| {
            let name = &self.packages[*id].name;
            self.list(*id)
                .lines()
                .any(|line| wanted.contains(line) && only.get(line).is_none_or(|by| by == name))
        };
        (0..self.packages.len()).filter(owns).collect()
    }

    /// These packages, what they recommend if `recommended`, and all that those depend on, as far as it is installed:
    /// every installed alternative of a dependency, every installed provider of a virtual package.
    pub fn closure(&self, start: &[Id], recommended: bool) -> BTreeSet<Id> {
        let mut closure: BTreeSet<Id> = BTreeSet::new();
        let mut queue = start.to_vec();
        if recommended {
            for &id in start {
                queue.extend(
                    self.packages[id].recommends.iter().flatten().flat_map(|name| self.satisfying(name)),
                );
            }
        }
        while let Some(id) = queue.pop() {
            if closure.insert(id) {
                queue.extend(
                    self.packages[id].depends.iter().flatten().flat_map(|name| self.satisfying(name)),
                );
            }
        }
        closure
    }

    /// Name and version of each.
    pub fn versions(&self, ids: &BTreeSet<Id>) -> Vec<(String, String)> {
        let name = |package: &Package| match package.architecture.as_str() {
            "all" => package.name.clone(),
            native if native == self.native => package.name.clone(),
            foreign => format!("{}:{foreign}", package.name),
        };
        ids.iter().map(|&id| (name(&self.packages[id]), self.packages[id].version.clone())).collect()
    }

    /// The programs of these packages that are there, as name and path.
    pub fn programs(&self, ids: &BTreeSet<Id>) -> Vec<(String, PathBuf)> {
        let mut programs = Vec::new();
        for &id in ids {
            for line in self.list(id).lines() {
                let Some((folder, name)) = line.rsplit_once('/') else { continue };
                if !PROGRAM_DIRS.contains(&folder) {
                    continue;
                }
                let path = Path::new(line);
                if fs::metadata(path).is_ok_and(|file| file.is_file()) {
                    programs.push((name.to_owned(), path.to_path_buf()));
                }
            }
        }
        programs.sort();
        programs
    }

    fn list(&self, id: Id) -> &str {
        self.lists[id].get_or_init(|| self.read_list(id))
    }

    fn read_list(&self, id: Id) -> String {
        let Package { name, architecture, .. } = &self.packages[id];
        let info = self.folder.join("info");
        let read = |file: String| fs::read(info.join(file)).ok();
        let bytes = read(format!("{name}:{architecture}.list")).or_else(|| read(format!("{name}.list")));
        String::from_utf8(bytes.unwrap_or_default())
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    fn satisfying(&self, name: &str) -> Vec<Id> {
        let mut ids = self.named(name);
        ids.extend(self.provided.get(name).into_iter().flatten());
        ids
    }

    /// Installed packages of a name: the native one, or else those of other architectures.
    fn named(&self, name: &str) -> Vec<Id> {
        let ids = self.by_name.get(name).cloned().unwrap_or_default();
        let native = |id: &Id| ["all", &self.native].contains(&self.packages[*id].architecture.as_str());
        let natives: Vec<Id> = ids.iter().copied().filter(native).collect();
        if natives.is_empty() { ids } else { natives }
    }
}

/// A path as packages may have it in their lists: with /usr in front or not.
fn forms(path: &str) -> Vec<String> {
    let merged = ["/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"];
    let mut forms = vec![path.to_owned()];
    if let Some(rest) =
        path.strip_prefix("/usr").filter(|rest| merged.iter().any(|dir| rest.starts_with(dir)))
    {
        forms.push(rest.to_owned());
    } else if merged.iter().any(|dir| path.starts_with(dir)) {
        forms.push(format!("/usr{path}"));
    }
    forms
}

/// A paragraph of the status file, if it is of an installed package.
fn package(paragraph: &str) -> Option<Package> {
    let mut package = Package::default();
    let mut installed = false;
    for line in paragraph.lines() {
        let Some((field, value)) = line.split_once(':').filter(|_| !line.starts_with(' ')) else { continue };
        let value = value.trim();
        match field {
            "Package" => package.name = value.to_owned(),
            "Status" => installed = value.ends_with(" installed"),
            "Architecture" => package.architecture = value.to_owned(),
            "Version" => package.version = value.to_owned(),
            "Essential" => package.essential = value == "yes",
            "Depends" | "Pre-Depends" => package.depends.extend(relations(value)),
            "Recommends" => package.recommends.extend(relations(value)),
            "Provides" => package.provides.extend(relations(value).into_iter().flatten()),
            _ => {}
        }
    }
    (installed && !package.name.is_empty()).then_some(package)
}

/// `a (>= 1) | b:any, c` as names, without versions and architectures.
fn relations(value: &str) -> Vec<Vec<String>> {
    let name = |text: &str| {
        let name = text.split_whitespace().next().unwrap_or("");
        name.split(['(', ':']).next().unwrap_or("").to_owned()
    };
    value.split(',').map(|group| group.split('|').map(|text| name(text.trim())).collect()).collect()
}
