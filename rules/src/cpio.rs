//! `cpio`: a tree as a newc archive, compressed as the kernel can read it.
//! Writes with our own codec; no host cpio or xz is run.

mod segments;

use std::collections::BTreeMap;
use std::io::Write;

use mosbuild_cache::{Node, Output, OutputKind, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::compress::{Compression, Encoder};
use mosbuild_formats::newc::{Entry, Kind, Writer};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::contents::{Growth, Image, NEVER_BUILT, Origins, largest, signed, since};
use crate::memory::Forecast;
use crate::size;
use crate::steps::{builtin, file_output, read};

/// The output that says what memory the archive takes, for rules that start machines: a [`Forecast`].
pub const RAM: &str = "ram";
/// How many of each are named where it is too large.
const NAMED: usize = 10;

/// A tree as an initramfs.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cpio {
    /// The tree.
    root: String,
    /// `xz`, `zstd`, `gzip`, `none`, or `{format: xz, level: 9, segments: true}`.
    #[serde(default)]
    compress: Compress,
    /// An archive that is larger is an error.
    max_size: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Xz,
    Zstd,
    Gzip,
    None,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Compress {
    Format(Format),
    Detailed(Detailed),
}

impl Default for Compress {
    fn default() -> Compress {
        Compress::Format(Format::default())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Detailed {
    /// Which; xz if absent.
    #[serde(default)]
    format: Format,
    /// xz 0–9, zstd 1–19, gzip 0–9.
    level: Option<u32>,
    /// Several archives one after the other, each compressed alone: after a change only those with changed files are
    /// compressed again. The whole is larger, most where files are like each other.
    #[serde(default)]
    segments: bool,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Xz => "xz",
            Format::Zstd => "zstd",
            Format::Gzip => "gzip",
            Format::None => "none",
        }
    }

    /// Lowest, highest and default level. zstd above 19 needs a window that the kernel's decoder may refuse; xz
    /// above 6 costs half as much time again for 0.2 % (measured on 125 MB of modules).
    fn levels(self) -> (u32, u32, u32) {
        match self {
            Format::Xz => (0, 9, 6),
            Format::Zstd => (1, 19, 19),
            Format::Gzip => (0, 9, 9),
            Format::None => (0, 0, 0),
        }
    }

    fn compression(self, level: u32) -> Compression {
        match self {
            Format::Xz => Compression::Xz { level },
            Format::Zstd => Compression::Zstd { level: level as i32 },
            Format::Gzip => Compression::Gzip { level },
            Format::None => Compression::None,
        }
    }
}

impl Cpio {
    fn format(&self) -> (Format, u32) {
        match &self.compress {
            Compress::Format(format) => (*format, format.levels().2),
            Compress::Detailed(d) => (d.format, d.level.unwrap_or(d.format.levels().2)),
        }
    }

    fn segments(&self) -> bool {
        matches!(&self.compress, Compress::Detailed(d) if d.segments)
    }
}

impl Rule for Cpio {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let (format, level) = self.format();
        let (low, high, _) = format.levels();
        if !(low..=high).contains(&level) {
            errors.push(FieldError {
                field: field!("compress", "level"),
                message: format!("{} has no level {level}", format.name()),
                help: Some(format!("{low} to {high}")),
            });
        }
        if let Some(max) = &self.max_size
            && size::bytes(max).is_none()
        {
            let message = format!("{max:?} is no size");
            errors.push(FieldError {
                field: field!("max_size"),
                message,
                help: Some("write it as 20MiB".into()),
            });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let output =
            |name: &str| OutputDecl { name: name.into(), kind: OutKind::File, path: None, field: None };
        Ok(RuleFacts {
            references: vec![RefUse { field: field!("root"), text: self.root.clone(), kind: RefKind::Tree }],
            outputs: vec![output("file"), output(RAM)],
            facts: vec!["size", "unpacked_size", "ram"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let root = planner.upstream(&self.root)?;
        let (format, level) = self.format();
        let mut params = vec![
            ("compress", format.name().to_owned()),
            ("level", level.to_string()),
            ("max_size", self.max_size.clone().unwrap_or_default()),
            ("epoch", planner.epoch().to_string()),
        ];
        if self.segments() {
            params.push(("segments", "yes".to_owned()));
        }
        let step = planner.step(builtin("pack", Pack { format, level }, vec![read("root", root)], &params));
        planner.output("file", step, "file");
        planner.output(RAM, step, RAM);
        Ok(())
    }

    fn advertise(&self) -> BTreeMap<String, String> {
        let (format, level) = self.format();
        let facts =
            [("compress", format.name().to_owned()), ("level", level.to_string()), (ROOT, self.root.clone())];
        facts.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// What a `cpio` advertises as: the reference that its root is.
pub const ROOT: &str = "root";

struct Pack {
    format: Format,
    level: u32,
}

impl Builtin for Pack {
    fn name(&self) -> &'static str {
        "cpio"
    }

    fn version(&self) -> u32 {
        3
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("file".into(), OutKind::File), (RAM.into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("root")?;
        let mtime = cx.param("epoch").parse::<u64>().unwrap_or(mosbuild_cache::MTIME);
        let mtime = u32::try_from(mtime)
            .map_err(|_| StepError::new("epoch lies behind 2106, which cpio cannot write"))?;
        let path = cx.scratch.join("archive");
        let file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&path)?);
        let compression = self.format.compression(self.level);
        let unpacked = if cx.param("segments") == "yes" {
            segments::write(cx, &tree, &segments::Segment { compression, mtime }, file)?
        } else {
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
            let encoder = Encoder::new(file, compression, threads).map_err(|e| failed(&e))?;
            let (encoder, unpacked) = append(cx, &tree, Writer::new(encoder, mtime))?;
            encoder.finish().map_err(|e| failed(&e))?.flush()?;
            unpacked
        };
        let (digest, size) = cx.store.put_file(&path, mosbuild_cache::Ingest::Link { executable: false })?;
        if let Some(max) = size::bytes(cx.param("max_size"))
            && size > max
        {
            return Err(too_large(cx, &tree, size, max));
        }
        let forecast = Forecast::of(&tree, size);
        let facts = [("size", size), ("unpacked_size", unpacked), ("ram", forecast.ram())];
        let file = Output { kind: OutputKind::File { executable: false }, digest, size };
        let ram = file_output(cx.store, forecast.to_string().as_bytes())?;
        Ok(Made {
            outputs: [("file".into(), file), (RAM.into(), ram)].into(),
            facts: facts.into_iter().map(|(k, v)| (k.to_owned(), v.to_string())).collect(),
            notes: Vec::new(),
        })
    }
}

fn failed(e: &dyn std::fmt::Display) -> StepError {
    StepError::new(format!("the archive cannot be written: {e}"))
}

/// Writes all entries of a tree and the end: the output, and how many bytes it took.
fn append<W: Write>(cx: &BuiltinCx<'_>, tree: &Tree, mut writer: Writer<W>) -> Result<(W, u64), StepError> {
    for entry in tree.iter() {
        if (cx.cancelled)() {
            return Err(StepError::new("interrupted"));
        }
        let kind = match &entry.node {
            Node::Dir => Kind::Dir,
            Node::File { size, .. } => Kind::File { size: *size },
            Node::Symlink { target } => Kind::Symlink { target: target.clone() },
            Node::Char { major, minor } => Kind::Char { major: *major, minor: *minor },
            Node::Block { major, minor } => Kind::Block { major: *major, minor: *minor },
            Node::Fifo => Kind::Fifo,
        };
        let header = Entry {
            name: entry.path.as_bytes().to_vec(),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            kind,
        };
        let named = |e| failed(&format!("{}: {e}", entry.path));
        match &entry.node {
            Node::File { digest, .. } => {
                let mut data = std::fs::File::open(cx.store.blob_path(digest)?)?;
                writer.append(&header, &mut data).map_err(named)?;
            }
            _ => writer.append(&header, &mut std::io::empty()).map_err(named)?,
        }
    }
    writer.finish().map_err(|e| failed(&e))
}

/// What is too large once it is compressed; only the whole can be measured so, and what grew is told as it was before.
fn too_large(cx: &BuiltinCx<'_>, tree: &Tree, size: u64, max: u64) -> StepError {
    let message = format!(
        "the archive has {} and max_size is {}; the largest files before compression:\n{}\n{}",
        size::human(size),
        size::human(max),
        largest(tree, NAMED),
        grown(cx, tree, size)
    );
    StepError::new(message).help("raise max_size, or remove what is not needed")
}

fn grown(cx: &BuiltinCx<'_>, tree: &Tree, size: u64) -> String {
    let before = cx.previous().and_then(|previous| {
        let packed = previous.outputs.get("file")?.size;
        Some((packed, cx.store.get_tree(previous.inputs.get("root")?).ok()?))
    });
    let Some((packed, old)) = before else { return NEVER_BUILT.into() };
    let (then, now) = (Origins::of_tree(cx.store, &old), Origins::of_tree(cx.store, tree));
    let growth = Growth::between(&Image { tree: &old, origins: &then }, &Image { tree, origins: &now });
    let compressed = signed(size as i64 - packed as i64);
    format!("the archive itself: {compressed}; before compression, {}", since(&growth, NAMED))
}
