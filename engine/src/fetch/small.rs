//! What is read and not stored: small files (checksums, lists of releases) and the names in a folder.
//! Knows no store.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use reqwest::Url;

use super::download::unreadable;
use super::error::{Stop, Trouble};
use super::http::Http;
use super::places::Scheme;
use super::watch::Watch;
use super::{FetchError, Fetcher, listing};

/// The largest index page, and the most names of a folder, are well below this many bytes.
const LISTING_LIMIT: u64 = 32 << 20;

impl Fetcher {
    /// The bytes of a small file, of at most `limit` bytes; `None` if no
    /// place that could be reached has it, and one could.
    pub fn small(&self, url: &str, limit: u64, watch: &dyn Watch) -> Result<Option<Vec<u8>>, FetchError> {
        let mut patient = true;
        let result = self.each_place(url, None, watch, &mut |scheme, place| match scheme {
            Scheme::File(path) => {
                let bytes = read(path, limit).map_err(|e| unreadable(&e).into());
                patient &= !is_absent(&bytes);
                bytes
            }
            Scheme::Http => {
                let http = self.http()?;
                let body = http.wait(body(http, place, limit, patient, watch));
                patient &= !is_absent(&body);
                Ok(body?.0)
            }
        });
        unless_absent(result)
    }

    /// The names in the folder that `url` stands for, sorted, folders with a `/` at the end; `None` if no place
    /// that could be reached has it, and one could. A server must show an index page.
    pub fn listing(&self, url: &str, watch: &dyn Watch) -> Result<Option<Vec<String>>, FetchError> {
        let url = format!("{}/", url.trim_end_matches('/'));
        let mut patient = true;
        let result = self.each_place(&url, None, watch, &mut |scheme, place| match scheme {
            Scheme::File(path) => {
                let names = names(path).map_err(|e| unreadable(&e).into());
                patient &= !is_absent(&names);
                names
            }
            Scheme::Http => {
                let http = self.http()?;
                let body = http.wait(body(http, place, LISTING_LIMIT, patient, watch));
                patient &= !is_absent(&body);
                let (page, folder, html) = body?;
                if !html {
                    return Err(Trouble::new("it is no index page: its content is no HTML").into());
                }
                Ok(listing::names(&String::from_utf8_lossy(&page), folder.as_str()))
            }
        });
        unless_absent(result)
    }
}

fn unless_absent<T>(result: Result<T, FetchError>) -> Result<Option<T>, FetchError> {
    match result {
        Ok(found) => Ok(Some(found)),
        // A mirror without it is answer enough where the original cannot be reached.
        Err(e) if e.absent().is_some() => Ok(None),
        Err(e) => Err(e),
    }
}

fn large(limit: u64) -> String {
    format!("it has more than {limit} bytes")
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::other(large(limit))),
        false => Ok(bytes),
    }
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // A name that is no text is none that a URL could have given.
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        // Through symlinks, as servers do.
        if fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir()) {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    Ok(names)
}

fn is_absent<T>(result: &Result<T, Stop>) -> bool {
    matches!(result, Err(Stop::Place(trouble)) if trouble.absent)
}

/// A body, the URL that it came from in the end, and whether it is HTML. Tried once if not `patient`: another place has
/// said already that there is none.
async fn body(
    http: &Http,
    place: &str,
    limit: u64,
    patient: bool,
    watch: &dyn Watch,
) -> Result<(Vec<u8>, Url, bool), Stop> {
    let mut tries = http.tries();
    loop {
        match once(http, place, limit, watch).await {
            Err(Stop::Place(trouble)) if patient => tries.again(trouble, false, place, watch).await?,
            other => return other,
        }
    }
}

async fn once(http: &Http, place: &str, limit: u64, watch: &dyn Watch) -> Result<(Vec<u8>, Url, bool), Stop> {
    let mut response = http.get(place, &[], &[], watch).await?;
    let kind = super::http::text(response.headers(), reqwest::header::CONTENT_TYPE).unwrap_or_default();
    let url = response.url().clone();
    let mut bytes = Vec::new();
    while let Some(more) = http.chunk(&mut response, watch).await? {
        let more = more.as_ref();
        if (bytes.len() + more.len()) as u64 > limit {
            return Err(Trouble::new(large(limit)).into());
        }
        bytes.extend_from_slice(more);
    }
    Ok((bytes, url, kind.to_ascii_lowercase().contains("html")))
}
