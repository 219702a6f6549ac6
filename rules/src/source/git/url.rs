//! URLs of repositories and names of revisions as they may stand in a file: what is wrong with one, and what it tells.
//! Reaches nothing.

use mosbuild_formats::git::is_object;

/// What is wrong with the URL of a repository.
pub fn url_fault(url: &str) -> Option<String> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(format!("{url:?} is no URL: it has a blank in it"));
    }
    let known = "https://…, ssh://…, git://…, http://…, file:///… or user@host:path is expected";
    let none = || Some(format!("{url:?} is no URL of a repository: {known}"));
    let Some((scheme, rest)) = url.split_once("://") else {
        if url.starts_with('/') {
            return Some(format!("{url:?} is a path: write it as file://{url}"));
        }
        // As ssh is told: a host, a colon, a path. Two colons would name a helper program.
        return match url.split_once(':') {
            Some((host, path)) if is_host(host) && !path.is_empty() && !path.starts_with(':') => None,
            _ => none(),
        };
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (user, host),
        None => ("", authority),
    };
    match scheme {
        "file" if rest.starts_with('/') => None,
        "file" => Some(format!("{url:?} needs an absolute path: file:///…")),
        "https" | "http" | "ssh" | "git" if !is_host(host) || rest.len() == authority.len() => none(),
        "https" | "http" | "ssh" | "git" if user.contains(':') => {
            Some("the URL has a password in it, which would stand in mosbuild.lock: leave it to git's credential helper".into())
        }
        "https" | "http" | "ssh" | "git" => None,
        _ => none(),
    }
}

/// Nothing that ssh would take for an option, or git for a path.
fn is_host(text: &str) -> bool {
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    !host.is_empty() && !text.starts_with('-') && !host.starts_with('-') && !text.contains('/')
}

/// What is wrong with the name of a revision: it is none that git takes for a branch, a tag or a commit.
pub fn rev_fault(rev: &str) -> Option<String> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    let named = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let fits = !rev.contains(wrong)
        && !rev.starts_with('-')
        && !rev.ends_with('.')
        && !["..", "@{"].iter().any(|bad| rev.contains(bad))
        && rev != "@"
        && rev.split('/').all(named);
    match rev {
        "" => Some("a repository needs a rev: a branch, a tag or a commit".into()),
        _ if fits => None,
        _ => Some(format!("{rev:?} is no name of a branch, a tag or a commit")),
    }
}

/// A commit's name cut short, as long as no tag or branch is usually called so.
pub fn is_abbreviated(rev: &str) -> bool {
    (7..64).contains(&rev.len())
        && !is_object(rev)
        && rev.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it lies on this machine.
pub fn is_local(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
}

/// What the repository is called: the last part of its path, without `.git`.
pub fn name(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    last.strip_suffix(".git").filter(|name| !name.is_empty()).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_git_is_given() {
        for good in [
            "https://h/x",
            "https://h:8443/a/b.git",
            "https://me@h/x",
            "ssh://git@h:22/a/b.git",
            "git@h:a/b.git",
            "h:a",
            "git://h/x",
            "http://h/x",
            "file:///srv/a%20b.git",
        ] {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for (bad, says) in [
            ("", "no URL"),
            ("x", "no URL"),
            ("../x", "no URL"),
            ("/srv/x", "file:///srv/x"),
            ("file://srv/x", "absolute path"),
            ("ext::sh -c x", "blank"),
            ("ext::sh", "no URL"),
            ("fd::17", "no URL"),
            ("-u:x", "no URL"),
            ("--upload-pack=x", "no URL"),
            ("ssh://-oProxyCommand=x/y", "no URL"),
            ("ssh://me@-oProxyCommand=x/y", "no URL"),
            ("-oProxyCommand=x:y", "no URL"),
            ("ftp://h/x", "no URL"),
            ("https://h", "no URL"),
            ("https:///x", "no URL"),
            ("https://me:secret@h/x", "password"),
            ("a/b:c", "no URL"),
        ] {
            let fault = url_fault(bad).unwrap_or_default();
            assert!(fault.contains(says), "{bad}: {fault:?}");
            assert!(!fault.contains("secret"), "{fault}");
        }
    }

    #[test]
    fn revisions() {
        for good in
            ["main", "v0.6.1", "feature/x", "refs/heads/x", "HEAD", "0123456789abcdef", "a@b", "1.0-rc.1"]
        {
            assert_eq!(rev_fault(good), None, "{good}");
        }
        for bad in [
            "", "-x", "a b", "a..b", "a~1", "a^", "a:b", "a?", "*", "a//b", "/a", "a/", ".a", "a/.b",
            "a.lock", "a@{1}", "@", "a.", "a\n",
        ] {
            assert!(rev_fault(bad).is_some(), "{bad:?}");
        }
        assert!(is_abbreviated("0123456") && is_abbreviated("0123456789abcdef0123456789abcdef0123456"));
        assert!(!is_abbreviated("012345") && !is_abbreviated("v123456") && !is_abbreviated("ABCDEF0"));
        assert!(!is_abbreviated("0123456789abcdef0123456789abcdef01234567"));
    }

    #[test]
    fn names_of_repositories() {
        for (url, is) in [
            ("https://h/a/b.git", "b"),
            ("https://h/a/b/", "b"),
            ("git@h:b.git", "b"),
            ("file:///srv/.git", ".git"),
            ("file:///srv/x", "x"),
        ] {
            assert_eq!(name(url), is);
        }
        assert!(is_local("FILE:///x") && !is_local("https://h/file:"));
    }
}
