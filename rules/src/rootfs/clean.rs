//! Files that a running system does without, in sets: documentation, locales, headers, … and what `remove` names.
//! Knows paths of distributions; looks into no file.

use std::collections::BTreeSet;

use mosbuild_cache::{Entry, Node, Tree, TreePath};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::globs::Globs;
use super::{finished, lines};
use crate::size::human;

/// A set of files that a running system does without.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// Documentation; licences stay, also those among it.
    Docs,
    /// Manual pages.
    Man,
    /// Info pages.
    Info,
    /// Translations and locales but C and POSIX.
    Locales,
    /// Headers and what else only compilers and build systems read; links from modules to kernel sources.
    Headers,
    /// Static libraries and the linker's object files.
    StaticLibs,
    /// Completions of shells.
    Completions,
    /// Debugging information that was split off.
    Debug,
    /// What apk keeps of downloads and indexes.
    ApkCache,
    /// The database of installed packages: without it the system's own apk cannot work on it.
    ApkDb,
}

impl Clean {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Clean::Docs => "docs",
            Clean::Man => "man",
            Clean::Info => "info",
            Clean::Locales => "locales",
            Clean::Headers => "headers",
            Clean::StaticLibs => "static-libs",
            Clean::Completions => "completions",
            Clean::Debug => "debug",
            Clean::ApkCache => "apk-cache",
            Clean::ApkDb => "apk-db",
        }
    }

    /// What it takes out.
    fn takes(self) -> &'static [&'static str] {
        match self {
            Clean::Docs => &["usr/{share,local/share}/{doc,gtk-doc,help}", "usr/doc"],
            Clean::Man => &["usr/{share,local/share,local}/man", "usr/man", "var/cache/man"],
            Clean::Info => &["usr/{share,local/share}/info", "usr/info"],
            // musl has its locales in usr/share/i18n/locales/musl, glibc in usr/lib/locale, gettext in usr/share/locale.
            Clean::Locales => &[
                "usr/{share,local/share}/locale/*",
                "usr/share/i18n/locales/*",
                "usr/share/i18n/locales/musl/*",
                "usr/share/i18n/charmaps",
                "{usr/lib,lib}/locale/*",
            ],
            Clean::Headers => &[
                "usr/{include,local/include,src}",
                "usr/{lib,share,local/lib,local/share}/{pkgconfig,cmake,aclocal}",
                "usr/share/{aclocal-*,gir-1.0,vala}",
                "lib/*.la",
                "usr/{lib,local/lib}/**/*.{la,h,hh,hpp,hxx}",
                "{lib,usr/lib}/modules/*/{build,source}",
            ],
            Clean::StaticLibs => &[
                "lib/*.a",
                "usr/{lib,local/lib}/**/*.a",
                "usr/lib/**/crt*.o",
                "usr/lib/**/{S,r,g,gr,M}crt1.o",
            ],
            Clean::Completions => &[
                "usr/{share,local/share}/bash-completion",
                "etc/bash_completion.d",
                "usr/{share,local/share}/zsh/{site-functions,vendor-completions}",
                "usr/{share,local/share}/fish/{completions,vendor_completions.d}",
            ],
            Clean::Debug => &["usr/{lib,local/lib}/debug"],
            Clean::ApkCache => &["var/cache/apk/*", "etc/apk/cache"],
            Clean::ApkDb => &["lib/apk", "usr/lib/apk", "etc/apk/world"],
        }
    }

    /// What stays all the same.
    fn keeps(self) -> &'static [&'static str] {
        match self {
            Clean::Docs => {
                &["**/[Cc]opyright", "**/{LICEN[CS]E,COPYING,COPYRIGHT,NOTICE}*", "**/{licen[cs]e,copying}*"]
            }
            Clean::Locales => &[
                "usr/{share,local/share}/locale/{C,POSIX}{,.*}",
                "usr/share/i18n/locales/{C,POSIX}{,.*}",
                "usr/share/i18n/locales/musl/{C,POSIX}{,.*}",
                "{usr/lib,lib}/locale/{C,POSIX}{,.*}",
            ],
            // Firmware and modules have any names, and are for no linker.
            Clean::Headers => &["usr/lib/firmware", "usr/lib/modules/*/kernel", "usr/lib/modules/*/updates"],
            Clean::StaticLibs => &["usr/lib/{firmware,modules}"],
            _ => &[],
        }
    }
}

/// What a set, or `remove`, took out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    files: usize,
    bytes: u64,
}

impl Taken {
    fn add(&mut self, entry: &Entry) {
        if entry.node != Node::Dir {
            self.files += 1;
        }
        if let Node::File { size, .. } = entry.node {
            self.bytes += size;
        }
    }

