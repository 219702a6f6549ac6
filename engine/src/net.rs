//! The way to the network: the HTTP client with its TLS, its roots and its proxies, and the threads that wait for it.
//! Knows neither what is asked nor whom.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{Client, redirect};

/// Threads that do the waiting, for callers that are not async.
pub(crate) struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    /// Starts them; `name` is what a debugger shows.
    pub fn start(name: &str) -> Result<Threads, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .map_err(|e| format!("no thread could be started for the network: {e}"))?;
        Ok(Threads(Some(runtime)))
    }

    /// Runs something to its end; the calling thread waits. `None`: the threads are being ended.
    pub fn wait<T: Send>(&self, work: impl Future<Output = T> + Send) -> Option<T> {
        let runtime = self.0.as_ref()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Some(runtime.block_on(work));
        }
        // A thread of another runtime may be one that must not wait for this one.
        std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(work)).join() {
            Ok(result) => Some(result),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime that is dropped waits, which is forbidden on a thread of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client.
pub(crate) struct HttpClient {
    /// reqwest's.
    pub client: Client,
    /// Why no https server can be trusted.
    pub no_roots: Option<String>,
}

impl HttpClient {
    /// One that connects within `connect`, keeps `parallel` connections to a host, and follows redirects as said.
    pub fn new(
        connect: Duration,
        parallel: usize,
        redirects: fn() -> redirect::Policy,
    ) -> Result<HttpClient, String> {
        // An error says that somebody else has chosen one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                .user_agent(concat!("mosbuild/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(connect)
                .pool_max_idle_per_host(parallel)
                .http1_only()
                .referer(false)
                .redirect(redirects())
                // Bytes are those of the server, whichever features other crates switch on.
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd()
        };
        // Without roots (no ca-certificates on this host) plain http must still work.
        let (client, no_roots) = match builder().build() {
            Ok(client) => (Ok(client), None),
            Err(e) => (builder().tls_certs_only([]).build(), Some(chain(&e))),
        };
        let client = client.map_err(|e| format!("no HTTP client could be made: {}", chain(&e)))?;
        Ok(HttpClient { client, no_roots })
    }

    /// What to do if a server's certificate is what is wrong.
    pub fn certificate_help(&self, e: &(dyn std::error::Error + 'static)) -> Option<String> {
        let mut next = Some(e);
        let mut certificate = false;
        while let Some(e) = next {
            certificate |= matches!(e.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)));
            // An I/O error hides what it was made of: its own source is that one's source.
            let inner = e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
            next = inner.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| e.source());
        }
        certificate.then(|| match &self.no_roots {
            Some(why) => format!("{why}: install ca-certificates, or name a file of CAs in SSL_CERT_FILE"),
            None => "if a proxy of your company signs its connections, name its CA in SSL_CERT_FILE".into(),
        })
    }
}

/// What went wrong with a request, without its URL.
pub(crate) fn reason(e: &reqwest::Error) -> String {
    // reqwest's own line only repeats the URL.
    let reason = match e.source() {
        Some(source) => chain(source),
        None => e.to_string(),
    };
    match reason.strip_prefix("client error (").and_then(|rest| rest.split_once("): ")) {
        Some((_, inner)) => inner.to_owned(),
        None => reason,
    }
}

/// An error and what it comes from, said once each.
pub(crate) fn chain(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(e);
    while let Some(e) = next {
        let line = e.to_string();
        if !text.contains(&line) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&line);
        }
        next = e.source();
    }
    text
}
