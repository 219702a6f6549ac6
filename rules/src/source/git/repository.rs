//! A repository of a step's own, in its scratch folder: what a server has is asked, and one commit fetched into it, as
//! little of it as the server gives. Nothing of it outlives the step.

use std::path::{Path, PathBuf};

use mosbuild_engine::action::StepError;
use mosbuild_engine::fetch::shown;
use mosbuild_formats::git::{Refs, is_object};

use super::places::Stop;
use super::program::{Failed, Git};
use super::refs::{beginning, choose, near, told};
use super::url::is_abbreviated;

/// All branches and tags, at places of their own.
const ALL: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];

/// An empty repository that is filled with what is asked for.
pub struct Repository<'g> {
    git: &'g Git<'g>,
    /// Where it is: a bare one.
    pub dir: PathBuf,
}

/// What a rev stands for.
pub struct Found {
    /// The commit, or an annotated tag that was named by its own object.
    pub object: String,
    /// The ref that was taken, if it was one: `refs/tags/v0.6.1`.
    pub name: Option<String>,
}

/// What a rev stands for at a place.
pub fn resolve(git: &Git<'_>, place: &str, rev: &str) -> Result<Found, Stop> {
    let lower = rev.to_ascii_lowercase();
    if is_object(&lower) {
        return Ok(Found { object: lower, name: None });
    }
    let at = shown(place);
    if rev == "HEAD" {
        let refs = listed(git, place, &["--symref", "--", place, "HEAD"])?;
        let Some(head) = refs.get("HEAD") else {
            return Err(Stop::Lacks(
                StepError::new(format!("{at} has no default branch: it is empty")).exit(4),
            ));
        };
        let name = refs.head.clone();
        git.say(&format!(
            "{at}: HEAD is {}, {}",
            name.as_deref().map_or("no branch".into(), told),
            head.object
        ));
        return Ok(Found { object: head.object.clone(), name });
    }
    let refs = match rev.starts_with("refs/") {
        true => listed(git, place, &["--", place, rev])?,
        false => listed(git, place, &["--heads", "--tags", "--", place])?,
    };
    if let Some(choice) = choose(&refs, rev) {
        let (name, object) = (&choice.chosen.name, choice.chosen.target());
        if let Some(branch) = choice.also {
            (git.cx.warn)(&format!(
                "{at} has a tag and a branch called {rev}: the tag is taken; for the branch write `rev: {}`",
                branch.name
            ));
        }
        git.say(&format!("{at}: {rev} is {}, {object}", told(name)));
        return Ok(Found { object: object.to_owned(), name: Some(name.clone()) });
    }
    if is_abbreviated(rev) {
        let mut found: Vec<String> = beginning(&refs, rev).into_iter().map(str::to_owned).collect();
        if found.is_empty() {
            git.say(&format!("{at}: no branch or tag is at a commit {rev}…; looking through all commits"));
            let digits = refs.all.first().map_or(40, |r| r.object.len());
            found = commits(git, place, rev, digits)?;
        }
        return match &found[..] {
            [one] => {
                git.say(&format!("{at}: {rev} is commit {one}"));
                Ok(Found { object: one.clone(), name: None })
            }
            [] => {
                let text = format!("{at} has no branch or tag {rev}, and none of their commits begins so");
                Err(Stop::Lacks(
                    StepError::new(text).help("a commit that is on no branch needs its whole name").exit(4),
                ))
            }
            several => {
                let text = format!("{rev} could be each of these commits of {at}: {}", several.join(", "));
                Err(Stop::Lacks(StepError::new(text).help("write more of it").exit(4)))
            }
        };
    }
    let refs = match rev.starts_with("refs/") {
        true => listed(git, place, &["--heads", "--tags", "--", place])?,
        false => refs,
    };
    let text = format!("{at} has no branch, tag or commit {rev}");
    Err(Stop::Lacks(StepError { help: near(&refs, rev), ..StepError::new(text).exit(4) }))
}

fn listed(git: &Git<'_>, place: &str, args: &[&str]) -> Result<Refs, Stop> {
    let out = git.remote(None, place, &[&["ls-remote"], args].concat(), None)?;
    Ok(Refs::parse(&out).map_err(|e| StepError::new(format!("{}: {e}", shown(place))).exit(4))?)
}

/// The commits on any branch or tag whose names begin so. Without their files, where the server can leave them out.
fn commits(git: &Git<'_>, place: &str, abbreviated: &str, digits: usize) -> Result<Vec<String>, Stop> {
    let dir = git.cx.scratch.join("history");
    let history = Repository::init(git, &dir, digits)?;
    history.ask(place, &["--filter=tree:0", "--update-shallow"], &ALL)?;
    let found = git.local(&dir, &["rev-parse", &format!("--disambiguate={abbreviated}")])?;
    let found = String::from_utf8_lossy(&found).into_owned();
    let commit =
        |object: &&str| history.commit(object).is_ok_and(|commit| commit.as_deref() == Some(*object));
    let mut found: Vec<String> = found.lines().filter(commit).map(str::to_owned).collect();
    found.sort();
    std::fs::remove_dir_all(&dir).map_err(StepError::from)?;
    Ok(found)
}

