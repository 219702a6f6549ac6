//! object_store's requests through the program's own HTTP client. Knows no answer's meaning.

use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

/// A body that comes slower than this is given up: bytes a second.
const SLOWEST: u64 = 16 << 10;

/// Gives object_store a client.
#[derive(Debug)]
pub(super) struct Connector {
    pub client: reqwest::Client,
    /// To an answer's head, where nothing is sent.
    pub patience: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &object_store::ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service { client: self.client.clone(), patience: self.patience }))
    }
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    patience: Duration,
}

/// The server said nothing for this long.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
pub(super) struct Silent(Duration);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // An upload is completed by a POST that names it. object_store does that unconditionally; here a name that has
        // an object keeps it. A header that is not signed is as good as one that is: nobody in between may be trusted more.
        let completes = request.method() == reqwest::Method::POST
            && request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|pair| pair.starts_with("uploadId=")));
        if completes {
            let headers = request.headers_mut();
            headers.insert(reqwest::header::IF_NONE_MATCH, reqwest::header::HeaderValue::from_static("*"));
        }
        let length = request.body().content_length() as u64;
        let limit = self.patience + Duration::from_secs(length / SLOWEST);
        match tokio::time::timeout(limit, HttpService::call(&self.client, request)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::new(HttpErrorKind::Timeout, Silent(limit))),
        }
    }
}
