//! Running the program as a user without privileges, from tests that run as root.
//! The user needs no name: `setpriv` takes its number.

use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use crate::{Space, need};

/// A user that owns nothing on the host.
pub const PLAIN_USER: u32 = 64_321;

impl Space {
    /// Gives the workspace and its store to a user without privileges, who runs the program from now on. Where the
    /// tests run as such a user already, nothing changes.
    pub fn as_plain_user(mut self) -> Space {
        let me = std::fs::metadata("/proc/self").unwrap().uid();
        if me != 0 {
            return self;
        }
        need("setpriv", "util-linux");
        self.user = Some(PLAIN_USER);
        let copy = self.base().join("mosbuild");
        std::fs::copy(&self.program, &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.program = copy;
        self.give(&self.base());
        self
    }

    /// Hands a path and all below it to the user of this workspace, if it is not the one of the tests.
    pub(crate) fn give(&self, path: &Path) {
        let Some(user) = self.user else { return };
        give(path, user);
        for above in path.ancestors().take_while(|p| p.starts_with(self.base())) {
            lchown(above, Some(user), Some(user)).unwrap();
        }
    }
}

fn give(path: &Path, user: u32) {
    lchown(path, Some(user), Some(user)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            give(&entry.path(), user);
        }
    }
}
