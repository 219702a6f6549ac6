//! The last link of a kernel without make: which of its files it takes, and the script that runs the commands that
//! kbuild saved. Knows kbuild's files on x86; does not know what is made of the answer, and runs nothing.
//!
//! make looks at every folder before it links. What follows is always the same: assemble the archive, link vmlinux
//! (scripts/link-vmlinux.sh, which is run as it stands), compress it, and wrap it (arch/x86/boot). Whether the script's
//! bytes are make's is not argued but tried, once for each kernel: see settle.rs.

pub mod offsets;
mod script;

use std::collections::BTreeSet;
use std::fmt::Write;

use mosbuild_engine::action::StepError;
use mosbuild_formats::saved_cmd::{Compress, SavedCommand, is_thin, thin_members};

use self::script::{BTF, OFFSETS, RELINK, SAY, SLOT, step, write_compress, write_linker, write_samples};
use super::make::{OBJECTS, SOURCE};

/// What the last link of a kernel takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Relink {
    /// Defines the shell functions `relink`, `link_slot` and `relink_slot`.
    pub script: String,
    /// Objects that have addresses of vmlinux inside; `offset_samples FOLDER` makes samples of them.
    pub readers: Vec<String>,
    /// Files of the object directory, relative.
    pub objects: BTreeSet<String>,
    /// Files of the source, relative.
    pub source: BTreeSet<String>,
}

/// Why there is none.
#[derive(Debug)]
pub enum Refused {
    /// These objects are not what is known here; make can do it.
    Unknown(String),
    /// They could not be read.
    Failed(StepError),
}

impl From<StepError> for Refused {
    fn from(e: StepError) -> Refused {
        Refused::Failed(e)
    }
}

fn unknown<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Unknown(why.into()))
}

/// The folders of a compiled kernel.
pub trait Compiled {
    /// Content of a file of the object directory.
    fn object(&self, path: &str) -> Result<Option<Vec<u8>>, StepError>;
    /// Files of the object directory below a folder.
    fn objects_below(&self, folder: &str) -> Vec<String>;
    /// Whether the object directory has this file.
    fn has_object(&self, path: &str) -> bool;
    /// Whether the source has this file.
    fn has_source(&self, path: &str) -> bool;
    /// Files of the source that lie in this folder itself.
    fn sources_in(&self, folder: &str) -> Vec<String>;
}

const BOOT: &str = "arch/x86/boot";
const INNER: &str = "arch/x86/boot/compressed";
const DATA: &str = "usr/initramfs_data.o";
/// Addresses of vmlinux, which are compiled into what unpacks it.
pub const VOFFSET: &str = "arch/x86/boot/voffset.h";
const AUTOCONF: &str = "include/generated/autoconf.h";
const LINKER_SCRIPT: &str = "arch/x86/kernel/vmlinux.lds";
/// Programs that some configurations run after linking; taken where there are any.
const PROGRAMS: [&str; 5] = [
    "arch/x86/tools/relocs",
    "scripts/kallsyms",
    "scripts/sorttable",
    "tools/bpf/resolve_btfids/resolve_btfids",
    "tools/objtool/objtool",
];

/// Looks through a compiled kernel.
///
/// # Errors
/// [`Refused`].
pub fn plan(compiled: &dyn Compiled) -> Result<Relink, Refused> {
    Plan { compiled, objects: BTreeSet::new(), source: BTreeSet::new() }.all()
}

struct Plan<'a> {
    compiled: &'a dyn Compiled,
    objects: BTreeSet<String>,
    source: BTreeSet<String>,
}

