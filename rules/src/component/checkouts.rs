//! Git dependencies as `cargo vendor` leaves them: copies out of cargo's checkouts, in which the user's settings of git and
//! whoever wrote there have had a part. Puts back what the locked commits have. Knows cargo's folders, not the store.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_formats::git::{Kind, is_object};
use serde_json::Value as Json;

use crate::source::git::{Configured, Git, each_blob, entries};

/// Files that `cargo vendor` writes itself.
const MADE_BY_CARGO: [&str; 2] = ["Cargo.toml", ".cargo-checksum.json"];
/// Submodules within submodules.
const DEEPEST: usize = 10;

/// A package that came out of a checkout.
struct Package {
    /// Its vendored folder.
    vendored: PathBuf,
    /// Its folder in the checkout, relative to it.
    dir: PathBuf,
}

/// What a commit has at a path of the checkout.
struct Tracked {
    object: String,
    /// The repository that has the object: the checkout's, or a submodule's.
    repository: PathBuf,
    kind: Kind,
}

/// Takes a file's path and what its commit has there.
type Show<'a> = dyn FnMut(&Path, &[u8]) -> Result<(), StepError> + 'a;

/// Makes the vendored files of every git dependency those of its commit: `metadata` is cargo's, `crates` where they were
/// vendored to as `NAME-VERSION`. Without a git program they are taken as cargo gave them.
pub fn restore(cx: &BuiltinCx<'_>, metadata: &Json, crates: &Path) -> Result<(), StepError> {
    let checkouts = checkouts(metadata, crates);
    if checkouts.is_empty() {
        return Ok(());
    }
    if !Configured::ask().installed {
        (cx.log)("git is not installed: git dependencies are taken as cargo checked them out");
        return Ok(());
    }
    let git = Git::new(cx)?;
    for ((root, commit), packages) in checkouts {
        let mut tracked = BTreeMap::new();
        track(&git, &root, Path::new(""), &commit, 0, &mut tracked)?;
        same_manifests(&git, &root, &tracked)?;
        for package in packages {
            restore_one(&git, &root, &package, &tracked)?;
        }
    }
    Ok(())
}

/// The packages by their checkout and its commit.
fn checkouts(metadata: &Json, crates: &Path) -> BTreeMap<(PathBuf, String), Vec<Package>> {
    let mut found: BTreeMap<(PathBuf, String), Vec<Package>> = BTreeMap::new();
    for package in metadata.get("packages").and_then(Json::as_array).into_iter().flatten() {
        let text = |name: &str| package.get(name).and_then(Json::as_str);
        let one = || {
            let commit = text("source")?.strip_prefix("git+")?.rsplit_once('#')?.1;
            let dir = Path::new(text("manifest_path")?).parent()?;
            let root = dir.ancestors().find(|dir| dir.join(".git").exists())?;
            let vendored = crates.join(format!("{}-{}", text("name")?, text("version")?));
            let package = Package { vendored, dir: dir.strip_prefix(root).ok()?.to_owned() };
            is_object(commit).then(|| ((root.to_owned(), commit.to_owned()), package))
        };
        if let Some((checkout, package)) = one() {
            found.entry(checkout).or_default().push(package);
        }
    }
    found
}

/// All that a commit has, and its submodules, by path in the checkout.
fn track(
    git: &Git<'_>,
    root: &Path,
    below: &Path,
    commit: &str,
    depth: usize,
    tracked: &mut BTreeMap<PathBuf, Tracked>,
) -> Result<(), StepError> {
    use std::os::unix::ffi::OsStrExt;
    let repository = root.join(below).join(".git");
    for entry in entries(git, &repository, commit)? {
        let path = below.join(std::ffi::OsStr::from_bytes(&entry.path));
        if entry.kind == Kind::Submodule {
            // One that cargo left out has nothing vendored either.
            if depth < DEEPEST && root.join(&path).join(".git").is_dir() {
                track(git, root, &path, &entry.object, depth + 1, tracked)?;
            }
            continue;
        }
        let repository = repository.clone();
        tracked.insert(path, Tracked { object: entry.object, repository, kind: entry.kind });
    }
    Ok(())
}

