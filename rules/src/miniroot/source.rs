//! The archive of a mini root filesystem: which one a release stands for, its upstream checksum, its pin.
//! Knows nothing of what is in it.

use mosbuild_engine::action::{Builtin, BuiltinCx, Locking, Made, OutKind, Pinned, StepError};
use mosbuild_engine::fetch::{Fetched, Request};
use mosbuild_engine::lockfile::Pin;
use sha2::{Digest as _, Sha512};

use super::release::{self, Branch};
use crate::url::{bring, pinned, row};

/// The largest archive that is taken.
const LARGEST: u64 = 1 << 30;
/// The largest checksum file or list of releases.
const LARGEST_TEXT: u64 = 1 << 20;

/// Params `url`, or `release` and `arch`; pin `url`, `version`, `size`, digests; output `file`.
pub struct FetchMiniroot;

impl Builtin for FetchMiniroot {
    fn name(&self) -> &'static str {
        "miniroot-source"
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
        let url = match cx.param("url") {
            "" => find(cx)?,
            url => url.to_owned(),
        };
        let fetched = cx.fetch(&Request { url: url.clone(), expected: None, max_size: LARGEST })?;
        if let Err(e) = check(cx, &url, &fetched) {
            cx.store.discard_blob(&fetched.digest)?;
            return Err(e);
        }
        let mut fields = row(&fetched);
        if let Some(version) = release::version(name(&url), cx.param("arch")) {
            fields.insert("version".into(), version.to_owned());
        }
        fields.insert("url".into(), url);
        Ok(Pin { fields, ..Pin::default() })
    }

    fn pinned(&self, _: &BuiltinCx<'_>, pin: &Pin) -> Result<Pinned, StepError> {
        Ok(pinned(pin))
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        bring(cx, cx.pin()?.field("url"))
    }
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// The URL that a release stands for: of a branch its newest, by the mirror's list or, where that is missing, by the
/// names in the folder.
fn find(cx: &BuiltinCx<'_>) -> Result<String, StepError> {
    let (text, arch) = (cx.param("release"), cx.param("arch"));
    let branch = Branch::parse(text).ok_or_else(|| StepError::new(format!("{text:?} is no release")))?;
    let folder = branch.releases(arch);
    if let Some(release) = &branch.release {
        return Ok(format!("{folder}{}", release::archive(release, arch)));
    }
    let list = cx.fetcher.small(&format!("{folder}latest-releases.yaml"), LARGEST_TEXT, cx)?;
    if let Some(file) = list.as_deref().and_then(release::latest) {
        return Ok(format!("{folder}{file}"));
    }
    let names = cx.fetcher.listing(&folder, cx)?.unwrap_or_default();
    match release::newest(names.iter().map(String::as_str), arch) {
        Some(file) => Ok(format!("{folder}{file}")),
        None => {
            Err(StepError::new(format!("no mini root filesystem of Alpine {text} for {arch} is in {folder}"))
                .help("write the whole release (\"3.22.1\"), or give the archive as `url: …`")
                .exit(4))
        }
    }
}

/// Compares the archive with the checksum file that lies beside it, where there is one.
fn check(cx: &BuiltinCx<'_>, url: &str, fetched: &Fetched) -> Result<(), StepError> {
    for (suffix, length) in [("sha512", 128), ("sha256", 64)] {
        let place = format!("{url}.{suffix}");
        let Some(bytes) = cx.fetcher.small(&place, LARGEST_TEXT, cx)? else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let Some(expected) = release::digest_of(&text, name(url), length) else {
            // Servers that answer for a missing file with a page of theirs.
            if text.trim_start().starts_with('<') {
                (cx.log)(&format!("{place} is no checksum file, but a page"));
                continue;
            }
            return Err(StepError::new(format!("{place} is there, but has no digest of {}", name(url)))
                .help("the mirror is damaged, or in the middle of an update: try another, or later")
                .exit(4));
        };
        let found = match length {
            128 => sha512(cx, fetched)?,
            _ => fetched.sha256.clone(),
        };
        if found != expected {
            return Err(StepError::new(format!(
                "{url} is not what {place} says: its {} is {found}, expected is {expected} (it came from {})",
                suffix.to_uppercase(),
                fetched.from
            ))
            .help("the mirror is damaged, or in the middle of an update: try another, or later")
            .exit(4));
        }
        (cx.log)(&format!("{} agrees with {suffix} beside it", name(url)));
        return Ok(());
    }
    (cx.warn)(&format!("no checksum file lies beside {url}: it is locked as it came"));
    Ok(())
}

fn sha512(cx: &BuiltinCx<'_>, fetched: &Fetched) -> Result<String, StepError> {
    let mut file = std::fs::File::open(cx.store.blob_path(&fetched.digest)?)?;
    let mut hasher = Sha512::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(format!("{:x}", hasher.finalize()))
}
