//! What `ls`, `cat` and `diff` look into: an output of a target as a run left it, or a file of this machine. Reads run
//! records and the store; runs nothing and takes no lock.

mod causes;
mod changes;
mod text;

use std::path::{Path, PathBuf};

use mosbuild_cache::Digest;
use mosbuild_engine::build::named;
use mosbuild_engine::load::{Loaded, OutputKind};
use mosbuild_engine::plan;
use mosbuild_engine::run_record::{RunHead, Runs, StepRun};
use mosbuild_rules::flist::BLOCKS;
use mosbuild_rules::inspect::{self, Blocks, Held, Hull, Items};

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::session::{Access, Grounds, Place};
use crate::ui::Ui;

pub use changes::compare;
pub use text::{entry_json, escaped, long};

/// Where outputs are looked for.
pub struct Desk {
    /// The workspace, if there is one; files need none.
    pub workspace: Option<(Grounds, Loaded)>,
    /// Folders with blocks of flists, beside those that they name themselves.
    pub blocks: Vec<PathBuf>,
}

/// Which output of which target, in which run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The target.
    pub target: String,
    /// Its output.
    pub output: String,
    /// The run.
    pub run: String,
}

/// Something that was looked into.
pub struct Subject {
    /// How it was named.
    pub label: String,
    /// Of an output.
    pub origin: Option<Origin>,
    /// Digest of the whole.
    pub digest: Digest,
    /// Bytes of a file; of a tree those of its files.
    pub size: u64,
    /// What is around the entries.
    pub hulls: Vec<Hull>,
    /// What has the entries; of a file that is no archive there is none.
    pub held: Option<Held>,
    /// The expanded kernel of an image.
    pub kernel: Option<Vec<u8>>,
    /// The path behind `target:output/`.
    pub below: Option<String>,
    bytes: Option<Vec<u8>>,
}

impl Subject {
    /// The bytes of a file.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }

    /// Its entries.
    pub fn items(&self) -> Result<Items, Failure> {
        match &self.held {
            Some(held) => held.items().map_err(|e| self.fails(&e)),
            None => Err(self.no_archive()),
        }
    }

    /// Its entries; of files of an flist no digests of contents.
    pub fn listing(&self) -> Result<Items, Failure> {
        match &self.held {
            Some(held) => held.listing().map_err(|e| self.fails(&e)),
            None => Err(self.no_archive()),
        }
    }

    /// Whether it is an flist.
    pub fn is_flist(&self) -> bool {
        matches!(self.held, Some(Held::Flist(_)))
    }

    /// Said where entries are asked for and there are none.
    pub fn no_archive(&self) -> Failure {
        Failure::usage(format!(
            "{} is neither a tree, nor an archive, nor an image with one inside",
            self.label
        ))
        .help(format!("`mosbuild cat {}` prints it", self.label))
    }

    /// An error of reading it.
    pub fn fails(&self, error: &inspect::Error) -> Failure {
        failed(&self.label, error, self.origin.as_ref().map(|o| o.target.as_str()))
    }
}

fn failed(label: &str, error: &inspect::Error, target: Option<&str>) -> Failure {
    let failure = Failure::new(1, format!("{label}: {error}"));
    match (error, target) {
        (inspect::Error::Blob(_), Some(target)) => {
            failure.help(format!("`mosbuild build {target}` makes it again"))
        }
        (inspect::Error::NoBlock { .. }, _) => failure.help("--blocks names a folder that has the blocks"),
        _ => failure,
    }
}

impl Desk {
    /// The workspace here, if there is one.
    pub fn open(ui: &Ui, global: &GlobalArgs, store: &StoreArgs) -> Result<Desk, Failure> {
        let asked = global.directory.is_some() || global.file.is_some();
        if !asked && Place::find(global).is_err() {
            return Ok(Desk { workspace: None, blocks: Vec::new() });
        }
        let grounds = Grounds::open(ui, global, store, None, Access::Read)?;
        let loaded = grounds.site.load()?;
        Ok(Desk { workspace: Some((grounds, loaded)), blocks: Vec::new() })
    }

    /// The runs of the workspace.
    pub fn runs(&self) -> Option<Runs> {
        self.workspace.as_ref().map(|(grounds, _)| Runs::of(&grounds.site.dirs().state))
    }

