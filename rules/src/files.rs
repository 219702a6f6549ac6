//! `files`: workspace files, outputs and sources put at paths of the image, with links, folders and device nodes.
//! Makes a tree; nothing is made on disk, so no device node needs root.

use std::collections::BTreeMap;

use mosbuild_cache::{Entry, Node, OutputKind, Tree, TreePath};
use mosbuild_engine::action::{Available, Builtin, BuiltinCx, Input, Made, OutKind, StepError};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, FieldPath, FileKind, FileUse, OutputDecl, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::source::Source;
use crate::steps::{builtin, read, tree_output};

/// Files at paths of the image.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// What goes where.
    install: Vec<Install>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Install {
    Copy(Copy),
    Link(Link),
    Dir(Dir),
    Device(Device),
}

/// A file, or a folder with all below it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Copy {
    /// A workspace path, a reference, or a source.
    from: From,
    /// Absolute path in the image; with a trailing `/` the file keeps its name.
    to: String,
    /// In place of 0644 or 0755; of a folder's files.
    mode: Option<Mode>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum From {
    Text(String),
    Source(Source),
}

/// A symbolic link.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Link {
    /// What the link says.
    link: String,
    /// Where it is.
    at: String,
}

/// A folder.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Dir {
    /// Where it is.
    dir: String,
    /// In place of 0755.
    mode: Option<Mode>,
}

/// A device node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Device {
    /// Where it is.
    node: String,
    /// Which kind.
    #[serde(rename = "type")]
    kind: DeviceKind,
    /// Major number; Linux has 12 bits for it.
    #[schemars(range(max = 4095))]
    major: u32,
    /// Minor number; Linux has 20 bits for it.
    #[schemars(range(max = 1_048_575))]
    minor: u32,
    /// In place of 0600.
    mode: Option<Mode>,
}

#[derive(Clone, std::marker::Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum DeviceKind {
    Char,
    Block,
}

/// One entry as the step does it; their JSON is the step's parameter.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Put {
    Input { input: String, name: String, to: String, mode: Option<u32> },
    Link { target: String, at: String },
    Dir { at: String, mode: u32 },
    Device { at: String, kind: DeviceKind, major: u32, minor: u32, mode: u32 },
}

/// A path of the image without its leading `/`.
fn inside(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('/').trim_end_matches('/');
    TreePath::new(path).is_ok().then_some(path)
}

impl Rule for Files {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut facts = RuleFacts {
            outputs: vec![OutputDecl { name: "tree".into(), kind: OutKind::Tree, path: None, field: None }],
            ..RuleFacts::default()
        };
        for (i, install) in self.install.iter().enumerate() {
            let at = |name: &str| field!("install", i, name);
            let (path, field, mode) = match install {
                Install::Copy(c) => {
                    match &c.from {
                        From::Text(text) => facts.either.push(FileUse {
                            field: at("from"),
                            pattern: text.clone(),
                            kind: FileKind::Path,
                            absolute_ok: false,
                        }),
                        From::Source(source) => {
                            facts.files.extend(source.file_use(at("from"), FileKind::Path));
                            if let Some((field, message)) = source.fault() {
                                let field = field!("install", i, "from", field);
                                errors.push(FieldError { field, message, help: None });
                            }
                        }
                    }
                    (&c.to, "to", &c.mode)
                }
                Install::Link(l) => {
                    if l.link.is_empty() || l.link.contains('\0') || l.link.len() > LONGEST_LINK {
                        let message = format!("{:?} cannot be what a link says", l.link);
                        errors.push(wrong(at("link"), message, "write a path"));
                    }
                    (&l.at, "at", &None)
                }
                Install::Dir(d) => (&d.dir, "dir", &d.mode),
                Install::Device(d) => (&d.node, "node", &d.mode),
            };
            let root_ok = matches!(install, Install::Copy(_)) && path == "/";
            if !root_ok && inside(path).is_none() {
                errors.push(wrong(
                    at(field),
                    format!("{path:?} is no path of the image"),
                    "write it as /etc/name",
                ));
            }
            if let Some(mode) = mode
                && mode.bits().is_none()
            {
                errors.push(wrong(
                    at("mode"),
                    format!("{:?} is no mode", mode.text()),
                    "write it as \"0755\"",
                ));
            }
        }
        if errors.is_empty() { Ok(facts) } else { Err(errors) }
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let mut inputs = Vec::new();
        let mut puts = Vec::new();
        for (i, install) in self.install.iter().enumerate() {
            puts.push(match install {
                Install::Copy(c) => {
                    let (from, name) = match &c.from {
                        From::Source(source) => (source.plan(planner), source.name().to_owned()),
                        From::Text(text) if planner.is_reference(text) => {
                            (planner.upstream(text)?, text.replace(':', "/"))
                        }
                        From::Text(text) => (Input::Path(text.trim_end_matches('/').into()), text.clone()),
                    };
                    let input = format!("{i:03}");
                    inputs.push(read(&input, from));
                    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
                    let mode = c.mode.as_ref().and_then(Mode::bits);
                    Put::Input { input, name, to: c.to.clone(), mode }
                }
                Install::Link(l) => Put::Link { target: l.link.clone(), at: l.at.clone() },
                Install::Dir(d) => Put::Dir {
                    at: d.dir.clone(),
                    mode: d.mode.as_ref().and_then(Mode::bits).unwrap_or(0o755),
                },
                Install::Device(d) => Put::Device {
                    at: d.node.clone(),
                    kind: d.kind,
                    major: d.major,
                    minor: d.minor,
                    mode: d.mode.as_ref().and_then(Mode::bits).unwrap_or(0o600),
                },
            });
        }
        let install = serde_json::to_string(&puts).map_err(|e| PlanError::new(2, e.to_string()))?;
        let step = planner.step(builtin("install", Place, inputs, &[("install", install)]));
        planner.output("tree", step, "tree");
        Ok(())
    }
}

