//! Where firmware is taken from: a folder, or an archive of which only what is wanted reaches the store.
//! Knows paths and links of the source and finds WHENCE in it; does not know what WHENCE says.
//!
//! linux-firmware unpacks to most of a gigabyte, of which an image takes a few files. An archive is read once: as soon as
//! WHENCE has gone by, it is known what to keep of the rest, and what came before lies in memory, within a bound. Tarballs
//! of git have capitals first, so that little comes before WHENCE; where more does, or a wanted file turns out to be a
//! link to another, the archive is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use mosbuild_cache::{Digest, Entry, Node, Tree};
use mosbuild_engine::action::{Available, BuiltinCx, StepError};
use mosbuild_formats::tarball::{self, Kind, Options};
use mosbuild_formats::whence::{self, Catalog};

use crate::steps::tree_of;

/// The list of linux-firmware.
const WHENCE: &str = "WHENCE";
/// The largest WHENCE; the real one has 350 kB.
const WHENCE_MAX: u64 = 16 << 20;
/// The largest file that is taken for firmware.
const FILE_MAX: u64 = 256 << 20;
/// What is kept of the files that come before WHENCE, in bytes.
const EARLY_MAX: u64 = 64 << 20;
/// How often an archive is read: the second time for what links lead to, which cannot be links again.
const PASSES: usize = 3;

/// Told what WHENCE is, gives the paths that are wanted.
type Choose<'c> = dyn FnMut(&str) -> Result<BTreeSet<String>, StepError> + 'c;

/// A source whose names are known.
pub struct FirmwareSource<'a> {
    cx: &'a BuiltinCx<'a>,
    input: &'a str,
    /// Its files and the links that end in it.
    pub names: Catalog,
    /// The text of WHENCE.
    pub whence: Option<String>,
    /// The one folder that all of an archive lies in; empty if there is none.
    pub top: String,
    /// Digest of the archive or of the folder.
    pub digest: Digest,
    /// Contents by path: of an archive those in the store, of a folder all.
    blobs: BTreeMap<String, (Digest, u64)>,
    is_archive: bool,
}

