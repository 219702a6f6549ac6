//! The mosbuild program.
fn main() {}
