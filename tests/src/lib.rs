//! A small workspace for end-to-end tests.
