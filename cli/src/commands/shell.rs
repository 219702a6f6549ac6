//! `mosbuild shell`: a person in the place of a step, with its inputs, tools and environment.

use std::collections::HashMap;
use std::sync::Arc;

use clap::Args;
use mosbuild_cache::{ActionResult, Digest};
use mosbuild_engine::action::{Command, ExecutorKind, Work};
use mosbuild_engine::build::prepare_shell;
use mosbuild_engine::exec::container::{Bring, Trouble};
use mosbuild_engine::exec::{Container, End, Executor, Host, Job, Mount, Sandbox};
use mosbuild_engine::plan::StepNode;

use super::log::split;
use crate::args::{GlobalArgs, StoreArgs};
use crate::failure::Failure;
use crate::session::{Access, Session};
use crate::standing::{Forecasted, forecast};
use crate::ui::{Paint, Ui};

/// Arguments of `shell`.
#[derive(Args, Debug)]
pub struct ShellArgs {
    /// The target, or target:step
    #[arg(value_name = "TARGET", required_unless_present = "container")]
    target: Option<String>,
    /// In a container of the workspace's image, whoever runs the step; without TARGET in the workspace itself
    #[arg(long)]
    container: bool,
    /// The step [default: the last one that runs a command]
    #[arg(long, value_name = "S")]
    step: Option<String>,
    /// Run this instead of an interactive shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Opens it.
pub fn run(ui: &Ui, global: &GlobalArgs, args: &ShellArgs) -> Result<u8, Failure> {
    // It works in a scratch of its own: who looks around does not keep others from building.
    let mut session = Session::open(ui, global, &args.store, Access::Read)?;
    let Some(named) = &args.target else { return in_workspace(ui, &session, args) };
    let (target, step) = split(named, args.step.as_deref());
    let index = session.target(target)?;
    let mut found = forecast(&mut session, vec![target.to_owned()])?;
    if args.container {
        found.prepared.container = Some(open_container(&session)?);
    }
    let node = choose(&found, index, target, step)?;
    let Work::Command(command) = &node.step.work else {
        return Err(Failure::usage(format!("{target}:{} runs no command", node.step.name)));
    };
    let results = results(&session, &found)?;
    let evaluator = found.prepared.evaluator(session.store());
    let made = |ix: u32, name: &str| results.get(&ix)?.outputs.get(name).cloned();
    let Some(inputs) = evaluator.inputs(node, &made) else {
        let missing = missing(&session, &found, node, &results);
        return Err(Failure::new(1, format!("{target}:{} needs what is not built yet", node.step.name))
            .help(format!("run `mosbuild build {}` first", missing.join(" "))));
    };
    let mut command = command.clone();
    if args.container {
        command.executor = ExecutorKind::Container;
    }
    let command = &command;
    let opened = prepare_shell(node, command, &inputs, &found.prepared, session.store());
    let mut shell =
        opened.map_err(|e| Failure::Errors { exit: e.exit, errors: vec![(e.message, e.help)] })?;
    if !args.command.is_empty() {
        shell.job.argv = args.command.iter().map(Into::into).collect();
    } else {
        ui.note(&introduction(ui, target, &node.step.name, command));
    }
    let outcome = match (command.executor, &found.prepared.container) {
        (ExecutorKind::Sandbox, _) => Sandbox.run(&shell.job, &()),
        (ExecutorKind::Container, Some(container)) => container.run(&shell.job, &()),
        (ExecutorKind::Container, None) => {
            return Err(Failure::new(3, "no container was made ready; this is a fault of mosbuild"));
        }
        (ExecutorKind::Host, _) => Host.run(&shell.job, &()),
    };
    // The scratch directory goes when the shell has ended, not before.
    drop(shell.scratch);
    let outcome = outcome.map_err(|e| Failure::new(3, e.to_string()))?;
    ended(outcome.end, args)
}

/// The image is brought in if it is absent.
fn open_container(session: &Session) -> Result<Container, Failure> {
    let options = session.workspace.site.executors.options(&session.workspace.loaded);
    let quiet: Bring = Arc::new(|_, _, _| {});
    let told = |trouble: Trouble| Failure::Errors {
        exit: trouble.exit,
        errors: vec![(trouble.message, trouble.help)],
    };
    Container::open(&options, Some(&quiet)).map_err(told)
}

/// A shell in a container that sees the workspace, writable, and nothing else of this machine.
fn in_workspace(ui: &Ui, session: &Session, args: &ShellArgs) -> Result<u8, Failure> {
    const AT: &str = "/workspace";
    let container = open_container(session)?;
    let scratch = session.store().scratch("shell")?;
    let mut env = vec![("PATH".into(), container.path().into()), ("HOME".into(), "/tmp".into())];
    env.extend(["TERM", "COLORTERM"].iter().filter_map(|n| Some(((*n).into(), std::env::var_os(n)?))));
    let argv = match args.command.is_empty() {
        true => vec!["sh".into()],
        false => args.command.iter().map(Into::into).collect(),
    };
    if args.command.is_empty() {
        let text = "a shell in a container of {}, with the workspace at /workspace; `exit` or Ctrl-D leaves";
        ui.note(&text.replace("{}", container.image_name()));
    }
    let job = Job {
        argv,
        env,
        cwd: AT.into(),
        mounts: vec![Mount::writable(&session.workspace.loaded.root, AT)],
        log: scratch.path().join("log"),
        interactive: true,
        ..Job::default()
    };
    let outcome = container.run(&job, &());
    drop(scratch);
    ended(outcome.map_err(|e| Failure::new(e.exit(), e.to_string()))?.end, args)
}

fn ended(end: End, args: &ShellArgs) -> Result<u8, Failure> {
    Ok(match end {
        End::Exit(0) => 0,
        // Whatever the last command of a session gave is no failure of the session.
        End::Exit(_) if args.command.is_empty() => 0,
        _ => 1,
    })
}

fn choose<'a>(
    found: &'a Forecasted,
    target: u32,
    name: &str,
    step: Option<&str>,
) -> Result<&'a StepNode, Failure> {
    let graph = &found.prepared.graph;
    let steps: Vec<&StepNode> =
        graph.of_target[target as usize].iter().map(|s| &graph.steps[*s as usize]).collect();
    let mut commands = steps.iter().filter(|s| matches!(s.step.work, Work::Command(_)));
    match step {
        Some(step) => steps.iter().find(|s| s.step.name == step).copied().ok_or_else(|| {
            let known: Vec<&str> = steps.iter().map(|s| s.step.name.as_str()).collect();
            Failure::usage(format!("{name} has no step {step}"))
                .help(format!("its steps are {}", known.join(", ")))
        }),
        None => commands.next_back().copied().ok_or_else(|| {
            Failure::usage(format!("no step of {name} runs a command: there is no sandbox to open"))
        }),
    }
}

