//! The locked packages: downloaded, verified, vetted, and put beside an index of them alone.
//! With that index apk finds what is locked and nothing else; neither real index nor network is needed any more.

use std::collections::BTreeMap;
use std::io::BufReader;

use mosbuild_cache::{Entry, Node, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Locking, Made, OutKind, Pinned, StepError};
use mosbuild_engine::fetch::{FetchError, Fetched, Request};
use mosbuild_engine::lockfile::{Pin, Row};
use mosbuild_formats::apk::chain::{Node as Link, Set};
use mosbuild_formats::apk::index::write_index;
use mosbuild_formats::apk::{IndexEntry, Limits, Package};
use rayon::prelude::*;

use super::resolve;
use super::root::Root;
use super::world::{self, Asked};
use crate::steps::{entry, file_entry, tree_of, tree_output};
use crate::url;

/// The largest package that is taken.
const LARGEST: u64 = 8 << 30;

/// Inputs `base`, `list`, keys and, for another architecture, `apk`; the params are the fields; the pin has a table
/// `package` and one `index`. Output `packages`: ARCH/*.apk, ARCH/APKINDEX.tar.gz, `world` and `locked` (`NAME VERSION
/// IDENTITY`, one a line).
pub struct FetchPackages;

impl Builtin for FetchPackages {
    fn name(&self) -> &'static str {
        "packages-source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("packages".into(), OutKind::Tree)]
    }

    fn waits(&self) -> bool {
        true
    }

    fn asks_in_a_root(&self) -> bool {
        true
    }

    fn lock(&self, cx: &BuiltinCx<'_>, locking: &Locking<'_>) -> Result<Pin, StepError> {
        resolve::resolve(cx, locking)
    }

    fn fits(&self, cx: &BuiltinCx<'_>, pin: &Pin) -> Result<bool, StepError> {
        let asked = world::asked(cx)?;
        let same = resolve::request(cx, &asked).iter().all(|(name, value)| pin.field(name) == value);
        Ok(same && Root::read(cx, &*cx.tree("base")?)?.fingerprint() == pin.field("base"))
    }

    /// The list stands for the names in it, base for what is installed there, keys for nothing: what they vouched for is
    /// locked.
    fn pinned(&self, cx: &BuiltinCx<'_>, pin: &Pin) -> Result<Pinned, StepError> {
        let cell = |row: &Row, name: &str| row.get(name).cloned().unwrap_or_default();
        let line = |row: &Row| format!("{} (blake3 {})", cell(row, "version"), cell(row, "blake3"));
        let mut params: BTreeMap<String, String> =
            pin.rows("package").map(|(name, row)| (format!("package {name}"), line(row))).collect();
        let world: Vec<String> = world::asked(cx)?.into_iter().map(|a| a.text).collect();
        params.insert("world".into(), world.join(" "));
        params.insert("base".into(), pin.field("base").to_owned());
        let only_for_the_pin = ["list", "packages", "repositories", "keys"].map(str::to_owned);
        Ok(Pinned {
            params,
            replaced: cx.inputs.keys().cloned().collect(),
            replaced_params: only_for_the_pin.into(),
        })
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let asked = world::asked(cx)?;
        let root = Root::read(cx, &*cx.tree("base")?)?;
        let downloads: Vec<Download> =
            cx.pin()?.rows("package").map(|(name, row)| Download::locked(name, row)).collect();
        let packages = download(cx, &downloads)?;
        check_forbidden(cx, &root, packages.iter().map(|p| &p.entry).collect(), &asked)?;

        let arch = cx.param("arch");
        let mut entries: Vec<Entry> = Vec::new();
        for package in &packages {
            let path = format!("{arch}/{}", package.entry.file_name());
            let node = Node::File { digest: package.fetched.digest, size: package.fetched.size };
            entries.push(entry(path.as_bytes(), 0o644, node)?);
        }
        // As `apk index --rewrite-arch` does for Alpine's own: apk looks for a `noarch` package in a folder of that name.
        let index = packages.iter().map(|p| IndexEntry { arch: arch.to_owned(), ..p.entry.clone() });
        let index: Vec<IndexEntry> = index.collect();
        let index = write_index("locked by mosbuild", &index);
        entries.push(file_entry(cx.store, &format!("{arch}/APKINDEX.tar.gz"), &index)?);
        let world: String = asked.iter().map(|a| format!("{}\n", a.text)).collect();
        entries.push(file_entry(cx.store, "world", world.as_bytes())?);
        let line = |p: &Fine| format!("{} {} {}\n", p.entry.name, p.entry.version, p.entry.identity);
        let locked: String = packages.iter().map(line).collect();
        entries.push(file_entry(cx.store, "locked", locked.as_bytes())?);
        let bytes: u64 = packages.iter().map(|p| p.fetched.size).sum();
        (cx.log)(&format!("{} packages, {bytes} bytes", packages.len()));
        let tree = tree_output(cx.store, &tree_of(entries)?)?;
        Ok(Made { outputs: BTreeMap::from([("packages".to_owned(), tree)]), ..Made::default() })
    }
}

