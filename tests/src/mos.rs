//! The repository's own workspace, the MOS image, as a fresh clone has it: its mosbuild.yaml and what that reads.
//! Knows which files these are; nothing of the image.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::{Space, repository};

/// The profiles that the file declares.
pub const PROFILES: [&str; 4] = ["dev", "testing", "canary", "production"];

impl Space {
    /// A copy of the repository's workspace, without lock and state, that reaches no network.
    pub fn mos() -> Space {
        let mut space = Space::new("").with_rust();
        let yaml = std::fs::read(repository().join("mosbuild.yaml")).unwrap();
        space.write("mosbuild.yaml", yaml);
        space.copy_folder("config");
        // Whatever asks for a network after all finds a proxy that nobody listens at.
        for name in ["http_proxy", "https_proxy", "ALL_PROXY"] {
            space.env(name, "http://127.0.0.1:9");
        }
        space
    }

    /// Copies a folder of the repository to the same place here, with its files' modes.
    pub fn copy_folder(&self, path: &str) {
        for entry in std::fs::read_dir(repository().join(path)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{path}/{}", entry.file_name().to_str().unwrap());
            match entry.file_type().unwrap().is_dir() {
                true => self.copy_folder(&name),
                false => {
                    self.write(&name, std::fs::read(entry.path()).unwrap());
                    self.chmod(&name, mode(&entry.path()));
                }
            }
        }
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}