impl Plan<'_> {
    fn all(mut self) -> Result<Relink, Refused> {
        let config = self.text("include/config/auto.conf")?;
        // As link-vmlinux.sh asks it.
        let enabled = |symbol: &str| config.lines().any(|line| line == format!("CONFIG_{symbol}=y"));
        if enabled("LTO_CLANG") {
            return unknown("it is linked by clang's LTO");
        }
        let link = self.saved("vmlinux")?;
        let (link, after_link) = by_script(&link)?;
        let whole = self.saved("vmlinux.o")?;
        let data = self.saved(DATA)?;
        let cc = program(&data)?;
        let voffset = self.saved_as(&format!("{BOOT}/.voffset.h.cmd"))?;
        let bin = self.saved(&format!("{INNER}/vmlinux.bin"))?;
        let piggy = self.saved(&format!("{INNER}/piggy.S"))?;
        let packed = match piggy.words().collect::<Vec<_>>()[..] {
            [_, packed, ">", _] => self.saved(packed)?,
            _ => return unknown(format!("{}: {}", piggy.target, piggy.command)),
        };
        let Some(compress) = Compress::of(&packed) else {
            return unknown(format!("{}: {}", packed.target, packed.command));
        };
        // Older kernels make the relocations here, newer ones behind the link.
        let relocs = format!("{INNER}/vmlinux.relocs");
        let relocs = match self.compiled.has_object(&cmd_path(&relocs)) {
            true => Some(self.saved(&relocs)?),
            false => None,
        };
        let after_voffset = self.readers(INNER, "voffset.h")?;
        let after_zoffset = self.readers(BOOT, "zoffset.h")?;

        let mut out = String::new();
        let libs = libraries(&whole)?;
        let w = &mut out;
        let _ = writeln!(w, "cd {OBJECTS}");
        let _ = writeln!(
            w,
            "export srctree={SOURCE} objtree=. SRCARCH=x86 CONFIG_SHELL=sh XZ=xz quiet=quiet_ Q=@"
        );
        let _ = writeln!(
            w,
            "export KBUILD_VERBOSE= NM={} OBJCOPY={} CC={cc}",
            program(&voffset)?,
            program(&bin)?
        );
        let _ = writeln!(w, "export KBUILD_LDS={LINKER_SCRIPT} KBUILD_VMLINUX_LIBS='{}'", libs.join(" "));
        let _ = writeln!(w, "export NOSTDINC_FLAGS= KBUILD_CPPFLAGS= KBUILD_AFLAGS= KBUILD_AFLAGS_KERNEL=");
        let _ = writeln!(w, "export LINUXINCLUDE='{}'", assembler_flags(&data)?.join(" "));
        w.push_str(SAY);
        if enabled("DEBUG_INFO_BTF") {
            if !self.compiled.has_source("scripts/Makefile.btf") {
                return unknown("its BTF is made by another script than scripts/Makefile.btf");
            }
            w.push_str(BTF);
        }
        w.push_str(OFFSETS);
        write_linker(w, enabled);
        let _ = writeln!(w, "link() {{ # ARCHIVE");
        let _ = writeln!(w, "mkdir -p usr\ncp \"$1\" usr/initramfs_inc_data");
        step(w, "AS", &data);
        // Otherwise vmlinux is linked from the archives, and vmlinux.o is there for modpost alone.
        if enabled("X86_KERNEL_IBT") {
            step(w, "LD", &whole);
        }
        let _ = writeln!(w, "rm -f vmlinux");
        let _ = writeln!(w, "linker {link}\nbegin_offsets\n}}");

        let _ = writeln!(w, "offsets() {{\ncp {VOFFSET} {VOFFSET}.before");
        step(w, "VOFFSET", &voffset);
        let _ = writeln!(
            w,
            "cmp -s {VOFFSET} {VOFFSET}.before || patch_offsets || read_offsets\n}}\nread_offsets() {{"
        );
        after_voffset.iter().for_each(|saved| step(w, "CC", saved));
        w.push_str("}\n");
        w.push_str(offsets::FUNCTIONS);
        let readers: Vec<String> = after_voffset.iter().map(|saved| normal(&saved.target)).collect();
        write_samples(w, VOFFSET, &self.text(VOFFSET)?, &readers);
        w.push_str("stripped() {\n");
        // What it removes from vmlinux, objcopy leaves out of vmlinux.bin in any case.
        let _ = writeln!(w, "(\nOBJCOPY=:\n{after_link}\n) &\nrelocated=$!");
        relocs.iter().for_each(|saved| step(w, "RELOCS", saved));
        step(w, "OBJCOPY", &bin);
        let _ = writeln!(w, "wait \"$relocated\"\n}}\npayload() {{ cat {}; }}", compress.files.join(" "));
        write_compress(w, &compress, &packed.target);

        let _ = writeln!(w, "wrap() {{ # IMAGE");
        step(w, "MKPIGGY", &piggy);
        step(w, "AS", &self.saved(&format!("{INNER}/piggy.o"))?);
        w.push_str("end_offsets\n");
        step(w, "LD", &self.saved(&format!("{INNER}/vmlinux"))?);
        step(w, "ZOFFSET", &self.saved(&format!("{BOOT}/zoffset.h"))?);
        after_zoffset.iter().for_each(|saved| step(w, "AS", saved));
        for (what, name) in
            [("LD", "setup.elf"), ("OBJCOPY", "setup.bin"), ("OBJCOPY", "vmlinux.bin"), ("BUILD", "bzImage")]
        {
            step(w, what, &self.saved(&format!("{BOOT}/{name}"))?);
        }
        let _ = writeln!(w, "cp {BOOT}/bzImage \"$1\"\n}}");
        w.push_str(RELINK);
        let first = format!("{INNER}/vmlinux.bin");
        match compress.files.first() == Some(&first) {
            true => self.slot(w, &compress, &after_voffset),
            false => {
                w.push_str("link_slot() {\necho 'this kernel is compressed in a way that leaves no slot: leave `slot` out' >&2\nexit 1\n}\n");
            }
        }

        self.read_by([&data].into_iter().chain(&after_voffset).chain(&after_zoffset))?;
        let piggy = self.saved(&format!("{INNER}/piggy.o"))?;
        self.read_by([&piggy])?;
        self.archives(&libs)?;
        self.rest()?;
        Ok(Relink { script: out, readers, objects: self.objects, source: self.source })
    }

    /// The functions of a slot, whose archive is one file of known length in vmlinux.bin.
    fn slot(&self, w: &mut String, compress: &Compress, after_voffset: &[SavedCommand]) {
        let kept = after_voffset.iter().map(|saved| saved.target.as_str());
        let kept: Vec<&str> = kept.chain(compress.files.iter().map(String::as_str)).collect();
        let _ = writeln!(w, "slot_files='{VOFFSET} {}'", kept.join(" "));
        let _ = writeln!(w, "slot_bin={}\nslot_rest='{}'", compress.files[0], compress.files[1..].join(" "));
        w.push_str(SLOT);
    }

    fn text(&mut self, path: &str) -> Result<String, Refused> {
        match self.compiled.object(path)? {
            Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            None => unknown(format!("there is no {path}")),
        }
    }

    fn saved(&mut self, target: &str) -> Result<SavedCommand, Refused> {
        self.saved_as(&cmd_path(target))
    }

    fn saved_as(&mut self, path: &str) -> Result<SavedCommand, Refused> {
        SavedCommand::parse(&self.text(path)?).map_err(|e| Refused::Unknown(format!("{path}: {e}")))
    }

    /// The commands of a folder whose sources include a header that each link makes anew.
    fn readers(&mut self, folder: &str, header: &str) -> Result<Vec<SavedCommand>, Refused> {
        let wanted = format!("{BOOT}/{header}");
        let mut found = Vec::new();
        for path in self.compiled.objects_below(folder) {
            let direct = path.strip_prefix(folder).is_some_and(|rest| !rest[1..].contains('/'));
            if !direct || !path.ends_with(".o.cmd") {
                continue;
            }
            let saved = self.saved_as(&path)?;
            if saved.reads.iter().any(|read| normal(read) == wanted) {
                found.push(saved);
            }
        }
        match found.is_empty() {
            true => unknown(format!("nothing in {folder} reads {header}")),
            false => Ok(found),
        }
    }

    fn read_by<'c>(&mut self, commands: impl IntoIterator<Item = &'c SavedCommand>) -> Result<(), Refused> {
        for path in commands.into_iter().flat_map(|saved| &saved.reads) {
            self.add(path)?;
        }
        Ok(())
    }

    /// One file that a command reads. Those of the host are there anyway, and generated ones are made anew.
    fn add(&mut self, path: &str) -> Result<(), Refused> {
        match path.strip_prefix(SOURCE).and_then(|rest| rest.strip_prefix('/')) {
            Some(path) => {
                let path = normal(path);
                if !self.compiled.has_source(&path) {
                    return unknown(format!("the source has no {path}"));
                }
                self.source.insert(path);
            }
            None if path.starts_with('/') => {}
            None => {
                let path = normal(path);
                if self.compiled.has_object(&path) {
                    self.objects.insert(path);
                }
            }
        }
        Ok(())
    }

    /// Archives with the files that those list which are thin.
    fn archives(&mut self, libs: &[String]) -> Result<(), Refused> {
        let wrapped = self.saved(&format!("{INNER}/vmlinux"))?;
        let inner = wrapped.words().filter(|word| word.ends_with(".a")).map(str::to_owned);
        let all: Vec<String> =
            ["vmlinux.a".to_owned()].into_iter().chain(libs.to_vec()).chain(inner).collect();
        for path in all {
            let Some(bytes) = self.compiled.object(&path)? else {
                return unknown(format!("there is no {path}"));
            };
            if is_thin(&bytes) {
                let folder =
                    path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
                let members = thin_members(&bytes).map_err(|e| Refused::Unknown(format!("{path}: {e}")))?;
                for member in members {
                    let member = normal(&format!("{folder}{member}"));
                    if member != DATA && !self.compiled.has_object(&member) {
                        return unknown(format!("there is no {member}, which {path} lists"));
                    }
                    self.objects.insert(member);
                }
            }
            self.objects.insert(normal(&path));
        }
        self.objects.remove(DATA);
        Ok(())
    }

    /// What no command names.
    fn rest(&mut self) -> Result<(), Refused> {
        // Kbuild puts symbols in place of autoconf.h where it lists what was read.
        let always = [AUTOCONF, "include/config/auto.conf", LINKER_SCRIPT, "init/version-timestamp.o"];
        for path in always {
            if !self.compiled.has_object(path) {
                return unknown(format!("there is no {path}"));
            }
            self.objects.insert(path.to_owned());
        }
        let programs = PROGRAMS.into_iter().chain([".vmlinux.export.o"]).map(str::to_owned);
        self.objects.extend(programs.filter(|path| self.compiled.has_object(path)));
        let boot = self.compiled.objects_below(BOOT);
        self.objects.extend(boot.into_iter().filter(|path| !path.ends_with(".cmd")));
        self.source.extend(self.compiled.sources_in("scripts"));
        let named = ["arch/x86/Makefile.postlink", "arch/x86/boot/setup.ld"].map(str::to_owned);
        self.source.extend(named.into_iter().filter(|path| self.compiled.has_source(path)));
        Ok(())
    }
}

