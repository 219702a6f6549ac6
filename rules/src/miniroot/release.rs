//! Where Alpine keeps the mini root filesystem of a release, and how its newest one is told.
//! Knows the layout of the mirrors (as `latest-releases.yaml` and their folders show it); asks no server.

use mosbuild_engine::load::yaml::{self, Limits, Node};

/// Alpine's own mirror; what is meant where no URL is written. Mirrors of mosbuild.yaml may stand before it.
pub const CDN: &str = "https://dl-cdn.alpinelinux.org/alpine/";

const PREFIX: &str = "alpine-minirootfs-";
const SUFFIX: &str = ".tar.gz";

/// A branch of Alpine, or a release of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Folder on the mirrors: `v3.22`, `edge`, `latest-stable`.
    pub folder: String,
    /// `3.22.1`, where one release is meant.
    pub release: Option<String>,
}

impl Branch {
    /// `3.22`, `v3.22`, `3.22.1`, `3.22.0_rc1`, `edge`, `latest-stable`; also what etc/alpine-release holds.
    pub fn parse(text: &str) -> Option<Branch> {
        if matches!(text, "edge" | "latest-stable") {
            return Some(Branch { folder: text.into(), release: None });
        }
        let version = text.strip_prefix('v').unwrap_or(text);
        let mut parts = version.splitn(3, '.');
        let number = |p: &&str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        let (major, minor) = (parts.next().filter(number)?, parts.next().filter(number)?);
        let folder = format!("v{major}.{minor}");
        let patch = parts.next();
        if patch.is_some_and(|p| p.contains("_alpha")) {
            // Edge calls itself by the release that it may become.
            return Some(Branch { folder: "edge".into(), release: None });
        }
        let plain = |p: &str| {
            p.starts_with(|c: char| c.is_ascii_digit())
                && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match patch {
            None => Some(Branch { folder, release: None }),
            Some(patch) if plain(patch) => Some(Branch { folder, release: Some(version.to_owned()) }),
            Some(_) => None,
        }
    }

    /// The folder of its releases, with a `/` at the end.
    pub fn releases(&self, arch: &str) -> String {
        format!("{CDN}{}/releases/{arch}/", self.folder)
    }
}

/// Name of the archive of a release.
pub fn archive(release: &str, arch: &str) -> String {
    format!("{PREFIX}{release}-{arch}{SUFFIX}")
}

/// The release that an archive's name tells.
pub fn version<'n>(name: &'n str, arch: &str) -> Option<&'n str> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.strip_suffix(arch)?.strip_suffix('-')
}

/// The newest archive among the names of a releases folder; release candidates come before their release.
pub fn newest<'n>(names: impl Iterator<Item = &'n str>, arch: &str) -> Option<&'n str> {
    names.filter_map(|name| Some((order(version(name, arch)?), name))).max().map(|(_, name)| name)
}

/// Numbers by value; a candidate (`_rc1`) below the same without.
fn order(version: &str) -> (Vec<u64>, bool, Vec<u64>) {
    let (plain, candidate) = version.split_once('_').unwrap_or((version, ""));
    let numbers = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect::<Vec<u64>>()
    };
    (numbers(plain), candidate.is_empty(), numbers(candidate))
}

/// The mini root filesystem that `latest-releases.yaml` names; none if it does not, or is not understood.
pub fn latest(text: &[u8]) -> Option<String> {
    let limits = Limits::default();
    let text = yaml::decode(text, "latest-releases.yaml", &limits).ok()?;
    let parsed = yaml::parse(text, &limits);
    let root = parsed.root?;
    let field = |node: &Node, name: &str| Some(node.get(name)?.text()?.to_owned());
    let release = root.items().iter().find(|r| field(r, "flavor").as_deref() == Some("alpine-minirootfs"))?;
    field(release, "file").filter(|file| !file.contains('/') && file.starts_with(PREFIX))
}

