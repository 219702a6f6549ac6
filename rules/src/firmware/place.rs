//! Selected firmware as entries of the image: files, compressed or not, the links that lead to them, their licences.
//! Knows the image's paths; does not know who asked for what.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::{Digest, Entry, Node};
use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_formats::compress::{Compression, compress_file};
use mosbuild_formats::whence::{Catalog, File, Kind, Whence};
use rayon::prelude::*;

use super::select::Selection;
use super::source::FirmwareSource;
use crate::modules::image_path;
use crate::steps::{entry, file_entry};

/// Where the kernel looks.
const FIRMWARE: &str = "lib/firmware";
/// Level of xz: what more costs it does not give, since most firmware is dense.
const XZ_LEVEL: u32 = 6;
/// Level of zstd; above it the window grows beyond what decoders take.
const ZSTD_LEVEL: i32 = 19;

/// The image's part.
pub struct Placed {
    /// All entries but folders.
    pub entries: Vec<Entry>,
    /// Files of firmware.
    pub count: usize,
    /// Links.
    pub links: usize,
    /// What is to be kept of licences, one a line.
    pub notes: Vec<String>,
}

/// Where a licence's text may lie in a source: in LICENSES/ since 2025, at the top before.
pub fn licence_places(text: &str) -> [String; 2] {
    [format!("LICENSES/{text}"), text.to_owned()]
}

/// Makes the entries of what was found and is in the source.
pub fn place(
    cx: &BuiltinCx<'_>,
    source: &FirmwareSource<'_>,
    selection: &Selection,
) -> Result<Placed, StepError> {
    let suffix = Suffix::new(cx.param("compress"), selection);
    let files: Vec<(&String, (Digest, u64))> =
        selection.files().into_iter().filter_map(|path| Some((path, source.blob(path)?))).collect();
    let taken: BTreeSet<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
    let one = |(path, (digest, size)): &(&String, (Digest, u64))| {
        if (cx.cancelled)() {
            return Err(StepError::new("it was interrupted"));
        }
        let node = match suffix.compression(path) {
            None => Node::File { digest: *digest, size: *size },
            Some(how) => {
                let packed = compress_file(&cx.store.read(digest)?, how)
                    .map_err(|e| StepError::new(format!("{path} cannot be compressed: {e}")))?;
                Node::File { digest: cx.store.put_bytes(&packed)?, size: packed.len() as u64 }
            }
        };
        entry(format!("{FIRMWARE}/{}", suffix.of(path)).as_bytes(), 0o644, node)
    };
    let mut entries = files.par_iter().map(one).collect::<Result<Vec<_>, StepError>>()?;
    let links = links(selection, &taken, &suffix)?;
    for (name, target) in &links {
        let node = Node::Symlink { target: relative(name, target).into_bytes() };
        entries.push(entry(format!("{FIRMWARE}/{name}").as_bytes(), 0o777, node)?);
    }
    let mut notes = Vec::new();
    if let Some(whence) = &selection.whence {
        entries.extend(licences(cx, source, whence, &taken, &mut notes)?);
    }
    Ok(Placed { entries, count: files.len(), links: links.len(), notes })
}

/// What is appended to names when files are compressed.
struct Suffix<'a> {
    how: Option<Compression>,
    /// Never compressed.
    raw: BTreeSet<&'a str>,
}

impl<'a> Suffix<'a> {
    fn new(compress: &str, selection: &'a Selection) -> Suffix<'a> {
        let how = match compress {
            "xz" => Some(Compression::Xz { level: XZ_LEVEL }),
            "zstd" => Some(Compression::Zstd { level: ZSTD_LEVEL }),
            _ => None,
        };
        let files = selection.whence.iter().flat_map(|whence| &whence.files);
        Suffix { how, raw: files.filter(|file| file.raw).map(|file| file.path.as_str()).collect() }
    }

    fn compression(&self, path: &str) -> Option<Compression> {
        self.how.filter(|_| !self.raw.contains(path))
    }

    /// A file's name in the image.
    fn of(&self, path: &str) -> String {
        format!("{path}{}", self.after(path))
    }

    fn after(&self, path: &str) -> &'static str {
        self.compression(path).map_or("", |how| how.format().suffix())
    }
}