/// Results of all steps that are hits, by step.
fn results(session: &Session, found: &Forecasted) -> Result<HashMap<u32, Arc<ActionResult>>, Failure> {
    let mut all = HashMap::new();
    for (ix, note) in (0u32..).zip(&found.predicted.steps) {
        let Some(key) = note.key else { continue };
        let remembered = session.workspace.memory.get(&note.target, &note.step);
        let same = |key: &Digest| remembered.filter(|m| m.key == Some(*key)).and_then(|m| m.result.clone());
        let result = match same(&key) {
            Some(result) => Some(result),
            None => session.store().get_result(&key)?.map(Arc::new),
        };
        all.extend(result.map(|result| (ix, result)));
    }
    Ok(all)
}

/// Targets of the steps that the step needs and that have no result.
fn missing(
    session: &Session,
    found: &Forecasted,
    node: &StepNode,
    results: &HashMap<u32, Arc<ActionResult>>,
) -> Vec<String> {
    let lacking = node.needs.iter().filter(|n| !results.contains_key(n));
    let mut names: Vec<String> =
        lacking.map(|n| session.name(found.prepared.graph.steps[*n as usize].target).to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn introduction(ui: &Ui, target: &str, step: &str, command: &Command) -> String {
    let bold = |text: &str| Paint::Bold.on(ui.color_err, text);
    let wherein = match command.executor {
        ExecutorKind::Sandbox => "in its sandbox",
        ExecutorKind::Container => "in a container like its own",
        ExecutorKind::Host => "on the host, where it runs without a sandbox",
    };
    let mut text = format!("a shell in the place of {}, {wherein}; ", bold(&format!("{target}:{step}")));
    text.push_str("nothing that is written here is kept. The step runs:\n");
    match &command.script {
        Some(script) => script.lines().for_each(|line| text.push_str(&format!("  {line}\n"))),
        None => text.push_str(&format!("  {}\n", command.argv.join(" "))),
    }
    text.push_str("`exit` or Ctrl-D leaves");
    text
}
