//! The seam between the engine and the rules: what a rule is, and the registry of those there are.
//! Knows no rule by name.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::load::{FieldError, FieldPath, RuleFactory, RuleFacts, RuleSchema};
use crate::plan::Planner;

/// A target's typed fields: they say what it needs, and plan its steps.
pub trait Rule: Send + Sync {
    /// References, outputs and workspace files, read off the typed fields before anything is planned;
    /// field errors that a schema cannot express.
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>>;
    /// Plans the target's steps.
    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError>;
    /// What other rules may know about this target before it was built (`compress` of a cpio).
    fn advertise(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// A target that cannot be planned although its fields are well-formed: something is missing on this
/// host, or the lock has no entry and may not get one.
#[derive(Debug)]
pub struct PlanError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Vec<String>,
    /// Exit code: 2 configuration, 3 host, 4 source.
    pub exit: u8,
}

impl PlanError {
    /// An error of the given exit class.
    pub fn new(exit: u8, message: impl Into<String>) -> PlanError {
        PlanError { message: message.into(), help: Vec::new(), exit }
    }
    /// With one more line of help.
    pub fn help(mut self, help: impl Into<String>) -> PlanError {
        self.help.push(help.into());
        self
    }
}

/// A kind of rule: its name, version and how its fields are read.
pub struct RuleType {
    /// As written in `rule:`.
    pub name: &'static str,
    /// Raised whenever the plan for the same fields changes its meaning; in every key.
    pub version: u32,
    /// Whether it plans commands: then its targets may say who runs them, by [`EXECUTOR`].
    runs_commands: bool,
    schema: fn() -> Value,
    parse: fn(Value) -> Result<Box<dyn Rule>, String>,
}

impl RuleType {
    /// The rule type whose fields are `T`.
    pub fn of<T: Rule + DeserializeOwned + schemars::JsonSchema + 'static>(
        name: &'static str,
        version: u32,
    ) -> RuleType {
        RuleType {
            name,
            version,
            runs_commands: false,
            schema: || schemars::schema_for!(T).into(),
            parse: |value| {
                serde_json::from_value::<T>(value)
                    .map(|rule| Box::new(rule) as Box<dyn Rule>)
                    .map_err(|e| e.to_string())
            },
        }
    }

    /// The same, of a rule that plans commands.
    pub fn runs_commands(self) -> RuleType {
        RuleType { runs_commands: true, ..self }
    }

    fn whole_schema(&self) -> Value {
        let mut schema = (self.schema)();
        if self.runs_commands
            && let Some(object) = schema.as_object_mut()
            && let Some(fields) =
                object.entry("properties").or_insert_with(|| serde_json::json!({})).as_object_mut()
        {
            fields.insert(EXECUTOR.into(), crate::load::executors::field_schema());
        }
        schema
    }
}

/// The field of targets that says who runs their commands; none of a rule's own.
pub const EXECUTOR: &str = "executor";

/// The rules that there are.
pub struct Registry {
    types: Vec<RuleType>,
    schemas: std::sync::OnceLock<Vec<RuleSchema>>,
}

impl Registry {
    /// A registry of these types.
    pub fn new(types: Vec<RuleType>) -> Registry {
        Registry { types, schemas: std::sync::OnceLock::new() }
    }

    /// Name and version of each rule, sorted: part of the graph cache's key.
    pub fn versions(&self) -> Vec<(&'static str, u32)> {
        let mut all: Vec<_> = self.types.iter().map(|t| (t.name, t.version)).collect();
        all.sort_unstable();
        all
    }

    /// The version of a rule; 0 for one that does not exist. `MOSBUILD_TEST_RULE_VERSION=name=N` raises it
    /// in tests of `why`.
    pub fn version(&self, name: &str) -> u32 {
        if let Ok(text) = std::env::var("MOSBUILD_TEST_RULE_VERSION")
            && let Some((rule, version)) = text.split_once('=')
            && rule == name
            && let Ok(version) = version.parse()
        {
            return version;
        }
        self.types.iter().find(|t| t.name == name).map_or(0, |t| t.version)
    }

    /// The typed rule of a target's fields.
    pub fn instantiate(&self, name: &str, value: &Value) -> Result<Box<dyn Rule>, String> {
        let kind = self.types.iter().find(|t| t.name == name);
        let kind = kind.ok_or_else(|| format!("unknown rule {name}"))?;
        let mut value = value.clone();
        if kind.runs_commands
            && let Some(fields) = value.as_object_mut()
        {
            fields.remove(EXECUTOR);
        }
        (kind.parse)(value)
    }
}

impl RuleFactory for Registry {
    fn schemas(&self) -> &[RuleSchema] {
        self.schemas.get_or_init(|| {
            self.types
                .iter()
                .map(|t| RuleSchema { name: t.name.into(), version: t.version, schema: t.whole_schema() })
                .collect()
        })
    }

    fn facts(&self, rule: &str, value: &Value) -> Result<RuleFacts, Vec<FieldError>> {
        match self.instantiate(rule, value) {
            Ok(rule) => rule.declare(),
            Err(message) => Err(vec![FieldError { field: FieldPath::default(), message, help: None }]),
        }
    }
}
