//! Signatures of EFI programs, as Secure Boot checks them: Authenticode, with SHA-256 and RSA.
//! Knows where a PE file keeps its signatures; does not know sections (uki.rs), nor who is trusted.
//!
//! Equal images, keys and certificates give equal bytes: PKCS#1 v1.5 has no chance in it, and no time is written down.

use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{Any, ObjectIdentifier, OctetString, SetOfVec};
use der::{Decode, Encode, pem};
use object::LittleEndian as LE;
use object::pe::{self, ImageNtHeaders64};
use ring::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::attr::Attribute;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither PEM nor DER of a private RSA key.
    #[error("not a private RSA key in PEM or DER: {0}")]
    Key(String),
    /// A key behind a passphrase.
    #[error("the key is encrypted")]
    Encrypted,
    /// Neither PEM nor DER of a certificate.
    #[error("not a certificate in PEM or DER: {0}")]
    Certificate(String),
    /// Key and certificate are not of one pair.
    #[error("the certificate is not that of the key")]
    Pair,
    /// No PE file of 64 bits, or a damaged one.
    #[error("not an EFI program of 64 bits: {0}")]
    Image(&'static str),
    /// There is a signature already.
    #[error("the image is signed already")]
    Signed,
    /// What cannot be written down, or computed.
    #[error("the signature cannot be made: {0}")]
    Failed(String),
}

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Microsoft's: the content is a digest of a program (SpcIndirectDataContent).
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// What comes before the digest in it: that it is one of a PE image (SpcPeImageData, with an empty file name), by SHA-256.
const OF_AN_IMAGE: [u8; 44] = [
    0x30, 0x17, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f, 0x30, 0x09, 0x03,
    0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48,
    0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20,
];

/// A key with its certificate.
pub struct Signer {
    key: RsaKeyPair,
    certificate: Certificate,
}

impl Signer {
    /// Of a private key (PKCS#8 or PKCS#1) and a certificate, each in PEM or DER.
    ///
    /// # Errors
    /// What is neither, a key that is encrypted, and a certificate of another key.
    pub fn new(key: &[u8], certificate: &[u8]) -> Result<Signer, Error> {
        let refused = |e: ring::error::KeyRejected| Error::Key(e.to_string());
        let key = match pem::decode_vec(key) {
            Ok(("PRIVATE KEY", der)) => RsaKeyPair::from_pkcs8(&der).map_err(refused)?,
            Ok(("RSA PRIVATE KEY", der)) => RsaKeyPair::from_der(&der).map_err(refused)?,
            Ok(("ENCRYPTED PRIVATE KEY", _)) => return Err(Error::Encrypted),
            Ok((label, _)) => return Err(Error::Key(format!("it is a {label}"))),
            // PKCS#1 of older programs says in its head that it is encrypted, which this reader takes for a fault.
            Err(_) if key.starts_with(b"-----BEGIN RSA PRIVATE KEY") => return Err(Error::Encrypted),
            Err(_) => RsaKeyPair::from_pkcs8(key).or_else(|_| RsaKeyPair::from_der(key)).map_err(refused)?,
        };
        let unread = |e: der::Error| Error::Certificate(e.to_string());
        let certificate = match pem::decode_vec(certificate) {
            Ok(("CERTIFICATE", der)) => Certificate::from_der(&der).map_err(unread)?,
            Ok((label, _)) => return Err(Error::Certificate(format!("it is a {label}"))),
            Err(_) => Certificate::from_der(certificate).map_err(unread)?,
        };
        let public = &certificate.tbs_certificate.subject_public_key_info.subject_public_key;
        if public.as_bytes() != Some(key.public_key().as_ref()) {
            return Err(Error::Pair);
        }
        Ok(Signer { key, certificate })
    }

    /// The image with a signature behind it.
    ///
    /// # Errors
    /// What is no EFI program, or has a signature.
    pub fn sign(&self, image: &[u8]) -> Result<Vec<u8>, Error> {
        let fields = Fields::of(image)?;
        let mut image = image.to_vec();
        image.resize(image.len().next_multiple_of(8), 0);
        let signature = self.signature(&fields.digest(&image))?;
        // WIN_CERTIFICATE: length, revision 2.0, PKCS#7; the next one would begin on a multiple of eight.
        let length = 8 + signature.len();
        let padded = length.next_multiple_of(8);
        let place = image.len();
        let (Ok(start), Ok(size), Ok(length)) =
            (u32::try_from(place), u32::try_from(padded), u32::try_from(length))
        else {
            return Err(Error::Image("it is too large"));
        };
        image.extend(length.to_le_bytes());
        image.extend([0x00, 0x02, 0x02, 0x00]);
        image.extend(signature);
        image.resize(place + padded, 0);
        image[fields.directory..fields.directory + 4].copy_from_slice(&start.to_le_bytes());
        image[fields.directory + 4..fields.directory + 8].copy_from_slice(&size.to_le_bytes());
        Ok(image)
    }

