//! `mosbuild boot`: builds a kernel and starts it in a virtual machine on this terminal.
//! Knows QEMU's command line; what is in the image is none of its business.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use mosbuild_cache::Output;
use mosbuild_engine::build::{BuildOptions, named, prepare};
use mosbuild_engine::load::{Loaded, LoadedTarget, Step};
use mosbuild_rules::Arch;

use super::build::{RunArgs, execute};
use super::test::RULE as TEST_RULE;
use crate::args::GlobalArgs;
use crate::failure::Failure;
use crate::format::parse_mebibytes;
use crate::interrupt;
use crate::session::{Access, Grounds, Session};
use crate::ui::Ui;

const KERNEL_RULE: &str = "kernel";
const MEMORY: u64 = 1024;

/// Arguments of `boot`.
#[derive(Args, Debug)]
pub struct BootArgs {
    /// A kernel, or a boot test whose machine is started [default: the kernel behind the boot tests, else
    /// the only target of rule kernel]
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Memory of the machine, as 512M or 2GiB [default: the boot test's, else 1GiB]
    #[arg(long, value_name = "M", value_parser = parse_mebibytes)]
    memory: Option<u64>,
    /// The kernel's command line; the serial console is added where it names none
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// What runs the machine
    #[arg(long, value_enum, default_value = "qemu")]
    hypervisor: Hypervisor,
    #[command(flatten)]
    run: RunArgs,
}

/// What runs a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hypervisor {
    /// qemu-system-ARCH
    Qemu,
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
}

/// Builds and boots.
pub fn run(ui: &Ui, global: &GlobalArgs, words: Vec<String>, args: &BootArgs) -> Result<u8, Failure> {
    let grounds = Grounds::open(ui, global, &args.run.store, None, Access::Write)?;
    let loaded = grounds.site.load()?;
    let machine = choose(&loaded, args.target.as_deref())?;
    let arch = arch_of(&loaded, machine.kernel.target);
    let Hypervisor::Qemu = args.hypervisor;
    let program = format!("qemu-system-{arch}");
    if !on_path(&program) {
        return Err(Failure::new(3, format!("{program} is not installed"))
            .help(format!("sudo apt-get install {}", package(&arch))));
    }
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
    let unpacked = unpack(&kernel, &session.workspace.dirs.state)?;
    let initramfs = match &machine.initramfs {
        Some(part) => Some(path(&mut session, &options, part)?),
        None => None,
    };
    let native = arch == std::env::consts::ARCH;
    let qemu = Qemu {
        arch,
        kernel: unpacked.clone().unwrap_or(kernel),
        initramfs,
        cmdline: args.cmdline.clone().or(machine.cmdline).unwrap_or_default(),
        memory: args.memory.or(machine.memory).unwrap_or(MEMORY),
        kvm: native && kvm_opens(),
    };
    // The image is in the store: while it runs, others may build in this workspace.
    drop(session);
    interrupt::hand_over();
    let ended = start(ui, &program, qemu);
    if let Some(unpacked) = unpacked {
        let _ = std::fs::remove_file(unpacked);
    }
    ended
}

/// The architecture that a kernel is for: that of the `linux` behind it, else the workspace's.
fn arch_of(loaded: &Loaded, kernel: u32) -> String {
    let kernel = &loaded.targets[kernel as usize];
    let linux = kernel.references.iter().find(|r| r.field.first() == Some(&Step::Key("linux".into())));
    let linux = linux.map_or(kernel, |r| &loaded.targets[r.target as usize]);
    linux.value.get("arch").and_then(|v| v.as_str()).unwrap_or(&loaded.arch).to_owned()
}

/// Writes the image that QEMU is to be given in place of `kernel` into the workspace's state, where it is another.
fn unpack(kernel: &Path, state: &Path) -> Result<Option<PathBuf>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(1, format!("{}: {e}", kernel.display()));
    let bytes = std::fs::read(kernel).map_err(|e| failed(&e))?;
    let Some(image) = mosbuild_rules::image_for_qemu(&bytes).map_err(|e| failed(&e))? else {
        return Ok(None);
    };
    let dir = state.join("tmp");
    let path = dir.join(format!("boot.{}", std::process::id()));
    std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, image)).map_err(|e| failed(&e))?;
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
            false => Ok(alone(index)),
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
    Machine { kernel: Part { target, output: None }, initramfs: None, cmdline: None, memory: None }
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
    Ok(Machine { kernel, initramfs: part("initramfs"), cmdline: text("cmdline"), memory })
}

