//! A bucket of a server that speaks S3: read, written, written on a condition, listed; large files in parts.
//! Knows neither what an object means nor the file that configures it.

mod connector;
mod credentials;
mod error;
mod upload;

use std::pin::pin;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig, UpdateVersion,
};

use crate::fetch::Watch;
use crate::net::{HttpClient, Threads};
use connector::Connector;
pub use credentials::{Credentials, Secret};
use error::Asked;
pub use error::{S3Error, S3ErrorKind};
pub use upload::Upload;

/// How often somebody is asked whether to stop.
const TICK: Duration = Duration::from_millis(50);
/// Tries of a conditional request that got no answer; object_store repeats unconditional ones itself.
const TRIES: u32 = 3;

/// Where a bucket is, and how it is asked.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// `http://` or `https://`, host, port; `None`: AWS in the region.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// Whether the bucket is in the path (MinIO and most servers of one's own) or in the host's name (AWS).
    pub path_style: bool,
    /// Where the credentials come from.
    pub credentials: Credentials,
    /// How long something may take.
    pub timing: S3Timing,
}

/// How long something may take.
#[derive(Clone, Copy, Debug)]
pub struct S3Timing {
    /// To a connection, TLS included: 15 s.
    pub connect: Duration,
    /// To an answer, and between two pieces of a body: 60 s. What is sent may take a second more for each 16 KiB.
    pub stall: Duration,
    /// Tries after the first one, where a server is busy (429, 5xx) or a connection breaks: 6, within half a minute.
    pub retries: usize,
}

impl Default for S3Timing {
    fn default() -> S3Timing {
        S3Timing { connect: Duration::from_secs(15), stall: Duration::from_secs(60), retries: 6 }
    }
}

/// An object's bytes, and what the server calls this version of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// All of it.
    pub bytes: Vec<u8>,
    /// For [`Bucket::put_if_unchanged`].
    pub etag: Option<String>,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// A bucket. May be shared by threads; each call waits for its answer.
///
/// Keys are paths without a `/` at either end. An object is seen by others whole or not at all.
pub struct Bucket {
    store: AmazonS3,
    http: HttpClient,
    threads: Threads,
    timing: S3Timing,
    /// `bucket at endpoint`.
    place: String,
    bucket: String,
    credentials: String,
}

