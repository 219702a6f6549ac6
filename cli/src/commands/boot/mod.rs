//! `mosbuild boot`: builds a kernel and starts it in a virtual machine on this terminal.
//! Knows what the machine is made of; what is in the image is none of its business.

mod cloud_hypervisor;
mod disks;
mod network;
mod qemu;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mosbuild_cache::Output;
use mosbuild_engine::build::{BuildOptions, named, prepare};
use mosbuild_engine::load::{Loaded, LoadedTarget, Step};
use mosbuild_rules::Arch;
use mosbuild_rules::machine::{Firmware, Parts, Start};

use self::cloud_hypervisor::CloudHypervisor;
use self::network::Network;
use self::qemu::Qemu;
pub use self::qemu::kvm_works;

use super::build::{RunArgs, execute};
use super::test::RULE as TEST_RULE;
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format::parse_mebibytes;
use crate::interrupt;
use crate::session::{Access, Grounds, Session};
use crate::ui::Ui;

const KERNEL_RULE: &str = "kernel";
const UKI_RULE: &str = "uki";
const MEMORY: u64 = 1024;

/// Arguments of `boot`.
#[derive(Args, Debug)]
pub struct BootArgs {
    /// A kernel, a unified kernel image, or a boot test whose machine is started [default: the kernel behind the boot
    /// tests, else the only target of rule kernel]
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Memory of the machine, as 512M or 2GiB [default: the boot test's, else 1GiB]
    #[arg(long, value_name = "M", env = "MEMORY", hide_env_values = true, value_parser = parse_mebibytes)]
    memory: Option<u64>,
    /// The kernel's command line; the serial console is added where it names none
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// What runs the machine
    #[arg(long, value_enum, env = "HYPERVISOR", hide_env_values = true, default_value = "qemu")]
    hypervisor: Hypervisor,
    /// Number of disks; they are kept in .mosbuild/disks [default: the boot test's, else none]
    #[arg(long, value_name = "N", env = "NUM_DISKS", hide_env_values = true, value_parser = clap::value_parser!(u32).range(..=24))]
    disks: Option<u32>,
    /// Size of each new disk, as 20G; they are sparse [default: 10G]
    #[arg(long, value_name = "S", env = "DISK_SIZE", hide_env_values = true, value_parser = parse_mebibytes)]
    disk_size: Option<u64>,
    /// Start with empty disks
    #[arg(long)]
    reset: bool,
    /// Connect the machine to this bridge of the host, by a TAP device that is made for it (as root, or by sudo)
    #[arg(long, value_name = "B", env = "BRIDGE", hide_env_values = true, conflicts_with = "tap")]
    bridge: Option<String>,
    /// Connect the machine to this TAP device
    #[arg(long, value_name = "DEV")]
    tap: Option<String>,
    /// Let UEFI firmware start the image from an EFI system partition, as a computer does; with --cmdline or an archive
    /// beside the image it is handed these
    #[arg(long)]
    uefi: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What runs a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hypervisor {
    /// qemu-system-ARCH
    Qemu,
    /// cloud-hypervisor, which needs KVM
    #[value(alias = "cloud-hypervisor")]
    Ch,
}

/// An output to boot from: target and, where it is not the default one, output.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    target: u32,
    output: Option<String>,
}

/// What is started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    kernel: Part,
    initramfs: Option<Part>,
    cmdline: Option<String>,
    memory: Option<u64>,
    disks: Option<u32>,
    uefi: bool,
}