/// The kernel's PATH_MAX, without its NUL.
const LONGEST_LINK: usize = 4095;

fn wrong(field: FieldPath, message: String, help: &str) -> FieldError {
    FieldError { field, message, help: Some(help.into()) }
}

struct Place;

impl Builtin for Place {
    fn name(&self) -> &'static str {
        "install"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("tree".into(), OutKind::Tree)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let puts: Vec<Put> =
            serde_json::from_str(cx.param("install")).map_err(|e| StepError::new(e.to_string()))?;
        // With the number of the item that put it there.
        let mut entries: BTreeMap<TreePath, (usize, Entry)> = BTreeMap::new();
        let mut put = |at: usize, entry: Entry| match entries.get_mut(&entry.path) {
            // Folders meet; an explicit one sets the mode.
            Some((_, there)) if there.node == Node::Dir && entry.node == Node::Dir => {
                there.mode = entry.mode;
                Ok(())
            }
            Some((_, there)) if *there == entry => Ok(()),
            Some((first, there)) => Err(StepError::new(format!(
                "install[{first}] and install[{at}] both put something at /{}: a {} and a {}",
                entry.path,
                there.node.kind(),
                entry.node.kind()
            ))),
            None => {
                entries.insert(entry.path.clone(), (at, entry));
                Ok(())
            }
        };
        for (i, item) in puts.into_iter().enumerate() {
            match item {
                Put::Link { target, at } => {
                    put(i, Entry::new(path(&at)?, 0o777, Node::Symlink { target: target.into_bytes() }))?;
                }
                Put::Dir { at, mode } => put(i, Entry::new(path(&at)?, mode, Node::Dir))?,
                Put::Device { at, kind, major, minor, mode } => {
                    let node = match kind {
                        DeviceKind::Char => Node::Char { major, minor },
                        DeviceKind::Block => Node::Block { major, minor },
                    };
                    put(i, Entry::new(path(&at)?, mode, node))?;
                }
                Put::Input { input, name, to, mode } => match cx.inputs.get(&input) {
                    Some(Available::File { .. }) => {
                        let (digest, size, executable) = cx.blob(&input)?;
                        let to = if to.ends_with('/') { format!("{to}{name}") } else { to };
                        let mode = mode.unwrap_or(if executable { 0o755 } else { 0o644 });
                        put(i, Entry::new(path(&to)?, mode, Node::File { digest, size }))?;
                    }
                    _ => {
                        let tree = cx.tree(&input)?;
                        for entry in placed(&tree, &to)? {
                            let file = matches!(entry.node, Node::File { .. });
                            let mode = mode.filter(|_| file).unwrap_or(entry.mode);
                            put(i, Entry { mode, ..entry })?;
                        }
                    }
                },
            }
        }
        for (path, (i, _)) in &entries {
            let above = std::iter::successors(path.parent(), TreePath::parent);
            let file = above.filter_map(|dir| entries.get(&dir)).find(|(_, entry)| entry.node != Node::Dir);
            if let Some((first, file)) = file {
                let kind = file.node.kind();
                let message =
                    format!("install[{i}] puts /{path} below /{}, a {kind} of install[{first}]", file.path);
                return Err(StepError::new(message));
            }
        }
        let entries = entries.into_values().map(|(_, entry)| entry).collect();
        let tree = Tree::with_parents(entries).map_err(|e| StepError::new(e.to_string()))?;
        let output = tree_output(cx.store, &tree)?;
        debug_assert_eq!(output.kind, OutputKind::Tree);
        Ok(Made { outputs: [("tree".into(), output)].into(), ..Made::default() })
    }
}

fn path(text: &str) -> Result<TreePath, StepError> {
    let inside = inside(text).ok_or_else(|| StepError::new(format!("{text:?} is no path of the image")))?;
    TreePath::new(inside).map_err(|e| StepError::new(e.to_string()))
}

/// A tree's entries below a folder of the image.
fn placed(tree: &Tree, to: &str) -> Result<Vec<Entry>, StepError> {
    if to == "/" {
        return Ok(tree.entries().to_vec());
    }
    let moved = tree.prefixed(&path(to)?).map_err(|e| StepError::new(e.to_string()))?;
    // Folders above the place are nobody's: they appear by themselves where nothing else says how they are.
    let to = path(to)?;
    Ok(moved.into_entries().into_iter().filter(|e| e.path == to || e.path.strip(&to).is_some()).collect())
}
