//! Rule `boot-test`: an image started in a virtual machine until it has printed what it is to print.
//! Knows QEMU's command line; does not know how images are made.
//!
//! Neither the accelerator nor the host's speed is in the key: `timeout` is the same everywhere, so it is to suit
//! emulation (the default does, for small images).

use std::path::Path;
use std::time::Duration;

use mosbuild_engine::action::{
    Builtin, BuiltinCx, Command, CommandOutput, Console, Made, OutKind, StepError,
};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::cpio;
use crate::memory::Forecast;
use crate::one_or_many::OneOrMany;
use crate::size::human;
use crate::steps::{at, builtin, command, read};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 1;

/// Lines that no boot may show. A panic alone ends QEMU with success, and an initramfs that is cut short or a
/// module that does not fit leaves a line in the log and nothing else.
const FORBIDDEN: [&str; 8] = [
    "Kernel panic",
    "not syncing",
    "Initramfs unpacking failed",
    "write error",
    "Direct firmware load for",
    "Unknown symbol",
    "disagrees about version",
    "Oops:",
];
/// The hypervisors that there are.
const HYPERVISORS: [&str; 1] = ["qemu"];
/// Seconds.
const DEFAULT_TIMEOUT: u64 = 120;
/// Bytes of each disk, which is sparse.
const DISK_SIZE: &str = "1G";

/// A boot of the image in a virtual machine.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootTest {
    /// The image to start.
    kernel: String,
    /// An archive beside it, as a boot loader gives one.
    #[serde(default)]
    initramfs: Option<String>,
    /// Kernel parameters; the serial console and `panic=-1` are appended.
    #[serde(default)]
    cmdline: Option<String>,
    /// Memory of the machine: a number of MiB, or with a unit (512M, 2G). 512M if absent.
    #[serde(default)]
    memory: Option<Memory>,
    /// Number of empty disks.
    #[serde(default)]
    #[schemars(range(max = 24))]
    disks: Option<u32>,
    /// qemu, which is the default.
    #[serde(default)]
    hypervisor: Option<String>,
    /// Texts that must all appear on the console, in any order.
    expect: OneOrMany,
    /// Texts that must not appear, beside those that are never right (a panic, a failed initramfs, …).
    #[serde(default)]
    forbid: OneOrMany,
    /// Seconds until it has failed; 120 if absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 86_400))]
    timeout: Option<u64>,
}

/// An amount of memory as written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Memory {
    /// MiB.
    Number(u64),
    /// With or without a unit.
    Text(String),
}

impl Memory {
    fn mib(&self) -> Option<u64> {
        let mib = match self {
            Memory::Number(mib) => Some(*mib),
            Memory::Text(text) => parse_memory(text),
        };
        mib.filter(|mib| (16..=1 << 24).contains(mib))
    }
}

/// `512`, `512M`, `512MiB`, `2G` as a number of MiB.
pub fn parse_memory(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "" | "M" | "MiB" => Some(number),
        "G" | "GiB" => number.checked_mul(1024),
        _ => None,
    }
}

/// Starts QEMU with the positional parameters, by KVM if a machine really runs with it: that /dev/kvm can be opened
/// does not tell (some hosts have one that cannot set a register, or never executes anything). The probe is a ROM
/// whose reset vector leaves through the debug exit: 16 comes out as 33.
pub const START: &str = r#"accel=tcg
if [ -w /dev/kvm ]; then
  truncate -s 65520 probe.rom
  printf '\260\020\346\364\364' >> probe.rom
  truncate -s 65536 probe.rom
  status=0
  timeout 5 qemu-system-x86_64 -accel kvm -cpu max -m 16 -nodefaults -display none -bios probe.rom \
    -device isa-debug-exit,iobase=0xf4,iosize=4 > /dev/null 2>&1 || status=$?
  if [ $status = 33 ]; then accel=kvm; fi
  rm probe.rom
fi
exec qemu-system-x86_64 -accel $accel -cpu max "$@"
"#;

/// A virtual machine with a serial console on its standard output.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Memory in MiB.
    pub memory: u64,
    /// Path of the image.
    pub kernel: String,
    /// Path of an archive beside it.
    pub initramfs: Option<String>,
    /// Kernel parameters, without the console.
    pub cmdline: String,
    /// Paths of raw disk images.
    pub disks: Vec<String>,
}

impl Machine {
    /// QEMU's parameters, without accelerator and CPU: [`START`] adds them.
    pub fn arguments(&self) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-m", &self.memory.to_string(), "-nodefaults", "-display", "none"]);
        add(&["-serial", "stdio", "-monitor", "none", "-no-reboot"]);
        // Without its boot ROM, which no package of QEMU is bound to bring.
        add(&["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,romfile="]);
        for (i, disk) in self.disks.iter().enumerate() {
            // A comma in a path is written twice.
            let path = disk.replace(',', ",,");
            add(&["-drive", &format!("file={path},if=none,id=disk{i},format=raw")]);
            add(&["-device", &format!("virtio-blk-pci,drive=disk{i}")]);
        }
        add(&["-kernel", &self.kernel]);
        if let Some(initramfs) = &self.initramfs {
            add(&["-initrd", initramfs]);
        }
        add(&["-append", format!("{} console=ttyS0 panic=-1", self.cmdline).trim_start()]);
        argv
    }
}

