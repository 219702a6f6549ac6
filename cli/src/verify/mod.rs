//! Two builds of the same targets, apart, and the comparison of what they made. See docs/verify.md for what is varied.
//! Knows the engine's records and stores, no rule.

pub mod apart;
pub mod compare;
pub mod pair;
pub mod report;
