//! Short forms for the parts of steps: inputs, parameters, outputs that are in the store.
//! Knows no rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use mosbuild_cache::{Entry, Node, Output, OutputKind, Store, Tree, TreePath};
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
    Step { name: name.into(), work: Work::Builtin(Arc::new(work)), inputs, params, gates: Vec::new() }
}

/// A step done by a command.
pub fn command(name: &str, command: Command, inputs: Vec<StepInput>) -> Step {
    Step {
        name: name.into(),
        work: Work::Command(command),
        inputs,
        params: BTreeMap::new(),
        gates: Vec::new(),
    }
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