/// A package that is to be had.
pub struct Download {
    pub name: String,
    pub version: String,
    /// Its folder.
    pub repository: String,
    /// As the index has it, or the lock.
    pub identity: String,
    /// Bytes, likewise.
    pub size: u64,
    /// What the lock has of it.
    pub locked: Option<Row>,
}

impl Download {
    fn locked(name: &str, row: &Row) -> Download {
        let cell = |name: &str| row.get(name).cloned().unwrap_or_default();
        Download {
            name: name.to_owned(),
            version: cell("version"),
            repository: cell("repository"),
            identity: cell("identity"),
            size: cell("size").parse().unwrap_or(0),
            locked: Some(row.clone()),
        }
    }

    fn url(&self) -> String {
        format!("{}{}-{}.apk", self.repository, self.name, self.version)
    }
}

/// A package that is what it should be.
pub struct Fine {
    pub fetched: Fetched,
    /// As an index has it.
    pub entry: IndexEntry,
}

/// Why packages cannot be had.
pub enum Failed {
    Fetch(FetchError),
    Step(Box<StepError>),
}

impl From<StepError> for Failed {
    fn from(e: StepError) -> Failed {
        Failed::Step(Box::new(e))
    }
}

impl From<Failed> for StepError {
    fn from(failed: Failed) -> StepError {
        match failed {
            Failed::Fetch(e) => e.into(),
            Failed::Step(e) => *e,
        }
    }
}

/// Downloads packages, several at once, and looks into each: its identity is that of the index or the lock, its data is
/// what its control part says, and nothing in it reaches outside of the tree.
pub fn download(cx: &BuiltinCx<'_>, downloads: &[Download]) -> Result<Vec<Fine>, Failed> {
    let requests = downloads
        .iter()
        .map(|d| match &d.locked {
            Some(row) => url::request(&d.url(), row),
            None => Ok(Request { url: d.url(), expected: None, max_size: d.size.clamp(1, LARGEST) }),
        })
        .collect::<Result<Vec<Request>, StepError>>()?;
    let fetched = cx.fetcher.fetch_all(cx.store, &requests, cx).map_err(|e| {
        let gone = e.absent().map(str::to_owned);
        // While a pin is being found it is the index that names what is gone, and that may be of another day.
        let of = |url: &String| downloads.iter().find(|d| d.url() == *url);
        let locked = gone.as_ref().filter(|_| cx.pin.is_some()).and_then(of);
        match locked {
            Some(d) => Failed::from(StepError::from(e).help(format!(
                "it has made way for a newer version: `mosbuild lock --update {}` takes that one",
                d.name
            ))),
            None => Failed::Fetch(e),
        }
    })?;
    downloads
        .par_iter()
        .zip(fetched)
        .map(|(download, fetched)| {
            let fine = look(cx, download, fetched.clone());
            if fine.is_err() && download.locked.is_none() {
                cx.store.discard_blob(&fetched.digest).map_err(StepError::from)?;
            }
            Ok(fine?)
        })
        .collect()
}

