//! config/publish.yaml: where to publish, with whose credentials, and what. Holds no secret: it says where each is.
//! Knows no server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mosbuild_engine::load::names::quote;
use mosbuild_engine::load::{Diagnostic, Loaded, OutputKind, Typed, nearest};
use mosbuild_engine::s3::{Credentials, S3Options, S3Timing, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::failure::Failure;

/// The file, relative to the workspace.
pub const FILE: &str = "config/publish.yaml";

/// The file's fields. Text may have `${name}` of the workspace's variables in it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// `https://` or `http://`, host, port; AWS in the region if it is left out.
    endpoint: Option<String>,
    /// The region.
    #[serde(default = "region")]
    region: String,
    /// The bucket.
    bucket: String,
    /// A folder in the bucket, below which all is put.
    #[serde(default)]
    prefix: String,
    /// Whether the bucket is in the path, as with MinIO, or in the host's name; by default in the path if there is an endpoint.
    path_style: Option<bool>,
    /// Where the credentials are.
    #[serde(default)]
    credentials: CredentialFields,
    /// What is published as a kernel: name and target; by default the entries of `dist` that are `vmlinuz-{…}.efi`.
    kernels: Option<BTreeMap<String, String>>,
    /// The folder of kernels below the prefix; KERNEL_SUBPATH comes before it.
    #[serde(default = "kernel_subpath")]
    kernel_subpath: String,
    /// What is published as an flist: name and target; by default the targets of rule `flist`.
    manifests: Option<BTreeMap<String, String>>,
    /// The folder of flists below the prefix.
    #[serde(default = "manifest_subpath")]
    manifest_subpath: String,
    /// The forms of the bill of materials beside each kernel.
    #[serde(default = "sbom")]
    sbom: Vec<BillForm>,
}

/// Where credentials are.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CredentialFields {
    /// By default AWS_ACCESS_KEY_ID.
    access_key: Option<SecretFields>,
    /// By default AWS_SECRET_ACCESS_KEY.
    secret_key: Option<SecretFields>,
    /// By default AWS_SESSION_TOKEN, which may be unset.
    session_token: Option<SecretFields>,
}

/// One of the two.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecretFields {
    /// A variable of the environment.
    env: Option<String>,
    /// A file that holds the value and nothing else.
    file: Option<String>,
}

/// A form of a bill of materials.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum BillForm {
    /// SPDX 2.3.
    Spdx,
    /// CycloneDX 1.6.
    Cyclonedx,
}

fn region() -> String {
    "us-east-1".into()
}
fn kernel_subpath() -> String {
    "kernel".into()
}
fn manifest_subpath() -> String {
    "manifests".into()
}
fn sbom() -> Vec<BillForm> {
    vec![BillForm::Spdx]
}

/// Something to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name, `{target.fact}` still in it.
    pub name: String,
    /// The target.
    pub target: u32,
    /// Its output; the default one if none is named.
    pub output: Option<String>,
}

/// What the file asks for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The bucket.
    pub s3: S3Options,
    /// The folder of kernels in the bucket.
    pub kernel_folder: String,
    /// The folder of flists in the bucket.
    pub manifest_folder: String,
    /// Kernels.
    pub kernels: Vec<Item>,
    /// Flists.
    pub manifests: Vec<Item>,
    /// Forms of the bill beside each kernel.
    pub sbom: Vec<BillForm>,
}

impl Config {
    /// Reads the workspace's file; `subpath` is KERNEL_SUBPATH.
    pub fn read(loaded: &Loaded, subpath: Option<String>) -> Result<Config, Failure> {
        let file = Typed::<Fields>::read(&loaded.root.join(FILE), FILE, "the file")?.ok_or_else(|| {
            Failure::usage(format!("there is no {FILE}, which says where to publish")).help(
                "docs/publish.md shows one; `mosbuild import config/rfs.conf` makes it of the old pipeline's",
            )
        })?;
        Config::resolve(&file, loaded, subpath)
    }

