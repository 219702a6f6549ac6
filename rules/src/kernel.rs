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
use crate::linux::{self, make};
use crate::preflight::{self, Preflight};
use crate::programs::Programs;
use crate::size;
use crate::steps::{at, builtin, command, made, read, writable};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 2;

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
    /// Room for the archive inside of vmlinux, as `64MiB`. vmlinux is then linked once, and a changed archive is written
    /// into it: only the compression is left to do. The image is larger by what the room compresses to, and needs the
    /// room as memory until the archive is unpacked.
    #[serde(default)]
    slot: Option<String>,
    /// Level of the kernel's own compression, for the program that its configuration names (KERNEL_GZIP, KERNEL_ZSTD, …);
    /// the one that kbuild has if absent, which is the highest.
    #[serde(default)]
    level: Option<u32>,
    /// Leaves the last link to make, which gives the same bytes and takes longer: to compare the two.
    #[serde(default)]
    make: bool,
}

/// Bytes of a slot: more than the mark that finds it, and no more than a kernel can have.
const SLOTS: std::ops::RangeInclusive<u64> = 4096..=512 << 20;
/// Levels of any compressor.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=22;

impl Rule for Kernel {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let errors = self.faults();
        if !errors.is_empty() {
            return Err(errors);
        }
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
        let linux_output = |output: &str| planner.upstream_output(&self.linux, output);
        let (config, release) = (linux_output("config")?, linux_output("release")?);
        let (objects, source) = match self.make {
            true => (linux_output("objects")?, linux_output("source")?),
            false => (linux_output(linux::RELINK_OBJECTS)?, linux_output(linux::RELINK_SOURCE)?),
        };
        let script = match self.make {
            true => None,
            false => Some(at("script", linux_output(linux::RELINK_SCRIPT)?, make::FUNCTIONS)),
        };
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
        let mut inputs = vec![
            at("source", source, make::SOURCE),
            writable("objects", objects, make::OBJECTS),
            at("config", config.clone(), make::CONFIG),
        ];
        inputs.extend(script);
        let by = match self.slot.as_deref().and_then(size::bytes) {
            Some(bytes) => {
                let link = planner.step(command("link", kbuild.link_slot(bytes), inputs.clone()));
                inputs.push(at("linked", made(link, "linked"), make::LINKED));
                kbuild.relink_slot(self.level)
            }
            None if self.make => kbuild.relink_by_make(),
            None => kbuild.relink(self.level),
        };
        inputs.push(at("initramfs", initramfs.clone(), make::INITRAMFS));
        let relink = planner.step(command("relink", by, inputs));
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

impl Kernel {
    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Some(slot) = self.slot.as_deref()
            && !size::bytes(slot).is_some_and(|bytes| SLOTS.contains(&bytes))
        {
            let message = format!("{slot:?} is no size of a slot");
            let help = Some(format!(
                "write it as 64MiB, with at least what the archive has, and no more than {}",
                size::human(*SLOTS.end())
            ));
            errors.push(FieldError { field: field!["slot"], message, help });
        }
        if let Some(level) = self.level.filter(|level| !LEVELS.contains(level)) {
            let message = format!("no program that compresses kernels has a level {level}");
            let help = Some("1 to 9 for gzip and xz, to 12 for lz4, to 22 for zstd".into());
            errors.push(FieldError { field: field!["level"], message, help });
        }
        if self.make && (self.slot.is_some() || self.level.is_some()) {
            let message = "make knows neither slot nor level".to_owned();
            let help = Some("leave `make` out".to_owned());
            errors.push(FieldError { field: field!["make"], message, help });
        }
        errors
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
