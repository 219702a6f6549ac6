//! Results of actions, one file each, named by key. A damaged file is a miss. Knows no action.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::store::{Store, StoreError, at};

const MAGIC: &[u8; 8] = b"mosres\0\x01";

/// What kind of thing an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OutputKind {
    /// A file: its blob.
    File {
        /// Its execute bits.
        executable: bool,
    },
    /// A tree: the blob of its encoding.
    Tree,
}

/// An output of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// File or tree.
    pub kind: OutputKind,
    /// The blob.
    pub digest: Digest,
    /// Bytes: of the file, or of all files of the tree.
    pub size: u64,
}

/// What an action made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    /// The action's key.
    pub key: Digest,
    /// Outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// Facts by name.
    pub facts: BTreeMap<String, String>,
    /// Blob of its log; none if it said nothing.
    pub log: Option<Digest>,
    /// Remarks worth showing again.
    pub notes: Vec<String>,
    /// Whether it ran in a sandbox.
    pub sandboxed: bool,
    /// Wall milliseconds that it ran.
    pub millis: u64,
    /// The run that made it.
    pub run: String,
}

impl Store {
    fn result_path(&self, key: &Digest) -> PathBuf {
        let hex = key.hex();
        self.root().join("results").join(&hex[..2]).join(hex)
    }

    /// The result of a key. A file that is damaged, torn or of another version is removed and is a miss.
    pub fn get_result(&self, key: &Digest) -> Result<Option<ActionResult>, StoreError> {
        let path = self.result_path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let decoded = decode(&bytes).filter(|r| r.key == *key);
        if decoded.is_none() {
            self.forget_result(key);
        }
        Ok(decoded)
    }

    /// Stores a result; the blobs that it names must be stored already.
    pub fn put_result(&self, result: &ActionResult) -> Result<(), StoreError> {
        let path = self.result_path(&result.key);
        let body = postcard::to_stdvec(result)
            .map_err(|e| StoreError::Refused { path: path.clone(), what: e.to_string() })?;
        let bytes = [&MAGIC[..], &Digest::of(&body).0, &body].concat();
        let temporary = self.temporary();
        at(&temporary, fs::write(&temporary, bytes))?;
        if let Err(e) = fs::rename(&temporary, &path) {
            if e.kind() != io::ErrorKind::NotFound {
                return Err(StoreError::Io { path, source: e });
            }
            let parent = path.parent().unwrap_or(&path);
            at(parent, fs::create_dir_all(parent))?;
            at(&path, fs::rename(&temporary, &path))?;
        }
        Ok(())
    }

    /// Drops a result, because a blob that it names is lost.
    pub fn forget_result(&self, key: &Digest) {
        // One that is not there is as good as dropped.
        let _ = fs::remove_file(self.result_path(key));
    }
}

fn decode(bytes: &[u8]) -> Option<ActionResult> {
    let (sum, body) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if Digest::of(body).0 != sum {
        return None;
    }
    postcard::from_bytes(body).ok()
}