/// Builds and boots.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &BootArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.run.store, None, Access::Write)?;
    let loaded = grounds.site.load()?;
    let mut machine = choose(&loaded, args.target.as_deref())?;
    machine.uefi |= args.uefi;
    machine.memory = args.memory.or(machine.memory);
    machine.disks = args.disks.or(machine.disks);
    machine.cmdline = args.cmdline.clone().or(machine.cmdline);
    let arch = arch_of(&loaded, machine.kernel.target)?;
    lacking(args.hypervisor, arch, &machine)?;
    Network::check(args.tap.as_deref(), args.bridge.as_deref())?;
    let parts = || std::iter::once(&machine.kernel).chain(&machine.initramfs);
    let mut requested: Vec<String> =
        parts().map(|p| loaded.targets[p.target as usize].name.clone()).collect();
    requested.dedup();
    let options = args.run.options(&grounds, global, words, requested);
    let report = execute(ui, &grounds, &options, &args.run)?;
    if report.head.exit != 0 {
        return Ok(report.head.exit);
    }
    let mut session = Session::on(grounds)?;
    let kernel = path(&mut session, &options, &machine.kernel)?;
    let initramfs = match &machine.initramfs {
        Some(part) => Some(path(&mut session, &options, part)?),
        None => None,
    };
    let state = session.workspace.dirs.state.clone();
    let target = loaded.targets[machine.kernel.target as usize].name.as_str();
    let wanted = args.disk_size.map(|mebibytes| mebibytes << 20);
    let folder = disks::folder(&state);
    let disks = disks::prepare(&folder, target, machine.disks.unwrap_or(0), wanted, args.reset)?;
    // The image is in the store: while it runs, others may build in this workspace.
    drop(session);
    let scratch = Scratch::new(&state)?;
    let network = Network::of(ui, args.tap.as_deref(), args.bridge.as_deref())?;
    interrupt::hand_over();
    let memory = machine.memory.unwrap_or(MEMORY);
    let disks = disks.iter().map(|path| text(path)).collect();
    let cmdline = with_console(machine.cmdline.as_deref().unwrap_or_default(), arch.console.1);
    let initramfs = initramfs.as_deref().map(text);
    if args.hypervisor == Hypervisor::Ch {
        let kernel = text(&kernel);
        let machine =
            CloudHypervisor { target, kernel, initramfs, cmdline, disks, memory, network: &network };
        return machine.start(ui);
    }
    let firmware = machine.uefi.then(|| firmware(arch, &disks::variables(&folder, target))).transpose()?;
    let start = if firmware.is_some() && initramfs.is_none() && machine.cmdline.is_none() {
        let place = scratch.0.join("esp").join(arch.efi_program);
        scratch.copy(&kernel, &place)?;
        Start::Partition { folder: text(&scratch.0.join("esp")) }
    } else {
        let unpacked = if firmware.is_some() { None } else { unpack(&kernel, &scratch)? };
        Start::Direct { kernel: text(unpacked.as_deref().unwrap_or(&kernel)), initramfs, cmdline }
    };
    let parts = Parts { start, firmware, disks };
    Qemu { arch, target, parts, memory, network: &network, kvm: kvm_works(arch) }.start(ui)
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The kernel's command line, with the serial console where it names none.
fn with_console(cmdline: &str, console: &str) -> String {
    match cmdline.contains("console=") {
        true => cmdline.to_owned(),
        false => format!("console={console} {cmdline}").trim_end().to_owned(),
    }
}

/// What this host lacks for the machine, before anything is built.
fn lacking(hypervisor: Hypervisor, arch: &'static Arch, machine: &Machine) -> Result<(), Failure> {
    if hypervisor == Hypervisor::Ch {
        if machine.uefi {
            let help = "leave --hypervisor ch out: cloud-hypervisor takes firmware of its own, which no package brings";
            return Err(Failure::usage("UEFI is started by QEMU only").help(help));
        }
        if !arch.is_host() {
            let text = format!("cloud-hypervisor emulates nothing: the kernel is for {}", arch.name);
            return Err(Failure::usage(text).help("leave --hypervisor ch out"));
        }
        if !on_path(cloud_hypervisor::PROGRAM) {
            let text = format!("{} is not installed", cloud_hypervisor::PROGRAM);
            return Err(Failure::new(3, text).help(cloud_hypervisor::ADVICE));
        }
        if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Err(Failure::new(3, "cloud-hypervisor needs KVM, and /dev/kvm cannot be used")
                .help("`sudo usermod -aG kvm $USER` may allow it; without KVM, leave --hypervisor ch out"));
        }
        return Ok(());
    }
    let program = arch.qemu.0;
    if !on_path(program) {
        return Err(Failure::new(3, format!("{program} is not installed"))
            .help(format!("sudo apt-get install {}", package(arch.name))));
    }
    for file in std::iter::once(arch.uefi.code).chain(arch.uefi.vars).filter(|_| machine.uefi) {
        if !Path::new(file).is_file() {
            return Err(Failure::new(3, format!("there is no UEFI firmware at {file}"))
                .help(format!("sudo apt-get install {}", arch.uefi.package)));
        }
    }
    Ok(())
}

