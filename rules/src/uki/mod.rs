//! Rule `uki`: kernel, initramfs and command line in one EFI program, over a stub. Compiles nothing.
//! Knows the fields and the steps; the file's layout is in formats/src/uki.rs.
//!
//! | step | in | does |
//! |---|---|---|
//! | preflight | .config of a `linux` | refuses a configuration that could not boot so; gates the compile |
//! | assemble | stub, kernel, archives | writes the image |
//! | sign | the image, key and certificate | signs it, where `sign` asks for it |

mod assemble;
mod sign;

use std::collections::BTreeMap;

use mosbuild_engine::action::Input;
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, OutputKind, RefKind, RefUse, RuleFacts,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arch::{self, Arch, host_file};
use crate::one_or_many::OneOrMany;
use crate::preflight::Preflight;
use crate::source::{PathSource, Source};
use crate::steps::{builtin, made, read};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// A unified kernel image.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uki {
    /// The kernel: a target of rule linux or kernel, or any file that is an EFI program.
    #[serde(default)]
    linux: Option<String>,
    /// The same by another name.
    #[serde(default)]
    kernel: Option<String>,
    /// Archives, one behind the other; none for a kernel that has its own inside.
    #[serde(default)]
    initramfs: OneOrMany,
    /// Kernel parameters.
    #[serde(default)]
    cmdline: Option<String>,
    /// What the image calls itself: a file in the form of os-release, or its fields. The project's name if absent.
    #[serde(default)]
    os_release: Option<OsRelease>,
    /// The EFI program that starts the kernel: a workspace path, a reference, or a source; systemd's, as Debian's
    /// systemd-boot-efi brings it, if absent.
    #[serde(default)]
    stub: Option<From>,
    /// Signs the image for Secure Boot.
    #[serde(default)]
    sign: Option<Keys>,
}

/// With what an image is signed: paths in the workspace, or absolute ones, of PEM or DER.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The private RSA key, without a passphrase. It never enters the store.
    key: String,
    /// Its certificate.
    certificate: String,
}

/// The text of `.osrel`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OsRelease {
    /// A workspace path, or a reference.
    File(String),
    /// Names and values.
    Fields(BTreeMap<String, String>),
}

/// Where a file comes from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum From {
    /// A workspace path, or a reference: to a file, or a tree that holds one file.
    Text(String),
    /// A source.
    Source(Source),
}

impl Uki {
    fn kernel(&self) -> Option<&String> {
        self.linux.as_ref().or(self.kernel.as_ref())
    }

    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: &str| {
            errors.push(FieldError { field, message, help: Some(help.to_owned()) });
        };
        match (&self.linux, &self.kernel) {
            (None, None) => fault(
                FieldPath::new(),
                "uki needs a kernel".into(),
                "`linux: TARGET`, of rule linux or kernel, or another file",
            ),
            (Some(_), Some(_)) => {
                fault(field!["kernel"], "`linux` names the kernel already".into(), "leave one of them out");
            }
            _ => {}
        }
        let line = |text: &str| !text.contains(|c: char| c.is_control());
        if self.cmdline.as_deref().is_some_and(|text| !line(text)) {
            fault(field!["cmdline"], "kernel parameters are one line".into(), "separate them by blanks");
        }
        if let Some(OsRelease::Fields(fields)) = &self.os_release {
            for (name, value) in fields {
                let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
                if name.is_empty()
                    || name.starts_with(|c: char| c.is_ascii_digit())
                    || !name.chars().all(plain)
                {
                    let help = "capitals, digits and _: ID, NAME, PRETTY_NAME, VERSION_ID, …";
                    fault(field!["os_release", name], format!("{name:?} is no field of os-release"), help);
                } else if !line(value) {
                    fault(field!["os_release", name], "a value is one line".into(), "leave the line end out");
                }
            }
        }
        if let Some(From::Source(source)) = &self.stub {
            if let Some((name, message)) = source.fault() {
                fault(field!["stub", name], message, "the stub is one EFI program");
            } else if matches!(source, Source::Git(_) | Source::Crate(_)) {
                let help = "a url, a path, or a `release` target that takes it out of a package";
                fault(field!["stub"], "a stub is one file".into(), help);
            }
        }
        errors
    }
}

