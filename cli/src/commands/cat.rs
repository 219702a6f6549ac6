//! `mosbuild cat`: the bytes of one file of an output, an archive or an image; or the whole, or a part of an image.

use clap::{Args, ValueEnum};
use mosbuild_engine::load::nearest;
use mosbuild_rules::inspect::{Held, Items, Kind, follow, tidy};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::inspect::{Desk, Subject, escaped};
use crate::ui::Ui;

/// Arguments of `cat`.
#[derive(Args, Debug)]
pub struct CatArgs {
    /// TARGET, TARGET:OUTPUT, TARGET:OUTPUT/PATH, or a file: a cpio or tar archive, an flist, or an image with an initramfs inside
    #[arg(value_name = "WHAT")]
    what: String,
    /// The file in it, symlinks followed; without it, a file's own bytes
    #[arg(value_name = "PATH", conflicts_with = "part")]
    path: Option<String>,
    /// A part of an image as it is
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<ImagePart>,
    /// As this run left it, instead of the newest that made it
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// A folder with the blocks of an flist, a `dir://` store, beside those that it names
    #[arg(long, value_name = "DIR")]
    blocks: Vec<std::path::PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A part of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImagePart {
    /// The kernel, expanded
    Vmlinux,
    /// The initramfs, compressed as it is
    Initramfs,
}

/// Prints.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &CatArgs) -> Result<u8, Failure> {
    let mut desk = Desk::open(ui, global, &args.store)?;
    desk.blocks = args.blocks.clone();
    let subject = desk.subject(&args.what, args.run.as_deref())?;
    let no_part = |what: &str| Failure::usage(format!("{} has no {what} inside", subject.label));
    match args.part {
        Some(ImagePart::Vmlinux) => {
            ui.bytes(subject.kernel.as_deref().ok_or_else(|| no_part("kernel image"))?)?;
        }
        Some(ImagePart::Initramfs) => match &subject.held {
            Some(Held::Initramfs(bytes)) => ui.bytes(bytes)?,
            _ => return Err(no_part("initramfs")),
        },
        None => match (args.path.as_deref().or(subject.below.as_deref()), subject.bytes()) {
            (Some(path), _) => ui.bytes(&content(&subject, path)?)?,
            (None, Some(bytes)) => ui.bytes(bytes)?,
            (None, None) => {
                return Err(Failure::usage(format!("{} is a tree: name a file of it", subject.label))
                    .help(format!("`mosbuild ls {}` lists them", subject.label)));
            }
        },
    }
    Ok(0)
}

fn content(subject: &Subject, path: &str) -> Result<Vec<u8>, Failure> {
    let items = subject.listing()?;
    let wanted = follow(&items, &tidy(path.as_bytes()));
    let Some(item) = items.get(&wanted) else { return Err(missing(subject, &items, &wanted)) };
    if !matches!(item.kind, Kind::File { .. }) {
        let text = format!("{} in {} is a {}", escaped(&wanted), subject.label, item.kind.name());
        return Err(Failure::usage(text));
    }
    let held = subject.held.as_ref().ok_or_else(|| subject.no_archive())?;
    let mut found = held.contents(&|p| p == wanted).map_err(|e| subject.fails(&e))?;
    found.remove(&wanted).ok_or_else(|| missing(subject, &items, &wanted))
}

fn missing(subject: &Subject, items: &Items, wanted: &[u8]) -> Failure {
    let failure = Failure::usage(format!("{} has no file {}", subject.label, escaped(wanted)));
    let names: Vec<&str> = items
        .iter()
        .filter(|(_, item)| matches!(item.kind, Kind::File { .. } | Kind::Symlink { .. }))
        .filter_map(|(path, _)| std::str::from_utf8(path).ok())
        .collect();
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let asked = String::from_utf8_lossy(wanted).into_owned();
    let elsewhere = names.iter().find(|p| name(p) == name(&asked)).map(|p| (*p).to_owned());
    match elsewhere.or_else(|| nearest(&asked, names.iter().copied()).map(str::to_owned)) {
        Some(near) => failure.help(format!("did you mean {near}?")),
        None => failure.help(format!("`mosbuild ls {}` lists what it has", subject.label)),
    }
}
