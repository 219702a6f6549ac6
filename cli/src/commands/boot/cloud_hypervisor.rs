//! cloud-hypervisor on this terminal. Knows its command line, as its own documentation has it (README.md, docs/api.md);
//! its loader takes a bzImage since version 38.
//!
//! On a terminal it takes every key for the guest, Ctrl-C too. So it gets pipes, and the terminal stays ours: keys go
//! through one by one, and Ctrl-C is a signal, on which it ends.

use std::io::{IsTerminal, Read, Write};
use std::process::{Command, Stdio};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::network::{Network, address};
use crate::failure::Failure;
use crate::ui::Ui;

/// Its program.
pub const PROGRAM: &str = "cloud-hypervisor";
/// Where it comes from: Debian has no package of it.
pub const ADVICE: &str =
    "Debian 12 has no package of it: its releases on GitHub are single static files, to be put on PATH";

/// A machine of cloud-hypervisor.
pub struct CloudHypervisor<'a> {
    /// What it is the machine of.
    pub target: &'a str,
    /// Path of the image.
    pub kernel: String,
    /// Path of an archive beside it.
    pub initramfs: Option<String>,
    /// Kernel parameters.
    pub cmdline: String,
    /// Paths of raw disk images.
    pub disks: Vec<String>,
    /// MiB.
    pub memory: u64,
    /// Where its network card is connected to; it has none without a TAP device.
    pub network: &'a Network,
}

impl CloudHypervisor<'_> {
    fn arguments(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut put = |words: &[&str]| all.extend(words.iter().map(|w| (*w).to_owned()));
        put(&["--kernel", &self.kernel]);
        if let Some(initramfs) = &self.initramfs {
            put(&["--initramfs", initramfs]);
        }
        put(&["--cmdline", &self.cmdline, "--cpus", "boot=2", "--memory", &format!("size={}M", self.memory)]);
        put(&["--serial", "tty", "--console", "off", "--rng", "src=/dev/urandom"]);
        if !self.disks.is_empty() {
            put(&["--disk"]);
            for disk in &self.disks {
                put(&[&format!("path={}", value(disk))]);
            }
        }
        if let Network::Tap(tap) = self.network {
            put(&["--net", &format!("tap={},mac={}", tap.name, address(self.target))]);
        }
        all
    }

    /// Runs it, and outlives a Ctrl-C that is meant for it.
    pub fn start(&self, ui: &Ui) -> Result<u8, Failure> {
        ui.note(&format!("starting {PROGRAM}; Ctrl-C ends it"));
        if matches!(self.network, Network::User) {
            ui.note("without a network: it has none of its own, --bridge or --tap gives it one");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _guard = runtime.enter();
        let _listening = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let mut child = Command::new(PROGRAM)
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::new(3, format!("{PROGRAM} cannot be started: {e}")).help(ADVICE))?;
        let _terminal = Keys::take();
        if let Some(input) = child.stdin.take() {
            // Not waited for: it sits in a read, and ends with this process.
            std::thread::spawn(move || copy(std::io::stdin(), input));
        }
        if let Some(output) = child.stdout.take() {
            copy(output, std::io::stdout());
        }
        Ok(if child.wait()?.success() { 0 } else { 1 })
    }
}

/// Copies byte by byte as they come.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// The terminal without lines and echo, which the guest makes; as it was when this is dropped.
struct Keys(Termios);

impl Keys {
    fn take() -> Option<Keys> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok().filter(|_| stdin.is_terminal())?;
        let mut now = before.clone();
        now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Now, &now).ok()?;
        Some(Keys(before))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// A value with a comma is quoted.
fn value(text: &str) -> String {
    if text.contains(',') { format!("\"{text}\"") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The options are those of its README and of `--help`.
    #[test]
    fn the_command_line_is_as_documented() {
        let machine = CloudHypervisor {
            target: "kernel",
            kernel: "/k".into(),
            initramfs: Some("/i".into()),
            cmdline: "console=ttyS0 quiet".into(),
            disks: vec!["/d0".into(), "/d,1".into()],
            memory: 2048,
            network: &Network::User,
        };
        let expected = [
            "--kernel",
            "/k",
            "--initramfs",
            "/i",
            "--cmdline",
            "console=ttyS0 quiet",
            "--cpus",
            "boot=2",
            "--memory",
            "size=2048M",
            "--serial",
            "tty",
            "--console",
            "off",
            "--rng",
            "src=/dev/urandom",
            "--disk",
            "path=/d0",
            "path=\"/d,1\"",
        ];
        assert_eq!(machine.arguments(), expected);
    }
}
