//! Proofs, one file each, named by key: what an action made when it ran twice, apart, and alike. Knows no action.
//! A damaged file is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::result::Output;
use crate::store::{Store, StoreError, at};

const MAGIC: &[u8; 8] = b"mosprf\0\x01";

/// What was found of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The action's key.
    pub key: Digest,
    /// What both runs made.
    pub outputs: BTreeMap<String, Output>,
    /// Facts that both runs told.
    pub facts: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub at: u64,
}

impl Store {
    fn proof_path(&self, key: &Digest) -> PathBuf {
        let hex = key.hex();
        self.root().join("proofs").join(&hex[..2]).join(hex)
    }

    /// The proof of a key, if there is one.
    pub fn get_proof(&self, key: &Digest) -> Option<Proof> {
        let bytes = fs::read(self.proof_path(key)).ok()?;
        let rest = bytes.strip_prefix(MAGIC)?;
        let (digest, body) = rest.split_at_checked(32)?;
        if Digest::of(body).0 != digest {
            return None;
        }
        postcard::from_bytes(body).ok().filter(|p: &Proof| p.key == *key)
    }

    /// The proof of a key in the store below, or in one below that.
    pub fn get_proof_below(&self, key: &Digest) -> Option<Proof> {
        let base = self.0.base.as_ref()?;
        base.get_proof(key).or_else(|| base.get_proof_below(key))
    }

    /// Keeps a proof.
    pub fn put_proof(&self, proof: &Proof) -> Result<(), StoreError> {
        let path = self.proof_path(&proof.key);
        let body = postcard::to_stdvec(proof)
            .map_err(|e| StoreError::Refused { path: path.clone(), what: e.to_string() })?;
        let bytes = [&MAGIC[..], &Digest::of(&body).0, &body].concat();
        let parent = path.parent().unwrap_or(&path);
        at(parent, fs::create_dir_all(parent))?;
        let temporary = self.temporary();
        at(&temporary, fs::write(&temporary, bytes))?;
        at(&path, fs::rename(&temporary, &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_proof_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = Digest::of(b"key");
        assert_eq!(store.get_proof(&key), None);
        let proof = Proof { key, outputs: BTreeMap::new(), facts: BTreeMap::new(), at: 7 };
        store.put_proof(&proof).unwrap();
        assert_eq!(store.get_proof(&key), Some(proof));
        let path = store.proof_path(&key);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.get_proof(&key), None);
    }
}
