//! `flist`: a tree as an rfs flist, and its files as blocks for a store that nodes read them from.
//! The step makes both, into the cache alone; the store is filled when the flist is placed or published, so that a hit leaves no
//! flist without its blocks. Knows no server and no credentials.

mod pack;
mod place;

use std::collections::BTreeMap;

use mosbuild_engine::action::OutKind;
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::flist::sqlite_version;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_or_many::OneOrMany;
use crate::steps::{builtin, read};

pub use place::{BlockStore, Bucket, Fault};

/// The output that has the blocks, as a `dir://` store lays them out.
pub const BLOCKS: &str = "blocks";
/// The default output: the flist.
pub const FILE: &str = "file";

/// A tree as an flist.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flist {
    /// The tree.
    root: String,
    /// The folder of it that is the flist's root; all of it if absent.
    #[serde(default)]
    subdir: Option<String>,
    /// Where its blocks go: `dir:///PATH`, `dir://PATH` in the workspace, or `s3://HOST:PORT/BUCKET?region=NAME` (`s3s://` over
    /// TLS). A folder is filled when the flist is placed, a bucket by `mosbuild publish`. Never with credentials.
    store: String,
    /// Where readers find the blocks, if that is not `store`: a URL, or several that have all blocks each.
    #[serde(default)]
    route: OneOrMany,
    /// Written into the flist: `version`, `description`, `author`, or other names.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl Flist {
    fn routes(&self) -> Vec<String> {
        match self.route.is_empty() {
            true => vec![self.store.clone()],
            false => self.route.all().to_vec(),
        }
    }
}

/// A path of the tree without slashes around it; `None` if it is none.
fn inner(path: &str) -> Option<String> {
    let path = path.trim_matches('/');
    mosbuild_cache::TreePath::new(path).is_ok().then(|| path.to_owned())
}

fn error(field: mosbuild_engine::load::FieldPath, fault: Fault) -> FieldError {
    FieldError { field, message: fault.message, help: Some(fault.help) }
}

impl Rule for Flist {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        if let Err(fault) = BlockStore::parse(&self.store) {
            errors.push(error(field!("store"), fault));
        }
        for route in self.route.all() {
            if let Err(fault) = place::check_route(route) {
                errors.push(error(field!("route"), fault));
            }
        }
        if self.subdir.as_deref().is_some_and(|path| inner(path).is_none()) {
            let message = "it is no folder of the tree".to_owned();
            let help = Some("such as lib/modules".to_owned());
            errors.push(FieldError { field: field!("subdir"), message, help });
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let output = |name: &str, kind| OutputDecl { name: name.into(), kind, path: None, field: None };
        Ok(RuleFacts {
            references: vec![RefUse { field: field!("root"), text: self.root.clone(), kind: RefKind::Tree }],
            outputs: vec![output(FILE, OutKind::File), output(BLOCKS, OutKind::Tree)],
            facts: vec!["size", "blocks", "stored"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let root = planner.upstream(&self.root)?;
        let list = |values: &[String]| serde_json::Value::from(values.to_vec()).to_string();
        let tags = serde_json::to_string(&self.tags).unwrap_or_default();
        let subdir = self.subdir.as_deref().and_then(inner).unwrap_or_default();
        let params = [
            ("subdir", subdir),
            ("routes", list(&self.routes())),
            ("tags", tags),
            ("epoch", planner.epoch().to_string()),
            // What its pages are like is SQLite's to decide.
            ("sqlite", sqlite_version().to_owned()),
        ];
        let step = planner.step(builtin("pack", pack::Pack, vec![read("root", root)], &params));
        planner.output(FILE, step, FILE);
        planner.output(BLOCKS, step, BLOCKS);
        let folder = match BlockStore::parse(&self.store) {
            Ok(BlockStore::Dir(path)) => Some(planner.root().join(path)),
            _ => None,
        };
        planner.depot(FILE, BLOCKS, &self.store, folder);
        Ok(())
    }
}
