//! Rule `firmware`: the firmware that a set of kernel modules asks for, out of linux-firmware, with its licences.
//! Knows the fields and which steps follow from them; what WHENCE says is read by formats.
//!
//! | step | in | does | runs again when |
//! |---|---|---|---|
//! | source | the lock | brings the tarball in | the lock names another one |
//! | names | the modules | the names of firmware in them | a module changes |
//! | preflight | the kernel's .config | refuses compression that it cannot read; gates its compile | .config changes |
//! | select | names, source | files, links and licences as a tree | a name or the source changes |

mod names;
mod place;
mod reason;
mod report;
mod select;
mod source;

use std::path::Path;

use mosbuild_engine::action::Input;
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, OutputKind, RefKind, RefUse, RuleFacts,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::whence;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::modules::image_path;
use crate::one_or_many::OneOrMany;
use crate::preflight::FirmwarePreflight;
use crate::source::Source;
use crate::steps::{builtin, made, read};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// Where licences go in the image.
const LICENSES: &str = "/usr/share/licenses/linux-firmware";
/// Targets that a chain of `from` fields may go through.
const CHAIN: usize = 32;

/// The firmware of a set of kernel modules.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    /// linux-firmware, or a folder of firmware: `{url}`, `{git, rev}` or `{path}`, a tarball or a folder.
    source: Source,
    /// Trees that hold lib/modules/VERSION: a target of rule modules, or `linux:modules`.
    #[serde(default, rename = "for")]
    modules: OneOrMany,
    /// Further names, folders and globs below lib/firmware, for what drivers ask for without saying so.
    #[serde(default)]
    extra: OneOrMany,
    /// Compresses each file, for kernels that can read it.
    #[serde(default)]
    compress: Compress,
    /// The kernel's .config, a reference or a file, where the modules do not come from a target of rule linux.
    #[serde(default)]
    config: Option<String>,
    /// Absolute path of the folder in the image that receives the licences of what was taken; /usr/share/licenses/linux-firmware if absent.
    #[serde(default)]
    licenses: Option<String>,
}

/// How single files are compressed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// Not at all: an initramfs is compressed as a whole.
    #[default]
    None,
    /// As the kernel reads it with FW_LOADER_COMPRESS_XZ.
    Xz,
    /// As the kernel reads it with FW_LOADER_COMPRESS_ZSTD.
    Zstd,
}

impl Compress {
    /// As it is written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Compress::None => "none",
            Compress::Xz => "xz",
            Compress::Zstd => "zstd",
        }
    }
}

impl Rule for Firmware {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let errors = self.faults();
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut facts = RuleFacts {
            outputs: vec![OutputDecl {
                name: "tree".into(),
                kind: OutputKind::Tree,
                path: None,
                field: None,
            }],
            facts: vec!["version", "count", "missing"],
            ..RuleFacts::default()
        };
        for (i, text) in self.modules.all().iter().enumerate() {
            let field = field!["for", i];
            facts.references.push(RefUse { field, text: text.clone(), kind: RefKind::Tree });
        }
        facts.files.extend(self.source.file_use(field!["source"], FileKind::Path));
        facts.either.extend(self.config.iter().map(|config| FileUse {
            field: field!["config"],
            pattern: config.clone(),
            kind: FileKind::File,
            absolute_ok: false,
        }));
        Ok(facts)
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let mut inputs = vec![read("source", self.source.plan(planner))];
        if !self.modules.is_empty() {
            let mut trees = Vec::new();
            for (at, text) in self.modules.all().iter().enumerate() {
                trees.push(read(&format!("{at:03} {text}"), planner.upstream(text)?));
            }
            let names = planner.step(builtin("names", names::Names, trees, &[]));
            inputs.push(read("names", made(names, "names")));
        }
        if self.compress != Compress::None {
            self.plan_preflight(planner)?;
        }
        let params = [
            ("extra", self.extra.all().join("\n")),
            ("compress", self.compress.name().to_owned()),
            ("licenses", self.licenses.as_deref().unwrap_or(LICENSES).to_owned()),
            ("version", self.version().unwrap_or_default()),
        ];
        let select = planner.step(builtin("select", select::Select, inputs, &params));
        planner.output("tree", select, "tree");
        Ok(())
    }
}

impl Firmware {
    /// One step for each kernel that is to read compressed firmware.
    fn plan_preflight(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let me = planner.target_index(planner.name())?;
        let mut kernels: Vec<(Input, String, Option<u32>)> = Vec::new();
        match &self.config {
            Some(text) if planner.rule_of(text) == Some("linux") && !text.contains(':') => {
                let message = format!("config: {text} is the kernel's image");
                return Err(PlanError::new(2, message).help(format!("write {text}:config")));
            }
            Some(text) if planner.is_reference(text) => {
                // Only what is known before the kernel is compiled can keep it from being compiled.
                let early = planner.rule_of(text) == Some("linux") && text.ends_with(":config");
                let file = planner.advertised(text, "config-file").unwrap_or_default();
                let linux = if early { Some(planner.target_index(text)?) } else { None };
                kernels.push((planner.upstream(text)?, file, linux));
            }
            Some(path) => kernels.push((Input::Path(path.clone()), path.clone(), None)),
            None => {
                for text in self.modules.all() {
                    let Some(linux) = linux_behind(planner, text) else {
                        return Err(no_config(text, self.compress));
                    };
                    let config = planner.upstream_output(&linux, "config")?;
                    let file = planner.advertised(&linux, "config-file").unwrap_or_default();
                    let kernel = (config, file, Some(planner.target_index(&linux)?));
                    if !kernels.contains(&kernel) {
                        kernels.push(kernel);
                    }
                }
            }
        }
        for (config, file, linux) in kernels {
            let params = [("compress", self.compress.name().to_owned()), ("config-file", file)];
            let mut step = builtin("preflight", FirmwarePreflight, vec![read("config", config)], &params);
            step.gates = vec![(me, "select".into())];
            step.gates.extend(linux.map(|linux| (linux, "compile".into())));
            planner.step(step);
        }
        Ok(())
    }

