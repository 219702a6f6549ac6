//! The pin of a set of packages: what apk would install now, on verified indexes, keeping what is locked already.
//! apk resolves; this file asks it, reads its answer, and puts its refusals into words.

use std::collections::{BTreeMap, BTreeSet};

use mosbuild_cache::Tree;
use mosbuild_engine::action::{BuiltinCx, Locking, StepError};
use mosbuild_engine::load::nearest;
use mosbuild_engine::lockfile::{Pin, Row};

use super::fetch::{self, Download};
use super::index::{self, Repository};
use super::root::{self, Root};
use super::world::{self, Asked};
use crate::url::row;

/// Where the sandbox sees the indexes.
const INDEXES: &str = "/dev/mosbuild/indexes";

/// What the pin is for, beside the base: another request makes it stale.
pub fn request(cx: &BuiltinCx<'_>, asked: &[Asked]) -> BTreeMap<String, String> {
    let world: Vec<&str> = asked.iter().map(|a| a.text.as_str()).collect();
    let repositories: Vec<&str> = cx.param("repositories").lines().collect();
    [
        ("world", world.join(" ")),
        ("repositories", repositories.join(" ")),
        ("arch", cx.param("arch").to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// Finds the pin.
pub fn resolve(cx: &BuiltinCx<'_>, locking: &Locking<'_>) -> Result<Pin, StepError> {
    let asked = world::asked(cx)?;
    let base = cx.tree("base")?;
    let root = Root::read(cx, &base)?;
    let folders = index::folders(cx, &root)?;
    let updates_some =
        locking.previous.is_some_and(|p| p.rows("package").any(|(n, _)| locking.update.takes_row(n)));
    let fresh = locking.anew || updates_some;
    let attempt = |fresh: bool| {
        let repositories = index::read_all(cx, &root, &folders, locking.previous, fresh)?;
        let resolver = Resolver { cx, base: &base, root: &root, asked: &asked, repositories };
        resolver.pin(locking)
    };
    let pin = match attempt(fresh) {
        // The indexes that the lock names are of another day: a package has made way for a newer one since, or came.
        Err(Failed::Gone(what)) if !fresh => {
            (cx.log)(&format!("{what} is gone from the mirror: the indexes are read anew"));
            attempt(true)
        }
        Err(Failed::Refused(refusal)) if !fresh && locking.previous.is_some() => {
            (cx.log)("apk finds no answer in the indexes of the lock: they are read anew");
            match attempt(true) {
                // Offline, or without a mirror, the first answer is the one that helps.
                Err(Failed::Step(e)) if e.exit == 4 => Err(Failed::Refused(refusal)),
                other => other,
            }
        }
        other => other,
    };
    match pin {
        Ok(mut pin) => {
            pin.fields.extend(request(cx, &asked));
            pin.fields.insert("base".into(), root.fingerprint());
            Ok(pin)
        }
        Err(Failed::Gone(what)) => Err(StepError::new(format!(
            "{what} is named by the index, but is on no mirror"
        ))
        .help("the mirror is in the middle of an update, or incomplete: try again later, or another mirror")
        .exit(4)),
        Err(Failed::Refused(e) | Failed::Step(e)) => Err(*e),
    }
}

/// Why there is no pin.
enum Failed {
    /// A package that the index names is on no mirror.
    Gone(String),
    /// apk finds no set that is what is asked for.
    Refused(Box<StepError>),
    Step(Box<StepError>),
}

impl<E: Into<StepError>> From<E> for Failed {
    fn from(e: E) -> Failed {
        Failed::Step(Box::new(e.into()))
    }
}

struct Resolver<'a> {
    cx: &'a BuiltinCx<'a>,
    base: &'a Tree,
    root: &'a Root,
    asked: &'a [Asked],
    repositories: Vec<Repository>,
}

impl Resolver<'_> {
    fn pin(&self, locking: &Locking<'_>) -> Result<Pin, Failed> {
        let chosen = self.choose(locking)?;
        self.check_forbidden(&chosen)?;
        let mut downloads = Vec::new();
        for (name, version) in &chosen {
            let (repository, entry) = index::find(&self.repositories, name, version).ok_or_else(|| {
                StepError::new(format!("apk chose {name} {version}, which is in none of the indexes"))
            })?;
            let previous = locking.previous.and_then(|p| p.row("package", name));
            let same = previous.filter(|row| {
                row.get("version") == Some(version) && row.get("identity") == Some(&entry.identity)
            });
            downloads.push(Download {
                name: name.clone(),
                version: version.clone(),
                repository: repository.folder.clone(),
                identity: entry.identity.clone(),
                size: entry.size,
                locked: same.cloned(),
            });
        }
        let packages = fetch::download(self.cx, &downloads).map_err(|e| match e {
            fetch::Failed::Fetch(e) => match e.absent() {
                Some(url) => Failed::Gone(url.to_owned()),
                None => Failed::from(e),
            },
            fetch::Failed::Step(e) => Failed::Step(e),
        })?;
        let rows = packages.iter().zip(&downloads).map(|(package, download)| {
            let mut cells = row(&package.fetched);
            cells.insert("version".into(), download.version.clone());
            cells.insert("identity".into(), download.identity.clone());
            cells.insert("repository".into(), download.repository.clone());
            (download.name.clone(), cells)
        });
        let packages: BTreeMap<String, Row> = rows.collect();
        let indexes = self.repositories.iter().map(|r| (index::place(&r.folder), r.row.clone())).collect();
        let mut pin = Pin::default();
        pin.tables.insert("package".into(), packages);
        pin.tables.insert("index".into(), indexes);
        Ok(pin)
    }

    /// Names and versions that apk would install, what is locked kept as far as the indexes still have it.
    fn choose(&self, locking: &Locking<'_>) -> Result<BTreeMap<String, String>, Failed> {
        let free = self.simulate(&[])?;
        let Some(previous) = locking.previous.filter(|_| !locking.anew) else { return Ok(free) };
        let keep: Vec<String> = free
            .iter()
            .filter(|(name, _)| !locking.update.takes_row(name))
            .filter_map(|(name, version)| {
                let locked = previous.row("package", name)?.get("version")?;
                let there = locked != version && index::find(&self.repositories, name, locked).is_some();
                there.then(|| format!("{name}={locked}"))
            })
            .collect();
        if keep.is_empty() {
            return Ok(free);
        }
        match self.simulate(&keep) {
            Ok(kept) => Ok(kept),
            Err(_) => {
                (self.cx.log)("the locked versions do not go together with what is asked for now");
                Ok(free)
            }
        }
    }

    fn simulate(&self, further: &[String]) -> Result<BTreeMap<String, String>, Failed> {
        let (cx, arch) = (self.cx, self.cx.param("arch"));
        let host = cx.scratch.join("indexes");
        if host.exists() {
            std::fs::remove_dir_all(&host)?;
        }
        let places = index::lay_out(&self.repositories, arch, &host, INDEXES)?;
        let mut binds = vec![(host, INDEXES.to_owned())];
        let mut args: Vec<String> = vec!["add".into(), "--simulate".into()];
        args.extend(root::FLAGS.split(' ').map(str::to_owned));
        for place in places {
            args.extend(["-X".into(), place]);
        }
        // Of another architecture: the host's apk looks at base from outside.
        let (tree, foreign);
        if cx.has("apk") {
            foreign = cx.tree("apk")?;
            tree = &*foreign;
            let laid = cx.scratch.join("base");
            if !laid.exists() {
                cx.store.materialise(self.base, &laid, mosbuild_cache::Materialise::Private)?;
            }
            binds.push((laid, super::FOREIGN.to_owned()));
            args.extend(["--root", super::FOREIGN, "--arch", arch].map(str::to_owned));
        } else {
            tree = self.base;
        }
        args.extend(self.asked.iter().map(|a| a.text.clone()));
        args.extend(further.iter().cloned());
        let answer = root::ask(cx, tree, binds, args)?;
        match answer.code {
            Some(0) => Ok(installed(&answer.output)),
            _ => Err(Failed::Refused(Box::new(self.refused(&answer.output, answer.code)))),
        }
    }

    /// apk's reason in words of a person who has a list of packages.
    fn refused(&self, output: &str, code: Option<i32>) -> StepError {
        let reason = reason(output);
        let missing = missing(&reason);
        if missing.is_empty() {
            let text = match reason.is_empty() {
                true => {
                    format!("apk cannot resolve the packages (exit code {code:?}):\n{}", output.trim_end())
                }
                false => format!("the packages conflict with each other; apk says:\n{}", reason.join("\n")),
            };
            return StepError::new(text).help("loosen or remove one of the constraints that are named");
        }
        let known: BTreeSet<&str> =
            self.repositories.iter().flat_map(|r| r.index.entries.iter().map(|e| e.name.as_str())).collect();
        let mut error = StepError::new("");
        for name in &missing {
            let asked = self.asked.iter().find(|a| a.name == *name);
            let by = match asked {
                Some(asked) => format!("{}: ", asked.place),
                None => String::new(),
            };
            let needed = needed_by(&reason, name);
            let needed = match (asked, needed) {
                (None, Some(who)) => format!(", which {who} needs"),
                _ => String::new(),
            };
            if !error.message.is_empty() {
                error.message.push('\n');
            }
            error.message.push_str(&format!("{by}no package is called {name}{needed}"));
            if let Some(near) = nearest(name, known.iter().copied()) {
                error = error.help(format!("did you mean {near}?"));
            }
        }
        let places: Vec<&str> = self.repositories.iter().map(|r| r.folder.as_str()).collect();
        error.help(format!("looked in {}", places.join(", ")))
    }

    /// Refuses a set with a forbidden package, naming the chain that pulls it in.
    fn check_forbidden(&self, chosen: &BTreeMap<String, String>) -> Result<(), StepError> {
        let entries =
            chosen.iter().filter_map(|(n, v)| index::find(&self.repositories, n, v).map(|(_, e)| e));
        fetch::check_forbidden(self.cx, self.root, entries.collect(), self.asked)
    }
}

/// What `apk add --simulate` says that it would install: `(3/36) Installing busybox (1.36.1-r15)`, or
/// `(1/2) Upgrading musl (1.2.4-r2 -> 1.2.5-r0)`.
fn installed(output: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for line in output.lines() {
        let Some(rest) = line.trim_start().strip_prefix('(').and_then(|l| l.split_once(") ")) else {
            continue;
        };
        let mut words = rest.1.splitn(3, ' ');
        let (Some(verb), Some(name), Some(versions)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let versions = versions.trim().trim_start_matches('(').trim_end_matches(')');
        let version = versions.rsplit(" -> ").next().unwrap_or(versions);
        if matches!(verb, "Installing" | "Upgrading" | "Downgrading" | "Reinstalling" | "Replacing") {
            all.insert(name.to_owned(), version.to_owned());
        }
    }
    all
}

/// The lines of apk's explanation, below `unable to select packages:`.
fn reason(output: &str) -> Vec<&str> {
    let mut lines = output.lines().skip_while(|l| !l.contains("unable to select packages"));
    lines.next();
    lines.take_while(|l| l.starts_with(' ')).collect()
}

/// Names in `  zellij (no such package):`.
fn missing(reason: &[&str]) -> Vec<String> {
    let name = |line: &&str| line.trim().strip_suffix(" (no such package):").map(str::to_owned);
    reason.iter().filter_map(name).collect()
}

/// Who needs a missing name, in `    required by: foo-1.0-r0[so:x]`.
fn needed_by(reason: &[&str], name: &str) -> Option<String> {
    let at = reason.iter().position(|l| l.trim().strip_suffix(" (no such package):") == Some(name))?;
    let line = reason.get(at + 1)?.trim().strip_prefix("required by:")?;
    let who = line.split_whitespace().next()?.split('[').next()?;
    (who != "world").then(|| who.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_installed() {
        let two = "(1/3) Installing musl (1.2.4_git20230717-r4)\nExecuting busybox-1.36.1-r15.trigger\n\
                   (2/3) Upgrading busybox (1.36.1-r15 -> 1.36.1-r19)\n(3/3) Purging x (1-r0)\nOK: 18 MiB in 36 packages\n";
        let three = "( 1/12) Installing jq (1.7.1-r0)\n(12/12) Installing oniguruma (6.9.9-r0)\n";
        let of = |text| installed(text).into_iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>();
        assert_eq!(of(two), ["busybox 1.36.1-r19", "musl 1.2.4_git20230717-r4"]);
        assert_eq!(of(three), ["jq 1.7.1-r0", "oniguruma 6.9.9-r0"]);
        assert!(of("").is_empty());
    }

    #[test]
    fn reasons_are_read() {
        let output = "ERROR: unable to select packages:\n  zellij (no such package):\n    required by: world[zellij]\n  \
                      so:libx.so.1 (no such package):\n    required by: foo-1.0-r0[so:libx.so.1]\n";
        let lines = reason(output);
        assert_eq!(missing(&lines), ["zellij", "so:libx.so.1"]);
        assert_eq!(needed_by(&lines, "zellij"), None);
        assert_eq!(needed_by(&lines, "so:libx.so.1").as_deref(), Some("foo-1.0-r0"));
        let conflict =
            "ERROR: unable to select packages:\n  a-1-r0:\n    conflicts: b-1-r0\n    satisfies: world[a]\n";
        assert!(missing(&reason(conflict)).is_empty());
        assert_eq!(reason(conflict).len(), 3);
    }
}
