//! `firmware` from outside: what modules and people ask for out of a small linux-firmware, and in which form.

use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::archive::members;
use mosbuild_tests::firmware::{
    FILES, TAKEN, YAML, below, fill, notes, pairs, source, stored, tree, warnings,
};
use mosbuild_tests::modules::ModuleDir;
use mosbuild_tests::{Output, Space, need};

#[test]
fn what_modules_name_with_its_links_and_licences() {
    let space = Space::new(YAML);
    fill(&space);
    let output = space.builds(&["firmware"]);
    output.counts(3, 0, 0);
    let archive = space.path("dist/fw.tar");
    let tree = tree(&archive);
    assert_eq!(below(&tree, "lib/firmware/"), pairs(&TAKEN));
    let licences = below(&tree, "usr/share/licenses/linux-firmware/");
    let names: Vec<&str> = licences.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["LICENCE.card", "WHENCE", "card/NOTICE.txt"]);
    assert_eq!(licences[2].1, "notice of the card");
    let whence = &licences[1].1;
    assert!(whence.contains("the text of this licence is here alone") && whence.contains("Driver: card"));
    for (path, entry) in members(&archive) {
        let mode = if path.contains('.') || path == "WHENCE" { "-rw-r--r--" } else { "drwxr-xr-x" };
        assert_eq!(entry.owner, "0/0", "{path}");
        assert!(entry.link.is_some() || entry.mode == mode || path.ends_with("WHENCE"), "{path}: {entry:?}");
    }

    let shown = space.json(&["show", "firmware", "--json"]);
    let facts = &shown["facts"];
    assert_eq!((facts["count"].as_str(), facts["missing"].as_str()), (Some("9"), Some("6")), "{facts}");
    let version = facts["version"].as_str().unwrap();
    assert!(version.len() == 7 && version.chars().all(|c| c.is_ascii_hexdigit()), "{version}");

    // Each name without a file, with its module and the likely reason; a bounded form of it as a warning.
    let expected = [
        "warning: lost asks for gone/missing.bin: WHENCE names gone/missing.bin, but the source does not have it",
        "warning: lost asks for secret.bin: the source has it, but WHENCE does not name it, nor its licence: not taken",
        "warning: lost asks for gone/lost-7.bin: other versions are there, such as gone/lost-5.bin: the source is older \
         or newer than the driver",
        "warning: lost asks for lost/chain-3.bin: renamed or moved: new/place/chain-3.bin is there",
        "warning: lost asks for vendor/alone.xyz: nothing like it is there: it may not be redistributed, or comes from \
         the vendor alone",
        "warning: glob asks for chips/none.*.txt: nothing fits; such files are for certain boards only",
        "licence of card/a.bin and 3 more: Redistributable. See LICENCE.card and card/NOTICE.txt for details",
        "licence of new/place/chain-3.bin: Free: the text of this licence is here alone.",
        "licence of chips/x1/boot.bin and 3 more: Unknown",
    ];
    assert_eq!(notes(&space, "firmware"), expected);
    let warned = warnings(&output);
    assert_eq!(
        warned,
        ["firmware: 6 of 14 names have no file (`mosbuild show` lists them)\n\
          lost: gone/missing.bin and 4 more: WHENCE names gone/missing.bin, but the source does not have it\n\
          glob: chips/none.*.txt: nothing fits; such files are for certain boards only"]
    );
    output.says("warning: firmware: 6 of 14 names have no file");

    // A hit has the same notes, and nothing that nobody asked for is in the store.
    space.forget_stamp();
    space.builds(&["firmware"]).counts(0, 3, 0);
    assert_eq!(notes(&space, "firmware"), expected);
    assert!(stored(&space, "card a") && stored(&space, "notice of the card"));
    for (path, content) in FILES.iter().filter(|(path, _)| ["card/unused.bin", "secret.bin"].contains(path)) {
        assert!(!stored(&space, content), "{path}");
    }
    space.assert_clean();
}

