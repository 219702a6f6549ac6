//! A file behind a URL as a source: its size and digests are pinned in mosbuild.lock.
//! Knows neither how it is downloaded (engine/src/fetch) nor what is in it.

use std::collections::BTreeMap;

use mosbuild_cache::{Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Input, Locking, Made, OutKind, Pinned, StepError};
use mosbuild_engine::fetch::{Expected, Fetched, Request};
use mosbuild_engine::lockfile::{Pin, Row};
use mosbuild_engine::plan::Planner;

use crate::steps::{locked, made};

/// The largest file that is taken from a URL.
const LARGEST: u64 = 16 << 30;

/// The step that brings the file in.
pub fn plan(planner: &mut Planner<'_>, url: &str) -> Input {
    let params = [("url", url.to_owned())];
    let step = planner.step(locked("source", format!("url {url}"), FetchUrl, Vec::new(), &params));
    made(step, "file")
}

/// Brings a file in. Param `url`; pin `size`, `blake3`, `sha256`; output `file`.
pub struct FetchUrl;

impl Builtin for FetchUrl {
    fn name(&self) -> &'static str {
        "url"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("file".into(), OutKind::File)]
    }

    fn waits(&self) -> bool {
        true
    }

    fn lock(&self, cx: &BuiltinCx<'_>, _: &Locking<'_>) -> Result<Pin, StepError> {
        let request = Request { url: cx.param("url").to_owned(), expected: None, max_size: LARGEST };
        Ok(Pin { fields: row(&cx.fetch(&request)?), ..Pin::default() })
    }

    fn pinned(&self, _: &BuiltinCx<'_>, pin: &Pin) -> Result<Pinned, StepError> {
        Ok(pinned(pin))
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        bring(cx, cx.param("url"))
    }
}

/// What of a file's pin enters the key: size and SHA-256 follow from the BLAKE3.
pub fn pinned(pin: &Pin) -> Pinned {
    let decides = |(name, _): &(&String, &String)| !matches!(name.as_str(), "size" | "sha256");
    let params = pin.fields.iter().filter(decides).map(|(k, v)| (k.clone(), v.clone())).collect();
    Pinned { params, ..Pinned::default() }
}

/// Brings in the file that the step's pin names, as output `file`.
pub fn bring(cx: &BuiltinCx<'_>, url: &str) -> Result<Made, StepError> {
    let fetched = cx.fetch(&request(url, &cx.pin()?.fields)?)?;
    let kind = OutputKind::File { executable: false };
    let output = Output { kind, digest: fetched.digest, size: fetched.size };
    Ok(Made { outputs: BTreeMap::from([("file".to_owned(), output)]), ..Made::default() })
}

/// What the lock keeps of a downloaded file.
pub fn row(fetched: &Fetched) -> Row {
    [("blake3", fetched.digest.hex()), ("sha256", fetched.sha256.clone()), ("size", fetched.size.to_string())]
        .map(|(k, v)| (k.to_owned(), v))
        .into()
}

/// A locked file as it is asked for.
pub fn request(url: &str, row: &Row) -> Result<Request, StepError> {
    let field = |name: &str| row.get(name).map_or("", String::as_str);
    let expected = || {
        Some(Expected {
            size: field("size").parse().ok()?,
            blake3: field("blake3").parse().ok()?,
            sha256: field("sha256").to_owned(),
        })
    };
    let expected = expected().ok_or_else(|| {
        StepError::new(format!("mosbuild.lock has no whole size and digests of {url}"))
            .help("`mosbuild lock --update` makes them anew")
            .exit(4)
    })?;
    Ok(Request { url: url.to_owned(), max_size: LARGEST, expected: Some(expected) })
}
