//! Starts the two builds, one after the other, each in a process of its own with other surroundings.
//! Knows folders and processes; compares nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use mosbuild_cache::{Digest, Scratch, Store};
use mosbuild_engine::exec::elsewhere;

use super::apart::{self, Turn};
use super::compare::Side;
use crate::args::GlobalArgs;
use crate::commands::verify::{Same, VerifyArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::ui::Ui;

/// Variables of the second build, which no step may see.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("TZ", "Pacific/Chatham"),
    ("LC_ALL", "tr_TR.UTF-8"),
    ("LANG", "tr_TR.UTF-8"),
    ("LANGUAGE", "tr"),
    ("USER", "somebody-else"),
    ("LOGNAME", "somebody-else"),
];
/// Exit code of the shell for a process that a signal ended, less the signal.
const BY_SIGNAL: i32 = 128;

/// What both builds have in common.
pub struct Pair<'a> {
    /// Where to say what happens.
    pub ui: &'a Ui,
    /// Workspace, profile, variables.
    pub global: &'a GlobalArgs,
    /// The command.
    pub args: &'a VerifyArgs,
    /// The usual store, of which blobs, locked sources and known results are taken.
    pub store: &'a Store,
    /// Keys whose results are taken from it.
    pub known: &'a BTreeSet<Digest>,
    /// Where the events of both go.
    pub events: Option<&'a Path>,
}

/// Both sides, and what keeps them.
pub type Built = (Side, Side, Scratch);

impl Pair<'_> {
    /// Builds twice, or once where the first side is there already. The inner error is the exit code of a build that
    /// failed, which has said why.
    pub fn build(&self, first: Option<Side>) -> Result<Result<Built, u8>, Failure> {
        let scratch = self.store.scratch("verify")?;
        let mut events = match self.events {
            Some(path) if path.as_os_str() == "-" => Some(Box::new(std::io::stdout()) as Box<dyn Write>),
            Some(path) => {
                Some(Box::new(File::create(path).map_err(|e| Failure::io(path, e))?) as Box<dyn Write>)
            }
            None => None,
        };
        let was_there = first.is_some();
        let first = match first {
            Some(side) => side,
            None => {
                self.ui.note("first build, apart:");
                match self.one(scratch.path(), Turn::First, &mut events)? {
                    Ok(side) => side,
                    Err(exit) => return Ok(Err(exit)),
                }
            }
        };
        // Clocks that count seconds are to differ.
        let ended = first.around.ended;
        while apart::now() <= ended + 1 {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ui.note(if was_there {
            "build apart, to compare with the store:"
        } else {
            "second build, elsewhere:"
        });
        let second = match self.one(scratch.path(), Turn::Second, &mut events)? {
            Ok(side) => side,
            Err(130) => return Ok(Err(130)),
            Err(exit) => {
                let text = "the second build failed where the first one succeeded, so what they make is not the same";
                self.ui.error(
                    text,
                    &["`--same host` and `--same processors` leave what it may be due to as it is".into()],
                );
                return Ok(Err(exit));
            }
        };
        Ok(Ok((first, second, scratch)))
    }

    fn one(
        &self,
        pair: &Path,
        turn: Turn,
        events: &mut Option<Box<dyn Write>>,
    ) -> Result<Result<Side, u8>, Failure> {
        let name = match turn {
            Turn::First => apart::first_dir(),
            Turn::Second => apart::second_dir(),
        };
        let dir = pair.join(name);
        self.prepare(&dir)?;
        let mut refused = None;
        let mut exit = self.start(&dir, turn, &[])?;
        if exit == i32::from(apart::CANNOT_GO) {
            let why = std::fs::read_to_string(dir.join(apart::REFUSED)).unwrap_or_default();
            self.ui.warn(&format!("user, host name and path of the workspace are not varied: {why}"));
            refused = Some(why);
            exit = self.start(&dir, turn, &[Same::Host])?;
        }
        if let Some(to) = events {
            let written = std::fs::read(dir.join(apart::EVENTS)).unwrap_or_default();
            to.write_all(&written).and_then(|()| to.flush())?;
        }
        if exit != 0 {
            return Ok(Err(u8::try_from(exit).unwrap_or(1)));
        }
        let below = match turn {
            Turn::First => self.store.clone(),
            Turn::Second => match pair.join(apart::first_dir()).join(apart::STORE) {
                first if first.is_dir() => Store::open_above(&first, self.store, false)?,
                _ => self.store.clone(),
            },
        };
        let store = Store::open_above(&dir.join(apart::STORE), &below, false)?;
        let mut side = Side::of_build(&dir, store)?;
        side.around.in_order_of_creation =
            turn == Turn::Second && elsewhere::lists_in_order_of_creation(&dir).unwrap_or(false);
        side.around.refused = refused;
        Ok(Ok(side))
    }

    /// The folder of a build: an empty store with the usual one's key for secrets, and what is known.
    fn prepare(&self, dir: &Path) -> Result<(), Failure> {
        let failed = |e| Failure::io(dir, e);
        std::fs::create_dir_all(dir.join(apart::STORE)).map_err(failed)?;
        let key = "secret.key";
        match std::fs::copy(self.store.root().join(key), dir.join(apart::STORE).join(key)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        std::os::unix::fs::symlink(self.store.root(), dir.join(apart::BELOW)).map_err(failed)?;
        let known: String = self.known.iter().map(|key| format!("{}\n", key.hex())).collect();
        std::fs::write(dir.join(apart::KNOWN), known).map_err(failed)
    }

    /// Runs this program again; its exit code.
    fn start(&self, dir: &Path, turn: Turn, same: &[Same]) -> Result<i32, Failure> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.args(self.global.words()).arg("verify");
        command.arg("--apart").arg(dir);
        if let Some(turn) = turn.to_possible_value() {
            command.arg("--turn").arg(turn.get_name());
        }
        if let Some(jobs) = self.args.jobs {
            command.arg("-j").arg(jobs.to_string());
        }
        command.args(
            same.iter()
                .filter_map(Same::to_possible_value)
                .flat_map(|s| ["--same".to_owned(), s.get_name().to_owned()]),
        );
        command.args(self.args.passed_on());
        if turn == Turn::Second {
            command.envs(ENVIRONMENT);
        }
        // Results are the verdict's alone.
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        interrupt::pass_on_to(child.id());
        let status = child.wait()?;
        interrupt::pass_on_to(0);
        if interrupt::passed_on() {
            return Ok(130);
        }
        Ok(status.code().unwrap_or_else(|| BY_SIGNAL + status.signal().unwrap_or(1)))
    }
}