impl Rule for BootTest {
    fn declare(&self) -> Result<RuleFacts, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut fault = |field, message: String, help: &str| {
            errors.push(FieldError { field, message, help: Some(help.into()) });
        };
        if let Some(name) = self.hypervisor.as_deref().filter(|name| !HYPERVISORS.contains(name)) {
            let known = format!("known is {}", HYPERVISORS.join(", "));
            fault(field!["hypervisor"], format!("unknown hypervisor {name}"), &known);
        }
        if self.memory.as_ref().is_some_and(|m| m.mib().is_none()) {
            fault(
                field!["memory"],
                "this is no amount of memory".into(),
                "write MiB or a unit: 512, 512M, 2G",
            );
        }
        if self.expect.is_empty() {
            let help = "a panic ends the machine as a shutdown does: only a text that the image prints tells success";
            fault(field!["expect"], "a boot test needs a text to expect".into(), help);
        }
        for (name, texts) in [("expect", &self.expect), ("forbid", &self.forbid)] {
            for (i, _) in
                texts.all().iter().enumerate().filter(|(_, t)| t.trim().is_empty() || t.contains('\n'))
            {
                let help = "each text is looked for within one line";
                fault(field![name, i], "this text is empty or has several lines".into(), help);
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let output = |field, text: &String| RefUse { field, text: text.clone(), kind: RefKind::File };
        let mut references = vec![output(field!["kernel"], &self.kernel)];
        references.extend(self.initramfs.iter().map(|text| output(field!["initramfs"], text)));
        Ok(RuleFacts {
            references,
            outputs: vec![OutputDecl { name: "log".into(), kind: OutKind::File, path: None, field: None }],
            facts: vec!["seconds"],
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let mut inputs = Vec::new();
        for (name, reference) in [("kernel", Some(&self.kernel)), ("initramfs", self.initramfs.as_ref())] {
            let Some(reference) = reference else { continue };
            inputs.push(at(name, planner.upstream(reference)?, &format!("/boot/{name}")));
        }
        let disks: Vec<String> = (0..self.disks.unwrap_or(0)).map(|i| format!("disk{i}.img")).collect();
        let machine = Machine {
            memory: self.memory.as_ref().and_then(Memory::mib).unwrap_or(512),
            kernel: "/boot/kernel".into(),
            initramfs: self.initramfs.as_ref().map(|_| "/boot/initramfs".into()),
            cmdline: self.cmdline.clone().unwrap_or_default(),
            disks: disks.clone(),
        };
        let script = disks.iter().map(|d| format!("truncate -s {DISK_SIZE} {d}\n")).collect::<String>();
        let mut forbid: Vec<String> = FORBIDDEN.iter().map(|t| (*t).to_owned()).collect();
        forbid.extend(self.forbid.all().iter().cloned());
        let boot = Command {
            argv: machine.arguments(),
            script: Some(format!("{script}{START}")),
            tools: vec!["qemu-system-x86_64".into()],
            outputs: vec![CommandOutput { name: "log".into(), path: "<log>".into(), kind: OutKind::File }],
            timeout: Some(Duration::from_secs(self.timeout.unwrap_or(DEFAULT_TIMEOUT))),
            console: Some(Console { expect: self.expect.all().to_vec(), forbid }),
            devices: Path::new("/dev/kvm").exists().then(|| "/dev/kvm".into()).into_iter().collect(),
            ..Command::default()
        };
        self.plan_memory(planner, machine.memory)?;
        let boot = planner.step(command("boot", boot, inputs));
        planner.output("log", boot, "log");
        Ok(())
    }
}

impl BootTest {
    /// A look at the machine's memory before it is started, as far as its archives say what they take.
    fn plan_memory(&self, planner: &mut Planner<'_>, mib: u64) -> Result<(), PlanError> {
        let inside = planner.advertised(&self.kernel, "initramfs");
        let archives = [inside, self.initramfs.clone()].into_iter().flatten();
        let archives: Vec<String> = archives.filter(|text| planner.rule_of(text) == Some("cpio")).collect();
        if archives.is_empty() {
            return Ok(());
        }
        let mut inputs = Vec::new();
        for text in &archives {
            inputs.push(read(text, planner.upstream_output(text, cpio::RAM)?));
        }
        let limited = if is_tmpfs(self.cmdline.as_deref().unwrap_or_default()) { "yes" } else { "no" };
        let params = [("memory", mib.to_string()), ("tmpfs", limited.to_owned())];
        let mut step = builtin("memory", Enough, inputs, &params);
        step.gates = vec![(planner.target_index(planner.name())?, "boot".into())];
        planner.step(step);
        Ok(())
    }
}

/// Whether the kernel unpacks into a tmpfs under this command line.
fn is_tmpfs(cmdline: &str) -> bool {
    cmdline.split_whitespace().all(|word| match word.split_once('=') {
        Some(("root", _)) => false,
        Some(("rootfstype", types)) => types.split(',').any(|t| t == "tmpfs"),
        _ => true,
    })
}

/// Inputs are forecasts, by the name of their archive; params `memory` (MiB of the machine) and `tmpfs` (`yes`: the root
/// file system may have half of it). No output: it succeeds or not.
struct Enough;

impl Builtin for Enough {
    fn name(&self) -> &'static str {
        "boot-memory"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let memory = cx.param("memory").parse::<u64>().unwrap_or(u64::MAX).saturating_mul(1 << 20);
        for name in cx.inputs.keys() {
            let bytes = cx.bytes(name)?;
            let forecast = Forecast::parse(&String::from_utf8_lossy(&bytes));
            let forecast =
                forecast.ok_or_else(|| StepError::new(format!("{name} says nothing of its memory")))?;
            let limited = cx.param("tmpfs") == "yes";
            let need = if limited { forecast.ram() } else { forecast.peak() };
            if memory < need {
                return Err(too_little(name, &forecast, memory, need, limited));
            }
        }
        Ok(Made::default())
    }
}

fn too_little(name: &str, forecast: &Forecast, memory: u64, need: u64, limited: bool) -> StepError {
    let (unpacked, packed) = (human(forecast.unpacked), human(forecast.packed));
    let why = match limited {
        true => format!(
            "unpacked it has {unpacked} in {} entries, and the kernel gives its root file system half of the memory",
            forecast.entries
        ),
        false => format!("it has {unpacked} unpacked, beside the archive of {packed}"),
    };
    let text = format!(
        "the machine has {} of memory, and {name} needs {} at least: {why}",
        human(memory),
        human(need)
    );
    // Room for the kernel and for what runs.
    let mib = (need >> 20).saturating_add(64).next_power_of_two();
    StepError::new(text)
        .help(format!("give it more (`memory: {mib}M`), or make the image smaller: `mosbuild size {name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units() {
        for (text, mib) in [("512", Some(512)), ("512M", Some(512)), ("2G", Some(2048)), ("2GiB", Some(2048))]
        {
            assert_eq!(parse_memory(text), mib);
        }
        for text in ["", "M", "512X", "-1", "99999999999999999999G", "18446744073709551615G"] {
            assert_eq!(parse_memory(text), None, "{text}");
        }
        assert_eq!(Memory::Number(4).mib(), None);
    }

    #[test]
    fn what_the_kernel_unpacks_into() {
        for (cmdline, tmpfs) in [
            ("quiet", true),
            ("", true),
            ("rootfstype=tmpfs", true),
            ("rootfstype=ext4,tmpfs", true),
            ("rootfstype=ramfs quiet", false),
            ("root=/dev/vda", false),
            ("init=/sbin/root", true),
        ] {
            assert_eq!(is_tmpfs(cmdline), tmpfs, "{cmdline}");
        }
    }

    #[test]
    fn too_little_memory_is_told_with_both_numbers() {
        let forecast = Forecast { unpacked: 90 << 20, entries: 3000, packed: 30 << 20 };
        let error = too_little("initramfs", &forecast, 128 << 20, forecast.ram(), true);
        assert_eq!(
            error.message,
            "the machine has 128.0 MiB of memory, and initramfs needs 180.0 MiB at least: unpacked it has 90.0 MiB in \
             3000 entries, and the kernel gives its root file system half of the memory"
        );
        assert!(error.help[0].contains("`memory: 256M`"), "{:?}", error.help);
        let error = too_little("initramfs", &forecast, 64 << 20, forecast.peak(), false);
        assert!(
            error.message.contains("needs 120.0 MiB at least: it has 90.0 MiB unpacked, beside"),
            "{}",
            error.message
        );
    }

    fn start(dir: &Path, machine: &Machine) -> Option<std::process::Output> {
        let start = |words: &[String]| {
            let mut shell = std::process::Command::new("sh");
            shell.args(["-eu", "-c", START, "run"]).args(words).current_dir(dir).output().unwrap()
        };
        // Nothing to test where QEMU is not installed.
        (start(&["--version".into()]).status.code() != Some(127)).then(|| start(&machine.arguments()))
    }

    /// QEMU itself accepts the command line: it gets as far as looking for the kernel.
    #[test]
    fn qemu_takes_the_command_line() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("a,b.img")).unwrap().set_len(1 << 20).unwrap();
        let machine = Machine {
            memory: 64,
            kernel: "/nonexistent/kernel".into(),
            cmdline: "quiet".into(),
            disks: vec!["a,b.img".into()],
            ..Machine::default()
        };
        assert_eq!(machine.arguments().last().unwrap(), "quiet console=ttyS0 panic=-1");
        let Some(out) = start(dir.path(), &machine) else { return };
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(text.contains("could not open kernel file '/nonexistent/kernel'"), "{text}");
        assert!(!dir.path().join("probe.rom").exists());
    }
}