    /// Looks into what was named: `target`, `target:output` or `target:output/path`, as the newest run that made it left it
    /// or as this one did; else a file. A name with a slash before any colon is a file's.
    pub fn subject(&self, name: &str, run: Option<&str>) -> Result<Subject, Failure> {
        let mut subject = self.opened(name, run)?;
        if let Some(Held::Flist(listed)) = &mut subject.held {
            let given = self.blocks.iter().cloned().map(Blocks::Folder);
            listed.places.splice(0..0, given);
        }
        Ok(subject)
    }

    fn opened(&self, name: &str, run: Option<&str>) -> Result<Subject, Failure> {
        let target = name.split(':').next().unwrap_or_default();
        let is_path = target.contains('/') || target == "." || target == "..";
        if !is_path && let Some((grounds, loaded)) = &self.workspace {
            if loaded.target_index(target).is_some() {
                return output(grounds, loaded, name, run);
            }
            if !Path::new(name).is_file() {
                named(loaded, target)?;
            }
        }
        if run.is_some() {
            return Err(Failure::usage(format!("{name} is a file, which no run has")));
        }
        file(name)
    }
}

fn file(name: &str) -> Result<Subject, Failure> {
    let path = Path::new(name);
    if path.is_dir() {
        return Err(Failure::usage(format!("{name} is a folder of this machine"))
            .help("name a target, an archive or an image"));
    }
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Failure::usage(format!("there is no target and no file {name}"))
            .help("`mosbuild list` shows the targets"),
        _ => Failure::io(path, e),
    })?;
    opened(name, None, Digest::of(&bytes), bytes)
}

fn opened(label: &str, origin: Option<Origin>, digest: Digest, bytes: Vec<u8>) -> Result<Subject, Failure> {
    let target = origin.as_ref().map(|o| o.target.clone());
    let size = bytes.len() as u64;
    let opened = match inspect::open(&bytes) {
        Ok(opened) => opened,
        // A kernel without an archive is a file like others.
        Err(inspect::Error::NoInitramfs) => inspect::Opened::default(),
        Err(e) => return Err(failed(label, &e, target.as_deref())),
    };
    let inspect::Opened { hulls, held, kernel } = opened;
    let label = label.to_owned();
    Ok(Subject { label, origin, digest, size, hulls, held, kernel, below: None, bytes: Some(bytes) })
}

/// The declared output that a text behind the colon names, and the path behind it.
fn split_output<'t>(outputs: &[&'t str], text: &'t str) -> Option<(&'t str, Option<&'t str>)> {
    if text.is_empty() || text.starts_with('/') {
        let path = text.trim_start_matches('/');
        return Some((*outputs.first()?, (!path.is_empty()).then_some(path)));
    }
    let fits =
        |name: &&&str| text.strip_prefix(**name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let name = *outputs.iter().filter(fits).max_by_key(|name| name.len())?;
    let path = text[name.len()..].trim_matches('/');
    Some((name, (!path.is_empty()).then_some(path)))
}

