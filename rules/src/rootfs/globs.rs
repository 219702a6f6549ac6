//! Globs over the paths of an image. They mean the same with and without a leading `/`, `*` stays within a folder, and
//! what covers a folder covers all below it. Knows no rule.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use mosbuild_cache::TreePath;

/// Compiled globs.
#[derive(Debug)]
pub struct Globs(GlobSet);

impl Globs {
    /// Compiles them.
    ///
    /// # Errors
    /// The place of the first one that is none, and what is wrong with it.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<Globs, (usize, String)> {
        let mut set = GlobSetBuilder::new();
        for (at, glob) in globs.iter().enumerate() {
            let text = glob.as_ref().trim_start_matches('/').trim_end_matches('/');
            let built = GlobBuilder::new(text).literal_separator(true).empty_alternates(true).build();
            set.add(built.map_err(|e| (at, e.to_string()))?);
        }
        set.build().map(Globs).map_err(|e| (0, e.to_string()))
    }

    /// Whether one of them covers the path: matches it, or a folder that it lies in.
    pub fn covers(&self, path: &TreePath) -> bool {
        !self.0.is_empty() && folders(path).any(|p| self.0.is_match(p))
    }

    /// The places of those that cover the path.
    pub fn covering(&self, path: &TreePath) -> Vec<usize> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut all: Vec<usize> = folders(path).flat_map(|p| self.0.matches(p)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A path and the folders that it lies in.
fn folders(path: &TreePath) -> impl Iterator<Item = &Path> {
    path.as_path().ancestors().filter(|p| !p.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_cover_what_is_in_them() {
        let globs = Globs::new(&["/usr/share/doc", "usr/lib/**/*.h", "opt/*/x/"]).unwrap();
        for (path, covering) in [
            ("usr/share/doc", vec![0]),
            ("usr/share/doc/a/b", vec![0]),
            ("usr/share/docs", vec![]),
            ("usr/lib/a.h", vec![1]),
            ("usr/lib/gcc/x/a.h", vec![1]),
            ("usr/lib/a.h.gz", vec![]),
            ("opt/a/x/y", vec![2]),
            ("opt/a/b/x", vec![]),
        ] {
            let path = TreePath::new(path).unwrap();
            assert_eq!((globs.covers(&path), globs.covering(&path)), (!covering.is_empty(), covering));
        }
        assert_eq!(Globs::new(&["a", "[b"]).unwrap_err().0, 1);
        assert!(!Globs::new::<&str>(&[]).unwrap().covers(&TreePath::new("a").unwrap()));
    }
}
