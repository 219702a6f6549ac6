//! Which member of an archive a name means: its path, that path without the archive's one folder, or its file name if
//! there is only one; links are followed. Reads nothing.

use std::collections::BTreeSet;

use mosbuild_engine::action::StepError;

use super::listing::{Member, Members};

/// Links that are followed before they count as a circle.
const LINKS: usize = 40;
/// How many members an error names.
const NAMED: usize = 5;

/// The path of the file that a name means.
pub fn find(members: &Members, name: &str) -> Result<Vec<u8>, StepError> {
    let wanted =
        name.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/").into_bytes();
    let below_top = single_folder(members).map(|top| [&top, &b"/"[..], &wanted].concat());
    for path in std::iter::once(wanted.clone()).chain(below_top) {
        if is_there(members, &path) {
            return follow(members, name, &path);
        }
    }
    let named: Vec<&Vec<u8>> = match wanted.contains(&b'/') {
        true => Vec::new(),
        false => members
            .iter()
            .filter(|(path, member)| **member != Member::Dir && file_name(path) == wanted)
            .map(|(path, _)| path)
            .collect(),
    };
    // Several names of one file are one.
    let files: BTreeSet<Vec<u8>> = named.iter().filter_map(|path| follow(members, name, path).ok()).collect();
    match (named.as_slice(), files.len()) {
        ([], _) => Err(missing(members, name)),
        ([only], _) => follow(members, name, only),
        (_, 1) => Ok(files.into_iter().next().unwrap_or_default()),
        (several, _) => {
            let paths: Vec<String> = several.iter().map(|path| shown(path)).collect();
            Err(StepError::new(format!("{} members of the archive are called {name}", several.len()))
                .help(format!("name one by its path: {}", list(&paths))))
        }
    }
}

/// The folder that all members lie in, if there is one.
fn single_folder(members: &Members) -> Option<Vec<u8>> {
    let first = |path: &[u8]| path.split(|b| *b == b'/').next().unwrap_or_default().to_vec();
    let top = first(members.keys().next()?);
    let within = |(path, member): (&Vec<u8>, &Member)| {
        first(path) == top && (path.len() > top.len() || *member == Member::Dir)
    };
    members.iter().all(within).then_some(top)
}

/// Whether a path is a member, a folder above one, or leads to one through a link.
fn is_there(members: &Members, path: &[u8]) -> bool {
    members.contains_key(path)
        || is_folder(members, path)
        || above(path).any(|folder| matches!(members.get(folder), Some(Member::Symlink(_))))
}

fn is_folder(members: &Members, path: &[u8]) -> bool {
    let below = [path, b"/"].concat();
    matches!(members.get(path), Some(Member::Dir))
        || members.range(below.clone()..).next().is_some_and(|(p, _)| p.starts_with(&below))
}

/// The file at a path, through links of whatever part of it.
fn follow(members: &Members, name: &str, path: &[u8]) -> Result<Vec<u8>, StepError> {
    let mut path = path.to_vec();
    for _ in 0..LINKS {
        match members.get(&path) {
            Some(Member::File) => return Ok(path),
            Some(Member::HardLink(to)) => {
                path.clone_from(to);
                continue;
            }
            Some(Member::Other) => {
                return Err(StepError::new(format!("{name}: {} is no file", shown(&path))));
            }
            _ => {}
        }
        // The longest part of it that is a link.
        let link =
            std::iter::once(path.as_slice()).chain(above(&path)).find_map(|part| match members.get(part) {
                Some(Member::Symlink(target)) => Some((part.to_vec(), target.clone())),
                _ => None,
            });
        let Some((link, target)) = link else {
            return Err(match is_folder(members, &path) {
                true => folder(members, name, &path),
                false => missing(members, name),
            });
        };
        let broken = || {
            StepError::new(format!(
                "{name}: {} is a link to {}, which is not in the archive",
                shown(&link),
                shown(&target)
            ))
        };
        let rest = path.get(link.len()..).unwrap_or_default();
        let dir = link.iter().rposition(|b| *b == b'/').map_or(&b""[..], |slash| &link[..slash]);
        let joined = join(dir, &[&target[..], rest].concat()).ok_or_else(broken)?;
        if !is_there(members, &joined) {
            return Err(broken());
        }
        path = joined;
    }
    Err(StepError::new(format!("{name}: its links lead in a circle, or through more than {LINKS} of them")))
}

