//! One command's hold on a workspace: the file found and loaded, the store opened, the lock taken where needed.
//! Knows the file system's layout, no command and no rule.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mosbuild_cache::{State, Store, WorkspaceLock};
use mosbuild_engine::build::{Site, Workspace, named};
use mosbuild_engine::load::LoadOptions;
use mosbuild_engine::run_record::Runs;

use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::settings::{Settings, environment};
use crate::ui::Ui;

/// The file that declares a workspace.
pub const FILE_NAME: &str = "mosbuild.yaml";
/// The workspace's state, beside it.
pub const STATE_DIR: &str = ".mosbuild";

/// Directory and file of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory; absolute.
    pub root: PathBuf,
    /// The file's name in it.
    pub file: PathBuf,
}

impl Place {
    /// Where the flags say, else here or in the nearest directory above.
    pub fn find(global: &GlobalArgs) -> Result<Place, Failure> {
        let here = std::env::current_dir()
            .map_err(|e| Failure::usage(format!("the current directory cannot be used: {e}")))?;
        find(&here, global.directory.as_deref(), global.file.as_deref())
    }

    /// `.mosbuild`.
    pub fn state(&self) -> PathBuf {
        self.root.join(STATE_DIR)
    }
}

fn find(here: &Path, directory: Option<&Path>, file: Option<&Path>) -> Result<Place, Failure> {
    let base = match directory {
        Some(dir) => {
            let dir = here.join(dir);
            dir.canonicalize().map_err(|e| Failure::usage(format!("-C {}: {e}", dir.display())))?
        }
        None => here.to_owned(),
    };
    if !base.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", base.display())));
    }
    if let Some(file) = file {
        let path = base.join(file);
        let name =
            path.file_name().ok_or_else(|| Failure::usage(format!("-f {}: not a file", file.display())))?;
        let dir = path.parent().unwrap_or(&base);
        let root = dir.canonicalize().map_err(|e| Failure::usage(format!("-f {}: {e}", file.display())))?;
        return Ok(Place { root, file: name.into() });
    }
    if directory.is_some() {
        return Ok(Place { root: base, file: FILE_NAME.into() });
    }
    match base.ancestors().find(|dir| dir.join(FILE_NAME).is_file()) {
        Some(root) => Ok(Place { root: root.to_owned(), file: FILE_NAME.into() }),
        None => Err(Failure::usage(format!("no {FILE_NAME} in {} or above it", base.display()))
            .help("go to the workspace, or name it with -C DIR or -f FILE")),
    }
}

/// What a command stands on before anything of the workspace is read: enough to build.
pub struct Grounds {
    /// Which workspace, and how it is loaded.
    pub site: Site,
    /// The store.
    pub store: Store,
    /// The user's settings.
    pub settings: Settings,
    /// Held by commands that write; others have none.
    _lock: Option<WorkspaceLock>,
}

/// An opened workspace: loaded, with all that it remembers.
pub struct Session {
    /// The workspace.
    pub workspace: Workspace,
    /// What it stands on.
    pub grounds: Grounds,
}

/// Whether a command changes the workspace's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads, and never waits for a build.
    Read,
    /// One at a time.
    Write,
}

/// The workspace's lock; says for whom it waits.
pub fn lock(ui: &Ui, place: &Place) -> Result<WorkspaceLock, Failure> {
    let state = place.state();
    let failed = |e| {
        Failure::io(&state, e)
            .help("the workspace's state is kept there; it must be a folder that can be written to")
    };
    std::fs::create_dir_all(&state).map_err(failed)?;
    let words: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let own = format!("mosbuild {}", words.join(" "));
    WorkspaceLock::acquire(&state, own.trim_end(), |holder| {
        ui.note(&format!("waiting for {holder}, which works in this workspace"));
    })
    .map_err(failed)
}

