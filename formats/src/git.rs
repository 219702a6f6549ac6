//! What git prints and stores: lists of refs, trees, headers of objects, settings, and what a submodule's URL means.
//! Runs no git and knows no repository; each function takes bytes as they came.

use thiserror::Error as ThisError;

/// Output that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("git printed what is not understood as {what}: {text:?}")]
pub struct Error {
    /// What it should be.
    pub what: &'static str,
    /// What it is, cut.
    pub text: String,
}

fn error(what: &'static str, bytes: &[u8]) -> Error {
    let cut = &bytes[..bytes.len().min(200)];
    Error { what, text: String::from_utf8_lossy(cut).into_owned() }
}

/// Whether a text is the whole name of an object: 40 lowercase hex digits (SHA-1), or 64 (SHA-256).
pub fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A ref as a server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// `refs/tags/v1.0`
    pub name: String,
    /// The object that it names.
    pub object: String,
    /// Of an annotated tag, what it is a tag of.
    pub peeled: Option<String>,
}

impl Ref {
    /// What it stands for, tags being looked through.
    pub fn target(&self) -> &str {
        self.peeled.as_deref().unwrap_or(&self.object)
    }
}

/// The refs of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// In the order of the server, which is that of their names.
    pub all: Vec<Ref>,
    /// The ref that HEAD is, if the server says so: `refs/heads/main`.
    pub head: Option<String>,
}

impl Refs {
    /// Reads what `git ls-remote [--symref]` printed. Refs whose names are not UTF-8 are passed over: nobody can ask for them.
    pub fn parse(bytes: &[u8]) -> Result<Refs, Error> {
        let mut refs = Refs::default();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let bad = || error("a ref", line);
            let tab = line.iter().position(|b| *b == b'\t').ok_or_else(bad)?;
            let object = std::str::from_utf8(&line[..tab]).map_err(|_| bad())?;
            let Ok(name) = std::str::from_utf8(&line[tab + 1..]) else { continue };
            if let Some(target) = object.strip_prefix("ref: ") {
                if name == "HEAD" {
                    refs.head = Some(target.to_owned());
                }
                continue;
            }
            if !is_object(object) || name.is_empty() {
                return Err(bad());
            }
            match (name.strip_suffix("^{}"), refs.all.last_mut()) {
                (Some(tag), Some(last)) if last.name == tag => last.peeled = Some(object.to_owned()),
                (Some(_), _) => return Err(bad()),
                (None, _) => {
                    refs.all.push(Ref { name: name.to_owned(), object: object.to_owned(), peeled: None });
                }
            }
        }
        Ok(refs)
    }

    /// The ref of this whole name.
    pub fn get(&self, name: &str) -> Option<&Ref> {
        self.all.iter().find(|r| r.name == name)
    }
}

/// What a tree has at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File {
        /// Whether it may be run.
        executable: bool,
    },
    /// A symbolic link; the object is what it says.
    Symlink,
    /// A submodule; the object is a commit of another repository.
    Submodule,
}

/// An entry of a tree and all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its object.
    pub object: String,
    /// Bytes of a file or link; 0 of a submodule.
    pub size: u64,
    /// From the top of the tree; whatever the repository has there, see [`path_fault`].
    pub path: Vec<u8>,
}

impl Entry {
    /// Reads one record of `git ls-tree -r -z -l`, without the NUL that ends it.
    pub fn parse(record: &[u8]) -> Result<Entry, Error> {
        let bad = || error("an entry of a tree", record);
        let tab = record.iter().position(|b| *b == b'\t').ok_or_else(bad)?;
        let (head, path) = (std::str::from_utf8(&record[..tab]).map_err(|_| bad())?, &record[tab + 1..]);
        let words: Vec<&str> = head.split_ascii_whitespace().collect();
        let [mode, class, object, size] = words[..] else { return Err(bad()) };
        let kind = match (mode, class) {
            // Group-writable files were written by very old versions of git.
            ("100644" | "100664", "blob") => Kind::File { executable: false },
            ("100755", "blob") => Kind::File { executable: true },
            ("120000", "blob") => Kind::Symlink,
            ("160000", "commit") => Kind::Submodule,
            _ => return Err(bad()),
        };
        let size = match kind {
            Kind::Submodule => 0,
            _ => size.parse().map_err(|_| bad())?,
        };
        if !is_object(object) {
            return Err(bad());
        }
        Ok(Entry { kind, object: object.to_owned(), size, path: path.to_owned() })
    }
}

