//! From the command line to an exit code: parse, run the one command, say what went wrong.
//! The only place where failures become exit codes.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, GlobalArgs};
use crate::failure::Failure;
use crate::session::Place;
use crate::ui::{Ui, annotated_file};

/// Runs the program.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to fail over help that nobody reads.
            let _ = error.print();
            return ExitCode::from(error.exit_code().clamp(0, 255) as u8);
        }
    };
    let (mut global, command) = cli.split();
    enter(&mut global);
    let ui = Ui::new(&global);
    let words = args.iter().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let exit = match command.run(&ui, &global, words) {
        Ok(exit) => exit,
        Err(failure) => report(&ui, &global, failure),
    };
    ExitCode::from(exit)
}

/// Goes to the directory of -C, as make, ninja and git do, so that other relative paths are meant from there.
fn enter(global: &mut GlobalArgs) {
    let Some(dir) = &global.directory else { return };
    // One that cannot be entered is refused by the commands that need it.
    if let Ok(dir) = dir.canonicalize()
        && std::env::set_current_dir(&dir).is_ok()
    {
        global.directory = Some(dir);
    }
}

fn report(ui: &Ui, global: &GlobalArgs, failure: Failure) -> u8 {
    match failure {
        Failure::BrokenPipe => 0,
        Failure::Told(exit) => exit,
        Failure::Errors { exit, errors } => {
            for (message, help) in &errors {
                ui.error(message, help);
            }
            exit
        }
        Failure::Diagnostics(diagnostics) => {
            // The user's settings are named by their whole path, the workspace's file by its name in it.
            let place = Place::find(global).ok().filter(|p| p.file == Path::new(&diagnostics.file));
            let file = place.map(|p| annotated_file(&p.root.join(&p.file)));
            ui.diagnostics(&diagnostics, file.as_deref().unwrap_or(&diagnostics.file));
            2
        }
    }
}
