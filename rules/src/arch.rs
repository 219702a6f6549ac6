//! The architectures that kernels are made for here, and what others call them: kbuild, Debian's cross toolchains,
//! QEMU, xz, ELF. Knows names and conventions; plans and runs nothing.

use mosbuild_engine::action::Input;
use mosbuild_engine::load::nearest;
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::PlanError;

use crate::elf::Machine;

/// One architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// As `uname -m`, Rust and Alpine write it.
    pub name: &'static str,
    /// Debian's name of it.
    pub debian: &'static str,
    /// Kbuild's ARCH.
    pub kbuild: &'static str,
    /// Its folder below `arch/` of the kernel's source.
    pub folder: &'static str,
    /// GNU's name of its Linux systems, which Debian's cross tools begin with.
    pub gnu: &'static str,
    /// Machine numbers of its programs in ELF: its own first, then that of its 32-bit predecessor, which kernels of
    /// it may run as well.
    pub machines: [u16; 2],
    /// Symbol of the kernel's driver of the serial console, and that console's device.
    pub console: (&'static str, &'static str),
    /// Symbol by which the kernel's configuration can be started by firmware.
    pub efi: &'static str,
    /// QEMU's program, and which machine of it is meant.
    pub qemu: (&'static str, &'static [&'static str]),
    /// Where Debian's systemd-boot-efi has the stub of unified kernel images.
    pub stub: &'static str,
    /// Firmware of its virtual machines.
    pub uefi: Uefi,
    /// Path on an EFI system partition of what firmware starts where nothing else is said (UEFI 2.10, 3.5.1.1).
    pub efi_program: &'static str,
}

/// UEFI firmware for QEMU, where Debian has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Uefi {
    /// The firmware.
    pub code: &'static str,
    /// Its variables as they are at first; none: it keeps them in memory.
    pub vars: Option<&'static str>,
    /// The package of both.
    pub package: &'static str,
}

impl Arch {
    /// All of them.
    pub const ALL: [Arch; 2] = [
        Arch {
            name: "x86_64",
            debian: "amd64",
            // Without the `_64` the same source makes a 32-bit kernel.
            kbuild: "x86_64",
            folder: "x86",
            gnu: "x86_64-linux-gnu",
            machines: [object::elf::EM_X86_64, object::elf::EM_386],
            console: ("SERIAL_8250_CONSOLE", "ttyS0"),
            efi: "EFI_STUB",
            qemu: ("qemu-system-x86_64", &[]),
            stub: "/usr/lib/systemd/boot/efi/linuxx64.efi.stub",
            uefi: Uefi {
                code: "/usr/share/OVMF/OVMF_CODE_4M.fd",
                vars: Some("/usr/share/OVMF/OVMF_VARS_4M.fd"),
                package: "ovmf",
            },
            efi_program: "EFI/BOOT/BOOTX64.EFI",
        },
        Arch {
            name: "aarch64",
            debian: "arm64",
            kbuild: "arm64",
            folder: "arm64",
            gnu: "aarch64-linux-gnu",
            machines: [object::elf::EM_AARCH64, object::elf::EM_ARM],
            console: ("SERIAL_AMBA_PL011_CONSOLE", "ttyAMA0"),
            // EFI_STUB has no prompt there: EFI selects it.
            efi: "EFI",
            qemu: ("qemu-system-aarch64", &["-machine", "virt"]),
            stub: "/usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
            uefi: Uefi {
                code: "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
                vars: None,
                package: "qemu-efi-aarch64",
            },
            efi_program: "EFI/BOOT/BOOTAA64.EFI",
        },
    ];

    /// The architecture of this name; `None` if it is none of those above.
    pub fn named(name: &str) -> Option<&'static Arch> {
        Arch::ALL.iter().find(|arch| arch.name == name)
    }

    /// Whether a kernel of it runs programs for a machine.
    pub fn runs(&self, machine: Machine) -> bool {
        self.machines.contains(&machine.number)
    }

    /// Whether its programs and kernels are those of this host.
    pub fn is_host(&self) -> bool {
        self.name == std::env::consts::ARCH
    }

    /// What to say of a name that is none: message and help.
    pub fn unknown(name: &str) -> (String, String) {
        let also = Arch::ALL.iter().find(|arch| [arch.debian, arch.kbuild, arch.folder].contains(&name));
        let near =
            also.map(|arch| arch.name).or_else(|| nearest(name, Arch::ALL.iter().map(|arch| arch.name)));
        let names = Arch::ALL.map(|arch| arch.name).join(" and ");
        let help = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "a `command` target can make any other".into(),
        };
        (format!("kernels are built and booted for {names}, not for {name}"), help)
    }

    /// The architecture of this name.
    ///
    /// # Errors
    /// Exit code 2 for any other name.
    pub fn planned(name: &str) -> Result<&'static Arch, PlanError> {
        Arch::named(name).ok_or_else(|| {
            let (message, help) = Arch::unknown(name);
            PlanError::new(2, message).help(help)
        })
    }

    /// The architecture of the kernel that a reference names: that of the `linux` behind it, where it says one, else
    /// the workspace's.
    ///
    /// # Errors
    /// Exit code 2 for a workspace's `arch` that is not known here.
    pub fn of_kernel(planner: &Planner<'_>, kernel: &str) -> Result<&'static Arch, PlanError> {
        let mut linux = kernel.to_owned();
        // References make no circle: the loader has seen to it.
        while let Some(behind) = planner.advertised(&linux, LINUX) {
            linux = behind;
        }
        let said = planner.advertised(&linux, ARCH);
        Arch::planned(said.as_deref().unwrap_or(planner.arch()))
    }
}

/// A file of this host that a step reads. Where it is missing, the plan is good for all but a build.
pub fn host_file(planner: &mut Planner<'_>, path: &str, package: &str, advice: &str) -> Input {
    planner.watch(path.into());
    if !std::path::Path::new(path).is_file() {
        let error = PlanError::new(3, format!("{path} is not there, which `{}` needs", planner.name()))
            .help(format!("on Debian: apt-get install {package}"));
        planner.lacks(if advice.is_empty() { error } else { error.help(advice) });
    }
    Input::External(path.into())
}

/// What a `linux` with a field of its own advertises as: its architecture.
pub const ARCH: &str = "arch";
/// What a `kernel` advertises as: its `linux`; a `uki`, its kernel.
pub const LINUX: &str = "linux";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_an_architecture_is_understood() {
        for (name, help) in [
            ("arm64", "did you mean aarch64?"),
            ("amd64", "did you mean x86_64?"),
            ("x86", "did you mean x86_64?"),
            ("aarch46", "did you mean aarch64?"),
            ("riscv64", "a `command` target can make any other"),
        ] {
            assert_eq!(Arch::named(name), None);
            let (message, said) = Arch::unknown(name);
            assert_eq!(
                message,
                format!("kernels are built and booted for x86_64 and aarch64, not for {name}")
            );
            assert_eq!(said, help);
        }
        assert!(Arch::ALL.iter().all(|arch| Arch::named(arch.name) == Some(arch)));
    }
}
