//! Which image is in an archive, as `docker save` and `podman save` write them: its id, without unpacking it.
//!
//! Knows both layouts, Docker's own (manifest.json) and OCI's (index.json). Asks no daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::words::Trouble;

/// Manifests and configurations are small; nothing larger is read.
const MOST: u64 = 4 << 20;

/// The image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archived {
    /// `sha256:…` of its configuration, which is what daemons call it.
    pub id: String,
}

#[derive(Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
}

/// The image in the archive; `name` chooses one of several by its tag.
pub(super) fn read(path: &Path, name: Option<&str>) -> Result<Archived, Trouble> {
    let bad = |why: String| {
        Trouble::new(format!("{}: {why}", path.display()))
            .help("an archive is what `docker save -o FILE IMAGE` or `podman save -o FILE IMAGE` writes")
    };
    let io = |error: std::io::Error| bad(error.to_string());
    let mut file = File::open(path).map_err(io)?;
    let mut magic = [0; 4];
    if file.read(&mut magic).map_err(io)? >= 2
        && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd])
    {
        return Err(
            bad("it is compressed".into()).help("unpack it first (gunzip, unzstd): it is read in place")
        );
    }
    // Found in one pass over the headers, since the list may come behind what it names.
    let mut small = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(path).map_err(io)?);
    for entry in archive.entries_with_seek().map_err(io)? {
        let mut entry = entry.map_err(|error| bad(format!("not a tar archive: {error}")))?;
        let size = entry.header().size().unwrap_or(0);
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let wanted = name.ends_with(".json") || name.starts_with("blobs/");
        if wanted && size <= MOST && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(io)?;
            if bytes.first() == Some(&b'{') || bytes.first() == Some(&b'[') {
                small.insert(name, bytes);
            }
        }
    }
    let id = match (small.get("manifest.json"), small.get("index.json")) {
        (Some(list), _) => docker(list, &small, name),
        (None, Some(index)) => oci(index, &small, name),
        (None, None) => Err("it has neither manifest.json nor index.json".into()),
    };
    Ok(Archived { id: id.map_err(bad)? })
}

fn docker(list: &[u8], small: &BTreeMap<String, Vec<u8>>, name: Option<&str>) -> Result<String, String> {
    let entries: Vec<DockerEntry> =
        serde_json::from_slice(list).map_err(|error| format!("manifest.json: {error}"))?;
    let tagged = |entry: &DockerEntry| entry.tags.clone().unwrap_or_default();
    let entry = one(&entries, name, tagged)?;
    let config = small.get(&entry.config).ok_or_else(|| format!("{} is not in it", entry.config))?;
    Ok(digest(config))
}

fn oci(index: &[u8], small: &BTreeMap<String, Vec<u8>>, name: Option<&str>) -> Result<String, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("index.json: {error}"))?;
    let tagged = |found: &Descriptor| {
        let annotations = found.annotations.clone().unwrap_or_default();
        ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .filter_map(|key| annotations.get(*key).cloned())
            .collect()
    };
    let found = one(&index.manifests, name, tagged)?;
    let blob = |digest: &str| {
        let path = format!("blobs/{}", digest.replacen(':', "/", 1));
        small.get(&path).ok_or(format!("{path} is not in it, or no JSON"))
    };
    let manifest: Manifest = serde_json::from_slice(blob(&found.digest)?)
        .map_err(|error| format!("manifest {}: {error}", found.digest))?;
    Ok(digest(blob(&manifest.config.digest)?))
}

fn one<'a, T>(all: &'a [T], name: Option<&str>, tags: impl Fn(&T) -> Vec<String>) -> Result<&'a T, String> {
    if let [only] = all {
        return Ok(only);
    }
    let names = || all.iter().flat_map(&tags).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => all
            .iter()
            .find(|entry| tags(entry).iter().any(|tag| tag == name))
            .ok_or_else(|| format!("no image of it is called {name}; there are: {}", names())),
        None => Err(format!("there are {} images in it: name one by `image` ({})", all.len(), names())),
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.reopen().unwrap());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        file
    }

    fn id(files: &[(&str, &str)], name: Option<&str>) -> Result<String, String> {
        read(archive(files).path(), name).map(|found| found.id).map_err(|trouble| trouble.message)
    }

    #[test]
    fn the_id_is_the_digest_of_the_configuration_in_both_layouts() {
        let config = r#"{"architecture":"amd64"}"#;
        let want = digest(config.as_bytes());
        // What the list names comes first, and behind it.
        let list = r#"[{"Config":"abc.json","RepoTags":["b:1"],"Layers":[]}]"#;
        assert_eq!(id(&[("abc.json", config), ("manifest.json", list)], None).unwrap(), want);
        assert_eq!(id(&[("manifest.json", list), ("abc.json", config)], Some("other")).unwrap(), want);
        let manifest = format!(r#"{{"config":{{"digest":"{want}"}}}}"#);
        let (of_config, of_manifest) = (want.replacen(':', "/", 1), "sha256/m1");
        let index = r#"{"manifests":[{"digest":"sha256:m1"}]}"#;
        let files = [
            ("index.json", index),
            (&format!("blobs/{of_manifest}"), manifest.as_str()),
            (&format!("blobs/{of_config}"), config),
        ];
        assert_eq!(id(&files, None).unwrap(), want);
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_reason() {
        let two = r#"[{"Config":"a.json","RepoTags":["a:1"]},{"Config":"b.json","RepoTags":["b:1"]}]"#;
        let both = [("manifest.json", two), ("a.json", "{}"), ("b.json", "{ }")];
        assert_eq!(id(&both, Some("b:1")).unwrap(), digest(b"{ }"));
        for (files, why) in [
            (&both[..], "there are 2 images"),
            (&both[..1], "there are 2 images"),
            (&[("x", "y")][..], "neither manifest.json nor index.json"),
            (&[("manifest.json", "[1]")][..], "manifest.json:"),
            (&[("manifest.json", r#"[{"Config":"gone.json"}]"#)][..], "gone.json is not in it"),
        ] {
            let error = id(files, None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), [0x1f, 0x8b, 8, 0]).unwrap();
        assert!(read(text.path(), None).unwrap_err().message.contains("compressed"));
        std::fs::write(text.path(), "no tar at all, but long enough to be looked at").unwrap();
        assert!(read(text.path(), None).is_err());
        assert!(read(Path::new("/nonexistent/x.tar"), None).is_err());
    }
}
