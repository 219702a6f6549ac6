//! Blocks of an flist: compressed by snappy (raw, no framing), sealed by AES-256-GCM with the hash of the plain bytes as key
//! and its first twelve bytes as nonce, named by the hash of the result. Knows no file and no store.
//!
//! Key and nonce depend on the content alone, so a pair is never used for two contents.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{BLOCK_SIZE, BlockRef, Hash, hex};

/// Why a block is not what the flist says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Other bytes than those that are named.
    #[error("block {0}: its bytes have another hash: it is damaged, or another one")]
    Id(String),
    /// The key does not open it.
    #[error("block {0}: its key does not open it")]
    Key(String),
    /// What was sealed is no snappy, or more than a block.
    #[error("block {id}: {why}")]
    Packed {
        /// Its name.
        id: String,
        /// What is wrong.
        why: String,
    },
    /// More plain bytes than a block has.
    #[error("a block has at most {BLOCK_SIZE} bytes, not {0}")]
    TooLarge(usize),
}

/// A block ready for a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its names.
    pub block: BlockRef,
    /// What a store keeps.
    pub bytes: Vec<u8>,
}

/// BLAKE2b-256.
pub fn hash(bytes: &[u8]) -> Hash {
    Blake2b::<U32>::digest(bytes).into()
}

fn cipher(key: &Hash) -> Option<(LessSafeKey, Nonce)> {
    let nonce = Nonce::try_assume_unique_for_key(&key[..NONCE_LEN]).ok()?;
    Some((LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?), nonce))
}

/// Makes a block of at most [`BLOCK_SIZE`] bytes.
pub fn seal(plain: &[u8]) -> Result<Sealed, Error> {
    if plain.len() > BLOCK_SIZE {
        return Err(Error::TooLarge(plain.len()));
    }
    let key = hash(plain);
    let packed = |why: String| Error::Packed { id: hex(&key), why };
    let mut bytes = snap::raw::Encoder::new().compress_vec(plain).map_err(|e| packed(e.to_string()))?;
    let (cipher, nonce) = cipher(&key).ok_or_else(|| packed("the cipher refuses the key".into()))?;
    cipher
        .seal_in_place_append_tag(nonce, Aad::empty(), &mut bytes)
        .map_err(|_| packed("the cipher refuses the bytes".into()))?;
    Ok(Sealed { block: BlockRef { id: hash(&bytes), key }, bytes })
}

/// The plain bytes of a stored block; name, seal, length and content are checked.
pub fn open(block: &BlockRef, mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    if hash(&bytes) != block.id {
        return Err(Error::Id(hex(&block.id)));
    }
    let no_key = || Error::Key(hex(&block.id));
    let (cipher, nonce) = cipher(&block.key).ok_or_else(no_key)?;
    let packed = &*cipher.open_in_place(nonce, Aad::empty(), &mut bytes).map_err(|_| no_key())?;
    let wrong = |why: String| Error::Packed { id: hex(&block.id), why };
    let length = snap::raw::decompress_len(packed).map_err(|e| wrong(e.to_string()))?;
    if length > BLOCK_SIZE {
        return Err(wrong(format!(
            "it says that it expands to {length} bytes; a block has at most {BLOCK_SIZE}"
        )));
    }
    let plain = snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| wrong(e.to_string()))?;
    if hash(&plain) != block.key {
        return Err(wrong("what is in it is not what its key stands for".into()));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(plain in prop::collection::vec(any::<u8>(), 0..4096), repeat in 1usize..100) {
            let plain = plain.repeat(repeat);
            let sealed = seal(&plain).unwrap();
            prop_assert_eq!(&seal(&plain).unwrap(), &sealed);
            prop_assert_eq!(open(&sealed.block, sealed.bytes).unwrap(), plain);
        }

        #[test]
        fn a_changed_byte_is_found(plain in prop::collection::vec(any::<u8>(), 0..999), at: prop::sample::Index, by in 1u8..) {
            let mut sealed = seal(&plain).unwrap();
            let at = at.index(sealed.bytes.len());
            sealed.bytes[at] ^= by;
            prop_assert_eq!(open(&sealed.block, sealed.bytes.clone()), Err(Error::Id(hex(&sealed.block.id))));
            // Named anew, the seal is broken.
            let block = BlockRef { id: hash(&sealed.bytes), key: sealed.block.key };
            prop_assert_eq!(open(&block, sealed.bytes), Err(Error::Key(hex(&block.id))));
        }
    }

    /// A block whose seal is right and whose inside is not.
    fn forged(inside: &[u8], key: Hash) -> Sealed {
        let mut bytes = inside.to_vec();
        let (cipher, nonce) = cipher(&key).unwrap();
        cipher.seal_in_place_append_tag(nonce, Aad::empty(), &mut bytes).unwrap();
        Sealed { block: BlockRef { id: hash(&bytes), key }, bytes }
    }

    #[test]
    fn forged_blocks_are_refused() {
        let fails = |inside: &[u8], what: &str| {
            let forged = forged(inside, hash(b"x"));
            let error = open(&forged.block, forged.bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        // A length of 4 GiB, none at all, and other content than the key's.
        fails(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], "expands to 4294967295 bytes");
        fails(&[], "corrupt input");
        fails(&snap::raw::Encoder::new().compress_vec(b"y").unwrap(), "not what its key stands for");
        assert_eq!(seal(&vec![0; BLOCK_SIZE + 1]), Err(Error::TooLarge(BLOCK_SIZE + 1)));
    }
}
