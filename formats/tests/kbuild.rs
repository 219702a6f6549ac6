//! What the Makefiles of a real kernel make, against the lists of modules that real kernels were built with.
//! Knows where Debian keeps its kernel source, and the fixtures; the codec knows neither.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mosbuild_formats::kbuild::{Kbuild, Verdict, is_makefile};
use mosbuild_formats::kconfig::Config;
use proptest::prelude::*;

/// The host's kernel source, of which the newest is taken; says so when there is none.
#[allow(clippy::print_stderr)]
fn makefiles() -> Option<(tempfile::TempDir, Vec<(String, String)>)> {
    let all = fs::read_dir("/usr/src").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let source = |path: &PathBuf| name(path).starts_with("linux-source-6") && name(path).ends_with(".tar.xz");
    let Some(tarball) = all.filter(source).max() else {
        eprintln!("did not run: there is no /usr/src/linux-source-6*.tar.xz");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let wanted = ["--strip-components=1", "--wildcards", "*/Makefile*", "*/Kbuild*"];
    let args = [&["-xJf", tarball.to_str().unwrap()], &wanted[..]].concat();
    common::tool("tar", &args, dir.path(), b"");
    let mut files = Vec::new();
    let mut todo = vec![dir.path().to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                todo.push(path);
            } else if is_makefile(&relative) {
                files.push((relative, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()));
            }
        }
    }
    files.sort();
    Some((dir, files))
}

fn module_names(list: &Path) -> Vec<String> {
    let text = fs::read_to_string(list).unwrap();
    let name = |line: &str| line.rsplit('/').next().unwrap().trim_end_matches(".ko").to_owned();
    text.lines().map(name).collect()
}

#[test]
fn the_modules_of_real_kernels_are_known() {
    let Some((_dir, files)) = makefiles() else { return };
    let start = Instant::now();
    let mut kbuild = Kbuild::default();
    files.iter().for_each(|(path, text)| kbuild.scan(path, text));
    let text = kbuild.to_text();
    let read = Kbuild::parse(&text).unwrap();
    let took = start.elapsed();
    assert_eq!(read.to_text(), text);
    // A tenth of it where nothing else runs.
    assert!(took < Duration::from_secs(1), "{} Makefiles took {took:?}", files.len());

    let Some(fixtures) = common::fixtures("modules") else { return };
    let configs = fixtures.join("../kernel-config");
    // The kernels are older and newer than the source, so that some modules are not in it any more, or not yet; of
    // those that are, hardly any may be said to be off.
    for (config, folder) in [
        ("debian-6.1.0-56-amd64", "debian-6.1.0-56-amd64"),
        ("alpine-linux-virt-6.18.56", "alpine-6.18.56-0-virt"),
    ] {
        let text = fs::read_to_string(configs.join(format!("{config}.config"))).unwrap();
        let config = Config::parse(&text).unwrap();
        for (list, share) in [("modules.order", 97), ("modules.builtin", 94)] {
            let names = module_names(&fixtures.join(folder).join(list));
            let verdicts: Vec<_> = names.iter().map(|name| read.verdict(name, &config, "x86")).collect();
            let count = |fits: fn(&Verdict<'_>) -> bool| verdicts.iter().filter(|v| fits(v)).count();
            let made = count(|v| matches!(v, Verdict::Made));
            let off = count(|v| matches!(v, Verdict::Off(_)));
            assert!(made * 100 >= names.len() * share, "{folder} {list}: {made} of {}", names.len());
            assert!(off * 200 <= names.len() * 5, "{folder} {list}: {off} of {}", names.len());
        }
    }
}

#[test]
fn what_is_off_is_told_by_its_symbol() {
    let Some((_dir, files)) = makefiles() else { return };
    let mut kbuild = Kbuild::default();
    files.iter().for_each(|(path, text)| kbuild.scan(path, text));
    let off = Config::parse("CONFIG_PCI=y\n").unwrap();
    let on = |symbol: &str| Config::parse(&format!("CONFIG_{symbol}=m\n")).unwrap();
    // Names as users write them; files with `-`, composites, and folders of their own.
    for (name, symbol) in [
        ("libata", "ATA"),
        ("ahci", "SATA_AHCI"),
        ("nvme", "BLK_DEV_NVME"),
        ("virtio_net", "VIRTIO_NET"),
        ("e1000", "E1000"),
        ("e1000e", "E1000E"),
        ("igb", "IGB"),
        ("ixgbe", "IXGBE"),
        ("xhci_pci", "USB_XHCI_PCI"),
        ("usbhid", "USB_HID"),
        ("r8169", "R8169"),
        ("tg3", "TIGON3"),
        ("mlx5_core", "MLX5_CORE"),
        ("btrfs", "BTRFS_FS"),
        ("amdgpu", "DRM_AMDGPU"),
        ("kvm-intel", "KVM_INTEL"),
    ] {
        let Verdict::Off(makers) = kbuild.verdict(name, &off, "x86") else {
            panic!("{name}: {:?}", kbuild.verdict(name, &off, "x86"));
        };
        assert!(makers.iter().any(|(_, symbols)| symbols.contains(&symbol)), "{name}: {makers:?}");
        assert_eq!(kbuild.verdict(name, &on(symbol), "x86"), Verdict::Made, "{name}");
    }
    let near = |name| match kbuild.verdict(name, &on("VIRTIO_NET"), "x86") {
        Verdict::Unmade { nearest } => nearest.map(str::to_owned),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(near("virtio_nett").as_deref(), Some("virtio_net"));
    // A part of a module is none.
    assert!(matches!(kbuild.verdict("libata-eh", &off, "x86"), Verdict::Unmade { .. }));
}

proptest! {
    /// Any text is read to its end, and what was read is written as it is read again.
    #[test]
    fn text_is_read_as_it_was_written(
        lines in proptest::collection::vec(
            "[ \t]?(obj|lib|a)-(y|m|\\$\\(CONFIG_[A-C]\\)|\\$\\(subst y,m,\\$\\(CONFIG_D\\)\\)) ?[+:]?= ?[a-c$(){}.o/ -]{0,12}\\\\?|ifdef CONFIG_[A-C]|else|endif|CONFIG_A=y|.{0,20}",
            0..20,
        ),
    ) {
        let mut kbuild = Kbuild::default();
        kbuild.scan("a/Makefile", &lines.join("\n"));
        kbuild.scan("b/Kbuild", &lines.concat());
        let text = kbuild.to_text();
        let again = Kbuild::parse(&text);
        prop_assert_eq!(again.map(|k| k.to_text()), Ok(text));
    }
}
