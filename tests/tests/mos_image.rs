//! The repository's own mosbuild.yaml, the MOS image: it is planned and shown in a fresh clone without a network, for
//! every profile, and its kernel's configuration comes out of a real source as it is asked for. Compiles no kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mosbuild_tests::alpine::not_run;
use mosbuild_tests::mos::PROFILES;
use mosbuild_tests::{Output, Space, repository};
use serde_json::Value;

/// Every target of the file, in its order.
const TARGETS: [&str; 28] = [
    "miniroot",
    "packages",
    "my_init",
    "myfs",
    "mosnet",
    "mos_volmgr",
    "mycelium",
    "rfs",
    "mosstorage",
    "corex",
    "runtime",
    "linux",
    "modules",
    "firmware",
    "all_modules",
    "all_firmware",
    "modules_flist",
    "firmware_flist",
    "flists",
    "system",
    "channel",
    "rootfs",
    "initramfs",
    "kernel",
    "boot",
    "rootfs_full",
    "initramfs_full",
    "kernel_full",
];

#[track_caller]
fn ends_well(output: &Output) -> &Output {
    assert_eq!(output.code, Some(0), "{output}");
    output
}

#[test]
fn a_fresh_clone_is_planned_and_shown_without_a_network() {
    let space = Space::mos();
    let listed = space.json(&["list", "--json"]);
    let names: Vec<&str> =
        listed["targets"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, TARGETS);

    // Without a lock each source is to be found first; what waits for one is told so.
    let output = space.run(&["build", "-n", "kernel", "kernel_full", "boot", "runtime", "flists"]);
    ends_well(&output);
    let lines: BTreeMap<&str, &str> = output.stdout.lines().map(|l| l.split_once(": ").unwrap()).collect();
    // Groups have nothing to do.
    let all: BTreeSet<&str> =
        TARGETS.into_iter().filter(|name| !matches!(*name, "runtime" | "flists")).collect();
    assert_eq!(lines.keys().copied().collect::<BTreeSet<_>>(), all, "{output}");
    let unlocked = "its source is not in mosbuild.lock";
    for name in ["miniroot", "linux", "all_firmware", "corex"] {
        assert!(lines[name].contains(unlocked), "{name}: {}", lines[name]);
    }
    for name in ["my_init", "myfs", "mosnet", "mos_volmgr", "mycelium", "rfs", "mosstorage"] {
        // A host without the Rust target is told about it, and what to do.
        let blocked = lines[name].starts_with("blocked (the Rust target ");
        assert!(lines[name].contains(unlocked) || blocked, "{name}: {}", lines[name]);
        if blocked {
            output.says("rustup target add x86_64-unknown-linux-musl");
        }
    }
    // `firmware` has the same archive, which is locked once.
    for (name, on) in [("packages", "miniroot"), ("modules", "linux"), ("firmware", "all_firmware")] {
        assert_eq!(lines[name], format!("depends on {on}"), "{output}");
    }
    for name in ["rootfs", "initramfs", "kernel", "boot", "rootfs_full", "initramfs_full", "kernel_full"] {
        assert!(lines[name].starts_with("depends on "), "{name}: {}", lines[name]);
    }
    for name in ["system", "channel"] {
        assert!(lines[name].starts_with("will run"), "{name}: {}", lines[name]);
    }

    for format in ["text", "dot", "json"] {
        let output = space.run(&["graph", "--format", format]);
        ends_well(&output);
        TARGETS.iter().for_each(|name| assert!(output.stdout.contains(name), "{format}: {name}\n{output}"));
    }
    for name in TARGETS {
        let shown = space.json(&["show", name, "--json"]);
        assert_eq!(shown["name"], name, "{shown:#}");
    }
    assert!(ends_well(&space.run(&["schema"])).stdout.contains("mosbuild.yaml"));
    for left in ["mosbuild.lock", "dist", ".mosbuild/runs"] {
        assert!(!space.has(left), "{left} is there");
    }
}

