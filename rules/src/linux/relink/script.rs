//! Pieces of the script of a relink: one command, the compression with or without a level, and the functions that are
//! the same for every kernel. Knows shell; which commands a kernel has is told by relink.rs.

use std::fmt::Write;

use mosbuild_formats::saved_cmd::{Compress, SavedCommand};

use super::offsets::{Offsets, SAMPLES};

/// A command as one line of the log and itself.
pub(super) fn step(w: &mut String, what: &str, saved: &SavedCommand) {
    let _ = writeln!(w, "say {what} {}\n{}", saved.target, saved.command);
}

/// `compress`, which reads `payload`. A level may be asked for by LEVEL, in place of the one that the kernel's
/// Makefiles have.
pub(super) fn write_compress(w: &mut String, compress: &Compress, target: &str) {
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
pub(super) fn levelled(program: &str) -> Option<(String, u32)> {
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

pub(super) const SAY: &str = "LEVEL=${LEVEL:-}\nsay() { printf '  %-7s %s\\n' \"$1\" \"$2\"; }\n";

/// The flags are those that kbuild's own Makefile finds.
pub(super) const BTF: &str = r#"PAHOLE=pahole
RESOLVE_BTFIDS=./tools/bpf/resolve_btfids/resolve_btfids
PAHOLE_FLAGS=$(printf '%s\n' 'include include/config/auto.conf' 'include $(srctree)/scripts/Kbuild.include' \
  'include $(srctree)/scripts/Makefile.btf' 'flags:; @echo $(PAHOLE_FLAGS)' | MAKEFLAGS= make -s -f - flags)
export PAHOLE RESOLVE_BTFIDS PAHOLE_FLAGS
"#;

/// What reads the addresses of vmlinux is compiled from the moment that it is linked, beside everything else.
pub(super) const OFFSETS: &str = r#"beside=
begin_offsets() {
if [ -z "$beside" ]; then
  offsets &
  beside=$!
fi
}
end_offsets() {
if [ -n "$beside" ]; then wait "$beside"; fi
}
"#;

/// link-vmlinux.sh as a function, with the arguments that kbuild gives it. Of its steps, those are left out whose result
/// nothing reads here: System.map, which is only compared with kallsyms, and the symbols that only tables of ftrace are
/// sorted by. What it asks make for, init/version-timestamp.o, is there.
pub(super) fn write_linker(w: &mut String, enabled: impl Fn(&str) -> bool) {
    w.push_str("linker() {\nMAKE=:\nsed");
    // Otherwise the file is written again after it was linked.
    if !enabled("DEBUG_INFO_BTF") {
        w.push_str(" -e '/^vmlinux_link vmlinux\\>/a begin_offsets'");
    }
    if !enabled("KALLSYMS") {
        w.push_str(" -e '/^mksysmap vmlinux System\\.map/d'");
    }
    if !enabled("BUILDTIME_MCOUNT_SORT") {
        w.push_str(" -e 's/^\\t[$]{NM} -S [^>]*>/\\t: >/'");
    }
    w.push_str(" \"$srctree/scripts/link-vmlinux.sh\" > /tmp/link-vmlinux.sh\n");
    w.push_str("set +u\n. /tmp/link-vmlinux.sh\nset -u\n}\n");
}

/// Compiles what reads the addresses with those of each sample, in folders 0, 1, …
pub(super) fn write_samples(w: &mut String, header: &str, text: &str, readers: &[String]) {
    w.push_str("offset_samples() { # FOLDER\n");
    if let Some(offsets) = Offsets::parse(text) {
        for n in 0..SAMPLES {
            let _ = writeln!(w, "cat > {header} << 'END'\n{}END\nread_offsets", offsets.sample(n));
            let _ = writeln!(w, "mkdir -p \"$1/{n}\"\ncp --parents {} \"$1/{n}\"", readers.join(" "));
        }
    }
    w.push_str(":\n}\n");
}

pub(super) const RELINK: &str = r#"relink() { # ARCHIVE IMAGE
link "$1"
stripped
compress
wrap "$2"
}
"#;

/// The place is found by what is in it. Archives are padded with NUL, which the kernel skips.
pub(super) const SLOT: &str = r#"link_slot() { # BYTES FOLDER
mark=mosbuild-reserves-this-for-an-archive
{ printf %s $mark; head -c $(($1 - ${#mark})) /dev/zero; } > /tmp/slot
link /tmp/slot
stripped
end_offsets
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
