//! The HTTP client: how a place is asked, what its refusals mean, and when it is asked again.
//! Knows neither files nor the store.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Response, StatusCode, Url, redirect};

use super::error::{Stop, Trouble};
use super::known::Validators;
use super::watch::Watch;
use super::{Timing, date};
use crate::net::{self, HttpClient, Threads};

/// How often somebody is asked whether to stop.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Tries of one place that bring nothing new.
const TRIES: u32 = 4;
/// Tries of one place of whatever kind: a server that cuts every connection after a few bytes is left at last.
const TRIES_IN_ALL: u32 = 40;
/// A server that asks to be left alone for longer is left for good.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;

/// A client with its threads.
pub(super) struct Http {
    http: HttpClient,
    threads: Threads,
    timing: Timing,
}

impl Http {
    pub fn new(timing: Timing, parallel: usize) -> Result<Http, String> {
        let http = HttpClient::new(timing.connect, parallel, || redirect::Policy::custom(follow))?;
        Ok(Http { http, threads: Threads::start("fetch")?, timing })
    }

    /// Runs something of this client to its end; the calling thread waits.
    pub fn wait<T: Send>(&self, work: impl Future<Output = Result<T, Stop>> + Send) -> Result<T, Stop> {
        self.threads.wait(work).unwrap_or_else(|| Err(Trouble::new("the client is being closed").into()))
    }

    /// Sends a GET; the answer's status is one of success or one of `also`.
    pub async fn get(
        &self,
        place: &str,
        headers: &[(HeaderName, String)],
        also: &[StatusCode],
        watch: &dyn Watch,
    ) -> Result<Response, Stop> {
        let url = Url::parse(place).map_err(|e| Trouble::new(format!("it is no URL: {e}")))?;
        let mut request = self.http.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let limit = self.timing.connect + self.timing.stall;
        let response = self.guard(limit, request.send(), watch).await?;
        let status = response.status();
        if status.is_success() || also.contains(&status) {
            return Ok(response);
        }
        Err(refused(status, response.headers()).into())
    }

    /// The next bytes of a body; `None` at its end.
    pub async fn chunk(
        &self,
        response: &mut Response,
        watch: &dyn Watch,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, Stop> {
        self.guard(self.timing.stall, response.chunk(), watch).await
    }

    /// Waits for the network, but not for longer than `limit`, nor once it is cancelled.
    async fn guard<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = reqwest::Result<T>>,
        watch: &dyn Watch,
    ) -> Result<T, Stop> {
        let (mut work, end) = (pin!(work), Instant::now() + limit);
        loop {
            if watch.cancelled() {
                return Err(Stop::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left.min(TICK), &mut work).await {
                Ok(result) => return result.map_err(|e| self.trouble(&e).into()),
                Err(_) if left.is_zero() => {
                    return Err(Trouble::passing(format!("nothing came for {limit:?}")).into());
                }
                Err(_) => {}
            }
        }
    }

    fn trouble(&self, e: &reqwest::Error) -> Trouble {
        let reason = net::reason(e);
        if let Some(help) = self.http.certificate_help(e) {
            return Trouble { help: Some(help), ..Trouble::new(reason) };
        }
        Trouble {
            retry: !(e.is_redirect() || e.is_builder()),
            unreachable: e.is_connect(),
            ..Trouble::new(reason)
        }
    }

    /// Counts the tries of one place.
    pub fn tries(&self) -> Tries {
        Tries { in_vain: 0, all: 0, first: self.timing.backoff }
    }
}

/// Redirects are followed, but not from https to http: a file whose digest is not yet known is taken on trust.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from = attempt.previous().last().map(Url::scheme).unwrap_or_default();
    if attempt.previous().len() > REDIRECTS {
        attempt.error(format!("more than {REDIRECTS} redirects"))
    } else if from == "https" && attempt.url().scheme() != "https" {
        let to = attempt.url().clone();
        attempt.error(format!("a redirect from https to {to}, which is not protected"))
    } else {
        attempt.follow()
    }
}

