//! From a step with known inputs to its action record: the one place where keys are made.
//! Looks nothing up and runs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use mosbuild_cache::{Digest, Node, Output, OutputKind, Store, Tree};

use crate::action::{Command, EnvVar, ExecutorKind, Input, OutKind, Pinned, Work};
use crate::inputs::{Source, Sources};
use crate::load::Loaded;
use crate::plan::{StepGraph, StepNode};
use crate::record::{ActionRecord, IMAGE, OVERRIDE, Part, SCHEMA, Value};
use crate::rule::Registry;
use crate::tools::Identity;

/// Trees of up to this many files are written into the record file by file, so that `why` needs no blob to
/// name a changed one; larger ones enter by the digest of the tree, which is kept in the store.
pub const INLINE_FILES: usize = 256;

/// A step's input once its content is known.
#[derive(Clone)]
pub enum Resolved {
    /// Workspace or external files, not in the store.
    Source(Arc<Source>),
    /// An output of another step.
    Made(Output),
}

/// What keys are made from beside the graph.
pub struct Evaluator<'a> {
    /// The steps.
    pub graph: &'a StepGraph,
    /// The workspace: rule of each target, epoch.
    pub loaded: &'a Loaded,
    /// Rule versions.
    pub registry: &'a Registry,
    /// Hashed workspace files.
    pub sources: &'a Sources,
    /// Identity of every declared tool.
    pub tools: &'a BTreeMap<String, Identity>,
    /// Platform text, e.g. `x86_64-linux`.
    pub platform: &'a str,
    /// Key of the hashes that stand for secrets.
    pub secret_key: &'a [u8; 32],
    /// Id of the image that containers are made of.
    pub image: Option<&'a str>,
    /// For trees too large to be inlined.
    pub store: &'a Store,
}

