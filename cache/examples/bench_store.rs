//! Drives the store for benches/*.sh: one operation a run, so that hyperfine can time it against a program that does
//! the same. Prints nothing but what was asked for.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use mosbuild_cache::{CaptureOptions, Digest, Materialise, StatCache, State, Store};

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "bench_store hash-file FILE | hash-tree DIR | capture STORE DIR | restore STORE TREE TO MODE \
                     | unpacked STORE TREE | stat-cache DIR | state DIR";

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["hash-file", file] => println!("{}", Digest::of_file(Path::new(file))?.0),
        ["hash-tree", dir] => println!("{}", hash_tree(Path::new(dir))?),
        ["capture", store, dir] => {
            let store = Store::open(Path::new(store))?;
            let tree = store.capture_dir(Path::new(dir), CaptureOptions::sources())?;
            println!("{}", store.put_tree(&tree)?);
        }
        ["restore", store, tree, to, mode] => {
            let store = Store::open(Path::new(store))?;
            let how = if mode == "shared" { Materialise::Shared } else { Materialise::Private };
            store.materialise(&store.get_tree(&tree.parse()?)?, Path::new(to), how)?;
        }
        ["unpacked", store, tree] => {
            println!("{}", Store::open(Path::new(store))?.unpacked(&tree.parse()?)?.display());
        }
        ["stat-cache", dir] => stat_cache(Path::new(dir))?,
        ["state", dir] => state(Path::new(dir))?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut files, mut stack) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => stack.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Hashes every file with a cold cache, as a first build does.
fn hash_tree(dir: &Path) -> Result<Digest, Failure> {
    let found = StatCache::default().digest_many(&files(dir)?);
    let digests = found.into_iter().map(|f| f.map(|f| f.digest.0)).collect::<Result<Vec<_>, _>>()?;
    Ok(Digest::of(&digests.concat()))
}

/// A second look at unchanged files: the part of a null build that grows with the workspace.
fn stat_cache(dir: &Path) -> Result<(), Failure> {
    let files = files(dir)?;
    let mut cache = StatCache::default();
    cache.digest_many(&files);
    let bytes = cache.encode();
    let started = Instant::now();
    let mut cache = StatCache::decode(&bytes);
    let decoded = started.elapsed();
    let found = cache.digest_many(&files);
    let took = started.elapsed() - decoded;
    let failed = found.iter().filter(|f| f.is_err()).count();
    let (count, hashed) = (files.len(), cache.hashed());
    println!(
        "{count} files: decode {decoded:?}, look up {took:?}, {hashed} hashed, {failed} failed, {} bytes",
        bytes.len()
    );
    Ok(())
}

/// What the workspace's database costs a build, and how it grows.
fn state(dir: &Path) -> Result<(), Failure> {
    let value: Vec<u8> = (0..2_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for round in 0..20u8 {
        let started = Instant::now();
        let state = State::open(dir);
        let opened = started.elapsed();
        let read = state.get("stat-cache").is_some();
        let got = started.elapsed() - opened;
        let mut value = value.clone();
        value[0] = round;
        state.put("stat-cache", &value);
        state.flush();
        let flushed = started.elapsed() - got - opened;
        drop(state);
        let dropped = started.elapsed() - flushed - got - opened;
        let size: u64 =
            files(&dir.join("state"))?.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
        println!(
            "open {opened:?}, get ({read}) {got:?}, put and flush {flushed:?}, close {dropped:?}, {size} bytes"
        );
    }
    Ok(())
}
