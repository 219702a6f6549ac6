//! Archives of sources as trees: the work of every step that takes one.
//! Knows archives and the store; does not know what is in an archive.

use std::collections::BTreeMap;
use std::io::Read;

use mosbuild_cache::{Node, Store, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::tarball::{self, Kind, Options};

use crate::batches::store_beside;
use crate::steps::{entry, tree_of, tree_output};

/// The largest file that is taken for source code.
const LARGEST_FILE: u64 = 256 << 20;

/// Input `source`, an archive; output `source`, its tree.
pub struct UnpackSource;

impl Builtin for UnpackSource {
    fn name(&self) -> &'static str {
        "unpack-source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("source".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let source = tree_output(cx.store, &unpack_source(cx, "source")?)?;
        Ok(Made { outputs: BTreeMap::from([("source".to_owned(), source)]), ..Made::default() })
    }
}

/// The tree of a source archive (plain, gzip, xz, zstd): 0644 or 0755, owned by 0:0, without the one folder that all
/// lies in.
pub fn unpack_source(cx: &BuiltinCx<'_>, input: &str) -> Result<Tree, StepError> {
    let mut read = 0;
    let entries = cx.stream(input, |input| {
        let counted = Counted { inner: input, read: &mut read };
        unpack(cx.store, counted, cx.cancelled)
    })?;
    (cx.log)(&format!("unpacked {} entries from {read} bytes", entries.len()));
    let entries = below_single_folder(entries).into_iter();
    tree_of(entries.map(|(path, mode, node)| entry(&path, mode, node)).collect::<Result<_, _>>()?)
}

/// Path, mode and kind of an entry whose content is in the store.
type Unpacked = (Vec<u8>, u32, Node);

/// The entries of an archive at their own paths, content in the store.
fn unpack<R: Read>(
    store: &Store,
    input: R,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Unpacked>, StepError> {
    let mut others = Vec::new();
    let mut links = Vec::new();
    let stored = store_beside(store, cancelled, |put| {
        tarball::read(input, &Options::default(), |entry, data| {
            let mode = if entry.mode & 0o100 != 0 { 0o755 } else { 0o644 };
            match &entry.kind {
                Kind::Dir => others.push((entry.path.clone(), 0o755, Node::Dir)),
                Kind::Symlink { target } => {
                    others.push((entry.path.clone(), 0o777, Node::Symlink { target: target.clone() }));
                }
                Kind::HardLink { to } => links.push((entry.path.clone(), to.clone())),
                Kind::File { size } if *size <= LARGEST_FILE => {
                    let mut content = Vec::with_capacity(*size as usize);
                    data.read_to_end(&mut content)?;
                    put((entry.path.clone(), mode), content)?;
                }
                _ => {
                    let path = String::from_utf8_lossy(&entry.path);
                    return Err(Refused(StepError::new(format!("{path} does not belong into a source"))));
                }
            }
            Ok(())
        })?;
        Ok(())
    });
    let stored = stored.map_err(|Refused(e)| e)?;
    let file = |((path, mode), digest, size)| (path, mode, Node::File { digest, size });
    let mut files: Vec<Unpacked> = stored.into_iter().map(file).collect();
    let linked: Vec<_> = {
        let known: BTreeMap<&[u8], _> =
            files.iter().map(|(path, mode, node)| (&path[..], (*mode, node))).collect();
        let one = |(path, to): (Vec<u8>, Vec<u8>)| {
            known.get(&to[..]).map(|(mode, node)| (path, *mode, (*node).clone()))
        };
        links.into_iter().filter_map(one).collect()
    };
    files.extend(linked);
    files.extend(others);
    Ok(files)
}

/// An error of the archive or of storing what is in it.
struct Refused(StepError);

impl From<StepError> for Refused {
    fn from(e: StepError) -> Refused {
        Refused(e)
    }
}

impl From<tarball::Error> for Refused {
    fn from(e: tarball::Error) -> Refused {
        Refused(StepError::new(format!("the source cannot be unpacked: {e}")))
    }
}

impl From<std::io::Error> for Refused {
    fn from(e: std::io::Error) -> Refused {
        Refused(e.into())
    }
}

/// Entries re-rooted at the one folder that all of them lie in, if there is one, as in every release tarball.
fn below_single_folder(entries: Vec<Unpacked>) -> Vec<Unpacked> {
    let first = |path: &[u8]| path.iter().position(|b| *b == b'/').unwrap_or(path.len());
    let Some((path, ..)) = entries.first() else { return entries };
    let top = path[..first(path)].to_vec();
    let folder = |(path, _, node): &Unpacked| {
        path[..first(path)] == top[..] && (path.len() > top.len() || matches!(node, Node::Dir))
    };
    if !entries.iter().all(folder) {
        return entries;
    }
    let cut = |(path, mode, node): Unpacked| Some((path.get(top.len() + 1..)?.to_vec(), mode, node));
    entries.into_iter().filter_map(cut).collect()
}

struct Counted<'a, R> {
    inner: R,
    read: &'a mut u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        *self.read += n as u64;
        Ok(n)
    }
}