    fn text(self) -> String {
        match self.files {
            0 => "nothing".into(),
            1 => format!("1 file, {}", human(self.bytes)),
            n => format!("{n} files, {}", human(self.bytes)),
        }
    }
}

/// The paths that a set takes out: never a folder in which something is left.
fn taken(set: Clean, tree: &Tree) -> Result<BTreeSet<TreePath>, StepError> {
    let compile =
        |globs: &[&str]| Globs::new(globs).map_err(|(_, e)| StepError::new(format!("{}: {e}", set.name())));
    let (takes, keeps) = (compile(set.takes())?, compile(set.keeps())?);
    let mut out: BTreeSet<TreePath> = BTreeSet::new();
    let mut kept = Vec::new();
    for entry in tree.iter().filter(|e| takes.covers(&e.path)) {
        // A folder called like a licence is one only with something in it.
        match keeps.covers(&entry.path) {
            true if entry.node != Node::Dir => kept.push(entry.path.clone()),
            true => {}
            false => drop(out.insert(entry.path.clone())),
        }
    }
    for path in kept {
        let mut parent = path.parent();
        while let Some(folder) = parent {
            out.remove(&folder);
            parent = folder.parent();
        }
    }
    Ok(out)
}

/// Input `tree`; params `sets` and `remove`, one a line. Output `tree`, fact `size`.
pub struct Cleaning {
    /// The sets.
    pub sets: Vec<Clean>,
}

impl Builtin for Cleaning {
    fn name(&self) -> &'static str {
        "rootfs-clean"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let tree = cx.tree("tree")?;
        let mut gone: BTreeSet<TreePath> = BTreeSet::new();
        let mut notes = Vec::new();
        for set in &self.sets {
            let mut sum = Taken::default();
            for path in taken(*set, &tree)? {
                if let Some(entry) = tree.get(&path)
                    && gone.insert(path)
                {
                    sum.add(entry);
                }
            }
            notes.push(format!("clean {}: {}", set.name(), sum.text()));
        }
        let globs = lines(cx.param("remove"));
        let remove = Globs::new(&globs).map_err(|(_, e)| StepError::new(e))?;
        let (mut hit, mut sum) = (vec![false; globs.len()], Taken::default());
        for entry in tree.iter() {
            let covering = remove.covering(&entry.path);
            covering.iter().for_each(|at| hit[*at] = true);
            if !covering.is_empty() && gone.insert(entry.path.clone()) {
                sum.add(entry);
            }
        }
        if !globs.is_empty() {
            notes.push(format!("remove: {}", sum.text()));
        }
        for (glob, _) in globs.iter().zip(&hit).filter(|(_, hit)| !**hit) {
            notes.push(format!("remove: {glob} matches nothing"));
        }
        notes.iter().for_each(|note| (cx.log)(note));
        let tree = tree.filter(|entry| !gone.contains(&entry.path));
        finished(cx, &tree, notes)
    }
}

