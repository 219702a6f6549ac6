//! A commit of a git repository as a source: found by branch, tag or name, pinned in mosbuild.lock, fetched again by its pin.
//! Knows what is locked of it; the files beside this one know git.
//!
//! | file | what it is |
//! |---|---|
//! | url | URLs and revs as they may stand in a file |
//! | places | mirrors, and what is said when no place has it |
//! | program | the user's git and its environment |
//! | messages | what git says, understood |
//! | refs | which ref a rev means |
//! | repository | a commit fetched into a folder of the step's own |
//! | objects | what is in it, as streams |
//! | tree | the tree of a commit and its submodules |

mod messages;
mod objects;
mod places;
mod program;
mod refs;
mod repository;
mod tree;
mod url;

use std::collections::BTreeMap;

use mosbuild_cache::{Digest, Tree};
use mosbuild_engine::action::{Builtin, BuiltinCx, Input, Locking, Made, OutKind, Pinned, StepError};
use mosbuild_engine::fetch::shown;
use mosbuild_engine::lockfile::Pin;
use mosbuild_engine::plan::Planner;
use mosbuild_formats::git::is_object;

use super::GitSource;
use crate::steps::{locked, made, tree_output};
pub use objects::{each_blob, entries};
use places::each_place;
pub use program::{Configured, Git};
use repository::Repository;
pub use url::{name, rev_fault, url_fault};

/// Digits of a commit's name that are the fact `rev`.
const SHORT: usize = 7;
/// Files that a warning names one by one.
const NAMED: usize = 5;

/// The step that brings a commit in: its tree. With a `mark` the fact `rev` is `abc1234-MARK`.
pub fn plan(planner: &mut Planner<'_>, source: &GitSource, mark: Option<&str>) -> Input {
    let GitSource { git, rev } = source;
    let mut params = vec![("git", git.clone()), ("rev", rev.clone())];
    params.extend(mark.map(|mark| ("mark", mark.to_owned())));
    let step = planner.step(locked("source", format!("git {git} {rev}"), FetchGit, Vec::new(), &params));
    made(step, "source")
}

/// Brings a commit in. Params `git`, `rev` and `mark` (behind the fact `rev`); pin `commit`, `tree` (the digest of the tree that is made of it, submodules
/// included) and `ref` (which was taken, if it was one); output `source`; fact `rev`.
pub struct FetchGit;

