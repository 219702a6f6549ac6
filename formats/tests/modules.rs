//! Module metadata, depmod's tables and module closures against kmod and real modules of two kernels.
//! Knows the fixtures; the codecs know none of them.

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use mosbuild_formats::closure::{Catalog, State};
use mosbuild_formats::compress::{Compression, compress, decompress};
use mosbuild_formats::depmod::{self, Input, Module, Tables};
use mosbuild_formats::modinfo::{self, ModuleInfo};
use proptest::prelude::*;

const KERNELS: [&str; 2] = ["modules/debian-6.1.0-56-amd64", "modules/alpine-6.18.56-0-virt"];
const LISTS: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// Module files below `dir`, by relative path, sorted.
fn module_files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![];
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                todo.push(path);
            } else if modinfo::is_module_path(&relative) {
                found.push((relative, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn tables_of(modules: &[Module], lists: &Path, kernel_symbols: Option<&HashSet<String>>) -> Tables {
    let builtin = fs::read_to_string(lists.join(LISTS[1])).ok();
    let builtin_modinfo = fs::read(lists.join(LISTS[2])).ok();
    let order = fs::read_to_string(lists.join(LISTS[0])).unwrap_or_default();
    let input = Input {
        modules,
        order: &order,
        builtin: builtin.as_deref(),
        builtin_modinfo: builtin_modinfo.as_deref(),
        kernel_symbols,
    };
    depmod::tables(&input).unwrap()
}

fn parse(files: &[(String, Vec<u8>)]) -> Vec<Module> {
    let one = |(path, bytes): &(String, Vec<u8>)| Module {
        path: path.clone(),
        info: ModuleInfo::parse(bytes).unwrap_or_else(|e| panic!("{path}: {e}")),
    };
    files.iter().map(one).collect()
}

fn lines(bytes: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// Lays the modules out as a tree, runs the real depmod there and compares every table.
fn compare_with_depmod(files: &[(String, Vec<u8>)], lists: Option<&Path>) {
    let temp = tempfile::tempdir().unwrap();
    let version = "6.1.0-test";
    let root = temp.path().join("lib/modules").join(version);
    fs::create_dir_all(&root).unwrap();
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    for list in LISTS {
        if let Some(bytes) = lists.and_then(|l| fs::read(l.join(list)).ok()) {
            fs::write(root.join(list), bytes).unwrap();
        }
    }
    let config = temp.path().join("no-config");
    fs::create_dir(&config).unwrap();
    let args = ["-b", temp.path().to_str().unwrap(), "-C", config.to_str().unwrap(), version];
    common::tool("/sbin/depmod", &args, temp.path(), b"");

    let ours = tables_of(&parse(files), &root, None);
    assert!(ours.skipped_aliases.is_empty(), "{:?}", ours.skipped_aliases);
    for (name, ours) in &ours.files {
        if *name == "modules.weakdep" {
            continue; // kmod 30 does not write it.
        }
        let theirs = fs::read(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        match *name {
            "modules.symbols" => assert_eq!(lines(ours), lines(&theirs), "{name}"),
            _ if name.ends_with(".bin") => {
                assert!(*ours == theirs, "{name}: {} {}", ours.len(), theirs.len())
            }
            _ => assert_eq!(String::from_utf8_lossy(ours), String::from_utf8_lossy(&theirs), "{name}"),
        }
    }
    let written = fs::read_dir(&root).unwrap().filter_map(|e| {
        let name = e.unwrap().file_name().into_string().unwrap();
        (name.starts_with("modules.") && !LISTS.contains(&name.as_str())).then_some(name)
    });
    for name in written {
        let empty = fs::metadata(root.join(&name)).unwrap().len() == 0;
        assert!(empty || ours.files.contains_key(name.as_str()), "{name} is not written");
    }
}

#[test]
fn tables_are_those_of_depmod() {
    for kernel in KERNELS {
        let Some(dir) = common::fixtures(kernel) else { return };
        // Debian's kmod cannot read gzip.
        let plain: Vec<_> = module_files(&dir)
            .into_iter()
            .map(|(path, bytes)| (path.replace(".gz", ""), decompress(&bytes, 1 << 30).unwrap()))
            .collect();
        assert!(plain.len() > 15);
        compare_with_depmod(&plain, Some(&dir));
        for (suffix, how) in [(".xz", Compression::Xz { level: 0 }), (".zst", Compression::Zstd { level: 1 })]
        {
            let packed: Vec<_> = plain
                .iter()
                .map(|(path, bytes)| (path.clone() + suffix, compress(bytes, how, 1).unwrap()))
                .collect();
            compare_with_depmod(&packed, Some(&dir));
        }
    }
}

/// A whole `lib/modules/VERSION`, too large for a fixture, is compared where one is given.
#[test]
#[allow(clippy::print_stderr)]
fn tables_of_a_whole_kernel_are_those_of_depmod() {
    let Some(dir) = std::env::var_os("MOSBUILD_TEST_MODULES") else {
        eprintln!("did not run: MOSBUILD_TEST_MODULES names no lib/modules/VERSION");
        return;
    };
    compare_with_depmod(&module_files(Path::new(&dir)), Some(Path::new(&dir)));
}

#[test]
fn updates_come_before_the_kernel_s_own() {
    let Some(dir) = common::fixtures(KERNELS[0]) else { return };
    let mut files = module_files(&dir);
    let tun = files.iter().find(|(path, _)| path.ends_with("/tun.ko")).unwrap().1.clone();
    files.push(("updates/dkms/tun.ko".into(), tun));
    files.sort();
    compare_with_depmod(&files, Some(&dir));
}

#[test]
fn an_empty_tree_has_empty_tables() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("modules.order"), "").unwrap();
    compare_with_depmod(&[], Some(temp.path()));
}

#[test]
fn unresolved_symbols_are_those_depmod_reports() {
    let Some(dir) = common::fixtures(KERNELS[0]) else { return };
    let files = module_files(&dir);
    let modules = parse(&files);
    let needed: BTreeSet<&str> =
        modules.iter().flat_map(|m| &m.info.needs).map(|n| n.name.as_str()).collect();
    let kept = needed.iter().enumerate().filter(|(i, _)| i % 50 != 0);
    let map: String = kept.map(|(_, s)| format!("ffffffff81000000 r __ksymtab_{s}\n")).collect();

    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("lib/modules/6.1.0-test");
    for (path, bytes) in &files {
        fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        fs::write(root.join(path), bytes).unwrap();
    }
    fs::copy(dir.join("modules.order"), root.join("modules.order")).unwrap();
    fs::write(temp.path().join("System.map"), &map).unwrap();
    let output = Command::new("/sbin/depmod")
        .args(["-e", "-F", "System.map", "-b", temp.path().to_str().unwrap(), "6.1.0-test"])
        .current_dir(temp.path())
        .output()
        .unwrap_or_else(|e| panic!("this test compares with depmod, which cannot be run ({e})"));
    let theirs: BTreeSet<(String, String)> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter_map(|line| {
            let (module, symbol) = line.split_once(" needs unknown symbol ")?;
            let (_, path) = module.split_once("/6.1.0-test/")?;
            Some((path.to_owned(), symbol.to_owned()))
        })
        .collect();
    assert!(!theirs.is_empty());
    assert!(depmod::exported_by_kernel("ffffffffffffffff B The real System.map is elsewhere\n").is_none());
    let kernel = depmod::exported_by_kernel(&map).unwrap();
    let ours: BTreeSet<_> = tables_of(&modules, &dir, Some(&kernel)).unresolved.into_iter().collect();
    assert_eq!(ours, theirs);
}

#[test]
fn weak_dependencies_are_written_as_kmod_33_does() {
    let fields = vec![("weakdep".to_owned(), "a b".to_owned()), ("weakdep".to_owned(), "c".to_owned())];
    let module =
        Module { path: "kernel/my-mod.ko".into(), info: ModuleInfo { fields, ..ModuleInfo::default() } };
    let tables = depmod::tables(&Input { modules: &[module], ..Input::default() }).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&tables.files["modules.weakdep"]),
        "# Weak dependencies extracted from modules themselves.\nweakdep my_mod a b\nweakdep my_mod c\n"
    );
}

#[test]
fn modules_that_need_each_other_are_an_error() {
    let module = |name: &str, exports: &str, needs: &str| Module {
        path: format!("kernel/{name}.ko"),
        info: ModuleInfo {
            exports: vec![exports.into()],
            needs: vec![modinfo::Needed { name: needs.into(), weak: false }],
            ..ModuleInfo::default()
        },
    };
    let modules = [module("a", "x", "y"), module("b", "y", "x")];
    let error = depmod::tables(&Input { modules: &modules, ..Input::default() }).unwrap_err().to_string();
    assert!(error.contains("kernel/a.ko, kernel/b.ko"), "{error}");
}

/// The fixtures hold what modinfo says of more modules than are here, without parameters and most aliases.
#[test]
fn modinfo_says_what_the_kernel_s_own_tool_says() {
    for kernel in KERNELS {
        let Some(dir) = common::fixtures(kernel) else { return };
        let list = dir.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(dir.join(format!("../modinfo/{list}.txt"))).unwrap();
        let mut compared = 0;
        for block in text.split("## ").skip(1) {
            let (path, rest) = block.split_once('\n').unwrap();
            let Ok(bytes) = fs::read(dir.join(path)) else { continue };
            let info = ModuleInfo::parse(&bytes).unwrap();
            let ours: Vec<String> = info.fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let leave_out = ["alias=", "parm=", "parmtype="];
            let kept = |line: &str| !line.is_empty() && !leave_out.iter().any(|p| line.starts_with(p));
            let theirs: Vec<&str> = rest.lines().filter(|l| kept(l)).collect();
            let ours_kept: Vec<&str> = ours.iter().map(String::as_str).filter(|l| kept(l)).collect();
            assert_eq!(ours_kept, theirs, "{path}");
            for alias in rest.lines().filter(|l| l.starts_with("alias=")) {
                assert!(ours.iter().any(|o| o == alias), "{path}: {alias}");
            }
            assert!(info.signed, "{path}");
            compared += 1;
        }
        assert!(compared > 10, "{compared}");
    }
}

#[test]
fn every_compression_gives_the_same_module() {
    let Some(dir) = common::fixtures("modules/compress") else { return };
    let plain = fs::read(dir.join("../debian-6.1.0-56-amd64/kernel/net/core/failover.ko")).unwrap();
    let plain = ModuleInfo::parse(&plain).unwrap();
    assert_eq!(plain.exports, ["failover_slave_unregister", "failover_register", "failover_unregister"]);
    for suffix in ["gz", "xz", "zst"] {
        let path = dir.join(format!("failover.ko.{suffix}"));
        assert_eq!(ModuleInfo::parse(&fs::read(path).unwrap()).unwrap(), plain, "{suffix}");
    }
}

#[test]
fn names_come_from_paths() {
    assert_eq!(modinfo::name_of_path("kernel/drivers/usb/host/xhci-pci.ko.zst"), "xhci_pci");
    for (path, is) in
        [("a/b.ko", true), ("b.ko.gz", true), ("b.ko.xz", true), ("b.ko.zst", true), ("modules.order", false)]
    {
        assert_eq!(modinfo::is_module_path(path), is, "{path}");
    }
    assert!(!modinfo::is_module_path(".ko"));
}

fn catalog(kernel: &str) -> Option<Catalog> {
    let dir = common::fixtures(kernel)?;
    let modules = parse(&module_files(&dir));
    let builtin = fs::read_to_string(dir.join("modules.builtin")).unwrap();
    let builtin_modinfo = fs::read(dir.join("modules.builtin.modinfo")).unwrap_or_default();
    let each = modules.iter().map(|m| (m.path.as_str(), &m.info));
    Some(Catalog::new(each, &builtin, &builtin_modinfo))
}

#[test]
fn the_closure_has_the_files_modules_dep_names_in_an_order_that_loads() {
    let Some(dir) = common::fixtures(KERNELS[0]) else { return };
    let catalog = catalog(KERNELS[0]).unwrap();
    let dep = fs::read_to_string(dir.join("modules.dep")).unwrap();
    let dep: BTreeMap<&str, BTreeSet<&str>> = dep
        .lines()
        .map(|l| l.split_once(':').unwrap())
        .map(|(m, d)| (m, d.split_whitespace().collect()))
        .collect();
    for name in ["nvme", "virtio-net", "ahci", "libata"] {
        let closure = catalog.closure(&[name]);
        let State::File(paths) = &closure.wanted[0].1 else { panic!("{name}: {closure:?}") };
        let mut expected = dep[paths[0].as_str()].clone();
        expected.insert(&paths[0]);
        // nvme-core's crc64-rocksoft has a soft dependency on the crypto driver, which may be here as well.
        let got: BTreeSet<&str> = closure.paths.iter().map(String::as_str).collect();
        assert!(expected.is_subset(&got), "{name}: {expected:?} {got:?}");
        assert!(closure.broken.is_empty(), "{:?}", closure.broken);
        for (i, path) in closure.paths.iter().enumerate() {
            for needed in &dep[path.as_str()] {
                assert!(closure.paths[..i].iter().any(|p| p == needed), "{path} before {needed}");
            }
        }
    }
}

#[test]
fn soft_dependencies_are_followed_and_names_have_three_states() {
    let Some(debian) = catalog(KERNELS[0]) else { return };
    let closure = debian.closure(&["r8169"]);
    let at = |name: &str| closure.load_order.iter().position(|n| n == name);
    assert!(at("realtek").unwrap() < at("r8169").unwrap(), "{closure:?}");
    assert_eq!(closure.load_order.len(), closure.paths.len());

    let alpine = catalog(KERNELS[1]).unwrap();
    assert_eq!(alpine.state("libata"), State::BuiltIn);
    assert_eq!(alpine.state("xhci_pci"), State::File(vec!["kernel/drivers/usb/host/xhci-pci.ko.gz".into()]));
    assert_eq!(alpine.state("xhci-pci"), alpine.state("xhci_pci"));
    assert_eq!(alpine.state("virtio_nett"), State::Absent { nearest: Some("virtio_net".into()) });
    assert_eq!(alpine.state("no such thing at all"), State::Absent { nearest: None });
    let both = alpine.closure(&["ahci", "usbhid"]);
    assert_eq!(both.wanted[0].1, State::BuiltIn);
    assert_eq!(both.load_order, ["usb_common", "usbcore", "hid", "usbhid"]);
    assert!(both.broken.is_empty());
}

#[test]
fn hard_dependencies_must_exist_and_soft_ones_need_not() {
    let info = |fields: &[(&str, &str)]| ModuleInfo {
        fields: fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..ModuleInfo::default()
    };
    let a = info(&[("depends", "b,gone"), ("softdep", "pre: c nosoft post: d"), ("weakdep", "e noweak")]);
    let c = info(&[("alias", "crypto-c"), ("softdep", "a")]);
    let f = info(&[("softdep", "pre: crypto-c"), ("depends", "in-kernel")]);
    let empty = info(&[]);
    let modules = [
        ("k/a.ko", &a),
        ("k/b.ko", &empty),
        ("k/c.ko", &c),
        ("k/d.ko", &empty),
        ("k/e.ko", &empty),
        ("k/f.ko", &f),
    ];
    let catalog = Catalog::new(modules, "kernel/lib/in_kernel.ko\n", b"");
    let closure = catalog.closure(&["a"]);
    assert_eq!(closure.load_order, ["b", "c", "a", "d", "e"]);
    assert_eq!(closure.broken.len(), 1);
    assert_eq!((closure.broken[0].module.as_str(), closure.broken[0].needs.as_str()), ("a", "gone"));
    let absent: BTreeSet<_> = closure.soft_absent.iter().map(|(_, d)| d.as_str()).collect();
    assert_eq!(absent, BTreeSet::from(["nosoft", "noweak"]));
    // By alias; and `softdep a` in c closes a cycle, which must end.
    assert!(catalog.closure(&["f"]).load_order.contains(&"c".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_modules_do_not_panic(edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8), cut: usize) {
        let Some(dir) = common::fixtures("modules/compress") else { return Ok(()) };
        let gz = fs::read(dir.join("failover.ko.gz")).unwrap();
        let mut ko = decompress(&gz, 1 << 20).unwrap();
        let len = ko.len();
        for (at, byte) in edits {
            // Most edits in the headers, where they do most.
            let at = if at & 1 == 0 { at % 64 } else { len - 1 - at % 4000 };
            ko[at] = byte;
        }
        let _ = ModuleInfo::parse(&ko);
        let _ = ModuleInfo::parse(&ko[..cut % len]);
    }

    #[test]
    fn odd_lists_do_not_panic(text: String, bytes: Vec<u8>) {
        let _ = depmod::tables(&Input {
            builtin: Some(&text), builtin_modinfo: Some(&bytes), order: &text, ..Input::default()
        });
        let _ = Catalog::new([], &text, &bytes).closure(&[&text]);
    }
}
