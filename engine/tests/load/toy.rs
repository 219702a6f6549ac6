//! A few toy rules, and a workspace in a temporary folder, for tests of the loader.
//! Knows the loader alone; nothing is built.

use std::collections::BTreeMap;
use std::path::Path;

use mosbuild_engine::field;
use mosbuild_engine::load::{
    FieldError, FileKind, FileUse, LoadOptions, Loaded, OutputDecl, OutputKind, RefKind, RefUse, RuleFactory,
    RuleFacts, RuleSchema, load,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn all(&self) -> Vec<&str> {
        match self {
            Names::One(name) => vec![name],
            Names::Many(names) => names.iter().map(String::as_str).collect(),
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Names::Many(Vec::new())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Executor {
    /// Namespaces.
    Sandbox,
    /// None.
    Host,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum Source {
    Git(Git),
    Crate(Crate),
    Path(SourcePath),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Git {
    git: String,
    rev: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Crate {
    #[serde(rename = "crate")]
    name: String,
    version: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourcePath {
    path: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Command {
    #[serde(default)]
    inputs: Names,
    #[serde(default)]
    deps: BTreeMap<String, String>,
    run: String,
    #[serde(default)]
    outputs: Names,
    #[serde(default)]
    env: BTreeMap<String, String>,
    executor: Option<Executor>,
    memory: Option<u32>,
    keep: Option<bool>,
    source: Option<Source>,
    config: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Group {
    deps: Names,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Modules {
    /// A target as such.
    linux: String,
    #[serde(default)]
    install: Vec<Install>,
    /// A tree.
    from: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum Install {
    Copy(Copy),
    Link(Link),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Copy {
    from: String,
    to: String,
    #[schemars(with = "Quoted")]
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Link {
    link: String,
    at: String,
}

#[derive(JsonSchema)]
#[schemars(inline, extend("format" = "quoted"))]
#[allow(dead_code)]
struct Quoted(String);

/// The toy rules: `command`, `group` and `modules`.
pub struct Toys(Vec<RuleSchema>);

impl Toys {
    pub fn new() -> Self {
        let rule = |name: &str, schema: schemars::Schema| RuleSchema {
            name: name.into(),
            version: 1,
            schema: schema.into(),
        };
        Toys(vec![
            rule("command", schemars::schema_for!(Command)),
            rule("group", schemars::schema_for!(Group)),
            rule("modules", schemars::schema_for!(Modules)),
        ])
    }
}

impl RuleFactory for Toys {
    fn schemas(&self) -> &[RuleSchema] {
        &self.0
    }

    fn facts(&self, rule: &str, value: &Json) -> Result<RuleFacts, Vec<FieldError>> {
        let mismatch =
            |e: serde_json::Error| vec![FieldError { field: Vec::new(), message: e.to_string(), help: None }];
        match rule {
            "command" => command(&Command::deserialize(value).map_err(mismatch)?),
            "group" => {
                let group = Group::deserialize(value).map_err(mismatch)?;
                let mut facts = RuleFacts::default();
                for (i, name) in group.deps.all().into_iter().enumerate() {
                    let field = field!["deps", i];
                    facts.references.push(RefUse { field, text: name.into(), kind: RefKind::Any });
                }
                Ok(facts)
            }
            _ => {
                let modules = Modules::deserialize(value).map_err(mismatch)?;
                let mut facts = RuleFacts::default();
                let used = RefUse { field: field!["linux"], text: modules.linux, kind: RefKind::Target };
                facts.references.push(used);
                if let Some(text) = modules.from {
                    facts.references.push(RefUse { field: field!["from"], text, kind: RefKind::Tree });
                }
                facts.outputs.push(OutputDecl {
                    name: "tree".into(),
                    kind: OutputKind::Tree,
                    path: None,
                    field: None,
                });
                for (i, install) in modules.install.iter().enumerate() {
                    if let Install::Copy(copy) = install {
                        facts.files.push(file(field!["install", i, "from"], &copy.from, FileKind::Path));
                    }
                }
                Ok(facts)
            }
        }
    }
}

fn file(field: mosbuild_engine::load::FieldPath, pattern: &str, kind: FileKind) -> FileUse {
    FileUse { field, pattern: pattern.into(), kind, absolute_ok: false }
}

fn command(command: &Command) -> Result<RuleFacts, Vec<FieldError>> {
    let mut facts = RuleFacts { facts: vec!["version", "size"], ..RuleFacts::default() };
    let mut errors = Vec::new();
    for (i, pattern) in command.inputs.all().into_iter().enumerate() {
        facts.files.push(file(field!["inputs", i], pattern, FileKind::Any));
    }
    if let Some(config) = &command.config {
        facts.files.push(file(field!["config"], config, FileKind::File));
    }
    if let Some(Source::Path(source)) = &command.source {
        let used = file(field!["source", "path"], &source.path, FileKind::Path);
        facts.files.push(FileUse { absolute_ok: true, ..used });
    }
    for (name, text) in &command.deps {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            errors.push(FieldError {
                field: field!["deps", name],
                message: "a variable cannot begin with a digit".into(),
                help: Some("rename it".into()),
            });
        }
        let field = field!["deps", name];
        facts.references.push(RefUse { field, text: text.clone(), kind: RefKind::Output });
    }
    for (i, path) in command.outputs.all().into_iter().enumerate() {
        let kind = if path.ends_with('/') { OutputKind::Tree } else { OutputKind::File };
        facts.outputs.push(OutputDecl {
            name: path.trim_end_matches('/').into(),
            kind,
            path: Some(path.into()),
            field: Some(field!["outputs", i]),
        });
    }
    if errors.is_empty() { Ok(facts) } else { Err(errors) }
}

/// A workspace with these files beside `mosbuild.yaml`.
pub fn workspace(yaml: impl AsRef<[u8]>, files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mosbuild.yaml"), yaml).unwrap();
    for file in files {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    dir
}

pub fn options(root: &Path) -> LoadOptions {
    LoadOptions { arch: "x86_64".into(), ..LoadOptions::new(root) }
}

/// Loads and expands all files; the rendered errors where there are some.
pub fn load_all(options: &LoadOptions) -> Result<Loaded, String> {
    let mut loaded = load(options, &Toys::new(), None).map_err(|e| e.render(false))?;
    let all: Vec<u32> = (0..loaded.targets.len() as u32).collect();
    loaded.expand(&all).map_err(|e| e.render(false))?;
    Ok(loaded)
}

/// The rendered errors of a file.
pub fn errors(yaml: impl AsRef<[u8]>, files: &[&str]) -> String {
    let dir = workspace(yaml, files);
    match load_all(&options(dir.path())) {
        Ok(_) => String::from("no error"),
        Err(text) => text,
    }
}
