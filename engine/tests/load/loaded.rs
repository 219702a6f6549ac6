//! What is loaded of right files: values, variables, profiles, order, lines, and the binary form.

use mosbuild_engine::field;
use mosbuild_engine::load::{Diagnostics, LoadOptions, Loaded, Source, Step, field_line, load, schema};

use crate::toy::{Toys, load_all, options, workspace};

const IMAGE: &str = r#"mosbuild: 1
project: mos
default: [kernel]
vars:
  alpine: 3.20
  channel: dev
  url: "https://host/${channel}/${alpine}"
  big: 007
profiles:
  testing:
    vars: { channel: testing }
    targets:
      kernel: { env: { B: two }, outputs: [y], source: { path: other } }
mirrors:
  - { from: "https://host/", to: "file:///${channel}/" }
targets:
  kernel:
    rule: command
    run: echo ${channel} $${x}
    deps: { L: linux }
    outputs: [x, tree/]
    env:
      A: ${url}
      B: one
      NO: no
      NUL: "null"
      LIT: $${url}
      "K_${channel}": ${big}
    memory: "${memory}"
    keep: true
    source: { git: a, rev: "1.10" }
  linux: { rule: command, run: make, outputs: bzImage }
  all: { rule: group, deps: kernel }
dist:
  "vmlinuz-{linux.version}-${channel}.efi": kernel
"#;

fn image() -> String {
    IMAGE.replace("  big:", "  memory: 512\n  big:")
}

