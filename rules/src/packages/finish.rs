//! What apk left, made whole and reproducible: checked against the lock, folders that the sandbox covered brought
//! back, what depends on the day or the run taken out.
//! Tree in, tree out; runs nothing.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::apk::db::{Installed, InstalledPackage};

use super::fetch::{file, locked_of};
use crate::miniroot::{content, database};
use crate::steps::{tree_of, tree_output};

/// Files that tell of a run, not of what is installed: apk 3 keeps a log with times.
const TRACES: [&str; 2] = ["var/log/apk.log", "var/cache/apk/APKINDEX"];
/// Folders that the sandbox covers while apk works.
const COVERED: [&str; 4] = ["dev", "proc", "sys", "tmp"];
/// What shadow(5) counts in.
const DAY: u64 = 86_400;

/// Inputs `installed`, `base`, `packages`; params `epoch` and `scripts` (why they did not run, if so). Output `tree`,
/// fact `count`.
pub struct Finish;

impl Builtin for Finish {
    fn name(&self) -> &'static str {
        "packages-finish"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let (tree, base) = (cx.tree("installed")?, cx.tree("base")?);
        let db = database(cx.store, &tree)?.ok_or_else(|| StepError::new("apk left no database"))?;
        let locked = content(cx.store, &*cx.tree("packages")?, "locked")?.unwrap_or_default();
        complete(&db, &String::from_utf8_lossy(&locked))?;

        let trace = |path: &TreePath| {
            let path = path.to_string();
            TRACES.iter().any(|t| path.starts_with(t)) && file(&base, &path).is_none()
        };
        let mut entries: Vec<Entry> = tree.iter().filter(|e| !trace(&e.path)).cloned().collect();
        add_covered(&mut entries, &db, database(cx.store, &base)?.as_ref())?;
        let days = cx.param("epoch").parse::<u64>().unwrap_or(0) / DAY;
        for path in ["etc/shadow", "etc/shadow-"] {
            without_dates(cx, &mut entries, &base, path, days)?;
        }
        let count = db.packages.len();
        let skipped = Some(cx.param("scripts")).filter(|why| !why.is_empty());
        let notes: Vec<String> =
            skipped.map(|why| format!("scripts and triggers of packages: {why}")).into_iter().collect();
        notes.iter().for_each(|note| (cx.warn)(note));
        (cx.log)(&format!("{count} packages installed"));
        let tree = tree_output(cx.store, &tree_of(entries)?)?;
        Ok(Made {
            outputs: BTreeMap::from([("tree".to_owned(), tree)]),
            facts: BTreeMap::from([("count".to_owned(), count.to_string())]),
            notes,
        })
    }
}

/// Every locked package is in the database, with its version and identity, and whole.
fn complete(db: &Installed, locked: &str) -> Result<(), StepError> {
    let mut wrong = Vec::new();
    for (name, version, identity) in locked_of(locked) {
        match db.get(name) {
            None => wrong.push(format!("{name} {version} was not installed")),
            Some(p) if p.info.version != version => {
                wrong.push(format!("{name} {} was installed, locked is {version}", p.info.version));
            }
            Some(p) if p.info.identity != identity => {
                wrong
                    .push(format!("{name} {version} has identity {}, locked is {identity}", p.info.identity));
            }
            Some(p) if !p.broken.is_empty() => {
                wrong.push(format!("{name} {version} was not installed whole"))
            }
            Some(_) => {}
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => {
            Err(StepError::new(wrong.join("\n"))
                .help("`mosbuild lock --update` finds a set that goes together"))
        }
    }
}

/// Folders of packages that apk made now, where the sandbox had its own.
fn add_covered(
    entries: &mut Vec<Entry>,
    db: &Installed,
    before: Option<&Installed>,
) -> Result<(), StepError> {
    let there: std::collections::HashSet<Vec<u8>> =
        entries.iter().map(|e| e.path.as_bytes().to_vec()).collect();
    let mut added = std::collections::HashSet::new();
    let new = |p: &&InstalledPackage| {
        let had = |b: &Installed| b.get(&p.info.name).is_some_and(|b| b.info.identity == p.info.identity);
        !before.is_some_and(had)
    };
    for dir in db.packages.iter().filter(new).flat_map(|p| &p.dirs) {
        let covered = |top: &str| {
            dir.path.strip_prefix(top.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let new = !there.contains(&dir.path)
            && COVERED.iter().any(|t| covered(t))
            && added.insert(dir.path.clone());
        if new {
            let path = TreePath::new(&dir.path).map_err(|e| StepError::new(e.to_string()))?;
            let attributes = &dir.attributes;
            let (mode, uid, gid) = (attributes.mode, attributes.uid, attributes.gid);
            entries.push(Entry { path, mode, uid, gid, xattrs: Vec::new(), node: Node::Dir });
        }
    }
    Ok(())
}

/// adduser writes the day on which it ran (field 3 of shadow(5)): it becomes the epoch's.
fn without_dates(
    cx: &BuiltinCx<'_>,
    entries: &mut [Entry],
    base: &Tree,
    path: &str,
    days: u64,
) -> Result<(), StepError> {
    let Some(entry) = entries.iter_mut().find(|e| e.path.as_bytes() == path.as_bytes()) else {
        return Ok(());
    };
    let Node::File { digest, size } = &mut entry.node else { return Ok(()) };
    let text = cx.store.read(digest)?;
    let before = content(cx.store, base, "etc/shadow")?.unwrap_or_default();
    let known: Vec<&[u8]> = before.split(|b| *b == b'\n').collect();
    let line = |line: &[u8]| {
        let mut fields: Vec<Vec<u8>> = line.split(|b| *b == b':').map(<[u8]>::to_vec).collect();
        let number = |f: &[u8]| !f.is_empty() && f != b"0" && f.iter().all(u8::is_ascii_digit);
        if !known.contains(&line) && fields.len() > 3 && number(&fields[2]) {
            fields[2] = days.to_string().into_bytes();
        }
        fields.join(&b':')
    };
    let lines: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(line).collect();
    let new = lines.join(&b'\n');
    if new != text {
        *digest = cx.store.put_bytes(&new)?;
        *size = new.len() as u64;
    }
    Ok(())
}
