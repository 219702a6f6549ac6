//! kernels.txt and kernels.json: which kernels a folder of a bucket has. See "Publishing" in docs/design.md.
//!
//! Both are made of a listing of the folder, so that they name what is there, whoever wrote last; compare-and-swap keeps two
//! publishers from overwriting each other, and looking again afterwards does where a server ignores conditions.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use mosbuild_engine::fetch::Watch;
use mosbuild_engine::s3::{Bucket, Listed, Object, S3Error, S3ErrorKind};
use serde_json::{Value, json};

use crate::failure::Failure;

/// One name a line.
pub const TEXT: &str = "kernels.txt";
/// `kernels`, `updated`, `count`.
pub const JSON: &str = "kernels.json";
/// Behind a file's name: its SHA-256, written last of all that belongs to it.
pub const SUM: &str = ".sha256";

/// An index larger than this is none.
const LIMIT: u64 = 16 << 20;
/// Rounds before somebody is told that the index does not come to rest.
const ROUNDS: u32 = 100;

/// What was there before.
struct Index {
    json: Option<Object>,
    text: Option<Object>,
}

impl Index {
    fn read(bucket: &Bucket, folder: &str, watch: &dyn Watch) -> Result<Index, S3Error> {
        let get = |name| bucket.get(&key(folder, name), LIMIT, watch);
        Ok(Index { json: get(JSON)?, text: get(TEXT)? })
    }

    /// Names of `kernels`, if it is one; whether `count` agrees.
    fn of_json(&self) -> Option<(Vec<String>, bool)> {
        let value: Value = serde_json::from_slice(&self.json.as_ref()?.bytes).ok()?;
        let names = value["kernels"].as_array()?.iter();
        let names: Vec<String> = names.map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?;
        let counted = value["count"].as_u64() == Some(names.len() as u64) && value["updated"].is_string();
        Some((names, counted))
    }

