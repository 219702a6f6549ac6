//! The commands, one file each: its arguments, whose doc comments are its help, then what it does.
//! No command calls another, but `test`, `boot` and `verify` build as `build` does.

pub mod boot;
pub mod build;
pub mod cat;
pub mod clean;
pub mod completions;
pub mod diff;
pub mod doctor;
pub mod fetch;
pub mod graph;
pub mod import;
pub mod list;
pub mod lock;
pub mod log;
pub mod ls;
pub mod publish;
pub mod runs;
pub mod sbom;
pub mod schema;
pub mod shell;
pub mod show;
pub mod size;
pub mod test;
pub mod verify;
pub mod version;
pub mod why;