impl<'a> FirmwareSource<'a> {
    /// Looks a source through. `choose` is called when WHENCE is known, if there is one.
    pub fn open(
        cx: &'a BuiltinCx<'a>,
        input: &'a str,
        choose: &mut Choose<'_>,
    ) -> Result<FirmwareSource<'a>, StepError> {
        match cx.inputs.get(input) {
            Some(Available::Tree { digest, .. }) => FirmwareSource::folder(cx, input, *digest, choose),
            Some(Available::File { digest, .. }) => FirmwareSource::archive(cx, input, *digest, choose),
            None => Err(StepError::new(format!("no input named {input}"))),
        }
    }

    fn folder(
        cx: &'a BuiltinCx<'a>,
        input: &'a str,
        digest: Digest,
        choose: &mut Choose<'_>,
    ) -> Result<FirmwareSource<'a>, StepError> {
        let tree = cx.listed(input)?;
        let mut listing = Listing::default();
        let mut blobs = BTreeMap::new();
        for entry in tree.iter() {
            let Ok(path) = std::str::from_utf8(entry.path.as_bytes()) else { continue };
            match &entry.node {
                Node::File { digest, size } => {
                    listing.add(path, Listed::File);
                    blobs.insert(path.to_owned(), (*digest, *size));
                }
                Node::Symlink { target } => listing.add(path, Listed::Symlink(target.clone())),
                _ => {}
            }
        }
        let names = listing.catalog("");
        let mut source = FirmwareSource {
            cx,
            input,
            names,
            whence: None,
            top: String::new(),
            digest,
            blobs,
            is_archive: false,
        };
        if let Some((path, (digest, size))) = source.blob_at(WHENCE) {
            if size > WHENCE_MAX {
                return Err(too_large(WHENCE, WHENCE_MAX));
            }
            source.ingest(&[path])?;
            let text = String::from_utf8_lossy(&cx.store.read(&digest)?).into_owned();
            let wanted = choose(&text)?;
            source.whence = Some(text);
            source.bring(&wanted)?;
        }
        Ok(source)
    }

    fn archive(
        cx: &'a BuiltinCx<'a>,
        input: &'a str,
        digest: Digest,
        choose: &mut Choose<'_>,
    ) -> Result<FirmwareSource<'a>, StepError> {
        let first = FirstPass::read(cx, input, choose)?;
        let top = first.listing.single_folder();
        let names = first.listing.catalog(&top);
        let mut candidates = first.whence;
        let whence = candidates.remove(&top);
        let chosen = first.chosen.filter(|chosen| chosen.top == top);
        let mut source = FirmwareSource {
            cx,
            input,
            names,
            whence,
            top,
            digest,
            blobs: BTreeMap::new(),
            is_archive: true,
        };
        match (chosen, source.whence.clone()) {
            (Some(chosen), _) => {
                source.blobs = chosen.stored;
                source.bring(&chosen.wanted)?;
            }
            // A WHENCE in a folder was taken for the right one, or the right one cannot be read.
            (None, Some(text)) => {
                let wanted = choose(&text)?;
                source.bring(&wanted)?;
            }
            (None, None) => {}
        }
        Ok(source)
    }

    /// Whether a path ends in a file of the source.
    pub fn has(&self, path: &str) -> bool {
        self.place(path).is_some()
    }

    /// Whether a name, a folder or a glob stands for any file of the source.
    pub fn has_any(&self, request: &str) -> bool {
        self.names.look_up(request).is_ok_and(|found| !found.files.is_empty())
    }

    /// A file's content, in the store after [`FirmwareSource::bring`].
    pub fn blob(&self, path: &str) -> Option<(Digest, u64)> {
        self.blob_at(path).map(|(_, blob)| blob)
    }

    fn blob_at(&self, path: &str) -> Option<(String, (Digest, u64))> {
        let place = self.place(path)?;
        let blob = *self.blobs.get(&place)?;
        Some((place, blob))
    }

    /// Where the file of a path lies, links followed.
    fn place(&self, path: &str) -> Option<String> {
        let end = self.names.resolve(path)?;
        (end.kind == whence::Kind::File).then_some(end.path)
    }

    /// Sees to it that those of these files that the source has are in the store.
    pub fn bring(&mut self, paths: &BTreeSet<String>) -> Result<(), StepError> {
        let places: BTreeSet<String> = paths.iter().filter_map(|path| self.place(path)).collect();
        if !self.is_archive {
            let places: Vec<String> = places.into_iter().collect();
            return self.ingest(&places);
        }
        for pass in 2..=PASSES {
            let lacking: BTreeSet<&String> =
                places.iter().filter(|path| !self.blobs.contains_key(*path)).collect();
            if lacking.is_empty() {
                return Ok(());
            }
            (self.cx.log)(&format!("reading the archive again (pass {pass}) for {} files", lacking.len()));
            let prefix = if self.top.is_empty() { String::new() } else { format!("{}/", self.top) };
            let mut stored = Vec::new();
            read(self.cx, self.input, |entry, data| {
                let Some(path) = name(entry).and_then(|path| path.strip_prefix(&prefix)) else {
                    return Ok(());
                };
                if let Kind::File { size } = entry.kind
                    && lacking.contains(&path.to_owned())
                {
                    stored.push((path.to_owned(), store(self.cx, path, size, data)?));
                }
                Ok(())
            })?;
            self.blobs.extend(stored);
        }
        Ok(())
    }

    fn ingest(&self, places: &[String]) -> Result<(), StepError> {
        let entry = |path: &String| {
            let (digest, size) = *self.blobs.get(path)?;
            crate::steps::entry(path.as_bytes(), 0o644, Node::File { digest, size }).ok()
        };
        let entries: Vec<Entry> = places.iter().filter_map(entry).collect();
        let some: Tree = tree_of(entries)?;
        self.cx.ingest(self.input, &some)
    }
}

/// What is at a path of a source.
enum Listed {
    File,
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Alias(String),
}

/// Paths of a source, those of an archive with the folder that all lies in.
#[derive(Default)]
struct Listing {
    entries: Vec<(String, Listed)>,
    folders: Vec<String>,
}

impl Listing {
    fn add(&mut self, path: &str, listed: Listed) {
        self.entries.push((path.to_owned(), listed));
    }

    /// The folder that all lies in, as in every release tarball.
    fn single_folder(&self) -> String {
        let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
        let Some((path, _)) = self.entries.first() else { return String::new() };
        let top = first(path);
        let inside = self.entries.iter().all(|(path, _)| first(path) == top && path.contains('/'));
        match inside && self.folders.iter().all(|path| first(path) == top) {
            true => top,
            false => String::new(),
        }
    }

    /// Its names below `top`. Links out of it end nowhere, and are left out.
    fn catalog(&self, top: &str) -> Catalog {
        let prefix = if top.is_empty() { String::new() } else { format!("{top}/") };
        let mut catalog = Catalog::default();
        for (path, listed) in &self.entries {
            let Some(path) = path.strip_prefix(&prefix) else { continue };
            // The archive was checked and a folder has one of each: nothing can clash.
            let _ = match listed {
                Listed::File => catalog.add_file(path),
                Listed::Alias(to) => match to.strip_prefix(&prefix) {
                    Some(to) => catalog.add_link(path, to),
                    None => Ok(()),
                },
                Listed::Symlink(target) => {
                    match whence::link_target(path, &String::from_utf8_lossy(target)) {
                        Ok(target) => catalog.add_link(path, &target),
                        Err(_) => Ok(()),
                    }
                }
            };
        }
        catalog
    }
}

/// What is wanted, known while the archive goes by.
struct Chosen {
    /// The folder that WHENCE lies in.
    top: String,
    wanted: BTreeSet<String>,
    stored: BTreeMap<String, (Digest, u64)>,
}

