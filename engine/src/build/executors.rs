//! Who runs each command: what target, rule, workspace and user say, and what can be had on this host.
//! Tries sandbox and daemon, and brings in the image. Runs no step.

use std::path::Path;

use super::{Blocked, BuildError};
use crate::action::{DEPS_DIR, ExecutorKind, Place, Step, Work};
use crate::exec::container::{Bring, Trouble};
use crate::exec::{self, Container, ContainerOptions, Unavailable};
use crate::load::Loaded;
use crate::load::executors::Choice;
use crate::plan::{StepGraph, StepNode};
use crate::rule::EXECUTOR;

/// What the user says, over and below what the workspace says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Executors {
    /// Where the workspace leaves the choice.
    pub choice: Choice,
    /// Of this call (variables): over the workspace's.
    pub over: ContainerOptions,
    /// Of the settings: where the workspace names none.
    pub container: ContainerOptions,
}

impl Executors {
    /// The options of containers in this workspace.
    pub fn options(&self, loaded: &Loaded) -> ContainerOptions {
        let mut own = loaded.execution.container.clone();
        own.archive = own.archive.map(|archive| loaded.root.join(archive));
        self.over.or(&own).or(&self.container)
    }
}

/// What was found to run commands with.
#[derive(Default)]
pub struct Executing {
    /// The container executor, where a step is run by it.
    pub container: Option<Container>,
    /// Why it cannot be had, where a step would be run by it.
    pub no_container: Option<Trouble>,
    /// Why no step can be sandboxed, where one would be.
    pub no_sandbox: Option<Unavailable>,
    /// What `auto` came to, and why; none where nothing was left to it.
    pub auto: Option<(ExecutorKind, String)>,
    /// Targets that are to run on the host and cannot.
    pub unfit: Vec<u32>,
    /// Some sandboxed step has no other way.
    pub only_sandbox: bool,
}

/// Decides for each command of the graph and writes it into it. Of steps of which `active` says no, nothing is tried.
/// With `bring` an absent image is brought in.
pub fn decide(
    graph: &mut StepGraph,
    loaded: &Loaded,
    user: &Executors,
    active: &dyn Fn(usize) -> bool,
    bring: Option<&Bring>,
) -> Executing {
    let mut found = Executing::default();
    let choices: Vec<Option<Choice>> =
        graph.steps.iter().map(|node| choice(node, loaded, user, &mut found.unfit)).collect();
    let any = |wanted: Choice| (0..choices.len()).any(|ix| active(ix) && choices[ix] == Some(wanted));
    let builtins = |node: &StepNode| matches!(&node.step.work, Work::Builtin(_)) && node.step.is_sandboxed();
    let of_steps = |wanted: &dyn Fn(&StepNode) -> bool| {
        (0..choices.len()).any(|ix| active(ix) && wanted(&graph.steps[ix]))
    };
    let rooted = of_steps(&|node| node.step.is_rooted() || asks_in_a_root(node));
    found.only_sandbox = rooted || of_steps(&builtins);
    let (auto, sandboxed) = (any(Choice::Auto), any(Choice::Sandbox) || found.only_sandbox);
    let mut contained = any(Choice::Container);
    let plain = if auto || sandboxed { exec::probe() } else { Ok(()) };
    let mut chosen = ExecutorKind::Sandbox;
    if auto {
        let why = match &plain {
            Ok(()) => "namespaces work here".to_owned(),
            Err(refused) => format!("the sandbox is refused: {}", refused.reason),
        };
        if plain.is_err() && user.options(loaded).names_image() {
            chosen = ExecutorKind::Container;
            contained = true;
        }
        found.auto = Some((chosen, why));
    }
    if contained {
        match Container::open(&user.options(loaded), bring) {
            Ok(container) => found.container = Some(container),
            Err(trouble) => found.no_container = Some(trouble),
        }
    } else if auto && plain.is_err() {
        // Said beside the reason why there is no sandbox.
        found.no_container = Container::open(&user.options(loaded), None).err();
    }
    let root = if rooted { exec::probe_root() } else { Ok(()) };
    if sandboxed || auto && chosen == ExecutorKind::Sandbox {
        found.no_sandbox = plain.and(root).err();
    }
    for (node, choice) in graph.steps.iter_mut().zip(choices) {
        if let (Work::Command(command), Some(choice)) = (&mut node.step.work, choice) {
            command.executor = match choice {
                Choice::Auto => chosen,
                Choice::Sandbox => ExecutorKind::Sandbox,
                Choice::Container => ExecutorKind::Container,
                Choice::Host => ExecutorKind::Host,
            };
        }
    }
    found
}

