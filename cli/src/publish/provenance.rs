//! Provenance of a published file: an in-toto Statement v1 with a SLSA v1 predicate, out of the lock and the run record.
//! Unsigned: whoever signs it wraps it. Knows no server.

use mosbuild_engine::lockfile::Pins;
use mosbuild_engine::run_record::RunHead;
use mosbuild_rules::sbom::{Bill, rfc3339};
use serde_json::{Map, Value, json};

use crate::args::GlobalArgs;

/// What the fields below externalParameters mean: docs/publish.md, "Attestations".
const BUILD_TYPE: &str = "urn:mosbuild:build:1";

/// A file and how it was made.
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// SHA-256 in hex.
    pub sha256: &'a str,
    /// The target.
    pub target: &'a str,
    /// Key of the step that made it, in hex.
    pub key: Option<String>,
}

/// The statement. `env` are variables of the environment: GitHub's runner tells who it is by them.
pub fn statement(
    subject: &Subject<'_>,
    bill: &Bill,
    pins: &Pins,
    head: &RunHead,
    global: &GlobalArgs,
    env: &dyn Fn(&str) -> Option<String>,
) -> Value {
    let set: Map<String, Value> = global.set.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    let mut external = json!({ "project": bill.project, "target": subject.target, "set": set });
    if let Some(profile) = &global.profile {
        external["profile"] = json!(profile);
    }
    let mut dependencies: Vec<Value> = workspace(env).into_iter().collect();
    dependencies.extend(resolved(bill, pins));
    let mut internal = Map::new();
    if let Some(key) = &subject.key {
        internal.insert("key".into(), json!(key));
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": subject.name, "digest": { "sha256": subject.sha256 } }],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": builder(env), "version": { "mosbuild": env!("CARGO_PKG_VERSION") } },
                "metadata": {
                    "invocationId": invocation(head, env),
                    "startedOn": rfc3339(head.started),
                    "finishedOn": rfc3339(head.started + head.millis.div_ceil(1000)),
                },
            },
        },
    })
}

/// A resource for each entry of the lock that the target takes, and for each row of its packages.
fn resolved(bill: &Bill, pins: &Pins) -> Vec<Value> {
    let mut all = Vec::new();
    for part in bill.parts.values() {
        for id in &part.pins {
            let mut digest = Map::new();
            let names = [("SHA-256", "sha256"), ("BLAKE3", "blake3"), ("SHA-1", "sha1")];
            for (ours, theirs) in names {
                if let Some(hash) = part.hashes.get(ours) {
                    digest.insert(theirs.into(), json!(hash));
                }
            }
            if let Some(pin) = pins.get(id)
                && !pin.field("commit").is_empty()
            {
                digest.insert("gitCommit".into(), json!(pin.field("commit")));
            }
            let uri = [part.from.as_str(), part.purl.as_deref().unwrap_or_default(), &part.id];
            let uri = uri.into_iter().find(|uri| !uri.is_empty()).unwrap_or_default();
            let mut resource =
                json!({ "name": part.name, "uri": uri, "annotations": { "mosbuild:lock": id } });
            if !digest.is_empty() {
                resource["digest"] = digest.into();
            }
            all.push(resource);
        }
    }
    all.sort_by_key(|r| r["annotations"]["mosbuild:lock"].as_str().unwrap_or_default().to_owned());
    all
}

/// The workspace's own source, where the runner says what was checked out.
fn workspace(env: &dyn Fn(&str) -> Option<String>) -> Option<Value> {
    let (server, repository) = (env("GITHUB_SERVER_URL")?, env("GITHUB_REPOSITORY")?);
    let (commit, reference) = (env("GITHUB_SHA")?, env("GITHUB_REF")?);
    let uri = format!("git+{server}/{repository}@{reference}");
    Some(json!({ "name": "workspace", "uri": uri, "digest": { "gitCommit": commit } }))
}

fn builder(env: &dyn Fn(&str) -> Option<String>) -> String {
    match (env("GITHUB_SERVER_URL"), env("GITHUB_WORKFLOW_REF")) {
        (Some(server), Some(workflow)) => format!("{server}/{workflow}"),
        _ => "urn:mosbuild:builder:local".into(),
    }
}

fn invocation(head: &RunHead, env: &dyn Fn(&str) -> Option<String>) -> String {
    let run = || {
        let (server, repository) = (env("GITHUB_SERVER_URL")?, env("GITHUB_REPOSITORY")?);
        let (run, attempt) = (env("GITHUB_RUN_ID")?, env("GITHUB_RUN_ATTEMPT")?);
        Some(format!("{server}/{repository}/actions/runs/{run}/attempts/{attempt}#{}", head.id))
    };
    run().unwrap_or_else(|| head.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_of_github_says_who_it_is() {
        let env = |name: &str| {
            Some(match name {
                "GITHUB_SERVER_URL" => "https://forge.example".into(),
                "GITHUB_REPOSITORY" => "me/mos".into(),
                "GITHUB_SHA" => "c0ffee".into(),
                "GITHUB_REF" => "refs/heads/main".into(),
                "GITHUB_RUN_ID" => "7".into(),
                "GITHUB_RUN_ATTEMPT" => "2".into(),
                "GITHUB_WORKFLOW_REF" => "me/mos/.github/workflows/release.yml@refs/heads/main".into(),
                _ => return None,
            })
        };
        let head = RunHead { id: "r".into(), ..RunHead::default() };
        assert_eq!(invocation(&head, &env), "https://forge.example/me/mos/actions/runs/7/attempts/2#r");
        assert_eq!(
            builder(&env),
            "https://forge.example/me/mos/.github/workflows/release.yml@refs/heads/main"
        );
        assert_eq!(workspace(&env).unwrap()["digest"]["gitCommit"], "c0ffee");
        assert_eq!(
            (builder(&|_| None), invocation(&head, &|_| None)),
            ("urn:mosbuild:builder:local".into(), "r".into())
        );
        assert_eq!(rfc3339(1_735_992_000), "2025-01-04T12:00:00Z");
    }
}
