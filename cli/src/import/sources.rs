//! `sources.conf`: `TYPE:NAME:URL:VERSION:BUILD_FUNCTION[:EXTRA…]`, or the same with blanks.
//! Knows what the pipeline's own build functions did; what others do, it cannot.

use mosbuild_engine::load::names::is_target_name;

use super::yaml::{Block, map, scalar};
use super::{Imported, lines};

/// A line in parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// `git`, `release`, …
    pub kind: &'a str,
    /// What it is called.
    pub name: &'a str,
    pub url: String,
    /// Empty if the line has none.
    pub version: &'a str,
    /// Empty if the line has none.
    pub function: &'a str,
    /// `rename=corex`.
    pub extra: Vec<&'a str>,
}

/// A build function of the pipeline, and what it did beyond `cargo build` and one copy.
struct Known {
    function: &'static str,
    subdir: &'static str,
    features: &'static str,
    to: &'static str,
}

const KNOWN: [Known; 8] = [
    Known { function: "build_my_init", subdir: "", features: "", to: "/sbin/my_init" },
    Known { function: "build_myfs", subdir: "", features: "", to: "/usr/bin/myfs" },
    Known { function: "build_mosnet", subdir: "", features: "", to: "/usr/bin/mosnet" },
    Known { function: "build_mos_volmgr", subdir: "", features: "", to: "/usr/bin/mos_volmgr" },
    Known { function: "build_mosstorage", subdir: "", features: "", to: "/usr/bin/mosstorage" },
    Known { function: "build_mycelium", subdir: "myceliumd", features: "", to: "/usr/bin/mycelium" },
    // Its program is behind this feature.
    Known { function: "build_rfs", subdir: "", features: "build-binary", to: "/usr/bin/rfs" },
    Known { function: "build_zinit", subdir: "", features: "", to: "/sbin/zinit" },
];

pub(super) fn read(text: &str) -> Imported {
    let mut all = Imported::default();
    for (at, text) in lines(text) {
        match parse(text) {
            Ok(line) => translate(&mut all, at, &line),
            Err(why) => all.remark(at, format!("{why}; the line is left out: {text}")),
        }
    }
    all
}

/// A line in parts; the form is told by what is behind the first word.
pub(super) fn parse(text: &str) -> Result<Line<'_>, String> {
    let form = "TYPE:NAME:URL:VERSION:BUILD_FUNCTION[:EXTRA] is expected, or the same with blanks";
    let end = text.find(|c: char| c == ':' || c.is_whitespace()).ok_or(form)?;
    let kind = &text[..end];
    let blanks = text[end..].starts_with(char::is_whitespace);
    let words: Vec<&str> = match blanks {
        true => text[end..].split_whitespace().collect(),
        false => text[end + 1..].split(':').map(str::trim).collect(),
    };
    let [name, rest @ ..] = &words[..] else { return Err(form.into()) };
    if kind.is_empty() || name.is_empty() || rest.iter().all(|word| word.is_empty()) {
        return Err(form.into());
    }
    let taken = if blanks { 1 } else { of_url(rest) };
    let (url, rest) = rest.split_at(taken);
    let rest: Vec<&str> = rest.iter().copied().filter(|word| !word.is_empty()).collect();
    // What comes behind may lack either: a function is told by its name, or by being the second.
    let mut line = Line { kind, name, url: url.join(":"), version: "", function: "", extra: Vec::new() };
    for word in rest {
        if word.contains('=') {
            line.extra.push(word);
        } else if line.function.is_empty() && is_function(word) {
            line.function = word;
        } else if line.version.is_empty() && line.function.is_empty() {
            line.version = word;
        } else if line.function.is_empty() {
            line.function = word;
        } else {
            line.extra.push(word);
        }
    }
    Ok(line)
}

/// How many of the parts between colons are the URL's. It may have a user, a port and more colons in its path, so
/// that a build function is looked for first: then all before the version is the URL.
fn of_url(words: &[&str]) -> usize {
    let function = words.iter().position(|word| is_function(word)).unwrap_or_default();
    by_form(words).max(function.saturating_sub(1))
}

