//! The mosbuild program: arguments in, a command run, an exit code out.
//! Knows the terminal and every crate below; nothing below knows it.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod failure;
mod format;
mod import;
mod inspect;
mod interrupt;
mod lock_diff;
mod made;
mod mirrors;
mod progress;
mod publish;
mod run;
mod session;
mod settings;
mod sizes;
mod standing;
mod table;
mod ui;
mod verify;

fn main() -> std::process::ExitCode {
    run::main(std::env::args_os())
}