/// The digest that a checksum file (`sha512sum`'s output) gives a file; folders before names do not count. A file
/// with one digest and no name is about that file.
pub fn digest_of(text: &str, name: &str, length: usize) -> Option<String> {
    let mut alone = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(digest) = words.next() else { continue };
        if digest.len() != length || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            continue;
        }
        match words.next() {
            Some(file) if file.trim_start_matches('*').rsplit('/').next() == Some(name) => {
                return Some(digest.to_ascii_lowercase());
            }
            Some(_) => {}
            None => alone = Some(digest.to_ascii_lowercase()),
        }
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_and_releases() {
        let branch = |folder: &str, release: Option<&str>| {
            Some(Branch { folder: folder.into(), release: release.map(str::to_owned) })
        };
        assert_eq!(Branch::parse("3.22"), branch("v3.22", None));
        assert_eq!(Branch::parse("v3.22"), branch("v3.22", None));
        assert_eq!(Branch::parse("3.19.4"), branch("v3.19", Some("3.19.4")));
        assert_eq!(Branch::parse("3.20.0_rc1"), branch("v3.20", Some("3.20.0_rc1")));
        assert_eq!(Branch::parse("edge"), branch("edge", None));
        assert_eq!(Branch::parse("3.21.0_alpha20240923"), branch("edge", None));
        for wrong in ["", "3", "3.", "three", "3.22.", "3.22.1/..", "../x", "3.22.x"] {
            assert_eq!(Branch::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Branch::parse("3.19").unwrap().releases("x86_64"), format!("{CDN}v3.19/releases/x86_64/"));
    }

    #[test]
    fn the_newest_of_a_folder() {
        let names = [
            "alpine-minirootfs-3.19.9-x86_64.tar.gz",
            "alpine-minirootfs-3.19.10-x86_64.tar.gz",
            "alpine-minirootfs-3.19.11_rc2-x86_64.tar.gz",
            "alpine-minirootfs-3.19.11_rc1-x86_64.tar.gz",
            "alpine-minirootfs-3.19.12-aarch64.tar.gz",
            "alpine-standard-3.19.30-x86_64.tar.gz",
            "alpine-minirootfs-3.19.10-x86_64.tar.gz.sha512",
        ];
        assert_eq!(newest(names.into_iter(), "x86_64"), Some(names[2]));
        let released = [names[2], "alpine-minirootfs-3.19.11-x86_64.tar.gz"];
        assert_eq!(newest(released.into_iter(), "x86_64"), Some(released[1]));
        assert_eq!(newest(names[4..].iter().copied(), "x86_64"), None);
        assert_eq!(version(names[1], "x86_64"), Some("3.19.10"));
    }

    #[test]
    fn the_list_of_latest_releases() {
        let text = b"---\n-\n  title: \"Standard\"\n  flavor: alpine-standard\n  file: alpine-standard-3.19.4-x86_64.iso\n\
            -\n  title: \"Mini root filesystem\"\n  branch: v3.19\n  version: 3.19.4\n  flavor: alpine-minirootfs\n  \
            file: alpine-minirootfs-3.19.4-x86_64.tar.gz\n  sha256: 0\n";
        assert_eq!(latest(text).as_deref(), Some("alpine-minirootfs-3.19.4-x86_64.tar.gz"));
        assert_eq!(latest(b"<html>"), None);
        assert_eq!(latest(b"- {flavor: alpine-minirootfs, file: ../../x}"), None);
    }

    #[test]
    fn checksum_files() {
        let (a, b) = ("a".repeat(128), "B".repeat(128));
        let list = format!("{a}  x86_64/other.tar.gz\n{b} *aarch64/wanted.tar.gz\nnonsense\n");
        assert_eq!(digest_of(&list, "wanted.tar.gz", 128), Some("b".repeat(128)));
        assert_eq!(digest_of(&list, "absent.tar.gz", 128), None);
        assert_eq!(digest_of(&format!("{a}\n"), "x", 128).as_deref(), Some(a.as_str()));
        assert_eq!(digest_of(&list, "wanted.tar.gz", 64), None);
    }
}