fn asks_in_a_root(node: &StepNode) -> bool {
    matches!(&node.step.work, Work::Builtin(builtin) if builtin.asks_in_a_root())
}

/// What is said for a command; none for a builtin.
fn choice(node: &StepNode, loaded: &Loaded, user: &Executors, unfit: &mut Vec<u32>) -> Option<Choice> {
    let Work::Command(_) = &node.step.work else { return None };
    let target = &loaded.targets[node.target as usize];
    if node.step.is_rooted() {
        return Some(Choice::Sandbox);
    }
    let own = target.value.get(EXECUTOR).and_then(|value| Choice::parse(value.as_str()?));
    let of_rule = loaded.execution.rules.get(&target.rule).copied().unwrap_or_default();
    let said = own.unwrap_or_default().or(of_rule);
    let choice = said.or(loaded.execution.default).or(user.choice);
    if choice == Choice::Host && !runs_on_host(&node.step) {
        // Who says it of all that there is means what can be.
        if said == Choice::Host {
            unfit.push(node.target);
        }
        return Some(Choice::Auto);
    }
    Some(choice)
}

/// Whether a step needs no fixed path: those are other programs' on the host.
fn runs_on_host(step: &Step) -> bool {
    let Work::Command(command) = &step.work else { return false };
    let free = |place: &Place| match place {
        Place::Unplaced | Place::Work => true,
        Place::ReadOnly(path) => Path::new(path).starts_with(DEPS_DIR),
        Place::Writable(_) | Place::Root => false,
    };
    step.inputs.iter().all(|input| free(&input.place))
        && !command.cwd.starts_with('/')
        && command.outputs.iter().all(|output| !output.path.starts_with('/'))
}

impl Executing {
    /// Why a build cannot start, if it cannot.
    pub fn refusal(&self, loaded: &Loaded) -> Option<BuildError> {
        if let Some(target) = self.unfit.first() {
            let target = &loaded.targets[*target as usize];
            let place = format!("{}:{}: {}", loaded.file_name(), target.line, target.name);
            return Some(
                BuildError::new(2, format!("{place}: a {} cannot run on the host itself", target.rule))
                    .help("its steps need paths of their own: leave `executor: host` out, or set sandbox or container"),
            );
        }
        if let Some(refused) = &self.no_sandbox {
            return Some(self.without_sandbox(refused));
        }
        if self.container.is_some() {
            return None;
        }
        let error = told(self.no_container.as_ref()?);
        Some(match &self.auto {
            Some((ExecutorKind::Container, why)) => error.help(format!("a container is wanted, since {why}")),
            _ => error,
        })
    }

    fn without_sandbox(&self, refused: &Unavailable) -> BuildError {
        let error = BuildError::new(3, format!("steps cannot be sandboxed here: {}", refused.reason))
            .help(refused.remedy.clone());
        if self.only_sandbox {
            return error;
        }
        let error = match &self.no_container {
            Some(trouble) => trouble.help.iter().fold(
                error.help(format!("or run them in containers; {}", trouble.message)),
                |error, line| error.help(line.clone()),
            ),
            None => error,
        };
        error.help("or set `executor: host` on the targets that may run without a sandbox")
    }

    /// The same for who asks of single steps: what keeps sandboxed ones from running, and those in containers.
    pub(super) fn blocked(&self) -> (Option<Blocked>, Option<Blocked>) {
        let sandbox =
            self.no_sandbox.as_ref().and_then(|refused| self.without_sandbox(refused).into_blocked());
        let container = match &self.container {
            Some(_) => None,
            None => self.no_container.as_ref().and_then(|trouble| told(trouble).into_blocked()),
        };
        (sandbox, container)
    }
}

fn told(trouble: &Trouble) -> BuildError {
    let error =
        BuildError::new(trouble.exit, format!("steps cannot be run in containers: {}", trouble.message));
    trouble.help.iter().fold(error, |error, line| error.help(line.clone()))
}
