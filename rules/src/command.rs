//! `command`: a script or program on declared inputs, for what no other rule does.
//! Knows the fields; the engine lays out and runs.

use std::collections::BTreeMap;
use std::time::Duration;

use mosbuild_engine::action::{
    Command, CommandOutput, DEPS_DIR, Input, OutKind, Place, Step, StepInput, Work,
};
use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FieldPath, FileKind, FileUse, OutputDecl, RefKind, RefUse, RuleFacts, Step as FieldStep,
};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::env::{self, Env};
use crate::one_or_many::OneOrMany;
use crate::{size, tools};

/// A script or program on declared inputs.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRule {
    /// Files, folders (`dir/`) and globs of the workspace.
    #[serde(default)]
    inputs: OneOrMany,
    /// Variable name to a reference: the variable holds the path of that output.
    #[serde(default)]
    deps: BTreeMap<String, String>,
    /// Script for `sh -eu`.
    run: Option<String>,
    /// Program and arguments, in place of `run`.
    argv: Option<Vec<String>>,
    /// Paths below `$OUT`, or name to path; a trailing `/` means a tree. The first is the default.
    outputs: Outputs,
    /// Environment.
    #[serde(default)]
    env: BTreeMap<String, Env>,
    /// Host programs beside those of the Essential packages.
    #[serde(default)]
    tools: OneOrMany,
    /// Seconds after which it is stopped.
    #[schemars(range(min = 1, max = 31_536_000))]
    timeout: Option<u64>,
    /// Memory of each of its processes (`512MiB`).
    memory: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Outputs {
    One(String),
    List(Vec<String>),
    /// In the order of the file: the first is the default.
    Named(#[schemars(with = "BTreeMap<String, String>")] serde_json::Map<String, serde_json::Value>),
}

struct Declared {
    name: String,
    path: String,
    kind: OutKind,
    field: FieldPath,
}

impl CommandRule {
    fn declared(&self) -> Vec<Declared> {
        let output = |name: &str, path: &str, field: FieldPath| Declared {
            name: name.trim_end_matches('/').into(),
            path: path.trim_end_matches('/').into(),
            kind: if path.ends_with('/') { OutKind::Tree } else { OutKind::File },
            field,
        };
        match &self.outputs {
            Outputs::One(path) => vec![output(path, path, field!("outputs"))],
            Outputs::List(paths) => {
                paths.iter().enumerate().map(|(i, p)| output(p, p, field!("outputs", i))).collect()
            }
            Outputs::Named(map) => map
                .iter()
                .map(|(name, path)| {
                    output(name, path.as_str().unwrap_or(""), field!("outputs", name.as_str()))
                })
                .collect(),
        }
    }
}

impl Rule for CommandRule {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |field: FieldPath, message: String, help: &str| {
            errors.push(FieldError { field, message, help: Some(help.into()) });
        };
        match (&self.run, &self.argv) {
            (Some(_), Some(_)) => {
                wrong(field!("argv"), "`run` and `argv` exclude each other".into(), "keep one of them");
            }
            (None, None) => wrong(
                FieldPath::default(),
                "what is to be run is missing".into(),
                "add `run: SCRIPT` or `argv: [PROGRAM, …]`",
            ),
            (None, Some(argv)) if argv.first().is_none_or(String::is_empty) => {
                wrong(field!("argv"), "`argv` names no program".into(), "name the program first");
            }
            _ => {}
        }
        for (at, name) in
            self.deps.keys().map(|name| ("deps", name)).chain(self.env.keys().map(|name| ("env", name)))
        {
            let field = vec![at.into(), FieldStep::Name(name.clone())];
            if let Some((message, help)) = env::fault(name, &[]) {
                wrong(field, message, help);
            } else if at == "env" && self.deps.contains_key(name) {
                wrong(field, format!("{name} is the name of a dep as well"), "rename one of them");
            }
        }
        if let Some(memory) = &self.memory
            && size::bytes(memory).is_none_or(|bytes| bytes == 0)
        {
            wrong(field!("memory"), format!("{memory:?} is no size of memory"), "write it as 512MiB");
        }
        let declared = self.declared();
        if declared.is_empty() {
            wrong(field!("outputs"), "no output is declared".into(), "name at least one path under $OUT");
        }
        for (i, output) in declared.iter().enumerate() {
            let bad = |p: &str| {
                p.is_empty() || p.starts_with('/') || p.split('/').any(|c| matches!(c, "" | "." | ".."))
            };
            if bad(&output.path) {
                let message = format!("{:?} is no path under $OUT", output.path);
                wrong(
                    output.field.clone(),
                    message,
                    "write it relative to $OUT, without .. and without a leading /",
                );
            }
            if output.name == "tree" && !(declared.len() == 1 && output.kind == OutKind::Tree) {
                wrong(
                    output.field.clone(),
                    "`tree` stands for all outputs together".into(),
                    "take another name for this one",
                );
            }
            // The same path twice is told as what it is: outputs that overlap.
            if declared[..i].iter().any(|o| o.name == output.name && o.path != output.path) {
                let message = format!("two outputs are called {}", output.name);
                wrong(output.field.clone(), message, "outputs need different names");
            }
        }
        errors.extend(tools::faults(&self.tools));
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut outputs: Vec<OutputDecl> = declared
            .into_iter()
            .map(|o| OutputDecl { name: o.name, kind: o.kind, path: Some(o.path), field: Some(o.field) })
            .collect();
        if outputs.iter().all(|o| o.name != "tree") {
            outputs.push(OutputDecl { name: "tree".into(), kind: OutKind::Tree, path: None, field: None });
        }
        let references = self.deps.iter().map(|(name, text)| RefUse {
            field: field!("deps", name),
            text: text.clone(),
            kind: RefKind::Output,
        });
        let files = self.inputs.all().iter().enumerate().map(|(i, pattern)| FileUse {
            field: field!("inputs", i),
            pattern: pattern.clone(),
            kind: FileKind::Any,
            absolute_ok: false,
        });
        Ok(RuleFacts {
            references: references.collect(),
            outputs,
            files: files.collect(),
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let mut inputs = Vec::new();
        if !self.inputs.is_empty() {
            inputs.push(StepInput {
                name: "inputs".into(),
                from: Input::Files(self.inputs.all().to_vec()),
                place: Place::Work,
            });
        }
        for (name, reference) in &self.deps {
            inputs.push(StepInput {
                name: name.clone(),
                from: planner.upstream(reference)?,
                place: Place::ReadOnly(format!("{DEPS_DIR}/{name}")),
            });
        }
        let declared = self.declared();
        let mut outputs: Vec<CommandOutput> = declared
            .iter()
            .map(|o| CommandOutput { name: o.name.clone(), path: o.path.clone(), kind: o.kind })
            .collect();
        if outputs.iter().all(|o| o.name != "tree") && planner.output_is_read("tree") {
            outputs.push(CommandOutput { name: "tree".into(), path: String::new(), kind: OutKind::Tree });
        }
        let names: Vec<String> = outputs.iter().map(|o| o.name.clone()).collect();
        let command = Command {
            argv: self.argv.clone().unwrap_or_default(),
            script: self.run.clone(),
            env: env::environment(&self.env),
            tools: self.tools.all().to_vec(),
            outputs,
            timeout: self.timeout.map(Duration::from_secs),
            memory: self.memory.as_deref().and_then(size::bytes),
            jobserver: true,
            ..Command::default()
        };
        let step = planner.step(Step {
            name: "run".into(),
            work: Work::Command(command),
            inputs,
            params: BTreeMap::new(),
            gates: Vec::new(),
            pin: None,
        });
        for name in names {
            planner.output(&name, step, &name);
        }
        Ok(())
    }
}
