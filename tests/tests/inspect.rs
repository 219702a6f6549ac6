//! `ls`, `cat` and `diff` from outside: trees, archives of every compression, tar, images; two runs, with causes. GNU cpio,
//! tar and diff are the oracles.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;
use mosbuild_tests::{Space, need};
use serde_json::Value;

const YAML: &str = r#"targets:
  base: { rule: files, install: [{ from: base/, to: / }, { node: /dev/console, type: char, major: 5, minor: 1 }, { link: /etc/motd, at: /motd }] }
  own: { rule: files, install: [{ from: own/, to: / }] }
  rootfs: { rule: rootfs, layers: [base, own] }
  image: { rule: cpio, root: rootfs, compress: { format: xz, level: 0 } }
  text: { rule: command, run: 'printf "a\0b" > "$OUT/x"; mkdir "$OUT/d"; echo in > "$OUT/d/f"', outputs: [x, d/] }
  all: { rule: group, deps: [image, text] }
dist: { image.cpio.xz: image, rootfs.tar: rootfs, text: "text:x" }
"#;

fn space() -> Space {
    let space = Space::new(YAML);
    space.write("base/etc/motd", "hello\n");
    space.write(
        "base/usr/bin/noise",
        (0..70_000u32).map(|n| (n.wrapping_mul(n) >> 5) as u8).collect::<Vec<_>>(),
    );
    space.write("own/etc/config", "one\ntwo\nthree\n");
    space.write("own/bin/tool", "#!/bin/sh\n");
    space.chmod("own/bin/tool", 0o755);
    space
}

/// Output of a program that must succeed.
fn tool(program: &str, args: &[&str], cwd: &Path, input: &[u8]) -> Vec<u8> {
    need(program, program);
    let mut child = Command::new(program)
        .args(args)
        .current_dir(cwd)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    output.stdout
}

fn lines(text: &[u8]) -> BTreeSet<String> {
    String::from_utf8(text.to_vec()).unwrap().lines().map(|l| l.trim_end_matches('/').to_owned()).collect()
}

#[track_caller]
fn listed(space: &Space, args: &[&str]) -> BTreeSet<String> {
    let output = space.run(&[&["ls"], args].concat());
    assert_eq!(output.code, Some(0), "{output}");
    lines(output.stdout.as_bytes())
}