impl Rule for Uki {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let errors = self.faults();
        if !errors.is_empty() {
            return Err(errors);
        }
        let file = |field, text: &String| RefUse { field, text: text.clone(), kind: RefKind::File };
        let either = |field, text: &String| FileUse {
            field,
            pattern: text.clone(),
            kind: FileKind::Path,
            absolute_ok: false,
        };
        let mut facts = RuleFacts {
            outputs: vec![OutputDecl {
                name: "file".into(),
                kind: OutputKind::File,
                path: None,
                field: None,
            }],
            facts: vec!["version"],
            ..RuleFacts::default()
        };
        facts.references.extend(self.linux.iter().map(|text| file(field!["linux"], text)));
        facts.references.extend(self.kernel.iter().map(|text| file(field!["kernel"], text)));
        for (i, text) in self.initramfs.all().iter().enumerate() {
            let field = match self.initramfs {
                OneOrMany::One(_) => field!["initramfs"],
                OneOrMany::Many(_) => field!["initramfs", i],
            };
            facts.references.push(file(field, text));
        }
        if let Some(OsRelease::File(text)) = &self.os_release {
            facts.either.push(either(field!["os_release"], text));
        }
        if let Some(keys) = &self.sign {
            for (name, path) in [("key", &keys.key), ("certificate", &keys.certificate)] {
                let field = field!["sign", name];
                let pattern = path.clone();
                facts.files.push(FileUse { field, pattern, kind: FileKind::File, absolute_ok: true });
            }
        }
        match &self.stub {
            Some(From::Text(text)) => facts.either.push(either(field!["stub"], text)),
            Some(From::Source(source)) => {
                facts.files.extend(source.file_use(field!["stub"], FileKind::File));
            }
            None => {}
        }
        Ok(facts)
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let kernel = self.kernel().ok_or_else(|| PlanError::new(2, "uki needs a kernel"))?;
        let arch = Arch::of_kernel(planner, kernel)?;
        let mut inputs = vec![read("linux", planner.upstream(kernel)?)];
        for (i, text) in self.initramfs.all().iter().enumerate() {
            inputs.push(read(&format!("initramfs {i:02}"), planner.upstream(text)?));
        }
        let stub = match &self.stub {
            Some(From::Source(source)) => source.plan(planner),
            Some(From::Text(text)) => either(planner, text)?,
            None => debians_stub(planner, arch),
        };
        inputs.push(read("stub", stub));
        let mut params =
            vec![("arch", arch.name.to_owned()), ("cmdline", self.cmdline.clone().unwrap_or_default())];
        match &self.os_release {
            Some(OsRelease::File(text)) => inputs.push(read("os_release", either(planner, text)?)),
            Some(OsRelease::Fields(fields)) => params.push(("os_release", assemble::os_release(fields))),
            None => {
                let project = Some(planner.project()).filter(|name| !name.is_empty());
                params.push(("project", project.unwrap_or("Linux").to_owned()));
            }
        }
        if planner.rule_of(kernel) == Some("linux") {
            self.plan_preflight(planner, kernel, arch)?;
        }
        let step = planner.step(builtin("assemble", assemble::Assemble, inputs, &params));
        let done = match &self.sign {
            Some(keys) => {
                let inputs = vec![
                    read("image", made(step, "file")),
                    read("certificate", path(&keys.certificate)),
                    read("key", path(&keys.key)),
                ];
                planner.step(builtin("sign", sign::Sign, inputs, &[]))
            }
            None => step,
        };
        planner.output("file", done, "file");
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        let initramfs = self.initramfs.all().last().cloned();
        let entries = [("initramfs", initramfs), (arch::LINUX, self.kernel().cloned())];
        entries.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect()
    }
}

impl Uki {
    /// What the kernel must have for such an image to boot, before it is compiled.
    fn plan_preflight(&self, planner: &mut Planner<'_>, linux: &str, arch: &Arch) -> Result<(), PlanError> {
        let of_archive = |key: &str| {
            let last = self.initramfs.all().last();
            last.and_then(|text| planner.advertised(text, key)).unwrap_or_default()
        };
        let params = [
            ("compress", of_archive("compress")),
            ("bcj", of_archive("bcj")),
            ("config-file", planner.advertised(linux, "config-file").unwrap_or_default()),
            ("efi", "yes".to_owned()),
            ("arch", arch.name.to_owned()),
        ];
        let config = read("config", planner.upstream_output(linux, "config")?);
        let mut step = builtin("preflight", Preflight, vec![config], &params);
        step.gates = vec![(planner.target_index(linux)?, "compile".into())];
        planner.step(step);
        Ok(())
    }
}

/// A file of the workspace, or elsewhere.
fn path(text: &str) -> Input {
    PathSource { path: text.to_owned() }.input()
}

/// A workspace path, or a reference.
fn either(planner: &Planner<'_>, text: &str) -> Result<Input, PlanError> {
    match planner.is_reference(text) {
        true => planner.upstream(text),
        false => Ok(Input::Path(text.to_owned())),
    }
}

/// The stub of this host.
fn debians_stub(planner: &mut Planner<'_>, arch: &Arch) -> Input {
    let package = match arch.is_host() {
        true => "systemd-boot-efi".to_owned(),
        false => format!("systemd-boot-efi:{}", arch.debian),
    };
    host_file(planner, arch.stub, &package, "or name another as `stub`")
}

#[cfg(test)]
mod tests {
    use mosbuild_engine::load::path_text;
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_values_are_all_reported_with_their_fields() {
        let faults = |fields: serde_json::Value| -> Vec<String> {
            let uki: Uki = serde_json::from_value(fields).unwrap();
            let errors = uki.declare().err().unwrap_or_default();
            errors.iter().map(|e| format!("{}: {}", path_text(&e.field), e.message)).collect()
        };
        assert_eq!(
            faults(
                json!({ "cmdline": "a\nb", "os_release": { "id": "x", "ID": "a\nb", "VERSION_ID": "1" } })
            ),
            [
                ": uki needs a kernel",
                "cmdline: kernel parameters are one line",
                "os_release.ID: a value is one line",
                "os_release.id: \"id\" is no field of os-release",
            ]
        );
        assert_eq!(
            faults(json!({ "linux": "l", "kernel": "k", "stub": { "crate": "c", "version": "1.0.0" } })),
            ["kernel: `linux` names the kernel already", "stub: a stub is one file"]
        );
        assert_eq!(
            faults(json!({ "kernel": "k", "stub": { "url": "ftp://h/x" } })),
            ["stub.url: \"ftp://h/x\" is no URL: https://…, http://… or file:///… is expected"]
        );
        assert!(
            faults(json!({ "kernel": "k", "os_release": "etc/os-release", "initramfs": ["a", "b"] }))
                .is_empty()
        );
    }
}