/// Longest path that Linux takes, without its NUL.
const LONGEST_PATH: usize = 4095;
/// Longest name of a file.
const LONGEST_NAME: usize = 255;

/// Why a path of a repository is refused: a tree may hold what no checkout would write.
pub fn path_fault(path: &[u8]) -> Option<&'static str> {
    if path.starts_with(b"/") {
        return Some("path is absolute");
    }
    if path.len() > LONGEST_PATH {
        return Some("path is longer than 4095 bytes");
    }
    path.split(|b| *b == b'/').find_map(|part| match part {
        b"" => Some("path has an empty component"),
        b"." => Some("path has a '.' component"),
        b".." => Some("path has a '..' component"),
        b".git" => Some("path has a '.git' component"),
        part if part.contains(&0) => Some("path has a NUL"),
        part if part.len() > LONGEST_NAME => Some("a name in it is longer than 255 bytes"),
        _ => None,
    })
}

/// The line before an object in the output of `git cat-file --batch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// The object follows: so many bytes and a newline.
    Object {
        /// `blob`, `commit`, `tree`, `tag`
        class: String,
        /// Bytes.
        size: u64,
    },
    /// The repository does not have it.
    Missing,
}

impl Header {
    /// Reads the line without its newline.
    pub fn parse(line: &[u8]) -> Result<Header, Error> {
        let bad = || error("the header of an object", line);
        let text = std::str::from_utf8(line).map_err(|_| bad())?;
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            [_, "missing"] => Ok(Header::Missing),
            [object, class, size] if is_object(object) => {
                Ok(Header::Object { class: class.to_owned(), size: size.parse().map_err(|_| bad())? })
            }
            _ => Err(bad()),
        }
    }
}

/// What `.gitmodules` says of a submodule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submodule {
    /// Where it belongs in the tree.
    pub path: Option<Vec<u8>>,
    /// Where it comes from; may be relative, see [`relative_url`].
    pub url: Option<String>,
    /// `none`: it is left out unless somebody asks for it.
    pub update: Option<String>,
}

/// Reads what `git config --null --list` printed of a `.gitmodules`; the submodules in the order of their names' first
/// appearance. As in git, the last of several values counts.
pub fn submodules(bytes: &[u8]) -> Result<Vec<Submodule>, Error> {
    let mut found: Vec<(Vec<u8>, Submodule)> = Vec::new();
    for record in bytes.split(|b| *b == 0).filter(|record| !record.is_empty()) {
        let (key, value) = match record.iter().position(|b| *b == b'\n') {
            Some(end) => (&record[..end], &record[end + 1..]),
            None => (record, &b""[..]),
        };
        let Some(rest) = key.strip_prefix(b"submodule.") else { continue };
        let Some(dot) = rest.iter().rposition(|b| *b == b'.') else { continue };
        let (name, field) = (&rest[..dot], &rest[dot + 1..]);
        let text = || String::from_utf8(value.to_owned()).map_err(|_| error("a submodule's setting", record));
        let at = found.iter().position(|(known, _)| known == name);
        let at = at.unwrap_or_else(|| {
            found.push((name.to_owned(), Submodule::default()));
            found.len() - 1
        });
        let module = &mut found[at].1;
        match field {
            b"path" => module.path = Some(value.to_owned()),
            b"url" => module.url = Some(text()?),
            b"update" => module.update = Some(text()?),
            _ => {}
        }
    }
    Ok(found.into_iter().map(|(_, module)| module).collect())
}

