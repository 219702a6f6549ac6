//! `group`: a name for several targets. Has no step and no output.

use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::one_or_many::OneOrMany;

/// Several targets under one name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The targets.
    deps: OneOrMany,
}

impl Rule for Group {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let reference = |(i, text): (usize, &String)| RefUse {
            field: field!("deps", i),
            text: text.clone(),
            kind: RefKind::Any,
        };
        Ok(RuleFacts {
            references: self.deps.all().iter().enumerate().map(reference).collect(),
            ..RuleFacts::default()
        })
    }

    fn plan(&self, _: &mut Planner<'_>) -> Result<(), PlanError> {
        Ok(())
    }
}
