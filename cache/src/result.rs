//! Results of actions, one file each, named by key. A damaged file is a miss. Knows no action.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::store::{Store, StoreError, at};

const MAGIC: &[u8; 8] = b"mosres\0\x02";
/// Results without [`ActionResult::local`].
const MAGIC_1: &[u8; 8] = b"mosres\0\x01";

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
    /// Whether something of a working copy is in it that stood for a source (`--override`): it never leaves this
    /// machine. Last, since results of version 1 end before it.
    pub local: bool,
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

    /// The result of a key in the store below, or in one below that, if there is one. Its blobs are found here.
    pub fn lent_result(&self, key: &Digest) -> Result<Option<ActionResult>, StoreError> {
        let Some(base) = &self.0.base else { return Ok(None) };
        match base.get_result(key)? {
            Some(result) => Ok(Some(result)),
            None => base.lent_result(key),
        }
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
    let (rest, first) = match bytes.strip_prefix(MAGIC) {
        Some(rest) => (rest, false),
        None => (bytes.strip_prefix(MAGIC_1)?, true),
    };
    let (sum, body) = rest.split_at_checked(32)?;
    if Digest::of(body).0 != sum {
        return None;
    }
    match first {
        // `false` as postcard writes it.
        true => postcard::from_bytes(&[body, &[0]].concat()).ok(),
        false => postcard::from_bytes(body).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_first_version_are_read() {
        let result = ActionResult {
            key: Digest::of(b"key"),
            outputs: BTreeMap::new(),
            facts: [("version".to_owned(), "1".to_owned())].into(),
            log: None,
            notes: vec!["a remark".into()],
            sandboxed: true,
            millis: 300,
            run: "run".into(),
            local: false,
        };
        let whole = postcard::to_stdvec(&result).unwrap();
        let (body, last) = whole.split_at(whole.len() - 1);
        assert_eq!(last, [0]);
        let first = [&MAGIC_1[..], &Digest::of(body).0, body].concat();
        assert_eq!(decode(&first), Some(result.clone()));
        let second = [&MAGIC[..], &Digest::of(&whole).0, &whole].concat();
        assert_eq!(decode(&second), Some(result));
        assert_eq!(decode(&[&MAGIC[..], &Digest::of(body).0, body].concat()), None);
    }
}
