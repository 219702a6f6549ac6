//! Content-addressed storage: digests, trees, the store of blobs and results, and a workspace's index.
//! Knows no rule, no scheduler and no terminal; blobs and keys have no meaning here.

#![forbid(unsafe_code)]

mod capture;
mod digest;
mod lock;
mod materialise;
mod placing;
mod proof;
mod remove;
mod result;
mod scratch;
mod scratch_root;
mod stat_cache;
mod state;
mod store;
mod tree;
mod tree_ops;

pub use capture::{CaptureOptions, OwnerOf};
pub use digest::{BadDigest, Digest, Hasher};
pub use lock::{KeyLock, WorkspaceLock};
pub use materialise::Materialise;
pub use placing::{MTIME, Place, mtime};
pub use proof::Proof;
pub use result::{ActionResult, Output, OutputKind};
pub use scratch::Scratch;
pub use stat_cache::{FileMeta, StatCache};
pub use state::State;
pub use store::{BlobError, Ingest, Store, StoreError};
pub use tree::{Entry, Node, Tree, TreeError, TreePath};
pub use tree_ops::{Change, ChangeKind, Clash, Merged, Override, diff, merge};
