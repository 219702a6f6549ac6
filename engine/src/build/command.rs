//! Runs a command step, laid out by layout.rs, and captures what it declares.
//! Knows no rule and no scheduling.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mosbuild_cache::{CaptureOptions, Ingest, Output, OutputKind};

use super::layout::{Layout, lay_out};
use super::worker::{Broken, Execution, Job};
use crate::action::{Command, CommandOutput, EnvVar, ExecutorKind, OutKind, StepError};
use crate::exec::{self, CancelToken, End, Executor, Owners, Watch};
use crate::rooted;

struct Listener<'a> {
    job: &'a Job,
    secrets: Vec<String>,
}

impl Watch for Listener<'_> {
    fn line(&self, line: &str) {
        match self.secrets.is_empty() {
            true => self.job.line(line),
            false => {
                self.job.line(&String::from_utf8_lossy(&masked(line.as_bytes().to_vec(), &self.secrets)))
            }
        }
    }
    fn cancel(&self) -> Option<&CancelToken> {
        Some(&self.job.prepared.cancel)
    }
}

pub(super) fn run(job: &Job, command: &Command, log: &mut Vec<u8>) -> Result<Execution, Broken> {
    let mut scratch = job.store.scratch("step")?;
    let layout = lay_out(job.node(), command, &job.inputs, &job.prepared, &job.store, &mut scratch)?;
    let executor: &dyn Executor = match command.executor {
        ExecutorKind::Sandbox => &exec::Sandbox,
        ExecutorKind::Container => job.prepared.container.as_ref().ok_or_else(no_container)?,
        ExecutorKind::Host => &exec::Host,
    };
    let secrets = secrets(command);
    let outcome = executor.run(&layout.job, &Listener { job, secrets: secrets.clone() });
    if outcome.as_ref().map_or(true, |o| o.log_bytes > 0) {
        *log = masked(std::fs::read(&layout.job.log).unwrap_or_default(), &secrets);
    }
    let broken = |error: StepError, log: &Vec<u8>| Broken { error: Box::new(error), log: log.clone() };
    let outcome = outcome.map_err(|e| broken(StepError::new(e.to_string()).exit(e.exit()), log))?;
    if !outcome.success() {
        return Err(broken(explain(job, command, &outcome, log), log));
    }
    let made = capture(job, command, &layout, &outcome.owners, log);
    let (outputs, mut facts) = made.map_err(|error| broken(error, log))?;
    if command.console.is_some() {
        facts.insert("seconds".into(), format!("{:.1}", outcome.wall.as_secs_f64()));
        let seen = outcome.marks.iter().map(|(name, at)| (name.clone(), format!("{:.1}", at.as_secs_f64())));
        facts.extend(seen);
    }
    if outcome.alone {
        scratch.recycle();
    }
    let sandboxed = command.executor != ExecutorKind::Host;
    Ok(Execution { outputs, facts, notes: Vec::new(), sandboxed })
}

fn no_container() -> StepError {
    StepError::new("no container was made ready; this is a fault of mosbuild")
}

/// Values of the variables that are declared as secrets.
fn secrets(command: &Command) -> Vec<String> {
    let secret = |v: &EnvVar| match v {
        EnvVar::Host { name, secret: true } => std::env::var(name).ok().filter(|v| !v.is_empty()),
        _ => None,
    };
    command.env.values().filter_map(secret).collect()
}

/// A log in which `***` stands for each secret: it is kept, shown and shared.
fn masked(log: Vec<u8>, secrets: &[String]) -> Vec<u8> {
    secrets.iter().fold(log, |log, secret| {
        let finder = memchr::memmem::Finder::new(secret);
        if finder.find(&log).is_none() {
            return log;
        }
        let mut out = Vec::with_capacity(log.len());
        let mut rest = &log[..];
        while let Some(at) = finder.find(rest) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(b"***");
            rest = &rest[at + secret.len()..];
        }
        out.extend_from_slice(rest);
        out
    })
}

/// What a person needs to hear of a command that did not succeed.
fn explain(job: &Job, command: &Command, outcome: &exec::Outcome, log: &[u8]) -> StepError {
    let seconds = outcome.wall.as_secs_f64();
    let text = match &outcome.end {
        End::Exit(0) | End::Expected => {
            format!("it ended after {seconds:.1} s without printing {}", quoted(&outcome.missing))
        }
        End::Exit(code) if !outcome.missing.is_empty() => format!(
            "it exited with code {code} after {seconds:.1} s without printing {}",
            quoted(&outcome.missing)
        ),
        End::Exit(code) => format!("it exited with code {code} after {seconds:.1} s"),
        End::OutOfMemory => {
            format!("it was killed after {seconds:.1} s for want of memory{}", bound(job, command))
        }
        End::Signal(9) if command.memory.is_some() => "it was killed (memory limit?)".into(),
        End::Signal(signal) => format!("it was killed by signal {signal}"),
        End::TimedOut if !outcome.missing.is_empty() => format!(
            "its time limit of {seconds:.0} s passed without {} in its output",
            quoted(&outcome.missing)
        ),
        End::TimedOut => format!("its time limit passed; it was stopped after {seconds:.0} s"),
        End::Cancelled => "it was interrupted".into(),
        End::Forbidden(line) => format!("its output has a forbidden line: {line}"),
    };
    let mut error = StepError::new(text);
    if let Some(console) = command.console.as_ref().filter(|c| !c.marks.is_empty()) {
        let seen =
            |name: &str| outcome.marks.iter().find(|(seen, _)| seen == name).map(|(_, at)| at.as_secs_f64());
        let reached = console.marks.iter().map(|(name, text)| match seen(name) {
            Some(seconds) => format!("\"{}\" after {seconds:.1} s", text.trim()),
            None => format!("no \"{}\"", text.trim()),
        });
        error = error.help(format!("how far it came: {}", reached.collect::<Vec<_>>().join(", ")));
    }
    if let End::Exit(code) = outcome.end {
        let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
        let contained = command.executor == ExecutorKind::Container;
        let hint = match code {
            127 if contained => job.prepared.container.as_ref().map(|container| {
                format!("what is not found has to be in the image {}", container.image_name())
            }),
            _ if contained => None,
            127 => crate::tools::explain_127(&tail),
            _ => crate::tools::explain_tool(&tail),
        };
        if let Some(hint) = hint {
            error = error.help(hint);
        }
    }
    if command.executor != ExecutorKind::Host && outcome.end != End::Cancelled {
        error = error.help(format!("`mosbuild shell {}` opens a shell where it ran", job.target()));
    }
    error
}

