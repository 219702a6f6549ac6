//! The step that signs an image for Secure Boot. Knows which files it takes; the signature is in
//! formats/src/authenticode.rs.

use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::authenticode::{Error, Signer};

use crate::steps::file_output;

/// Inputs `image`, `certificate` and `key`; output `file`. The key is read where it lies: only its digest is in the step's
/// key, and it is in no store.
pub struct Sign;

impl Builtin for Sign {
    fn name(&self) -> &'static str {
        "uki-sign"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("file".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let refused = |e: Error| {
            let error = StepError::new(e.to_string());
            match e {
                Error::Encrypted => {
                    error.help("openssl rsa -in KEY -out OTHER asks for its passphrase, and writes it bare")
                }
                Error::Key(_) => error.help("firmware knows RSA: openssl genrsa -out KEY 2048 makes one"),
                Error::Pair => error.help("`sign` takes the certificate that belongs to `key`"),
                _ => error,
            }
        };
        let signer = Signer::new(&cx.bytes("key")?, &cx.bytes("certificate")?).map_err(refused)?;
        let signed = signer.sign(&cx.bytes("image")?).map_err(refused)?;
        Ok(Made { outputs: [("file".to_owned(), file_output(cx.store, &signed)?)].into(), ..Made::default() })
    }
}