/// Where kbuild keeps the command of a target.
fn cmd_path(target: &str) -> String {
    match target.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}.cmd"),
        None => format!(".{target}.cmd"),
    }
}

/// A path without `.` and `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The first word, which has to be a program's plain name.
fn program(saved: &SavedCommand) -> Result<&str, Refused> {
    let plain = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+/".contains(c));
    saved
        .words()
        .next()
        .filter(plain)
        .map_or_else(|| unknown(format!("{}: {}", saved.target, saved.command)), Ok)
}

/// What link-vmlinux.sh is given, and what kbuild runs behind it.
fn by_script(saved: &SavedCommand) -> Result<(&str, &str), Refused> {
    let script = format!("{SOURCE}/scripts/link-vmlinux.sh ");
    let given = saved.command.trim_start_matches("sh ").strip_prefix(&script);
    match given.map(|given| given.split_once(';').unwrap_or((given, ":"))) {
        Some((given, after)) => Ok((given.trim(), after.trim())),
        None => unknown(format!("vmlinux is not linked by link-vmlinux.sh: {}", saved.command)),
    }
}

/// What vmlinux.o takes between `--start-group` and `--end-group`.
fn libraries(saved: &SavedCommand) -> Result<Vec<String>, Refused> {
    let group =
        saved.command.split_once("--start-group").and_then(|(_, rest)| rest.split_once("--end-group"));
    match group {
        Some((libs, _)) if !libs.contains(['\'', '"', '$', ';']) => {
            Ok(libs.split_ascii_whitespace().map(str::to_owned).collect())
        }
        _ => unknown(format!("vmlinux.o: {}", saved.command)),
    }
}

/// The flags that assembly is compiled with, without what is of this one file.
fn assembler_flags(saved: &SavedCommand) -> Result<Vec<&str>, Refused> {
    let command = saved.command.split(';').next().unwrap_or("");
    let mut flags = Vec::new();
    let mut words = command.split_ascii_whitespace().skip(1);
    while let Some(word) = words.next() {
        match word {
            "-c" => {}
            "-o" => {
                words.next();
            }
            word if word.starts_with("-Wp,-M")
                || word.starts_with("-DKBUILD_")
                || word.starts_with("-D__KBUILD_") => {}
            word if word.ends_with(".S") => {}
            word if word.contains(['\'', '"', '$', '\\', '`']) => {
                return unknown(format!("{}: {word}", saved.target));
            }
            word => flags.push(word),
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests;
