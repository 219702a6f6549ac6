//! What the last link takes of a kernel that is written out here, and what is left to make. Knows no real kernel: those
//! are linked by scripts/test-quickstart and scripts/relink-matrix.

use std::collections::BTreeMap;

use super::script::levelled;
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
    fake.saved(
        "vmlinux.o",
        "ld -r -o vmlinux.o --whole-archive vmlinux.a --no-whole-archive --start-group lib/lib.a --end-group",
        &[],
    );
    fake.saved(DATA, "gcc -Wp,-MMD,usr/.initramfs_data.o.d -I./include -DKBUILD_MODFILE='\"usr/initramfs_data\"' -m64 -c -o usr/initramfs_data.o /src/linux/usr/initramfs_data.S ; ./tools/objtool/objtool usr/initramfs_data.o", &["/src/linux/usr/initramfs_data.S", "./include/generated/x.h", "/usr/lib/gcc/stdarg.h"]);
    fake.saved(&format!("{INNER}/../voffset.h"), "nm vmlinux > arch/x86/boot/compressed/../voffset.h", &[]);
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
    let thin = b"!<thin>\n//                                              36        `\ninit/main.o/\nusr/initramfs_data.o/\n\n/0              0           0     0     644     1234      `\n/13             0           0     0     644     12        `\n";
    fake.objects.insert("vmlinux.a".into(), thin.to_vec());
    let other =
        ["lib/lib.a", "libstub/lib.a", "init/main.o", "include/generated/x.h", AUTOCONF, LINKER_SCRIPT];
    for path in
        other.into_iter().chain(["init/version-timestamp.o", "arch/x86/boot/voffset.h", "drivers/other.o"])
    {
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
    for path in ["vmlinux.a", "init/main.o", "lib/lib.a", "libstub/lib.a", "include/generated/x.h", AUTOCONF]
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
    assert_eq!(relink.readers, ["arch/x86/boot/compressed/misc.o"]);
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