#[test]
fn the_initramfs_holds_what_a_node_needs_to_boot_and_the_full_one_the_rest() {
    let space = Space::mos();
    let layers = |target: &str| {
        let shown = space.json(&["show", target, "--json"]);
        let layers = shown["definition"]["layers"].as_array().unwrap().clone();
        layers.iter().map(|layer| layer.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let boot = layers("rootfs");
    for component in ["my_init", "myfs", "mosnet", "mos_volmgr"] {
        assert!(boot.iter().any(|layer| layer == component), "{boot:?}");
    }
    assert_eq!(layers("rootfs_full"), ["rootfs", "mycelium", "rfs", "mosstorage", "corex"]);
    let dist: Vec<String> = dist_names();
    let image = ["vmlinuz.efi", "initramfs.cpio.xz", "vmlinuz-{linux.version}-{my_init.rev}.efi"];
    for name in image.into_iter().chain(["modules-{linux.version}.fl", "firmware-{all_firmware.version}.fl"])
    {
        assert!(dist.iter().any(|known| known == name), "{dist:?}");
    }
}

/// Keys of `dist:`, which ends the file.
fn dist_names() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("mosbuild.yaml")).unwrap();
    let lines = text.lines().skip_while(|line| *line != "dist:").skip(1);
    lines.filter_map(|line| Some(line.trim().rsplit_once(": ")?.0.trim_matches('"').to_owned())).collect()
}

#[test]
fn each_profile_chooses_its_channel_and_its_revisions() {
    let space = Space::mos();
    let mut revisions = BTreeMap::new();
    for profile in PROFILES {
        let shown = |target: &str| {
            let all = space.json(&["--profile", profile, "show", target, "--json"]);
            all["definition"].clone()
        };
        let from = format!("config/profiles/{profile}");
        assert_eq!(shown("channel")["install"][0]["from"], *from);
        let conf = space.read(&format!("{from}/channel.conf"));
        assert!(conf.lines().any(|line| line == format!("CHANNEL={profile}")), "{conf}");
        let source = shown("my_init")["source"].clone();
        assert_eq!(source["git"], "https://forge.ourworld.tf/geomind_code/my_init.git");
        revisions.insert(profile, source["rev"].as_str().unwrap().to_owned());
        ends_well(&space.run(&["--profile", profile, "build", "-n"]));
    }
    assert_eq!(revisions["dev"], "development");
    assert_ne!(revisions["dev"], revisions["production"]);
    // One revision, for a day: by --set, over the profile.
    let set = ["--profile", "production", "--set", "mycelium_rev=v0.6.2", "show", "mycelium", "--json"];
    assert_eq!(space.json(&set)["definition"]["source"]["rev"], "v0.6.2");
}

