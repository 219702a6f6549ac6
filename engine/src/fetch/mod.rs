//! Downloads into the store: HTTP, `file://`, mirrors; resumed, tried again, checked, and never made twice.
//! Knows no rule, no lock file and no scheduler.

mod date;
mod download;
mod error;
mod http;
mod known;
pub mod listing;
mod partial;
mod permits;
mod places;
mod small;
mod watch;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mosbuild_cache::{BlobError, Digest, KeyLock, Store, StoreError};

use crate::load::Mirror;
use download::Wanted;
pub use error::{FetchError, Tried, Wrong};
use error::{Stop, Trouble};
use http::{Http, TICK};
use known::Known;
use partial::Partial;
use permits::Permits;
use places::Scheme;
pub use places::shown;
use watch::Together;
pub use watch::{Unwatched, Watch};

/// [`Fetched::from`] where nothing was downloaded.
pub const FROM_STORE: &str = "store";

/// How downloads are made.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Places before the original, in order.
    pub mirrors: Vec<Mirror>,
    /// The network may not be used; files of this machine may.
    pub offline: bool,
    /// The most downloads at once, over all threads that share the [`Fetcher`].
    pub parallel: usize,
    /// How long something may take.
    pub timing: Timing,
}

impl Default for FetchOptions {
    fn default() -> FetchOptions {
        FetchOptions { mirrors: Vec::new(), offline: false, parallel: 8, timing: Timing::default() }
    }
}

/// How long something may take; tests take shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// To a connection, TLS included: 15 s.
    pub connect: Duration,
    /// Without a byte: 30 s.
    pub stall: Duration,
    /// Before the second try; twice as long before each further one: 0.5 s.
    pub backoff: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            backoff: Duration::from_millis(500),
        }
    }
}

/// What the bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub size: u64,
    /// BLAKE3.
    pub blake3: Digest,
    /// SHA-256, 64 hex digits of either case.
    pub sha256: String,
}

impl Expected {
    /// Whether size and both digests are the same.
    pub fn same(&self, other: &Expected) -> bool {
        (self.size, self.blake3) == (other.size, other.blake3)
            && self.sha256.eq_ignore_ascii_case(&other.sha256)
    }
}

/// A file that is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    /// `http://`, `https://` or `file:///`.
    pub url: String,
    /// What it must be; `None` while its pin is being made.
    pub expected: Option<Expected>,
    /// The most bytes that are taken.
    pub max_size: u64,
}

/// A blob of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// BLAKE3; the blob's name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// SHA-256, 64 lowercase hex digits.
    pub sha256: String,
    /// The place that gave it, without a password; [`FROM_STORE`] if nothing was downloaded.
    pub from: String,
}

/// Makes downloads. To make one opens nothing and starts nothing: that happens when the network is first needed.
pub struct Fetcher {
    options: FetchOptions,
    http: OnceLock<Result<Http, String>>,
    permits: Permits,
}

impl Fetcher {
    /// A fetcher, to be shared by all threads.
    pub fn new(options: FetchOptions) -> Fetcher {
        let permits = Permits::new(options.parallel);
        Fetcher { options, http: OnceLock::new(), permits }
    }

    /// Whether the network may not be used.
    pub fn offline(&self) -> bool {
        self.options.offline
    }

    /// Where a URL's bytes may be had: mirrors in order, the original last. For what is not fetched as a file: a
    /// repository.
    pub fn places(&self, url: &str) -> Vec<String> {
        places::places(url, &self.options.mirrors)
    }

