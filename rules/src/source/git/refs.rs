//! Which ref of a repository a `rev` means, and which names are near one that is not there.
//! Knows lists of refs; asks no server.

use mosbuild_engine::load::{names, nearest};
use mosbuild_formats::git::{Ref, Refs};

/// Branches.
const HEADS: &str = "refs/heads/";
/// Tags.
const TAGS: &str = "refs/tags/";
/// How many names are told of those that are there.
const TOLD: usize = 8;

/// The ref that is meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// It.
    pub chosen: &'a Ref,
    /// A branch of the same name, which is not meant.
    pub also: Option<&'a Ref>,
}

/// The ref that `rev` means: as it is written, then with `v` before it, then without its `v`. Of a tag and a branch with one
/// name it is the tag, as everywhere in git.
pub fn choose<'a>(refs: &'a Refs, rev: &str) -> Option<Choice<'a>> {
    if rev.starts_with("refs/") {
        return refs.get(rev).map(|chosen| Choice { chosen, also: None });
    }
    let names = [Some(rev.to_owned()), Some(format!("v{rev}")), rev.strip_prefix('v').map(str::to_owned)];
    names.into_iter().flatten().find_map(|name| {
        let branch = refs.get(&format!("{HEADS}{name}"));
        match refs.get(&format!("{TAGS}{name}")) {
            Some(tag) => Some(Choice { chosen: tag, also: branch }),
            None => branch.map(|chosen| Choice { chosen, also: None }),
        }
    })
}

/// The commits that branches and tags are at and whose names begin so, each once.
pub fn beginning<'a>(refs: &'a Refs, abbreviated: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> =
        refs.all.iter().map(Ref::target).filter(|c| c.starts_with(abbreviated)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// `tag v1`, `branch main`, or the whole name of a ref that is neither.
pub fn told(name: &str) -> String {
    match (name.strip_prefix(TAGS), name.strip_prefix(HEADS)) {
        (Some(tag), _) => format!("tag {tag}"),
        (_, Some(branch)) => format!("branch {branch}"),
        _ => name.to_owned(),
    }
}

/// Whether it is a tag, which is not expected to move.
pub fn is_tag(name: &str) -> bool {
    name.starts_with(TAGS)
}

/// What to say of a rev that is not there: the nearest name, those that have it in them, and what else there is.
pub fn near(refs: &Refs, rev: &str) -> Vec<String> {
    let of =
        |prefix: &str| -> Vec<&str> { refs.all.iter().filter_map(|r| r.name.strip_prefix(prefix)).collect() };
    let (branches, tags) = (of(HEADS), of(TAGS));
    let wanted = rev.trim_start_matches(HEADS).trim_start_matches(TAGS).to_ascii_lowercase();
    let mut lines = Vec::new();
    let akin = |name: &&&str| {
        let name = name.to_ascii_lowercase();
        wanted.len() >= 3 && name.contains(&wanted) || name.len() >= 3 && wanted.contains(&name)
    };
    let all = || branches.iter().chain(&tags);
    let mut close: Vec<&str> = nearest(&wanted, all().copied()).into_iter().collect();
    for name in all().filter(akin) {
        if !close.contains(name) && close.len() < TOLD {
            close.push(name);
        }
    }
    if !close.is_empty() {
        lines.push(format!("did you mean {}?", names::join(close, "or")));
    }
    for (what, mut names, last) in [("branches", branches, false), ("tags", tags, true)] {
        if names.is_empty() {
            lines.push(format!("it has no {what}"));
            continue;
        }
        if last {
            // Those with the highest numbers are the newest, mostly.
            names.reverse();
        }
        let more = names.len().saturating_sub(TOLD);
        names.truncate(TOLD);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("its {what}: {}{more}", names.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refs(names: &[&str]) -> Refs {
        let one = |(n, name): (usize, &&str)| Ref {
            name: (*name).to_owned(),
            object: format!("{n:040x}"),
            peeled: name.contains("annotated").then(|| format!("{:040x}", 0xabc)),
        };
        Refs { all: names.iter().enumerate().map(one).collect(), head: None }
    }

    #[test]
    fn as_written_then_with_v_then_without() {
        let refs = refs(&[
            "refs/heads/main",
            "refs/heads/v3",
            "refs/heads/x",
            "refs/pull/7/head",
            "refs/tags/2.0",
            "refs/tags/annotated",
            "refs/tags/v0.6.1",
            "refs/tags/v2.0",
            "refs/tags/x",
        ]);
        let chosen = |rev: &str| choose(&refs, rev).map(|c| (c.chosen.name.as_str(), c.also.is_some()));
        assert_eq!(chosen("main"), Some(("refs/heads/main", false)));
        assert_eq!(chosen("0.6.1"), Some(("refs/tags/v0.6.1", false)));
        assert_eq!(chosen("v0.6.1"), Some(("refs/tags/v0.6.1", false)));
        assert_eq!(chosen("2.0"), Some(("refs/tags/2.0", false)));
        assert_eq!(chosen("v2.0"), Some(("refs/tags/v2.0", false)));
        assert_eq!(chosen("vmain"), Some(("refs/heads/main", false)));
        assert_eq!(chosen("3"), Some(("refs/heads/v3", false)));
        assert_eq!(chosen("x"), Some(("refs/tags/x", true)));
        assert_eq!(chosen("refs/heads/x"), Some(("refs/heads/x", false)));
        assert_eq!(chosen("refs/pull/7/head"), Some(("refs/pull/7/head", false)));
        assert_eq!(chosen("vv3"), Some(("refs/heads/v3", false)));
        assert_eq!(chosen("pull/7/head"), None);
        assert_eq!(choose(&refs, "annotated").unwrap().chosen.target(), format!("{:040x}", 0xabc));
    }

    #[test]
    fn commits_that_refs_are_at() {
        let refs = refs(&["refs/heads/a", "refs/heads/b", "refs/tags/annotated"]);
        assert_eq!(beginning(&refs, "00000000").len(), 3);
        assert_eq!(beginning(&refs, &format!("{:040x}", 1)[..39]).len(), 2);
        assert!(beginning(&refs, "fffffff").is_empty());
    }

    #[test]
    fn names_near_one_that_is_not_there() {
        let refs =
            refs(&["refs/heads/development", "refs/heads/main", "refs/tags/v0.6.0", "refs/tags/v0.6.1"]);
        let lines = near(&refs, "developement");
        assert_eq!(lines[0], "did you mean `development`?");
        assert_eq!(lines[1], "its branches: development, main");
        assert_eq!(lines[2], "its tags: v0.6.1, v0.6.0");
        let lines = near(&refs, "0.6");
        assert!(lines[0].contains("`v0.6.0`") && lines[0].contains("`v0.6.1`"), "{lines:?}");
        assert_eq!(near(&Refs::default(), "x"), ["it has no branches", "it has no tags"]);
    }
}
