//! From resolved targets to steps: the planner that rules talk to, and the step graph that the build walks.
//! Runs nothing, hashes nothing, and knows no rule.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::action::{Input, OutKind, Step, Work};
use crate::load::{Loaded, Override};
use crate::rule::{PlanError, Registry, Rule};

/// What a rule plans for one target.
#[derive(Default)]
pub struct TargetPlan {
    /// In order: a step may read outputs of earlier ones only.
    pub steps: Vec<Step>,
    /// Target output name → (position of the step, its output's name).
    pub outputs: BTreeMap<String, (usize, String)>,
    /// Paths of the host that were looked at, see [`Planner::watch`].
    pub watched: Vec<PathBuf>,
    /// What this host lacks for running them.
    pub lacks: Vec<PlanError>,
    /// Where files of outputs belong.
    pub depots: Vec<Depot>,
}

/// A place outside of the build that an output is of no use without: whoever places or publishes the output brings the files of
/// another output there first, if they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depot {
    /// The target.
    pub target: u32,
    /// The output that needs it.
    pub output: String,
    /// The output, a tree, whose files belong there at their own paths.
    pub files: String,
    /// The place as it was declared.
    pub url: String,
    /// The folder, where it is one of this host: filled when `output` is placed.
    pub folder: Option<PathBuf>,
}

/// Handed to `Rule::plan`: gives what planning may know, takes the steps.
pub struct Planner<'a> {
    target: u32,
    loaded: &'a Loaded,
    rules: &'a [Option<Box<dyn Rule>>],
    /// Outputs that some target or dist entry names.
    read: &'a HashSet<(u32, &'a str)>,
    plan: TargetPlan,
}

impl<'a> Planner<'a> {
    /// The target's name.
    pub fn name(&self) -> &'a str {
        &self.loaded.targets[self.target as usize].name
    }

    /// The workspace's directory on the host.
    pub fn root(&self) -> &'a Path {
        &self.loaded.root
    }

    /// `project`; empty if the file names none.
    pub fn project(&self) -> &'a str {
        self.loaded.project.as_deref().unwrap_or_default()
    }

    /// `vars.epoch`, the SOURCE_DATE_EPOCH of every step.
    pub fn epoch(&self) -> u64 {
        self.loaded.epoch
    }

    /// `vars.arch`, as `uname -m` writes it.
    pub fn arch(&self) -> &'a str {
        &self.loaded.arch
    }

    /// Whether the target's source is a working copy for this once (`--override`).
    pub fn is_overridden(&self) -> bool {
        self.loaded.overridden(self.target).is_some()
    }

    /// The input that a reference in this target's fields stands for (`target` or `target:output`).
    pub fn upstream(&self, reference: &str) -> Result<Input, PlanError> {
        let (target, output) = self.resolve(reference)?;
        Ok(Input::Upstream { target, output })
    }

    /// A named output of the target that a reference names (fields such as `linux:` take the target).
    pub fn upstream_output(&self, reference: &str, output: &str) -> Result<Input, PlanError> {
        let (target, _) = self.resolve(reference)?;
        self.check_output(target, output)?;
        Ok(Input::Upstream { target, output: output.into() })
    }

    /// What the rule of the target named by `reference` says of itself before it is built.
    pub fn advertised(&self, reference: &str, key: &str) -> Option<String> {
        let (target, _) = self.resolve(reference).ok()?;
        self.rules[target as usize].as_ref()?.advertise().remove(key)
    }

    /// The rule name of the target that `reference` names.
    pub fn rule_of(&self, reference: &str) -> Option<&'a str> {
        let (target, _) = self.resolve(reference).ok()?;
        Some(&self.loaded.targets[target as usize].rule)
    }

    /// Index of the target that `reference` names, for [`Step::gates`].
    pub fn target_index(&self, reference: &str) -> Result<u32, PlanError> {
        Ok(self.resolve(reference)?.0)
    }

    /// Whether something asks for this target's output of that name: another target, dist, or a request by name
    /// (the default output).
    pub fn output_is_read(&self, output: &str) -> bool {
        let default = self.loaded.targets[self.target as usize].outputs.first();
        if default.is_some_and(|o| o.name == output) {
            return true;
        }
        self.read.contains(&(self.target, output))
    }

    /// Whether a text names a target or a target's output.
    pub fn is_reference(&self, text: &str) -> bool {
        self.resolve(text).is_ok()
    }

    /// Adds a step; later steps refer to it by the returned position. A name that is taken gets a number behind it.
    pub fn step(&mut self, mut step: Step) -> usize {
        let taken = |name: &str| self.plan.steps.iter().any(|s| s.name == name);
        if taken(&step.name) {
            let numbered = (2..).map(|n| format!("{}-{n}", step.name));
            step.name = numbered.into_iter().find(|name| !taken(name)).unwrap_or_default();
        }
        self.plan.steps.push(step);
        self.plan.steps.len() - 1
    }

    /// Says that the plan depends on whether this path of the host is there and which it is: once it is another, the
    /// target is planned again.
    pub fn watch(&mut self, path: PathBuf) {
        self.plan.watched.push(path);
    }

    /// Says that an output of this target needs the files of another one at a place outside of the build.
    pub fn depot(&mut self, output: &str, files: &str, url: &str, folder: Option<PathBuf>) {
        let (target, url) = (self.target, url.to_owned());
        let (output, files) = (output.to_owned(), files.to_owned());
        self.plan.depots.push(Depot { target, output, files, url, folder });
    }

    /// Says that this host lacks something that steps need when they run: the plan is whole, and good for all but a build.
    pub fn lacks(&mut self, what: PlanError) {
        self.plan.lacks.push(what);
    }

    /// Declares that the target's output `name` is `output` of `step`.
    pub fn output(&mut self, name: &str, step: usize, output: &str) {
        self.plan.outputs.insert(name.into(), (step, output.into()));
    }

    fn resolve(&self, reference: &str) -> Result<(u32, String), PlanError> {
        let (name, output) = match reference.split_once(':') {
            Some((name, output)) => (name, Some(output)),
            None => (reference, None),
        };
        let missing = || PlanError::new(2, format!("nothing is called {reference}"));
        let target = self.loaded.target_index(name).ok_or_else(missing)?;
        let outputs = &self.loaded.targets[target as usize].outputs;
        match output {
            Some(output) => {
                // As the loader takes it: a tree that is declared as `dir/` may be named so.
                let output = output.trim_end_matches('/');
                self.check_output(target, output)?;
                Ok((target, output.into()))
            }
            None => Ok((target, outputs.first().map(|o| o.name.clone()).unwrap_or_default())),
        }
    }

    fn check_output(&self, target: u32, output: &str) -> Result<(), PlanError> {
        let target = &self.loaded.targets[target as usize];
        match target.outputs.iter().any(|o| o.name == output) {
            true => Ok(()),
            false => Err(PlanError::new(2, format!("{} has no output {output}", target.name))),
        }
    }
}

