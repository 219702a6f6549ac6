//! The first step of `linux`: the source, from a tarball or a folder, as a tree.
//! Knows trees; of kernels only which files any source has at its top.

use std::collections::BTreeMap;

use mosbuild_cache::TreePath;
use mosbuild_engine::action::{Available, Builtin, BuiltinCx, Made, OutKind, StepError};

use crate::steps::tree_output;
use crate::unpack::unpack_source;

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
            _ => unpack_source(cx, "source")?,
        };
        let has = |name: &str| TreePath::new(name).is_ok_and(|path| tree.get(&path).is_some());
        if let Some(missing) = ["Kconfig", "Makefile", "kernel"].into_iter().find(|name| !has(name)) {
            return Err(StepError::new(format!("this is no kernel source: it has no {missing} at its top")));
        }
        let source = tree_output(cx.store, &tree)?;
        Ok(Made { outputs: BTreeMap::from([("source".to_owned(), source)]), ..Made::default() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use mosbuild_cache::{Node, Store};

    use super::*;
    use crate::steps::bench;

    fn run(store: &Store, dir: &Path, source: Available) -> Result<Made, StepError> {
        bench::run(&Unpack, (store, dir), [("source".to_owned(), source)], &BTreeMap::new())
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
