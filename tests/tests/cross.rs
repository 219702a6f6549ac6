//! Another architecture than the host's: programs in C and Rust, and packages whose scripts an emulator runs.
//! A kernel for it is built and booted by scripts/test-cross.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::alpine::{Alpine, Stand, not_run, own_key};
use mosbuild_tests::apks::{Apk, Hash, write_repository};
use mosbuild_tests::archive::{members, text};
use mosbuild_tests::{Space, need};

/// The architecture that is not this host's, and its number in ELF.
const OTHER: (&str, u16) = if cfg!(target_arch = "aarch64") { ("x86_64", 62) } else { ("aarch64", 183) };
/// How Debian registers the emulator.
const BINFMT: &str = "/usr/lib/binfmt.d/qemu-aarch64.conf";

const C: &str = r#"
#include <stdio.h>
#include <sys/utsname.h>
int main(void) {
    struct utsname self;
    uname(&self);
    printf("hello from %s\n", self.machine);
    return 0;
}
"#;

/// A file out of a placed tree.
fn placed(space: &Space, tree: &str, path: &str) -> PathBuf {
    let dir = space.base().join("placed");
    std::fs::create_dir_all(&dir).unwrap();
    let tar = Command::new("tar").arg("-C").arg(&dir).arg("-xf").arg(space.path(tree)).status();
    assert!(tar.unwrap().success());
    dir.join(path)
}

fn machine(program: &Path) -> u16 {
    let bytes = std::fs::read(program).unwrap();
    assert_eq!(&bytes[..4], b"\x7fELF", "{}", program.display());
    u16::from_le_bytes([bytes[18], bytes[19]])
}