/// Index of a step in the whole graph.
pub type StepIx = u32;

/// A step with its place in the graph.
pub struct StepNode {
    /// Its target.
    pub target: u32,
    /// Position within the target's plan.
    pub position: usize,
    /// The step.
    pub step: Step,
    /// Steps whose outputs it reads, each once.
    pub needs: Vec<StepIx>,
    /// Steps that must have succeeded before it may start, although it reads nothing from them.
    pub gated_by: Vec<StepIx>,
    /// Steps that read its outputs.
    pub feeds: Vec<StepIx>,
    /// It reads the working copy that is its target's source for this once.
    pub overridden: bool,
}

impl StepNode {
    /// Declared outputs of the step.
    pub fn outputs(&self) -> Vec<(String, OutKind)> {
        match &self.step.work {
            Work::Command(c) => c.outputs.iter().map(|o| (o.name.clone(), o.kind)).collect(),
            Work::Builtin(b) => b.outputs(),
        }
    }
}

/// All steps of the requested closure, in an order in which each comes after those it reads.
pub struct StepGraph {
    /// The steps.
    pub steps: Vec<StepNode>,
    /// Requested targets and all they depend on, in topological order.
    pub closure: Vec<u32>,
    /// Target → its steps; empty for targets outside of the closure.
    pub of_target: Vec<Vec<StepIx>>,
    /// Paths of the host that planning depended on.
    pub watched: Vec<PathBuf>,
    /// What this host lacks for running the steps of targets.
    pub lacks: PlanErrors,
    /// Places that outputs are of no use without.
    pub depots: Vec<Depot>,
    /// Target → its outputs: name, step, the step's name for it.
    outputs: Vec<Vec<(String, StepIx, String)>>,
}

impl StepGraph {
    /// The step that makes an output of a target, and its name there.
    pub fn maker(&self, target: u32, output: &str) -> Option<(StepIx, &str)> {
        let made = self.outputs[target as usize].iter().find(|(name, ..)| name == output);
        made.map(|(_, step, name)| (*step, name.as_str()))
    }

    /// The steps that make outputs of a target; one may be named again.
    pub fn makers(&self, target: u32) -> impl Iterator<Item = StepIx> {
        self.outputs[target as usize].iter().map(|(_, step, _)| *step)
    }

    /// The step and output that an input of `node` comes from; `None` for sources.
    pub fn source_of<'s>(&'s self, node: &StepNode, input: &'s Input) -> Option<(StepIx, &'s str)> {
        match input {
            Input::Upstream { target, output } => self.maker(*target, output),
            Input::Step { step, output } => {
                let ix = self.of_target[node.target as usize].get(*step)?;
                Some((*ix, output))
            }
            _ => None,
        }
    }
}

/// Why no graph could be made: one error per target.
pub type PlanErrors = Vec<(u32, PlanError)>;

