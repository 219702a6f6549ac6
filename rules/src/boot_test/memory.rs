//! A look at a virtual machine's memory before it is started, as far as its archives say what they take.
//! Knows the forecasts of archives; does not know what boots.

use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_engine::plan::Planner;
use mosbuild_engine::rule::PlanError;

use crate::cpio;
use crate::memory::Forecast;
use crate::size::human;
use crate::steps::{builtin, read};

/// Plans the look, for a machine of so many MiB: its step gates the step `boot` of this target.
pub fn plan(
    planner: &mut Planner<'_>,
    kernel: &str,
    initramfs: Option<&str>,
    cmdline: &str,
    mib: u64,
) -> Result<(), PlanError> {
    let inside = planner.advertised(kernel, "initramfs");
    let archives = [inside, initramfs.map(str::to_owned)].into_iter().flatten();
    let archives: Vec<String> = archives.filter(|text| planner.rule_of(text) == Some("cpio")).collect();
    if archives.is_empty() {
        return Ok(());
    }
    let mut inputs = Vec::new();
    for text in &archives {
        inputs.push(read(text, planner.upstream_output(text, cpio::RAM)?));
    }
    let limited = if is_tmpfs(cmdline) { "yes" } else { "no" };
    let params = [("memory", mib.to_string()), ("tmpfs", limited.to_owned())];
    let mut step = builtin("memory", Enough, inputs, &params);
    step.gates = vec![(planner.target_index(planner.name())?, "boot".into())];
    planner.step(step);
    Ok(())
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
}
