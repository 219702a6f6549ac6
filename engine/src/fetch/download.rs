//! One file from one place: asked for from where an earlier try stopped, again after faults, and checked.
//! Knows neither mirrors nor how many downloads there are.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use mosbuild_cache::{Digest, Store};
use reqwest::StatusCode;
use reqwest::header;

use super::error::{Stop, Trouble};
use super::http::{Http, content_range, strong, validators};
use super::known::{Known, Validators};
use super::partial::{Partial, Side};
use super::watch::Watch;
use super::{Expected, Fetched};

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_millis(50);
/// Times that a place is asked anew at once, because its answer does not go on where the bytes so far end.
const ANEW: u32 = 3;

/// A file that is wanted.
pub(super) struct Wanted<'a> {
    pub store: &'a Store,
    pub url: &'a str,
    pub expected: Option<&'a Expected>,
    /// The most bytes that are taken.
    pub limit: u64,
    /// What the URL gave the last time, if the store still has it.
    pub known: Option<(Known, Fetched)>,
    /// Of URL and expected digest: whose lock is held.
    pub key: Digest,
    pub watch: &'a dyn Watch,
}

/// What a try ended with.
enum End {
    /// All bytes are there; what the server said of them.
    Whole(Validators),
    /// The bytes of the last time are still the right ones.
    Unchanged(Fetched),
    /// The bytes so far were of no use.
    Anew,
}

