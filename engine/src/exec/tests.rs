//! The executors tried with real commands.
