//! The command line: global flags, the commands, and how the two come together.
//! Parses only; what a command does stands in its own file.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    boot, build, cat, clean, completions, diff, doctor, fetch, graph, import, list, lock, log, ls, publish,
    runs, sbom, schema, shell, show, size, test, verify, version, why,
};
use crate::failure::Failure;
use crate::ui::Ui;

/// Builds a Linux boot image from a declaration, each piece of work once.
#[derive(Parser, Debug)]
#[command(name = "mosbuild", version, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 a step failed, 2 wrong usage or configuration, 3 something is \
                        missing on this host, 4 a source could not be fetched or does not match its lock, \
                        10 `why`: rebuilt, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// The global flags, wherever they stood, and the command.
    pub fn split(self) -> (GlobalArgs, Command) {
        let behind = self.command.global().clone();
        (self.global.then(behind), self.command)
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless NO_COLOR or CI is set.
    Auto,
    /// Always.
    Always,
    /// Never; progress is not redrawn either.
    Never,
}

/// Flags of every command, before or behind its name.
// clap's own `global = true` keeps only one of `--set a=1 build --set b=2`, so that each command has them too.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Work in this directory, from which other relative paths are meant; its mosbuild.yaml is taken, none above it
    #[arg(short = 'C', value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
    /// Another file than mosbuild.yaml; the workspace is the directory that holds it
    #[arg(short = 'f', value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub file: Option<PathBuf>,
    /// Lay a profile over the file
    #[arg(long, value_name = "P")]
    pub profile: Option<String>,
    /// Set a variable; may be repeated
    #[arg(long, value_name = "k=v", value_parser = assignment)]
    pub set: Vec<(String, String)>,
    /// Build a component from this folder, a working copy, in place of its source; may be repeated. Never locked
    #[arg(long = "override", value_name = "NAME=PATH", value_parser = working_copy)]
    pub overrides: Vec<(String, PathBuf)>,
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN")]
    pub color: Option<ColorWhen>,
    /// Print every line of output of the steps that run
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print errors and the summary only
    #[arg(short = 'q', long, action = clap::ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

impl GlobalArgs {
    /// These, and behind them those that stood later on the line and win.
    fn then(mut self, later: GlobalArgs) -> GlobalArgs {
        self.set.extend(later.set);
        self.overrides.extend(later.overrides);
        GlobalArgs {
            directory: later.directory.or(self.directory),
            file: later.file.or(self.file),
            profile: later.profile.or(self.profile),
            set: self.set,
            overrides: self.overrides,
            color: later.color.or(self.color),
            verbose: self.verbose.saturating_add(later.verbose),
            quiet: self.quiet.saturating_add(later.quiet),
        }
    }

    /// As words of a command line, for another process in the same directory.
    pub fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: &OsStr| words.extend([OsString::from(name), value.to_owned()]);
        if let Some(dir) = &self.directory {
            flag("-C", dir.as_os_str());
        }
        if let Some(file) = &self.file {
            flag("-f", file.as_os_str());
        }
        if let Some(profile) = &self.profile {
            flag("--profile", OsStr::new(profile));
        }
        for (name, value) in &self.set {
            flag("--set", OsStr::new(&format!("{name}={value}")));
        }
        if let Some(when) = self.color.and_then(|when| when.to_possible_value()) {
            flag("--color", OsStr::new(when.get_name()));
        }
        match self.verbosity() {
            1 => words.push("-v".into()),
            -1 => words.push("-q".into()),
            _ => {}
        }
        words
    }

    /// -1 quiet, 0, 1 verbose.
    pub fn verbosity(&self) -> i8 {
        i8::from(self.verbose > 0) - i8::from(self.quiet > 0)
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write name=value".into()),
    }
}

fn working_copy(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err("write TARGET=FOLDER".into()),
    }
}

