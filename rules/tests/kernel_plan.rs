//! The kernel's targets from a file to a graph of steps: what is refused, what waits for what, which paths are seen.
//! Runs no step.

use std::path::Path;

use mosbuild_engine::action::{Place, Work};
use mosbuild_engine::load::{LoadOptions, Loaded, load};
use mosbuild_engine::plan::{StepGraph, plan};
use mosbuild_rules::registry;

const FILE: &str = "\
mosbuild: 1
project: p
vars: { arch: x86_64 }
targets:
  linux:
    rule: linux
    source: { path: src }
    base: tinyconfig
    fragments: [a.fragment, b.fragment]
    localversion: -x
    tools: xz
  root: { rule: files, install: [{ dir: /dev }] }
  initramfs: { rule: cpio, root: root, compress: zstd }
  modules: { rule: modules, from: \"linux:modules\", list: modules.conf, load: /etc/modules }
  kernel: { rule: kernel, linux: linux, initramfs: initramfs }
  by-make: { rule: kernel, linux: linux, initramfs: initramfs, make: true }
  slot: { rule: kernel, linux: linux, initramfs: initramfs, slot: 64MiB, level: 3 }
  boot: { rule: boot-test, kernel: kernel, expect: READY, memory: 1G, disks: 2, forbid: [oops] }
";

fn workspace(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("mosbuild.yaml", file),
        ("a.fragment", "CONFIG_A=y\n"),
        ("b.fragment", "CONFIG_B=y\n"),
        ("kernel.config", "CONFIG_A=y\n"),
        ("modules.conf", "virtio_net\n"),
        ("src/Makefile", ""),
    ] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

fn loaded(root: &Path) -> Result<Loaded, String> {
    load(&LoadOptions::new(root), &registry(), None).map_err(|e| e.to_string())
}

fn graph(loaded: &Loaded) -> Result<StepGraph, Vec<String>> {
    let all: Vec<u32> = (0..loaded.targets.len() as u32).collect();
    plan(loaded, &registry(), all).map_err(|e| e.into_iter().map(|(_, e)| e.message).collect())
}

/// `target:step`.
fn name(loaded: &Loaded, graph: &StepGraph, ix: u32) -> String {
    let node = &graph.steps[ix as usize];
    format!("{}:{}", loaded.targets[node.target as usize].name, node.step.name)
}

#[test]
fn the_compile_waits_for_the_preflight_and_the_relink_reads_its_objects() {
    let dir = workspace(FILE);
    let loaded = loaded(dir.path()).unwrap();
    let graph = graph(&loaded).unwrap();
    let at = |wanted: &str| {
        (0..graph.steps.len() as u32)
            .find(|ix| name(&loaded, &graph, *ix) == wanted)
            .unwrap_or_else(|| panic!("{wanted}"))
    };
    let names = |list: &[u32]| {
        let mut names: Vec<String> = list.iter().map(|ix| name(&loaded, &graph, *ix)).collect();
        names.sort();
        names
    };
    let node = |wanted: &str| &graph.steps[at(wanted) as usize];
    assert_eq!(
        names(&node("linux:compile").gated_by),
        ["by-make:preflight", "kernel:preflight", "modules:check", "slot:preflight"]
    );
    assert_eq!(names(&node("modules:check").needs), ["linux:check", "linux:kbuild", "linux:unpack"]);
    let inputs: Vec<&str> = node("modules:check").step.inputs.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(inputs, ["list", "kbuild", "config", "source", "fragment a.fragment", "fragment b.fragment"]);
    assert_eq!(node("modules:check").step.params["folder"], "x86");
    assert_eq!(names(&node("linux:compile").needs), ["linux:check", "linux:unpack"]);
    assert_eq!(names(&node("kernel:preflight").needs), ["linux:check"]);
    assert_eq!(names(&node("kernel:relink").gated_by), ["kernel:preflight", "kernel:programs"]);
    assert_eq!(names(&node("kernel:programs").needs), ["root:install"]);
    assert_eq!(names(&node("kernel:relink").needs), ["initramfs:pack", "linux:check", "linux:settle"]);
    assert_eq!(names(&node("linux:rehearse").needs), ["linux:compile", "linux:parts"]);
    assert_eq!(
        names(&node("by-make:relink").needs),
        ["initramfs:pack", "linux:check", "linux:compile", "linux:unpack"]
    );
    // A slot is linked without the archive.
    assert_eq!(names(&node("slot:link").needs), ["linux:check", "linux:settle"]);
    assert_eq!(
        names(&node("slot:relink").needs),
        ["initramfs:pack", "linux:check", "linux:settle", "slot:link"]
    );
    assert_eq!(node("kernel:preflight").step.params["compress"], "zstd");
    assert_eq!(node("kernel:preflight").step.params["config-file"], "b.fragment");
    assert_eq!(names(&node("modules:select").needs), ["linux:compile"]);

    // Kbuild compiles everything again if a path or a program is another one.
    let command = |wanted: &str| match &node(wanted).step.work {
        Work::Command(command) => command.clone(),
        Work::Builtin(_) => panic!("{wanted} is no command"),
    };
    let (configure, compile, relink) =
        (command("linux:configure"), command("linux:compile"), command("by-make:relink"));
    for other in [&compile, &relink] {
        assert_eq!(other.tools, configure.tools);
        assert_eq!(other.env, configure.env);
        let kmake = |script: &Option<String>| script.as_ref().unwrap().lines().next().unwrap().to_owned();
        assert_eq!(kmake(&other.script), kmake(&configure.script));
    }
    for other in ["linux:rehearse", "kernel:relink", "slot:link", "slot:relink"].map(command) {
        assert_eq!((&other.tools, &other.env), (&configure.tools, &configure.env));
    }
    assert!(configure.tools.contains(&"xz".to_owned()));
    assert_eq!(configure.argv, ["/config/0.fragment", "/config/1.fragment"]);
    let place = |wanted: &str, input: &str| {
        node(wanted).step.inputs.iter().find(|i| i.name == input).map(|i| i.place.clone()).unwrap()
    };
    for step in ["linux:configure", "linux:compile", "kernel:relink"] {
        assert_eq!(place(step, "source"), Place::ReadOnly("/src/linux".into()));
    }
    assert_eq!(place("kernel:relink", "objects"), Place::Writable("/build/out/objects".into()));

    let boot = command("boot:boot");
    let console = boot.console.unwrap();
    assert_eq!(console.expect, ["READY"]);
    assert!(
        ["Kernel panic", "Unknown symbol", "oops"].iter().all(|t| console.forbid.contains(&(*t).to_owned()))
    );
    assert!(boot.argv.windows(2).any(|w| w == ["-m", "1024"]));
    assert!(boot.script.unwrap().starts_with("truncate -s 1G disk0.img\ntruncate -s 1G disk1.img\n"));
    for node in &graph.steps {
        let mut names: Vec<&str> = node.step.inputs.iter().map(|i| i.name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).for_each(|w| assert_ne!(w[0], w[1]));
    }
}

#[test]
fn a_configuration_is_full_or_laid_over_a_base() {
    for (fields, fragments, full) in [
        ("config: kernel.config", "a.fragment\nb.fragment", "kernel.config"),
        ("base: tinyconfig\n    config: kernel.config", "kernel.config\na.fragment\nb.fragment", ""),
        ("base: tinyconfig", "a.fragment\nb.fragment", ""),
    ] {
        let dir = workspace(&FILE.replace("base: tinyconfig", fields));
        let loaded = loaded(dir.path()).unwrap();
        let graph = graph(&loaded).unwrap();
        let check = (0..graph.steps.len() as u32).find(|ix| name(&loaded, &graph, *ix) == "linux:check");
        let step = &graph.steps[check.unwrap() as usize].step;
        assert_eq!((step.params["fragments"].as_str(), step.params["full"].as_str()), (fragments, full));
        let read = |path: &&str| step.inputs.iter().any(|input| input.name == **path);
        assert!(fragments.lines().chain(full.lines()).all(|path| read(&path)));
    }
}

/// Fields that are wrong in more than their type are refused at load, each with what to do.
#[test]
fn wrong_fields_are_refused() {
    for (from, to, message, help) in [
        (
            "base: tinyconfig",
            "base: tinyconf",
            "\"tinyconf\" makes no configuration",
            "did you mean tinyconfig?",
        ),
        (
            "base: tinyconfig",
            "config: [kernel.config, a.fragment]",
            "there is one full configuration",
            "with `base` they are laid over it",
        ),
        ("base: tinyconfig", "config: a.fragment", "a.fragment is used twice", ""),
        ("base: tinyconfig", "config: source", "is named like an input", ""),
        ("    base: tinyconfig\n", "", "linux needs base or config", "base: defconfig"),
        ("localversion: -x", "localversion: \"-x y\"", "\"-x y\" cannot be part of a release", ""),
        ("[a.fragment, b.fragment]", "[a.fragment, a.fragment]", "a.fragment is used twice", ""),
        ("list: modules.conf, ", "", "it names no module", ""),
        ("load: /etc/modules", "load: etc/modules", "\"etc/modules\" is no absolute path", "/etc/modules"),
        ("expect: READY", "expect: []", "a boot test needs a text to expect", ""),
        ("memory: 1G", "memory: 1T", "this is no amount of memory", "512M"),
        ("disks: 2", "disks: 2, hypervisor: ch", "unknown hypervisor ch", "known is qemu"),
        ("disks: 2", "disks: 2, firmware: ovmf", "firmware", ""),
        ("initramfs: initramfs }", "initramfs: root }", "`root` is a tree", "a file is wanted here"),
        (
            "linux: linux, initramfs",
            "linux: root, initramfs",
            "`root` is of rule `files`",
            "a target of rule `linux` is wanted here",
        ),
        (
            "from: \"linux:modules\"",
            "from: linux",
            "`linux` is a file",
            "the trees of `linux` are `modules`, `objects`, `source`, `relink_objects` and `relink_source`",
        ),
        ("root: root,", "root: linux,", "`linux` is a file", "a tree is wanted here"),
        ("kernel: kernel,", "kernel: root,", "`root` is a tree", "a file is wanted here"),
        (
            "{ dir: /dev }",
            "{ dir: /dev, mode: 0755 }",
            "expected a string in quotes",
            "write it in quotes: \"0755\"",
        ),
        ("{ path: src }", "{ url: linux.tar.xz }", "\"linux.tar.xz\" is no URL", ""),
    ] {
        assert!(FILE.contains(from), "{from}");
        let dir = workspace(&FILE.replace(from, to));
        let error = loaded(dir.path()).err().unwrap_or_else(|| panic!("{to} was taken"));
        assert!(error.contains(message) && error.contains(help), "{to}:\n{error}");
    }
}

/// What only planning tells is refused before anything runs.
#[test]
fn an_architecture_that_is_not_there_is_refused() {
    let message = "kernels are built and booted for x86_64 and aarch64, not for riscv64".to_owned();
    let dir = workspace(&FILE.replace("arch: x86_64 }", "arch: riscv64 }"));
    let whole = loaded(dir.path()).unwrap();
    let errors = graph(&whole).err().unwrap();
    assert!(!errors.is_empty() && errors.iter().all(|error| *error == message), "{errors:?}");
    // A field of its own is refused at load.
    let dir = workspace(&FILE.replace("tools: xz", "arch: arm64"));
    let error = loaded(dir.path()).err().unwrap();
    assert!(error.contains("not for arm64") && error.contains("did you mean aarch64?"), "{error}");
}

/// The field of `linux` decides for all that follows from it, in a workspace of another architecture.
#[test]
fn an_architecture_goes_from_the_kernel_to_its_machine() {
    let (own, other) = match std::env::consts::ARCH {
        "aarch64" => ("aarch64", "x86_64"),
        _ => ("x86_64", "aarch64"),
    };
    let file = FILE.replace("arch: x86_64", &format!("arch: {own}"));
    let file = file.replace("tools: xz", &format!("arch: {other}"))
        + "  direct: { rule: boot-test, kernel: \"linux:bzImage\", initramfs: initramfs, expect: READY }\n  \
         prebuilt: { rule: command, run: x, outputs: vmlinuz }\n  \
         elsewhere: { rule: boot-test, kernel: prebuilt, expect: READY }\n";
    let dir = workspace(&file);
    let loaded = loaded(dir.path()).unwrap();
    let graph = graph(&loaded).unwrap();
    let step = |wanted: &str| {
        let ix = (0..graph.steps.len() as u32).find(|ix| name(&loaded, &graph, *ix) == wanted);
        &graph.steps[ix.unwrap_or_else(|| panic!("{wanted}")) as usize].step
    };
    let tools = |wanted: &str| match &step(wanted).work {
        Work::Command(command) => command.tools.clone(),
        Work::Builtin(_) => panic!("{wanted} is no command"),
    };
    for wanted in ["linux:configure", "linux:compile", "kernel:relink"] {
        assert!(tools(wanted).contains(&format!("{other}-linux-gnu-gcc")), "{:?}", tools(wanted));
    }
    for wanted in ["linux:check", "kernel:preflight", "kernel:programs"] {
        assert_eq!(step(wanted).params["arch"], other);
    }
    for (wanted, arch) in [("boot:boot", other), ("direct:boot", other), ("elsewhere:boot", own)] {
        assert_eq!(tools(wanted), [format!("qemu-system-{arch}")]);
    }
}