    fn signature(&self, digest: &[u8]) -> Result<Vec<u8>, Error> {
        self.signed_data(digest).map_err(|e| Error::Failed(e.to_string()))
    }

    fn signed_data(&self, digest: &[u8]) -> der::Result<Vec<u8>> {
        let content = [&OF_AN_IMAGE[..], digest].concat();
        let sha256 = AlgorithmIdentifierOwned { oid: SHA256, parameters: Some(Any::null()) };
        let attribute = |oid, value: Any| -> der::Result<Attribute> {
            Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? })
        };
        // Of the content without its tag and length.
        let message_digest = OctetString::new(Sha256::digest(&content).to_vec())?;
        let signed_attrs = SetOfVec::try_from(vec![
            attribute(CONTENT_TYPE, Any::encode_from(&INDIRECT_DATA)?)?,
            attribute(MESSAGE_DIGEST, Any::encode_from(&message_digest)?)?,
        ])?;
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        // The random numbers are for blinding: they do not show.
        self.key
            .sign(&RSA_PKCS1_SHA256, &random, &signed_attrs.to_der()?, &mut signature)
            .map_err(|_| der::ErrorKind::Failed)?;
        let of = &self.certificate.tbs_certificate;
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: of.issuer.clone(),
                serial_number: of.serial_number.clone(),
            }),
            digest_alg: sha256.clone(),
            signed_attrs: Some(signed_attrs),
            signature_algorithm: AlgorithmIdentifierOwned { oid: RSA, parameters: Some(Any::null()) },
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        };
        let certificates = vec![CertificateChoices::Certificate(self.certificate.clone())];
        let signed = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![sha256])?,
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: INDIRECT_DATA,
                econtent: Some(Any::new(der::Tag::Sequence, content)?),
            },
            certificates: Some(SetOfVec::try_from(certificates)?.into()),
            crls: None,
            signer_infos: SetOfVec::try_from(vec![signer])?.into(),
        };
        ContentInfo { content_type: SIGNED_DATA, content: Any::encode_from(&signed)? }.to_der()
    }
}

/// Where the parts of a PE file are that no signature covers.
struct Fields {
    checksum: usize,
    directory: usize,
}

impl Fields {
    fn of(image: &[u8]) -> Result<Fields, Error> {
        let dos =
            object::from_bytes::<pe::ImageDosHeader>(image).map_err(|()| Error::Image("it is too short"))?.0;
        let at = dos.e_lfanew.get(LE) as usize;
        let rest = image.get(at..).ok_or(Error::Image("its header lies behind its end"))?;
        let (headers, _) = object::from_bytes::<ImageNtHeaders64>(rest)
            .map_err(|()| Error::Image("its header is cut off"))?;
        let optional = &headers.optional_header;
        if dos.e_magic.get(LE) != pe::IMAGE_DOS_SIGNATURE
            || headers.signature.get(LE) != pe::IMAGE_NT_SIGNATURE
            || optional.magic.get(LE) != pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC
            || optional.number_of_rva_and_sizes.get(LE) as usize <= pe::IMAGE_DIRECTORY_ENTRY_SECURITY
        {
            return Err(Error::Image("it has no header of one"));
        }
        let directory = at + size_of::<ImageNtHeaders64>() + 8 * pe::IMAGE_DIRECTORY_ENTRY_SECURITY;
        match image.get(directory..directory + 8) {
            Some([0, 0, 0, 0, 0, 0, 0, 0]) => {}
            Some(_) => return Err(Error::Signed),
            None => return Err(Error::Image("its header is cut off")),
        }
        // Behind signature, file header, and 64 bytes of the optional header.
        Ok(Fields { checksum: at + 4 + 20 + 64, directory })
    }

    /// Of all but checksum and the place of signatures. Sections follow each other without gaps, so that their order is the
    /// file's.
    fn digest(&self, image: &[u8]) -> Vec<u8> {
        let mut hasher = Sha256::new();
        hasher.update(&image[..self.checksum]);
        hasher.update(&image[self.checksum + 4..self.directory]);
        hasher.update(&image[self.directory + 8..]);
        hasher.finalize().to_vec()
    }
}
