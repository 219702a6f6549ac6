//! What several tests need: running the tools that serve as oracles, and finding the shared fixtures.
//! Does not know any format.
#![allow(dead_code)]

pub mod apk;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a tool with `input`, fails the test if it is missing or unhappy, gives stdout.
pub fn tool(program: &str, args: &[&str], cwd: &Path, input: &[u8]) -> Vec<u8> {
    let child = Command::new(program)
        .args(args)
        .current_dir(cwd)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            panic!("this test compares with {program}, which cannot be run ({e}); scripts/test installs it")
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A directory of the shared fixtures; says so when it is not there.
#[allow(clippy::print_stderr)]
pub fn fixtures(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("did not run: fixtures {name} are not here");
    None
}
