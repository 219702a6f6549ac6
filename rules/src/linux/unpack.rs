//! The first step of `linux`: the source, from a tarball or a folder, as a tree.
//! Knows archives and trees; of kernels only which files any source has at its top.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mosbuild_cache::{Node, Store, TreePath};
use mosbuild_engine::action::{Available, Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::tarball::{self, Kind, Options};

use crate::steps::{entry, tree_of, tree_output};

/// The largest file that is taken for kernel source.
const LARGEST_FILE: u64 = 256 << 20;
/// Files are stored in batches of this many bytes, beside the decompression.
const BATCH: usize = 8 << 20;
/// Batches that may wait; beyond it the decompressing thread stores them itself.
const WAITING: usize = 16;

/// Input `source`, a tarball (plain, gzip, xz, zstd) or a tree; output `source`.
pub struct Unpack;

impl Builtin for Unpack {
    fn name(&self) -> &'static str {
        "linux-unpack"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("source".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = match cx.inputs.get("source") {
            Some(Available::Tree { .. }) => cx.tree("source")?.as_ref().clone(),
            _ => {
                let mut read = 0;
                let entries = cx.stream("source", |input| {
                    let counted = Counted { inner: input, read: &mut read };
                    unpack(cx.store, counted, cx.cancelled)
                })?;
                (cx.log)(&format!("unpacked {} entries from {read} bytes", entries.len()));
                let entries = below_single_folder(entries).into_iter();
                tree_of(
                    entries.map(|(path, mode, node)| entry(&path, mode, node)).collect::<Result<_, _>>()?,
                )?
            }
        };
        let has = |name: &str| TreePath::new(name).is_ok_and(|path| tree.get(&path).is_some());
        if let Some(missing) = ["Kconfig", "Makefile", "kernel"].into_iter().find(|name| !has(name)) {
            return Err(StepError::new(format!("this is no kernel source: it has no {missing} at its top")));
        }
        let source = tree_output(cx.store, &tree)?;
        Ok(Made { outputs: BTreeMap::from([("source".to_owned(), source)]), ..Made::default() })
    }
}

/// Path, mode and kind of an entry whose content is in the store.
type Unpacked = (Vec<u8>, u32, Node);
/// Path, mode and content of files that are not stored yet.
type Batch = Vec<(Vec<u8>, u32, Vec<u8>)>;

/// The entries of an archive at their own paths, content in the store.
fn unpack<R: Read>(
    store: &Store,
    input: R,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Unpacked>, StepError> {
    let done = Mutex::new(Ok::<Vec<Unpacked>, StepError>(Vec::new()));
    let waiting = AtomicUsize::new(0);
    let store_batch = |batch: Batch| {
        let stored: Result<Vec<_>, StepError> = batch
            .into_iter()
            .map(|(path, mode, bytes)| {
                let digest = store.put_bytes(&bytes)?;
                Ok((path, mode, Node::File { digest, size: bytes.len() as u64 }))
            })
            .collect();
        if let Ok(mut done) = done.lock() {
            match (&mut *done, stored) {
                (Ok(all), Ok(stored)) => all.extend(stored),
                (Ok(_), Err(e)) => *done = Err(e),
                (Err(_), _) => {}
            }
        }
    };
    let store_batch = &store_batch;
    let waiting = &waiting;
    let mut others = Vec::new();
    let mut links = Vec::new();
    let read: Result<(), Refused> = rayon::in_place_scope(|scope| {
        let mut batch = Batch::new();
        let mut bytes = 0;
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
                    bytes += content.len();
                    batch.push((entry.path.clone(), mode, content));
                }
                _ => {
                    let path = String::from_utf8_lossy(&entry.path);
                    return Err(Refused(StepError::new(format!(
                        "{path} does not belong into a kernel source"
                    ))));
                }
            }
            if bytes >= BATCH || batch.len() >= 4096 {
                if cancelled() {
                    return Err(Refused(StepError::new("it was interrupted")));
                }
                bytes = 0;
                let full = std::mem::take(&mut batch);
                if waiting.load(Ordering::Relaxed) < WAITING {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    scope.spawn(move |_| {
                        store_batch(full);
                        waiting.fetch_sub(1, Ordering::Relaxed);
                    });
                } else {
                    store_batch(full);
                }
            }
            Ok(())
        })?;
        store_batch(batch);
        Ok(())
    });
    read.map_err(|Refused(e)| e)?;
    let mut files = done.into_inner().unwrap_or_else(|_| Err(StepError::new("a storing thread failed")))?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn run(store: &Store, dir: &Path, source: Available) -> Result<Made, StepError> {
        let cx = BuiltinCx {
            inputs: BTreeMap::from([("source".to_owned(), source)]),
            params: &BTreeMap::new(),
            store,
            scratch: dir.to_owned(),
            log: &|_| {},
            cancelled: &|| false,
        };
        Unpack.run(&cx)
    }

    fn tarball(dir: &Path, top: &str) -> Available {
        let script = format!(
            "mkdir -p {top}/kernel && cd {top} && echo m > Makefile && echo k > Kconfig && echo c > kernel/a.c && \
             ln kernel/a.c kernel/b.c && ln -s a.c kernel/c.c && echo s > kernel/run && chmod 755 kernel/run && \
             chmod 600 Kconfig && cd - > /dev/null && tar -cJf out.tar.xz {}",
            top.split('/').next().unwrap()
        );
        assert!(Command::new("sh").args(["-euc", &script]).current_dir(dir).status().unwrap().success());
        let path = dir.join("out.tar.xz");
        let (digest, size) = mosbuild_cache::Digest::of_file(&path).unwrap();
        Available::File { digest, size, executable: false, path: Some(path) }
    }

    #[test]
    fn a_tarball_becomes_a_tree_without_its_top_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let source = tarball(dir.path(), "linux-6.12");
        let made = run(&store, dir.path(), source).unwrap();
        let tree = store.get_tree(&made.outputs["source"].digest).unwrap();
        let shown: Vec<String> =
            tree.iter().map(|e| format!("{} {:o} {}", e.path, e.mode, e.node.kind())).collect();
        assert_eq!(
            shown,
            [
                "Kconfig 644 file",
                "Makefile 644 file",
                "kernel 755 directory",
                "kernel/a.c 644 file",
                "kernel/b.c 644 file",
                "kernel/c.c 777 symlink",
                "kernel/run 755 file",
            ]
        );
        let content = |path: &str| match &tree.get(&TreePath::new(path).unwrap()).unwrap().node {
            Node::File { digest, .. } => store.read(digest).unwrap(),
            node => panic!("{path} is a {}", node.kind()),
        };
        assert_eq!((content("kernel/a.c"), content("kernel/b.c")), (b"c\n".to_vec(), b"c\n".to_vec()));
    }

    #[test]
    fn what_is_no_kernel_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        // Two levels deep: only the outer folder is cut off.
        let source = tarball(dir.path(), "a/b");
        let error = run(&store, dir.path(), source).err().unwrap();
        assert_eq!(error.message, "this is no kernel source: it has no Kconfig at its top");
        let path = dir.path().join("text");
        std::fs::write(&path, "not a tarball").unwrap();
        let (digest, size) = mosbuild_cache::Digest::of_file(&path).unwrap();
        let source = Available::File { digest, size, executable: false, path: Some(path) };
        let error = run(&store, dir.path(), source).err().unwrap();
        assert!(error.message.starts_with("the source cannot be unpacked: tar"), "{}", error.message);
    }
}