/// The bytes that `cat` prints.
fn cat(space: &Space, args: &[&str]) -> Vec<u8> {
    let output = space.command(&[&["cat"], args].concat()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn trees_archives_and_tars_have_the_entries_that_cpio_and_tar_list() {
    let space = space();
    let never = space.run(&["ls", "rootfs"]);
    assert_eq!(never.code, Some(2), "{never}");
    never.says("rootfs:tree was never made here").says("`mosbuild build rootfs`");
    space.builds(&["image", "rootfs", "text"]);
    let packed = space.bytes("dist/image.cpio.xz");
    let archive = tool("xz", &["-dc"], space.root(), &packed);
    let by_cpio = lines(&tool("cpio", &["-t", "--quiet"], space.root(), &archive));
    assert!(by_cpio.contains("etc/config") && by_cpio.contains("dev/console"));
    let by_tar = lines(&tool("tar", &["-tf", "dist/rootfs.tar"], space.root(), b""));
    for what in ["rootfs", "image", "rootfs:tree", "dist/image.cpio.xz", "./dist/image.cpio.xz"] {
        assert_eq!(listed(&space, &[what]), by_cpio, "{what}");
    }
    assert_eq!(listed(&space, &["dist/rootfs.tar"]), by_tar);
    assert_eq!(by_tar, by_cpio);
    for what in ["rootfs", "image", "dist/image.cpio.xz", "dist/rootfs.tar"] {
        assert_eq!(cat(&space, &[what, "/usr/bin/noise"]), space.bytes("base/usr/bin/noise"), "{what}");
        assert_eq!(cat(&space, &[what, "motd"]), b"hello\n", "{what}: through the link");
    }
    assert_eq!(cat(&space, &["rootfs:tree/etc/config"]), b"one\ntwo\nthree\n");
    assert_eq!(cat(&space, &["rootfs:/etc/config"]), b"one\ntwo\nthree\n");
    assert_eq!(cat(&space, &["text"]), b"a\0b");
    assert_eq!(cat(&space, &["text:d/f"]), b"in\n");
    assert_eq!(cat(&space, &["image", "--part", "initramfs"]), packed);
    assert_eq!(listed(&space, &["image", "etc"]), lines(b"etc\netc/config\netc/motd\n"));

    let long = space.run(&["ls", "-l", "rootfs"]).stdout;
    let words: Vec<Vec<&str>> = long.lines().map(|l| l.split_whitespace().collect()).collect();
    for line in [
        vec!["-rwxr-xr-x", "0/0", "10", "bin/tool"],
        vec!["crw-------", "0/0", "5,1", "dev/console"],
        vec!["lrwxrwxrwx", "0/0", "9", "motd", "->", "/etc/motd"],
    ] {
        assert!(words.contains(&line), "{line:?}: {long}");
    }
    let object = space.json(&["ls", "image", "--json"]);
    assert_eq!((&object["schema"], &object["target"]), (&"mosbuild.ls/1".into(), &"image".into()));
    assert_eq!(object["around"][0]["compression"], "xz");
    let config = object["entries"].as_array().unwrap().iter().find(|e| e["path"] == "etc/config").unwrap();
    assert_eq!(
        (config["size"].as_u64(), config["mode"].as_str(), config["mtime"].as_u64()),
        (Some(14), Some("0644"), Some(1_735_689_600))
    );
}

#[test]
fn what_cannot_be_listed_or_printed_says_why() {
    let space = space();
    space.builds(&["image", "rootfs", "text"]);
    for (args, text) in [
        (vec!["ls", "text"], "neither a tree, nor an archive"),
        (vec!["ls", "rootf"], "did you mean rootfs?"),
        (vec!["ls", "rootfs:nothing"], "its outputs are tree"),
        (vec!["ls", "all"], "is a group"),
        (vec!["ls", "rootfs", "nowhere"], "rootfs has no nowhere"),
        (vec!["ls", "dist"], "unknown target dist"),
        (vec!["ls", "./dist"], "is a folder"),
        (vec!["ls", "dist/nothing"], "no target and no file dist/nothing"),
        (vec!["ls", "rootfs", "--run", "x"], "unknown run x"),
        (vec!["cat", "rootfs"], "is a tree: name a file"),
        (vec!["cat", "rootfs", "/etc/confug"], "did you mean etc/config?"),
        (vec!["cat", "rootfs", "tool"], "did you mean bin/tool?"),
        (vec!["cat", "rootfs", "/etc"], "etc in rootfs is a directory"),
        (vec!["cat", "image", "/dev/console"], "is a character device"),
        (vec!["cat", "image", "--part", "vmlinux"], "has no kernel image inside"),
        (vec!["diff", "rootfs"], "NEW"),
    ] {
        let output = space.run(&args);
        assert_eq!(output.code, Some(2), "{args:?}: {output}");
        output.says(text);
    }
    space.write("damaged.cpio.xz", &space.bytes("dist/image.cpio.xz")[..400]);
    let output = space.run(&["ls", "./damaged.cpio.xz"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("at byte 0, xz");
}

/// Without a workspace: archives as the real tools write them, one after another; hard links, owners, names that would move
/// the cursor.
#[test]
fn archives_of_foreign_make() {
    let space = space();
    let folder = space.base().join("foreign");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("sub/a"), "linked").unwrap();
    std::fs::hard_link(folder.join("sub/a"), folder.join("sub/b")).unwrap();
    std::fs::write(folder.join("esc\x1b[2J"), "x").unwrap();
    std::fs::write(folder.join("text"), "old").unwrap();
    let cpio =
        |names: &str| tool("cpio", &["-o", "-H", "newc", "--quiet", "-R", "7:42"], &folder, names.as_bytes());
    let first = cpio("sub\nsub/a\nsub/b\ntext\n");
    std::fs::write(folder.join("text"), "new").unwrap();
    let second = cpio("text\nesc\x1b[2J\n");
    let writers: [(&str, &[&str]); 7] = [
        ("cat", &[]),
        ("gzip", &["-c"]),
        ("bzip2", &["-c"]),
        ("xz", &["--format=lzma", "-c"]),
        ("xz", &["--check=crc32", "-c"]),
        ("lz4", &["-l", "-c"]),
        ("zstd", &["-c"]),
    ];
    for (program, args) in writers {
        let packed = [first.clone(), tool(program, args, &folder, &second)].concat();
        std::fs::write(folder.join("two.cpio"), packed).unwrap();
        let mut command = space.command(&["ls", "-l", "./two.cpio"]);
        let output = command.current_dir(&folder).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let names: Vec<&str> = text.lines().map(|l| l.split_whitespace().last().unwrap()).collect();
        assert_eq!(names, ["esc\\033[2J", "sub", "sub/a", "sub/b", "text"], "{program}: {text}");
        assert!(text.lines().all(|line| line.contains("7/42")), "{text}");
        for (path, content) in [("sub/a", "linked"), ("sub/b", "linked"), ("text", "new")] {
            let mut command = space.command(&["cat", "./two.cpio", path]);
            let output = command.current_dir(&folder).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), content, "{program}: {path}");
        }
    }
    tool("tar", &["-czf", "a.tar.gz", "sub", "text"], &folder, b"");
    let mut command = space.command(&["cat", "./a.tar.gz", "sub/b"]);
    assert_eq!(command.current_dir(&folder).output().unwrap().stdout, b"linked");
}

fn runs(space: &Space) -> Vec<String> {
    let runs = space.json(&["runs", "--json"])["runs"].clone();
    // The newest comes first, or last: by their ids they sort by time.
    let mut ids: Vec<String> =
        runs.as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn difference<'v>(object: &'v Value, path: &str) -> &'v Value {
    let all = object["differences"].as_array().unwrap();
    all.iter().find(|d| d["path"] == path).unwrap_or_else(|| panic!("no {path}: {object:#}"))
}

