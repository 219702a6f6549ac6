//! Rule `firmware` from a file to a graph of steps: whose configuration is asked, and what waits for the answer.
//! Runs no step.

use mosbuild_engine::action::Input;
use mosbuild_engine::load::{LoadOptions, Loaded, load};
use mosbuild_engine::plan::{StepGraph, plan};
use mosbuild_rules::registry;

const FILE: &str = "\
mosbuild: 1
project: p
vars: { arch: x86_64 }
targets:
  linux: { rule: linux, source: { path: src }, base: tinyconfig, fragments: a.fragment }
  other: { rule: linux, source: { path: src }, base: defconfig }
  packages: { rule: files, install: [{ dir: /lib/modules/1 }] }
  modules: { rule: modules, from: \"linux:modules\", extra: a }
  fewer: { rule: modules, from: modules, extra: a }
  foreign: { rule: modules, from: packages, extra: a }
";

fn workspace(targets: &str) -> (tempfile::TempDir, Loaded) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("mosbuild.yaml", format!("{FILE}{targets}")),
        ("a.fragment", "CONFIG_A=y\n".into()),
        ("kernel.config", "CONFIG_A=y\n".into()),
        ("src/Makefile", String::new()),
        ("fw/WHENCE", String::new()),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = load(&LoadOptions::new(dir.path()), &registry(), None).map_err(|e| e.to_string());
    (dir, loaded.unwrap())
}

fn planned(loaded: &Loaded) -> Result<StepGraph, String> {
    let all: Vec<u32> = (0..loaded.targets.len() as u32).collect();
    plan(loaded, &registry(), all).map_err(|e| {
        let texts = e.into_iter().map(|(_, e)| format!("{}: {} ({})", e.exit, e.message, e.help.join("; ")));
        texts.collect::<Vec<_>>().join("\n")
    })
}

/// `target:step`.
fn name(loaded: &Loaded, graph: &StepGraph, ix: u32) -> String {
    let node = &graph.steps[ix as usize];
    format!("{}:{}", loaded.targets[node.target as usize].name, node.step.name)
}

/// Each step of `firmware` with the steps that it reads, and all steps that its preflights gate.
fn shape(fields: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let target = format!("  firmware: {{ rule: firmware, source: {{ path: fw }}, {fields} }}\n");
    let (_dir, loaded) = workspace(&target);
    let graph = planned(&loaded)?;
    let names = |list: &[u32]| list.iter().map(|ix| name(&loaded, &graph, *ix)).collect::<Vec<_>>().join(" ");
    let (mut steps, mut gated) = (Vec::new(), Vec::new());
    for (ix, node) in (0..).zip(&graph.steps) {
        if name(&loaded, &graph, ix).starts_with("firmware:") {
            steps.push(format!("{} < {}", node.step.name, names(&node.needs)));
        }
        let gates: Vec<String> = node.gated_by.iter().map(|ix| name(&loaded, &graph, *ix)).collect();
        let own: Vec<&str> =
            gates.iter().map(String::as_str).filter(|gate| gate.starts_with("firmware:")).collect();
        if !own.is_empty() {
            gated.push(format!("{} waits for {}", name(&loaded, &graph, ix), own.join(" ")));
        }
    }
    Ok((steps, gated))
}

#[test]
fn the_kernel_behind_the_modules_is_asked_before_it_is_compiled() {
    for modules in ["modules", "linux:modules", "fewer", "[modules, fewer]"] {
        let modules = if modules.contains(':') { format!("\"{modules}\"") } else { modules.to_owned() };
        let (steps, gated) = shape(&format!("for: {modules}, compress: xz")).unwrap();
        assert_eq!(steps[1], "preflight < linux:check", "{modules}");
        assert_eq!(steps[2], "select < firmware:names", "{modules}");
        assert_eq!(
            gated,
            ["linux:compile waits for firmware:preflight", "firmware:select waits for firmware:preflight"],
            "{modules}"
        );
    }
    // Two kernels are two questions.
    let (steps, gated) = shape("for: [modules, \"other:modules\"], compress: zstd").unwrap();
    assert_eq!(steps[1..3], ["preflight < linux:check", "preflight-2 < other:check"]);
    assert_eq!(gated.len(), 3, "{gated:?}");
    assert!(gated.contains(&"other:compile waits for firmware:preflight-2".to_owned()));
    // Without compression nobody is asked.
    let (steps, gated) = shape("for: foreign").unwrap();
    assert_eq!(steps, ["names < foreign:select", "select < firmware:names"]);
    assert_eq!(gated, [""; 0]);
}

#[test]
fn where_modules_come_from_elsewhere_the_configuration_is_named() {
    let (steps, gated) = shape("for: foreign, compress: xz, config: kernel.config").unwrap();
    assert_eq!(steps[1], "preflight < ");
    assert_eq!(gated, ["firmware:select waits for firmware:preflight"]);
    let (steps, gated) = shape("extra: x, compress: xz, config: \"linux:config\"").unwrap();
    assert_eq!(steps, ["preflight < linux:check", "select < "]);
    assert_eq!(gated.len(), 2, "{gated:?}");
    for (fields, told) in [
        ("for: foreign, compress: xz", "2: compress: xz: the modules of foreign do not come from"),
        ("for: [modules, packages], compress: zstd", "2: compress: zstd: the modules of packages"),
        (
            "for: foreign, compress: xz, config: linux",
            "2: config: linux is the kernel's image (write linux:config)",
        ),
    ] {
        let error = shape(fields).unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
}

#[test]
fn what_decides_the_selection_is_in_its_key() {
    let (_dir, loaded) = workspace(
        "  firmware: { rule: firmware, source: { path: fw }, for: modules, extra: [b/*, a], licenses: /l }\n",
    );
    let graph = planned(&loaded).unwrap();
    let node = graph.steps.iter().find(|n| n.step.name == "select" && n.step.params.contains_key("licenses"));
    let step = &node.unwrap().step;
    let params: Vec<(&str, &str)> = step.params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(params, [("compress", "none"), ("extra", "b/*\na"), ("licenses", "/l"), ("version", "")]);
    assert_eq!(step.inputs[0].from, Input::Path("fw".into()));
}