/// Requested targets and all they depend on, in topological order.
pub fn closure(loaded: &Loaded, requested: &[u32]) -> Vec<u32> {
    let mut wanted = vec![false; loaded.targets.len()];
    let mut stack: Vec<u32> = requested.to_vec();
    while let Some(t) = stack.pop() {
        if !std::mem::replace(&mut wanted[t as usize], true) {
            stack.extend(loaded.targets[t as usize].references.iter().map(|r| r.target));
        }
    }
    loaded.order.iter().copied().filter(|t| wanted[*t as usize]).collect()
}

/// Plans the targets of a closure.
pub fn plan(loaded: &Loaded, registry: &Registry, closure: Vec<u32>) -> Result<StepGraph, PlanErrors> {
    let (graph, errors) = plan_what_can_be(loaded, registry, closure);
    if errors.is_empty() { Ok(graph) } else { Err(errors) }
}

/// Plans those targets of a closure that can be planned. One that cannot has no steps, and what reads its outputs is
/// planned all the same.
pub fn plan_what_can_be(loaded: &Loaded, registry: &Registry, closure: Vec<u32>) -> (StepGraph, PlanErrors) {
    let count = loaded.targets.len();
    let mut errors = Vec::new();
    let mut rules: Vec<Option<Box<dyn Rule>>> = (0..count).map(|_| None).collect();
    let instantiate = |t: &u32| {
        let target = &loaded.targets[*t as usize];
        registry.instantiate(&target.rule, &target.value)
    };
    let made: Vec<_> = closure.par_iter().with_min_len(64).map(instantiate).collect();
    for (&t, rule) in closure.iter().zip(made) {
        match rule {
            Ok(rule) => rules[t as usize] = Some(rule),
            Err(e) => errors.push((t, PlanError::new(2, e))),
        }
    }
    let mut graph = StepGraph {
        steps: Vec::new(),
        closure,
        of_target: vec![Vec::new(); count],
        watched: Vec::new(),
        lacks: Vec::new(),
        depots: Vec::new(),
        outputs: vec![Vec::new(); count],
    };
    let by_targets =
        loaded.targets.iter().flat_map(|t| &t.references).map(|r| (r.target, r.output.as_deref()));
    let by_dist = loaded.dist.iter().map(|d| (d.target, d.output.as_deref()));
    let read = by_targets.chain(by_dist).filter_map(|(t, o)| Some((t, o?))).collect();
    for i in 0..graph.closure.len() {
        let t = graph.closure[i];
        let Some(rule) = &rules[t as usize] else { continue };
        let mut planner =
            Planner { target: t, loaded, rules: &rules, read: &read, plan: TargetPlan::default() };
        match rule.plan(&mut planner) {
            Ok(()) => graph.add(t, planner.plan, loaded.overridden(t)),
            Err(e) => errors.push((t, e)),
        }
    }
    graph.link();
    (graph, errors)
}

impl StepGraph {
    fn add(&mut self, target: u32, plan: TargetPlan, overridden: Option<&Override>) {
        let first = self.steps.len() as StepIx;
        self.watched.extend(plan.watched);
        self.depots.extend(plan.depots);
        for (position, step) in plan.steps.into_iter().enumerate() {
            self.of_target[target as usize].push(first + position as StepIx);
            let reads = |o: &Override| step.inputs.iter().any(|i| i.from == Input::External(o.path.clone()));
            self.steps.push(StepNode {
                target,
                position,
                overridden: overridden.is_some_and(reads),
                step,
                needs: Vec::new(),
                gated_by: Vec::new(),
                feeds: Vec::new(),
            });
        }
        self.lacks.extend(plan.lacks.into_iter().map(|lacking| (target, lacking)));
        let outputs = plan.outputs.into_iter();
        self.outputs[target as usize] =
            outputs.map(|(name, (position, output))| (name, first + position as StepIx, output)).collect();
    }

    fn link(&mut self) {
        for ix in 0..self.steps.len() {
            let node = &self.steps[ix];
            let mut needs: Vec<StepIx> = node
                .step
                .inputs
                .iter()
                .filter_map(|i| self.source_of(node, &i.from).map(|(step, _)| step))
                .collect();
            needs.sort_unstable();
            needs.dedup();
            let gates: Vec<StepIx> = node
                .step
                .gates
                .iter()
                .flat_map(|(target, name)| {
                    let steps = &self.of_target[*target as usize];
                    steps.iter().copied().filter(|s| self.steps[*s as usize].step.name == *name)
                })
                .collect();
            for &need in &needs {
                self.steps[need as usize].feeds.push(ix as StepIx);
            }
            for gated in gates {
                self.steps[gated as usize].gated_by.push(ix as StepIx);
            }
            self.steps[ix].needs = needs;
        }
    }
}

/// Host paths of the workspace that a build works in.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Directory of mosbuild.yaml.
    pub root: PathBuf,
    /// `.mosbuild`.
    pub state: PathBuf,
    /// `dist` or `--out`.
    pub dist: PathBuf,
}