/// The firmware of the host, with variables that stay with the disks.
fn firmware(arch: &Arch, variables: &Path) -> Result<Firmware, Failure> {
    let Some(first) = arch.uefi.vars else {
        return Ok(Firmware { code: arch.uefi.code.into(), vars: None });
    };
    if !variables.exists() {
        let bytes = std::fs::read(first).map_err(|e| Failure::io(Path::new(first), e))?;
        std::fs::write(variables, bytes).map_err(|e| Failure::io(variables, e))?;
    }
    Ok(Firmware { code: arch.uefi.code.into(), vars: Some(text(variables)) })
}

/// A folder of this start, removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(state: &Path) -> Result<Scratch, Failure> {
        let dir = state.join("tmp").join(format!("boot.{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|e| Failure::io(&dir, e))?;
        Ok(Scratch(dir))
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<(), Failure> {
        let dir = to.parent().unwrap_or(&self.0);
        let copied = std::fs::create_dir_all(dir).and_then(|()| std::fs::copy(from, to));
        copied.map(drop).map_err(|e| Failure::io(to, e))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The architecture that a kernel is for: that of the `linux` behind it, else the workspace's.
fn arch_of(loaded: &Loaded, kernel: u32) -> Result<&'static Arch, Failure> {
    let mut at = &loaded.targets[kernel as usize];
    let behind = |target: &LoadedTarget| {
        let names = ["linux", "kernel"].map(|name| Step::Key(name.into()));
        target
            .references
            .iter()
            .find(|r| r.field.first().is_some_and(|f| names.contains(f)))
            .map(|r| r.target)
    };
    while let Some(next) = behind(at) {
        at = &loaded.targets[next as usize];
    }
    let name = at.value.get("arch").and_then(|v| v.as_str()).unwrap_or(&loaded.arch);
    Arch::named(name).ok_or_else(|| {
        let (message, help) = Arch::unknown(name);
        Failure::usage(message).help(help)
    })
}

/// Writes the image that QEMU is to be given in place of `kernel` into scratch, where it is another.
fn unpack(kernel: &Path, scratch: &Scratch) -> Result<Option<PathBuf>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(1, format!("{}: {e}", kernel.display()));
    let bytes = std::fs::read(kernel).map_err(|e| failed(&e))?;
    let Some(image) = mosbuild_rules::image_for_qemu(&bytes).map_err(|e| failed(&e))? else {
        return Ok(None);
    };
    let path = scratch.0.join("image");
    std::fs::write(&path, image).map_err(|e| failed(&e))?;
    Ok(Some(path))
}

fn choose(loaded: &Loaded, target: Option<&str>) -> Result<Machine, Failure> {
    let targets = &loaded.targets;
    if let Some(name) = target {
        let index = named(loaded, name)?;
        let target = &targets[index as usize];
        return match target.rule == TEST_RULE {
            true => of_test(target),
            false if target.outputs.is_empty() => {
                Err(Failure::usage(format!("{name} makes nothing that could be started")))
            }
            false => Ok(Machine { uefi: target.rule == UKI_RULE, ..alone(index) }),
        };
    }
    let tests: Vec<&LoadedTarget> = targets.iter().filter(|t| t.rule == TEST_RULE).collect();
    if let Some(first) = tests.first() {
        let machine = of_test(first)?;
        let same = |t: &&LoadedTarget| of_test(t).is_ok_and(|m| m.kernel == machine.kernel);
        if tests.iter().all(same) {
            return Ok(machine);
        }
        let names: Vec<&str> = tests.iter().map(|t| t.name.as_str()).collect();
        return Err(Failure::usage("the boot tests are about several kernels; name one of them")
            .help(format!("mosbuild boot {}", names.join("|"))));
    }
    let kernels: Vec<u32> =
        (0u32..).zip(targets).filter(|(_, t)| t.rule == KERNEL_RULE).map(|(i, _)| i).collect();
    match kernels.as_slice() {
        [one] => Ok(alone(*one)),
        [] => Err(Failure::usage("there is nothing to boot: no target has the rule boot-test or kernel")),
        several => {
            let names: Vec<&str> = several.iter().map(|t| targets[*t as usize].name.as_str()).collect();
            Err(Failure::usage("there are several kernels; name one of them")
                .help(format!("mosbuild boot {}", names.join("|"))))
        }
    }
}

fn alone(target: u32) -> Machine {
    let kernel = Part { target, output: None };
    Machine { kernel, initramfs: None, cmdline: None, memory: None, disks: None, uefi: false }
}

/// The machine of a boot test.
fn of_test(test: &LoadedTarget) -> Result<Machine, Failure> {
    let part = |field: &str| {
        let found = test.references.iter().find(|r| r.field.first() == Some(&Step::Key(field.into())))?;
        Some(Part { target: found.target, output: found.output.clone() })
    };
    let text = |field: &str| test.value.get(field).and_then(|v| v.as_str()).map(str::to_owned);
    let kernel = part("kernel").ok_or_else(|| Failure::usage(format!("{} names no kernel", test.name)))?;
    let memory = match test.value.get("memory") {
        Some(serde_json::Value::String(text)) => parse_mebibytes(text).ok(),
        Some(serde_json::Value::Number(number)) => number.as_u64(),
        _ => None,
    };
    let disks = test.value.get("disks").and_then(|v| v.as_u64()).map(|n| n as u32);
    let uefi = text("firmware").is_some();
    Ok(Machine { kernel, initramfs: part("initramfs"), cmdline: text("cmdline"), memory, disks, uefi })
}

/// Where an output that was built just now lies in the store.
fn path(session: &mut Session, options: &BuildOptions, part: &Part) -> Result<PathBuf, Failure> {
    let prepared = prepare(&mut session.workspace, &session.grounds.store, options, None)?;
    let target = &session.workspace.loaded.targets[part.target as usize];
    let output = part.output.as_deref().or(target.outputs.first().map(|o| o.name.as_str()));
    let made: Option<Output> = output.and_then(|output| {
        let (ix, name) = prepared.graph.maker(part.target, output)?;
        let step = &prepared.graph.steps[ix as usize].step.name;
        session.workspace.memory.get(&target.name, step)?.result.as_ref()?.outputs.get(name).cloned()
    });
    let made = made.ok_or_else(|| Failure::new(1, format!("{}: nothing was built", target.name)))?;
    let blob = session.store().blob_path(&made.digest);
    blob.map_err(|e| Failure::new(1, format!("{}: {e}", target.name)))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn package(arch: &str) -> &'static str {
    match arch {
        "x86_64" | "i686" => "qemu-system-x86",
        "aarch64" | "arm" => "qemu-system-arm",
        "riscv64" => "qemu-system-misc",
        _ => "qemu-system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_is_named_is_left_alone() {
        assert_eq!(with_console("console=hvc0 quiet", "ttyS0"), "console=hvc0 quiet");
        assert_eq!(with_console("quiet", "ttyS0"), "console=ttyS0 quiet");
        assert_eq!(with_console("", "ttyS0"), "console=ttyS0");
    }

    #[test]
    fn a_test_says_what_its_machine_is() {
        use mosbuild_engine::load::ResolvedRef;
        let field = |name: &str| vec![Step::Key(name.into())];
        let test = LoadedTarget {
            name: "boot".into(),
            rule: TEST_RULE.into(),
            value: Default::default(),
            line: 1,
            references: vec![
                ResolvedRef { field: field("kernel"), target: 3, output: Some("bzImage".into()) },
                ResolvedRef { field: field("initramfs"), target: 2, output: None },
            ],
            outputs: Vec::new(),
            files: Vec::new(),
        };
        let machine = of_test(&test).unwrap();
        assert_eq!(machine.kernel, Part { target: 3, output: Some("bzImage".into()) });
        assert_eq!(machine.initramfs, Some(Part { target: 2, output: None }));
        let nothing = LoadedTarget { references: Vec::new(), ..test };
        assert!(of_test(&nothing).is_err());
    }
}
