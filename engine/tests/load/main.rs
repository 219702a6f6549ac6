//! Tests of the loader with toy rules: the full text of every diagnostic, and what is loaded of right files.
//! Knows `mosbuild_engine::load` alone.

mod files;
mod graph;
mod loaded;
mod names;
mod robust;
mod text;
mod toy;
mod values;