#[test]
fn extra_names_folders_and_globs() {
    let space = Space::new(
        r#"targets:
  firmware:
    rule: firmware
    source: { path: fw }
    extra: [chips/x3/, "card/*.bin", old/chain.bin, "**/lost-?.bin"]
    licenses: /licences
dist: { fw.tar: firmware }
"#,
    );
    source(&space, "fw");
    let output = space.builds(&["firmware"]);
    assert_eq!(warnings(&output), [""; 0]);
    let tree = tree(&space.path("dist/fw.tar"));
    let names: Vec<String> = below(&tree, "lib/firmware/").into_iter().map(|(path, _)| path).collect();
    assert_eq!(
        names,
        [
            "card/a.bin",
            "card/raw-link.bin",
            "card/raw.bin",
            "card/unused.bin",
            "chips/x1/boot.bin",
            "chips/x1/main.bin",
            "chips/x3",
            "gone/lost-5.bin",
            "middle",
            "new/place/chain-3.bin",
            "new/place/chain.bin",
            "old/chain.bin",
        ]
    );
    assert_eq!(tree["licences/LICENCE.card"], "licence of the card");

    // Of a folder, what is not there is told; what WHENCE does not name is not taken, whatever asks for it.
    space.edit_yaml("[chips/x3/,", "[gone/, chips/x3/,");
    space.write("fw/gone/unlisted.bin", "x");
    let output = space.builds(&["firmware"]);
    assert_eq!(
        warnings(&output),
        ["firmware: 1 of 5 names have no file (`mosbuild show` lists them)\n\
          extra: gone/missing.bin: WHENCE names gone/missing.bin, but the source does not have it"]
    );
    assert!(!members(&space.path("dist/fw.tar")).contains_key("lib/firmware/gone/unlisted.bin"));
    space.edit_yaml("[gone/, chips/x3/,", "[chips/x3/,");
    space.write("fw/unlisted/a.bin", "x");

    space.edit_yaml("[chips/x3/,", "[card/b.bin, chip/x3/, \"chps/*\", unused.bin, secret.bin, unlisted/, \"unlisted/*\", gone/missing.bin, nothing/at-all.xyz,");
    let output = space.build(&["firmware"]);
    assert_eq!(output.code, Some(1), "{output}");
    for line in [
        "names in `extra` that have no file:",
        "card/b.bin: WHENCE has no such name; the nearest are card/a.bin, ",
        "chip/x3/: WHENCE has no such name; the nearest are chips/x3/",
        "chps/*: WHENCE has no such name; the nearest are chips/*",
        "unused.bin: WHENCE has no such name; the nearest are card/unused.bin",
        "secret.bin: the source has it, but WHENCE does not name it",
        "unlisted/: the source has it, but WHENCE does not name it",
        "unlisted/*: the source has it, but WHENCE does not name it",
        "gone/missing.bin: WHENCE names gone/missing.bin, but the source does not have it",
        "nothing/at-all.xyz: WHENCE has nothing like it",
        "a folder (amdgpu/) and globs (rtl_nic/*) stand for all in them",
    ] {
        output.says(line);
    }
}

/// Unpacks a tar and gives the folder.
fn unpacked(space: &Space, archive: &str) -> PathBuf {
    let dir = space.base().join(format!("unpacked-{archive}"));
    std::fs::create_dir(&dir).unwrap();
    let status =
        Command::new("tar").arg("-xf").arg(space.path("dist").join(archive)).arg("-C").arg(&dir).status();
    assert!(status.unwrap().success());
    dir
}