fn output(grounds: &Grounds, loaded: &Loaded, name: &str, run: Option<&str>) -> Result<Subject, Failure> {
    let (target, rest) = name.split_once(':').unwrap_or((name, ""));
    let index = named(loaded, target)?;
    let declared = &loaded.targets[index as usize].outputs;
    let names: Vec<&str> = declared.iter().map(|o| o.name.as_str()).collect();
    let Some((output, below)) = split_output(&names, rest) else {
        return Err(match names.is_empty() {
            true => Failure::usage(format!("{target} is a group: it makes nothing itself")),
            false => Failure::usage(format!("{target} has no output {rest}"))
                .help(format!("its outputs are {}", names.join(", "))),
        });
    };
    let kind = declared.iter().find(|o| o.name == output).map(|o| o.kind);
    let state = grounds.site.dirs().state;
    let runs = Runs::of(&state);
    let maker = maker(grounds, loaded, index, output);
    let made = match run {
        Some(id) => {
            let head = head(&runs, id)?;
            made_in(&runs, head, target, output, maker.as_ref())
                .ok_or_else(|| Failure::usage(format!("run {id} did not make {target}:{output}")))?
        }
        None => {
            let heads = runs.ids().into_iter().rev().filter_map(|id| runs.head(&id));
            let mut made = heads.filter_map(|head| made_in(&runs, head, target, output, maker.as_ref()));
            made.next().ok_or_else(|| {
                Failure::usage(format!("{target}:{output} was never made here")).help(format!(
                    "`mosbuild build {target}` builds it; only what a build left is looked into"
                ))
            })?
        }
    };
    let (head, digest) = made;
    // The blocks that an flist was made with, where the store still has them.
    let blocks = names.contains(&BLOCKS).then(|| {
        let maker = self::maker(grounds, loaded, index, BLOCKS);
        let (_, digest) = made_in(&runs, head.clone(), target, BLOCKS, maker.as_ref())?;
        let tree = grounds.store.get_tree(&digest).ok()?;
        Some(Blocks::Tree(format!("{target}:{BLOCKS}"), grounds.store.clone(), tree))
    });
    let origin = Origin { target: target.to_owned(), output: output.to_owned(), run: head.id };
    let below = below.map(str::to_owned);
    let fails = |e: &inspect::Error| failed(name, e, Some(target));
    if kind == Some(OutputKind::Tree) {
        let held = inspect::of_store(&grounds.store, &digest).map_err(|e| fails(&e))?;
        let size = match &held {
            Held::Tree(_, tree) => tree.file_bytes(),
            _ => 0,
        };
        let hulls = Vec::new();
        let label = name.to_owned();
        let (origin, held) = (Some(origin), Some(held));
        return Ok(Subject { label, origin, digest, size, hulls, held, kernel: None, below, bytes: None });
    }
    let bytes = grounds.store.read(&digest).map_err(|e| fails(&e.into()))?;
    let mut subject = Subject { below, ..opened(name, Some(origin), digest, bytes)? };
    if let (Some(Held::Flist(listed)), Some(Some(blocks))) = (&mut subject.held, blocks) {
        listed.places.insert(0, blocks);
    }
    Ok(subject)
}

/// The head of a run that was named.
pub fn head(runs: &Runs, id: &str) -> Result<RunHead, Failure> {
    runs.head(id).ok_or_else(|| {
        Failure::usage(format!("unknown run {id}")).help("`mosbuild runs` shows those there are")
    })
}

/// The step and its output that a target's output is, as the workspace is declared now.
fn maker(grounds: &Grounds, loaded: &Loaded, target: u32, output: &str) -> Option<(String, String)> {
    let closure = plan::closure(loaded, &[target]);
    let (graph, _) = plan::plan_what_can_be(loaded, &grounds.site.registry, closure);
    let (step, name) = graph.maker(target, output)?;
    Some((graph.steps[step as usize].step.name.clone(), name.to_owned()))
}

/// What a run left of an output.
fn made_in(
    runs: &Runs,
    head: RunHead,
    target: &str,
    output: &str,
    maker: Option<&(String, String)>,
) -> Option<(RunHead, Digest)> {
    if !head.targets.iter().any(|t| t == target) {
        return None;
    }
    let steps = runs.steps(&head)?;
    let own: Vec<&StepRun> = steps.iter().filter(|s| s.target == target).collect();
    let exact = maker.and_then(|(step, name)| own.iter().find(|s| s.step == *step)?.outputs.get(name));
    // The target may have been declared otherwise then: the last step that made an output of this name.
    let (digest, _) = exact.or_else(|| own.iter().rev().find_map(|s| s.outputs.get(output)))?;
    Some((head, *digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_and_paths_are_told_apart() {
        let outputs = ["tree", "bin", "bin/tool"];
        let split = |text| split_output(&outputs, text);
        assert_eq!(split(""), Some(("tree", None)));
        assert_eq!(split("/etc/motd"), Some(("tree", Some("etc/motd"))));
        assert_eq!(split("tree/etc"), Some(("tree", Some("etc"))));
        assert_eq!(split("bin/tool"), Some(("bin/tool", None)), "the longest name");
        assert_eq!(split("bin/other"), Some(("bin", Some("other"))));
        assert_eq!(split("bin/"), Some(("bin", None)));
        assert_eq!(split("binary"), None);
        assert_eq!(split_output(&[], ""), None);
    }
}
