//! The user's settings: config.yaml below the configuration directory, and MOSBUILD_* variables over it.
//! Knows no workspace; every place that it may look at is handed in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use mosbuild_engine::build::executors::Executors;
use mosbuild_engine::load::executors::{self, Choice, WORDS};
use mosbuild_engine::load::names::{Hinter, quote};
use mosbuild_engine::load::yaml::{self, Limits, Node, Value};
use mosbuild_engine::load::{Diagnostic, Diagnostics, Mirror};

use crate::failure::Failure;
use crate::mirrors;

/// Keys of the file.
const KEYS: [&str; 7] = ["cache_dir", "container", "executor", "jobs", "max_size", "mirrors", "remote"];
/// Those that this version reads past.
const UNUSED: [&str; 2] = ["max_size", "remote"];

/// What the user has set once for all workspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The store.
    pub cache_dir: Option<PathBuf>,
    /// CPU slots.
    pub jobs: Option<usize>,
    /// Mirrors, tried before those of the workspace: those of the variable, then those of the file.
    pub mirrors: Vec<Mirror>,
    /// Who runs commands where the workspace leaves it open, and in which image.
    pub executors: Executors,
    /// Worth saying.
    pub warnings: Vec<String>,
}

/// The environment, as a function so that tests have their own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The process's environment.
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

impl Settings {
    /// Reads the file, if there is one, and the variables over it.
    pub fn read(env: Env<'_>) -> Result<Settings, Failure> {
        let mut settings = match directory(env, "XDG_CONFIG_HOME", ".config") {
            Some(dir) => from_file(&dir.join("mosbuild/config.yaml"), env)?,
            None => Settings::default(),
        };
        if let Some(dir) = nonempty(env("MOSBUILD_CACHE_DIR")) {
            settings.cache_dir = Some(dir.into());
        }
        if let Some(jobs) = nonempty(env("MOSBUILD_JOBS")) {
            let text = jobs.to_string_lossy();
            settings.jobs = Some(parse_jobs(&text).ok_or_else(|| {
                Failure::usage(format!("MOSBUILD_JOBS is {text:?}; a number of at least 1 is wanted"))
            })?);
        }
        if let Some(word) = nonempty(env("MOSBUILD_EXECUTOR")) {
            let text = word.to_string_lossy();
            settings.executors.choice = Choice::parse(&text).ok_or_else(|| {
                Failure::usage(format!(
                    "MOSBUILD_EXECUTOR is {text:?}; one of {} is wanted",
                    WORDS.join(", ")
                ))
            })?;
        }
        let image = nonempty(env("MOSBUILD_CONTAINER_IMAGE"));
        settings.executors.over.image = image.map(|image| image.to_string_lossy().into_owned());
        if let Some(file) = nonempty(env("MOSBUILD_CONTAINER_ARCHIVE")) {
            let file = PathBuf::from(file);
            settings.executors.over.archive =
                Some(std::path::absolute(&file).map_err(|e| Failure::io(&file, e))?);
        }
        if let Some(text) = nonempty(env(mirrors::VARIABLE)) {
            let given = mirrors::from_variable(&text.to_string_lossy())?;
            settings.mirrors.splice(0..0, given);
        }
        Ok(settings)
    }

    /// The store's directory, the flag first; absolute.
    pub fn store(&self, flag: Option<&Path>, env: Env<'_>) -> Result<PathBuf, Failure> {
        let dir = match flag.or(self.cache_dir.as_deref()) {
            Some(dir) => dir.to_owned(),
            None => directory(env, "XDG_CACHE_HOME", ".cache")
                .ok_or_else(|| {
                    Failure::usage("no place is known for the store: neither HOME nor XDG_CACHE_HOME is set")
                        .help("name one with --cache-dir or MOSBUILD_CACHE_DIR")
                })?
                .join("mosbuild"),
        };
        std::path::absolute(&dir).map_err(|e| Failure::io(&dir, e))
    }
}

fn nonempty(value: Option<OsString>) -> Option<OsString> {
    value.filter(|v| !v.is_empty())
}

/// A base directory; a relative one is ignored, as its specification has it.
fn directory(env: Env<'_>, variable: &str, below_home: &str) -> Option<PathBuf> {
    let given = nonempty(env(variable)).map(PathBuf::from).filter(|p| p.is_absolute());
    given.or_else(|| Some(PathBuf::from(nonempty(env("HOME"))?).join(below_home)))
}

fn parse_jobs(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| (1..=4096).contains(n))
}

fn from_file(path: &Path, env: Env<'_>) -> Result<Settings, Failure> {
    let shown = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Settings::default());
        }
        Err(e) => return Err(Failure::usage(format!("{shown}: {e}"))),
    };
    let home = nonempty(env("HOME")).map(PathBuf::from);
    Ok(parse(&bytes, &shown, home.as_deref())?)
}