impl Builtin for FetchGit {
    fn name(&self) -> &'static str {
        "git"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("source".into(), OutKind::Tree)]
    }

    fn waits(&self) -> bool {
        true
    }

    fn programs(&self) -> &'static [&'static str] {
        &["git"]
    }

    fn lock(&self, cx: &BuiltinCx<'_>, locking: &Locking<'_>) -> Result<Pin, StepError> {
        let (url, rev) = (cx.param("git"), cx.param("rev"));
        let git = Git::new(cx)?;
        let previous = locking.previous.filter(|pin| digests(url, pin).is_ok());
        let mut pin = each_place(cx, url, &mut |place| {
            let found = repository::resolve(&git, place, rev)?;
            let mut pin = Pin::of([("commit", found.object.clone())]);
            pin.fields.extend(found.name.clone().map(|name| ("ref".to_owned(), name)));
            // The branch is where it was: what the lock has of it is right, if the store has it.
            let known =
                previous.filter(|pin| pin.field("commit") == found.object).map(|pin| pin.field("tree"));
            if let Some(known) = known
                && let Ok(digest) = known.parse::<Digest>()
                && tree::from_store(cx.store, &digest).is_some()
            {
                pin.fields.insert("tree".into(), known.to_owned());
                return Ok(pin);
            }
            let repository = Repository::init(&git, &cx.scratch.join("repository"), found.object.len())?;
            let commit = repository.fetch(place, &found.object, found.name.as_deref())?;
            pin.fields.insert("commit".into(), commit);
            Ok(pin)
        })?;
        if !pin.fields.contains_key("tree") {
            let made = tree::of_commit(&git, url, &cx.scratch.join("repository"), pin.field("commit"))?;
            let stored = tree_output(cx.store, &made)?;
            pin.fields.insert("tree".into(), stored.digest.hex());
        }
        warn_of_moved_tag(cx, url, previous, &pin);
        Ok(pin)
    }

    fn pinned(&self, cx: &BuiltinCx<'_>, pin: &Pin) -> Result<Pinned, StepError> {
        digests(cx.param("git"), pin)?;
        let decides = ["commit", "tree"].map(|name| (name.to_owned(), pin.field(name).to_owned()));
        // Where a commit comes from, and by which name it was found, does not change it.
        let found_by = ["git", "rev"].map(str::to_owned);
        Ok(Pinned { params: decides.into(), replaced_params: found_by.into(), ..Pinned::default() })
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let (url, pin) = (cx.param("git"), cx.pin()?);
        let (commit, digest) = digests(url, pin)?;
        let tree = match tree::from_store(cx.store, &digest) {
            Some(tree) => {
                (cx.log)(&format!("{}: the store has the tree of commit {commit}", shown(url)));
                tree
            }
            None => fetched(cx, url, commit, pin)?,
        };
        let output = tree_output(cx.store, &tree)?;
        if output.digest != digest {
            let text = format!(
                "commit {commit} of {} makes another tree than mosbuild.lock has: {} and not {digest}",
                shown(url),
                output.digest
            );
            let help = "the lock was changed by hand, or a submodule is not what it was: `mosbuild lock --update TARGET` \
                        takes it as it is now";
            return Err(StepError::new(text).help(help).exit(4));
        }
        let rev = match cx.param("mark") {
            "" => commit[..SHORT].to_owned(),
            mark => format!("{}-{mark}", &commit[..SHORT]),
        };
        Ok(Made {
            outputs: BTreeMap::from([("source".to_owned(), output)]),
            facts: BTreeMap::from([("rev".to_owned(), rev)]),
            notes: pointers(cx, &tree)?,
        })
    }
}

/// Fetches the commit and makes its tree.
fn fetched(cx: &BuiltinCx<'_>, url: &str, commit: &str, pin: &Pin) -> Result<Tree, StepError> {
    let git = Git::new(cx)?;
    let dir = cx.scratch.join("repository");
    let name = Some(pin.field("ref")).filter(|name| name.starts_with("refs/") && rev_fault(name).is_none());
    each_place(cx, url, &mut |place| {
        let repository = Repository::init(&git, &dir, commit.len())?;
        repository.fetch(place, commit, name)
    })?;
    tree::of_commit(&git, url, &dir, commit)
}

/// The commit and the digest of the tree in a pin.
fn digests<'p>(url: &str, pin: &'p Pin) -> Result<(&'p str, Digest), StepError> {
    let commit = pin.field("commit");
    match pin.field("tree").parse() {
        Ok(digest) if is_object(commit) => Ok((commit, digest)),
        _ => {
            let text = format!("mosbuild.lock has no whole commit and tree of {}", shown(url));
            Err(StepError::new(text).help("`mosbuild lock --update` makes them anew").exit(4))
        }
    }
}

/// Tags are not expected to move; that one did is said beside the change of the lock.
fn warn_of_moved_tag(cx: &BuiltinCx<'_>, url: &str, before: Option<&Pin>, now: &Pin) {
    let Some(before) = before else { return };
    let name = now.field("ref");
    if refs::is_tag(name) && before.field("ref") == name && before.field("commit") != now.field("commit") {
        (cx.warn)(&format!(
            "{} of {} was moved, from {} to {}",
            refs::told(name),
            shown(url),
            before.field("commit"),
            now.field("commit")
        ));
    }
}

/// What a person should know of files that stand for others; also said at once.
fn pointers(cx: &BuiltinCx<'_>, tree: &Tree) -> Result<Vec<String>, StepError> {
    let found = tree::lfs_pointers(cx.store, tree)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let named: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
    let more = found.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let note = format!(
        "pointers of Git LFS, not the files that they stand for, which mosbuild does not fetch: {}{more}",
        named.join(", ")
    );
    (cx.warn)(&note);
    Ok(vec![note])
}
