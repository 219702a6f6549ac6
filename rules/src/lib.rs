//! One file per rule.

pub mod component;