impl<'g> Repository<'g> {
    /// An empty one for objects with names of so many hex digits; what is at `dir` goes.
    pub fn init(git: &'g Git<'g>, dir: &Path, digits: usize) -> Result<Repository<'g>, StepError> {
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let format = if digits == 64 { "sha256" } else { "sha1" };
        let format = format!("--object-format={format}");
        git.local(dir, &["init", "--quiet", "--bare", "--template=", &format])?;
        Ok(Repository { git, dir: dir.to_owned() })
    }

    /// The commit that an object is, tags being looked through; none if the repository does not have it.
    pub fn commit(&self, object: &str) -> Result<Option<String>, StepError> {
        let peeled = format!("{object}^{{commit}}");
        let out = self.git.local(&self.dir, &["rev-parse", "--verify", "--quiet", &peeled]);
        // It fails when there is none, and only then has nothing to say.
        let Ok(out) = out else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(&out).trim().to_owned()).filter(|commit| is_object(commit)))
    }

    /// Fetches one commit, alone if the server lets itself be asked for it; else a ref that is at it; else all branches
    /// and tags. `name` is a ref that had it once.
    pub fn fetch(&self, place: &str, object: &str, name: Option<&str>) -> Result<String, Stop> {
        let at = shown(place);
        self.git.say(&format!("{at}: fetching {object}"));
        let refused = match self.try_ask(place, &["--depth=1"], &[object]) {
            Ok(()) => return self.commit(object)?.ok_or_else(|| self.no_commit(&at, object)),
            Err(Failed::Said(said)) if said.refused_commit() => said,
            Err(failed) => return Err(failed.into()),
        };
        let (refs, asks_freely) = self.everything(place)?;
        // A server of the second protocol gives whatever it has; if it does not know the commit, nothing helps.
        if !(refused.unknown_commit() && asks_freely) {
            let depth: &[&str] = if refused.dumb() { &[] } else { &["--depth=1"] };
            if let Some(tip) =
                refs.all.iter().find(|r| r.name != "HEAD" && (r.object == object || r.target() == object))
            {
                self.git.say(&format!("{at} gives no bare commit; {} is at it", told(&tip.name)));
                self.ask(place, depth, &[&tip.name])?;
                if let Some(commit) = self.commit(object)? {
                    return Ok(commit);
                }
            }
            self.git.say(&format!(
                "{at} gives no bare commit, and no ref is at it: fetching all branches and tags"
            ));
            let also = name.filter(|name| refs.get(name).is_some());
            let also = also.map(|name| format!("+{name}:refs/mosbuild/asked"));
            let all: Vec<&str> = ALL.into_iter().chain(also.as_deref()).collect();
            self.ask(place, &["--update-shallow"], &all)?;
            if let Some(commit) = self.commit(object)? {
                return Ok(commit);
            }
        }
        let text = format!("{at} does not have commit {object}, or not any more");
        let now = name.and_then(|name| Some((name, refs.get(name)?)));
        let error = match now {
            Some((name, now)) => StepError::new(format!("{text}; {} is at {} now", told(name), now.target())),
            None => StepError::new(text),
        };
        Err(Stop::Lacks(
            error
                .help("its history was rewritten, or a mirror is behind: `mosbuild lock --update TARGET` takes what is there now")
                .exit(4),
        ))
    }

    fn no_commit(&self, at: &str, object: &str) -> Stop {
        StepError::new(format!("{object} of {at} is no commit")).exit(4).into()
    }

    /// All refs, and whether the server takes the name of any object (protocol version 2).
    fn everything(&self, place: &str) -> Result<(Refs, bool), Stop> {
        let trace = self.git.cx.scratch.join("packets");
        // git adds to it.
        let _ = std::fs::remove_file(&trace);
        let out = self.git.remote(None, place, &["ls-remote", "--", place], Some(&trace))?;
        let packets = std::fs::read(&trace).unwrap_or_default();
        let second = packets.split(|b| *b == b'\n').any(|line| line.ends_with(b"< version 2"));
        let refs = Refs::parse(&out).map_err(|e| StepError::new(format!("{}: {e}", shown(place))).exit(4))?;
        Ok((refs, second))
    }

    fn ask(&self, place: &str, options: &[&str], refspecs: &[&str]) -> Result<(), Stop> {
        Ok(self.try_ask(place, options, refspecs)?)
    }

    fn try_ask(&self, place: &str, options: &[&str], refspecs: &[&str]) -> Result<(), Failed> {
        let general = ["fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"];
        let args = [&general[..], options, &["--", place], refspecs].concat();
        self.git.remote(Some(&self.dir), place, &args, None)?;
        Ok(())
    }
}
