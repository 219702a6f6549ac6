//! What a URL says of the file behind it: its name, and a version. Fetches nothing.

/// The name of the file that a URL is of, without escapes; none of one that ends in a folder.
pub fn file_name(url: &str) -> Option<String> {
    let path = path(url)?;
    let last = unescaped(path.rsplit('/').next().unwrap_or_default());
    Some(last).filter(|name| {
        !name.is_empty() && !matches!(name.as_str(), "." | "..") && !name.contains(['/', '\0'])
    })
}

/// The last thing in a URL's path that looks like a version: `2.1.4`, `v3`, `1.0.0-rc.1`, a day as `20250808`.
pub fn version(url: &str) -> Option<String> {
    let path = unescaped(path(url)?);
    let mut found = None;
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let begins = bytes[at].is_ascii_digit();
        // `x86_64`, `libc6` and a hexadecimal digest are no versions; `v2` is.
        let before = &bytes[..at];
        let v = before.last().is_some_and(|b| b.eq_ignore_ascii_case(&b'v'));
        let word = if v { &before[..at - 1] } else { before };
        let apart = !word.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'.');
        if !begins {
            at += 1;
            continue;
        }
        let length = numbers(&path[at..]);
        let text = &path[at..at + length];
        let rest = &path[at + length..];
        // What goes on in letters is another word: `1.2.3.tar` ends in time, `3d` and `9f3c` do not.
        let ends = !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        let parts = text.split('.').count();
        if apart && ends && (parts > 1 || v || is_day(text)) {
            let length = length + pre_release(rest);
            found = Some(path[at..at + length].to_owned());
            at += length;
        } else {
            // To the end of this word: its other digits begin nothing.
            at += path[at..]
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
                .unwrap_or(path.len() - at);
        }
    }
    found
}

/// The path of a URL without what is behind `?` or `#`.
fn path(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    rest.find('/').map(|slash| &rest[slash + 1..])
}

/// How long the numbers with dots between them are that a text begins with.
fn numbers(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(0);
    while bytes.get(end) == Some(&b'.') {
        match digits(end + 1) {
            0 => break,
            n => end += 1 + n,
        }
    }
    end
}

/// How long a `-rc1`, `-beta.2` is that a text begins with; `-amd64` is none.
fn pre_release(text: &str) -> usize {
    let Some(word) = text.strip_prefix('-') else { return 0 };
    let kinds = ["alpha", "beta", "rc", "pre"];
    let Some(kind) = kinds.iter().find(|kind| word.starts_with(**kind)) else { return 0 };
    let rest = &word[kind.len()..];
    let number = match rest.strip_prefix('.') {
        Some(dotted) if numbers(dotted) > 0 => 1 + numbers(dotted),
        _ => numbers(rest),
    };
    let end = 1 + kind.len() + number;
    if text[end..].starts_with(|c: char| c.is_ascii_alphanumeric()) { 0 } else { end }
}

fn is_day(text: &str) -> bool {
    let part =
        |range: std::ops::Range<usize>| text.get(range).and_then(|t| t.parse::<u32>().ok()).unwrap_or(0);
    text.len() == 8
        && (1990..2100).contains(&part(0..4))
        && (1..=12).contains(&part(4..6))
        && (1..=31).contains(&part(6..8))
}

/// A text with its `%20` and the like taken as what they stand for.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = match (first, more) {
            (b'%', [a, b, ..]) => {
                std::str::from_utf8(&[*a, *b]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for (url, name) in [
            ("https://h/a/corex-2.1.4-amd64-linux-static", Some("corex-2.1.4-amd64-linux-static")),
            ("https://h/a.tar.gz?x=/y#z", Some("a.tar.gz")),
            ("file:///srv/with%20blank", Some("with blank")),
            ("https://h/100%", Some("100%")),
            ("https://h/", None),
            ("https://h", None),
            ("https://h/a/", None),
            ("https://h/%2e%2e", None),
            ("https://h/a%2fb", None),
        ] {
            assert_eq!(file_name(url).as_deref(), name, "{url}");
        }
    }

    #[test]
    fn the_last_version_of_a_url() {
        for (url, wanted) in [
            ("https://h/corex/releases/download/2.1.4/corex-2.1.4-amd64-linux-static", Some("2.1.4")),
            ("https://h/tool/releases/download/v0.6.1/tool-x86_64-unknown-linux-musl.tar.gz", Some("0.6.1")),
            ("https://h/v1.0/tool_1.2.3_amd64.tar.xz", Some("1.2.3")),
            ("https://h/tool-v3/tool", Some("3")),
            ("https://h/tool-1.0.0-rc.1.zip", Some("1.0.0-rc.1")),
            ("https://h/tool-1.0.0-beta2-linux.zip", Some("1.0.0-beta2")),
            ("https://h/tool-1.0.0-rcx", Some("1.0.0")),
            ("https://h/linux-firmware-20250808.tar.xz", Some("20250808")),
            ("https://h/tool-20259999", None),
            ("https://h/x86_64/tool", None),
            ("https://h/libc6/sha256sum", None),
            ("https://h/9f3c2a1/tool", None),
            ("https://h/arm64v8.2/tool", None),
            ("https://10.0.0.1/tool", None),
            ("https://h/tool?v=1.2.3", None),
            ("https://h/tool%2D1.2", Some("1.2")),
            ("file:///srv/mirror/tool-1.10.tgz", Some("1.10")),
        ] {
            assert_eq!(version(url).as_deref(), wanted, "{url}");
        }
    }
}
