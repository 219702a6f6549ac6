//! The step of `linux` between configuring and compiling: is the configuration what was asked for?
//! Knows configurations and Kconfig sources; runs nothing and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use mosbuild_cache::{Node, Output, OutputKind};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::kconfig::{self, Config, Symbols, Value};

use super::hints::{self, Depends};
use crate::arch::Arch;

/// Programs that kbuild runs if a symbol is on, beside those that every kernel needs.
const PROGRAMS: [(&str, &str); 10] = [
    ("KERNEL_XZ", "xz"),
    ("KERNEL_ZSTD", "zstd"),
    ("KERNEL_LZ4", "lz4"),
    ("KERNEL_LZMA", "lzma"),
    ("KERNEL_LZO", "lzop"),
    ("KERNEL_BZIP2", "bzip2"),
    ("MODULE_COMPRESS_XZ", "xz"),
    ("MODULE_COMPRESS_ZSTD", "zstd"),
    ("DEBUG_INFO_BTF", "pahole"),
    ("EFI_ZBOOT", "hexdump"),
];
/// Differences to a full configuration that are listed one by one.
const LISTED: usize = 20;

/// Inputs `config` (the result), `source`, one named by its path for each of param `fragments` (one a line), and
/// for a full configuration the one that param `full` names; param `tools`, separated by blanks. Output `config`.
pub struct CheckConfig;

impl Builtin for CheckConfig {
    fn name(&self) -> &'static str {
        "linux-check"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("config".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let result = parse(".config", &text(cx, "config")?)?;
        let mut asked = Vec::new();
        for name in cx.param("fragments").lines() {
            let text = text(cx, name)?;
            asked.push(Fragment { name: name.to_owned(), config: parse(name, &text)?, text });
        }
        let unmet = unmet(&asked, &result);
        let mut made = Made::default();
        let mut problems = Vec::new();
        let mut kconfig = None;
        if !unmet.is_empty() {
            let scanned = scan(cx)?;
            problems.push(describe(&unmet, &result, &scanned));
            kconfig = Some(scanned);
        }
        let full = match cx.param("full") {
            "" => None,
            name => Some((name, parse(name, &text(cx, name)?)?)),
        };
        problems.extend(full.as_ref().and_then(|(name, config)| foreign(name, config, cx.param("arch"))));
        let tools: BTreeSet<&str> = cx.param("tools").split_whitespace().collect();
        for (symbol, program) in programs(&result) {
            if !tools.contains(program) {
                problems
                    .push(format!("CONFIG_{symbol}=y needs the program {program}: add `tools: [{program}]`"));
            }
        }
        if !problems.is_empty() {
            return Err(StepError::new(problems.join("\n")));
        }
        if let Some((name, full)) = full {
            let changes = differences(&full, &asked, &result);
            if !changes.is_empty() {
                let scanned = match kconfig {
                    Some(scanned) => scanned,
                    None => scan(cx)?,
                };
                made.notes.extend(report(name, &changes, &scanned.symbols));
            }
        }
        made.notes.extend(not_reproducible(&result));
        for note in &made.notes {
            (cx.log)(note);
        }
        let (digest, size, _) = cx.blob("config")?;
        let config = Output { kind: OutputKind::File { executable: false }, digest, size };
        made.outputs.insert("config".into(), config);
        Ok(made)
    }
}

/// Symbols that are on with the program that each needs.
pub fn programs(config: &Config) -> impl Iterator<Item = (&'static str, &'static str)> {
    PROGRAMS.into_iter().filter(|(symbol, _)| config.get(symbol) == Some(&Value::Yes))
}

struct Fragment {
    name: String,
    text: String,
    config: Config,
}

/// A setting that a fragment asks for and that did not come out.
struct Unmet<'a> {
    fragment: &'a str,
    line: usize,
    missing: kconfig::Missing,
}

/// Of several fragments the last that names a symbol counts, as for `make`.
fn unmet<'a>(fragments: &'a [Fragment], result: &Config) -> Vec<Unmet<'a>> {
    let mut out = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        let later = |symbol: &str| fragments[at + 1..].iter().any(|f| f.config.values.contains_key(symbol));
        for missing in kconfig::check_fragment(&fragment.config, result) {
            if !later(&missing.symbol) {
                let line = kconfig::line_of(&fragment.text, &missing.symbol).unwrap_or(1);
                out.push(Unmet { fragment: &fragment.name, line, missing });
            }
        }
    }
    out.sort_by_key(|u| (fragments.iter().position(|f| f.name == u.fragment), u.line));
    out
}

