//! Blocks of an flist brought to their bucket before the flist is published: what is there is asked for once, and only what is
//! missing is sent, several at a time. Knows neither how blocks are made nor what they are blocks of.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mosbuild_cache::{Digest, Node, Store, Tree};
use mosbuild_engine::fetch::Watch;
use mosbuild_engine::s3::{Bucket, S3Error, S3ErrorKind, S3Options};
use mosbuild_rules::flist::BlockStore;

use super::config::Config;
use crate::failure::Failure;

/// Media type of a block.
const BINARY: &str = "application/octet-stream";
/// Blocks on their way at once: they are small, and each waits for its answer.
const AT_ONCE: usize = 8;

/// A block that a bucket does not have.
struct Missing {
    key: String,
    digest: Digest,
    size: u64,
    /// There is something else of its name: it is written over.
    wrong: bool,
}

/// What a bucket lacks of the blocks of an flist.
pub struct Lacking {
    bucket: Bucket,
    missing: Vec<Missing>,
    /// Blocks that are there.
    pub there: usize,
}

impl Lacking {
    /// How many, and their bytes.
    pub fn count(&self) -> (usize, u64) {
        (self.missing.len(), self.missing.iter().map(|m| m.size).sum())
    }

    /// `bucket at endpoint`.
    pub fn place(&self) -> &str {
        self.bucket.place()
    }
}

/// Asks which blocks of a tree are missing at `url`, signing with the credentials of the configuration; `None` for a store that is
/// no bucket, which was filled when the flist was placed.
pub fn lacking(
    config: &Config,
    url: &str,
    tree: &Tree,
    watch: &dyn Watch,
) -> Result<Option<Lacking>, Failure> {
    let place = match BlockStore::parse(url) {
        Ok(BlockStore::S3(place)) => place,
        Ok(BlockStore::Dir(_)) => return Ok(None),
        Err(fault) => return Err(Failure::usage(format!("{url}: {}", fault.message)).help(fault.help)),
    };
    let region = if place.region.is_empty() { config.s3.region.clone() } else { place.region };
    let bucket = Bucket::open(&S3Options {
        endpoint: Some(place.endpoint),
        region,
        bucket: place.bucket,
        path_style: true,
        credentials: config.s3.credentials.clone(),
        timing: config.s3.timing,
    })?;
    let (mut missing, mut there) = (Vec::new(), 0);
    // Who may write may not be allowed to list: then each is asked for.
    let listed: Option<HashMap<String, u64>> = match bucket.list("", watch) {
        Ok(all) => Some(all.into_iter().map(|o| (o.key, o.size)).collect()),
        Err(e) if e.kind == S3ErrorKind::Denied && e.message.contains("does not allow") => None,
        Err(e) => return Err(e.into()),
    };
    for entry in tree.iter() {
        let Node::File { digest, size } = entry.node else { continue };
        let key = String::from_utf8_lossy(entry.path.name()).into_owned();
        let found = match &listed {
            Some(all) => all.get(&key).copied(),
            None => bucket.size(&key, watch)?,
        };
        match found {
            Some(found) if found == size => there += 1,
            found => missing.push(Missing { key, digest, size, wrong: found.is_some() }),
        }
    }
    Ok(Some(Lacking { bucket, missing, there }))
}

/// Sends what is missing. `target` is the flist's, for advice. The first failure ends all; what was sent stays, and is not sent again.
pub fn send(
    lacking: &Lacking,
    store: &Store,
    target: &str,
    watch: &(dyn Watch + Sync),
) -> Result<(), Failure> {
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let (_, total) = lacking.count();
    let fail = |failure: Failure| {
        // The first one is told.
        if let Ok(mut failed) = failed.lock() {
            failed.get_or_insert(failure);
        }
        next.store(lacking.missing.len(), Ordering::Relaxed);
    };
    let work = || {
        while let Some(block) = lacking.missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            match send_one(lacking, block, store, target, watch) {
                Ok(()) => {
                    let done = done.fetch_add(block.size, Ordering::Relaxed) + block.size;
                    watch.progress(lacking.place(), done, Some(total));
                }
                Err(failure) => fail(failure),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(lacking.missing.len()) {
            scope.spawn(work);
        }
    });
    match failed.into_inner() {
        Ok(Some(failure)) => Err(failure),
        _ => Ok(()),
    }
}

fn send_one(
    Lacking { bucket, .. }: &Lacking,
    block: &Missing,
    store: &Store,
    target: &str,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let again = || format!("`mosbuild build --force {target} {target}` makes it again");
    let bytes = store.read(&block.digest).map_err(|e| Failure::new(1, e.to_string()).help(again()))?;
    let sent: Result<(), S3Error> = match block.wrong {
        true => bucket.put(&block.key, bytes, BINARY, watch),
        // Where another publisher was faster, it sent the same bytes.
        false => bucket.put_if_absent(&block.key, bytes, BINARY, watch).map(drop),
    };
    Ok(sent?)
}
