//! Which output of a result a lost blob belongs to. Knows nothing of what is done about it.

use mosbuild_cache::{ActionResult, Digest, Node, OutputKind, Store};

/// The output that needs the blob: the file itself, the encoded tree, or a file of the tree.
pub(super) fn output_with(store: &Store, result: &ActionResult, blob: Digest) -> Option<String> {
    let needs = |o: &mosbuild_cache::Output| {
        if o.digest == blob {
            return true;
        }
        match o.kind {
            OutputKind::File { .. } => false,
            // A tree that cannot be read any more is lost itself.
            OutputKind::Tree => store.get_tree(&o.digest).map_or(true, |tree| {
                tree.iter().any(|e| matches!(e.node, Node::File { digest, .. } if digest == blob))
            }),
        }
    };
    result.outputs.iter().find(|(_, o)| needs(o)).map(|(name, _)| name.clone())
}