/// Where the store is.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreArgs {
    /// The store [default: $MOSBUILD_CACHE_DIR, else cache_dir of the user's settings, else
    /// $XDG_CACHE_HOME/mosbuild, else ~/.cache/mosbuild]
    #[arg(long, value_name = "D", value_hint = clap::ValueHint::DirPath)]
    pub cache_dir: Option<PathBuf>,
}

/// A command's own arguments with the global flags.
#[derive(Args, Debug)]
pub struct With<T: Args> {
    #[command(flatten)]
    args: T,
    #[command(flatten)]
    global: GlobalArgs,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Build targets; the default ones if none is named
    Build(With<build::BuildArgs>),
    /// Say why a target was built, or came from the cache
    Why(With<why::WhyArgs>),
    /// List the targets with rule, state, size and last cost
    List(With<list::ListArgs>),
    /// Show one target: definition, inputs, outputs, key, facts, cost
    Show(With<show::ShowArgs>),
    /// Say what is in an image, by layer, package and file, before and after compression
    Size(With<size::SizeArgs>),
    /// List the entries of an output, an archive, or the initramfs in an image
    Ls(With<ls::LsArgs>),
    /// Print one file of an output, an archive or an image
    Cat(With<cat::CatArgs>),
    /// Compare two outputs, files or runs by entry, each difference with its cause
    Diff(With<diff::DiffArgs>),
    /// Write a bill of materials of an image: every package, crate, source and licence
    Sbom(With<sbom::SbomArgs>),
    /// Show the graph of targets, coloured by state
    Graph(With<graph::GraphArgs>),
    /// Print the output of a target's last run
    Log(With<log::LogArgs>),
    /// List past runs
    Runs(With<runs::RunsArgs>),
    /// Open a shell in the prepared sandbox of a target's step
    Shell(With<shell::ShellArgs>),
    /// Start an image interactively
    Boot(With<boot::BootArgs>),
    /// Run boot tests; results are cached like any other
    Test(With<test::TestArgs>),
    /// Build targets twice, apart, in surroundings that differ, and compare what was made to the byte
    Verify(With<verify::VerifyArgs>),
    /// Upload kernels and flists to S3 as config/publish.yaml says, and update kernels.txt and kernels.json
    Publish(With<publish::PublishArgs>),
    /// Pin every source in mosbuild.lock, and print what changed
    Lock(With<lock::LockArgs>),
    /// Download all that mosbuild.lock names
    Fetch(With<fetch::FetchArgs>),
    /// Remove what mosbuild placed in dist/, and scratch
    Clean(With<clean::CleanArgs>),
    /// Say what the workspace needs from this host, and what is missing
    Doctor(With<doctor::DoctorArgs>),
    /// Print files of the old shell pipeline (sources.conf, packages.list, …) as targets
    Import(With<import::ImportArgs>),
    /// Print the JSON schema of mosbuild.yaml
    Schema(With<schema::SchemaArgs>),
    /// Print a completion script for a shell
    Completions(With<completions::CompletionsArgs>),
    /// Print the version
    Version(With<version::VersionArgs>),
}

impl Command {
    fn global(&self) -> &GlobalArgs {
        match self {
            Command::Build(c) => &c.global,
            Command::Why(c) => &c.global,
            Command::List(c) => &c.global,
            Command::Show(c) => &c.global,
            Command::Size(c) => &c.global,
            Command::Ls(c) => &c.global,
            Command::Cat(c) => &c.global,
            Command::Diff(c) => &c.global,
            Command::Sbom(c) => &c.global,
            Command::Graph(c) => &c.global,
            Command::Log(c) => &c.global,
            Command::Runs(c) => &c.global,
            Command::Shell(c) => &c.global,
            Command::Boot(c) => &c.global,
            Command::Test(c) => &c.global,
            Command::Verify(c) => &c.global,
            Command::Publish(c) => &c.global,
            Command::Lock(c) => &c.global,
            Command::Fetch(c) => &c.global,
            Command::Clean(c) => &c.global,
            Command::Doctor(c) => &c.global,
            Command::Import(c) => &c.global,
            Command::Schema(c) => &c.global,
            Command::Completions(c) => &c.global,
            Command::Version(c) => &c.global,
        }
    }