fn parse(bytes: &[u8], shown: &str, home: Option<&Path>) -> Result<Settings, Diagnostics> {
    let limits = Limits::default();
    let text = yaml::decode(bytes, shown, &limits)
        .map_err(|problem| Diagnostics::new(shown, String::from_utf8_lossy(bytes), vec![problem]))?;
    let mut settings = Settings::default();
    // A file of comments alone sets nothing, which is no error here.
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(settings);
    }
    let parsed = yaml::parse(text, &limits);
    let mut problems = parsed.problems;
    if let Some(root) = &parsed.root {
        read_root(root, shown, home, &mut settings, &mut problems);
    }
    match problems.is_empty() {
        true => Ok(settings),
        false => Err(Diagnostics::new(shown, text, problems)),
    }
}

fn read_root(
    root: &Node,
    shown: &str,
    home: Option<&Path>,
    settings: &mut Settings,
    problems: &mut Vec<Diagnostic>,
) {
    let Value::Map(entries) = &root.value else {
        if !root.is_null() {
            problems.push(
                Diagnostic::at("wrong-type", root.span, "the settings are not a map")
                    .label("expected `key: value`"),
            );
        }
        return;
    };
    for (key, node) in entries {
        match key.text.as_str() {
            "cache_dir" => match cache_dir(node, home) {
                Ok(dir) => settings.cache_dir = Some(dir),
                Err(why) => {
                    let problem = Diagnostic::at("wrong-value", node.span, "wrong value of `cache_dir`");
                    problems.push(problem.label(why));
                }
            },
            "executor" => match node.text().and_then(Choice::parse) {
                Some(choice) => settings.executors.choice = choice,
                None => {
                    let problem = Diagnostic::at("wrong-value", node.span, "wrong value of `executor`");
                    problems.push(problem.label(format!("one of {} is wanted", WORDS.join(", "))));
                }
            },
            "container" => {
                let (mut options, wrong) = executors::container(node);
                match options.archive.as_deref().map(|path| absolute(path, home)).transpose() {
                    Ok(archive) => options.archive = archive,
                    Err(why) => {
                        let problem =
                            Diagnostic::at("wrong-value", node.span, "wrong `archive` of `container`");
                        problems.push(problem.label(why));
                    }
                }
                problems.extend(wrong);
                settings.executors.container = options;
            }
            "jobs" => match node.text().and_then(parse_jobs) {
                Some(jobs) => settings.jobs = Some(jobs),
                None => {
                    let problem = Diagnostic::at("wrong-value", node.span, "wrong value of `jobs`");
                    problems.push(problem.label("a number of at least 1 is wanted"));
                }
            },
            "mirrors" => settings.mirrors = mirrors::from_node(node, problems),
            name if UNUSED.contains(&name) => {
                settings.warnings.push(format!("{shown}: `{name}` is not used by this version of mosbuild"));
            }
            name => {
                let near = Hinter::default().nearest(name, KEYS);
                let problem =
                    Diagnostic::at("unknown-field", key.span, format!("unknown setting {}", quote(name)));
                problems.push(problem.nearest(near).note(format!("the settings are {}", KEYS.join(", "))));
            }
        }
    }
}

fn cache_dir(node: &Node, home: Option<&Path>) -> Result<PathBuf, &'static str> {
    let text = node.text().filter(|t| !t.is_empty()).ok_or("expected a path")?;
    absolute(Path::new(text), home)
}