/// As a line of a configuration, without `CONFIG_NAME=`.
fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::No) => "not set".into(),
        Some(value) => value.to_string(),
    }
}

fn describe(unmet: &[Unmet<'_>], result: &Config, kconfig: &Scanned) -> String {
    let what = if unmet.len() == 1 { "a symbol" } else { "symbols" };
    let mut text = format!("{what} of the fragments did not come out as asked for:");
    for u in unmet {
        let m = &u.missing;
        let (wanted, got) = (shown(Some(&m.wanted)), shown(m.got.as_ref()));
        let _ =
            write!(text, "\n  {}:{}: CONFIG_{}: wanted {wanted}, got {got}", u.fragment, u.line, m.symbol);
        if let Some(hint) = hints::hint(&m.symbol, &m.wanted, result, &kconfig.symbols, &kconfig.depends) {
            let _ = write!(text, " ({hint})");
        }
    }
    text
}

/// A full configuration of another architecture: kbuild would drop most of it without a word.
fn foreign(name: &str, full: &Config, arch: &str) -> Option<String> {
    let of = |arch: &Arch| full.enabled(&arch.kbuild.to_uppercase());
    let other = Arch::ALL.iter().find(|other| of(other) && other.name != arch)?;
    let wanted = Arch::named(arch).is_some_and(of);
    (!wanted)
        .then(|| format!("{name} is a configuration of {}, and the kernel is to be of {arch}", other.name))
}

/// What became of a full configuration, without what fragments and mosbuild itself set.
fn differences(full: &Config, fragments: &[Fragment], result: &Config) -> Vec<kconfig::Change> {
    let ours = ["LOCALVERSION", "LOCALVERSION_AUTO", "INITRAMFS_SOURCE"];
    let set = |symbol: &str| {
        ours.contains(&symbol) || fragments.iter().any(|f| f.config.values.contains_key(symbol))
    };
    let same = |change: &kconfig::Change| match (&change.before, &change.after) {
        (None | Some(Value::No), None | Some(Value::No)) => true,
        (Some(before), Some(after)) => before.same(after),
        _ => false,
    };
    kconfig::diff(full, result).into_iter().filter(|c| !set(&c.symbol) && !same(c)).collect()
}

fn report(name: &str, changes: &[kconfig::Change], symbols: &Symbols) -> Vec<String> {
    let mut prompted: Vec<&kconfig::Change> =
        changes.iter().filter(|c| symbols.has_prompt(&c.symbol) == Some(true)).collect();
    // What the file said and did not get, before what it did not say.
    prompted.sort_by_key(|c| c.before.is_none());
    let plural = if changes.len() == 1 { "symbol differs" } else { "symbols differ" };
    let mut notes = vec![format!(
        "{name}: {} {plural} in the resulting .config, {} with a prompt",
        changes.len(),
        prompted.len()
    )];
    for change in prompted.iter().take(LISTED) {
        let (before, after) = (shown(change.before.as_ref()), shown(change.after.as_ref()));
        notes.push(format!("warning: {name}: CONFIG_{}: was {before}, is {after}", change.symbol));
    }
    if prompted.len() > LISTED {
        notes.push(format!("warning: {name}: and {} more with a prompt", prompted.len() - LISTED));
    }
    notes
}

/// Settings with which two builds of the same inputs differ.
fn not_reproducible(config: &Config) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |symbol: &str, why: &str| {
        notes.push(format!("warning: CONFIG_{symbol}: {why}, so the kernel is not reproducible"));
    };
    let generated = Value::Text("certs/signing_key.pem".into());
    if config.enabled("MODULE_SIG_FORMAT") && config.get("MODULE_SIG_KEY") == Some(&generated) {
        note("MODULE_SIG_KEY", "a key is generated in each build");
    }
    for (symbol, why) in [
        ("RANDSTRUCT_FULL", "a seed is generated in each build"),
        ("RANDSTRUCT_PERFORMANCE", "a seed is generated in each build"),
        ("IKHEADERS", "the archive of headers holds times"),
    ] {
        if config.enabled(symbol) {
            note(symbol, why);
        }
    }
    notes
}

/// What the source says about symbols.
struct Scanned {
    symbols: Symbols,
    depends: Depends,
}

