//! Where a URL's bytes may be had: mirrors, and what a `file://` URL names.
//! Knows no protocol.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::load::Mirror;

/// The places of a URL in the order in which they are tried; the original is the last.
///
/// A mirror stands for a folder or for a whole URL: `https://h/a` is none for `https://h/ab`.
pub(super) fn places(url: &str, mirrors: &[Mirror]) -> Vec<String> {
    let mut places: Vec<String> = Vec::new();
    for mirror in mirrors {
        let Some(rest) = url.strip_prefix(&mirror.from) else { continue };
        let from = mirror.from.trim_end_matches('/');
        // As in `git@host:folder/name`.
        let host = from.ends_with(':');
        if from.len() == mirror.from.len() && !host && !(rest.is_empty() || rest.starts_with(['/', '?'])) {
            continue;
        }
        for to in &mirror.to {
            // One slash between the two, however they are written.
            let place = match &url[from.len()..] {
                rest if rest.starts_with('/') => format!("{}{rest}", to.trim_end_matches('/')),
                rest if host => format!("{}/{rest}", to.trim_end_matches('/')),
                rest => format!("{to}{rest}"),
            };
            places.push(place);
        }
    }
    places.push(url.to_owned());
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// How a place is reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// By the network.
    Http,
    /// On this machine.
    File(PathBuf),
}

/// How a URL's bytes are reached, or why they cannot be.
pub(super) fn scheme(url: &str) -> Result<Scheme, String> {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return match reqwest::Url::parse(url) {
            Ok(_) => Ok(Scheme::Http),
            Err(e) => Err(format!("it is no URL: {e}")),
        };
    }
    if !lower.starts_with("file:") {
        return Err("http://, https:// and file:// are known".into());
    }
    let rest = &url["file:".len()..];
    let local = "//localhost/";
    let path = match rest.get(..local.len()).is_some_and(|head| head.eq_ignore_ascii_case(local)) {
        true => &rest[local.len() - 1..],
        false => rest.strip_prefix("//").filter(|path| path.starts_with('/')).ok_or_else(|| {
            "a file URL names an absolute path on this machine: file:///folder/file".to_owned()
        })?,
    };
    if path.contains(['?', '#']) {
        return Err("`?` and `#` in the path of a file URL are written %3F and %23".into());
    }
    let bytes = percent_decoded(path).ok_or("a `%` that is no escape is written %25")?;
    if bytes.contains(&0) {
        return Err("no path has a zero byte".into());
    }
    Ok(Scheme::File(OsString::from_vec(bytes).into()))
}

/// Text with its escapes replaced; `None`: a `%` without two hex digits.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: u8| char::from(b).to_digit(16);
        let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

/// A URL as it is shown and logged: without a password.
pub fn shown(url: &str) -> String {
    let Some(start) = url.find("://").map(|at| at + 3) else { return url.to_owned() };
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let Some(at) = url[start..end].rfind('@') else { return url.to_owned() };
    match url[start..start + at].find(':') {
        Some(colon) => format!("{}:***{}", &url[..start + colon], &url[start + at..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(from: &str, to: &[&str]) -> Mirror {
        Mirror { from: from.into(), to: to.iter().map(|t| t.to_string()).collect() }
    }

    #[test]
    fn mirrors_come_in_order_before_the_original() {
        let mirrors = [
            mirror("https://h/alpine/", &["file:///srv/alpine/", "http://m/a"]),
            mirror("https://h", &["http://all/"]),
            mirror("https://h/alp", &["http://no/"]),
            mirror("https://h/alpine/x.apk", &["http://one/y.apk"]),
        ];
        assert_eq!(
            places("https://h/alpine/x.apk", &mirrors),
            [
                "file:///srv/alpine/x.apk",
                "http://m/a/x.apk",
                "http://all/alpine/x.apk",
                "http://one/y.apk",
                "https://h/alpine/x.apk"
            ]
        );
        assert_eq!(places("https://h.evil/x", &mirrors), ["https://h.evil/x"]);
        let host = [mirror("git@h:", &["file:///srv", "https://h/"])];
        assert_eq!(
            places("git@h:a/b.git", &host),
            ["file:///srv/a/b.git", "https://h/a/b.git", "git@h:a/b.git"]
        );
        let itself = [mirror("https://h/", &["https://h/"])];
        assert_eq!(places("https://h/x", &itself), ["https://h/x"]);
    }

    #[test]
    fn file_urls_name_absolute_paths() {
        let path = |url: &str| scheme(url);
        assert_eq!(path("file:///a%20b/c"), Ok(Scheme::File("/a b/c".into())));
        assert_eq!(path("FILE://LOCALHOST/a"), Ok(Scheme::File("/a".into())));
        for relative in ["file:a", "file://a/b", "file:/", "file://", "file://localhost"] {
            let refused = path(relative).unwrap_err();
            assert!(refused.contains("absolute path"), "{relative}: {refused}");
        }
        assert!(path("file:///a?b").unwrap_err().contains("%3F"));
        assert!(path("file:///a%2").unwrap_err().contains("%25"));
        assert!(path("file:///a%00").unwrap_err().contains("zero"));
        assert!(path("ftp://h/x").unwrap_err().contains("http://"));
        assert!(path("http://").unwrap_err().contains("no URL"));
        assert_eq!(path("https://h/x"), Ok(Scheme::Http));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://me:pass@h/x@y:z"), "https://me:***@h/x@y:z");
        assert_eq!(shown("https://h:80/x:y@z"), "https://h:80/x:y@z");
    }
}
