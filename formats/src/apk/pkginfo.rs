//! `.PKGINFO`: the description of a package in its control member, as lines `key = value`.
//! Does not know the archive around it.

use super::{Error, is_file_name_part};

const FILE: &str = ".PKGINFO";

/// What a package says about itself. Lists keep the order of the file, as `apk index` does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PkgInfo {
    /// `pkgname`.
    pub name: String,
    /// `pkgver`: version and release, `1.2.4-r0`.
    pub version: String,
    /// `pkgdesc`.
    pub description: String,
    /// `url`.
    pub url: String,
    /// `builddate`, in seconds since 1970; 0 if not told.
    pub build_date: u64,
    /// `size`: bytes when installed.
    pub size: u64,
    /// `arch`; empty if not told.
    pub arch: String,
    /// `origin`: the source package; empty if not told.
    pub origin: String,
    /// `commit` of the ports tree; empty if not told.
    pub commit: String,
    /// `maintainer`; empty if not told.
    pub maintainer: String,
    /// `packager`: who built it; empty if not told.
    pub packager: String,
    /// `license`.
    pub license: String,
    /// `depend`, each an atom as written.
    pub depends: Vec<String>,
    /// `provides`, each a name or `name=version`.
    pub provides: Vec<String>,
    /// `install_if`: the package installs itself where all of these are.
    pub install_if: Vec<String>,
    /// `replaces`: packages whose files it may overwrite.
    pub replaces: Vec<String>,
    /// `replaces_priority`.
    pub replaces_priority: u64,
    /// `provider_priority`.
    pub provider_priority: u64,
    /// `triggers`: globs of directories.
    pub triggers: Vec<String>,
    /// `datahash`: SHA-256 of the data member, in hexadecimal.
    pub data_hash: Option<String>,
    /// Fields not known here, in their order.
    pub other: Vec<(String, String)>,
}

impl PkgInfo {
    /// Parses the file. A name or a version that could not stand in a file name is an error, for both do.
    pub fn parse(text: &[u8]) -> Result<PkgInfo, Error> {
        let mut info = PkgInfo::default();
        for (n, line) in text.split(|b| *b == b'\n').enumerate() {
            let wrong = |why: String| Error::Line { file: FILE, line: n + 1, why };
            let line = std::str::from_utf8(line).map_err(|_| wrong("is not UTF-8".into()))?;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // apk skips what is no `key = value` too. An empty value may have lost its blank to an editor.
            let split = line.split_once(" = ").or_else(|| Some((line.strip_suffix(" =")?, "")));
            let Some((key, value)) = split else { continue };
            let number = || match value {
                "" => Ok(0),
                _ => value
                    .parse()
                    .map_err(|_| wrong(format!("{key} is {value:?}, where a number is expected"))),
            };
            let words = |list: &mut Vec<String>| list.extend(value.split_whitespace().map(String::from));
            match key {
                "pkgname" => info.name = value.to_string(),
                "pkgver" => info.version = value.to_string(),
                "pkgdesc" => info.description = value.to_string(),
                "url" => info.url = value.to_string(),
                "builddate" => info.build_date = number()?,
                "size" => info.size = number()?,
                "arch" => info.arch = value.to_string(),
                "origin" => info.origin = value.to_string(),
                "commit" => info.commit = value.to_string(),
                "maintainer" => info.maintainer = value.to_string(),
                "packager" => info.packager = value.to_string(),
                "license" => info.license = value.to_string(),
                "depend" => words(&mut info.depends),
                "provides" => words(&mut info.provides),
                "install_if" => words(&mut info.install_if),
                "replaces" => words(&mut info.replaces),
                "replaces_priority" => info.replaces_priority = number()?,
                "provider_priority" => info.provider_priority = number()?,
                "triggers" => words(&mut info.triggers),
                "datahash" if info.data_hash.is_some() => {
                    return Err(wrong("datahash is given twice".into()));
                }
                "datahash" => info.data_hash = Some(value.to_ascii_lowercase()),
                _ => info.other.push((key.to_string(), value.to_string())),
            }
        }
        for (key, value) in [("pkgname", &info.name), ("pkgver", &info.version)] {
            if value.is_empty() {
                return Err(Error::Missing(if key == "pkgname" {
                    "pkgname in its .PKGINFO"
                } else {
                    "pkgver in its .PKGINFO"
                }));
            }
            if !is_file_name_part(value) {
                let line =
                    text.split(|b| *b == b'\n').position(|l| l.starts_with(key.as_bytes())).unwrap_or(0) + 1;
                return Err(Error::Line {
                    file: FILE,
                    line,
                    why: format!("{key} {value:?} is not one that apk takes"),
                });
            }
        }
        Ok(info)
    }
}
