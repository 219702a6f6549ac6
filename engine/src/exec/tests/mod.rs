//! The executors tried with real commands, as the user who runs the tests and, if that is root, as a plain user too.

mod alpine;
mod console;
mod isolation;
mod parallelism;
mod processes;
mod rooted;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// A scratch folder with what jobs need: `build` and `out` to write to.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["build", "out"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A job of the sandbox: the host's programs, /build and /out writable.
    fn job(&self, script: &str) -> Job {
        let mut mounts = vec![Mount::read_only("/usr", "/usr")];
        for name in ["bin", "lib", "lib64", "sbin"] {
            let here = Path::new("/").join(name);
            mounts.push(match std::fs::read_link(&here) {
                Ok(target) => Mount::Symlink { target, at: here },
                Err(_) => Mount::read_only(&here, &here),
            });
        }
        mounts.push(Mount::read_only("/etc/alternatives", "/etc/alternatives"));
        mounts.push(Mount::File { at: "/etc/passwd".into(), contents: b"root:x:0:0::/:/bin/sh\n".to_vec() });
        mounts.push(Mount::writable(self.path("build"), "/build"));
        mounts.push(Mount::writable(self.path("out"), "/out"));
        Job {
            argv: ["/bin/sh", "-eu", "-c", script].map(OsString::from).to_vec(),
            env: vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin".into())],
            cwd: "/build".into(),
            mounts,
            log: self.path("log"),
            ..Job::default()
        }
    }

    /// The same for the host executor.
    fn host_job(&self, script: &str) -> Job {
        Job { cwd: self.path("build"), mounts: Vec::new(), ..self.job(script) }
    }

    fn run(&self, job: &Job) -> Outcome {
        Sandbox.run(job, &()).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Run a script in the sandbox, insist that it works, and give its output.
    fn output(&self, script: &str) -> String {
        let outcome = self.run(&self.job(script));
        assert!(outcome.success(), "{script}: {outcome:?}\n{}", self.log());
        if outcome.log_bytes == 0 { String::new() } else { self.log() }
    }
}

/// Every test of this module once more, as a user that nobody knows.
#[test]
fn everything_works_for_a_plain_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let copy = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
        .arg(&copy)
        .args(["exec::tests::", "--test-threads=2"])
        .env("TMPDIR", dir.path())
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let passed = text.lines().find_map(|line| line.strip_prefix("test result: ok. "));
    let count: usize = passed.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap();
    assert!(count > 20, "only {count} tests ran as a plain user");
}

#[test]
fn the_probe_agrees() {
    assert_eq!(probe(), Ok(()));
    assert_eq!(probe_root(), Ok(()));
    let dir = tempfile::tempdir().unwrap();
    assert!(overlay_works(dir.path()) && overlay_works(dir.path()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(!overlay_works(&dir.path().join("absent")));
}
