//! Signatures of packages and indexes: entries `.SIGN.<algorithm>.<key file>`, RSA PKCS#1 v1.5 over raw bytes.
//! Knows no key directory: keys are given, with the names under which signatures ask for them.

use std::io::{self, Read};

use rsa::pkcs8::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use tar::EntryType;

use super::{Digests, Error};

/// Smallest key accepted, in bits; Alpine's have 2048 and 4096.
const KEY_BITS_MIN: usize = 1024;

/// How a signature was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `RSA`, over SHA-1: what Alpine's own signatures are.
    Rsa,
    /// `RSA256`, over SHA-256.
    Rsa256,
    /// `RSA512`, over SHA-512.
    Rsa512,
    /// `DSA`, over SHA-1; of apk's early years, not verified here.
    Dsa,
}

impl Algorithm {
    /// As in the name of the entry.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Rsa => "RSA",
            Algorithm::Rsa256 => "RSA256",
            Algorithm::Rsa512 => "RSA512",
            Algorithm::Dsa => "DSA",
        }
    }
}

/// One signature, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// How it was made.
    pub algorithm: Algorithm,
    /// File name of the public key it asks for, as `alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub`.
    pub key: String,
    /// The signature itself.
    pub bytes: Vec<u8>,
}

/// A public key and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its file name, as signatures ask for it.
    pub name: String,
    public: RsaPublicKey,
}

impl Key {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// [`SignatureError::Key`] if it is anything else, no RSA key, or of fewer than 1024 or more than 4096 bits.
    pub fn from_pem(name: impl Into<String>, pem: &[u8]) -> Result<Key, SignatureError> {
        let name = name.into();
        let wrong = |name: &str, why: String| SignatureError::Key { key: name.to_string(), why };
        let text = std::str::from_utf8(pem).map_err(|_| wrong(&name, "it is not text".into()))?;
        if !text.contains("-----BEGIN PUBLIC KEY-----") {
            return Err(wrong(&name, "it has no line -----BEGIN PUBLIC KEY-----".into()));
        }
        let public = RsaPublicKey::from_public_key_pem(text.trim())
            .map_err(|e| wrong(&name, format!("no RSA key: {e}")))?;
        let bits = public.n().bits();
        if bits < KEY_BITS_MIN {
            return Err(wrong(
                &name,
                format!("it has {bits} bits, where at least {KEY_BITS_MIN} are wanted"),
            ));
        }
        Ok(Key { name, public })
    }
}

/// Why bytes are not taken as signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No signature at all.
    #[error("is not signed")]
    Unsigned,
    /// Signed, but by nobody who is trusted.
    #[error("is signed by {}, whose key is not among the trusted ones", names.join(" and by "))]
    UnknownKey {
        /// The keys asked for.
        names: Vec<String>,
    },
    /// The signature of a trusted key does not fit: the bytes were changed, or are damaged.
    #[error("has a wrong signature by {key}: its bytes are not those that were signed")]
    Wrong {
        /// The key.
        key: String,
    },
    /// A way of signing not verified here.
    #[error("is signed with {} by {key}, which is not supported; RSA, RSA256 and RSA512 are", algorithm.as_str())]
    Unsupported {
        /// The way.
        algorithm: Algorithm,
        /// The key asked for.
        key: String,
    },
    /// A key that cannot be used.
    #[error("key {key} cannot be used: {why}")]
    Key {
        /// Its name.
        key: String,
        /// Why.
        why: String,
    },
}

/// The key, as its place in `keys`, of the first signature that is right.
///
/// # Errors
/// If there is none: that of a trusted key that is wrong is told first, then an unsupported one of a trusted key, then
/// the names of unknown keys.
pub fn verify(signatures: &[Signature], signed: &Digests, keys: &[Key]) -> Result<usize, SignatureError> {
    if signatures.is_empty() {
        return Err(SignatureError::Unsigned);
    }
    let (mut wrong, mut unsupported, mut unknown) = (None, None, vec![]);
    for signature in signatures {
        let named: Vec<usize> = (0..keys.len()).filter(|at| keys[*at].name == signature.key).collect();
        let (scheme, digest): (_, &[u8]) = match signature.algorithm {
            Algorithm::Rsa => (Pkcs1v15Sign::new::<Sha1>(), &signed.sha1),
            Algorithm::Rsa256 => (Pkcs1v15Sign::new::<Sha256>(), &signed.sha256),
            Algorithm::Rsa512 => (Pkcs1v15Sign::new::<Sha512>(), &signed.sha512),
            algorithm @ Algorithm::Dsa => {
                let key = signature.key.clone();
                unsupported.get_or_insert(SignatureError::Unsupported { algorithm, key });
                continue;
            }
        };
        if named.is_empty() && !unknown.contains(&signature.key) {
            unknown.push(signature.key.clone());
        }
        for at in named {
            match keys[at].public.verify(scheme.clone(), digest, &signature.bytes) {
                Ok(()) => return Ok(at),
                Err(_) => wrong.get_or_insert(SignatureError::Wrong { key: signature.key.clone() }),
            };
        }
    }
    Err(wrong.or(unsupported).unwrap_or(SignatureError::UnknownKey { names: unknown }))
}

/// The signatures of a member; `None` if it is no signature member. Unknown algorithms are left out, as apk does.
pub(super) fn read_member(tar: &[u8], part: &'static str) -> Result<Option<Vec<Signature>>, Error> {
    let damaged = |e: io::Error| Error::Damaged { part, why: e.to_string() };
    let mut found = vec![];
    for (n, entry) in tar::Archive::new(tar).entries().map_err(damaged)?.enumerate() {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(rest) = name.strip_prefix(".SIGN.") else {
            if n == 0 {
                return Ok(None);
            }
            return Err(Error::Damaged { part, why: format!("has {name:?} among the signatures") });
        };
        if !matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Continuous) {
            return Err(Error::Damaged { part, why: format!("{name:?} is no file") });
        }
        let mut bytes = vec![];
        entry.read_to_end(&mut bytes).map_err(damaged)?;
        let algorithm = match rest.split_once('.') {
            Some(("RSA", _)) => Algorithm::Rsa,
            Some(("RSA256", _)) => Algorithm::Rsa256,
            Some(("RSA512", _)) => Algorithm::Rsa512,
            Some(("DSA", _)) => Algorithm::Dsa,
            _ => continue,
        };
        let key = rest[algorithm.as_str().len() + 1..].to_string();
        found.push(Signature { algorithm, key, bytes });
    }
    Ok(match tar.iter().all(|b| *b == 0) {
        true => None,
        false => Some(found),
    })
}