/// As many as a URL has at least: `https`, `//host/path`; a user's name and a port come between.
fn by_form(words: &[&str]) -> usize {
    let [first, second, rest @ ..] = words else { return 1 };
    if !second.starts_with("//") {
        // `git@host:org/name.git`, or a path.
        return if first.contains('@') { 2 } else { 1 };
    }
    let port = |word: &str| {
        let digits = word.split('/').next().unwrap_or_default();
        word.contains('/') && !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
    };
    let more = |word: &&&str| word.contains('@') || port(word);
    2 + rest.iter().take_while(more).count()
}

fn is_function(word: &str) -> bool {
    let rest = word.strip_prefix("build_").or_else(|| word.strip_prefix("install_"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

fn translate(all: &mut Imported, at: usize, line: &Line<'_>) {
    let Line { kind, name, .. } = line;
    if !is_target_name(name) {
        return all.remark(at, format!("{name:?} cannot be a target's name; the line is left out"));
    }
    let block = match *kind {
        "git" => git(all, at, line),
        "release" => release(all, at, line),
        other => {
            let text =
                format!("there is no source of type {other}: {name} is left out (git and release are known)");
            return all.remark(at, text);
        }
    };
    match all.has(name).map(|first| first.line) {
        Some(first) => {
            all.remark(at, format!("{name} is there already, by line {first}: printed as a comment"));
            all.targets.push(Block { off: true, ..block });
        }
        None => all.targets.push(block),
    }
}

fn git(all: &mut Imported, at: usize, line: &Line<'_>) -> Block {
    let Line { name, url, version, function, .. } = line;
    let mut source = vec![("git", url.as_str())];
    if version.is_empty() {
        all.remark(at, format!("{name} has no version: HEAD, which is the default branch, is taken"));
        source.push(("rev", "HEAD"));
    } else {
        source.push(("rev", version));
    }
    let mut block = Block::new(name, at, "component").with("source", map(&source));
    let known = KNOWN.iter().find(|known| known.function == *function);
    if let Some(known) = known {
        if !known.subdir.is_empty() {
            block = block.with("subdir", known.subdir);
        }
        if !known.features.is_empty() {
            block = block.with("features", format!("[{}]", known.features));
        }
    } else {
        let what = match function.is_empty() {
            true => "no build function is named".to_owned(),
            false => format!("{function} is shell code, which is not translated"),
        };
        block.comments.push(format!("{what}: a plain cargo build of the program {name}."));
        block.comments.push("Fields subdir, package, features, env and build say it otherwise.".into());
        all.remark(at, format!("{what}: {name} becomes a plain cargo build; see subdir, features, build"));
    }
    for extra in &line.extra {
        block.comments.push(format!("{extra}: has no equivalent."));
        all.remark(at, format!("option {extra} of {name} has no equivalent; it stands in a comment"));
    }
    let to = known.map_or_else(|| format!("/usr/bin/{name}"), |known| known.to.into());
    block.with("install", map(&[(name, &to)]))
}

fn release(all: &mut Imported, at: usize, line: &Line<'_>) -> Block {
    let Line { name, url, version, function, extra, .. } = line;
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default();
    let archive = [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".zip"];
    let packed = archive.iter().any(|ending| file.ends_with(ending));
    let mut block = Block::new(name, at, "release").with("url", scalar(url));
    if !version.is_empty() && !url.contains(version) {
        block = block.with("version", scalar(version));
    }
    let mut to = (*name).to_owned();
    for extra in extra {
        match extra.split_once('=') {
            Some(("rename", new)) if !new.is_empty() && !new.contains('/') => to = new.to_owned(),
            _ => {
                block.comments.push(format!("{extra}: has no equivalent."));
                all.remark(at, format!("option {extra} of {name} has no equivalent; it stands in a comment"));
            }
        }
    }
    if packed {
        block.comments.push(format!("Which member of {file} is the program was in {function}."));
        all.remark(at, format!("{file} is an archive: check which member of it is {to}"));
    } else if *function != format!("install_{name}") {
        let what = match function.is_empty() {
            true => "no install function is named".to_owned(),
            false => format!("{function} is shell code, which is not translated"),
        };
        all.remark(at, format!("{what}: {name} goes to /usr/bin/{to}"));
    }
    let member = if packed { to.as_str() } else { file };
    block.with("install", map(&[(member, &format!("/usr/bin/{to}"))]))
}