#[test]
fn two_runs_differ_by_file_and_each_has_its_cause() {
    let space = space();
    space.builds(&["image"]);
    let same = space.run(&["diff", "image", "image"]);
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""), "{same}");
    // A tree and its archive have the same entries, though not the same bytes.
    let around = space.run(&["diff", "rootfs", "image"]);
    assert_eq!(around.code, Some(1), "{around}");
    assert!(around.stdout.contains("a tree → cpio"), "{around}");

    space.edit("own/etc/config", "two", "2");
    space.chmod("own/bin/tool", 0o644);
    space.remove("base/etc/motd");
    space.write("base/etc/new", "new\n");
    space.builds(&["image"]);
    let all = runs(&space);
    let (first, last) = (all[0].as_str(), all[1].as_str());
    let output = space.run(&["diff", "image", "--against", first]);
    assert_eq!(output.code, Some(1), "{output}");
    for line in [
        "changed  /etc/config  14 B → 12 B  (layer own)",
        "    because own:install: file own/etc/config changed: ",
        "    -two\n    +2\n",
        "changed  /bin/tool  mode 0755 → 0644  (layer own)",
        "because own:install: file own/bin/tool changed mode 0755 → 0644",
        "removed  /etc/motd  6 B  (layer base)",
        "because base:install: file base/etc/motd was removed",
        "added    /etc/new  4 B  (layer base)",
        "1 added, 1 removed, 2 changed; -4 B",
    ] {
        assert!(output.stdout.contains(line), "{line}: {output}");
    }
    assert!(!output.stdout.contains("noise"), "{output}");
    let brief = space.run(&["diff", "image", "--against", first, "--brief"]);
    assert!(brief.code == Some(1) && !brief.stdout.contains("-two"), "{brief}");

    let output = space.run(&["diff", "rootfs", "--against", first, "--json"]);
    assert_eq!(output.code, Some(1));
    let object: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(object["schema"], "mosbuild.diff/1");
    let config = difference(&object, "etc/config");
    let causes = config["causes"].as_array().unwrap();
    assert_eq!((causes.len(), &causes[0]["subject"]), (1, &"own/etc/config".into()), "{config:#}");
    assert_eq!((&config["layer"], &config["old"]["size"]), (&"own".into(), &14.into()));
    // What the text says is what diff says.
    let old = cat(&space, &["rootfs", "etc/config", "--run", first]);
    assert_eq!(old, b"one\ntwo\nthree\n");
    std::fs::write(space.base().join("old"), old).unwrap();
    let by_diff = Command::new("diff")
        .args([
            "-u",
            space.base().join("old").to_str().unwrap(),
            space.path("own/etc/config").to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let by_diff = String::from_utf8(by_diff.stdout).unwrap();
    let by_diff = by_diff.splitn(3, '\n').nth(2).unwrap();
    assert_eq!(config["text"].as_str().unwrap(), by_diff);

    // Whole runs: what was asked for in the later one.
    let whole = space.run(&["diff", first, last]);
    assert_eq!(whole.code, Some(1), "{whole}");
    assert!(whole.stdout.starts_with(&format!("--- image, run {first}\n+++ image, run {last}\n")), "{whole}");
    assert!(whole.stdout.contains("because own:install: file own/etc/config changed"), "{whole}");
    assert_eq!(space.run(&["diff", last, last]).code, Some(0));
}

#[test]
fn a_cause_that_is_no_file_is_named_too() {
    let space = space();
    space.builds(&["image"]);
    space.edit_yaml("layers: [base, own]", "layers: [base, own], remove: /usr/**");
    space.builds(&["image"]);
    let first = runs(&space)[0].clone();
    let output = space.run(&["diff", "image", "--against", &first]);
    assert!(output.stdout.contains("removed  /usr/bin/noise  68.4 KiB"), "{output}");
    assert!(output.stdout.contains("because rootfs:clean"), "{output}");
    // The same entries, compressed in another way.
    space.edit_yaml("level: 0", "level: 1");
    space.builds(&["image"]);
    let second = runs(&space)[1].clone();
    let output = space.run(&["diff", "image", "--against", &second]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stdout.contains("cpio: ") && output.stdout.contains("because image:pack: "), "{output}");
    // Two files without entries.
    space.builds(&["text"]);
    space.edit_yaml("a\\0b", "a text");
    space.builds(&["text"]);
    let all = runs(&space);
    let output = space.run(&["diff", "text", "--against", &all[all.len() - 2]]);
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stdout.contains("3 B → 6 B") && output.stdout.contains("because text:run"), "{output}");
}