fn loaded(profile: Option<&str>, set: &[(&str, &str)]) -> Loaded {
    let dir = workspace(image(), &["other/x"]);
    let mut options = options(dir.path());
    options.profile = profile.map(str::to_string);
    options.set = set.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    load_all(&options).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn values_are_text_until_a_field_wants_more() {
    let loaded = loaded(None, &[]);
    let kernel = &loaded.targets[0];
    assert_eq!(kernel.name, "kernel");
    assert_eq!(kernel.rule, "command");
    assert_eq!(kernel.line, 18);
    let expected = serde_json::json!({
        "run": "echo ${channel} $${x}",
        "deps": {"L": "linux"},
        "outputs": ["x", "tree/"],
        "env": {"A": "https://host/dev/3.20", "B": "one", "NO": "no", "NUL": "null", "LIT": "${url}", "K_dev": "007"},
        "memory": 512,
        "keep": true,
        "source": {"git": "a", "rev": "1.10"},
    });
    assert_eq!(*kernel.value, expected);
    assert_eq!(loaded.default, [0]);
    assert_eq!(loaded.project.as_deref(), Some("mos"));
    assert_eq!(loaded.epoch, 1735689600);
    assert_eq!(loaded.arch, "x86_64");
    assert_eq!(loaded.mirrors[0].to, ["file:///dev/"]);
    assert_eq!(loaded.dist[0].path, "vmlinuz-{linux.version}-dev.efi");
    assert_eq!((loaded.dist[0].target, loaded.dist[0].output.as_deref()), (0, Some("x")));
    assert_eq!(loaded.target_index("linux"), Some(1));
    assert_eq!(loaded.target_index("linus"), None);
    assert_eq!(loaded.nearest("linus"), Some("linux"));
    let reference = &kernel.references[0];
    assert_eq!((reference.target, reference.output.as_deref()), (1, Some("bzImage")));
    assert_eq!(loaded.order, [1, 0, 2]);
}

#[test]
fn a_profile_is_laid_over_and_set_over_that() {
    let testing = loaded(Some("testing"), &[("alpine", "3.21")]);
    let kernel = &testing.targets[0];
    assert_eq!(kernel.value["env"]["A"], "https://host/testing/3.21");
    assert_eq!(kernel.value["env"]["B"], "two");
    assert_eq!(kernel.value["env"]["NO"], "no");
    assert_eq!(kernel.value["outputs"], serde_json::json!(["y"]));
    assert_eq!(kernel.value["source"], serde_json::json!({"path": "other"}));
    let set = loaded(Some("testing"), &[("channel", "a-${alpine}"), ("arch", "riscv64"), ("epoch", "5")]);
    assert_eq!(set.targets[0].value["env"]["A"], "https://host/a-3.20/3.20");
    assert_eq!((set.arch.as_str(), set.epoch), ("riscv64", 5));
}

#[test]
fn the_order_puts_each_target_behind_what_it_needs() {
    let mut yaml = String::from("mosbuild: 1\ntargets:\n");
    for i in 0..500 {
        let deps: Vec<String> = [i * 7 + 3, i * 13 + 1]
            .iter()
            .filter(|&&j| j % 500 > i)
            .map(|j| format!("t{}", j % 500))
            .collect();
        yaml.push_str(&format!("  t{i}: {{ rule: group, deps: [{}] }}\n", deps.join(", ")));
    }
    let dir = workspace(&yaml, &[]);
    let loaded = load_all(&options(dir.path())).unwrap();
    let mut place = vec![usize::MAX; 500];
    for (at, &target) in loaded.order.iter().enumerate() {
        place[target as usize] = at;
    }
    for (i, target) in loaded.targets.iter().enumerate() {
        assert!(target.references.iter().all(|r| place[r.target as usize] < place[i]));
    }
}

#[test]
fn one_string_is_a_list_of_one_and_merges_work() {
    let dir = workspace(
        "mosbuild: 1\ntargets:\n  a: &a { rule: command, run: x, env: { A: 1 } }\n  b: { <<: *a, run: y }\n",
        &[],
    );
    let loaded = load_all(&options(dir.path())).unwrap();
    assert_eq!(loaded.targets[1].value["run"], "y");
    assert_eq!(loaded.targets[1].value["env"]["A"], "1");
}

fn cached(options: &LoadOptions) -> Result<Loaded, Diagnostics> {
    load(options, &Toys::new(), Some(&options.root.join(".mosbuild/graph")))
}

#[test]
fn the_binary_form_is_the_same_graph() {
    let dir = workspace(image(), &["other/x"]);
    let mut options = options(dir.path());
    let fresh = cached(&options).unwrap();
    let file = std::fs::read_dir(dir.path().join(".mosbuild/graph")).unwrap().next().unwrap().unwrap().path();
    let again = cached(&options).unwrap();
    let text = |loaded: &Loaded| format!("{:?}", Bare(loaded));
    assert_eq!(text(&fresh), text(&again));
    assert_eq!(again.root, dir.path());
    assert_eq!((again.digest, again.file_name().as_str()), (fresh.digest, "mosbuild.yaml"));
    assert_eq!(*again.targets[0].value, *fresh.targets[0].value);
    // Damage anywhere is seen, ignored and repaired.
    let whole = std::fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(97) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&file, &damaged).unwrap();
        assert_eq!(text(&cached(&options).unwrap()), text(&fresh));
        assert_eq!(std::fs::read(&file).unwrap(), whole, "byte {at}");
    }
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(text(&cached(&options).unwrap()), text(&fresh));
    // What the graph is made from is in its name.
    options.set = vec![("channel".into(), "other".into())];
    assert_eq!(cached(&options).unwrap().targets[0].value["env"]["A"], "https://host/other/3.20");
    options.profile = Some("testing".into());
    assert_eq!(cached(&options).unwrap().targets[0].value["env"]["B"], "two");
    options.set.clear();
    assert_eq!(cached(&options).unwrap().targets[0].value["env"]["A"], "https://host/testing/3.20");
    options.profile = None;
    std::fs::write(dir.path().join("mosbuild.yaml"), image().replace("B: one", "B: uno")).unwrap();
    assert_eq!(cached(&options).unwrap().targets[0].value["env"]["B"], "uno");
    // A file that becomes wrong is wrong, whatever was kept.
    std::fs::write(dir.path().join("mosbuild.yaml"), "mosbuild: 1\n").unwrap();
    assert!(cached(&options).is_err());
}

struct Bare<'a>(&'a Loaded);

impl std::fmt::Debug for Bare<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let l = self.0;
        let head = (&l.project, &l.default, &l.vars, l.epoch, &l.arch, &l.mirrors, &l.dist, &l.order);
        writeln!(f, "{head:?}")?;
        for t in &l.targets {
            let row = (&t.name, &t.rule, t.value.text(), t.line, &t.references, &t.outputs, &t.files);
            writeln!(f, "{row:?}")?;
        }
        Ok(())
    }
}