    /// The mirrors, in order.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.options.mirrors
    }

    /// Fetches a file into the store; returns when it is there.
    pub fn fetch(&self, store: &Store, request: &Request, watch: &dyn Watch) -> Result<Fetched, FetchError> {
        let Request { url, expected, max_size } = request;
        let (url, expected) = (url.as_str(), expected.as_ref());
        places::scheme(url).map_err(|reason| FetchError::Url { url: shown(url), reason })?;
        let in_store = || match expected {
            Some(expected) => from_store(store, expected).map_err(|source| local(url, source)),
            None => Ok(None),
        };
        if let Some(fetched) = in_store()? {
            return Ok(fetched);
        }
        let pinned = expected.map_or_else(|| "-".to_owned(), |expected| expected.blake3.hex());
        let key = Digest::of(format!("{url}\n{pinned}").as_bytes());
        let before = Known::read(store, url);
        let (_lock, waited) = lock(store, &key, url, watch)?;
        let mut known = None;
        if expected.is_none() {
            let now = Known::read(store, url);
            // Another has just fetched it, while this one waited.
            let fresh = waited && now != before;
            known = now.and_then(|known| known.in_store(store).map(|fetched| (known, fetched)));
            if let Some((_, fetched)) = known.as_ref().filter(|_| fresh) {
                return Ok(fetched.clone());
            }
        } else if waited && let Some(fetched) = in_store()? {
            return Ok(fetched);
        }
        // A file that is much larger than the right one is not downloaded to its end only to tell its digest.
        let most =
            |expected: &Expected| expected.size.saturating_mul(2).saturating_add(1 << 20).min(*max_size);
        let limit = expected.map_or(*max_size, most);
        let wanted = Wanted { store, url, expected, limit, known, key, watch };
        let mut partial = Partial::open(store, &key, expected.is_none()).map_err(|e| local(url, e))?;
        let result = self.each_place(url, expected, watch, &mut |scheme, place| match scheme {
            Scheme::File(path) => wanted.copy_file(place, path, &mut partial),
            Scheme::Http => {
                let http = self.http()?;
                http.wait(wanted.download(http, place, &mut partial))
            }
        });
        if let Err(FetchError::Local { .. }) = result {
            // It may be what fills the disk.
            partial.discard();
        }
        result
    }

    /// Fetches files, several at once, and returns them in the order of the requests. The first failure ends them
    /// all; what has come of each is kept for the next try.
    pub fn fetch_all(
        &self,
        store: &Store,
        requests: &[Request],
        watch: &dyn Watch,
    ) -> Result<Vec<Fetched>, FetchError> {
        let together = Together { watch, failed: false.into() };
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some((at, request)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                requests.get(at).map(|request| (at, request))
            } {
                let result = self.fetch(store, request, &together);
                if result.is_err() {
                    together.failed.store(true, Ordering::Relaxed);
                }
                done.push((at, result));
            }
            done
        };
        let mut done = std::thread::scope(|scope| {
            let others = 1..self.options.parallel.min(requests.len());
            // Where no thread can be had, those that could be, or this one alone, do the work.
            let spawn =
                |_| std::thread::Builder::new().name("fetch-file".into()).spawn_scoped(scope, work).ok();
            let others: Vec<_> = others.filter_map(spawn).collect();
            let mut done = work();
            for other in others {
                match other.join() {
                    Ok(more) => done.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        });
        done.sort_by_key(|(at, _)| *at);
        let mut fetched = Vec::with_capacity(done.len());
        let mut stopped = None;
        for (_, result) in done {
            match result {
                Ok(one) => fetched.push(one),
                // The others were only stopped by the one that failed.
                Err(e @ FetchError::Cancelled { .. }) => stopped = stopped.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        stopped.map_or(Ok(fetched), Err)
    }

    /// Tries the places of a URL in order.
    fn each_place<T>(
        &self,
        url: &str,
        expected: Option<&Expected>,
        watch: &dyn Watch,
        from: &mut dyn FnMut(&Scheme, &str) -> Result<T, Stop>,
    ) -> Result<T, FetchError> {
        let cancelled = || FetchError::Cancelled { url: shown(url) };
        let _permit = self.permits.take(watch).ok_or_else(cancelled)?;
        let places = places::places(url, &self.options.mirrors);
        let (mut tried, mut wrong, mut not_tried) = (Vec::new(), None, false);
        for (n, place) in places.iter().enumerate() {
            let trouble = match places::scheme(place) {
                Err(reason) => Trouble::new(reason),
                Ok(Scheme::Http) if self.options.offline => {
                    not_tried = true;
                    continue;
                }
                Ok(scheme) => match from(&scheme, place) {
                    Ok(found) => return Ok(found),
                    Err(Stop::Cancelled) => return Err(cancelled()),
                    Err(Stop::Local(source)) => return Err(local(url, source)),
                    Err(Stop::Place(trouble)) => trouble,
                    Err(Stop::Wrong(got)) => {
                        let Expected { size, blake3, sha256 } = &got;
                        let text = format!("other bytes: {size}, BLAKE3 {blake3}, SHA-256 {sha256}");
                        if wrong.is_none() {
                            wrong = Some((tried.len(), got));
                        }
                        Trouble::new(text)
                    }
                },
            };
            if let Some(next) =
                places.get(n + 1).filter(|next| !(self.options.offline && next.starts_with("http")))
            {
                let [place, next] = [place, next].map(|place| shown(place));
                watch.say(&format!("{place}: {}; next is {next}", trouble.reason));
            }
            tried.push(trouble.tried(place));
        }
        let url = shown(url);
        Err(match (wrong, expected) {
            (Some((at, got)), Some(expected)) => {
                let place = tried.remove(at).place;
                FetchError::Wrong(Box::new(Wrong {
                    url,
                    place,
                    expected: expected.clone(),
                    got,
                    others: tried,
                }))
            }
            _ if not_tried => FetchError::Offline { url, tried },
            _ => FetchError::Failed { url, tried },
        })
    }

    /// The client, made when it is first needed.
    fn http(&self) -> Result<&Http, Stop> {
        let made = self.http.get_or_init(|| Http::new(self.options.timing, self.options.parallel));
        made.as_ref().map_err(|why| Trouble::new(why.clone()).into())
    }
}

fn local(url: &str, source: StoreError) -> FetchError {
    FetchError::Local { url: shown(url), source }
}

/// The expected bytes, if the store has them whole.
fn from_store(store: &Store, expected: &Expected) -> Result<Option<Fetched>, StoreError> {
    match store.blob_path(&expected.blake3) {
        Ok(_) => Ok(Some(Fetched {
            digest: expected.blake3,
            size: expected.size,
            sha256: expected.sha256.to_ascii_lowercase(),
            from: FROM_STORE.into(),
        })),
        Err(BlobError::Store(e)) => Err(e),
        Err(_) => Ok(None),
    }
}

/// Waits until nobody else downloads the same; tells whether somebody did.
fn lock(store: &Store, key: &Digest, url: &str, watch: &dyn Watch) -> Result<(KeyLock, bool), FetchError> {
    let mut waited = false;
    loop {
        if watch.cancelled() {
            return Err(FetchError::Cancelled { url: shown(url) });
        }
        match store.try_lock("downloads", key) {
            Ok(Some(lock)) => return Ok((lock, waited)),
            Ok(None) if !waited => {
                waited = true;
                watch.say(&format!("{}: another download of it is under way; waiting", shown(url)));
            }
            Ok(None) => {}
            Err(e) => return Err(local(url, e)),
        }
        std::thread::sleep(TICK);
    }
}
