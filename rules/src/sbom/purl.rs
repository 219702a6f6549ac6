//! Package URLs, as the purl specification writes them. Knows no bill.

use std::fmt::Write;

/// A component of a purl: all but what never needs it is percent-encoded.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                out.push(byte.into())
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// `pkg:TYPE/NAMESPACE/NAME@VERSION?KEY=VALUE`; empty parts are left out. Qualifiers must come sorted by key.
pub fn purl(kind: &str, namespace: &str, name: &str, version: &str, qualifiers: &[(&str, &str)]) -> String {
    let mut out = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        let _ = write!(out, "{}/", encoded(part));
    }
    out.push_str(&encoded(name));
    if !version.is_empty() {
        let _ = write!(out, "@{}", encoded(version));
    }
    let mut sign = '?';
    for (key, value) in qualifiers.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(out, "{sign}{key}={}", encoded(value));
        sign = '&';
    }
    out
}

/// Of a commit: of a known forge its own kind, else a generic one that says where the repository is.
pub fn commit(url: &str, commit: &str) -> String {
    let bare = url.trim_end_matches('/').trim_end_matches(".git");
    for (host, kind) in [("github.com", "github"), ("bitbucket.org", "bitbucket")] {
        let path = bare.strip_prefix(&format!("https://{host}/"));
        let path = path.or_else(|| bare.strip_prefix(&format!("git@{host}:")));
        if let Some((owner, name)) = path.and_then(|path| path.split_once('/'))
            && !name.contains('/')
        {
            return purl(kind, &owner.to_lowercase(), &name.to_lowercase(), commit, &[]);
        }
    }
    let name = bare.rsplit(['/', ':']).next().unwrap_or(bare);
    let place = if url.contains("://") {
        format!("git+{url}@{commit}")
    } else {
        format!("git+ssh://{}@{commit}", url.replacen(':', "/", 1))
    };
    purl("generic", "", name, commit, &[("vcs_url", &place)])
}

/// Of a downloaded file.
pub fn download(name: &str, version: &str, url: &str, sha256: &str) -> String {
    let sum = if sha256.is_empty() { String::new() } else { format!("sha256:{sha256}") };
    purl("generic", "", name, version, &[("checksum", &sum), ("download_url", url)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_those_of_the_specification() {
        assert_eq!(
            purl(
                "apk",
                "alpine",
                "libstdc++",
                "13.2.1_git20231014-r0",
                &[("arch", "x86_64"), ("distro", "")]
            ),
            "pkg:apk/alpine/libstdc%2B%2B@13.2.1_git20231014-r0?arch=x86_64"
        );
        assert_eq!(purl("cargo", "", "a", "1.0.0+b", &[]), "pkg:cargo/a@1.0.0%2Bb");
        assert_eq!(commit("https://github.com/Owner/Name.git", "abc"), "pkg:github/owner/name@abc");
        assert_eq!(commit("git@github.com:o/n", "abc"), "pkg:github/o/n@abc");
        assert_eq!(
            commit("https://forge.example.org/a/b.git", "abc"),
            "pkg:generic/b@abc?vcs_url=git%2Bhttps:%2F%2Fforge.example.org%2Fa%2Fb.git%40abc"
        );
        assert_eq!(
            download("linux", "6.1", "https://k/l.tar.xz", "00"),
            "pkg:generic/linux@6.1?checksum=sha256:00&download_url=https:%2F%2Fk%2Fl.tar.xz"
        );
    }
}