fn look(cx: &BuiltinCx<'_>, download: &Download, fetched: Fetched) -> Result<Fine, StepError> {
    let url = download.url();
    let wrong = |what: String| StepError::new(format!("{url}: {what}")).exit(4);
    if fetched.size != download.size {
        let text = format!(
            "it has {} bytes, the index says {} (it came from {})",
            fetched.size, download.size, fetched.from
        );
        return Err(wrong(text).help("the mirror is damaged, or in the middle of an update"));
    }
    let file = std::fs::File::open(cx.store.blob_path(&fetched.digest)?)?;
    let package = Package::read(BufReader::with_capacity(1 << 16, file), &Limits::default())
        .map_err(|e| wrong(format!("the package is refused: {e}")))?;
    let (name, version) = (&package.info.name, &package.info.version);
    if (name, version) != (&download.name, &download.version) {
        return Err(wrong(format!("this is {name} {version}")));
    }
    if package.identity != download.identity {
        return Err(wrong(format!(
            "its identity is {}, expected is {} (it came from {})",
            package.identity, download.identity, fetched.from
        ))
        .help("it was built anew under the same version, or the mirror is damaged")
        .help("`mosbuild lock --update` reads the index anew"));
    }
    let entry = IndexEntry::from_package(&package.info, &package.identity, fetched.size);
    Ok(Fine { fetched, entry })
}

/// Refuses a set with a forbidden package, naming the chain of dependencies that pulls it in.
pub fn check_forbidden(
    cx: &BuiltinCx<'_>,
    root: &Root,
    added: Vec<&IndexEntry>,
    asked: &[Asked],
) -> Result<(), StepError> {
    let forbidden: Vec<&str> = cx.param("forbid").lines().collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    let replaced = |name: &str| added.iter().any(|e| e.name == name);
    let kept = root.installed.packages.iter().map(|p| &p.info).filter(|p| !replaced(&p.name));
    let all: Vec<&IndexEntry> = kept.chain(added.iter().copied()).collect();
    let world: Vec<String> = asked.iter().map(|a| a.text.clone()).collect();
    let set = Set::new(all.iter().map(|e| Link::from(*e)), &world);
    let mut error: Option<StepError> = None;
    for name in forbidden.into_iter().filter(|name| all.iter().any(|e| e.name == *name)) {
        let why = match (asked.iter().find(|a| a.name == name), set.chain_to(name)) {
            (Some(asked), _) => format!("{name} is forbidden, and asked for in {}", asked.place),
            (None, Some(chain)) => {
                // `NAME: asked for as …`: the name need not be said twice.
                let chain = chain.to_string();
                let chain = chain.strip_prefix(&format!("{name}: ")).unwrap_or(&chain);
                format!("{name} is forbidden, and pulled in: {chain}")
            }
            (None, None) => format!("{name} is forbidden, and is in base"),
        };
        match &mut error {
            Some(error) => error.message.push_str(&format!("\n{why}")),
            None => error = Some(StepError::new(why)),
        }
    }
    match error {
        None => Ok(()),
        Some(error) => Err(error.help("leave out what needs it, or take it out of `forbid`")),
    }
}

/// Name, version and identity of each line of `locked`.
pub fn locked_of(text: &str) -> Vec<(&str, &str, &str)> {
    let line = |line| {
        let mut words = str::splitn(line, 3, ' ');
        Some((words.next()?, words.next()?, words.next()?))
    };
    text.lines().filter_map(line).collect()
}

/// The entry of a path of a tree.
pub fn file<'t>(tree: &'t Tree, path: &str) -> Option<&'t Entry> {
    tree.get(&mosbuild_cache::TreePath::new(path).ok()?)
}