/// A link's target seen from its folder; none if it leaves the archive.
fn join(dir: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = dir.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let up = |path: &&[u8]| path.iter().rposition(|b| *b == b'/');
    std::iter::successors(Some(path), move |path| up(path).map(|slash| &path[..slash])).skip(1)
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

fn folder(members: &Members, name: &str, path: &[u8]) -> StepError {
    let below = [path, b"/"].concat();
    let files: Vec<String> = members
        .range(below.clone()..)
        .take_while(|(p, _)| p.starts_with(&below))
        .filter(|(_, member)| **member != Member::Dir)
        .map(|(path, _)| shown(path))
        .collect();
    let error = StepError::new(format!("{name} is a folder of the archive, not a file"));
    if files.is_empty() { error } else { error.help(format!("it has {}", list(&files))) }
}

/// The error of a name that no member has: with those that it may have been meant for.
fn missing(members: &Members, name: &str) -> StepError {
    let error = StepError::new(format!("the archive has no {name}"));
    let files: Vec<&Vec<u8>> =
        members.iter().filter(|(_, m)| **m != Member::Dir).map(|(path, _)| path).collect();
    if files.is_empty() {
        return error.help("it has no files at all");
    }
    let wanted = name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let distance = |path: &&Vec<u8>| {
        let own = String::from_utf8_lossy(file_name(path)).to_ascii_lowercase();
        match own.contains(&wanted) || own.len() > 2 && wanted.contains(&own) {
            true => 0,
            false => strsim::damerau_levenshtein(&wanted, &own),
        }
    };
    let mut near: Vec<(usize, &Vec<u8>)> = files.iter().map(|path| (distance(path), *path)).collect();
    near.retain(|(distance, _)| *distance <= (wanted.chars().count() / 2).max(1));
    near.sort();
    match near.is_empty() {
        true => {
            let all: Vec<String> = files.iter().map(|path| shown(path)).collect();
            error.help(format!("it has {}", list(&all)))
        }
        false => {
            let near: Vec<String> = near.iter().map(|(_, path)| shown(path)).collect();
            error.help(format!(
                "nearest to it {} {}",
                if near.len() == 1 { "is" } else { "are" },
                list(&near)
            ))
        }
    }
}

fn list(names: &[String]) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, Member)]) -> Members {
        entries.iter().map(|(path, member)| (path.as_bytes().to_vec(), member.clone())).collect()
    }

    fn link(target: &str) -> Member {
        Member::Symlink(target.into())
    }

    fn found(members: &Members, name: &str) -> String {
        find(members, name)
            .map_or_else(|e| format!("{}; {}", e.message, e.help.join("; ")), |path| shown(&path))
    }

    fn tool() -> Members {
        archive(&[
            ("tool-1.2", Member::Dir),
            ("tool-1.2/bin/tool", Member::File),
            ("tool-1.2/bin/same", Member::HardLink(b"tool-1.2/bin/tool".to_vec())),
            ("tool-1.2/bin/helper", Member::File),
            ("tool-1.2/lib/helper", Member::File),
            ("tool-1.2/current", link("bin")),
            ("tool-1.2/t", link("current/tool")),
            ("tool-1.2/out", link("../../etc/passwd")),
            ("tool-1.2/abs", link("/etc/passwd")),
            ("tool-1.2/circle", link("circle")),
            ("tool-1.2/pipe", Member::Other),
        ])
    }

    #[test]
    fn by_path_without_the_folder_or_by_name() {
        let members = tool();
        for name in ["tool-1.2/bin/tool", "./tool-1.2/bin/tool", "bin/tool", "tool", "bin/same", "same"] {
            assert_eq!(found(&members, name), "tool-1.2/bin/tool", "{name}");
        }
        assert_eq!(found(&members, "lib/helper"), "tool-1.2/lib/helper");
        assert_eq!(
            found(&members, "helper"),
            "2 members of the archive are called helper; name one by its path: tool-1.2/bin/helper, tool-1.2/lib/helper"
        );
        // Two at the top: none of them is taken off.
        let two = archive(&[("a/x", Member::File), ("b/x", Member::File), ("b/y", Member::File)]);
        assert_eq!((found(&two, "a/x"), found(&two, "y")), ("a/x".into(), "b/y".into()));
        assert_eq!(found(&archive(&[("x", Member::File)]), "x"), "x");
    }

    #[test]
    fn links_are_followed_and_stay_inside() {
        let members = tool();
        for name in ["t", "current/tool", "tool-1.2/current/same"] {
            assert_eq!(found(&members, name), "tool-1.2/bin/tool", "{name}");
        }
        assert!(
            found(&members, "out")
                .starts_with("out: tool-1.2/out is a link to ../../etc/passwd, which is not in")
        );
        assert!(
            found(&members, "abs").starts_with("abs: tool-1.2/abs is a link to /etc/passwd, which is not in")
        );
        assert!(found(&members, "circle").starts_with("circle: its links lead in a circle"));
        assert!(found(&members, "pipe").starts_with("pipe: tool-1.2/pipe is no file"));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is_near() {
        let members = tool();
        assert!(
            found(&members, "tol").starts_with("the archive has no tol; nearest to it "),
            "{}",
            found(&members, "tol")
        );
        assert!(found(&members, "tol").contains("tool-1.2/bin/tool"));
        assert!(found(&members, "something-else").contains("it has tool-1.2/abs, "));
        assert!(found(&members, "something-else").contains(" and 5 more"));
        assert_eq!(
            found(&members, "bin"),
            "bin is a folder of the archive, not a file; it has tool-1.2/bin/helper, tool-1.2/bin/same, tool-1.2/bin/tool"
        );
        assert_eq!(
            found(&archive(&[("a", Member::Dir)]), "x"),
            "the archive has no x; it has no files at all"
        );
    }
}