#[test]
fn an_unknown_profile_is_told_with_those_there_are() {
    let space = Space::mos();
    for (profile, near) in [("produktion", Some("production")), ("staging", None)] {
        let output = space.build(&["--profile", profile]);
        assert_eq!(output.code, Some(2), "{output}");
        output.says(&format!("--profile: unknown profile `{profile}`"));
        output.says("the profiles are `dev`, `testing`, `canary` and `production`");
        if let Some(near) = near {
            output.says(near);
        }
        assert!(output.started().is_empty());
    }
    // A channel that has no folder.
    let output = space.build(&["--set", "channel=nightly"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("config/profiles/nightly");
}

/// `build.sh --check-deps`: what the image needs is told with who needs it, and what is missing with the command that
/// brings it. The host is made to lack git.
#[test]
fn doctor_names_what_the_image_needs() {
    let mut space = Space::mos();
    let bin = space.base().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let link = bin.join(entry.file_name());
            if entry.file_name() != "git" && !link.exists() {
                std::os::unix::fs::symlink(entry.path(), link).unwrap();
            }
        }
    }
    space.env("PATH", &bin);
    let output = space.run(&["doctor"]);
    assert_eq!(output.code, Some(3), "{output}");
    for text in ["git: not found", "on Debian: apt-get install git"] {
        assert!(output.stdout.contains(text), "{text}: {output}");
    }
    let answer: Value = serde_json::from_str(&space.run(&["doctor", "--json"]).stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let by = |what: &str| -> Vec<&str> {
        let finding = findings.iter().find(|f| f["what"] == what);
        let finding = finding.unwrap_or_else(|| panic!("{what} is not asked for: {answer:#}"));
        finding["needed_by"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
    };
    for (what, target) in [
        ("git", "my_init"),
        ("cargo", "mosnet"),
        ("rustc", "rfs"),
        ("bc", "linux"),
        ("flex", "kernel"),
        ("libelf-dev", "linux"),
        ("xz", "linux"),
        ("qemu-system-x86_64", "boot"),
        ("sandbox", "packages"),
    ] {
        assert!(by(what).contains(&target), "{what} is asked for by {:?}", by(what));
    }
    // The Rust target of the components, where this host has not got it.
    if let Some(plan) = findings.iter().find(|f| f["what"] == "plan") {
        assert!(
            plan["problem"].to_string().contains("the Rust target x86_64-unknown-linux-musl"),
            "{plan:#}"
        );
        assert!(plan["help"].to_string().contains("rustup target add x86_64-unknown-linux-musl"), "{plan:#}");
    }
}

/// The lists are those of the pipeline that this replaces, word for word.
#[test]
fn the_lists_are_the_old_ones() {
    let lines = |path: &str| -> Vec<String> {
        let text = std::fs::read_to_string(repository().join(path)).unwrap();
        text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(
        lines("config/packages.list").join(" "),
        "alpine-baselayout busybox musl eudev eudev-hwids kmod iproute2 ethtool dhcpcd btrfs-progs dosfstools \
         haveged openssh-server zellij tcpdump bmon"
    );
    assert_eq!(
        lines("config/modules.conf").join(" "),
        "libata ahci nvme virtio_net e1000 e1000e igb ixgbe xhci_pci usbhid"
    );
}

/// Symbols that the image cannot do without, by purpose; all must be built in.
const MUST_BE_Y: [&str; 25] = [
    "BLK_DEV_INITRD",
    "RD_XZ",
    "INITRAMFS_COMPRESSION_XZ",
    "KERNEL_XZ",
    "EFI",
    "EFI_STUB",
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "DEVTMPFS",
    "DEVTMPFS_MOUNT",
    "TMPFS",
    "TMPFS_XATTR",
    "PROC_FS",
    "SYSFS",
    "UNIX",
    "PACKET",
    "INET",
    "IPV6",
    "MODULES",
    "MODULE_UNLOAD",
    "FW_LOADER",
    "VIRTIO_PCI",
    "VIRTIO_BLK",
    "SERIAL_8250_CONSOLE",
    "NAMESPACES",
];

/// Symbols that must be there, built in or as modules.
const MUST_BE_ON: [&str; 56] = [
    // Modules and firmware, file systems, disks.
    "FW_LOADER_COMPRESS",
    "FUSE_FS",
    "OVERLAY_FS",
    "SQUASHFS",
    "BTRFS_FS",
    "VFAT_FS",
    "BLK_DEV_LOOP",
    "BLK_DEV_DM",
    "SATA_AHCI",
    "BLK_DEV_NVME",
    "BLK_DEV_SD",
    "SCSI_VIRTIO",
    // Network cards.
    "VIRTIO_NET",
    "E1000",
    "E1000E",
    "IGB",
    "IXGBE",
    "I40E",
    "R8169",
    "REALTEK_PHY",
    "TIGON3",
    "MLX5_CORE",
    // Console, input, entropy.
    "VIRTIO_CONSOLE",
    "FRAMEBUFFER_CONSOLE",
    "USB_XHCI_PCI",
    "USB_HID",
    "HW_RANDOM_VIRTIO",
    // Virtual machines.
    "KVM",
    "KVM_INTEL",
    "KVM_AMD",
    "VHOST_NET",
    "VHOST_VSOCK",
    "VFIO_PCI",
    "INTEL_IOMMU",
    "AMD_IOMMU",
    // Containers.
    "USER_NS",
    "NET_NS",
    "PID_NS",
    "CGROUPS",
    "MEMCG",
    "CGROUP_PIDS",
    "CGROUP_DEVICE",
    "CGROUP_BPF",
    "SECCOMP_FILTER",
    // Networking.
    "TUN",
    "BRIDGE",
    "VETH",
    "MACVTAP",
    "VXLAN",
    "WIREGUARD",
    "NF_TABLES",
    "NFT_MASQ",
    "BRIDGE_NETFILTER",
    // What the modules of modules.conf are made by, beyond those.
    "ATA",
    "USB_XHCI_HCD",
    "HID",
];

/// Settings with which two builds differ, or that need a key.
const MUST_BE_OFF: [&str; 8] = [
    "LOCALVERSION_AUTO",
    "MODULE_SIG",
    "MODULE_COMPRESS",
    "IKHEADERS",
    "RANDSTRUCT_FULL",
    "RANDSTRUCT_PERFORMANCE",
    "DEBUG_INFO",
    "DEBUG_INFO_BTF",
];

/// Debian's source of 6.12, in whose name 6.12.44 is served.
fn kernel_source() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/src/linux-source-6.12.tar.xz");
    path.exists().then_some(path)
}

/// The image's kernel without what has to be fetched: what is planned, configured and checked is all that is asked of it.
/// The compile is kept from starting by a module's name that is wrong.
#[test]
fn the_kernels_configuration_comes_out_as_asked_and_wrong_modules_stop_the_compile() {
    let Some(source) = kernel_source() else {
        not_run("there is no /usr/src/linux-source-6.12.tar.xz");
        return;
    };
    let mut space = Space::mos();
    let mirror = space.base().join("mirror");
    std::fs::create_dir(&mirror).unwrap();
    std::os::unix::fs::symlink(source, mirror.join("linux-6.12.44.tar.xz")).unwrap();
    let linux = "https://cdn.kernel.org/pub/linux/kernel/v6.x/";
    space.env("MOSBUILD_MIRRORS", format!("{linux}=file://{}/", mirror.display()));
    let layers = "[packages, my_init, myfs, mosnet, mos_volmgr, modules, firmware, system, channel]";
    space.edit_yaml(layers, "[modules, system, channel]");
    let list = space.read("config/modules.conf");
    let next = list.lines().count() + 1;
    space.write("config/modules.conf", format!("{list}virtio_nett\nsnd_hda_intel\ncrypto-aes\nnet-pf-10\n"));

    let output = space.build(&["kernel"]);
    assert_eq!(output.code, Some(1), "{output}");
    output
        .says("modules:check: the kernel would be built without modules that are asked for:")
        .says(&format!(
            "config/modules.conf:{next}: virtio_nett: no Makefile of this kernel makes it; did you mean virtio_net?"
        ))
        .says(&format!("config/modules.conf:{}: snd_hda_intel: CONFIG_SND_HDA_INTEL is not set (sound/", next + 1))
        .says("add to config/kernel/left-out.config: CONFIG_SND_HDA_INTEL=m");
    // Aliases are in no Makefile: they are no fault.
    assert!(!output.stderr.contains("crypto-aes:") && !output.stderr.contains("net-pf-10:"), "{output}");
    let ended = |target: &str, step: &str| {
        let of = |e: &&Value| e["event"] == "step_finished" && e["target"] == target && e["step"] == step;
        output.events.iter().find(of).map(|e| e["outcome"].as_str().unwrap().to_owned())
    };
    for (target, step) in [
        ("linux", "unpack"),
        ("linux", "configure"),
        ("linux", "check"),
        ("linux", "kbuild"),
        ("kernel", "preflight"),
    ] {
        assert_eq!(ended(target, step).as_deref(), Some("ran"), "{target}:{step}: {output}");
    }
    assert_eq!(ended("linux", "compile"), None, "{output}");

    holds(&config_of(&space, &[]), &[]);
    let shown = space.json(&["show", "linux", "--json"]);
    let version = shown["facts"]["version"].as_str().unwrap();
    assert!(version.starts_with("6.12.") && version.ends_with("-MyceliumOS"), "{version}");
    let notes: String =
        shown["steps"].as_array().unwrap().iter().map(|step| step["notes"].to_string()).collect();
    assert!(!notes.contains("not reproducible"), "{notes}");

    // Every module of the list that is shipped is one, or built in.
    space.write("config/modules.conf", format!("{list}snd_hda_intel\n"));
    let output = space.build(&["kernel"]);
    assert_eq!(output.code, Some(1), "{output}");
    let lines =
        |output: &Output| output.stderr.lines().filter(|line| line.contains("config/modules.conf:")).count();
    assert_eq!(lines(&output), 1, "only the one that was added is wrong: {output}");

    // The same for the other architecture.
    if !Path::new("/usr/bin/aarch64-linux-gnu-gcc").exists() || cfg!(target_arch = "aarch64") {
        return not_run("there is no cross compiler for aarch64");
    }
    let set = ["--set", "arch=aarch64"];
    let output = space.build(&[&set[..], &["kernel"]].concat());
    assert_eq!((output.code, lines(&output)), (Some(1), 1), "{output}");
    let config = config_of(&space, &set);
    assert_eq!(config["SERIAL_AMBA_PL011_CONSOLE"], "y");
    holds(&config, &OF_X86);
}

/// Symbols of the lists above that only x86_64 has.
const OF_X86: [&str; 6] =
    ["KERNEL_XZ", "SERIAL_8250_CONSOLE", "KVM_INTEL", "KVM_AMD", "INTEL_IOMMU", "AMD_IOMMU"];

/// Checks a .config against the lists; `but` are symbols that it may lack.
#[track_caller]
fn holds(config: &BTreeMap<String, String>, but: &[&str]) {
    let value = |symbol: &str| config.get(symbol).map_or("n", String::as_str);
    for symbol in MUST_BE_Y.iter().filter(|s| !but.contains(s)) {
        assert_eq!(value(symbol), "y", "{symbol}");
    }
    for symbol in MUST_BE_ON.iter().filter(|s| !but.contains(s)) {
        assert!(matches!(value(symbol), "y" | "m"), "{symbol} is {}", value(symbol));
    }
    for symbol in MUST_BE_OFF {
        assert_eq!(value(symbol), "n", "{symbol}");
    }
    assert_eq!(value("LOCALVERSION"), "\"-MyceliumOS\"");
    assert!(value("INITRAMFS_SOURCE").contains(".cpio."), "{}", value("INITRAMFS_SOURCE"));
}

/// The checked .config of the kernel, by symbol.
fn config_of(space: &Space, set: &[&str]) -> BTreeMap<String, String> {
    let shown = space.json(&[set, &["show", "linux", "--json"]].concat());
    let steps = shown["steps"].as_array().unwrap();
    let check = steps.iter().find(|step| step["name"] == "check").unwrap();
    let digest = check["outputs"]["config"]["digest"].as_str().unwrap();
    let (path, _) = mosbuild_tests::blobs(space.store()).into_iter().find(|(_, hex)| hex == digest).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let settings = text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
    settings.map(|(symbol, value)| (symbol.to_owned(), value.to_owned())).collect()
}

/// Each fragment says what it is for, sets no symbol that another sets, and none twice.
#[test]
fn the_fragments_are_commented_and_do_not_contradict_each_other() {
    let mut seen: BTreeMap<String, PathBuf> = BTreeMap::new();
    let folder = repository().join("config/kernel");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let yaml = std::fs::read_to_string(repository().join("mosbuild.yaml")).unwrap();
    for path in &files {
        let name = path.strip_prefix(repository()).unwrap().display().to_string();
        // One of an architecture is taken by the architecture's name, and may set what one of another sets.
        let arch = ["x86_64", "aarch64"].iter().find(|arch| name.ends_with(&format!("/{arch}.config")));
        let named = arch.map_or(name.clone(), |_| "config/kernel/${arch}.config".into());
        assert!(
            yaml.contains(&format!("- {named}\n")) || yaml.contains(&format!("- \"{named}\"\n")),
            "mosbuild.yaml does not name {name}"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("# ") && !first.contains("CONFIG_"), "{name} begins with {first:?}");
        for line in text.lines() {
            let Some(symbol) = symbol(line) else { continue };
            let scope = format!("{}{symbol}", if arch == Some(&"aarch64") { "aarch64 " } else { "" });
            if let Some(other) = seen.insert(scope, path.clone()) {
                panic!("{symbol} is set by {} and {name}", Path::new(&other).display());
            }
        }
    }
    assert!(files.len() >= 10, "{files:?}");
}

fn symbol(line: &str) -> Option<&str> {
    let unset = line.strip_prefix("# CONFIG_").and_then(|rest| rest.strip_suffix(" is not set"));
    unset.or_else(|| Some(line.strip_prefix("CONFIG_")?.split_once('=')?.0))
}
