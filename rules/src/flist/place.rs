//! Where blocks of an flist are kept and read from, as it is written in mosbuild.yaml: `dir://` and `s3://`, the forms of rfs.
//! Knows no credentials: those are never in a URL. Touches neither disk nor network.

use std::path::{Component, Path, PathBuf};

use strsim::damerau_levenshtein;

/// A store of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockStore {
    /// A folder of this host, a block at `ab/ab…`.
    Dir(PathBuf),
    /// A bucket, a block under its hexadecimal name.
    S3(Bucket),
}

/// A bucket of an S3 server, addressed by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub endpoint: String,
    /// Its name.
    pub bucket: String,
    /// Region to sign for; empty if none is given.
    pub region: String,
}

/// What is wrong with a URL, and what helps.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Schemes that stores may have.
const STORES: [&str; 3] = ["dir", "s3", "s3s"];
/// Schemes that readers know.
const ROUTES: [&str; 6] = ["dir", "http", "https", "s3", "s3s", "zdb"];
const SECRETS: &str = "credentials never stand in mosbuild.yaml or in an flist: `mosbuild publish` takes them from the \
                       environment or a file, and readers get a place that needs none";

fn fault(message: impl Into<String>, help: impl Into<String>) -> Fault {
    Fault { message: message.into(), help: help.into() }
}

/// Scheme, and what stands behind `://`.
fn split<'u>(url: &'u str, known: &[&'static str]) -> Result<(&'u str, &'u str), Fault> {
    let forms = "`dir:///PATH` is a folder, `s3://HOST:PORT/BUCKET?region=NAME` a bucket over http, `s3s://…` over https";
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(fault(format!("{url:?} is no URL"), forms));
    };
    if !known.contains(&scheme) {
        let near = known.iter().min_by_key(|k| damerau_levenshtein(k, scheme));
        let near = near.filter(|k| damerau_levenshtein(k, scheme) <= 2);
        let help = match near {
            Some(near) => format!("did you mean {near}://? {forms}"),
            None => forms.into(),
        };
        return Err(fault(format!("{scheme}:// is not known"), help));
    }
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if scheme != "dir" && host.contains('@') {
        return Err(fault("the URL has credentials in it", SECRETS));
    }
    if rest.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(fault("the URL has spaces or control characters in it", forms));
    }
    Ok((scheme, rest))
}

impl BlockStore {
    /// Reads a store's URL.
    pub fn parse(url: &str) -> Result<BlockStore, Fault> {
        let (scheme, rest) = split(url, &STORES)?;
        if scheme == "dir" {
            let path = Path::new(rest);
            if path.components().any(|c| c == Component::ParentDir) || rest.is_empty() {
                let help =
                    "`dir:///PATH` is an absolute path, `dir://PATH` one in the workspace, without `..`";
                return Err(fault(format!("{rest:?} is no path of a store"), help));
            }
            return Ok(BlockStore::Dir(path.to_owned()));
        }
        let form = format!("write it as {scheme}://HOST:PORT/BUCKET?region=NAME");
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, bucket) = address.split_once('/').unwrap_or((address, ""));
        // rfs, which reads the route that this becomes, takes no default port.
        let port = host
            .rsplit_once(':')
            .and_then(|(name, port)| (!name.is_empty()).then(|| port.parse::<u16>().ok()).flatten());
        if port.is_none() {
            return Err(fault(format!("{host:?} is no host with a port"), form));
        }
        if bucket.is_empty() || bucket.contains('/') {
            let message = format!("{bucket:?} is no bucket: rfs keeps blocks at its top");
            return Err(fault(message, form));
        }
        let mut region = String::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            match pair.split_once('=') {
                Some(("region", name)) => region = name.to_owned(),
                _ => return Err(fault(format!("{pair:?} is not known behind the bucket"), form)),
            }
        }
        let scheme = if scheme == "s3" { "http" } else { "https" };
        Ok(BlockStore::S3(Bucket { endpoint: format!("{scheme}://{host}"), bucket: bucket.into(), region }))
    }
}

/// Checks a URL that blocks are read from.
pub fn check_route(url: &str) -> Result<(), Fault> {
    let (scheme, rest) = split(url, &ROUTES)?;
    match scheme {
        "dir" if !rest.starts_with('/') => {
            let message = format!("{url} is a relative path, which means nothing to a reader elsewhere");
            Err(fault(message, "`dir:///PATH` is an absolute one"))
        }
        "s3" | "s3s" => BlockStore::parse(url).map(drop),
        _ if rest.is_empty() => Err(fault(format!("{url} names no place"), "a host is wanted")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_told_apart() {
        let dir = |path: &str| Ok(BlockStore::Dir(path.into()));
        assert_eq!(
            BlockStore::parse("dir:///srv/a b").unwrap_err().message,
            "the URL has spaces or control characters in it"
        );
        assert_eq!(BlockStore::parse("dir:///srv/store"), dir("/srv/store"));
        assert_eq!(BlockStore::parse("dir://blocks"), dir("blocks"));
        let bucket = |endpoint: &str, region: &str| {
            let (endpoint, region) = (endpoint.to_owned(), region.to_owned());
            Ok(BlockStore::S3(Bucket { endpoint, bucket: "mos".into(), region }))
        };
        assert_eq!(BlockStore::parse("s3://h:9000/mos?region=r"), bucket("http://h:9000", "r"));
        assert_eq!(BlockStore::parse("s3s://[::1]:443/mos"), bucket("https://[::1]:443", ""));
    }

    #[test]
    fn what_is_no_store_is_told() {
        for (url, message, help) in [
            ("/srv/store", "\"/srv/store\" is no URL", "dir:///PATH"),
            ("s3+tls://h:1/b", "s3+tls:// is not known", "s3s://"),
            ("dri:///srv", "dri:// is not known", "did you mean dir://?"),
            ("http://h/x", "http:// is not known", "a bucket"),
            ("s3://key:secret@h:9000/mos", "credentials", "environment"),
            ("s3://key@h:9000/mos", "credentials", "environment"),
            ("s3://h/mos", "no host with a port", "HOST:PORT"),
            ("s3://h:9000/", "\"\" is no bucket", "BUCKET"),
            ("s3://h:9000/mos/blocks", "\"mos/blocks\" is no bucket", "BUCKET"),
            ("s3://h:9000/mos?reigon=x", "\"reigon=x\" is not known", "region"),
            ("dir://../x", "\"../x\" is no path", "without `..`"),
            ("dir://", "\"\" is no path", "dir:///PATH"),
        ] {
            let fault = BlockStore::parse(url).unwrap_err();
            assert!(fault.message.contains(message), "{url}: {fault:?}");
            assert!(fault.help.contains(help), "{url}: {fault:?}");
        }
    }

    #[test]
    fn routes_are_what_readers_can_follow() {
        for url in ["dir:///srv", "http://h/x", "https://h", "s3://h:1/b?region=r", "zdb://h:9900/ns"] {
            assert_eq!(check_route(url), Ok(()), "{url}");
        }
        for url in ["dir://srv", "ftp://h/x", "https://", "https://user:password@h/x", "s3://h/b", "x"] {
            assert!(check_route(url).is_err(), "{url}");
        }
    }
}