impl Bucket {
    /// Reads the credentials and makes a client; asks nobody.
    pub fn open(options: &S3Options) -> Result<Bucket, S3Error> {
        let wrong = |line: String| S3Error::new(S3ErrorKind::Configuration, line);
        let S3Options { endpoint, region, bucket, path_style, credentials, timing } = options;
        let keys = credentials.read().map_err(|line| {
            wrong(line).help("credentials stand in variables or files, which docs/publish.md tells")
        })?;
        let http = HttpClient::new(timing.connect, 8, reqwest::redirect::Policy::none).map_err(wrong)?;
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector { client: http.client.clone(), patience: timing.stall })
            .with_bucket_name(bucket)
            .with_region(region)
            .with_allow_http(true)
            .with_access_key_id(keys.access_key)
            .with_secret_access_key(keys.secret_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_virtual_hosted_style_request(!path_style)
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: timing.retries,
                retry_timeout: Duration::from_secs(180),
            });
        if let Some(token) = keys.session_token {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            let host = |scheme: &str| endpoint.strip_prefix(scheme).filter(|host| !host.is_empty());
            let (scheme, host) = match (host("http://"), host("https://")) {
                (Some(host), _) => ("http", host),
                (_, Some(host)) => ("https", host),
                _ => return Err(wrong(format!("endpoint {endpoint} is no http:// or https:// URL"))),
            };
            // object_store wants the bucket in the name of the host already.
            builder = builder.with_endpoint(match path_style {
                true => endpoint.to_owned(),
                false => format!("{scheme}://{bucket}.{host}"),
            });
        }
        let store = builder.build().map_err(|e| wrong(crate::net::chain(&e)))?;
        let place = match endpoint {
            Some(endpoint) => format!("{bucket} at {}", crate::fetch::shown(endpoint)),
            None => format!("{bucket} in {region}"),
        };
        Ok(Bucket {
            store,
            http,
            threads: Threads::start("s3").map_err(wrong)?,
            timing: *timing,
            place,
            bucket: bucket.clone(),
            credentials: format!("{} and {}", credentials.access_key, credentials.secret_key),
        })
    }

    /// `bucket at endpoint`, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The size of an object in bytes; `None` if there is none.
    pub fn size(&self, key: &str, watch: &dyn Watch) -> Result<Option<u64>, S3Error> {
        let path = parse(key)?;
        let what = format!("asking for {key}");
        self.wait(async {
            match self.guard(self.store.head(&path), watch).await? {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(self.explained(&what, &path, &e, watch).await),
            }
        })
    }

    /// Whether there is an object.
    pub fn exists(&self, key: &str, watch: &dyn Watch) -> Result<bool, S3Error> {
        Ok(self.size(key, watch)?.is_some())
    }

    /// An object of at most `limit` bytes; `None` if there is none.
    pub fn get(&self, key: &str, limit: u64, watch: &dyn Watch) -> Result<Option<Object>, S3Error> {
        let mut bytes = Vec::new();
        let etag = self.read(key, watch, &mut |more| {
            bytes.extend_from_slice(more);
            match bytes.len() as u64 > limit {
                true => Err(format!("it has more than {limit} bytes")),
                false => Ok(()),
            }
        })?;
        Ok(etag.map(|etag| Object { bytes, etag }))
    }

    /// Reads an object piece by piece; gives its ETag, or `None` if there is no such object. A line that `piece` gives
    /// as an error ends it.
    pub fn read(
        &self,
        key: &str,
        watch: &dyn Watch,
        piece: &mut (dyn FnMut(&[u8]) -> Result<(), String> + Send),
    ) -> Result<Option<Option<String>>, S3Error> {
        let path = parse(key)?;
        let what = format!("reading {key}");
        self.wait(async {
            let found = match self.guard(self.store.get(&path), watch).await? {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return self.absent(&what, watch).await,
                Err(e) => return Err(self.error(&what, &e)),
            };
            let (etag, total) = (found.meta.e_tag.clone(), found.meta.size);
            let (mut body, mut done) = (found.into_stream(), 0);
            loop {
                let next = std::future::poll_fn(|cx| body.as_mut().poll_next(cx));
                let next = tokio::time::timeout(self.timing.stall, next);
                let more = match self.guard(next, watch).await? {
                    Ok(None) => return Ok(Some(etag)),
                    Ok(Some(Ok(more))) => more,
                    Ok(Some(Err(e))) => return Err(self.error(&what, &e)),
                    Err(_) => {
                        let why =
                            format!("{what}: nothing came from {} for {:?}", self.place, self.timing.stall);
                        return Err(S3Error::new(S3ErrorKind::Unreachable, why));
                    }
                };
                piece(&more).map_err(|why| S3Error::new(S3ErrorKind::Refused, format!("{what}: {why}")))?;
                done += more.len() as u64;
                watch.progress(key, done, Some(total));
            }
        })
    }

    /// Writes an object, in place of the one there may be.
    pub fn put(
        &self,
        key: &str,
        bytes: Vec<u8>,
        kind: &'static str,
        watch: &dyn Watch,
    ) -> Result<(), S3Error> {
        self.put_on(key, bytes, kind, PutMode::Overwrite, watch).map(|_| ())
    }

    /// Writes an object if there is none of this key; `false`: there is one now, which may be this one, if an answer was
    /// lost. A server that ignores conditions overwrites.
    pub fn put_if_absent(
        &self,
        key: &str,
        bytes: Vec<u8>,
        kind: &'static str,
        watch: &dyn Watch,
    ) -> Result<bool, S3Error> {
        self.put_on(key, bytes, kind, PutMode::Create, watch)
    }

    /// Compare and swap: writes an object in place of the version `etag`; `false`: another has written it, or it is gone.
    pub fn put_if_unchanged(
        &self,
        key: &str,
        bytes: Vec<u8>,
        kind: &'static str,
        etag: &str,
        watch: &dyn Watch,
    ) -> Result<bool, S3Error> {
        let version = UpdateVersion { e_tag: Some(etag.to_owned()), version: None };
        self.put_on(key, bytes, kind, PutMode::Update(version), watch)
    }

    fn put_on(
        &self,
        key: &str,
        bytes: Vec<u8>,
        kind: &'static str,
        mode: PutMode,
        watch: &dyn Watch,
    ) -> Result<bool, S3Error> {
        let path = parse(key)?;
        let what = format!("writing {key}");
        let payload = PutPayload::from(bytes);
        self.wait(async {
            let mut tries = 0;
            loop {
                tries += 1;
                let mut options = PutOptions::from(mode.clone());
                options.attributes = Attributes::from_iter([(Attribute::ContentType, kind)]);
                match self.guard(self.store.put_opts(&path, payload.clone(), options), watch).await? {
                    Ok(_) => return Ok(true),
                    Err(
                        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                    ) => return Ok(false),
                    Err(e) => {
                        let failed = self.error(&what, &e);
                        if failed.kind != S3ErrorKind::Unreachable || tries == TRIES {
                            return Err(failed);
                        }
                        self.guard(tokio::time::sleep(Duration::from_secs(1)), watch).await?;
                    }
                }
            }
        })
    }

    /// All objects whose keys begin with `folder/`, sorted; all of the bucket for an empty one.
    pub fn list(&self, folder: &str, watch: &dyn Watch) -> Result<Vec<Listed>, S3Error> {
        let path = parse(folder)?;
        let what = match folder {
            "" => "listing the bucket".to_owned(),
            folder => format!("listing {folder}/"),
        };
        self.wait(async {
            let mut found = self.store.list(Some(&path).filter(|path| !path.as_ref().is_empty()));
            let mut all = Vec::new();
            loop {
                let next = std::future::poll_fn(|cx| found.as_mut().poll_next(cx));
                match self.guard(next, watch).await? {
                    Some(Ok(meta)) => all.push(Listed { key: meta.location.to_string(), size: meta.size }),
                    Some(Err(e)) => return Err(self.error(&what, &e)),
                    None => break,
                }
            }
            all.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(all)
        })
    }

    /// What is wrong, where the answer had no body that would say it, as those to HEAD have none: another request's has.
    async fn explained(&self, what: &str, key: &Key, e: &object_store::Error, watch: &dyn Watch) -> S3Error {
        let mut found = self.store.list(Some(key));
        match self.guard(std::future::poll_fn(|cx| found.as_mut().poll_next(cx)), watch).await {
            Ok(Some(Err(told))) => self.error(what, &told),
            Ok(_) => self.error(what, e),
            Err(cancelled) => cancelled,
        }
    }

    /// A missing object, or a missing bucket, which is no answer about objects.
    async fn absent<T>(&self, what: &str, watch: &dyn Watch) -> Result<Option<T>, S3Error> {
        let mut found = self.store.list(Some(&Key::from("a-key-that-nobody-has")));
        match self.guard(std::future::poll_fn(|cx| found.as_mut().poll_next(cx)), watch).await? {
            Some(Err(e)) => match self.error(what, &e) {
                e if e.kind == S3ErrorKind::NoBucket => Err(e),
                // Who may read may not be allowed to list.
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn wait<T: Send>(&self, work: impl Future<Output = Result<T, S3Error>> + Send) -> Result<T, S3Error> {
        self.threads.wait(work).unwrap_or_else(|| Err(S3Error::cancelled()))
    }

    /// Waits, but no longer once it is cancelled.
    async fn guard<T>(&self, work: impl Future<Output = T>, watch: &dyn Watch) -> Result<T, S3Error> {
        let mut work = pin!(work);
        loop {
            if watch.cancelled() {
                return Err(S3Error::cancelled());
            }
            if let Ok(done) = tokio::time::timeout(TICK, &mut work).await {
                return Ok(done);
            }
        }
    }

    fn error(&self, what: &str, e: &object_store::Error) -> S3Error {
        let Bucket { place, bucket, credentials, http, .. } = self;
        error::translate(&Asked { place, bucket, what, credentials, http }, e)
    }
}

/// A key as object_store wants it.
fn parse(key: &str) -> Result<Key, S3Error> {
    Key::parse(key).map_err(|e| {
        S3Error::new(S3ErrorKind::Configuration, format!("{key} can be no key of an object: {e}"))
    })
}
