//! ELF files of a tree without what only linkers and debuggers read, each once for all trees and builds: by its digest.
//! What is taken from which kind of file is known to `formats::elf`.

use std::collections::{BTreeMap, HashMap};

use mosbuild_cache::{Entry, Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::item::{Item, ItemWork};
use mosbuild_formats::elf::{self, Left};

use super::elves::{elves, replaced};
use super::globs::Globs;
use super::which::Chosen;
use super::{finished, saved};

/// Never touched: firmware is for other processors and may be signed, and files of debugging information are
/// nothing without it.
const UNTOUCHED: [&str; 2] = ["{lib,usr/lib}/firmware", "usr/{lib,local/lib}/debug"];
/// How many files that were left as they are get named.
const NAMED: usize = 20;

/// Input `tree`; params `only` and `exclude` (see [`Chosen`]). Output `tree`, fact `size`.
pub struct Strip;

impl Builtin for Strip {
    fn name(&self) -> &'static str {
        "rootfs-strip"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("tree")?;
        let chosen = Chosen::of(cx)?;
        let untouched = Globs::new(&UNTOUCHED).map_err(|(_, e)| StepError::new(e))?;
        let wanted = |entry: &Entry| chosen.has(&entry.path) && !untouched.covers(&entry.path);
        let found = elves(cx.store, &tree, |entry, _| wanted(entry))?;
        let items: Vec<Item> = found
            .iter()
            .map(|(entry, digest, size)| Item { name: entry.path.to_string(), digest: *digest, size: *size })
            .collect();
        let batch = cx.batch(&StripOne, &items)?;
        (cx.log)(&format!("{} of {} files stripped, {} known", batch.ran, items.len(), batch.known));

        let mut report = Report { files: items.len(), ..Report::default() };
        let mut by = HashMap::new();
        for (item, result) in items.iter().zip(&batch.results) {
            let Some(file) = result.outputs.get("file") else { continue };
            report.add(item, file, result.facts.get("left").map(String::as_str));
            by.insert(item.digest, (file.digest, file.size));
        }
        let notes = report.notes();
        notes.iter().for_each(|note| (cx.log)(note));
        finished(cx, &replaced(&tree, &by, wanted), notes)
    }
}

/// What became of the files, for people.
#[derive(Default)]
struct Report {
    files: usize,
    stripped: usize,
    before: u64,
    after: u64,
    signed: usize,
    left: Vec<String>,
}

impl Report {
    fn add(&mut self, item: &Item, file: &Output, left: Option<&str>) {
        match left {
            None => {
                self.stripped += 1;
                self.before += item.size;
                self.after += file.size;
            }
            Some("") => {}
            Some("signed") => self.signed += 1,
            Some(why) => self.left.push(format!("/{}: {why}", item.name)),
        }
    }

    fn notes(self) -> Vec<String> {
        let mut notes = vec![format!(
            "strip: {} of {} ELF files have become smaller{}",
            self.stripped,
            self.files,
            saved(self.before, self.after)
        )];
        match self.signed {
            0 => {}
            1 => notes.push("strip: 1 signed module is left as it is".into()),
            n => notes.push(format!("strip: {n} signed modules are left as they are")),
        }
        let more = self.left.len().saturating_sub(NAMED);
        notes.extend(self.left.into_iter().take(NAMED).map(|left| format!("strip: left as it is: {left}")));
        if more > 0 {
            notes.push(format!("strip: and {more} more are left as they are"));
        }
        notes
    }
}

/// One file. Output `file`; fact `left`, why it is as it was: empty if there is nothing to say.
struct StripOne;

impl ItemWork for StripOne {
    fn name(&self) -> &'static str {
        "strip"
    }

    fn version(&self) -> u32 {
        1
    }

    fn run(&self, cx: &BuiltinCx<'_>, item: &Item) -> Result<Made, StepError> {
        let kind = OutputKind::File { executable: false };
        let (file, left) = match elf::strip(&cx.store.read(&item.digest)?) {
            Ok(bytes) => {
                let digest = cx.store.put_bytes(&bytes)?;
                (Output { kind, digest, size: bytes.len() as u64 }, None)
            }
            Err(left) => {
                let why = match left {
                    Left::Nothing | Left::NoSections => String::new(),
                    Left::Signed => "signed".into(),
                    other => other.to_string(),
                };
                (Output { kind, digest: item.digest, size: item.size }, Some(why))
            }
        };
        Ok(Made {
            outputs: BTreeMap::from([("file".to_owned(), file)]),
            facts: left.into_iter().map(|why| ("left".to_owned(), why)).collect(),
            notes: Vec::new(),
        })
    }
}
