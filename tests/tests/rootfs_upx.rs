//! `upx` from outside: what it packs and what it leaves, that the effect is measured and a loss is warned of, and that
//! each program is packed once.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mosbuild_tests::archive::{content, members};
use mosbuild_tests::{Output, Space, alpine::not_run, need};

const YAML: &str = r#"targets:
  programs:
    rule: command
    inputs: [small.c, large.c]
    tools: [gcc]
    run: |
      gcc -static -O2 -o "$OUT/large" large.c
      gcc -shared -fPIC -Wl,-soname,libx.so -o "$OUT/libx.so" large.c -nostartfiles
      gcc -o "$OUT/small" small.c
      cp "$OUT/large" "$OUT/odd"
      printf 'an archive behind the program' >> "$OUT/odd"
    outputs: [large, libx.so, small, odd]
  system:
    rule: files
    install:
      - { from: "programs:large", to: /usr/bin/large, mode: "0755" }
      - { from: "programs:large", to: /usr/bin/setuid, mode: "4755" }
      - { from: "programs:large", to: /usr/share/data, mode: "0644" }
      - { from: "programs:small", to: /usr/bin/small, mode: "0755" }
      - { from: "programs:libx.so", to: /usr/lib/libx.so, mode: "0755" }
      - { from: script, to: /usr/bin/script, mode: "0755" }
  rootfs: { rule: rootfs, layers: system, strip: true, upx: true }
  some: { rule: rootfs, layers: system, strip: true, upx: /nowhere/* }
  without: { rule: rootfs, layers: system, strip: true, upx: false }
dist: { rootfs.tar: rootfs, without.tar: without, some.tar: some }
"#;

/// Whether upx is here: Debian 12 has it in its backports only, and a host may have none.
fn has_upx() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("upx").is_file());
    if !found {
        not_run("upx is not here, and scripts/setup could not install it");
    }
    found
}

fn fill(space: &Space, text: &str) {
    space.write("small.c", "int main(void) { return 0; }\n");
    space.write("large.c", format!("#include <stdio.h>\nint main(void) {{ puts(\"{text}\"); return 0; }}\n"));
    space.write("script", format!("#!/bin/sh\n{}", "# long enough\n".repeat(3000)));
    space.chmod("script", 0o755);
}

fn packed(output: &Output) -> Vec<&str> {
    let of = |e: &&serde_json::Value| e["event"] == "item_finished" && e["work"] == "upx";
    output.events.iter().filter(of).filter_map(|e| e["item"].as_str()).collect()
}

#[test]
fn programs_are_packed_and_the_loss_is_told() {
    if !has_upx() {
        return;
    }
    need("gcc", "gcc");
    let space = Space::new(YAML);
    fill(&space, "first");
    let output = space.builds(&["rootfs", "without", "some"]);
    assert_eq!(packed(&output), ["usr/bin/large"]);
    let (before, after) = (members(&space.path("dist/without.tar")), members(&space.path("dist/rootfs.tar")));
    let size = |of: &std::collections::BTreeMap<String, mosbuild_tests::archive::Entry>, path: &str| {
        of[path].size.parse::<u64>().unwrap()
    };
    assert!(size(&after, "usr/bin/large") * 10 < size(&before, "usr/bin/large") * 6);
    for path in ["usr/bin/setuid", "usr/share/data", "usr/bin/small", "usr/lib/libx.so", "usr/bin/script"] {
        let both = ["dist/without.tar", "dist/rootfs.tar"].map(|archive| content(&space.path(archive), path));
        assert!(both[0] == both[1], "{path} was touched");
    }
    for (path, entry) in &before {
        assert_eq!(entry.mode, after[path].mode, "{path}");
    }
    assert_eq!(space.bytes("dist/some.tar"), space.bytes("dist/without.tar"));
    let program = space.base().join("large");
    std::fs::write(&program, content(&space.path("dist/rootfs.tar"), "usr/bin/large")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Command::new(&program).output().unwrap().stdout, b"first\n");

    // The numbers are those that xz itself gives for the two files, within a percent.
    let log = space.log("rootfs");
    let numbers: Vec<f64> = ["dist/without.tar", "dist/rootfs.tar"]
        .map(|archive| xz(&content(&space.path(archive), "usr/bin/large")))
        .into();
    let line = log.lines().find(|l| l.contains("in the compressed image about")).unwrap();
    let told: Vec<f64> = line.split(' ').filter_map(|w| w.parse().ok()).collect();
    assert!(
        (told[0] * 1024.0 / numbers[1] - 1.0).abs() < 0.01
            && (told[1] * 1024.0 / numbers[0] - 1.0).abs() < 0.01,
        "{line} {numbers:?}"
    );
    assert!(log.contains("upx: 1 programs are packed: ") && log.contains("in memory "), "{log}");
    let loses = numbers[1] > numbers[0];
    let warning = "upx makes the compressed image larger";
    assert_eq!(output.stderr.contains(&format!("warning: rootfs: {warning}")), loses, "{output}");
    assert_eq!(space.run(&["show", "rootfs"]).stdout.contains(warning), loses);

    // Once more, in another tree, on the same store: nothing is packed. Another program is one.
    let beside = space.beside("beside", YAML);
    fill(&beside, "first");
    assert_eq!(packed(&beside.builds(&["rootfs"])), [""; 0]);
    fill(&beside, "second");
    assert_eq!(packed(&beside.builds(&["rootfs"])), ["usr/bin/large"]);
    // And the bytes are upx's own, whoever ran it.
    let plain = Space::new(YAML).as_plain_user();
    fill(&plain, "first");
    plain.builds(&["rootfs"]);
    assert_eq!(plain.bytes("dist/rootfs.tar"), space.bytes("dist/rootfs.tar"));
    plain.assert_clean();
}

/// Bytes under the real xz, with the preset that images have.
fn xz(bytes: &[u8]) -> f64 {
    need("xz", "xz-utils");
    let mut child = Command::new("xz")
        .args(["-6", "--check=crc32", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    output.stdout.len() as f64
}

#[test]
fn what_upx_refuses_is_left_and_named() {
    if !has_upx() {
        return;
    }
    need("gcc", "gcc");
    let space = Space::new(&YAML.replace(
        "      - { from: script,",
        "      - { from: \"programs:odd\", to: /usr/bin/odd, mode: \"0755\" }\n      - { from: packed, to: /usr/bin/packed, mode: \"0755\" }\n      - { from: script,",
    ));
    fill(&space, "first");
    let source = space.base().join("packed.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let whole = space.base().join("whole");
    let gcc = Command::new("gcc").args(["-static", "-o"]).arg(&whole).arg(&source).status().unwrap();
    assert!(gcc.success());
    let to = space.path("packed");
    assert!(Command::new("upx").args(["-qqq", "-o"]).arg(&to).arg(&whole).status().unwrap().success());
    let was = space.bytes("packed");
    space.builds(&["rootfs"]);
    let log = space.log("rootfs");
    assert!(log.contains("upx: left as it is: /usr/bin/packed: it is packed already"), "{log}");
    assert_eq!(content(&space.path("dist/rootfs.tar"), "usr/bin/packed"), was);
    // A program that finds data behind itself would not find it any more.
    for step in ["strip", "upx"] {
        assert!(
            log.contains(&format!("{step}: left as it is: /usr/bin/odd: data is appended to it")),
            "{log}"
        );
    }
    let odd = content(&space.path("dist/rootfs.tar"), "usr/bin/odd");
    assert!(odd.ends_with(b"an archive behind the program"));
}

#[test]
fn a_host_without_upx_is_told_what_to_install() {
    need("unshare", "util-linux");
    let space = Space::new(
        "targets:\n  system: { rule: files, install: [{ dir: /x }] }\n  \
         rootfs: { rule: rootfs, layers: system, upx: true }\n  without: { rule: rootfs, layers: system, upx: false }\n",
    );
    let run = |args: &[&str]| {
        let inner = space.command(args);
        let hide = "if [ -e /usr/bin/upx ]; then mount --bind /dev/null \"$(readlink -f /usr/bin/upx)\"; fi; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-euc", hide, "sh"]).arg(inner.get_program()).args(inner.get_args());
        command.env_clear().current_dir(space.root());
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, text) = run(&["build", "rootfs"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("upx: not found") && text.contains("apt-get install upx-ucl"), "{text}");
    let (code, text) = run(&["doctor", "--json"]);
    assert!(code == Some(3) && text.contains("upx-ucl"), "{text}");
    let (code, text) = run(&["build", "without"]);
    assert_eq!(code, Some(0), "{text}");
}