/// What a submodule's URL means in a repository that came from `parent`: `../x.git` lies beside it. `None`: it leads out
/// of the parent's host.
pub fn relative_url(parent: &str, url: &str) -> Option<String> {
    if !(url.starts_with("./") || url.starts_with("../")) {
        return Some(url.to_owned());
    }
    let parent = parent.trim_end_matches('/');
    // What must stay: a scheme with its host, or the host of `host:path`.
    let (fixed, absolute) = match parent.split_once("://") {
        Some((scheme, rest)) => (scheme.len() + 3 + rest.find('/').unwrap_or(rest.len()), true),
        None => (parent.find(':').map_or(0, |colon| colon + 1), false),
    };
    let (host, path) = parent.split_at(fixed);
    let mut parts: Vec<&str> = path.split('/').collect();
    // The first of an absolute path is the empty text before its slash.
    let least = usize::from(absolute || path.starts_with('/'));
    let mut rest = url;
    loop {
        if let Some(next) = rest.strip_prefix("../") {
            if parts.len() <= least {
                return None;
            }
            parts.pop();
            rest = next;
        } else if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else {
            break;
        }
        rest = rest.trim_start_matches('/');
    }
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest == ".." || rest == "." {
        return None;
    }
    parts.push(rest);
    Some(format!("{host}{}", parts.join("/")))
}

/// Largest file that can be a pointer of Git LFS, by its specification.
pub const LFS_POINTER_MAX: u64 = 1023;

