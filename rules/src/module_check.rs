//! Whether a kernel will have the modules that are asked for, said before it is compiled: by the source's Makefiles and
//! the finished configuration. Refuses only what surely will not be there; the rest is told when there are modules.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;

use mosbuild_cache::{Entry, Node};
use mosbuild_engine::action::{Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::kbuild::{Kbuild, Maker, Verdict};
use mosbuild_formats::kconfig::{Config, line_of};
use mosbuild_formats::modinfo::canonical;
use rayon::prelude::*;

use crate::modules::{Wanted, wanted};

/// Before the path of a file that the configuration is made from, in the name of its input.
pub const FRAGMENT: &str = "fragment ";

/// Inputs `kbuild`, `config`, `source`, `list` where there is one, and each file of the configuration; params `list`,
/// `extra` as of the rule, `files`, those of the configuration in order, and `folder`, that of the architecture. No
/// output: it succeeds or not.
pub struct CheckModules;

impl Builtin for CheckModules {
    fn name(&self) -> &'static str {
        "modules-check"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        Vec::new()
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let wanted = wanted(cx)?;
        let text = |name: &str| Ok::<_, StepError>(String::from_utf8_lossy(&cx.bytes(name)?).into_owned());
        let kbuild = Kbuild::parse(&text("kbuild")?)
            .map_err(|line| StepError::new(format!("kbuild: line {line} is not one of this program's")))?;
        let config = Config::parse(&text("config")?).map_err(|e| StepError::new(format!(".config: {e}")))?;
        let folder = cx.param("folder");
        let verdicts = wanted.iter().map(|one| (one, kbuild.verdict(&one.name, &config, folder)));
        let mut lacking: Vec<Lacking<'_>> = verdicts.filter(|(_, v)| *v != Verdict::Made).collect();
        let mut made = Made::default();
        if lacking.iter().any(|(_, verdict)| matches!(verdict, Verdict::Unmade { .. })) {
            let aliases = aliases(cx)?;
            lacking.retain(|(one, verdict)| {
                let alias = matches!(verdict, Verdict::Unmade { .. }) && may_be_alias(&one.name, &aliases);
                if alias {
                    made.notes.push(format!("{} is no module's name, but may be an alias of one", one.name));
                }
                !alias
            });
        }
        for note in &made.notes {
            (cx.log)(note);
        }
        if lacking.is_empty() {
            return Ok(made);
        }
        let fragment = |path: &str| Ok((path.to_owned(), text(&format!("{FRAGMENT}{path}"))?));
        let fragments = cx.param("files").lines().map(fragment).collect::<Result<Vec<_>, StepError>>()?;
        Err(refuse(&kbuild, &lacking, &fragments))
    }
}

/// A module that there will not be, and why.
type Lacking<'a> = (&'a Wanted, Verdict<'a>);

