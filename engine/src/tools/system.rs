//! How a sandbox shows the host's system folders and tools.
//!
//! Does not know how the tools were found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use crate::exec::Mount;

use super::find::Found;
use super::{BIN_DIR, FILES_DIR, RUST_DIR, Visible, bin_dir};

/// Folders that are links into /usr on a merged system.
const ROOT_DIRS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// What programs need of the host's /etc: nothing that says who or where the host is.
const ETC: [&str; 4] = ["/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"];

const FILES: [(&str, &str); 4] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/build/home:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost mosbuild\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

pub(super) fn visible(state: &Path, base: &Found, tools: &[Arc<Found>]) -> io::Result<Visible> {
    let mut mounts = vec![Mount::read_only("/usr", "/usr")];
    for folder in ROOT_DIRS.map(PathBuf::from) {
        match fs::read_link(&folder) {
            Ok(target) => mounts.push(Mount::Symlink { target, at: folder }),
            Err(_) if folder.is_dir() => mounts.push(Mount::read_only(&folder, &folder)),
            Err(_) => {}
        }
    }
    mounts.extend(
        ETC.map(Path::new).iter().filter(|path| path.exists()).map(|path| Mount::read_only(path, path)),
    );
    for (at, contents) in FILES {
        mounts.push(Mount::File { at: at.into(), contents: contents.into() });
    }

    let mut links: BTreeMap<String, PathBuf> = base.programs.iter().cloned().collect();
    links.extend(tools.iter().flat_map(|tool| tool.programs.iter().cloned()));
    // A declared tool's own name wins over what another brings along.
    links.extend(
        tools
            .iter()
            .filter_map(|tool| tool.programs.last().filter(|(name, _)| *name == tool.identity.tool).cloned()),
    );
    for (name, target) in &mut links {
        let real = fs::canonicalize(&*target)?;
        if !real.starts_with("/usr") && !ROOT_DIRS.iter().any(|folder| real.starts_with(folder)) {
            let at = Path::new(FILES_DIR).join(name);
            mounts.push(Mount::read_only(real, &at));
            *target = at;
        }
    }
    mounts.push(Mount::read_only(bin_dir::make(state, &links)?, BIN_DIR));

    let mut path = BIN_DIR.to_owned();
    if let Some(sysroot) = tools.iter().find_map(|tool| tool.sysroot.as_ref()) {
        mounts.push(Mount::read_only(sysroot, RUST_DIR));
        path = format!("{RUST_DIR}/bin:{path}");
    }
    Ok(Visible { mounts, path, env: Vec::new() })
}
