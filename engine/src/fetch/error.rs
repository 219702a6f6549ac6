//! What went wrong with a download, in words for the person at the desk.
//! Knows no protocol: reasons come as text from whoever tried a place.

use std::fmt;

use mosbuild_cache::StoreError;

use super::Expected;
use crate::action::StepError;

/// A place that was tried, and why it gave nothing.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its URL, without a password.
    pub place: String,
    /// Why.
    pub reason: String,
    /// The place was reached, and has no such file.
    pub absent: bool,
    /// The place could not be reached at all.
    pub unreachable: bool,
    /// What to do about it.
    pub help: Option<String>,
}

/// Bytes that are not those of the lock.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// What was asked for.
    pub url: String,
    /// Who gave the bytes.
    pub place: String,
    /// What they should be.
    pub expected: Expected,
    /// What they are.
    pub got: Expected,
    /// The other places, none of which gave the right bytes.
    pub others: Vec<Tried>,
}

/// A download that failed. Nothing of it is in the store.
#[derive(Debug)]
pub enum FetchError {
    /// A URL that cannot be fetched by anybody.
    Url {
        /// The URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// No place gave the file.
    Failed {
        /// What was asked for.
        url: String,
        /// Every place, in order.
        tried: Vec<Tried>,
    },
    /// A place gave other bytes than the expected ones, and no other place gave the right ones.
    Wrong(Box<Wrong>),
    /// The store does not have it, and the network may not be used.
    Offline {
        /// What was asked for.
        url: String,
        /// The places that are no network, in order.
        tried: Vec<Tried>,
    },
    /// This machine's disk, or the store on it.
    Local {
        /// What was asked for.
        url: String,
        /// What the system said.
        source: StoreError,
    },
    /// [`super::Watch::cancelled`] said so. What has come is kept for the next try.
    Cancelled {
        /// What was asked for.
        url: String,
    },
}

impl FetchError {
    /// The URL of a file that some place was asked for, and no place that could be reached has.
    pub fn absent(&self) -> Option<&str> {
        match self {
            FetchError::Failed { url, tried } | FetchError::Offline { url, tried } => {
                let asked = tried.iter().any(|t| t.absent);
                (asked && tried.iter().all(|t| t.absent || t.unreachable)).then_some(url)
            }
            _ => None,
        }
    }

    /// Exit class: 4 a source could not be fetched, 1 this machine's trouble, or interrupted.
    pub fn exit(&self) -> u8 {
        match self {
            FetchError::Local { .. } | FetchError::Cancelled { .. } => 1,
            _ => 4,
        }
    }

    /// What to do, a line each.
    pub fn help(&self) -> Vec<String> {
        let of = |tried: &[Tried]| tried.iter().filter_map(|t| t.help.clone()).collect::<Vec<_>>();
        let mut lines = match self {
            FetchError::Url { .. } | FetchError::Local { .. } | FetchError::Cancelled { .. } => Vec::new(),
            FetchError::Failed { tried, .. } => {
                let mut lines = of(tried);
                lines.push("another place can be named under `mirrors:` (http, https or file)".into());
                lines
            }
            FetchError::Wrong(wrong) => {
                let mut lines = of(&wrong.others);
                lines.push(
                    "if it was meant to change, take the new bytes with `mosbuild lock --update`; if not, the place \
                     is damaged or not what it claims to be"
                        .into(),
                );
                lines
            }
            FetchError::Offline { tried, .. } => {
                let mut lines = of(tried);
                lines.push(
                    "run `mosbuild fetch` while online, or name a file:// mirror under `mirrors:`".into(),
                );
                lines
            }
        };
        lines.dedup();
        lines
    }
}

fn list(f: &mut fmt::Formatter<'_>, tried: &[Tried]) -> fmt::Result {
    tried.iter().try_for_each(|t| write!(f, "\n  {}: {}", t.place, t.reason))
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Url { url, reason } => write!(f, "{url} cannot be fetched: {reason}"),
            FetchError::Failed { url, tried } => {
                write!(f, "{url} could not be fetched")?;
                list(f, tried)
            }
            FetchError::Wrong(wrong) => {
                let Wrong { url, place, expected, got, others } = &**wrong;
                write!(f, "{url}: the bytes are not those of the lock\n  from {place}")?;
                for (what, Expected { size, blake3, sha256 }) in [("expected", expected), ("received", got)] {
                    write!(f, "\n  {what} {size} bytes, BLAKE3 {blake3}\n           SHA-256 {sha256}")?;
                }
                list(f, others)
            }
            FetchError::Offline { url, tried } => {
                write!(f, "{url} is not in the store, and with --offline the network may not be used")?;
                list(f, tried)
            }
            FetchError::Local { url, source } => write!(f, "{url} could not be stored: {source}"),
            FetchError::Cancelled { .. } => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for FetchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FetchError::Local { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<FetchError> for StepError {
    fn from(e: FetchError) -> StepError {
        StepError { help: e.help(), ..StepError::new(e.to_string()).exit(e.exit()) }
    }
}

/// Why a place gave nothing, while the next step is still open.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody wants it any more.
    Cancelled,
    /// No other place would help.
    Local(StoreError),
    /// The next place may be tried.
    Place(Trouble),
    /// The same, because of bytes that are not the expected ones.
    Wrong(Expected),
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Stop {
        Stop::Local(e)
    }
}

/// What a place did.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub reason: String,
    /// It may pass.
    pub retry: bool,
    /// How long the place asks to be left alone.
    pub after: Option<std::time::Duration>,
    pub absent: bool,
    pub unreachable: bool,
    pub help: Option<String>,
}

impl Trouble {
    pub fn new(reason: impl Into<String>) -> Trouble {
        Trouble { reason: reason.into(), ..Trouble::default() }
    }
    pub fn passing(reason: impl Into<String>) -> Trouble {
        Trouble { retry: true, ..Trouble::new(reason) }
    }
    pub fn tried(self, place: &str) -> Tried {
        Tried {
            place: super::places::shown(place),
            reason: self.reason,
            absent: self.absent,
            unreachable: self.unreachable,
            help: self.help,
        }
    }
}

impl From<Trouble> for Stop {
    fn from(t: Trouble) -> Stop {
        Stop::Place(t)
    }
}
