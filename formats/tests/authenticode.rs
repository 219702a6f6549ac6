//! Signatures of EFI programs, made here and checked by sbverify; keys are made by openssl.

use std::path::Path;
use std::process::Command;

use mosbuild_formats::authenticode::{Error, Signer};
use mosbuild_formats::uki;

fn run(dir: &Path, line: &str) -> (bool, String) {
    let out = Command::new("sh").args(["-euc", line]).current_dir(dir).output().unwrap();
    let text = [&out.stdout[..], &out.stderr[..]].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A folder with two keys and certificates, in several forms.
fn keys() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (made, said) = run(
        dir.path(),
        "for n in one two; do \
           openssl req -x509 -newkey rsa:2048 -nodes -days 10 -subj /CN=$n -keyout $n.key -out $n.crt; \
         done; \
         openssl rsa -in one.key -traditional -out one.pkcs1; openssl x509 -in one.crt -outform DER -out one.cer; \
         openssl pkcs8 -topk8 -nocrypt -in one.key -outform DER -out one.der; \
         openssl pkcs8 -topk8 -in one.key -passout pass:x -out one.locked; \
         openssl rsa -in one.key -traditional -aes128 -passout pass:x -out one.locked1; \
         openssl ecparam -name prime256v1 -genkey -noout -out ec.key",
    );
    assert!(made, "{said}");
    dir
}

#[test]
fn signatures_are_what_sbverify_takes_and_come_out_equal() {
    let dir = keys();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
    let stub =
        std::fs::read(stub).unwrap_or_else(|e| panic!("{stub}: {e}; apt-get install systemd-boot-efi"));
    let image = uki::write(&stub, &[(".osrel", b"ID=x\n"), (".initrd", &[7; 5001])]).unwrap();
    let signed = Signer::new(&read("one.key"), &read("one.crt")).unwrap().sign(&image).unwrap();
    for (key, certificate) in [("one.pkcs1", "one.cer"), ("one.der", "one.crt")] {
        assert_eq!(
            Signer::new(&read(key), &read(certificate)).unwrap().sign(&image).unwrap(),
            signed,
            "{key}"
        );
    }
    let place = dir.path();
    std::fs::write(place.join("signed.efi"), &signed).unwrap();
    let (good, said) = run(place, "sbverify --cert one.crt signed.efi && sbverify --list signed.efi");
    assert!(good && said.contains("Signature verification OK") && said.contains("/CN=one"), "{said}");
    assert!(!run(place, "sbverify --cert two.crt signed.efi").0);
    // What firmware loads is covered, byte by byte.
    for at in [0x200, image.len() / 2, image.len() - 1] {
        let mut other = signed.clone();
        other[at] ^= 1;
        std::fs::write(place.join("other.efi"), &other).unwrap();
        assert!(!run(place, "sbverify --cert one.crt other.efi").0, "{at}");
    }
    // sbsign finds the same digest: without its signature it is the image again.
    let (good, said) = run(place, "cp signed.efi bare.efi && sbattach --remove bare.efi");
    assert!(good, "{said}");
    assert_eq!(std::fs::read(place.join("bare.efi")).unwrap().len(), image.len());
    assert!(matches!(
        Signer::new(&read("one.key"), &read("one.crt")).unwrap().sign(&signed),
        Err(Error::Signed)
    ));
}

#[test]
fn what_is_no_pair_of_key_and_certificate_is_refused() {
    let dir = keys();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let text = |key: &str, certificate: &str| match Signer::new(&read(key), &read(certificate)) {
        Ok(_) => panic!("{key} and {certificate}"),
        Err(e) => e.to_string(),
    };
    assert_eq!(text("one.key", "two.crt"), "the certificate is not that of the key");
    assert_eq!(text("one.locked", "one.crt"), "the key is encrypted");
    assert_eq!(text("one.locked1", "one.crt"), "the key is encrypted");
    assert_eq!(text("one.crt", "one.crt"), "not a private RSA key in PEM or DER: it is a CERTIFICATE");
    assert!(text("ec.key", "one.crt").starts_with("not a private RSA key in PEM or DER: "));
    assert_eq!(text("one.key", "one.key"), "not a certificate in PEM or DER: it is a PRIVATE KEY");
    let signer = Signer::new(&read("one.key"), &read("one.crt")).unwrap();
    for image in [&b""[..], b"MZ", &[0; 4096]] {
        assert!(matches!(signer.sign(image), Err(Error::Image(_))));
    }
}