#[cfg(test)]
mod tests {
    use mosbuild_cache::Digest;

    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let file = |path: &&str| {
            let node = Node::File { digest: Digest::of(path.as_bytes()), size: 10 };
            Entry::new(TreePath::new(path).unwrap(), 0o644, node)
        };
        Tree::with_parents(paths.iter().map(file).collect()).unwrap()
    }

    fn left(set: Clean, paths: &[&str]) -> Vec<String> {
        let tree = tree(paths);
        let gone = taken(set, &tree).unwrap();
        let left = tree.filter(|e| !gone.contains(&e.path));
        left.iter().filter(|e| e.node != Node::Dir).map(|e| e.path.to_string()).collect()
    }

    #[test]
    fn each_set_takes_its_own_and_nothing_else() {
        for (set, takes, leaves) in [
            (
                Clean::Docs,
                vec!["usr/share/doc/a/README", "usr/share/doc/a/html/x.html", "usr/share/gtk-doc/html/g"],
                vec![
                    "usr/share/doc/a/COPYING",
                    "usr/share/doc/b/LICENSE.txt",
                    "usr/share/doc/c/copyright",
                    "usr/share/licenses/a/MIT",
                    "usr/share/docs",
                    "usr/share/info/dir",
                    "usr/share/man/man1/a.1",
                ],
            ),
            (
                Clean::Man,
                vec!["usr/share/man/man1/a.1.gz", "usr/local/man/x"],
                vec!["usr/share/manx", "usr/bin/man"],
            ),
            (Clean::Info, vec!["usr/share/info/dir"], vec!["usr/share/information"]),
            (
                Clean::Locales,
                vec![
                    "usr/share/locale/de/LC_MESSAGES/a.mo",
                    "usr/share/locale/locale.alias",
                    "usr/share/locale/Catalan/x",
                    "usr/share/i18n/locales/de_DE",
                    "usr/share/i18n/locales/musl/de_DE.UTF-8",
                    "usr/share/i18n/charmaps/UTF-8.gz",
                    "usr/lib/locale/locale-archive",
                    "usr/lib/locale/de_DE.utf8/LC_CTYPE",
                ],
                vec![
                    "usr/lib/locale/C.utf8/LC_CTYPE",
                    "usr/share/locale/C/LC_MESSAGES/a.mo",
                    "usr/share/i18n/locales/POSIX",
                    "usr/share/i18n/locales/musl/C.UTF-8",
                    "usr/bin/locale",
                ],
            ),
            (
                Clean::Headers,
                vec![
                    "usr/include/stdio.h",
                    "usr/lib/pkgconfig/zlib.pc",
                    "usr/share/pkgconfig/udev.pc",
                    "usr/lib/cmake/z/z.cmake",
                    "usr/share/aclocal/a.m4",
                    "usr/lib/libz.la",
                    "usr/lib/glib-2.0/include/glibconfig.h",
                    "usr/src/linux-headers/Makefile",
                    "lib/modules/6.12/build/Makefile",
                    "usr/lib/modules/6.12/source/x",
                ],
                vec![
                    "usr/lib/libz.so.1",
                    "usr/lib/firmware/a/b.h",
                    "lib/modules/6.12/kernel/a.ko",
                    "lib/modules/6.12/modules.dep",
                    "usr/share/misc/pci.h",
                    "etc/a.h",
                ],
            ),
            (
                Clean::StaticLibs,
                vec![
                    "usr/lib/libz.a",
                    "lib/libc.a",
                    "usr/lib/gcc/x/libgcc.a",
                    "usr/lib/crt1.o",
                    "usr/lib/Scrt1.o",
                    "usr/lib/gcc/x/crtbegin.o",
                ],
                vec![
                    "usr/lib/libz.so.1",
                    "usr/lib/bpf/filter.o",
                    "usr/lib/firmware/x.a",
                    "usr/lib/modules/6.12/kernel/x.a",
                    "srv/data.a",
                ],
            ),
            (
                Clean::Completions,
                vec![
                    "usr/share/bash-completion/completions/a",
                    "etc/bash_completion.d/a",
                    "usr/share/zsh/site-functions/_a",
                    "usr/share/fish/vendor_completions.d/a.fish",
                ],
                vec!["usr/share/zsh/5.9/functions/a", "etc/bash/bashrc"],
            ),
            (Clean::Debug, vec!["usr/lib/debug/a.debug"], vec!["usr/lib/debugger"]),
            (Clean::ApkCache, vec!["var/cache/apk/APKINDEX.gz"], vec!["lib/apk/db/installed", "var/cache/x"]),
            (
                Clean::ApkDb,
                vec!["lib/apk/db/installed", "etc/apk/world"],
                vec!["etc/apk/repositories", "sbin/apk"],
            ),
        ] {
            let mut expected: Vec<String> = leaves.iter().map(|p| (*p).to_owned()).collect();
            expected.sort();
            assert_eq!(left(set, &[takes, leaves].concat()), expected, "{}", set.name());
        }
    }

    #[test]
    fn folders_go_with_their_files_and_stay_with_what_stays() {
        let tree = tree(&["usr/share/doc/a/README", "usr/share/doc/b/COPYING", "usr/share/doc/b/NEWS"]);
        let gone = taken(Clean::Docs, &tree).unwrap();
        let left = tree.filter(|e| !gone.contains(&e.path));
        let left: Vec<String> = left.iter().map(|e| e.path.to_string()).collect();
        assert_eq!(left, ["usr", "usr/share", "usr/share/doc", "usr/share/doc/b", "usr/share/doc/b/COPYING"]);
    }

    #[test]
    fn names_are_those_of_the_file() {
        for set in [
            Clean::Docs,
            Clean::Man,
            Clean::Info,
            Clean::Locales,
            Clean::Headers,
            Clean::StaticLibs,
            Clean::Completions,
            Clean::Debug,
            Clean::ApkCache,
            Clean::ApkDb,
        ] {
            let read: Clean = serde_json::from_value(serde_json::json!(set.name())).unwrap();
            assert_eq!(read, set);
            assert!(Globs::new(set.takes()).is_ok() && Globs::new(set.keeps()).is_ok());
        }
    }
}