    /// Runs it; `words` is the command line, for the run record.
    pub fn run(self, ui: &Ui, global: &GlobalArgs, words: Vec<String>) -> Result<u8, Failure> {
        match self {
            Command::Build(c) => build::run(ui, global, words, &c.args),
            Command::Why(c) => why::run(ui, global, &c.args),
            Command::List(c) => list::run(ui, global, &c.args),
            Command::Show(c) => show::run(ui, global, &c.args),
            Command::Size(c) => size::run(ui, global, &c.args),
            Command::Ls(c) => ls::run(ui, global, &c.args),
            Command::Cat(c) => cat::run(ui, global, &c.args),
            Command::Diff(c) => diff::run(ui, global, &c.args),
            Command::Sbom(c) => sbom::run(ui, global, &c.args),
            Command::Graph(c) => graph::run(ui, global, &c.args),
            Command::Log(c) => log::run(ui, global, &c.args),
            Command::Runs(c) => runs::run(ui, global, &c.args),
            Command::Shell(c) => shell::run(ui, global, &c.args),
            Command::Boot(c) => boot::run(ui, global, words, &c.args),
            Command::Test(c) => test::run(ui, global, words, &c.args),
            Command::Verify(c) => verify::run(ui, global, words, &c.args),
            Command::Publish(c) => publish::run(ui, global, words, &c.args),
            Command::Lock(c) => lock::run(ui, global, words, &c.args),
            Command::Fetch(c) => fetch::run(ui, global, words, &c.args),
            Command::Clean(c) => clean::run(ui, global, &c.args),
            Command::Doctor(c) => doctor::run(ui, global, &c.args),
            Command::Import(c) => import::run(ui, &c.args),
            Command::Schema(c) => schema::run(ui, &c.args),
            Command::Completions(c) => completions::run(ui, &c.args),
            Command::Version(c) => version::run(ui, &c.args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<(GlobalArgs, Command), clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(Cli::split)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_count_before_and_behind_the_command() {
        let (global, _) = parse("mosbuild --set a=1 -C x build k --set b=2=3 --profile p -v").unwrap();
        let set = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2=3".to_owned())];
        assert_eq!(global.set, set);
        assert_eq!(global.directory.as_deref(), Some(std::path::Path::new("x")));
        assert_eq!((global.profile.as_deref(), global.verbosity()), (Some("p"), 1));
        let (global, _) = parse("mosbuild --override a=../a build --override b=c=d").unwrap();
        assert_eq!(
            global.overrides,
            [("a".to_owned(), "../a".into()), ("b".to_owned(), PathBuf::from("c=d"))]
        );
        let (global, _) = parse("mosbuild -C x -q build -C y").unwrap();
        assert_eq!(global.directory.as_deref(), Some(std::path::Path::new("y")));
        assert_eq!(global.verbosity(), -1);
    }

    #[test]
    fn commands_and_flags_of_later_work_are_unknown() {
        for name in "cache trace init".split(' ') {
            let error = parse(&format!("mosbuild {name}")).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::InvalidSubcommand, "{name}");
            assert_eq!(error.exit_code(), 2);
        }
        for flag in ["--remote x", "--trace x"] {
            let error = parse(&format!("mosbuild build {flag}")).unwrap_err();
            assert_eq!((error.kind(), error.exit_code()), (clap::error::ErrorKind::UnknownArgument, 2));
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "build --override x",
            "build --override x=",
            "build --override =x",
            "build --set x",
            "build --set =1",
            "build -j 0",
            "boot --hypervisor xen",
            "boot --disks 25",
            "boot --bridge a --tap b",
            "build -v -q",
        ] {
            assert_eq!(parse(&format!("mosbuild {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
