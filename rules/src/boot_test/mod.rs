//! Rule `boot-test`: an image started in a virtual machine until it has printed what it is to print.
//! Knows QEMU's command line; does not know how images are made.
//!
//! Neither the accelerator nor the host's speed is in the key: `timeout` is the same everywhere, so it is to suit
//! emulation (the default does, for small images).

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

use crate::arch::Arch;
use crate::one_or_many::OneOrMany;
use crate::steps::{at, builtin, command, file_output, made, read};

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

/// Starts QEMU with the positional parameters, by KVM where it can be used for this architecture.
pub fn start(arch: &Arch) -> String {
    let (program, machine) = arch.qemu;
    let qemu: Vec<&str> = std::iter::once(program).chain(machine.iter().copied()).collect();
    let kvm = match arch.is_host() {
        true => {
            let probe = if arch.name == "x86_64" { PROBE_X86 } else { PROBE };
            format!("if [ -w /dev/kvm ]; then\n{probe}fi\n")
        }
        false => String::new(),
    };
    format!("qemu='{}'\naccel=tcg\n{kvm}exec $qemu -accel $accel -cpu max \"$@\"\n", qemu.join(" "))
}

/// A virtual machine with a serial console on its standard output.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its architecture.
    pub arch: &'static Arch,
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
    /// QEMU's parameters, without machine, accelerator and CPU: [`start`] adds them.
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
        add(&["-append", format!("{} console={} panic=-1", self.cmdline, self.arch.console.1).trim_start()]);
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
        let arch = Arch::of_kernel(planner, &self.kernel)?;
        let mut kernel = planner.upstream(&self.kernel)?;
        if arch.name == "aarch64" {
            let unpack = builtin("image", UnpackImage, vec![read("kernel", kernel)], &[]);
            kernel = made(planner.step(unpack), "image");
        }
        let mut inputs = vec![at("kernel", kernel, "/boot/kernel")];
        if let Some(reference) = &self.initramfs {
            inputs.push(at("initramfs", planner.upstream(reference)?, "/boot/initramfs"));
        }
        let disks: Vec<String> = (0..self.disks.unwrap_or(0)).map(|i| format!("disk{i}.img")).collect();
        let machine = Machine {
            arch,
            memory: self.memory.as_ref().and_then(Memory::mib).unwrap_or(512),
            kernel: "/boot/kernel".into(),
            initramfs: self.initramfs.as_ref().map(|_| "/boot/initramfs".into()),
            cmdline: self.cmdline.clone().unwrap_or_default(),
            disks: disks.clone(),
        };
        let script = disks.iter().map(|d| format!("truncate -s {DISK_SIZE} {d}\n")).collect::<String>();
        let mut forbid: Vec<String> = FORBIDDEN.iter().map(|t| (*t).to_owned()).collect();
        forbid.extend(self.forbid.all().iter().cloned());
        let kvm = arch.is_host() && Path::new("/dev/kvm").exists();
        let boot = Command {
            argv: machine.arguments(),
            script: Some(format!("{script}{}", start(arch))),
            tools: vec![arch.qemu.0.into()],
            outputs: vec![CommandOutput { name: "log".into(), path: "<log>".into(), kind: OutKind::File }],
            timeout: Some(Duration::from_secs(self.timeout.unwrap_or(DEFAULT_TIMEOUT))),
            console: Some(Console { expect: self.expect.all().to_vec(), forbid }),
            devices: kvm.then(|| "/dev/kvm".into()).into_iter().collect(),
            ..Command::default()
        };
        memory::plan(planner, &self.kernel, self.initramfs.as_deref(), &machine.cmdline, machine.memory)?;
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
                arch: Arch::named(arch.name).unwrap(),
                memory: 64,
                kernel: "/nonexistent/kernel".into(),
                initramfs: None,
                cmdline: "quiet".into(),
                disks: vec!["a,b.img".into()],
            };
            let arguments = machine.arguments();
            assert_eq!(*arguments.last().unwrap(), format!("quiet console={console} panic=-1"));
            let mut shell = std::process::Command::new("sh");
            shell.args(["-eu", "-c", &start(arch), "run"]).args(arguments).current_dir(dir.path());
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
            assert_eq!(start(arch).contains("/dev/kvm"), arch.is_host());
        }
        let script = format!("qemu=false\naccel=tcg\n{PROBE}echo $accel\n");
        let out = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "tcg\n");
    }
}