    fn resolve(file: &Typed<Fields>, loaded: &Loaded, subpath: Option<String>) -> Result<Config, Failure> {
        let mut problems = Vec::new();
        let fields = &file.value;
        let mut text = |name: &str, text: &str| {
            replaced(text, loaded).unwrap_or_else(|problem| {
                problems.push(Diagnostic { span: Some(file.span(&[name])), ..*problem });
                String::new()
            })
        };
        let endpoint = fields.endpoint.as_deref().map(|endpoint| text("endpoint", endpoint));
        let (region, bucket) = (text("region", &fields.region), text("bucket", &fields.bucket));
        let prefix = text("prefix", &fields.prefix);
        let kernel_subpath = subpath.unwrap_or_else(|| text("kernel_subpath", &fields.kernel_subpath));
        let manifest_subpath = text("manifest_subpath", &fields.manifest_subpath);
        if let Some(endpoint) = &endpoint
            && !["http://", "https://"].iter().any(|s| endpoint.len() > s.len() && endpoint.starts_with(s))
        {
            let problem = Diagnostic::at("wrong-value", file.span(&["endpoint"]), "`endpoint` is no URL");
            problems.push(problem.label("expected https:// or http://, a host and perhaps a port"));
        }
        let mut secret = |name: &str, field: &Option<SecretFields>, default: Secret| {
            let Some(field) = field else { return default };
            match (&field.env, &field.file) {
                (Some(name), None) => Secret::Env(name.clone()),
                (None, Some(path)) => Secret::File(loaded.root.join(PathBuf::from(path))),
                _ => {
                    let span = file.span(&["credentials", name]);
                    let problem =
                        Diagnostic::at("wrong-value", span, format!("`{name}` needs one of env and file"));
                    problems.push(problem.label("expected { env: VARIABLE } or { file: PATH }"));
                    default
                }
            }
        };
        let default = Credentials::default();
        let credentials = Credentials {
            access_key: secret("access_key", &fields.credentials.access_key, default.access_key),
            secret_key: secret("secret_key", &fields.credentials.secret_key, default.secret_key),
            session_token: secret("session_token", &fields.credentials.session_token, default.session_token),
        };
        let kernels = match &fields.kernels {
            Some(named) => items(file, "kernels", named, loaded, &mut problems),
            None => from_dist(loaded, |path, _| path.starts_with("vmlinuz-{") && path.ends_with(".efi")),
        };
        let manifests = match &fields.manifests {
            Some(named) => items(file, "manifests", named, loaded, &mut problems),
            None => manifests(loaded),
        };
        if !problems.is_empty() {
            return Err(file.problems(problems).into());
        }
        let path_style = fields.path_style.unwrap_or(endpoint.is_some());
        let s3 = S3Options { endpoint, region, bucket, path_style, credentials, timing: S3Timing::default() };
        Ok(Config {
            s3,
            kernel_folder: folder(&prefix, &kernel_subpath),
            manifest_folder: folder(&prefix, &manifest_subpath),
            kernels,
            manifests,
            sbom: fields.sbom.clone(),
        })
    }
}

/// Entries of `dist` that fit, by file name and target.
fn from_dist(loaded: &Loaded, fits: impl Fn(&str, u32) -> bool) -> Vec<Item> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let entries = loaded.dist.iter().filter(|entry| fits(&name(&entry.path), entry.target));
    let item = |entry: &mosbuild_engine::load::DistEntry| Item {
        name: name(&entry.path),
        target: entry.target,
        output: entry.output.clone(),
    };
    entries.map(item).collect()
}

