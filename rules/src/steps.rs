//! Short forms for the parts of steps: inputs, parameters, outputs that are in the store.
//! Knows no rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use mosbuild_cache::{CaptureOptions, Entry, Node, Output, OutputKind, Store, Tree, TreePath};
use mosbuild_engine::action::{Builtin, Command, Input, Place, Step, StepError, StepInput, Work};

/// An output of an earlier step of the same target.
pub fn made(step: usize, output: &str) -> Input {
    Input::Step { step, output: output.into() }
}

/// An input that a builtin reads.
pub fn read(name: &str, from: Input) -> StepInput {
    StepInput { name: name.into(), from, place: Place::Unplaced }
}

/// An input at a path of the sandbox, read-only.
pub fn at(name: &str, from: Input, path: &str) -> StepInput {
    StepInput { name: name.into(), from, place: Place::ReadOnly(path.into()) }
}

/// An input at a path of the sandbox that the step may change for itself.
pub fn writable(name: &str, from: Input, path: &str) -> StepInput {
    StepInput { name: name.into(), from, place: Place::Writable(path.into()) }
}

/// A step done by this program; `params` are in its key.
pub fn builtin(
    name: &str,
    work: impl Builtin + 'static,
    inputs: Vec<StepInput>,
    params: &[(&str, String)],
) -> Step {
    let params: BTreeMap<String, String> = params.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    Step {
        name: name.into(),
        work: Work::Builtin(Arc::new(work)),
        inputs,
        params,
        gates: Vec::new(),
        pin: None,
    }
}

/// A step done by this program that brings a source in; `id` is the source's in mosbuild.lock.
pub fn locked(
    name: &str,
    id: String,
    work: impl Builtin + 'static,
    inputs: Vec<StepInput>,
    params: &[(&str, String)],
) -> Step {
    Step { pin: Some(id), ..builtin(name, work, inputs, params) }
}

/// A step done by a command.
pub fn command(name: &str, command: Command, inputs: Vec<StepInput>) -> Step {
    Step {
        name: name.into(),
        work: Work::Command(command),
        inputs,
        params: BTreeMap::new(),
        gates: Vec::new(),
        pin: None,
    }
}

/// How a tree is captured that a host program left in scratch: its modes follow the user's umask, and may not.
pub fn fetched() -> CaptureOptions {
    CaptureOptions { normalise_modes: true, ..CaptureOptions::outputs() }
}

/// A file as an output.
pub fn file_output(store: &Store, bytes: &[u8]) -> Result<Output, StepError> {
    let digest = store.put_bytes(bytes)?;
    Ok(Output { kind: OutputKind::File { executable: false }, digest, size: bytes.len() as u64 })
}

/// A tree as an output.
pub fn tree_output(store: &Store, tree: &Tree) -> Result<Output, StepError> {
    let digest = store.put_tree(tree)?;
    Ok(Output { kind: OutputKind::Tree, digest, size: tree.file_bytes() })
}

/// A file entry 0644 of a tree, its content in the store.
pub fn file_entry(store: &Store, path: &str, bytes: &[u8]) -> Result<Entry, StepError> {
    let digest = store.put_bytes(bytes)?;
    entry(path.as_bytes(), 0o644, Node::File { digest, size: bytes.len() as u64 })
}

/// An entry of a tree, owned by 0:0.
pub fn entry(path: &[u8], mode: u32, node: Node) -> Result<Entry, StepError> {
    let path =
        TreePath::new(path).map_err(|e| StepError::new(format!("{}: {e}", String::from_utf8_lossy(path))))?;
    Ok(Entry::new(path, mode, node))
}

/// A tree of these entries and the folders above them.
pub fn tree_of(entries: Vec<Entry>) -> Result<Tree, StepError> {
    Tree::with_parents(entries).map_err(|e| StepError::new(e.to_string()))
}

/// Builtins run by themselves, for tests.
#[cfg(test)]
pub mod bench {
    use std::collections::BTreeMap;
    use std::path::Path;

    use mosbuild_cache::Store;
    use mosbuild_engine::action::{Available, Builtin, BuiltinCx, Made, StepError};
    use mosbuild_engine::fetch::{FetchOptions, Fetcher};
    use mosbuild_engine::item::NoServices;

    /// Runs it with these inputs and params; `scratch` is a folder that is there.
    pub fn run(
        builtin: &dyn Builtin,
        (store, scratch): (&Store, &Path),
        inputs: impl IntoIterator<Item = (String, Available)>,
        params: &BTreeMap<String, String>,
    ) -> Result<Made, StepError> {
        builtin.run(&BuiltinCx {
            inputs: inputs.into_iter().collect(),
            params,
            store,
            scratch: scratch.to_owned(),
            log: &|_| {},
            warn: &|_| {},
            cancelled: &|| false,
            pin: None,
            fetcher: &Fetcher::new(FetchOptions::default()),
            progress: &|_, _, _| {},
            services: &NoServices,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_fetched_does_not_show_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut trees = Vec::new();
        for (name, folder, file, program) in
            [("open", 0o775, 0o664, 0o775), ("usual", 0o755, 0o644, 0o755), ("closed", 0o700, 0o600, 0o700)]
        {
            let at = dir.path().join(name);
            std::fs::create_dir_all(at.join("src")).unwrap();
            for (path, mode) in [("src/lib.rs", file), ("build.sh", program)] {
                std::fs::write(at.join(path), path).unwrap();
                std::fs::set_permissions(at.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
            }
            std::fs::set_permissions(at.join("src"), std::fs::Permissions::from_mode(folder)).unwrap();
            trees.push(store.capture_dir(&at, fetched()).unwrap());
        }
        assert_eq!(trees[0], trees[1]);
        assert_eq!(trees[2], trees[1]);
        let modes: Vec<u32> = trees[1].iter().map(|entry| entry.mode).collect();
        assert_eq!(modes, [0o755, 0o755, 0o644]);
    }
}
