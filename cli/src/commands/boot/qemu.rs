//! QEMU on this terminal. Knows its command line; where the machine's parts come from is mod.rs' business.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use mosbuild_rules::machine::Parts;
use mosbuild_rules::{Arch, accelerator};

use super::network::{Network, address};
use crate::failure::Failure;
use crate::ui::Ui;

/// SIGINT.
const INTERRUPT: i32 = 2;

/// A machine of QEMU.
pub struct Qemu<'a> {
    /// Its architecture.
    pub arch: &'static Arch,
    /// What it is the machine of.
    pub target: &'a str,
    /// Kernel, firmware, disks.
    pub parts: Parts,
    /// MiB.
    pub memory: u64,
    /// Where its network card is connected to.
    pub network: &'a Network,
    /// Whether it runs with KVM.
    pub kvm: bool,
}

impl Qemu<'_> {
    fn arguments(&self) -> Vec<String> {
        let memory = format!("{}M", self.memory);
        let mut all: Vec<String> = Vec::new();
        let mut put = |words: &[&str]| all.extend(words.iter().map(|w| (*w).to_owned()));
        put(self.arch.qemu.1);
        put(&["-accel", if self.kvm { "kvm" } else { "tcg" }, "-cpu", if self.kvm { "host" } else { "max" }]);
        // Emulated processors that wait for each other on a busy host make a kernel believe that its timer is broken.
        put(&[
            "-m",
            &memory,
            "-smp",
            if self.kvm { "2" } else { "1" },
            "-no-reboot",
            "-nographic",
            "-nodefaults",
        ]);
        // With signals, unlike -nographic's own console: Ctrl-C ends the machine.
        put(&["-chardev", "stdio,id=console,mux=on,signal=on", "-serial", "chardev:console"]);
        put(&["-mon", "chardev=console,mode=readline"]);
        match self.network {
            Network::User => put(&["-netdev", "user,id=net"]),
            Network::Tap(tap) => {
                put(&["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", tap.name)]);
            }
        }
        // Without its boot ROM, which lies in a package of its own.
        put(&["-device", &format!("virtio-net-pci,netdev=net,mac={},romfile=", address(self.target))]);
        put(&["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
        all.extend(self.parts.qemu());
        all
    }

    /// Runs it, and outlives a Ctrl-C that is meant for it.
    pub fn start(&self, ui: &Ui) -> Result<u8, Failure> {
        let program = self.arch.qemu.0;
        let how = match self.kvm {
            true => "with KVM",
            false if !self.arch.is_host() => "emulated, since it is not this host's architecture",
            false => "emulated, since KVM does not work here",
        };
        ui.note(&format!("starting {program} {how}; Ctrl-C ends it"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _guard = runtime.enter();
        let _listening = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let status = Command::new(program).args(self.arguments()).status();
        let status = status.map_err(|e| Failure::new(3, format!("{program} cannot be started: {e}")))?;
        match status.signal() {
            Some(INTERRUPT) => Ok(0),
            _ => Ok(if status.success() { 0 } else { 1 }),
        }
    }
}

/// Whether a machine of this architecture really runs with KVM: it is tried, since the device may be there, open to us
/// and dead.
pub fn kvm_works(arch: &Arch) -> bool {
    let dir = std::env::temp_dir().join(format!("mosbuild-probe.{}", std::process::id()));
    if !arch.is_host() || std::fs::create_dir_all(&dir).is_err() {
        return false;
    }
    let script = format!("{}echo $accel", accelerator(arch));
    let asked = Command::new("sh").args(["-euc", &script]).current_dir(&dir).stdin(Stdio::null()).output();
    let _ = std::fs::remove_dir_all(&dir);
    asked.is_ok_and(|out| out.stdout.starts_with(b"kvm"))
}

#[cfg(test)]
mod tests {
    use mosbuild_rules::machine::Start;

    use super::*;

    #[test]
    fn the_console_is_serial_and_ends_with_ctrl_c() {
        let start = Start::Direct { kernel: "/k".into(), initramfs: None, cmdline: "console=ttyS0".into() };
        let qemu = Qemu {
            arch: Arch::named("x86_64").unwrap(),
            target: "kernel",
            parts: Parts { start, firmware: None, disks: vec!["/d".into()] },
            memory: 512,
            network: &Network::User,
            kvm: false,
        };
        let text = qemu.arguments().join(" ");
        assert!(text.contains("-accel tcg -cpu max -m 512M"), "{text}");
        assert!(text.contains("signal=on") && text.contains("-nographic"), "{text}");
        assert!(text.contains("-netdev user,id=net ") && text.contains("file=/d,"), "{text}");
        assert!(text.ends_with("-kernel /k -append console=ttyS0"), "{text}");
    }
}
