//! The tree that packages go into, as far as apk cares: release, architecture, keys, what is installed.
//! Runs apk in it for questions; installing is a step of its own.

use mosbuild_cache::{Node, Tree};
use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::rooted::{Answer, Question};
use mosbuild_formats::apk::db::Installed;

use crate::miniroot::{content, database};

/// Flags of every apk: it sees no network and no repository but those named, keeps no cache, and takes indexes that
/// this program has verified or made itself.
pub const FLAGS: &str =
    "--no-network --no-cache --no-progress --allow-untrusted --repositories-file /dev/null";
/// Where programs are in Alpine.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is known of a base tree.
pub struct Root {
    /// etc/alpine-release.
    pub release: String,
    /// Names and PEM texts of the keys that it trusts.
    pub keys: Vec<(String, Vec<u8>)>,
    /// Its database.
    pub installed: Installed,
}

impl Root {
    /// Reads it off the tree.
    pub fn read(cx: &BuiltinCx<'_>, tree: &Tree) -> Result<Root, StepError> {
        let text = |path: &str| {
            let bytes = content(cx.store, tree, path)?;
            Ok::<_, StepError>(bytes.map(|b| String::from_utf8_lossy(&b).trim().to_owned()))
        };
        let installed = database(cx.store, tree)?.ok_or_else(|| {
            StepError::new("base has no database of installed packages (lib/apk/db/installed)")
                .help("base is to be a miniroot, or a `packages` target")
        })?;
        let arch = cx.param("arch");
        if let Some(found) = text("etc/apk/arch")?
            && found != arch
        {
            return Err(StepError::new(format!(
                "base is of architecture {found}, packages are asked for {arch}"
            ))
            .help("say `arch` of both targets"));
        }
        let mut keys = Vec::new();
        for entry in tree.iter() {
            let Node::File { digest, .. } = &entry.node else { continue };
            if let Some(name) = entry.path.to_string().strip_prefix("etc/apk/keys/") {
                keys.push((name.to_owned(), cx.store.read(digest)?));
            }
        }
        Ok(Root { release: text("etc/alpine-release")?.unwrap_or_default(), keys, installed })
    }

    /// Digest of names and versions of what is installed: a pin is for one such set.
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> =
            self.installed.packages.iter().map(|p| format!("{}-{}\n", p.info.name, p.info.version)).collect();
        lines.sort_unstable();
        mosbuild_cache::Digest::of(lines.concat().as_bytes()).hex()[..16].to_owned()
    }
}

/// Asks the apk of a tree: what it printed, and its exit code.
pub fn ask(
    cx: &BuiltinCx<'_>,
    tree: &Tree,
    binds: Vec<(std::path::PathBuf, String)>,
    args: Vec<String>,
) -> Result<Answer, StepError> {
    let argv = std::iter::once("apk".to_owned()).chain(args).collect();
    let env = vec![("PATH".to_owned(), PATH.to_owned()), ("LC_ALL".to_owned(), "C".to_owned())];
    mosbuild_engine::rooted::ask(cx, &Question { tree, binds, argv, env })
}
