//! What every test has: a store, a fetcher with short times, and bytes with their digests.
//! Knows no server.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use mosbuild_cache::{Digest, Store};
use mosbuild_engine::fetch::{
    Expected, FetchError, FetchOptions, Fetched, Fetcher, Request, Timing, Unwatched, Watch,
};
use mosbuild_engine::load::Mirror;
use sha2::{Digest as _, Sha256};

/// A store and a fetcher.
pub struct Desk {
    _dir: tempfile::TempDir,
    pub store: Store,
    pub fetcher: Arc<Fetcher>,
}

impl Desk {
    /// With the one fetcher of most tests: to read the host's CAs takes longer than a test.
    pub fn new() -> Desk {
        static FETCHER: LazyLock<Arc<Fetcher>> = LazyLock::new(|| Arc::new(Fetcher::new(options())));
        Desk::by(FETCHER.clone())
    }

    pub fn with(options: FetchOptions) -> Desk {
        Desk::by(Arc::new(Fetcher::new(options)))
    }

    fn by(fetcher: Arc<Fetcher>) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Desk { _dir: dir, store, fetcher }
    }

    pub fn mirrored(mirrors: &[(&str, &[&str])]) -> Desk {
        Desk::with(FetchOptions { mirrors: mirrored(mirrors), ..options() })
    }

    pub fn fetch(&self, url: &str, expected: Option<Expected>) -> Result<Fetched, FetchError> {
        self.fetcher.fetch(&self.store, &request(url, expected), &Unwatched)
    }

    /// Fetches bytes that are expected, and checks that the store has them.
    pub fn right(&self, url: &str, bytes: &[u8]) -> Fetched {
        let fetched = self.fetch(url, Some(expected(bytes))).unwrap();
        self.has(&fetched, bytes);
        fetched
    }

    pub fn has(&self, fetched: &Fetched, bytes: &[u8]) {
        assert_eq!(self.store.read(&fetched.digest).unwrap(), bytes);
        let Expected { size, blake3, sha256 } = expected(bytes);
        assert_eq!((fetched.size, fetched.digest, &fetched.sha256), (size, blake3, &sha256));
        assert_eq!(self.left(), BTreeSet::new(), "nothing unfinished is left");
    }

    /// What lies in `downloads/`, by suffix, but for what is remembered of URLs.
    pub fn left(&self) -> BTreeSet<String> {
        names(&self.store.root().join("downloads")).into_iter().filter(|name| name != "known").collect()
    }

    /// Whether the store has any blob.
    pub fn blobs(&self) -> bool {
        !names(&self.store.root().join("cas")).is_empty()
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let suffix = |name: String| name.rsplit('.').next().unwrap_or_default().to_owned();
    entries.map(|e| suffix(e.unwrap().file_name().into_string().unwrap())).collect()
}

pub fn options() -> FetchOptions {
    let timing = Timing {
        connect: Duration::from_secs(5),
        stall: Duration::from_millis(300),
        backoff: Duration::from_millis(5),
    };
    FetchOptions { timing, ..FetchOptions::default() }
}

pub fn mirrored(mirrors: &[(&str, &[&str])]) -> Vec<Mirror> {
    let to = |to: &[&str]| to.iter().map(|t| t.to_string()).collect();
    mirrors.iter().map(|(from, places)| Mirror { from: from.to_string(), to: to(places) }).collect()
}

pub fn request(url: &str, expected: Option<Expected>) -> Request {
    Request { url: url.into(), expected, max_size: 64 << 20 }
}

pub fn expected(bytes: &[u8]) -> Expected {
    let sha256 = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    Expected { size: bytes.len() as u64, blake3: Digest::of(bytes), sha256 }
}

/// Bytes that are the same nowhere twice.
pub fn bytes(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// Hears everything.
#[derive(Default)]
pub struct Heard {
    pub lines: Mutex<Vec<String>>,
    pub progress: Mutex<Vec<(u64, Option<u64>)>>,
}

impl Watch for Heard {
    fn progress(&self, _url: &str, done: u64, total: Option<u64>) {
        self.progress.lock().unwrap().push((done, total));
    }
    fn say(&self, line: &str) {
        self.lines.lock().unwrap().push(line.to_owned());
    }
}
