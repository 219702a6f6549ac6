//! Rule `boot-test`: an image started in a virtual machine until it has printed what it is to print.
//! Knows QEMU's command line; does not know how images are made.
//!
//! Neither the accelerator nor the host's speed is in the key: `timeout` is for a machine of KVM, and an emulated one is
//! given a multiple of it.

mod memory;

use std::path::Path;
use std::time::Duration;

use mosbuild_cache::{Output, OutputKind};
use mosbuild_engine::action::{
    Builtin, BuiltinCx, Command, CommandOutput, Console, Made, OutKind, StepError,
};
use mosbuild_engine::field;
use mosbuild_engine::load::{FieldError, OutputDecl, RefKind, RefUse, RuleFacts};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::{PlanError, Rule};
use mosbuild_formats::zboot;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::arch::{Arch, host_file};
use crate::machine::{Firmware, Parts, Start};
use crate::one_or_many::OneOrMany;
use crate::steps::{at, builtin, command, file_output, made, read};

/// Raised when the same fields are planned in another way.
pub const VERSION: u32 = 2;

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
/// How many times as long an emulated machine is given.
const EMULATED: u64 = 4;
/// Facts about how soon the console showed the kernel's first line and the start of /init.
const MARKS: [(&str, &str); 2] = [("kernel_seconds", "Linux version "), ("init_seconds", " as init process")];
/// The firmware that there is.
const FIRMWARE: [&str; 1] = ["uefi"];
/// Where the sandbox has what firmware is given.
const PARTITION: &str = "/boot/esp";
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
    /// Kernel parameters; the serial console and `panic=-1` are appended. With firmware: only where there are any.
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
    /// uefi: firmware starts the image as a computer's does, from an EFI system partition and without parameters; with
    /// `cmdline` or `initramfs` it is handed these beside the image. QEMU's own loader if absent.
    #[serde(default)]
    firmware: Option<String>,
    /// Texts that must all appear on the console, in any order.
    expect: OneOrMany,
    /// Texts that must not appear, beside those that are never right (a panic, a failed initramfs, …).
    #[serde(default)]
    forbid: OneOrMany,
    /// Seconds until it has failed, with KVM; emulated four times as many. 120 if absent.
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

/// Tells whether a machine really runs with KVM: that /dev/kvm can be opened does not (some hosts have one that cannot
/// set a register, or never executes anything). On x86 the probe is a ROM whose reset vector leaves through the debug
/// exit: 16 comes out as 33.
const PROBE_X86: &str = r#"  truncate -s 65520 probe.rom
  printf '\260\020\346\364\364' >> probe.rom
  truncate -s 65536 probe.rom
  status=0
  timeout 5 qemu-system-x86_64 -accel kvm -cpu max -m 16 -nodefaults -display none -bios probe.rom \
    -device isa-debug-exit,iobase=0xf4,iosize=4 > /dev/null 2>&1 || status=$?
  if [ $status = 33 ]; then accel=kvm; fi
  rm probe.rom
"#;
/// Elsewhere: whether a machine can be made.
const PROBE: &str = r#"  if echo quit | timeout 5 $qemu -accel kvm -cpu max -m 64 -nodefaults -display none -S -monitor stdio > /dev/null 2>&1
  then accel=kvm; fi
"#;

/// A script that sets `$qemu`, and `$accel` to kvm where a machine of this architecture really runs with it, else to tcg.
pub fn accelerator(arch: &Arch) -> String {
    let (program, machine) = arch.qemu;
    let qemu: Vec<&str> = std::iter::once(program).chain(machine.iter().copied()).collect();
    let kvm = match arch.is_host() {
        true => {
            let probe = if arch.name == "x86_64" { PROBE_X86 } else { PROBE };
            format!("if [ -w /dev/kvm ]; then\n{probe}fi\n")
        }
        false => String::new(),
    };
    format!("qemu='{}'\naccel=tcg\n{kvm}", qemu.join(" "))
}