#[test]
fn a_package_is_the_cause_of_its_files() {
    let Some(alpine) = Alpine::all().into_iter().next() else { return };
    let stand = Stand::new(&alpine, &["tool", "other"]);
    let own = |version: &str| {
        stand.own(&[
            Apk::new("tool", version).file("usr/bin/tool", version),
            Apk::new("other", "1.0-r0").file("usr/bin/other", "o"),
        ]);
    };
    own("1.0-r0");
    stand.space.yaml(&stand.yaml(&[stand.mirror.url()], &["tool", "other"], ""));
    stand.space.builds(&["packages"]);
    own("2.0-r0");
    let update = stand.space.run(&["lock", "--update"]);
    assert_eq!(update.code, Some(0), "{update}");
    stand.space.builds(&["packages"]);
    let first = runs(&stand.space)[0].clone();
    let output = stand.space.run(&["diff", "packages", "--against", &first]);
    assert_eq!(output.code, Some(1), "{output}");
    let (_, tool) = output.stdout.split_once("/usr/bin/tool").unwrap();
    let mut lines = tool.lines();
    assert!(lines.next().unwrap().contains("package tool 2.0-r0"), "{output}");
    let cause = lines.next().unwrap();
    assert!(
        cause.contains("because packages:")
            && cause.contains("package tool changed: 1.0-r0")
            && cause.contains("→ 2.0-r0"),
        "{output}"
    );
}