/// The flists of a workspace: each by its entry in `dist`, and where it has none by its target's name.
fn manifests(loaded: &Loaded) -> Vec<Item> {
    let is_flist = |target: u32| loaded.targets[target as usize].rule == "flist";
    let mut all = from_dist(loaded, |_, target| is_flist(target));
    for target in (0..loaded.targets.len() as u32).filter(|t| is_flist(*t)) {
        if !all.iter().any(|item| item.target == target) {
            let name = format!("{}.fl", loaded.targets[target as usize].name);
            all.push(Item { name, target, output: None });
        }
    }
    all
}

/// What the file names, checked against the workspace.
fn items(
    file: &Typed<Fields>,
    field: &str,
    named: &BTreeMap<String, String>,
    loaded: &Loaded,
    problems: &mut Vec<Diagnostic>,
) -> Vec<Item> {
    let mut all = Vec::new();
    for (name, reference) in named {
        let span = file.span(&[field, name]);
        let mut wrong = |message: String, near: Option<&str>| {
            problems.push(Diagnostic::at("wrong-reference", span, message).nearest(near));
        };
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            wrong(format!("{} can be no name of a published file", quote(name)), None);
        }
        let (target, output) = match reference.split_once(':') {
            Some((target, output)) => (target, Some(output)),
            None => (reference.as_str(), None),
        };
        let Some(index) = loaded.target_index(target) else {
            wrong(format!("there is no target {}", quote(target)), loaded.nearest(target));
            continue;
        };
        let outputs = &loaded.targets[index as usize].outputs;
        let declared = match output {
            Some(output) => outputs.iter().find(|o| o.name == output),
            None => outputs.first(),
        };
        match declared {
            None => {
                let names = outputs.iter().map(|o| o.name.as_str());
                let near = output.and_then(|output| nearest(output, names));
                wrong(format!("{target} has no output {}", quote(output.unwrap_or("of its own"))), near);
            }
            Some(output) if output.kind == OutputKind::Tree => {
                wrong(format!("{} is a tree; only files are published", quote(reference)), None);
            }
            Some(_) => {
                all.push(Item { name: name.clone(), target: index, output: output.map(str::to_owned) })
            }
        }
    }
    all
}

/// Text with the workspace's variables in it.
fn replaced(text: &str, loaded: &Loaded) -> Result<String, Box<Diagnostic>> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("${") {
        out.push_str(head);
        let (name, after) = tail.split_once('}').unwrap_or((tail, ""));
        match loaded.vars.iter().find(|(var, _)| var == name) {
            Some((_, value)) => out.push_str(value),
            None => {
                let near = nearest(name, loaded.vars.iter().map(|(var, _)| var.as_str()));
                let problem =
                    Diagnostic::bare("unknown-variable", format!("there is no variable {}", quote(name)));
                return Err(Box::new(problem.nearest(near)));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Two folders below one another, without empty parts.
fn folder(prefix: &str, subpath: &str) -> String {
    let parts = [prefix, subpath].into_iter().flat_map(|p| p.split('/')).filter(|p| !p.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_one_slash_between_their_parts() {
        assert_eq!(folder("/flists/mos_builder/", "kernel"), "flists/mos_builder/kernel");
        assert_eq!(folder("", "/kernels//x/"), "kernels/x");
        assert_eq!(folder("", ""), "");
    }

    #[test]
    fn the_file_is_checked_with_places_and_near_names() {
        let read = |text: &str| Typed::<Fields>::parse(text, FILE, "the file").map(|f| f.value);
        let fields = read("bucket: mos\nprefix: a\ncredentials: { secret_key: { file: k } }\n").unwrap();
        assert_eq!((fields.region.as_str(), fields.kernel_subpath.as_str()), ("us-east-1", "kernel"));
        let text = read("bucket: mos\nprefx: a\nsbom: [spdx, cdx]\n").unwrap_err().to_string();
        assert!(
            text.contains("config/publish.yaml:2:1") && text.contains("did you mean `prefix`?"),
            "{text}"
        );
        assert!(text.contains("cdx"), "{text}");
    }
}