fn refused(status: StatusCode, headers: &HeaderMap) -> Trouble {
    let retry = matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error();
    let retry = retry && !matches!(status.as_u16(), 501 | 505);
    Trouble {
        retry,
        after: text(headers, header::RETRY_AFTER).and_then(|text| retry_after(&text, headers)),
        absent: matches!(status.as_u16(), 404 | 410),
        help: (status == StatusCode::PROXY_AUTHENTICATION_REQUIRED)
            .then(|| "the proxy wants a name and a password: http://NAME:PASSWORD@PROXY".into()),
        ..Trouble::new(status.to_string())
    }
}

/// Seconds, or a date by the server's own clock.
fn retry_after(value: &str, headers: &HeaderMap) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = date::seconds(&text(headers, header::DATE)?)?;
    Some(Duration::from_secs(u64::try_from(date::seconds(value)? - now).unwrap_or(0)))
}

/// A header's text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What a server says of the version that it gives; nothing if the next change may be said by the same (a second is
/// the grain of HTTP's dates, and many servers make their ETag of date and size).
pub(super) fn validators(headers: &HeaderMap) -> Validators {
    let some = |name| text(headers, name).filter(|text| !text.is_empty());
    let said = Validators { etag: some(header::ETAG), modified: some(header::LAST_MODIFIED) };
    let then = said.modified.as_deref().and_then(date::seconds);
    match then.is_none_or(|then| then < now(headers)) {
        true => said,
        false => Validators::default(),
    }
}

/// The server's clock; ours, if it does not say.
fn now(headers: &HeaderMap) -> i64 {
    let said = text(headers, header::DATE).and_then(|date| date::seconds(&date));
    let ours = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    said.unwrap_or_else(ours)
}

/// What `If-Range` may name: a strong ETag, or a date that is too old for another change to have had the same
/// (RFC 9110, 8.8.2.2).
pub(super) fn strong(headers: &HeaderMap) -> Option<String> {
    let Validators { etag, modified } = validators(headers);
    match etag {
        Some(etag) => (!etag.starts_with("W/")).then_some(etag),
        // Only a date that can be read is known to be old.
        None => modified.filter(|date| date::seconds(date).is_some()),
    }
}

/// `bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`: the first byte, and the total if it is known.
pub(super) fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let value = text(headers, header::CONTENT_RANGE)?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    match range.split_once('-') {
        Some((first, _)) => Some((Some(first.parse().ok()?), total)),
        None => (range == "*").then_some((None, total)),
    }
}

/// The tries of one place.
pub(super) struct Tries {
    in_vain: u32,
    all: u32,
    first: Duration,
}

impl Tries {
    /// After a try that failed: waits and returns, or gives the place up.
    pub async fn again(
        &mut self,
        mut trouble: Trouble,
        gained: bool,
        place: &str,
        watch: &dyn Watch,
    ) -> Result<(), Stop> {
        if !trouble.retry {
            return Err(trouble.into());
        }
        self.in_vain = if gained { 1 } else { self.in_vain + 1 };
        self.all += 1;
        if self.in_vain >= TRIES || self.all >= TRIES_IN_ALL {
            trouble.reason = format!("{} (tried {} times)", trouble.reason, self.all);
            return Err(trouble.into());
        }
        let asked = trouble.after.unwrap_or_default();
        if asked > LONGEST_WAIT {
            trouble.reason = format!("{}, to be asked again in {} s", trouble.reason, asked.as_secs());
            return Err(trouble.into());
        }
        let wait = self.first * (1 << (self.in_vain - 1));
        // Between half and the whole, so that many clients of a server that restarts do not come at once.
        let wait = wait.mul_f64(0.5 + 0.5 * fraction()).max(asked);
        watch.say(&format!(
            "{}: {}; again in {:.1} s",
            super::places::shown(place),
            trouble.reason,
            wait.as_secs_f32()
        ));
        pause(wait, watch).await
    }
}

/// A number between 0 and 1 that differs from process to process and from call to call.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now()) as f64 / u64::MAX as f64
}

async fn pause(wait: Duration, watch: &dyn Watch) -> Result<(), Stop> {
    let end = Instant::now() + wait;
    loop {
        if watch.cancelled() {
            return Err(Stop::Cancelled);
        }
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => tokio::time::sleep(left.min(TICK)).await,
        }
    }
}