#[test]
fn few_binary_forms_are_kept() {
    let dir = workspace(image(), &["other/x"]);
    let mut options = options(dir.path());
    for i in 0..20 {
        options.set = vec![("channel".into(), format!("c{i}"))];
        cached(&options).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join(".mosbuild/graph")).unwrap().count(), 8);
}

#[test]
fn a_late_error_of_a_file_is_shown_in_the_text() {
    let yaml = "mosbuild: 1\ntargets:\n  a:\n    rule: command\n    run: x\n    inputs: [one, two]\n";
    let dir = workspace(yaml, &["one", "two"]);
    let options = options(dir.path());
    cached(&options).unwrap();
    std::fs::remove_file(dir.path().join("two")).unwrap();
    let mut loaded = cached(&options).unwrap();
    let found = loaded.expand(&[0]).unwrap_err();
    assert_eq!(found.position(&found.items[0]), Some((6, 19)));
    assert_eq!(
        found.render(false),
        r#"error[no-file]: there is no file `two`
 --> mosbuild.yaml:6:19
  |
6 |     inputs: [one, two]
  |                   ^^^ not found in the workspace
"#
    );
}

#[test]
fn lines_of_fields() {
    let line = |target: &str, field: &[Step]| field_line(IMAGE, target, field);
    assert_eq!(line("kernel", &[]), Some(17));
    assert_eq!(line("kernel", &field!["env", "NO"]), Some(25));
    assert_eq!(line("kernel", &field!["env", "ABSENT"]), Some(22));
    assert_eq!(line("kernel", &field!["absent"]), Some(17));
    assert_eq!(line("linux", &field!["run"]), Some(32));
    assert_eq!(line("nosuch", &[]), None);
    let dir = workspace(IMAGE, &[]);
    let mut options = options(dir.path());
    assert_eq!(Source::open(&options).line("kernel", &field!["env", "B"]), Some(24));
    options.profile = Some("testing".into());
    // With a profile, what the profile sets is where it is set.
    let source = Source::open(&options);
    assert_eq!(source.line("kernel", &field!["source"]), Some(13));
    assert_eq!(source.line("kernel", &field!["env", "B"]), Some(13));
    assert_eq!(source.line("kernel", &field!["env", "A"]), Some(23));
}

#[test]
fn no_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        load_all(&options(dir.path())).unwrap_err(),
        r#"error[no-file]: mosbuild.yaml cannot be read: No such file or directory (os error 2)
 |
 = help: run in the folder that holds it, or name it with -C or -f
"#
    );
}

#[test]
fn the_json_schema_names_every_rule_and_lets_scalars_be() {
    use mosbuild_engine::load::RuleFactory;
    let document = schema::document(Toys::new().schemas());
    let command = &document["$defs"]["rule.command"];
    assert_eq!(command["properties"]["rule"]["const"], "command");
    assert_eq!(command["additionalProperties"], false);
    assert_eq!(command["required"], serde_json::json!(["rule", "run"]));
    assert_eq!(command["properties"]["run"]["type"], serde_json::json!(["string", "number", "boolean"]));
    // A mode without quotes is another number to each reader of YAML.
    let mode = &document["$defs"]["modules.Copy"]["properties"]["mode"];
    assert_eq!((&mode["type"], mode.get("format")), (&serde_json::json!("string"), None));
    let references = document.to_string().matches("\"$ref\":\"#/$defs/").count();
    let resolved =
        refs(&document).iter().filter(|name| document["$defs"].get(name.as_str()).is_some()).count();
    assert_eq!(references, resolved);
}

fn refs(schema: &serde_json::Value) -> Vec<String> {
    match schema {
        serde_json::Value::Object(object) => object
            .iter()
            .flat_map(|(key, value)| match value.as_str().and_then(|v| v.strip_prefix("#/$defs/")) {
                Some(name) if key == "$ref" => vec![name.to_string()],
                _ => refs(value),
            })
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(refs).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_text_of_a_variable_is_never_nothing() {
    let dir = workspace(
        "mosbuild: 1\nvars: { a: 'null', b: '~', c: '' }\ntargets:\n  \
         a: { rule: command, run: x, env: { A: '${a}', B: '${b}', C: '${c}' } }\n",
        &[],
    );
    let loaded = load_all(&options(dir.path())).unwrap();
    assert_eq!(loaded.targets[0].value["env"], serde_json::json!({"A": "null", "B": "~", "C": ""}));
}
