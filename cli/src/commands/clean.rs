//! `mosbuild clean`: removes from dist/ what mosbuild placed there and nobody has changed, and scratch.
//! Goes by SHA256SUMS; needs no readable mosbuild.yaml. Never touches the store.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use mosbuild_engine::build::sign;
use sha2::Digest;

use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format::{count, size};
use crate::made;
use crate::publish;
use crate::session::{Place, lock};
use crate::ui::Ui;

const SUMS: &str = "SHA256SUMS";
/// What `.mosbuild` holds beside the state that --all is for.
const SCRATCH: [&str; 3] = ["scratch", "tmp", "root"];

/// Arguments of `clean`.
#[derive(Args, Debug)]
pub struct CleanArgs {
    /// Also the workspace's state: run records, history, stat cache
    #[arg(long)]
    all: bool,
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Removed {
    files: usize,
    bytes: u64,
    /// Listed, but changed since: left alone.
    kept: Vec<PathBuf>,
}

/// Cleans.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &CleanArgs) -> Result<u8, Failure> {
    let place = Place::find(global)?;
    let state = place.state();
    // Without state nothing was ever built here, and no lock need be made to say so.
    let held = if state.is_dir() { Some(lock(ui, &place)?) } else { None };
    let folder = place.root.join("dist");
    // Before the list goes, and with it the folder.
    if sign::ours(&state, &folder) {
        let _ = std::fs::remove_file(folder.join(sign::SIGNATURE));
        let _ = std::fs::remove_file(state.join(sign::RECORD));
    }
    if held.is_some() {
        publish::place(&folder, &state, &[])?;
    }
    let removed = dist(&folder)?;
    for path in &removed.kept {
        ui.warn(&format!("{} was changed since it was placed; it is left alone", path.display()));
    }
    if held.is_some() {
        match args.all {
            true => remove_state(&state)?,
            false => SCRATCH.iter().try_for_each(|name| remove_dir(&state.join(name)))?,
        }
    }
    let also = if args.all && held.is_some() { " and the workspace's state" } else { "" };
    ui.note(&format!("removed {} ({}){also}", count(removed.files, "file"), size(removed.bytes)));
    Ok(0)
}

/// Removes the listed files, the list, leftovers of killed runs, and directories that are empty then.
fn dist(dir: &Path) -> Result<Removed, Failure> {
    let mut removed = Removed::default();
    let sums = dir.join(SUMS);
    let list = match std::fs::read_to_string(&sums) {
        Ok(list) => list,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(removed),
        Err(e) => return Err(Failure::io(&sums, e)),
    };
    for (sum, name) in list.lines().filter_map(entry) {
        let path = dir.join(name);
        let mut parents = path.ancestors().skip(1).take_while(|p| p.starts_with(dir));
        // Through a symlink the path would lead out of dist/.
        if parents.any(Path::is_symlink) {
            removed.kept.push(path);
            continue;
        }
        match std::fs::symlink_metadata(&path) {
            Err(_) => {}
            Ok(meta) if meta.is_file() && sha256(&path).is_ok_and(|found| found == sum) => {
                std::fs::remove_file(&path).map_err(|e| Failure::io(&path, e))?;
                removed.files += 1;
                removed.bytes += meta.len();
            }
            Ok(_) => removed.kept.push(path.clone()),
        }
        let leftover = path.with_file_name(format!(
            ".{}.mosbuild-new",
            path.file_name().unwrap_or_default().to_string_lossy()
        ));
        let _ = std::fs::remove_file(leftover);
        for parent in path.ancestors().skip(1).take_while(|p| p.starts_with(dir) && *p != dir) {
            // One that is not empty refuses, and stays.
            let _ = std::fs::remove_dir(parent);
        }
    }
    std::fs::remove_file(&sums).map_err(|e| Failure::io(&sums, e))?;
    let _ = std::fs::remove_dir(dir);
    Ok(removed)
}

/// Sum and path of a line; none for a path that would leave the directory.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (sum, name) = line.split_once("  ")?;
    let inside = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    (inside && !name.is_empty() && sum.len() == 64).then_some((sum, name))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(made::hex(hasher.finalize()))
}

/// All but the lock first, so that whoever waits for it finds either everything or nothing.
fn remove_state(state: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(state).map_err(|e| Failure::io(state, e))?;
    for entry in entries.flatten().filter(|e| e.file_name() != "lock") {
        remove_dir(&entry.path())?;
    }
    remove_dir(state)
}

fn remove_dir(path: &Path) -> Result<(), Failure> {
    let removed = match path.is_dir() && !path.is_symlink() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::io(path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let dir = std::env::temp_dir().join(format!("mosbuild-clean-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Folder(dir.canonicalize().unwrap())
        }
        fn place(&self, name: &str, text: &str) -> String {
            let path = self.0.join("dist").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            format!("{}  {name}\n", sha256(&path).unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_what_was_placed_and_is_unchanged_goes() {
        let folder = Folder::new("only");
        let mut sums = folder.place("vmlinuz.efi", "kernel");
        sums += &folder.place("sub/tree.tar", "tree");
        sums += &folder.place("edited", "before");
        folder.place("edited", "after");
        folder.place("mine.txt", "not mosbuild's");
        let dist_dir = folder.0.join("dist");
        std::fs::write(dist_dir.join(SUMS), sums).unwrap();
        let removed = dist(&dist_dir).unwrap();
        assert_eq!((removed.files, removed.bytes), (2, 10));
        assert_eq!(removed.kept, [dist_dir.join("edited")]);
        let mut left: Vec<_> =
            std::fs::read_dir(&dist_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["edited", "mine.txt"]);
    }

    #[test]
    fn an_empty_dist_goes_and_a_list_cannot_lead_out_of_it() {
        let folder = Folder::new("out");
        let sums = folder.place("a", "a");
        let outside = folder.0.join("outside");
        std::fs::write(&outside, "a").unwrap();
        let sum = sums.split_once("  ").unwrap().0;
        std::os::unix::fs::symlink(&folder.0, folder.0.join("dist/link")).unwrap();
        let list = format!("{sums}{sum}  ../outside\n{sum}  {}\n{sum}  link/outside\n", outside.display());
        std::fs::write(folder.0.join("dist").join(SUMS), list).unwrap();
        let removed = dist(&folder.0.join("dist")).unwrap();
        assert_eq!(removed.files, 1);
        assert!(outside.exists());
        std::fs::remove_file(folder.0.join("dist/link")).unwrap();
        let sums = folder.place("a", "a");
        std::fs::write(folder.0.join("dist").join(SUMS), sums).unwrap();
        dist(&folder.0.join("dist")).unwrap();
        assert!(!folder.0.join("dist").exists());
        assert_eq!(dist(&folder.0.join("dist")).unwrap(), Removed::default());
    }
}