/// cargo writes manifests anew, from those of the checkout: these must be the commit's, however their lines end.
fn same_manifests(git: &Git<'_>, root: &Path, tracked: &BTreeMap<PathBuf, Tracked>) -> Result<(), StepError> {
    let manifest = |path: &Path| path.file_name().is_some_and(|name| name == "Cargo.toml");
    let manifests = tracked.iter().filter(|(path, t)| manifest(path) && matches!(t.kind, Kind::File { .. }));
    contents(git, manifests.map(|(path, tracked)| (path.clone(), tracked)).collect(), &mut |path, right| {
        let lines = |bytes: &[u8]| bytes.iter().copied().filter(|b| *b != b'\r').collect::<Vec<u8>>();
        let file = root.join(path);
        // One outside of what cargo checked out is none of a package's.
        let Ok(there) = std::fs::read(&file) else { return Ok(()) };
        if lines(&there) == lines(right) {
            return Ok(());
        }
        let text = format!("{} is not what its commit has", file.display());
        Err(StepError::new(text).help(format!("remove {}: cargo makes it anew", root.display())).exit(4))
    })
}

fn restore_one(
    git: &Git<'_>,
    root: &Path,
    package: &Package,
    tracked: &BTreeMap<PathBuf, Tracked>,
) -> Result<(), StepError> {
    let mut files = Vec::new();
    files_below(&package.vendored, Path::new(""), &mut files)?;
    let mut wanted: Vec<(PathBuf, &Tracked)> = Vec::new();
    for file in files {
        if MADE_BY_CARGO.iter().any(|made| file == Path::new(made)) {
            continue;
        }
        let path = package.dir.join(&file);
        let link = |path: &Path| tracked.get(path).is_some_and(|t| t.kind == Kind::Symlink);
        match tracked.get(&path) {
            Some(found) if found.kind != Kind::Symlink => wanted.push((file, found)),
            // A copy of what a link leads to, or of what lies below one.
            _ if path.ancestors().any(link) => {}
            // cargo takes along what lies about in a checkout: its own marks, what build scripts wrote.
            _ if root.join(&path).exists() => {
                (git.cx.log)(&format!("{}: not in the commit, left out", path.display()));
                std::fs::remove_file(package.vendored.join(&file))?;
            }
            _ => {}
        }
    }
    let executable = |kind: Kind| matches!(kind, Kind::File { executable: true });
    for (file, found) in &wanted {
        let mode = if executable(found.kind) { 0o755 } else { 0o644 };
        std::fs::set_permissions(package.vendored.join(file), std::fs::Permissions::from_mode(mode))?;
    }
    contents(git, wanted, &mut |file, right| {
        let at = package.vendored.join(file);
        if std::fs::read(&at)? != right {
            (git.cx.log)(&format!("{}: taken as the commit has it", package.dir.join(file).display()));
            std::fs::write(&at, right)?;
        }
        Ok(())
    })
}

/// Shows the content that each file has in its commit.
fn contents(git: &Git<'_>, files: Vec<(PathBuf, &Tracked)>, show: &mut Show<'_>) -> Result<(), StepError> {
    let mut by_repository: BTreeMap<&Path, Vec<(&str, &Path)>> = BTreeMap::new();
    for (file, tracked) in &files {
        by_repository.entry(&tracked.repository).or_default().push((&tracked.object, file));
    }
    for (repository, files) in by_repository {
        let objects: Vec<&str> = files.iter().map(|(object, _)| *object).collect();
        let mut next = files.iter();
        each_blob(git, repository, &objects, &mut |_, _, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            next.next().map_or(Ok(()), |(_, file)| show(file, &bytes))
        })?;
    }
    Ok(())
}

/// The files below a folder, relative to it; links are none.
fn files_below(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_below(root, &path, found)?;
        } else if kind.is_file() {
            found.push(path);
        }
    }
    Ok(())
}
