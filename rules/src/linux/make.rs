//! How a kernel is configured, compiled and relinked: the scripts, their environment and paths.
//! Knows kbuild; knows neither fields nor targets.
//!
//! Source and objects are at one path each in every step, since kbuild writes absolute paths into its objects: a
//! moved tree is compiled again as a whole. The same programs are on PATH in every step, since Kconfig probes them.
//! Everything that is restored has one modification time, and make takes what is not older than its source as
//! done. So the objects leave the compile step without what would make it think otherwise: objtool's dependency
//! files name headers of the host, which are newer, and the copied archive is as old as the one that replaces it.

use std::collections::BTreeMap;

use mosbuild_engine::action::{Command, CommandOutput, EnvVar, OutKind};

use crate::arch::Arch;

/// The kernel's source, read-only.
pub const SOURCE: &str = "/src/linux";
/// Kbuild's object directory, in `$OUT`.
pub const OBJECTS: &str = "/build/out/objects";
/// The archive inside of the kernel, in the working directory. Kbuild copies a file as it stands, whatever its
/// format, if its path has `.cpio.` in it once.
pub const INITRAMFS: &str = "/build/work/initramfs.cpio.img";
/// The full configuration that a `config:` field names.
pub const BASE_CONFIG: &str = "/config/base.config";
/// The resulting configuration.
pub const CONFIG: &str = "/config/kernel.config";

/// Shell functions of the last link.
pub const FUNCTIONS: &str = "/config/relink.sh";
/// The image that make linked when it compiled.
pub const IMAGE: &str = "/config/image";
/// A kernel linked with a slot.
pub const LINKED: &str = "/build/linked";

/// Programs of every step beside the Essential ones and a toolchain, and the library of objtool, which x86_64 always
/// builds, and of what BTF needs.
const TOOLS: [&str; 6] = ["awk", "bc", "bison", "flex", "libelf-dev", "make"];
/// The toolchain: the host's, which kbuild's own programs are made with, and that of the kernel's architecture.
const TOOLCHAIN: [&str; 9] = ["ar", "as", "gcc", "ld", "nm", "objcopy", "objdump", "readelf", "strip"];

/// What kbuild makes of vmlinux on an architecture.
struct Boot {
    /// Where it is in the objects.
    folder: &'static str,
    /// Names the image, which is the make target and the file, in the folder of .config.
    image: &'static str,
    /// What a relink makes anew in any case.
    anew: &'static [&'static str],
}

impl Boot {
    fn of(arch: &Arch) -> Boot {
        match arch.folder {
            "arm64" => Boot {
                folder: "arch/arm64/boot",
                // Image.gz would be no EFI program, and boot loaders unpack it or not.
                image: "image=Image\nif grep -q '^CONFIG_EFI_ZBOOT=y' .config; then image=vmlinuz.efi; fi",
                anew: &["Image", "vmlinux.bin", "vmlinuz", "vmlinuz.o", "vmlinuz.efi.elf"],
            },
            _ => Boot {
                folder: "arch/x86/boot",
                image: "image=bzImage",
                anew: &[
                    "vmlinux.bin",
                    "compressed/vmlinux",
                    "compressed/vmlinux.bin*",
                    "compressed/vmlinux.relocs",
                    "compressed/piggy.*",
                ],
            },
        }
    }
}

/// What decides how make is called: the same in all steps of a kernel.
pub struct Kbuild<'a> {
    /// What the kernel runs on; where that is not this host, Debian's cross toolchain is used.
    pub arch: &'static Arch,
    /// SOURCE_DATE_EPOCH, which becomes the build's date.
    pub epoch: u64,
    /// Further programs.
    pub tools: &'a [String],
}

/// Where a configuration starts.
pub enum Base<'a> {
    /// A make target: `tinyconfig`.
    Target(&'a str),
    /// The file at [`BASE_CONFIG`].
    File,
}

