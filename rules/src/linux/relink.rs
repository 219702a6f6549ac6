//! The last link of a kernel without make: which of its files it takes, and the script that runs the commands that
//! kbuild saved. Knows kbuild's files on x86; does not know what is made of the answer, and runs nothing.
//!
//! make looks at every folder before it links. What follows is always the same: assemble the archive, link vmlinux
//! (scripts/link-vmlinux.sh, which is run as it stands), compress it, and wrap it (arch/x86/boot). Whether the script's
//! bytes are make's is not argued but tried, once for each kernel: see settle.rs.

use std::collections::BTreeSet;
use std::fmt::Write;

use mosbuild_engine::action::StepError;
use mosbuild_formats::saved_cmd::{Compress, SavedCommand, is_thin, thin_members};

use super::make::{OBJECTS, SOURCE};

/// What the last link of a kernel takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Relink {
    /// Defines the shell functions of [`functions`].
    pub script: String,
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
        by_script(&link)?;
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
        let _ = writeln!(w, "link() {{ # ARCHIVE");
        let _ = writeln!(w, "mkdir -p usr\ncp \"$1\" usr/initramfs_inc_data");
        step(w, "AS", &data);
        // Otherwise vmlinux is linked from the archives, and vmlinux.o is there for modpost alone.
        if enabled("X86_KERNEL_IBT") {
            step(w, "LD", &whole);
        }
        let _ = writeln!(w, "rm -f vmlinux");
        // What make would be asked for there, init/version-timestamp.o, is there.
        let _ = writeln!(w, "MAKE=:\nexport MAKE\n{}\n}}", link.command);

        let before = format!("{BOOT}/voffset.h");
        let _ = writeln!(w, "offsets() {{\ncp {before} {before}.before");
        step(w, "VOFFSET", &voffset);
        let _ = writeln!(w, "if ! cmp -s {before} {before}.before; then\n:");
        after_voffset.iter().for_each(|saved| step(w, "CC", saved));
        let _ = writeln!(w, "fi\n}}\nstripped() {{");
        relocs.iter().for_each(|saved| step(w, "RELOCS", saved));
        step(w, "OBJCOPY", &bin);
        let _ = writeln!(w, "}}\npayload() {{ cat {}; }}", compress.files.join(" "));
        write_compress(w, &compress, &packed.target);

        let _ = writeln!(w, "wrap() {{ # IMAGE");
        step(w, "MKPIGGY", &piggy);
        step(w, "AS", &self.saved(&format!("{INNER}/piggy.o"))?);
        let _ = writeln!(w, "if [ -n \"$beside\" ]; then wait \"$beside\"; fi");
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
        Ok(Relink { script: out, objects: self.objects, source: self.source })
    }

    /// The functions of a slot, whose archive is one file of known length in vmlinux.bin.
    fn slot(&self, w: &mut String, compress: &Compress, after_voffset: &[SavedCommand]) {
        let kept = after_voffset.iter().map(|saved| saved.target.as_str());
        let kept: Vec<&str> = kept.chain(compress.files.iter().map(String::as_str)).collect();
        let _ = writeln!(w, "slot_files='{BOOT}/voffset.h {}'", kept.join(" "));
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

/// Whether vmlinux is linked by the script that is known here.
fn by_script(saved: &SavedCommand) -> Result<(), Refused> {
    let script = format!("{SOURCE}/scripts/link-vmlinux.sh ");
    match saved.command.trim_start_matches("sh ").starts_with(&script) {
        true => Ok(()),
        false => unknown(format!("vmlinux is not linked by link-vmlinux.sh: {}", saved.command)),
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

/// A command as one line of the log and itself.
fn step(w: &mut String, what: &str, saved: &SavedCommand) {
    let _ = writeln!(w, "say {what} {}\n{}", saved.target, saved.command);
}

/// `compress`, which reads `payload`. A level may be asked for by LEVEL, in place of the one that the kernel's
/// Makefiles have.
fn write_compress(w: &mut String, compress: &Compress, target: &str) {
    let levelled = levelled(&compress.program);
    let _ = writeln!(w, "compress() {{\nsay PACK {target}");
    match levelled {
        Some((program, highest)) => {
            let _ = writeln!(
                w,
                "if [ -n \"$LEVEL\" ] && [ \"$LEVEL\" -gt {highest} ]; then\n\
                 echo \"level $LEVEL: the kernel is compressed by {}, which has 1 to {highest}\" >&2\nexit 1\nfi",
                program.split(' ').next().unwrap_or("")
            );
            let _ = writeln!(
                w,
                "{{ if [ -z \"$LEVEL\" ]; then payload | {}; else payload | {program}; fi",
                compress.program
            );
        }
        None => {
            let _ = writeln!(
                w,
                "if [ -n \"$LEVEL\" ]; then echo 'the program that compresses this kernel has no levels: leave `level` out' >&2; exit 1; fi"
            );
            let _ = writeln!(w, "{{ payload | {}", compress.program);
        }
    }
    if compress.sized {
        let _ = writeln!(
            w,
            "size=0\nfor file in {}; do size=$((size + $(stat -Lc %s $file))); done",
            compress.files.join(" ")
        );
        w.push_str("# shellcheck disable=SC2059\n");
        w.push_str("printf \"$(printf '\\\\%03o\\\\%03o\\\\%03o\\\\%03o' $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24 & 255)))\"\n");
    }
    let _ = writeln!(w, "}} > {target}\n}}");
}

/// The program with `$LEVEL` for its level, and the highest that it has.
fn levelled(program: &str) -> Option<(String, u32)> {
    let name = program.split(' ').next()?;
    let highest = match name {
        "gzip" | "bzip2" | "lzma" | "lzop" => 9,
        "lz4" => 12,
        "zstd" => 22,
        // Its options are in the script: those with a preset in place of the default one, 6.
        "sh" if program.ends_with("/scripts/xz_wrap.sh") => {
            return Some(("xz --check=crc32 --threads=1 --x86 --lzma2=preset=$LEVEL,dict=128MiB".into(), 9));
        }
        _ => return None,
    };
    let digits = |word: &str| {
        word.strip_prefix('-').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let words: Vec<&str> = program.split(' ').collect();
    if words.iter().filter(|word| digits(word)).count() != 1 {
        return None;
    }
    let words: Vec<&str> =
        words.into_iter().map(|word| if digits(word) { "-$LEVEL" } else { word }).collect();
    Some((words.join(" "), highest))
}

const SAY: &str = "LEVEL=${LEVEL:-}\nbeside=\nsay() { printf '  %-7s %s\\n' \"$1\" \"$2\"; }\n";

/// The flags are those that kbuild's own Makefile finds.
const BTF: &str = r#"PAHOLE=pahole
RESOLVE_BTFIDS=./tools/bpf/resolve_btfids/resolve_btfids
PAHOLE_FLAGS=$(printf '%s\n' 'include include/config/auto.conf' 'include $(srctree)/scripts/Kbuild.include' \
  'include $(srctree)/scripts/Makefile.btf' 'flags:; @echo $(PAHOLE_FLAGS)' | MAKEFLAGS= make -s -f - flags)
export PAHOLE RESOLVE_BTFIDS PAHOLE_FLAGS
"#;

/// What reads the addresses is compiled beside the compression.
const RELINK: &str = r#"relink() { # ARCHIVE IMAGE
link "$1"
offsets &
beside=$!
stripped
compress
wrap "$2"
}
"#;

/// The place is found by what is in it. Archives are padded with NUL, which the kernel skips.
const SLOT: &str = r#"link_slot() { # BYTES FOLDER
mark=mosbuild-reserves-this-for-an-archive
{ printf %s $mark; head -c $(($1 - ${#mark})) /dev/zero; } > /tmp/slot
link /tmp/slot
offsets
stripped
places=$(grep -abo $mark $slot_bin | cut -d: -f1)
case $places in
*[!0-9]* | '')
  echo "the slot is not once in $slot_bin but at: $places" >&2
  exit 1
  ;;
esac
mkdir -p "$2"
cp --parents $slot_files "$2"
echo "$places $1" > "$2/slot"
}
relink_slot() { # FOLDER ARCHIVE IMAGE
cp -rsf "$1/arch" .
read -r place reserved < "$1/slot"
archive=$2
size=$(stat -Lc %s "$archive")
if [ "$size" -gt "$reserved" ]; then
  echo "the initramfs has $size bytes, and slot is $reserved: raise it" >&2
  exit 1
fi
payload() {
  head -c "$place" $slot_bin
  cat "$archive"
  head -c $((reserved - size)) /dev/zero
  tail -c +$((place + reserved + 1)) $slot_bin
  cat $slot_rest
}
compress
wrap "$3"
}
"#;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Object directory and source, as far as they are looked at.
    #[derive(Clone, Default)]
    struct Fake {
        objects: BTreeMap<String, Vec<u8>>,
        source: BTreeSet<String>,
    }

    impl Compiled for Fake {
        fn object(&self, path: &str) -> Result<Option<Vec<u8>>, StepError> {
            Ok(self.objects.get(path).cloned())
        }

        fn objects_below(&self, folder: &str) -> Vec<String> {
            self.objects.keys().filter(|path| path.starts_with(&format!("{folder}/"))).cloned().collect()
        }

        fn has_object(&self, path: &str) -> bool {
            self.objects.contains_key(path)
        }

        fn has_source(&self, path: &str) -> bool {
            self.source.contains(path)
        }

        fn sources_in(&self, folder: &str) -> Vec<String> {
            let below = self.source.iter().filter_map(|path| path.strip_prefix(&format!("{folder}/")));
            below.filter(|rest| !rest.contains('/')).map(|rest| format!("{folder}/{rest}")).collect()
        }
    }

    impl Fake {
        fn saved(&mut self, target: &str, command: &str, reads: &[&str]) {
            let reads = reads.iter().map(|read| (*read).to_owned()).collect();
            let saved = SavedCommand { target: target.into(), command: command.into(), reads };
            self.objects.insert(cmd_path(&normal(target)), saved.to_text().into_bytes());
        }
    }

    /// Shortened from what 6.12 leaves.
    fn kernel(packed: &str, pack: &str) -> Fake {
        let mut fake = Fake::default();
        fake.saved("vmlinux", "/src/linux/scripts/link-vmlinux.sh \"ld\" \"-m elf\" \"-z max\";  make -f /src/linux/arch/x86/Makefile.postlink vmlinux", &[]);
        fake.saved("vmlinux.o", "ld -r -o vmlinux.o --whole-archive vmlinux.a --no-whole-archive --start-group lib/lib.a --end-group", &[]);
        fake.saved(DATA, "gcc -Wp,-MMD,usr/.initramfs_data.o.d -I./include -DKBUILD_MODFILE='\"usr/initramfs_data\"' -m64 -c -o usr/initramfs_data.o /src/linux/usr/initramfs_data.S ; ./tools/objtool/objtool usr/initramfs_data.o", &["/src/linux/usr/initramfs_data.S", "./include/generated/x.h", "/usr/lib/gcc/stdarg.h"]);
        fake.saved(
            &format!("{INNER}/../voffset.h"),
            "nm vmlinux > arch/x86/boot/compressed/../voffset.h",
            &[],
        );
        fake.saved(
            &format!("{INNER}/misc.o"),
            "gcc -c misc.c",
            &["/src/linux/arch/x86/boot/compressed/misc.c", "arch/x86/boot/compressed/../voffset.h"],
        );
        fake.saved(
            &format!("{INNER}/string.o"),
            "gcc -c string.c",
            &["/src/linux/arch/x86/boot/compressed/string.c"],
        );
        fake.saved(
            &format!("{INNER}/vmlinux.bin"),
            "objcopy -S vmlinux arch/x86/boot/compressed/vmlinux.bin",
            &[],
        );
        fake.saved(packed, pack, &[]);
        fake.saved(&format!("{INNER}/piggy.S"), &format!("mkpiggy {packed} > {INNER}/piggy.S"), &[]);
        fake.saved(&format!("{INNER}/piggy.o"), "gcc -c piggy.S", &[]);
        fake.saved(&format!("{INNER}/vmlinux"), "ld -T vmlinux.lds misc.o libstub/lib.a -o vmlinux", &[]);
        for name in ["zoffset.h", "setup.elf", "setup.bin", "vmlinux.bin", "bzImage"] {
            fake.saved(&format!("{BOOT}/{name}"), &format!("true {name}"), &[]);
        }
        fake.saved(
            &format!("{BOOT}/header.o"),
            "gcc -c header.S",
            &["/src/linux/arch/x86/boot/header.S", "arch/x86/boot/zoffset.h"],
        );
        let thin = b"!<thin>\n//                                              36        `\ninit/main.o/\nusr/initramfs_data.o/\n\n\n/0              0           0     0     644     1234      `\n/13             0           0     0     644     12        `\n";
        fake.objects.insert("vmlinux.a".into(), thin.to_vec());
        let other =
            ["lib/lib.a", "libstub/lib.a", "init/main.o", "include/generated/x.h", AUTOCONF, LINKER_SCRIPT];
        for path in other.into_iter().chain([
            "init/version-timestamp.o",
            "arch/x86/boot/voffset.h",
            "drivers/other.o",
        ]) {
            fake.objects.insert(path.into(), b"x".to_vec());
        }
        fake.objects.insert("include/config/auto.conf".into(), b"CONFIG_MODULES=y\n".to_vec());
        let files = [
            "usr/initramfs_data.S",
            "arch/x86/boot/compressed/misc.c",
            "arch/x86/boot/header.S",
            "scripts/link-vmlinux.sh",
            "scripts/basic/fixdep.c",
            "drivers/other.c",
        ];
        fake.source = files.map(str::to_owned).into();
        fake
    }

    fn gzip() -> Fake {
        let packed = format!("{INNER}/vmlinux.bin.gz");
        kernel(&packed, &format!("cat {INNER}/vmlinux.bin {INNER}/vmlinux.relocs | gzip -n -f -9 > {packed}"))
    }

    fn refusal(fake: &Fake) -> String {
        match plan(fake) {
            Err(Refused::Unknown(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_link_takes_and_no_more() {
        let relink = plan(&gzip()).unwrap();
        for path in
            ["vmlinux.a", "init/main.o", "lib/lib.a", "libstub/lib.a", "include/generated/x.h", AUTOCONF]
        {
            assert!(relink.objects.contains(path), "{path}: {:?}", relink.objects);
        }
        assert!(!relink.objects.contains("drivers/other.o") && !relink.objects.contains(DATA));
        assert!(relink.objects.iter().all(|path| !path.ends_with(".cmd")));
        let source: Vec<&str> = relink.source.iter().map(String::as_str).collect();
        assert_eq!(
            source,
            [
                "arch/x86/boot/compressed/misc.c",
                "arch/x86/boot/header.S",
                "scripts/link-vmlinux.sh",
                "usr/initramfs_data.S"
            ]
        );
        assert!(relink.script.contains("LINUXINCLUDE='-I./include -m64'"), "{}", relink.script);
        assert!(relink.script.contains("gcc -c misc.c") && !relink.script.contains("gcc -c string.c"));
        let checked = std::process::Command::new("sh").args(["-n", "-c", &relink.script]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    #[test]
    fn levels_are_those_of_the_program() {
        for (program, levelled_as) in [
            ("gzip -n -f -9", Some(("gzip -n -f -$LEVEL", 9))),
            ("zstd -22 --ultra", Some(("zstd -$LEVEL --ultra", 22))),
            ("lz4 -l -9 - -", Some(("lz4 -l -$LEVEL - -", 12))),
            ("xz --foo", None),
            ("gzip", None),
        ] {
            let expected = levelled_as.map(|(text, highest)| (text.to_owned(), highest));
            assert_eq!(levelled(program), expected, "{program}");
        }
        assert!(levelled("sh /src/linux/scripts/xz_wrap.sh").unwrap().0.contains("preset=$LEVEL"));
    }

    #[test]
    fn what_is_not_known_is_left_to_make() {
        let mut fake = gzip();
        fake.objects.remove(&cmd_path("vmlinux"));
        assert_eq!(refusal(&fake), "there is no .vmlinux.cmd");
        let mut fake = gzip();
        fake.saved("vmlinux", "clang -o vmlinux", &[]);
        assert_eq!(refusal(&fake), "vmlinux is not linked by link-vmlinux.sh: clang -o vmlinux");
        let mut fake = gzip();
        fake.objects.remove("init/main.o");
        assert_eq!(refusal(&fake), "there is no init/main.o, which vmlinux.a lists");
        let mut fake = gzip();
        fake.objects.insert("include/config/auto.conf".into(), b"CONFIG_LTO_CLANG=y\n".to_vec());
        assert_eq!(refusal(&fake), "it is linked by clang's LTO");
        let packed = format!("{INNER}/vmlinux.bin.xz");
        assert_eq!(refusal(&kernel(&packed, "xz -9 x")), format!("{packed}: xz -9 x"));
        let mut fake = gzip();
        fake.source.remove("arch/x86/boot/header.S");
        assert_eq!(refusal(&fake), "the source has no arch/x86/boot/header.S");
    }
}