impl Wanted<'_> {
    fn too_large(&self, what: &str) -> Trouble {
        let should = match self.expected {
            Some(expected) => format!("{} are expected", expected.size),
            None => format!("{} are allowed", self.limit),
        };
        Trouble::new(format!("{what} bytes, where {should}"))
    }

    /// Checks the bytes and makes them a blob.
    fn keep(&self, partial: &mut Partial, place: &str, validators: Validators) -> Result<Fetched, Stop> {
        let got = partial.got();
        if let Some(expected) = self.expected
            && !expected.same(&got)
        {
            partial.discard();
            return Err(Stop::Wrong(got));
        }
        let got = partial.finish(self.store)?;
        if self.expected.is_none() || validators != Validators::default() {
            // It only spares a later download; that it cannot be written is no reason to fail.
            let _ = Known::write(self.store, self.url, place, validators, &got, &self.key);
        }
        Ok(Fetched {
            digest: got.blake3,
            size: got.size,
            sha256: got.sha256,
            from: super::places::shown(place),
        })
    }

    /// From a server.
    pub async fn download(&self, http: &Http, place: &str, partial: &mut Partial) -> Result<Fetched, Stop> {
        let mut tries = http.tries();
        let (mut most, mut anew) = (partial.len(), 0);
        loop {
            match self.attempt(http, place, partial).await {
                Ok(End::Unchanged(fetched)) => return Ok(fetched),
                Ok(End::Whole(validators)) => {
                    let right = self.expected.is_none_or(|expected| expected.same(&partial.got()));
                    // Put together from several answers, the bytes may be of two versions: once from nothing.
                    if right || partial.in_one || anew >= ANEW {
                        return self.keep(partial, place, validators);
                    }
                    anew = ANEW;
                    partial.discard();
                }
                Ok(End::Anew) if anew < ANEW => {
                    anew += 1;
                    partial.discard();
                }
                Ok(End::Anew) => {
                    partial.discard();
                    return Err(
                        Trouble::new("its answers to requests for a range contradict each other").into()
                    );
                }
                Err(Stop::Place(trouble)) => {
                    let gained = partial.len() > most;
                    most = most.max(partial.len());
                    tries.again(trouble, gained, place, self.watch).await?;
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    async fn attempt(&self, http: &Http, place: &str, partial: &mut Partial) -> Result<End, Stop> {
        // The server's validator is of use only with this server; a digest tells by itself what is right.
        let same = partial.side().filter(|side| side.is_of(place));
        let if_range = same.and_then(|side| side.validator.clone());
        let usable = match self.expected {
            Some(expected) => partial.len() <= expected.size,
            None => if_range.is_some(),
        };
        if partial.len() > 0 && !usable {
            partial.discard();
        }
        let offset = partial.len();
        if offset > 0 && self.expected.is_some_and(|expected| expected.size == offset) {
            return Ok(End::Whole(Validators::default()));
        }
        let mut headers = Vec::new();
        let known = self.known.as_ref().filter(|(known, _)| offset == 0 && known.asks(place));
        if offset > 0 {
            headers.push((header::RANGE, format!("bytes={offset}-")));
            headers.extend(if_range.map(|validator| (header::IF_RANGE, validator)));
        } else if let Some((known, _)) = known {
            headers.extend(known.etag.clone().map(|etag| (header::IF_NONE_MATCH, etag)));
            headers.extend(known.modified.clone().map(|date| (header::IF_MODIFIED_SINCE, date)));
        }
        let also = [StatusCode::NOT_MODIFIED, StatusCode::RANGE_NOT_SATISFIABLE];
        let mut response = http.get(place, &headers, &also, self.watch).await?;
        let side = Side::new(place, strong(response.headers()));
        let found = validators(response.headers());
        let total = match (response.status(), content_range(response.headers())) {
            (StatusCode::NOT_MODIFIED, _) => {
                return match known {
                    Some((_, fetched)) => Ok(End::Unchanged(fetched.clone())),
                    None => Err(Trouble::new("304 Not Modified, which was not asked for").into()),
                };
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, range) => {
                return match range {
                    // All of it had come, and only the end of the answer was missing.
                    Some((None, Some(total))) if total == offset && offset > 0 => Ok(End::Whole(found)),
                    _ if offset > 0 => Ok(End::Anew),
                    _ => Err(Trouble::new("416 Range Not Satisfiable, where no range was asked for").into()),
                };
            }
            (StatusCode::PARTIAL_CONTENT, Some((Some(first), total))) if first == offset && offset > 0 => {
                let other = self.expected.is_some_and(|expected| total.is_some_and(|t| t != expected.size));
                let changed = self.expected.is_none()
                    && side.validator.is_some()
                    && side.validator != partial.side().and_then(|side| side.validator.clone());
                if other || changed {
                    return Ok(End::Anew);
                }
                partial.in_one = false;
                partial.origin(side)?;
                total
            }
            (StatusCode::PARTIAL_CONTENT, _) => return Ok(End::Anew),
            (StatusCode::OK, _) => {
                let total = response.content_length();
                partial.begin(side)?;
                total
            }
            (status, _) => return Err(Trouble::new(format!("{status}, which is no answer to a GET")).into()),
        };
        if let Some(total) = total.filter(|total| *total > self.limit) {
            partial.discard();
            return Err(self.too_large(&format!("it has {total}")).into());
        }
        self.body(http, &mut response, partial, total).await?;
        Ok(End::Whole(found))
    }

    async fn body(
        &self,
        http: &Http,
        response: &mut reqwest::Response,
        partial: &mut Partial,
        total: Option<u64>,
    ) -> Result<(), Stop> {
        let shown = total.or(self.expected.map(|expected| expected.size));
        let mut told = Instant::now();
        self.watch.progress(self.url, partial.len(), shown);
        loop {
            let bytes = match http.chunk(response, self.watch).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(Stop::Place(trouble)) => {
                    let of = shown.map_or(String::new(), |total| format!(" of {total}"));
                    let reason = format!("{}, after {}{of} bytes", trouble.reason, partial.len());
                    return Err(Trouble { reason, ..trouble }.into());
                }
                Err(stop) => return Err(stop),
            };
            let bytes = bytes.as_ref();
            if partial.len() + bytes.len() as u64 > self.limit {
                partial.discard();
                return Err(self.too_large(&format!("it sends more than {}", self.limit)).into());
            }
            partial.write(bytes)?;
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                self.watch.progress(self.url, partial.len(), shown);
            }
        }
        self.watch.progress(self.url, partial.len(), shown);
        // Where the server does not say how much there is, the end of the connection is no sign that this was all.
        let wanted =
            total.or(self.expected.map(|expected| expected.size).filter(|size| *size > partial.len()));
        match wanted {
            Some(wanted) if wanted != partial.len() => {
                let reason = format!("the connection ended after {} of {wanted} bytes", partial.len());
                Err(Trouble::passing(reason).into())
            }
            _ => Ok(()),
        }
    }

    /// From a file of this machine.
    pub fn copy_file(&self, place: &str, path: &Path, partial: &mut Partial) -> Result<Fetched, Stop> {
        let mut file = File::open(path).map_err(|e| unreadable(&e))?;
        let meta = file.metadata().map_err(|e| unreadable(&e))?;
        if !meta.is_file() {
            return Err(Trouble::new("it is not a file").into());
        }
        if meta.len() > self.limit {
            return Err(self.too_large(&format!("it has {}", meta.len())).into());
        }
        // What a server gave of it is of no use: a copy costs less than a doubt.
        partial.begin(Side::new(place, None))?;
        let copied = self.copy(&mut file, meta.len(), partial);
        if copied.is_err() {
            partial.discard();
        }
        copied?;
        self.keep(partial, place, Validators::default())
    }

    fn copy(&self, file: &mut File, total: u64, partial: &mut Partial) -> Result<(), Stop> {
        let mut buffer = vec![0; (total.clamp(4 << 10, 1 << 20)) as usize];
        let mut told = Instant::now();
        loop {
            if self.watch.cancelled() {
                return Err(Stop::Cancelled);
            }
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) if partial.len() + n as u64 > self.limit => {
                    return Err(self.too_large(&format!("it has more than {}", self.limit)).into());
                }
                Ok(n) => partial.write(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(&e).into()),
            }
            if told.elapsed() >= TOLD_EVERY {
                told = Instant::now();
                self.watch.progress(self.url, partial.len(), Some(total));
            }
        }
        self.watch.progress(self.url, partial.len(), Some(partial.len()));
        Ok(())
    }
}

/// Why a file of a mirror gives nothing.
pub(super) fn unreadable(e: &io::Error) -> Trouble {
    Trouble { absent: e.kind() == io::ErrorKind::NotFound, ..Trouble::new(e.to_string()) }
}
