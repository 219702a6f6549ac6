//! Kernel modules, and the tables and closures made from whatever they claim.
//! Does not know real modules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mosbuild_formats::closure::Catalog;
use mosbuild_formats::depmod::{Input, Module, tables};
use mosbuild_formats::modinfo::ModuleInfo;

fuzz_target!(|data: &[u8]| {
    let Ok(info) = ModuleInfo::parse(data) else { return };
    let catalog = Catalog::new([("kernel/a.ko", &info)], "", data);
    let _ = catalog.closure(&["a"]);
    let modules = [Module { path: "kernel/a.ko".into(), info }];
    let _ = tables(&Input { modules: &modules, builtin_modinfo: Some(data), ..Input::default() });
});
