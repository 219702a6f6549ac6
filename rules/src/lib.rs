//! One file per rule: typed fields in, plan out.
//! Knows the formats, the engine's `Rule` trait and trees. Knows no scheduler, no terminal and no cache layout.

#![forbid(unsafe_code)]

mod arch;
mod batches;
mod boot_test;
mod command;
mod component;
pub mod contents;
mod cpio;
pub mod difference;
mod elf;
mod env;
mod files;
mod firmware;
pub mod flist;
mod group;
pub mod inspect;
mod kernel;
mod linux;
pub mod machine;
pub mod memory;
mod miniroot;
mod mode;
mod module_check;
mod modules;
mod one_or_many;
mod packages;
mod preflight;
mod programs;
mod release;
mod reproducible;
mod rootfs;
pub mod sbom;
pub mod shares;
mod size;
mod source;
mod steps;
mod tools;
mod uki;
mod unpack;
mod url;

use mosbuild_engine::rule::{Registry, RuleType};

pub use arch::{Arch, Uefi};
pub use boot_test::{accelerator, image_for_qemu};

/// What is wrong with a line of a list of packages, comments taken off; `packages` refuses it at build time.
pub fn package_fault(line: &str) -> Option<String> {
    packages::line_fault(line)
}

/// What is wrong with a line of a list of kernel modules, comments taken off.
pub fn module_fault(line: &str) -> Option<String> {
    modules::line_fault(line)
}

/// The programs that a kernel of this configuration needs beside those of every kernel: its target's `tools`.
pub fn kernel_programs(config: &str) -> std::collections::BTreeSet<&'static str> {
    linux::programs(config)
}

/// Every rule, with the version that is in the keys of its steps: raise it when the same fields make another plan.
pub fn registry() -> Registry {
    Registry::new(vec![
        RuleType::of::<boot_test::BootTest>("boot-test", boot_test::VERSION).runs_commands(),
        RuleType::of::<command::CommandRule>("command", 1).runs_commands(),
        RuleType::of::<component::Component>("component", 1).runs_commands(),
        RuleType::of::<cpio::Cpio>("cpio", 1),
        RuleType::of::<files::Files>("files", 1),
        RuleType::of::<firmware::Firmware>("firmware", firmware::VERSION),
        RuleType::of::<flist::Flist>("flist", 1),
        RuleType::of::<group::Group>("group", 1),
        RuleType::of::<kernel::Kernel>("kernel", kernel::VERSION).runs_commands(),
        RuleType::of::<linux::Linux>("linux", linux::VERSION).runs_commands(),
        RuleType::of::<miniroot::Miniroot>("miniroot", 1),
        RuleType::of::<modules::Modules>("modules", modules::VERSION),
        RuleType::of::<packages::Packages>("packages", 1),
        RuleType::of::<release::Release>("release", 1),
        RuleType::of::<rootfs::Rootfs>("rootfs", rootfs::VERSION),
        RuleType::of::<uki::Uki>("uki", uki::VERSION),
    ])
}
