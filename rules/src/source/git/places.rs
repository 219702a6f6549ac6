//! The places of a repository, tried in order: mirrors, then the original; and what is said when none gives it.
//! Knows what a place may do, not how git reaches it.

use mosbuild_engine::action::{BuiltinCx, StepError};
use mosbuild_engine::fetch::{FetchError, Tried, shown};

use super::url::is_local;

/// What was wrong with a place.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Why it gave nothing.
    pub reason: String,
    /// It was reached, and has no such repository.
    pub absent: bool,
    /// It could not be reached at all.
    pub unreachable: bool,
    /// What to do about it.
    pub help: Option<String>,
}

/// Why a place gave nothing.
pub enum Stop {
    /// The next place may be tried.
    Place(Trouble),
    /// The same: the repository is there, without what was asked for.
    Lacks(StepError),
    /// No place helps.
    Whole(StepError),
}

impl From<StepError> for Stop {
    fn from(e: StepError) -> Stop {
        Stop::Whole(e)
    }
}

/// Tries the places of a repository in order. Offline only those on this machine are tried.
pub fn each_place<T>(
    cx: &BuiltinCx<'_>,
    url: &str,
    from: &mut dyn FnMut(&str) -> Result<T, Stop>,
) -> Result<T, StepError> {
    let offline = cx.fetcher.offline();
    let (near, far): (Vec<String>, Vec<String>) =
        cx.fetcher.places(url).into_iter().partition(|place| !offline || is_local(place));
    let mut tried: Vec<Tried> = Vec::new();
    let mut lacks = None;
    for (at, place) in near.iter().enumerate() {
        let (trouble, without) = match from(place) {
            Ok(found) => return Ok(found),
            Err(Stop::Whole(e)) => return Err(e),
            Err(Stop::Place(trouble)) => (trouble, None),
            Err(Stop::Lacks(e)) => (Trouble { reason: e.message.clone(), ..Trouble::default() }, Some(e)),
        };
        if let Some(next) = near.get(at + 1) {
            (cx.log)(&format!("{}: {}; next is {}", shown(place), trouble.reason, shown(next)));
        }
        lacks = without;
        let Trouble { reason, absent, unreachable, help } = trouble;
        tried.push(Tried { place: shown(place), reason, absent, unreachable, help });
    }
    let url = shown(url);
    Err(match lacks {
        // The last one asked is the best informed, and says more than a line.
        Some(e) if far.is_empty() => e,
        _ if !far.is_empty() => FetchError::Offline { url, tried }.into(),
        _ => FetchError::Failed { url, tried }.into(),
    })
}
