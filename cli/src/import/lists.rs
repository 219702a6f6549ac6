//! `packages.list` and `modules.conf`: lists that mosbuild's rules read as they are.
//! Knows which targets take them, and asks the rules what is wrong with a line.

use mosbuild_rules::{module_fault, package_fault};

use super::Imported;
use super::yaml::{Block, map, scalar};

/// What the rule will say of the lines, as it reads them.
fn faults(text: &str, fault: impl Fn(&str) -> Option<String>) -> Imported {
    let mut all = Imported::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(why) = (!line.is_empty()).then(|| fault(line)).flatten() {
            all.remark(at + 1, format!("{why}: mend the line, the build refuses it"));
        }
    }
    all
}

pub(super) fn packages(path: &str, text: &str) -> Imported {
    let mut all = faults(text, package_fault);
    all.remark(
        0,
        "the release of Alpine is in no list: 3.22 is what the old pipeline took; change it in miniroot",
    );
    all.targets.push(Block::new("miniroot", 0, "miniroot").with("release", scalar("3.22")));
    all.targets.push(
        Block::new("packages", 0, "packages")
            .with("base", "miniroot")
            .with("list", scalar(path))
            .with("repositories", "[main, community]")
            .with("forbid", "[openrc, systemd]"),
    );
    all
}

pub(super) fn modules(path: &str, text: &str) -> Imported {
    let mut all = faults(text, module_fault);
    let block = Block::new("modules", 0, "modules").with("from", scalar("linux:modules"));
    all.targets.push(block.with("list", scalar(path)).with("load", scalar("/etc/modules")));
    all.remark(0, "the names are also written to /etc/modules, in order, for the service that loads them");
    all.remark(0, "the modules come from a target `linux`: import kernel.config too, or write one");
    let firmware = Block::new("firmware", 0, "firmware").with("for", "modules");
    let url = "https://cdn.kernel.org/pub/linux/kernel/firmware/linux-firmware-20250808.tar.xz";
    all.targets.push(firmware.with("source", map(&[("url", url)])));
    all.remark(0, "the old pipeline took the firmware that these modules name: target `firmware`, of the release 20250808");
    all
}
