//! Alpine for tests: the folders that scripts/alpine-mirror made, each served from a private copy that a test may spoil.
//! Knows the layout of the public mirrors and how a workspace names one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::apks::{Apk, Built, Hash, Key, write_repository};
use crate::{Mirror, Space, need, repository};

/// The address that workspaces name; never reached, as the mirrors of a test stand before it.
pub const ORIGIN: &str = "https://dl-cdn.alpinelinux.org/alpine/";

/// A branch of Alpine that is at hand.
#[derive(Clone, Debug)]
pub struct Alpine {
    /// `v3.19`.
    pub branch: String,
    /// The newest release of the branch: `3.19.4`.
    pub release: String,
    /// Whether these are the packages that Alpine signed.
    pub genuine: bool,
    source: PathBuf,
}

impl Alpine {
    /// Those in the folders that `MOSBUILD_ALPINE` names, `:` between them; without it that of `../shared`, if there
    /// is one. A test that finds none says so, and asserts nothing.
    pub fn all() -> Vec<Alpine> {
        let mut found: Vec<Alpine> = match std::env::var_os("MOSBUILD_ALPINE") {
            Some(folders) => {
                let folders = std::env::split_paths(&folders).filter(|f| !f.as_os_str().is_empty());
                let folders: Vec<PathBuf> = folders.collect();
                folders.iter().flat_map(|f| Alpine::of(f)).collect()
            }
            None => genuine().iter().flat_map(|f| Alpine::of(f)).collect(),
        };
        found.sort_by_key(|alpine| !alpine.genuine);
        if found.is_empty() {
            not_run(
                "neither MOSBUILD_ALPINE (folders of scripts/alpine-mirror) nor ../shared gives an Alpine",
            );
        }
        found
    }

    /// The first of them, the genuine one if it is there.
    pub fn any() -> Option<Alpine> {
        Alpine::all().into_iter().next()
    }

    /// The genuine one, with what a real apk made of it; says if it is not there.
    pub fn genuine() -> Option<Alpine> {
        let found = Alpine::all().into_iter().find(|alpine| alpine.genuine);
        if found.is_none() {
            not_run("the genuine packages of ../shared are not there");
        }
        found
    }

    fn of(folder: &Path) -> Vec<Alpine> {
        let branches = std::fs::read_dir(folder.join("alpine"));
        let branches =
            branches.unwrap_or_else(|e| panic!("{} is no mirror of alpine: {e}", folder.display()));
        let mut all = Vec::new();
        for branch in branches.flatten() {
            let releases = branch.path().join("releases/x86_64");
            let names = std::fs::read_dir(releases).unwrap().flatten().map(|e| e.file_name());
            let mut names = names.map(|n| n.into_string().unwrap());
            let archive = names.find(|n| n.ends_with("-x86_64.tar.gz")).unwrap();
            all.push(Alpine {
                branch: branch.file_name().into_string().unwrap(),
                release: archive.split('-').nth(2).unwrap().to_owned(),
                genuine: !folder.join("root").exists(),
                source: folder.to_owned(),
            });
        }
        all
    }

    /// `3.19`, as a workspace names the release.
    pub fn number(&self) -> &str {
        &self.branch[1..]
    }

    /// The path below the mirror of a file of a repository: `main`, `APKINDEX.tar.gz`.
    pub fn file(&self, repository: &str, name: &str) -> String {
        format!("alpine/{}/{repository}/x86_64/{name}", self.branch)
    }

    /// The path below the mirror of a file of the release: the minirootfs for an empty suffix, its `.sha512`.
    pub fn release_file(&self, suffix: &str) -> String {
        let name = format!("alpine-minirootfs-{}-x86_64.tar.gz{suffix}", self.release);
        format!("alpine/{}/releases/x86_64/{name}", self.branch)
    }

    /// The file name of a package of a repository, which must be there.
    #[track_caller]
    pub fn package(&self, repository: &str, name: &str) -> String {
        let dir = self.source.join(format!("alpine/{}/{repository}/x86_64", self.branch));
        let fits = |file: &String| {
            let rest = file.strip_prefix(name).and_then(|r| r.strip_prefix('-'));
            rest.is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
        };
        let mut files =
            std::fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
        files.find(fits).unwrap_or_else(|| panic!("{} has no {name}", self.branch))
    }

