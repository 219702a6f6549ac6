//! The names in a folder: from the links of a server's index page.
//! Knows nginx's and Python's pages, and any other whose links lead one step down.

use reqwest::Url;

use super::places::percent_decoded;

/// The names that the page at the URL `folder`, which ends in `/`, links to, sorted; folders end in `/`.
///
/// Links that lead elsewhere (up, to another server, to the same page sorted otherwise) are none.
pub fn names(page: &str, folder: &str) -> Vec<String> {
    let Ok(folder) = Url::parse(folder) else { return Vec::new() };
    let mut names: Vec<String> = links(page).filter_map(|link| name(&link, &folder)).collect();
    names.sort();
    names.dedup();
    names
}

fn name(link: &str, folder: &Url) -> Option<String> {
    let mut url = folder.join(link).ok()?;
    if url.query().is_some() || url.origin() != folder.origin() {
        return None;
    }
    url.set_fragment(None);
    let parent = folder.path().rsplit_once('/').map_or("", |(parent, _)| parent);
    let rest = url.path().strip_prefix(parent)?.strip_prefix('/')?;
    let stem = rest.strip_suffix('/').unwrap_or(rest);
    let decoded = String::from_utf8(percent_decoded(stem)?).ok()?;
    let fine = !decoded.is_empty()
        && !stem.contains('/')
        && !decoded.contains(['/', '\0', '\n'])
        && decoded != "."
        && decoded != "..";
    fine.then(|| if rest.len() == stem.len() { decoded } else { format!("{decoded}/") })
}

/// The values of `href` attributes.
fn links(page: &str) -> impl Iterator<Item = String> + '_ {
    // ASCII alone changes, so places stay the same.
    let lower = page.to_ascii_lowercase();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += lower.get(at..)?.find("href")? + "href".len();
            let rest = page.get(at..)?.trim_start();
            let Some(value) = rest.strip_prefix('=').map(str::trim_start) else { continue };
            let value = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    let Some((value, _)) = value[1..].split_once(quote) else { continue };
                    value
                }
                _ => value.split(|c: char| c == '>' || c.is_ascii_whitespace()).next().unwrap_or_default(),
            };
            return Some(unescaped(value.trim()));
        }
    })
}

/// HTML's escapes as index pages write them.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let decoded =
            rest.find(';').filter(|end| *end < 12).and_then(|end| Some((entity(&rest[1..end])?, end)));
        match decoded {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn entity(name: &str) -> Option<char> {
    let number = match name.strip_prefix('#') {
        Some(number) => match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        },
        None => {
            let known = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\'')];
            return known.iter().find(|(known, _)| *known == name).map(|(_, c)| *c);
        }
    };
    char::from_u32(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_of_nginx_and_python() {
        let folder = "http://h/alpine/v3.22/";
        let nginx = "<html><head><title>Index of /alpine/v3.22/</title></head><body><h1>Index</h1><hr><pre>\
            <a href=\"../\">../</a>\n<a href=\"main/\">main/</a>  24-Nov-2026 02:08  -\n\
            <a href=\"a%20b%26c.apk\">a b&amp;c.apk</a> 1\n</pre></body></html>";
        assert_eq!(names(nginx, folder), ["a b&c.apk", "main/"]);
        let others = "<A HREF='/alpine/v3.22/abs.apk'>x</A><a href=?C=M;O=A>sort</a> <a href = plain.apk >\
            <a href=\"http://h/alpine/v3.22/whole.apk\"><a href=\"http://other/alpine/v3.22/no\"><a href=\"#top\">\
            <a href=\"../v3.21/no\"><a href=\"deep/er\"><a href=\"R&amp;D&#x2b;&#43;.apk\"><a href=\"%2e%2e\">\
            <a href=\"a%2fb\"> href <a href=\"/alpine/v3.22/\">";
        assert_eq!(names(others, folder), ["R&D++.apk", "abs.apk", "plain.apk", "whole.apk"]);
    }

    proptest! {
        #[test]
        fn any_page_gives_plain_names(page in "(<a href=|href|=|\"|'|&|;|#|%2[fF]|\\.|/|[a-z\u{e9}\u{130}]| |>){0,60}") {
            for name in names(&page, "http://h/d/") {
                let stem = name.strip_suffix('/').unwrap_or(&name);
                prop_assert!(!stem.is_empty() && !stem.contains('/') && stem != "..");
            }
        }
    }
}
