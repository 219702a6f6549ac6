//! Rule `kernel`: the bootable image, which is `linux` relinked with an initramfs inside. Compiles nothing.
//! Knows the fields and the steps; the checks are in preflight.rs, what make is told in linux/make.rs.

use std::collections::BTreeMap;

use mosbuild_cache::{Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::{kernel_image, zboot};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arch::{self, Arch};
use crate::cpio;
use crate::linux::make;
use crate::preflight::{self, Preflight};
use crate::programs::Programs;
use crate::steps::{at, builtin, command, made, read, writable};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// A kernel with its initramfs inside.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The target that compiled it, of rule linux.
    linux: String,
    /// The archive: a cpio target, or any other file.
    initramfs: String,
    /// Whether firmware starts the image as an EFI program, so that EFI_STUB is required; true if absent.
    #[serde(default)]
    efi: Option<bool>,
}

impl Rule for Kernel {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let reference = |field, text: &str, kind| RefUse { field, text: text.into(), kind };
        Ok(RuleFacts {
            references: vec![
                reference(field!["linux"], &self.linux, RefKind::Rule("linux")),
                reference(field!["initramfs"], &self.initramfs, RefKind::File),
            ],
            outputs: vec![OutputDecl { name: "file".into(), kind: OutKind::File, path: None, field: None }],
            facts: vec!["version"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let advertised = |key: &str| planner.advertised(&self.linux, key).unwrap_or_default();
        let arch = Arch::of_kernel(planner, &self.linux)?;
        let tools = advertised("tools");
        let tools: Vec<String> = tools.split_whitespace().map(str::to_owned).collect();
        let kbuild = make::Kbuild { arch, epoch: planner.epoch(), tools: &tools };
        let linux = |output: &str| planner.upstream_output(&self.linux, output);
        let (config, release) = (linux("config")?, linux("release")?);
        let (objects, source) = (linux("objects")?, linux("source")?);
        let initramfs = planner.upstream(&self.initramfs)?;

        let efi = if self.efi.unwrap_or(true) { "yes" } else { "no" };
        let params = [
            ("compress", planner.advertised(&self.initramfs, "compress").unwrap_or_default()),
            ("bcj", planner.advertised(&self.initramfs, "bcj").unwrap_or_default()),
            ("config-file", advertised("config-file")),
            ("efi", efi.to_owned()),
            ("arch", arch.name.to_owned()),
        ];
        let mut step = builtin("preflight", Preflight, vec![read("config", config.clone())], &params);
        step.gates = vec![
            (planner.target_index(&self.linux)?, "compile".into()),
            (planner.target_index(planner.name())?, "relink".into()),
        ];
        planner.step(step);
        let inputs = vec![
            at("source", source, make::SOURCE),
            writable("objects", objects, make::OBJECTS),
            at("config", config.clone(), make::CONFIG),
            at("initramfs", initramfs.clone(), make::INITRAMFS),
        ];
        let relink = planner.step(command("relink", kbuild.relink(), inputs));
        // Behind relink, so that `why` goes that way to the root's changes.
        if let Some(root) = planner.advertised(&self.initramfs, cpio::ROOT) {
            let root = vec![read("root", planner.upstream(&root)?)];
            let params = [("arch", arch.name.to_owned())];
            let mut step = builtin("programs", Programs, root, &params);
            step.gates = vec![(planner.target_index(planner.name())?, "relink".into())];
            planner.step(step);
        }
        let inputs = vec![
            read("image", made(relink, "bzImage")),
            read("release", release),
            read("config", config),
            read("initramfs", initramfs),
        ];
        let verify = planner.step(builtin("verify", Verify, inputs, &[]));
        planner.output("file", verify, "file");
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        let entries = [("initramfs", &self.initramfs), (arch::LINUX, &self.linux)];
        entries.map(|(k, v)| (k.to_owned(), v.clone())).into()
    }
}

/// Inputs `image`, `release`, `config`, `initramfs`; output `file`, which is the image, and fact `version`.
pub struct Verify;

impl Builtin for Verify {
    fn name(&self) -> &'static str {
        "kernel-verify"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("file".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let expected = cx.bytes("release")?;
        let expected = String::from_utf8_lossy(&expected).trim().to_owned();
        let mut notes = Vec::new();
        match kernel_image::release(&cx.bytes("image")?) {
            Ok(release) if release == expected => {}
            Ok(release) => {
                let text = format!("the image says it is {release}, but its modules are those of {expected}");
                return Err(StepError::new(text));
            }
            Err(kernel_image::Error::Zboot(e @ zboot::Error::Compression(_))) => {
                notes.push(format!("warning: the image's release is not compared with the modules': {e}"));
            }
            Err(e) => return Err(StepError::new(e.to_string())),
        }
        preflight::archive(&cx.bytes("initramfs")?, &cx.bytes("config")?)?;
        let (digest, size, _) = cx.blob("image")?;
        let file = Output { kind: OutputKind::File { executable: false }, digest, size };
        Ok(Made {
            outputs: BTreeMap::from([("file".to_owned(), file)]),
            facts: BTreeMap::from([("version".to_owned(), expected)]),
            notes,
        })
    }
}