/// The first time that an archive is read.
#[derive(Default)]
struct FirstPass {
    listing: Listing,
    /// Texts of WHENCE at the top and in folders there, by the folder.
    whence: HashMap<String, String>,
    chosen: Option<Chosen>,
    /// Files before WHENCE, as many as [`EARLY_MAX`] allows.
    early: Vec<(String, Vec<u8>)>,
    early_bytes: u64,
}

impl FirstPass {
    fn read(cx: &BuiltinCx<'_>, input: &str, choose: &mut Choose<'_>) -> Result<FirstPass, StepError> {
        let mut pass = FirstPass::default();
        read(cx, input, |entry, data| {
            let Some(path) = name(entry) else { return Ok(()) };
            match &entry.kind {
                Kind::Dir => pass.listing.folders.push(path.to_owned()),
                Kind::Symlink { target } => pass.listing.add(path, Listed::Symlink(target.clone())),
                Kind::HardLink { to } => {
                    if let Ok(to) = std::str::from_utf8(to) {
                        pass.listing.add(path, Listed::Alias(to.to_owned()));
                    }
                }
                Kind::File { size } => {
                    pass.listing.add(path, Listed::File);
                    pass.file(cx, path, *size, data, choose)?;
                }
                _ => {}
            }
            Ok(())
        })?;
        let (count, kept) = (pass.listing.entries.len(), pass.chosen.as_ref().map_or(0, |c| c.stored.len()));
        (cx.log)(&format!("read {count} files and links of the archive, kept {kept}"));
        Ok(pass)
    }

    fn file(
        &mut self,
        cx: &BuiltinCx<'_>,
        path: &str,
        size: u64,
        data: &mut dyn Read,
        choose: &mut Choose<'_>,
    ) -> Result<(), StepError> {
        let (top, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == WHENCE && !top.contains('/') {
            if size > WHENCE_MAX {
                return Err(too_large(path, WHENCE_MAX));
            }
            let mut bytes = Vec::new();
            data.read_to_end(&mut bytes)?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            // One that cannot be read may be another folder's list: whether it is the source's own is known at the end,
            // and what is wrong with it is told then.
            if self.chosen.is_none()
                && let Ok(wanted) = choose(&text)
            {
                let mut chosen = Chosen { top: top.to_owned(), wanted, stored: BTreeMap::new() };
                for (path, bytes) in std::mem::take(&mut self.early) {
                    if let Some(path) = chosen.wants(&path) {
                        let blob = (cx.store.put_bytes(&bytes)?, bytes.len() as u64);
                        chosen.stored.insert(path, blob);
                    }
                }
                self.chosen = Some(chosen);
            }
            self.whence.insert(top.to_owned(), text);
            return Ok(());
        }
        match &mut self.chosen {
            Some(chosen) => {
                if let Some(wanted) = chosen.wants(path) {
                    let blob = store(cx, path, size, data)?;
                    chosen.stored.insert(wanted, blob);
                }
            }
            None if self.early_bytes + size <= EARLY_MAX => {
                let mut bytes = Vec::new();
                data.read_to_end(&mut bytes)?;
                self.early_bytes += size;
                self.early.push((path.to_owned(), bytes));
            }
            None => {}
        }
        Ok(())
    }
}

impl Chosen {
    /// A path of the archive as it was asked for, if it was.
    fn wants(&self, path: &str) -> Option<String> {
        let path = match self.top.as_str() {
            "" => path,
            top => path.strip_prefix(top)?.strip_prefix('/')?,
        };
        self.wanted.contains(path).then(|| path.to_owned())
    }
}

fn name(entry: &tarball::Entry) -> Option<&str> {
    std::str::from_utf8(&entry.path).ok()
}

fn too_large(path: &str, max: u64) -> StepError {
    StepError::new(format!("{path} has more than {} MiB: it is something else", max >> 20))
}

fn store(cx: &BuiltinCx<'_>, path: &str, size: u64, data: &mut dyn Read) -> Result<(Digest, u64), StepError> {
    if size > FILE_MAX {
        return Err(too_large(path, FILE_MAX));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    data.read_to_end(&mut bytes)?;
    Ok((cx.store.put_bytes(&bytes)?, bytes.len() as u64))
}

/// Shows each entry of the archive.
fn read(
    cx: &BuiltinCx<'_>,
    input: &str,
    mut visit: impl FnMut(&tarball::Entry, &mut dyn Read) -> Result<(), StepError>,
) -> Result<(), StepError> {
    cx.stream(input, |bytes| {
        let options = Options::default();
        let done = tarball::read(bytes, &options, |entry, data| {
            if (cx.cancelled)() {
                return Err(Refused(StepError::new("it was interrupted")));
            }
            visit(entry, data).map_err(Refused)
        });
        done.map(drop).map_err(|Refused(e)| e)
    })
}

/// An error of the archive or of what is done with it.
struct Refused(StepError);

impl From<tarball::Error> for Refused {
    fn from(e: tarball::Error) -> Refused {
        Refused(StepError::new(format!("the source cannot be read: {e}")))
    }
}
