//! What a run left of a workspace's targets: outputs and facts by step, and the bill of materials that they tell.
//! Knows no command.

use std::collections::{BTreeMap, HashMap};

use mosbuild_cache::Digest;
use mosbuild_engine::load::{Loaded, OutputKind};
use mosbuild_engine::lockfile::Pins;
use mosbuild_engine::plan::{self, StepGraph};
use mosbuild_engine::run_record::StepRun;
use mosbuild_rules::sbom::{self, Bill};
use sha2::Digest as _;

use crate::failure::Failure;
use crate::session::Grounds;

/// Targets with all that they depend on, as they are declared now, and what a run made of them.
pub struct Made<'a> {
    grounds: &'a Grounds,
    loaded: &'a Loaded,
    graph: StepGraph,
    keys: HashMap<(String, String), Digest>,
    outputs: HashMap<(String, String), BTreeMap<String, Digest>>,
    facts: HashMap<String, BTreeMap<String, String>>,
}

impl<'a> Made<'a> {
    /// What these steps of a run made of these targets.
    pub fn of(
        grounds: &'a Grounds,
        loaded: &'a Loaded,
        targets: &[u32],
        steps: &[StepRun],
    ) -> Result<Made<'a>, Failure> {
        let closure = plan::closure(loaded, targets);
        let (graph, errors) = plan::plan_what_can_be(loaded, &grounds.site.registry, closure);
        if let Some((at, error)) = errors.into_iter().next() {
            let name = &loaded.targets[at as usize].name;
            return Err(Failure::new(error.exit, format!("{name} cannot be planned: {}", error.message)));
        }
        let (mut keys, mut outputs) = (HashMap::new(), HashMap::new());
        let mut facts = HashMap::<String, BTreeMap<String, String>>::new();
        for step in steps {
            let id = (step.target.clone(), step.step.clone());
            let made = step.outputs.iter().map(|(name, (digest, _))| (name.clone(), *digest));
            outputs.insert(id.clone(), made.collect::<BTreeMap<_, _>>());
            let Some(key) = step.key else { continue };
            keys.insert(id, key);
            if let Some(result) = grounds.store.get_result(&key).ok().flatten() {
                facts.entry(step.target.clone()).or_default().extend(result.facts);
            }
        }
        Ok(Made { grounds, loaded, graph, keys, outputs, facts })
    }

    /// Facts of a target.
    pub fn facts(&self, target: u32) -> BTreeMap<String, String> {
        self.facts.get(&self.loaded.targets[target as usize].name).cloned().unwrap_or_default()
    }

    /// An output of a target, the default one if none is named, with the key of the step that makes it.
    pub fn output(&self, target: u32, output: Option<&str>) -> Option<(Digest, Option<Digest>)> {
        let declared = &self.loaded.targets[target as usize];
        let name = output.or_else(|| declared.outputs.first().map(|o| o.name.as_str()))?;
        let (step, name) = self.graph.maker(target, name)?;
        let id = (declared.name.clone(), self.graph.steps[step as usize].step.name.clone());
        let digest = *self.outputs.get(&id)?.get(name)?;
        Some((digest, self.keys.get(&id).copied()))
    }

    /// The store that an output of a target is of no use without: its URL, and the files that belong there.
    pub fn depot(&self, target: u32, output: Option<&str>) -> Option<(String, Digest)> {
        let declared = &self.loaded.targets[target as usize];
        let output = output.or_else(|| declared.outputs.first().map(|o| o.name.as_str()))?;
        let depot = self.graph.depots.iter().find(|d| d.target == target && d.output == output)?;
        let (files, _) = self.output(target, Some(&depot.files))?;
        Some((depot.url.clone(), files))
    }

    /// Of what a target consists.
    pub fn bill(&self, target: u32, pins: &Pins) -> Result<Bill, Failure> {
        let Made { loaded, graph, outputs, facts, .. } = self;
        let store = &self.grounds.store;
        let declared = &loaded.targets[target as usize];
        let name = &declared.name;
        let mut hashes = BTreeMap::new();
        let file = declared.outputs.first().is_some_and(|o| o.kind == OutputKind::File);
        if let Some((digest, _)) = self.output(target, None).filter(|_| file) {
            let again = format!("`mosbuild build {name}` makes it again");
            let bytes = store.read(&digest).map_err(|e| Failure::new(1, e.to_string()).help(again))?;
            hashes.insert("BLAKE3", digest.hex());
            hashes.insert("SHA-256", hex(sha2::Sha256::digest(&bytes)));
        }
        let made = sbom::Made { outputs: outputs.clone(), facts: facts.clone(), store };
        sbom::gather(loaded, graph, pins, (name, hashes), &made).map_err(|e| {
            let failure = Failure::new(1, e.to_string());
            failure.help(format!("`mosbuild build {name}` makes what is missing"))
        })
    }
}

/// A digest in hex.
pub fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}