/// Starts QEMU with the positional parameters, with KVM for so many seconds at most; an emulated machine ends with the
/// step.
pub fn start_script(arch: &Arch, seconds: u64) -> String {
    let accelerator = accelerator(arch);
    format!(
        r#"{accelerator}if [ $accel = kvm ]; then
  status=0
  timeout -k 5 {seconds} $qemu -accel kvm -cpu max "$@" || status=$?
  if [ $status = 124 ]; then echo 'the time limit of {seconds} s passed' >&2; fi
  exit $status
fi
exec $qemu -accel tcg -cpu max "$@"
"#
    )
}

/// A virtual machine with a serial console on its standard output.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Memory in MiB.
    pub memory: u64,
    /// Kernel, firmware, disks.
    pub parts: Parts,
}

impl Machine {
    /// QEMU's parameters, without machine, accelerator and CPU: [`start_script`] adds them.
    pub fn arguments(&self) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|w| (*w).to_owned()));
        add(&["-m", &self.memory.to_string(), "-nodefaults", "-display", "none"]);
        add(&["-serial", "stdio", "-monitor", "none", "-no-reboot"]);
        // Without its boot ROM, which no package of QEMU is bound to bring.
        add(&["-netdev", "user,id=net0,restrict=on", "-device", "virtio-net-pci,netdev=net0,romfile="]);
        argv.extend(self.parts.qemu());
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
        if let Some(name) = self.firmware.as_deref().filter(|name| !FIRMWARE.contains(name)) {
            let help = "`firmware: uefi`, or none for QEMU's own loader";
            fault(field!["firmware"], format!("unknown firmware {name}"), help);
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
            facts: std::iter::once("seconds").chain(MARKS.map(|(name, _)| name)).collect(),
            ..RuleFacts::default()
        })
    }

    fn plan(&self, planner: &mut Planner<'_>) -> Result<(), PlanError> {
        let arch = Arch::of_kernel(planner, &self.kernel)?;
        let mut kernel = planner.upstream(&self.kernel)?;
        let mut inputs = Vec::new();
        let mut script = String::new();
        let firmware = self.firmware.is_some().then(|| {
            let code = host_file(planner, arch.uefi.code, arch.uefi.package, "");
            inputs.push(at("firmware", code, "/boot/firmware.fd"));
            let vars = arch.uefi.vars.map(|path| {
                let vars = host_file(planner, path, arch.uefi.package, "");
                inputs.push(at("firmware variables", vars, "/boot/variables.fd"));
                script += "cat /boot/variables.fd > variables.fd\n";
                "variables.fd".to_owned()
            });
            Firmware { code: "/boot/firmware.fd".into(), vars }
        });
        let bare = self.initramfs.is_none() && self.cmdline.is_none();
        let start = if firmware.is_some() && bare {
            inputs.push(at("kernel", kernel, &format!("{PARTITION}/{}", arch.efi_program)));
            Start::Partition { folder: PARTITION.into() }
        } else {
            if arch.name == "aarch64" && firmware.is_none() {
                let unpack = builtin("image", UnpackImage, vec![read("kernel", kernel)], &[]);
                kernel = made(planner.step(unpack), "image");
            }
            inputs.push(at("kernel", kernel, "/boot/kernel"));
            if let Some(reference) = &self.initramfs {
                inputs.push(at("initramfs", planner.upstream(reference)?, "/boot/initramfs"));
            }
            let own = self.cmdline.as_deref().unwrap_or_default();
            let cmdline = format!("{own} console={} panic=-1", arch.console.1).trim_start().to_owned();
            let initramfs = self.initramfs.as_ref().map(|_| "/boot/initramfs".into());
            Start::Direct { kernel: "/boot/kernel".into(), initramfs, cmdline }
        };
        let disks: Vec<String> = (0..self.disks.unwrap_or(0)).map(|i| format!("disk{i}.img")).collect();
        script.extend(disks.iter().map(|d| format!("truncate -s {DISK_SIZE} {d}\n")));
        let memory = self.memory.as_ref().and_then(Memory::mib).unwrap_or(512);
        let machine = Machine { memory, parts: Parts { start, firmware, disks } };
        let mut forbid: Vec<String> = FORBIDDEN.iter().map(|t| (*t).to_owned()).collect();
        forbid.extend(self.forbid.all().iter().cloned());
        let kvm = arch.is_host() && Path::new("/dev/kvm").exists();
        let seconds = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let marks = MARKS.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let boot = Command {
            argv: machine.arguments(),
            script: Some(format!("{script}{}", start_script(arch, seconds))),
            tools: vec![arch.qemu.0.into()],
            outputs: vec![CommandOutput { name: "log".into(), path: "<log>".into(), kind: OutKind::File }],
            timeout: Some(Duration::from_secs(seconds * EMULATED)),
            console: Some(Console { expect: self.expect.all().to_vec(), forbid, marks }),
            devices: kvm.then(|| "/dev/kvm".into()).into_iter().collect(),
            ..Command::default()
        };
        let cmdline = self.cmdline.as_deref().unwrap_or_default();
        memory::plan(planner, &self.kernel, self.initramfs.as_deref(), cmdline, memory)?;
        let boot = planner.step(command("boot", boot, inputs));
        planner.output("log", boot, "log");
        Ok(())
    }
}