fn absolute(path: &Path, home: Option<&Path>) -> Result<PathBuf, &'static str> {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Ok(home.join(rest)),
        (Ok(_), None) => Err("HOME is not set"),
        (Err(_), _) if path.is_absolute() => Ok(path.into()),
        (Err(_), _) => Err("an absolute path, or one that begins with ~/, is wanted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        parse(text.as_bytes(), "config.yaml", Some(Path::new("/home/me"))).map_err(|d| d.render(false))
    }

    #[test]
    fn known_keys_are_read() {
        let settings = read("cache_dir: ~/store\njobs: 3\n").unwrap();
        assert_eq!(settings.cache_dir.as_deref(), Some(Path::new("/home/me/store")));
        assert_eq!((settings.jobs, settings.warnings.len()), (Some(3), 0));
        assert_eq!(read("# nothing yet\n\n").unwrap(), Settings::default());
        assert_eq!(read("").unwrap(), Settings::default());
    }

    #[test]
    fn keys_of_later_versions_are_said_not_to_be_used() {
        let settings = read("max_size: 20GiB\nremote: x\n").unwrap();
        assert_eq!(settings.warnings.len(), 2);
        assert!(settings.warnings[0].contains("`max_size` is not used"), "{:?}", settings.warnings);
    }

    #[test]
    fn mirrors_are_those_of_the_file_behind_those_of_the_variable() {
        let text = "mirrors:\n- from: https://a.example/\n  to: [file:///srv/a/, /srv/b]\n";
        let mirrors = read(text).unwrap().mirrors;
        assert_eq!(mirrors[0].to, ["file:///srv/a/", "file:///srv/b"]);
        for wrong in
            ["mirrors: x\n", "mirrors: [{ from: https://a.example/ }]\n", "mirrors: [{ from: a, to: b }]\n"]
        {
            assert!(read(wrong).unwrap_err().contains("wrong value of `mirrors`"), "{wrong}");
        }
        let env = |name: &str| (name == "MOSBUILD_MIRRORS").then(|| "https://a.example/=/srv/a".into());
        assert_eq!(Settings::read(&env).unwrap().mirrors[0].to, ["file:///srv/a"]);
    }

    #[test]
    fn executor_and_image_are_those_of_the_file_below_those_of_the_variables() {
        let text = "executor: container\ncontainer: { archive: ~/b.tar, memory: 2GiB, relabel: true }\n";
        let executors = read(text).unwrap().executors;
        assert_eq!(executors.choice, Choice::Container);
        assert_eq!(executors.container.archive.as_deref(), Some(Path::new("/home/me/b.tar")));
        assert_eq!((executors.container.memory, executors.container.relabel), (Some(2 << 30), true));
        for (wrong, why) in [
            ("executor: docker\n", "one of auto, sandbox, container, host"),
            ("container: x\n", "expected { image: NAME }"),
            ("container: { pids: 0 }\n", "`pids`"),
            ("container: { archive: b.tar }\n", "an absolute path"),
            ("container: { imag: b }\n", "it has image, archive"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let env = |name: &str| match name {
            "MOSBUILD_EXECUTOR" => Some(OsString::from("host")),
            "MOSBUILD_CONTAINER_IMAGE" => Some(OsString::from("builder:1")),
            _ => None,
        };
        let executors = Settings::read(&env).unwrap().executors;
        assert_eq!((executors.choice, executors.over.image.as_deref()), (Choice::Host, Some("builder:1")));
        let wrong = |name: &str| (name == "MOSBUILD_EXECUTOR").then(|| OsString::from("vm"));
        assert!(Settings::read(&wrong).is_err());
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let text = read("cachedir: /x\n").unwrap_err();
        assert!(
            text.contains("unknown setting `cachedir`") && text.contains("did you mean `cache_dir`?"),
            "{text}"
        );
    }

    #[test]
    fn wrong_values_are_all_reported() {
        let text = read("jobs: many\ncache_dir: relative\n").unwrap_err();
        assert!(text.contains("`jobs`") && text.contains("an absolute path"), "{text}");
        assert!(read("jobs: 0\n").is_err());
        assert!(read("- a\n").is_err());
    }

    #[test]
    fn the_store_is_found_in_order() {
        let env = |name: &str| match name {
            "HOME" => Some(OsString::from("/h")),
            "XDG_CACHE_HOME" => Some(OsString::from("/c")),
            _ => None,
        };
        let plain = Settings::default();
        assert_eq!(plain.store(None, &env).unwrap(), Path::new("/c/mosbuild"));
        let set = Settings { cache_dir: Some("/s".into()), ..Settings::default() };
        assert_eq!(set.store(None, &env).unwrap(), Path::new("/s"));
        assert_eq!(set.store(Some(Path::new("/f")), &env).unwrap(), Path::new("/f"));
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/h"));
        assert_eq!(plain.store(None, &home).unwrap(), Path::new("/h/.cache/mosbuild"));
        let relative = |name: &str| match name {
            "XDG_CACHE_HOME" => Some(OsString::from("cache")),
            other => home(other),
        };
        assert_eq!(plain.store(None, &relative).unwrap(), Path::new("/h/.cache/mosbuild"));
        assert!(plain.store(None, &|_| None).is_err());
    }

    #[test]
    fn variables_win_over_the_file() {
        let dir = std::env::temp_dir().join(format!("mosbuild-settings-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("mosbuild")).unwrap();
        std::fs::write(dir.join("mosbuild/config.yaml"), "cache_dir: /file\njobs: 2\n").unwrap();
        let env = |name: &str| match name {
            "XDG_CONFIG_HOME" => Some(dir.clone().into_os_string()),
            "MOSBUILD_CACHE_DIR" => Some("/variable".into()),
            _ => None,
        };
        let settings = Settings::read(&env).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((settings.cache_dir, settings.jobs), (Some("/variable".into()), Some(2)));
        assert!(Settings::read(&|n: &str| (n == "MOSBUILD_JOBS").then(|| "x".into())).is_err());
    }
}