impl Evaluator<'_> {
    /// The inputs of a step; `output` gives the outputs of finished steps. `None` if one is not known yet.
    pub fn inputs(
        &self,
        node: &StepNode,
        output: &dyn Fn(u32, &str) -> Option<Output>,
    ) -> Option<Vec<Resolved>> {
        let resolve = |input: &Input| match self.graph.source_of(node, input) {
            Some((step, name)) => output(step, name).map(Resolved::Made),
            None => self.sources.get(node.target, input).map(Resolved::Source),
        };
        node.step.inputs.iter().map(|i| resolve(&i.from)).collect()
    }

    /// The record of a step whose inputs, and pin if it has one, are known.
    pub fn record(
        &self,
        node: &StepNode,
        inputs: &[Resolved],
        pinned: Option<&Pinned>,
    ) -> Result<ActionRecord, std::io::Error> {
        let mut record = ActionRecord::default();
        let rule = &self.loaded.targets[node.target as usize].rule;
        record.set(Part::Schema, Value::Number(u64::from(SCHEMA)));
        record.text(Part::Rule, rule);
        record.set(Part::RuleVersion, Value::Number(u64::from(self.registry.version(rule))));
        record.text(Part::Step, &node.step.name);
        record.text(Part::Platform, self.platform);
        if node.overridden {
            record.text(Part::Policy(OVERRIDE.into()), "source");
        }
        let replaced = |name: &String| pinned.is_some_and(|p| p.replaced_params.contains(name));
        for (name, value) in node.step.params.iter().filter(|(name, _)| !replaced(name)) {
            record.text(Part::Param(name.clone()), value);
        }
        match &node.step.work {
            Work::Builtin(b) => {
                record.text(Part::Builtin, b.name());
                record.set(Part::BuiltinVersion, Value::Number(u64::from(b.version())));
                for (name, value) in pinned.iter().flat_map(|p| &p.params) {
                    record.text(Part::Param(name.clone()), value);
                }
                for (name, kind) in b.outputs() {
                    record.text(Part::Output(name), kind_text(kind));
                }
                let base = (!b.tools().is_empty()).then_some(crate::tools::BASE);
                for tool in b.tools().iter().copied().chain(base) {
                    if let Some(identity) = self.tools.get(tool) {
                        record.set(Part::Tool(tool.to_owned()), tool_value(identity));
                    }
                }
            }
            Work::Command(c) => self.command(&mut record, c, node.step.is_rooted()),
        }
        for (input, resolved) in node.step.inputs.iter().zip(inputs) {
            if pinned.is_some_and(|p| p.replaced.contains(&input.name)) {
                continue;
            }
            if matches!(node.step.work, Work::Command(_)) {
                record.text(Part::Policy(format!("place {}", input.name)), format!("{:?}", input.place));
            }
            self.input(&mut record, &input.name, resolved)?;
        }
        Ok(record)
    }

    fn command(&self, record: &mut ActionRecord, c: &Command, rooted: bool) {
        record.set(Part::Argv, Value::List(c.argv.clone()));
        if let Some(script) = &c.script {
            record.text(Part::Script, script);
        }
        record.text(
            Part::Executor,
            match c.executor {
                ExecutorKind::Sandbox => "sandbox",
                ExecutorKind::Container => "container",
                ExecutorKind::Host => "host",
            },
        );
        record.text(Part::Policy("epoch".into()), self.loaded.epoch.to_string());
        if !c.cwd.is_empty() {
            record.text(Part::Policy("cwd".into()), &c.cwd);
        }
        if let Some(timeout) = c.timeout {
            record.text(Part::Policy("timeout".into()), timeout.as_millis().to_string());
        }
        if let Some(memory) = c.memory {
            record.text(Part::Policy("memory".into()), memory.to_string());
        }
        if let Some(console) = &c.console {
            record.set(Part::Policy("expect".into()), Value::List(console.expect.clone()));
            record.set(Part::Policy("forbid".into()), Value::List(console.forbid.clone()));
            if !console.marks.is_empty() {
                let marks = console.marks.iter().map(|(name, text)| format!("{name}: {text}")).collect();
                record.set(Part::Policy("marks".into()), Value::List(marks));
            }
        }
        for (name, value) in &c.env {
            record.set(Part::Env(name.clone()), self.env(value));
        }
        // A command in a root of its own sees no tool of the host.
        let base = (c.executor == ExecutorKind::Sandbox && !rooted).then_some(crate::tools::BASE);
        let contained = c.executor == ExecutorKind::Container;
        if contained && let Some(image) = self.image {
            record.text(Part::Policy(IMAGE.into()), image);
        }
        // The image stands for the tools, whichever they are.
        let tools = c.tools.iter().filter(|_| !contained);
        for tool in tools.map(String::as_str).chain(base) {
            if let Some(identity) = self.tools.get(tool) {
                record.set(Part::Tool(tool.to_owned()), tool_value(identity));
            }
        }
        for output in &c.outputs {
            let text = format!("{} {}", kind_text(output.kind), output.path);
            record.text(Part::Output(output.name.clone()), text);
        }
        for (name, path) in &c.facts {
            record.text(Part::Policy(format!("fact {name}")), path);
        }
    }

    fn env(&self, value: &EnvVar) -> Value {
        match value {
            EnvVar::Value(text) => Value::Text(text.clone()),
            EnvVar::Host { name, secret } => match std::env::var_os(name) {
                None => Value::Unset,
                Some(text) if *secret => {
                    let mut bytes = self.secret_key.to_vec();
                    bytes.extend_from_slice(text.as_encoded_bytes());
                    Value::Secret(Digest::of(&bytes))
                }
                Some(text) => Value::Text(text.to_string_lossy().into_owned()),
            },
        }
    }

    fn input(&self, record: &mut ActionRecord, name: &str, resolved: &Resolved) -> std::io::Result<()> {
        match resolved {
            Resolved::Made(output) => record.set(Part::Input(name.into()), output_value(output)),
            Resolved::Source(source) => match &**source {
                Source::File { digest, size, executable, .. } => record.set(
                    Part::Input(name.into()),
                    Value::File { digest: *digest, size: *size, executable: *executable },
                ),
                Source::Tree { tree, digest, .. } => {
                    if tree.len() <= INLINE_FILES {
                        inline(record, name, tree);
                    } else {
                        let stored = self.store.put_tree(tree).map_err(std::io::Error::other)?;
                        debug_assert_eq!(stored, *digest);
                        record.set(Part::Input(name.into()), Value::Tree(*digest));
                    }
                }
            },
        }
        Ok(())
    }
}

/// Writes a small tree's entries into the record; directories only where they are empty of entries.
fn inline(record: &mut ActionRecord, name: &str, tree: &Tree) {
    for entry in tree.iter() {
        let part = Part::File(name.into(), entry.path.to_string());
        match &entry.node {
            Node::File { digest, size } => record
                .set(part, Value::File { digest: *digest, size: *size, executable: entry.mode & 0o100 != 0 }),
            Node::Symlink { target } => {
                record.set(part, Value::Link(String::from_utf8_lossy(target).into_owned()));
            }
            _ => record.set(part, Value::Unset),
        }
    }
}

pub(super) fn kind_text(kind: OutKind) -> &'static str {
    match kind {
        OutKind::File => "file",
        OutKind::Tree => "tree",
    }
}

fn output_value(output: &Output) -> Value {
    match output.kind {
        OutputKind::File { executable } => {
            Value::File { digest: output.digest, size: output.size, executable }
        }
        OutputKind::Tree => Value::Tree(output.digest),
    }
}

pub(super) fn tool_value(identity: &Identity) -> Value {
    let mut packages = identity.packages.clone();
    if let Some(text) = &identity.text {
        packages.push((format!("{} -vV", identity.tool), text.clone()));
    }
    if let Some(digest) = &identity.digest {
        packages.push((format!("{} (file)", identity.tool), digest.hex()));
    }
    packages.sort();
    Value::Packages(packages)
}