/// What QEMU is to be given in place of a kernel image: of an EFI zboot image the one inside. QEMU starts no EFI
/// program itself; it would unpack this one as well, but not before its version 8, and not every compression.
///
/// # Errors
/// A damaged image. One whose compression is unknown here is left to QEMU.
pub fn image_for_qemu(kernel: &[u8]) -> Result<Option<Vec<u8>>, zboot::Error> {
    if !zboot::is(kernel) {
        return Ok(None);
    }
    match zboot::unpack(kernel) {
        Ok(image) => Ok(Some(image)),
        Err(zboot::Error::Compression(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Input `kernel`; output `image`, see [`image_for_qemu`].
struct UnpackImage;

impl Builtin for UnpackImage {
    fn name(&self) -> &'static str {
        "boot-image"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("image".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let image = match image_for_qemu(&cx.bytes("kernel")?).map_err(|e| StepError::new(e.to_string()))? {
            Some(image) => file_output(cx.store, &image)?,
            None => {
                let (digest, size, _) = cx.blob("kernel")?;
                Output { kind: OutputKind::File { executable: false }, digest, size }
            }
        };
        Ok(Made { outputs: [("image".to_owned(), image)].into(), ..Made::default() })
    }
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

    /// QEMU itself accepts the command line: it gets as far as looking for the kernel.
    #[test]
    #[allow(clippy::print_stderr)]
    fn qemu_takes_the_command_line() {
        for arch in &Arch::ALL {
            let Arch { qemu: (program, _), console: (_, console), .. } = arch;
            let dir = tempfile::tempdir().unwrap();
            std::fs::File::create(dir.path().join("a,b.img")).unwrap().set_len(1 << 20).unwrap();
            let machine = Machine {
                memory: 64,
                parts: Parts {
                    start: Start::Direct {
                        kernel: "/nonexistent/kernel".into(),
                        initramfs: None,
                        cmdline: format!("quiet console={console} panic=-1"),
                    },
                    firmware: None,
                    disks: vec!["a,b.img".into()],
                },
            };
            let arguments = machine.arguments();
            assert_eq!(*arguments.last().unwrap(), format!("quiet console={console} panic=-1"));
            let mut shell = std::process::Command::new("sh");
            shell.args(["-eu", "-c", &start_script(arch, 60), "run"]).args(arguments).current_dir(dir.path());
            let out = shell.output().unwrap();
            if out.status.code() == Some(127) {
                eprintln!("did not run: {program} is not installed");
                continue;
            }
            let text = String::from_utf8_lossy(&out.stderr).to_lowercase();
            assert!(text.contains("could not") && text.contains("'/nonexistent/kernel'"), "{text}");
            assert!(!dir.path().join("probe.rom").exists());
        }
    }

    /// The probe of other hosts than x86 is valid shell, and ends where there is no KVM.
    #[test]
    fn a_probe_is_made_on_this_host_only() {
        for arch in &Arch::ALL {
            assert_eq!(start_script(arch, 60).contains("/dev/kvm"), arch.is_host());
        }
        let script = format!("qemu=false\naccel=tcg\n{PROBE}echo $accel\n");
        let out = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "tcg\n");
    }
}
