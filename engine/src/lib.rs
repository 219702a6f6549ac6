//! Load → resolve → plan → key → look up → schedule → run → record → explain.
//! Knows no rule: rules are handed in through [`rule::Registry`]. Knows no terminal: events go to [`events::Sink`].

pub mod action;
pub mod build;
pub mod events;
pub mod exec;
pub mod fetch;
pub mod framed;
pub mod inputs;
pub mod item;
pub mod load;
pub mod lockfile;
pub mod memory;
mod net;
pub mod plan;
pub mod record;
pub mod rooted;
pub mod rule;
pub mod run_record;
pub mod s3;
pub mod tools;
pub mod why;