/// What a program of the other architecture prints.
fn emulated(program: &Path) -> String {
    let emulator = format!("qemu-{}-static", OTHER.0);
    need(&emulator, "qemu-user-static");
    let output = Command::new(emulator).arg(program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_build_script_gets_the_compiler_of_its_target() {
    let (other, number) = OTHER;
    let own = std::env::consts::ARCH;
    need(&format!("{other}-linux-gnu-gcc"), &format!("gcc-{}-linux-gnu", other.replace('_', "-")));
    let script = "'echo \"$ARCH $TARGET $CC $CROSS_COMPILE\" > \"$OUT/told\"; \"$CC\" -static -o \"$OUT/app\" app.c; \
                  \"${CROSS_COMPILE}strip\" \"$OUT/app\"'";
    let component = |target: &str, fields: &str| {
        format!(
            "  {target}: {{ rule: component, source: {{ path: app }}, build: {script}, \
             install: {{ app: /bin/app, told: /told }}{fields} }}\n"
        )
    };
    let yaml = format!(
        "vars: {{ arch: {other} }}\ntargets:\n{}{}{}",
        component("of_workspace", ""),
        component("glibc", &format!(", target: {other}-unknown-linux-gnu")),
        component("here", &format!(", target: {own}-unknown-linux-gnu, env: {{ CC: gcc }}")),
    );
    let space = Space::new(&yaml);
    space.write("app/app.c", C);
    space.builds(&["of_workspace", "glibc", "here"]).counts(3, 0, 0);
    for (target, triple) in [("of_workspace", "musl"), ("glibc", "gnu")] {
        let tree = format!("dist/{target}.tar");
        assert_eq!(
            text(&space.path(&tree), "told"),
            format!("{other} {other}-unknown-linux-{triple} {other}-linux-gnu-gcc {other}-linux-gnu-\n")
        );
        let program = placed(&space, &tree, "bin/app");
        assert_eq!(machine(&program), number);
        assert_eq!(emulated(&program), format!("hello from {other}\n"));
    }
    assert_eq!(text(&space.path("dist/here.tar"), "told"), format!("{own} {own}-unknown-linux-gnu gcc \n"));
    let said = Command::new(placed(&space, "dist/here.tar", "bin/app")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), format!("hello from {own}\n"));
}

#[test]
fn a_rust_program_with_a_build_script() {
    let (other, number) = OTHER;
    need("rustc", "rustc");
    let target = format!("{other}-unknown-linux-musl");
    let rustc =
        Command::new("rustc").args(["--print", "target-libdir", "--target", &target]).output().unwrap();
    if !Path::new(String::from_utf8_lossy(&rustc.stdout).trim()).is_dir() {
        not_run(&format!("the Rust target {target} is not installed: rustup target add {target}"));
        return;
    }
    let space = Space::new(&format!(
        "vars: {{ arch: {other} }}\ntargets:\n  hello: {{ rule: component, source: {{ path: hello }}, install: {{ hello: /bin/hello }} }}\n"
    ))
    .with_rust();
    let repository = mosbuild_tests::repository().join("tests/cross/hello");
    for file in ["Cargo.toml", "Cargo.lock", "build.rs", "src/main.rs"] {
        space.write(&format!("hello/{file}"), std::fs::read(repository.join(file)).unwrap());
    }
    space.builds(&["hello"]).counts(1, 0, 0);
    let program = placed(&space, "dist/hello.tar", "bin/hello");
    assert_eq!(machine(&program), number);
    let own = std::env::consts::ARCH;
    assert_eq!(emulated(&program), format!("MOSBUILD-CROSS-RUST {other} built on {own}\n"));
    // The bytes are the same in another folder and with another store.
    let again = space.beside("elsewhere", "").with_store("another");
    again.write("mosbuild.yaml", space.read("mosbuild.yaml"));
    for file in ["Cargo.toml", "Cargo.lock", "build.rs", "src/main.rs"] {
        again.write(&format!("hello/{file}"), space.bytes(&format!("hello/{file}")));
    }
    again.builds(&["hello"]).counts(1, 0, 0);
    assert!(again.bytes("dist/hello.tar") == space.bytes("dist/hello.tar"));
}

/// In place of busybox: writes down that it ran, and gives the file away.
const SHELL: &str = r#"
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>
int main(int count, char **words) {
    struct utsname self;
    uname(&self);
    FILE *file = fopen("/etc/ran", "a");
    if (!file)
        return 1;
    fprintf(file, "%s %s %s\n", self.machine, words[0], count > 1 ? words[1] : "");
    fclose(file);
    return chown("/etc/ran", 123, 101);
}
"#;

/// A script that starts mosbuild where the kernel hands programs of aarch64 to the emulator; `None` where it cannot:
/// a registration of one's own takes Linux 6.7, any other takes root and would be one for the whole host.
fn with_binfmt(space: &Space) -> Option<PathBuf> {
    need("qemu-aarch64-static", "qemu-user-static");
    let script = space.base().join("with-binfmt");
    let program = mosbuild_tests::program();
    let register =
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc; cat \"$0\" > /proc/sys/fs/binfmt_misc/register";
    let text = format!(
        "#!/bin/sh\nexec unshare -Urm sh -euc '{register}; exec \"$@\"' {BINFMT} \"{}\" \"$@\"\n",
        program.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let tried = Command::new(&script).arg("version").output().unwrap();
    if tried.status.success() {
        return Some(script);
    }
    not_run(&format!(
        "no emulator can be registered in a user namespace here: {}",
        String::from_utf8_lossy(&tried.stderr).trim()
    ));
    None
}

/// A miniroot of aarch64 by its release, and packages whose scripts are run once an emulator is registered.
#[test]
fn scripts_of_packages_run_where_an_emulator_is_registered() {
    if OTHER.0 != "aarch64" {
        return not_run("this host is aarch64 itself");
    }
    need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu");
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["mos-a"]);
        let mut space = stand.beside("other");
        let base = space.base().join("foreign");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::write(base.join("shell.c"), SHELL).unwrap();
        let releases = stand.mirror.dir().join(format!("alpine/{}/releases/aarch64", alpine.branch));
        std::fs::create_dir_all(&releases).unwrap();
        // The miniroot of this host, said to be one of aarch64, and with a shell that is.
        let script = "mkdir root; tar -C root --no-same-owner -xpf \"$1\"; echo aarch64 > root/etc/apk/arch; \
                      sed -i 's/x86_64/aarch64/' root/lib/apk/db/installed; \
                      aarch64-linux-gnu-gcc -static -o root/bin/busybox shell.c; \
                      tar -C root --owner=0 --group=0 -czf \"$2\" .";
        let made = Command::new("sh")
            .args(["-euc", script, "sh"])
            .arg(stand.mirror.dir().join(alpine.release_file("")))
            .arg(releases.join(format!("alpine-minirootfs-{}-aarch64.tar.gz", alpine.release)))
            .current_dir(&base)
            .status();
        assert!(made.unwrap().success());
        let package = Apk::new("mos-a", "1-r0").arch("aarch64").file("etc/mos", "x");
        let package = package.script("post-install", "#!/bin/sh\n:\n").build(own_key(), Hash::Sha1);
        for repository in ["main", "community"] {
            let dir = stand.mirror.dir().join(format!("alpine/{}/{repository}", alpine.branch));
            write_repository(&dir, std::slice::from_ref(&package), own_key(), Hash::Sha1);
        }
        space.edit_yaml("arch: x86_64", "arch: aarch64");
        space.edit_yaml(&format!("\"{}\"", alpine.number()), &format!("\"{}\"", alpine.release));

        let global = Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists();
        if !global {
            space.builds(&["packages"]).says("binfmt");
            let tree = members(&space.path("dist/packages.tar"));
            assert!(tree.contains_key("etc/mos") && !tree.contains_key("etc/ran"));
        }
        let Some(script) = with_binfmt(&space) else { return };
        space = space.through(script);
        let output = space.builds(&["packages"]);
        assert!(!output.stderr.contains("binfmt"), "{output}");
        let tar = space.path("dist/packages.tar");
        let ran = text(&tar, "etc/ran");
        // apk 2 gives the script's path, apk 3 a descriptor of it.
        assert!(ran.starts_with("aarch64 /bin/sh ") && ran.lines().count() == 1, "{ran}");
        assert_eq!(members(&tar)["etc/ran"].owner, "123/101");
        space.builds(&["packages"]).counts(0, 2, 0);
    }
}