/// Links of what was found as names and targets below lib/firmware, all of which lead to a file that was taken or into
/// a folder that has one.
fn links(
    selection: &Selection,
    taken: &BTreeSet<&str>,
    suffix: &Suffix<'_>,
) -> Result<Vec<(String, String)>, StepError> {
    let names: BTreeSet<&String> = selection.found.iter().flat_map(|(_, found)| &found.links).collect();
    let mut links = Vec::new();
    for name in names {
        let (Some(end), Some(target)) = (selection.names.resolve(name), selection.names.target(name)) else {
            continue;
        };
        let after = if end.kind == Kind::File { suffix.after(&end.path) } else { "" };
        links.push((format!("{name}{after}"), format!("{target}{after}")));
    }
    // A link that goes may have been what kept a folder for another one.
    loop {
        let mut there = Catalog::default();
        let clash = |path: &str, e| StepError::new(format!("{FIRMWARE}/{path} is wanted twice: {e}"));
        for path in taken {
            let path = suffix.of(path);
            there.add_file(&path).map_err(|e| clash(&path, e))?;
        }
        for (name, target) in &links {
            there.add_link(name, target).map_err(|e| clash(name, e))?;
        }
        let before = links.len();
        links.retain(|(name, _)| there.resolve(name).is_some());
        if links.len() == before {
            return Ok(links);
        }
    }
}

/// What a link says that leads from one path to another.
fn relative(link: &str, target: &str) -> String {
    let mut folder: Vec<&str> = link.split('/').collect();
    folder.pop();
    let target: Vec<&str> = target.split('/').collect();
    let shared = folder.iter().zip(&target).take_while(|(a, b)| a == b).count();
    let up = folder[shared..].iter().map(|_| "..");
    up.chain(target[shared..].iter().copied()).collect::<Vec<_>>().join("/")
}

/// The sections of WHENCE and the licence texts that belong to the files taken.
fn licences(
    cx: &BuiltinCx<'_>,
    source: &FirmwareSource<'_>,
    whence: &Whence,
    taken: &BTreeSet<&str>,
    notes: &mut Vec<String>,
) -> Result<Vec<Entry>, StepError> {
    let folder = image_path(cx.param("licenses")).unwrap_or_default();
    let files: Vec<&File> = whence.files.iter().filter(|file| taken.contains(file.path.as_str())).collect();
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let sections: BTreeSet<usize> = files.iter().map(|file| file.section).collect();
    let mut entries = vec![file_entry(
        cx.store,
        &format!("{folder}/WHENCE"),
        format!(
            "Sections of linux-firmware's WHENCE for the files of this image.\n\n{}",
            whence.excerpt(sections)
        )
        .as_bytes(),
    )?];
    let mut by_licence: BTreeMap<(usize, Option<usize>), Vec<&File>> = BTreeMap::new();
    for file in &files {
        by_licence.entry((file.section, file.licence)).or_default().push(file);
    }
    let mut texts: BTreeSet<&String> = BTreeSet::new();
    for files in by_licence.values() {
        let Some(first) = files.first() else { continue };
        let licence = whence.licence(first);
        texts.extend(licence.iter().flat_map(|licence| &licence.texts));
        let title = match licence.map(|licence| licence.title.as_str()) {
            Some("") => "as it stands in WHENCE",
            Some(title) => title,
            None => "WHENCE names none",
        };
        let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let more = match paths.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        notes.push(format!("licence of {}{more}: {title}", first.path));
    }
    for text in texts {
        match licence_places(text).iter().find_map(|place| source.blob(place)) {
            Some((digest, size)) => {
                let path = format!("{folder}/{text}");
                entries.push(entry(path.as_bytes(), 0o644, Node::File { digest, size })?);
            }
            None => notes.push(format!("warning: the source does not have the licence text {text}")),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_say_the_way_from_their_folder() {
        for (link, target, says) in [
            ("a", "b", "b"),
            ("a", "b/c", "b/c"),
            ("a/l", "a/t", "t"),
            ("libertas/sd8688.bin", "mrvl/sd8688.bin", "../mrvl/sd8688.bin"),
            ("a/b/c/l", "a/x/y", "../../x/y"),
            ("a/b/l", "a", ".."),
        ] {
            assert_eq!(relative(link, target), says, "{link} -> {target}");
        }
    }
}