/// Where an output that was built just now lies in the store.
fn path(session: &mut Session, options: &BuildOptions, part: &Part) -> Result<PathBuf, Failure> {
    let prepared = prepare(&mut session.workspace, &session.grounds.store, options)?;
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

/// Whether hardware virtualisation can really be used: the device may be there and closed to us, or dead.
pub fn kvm_opens() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
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

/// A command line of QEMU.
struct Qemu {
    arch: String,
    kernel: PathBuf,
    initramfs: Option<PathBuf>,
    cmdline: String,
    memory: u64,
    kvm: bool,
}

impl Qemu {
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let native = self.kvm;
        let memory = format!("{}M", self.memory);
        let mut all: Vec<std::ffi::OsString> = Vec::new();
        let mut put = |words: &[&str]| all.extend(words.iter().map(std::ffi::OsString::from));
        let known = Arch::named(&self.arch);
        put(known.map_or(&["-machine", "virt"], |arch| arch.qemu.1));
        let console = known.map_or("ttyS0", |arch| arch.console.1);
        put(&["-accel", if native { "kvm" } else { "tcg" }, "-cpu", if native { "host" } else { "max" }]);
        put(&["-m", &memory, "-smp", "2", "-no-reboot", "-nographic", "-nodefaults"]);
        // With signals, unlike -nographic's own console: Ctrl-C ends the machine.
        put(&["-chardev", "stdio,id=console,mux=on,signal=on", "-serial", "chardev:console"]);
        put(&["-mon", "chardev=console,mode=readline"]);
        // Without its boot ROM, which lies in a package of its own.
        put(&["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        put(&["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
        let cmdline = match self.cmdline.contains("console=") {
            true => self.cmdline.clone(),
            false => format!("console={console} {}", self.cmdline).trim_end().to_owned(),
        };
        put(&["-append", &cmdline, "-kernel"]);
        all.push(self.kernel.clone().into());
        if let Some(initramfs) = &self.initramfs {
            all.push("-initrd".into());
            all.push(initramfs.into());
        }
        all
    }
}

/// How soon a machine dies if its processor cannot be virtualised.
const STILLBORN: Duration = Duration::from_secs(3);

/// Runs it on this terminal, and outlives a Ctrl-C that is meant for it.
fn start(ui: &Ui, program: &str, mut qemu: Qemu) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let _listening = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        let how = match qemu.kvm {
            true => "with KVM",
            false if qemu.arch != std::env::consts::ARCH => {
                "emulated, since it is not this host's architecture"
            }
            false => "emulated, since KVM cannot be used here",
        };
        ui.note(&format!("starting {program} {how}; Ctrl-C ends it"));
        let begun = Instant::now();
        let status = Command::new(program).args(qemu.arguments()).status();
        let status = status.map_err(|e| Failure::new(3, format!("{program} cannot be started: {e}")))?;
        match status.signal() {
            // In a machine of its own, KVM may open and then refuse what the processor needs.
            Some(signal) if signal != INTERRUPT && qemu.kvm && begun.elapsed() < STILLBORN => {
                qemu.kvm = false;
            }
            Some(INTERRUPT) => return Ok(0),
            _ => return Ok(if status.success() { 0 } else { 1 }),
        }
    }
}

/// SIGINT.
const INTERRUPT: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(qemu: &Qemu) -> String {
        let all: Vec<_> = qemu.arguments().iter().map(|a| a.to_string_lossy().into_owned()).collect();
        all.join(" ")
    }

    fn machine() -> Qemu {
        Qemu {
            arch: "x86_64".into(),
            kernel: "/store/k".into(),
            initramfs: None,
            cmdline: "quiet".into(),
            memory: 512,
            kvm: false,
        }
    }

    #[test]
    fn the_console_is_serial_and_ends_with_ctrl_c() {
        let text = words(&machine());
        assert!(text.contains("-accel tcg -cpu max -m 512M"), "{text}");
        assert!(text.contains("signal=on") && text.contains("-nographic"), "{text}");
        assert!(text.ends_with("-append console=ttyS0 quiet -kernel /store/k"), "{text}");
    }

    #[test]
    fn a_console_that_is_named_is_left_alone() {
        let qemu = Qemu { cmdline: "console=hvc0".into(), initramfs: Some("/store/i".into()), ..machine() };
        assert!(words(&qemu).ends_with("-append console=hvc0 -kernel /store/k -initrd /store/i"));
        let bare = Qemu { cmdline: String::new(), ..machine() };
        assert!(words(&bare).contains("-append console=ttyS0 -kernel"));
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