fn scan(cx: &BuiltinCx<'_>) -> Result<Scanned, StepError> {
    let source = cx.tree("source")?;
    let mut scanned = Scanned { symbols: Symbols::default(), depends: BTreeMap::new() };
    let own = format!("arch/{}/", Arch::named(cx.param("arch")).map_or("", |arch| arch.folder));
    for entry in source.iter() {
        let path = entry.path.to_string();
        let name = path.rsplit('/').next().unwrap_or(&path);
        // Other architectures define the same symbols in other words.
        let foreign = path.starts_with("arch/") && !path.starts_with(&own) && path != "arch/Kconfig";
        if !name.starts_with("Kconfig") || foreign {
            continue;
        }
        if let Node::File { digest, .. } = &entry.node {
            let bytes = cx.store.read(digest)?;
            let text = String::from_utf8_lossy(&bytes);
            scanned.symbols.scan(&text);
            hints::dependencies(&text, &mut scanned.depends);
        }
    }
    Ok(scanned)
}

fn text(cx: &BuiltinCx<'_>, name: &str) -> Result<String, StepError> {
    String::from_utf8(cx.bytes(name)?).map_err(|_| StepError::new(format!("{name} is not UTF-8")))
}

fn parse(name: &str, text: &str) -> Result<Config, StepError> {
    Config::parse(text).map_err(|e| StepError::new(format!("{name}:{}: {}: {:?}", e.line, e.why, e.text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(name: &str, text: &str) -> Fragment {
        Fragment { name: name.into(), text: text.into(), config: Config::parse(text).unwrap() }
    }

    #[test]
    fn what_did_not_come_out_is_named_with_its_line_and_a_reason() {
        let fragments = [
            fragment(
                "a.fragment",
                "CONFIG_RD_XZ=y\n# comment\nCONFIG_R8169=m\nCONFIG_GONE=y\n# CONFIG_CPU_FREQ is not set\n",
            ),
            fragment("b.fragment", "CONFIG_HZ=0x64\nCONFIG_GONE=n\nCONFIG_R8160=m\n"),
        ];
        let result =
            Config::parse("CONFIG_RD_XZ=y\nCONFIG_HZ=100\nCONFIG_CPU_FREQ=y\nCONFIG_PCI=y\n").unwrap();
        let kconfig = "config R8169\n\ttristate \"Realtek\"\n\tdepends on PCI && PHYLIB\n\
                       config CPU_FREQ\n\tbool \"scaling\"\n";
        let mut scanned = Scanned { symbols: Symbols::default(), depends: BTreeMap::new() };
        scanned.symbols.scan(kconfig);
        hints::dependencies(kconfig, &mut scanned.depends);
        let unmet = unmet(&fragments, &result);
        assert_eq!(
            describe(&unmet, &result, &scanned),
            "symbols of the fragments did not come out as asked for:\n  \
             a.fragment:3: CONFIG_R8169: wanted m, got not set (it depends on PCI && PHYLIB; PHYLIB is not set)\n  \
             a.fragment:5: CONFIG_CPU_FREQ: wanted not set, got y (another symbol selects it, or it is the default)\n  \
             b.fragment:3: CONFIG_R8160: wanted m, got not set (this kernel has no such symbol; did you mean R8169?)"
        );
    }

    #[test]
    fn a_full_configuration_of_another_architecture_is_refused() {
        let said = |text: &str, arch: &str| foreign("kernel.config", &Config::parse(text).unwrap(), arch);
        let wrong = "kernel.config is a configuration of x86_64, and the kernel is to be of aarch64";
        assert_eq!(said("CONFIG_X86_64=y\n", "aarch64").as_deref(), Some(wrong));
        assert_eq!(
            said("CONFIG_ARM64=y\n", "x86_64").as_deref().map(|text| text.contains("of aarch64,")),
            Some(true)
        );
        assert_eq!(said("CONFIG_ARM64=y\n", "aarch64"), None);
        // It names none: parts of a configuration are no fault.
        assert_eq!(said("CONFIG_64BIT=y\n", "aarch64"), None);
    }

    #[test]
    fn a_full_configuration_is_counted_and_only_prompts_are_listed() {
        let full = Config::parse("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\nCONFIG_LOCALVERSION=\"\"\n")
            .unwrap();
        let result =
            Config::parse("CONFIG_0=y\nCONFIG_A=m\nCONFIG_D=y\nCONFIG_LOCALVERSION=\"-x\"\n").unwrap();
        let mut symbols = Symbols::default();
        symbols.scan(
            "config 0\n\tbool \"0\"\nconfig A\n\ttristate \"a\"\nconfig B\n\tbool\nconfig D\n\tdef_bool y\n",
        );
        let changes = differences(&full, &[], &result);
        assert_eq!(
            report("kernel.config", &changes, &symbols),
            [
                "kernel.config: 4 symbols differ in the resulting .config, 2 with a prompt",
                "warning: kernel.config: CONFIG_A: was y, is m",
                "warning: kernel.config: CONFIG_0: was not set, is y",
            ]
        );
    }
}
