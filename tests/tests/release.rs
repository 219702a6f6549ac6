//! Prebuilt files out of downloads: what each kind of download gives, and what is refused, from file:// and loopback.

use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::archive::{content, members};
use mosbuild_tests::{Mirror, Space, need};

/// A program without a libc that gcc made: static or not.
fn program(dir: &Path, name: &str, flags: &[&str]) -> PathBuf {
    need("gcc", "gcc");
    let source = dir.join("program.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let at = dir.join(name);
    let run = Command::new("gcc").args(flags).arg("-o").arg(&at).arg(&source).status().unwrap();
    assert!(run.success());
    at
}

/// The same program, as if it were for aarch64.
fn foreign(at: &Path) {
    let mut bytes = std::fs::read(at).unwrap();
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    std::fs::write(at, bytes).unwrap();
}

fn run(dir: &Path, script: &str) {
    let run = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
}

/// A workspace with one release `tool` of a file that `script` makes in a folder with `bin/tool` (a static program),
/// `bin/helper` (a script), `share/doc` and links.
fn space(file: &str, script: &str, fields: &str) -> Space {
    let space = Space::new("");
    let dir = space.base().join("upstream");
    std::fs::create_dir_all(dir.join("tool-1.4/bin")).unwrap();
    std::fs::create_dir_all(dir.join("tool-1.4/share")).unwrap();
    program(&dir.join("tool-1.4/bin"), "tool", &["-static"]);
    std::fs::remove_file(dir.join("tool-1.4/bin/program.c")).unwrap();
    std::fs::write(dir.join("tool-1.4/bin/helper"), "#!/bin/sh\n").unwrap();
    std::fs::write(dir.join("tool-1.4/share/doc"), "read me\n").unwrap();
    std::os::unix::fs::symlink("bin/tool", dir.join("tool-1.4/current")).unwrap();
    run(&dir, script);
    space.yaml(&format!(
        "targets:\n  tool: {{ rule: release, url: \"file://{}/{file}\", {fields} }}\n\
         dist: {{ tool.tar: tool, \"tool-{{tool.version}}.tar\": tool }}\n",
        dir.display()
    ));
    space
}

fn upstream(space: &Space, path: &str) -> Vec<u8> {
    std::fs::read(space.base().join("upstream").join(path)).unwrap()
}

#[test]
fn members_of_every_kind_of_archive() {
    let kinds = [
        ("tool-1.4.tar", "tar -cf tool-1.4.tar tool-1.4"),
        ("tool-1.4.tar.gz", "tar -czf tool-1.4.tar.gz tool-1.4"),
        ("tool-1.4.tar.xz", "tar -cJf tool-1.4.tar.xz tool-1.4"),
        ("tool-1.4.tar.zst", "tar --zstd -cf tool-1.4.tar.zst tool-1.4"),
        ("tool-1.4.zip", "zip -qr --symlinks tool-1.4.zip tool-1.4"),
        // Told by its bytes, not by its name.
        ("tool-1.4.bin", "tar -cJf tool-1.4.bin tool-1.4"),
    ];
    need("zip", "zip");
    for (file, script) in kinds {
        let install = "install: { tool-1.4/bin/tool: /usr/bin/tool, bin/helper: { to: [/usr/bin/helper, /bin/h], mode: \
                       \"0700\" }, doc: { to: /doc, mode: \"0644\" }, current: /usr/bin/current }";
        let space = space(file, script, install);
        space.builds(&[]).counts(1, 0, 0);
        let tar = space.path("dist/tool-1.4.tar");
        let modes: Vec<(String, String)> = members(&tar)
            .into_iter()
            .filter(|(_, entry)| entry.mode.starts_with('-'))
            .map(|(path, entry)| (path, entry.mode))
            .collect();
        let named = |path: &str, mode: &str| (path.to_owned(), mode.to_owned());
        assert_eq!(
            modes,
            [
                named("bin/h", "-rwx------"),
                named("doc", "-rw-r--r--"),
                named("usr/bin/current", "-rwxr-xr-x"),
                named("usr/bin/helper", "-rwx------"),
                named("usr/bin/tool", "-rwxr-xr-x"),
            ],
            "{file}"
        );
        for (path, source) in
            [("usr/bin/tool", "bin/tool"), ("usr/bin/current", "bin/tool"), ("doc", "share/doc")]
        {
            assert_eq!(
                content(&tar, path),
                upstream(&space, &format!("tool-1.4/{source}")),
                "{file}: {path}"
            );
        }
        space.builds(&[]).counts(0, 1, 0);
        space.assert_clean();
    }
}

#[test]
fn a_file_as_it_is_from_a_server_locked_and_offline() {
    let dir = tempfile::tempdir().unwrap();
    let at = program(dir.path(), "corex-2.1.4-amd64-linux-static", &["-static"]);
    let mirror = Mirror::new(dir.path());
    let url = format!("{}corex-2.1.4-amd64-linux-static", mirror.url());
    let space = Space::new(&format!(
        "targets:\n  corex:\n    rule: release\n    url: \"{url}\"\n    \
         install: {{ corex-2.1.4-amd64-linux-static: /usr/bin/corex }}\ndist: {{ corex.tar: corex }}\n"
    ));
    space.builds(&[]).counts(1, 0, 0);
    assert!(space.read("mosbuild.lock").contains(&url));
    assert_eq!(content(&space.path("dist/corex.tar"), "usr/bin/corex"), std::fs::read(&at).unwrap());
    let shown = space.json(&["show", "corex", "--json"]);
    assert_eq!(shown["facts"]["version"], "2.1.4");
    drop(mirror);
    space.remove("dist");
    space.forget_stamp();
    space.builds(&["--locked", "--offline"]).counts(0, 1, 0);

    // Another version in the file than in the URL, and another mode for all.
    space.edit_yaml("    install:", "    version: \"2.1.4-mos\"\n    mode: \"0750\"\n    install:");
    space.builds(&["--locked", "--offline"]).counts(1, 0, 0);
    assert_eq!(space.json(&["show", "corex", "--json"])["facts"]["version"], "2.1.4-mos");
    assert_eq!(members(&space.path("dist/corex.tar"))["usr/bin/corex"].mode, "-rwxr-x---");
    let (_, answer) = space.why("corex");
    assert!(answer["causes"].to_string().contains("\"subject\":\"version\""), "{answer:#}");
}

#[test]
fn one_compressed_file_is_that_file() {
    for (file, script) in [
        ("tool.gz", "gzip -c tool-1.4/bin/tool > tool.gz"),
        ("tool.xz", "xz -c tool-1.4/bin/tool > tool.xz"),
        ("tool.zst", "zstd -qc tool-1.4/bin/tool > tool.zst"),
    ] {
        let space = space(file, script, "install: { tool: /usr/bin/tool }");
        space.builds(&[]);
        assert_eq!(
            content(&space.path("dist/tool.tar"), "usr/bin/tool"),
            upstream(&space, "tool-1.4/bin/tool")
        );
        // No version in the URL: the beginning of the digest.
        let version =
            space.json(&["show", "tool", "--json"])["facts"]["version"].as_str().unwrap().to_owned();
        assert!(version.len() == 7 && version.bytes().all(|b| b.is_ascii_hexdigit()), "{version}");
        assert!(space.has(&format!("dist/tool-{version}.tar")));
        space.edit_yaml("install: { tool:", "install: { tool.gz:");
        let output = space.build(&[]);
        assert_eq!(output.counts(0, 0, 1).code, Some(1));
        output.says(&format!(
            "there is no tool.gz in {}",
            if file == "tool.gz" { "tool" } else { file.rsplit_once('.').unwrap().0 }
        ));
        output.says("write tool in place of tool.gz");
    }
}

#[test]
fn a_name_that_is_not_there_is_told_with_the_nearest() {
    let space = space("t.tgz", "tar -czf t.tgz tool-1.4", "install: { bin/tol: /usr/bin/tool }");
    let output = space.build(&[]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    output.says("tool:install: the archive has no bin/tol").says("nearest to it").says("tool-1.4/bin/tool");
    space.edit_yaml("bin/tol:", "bin:");
    space.build(&[]).says("bin is a folder of the archive, not a file").says("it has tool-1.4/bin/helper");

    let plain = self::space("x.sh", "cp tool-1.4/bin/helper x.sh", "install: { y.sh: /y }");
    let output = plain.build(&[]);
    output
        .says("there is no y.sh in x.sh, which is no archive but the file itself")
        .says("write x.sh in place of y.sh");
    let packed = self::space("x.bz2", "printf 'BZh91AY' > x.bz2", "install: { x: /x }");
    packed.build(&[]).says("which is packed with bzip2; what is unpacked is tar, gzip, xz, zstd and zip");
}

#[test]
fn hostile_archives_are_refused() {
    need("python3", "python3");
    let zip = |script: &str| {
        format!(
            "python3 -c \"import zipfile, warnings; warnings.simplefilter('ignore')\nz = zipfile.ZipFile('x.zip', 'w')\n\
             {script}\nz.close()\""
        )
    };
    for (file, script, why) in [
        (
            "x.zip",
            zip("z.writestr('x', b'1')\nz.filelist[0].filename = '../../up'"),
            "path has a '..' component",
        ),
        ("x.zip", zip("z.writestr('x', b'1')\nz.writestr('x', b'2')"), "\"x\": appears twice"),
        (
            "x.zip",
            zip("z.writestr('x', b'1' * 999)\nz.fp.seek(40); z.fp.write(b'0'); z.fp.seek(0, 2)"),
            "is damaged: Invalid checksum",
        ),
        (
            "x.zip",
            format!("{}; head -c 80 x.zip > y; mv y x.zip", zip("z.writestr('x', b'1' * 999)")),
            "the archive is refused: zip: ",
        ),
        ("x.tar", "tar -cPf x.tar ../upstream/tool-1.4/bin/helper".into(), "path has a '..' component"),
        (
            "x.tgz",
            "tar -czf x.tgz tool-1.4; head -c 20000 x.tgz > y; mv y x.tgz".into(),
            "the archive is refused: tar: ",
        ),
        (
            "x.tar",
            "ln -s /etc l; tar -cf x.tar l; rm l; mkdir l; touch l/x; tar -rf x.tar l/x".into(),
            "lies below a symbolic link",
        ),
    ] {
        let space = space(file, &script, "install: { x: /x }");
        let output = space.build(&[]);
        assert_eq!(output.counts(0, 0, 1).code, Some(1), "{script}");
        let message = output.failure("tool")["message"].as_str().unwrap().to_owned();
        assert!(message.contains(why), "{script}: {message}");
        space.assert_clean();
    }
}

#[test]
fn another_architecture_is_refused_and_a_loader_is_warned_of() {
    let script = "cp tool-1.4/bin/tool foreign; gcc -o dynamic -x c - <<'E'\nint main(void) { return 0; }\nE\n\
                  tar -cf x.tar foreign dynamic tool-1.4/share/doc";
    let space = space("x.tar", script, "install: { dynamic: /dynamic, doc: /doc }");
    let output = space.builds(&[]);
    output.says("warning: tool: dynamic is not static: it asks for /lib").says("which the image must have");
    // Said again by `show`, also when nothing runs.
    let shown = space.run(&["show", "tool"]);
    assert!(shown.stdout.contains("note: dynamic is not static"), "{shown}");

    let dir = space.base().join("upstream");
    foreign(&dir.join("foreign"));
    run(&dir, "tar -cf x.tar foreign");
    space.edit_yaml("dynamic: /dynamic, doc: /doc", "foreign: /foreign");
    let output = space.run(&["lock", "--update"]);
    assert_eq!(output.code, Some(0), "{output}");
    let output = space.build(&[]);
    assert_eq!(output.counts(0, 0, 1).code, Some(1));
    output.says("tool:install: foreign is for aarch64, but the image is for x86_64");
    space.builds(&["--set", "arch=aarch64"]).counts(1, 0, 0);
}

#[test]
fn fields_are_checked_when_the_file_is_loaded() {
    let space = Space::new(
        "targets:\n  tool: { rule: release, url: \"https://example.org/\", mode: \"9\", install: { /x: y } }\n",
    );
    let output = space.build(&[]);
    assert_eq!(output.code, Some(2), "{output}");
    output
        .says("`url` of target `tool`: \"https://example.org/\" names no file")
        .says("`mode` of target `tool`: \"9\" is no mode")
        .says("\"/x\" is no name of a member")
        .says("\"y\" is no absolute path in the image");
}

#[test]
fn a_plain_user_gets_the_same() {
    let script = "tar -cJf tool-1.4.tar.xz tool-1.4";
    let root = space("tool-1.4.tar.xz", script, "install: { tool: /usr/bin/tool }");
    root.builds(&[]);
    let plain = space("tool-1.4.tar.xz", script, "install: { tool: /usr/bin/tool }").as_plain_user();
    plain.builds(&[]).counts(1, 0, 0);
    assert_eq!(root.bytes("dist/tool.tar"), plain.bytes("dist/tool.tar"));
}
