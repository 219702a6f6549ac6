//! From the archive of a root filesystem to its tree, owners and modes as they are written in it.
//! Nothing is made on disk but the contents of files, so that no right is needed. Alpine's have no device nodes: an
//! archive with one is none of Alpine's.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::apk::db::Installed;
use mosbuild_formats::tarball::{self, Kind, Options};

use crate::steps::{tree_of, tree_output};

/// A mini root filesystem has 3 MB; what is larger than this is none.
const MAX_BYTES: u64 = 4 << 30;
const MAX_ENTRIES: u64 = 1_000_000;

/// Input `archive`; output `tree`, facts `version` (of Alpine) and `apk`.
pub struct UnpackMiniroot;

impl Builtin for UnpackMiniroot {
    fn name(&self) -> &'static str {
        "miniroot-unpack"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let mut entries: Vec<Entry> = Vec::new();
        cx.stream("archive", |input| {
            let options = Options { max_bytes: MAX_BYTES, max_entries: MAX_ENTRIES, ..Options::default() };
            let read = tarball::read(input, &options, |entry, data| {
                if (cx.cancelled)() {
                    return Err(Refused(StepError::new("it was interrupted")));
                }
                entries.push(convert(cx.store, &entries, entry, data)?);
                Ok(())
            });
            read.map(drop).map_err(|Refused(e)| e)
        })?;
        let tree = tree_of(entries)?;
        let mut made = Made::default();
        let (version, apk) = about(cx.store, &tree)?;
        (cx.log)(&format!("Alpine {version} with apk {apk}, {} entries", tree.len()));
        made.facts = BTreeMap::from([("version".into(), version), ("apk".into(), apk)]);
        made.outputs.insert("tree".into(), tree_output(cx.store, &tree)?);
        Ok(made)
    }
}

/// An error of the archive or of storing what is in it.
struct Refused(StepError);

impl From<tarball::Error> for Refused {
    fn from(e: tarball::Error) -> Refused {
        Refused(broken(&e.to_string()))
    }
}

impl From<StepError> for Refused {
    fn from(e: StepError) -> Refused {
        Refused(e)
    }
}

/// Bytes that are those of the lock, and no archive: fetching them again helps nothing.
fn broken(why: &str) -> StepError {
    StepError::new(format!("the archive cannot be unpacked: {why}"))
        .help("if the place had a damaged or cut off file when it was locked: `mosbuild lock --update`, perhaps from another mirror")
}

fn convert(
    store: &Store,
    before: &[Entry],
    entry: &tarball::Entry,
    data: &mut dyn std::io::Read,
) -> Result<Entry, StepError> {
    let path = TreePath::new(&entry.path).map_err(|e| StepError::new(e.to_string()))?;
    let node = match &entry.kind {
        Kind::Dir => Node::Dir,
        Kind::File { size } => {
            let mut content = Vec::new();
            data.read_to_end(&mut content).map_err(|e| broken(&format!("{e}, in {path}")))?;
            Node::File { digest: store.put_bytes(&content)?, size: *size }
        }
        Kind::HardLink { to } => {
            let file = before.iter().find(|e| e.path.as_bytes() == &to[..]);
            let file = file.ok_or_else(|| StepError::new(format!("{path} is a link to nothing")))?;
            return Ok(Entry { path, ..file.clone() });
        }
        Kind::Symlink { target } => Node::Symlink { target: target.clone() },
        Kind::Char { major, minor } => Node::Char { major: *major, minor: *minor },
        Kind::Block { major, minor } => Node::Block { major: *major, minor: *minor },
        Kind::Fifo => Node::Fifo,
    };
    Ok(Entry { path, mode: entry.mode, uid: entry.uid, gid: entry.gid, xattrs: Vec::new(), node })
}

/// Alpine's release and apk's version, read in the tree.
fn about(store: &Store, tree: &Tree) -> Result<(String, String), StepError> {
    let missing = |what: &str| {
        StepError::new(format!("this is no mini root filesystem of Alpine: it has no {what}"))
            .help("an alpine-minirootfs-RELEASE-ARCH.tar.gz is expected")
    };
    let release = content(store, tree, "etc/alpine-release")?.ok_or_else(|| missing("etc/alpine-release"))?;
    let db = database(store, tree)?.ok_or_else(|| missing("lib/apk/db/installed"))?;
    let apk = db.get("apk-tools").ok_or_else(|| missing("apk-tools"))?;
    Ok((String::from_utf8_lossy(&release).trim().to_owned(), apk.info.version.clone()))
}

/// Where the database of installed packages may lie.
pub const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// The database of installed packages of a tree.
pub fn database(store: &Store, tree: &Tree) -> Result<Option<Installed>, StepError> {
    for path in DATABASES {
        if let Some(bytes) = content(store, tree, path)? {
            let parsed = Installed::parse(&bytes).map_err(|e| StepError::new(format!("{path}: {e}")))?;
            return Ok(Some(parsed));
        }
    }
    Ok(None)
}

/// The bytes of a file of a tree; links are not followed.
pub fn content(store: &Store, tree: &Tree, path: &str) -> Result<Option<Vec<u8>>, StepError> {
    let path = TreePath::new(path).map_err(|e| StepError::new(e.to_string()))?;
    match tree.get(&path).map(|e| &e.node) {
        Some(Node::File { digest, .. }) => Ok(Some(store.read(digest)?)),
        _ => Ok(None),
    }
}
