//! The machine's place in the host's network: a TAP device on a bridge, made for as long as it runs.
//! Knows `ip`, by way of sudo where this is not root; does not know hypervisors.

use std::path::Path;
use std::process::{Command, Stdio};

use super::on_path;
use crate::failure::Failure;
use crate::ui::Ui;

/// What the machine's network card is connected to.
#[derive(Debug)]
pub enum Network {
    /// The hypervisor's own, where it has one.
    User,
    /// A TAP device of the host.
    Tap(Tap),
}

/// A TAP device; one that was made here is removed when this is dropped.
#[derive(Debug)]
pub struct Tap {
    /// Its name.
    pub name: String,
    made: bool,
}

impl Network {
    /// Looks whether the TAP device, or the bridge and what makes a device on it, are there.
    ///
    /// # Errors
    /// Exit code 3 for what the host lacks, with the command that brings it.
    pub fn check(tap: Option<&str>, bridge: Option<&str>) -> Result<(), Failure> {
        if let Some(name) = tap {
            return match device(name).join("tun_flags").exists() {
                true => Ok(()),
                false => Err(Failure::new(3, format!("there is no TAP device {name}")).help(format!(
                    "sudo ip tuntap add dev {name} mode tap user $USER && sudo ip link set {name} up"
                ))),
            };
        }
        let Some(bridge) = bridge else { return Ok(()) };
        if !device(bridge).join("bridge").exists() {
            return Err(Failure::new(3, format!("there is no bridge {bridge}"))
                .help(format!("sudo ip link add {bridge} type bridge && sudo ip link set {bridge} up")));
        }
        if !on_path("ip") {
            return Err(Failure::new(3, "ip is not installed").help("sudo apt-get install iproute2"));
        }
        Ok(())
    }

    /// A TAP device that is there, or a new one on a bridge, or the hypervisor's own network.
    ///
    /// # Errors
    /// Exit code 3 where no device can be made.
    pub fn of(ui: &Ui, tap: Option<&str>, bridge: Option<&str>) -> Result<Network, Failure> {
        if let Some(name) = tap {
            return Ok(Network::Tap(Tap { name: name.into(), made: false }));
        }
        let Some(bridge) = bridge else { return Ok(Network::User) };
        // Names of devices have up to 15 bytes.
        let tap = Tap { name: format!("mos{}", std::process::id()), made: true };
        ui.note(&format!("connecting {} to {bridge}", tap.name));
        let user = rustix::process::getuid().as_raw().to_string();
        ip(&["tuntap", "add", "dev", &tap.name, "mode", "tap", "user", &user])?;
        ip(&["link", "set", &tap.name, "master", bridge])?;
        ip(&["link", "set", &tap.name, "up"])?;
        Ok(Network::Tap(tap))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.made {
            let _ = ip(&["link", "delete", &self.name]);
        }
    }
}

fn device(name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(name)
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let line = format!("ip {}", arguments.join(" "));
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new("ip"),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.arg("ip");
            sudo
        }
    };
    let status = command.args(arguments).stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Failure::new(3, format!("`{line}` failed"))
            .help("a TAP device is made by root: let it run with sudo, or name one as --tap")),
        Err(e) => Err(Failure::new(3, format!("`{line}` cannot be run: {e}"))
            .help("run it as root, or name a TAP device as --tap")),
    }
}

/// A hardware address of the machine's own, the same at each start: the block of QEMU and KVM, and a target's name.
pub fn address(target: &str) -> String {
    let hash = target.bytes().fold(0x811c_9dc5u32, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let [a, b, c, _] = hash.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_targets_own() {
        assert_eq!(address("kernel"), address("kernel"));
        assert_ne!(address("kernel"), address("uki"));
        assert!(address("kernel").starts_with("52:54:00:") && address("kernel").len() == 17);
    }
}