/// Whether a file is a pointer of Git LFS: the text that stands in a repository in place of a large file.
pub fn is_lfs_pointer(content: &[u8]) -> bool {
    content.len() as u64 <= LFS_POINTER_MAX
        && content.starts_with(b"version https://git-lfs.")
        && content.windows(12).any(|w| w == b"\noid sha256:")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_list_of_refs() {
        let text = format!(
            "ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{A}\trefs/heads/main\n{B}\trefs/tags/v1\n{A}\trefs/tags/v1^{{}}\n"
        );
        let refs = Refs::parse(text.as_bytes()).unwrap();
        assert_eq!(refs.head.as_deref(), Some("refs/heads/main"));
        assert_eq!(refs.all.len(), 3);
        let tag = refs.get("refs/tags/v1").unwrap();
        assert_eq!((tag.object.as_str(), tag.target()), (B, A));
        assert_eq!(refs.get("refs/heads/main").unwrap().target(), A);
        assert_eq!(Refs::parse(b"").unwrap(), Refs::default());
        for bad in ["x\trefs/heads/a\n", "no tab", &format!("{A}\trefs/tags/v1^{{}}\n"), &format!("{A}\t\n")]
        {
            assert!(Refs::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn entries_of_a_tree() {
        let entry = |text: &str| Entry::parse(text.as_bytes());
        let file = entry(&format!("100755 blob {A}      12\ta b\tc\n")).unwrap();
        assert_eq!(file.kind, Kind::File { executable: true });
        assert_eq!((file.size, &file.path[..]), (12, &b"a b\tc\n"[..]));
        assert_eq!(entry(&format!("120000 blob {A} 3\tl")).unwrap().kind, Kind::Symlink);
        let module = entry(&format!("160000 commit {B}       -\tsub")).unwrap();
        assert_eq!((module.kind, module.size), (Kind::Submodule, 0));
        for bad in
            ["100644 blob x 1\ta", "040000 tree A -\ta", "100644 blob", &format!("100644 blob {A} BAD\ta")]
        {
            assert!(entry(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_that_no_checkout_would_write() {
        for bad in ["/a", "a//b", "./a", "a/..", "..", ".git/config", "a/.git", "a/.git/hooks/x", ""] {
            assert!(path_fault(bad.as_bytes()).is_some(), "{bad}");
        }
        assert!(path_fault(&[b'a'; 256]).is_some());
        for good in [".gitmodules", ".github/x", "a/.gitignore", "..a", "a b"] {
            assert_eq!(path_fault(good.as_bytes()), None, "{good}");
        }
        assert_eq!(path_fault(b"\xff\xfe/\n"), None);
    }

    #[test]
    fn headers_of_objects() {
        let header = Header::parse(format!("{A} blob 5").as_bytes()).unwrap();
        assert_eq!(header, Header::Object { class: "blob".into(), size: 5 });
        assert_eq!(Header::parse(format!("{A} missing").as_bytes()).unwrap(), Header::Missing);
        assert!(Header::parse(b"HEAD ambiguous").is_err());
    }

    #[test]
    fn settings_of_submodules() {
        let text =
            b"submodule.a.b.path\nlibs/a\0submodule.a.b.url\n../a.git\0core.x\n1\0submodule.c.update\nnone\0\
                     submodule.a.b.url\n../a2.git\0submodule.c.shallow\0";
        let found = submodules(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].path.as_deref(), Some(&b"libs/a"[..]));
        assert_eq!(found[0].url.as_deref(), Some("../a2.git"));
        assert_eq!(found[1].update.as_deref(), Some("none"));
        assert!(submodules(b"submodule.a.url\n\xff\0").is_err());
    }

    #[test]
    fn relative_urls_are_those_of_git() {
        for (parent, url, meant) in [
            ("https://h/org/x.git", "../y.git", Some("https://h/org/y.git")),
            ("https://h/org/x.git/", "../../other/y.git", Some("https://h/other/y.git")),
            ("https://h/org/x.git", "./sub", Some("https://h/org/x.git/sub")),
            ("https://h/x", "../y/", Some("https://h/y")),
            ("https://h/x", "../../y", None),
            ("https://h", "../y", None),
            ("https://h/x", "../..", None),
            ("ssh://me@h:22/a/b", "../c", Some("ssh://me@h:22/a/c")),
            ("me@h:a/b.git", "../c.git", Some("me@h:a/c.git")),
            ("me@h:b.git", "../c.git", Some("me@h:c.git")),
            ("me@h:b.git", "../../c.git", None),
            ("me@h:/srv/b.git", "../c.git", Some("me@h:/srv/c.git")),
            ("file:///srv/a", "../b", Some("file:///srv/b")),
            ("file:///a", "../../b", None),
            ("https://h/x", "https://o/y", Some("https://o/y")),
            ("https://h/x", "/srv/y", Some("/srv/y")),
        ] {
            assert_eq!(relative_url(parent, url).as_deref(), meant, "{parent} {url}");
        }
    }

    #[test]
    fn pointers_of_lfs() {
        let pointer =
            format!("version https://git-lfs.example.org/spec/v1\noid sha256:{A}{}\nsize 5\n", &B[..24]);
        assert!(is_lfs_pointer(pointer.as_bytes()));
        assert!(!is_lfs_pointer(b"version https://git-lfs.example.org/spec/v1\n"));
        assert!(!is_lfs_pointer(format!("{pointer}{}", "x".repeat(1024)).as_bytes()));
        assert!(!is_lfs_pointer(b""));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,40}", parent in ".{0,40}") {
            let _ = (Refs::parse(&bytes), Entry::parse(&bytes), Header::parse(&bytes), submodules(&bytes));
            let _ = (path_fault(&bytes), is_lfs_pointer(&bytes));
            let _ = relative_url(&parent, &format!("../{text}"));
        }

        #[test]
        fn a_written_list_is_read(names in prop::collection::btree_map("[a-z/]{1,9}", any::<bool>(), 0..9)) {
            let mut text = String::new();
            for (name, annotated) in &names {
                text.push_str(&format!("{A}\trefs/{name}\n"));
                if *annotated {
                    text.push_str(&format!("{B}\trefs/{name}^{{}}\n"));
                }
            }
            let refs = Refs::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(refs.all.len(), names.len());
            for (read, (name, annotated)) in refs.all.iter().zip(&names) {
                prop_assert_eq!(&read.name, &format!("refs/{name}"));
                prop_assert_eq!(read.target(), if *annotated { B } else { A });
            }
        }

        #[test]
        fn a_relative_url_stays_on_its_host(url in "(\\.\\./|\\./){1,4}[a-z]{1,3}(/[a-z]{1,3}){0,2}") {
            for parent in ["https://h/a/b.git", "me@h:a/b.git", "file:///a/b"] {
                if let Some(meant) = relative_url(parent, &url) {
                    let host = ["https://h/", "me@h:", "file:///"];
                    prop_assert!(host.iter().any(|h| parent.starts_with(h) && meant.starts_with(h)), "{}", meant);
                }
            }
        }
    }
}
