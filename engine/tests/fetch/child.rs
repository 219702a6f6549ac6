//! Fetches in a process of its own: with its own environment, its own threads, or on a disk of its own.
//! Knows what to do from the variables that `run` sets.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use mosbuild_cache::Store;
use mosbuild_engine::fetch::{FetchError, Fetcher, Unwatched};

use crate::desk::{expected, options, request};

const URL: &str = "MOSBUILD_TEST_FETCH_URL";
const STORE: &str = "MOSBUILD_TEST_FETCH_STORE";

/// The command that runs the test `name` of this file, below `before`.
pub fn command(name: &str, url: &str, store: &Path, env: &[(&str, &str)], before: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut line: Vec<&OsStr> = before.iter().map(|word| word.as_ref()).collect();
    line.push(program.as_os_str());
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).args(["--exact", &format!("child::{name}"), "--ignored", "--nocapture"]);
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.env_remove(variable).env_remove(variable.to_ascii_lowercase());
    }
    command.env(URL, url).env(STORE, store).envs(env.iter().copied());
    command
}

/// Runs it, and gives what it told.
pub fn run(name: &str, url: &str, store: &Path, env: &[(&str, &str)], before: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(name, url, store, env, before).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let told = out.split_once("told: ").and_then(|(_, told)| told.split_once(" :end"));
    assert!(status.success(), "{out}{err}");
    told.unwrap_or_else(|| panic!("{out}{err}")).0.to_owned()
}

/// URL and store, if another process says so.
fn asked() -> Option<(String, Store)> {
    let url = std::env::var(URL).ok()?;
    Some((url, Store::open(Path::new(&std::env::var_os(STORE)?)).unwrap()))
}

#[expect(clippy::print_stdout, reason = "read by the process that started this one")]
fn tell(text: &str) {
    println!("told: {text} :end");
}

fn told(e: &FetchError) -> String {
    format!("{}: {e}\n{}", e.exit(), e.help().join("\n"))
}

/// Tells where a file came from, or why it did not.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn fetch() {
    let Some((url, store)) = asked() else { return };
    let fetcher = Fetcher::new(options());
    tell(&match fetcher.fetch(&store, &request(&url, None), &Unwatched) {
        Ok(fetched) => String::from_utf8(store.read(&fetched.digest).unwrap()).unwrap(),
        Err(e) => told(&e),
    });
}

/// On a disk with 2 MiB: first a file that does not fit, then one that does.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn full() {
    let Some((url, store)) = asked() else { return };
    let fetcher = Fetcher::new(options());
    let e = fetcher.fetch(&store, &request(&format!("{url}/large"), None), &Unwatched).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(store.root().join("downloads")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    fetcher.fetch(&store, &request(&format!("{url}/small"), Some(expected(b"fits"))), &Unwatched).unwrap();
    tell(&told(&e));
}

/// Neither a thread nor a descriptor is there after a fetch that needs no network.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn lazy() {
    let Some((url, store)) = asked() else { return };
    let count = |of: &str| std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count();
    let before = (count("task"), count("fd"));
    let fetcher = Fetcher::new(options());
    fetcher.fetch(&store, &request(&url, Some(expected(b"body"))), &Unwatched).unwrap();
    fetcher.fetch_all(&store, &[request(&url, Some(expected(b"body")))], &Unwatched).unwrap();
    let after = (count("task"), count("fd"));
    tell(&format!("{} threads, {} descriptors", after.0 - before.0, after.1 - before.1));
}