    /// The packages that the tests of a whole image list: those of the fixture's MOS list, or as many of their kind
    /// that the remade mirror has.
    pub fn list(&self) -> &'static [&'static str] {
        match self.genuine {
            true => &[
                "alpine-baselayout",
                "busybox",
                "musl",
                "eudev",
                "dhcpcd",
                "dosfstools",
                "openssh-server",
                "chrony",
                "jq",
            ],
            false => &["alpine-baselayout", "busybox", "musl", "dhcpcd", "e2fsprogs", "curl", "kmod", "sudo"],
        }
    }

    /// A package with a setuid file, and that file.
    pub fn setuid(&self) -> (&'static str, &'static str) {
        match self.genuine {
            true => ("doas", "usr/bin/doas"),
            false => ("sudo", "usr/bin/sudo"),
        }
    }

    /// Serves a copy of this below a folder; its files are links, which may be removed and replaced.
    pub fn serve(&self, dir: &Path) -> Mirror {
        let to = dir.join("alpine");
        links(&self.source.join("alpine").join(&self.branch), &to.join(&self.branch));
        Mirror::new(dir)
    }

    /// Public keys that an index needs beside those of the miniroot.
    pub fn keys(&self) -> Vec<PathBuf> {
        let mut keys: Vec<PathBuf> =
            std::fs::read_dir(self.source.join("keys")).unwrap().flatten().map(|e| e.path()).collect();
        keys.sort();
        keys
    }

    /// The folder that scripts/alpine-mirror made.
    pub fn source(&self) -> &Path {
        &self.source
    }
}

/// The mirror of ../shared, laid out once for all tests of a process.
fn genuine() -> Option<PathBuf> {
    static MADE: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let fixtures = repository().join("../shared/fixtures");
        if !fixtures.is_dir() {
            return None;
        }
        need("python3", "python3");
        let dir = tempfile::Builder::new().prefix("mosbuild-alpine-").tempdir().unwrap();
        let path = dir.path().to_owned();
        let mut script = Command::new(repository().join("scripts/alpine-mirror"));
        let output = script.arg(&path).arg("--from").arg(&fixtures).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Some((dir, path))
    });
    made.as_ref().map(|(_, path)| path.clone())
}

/// Folders as folders, files as links to them.
fn links(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path().canonicalize().unwrap(), to.join(entry.file_name()));
        match from.is_dir() {
            true => links(&from, &to),
            false => std::os::unix::fs::symlink(&from, &to).unwrap(),
        }
    }
}

/// Replaces a file of a served folder; what it linked to stays as it is.
pub fn replace(mirror: &Mirror, path: &str, content: &[u8]) {
    let path = mirror.dir().join(path);
    std::fs::remove_file(&path).ok();
    std::fs::write(path, content).unwrap();
}

/// Says that a test asserts nothing here, and why.
#[allow(clippy::print_stdout)]
pub fn not_run(why: &str) {
    println!("did not run: {why}");
}

/// A workspace, the mirror that it uses and no other host, and a key of the test's own.
pub struct Stand {
    /// What the mirror serves.
    pub alpine: Alpine,
    /// The mirror.
    pub mirror: Mirror,
    /// The workspace.
    pub space: Space,
}

impl Stand {
    /// A workspace with a `miniroot` and with these `packages` in it; both are placed in dist/.
    pub fn new(alpine: &Alpine, packages: &[&str]) -> Stand {
        let mut space = Space::new("");
        closed(&mut space);
        let served = space.base().join("mirror");
        std::fs::create_dir(&served).unwrap();
        let mirror = alpine.serve(&served);
        let stand = Stand { alpine: alpine.clone(), mirror, space };
        bring_keys(&stand.space, &stand.keys());
        stand.list(packages, "");
        stand
    }