/// `fragments` are the files of the configuration with their texts, of which later ones win.
fn refuse(kbuild: &Kbuild, lacking: &[Lacking<'_>], fragments: &[(String, String)]) -> StepError {
    let mut text = String::from("the kernel would be built without modules that are asked for:");
    // File → settings to add, and settings that are there and wrong.
    let mut missing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut said: BTreeSet<String> = BTreeSet::new();
    for (one, verdict) in lacking {
        let makers = match verdict {
            Verdict::Off(makers) => makers,
            Verdict::Unmade { nearest } => {
                let near = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                let what = "no Makefile of this kernel makes it";
                let _ = write!(text, "\n  {}: {}: {what}{near}", one.place, one.name);
                continue;
            }
            Verdict::Made => continue,
        };
        let list: Vec<String> = makers
            .iter()
            .map(|(maker, symbols)| {
                let are = if symbols.len() == 1 { "is" } else { "are" };
                let symbols: Vec<String> = symbols.iter().map(|s| format!("CONFIG_{s}")).collect();
                format!("{} {are} not set ({}:{})", symbols.join(" and "), maker.file, maker.line)
            })
            .collect();
        let _ = write!(text, "\n  {}: {}: {}", one.place, one.name, list.join(", nor: "));
        let Some((maker, symbols)) = makers.first() else { continue };
        for symbol in symbols {
            match fragments.iter().rev().find_map(|(path, text)| Some((path, line_of(text, symbol)?))) {
                Some((path, line)) => {
                    said.insert(format!("{path}:{line} sets CONFIG_{symbol}: make it CONFIG_{symbol}=m"));
                }
                None => {
                    let place = place(kbuild, maker, fragments).unwrap_or("a fragment of the linux target");
                    let settings = missing.entry(place).or_default();
                    let setting = format!("CONFIG_{symbol}=m");
                    if !settings.contains(&setting) {
                        settings.push(setting);
                    }
                }
            }
        }
    }
    said.extend(missing.iter().map(|(place, settings)| format!("add to {place}: {}", settings.join(" "))));
    said.into_iter().fold(StepError::new(text), StepError::help)
}

/// The file of the configuration that has most in common with a Makefile: that sets symbols of the folder, or of one
/// near it. The last one if none has anything.
fn place<'a>(kbuild: &Kbuild, maker: &Maker, fragments: &'a [(String, String)]) -> Option<&'a str> {
    let common = |other: &str| {
        let folders = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (a, b) = (folders(&maker.file), folders(other));
        a.iter().zip(&b).take_while(|(a, b)| a == b).count()
    };
    let nearness = |text: &str| {
        let config = Config::parse(text).unwrap_or_default();
        let makers = config.values.keys().flat_map(|symbol| kbuild.made_by(symbol).map(|m| common(&m.file)));
        makers.max().unwrap_or(0)
    };
    // That both are below `drivers/` says nothing.
    let least = if maker.file.starts_with("drivers/") { 2 } else { 1 };
    let best = fragments.iter().map(|(path, text)| (nearness(text), path)).filter(|(n, _)| *n >= least);
    let best = best.rev().max_by_key(|(n, _)| *n).map(|(_, path)| path);
    best.or(fragments.last().map(|(path, _)| path)).map(String::as_str)
}

/// Whether a name may be an alias that modules declare: then no Makefile knows it.
fn may_be_alias(name: &str, aliases: &HashSet<String>) -> bool {
    let name = canonical(name);
    // `net-pf-10`, `pci:v00008086…`: made from numbers that are elsewhere.
    if name.contains(':') || name.rsplit('_').next().is_some_and(|last| last.parse::<u32>().is_ok()) {
        return true;
    }
    // `crypto-aes`: a macro puts a word before what is written.
    let ends = name.match_indices('_').map(|(at, _)| &name[at + 1..]);
    std::iter::once(name.as_str()).chain(ends).any(|end| aliases.contains(end))
}