fn run(program: &str, args: &[&str], path: &Path) -> String {
    let output = Command::new(program).args(args).arg(path).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{program} {args:?} {}: {output:?}", path.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn compressed_as_the_kernel_reads_it() {
    need("xz", "xz-utils");
    need("zstd", "zstd");
    let yaml = YAML.replace("source:", "compress: xz, config: kernel.config, source:");
    let space = Space::new(&yaml);
    fill(&space);
    let config = "CONFIG_FW_LOADER=y\nCONFIG_FW_LOADER_COMPRESS=y\nCONFIG_FW_LOADER_COMPRESS_XZ=y\nCONFIG_FW_LOADER_COMPRESS_ZSTD=y\n";
    space.write("kernel.config", config);
    for (compress, end) in [("xz", "xz"), ("zstd", "zst")] {
        space.edit_yaml("compress: xz", &format!("compress: {compress}"));
        space.edit_yaml("fw.tar: firmware", &format!("fw.{compress}.tar: firmware"));
        space.builds(&["firmware"]);
        let root = unpacked(&space, &format!("fw.{compress}.tar"));
        let firmware = root.join("lib/firmware");
        let dangling = Command::new("find").arg(&firmware).args(["-xtype", "l"]).output().unwrap();
        assert!(dangling.status.success() && dangling.stdout.is_empty(), "links that dangle: {dangling:?}");
        // What a driver asks for, as the loader looks for it: plain, then with the suffix.
        for (name, content) in [
            ("card.bin", "card a"),
            ("card/two words.txt", "two words"),
            ("old/chain.bin", "chain 3"),
            ("chips/x3/boot.bin", "x1 boot"),
            ("chips/board.B.txt", "board B"),
        ] {
            assert!(!firmware.join(name).exists(), "{name}");
            let packed = firmware.join(format!("{name}.{end}"));
            assert_eq!(run(compress, &["-dcq"], &packed.canonicalize().unwrap()), content, "{name}");
            if compress == "xz" {
                let listed = run("xz", &["--robot", "-lvv"], &packed.canonicalize().unwrap());
                let block = listed.lines().find(|l| l.starts_with("block\t")).unwrap();
                assert!(block.contains("CRC32") && block.ends_with("--lzma2=dict=4KiB"), "{block}");
            }
        }
        assert_eq!(std::fs::read_to_string(firmware.join("card/raw-link.bin")).unwrap(), "raw");
        assert_eq!(std::fs::read_link(firmware.join("chips/x3")).unwrap(), Path::new("x1"));
        assert_eq!(std::fs::read_link(firmware.join("middle")).unwrap(), Path::new("new/place"));
        let licence = root.join("usr/share/licenses/linux-firmware/LICENCE.card");
        assert_eq!(std::fs::read_to_string(licence).unwrap(), "licence of the card");
        space.edit_yaml(&format!("compress: {compress}"), "compress: xz");
        space.edit_yaml(&format!("fw.{compress}.tar: firmware"), "fw.tar: firmware");
    }

    // A kernel that cannot read it.
    space.write(
        "kernel.config",
        config.replace("CONFIG_FW_LOADER_COMPRESS_XZ=y", "# CONFIG_FW_LOADER_COMPRESS_XZ is not set"),
    );
    let output = space.build(&["firmware"]);
    assert_eq!(output.code, Some(1), "{output}");
    output
        .says("the kernel's configuration lacks what the image needs:")
        .says("CONFIG_FW_LOADER_COMPRESS_XZ: firmware is compressed with xz")
        .says("add to kernel.config: CONFIG_FW_LOADER_COMPRESS_XZ=y")
        .says("or leave `compress` out of the firmware");
    space.edit_yaml("compress: xz", "compress: zstd");
    space.builds(&["firmware"]);

    // Modules of nobody knows which kernel, and no configuration named.
    space.edit_yaml(", config: kernel.config", "");
    let output = space.build(&["firmware"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("the modules of modules do not come from a target of rule linux").says("config: FILE");
    assert!(output.started().is_empty(), "{output}");
}

#[test]
fn wrong_fields_are_told_at_once() {
    let space = Space::new(
        r#"targets:
  a: { rule: firmware, source: { path: fw } }
  b: { rule: firmware, source: { path: fw }, extra: [/lib/firmware/x, ../y, "[z", ""], licenses: usr/share }
  c: { rule: firmware, source: { crate: x, version: "1" }, extra: x, config: kernel.config }
  d: { rule: firmware, source: { path: fw }, extra: x, compress: xz }
  e: { rule: firmware, source: { path: fw }, for: file, compress: lz4 }
  file: { rule: command, run: "true", outputs: [x] }
"#,
    );
    source(&space, "fw");
    space.write("kernel.config", "");
    let output = space.run(&["list"]);
    assert_eq!(output.code, Some(2), "{output}");
    for line in [
        "firmware needs for or extra: it asks for nothing",
        "\"/lib/firmware/x\": it is absolute; names are relative to lib/firmware",
        "\"../y\": it leads out of lib/firmware",
        "\"[z\": ",
        "\"\": it names nothing",
        "\"usr/share\" is no absolute path in the image",
        "firmware is no crate",
        "config without compress has no use",
        "compress: xz needs the kernel's configuration",
        "lz4",
    ] {
        output.says(line);
    }
    let space = Space::new(
        "targets:\n  e: { rule: firmware, source: { path: fw }, for: file }\n  file: { rule: command, run: \"true\", outputs: [x] }\n",
    );
    source(&space, "fw");
    let output = space.run(&["list"]);
    assert_eq!(output.code, Some(2), "{output}");
    // A tree without modules is known only when it is there.
    let space = Space::new(
        "targets:\n  e: { rule: firmware, source: { path: fw }, for: tree }\n  tree: { rule: files, install: [{ dir: /lib }] }\n",
    );
    source(&space, "fw");
    let output = space.build(&["e"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("tree holds no lib/modules/VERSION");
}

#[test]
fn a_module_that_changes_otherwise_costs_no_selection() {
    let space = Space::new(YAML);
    fill(&space);
    space.builds(&["firmware"]);
    let fields: Vec<String> =
        ["name=plain", "license=GPL", "depends=", "description=changed"].map(str::to_owned).into();
    let modules = ModuleDir::new(&space, "kernel");
    modules.code("kernel/plain.ko", &fields, ".byte 0x90, 0xc3");
    let output = space.builds(&["firmware"]);
    let steps = |output: &Output| {
        let started = output.events.iter().filter(|e| e["event"] == "step_started");
        started
            .map(|e| format!("{}:{}", e["target"].as_str().unwrap(), e["step"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let ran = steps(&output);
    assert!(ran.iter().any(|s| s.ends_with("firmware:names")), "{ran:?}");
    assert!(!ran.iter().any(|s| s.ends_with("firmware:select")), "{ran:?}");
    // A name more, and it is selected anew.
    modules.module("kernel/plain.ko", &["card/unused.bin"]);
    let ran = steps(&space.builds(&["firmware"]));
    assert!(ran.iter().any(|s| s.ends_with("firmware:select")), "{ran:?}");
    assert!(members(&space.path("dist/fw.tar")).contains_key("lib/firmware/card/unused.bin"));
    let why = space.run(&["why", "firmware"]).stdout;
    assert!(why.contains("plain.ko"), "{why}");
}

#[test]
fn a_plain_user_gets_the_same_tree() {
    let yaml = YAML.replace("source:", "compress: xz, config: kernel.config, source:");
    let config = "CONFIG_FW_LOADER=y\nCONFIG_FW_LOADER_COMPRESS=y\nCONFIG_FW_LOADER_COMPRESS_XZ=y\n";
    let mut trees = Vec::new();
    for space in [Space::new(&yaml), Space::new(&yaml).as_plain_user()] {
        fill(&space);
        space.write("kernel.config", config);
        space.builds(&["firmware"]);
        trees.push(space.bytes("dist/fw.tar"));
    }
    assert!(trees[0] == trees[1]);
}