impl Kbuild<'_> {
    /// Makes .config out of a base and the fragments at these paths. Outputs `config` and `release`.
    pub fn configure(&self, base: &Base<'_>, fragments: Vec<String>, localversion: Option<&str>) -> Command {
        let base = match base {
            Base::Target(target) => format!("kmake -s {target}"),
            Base::File => format!("cat {BASE_CONFIG} > .config"),
        };
        let localversion = match localversion {
            Some(text) => format!("echo 'CONFIG_LOCALVERSION=\"{text}\"'\n"),
            None => String::new(),
        };
        // The release is read from what syncconfig writes: asked for before, it lacks the localversion.
        let script = format!(
            r#"{kmake}
mkdir -p {OBJECTS}
cd {OBJECTS}
{base}
{{
for fragment; do cat "$fragment"; echo; done
{localversion}echo '# CONFIG_LOCALVERSION_AUTO is not set'
echo 'CONFIG_INITRAMFS_SOURCE="{INITRAMFS}"'
}} >> .config
kmake -s olddefconfig
kmake -s syncconfig
kmake -s kernelrelease > "$OUT/release"
cp .config "$OUT/config"
if grep -q '^CONFIG_OBJTOOL=y' .config && ! echo '#include <gelf.h>' | gcc -E - > /dev/null 2>&1; then
  echo "gelf.h is missing, which the kernel's objtool needs: apt-get install libelf-dev" >&2
  exit 1
fi
"#,
            kmake = self.kmake(),
        );
        let outputs = vec![file("config", "config"), file("release", "release")];
        let facts = BTreeMap::from([("version".to_owned(), "release".to_owned())]);
        Command { argv: fragments, script: Some(script), outputs, facts, ..self.command() }
    }

    /// Compiles everything by the configuration at [`CONFIG`], with an empty archive inside.
    pub fn compile(&self) -> Command {
        let Boot { folder, image, anew } = Boot::of(self.arch);
        let anew = anew.join(" ");
        let script = format!(
            r#"{kmake}
{same}
mkdir -p {OBJECTS} "$OUT/modules/lib/modules"
cp {CONFIG} {OBJECTS}/.config
: > {INITRAMFS}
cd {OBJECTS}
{image}
if grep -q '^CONFIG_MODULES=y' .config; then
  kmake $image modules
  same
  kmake modules_install INSTALL_MOD_PATH="$OUT/modules" DEPMOD=true
  rm -f "$OUT"/modules/lib/modules/*/build "$OUT"/modules/lib/modules/*/source
else
  kmake $image
  same
  modules=$OUT/modules/lib/modules/$(cat include/config/kernel.release)
  mkdir "$modules"
  : > "$modules/modules.order"
  for list in modules.builtin modules.builtin.modinfo; do
    if [ -e $list ]; then cp $list "$modules/"; fi
  done
fi
mv {folder}/$image "$OUT/bzImage"
cp System.map "$OUT/System.map"
# What a relink makes anew in any case, and modules, which it never makes.
rm -f vmlinux.o .tmp_vmlinux* .config.old
(cd {folder} && rm -f {anew})
find . -name '*.ko' -delete
# What would mislead make once all files have one modification time.
rm -f usr/initramfs_inc_data usr/.initramfs_inc_data.cmd
find . \( -name '.*.cmd' -o -name '.*.d' \) -exec sed -i '\#^  */usr/#d' {{}} +
"#,
            kmake = self.kmake(),
            same = SAME_CONFIG,
        );
        let outputs = vec![
            file("bzImage", "bzImage"),
            tree("modules", "modules"),
            tree("objects", "objects"),
            file("system_map", "System.map"),
        ];
        Command { script: Some(script), outputs, ..self.command() }
    }

    /// The functions of [`super::relink`], of make alone: for kernels whose last link is not known here. They need all
    /// objects and the whole source.
    pub fn by_make(&self) -> String {
        let Boot { folder, image, .. } = Boot::of(self.arch);
        format!(
            r#"{kmake}
{same}
relink() {{
if [ -n "${{LEVEL:-}}" ]; then
  echo 'the last link of this kernel is left to make, which takes no level: leave `level` out' >&2
  exit 1
fi
cd {OBJECTS}
{image}
kmake $image
same
cp {folder}/$image "$2"
}}
link_slot() {{
echo 'the last link of this kernel is left to make, which knows no slot: leave `slot` out' >&2
exit 1
}}
"#,
            kmake = self.kmake(),
            same = SAME_CONFIG,
        )
    }

    /// Tries the functions at [`FUNCTIONS`] with an empty archive, which is what `compile` linked. Output `verdict`:
    /// empty if they make the same image as the one at [`IMAGE`], else why not. Output `samples`: objects for
    /// [`super::relink::offsets`], none where they could not be compiled.
    pub fn rehearse(&self) -> Command {
        let script = format!(
            r#": > {INITRAMFS}
mkdir "$OUT/samples"
if grep -q '^kmake()' {FUNCTIONS}; then
  : > "$OUT/verdict"
elif sh -euc '. {FUNCTIONS}; relink {INITRAMFS} "$OUT/image"'; then
  if cmp "$OUT/image" {IMAGE} > "$OUT/verdict" 2>&1; then
    : > "$OUT/verdict"
    sh -euc '. {FUNCTIONS}; offset_samples "$OUT/samples"' || rm -r "$OUT/samples"/*
  fi
  rm "$OUT/image"
else
  echo 'a command failed' > "$OUT/verdict"
fi
cat "$OUT/verdict"
"#
        );
        let outputs = vec![file("verdict", "verdict"), tree("samples", "samples")];
        Command { script: Some(script), outputs, ..self.command() }
    }

    /// Links the objects at [`OBJECTS`] with the archive at [`INITRAMFS`], by the functions at [`FUNCTIONS`]. Output
    /// `bzImage`.
    pub fn relink(&self, level: Option<u32>) -> Command {
        let call = format!("relink {INITRAMFS} \"$OUT/bzImage\"\n");
        self.linking(level, &call, file("bzImage", "bzImage"))
    }

    /// As [`Kbuild::relink`], by make, whatever the functions do.
    pub fn relink_by_make(&self) -> Command {
        let script = format!("{}relink {INITRAMFS} \"$OUT/bzImage\"\n", self.by_make());
        Command { script: Some(script), outputs: vec![file("bzImage", "bzImage")], ..self.command() }
    }

    /// Links with a slot of so many bytes. Output `linked`.
    pub fn link_slot(&self, bytes: u64) -> Command {
        self.linking(None, &format!("link_slot {bytes} \"$OUT/linked\"\n"), tree("linked", "linked"))
    }

    /// Puts the archive into the slot of what is at [`LINKED`], and wraps it. Output `bzImage`.
    pub fn relink_slot(&self, level: Option<u32>) -> Command {
        let call = format!("relink_slot {LINKED} {INITRAMFS} \"$OUT/bzImage\"\n");
        self.linking(level, &call, file("bzImage", "bzImage"))
    }

    fn linking(&self, level: Option<u32>, call: &str, output: CommandOutput) -> Command {
        let level = level.map(|level| format!("LEVEL={level}\n")).unwrap_or_default();
        let script = format!("{level}. {FUNCTIONS}\n{call}");
        Command { script: Some(script), outputs: vec![output], ..self.command() }
    }

    /// LOCALVERSION is set on the command line, and empty: else setlocalversion may append a `+`.
    fn kmake(&self) -> String {
        let cross = match self.prefix() {
            Some(prefix) => format!(" CROSS_COMPILE={prefix}"),
            None => String::new(),
        };
        format!(
            "kmake() {{ make --no-print-directory -C {SOURCE} O={OBJECTS} ARCH={}{cross} LOCALVERSION= \"$@\"; }}",
            self.arch.kbuild
        )
    }

    /// What the names of a cross toolchain begin with, where one is needed.
    fn prefix(&self) -> Option<String> {
        (!self.arch.is_host()).then(|| format!("{}-", self.arch.gnu))
    }

    fn command(&self) -> Command {
        let env = [
            ("KBUILD_BUILD_TIMESTAMP", date(self.epoch)),
            ("KBUILD_BUILD_USER", "mosbuild".into()),
            ("KBUILD_BUILD_HOST", "mosbuild".into()),
            ("KBUILD_BUILD_VERSION", "1".into()),
            ("KCONFIG_NOTIMESTAMP", "1".into()),
        ];
        let mut tools: Vec<String> = TOOLS.iter().chain(&TOOLCHAIN).map(|t| (*t).to_owned()).collect();
        if let Some(prefix) = self.prefix() {
            tools.extend(TOOLCHAIN.iter().map(|tool| format!("{prefix}{tool}")));
        }
        tools.extend(self.tools.iter().cloned());
        tools.sort_unstable();
        tools.dedup();
        Command {
            env: env.into_iter().map(|(k, v)| (k.to_owned(), EnvVar::Value(v))).collect(),
            tools,
            jobserver: true,
            ..Command::default()
        }
    }
}

/// Another .config than the one given would mean another kernel than the one checked, all compiled anew.
const SAME_CONFIG: &str = r#"same() {
  if ! cmp -s .config /config/kernel.config; then
    echo "make changed the configuration, so it sees other programs than the step that made it:" >&2
    diff /config/kernel.config .config >&2
    exit 1
  fi
}"#;

fn file(name: &str, path: &str) -> CommandOutput {
    CommandOutput { name: name.into(), path: path.into(), kind: OutKind::File }
}

fn tree(name: &str, path: &str) -> CommandOutput {
    CommandOutput { name: name.into(), path: path.into(), kind: OutKind::Tree }
}

/// As `date -u` writes it in the C locale.
fn date(epoch: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (epoch / 86_400, epoch % 86_400);
    // Years counted from March, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12;
    let year = era * 400 + year + u64::from(month < 2);
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} UTC {year}",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_date() {
        for epoch in [0, 951_782_399, 951_782_400, 1_078_012_800, 1_735_689_600, 1_798_761_599, 4_107_542_400]
        {
            let out = std::process::Command::new("date")
                .args(["-u", &format!("--date=@{epoch}"), "+%a %b %e %H:%M:%S UTC %Y"])
                .env("LC_ALL", "C")
                .output()
                .unwrap();
            assert_eq!(date(epoch), String::from_utf8_lossy(&out.stdout).trim_end());
        }
    }

    #[test]
    fn scripts_are_shell() {
        for (name, make) in [("x86_64", "ARCH=x86_64 "), ("aarch64", "ARCH=arm64 ")] {
            let arch = Arch::named(name).unwrap();
            let kbuild = Kbuild { arch, epoch: 1_735_689_600, tools: &["xz".to_owned()] };
            let configure =
                kbuild.configure(&Base::Target("tinyconfig"), vec!["/config/a".into()], Some("-x"));
            let relinks = [
                kbuild.rehearse(),
                kbuild.relink_by_make(),
                kbuild.relink(Some(3)),
                kbuild.link_slot(1 << 20),
                kbuild.relink_slot(None),
            ];
            for command in [configure, kbuild.compile()].into_iter().chain(relinks) {
                let script = command.script.unwrap();
                let checked = std::process::Command::new("sh").args(["-n", "-c", &script]).output().unwrap();
                assert!(checked.status.success(), "{}\n{script}", String::from_utf8_lossy(&checked.stderr));
                assert!(command.tools.contains(&"xz".to_owned()) && command.jobserver);
                // What would else be the builder's, the clock's or the counter's.
                for knob in ["TIMESTAMP", "USER", "HOST", "VERSION"] {
                    assert!(command.env.contains_key(&format!("KBUILD_BUILD_{knob}")), "{knob}");
                }
                assert!(command.env.contains_key("KCONFIG_NOTIMESTAMP"));
                // The host's own compiler is needed in any case, a cross compiler only for another architecture.
                let cross = format!("{}-gcc", arch.gnu);
                assert!(command.tools.contains(&"gcc".to_owned()));
                assert_eq!(command.tools.contains(&cross), !arch.is_host());
                if script.starts_with("kmake()") {
                    assert!(script.contains(make));
                    assert!(script.contains(" LOCALVERSION= "), "{script}");
                    assert_eq!(script.contains("CROSS_COMPILE="), !arch.is_host());
                }
            }
            let checked =
                std::process::Command::new("sh").args(["-n", "-c", &kbuild.by_make()]).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}