/// All texts in lines of the source that declare an alias, canonical. Reads all C files, so only where it matters.
fn aliases(cx: &BuiltinCx<'_>) -> Result<HashSet<String>, StepError> {
    let source = cx.tree("source")?;
    let is_c = |entry: &&Entry| {
        let path = entry.path.to_string();
        (path.ends_with(".c") || path.ends_with(".h")) && !path.starts_with("tools/")
    };
    let files: Vec<&Entry> = source.iter().filter(is_c).collect();
    let read = |entry: &&Entry| match &entry.node {
        Node::File { digest, .. } if !(cx.cancelled)() => Ok(declared(&cx.store.read(digest)?)),
        _ => Ok(Vec::new()),
    };
    let all = files.par_iter().map(read).collect::<Result<Vec<_>, StepError>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// The texts in quotes of lines with `MODULE_ALIAS`, and of the line behind.
fn declared(bytes: &[u8]) -> Vec<String> {
    const MACRO: &[u8] = b"MODULE_ALIAS";
    if !bytes.windows(MACRO.len()).any(|window| window == MACRO) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let mut behind = false;
    for line in text.lines() {
        let declares = line.contains("MODULE_ALIAS");
        if declares || behind {
            found.extend(line.split('"').skip(1).step_by(2).map(canonical));
        }
        behind = declares;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kbuild() -> Kbuild {
        let mut kbuild = Kbuild::default();
        kbuild.scan(
            "drivers/net/ethernet/intel/Makefile",
            "obj-$(CONFIG_E1000) += e1000/\nobj-$(CONFIG_IGB) += igb.o\n",
        );
        kbuild.scan("drivers/net/ethernet/realtek/Makefile", "obj-$(CONFIG_R8169) += r8169.o\n");
        kbuild.scan("drivers/net/Makefile", "obj-$(CONFIG_VETH) += veth.o\n");
        kbuild.scan(
            "drivers/ata/Makefile",
            "obj-$(CONFIG_ATA) += libata.o\nobj-$(CONFIG_SATA_AHCI) += ahci.o\n",
        );
        kbuild.scan(
            "drivers/net/phy/Makefile",
            "ifdef CONFIG_PHYLIB\nobj-$(CONFIG_REALTEK_PHY) += realtek.o\nendif\n",
        );
        kbuild
    }

    fn fragments() -> Vec<(String, String)> {
        [
            ("cards", "CONFIG_E1000=m\nCONFIG_R8169=m\nCONFIG_VETH=y\n"),
            ("disks", "CONFIG_ATA=m\n# CONFIG_SATA_AHCI is not set\n"),
            ("rest", "CONFIG_X=y\n"),
        ]
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .into()
    }

    #[test]
    fn each_is_told_with_its_symbol_and_where_to_set_it() {
        let kbuild = kbuild();
        let config = Config::parse("CONFIG_ATA=m\nCONFIG_VETH=y\n").unwrap();
        let wanted: Vec<Wanted> = ["libata", "ahci", "igb", "r8169", "realtek", "vethh"]
            .iter()
            .enumerate()
            .map(|(at, name)| Wanted { name: (*name).into(), place: format!("list:{}", at + 1) })
            .collect();
        let lacking: Vec<Lacking<'_>> =
            wanted.iter().map(|one| (one, kbuild.verdict(&one.name, &config, "x86"))).collect();
        assert_eq!(lacking[0].1, Verdict::Made);
        let error = refuse(&kbuild, &lacking, &fragments());
        assert_eq!(
            error.message,
            "the kernel would be built without modules that are asked for:\n  \
             list:2: ahci: CONFIG_SATA_AHCI is not set (drivers/ata/Makefile:2)\n  \
             list:3: igb: CONFIG_IGB is not set (drivers/net/ethernet/intel/Makefile:2)\n  \
             list:4: r8169: CONFIG_R8169 is not set (drivers/net/ethernet/realtek/Makefile:1)\n  \
             list:5: realtek: CONFIG_PHYLIB and CONFIG_REALTEK_PHY are not set (drivers/net/phy/Makefile:2)\n  \
             list:6: vethh: no Makefile of this kernel makes it; did you mean veth?"
        );
        assert_eq!(
            error.help,
            [
                "add to cards: CONFIG_IGB=m CONFIG_PHYLIB=m CONFIG_REALTEK_PHY=m",
                "cards:2 sets CONFIG_R8169: make it CONFIG_R8169=m",
                "disks:2 sets CONFIG_SATA_AHCI: make it CONFIG_SATA_AHCI=m",
            ]
        );
        let error = refuse(&kbuild, &lacking[2..3], &[]);
        assert_eq!(error.help, ["add to a fragment of the linux target: CONFIG_IGB=m"]);
    }

    #[test]
    fn aliases_are_read_off_the_source() {
        let text = b"MODULE_ALIAS_CRYPTO(\"aes\");\nMODULE_ALIAS(\"char-major-10-144\");\nMODULE_ALIAS(\n\t\"dm-x\");\nchar *s = \"other\";\n";
        let aliases: HashSet<String> = declared(text).into_iter().collect();
        for (name, expected) in [
            ("aes", true),
            ("crypto-aes", true),
            ("dm_x", true),
            ("net-pf-10", true),
            ("pci:v00008086d*", true),
            ("other", false),
            ("aess", false),
            ("virtio_nett", false),
        ] {
            assert_eq!(may_be_alias(name, &aliases), expected, "{name}");
        }
        assert!(declared(b"no alias \"here\"").is_empty());
    }
}
