//! The paths of one archive: each checked to stay inside, none twice, none below something that is no directory.
//! Knows no tar headers.

use std::collections::HashMap;

/// What an archive has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
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

/// All paths so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    places: HashMap<Vec<u8>, Place>,
}

impl Names {
    pub(super) fn get(&self, path: &[u8]) -> Option<&Place> {
        self.places.get(path)
    }

    /// Adds a path. `false`: a directory that is there already with the same attributes, as some tools write.
    pub(super) fn add(&mut self, path: &[u8], place: Place) -> Result<bool, &'static str> {
        let is_dir = matches!(place, Place::Dir { .. });
        match self.places.get(path) {
            None => {}
            Some(Place::Implied) if is_dir => {}
            Some(Place::Implied) => return Err("replaces a directory that has entries"),
            Some(old) if is_dir && *old == place => return Ok(false),
            Some(_) => return Err("appears twice"),
        }
        // From the nearest parent upwards; a parent that is known has known parents.
        let mut missing = vec![];
        let mut rest = path;
        while let Some(slash) = rest.iter().rposition(|b| *b == b'/') {
            rest = &rest[..slash];
            match self.places.get(rest) {
                Some(Place::Dir { .. } | Place::Implied) => break,
                Some(Place::Symlink(_)) => return Err("lies below a symbolic link"),
                Some(_) => return Err("lies below something that is no directory"),
                None => missing.push(rest.to_vec()),
            }
        }
        self.places.extend(missing.into_iter().map(|dir| (dir, Place::Implied)));
        self.places.insert(path.to_vec(), place);
        Ok(true)
    }

    pub(super) fn implied_dirs(&self) -> Vec<Vec<u8>> {
        let implied = self.places.iter().filter(|(_, place)| **place == Place::Implied);
        let mut dirs: Vec<Vec<u8>> = implied.map(|(path, _)| path.clone()).collect();
        dirs.sort();
        dirs
    }
}

/// A path without `.` and empty components, and without the first `strip`; `None` if nothing is left.
pub(super) fn normalize(path: &[u8], strip: usize) -> Result<Option<Vec<u8>>, &'static str> {
    if path.starts_with(b"/") {
        return Err("path is absolute");
    }
    if path.contains(&0) {
        return Err("path has a NUL");
    }
    let mut parts = vec![];
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("path has a '..' component"),
            part => parts.push(part),
        }
    }
    let kept = parts.get(strip..).filter(|kept| !kept.is_empty());
    Ok(kept.map(|kept| kept.join(&b'/')))
}
