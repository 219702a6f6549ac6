//! What a server's refusal means, in words for the person at the desk.
//! Knows the error codes of S3, and no request.

use std::fmt;

use super::connector::Silent;
use crate::net::{self, HttpClient};

/// Why a request to a bucket gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3ErrorKind {
    /// The configuration or the credentials are wrong or missing: nothing was asked.
    Configuration,
    /// The server does not accept the credentials, or does not allow this.
    Denied,
    /// This host's clock and the server's are too far apart.
    Clock,
    /// There is no such bucket, or it is elsewhere.
    NoBucket,
    /// The server could not be reached, or said nothing.
    Unreachable,
    /// A file of this host.
    Local,
    /// [`crate::fetch::Watch::cancelled`] said so.
    Cancelled,
    /// The server does not know this kind of request.
    Unsupported,
    /// Any other answer.
    Refused,
}

/// A request that failed; never holds a secret.
#[derive(Debug)]
pub struct S3Error {
    /// What kind.
    pub kind: S3ErrorKind,
    /// What happened.
    pub message: String,
    /// What to do, a line each.
    pub help: Vec<String>,
}

impl S3Error {
    pub(super) fn new(kind: S3ErrorKind, message: impl Into<String>) -> S3Error {
        S3Error { kind, message: message.into(), help: Vec::new() }
    }

    pub(super) fn help(mut self, line: impl Into<String>) -> S3Error {
        self.help.push(line.into());
        self
    }

    pub(super) fn cancelled() -> S3Error {
        S3Error::new(S3ErrorKind::Cancelled, "interrupted")
    }

    /// Exit class: 2 a wrong configuration, 1 all else.
    pub fn exit(&self) -> u8 {
        match self.kind {
            S3ErrorKind::Configuration => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for S3Error {}

/// Where a request went, for its error.
pub(super) struct Asked<'a> {
    /// `bucket at endpoint`.
    pub place: &'a str,
    pub bucket: &'a str,
    /// What was to be done.
    pub what: &'a str,
    /// Where the credentials came from.
    pub credentials: &'a str,
    pub http: &'a HttpClient,
}

/// What an error of object_store says.
pub(super) fn translate(asked: &Asked<'_>, e: &object_store::Error) -> S3Error {
    let Asked { place, bucket, what, credentials, http } = asked;
    if let Some(failed) = unreached(asked, e) {
        return failed;
    }
    let text = net::chain(e);
    let status = status(&text);
    let code = element(&text, "Code").unwrap_or_default();
    let said = element(&text, "Message").unwrap_or_default();
    let answer = match (code, said) {
        ("", _) => status.clone().unwrap_or_else(|| first_line(&text)),
        (code, "") => code.to_owned(),
        (code, said) => format!("{code}: {}", said.trim_end_matches('.')),
    };
    let error = |kind, why: &str| S3Error::new(kind, format!("{what}: {why}"));
    match code {
        "RequestTimeTooSkewed" | "RequestExpired" => {
            let clocks = match (element(&text, "RequestTime"), element(&text, "ServerTime")) {
                (Some(here), Some(there)) => format!(" (here it is {here}, there {there})"),
                _ => String::new(),
            };
            let why = format!("this host's clock and that of {place} are too far apart{clocks}");
            error(S3ErrorKind::Clock, &why).help("set this host's clock, e.g. `timedatectl set-ntp true`, and try again")
        }
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "TokenRefreshRequired" => {
            error(S3ErrorKind::Denied, &format!("{place} does not accept the credentials: {answer}"))
                .help(format!("the credentials are those of {credentials}"))
        }
        "NoSuchBucket" | "InvalidBucketName" => error(S3ErrorKind::NoBucket, &format!("there is no bucket {place}: {answer}"))
            .help(format!("create {bucket}, or correct `bucket` and `endpoint`; with a bucket of the same name as a host, `path_style: true` may be meant")),
        "NotImplemented" => error(S3ErrorKind::Unsupported, &format!("{place} cannot do it: {answer}")),
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            error(S3ErrorKind::NoBucket, &format!("{place} is in another region, or elsewhere: {answer}"))
                .help("correct `region`, or `endpoint`")
        }
        _ => {
            let denied = matches!(e, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. });
            let moved = status.as_deref().is_some_and(|s| s.starts_with('3')) || text.contains("redirect without LOCATION");
            match () {
                () if denied => error(S3ErrorKind::Denied, &format!("{place} does not allow it: {answer}"))
                    .help(format!("the credentials are those of {credentials}; what they need is in docs/publish.md")),
                () if moved => error(S3ErrorKind::NoBucket, &format!("{place} sends elsewhere: {answer}"))
                    .help("correct `region`, or `endpoint`"),
                () => {
                    let tries = tries(&text).map(|n| format!(" (tried {} times)", n + 1)).unwrap_or_default();
                    let failed = error(S3ErrorKind::Refused, &format!("{place} answered {answer}{tries}"));
                    match &http.no_roots {
                        Some(why) if text.contains("ertificate") => failed.help(why.clone()),
                        _ => failed,
                    }
                }
            }
        }
    }
}

/// No answer came.
fn unreached(asked: &Asked<'_>, e: &object_store::Error) -> Option<S3Error> {
    let Asked { place, what, http, .. } = asked;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(e) = next {
        let why = match (e.downcast_ref::<reqwest::Error>(), e.downcast_ref::<Silent>()) {
            (Some(e), _) => Some(net::reason(e)),
            (_, Some(silent)) => Some(silent.to_string()),
            _ => None,
        };
        if let Some(why) = why {
            let failed =
                S3Error::new(S3ErrorKind::Unreachable, format!("{what}: {place} cannot be reached: {why}"));
            return Some(match http.certificate_help(e) {
                Some(help) => failed.help(help),
                None => failed.help("if `endpoint` is right, try again: what is whole is not sent again"),
            });
        }
        next = e.source();
    }
    None
}

/// The text of an element of a server's XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = text.find(&open)? + open.len();
    let end = text[start..].find(&close)? + start;
    Some(text[start..end].trim()).filter(|text| !text.is_empty())
}

/// `503 Service Unavailable`, out of object_store's line.
fn status(text: &str) -> Option<String> {
    let rest = text.split_once("status code: ")?.1;
    let end = rest.find(':').unwrap_or(rest.len());
    Some(rest[..end].trim().to_owned())
}

/// How often object_store has tried again.
fn tries(text: &str) -> Option<u32> {
    let rest = text.split_once("after ")?.1;
    rest.split_once(" retries")?.0.parse().ok()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let text = "Error performing PUT http://h/b/k in 1s, after 2 retries, max_retries: 6 - Server returned non-2xx status \
                    code: 403 Forbidden: <?xml?><Error><Code>AccessDenied</Code><Message>No.</Message><Key/></Error>";
        assert_eq!(element(text, "Code"), Some("AccessDenied"));
        assert_eq!(element(text, "Message"), Some("No."));
        assert_eq!(element(text, "ServerTime"), None);
        assert_eq!(status(text).as_deref(), Some("403 Forbidden"));
        assert_eq!(tries(text), Some(2));
    }
}
