//! The paths of one archive: each checked to stay inside, none twice, none below something that is no directory.
//! Knows no tar headers.

use std::collections::HashMap;

/// Why an entry was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Begins with a slash.
    #[error("path is absolute")]
    Absolute,
    /// Holds a zero byte.
    #[error("path has a NUL")]
    Nul,
    /// Leads upwards.
    #[error("path has a '..' component")]
    DotDot,
    /// Longer than Linux takes.
    #[error("path is longer than 4095 bytes")]
    TooLong,
    /// One of very many directories without entries of their own.
    #[error("lies too deep in directories that have no entries of their own")]
    TooDeep,
    /// An earlier entry has the same path, and is not the same directory.
    #[error("appears twice")]
    Twice,
    /// Something that is no directory, where earlier entries need one.
    #[error("replaces a directory that has entries")]
    ReplacesDir,
    /// A parent is a symbolic link: what is written there lands where the link points.
    #[error("lies below a symbolic link")]
    BelowSymlink,
    /// A parent is a file, a device or a pipe.
    #[error("lies below something that is no directory")]
    BelowFile,
    /// A device node, where none is allowed.
    #[error("is a device node")]
    Device,
    /// A device node whose header has no numbers.
    #[error("device node without numbers")]
    DeviceNumbers,
    /// An owner that Linux cannot have.
    #[error("owner or group beyond 32 bits")]
    Owner,
    /// A link that points nowhere.
    #[error("link without a target")]
    LinkTarget,
    /// A hard link to something that the archive did not bring before.
    #[error("hard link to something that is no file before it")]
    HardLink,
    /// A hard link to what was cut off.
    #[error("hard link out of the stripped tree")]
    HardLinkOut,
    /// A hard link with an absolute target.
    #[error("hard link to an absolute path")]
    HardLinkAbsolute,
    /// A hard link whose target leads upwards.
    #[error("hard link to a path with a '..' component")]
    HardLinkDotDot,
    /// Not one of the types of POSIX.
    #[error("is of a type not known")]
    Type,
    /// GNU tar's `--sparse --format=pax`.
    #[error("is a sparse file in pax form, which is not supported")]
    PaxSparse,
    /// A name that belongs into a package's control part.
    #[error("is a control file among the data, which apk would take for a part of its scripts")]
    Control,
    /// A header that apk takes for the end of the archive, and other readers for an entry.
    #[error("has a header without a name, which apk reads differently")]
    NoName,
    /// A size outside of the header, which apk does not look at.
    #[error("has another size in a pax record than in its header, which apk reads differently")]
    PaxSize,
}

/// What an archive has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory that entries lie in, without an entry of its own.
    Implied,
    /// A directory with its own entry.
    Dir { mode: u32, uid: u32, gid: u32 },
    /// A file with data.
    File,
    /// A hard link to the file at this path.
    Alias(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A device or a pipe.
    Other,
}

/// Bytes of the paths of implied directories: one entry of 4000 bytes can imply 2000 of them, 4 MB together.
const IMPLIED_MAX: usize = 64 << 20;

/// All paths so far.
#[derive(Debug, Default)]
pub(crate) struct Names {
    places: HashMap<Vec<u8>, Place>,
    implied_bytes: usize,
}

impl Names {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Place> {
        self.places.get(path)
    }

    /// Adds a path. `false`: a directory that is there already with the same attributes, as some tools write.
    pub(crate) fn add(&mut self, path: &[u8], place: Place) -> Result<bool, Refusal> {
        let is_dir = matches!(place, Place::Dir { .. });
        match self.places.get(path) {
            None => {}
            Some(Place::Implied) if is_dir => {}
            Some(Place::Implied) => return Err(Refusal::ReplacesDir),
            Some(old) if is_dir && *old == place => return Ok(false),
            Some(_) => return Err(Refusal::Twice),
        }
        // From the nearest parent upwards; a parent that is known has known parents.
        let mut missing = vec![];
        let mut rest = path;
        while let Some(slash) = rest.iter().rposition(|b| *b == b'/') {
            rest = &rest[..slash];
            match self.places.get(rest) {
                Some(Place::Dir { .. } | Place::Implied) => break,
                Some(Place::Symlink(_)) => return Err(Refusal::BelowSymlink),
                Some(_) => return Err(Refusal::BelowFile),
                None => {
                    self.implied_bytes += rest.len();
                    if self.implied_bytes > IMPLIED_MAX {
                        return Err(Refusal::TooDeep);
                    }
                    missing.push(rest.to_vec());
                }
            }
        }
        self.places.extend(missing.into_iter().map(|dir| (dir, Place::Implied)));
        self.places.insert(path.to_vec(), place);
        Ok(true)
    }

    pub(crate) fn implied_dirs(&self) -> Vec<Vec<u8>> {
        let implied = self.places.iter().filter(|(_, place)| **place == Place::Implied);
        let mut dirs: Vec<Vec<u8>> = implied.map(|(path, _)| path.clone()).collect();
        dirs.sort();
        dirs
    }
}

/// A path without `.` and empty components, and without the first `strip`; `None` if nothing is left.
pub(crate) fn normalize(path: &[u8], strip: usize) -> Result<Option<Vec<u8>>, Refusal> {
    if path.starts_with(b"/") {
        return Err(Refusal::Absolute);
    }
    if path.contains(&0) {
        return Err(Refusal::Nul);
    }
    let mut parts = vec![];
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Refusal::DotDot),
            part => parts.push(part),
        }
    }
    let kept = parts.get(strip..).filter(|kept| !kept.is_empty());
    Ok(kept.map(|kept| kept.join(&b'/')))
}
