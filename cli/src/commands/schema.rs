//! `mosbuild schema`: the JSON schema of mosbuild.yaml, for editors.

use clap::Args;
use mosbuild_engine::load::{RuleFactory, schema};

use crate::failure::Failure;
use crate::ui::Ui;

/// Arguments of `schema`.
#[derive(Args, Debug)]
pub struct SchemaArgs {}

/// Prints it.
pub fn run(ui: &Ui, _: &SchemaArgs) -> Result<u8, Failure> {
    ui.json(&schema::document(mosbuild_rules::registry().schemas()))?;
    Ok(0)
}