    /// The version, if the name of the source tells it.
    fn version(&self) -> Option<String> {
        let name = match &self.source {
            Source::Git(source) if source.rev.len() < 40 => &source.rev,
            Source::Url(source) => source.url.rsplit('/').next()?.split(['?', '#']).next()?,
            Source::Path(source) => Path::new(&source.path).file_name()?.to_str()?,
            Source::Git(_) | Source::Crate(_) => return None,
        };
        version_in(name)
    }

    /// What is wrong with fields of the right type.
    fn faults(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut fault = |field: FieldPath, message: String, help: Option<&str>| {
            errors.push(FieldError { field, message, help: help.map(str::to_owned) });
        };
        if self.modules.is_empty() && self.extra.is_empty() {
            let help = "`for` names the modules that need it, `extra` the files themselves";
            fault(FieldPath::new(), "firmware needs for or extra: it asks for nothing".into(), Some(help));
        }
        match self.source.fault() {
            Some((name, message)) => fault(field!["source", name], message, None),
            None if matches!(self.source, Source::Crate(_)) => {
                fault(
                    field!["source"],
                    "firmware is no crate".into(),
                    Some("write {url: …}, {git: …, rev: …} or {path: …}"),
                );
            }
            None => {}
        }
        for (i, name) in self.extra.all().iter().enumerate() {
            if let Some(why) = whence::request_fault(name) {
                let help = "such as rtl_nic/rtl8168h-2.fw, amdgpu/ for a folder, or rtl_nic/*";
                fault(field!["extra", i], format!("{name:?}: {why}"), Some(help));
            }
        }
        if let Some(path) = self.licenses.as_deref().filter(|path| image_path(path).is_none()) {
            let help = "such as /usr/share/licenses/linux-firmware";
            fault(field!["licenses"], format!("{path:?} is no absolute path in the image"), Some(help));
        }
        if self.compress == Compress::None && self.config.is_some() {
            let help = "it says whether the kernel can read what `compress` makes";
            fault(field!["config"], "config without compress has no use".into(), Some(help));
        }
        if self.compress != Compress::None && self.config.is_none() && self.modules.is_empty() {
            let message = format!("compress: {} needs the kernel's configuration", self.compress.name());
            fault(field!["compress"], message, Some("name it: `config: linux:config`, or a file"));
        }
        errors
    }
}

/// The target of rule linux that a tree of modules comes from: itself, or behind the `from` of rule modules.
fn linux_behind(planner: &Planner<'_>, reference: &str) -> Option<String> {
    let mut at = reference.to_owned();
    for _ in 0..CHAIN {
        if planner.rule_of(&at) == Some("linux") {
            return Some(at.split(':').next().unwrap_or_default().to_owned());
        }
        at = planner.advertised(&at, "from")?;
    }
    None
}

fn no_config(modules: &str, compress: Compress) -> PlanError {
    let text = format!(
        "compress: {}: the modules of {modules} do not come from a target of rule linux, so nothing tells whether their \
         kernel can read compressed firmware",
        compress.name()
    );
    PlanError::new(2, text).help(
        "name the kernel's configuration: `config: FILE` or `config: TARGET:OUTPUT`; or leave compress out",
    )
}

/// The version in a name such as linux-firmware-20250808.tar.xz.
fn version_in(name: &str) -> Option<String> {
    let stem = name.split(".tar").next()?;
    let stem =
        [".tgz", ".txz", ".orig"].iter().fold(stem, |stem, end| stem.strip_suffix(end).unwrap_or(stem));
    let starts = stem.match_indices(['-', '_']).map(|(at, _)| at + 1).chain([0]);
    let version = |at: usize| stem[at..].strip_prefix('v').unwrap_or(&stem[at..]);
    let plain = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+~-_".contains(c))
    };
    let mut found: Vec<&str> = starts.map(version).filter(plain).collect();
    found.sort_by_key(|text| std::cmp::Reverse(text.len()));
    found.first().map(|text| (*text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_off_names() {
        for (name, version) in [
            ("linux-firmware-20250808.tar.xz", Some("20250808")),
            ("linux-firmware-20250808", Some("20250808")),
            ("20250808.tar.gz", Some("20250808")),
            ("firmware-nonfree_20230210.orig.tar.xz", Some("20230210")),
            ("firmware-v1.2.tgz", Some("1.2")),
            ("linux-firmware-20250808-1.tar.zst", Some("20250808-1")),
            ("linux-firmware-main.tar.gz", None),
            ("firmware", None),
            ("", None),
        ] {
            assert_eq!(version_in(name).as_deref(), version, "{name}");
        }
    }
}