/// What a container could have.
fn bound(job: &Job, command: &Command) -> String {
    let of_workspace = || job.prepared.loaded.execution.container.memory;
    match command.memory.or_else(of_workspace) {
        Some(bytes) => format!(": its container may have {} MiB in all", bytes >> 20),
        None => String::new(),
    }
}

fn quoted(texts: &[String]) -> String {
    texts.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ")
}

type Captured = (BTreeMap<String, Output>, BTreeMap<String, String>);

fn capture(
    job: &Job,
    command: &Command,
    layout: &Layout,
    owners: &Owners,
    log: &[u8],
) -> Result<Captured, StepError> {
    let mut facts = BTreeMap::new();
    for (name, path) in &command.facts {
        let text = std::fs::read_to_string(layout.out.join(path))
            .map_err(|e| StepError::new(format!("fact {name}, read from $OUT/{path}: {e}")))?;
        facts.insert(name.clone(), text.trim().to_owned());
    }
    let mut outputs = BTreeMap::new();
    for output in &command.outputs {
        let made = match output.path.as_str() {
            "<log>" => {
                let digest = job.store.put_bytes(log)?;
                let kind = OutputKind::File { executable: false };
                Output { kind, digest, size: log.len() as u64 }
            }
            path => match layout.roots.iter().find(|(at, ..)| at == path) {
                Some((_, dir, base)) => {
                    let tree = rooted::capture(&job.store, dir, owners, base)?;
                    let digest = job.store.put_tree(&tree)?;
                    Output { kind: OutputKind::Tree, digest, size: tree.file_bytes() }
                }
                None => capture_one(job, command, output, layout)?,
            },
        };
        outputs.insert(output.name.clone(), made);
    }
    Ok((outputs, facts))
}

fn capture_one(
    job: &Job,
    command: &Command,
    output: &CommandOutput,
    layout: &Layout,
) -> Result<Output, StepError> {
    let at = host_path(output, layout);
    let shown = match output.path.starts_with('/') {
        true => output.path.clone(),
        false => format!("$OUT/{}", output.path),
    };
    let meta = match std::fs::symlink_metadata(&at) {
        Ok(meta) => meta,
        Err(_) => return Err(absent(output, &shown, &layout.out)),
    };
    match output.kind {
        OutKind::File if meta.is_file() => {
            use std::os::unix::fs::PermissionsExt;
            let executable = meta.permissions().mode() & 0o100 != 0;
            // A tree may hold files that are outputs themselves; then they are not moved away.
            let how = match command.outputs.iter().all(|o| o.kind == OutKind::File) {
                true => Ingest::Move { executable },
                false => Ingest::Link { executable },
            };
            let (digest, size) = job.store.put_file(&at, how)?;
            Ok(Output { kind: OutputKind::File { executable }, digest, size })
        }
        OutKind::Tree if meta.is_dir() => {
            let tree = job.store.capture_dir(&at, CaptureOptions::outputs())?;
            let size = tree.file_bytes();
            let digest = job.store.put_tree(&tree)?;
            Ok(Output { kind: OutputKind::Tree, digest, size })
        }
        OutKind::File => {
            Err(StepError::new(format!("{shown} is declared as a file, but is {}", kind_of(&meta)))
                .help("declare it with a trailing / if it is a tree"))
        }
        OutKind::Tree => {
            Err(StepError::new(format!("{shown} is declared as a tree, but is {}", kind_of(&meta)))
                .help("declare it without the trailing / if it is a file"))
        }
    }
}

fn host_path(output: &CommandOutput, layout: &Layout) -> PathBuf {
    for (inside, outside) in &layout.writable {
        if let Ok(rest) = Path::new(&output.path).strip_prefix(inside) {
            return if rest.as_os_str().is_empty() { outside.clone() } else { outside.join(rest) };
        }
    }
    match output.path.trim_end_matches('/') {
        "" => layout.out.clone(),
        path => layout.out.join(path),
    }
}

fn kind_of(meta: &std::fs::Metadata) -> &'static str {
    match meta {
        m if m.is_file() => "a file",
        m if m.is_dir() => "a folder",
        m if m.is_symlink() => "a symlink",
        _ => "neither a file nor a folder",
    }
}

fn absent(output: &CommandOutput, shown: &str, out: &Path) -> StepError {
    let error =
        StepError::new(format!("it succeeded, but did not make its output {} ({shown})", output.name));
    let mut names: Vec<String> = std::fs::read_dir(out)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.is_empty() {
        true => error.help("$OUT is empty; write outputs to \"$OUT\"/NAME"),
        false => error.help(format!("$OUT holds: {}", names.join(", "))),
    }
}