    fn of_text(&self) -> Option<Vec<String>> {
        let text = std::str::from_utf8(&self.text.as_ref()?.bytes).ok()?;
        Some(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// All that either names.
    fn names(&self) -> BTreeSet<String> {
        let json = self.of_json().map(|(names, _)| names).unwrap_or_default();
        json.into_iter().chain(self.of_text().unwrap_or_default()).collect()
    }
}

/// Where an object of this name is.
pub fn key(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The names of an index, sorted: all files of the folder that have their SHA-256 beside them, which is written last. And
/// kernels without one that the index has already: those that the shell pipeline has uploaded.
fn entries(listing: &[Listed], folder: &str, before: &BTreeSet<String>) -> Vec<String> {
    let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let names = listing.iter().filter_map(|object| object.key.strip_prefix(&start));
    let names: BTreeSet<&str> = names.filter(|name| !name.contains('/')).collect();
    let whole = |name: &&&str| names.contains(format!("{name}{SUM}").as_str());
    let known = |name: &&&str| name.ends_with(".efi") && before.contains(**name);
    names.iter().filter(|name| whole(name) || known(name)).map(|name| (*name).to_owned()).collect()
}

fn text_of(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

fn json_of(names: &[String], updated: &str) -> String {
    format!("{:#}\n", json!({ "kernels": names, "updated": updated, "count": names.len() }))
}

/// What the index would say now; whether it says that already.
pub fn preview(
    bucket: &Bucket,
    folder: &str,
    more: &[String],
    watch: &dyn Watch,
) -> Result<(usize, bool), Failure> {
    let index = Index::read(bucket, folder, watch)?;
    let listing = bucket.list(folder, watch)?;
    let mut names: BTreeSet<String> = entries(&listing, folder, &index.names()).into_iter().collect();
    names.extend(more.iter().cloned());
    let names: Vec<String> = names.into_iter().collect();
    Ok((names.len(), index.of_json() == Some((names.clone(), true)) && index.of_text() == Some(names)))
}

/// Brings both files up to date, and returns when a look at the folder has found them so; the number of kernels, and
/// whether anything was written. `now` is RFC 3339.
pub fn update(
    bucket: &Bucket,
    folder: &str,
    now: &dyn Fn() -> String,
    watch: &dyn Watch,
) -> Result<(usize, bool), Failure> {
    let mut written = false;
    for round in 0..ROUNDS {
        // In this order: what is written over the version read here tells of all that was listed after it. So of two
        // writers the later one, which has read the earlier one's version, has listed later as well.
        let index = Index::read(bucket, folder, watch)?;
        let names = entries(&bucket.list(folder, watch)?, folder, &index.names());
        let json_fits = index.of_json() == Some((names.clone(), true));
        let text_fits = index.text.as_ref().is_some_and(|text| text.bytes == text_of(&names).as_bytes());
        if json_fits && text_fits {
            return Ok((names.len(), written));
        }
        let write = |name: &str, kind, text: String, old: &Option<Object>| {
            swap(bucket, &key(folder, name), text.into_bytes(), kind, old.as_ref(), watch)
        };
        let mut won = true;
        if !json_fits {
            won = write(JSON, "application/json", json_of(&names, &now()), &index.json)?;
        }
        if won && !text_fits {
            won = write(TEXT, "text/plain", text_of(&names), &index.text)?;
        }
        written |= won;
        if !won {
            // Another was faster. Not all of those who lost come back at once.
            let most = 50 * u64::from(round.min(9) + 1);
            let some = RandomState::new().hash_one(round) % most;
            std::thread::sleep(Duration::from_millis(20 + some));
        }
    }
    let why =
        format!("{} is rewritten again and again by others: {ROUNDS} tries were in vain", key(folder, JSON));
    Err(Failure::new(1, why)
        .help("what was published is there; `mosbuild publish` once more brings it into the index"))
}

/// Compare and swap; a server that knows no conditions is written to without one.
fn swap(
    bucket: &Bucket,
    key: &str,
    bytes: Vec<u8>,
    kind: &'static str,
    old: Option<&Object>,
    watch: &dyn Watch,
) -> Result<bool, S3Error> {
    let swapped = match old.map(|old| old.etag.as_deref()) {
        None => bucket.put_if_absent(key, bytes.clone(), kind, watch),
        Some(Some(etag)) => bucket.put_if_unchanged(key, bytes.clone(), kind, etag, watch),
        Some(None) => bucket.put(key, bytes.clone(), kind, watch).map(|()| true),
    };
    match swapped {
        Err(e) if e.kind == S3ErrorKind::Unsupported => bucket.put(key, bytes, kind, watch).map(|()| true),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_files_are_named_and_old_kernels_stay() {
        let listing: Vec<Listed> = [
            "k/a.efi",
            "k/a.efi.sha256",
            "k/b.efi",
            "k/c.efi",
            "k/kernels.txt",
            "k/sub/d.efi",
            "k/sub/d.efi.sha256",
        ]
        .map(|key| Listed { key: key.into(), size: 1 })
        .into();
        let none = BTreeSet::new();
        assert_eq!(entries(&listing, "k", &none), ["a.efi"]);
        let before = BTreeSet::from(["b.efi".to_owned(), "gone.efi".to_owned(), "kernels.txt".to_owned()]);
        assert_eq!(entries(&listing, "k", &before), ["a.efi", "b.efi"]);
    }

    #[test]
    fn the_index_is_as_the_shell_pipeline_wrote_it() {
        let names = ["a.efi".to_owned(), "b.efi".to_owned()];
        let object = |bytes: String| Some(Object { bytes: bytes.into_bytes(), etag: None });
        let json = json_of(&names, "2025-01-04T12:00:00Z");
        assert!(
            json.contains("\"updated\": \"2025-01-04T12:00:00Z\"") && json.contains("\"count\": 2"),
            "{json}"
        );
        let index = Index { json: object(json), text: object(text_of(&names)) };
        assert_eq!(index.of_json(), Some((names.to_vec(), true)));
        assert_eq!(index.of_text().unwrap(), names);
        let wrong = Index { json: object("{".into()), text: None };
        assert_eq!((wrong.of_json(), wrong.names().len()), (None, 0));
    }
}