impl Grounds {
    /// Finds the workspace, takes its lock where the command writes, and opens the store.
    pub fn open(
        ui: &Ui,
        global: &GlobalArgs,
        store: &StoreArgs,
        out: Option<&Path>,
        access: Access,
    ) -> Result<Grounds, Failure> {
        let settings = Settings::read(&environment)?;
        for warning in &settings.warnings {
            ui.warn(warning);
        }
        let place = Place::find(global)?;
        let load = LoadOptions {
            file: place.file.clone(),
            profile: global.profile.clone(),
            set: global.set.clone(),
            overrides: global.overrides.clone(),
            ..LoadOptions::new(&place.root)
        };
        let out = match out {
            Some(out) => Some(std::path::absolute(out).map_err(|e| Failure::io(out, e))?),
            None => None,
        };
        let executors = settings.executors.clone();
        let site = Site { load, registry: Arc::new(mosbuild_rules::registry()), out, state: None, executors };
        let lock = match access {
            // Where there is no file there is no workspace, and nothing is to be left behind in the folder.
            Access::Write if !place.root.join(&place.file).exists() => {
                site.load()?;
                None
            }
            Access::Write => {
                interrupt::watch(ui);
                Some(lock(ui, &place)?)
            }
            Access::Read => None,
        };
        let dir = settings.store(store.cache_dir.as_deref(), &environment)?;
        let store = Store::open(&dir)
            .map_err(|e| Failure::new(1, format!("the store in {} cannot be opened: {e}", dir.display())))?;
        Ok(Grounds { site, store, settings, _lock: lock })
    }
}

impl Grounds {
    /// Of a build in a store and with a state of its own, which nobody else uses.
    pub fn apart(site: Site, store: Store, settings: Settings) -> Grounds {
        Grounds { site, store, settings, _lock: None }
    }

    /// The workspace, loaded. While a build has its index, run records tell what it remembers.
    pub fn workspace(&self) -> Result<Workspace, Failure> {
        let mut workspace = Workspace::open(&self.site)?;
        // Closed at once: a build that begins now is not to find it in use.
        workspace.state = State::none();
        workspace.memory.recall(&Runs::of(&workspace.dirs.state), &self.store);
        Ok(workspace)
    }
}

impl Session {
    /// Opens the grounds, loads the workspace and reads what it remembers.
    pub fn open(ui: &Ui, global: &GlobalArgs, store: &StoreArgs, access: Access) -> Result<Session, Failure> {
        Session::on(Grounds::open(ui, global, store, None, access)?)
    }

    /// On grounds that are open.
    pub fn on(grounds: Grounds) -> Result<Session, Failure> {
        Ok(Session { workspace: grounds.workspace()?, grounds })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.grounds.store
    }

    /// Index of a target, or the error that names the nearest.
    pub fn target(&self, name: &str) -> Result<u32, Failure> {
        Ok(named(&self.workspace.loaded, name)?)
    }

    /// Name of a target.
    pub fn name(&self, target: u32) -> &str {
        &self.workspace.loaded.targets[target as usize].name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let dir = std::env::temp_dir().join(format!("mosbuild-session-{name}-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("a/b")).unwrap();
            Folder(dir.canonicalize().unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_nearest_file_above_is_found() {
        let folder = Folder::new("above");
        let root = &folder.0;
        std::fs::write(root.join(FILE_NAME), "").unwrap();
        let found = Place { root: root.clone(), file: FILE_NAME.into() };
        assert_eq!(find(&root.join("a/b"), None, None).unwrap(), found);
        std::fs::write(root.join("a").join(FILE_NAME), "").unwrap();
        assert_eq!(find(&root.join("a/b"), None, None).unwrap().root, root.join("a"));
    }

    #[test]
    fn a_named_directory_or_file_is_taken_as_it_is() {
        let folder = Folder::new("named");
        let root = &folder.0;
        // Not looked for above a directory that was named: its absence is the loader's error.
        assert_eq!(find(root, Some(Path::new("a/b")), None).unwrap().root, root.join("a/b"));
        let named = find(root, Some(Path::new("a")), Some(Path::new("b/other.yaml"))).unwrap();
        assert_eq!(named, Place { root: root.join("a/b"), file: "other.yaml".into() });
        assert!(find(root, Some(Path::new("missing")), None).is_err());
        assert!(find(root, None, Some(Path::new("missing/x.yaml"))).is_err());
    }
}