    /// Runs the program as a user without privileges.
    pub fn as_plain_user(mut self) -> Stand {
        self.space = self.space.as_plain_user();
        self
    }

    /// Replaces mosbuild.yaml: other packages, and further fields of `packages`, one a line: `    scripts: skip\n`.
    pub fn list(&self, packages: &[&str], fields: &str) {
        self.space.yaml(&self.yaml(&[self.mirror.url()], packages, fields));
    }

    /// A mosbuild.yaml with these mirrors in the order in which they are tried.
    pub fn yaml(&self, mirrors: &[String], packages: &[&str], fields: &str) -> String {
        let to: Vec<String> = mirrors.iter().map(|url| format!("\"{url}alpine/\"")).collect();
        let keys: Vec<String> = self.keys().iter().map(|key| key_path(key)).collect();
        let keys = match fields.contains("    keys:") {
            true => String::new(),
            false => format!("    keys: [{}]\n", keys.join(", ")),
        };
        format!(
            "vars: {{ arch: x86_64 }}\nmirrors:\n  - {{ from: \"{ORIGIN}\", to: [{}] }}\ntargets:\n  \
             miniroot: {{ rule: miniroot, release: \"{}\", arch: \"${{arch}}\" }}\n  \
             packages:\n    rule: packages\n    base: miniroot\n    packages: [{}]\n    \
             repositories: [main, community]\n{keys}{fields}\
             dist: {{ packages.tar: packages, miniroot.tar: miniroot }}\n",
            to.join(", "),
            self.alpine.number(),
            packages.join(", "),
        )
    }

    /// The keys that the workspace has: those of the mirror, and the test's own.
    pub fn keys(&self) -> Vec<PathBuf> {
        let mut keys = self.alpine.keys();
        keys.push(own_key().public());
        keys
    }

    /// Replaces what the mirror has in community by packages of the test's own.
    pub fn own(&self, packages: &[Apk]) -> Vec<Built> {
        let built: Vec<Built> = packages.iter().map(|p| p.build(own_key(), Hash::Sha1)).collect();
        self.own_built(&built);
        built
    }

    /// The same with packages that were built, and perhaps spoilt.
    pub fn own_built(&self, packages: &[Built]) {
        let dir = self.mirror.dir().join(format!("alpine/{}/community", self.alpine.branch));
        write_repository(&dir, packages, own_key(), Hash::Sha1);
    }

    /// Another workspace on the same store, with the same mosbuild.yaml, keys and lock.
    pub fn beside(&self, name: &str) -> Space {
        let other = self.space.beside(name, "");
        other.write("mosbuild.yaml", self.space.read("mosbuild.yaml"));
        bring_keys(&other, &self.keys());
        if self.space.has("mosbuild.lock") {
            other.write("mosbuild.lock", self.space.read("mosbuild.lock"));
        }
        other
    }

    /// Another workspace on an empty store, with the same mosbuild.yaml, keys and lock.
    pub fn afresh(&self, name: &str) -> Space {
        self.beside(name).with_store(&format!("store of {name}"))
    }
}

/// The key that the tests' own packages are signed with, made once.
pub fn own_key() -> &'static Key {
    static MADE: OnceLock<(tempfile::TempDir, Key)> = OnceLock::new();
    let (_, key) = MADE.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("mosbuild-key-").tempdir().unwrap();
        let key = Key::new(dir.path(), "own@test.invalid-00000002");
        (dir, key)
    });
    key
}

fn key_path(key: &Path) -> String {
    format!("keys/{}", key.file_name().unwrap().to_str().unwrap())
}

/// Puts public keys into `keys/` of a workspace.
pub fn bring_keys(space: &Space, keys: &[PathBuf]) {
    for key in keys {
        space.write(&key_path(key), std::fs::read(key).unwrap());
    }
}

/// Closes the ways to other hosts: a proxy that is not there, for all but loopback.
pub fn closed(space: &mut Space) {
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        space.env(name, "http://127.0.0.1:9");
    }
    for name in ["no_proxy", "NO_PROXY"] {
        space.env(name, "127.0.0.1,localhost");
    }
}
