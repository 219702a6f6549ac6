//! `firmware` from outside: what modules name out of a small linux-firmware, and out of the real one's list.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::archive::{content, members, text};
use mosbuild_tests::modules::ModuleDir;
use mosbuild_tests::{Output, Space, blobs, need, repository};

const YAML: &str = r#"targets:
  kernel: { rule: files, install: [{ from: kernel/, to: /lib/modules/1.0-test }] }
  modules: { rule: modules, from: kernel, extra: [card, chain, dir, glob, lost, plain] }
  firmware: { rule: firmware, for: modules, source: { path: fw } }
dist: { fw.tar: firmware }
"#;

const WHENCE: &str = r#"    * WHENCE *

A head with File names in it.

--------------------------------------------------------------------------

Driver: card -- a card

File: card/a.bin
Version: 1
File: "card/two words.txt"
File: card/more\ words.txt
RawFile: card/raw.bin
File: card/unused.bin
Link: card.bin -> card/a.bin
Link: card/raw-link.bin -> raw.bin

Licence: Redistributable. See LICENCE.card and card/NOTICE.txt for details

--------------------------------------------------------------------------

Driver: chain

File: new/place/chain-3.bin
Link: old/chain.bin -> ../middle/chain.bin
Link: middle -> new/place
Link: new/place/chain.bin -> chain-3.bin

Licence: Free: the text of this licence is here alone.

--------------------------------------------------------------------------

Driver: dir, glob

File: chips/x1/boot.bin
File: chips/x1/main.bin
File: chips/x2/boot.bin
Link: chips/x3 -> x1
File: chips/board.A.txt
File: chips/board.B.txt
File: gone/missing.bin
File: gone/lost-5.bin

Licence: Unknown
"#;

/// Files of the small linux-firmware, beside WHENCE.
const FILES: [(&str, &str); 15] = [
    ("card/a.bin", "card a"),
    ("card/two words.txt", "two words"),
    ("card/more words.txt", "more words"),
    ("card/raw.bin", "raw"),
    ("card/unused.bin", "nobody asks for this"),
    ("new/place/chain-3.bin", "chain 3"),
    ("chips/x1/boot.bin", "x1 boot"),
    ("chips/x1/main.bin", "x1 main"),
    ("chips/x2/boot.bin", "x2 boot"),
    ("chips/board.A.txt", "board A"),
    ("chips/board.B.txt", "board B"),
    ("gone/lost-5.bin", "lost 5"),
    ("secret.bin", "WHENCE does not name this"),
    ("LICENSES/LICENCE.card", "licence of the card"),
    ("card/NOTICE.txt", "notice of the card"),
];

/// The small linux-firmware in a folder, and modules that ask for it.
fn fill(space: &Space) {
    source(space, "fw");
    let modules = ModuleDir::new(space, "kernel");
    modules
        .module(
            "kernel/card.ko",
            &["card.bin", "card/two words.txt", "card/more words.txt", "card/raw-link.bin"],
        )
        .module("kernel/chain.ko.xz", &["old/chain.bin"])
        .module("kernel/dir.ko.gz", &["chips/x3/boot.bin"])
        .module("kernel/glob.ko.zst", &["chips/board.*.txt", "chips/none.*.txt"])
        .module("kernel/plain.ko", &[])
        .module(
            "kernel/lost.ko",
            &["gone/missing.bin", "gone/lost-7.bin", "lost/chain-3.bin", "secret.bin", "vendor/alone.xyz"],
        )
        .module("kernel/not-asked-for.ko", &["card/unused.bin"])
        .builtin(&[("inside", &["chips/x2/boot.bin"]), ("inner", &[])]);
}

fn source(space: &Space, dir: &str) {
    space.write(&format!("{dir}/WHENCE"), WHENCE);
    for (path, text) in FILES {
        space.write(&format!("{dir}/{path}"), text);
    }
}

/// Links and contents of the files of a tar.
fn tree(archive: &Path) -> BTreeMap<String, String> {
    let all = members(archive).into_iter().filter(|(_, entry)| !entry.mode.starts_with('d'));
    let shown = |(path, entry): (String, mosbuild_tests::archive::Entry)| {
        let what = match entry.link {
            Some(link) => format!("-> {link}"),
            None => text(archive, &path),
        };
        (path, what)
    };
    all.map(shown).collect()
}

/// The same below a folder.
fn below(tree: &BTreeMap<String, String>, folder: &str) -> Vec<(String, String)> {
    let inside = tree.iter().filter_map(|(path, what)| Some((path.strip_prefix(folder)?, what)));
    inside.map(|(path, what)| (path.to_owned(), what.clone())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Notes of the target's steps.
fn notes(space: &Space, target: &str) -> Vec<String> {
    let shown = space.json(&["show", target, "--json"]);
    let notes = shown["steps"].as_array().unwrap().iter().filter_map(|step| step["notes"].as_array());
    notes.flatten().map(|note| note.as_str().unwrap().to_owned()).collect()
}

fn warnings(output: &Output) -> Vec<&str> {
    output.named("warning", "message")
}

const TAKEN: [(&str, &str); 14] = [
    ("card.bin", "-> card/a.bin"),
    ("card/a.bin", "card a"),
    ("card/more words.txt", "more words"),
    ("card/raw-link.bin", "-> raw.bin"),
    ("card/raw.bin", "raw"),
    ("card/two words.txt", "two words"),
    ("chips/board.A.txt", "board A"),
    ("chips/board.B.txt", "board B"),
    ("chips/x1/boot.bin", "x1 boot"),
    ("chips/x2/boot.bin", "x2 boot"),
    ("chips/x3", "-> x1"),
    ("middle", "-> new/place"),
    ("new/place/chain-3.bin", "chain 3"),
    ("new/place/chain.bin", "-> chain-3.bin"),
];

#[test]
fn what_modules_name_with_its_links_and_licences() {
    let space = Space::new(YAML);
    fill(&space);
    let output = space.builds(&["firmware"]);
    output.counts(3, 0, 0);
    let archive = space.path("dist/fw.tar");
    let tree = tree(&archive);
    let mut taken = pairs(&TAKEN);
    taken.push(("old/chain.bin".into(), "-> ../middle/chain.bin".into()));
    assert_eq!(below(&tree, "lib/firmware/"), taken);
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
    for (path, _) in FILES.iter().filter(|(path, _)| ["card/unused.bin", "secret.bin"].contains(path)) {
        assert!(!stored(&space, FILES.iter().find(|(p, _)| p == path).unwrap().1), "{path}");
    }
    space.assert_clean();
}

/// Whether the store has a blob of this content.
fn stored(space: &Space, content: &str) -> bool {
    blobs(space.store())
        .iter()
        .any(|(path, _)| std::fs::read(path).is_ok_and(|bytes| bytes == content.as_bytes()))
}

/// Packs a folder of the workspace; `names` in this order.
fn tar(space: &Space, archive: &str, dir: &Path, names: &[&str]) -> PathBuf {
    need("tar", "tar");
    let path = space.path(archive);
    let status = Command::new("tar").arg("-caf").arg(&path).arg("-C").arg(dir).args(names).status().unwrap();
    assert!(status.success());
    path
}

#[test]
fn a_tarball_gives_the_tree_of_its_folder() {
    let space = Space::new(YAML);
    fill(&space);
    space.builds(&["firmware"]);
    let expected = std::fs::read(space.path("dist/fw.tar")).unwrap();
    let top = "linux-firmware-20250808";
    let outside = space.base().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let copied = Command::new("cp").arg("-r").arg(space.path("fw")).arg(outside.join(top)).status().unwrap();
    assert!(copied.success());
    let in_top = |names: &[&str]| names.iter().map(|n| format!("{top}/{n}")).collect::<Vec<_>>();
    let first = in_top(&["WHENCE", "LICENSES", "card", "chips", "gone", "new", "secret.bin"]);
    let last = in_top(&["LICENSES", "card", "chips", "gone", "new", "secret.bin", "WHENCE"]);
    let text = |names: &[String]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<String>>();
    let mut versions = Vec::new();
    for (archive, dir, names) in [
        ("linux-firmware-20250808.tar.xz", outside.clone(), text(&first)),
        ("late.tar.gz", outside.clone(), text(&last)),
        ("whole.tar", outside.clone(), vec![top.to_owned()]),
        ("no-top.tar.zst", outside.join(top), vec![".".to_owned()]),
    ] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let path = tar(&space, archive, &dir, &names);
        let url = format!("file://{}", path.display());
        for source in [format!("{{ path: {archive} }}"), format!("{{ url: \"{url}\" }}")] {
            let name = format!("other-{}", versions.len());
            let other = space.beside(&name, &YAML.replace("{ path: fw }", &source));
            let other = other.with_store(&format!("store-{name}"));
            fill(&other);
            std::fs::copy(&path, other.path(archive)).unwrap();
            other.builds(&["firmware"]);
            assert!(std::fs::read(other.path("dist/fw.tar")).unwrap() == expected, "{source}");
            assert!(stored(&other, "card a"));
            assert!(!stored(&other, "nobody asks for this") && !stored(&other, "x1 main"), "{source}");
            let facts = other.json(&["show", "firmware", "--json"])["facts"].clone();
            versions.push(facts["version"].as_str().unwrap().to_owned());
            other.assert_clean();
        }
    }
    // By the file's name, else by the folder in it, else by its content.
    assert!(versions[..6].iter().all(|v| v == "20250808"), "{versions:?}");
    assert!(versions[6..].iter().all(|v| v.len() == 7 && *v == versions[6]), "{versions:?}");
}

#[test]
fn an_archive_may_have_links_and_a_whence_elsewhere() {
    let space = Space::new(&YAML.replace("{ path: fw }", "{ path: fw.tar }"));
    fill(&space);
    // A file that is a link in the source, another name of one, and a list that is not the source's.
    let dir = space.path("fw");
    std::fs::rename(dir.join("card/a.bin"), dir.join("zz-real")).unwrap();
    std::os::unix::fs::symlink("../zz-real", dir.join("card/a.bin")).unwrap();
    std::fs::hard_link(dir.join("chips/x1/boot.bin"), dir.join("aa-other-name")).unwrap();
    space.write("fw/aaa/WHENCE", "Driver: other\nFile: card.bin\n\nLicence: none\n");
    space.write("fw/aab/WHENCE", "Link: broken\n");
    tar(
        &space,
        "fw.tar",
        &dir,
        &["aab", "aaa", "aa-other-name", "card", "chips", "new", "gone", "WHENCE", "LICENSES", "zz-real"],
    );
    space.builds(&["firmware"]);
    let mut taken = pairs(&TAKEN);
    taken.push(("old/chain.bin".into(), "-> ../middle/chain.bin".into()));
    assert_eq!(below(&tree(&space.path("dist/fw.tar")), "lib/firmware/"), taken);
    let log = space.log("firmware");
    assert!(log.contains("reading the archive again (pass 2)"), "{log}");
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
fn hostile_and_broken_lists_are_refused() {
    let space = Space::new(&YAML.replace("{ path: fw }", "{ path: fw.tar }"));
    fill(&space);
    space.write(
        "fw/WHENCE",
        "Driver: x\nFile: ../../etc/passwd\nFile: /etc/shadow\nLink: card.bin -> ../../../etc/passwd\nLink: nowhere\n",
    );
    tar(&space, "fw.tar", &space.path("fw"), &["."]);
    for source in ["fw.tar", "fw"] {
        space.edit_yaml("path: fw.tar", &format!("path: {source}"));
        let output = space.build(&["firmware"]);
        assert_eq!(output.code, Some(1), "{output}");
        output
            .says("WHENCE of the source cannot be read:")
            .says("line 2: \"File: ../../etc/passwd\": it leads out of the firmware folder")
            .says("line 3: \"File: /etc/shadow\": it is absolute")
            .says("line 4: \"Link: card.bin -> ../../../etc/passwd\": it leads out of the firmware folder")
            .says("line 5: \"Link: nowhere\": a link is written as NAME -> TARGET");
        space.edit_yaml(&format!("path: {source}"), "path: fw.tar");
    }
    // Names in modules are other people's too.
    space.write("fw/WHENCE", WHENCE);
    let modules = ModuleDir::new(&space, "kernel");
    modules.module(
        "kernel/card.ko",
        &["../../../etc/passwd", "/etc/shadow", "card/../card/a.bin", "[", "**/**", ""],
    );
    space.edit_yaml("path: fw.tar", "path: fw");
    space.builds(&["firmware"]);
    let tree = tree(&space.path("dist/fw.tar"));
    assert!(
        tree.keys().all(|path| path.starts_with("lib/firmware/") || path.starts_with("usr/share/")),
        "{tree:?}"
    );
    let notes = notes(&space, "firmware");
    for line in [
        "warning: card asks for ../../../etc/passwd: it leads out of lib/firmware",
        "warning: card asks for /etc/shadow: it is absolute; names are relative to lib/firmware",
    ] {
        assert!(notes.contains(&line.to_owned()), "{notes:#?}");
    }
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
fn a_source_without_a_list_is_taken_by_name() {
    let space = Space::new(YAML);
    fill(&space);
    space.remove("fw/WHENCE");
    std::os::unix::fs::symlink("card/a.bin", space.path("fw/card.bin")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", space.path("fw/vendor")).unwrap();
    space.write("fw/lost/chain-3.bin.zst", "packed");
    std::fs::create_dir(space.path("fw/gone-elsewhere")).unwrap();
    let check = |space: &Space, output: &Output| {
        let tree = tree(&space.path("dist/fw.tar"));
        assert_eq!(
            below(&tree, ""),
            pairs(&[
                ("lib/firmware/card.bin", "-> card/a.bin"),
                ("lib/firmware/card/a.bin", "card a"),
                ("lib/firmware/card/more words.txt", "more words"),
                ("lib/firmware/card/two words.txt", "two words"),
                ("lib/firmware/chips/board.A.txt", "board A"),
                ("lib/firmware/chips/board.B.txt", "board B"),
                ("lib/firmware/chips/x2/boot.bin", "x2 boot"),
                ("lib/firmware/secret.bin", "WHENCE does not name this"),
            ])
        );
        let no_list =
            "the source has no WHENCE at its top: files are taken by name, and nothing tells their licences";
        let warned = warnings(output);
        assert_eq!(warned.iter().filter(|w| w.contains(no_list)).count(), 1, "{warned:?}");
        let notes = notes(space, "firmware");
        assert_eq!(notes[0], no_list);
        let packed = "warning: lost asks for lost/chain-3.bin: the source has lost/chain-3.bin.zst: take one that is not compressed";
        assert!(notes.contains(&packed.to_owned()), "{notes:#?}");
    };
    check(&space, &space.builds(&["firmware"]));
    // The same of an archive.
    tar(&space, "fw.tar.gz", &space.path("fw"), &["."]);
    space.edit_yaml("path: fw", "path: fw.tar.gz");
    check(&space, &space.builds(&["firmware"]));

    space.edit_yaml("source:", "compress: zstd, config: kernel.config, source:");
    space.write(
        "kernel.config",
        "CONFIG_FW_LOADER=y\nCONFIG_FW_LOADER_COMPRESS=y\nCONFIG_FW_LOADER_COMPRESS_ZSTD=y\n",
    );
    let output = space.build(&["firmware"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("nothing tells which files must not be compressed");
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

/// The fixtures of the real linux-firmware and of real modules.
fn fixtures() -> Option<PathBuf> {
    let path = repository().join("../shared/fixtures");
    if path.join("firmware/WHENCE").is_file() {
        return Some(path);
    }
    eprintln!("not run: there are no fixtures of firmware beside the repository");
    None
}

#[test]
fn the_real_list_and_real_modules() {
    let Some(fixtures) = fixtures() else { return };
    let space = Space::new(
        r#"targets:
  kernel: { rule: files, install: [{ from: { path: MODULES }, to: /lib/modules/6.1.0-56-amd64 }] }
  modules: { rule: modules, from: kernel, extra: [r8169, tg3, bnx2] }
  others: { rule: files, install: [{ from: others/, to: /lib/modules/6.1.0-56-amd64 }] }
  firmware: { rule: firmware, for: [modules, others], source: { path: fw } }
dist: { fw.tar: firmware }
"#,
    );
    space.edit_yaml("MODULES", fixtures.join("modules/debian-6.1.0-56-amd64").to_str().unwrap());
    let copied =
        Command::new("cp").arg("-r").arg(fixtures.join("firmware/tree")).arg(space.path("fw")).status();
    assert!(copied.unwrap().success());
    std::fs::copy(fixtures.join("firmware/WHENCE"), space.path("fw/WHENCE")).unwrap();
    // Further modules by their .modinfo alone.
    let modinfo =
        std::fs::read_to_string(fixtures.join("modules/modinfo/debian-6.1.0-56-amd64.txt")).unwrap();
    let mut asked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for part in modinfo.split("## kernel/").skip(1) {
        let path = part.lines().next().unwrap();
        let name = path.rsplit('/').next().unwrap().trim_end_matches(".ko");
        asked.insert(name, part.lines().filter_map(|l| l.strip_prefix("firmware=")).collect());
        let fields: Vec<String> =
            part.lines().skip(1).filter(|l| l.contains('=')).map(str::to_owned).collect();
        if ["ice", "bnx2x", "iwlwifi", "e100"].contains(&name) {
            ModuleDir::new(&space, "others").fields(path, &fields);
        }
    }
    let output = space.builds(&["firmware"]);
    let archive = space.path("dist/fw.tar");
    let entries = members(&archive);
    let there = |name: &str| {
        asked[name].iter().filter(|f| entries.contains_key(&format!("lib/firmware/{f}"))).count()
    };
    for (module, files, of) in
        [("r8169", 20, 20), ("tg3", 4, 4), ("bnx2", 5, 5), ("ice", 1, 1), ("bnx2x", 0, 6)]
    {
        assert_eq!((there(module), asked[module].len()), (files, of), "{module}");
    }
    let ice = "lib/firmware/intel/ice/ddp/ice.pkg";
    assert_eq!(entries[ice].link.as_deref(), Some("ice-1.3.26.0.pkg"));
    let package = fixtures.join("firmware/tree/intel/ice/ddp/ice-1.3.26.0.pkg");
    assert!(
        content(&archive, "lib/firmware/intel/ice/ddp/ice-1.3.26.0.pkg") == std::fs::read(package).unwrap()
    );
    assert!(entries.contains_key("usr/share/licenses/linux-firmware/LICENSE.ice"));
    let whence = text(&archive, "usr/share/licenses/linux-firmware/WHENCE");
    for section in ["Driver: r8169", "Driver: tg3", "Driver: bnx2 ", "Driver: ice"] {
        assert!(whence.contains(section), "{section}: {whence}");
    }

    // bnx2x: the driver is newer than the source. iwlwifi: 24 of 57 are in the list, of the rest most in other versions.
    let notes = notes(&space, "firmware");
    let of = |module: &str, reason: &str| {
        let begin = format!("warning: {module} asks for ");
        notes.iter().filter(|n| n.starts_with(&begin) && n.contains(reason)).count()
    };
    assert_eq!(of("bnx2x", "other versions are there, such as bnx2x/bnx2x-e"), 6, "{notes:#?}");
    assert!(
        notes.iter().any(|n| n.contains("bnx2x/bnx2x-e2-7.13.21.0.fw") && n.contains("bnx2x-e2-7.8.17.0.fw"))
    );
    assert_eq!(of("iwlwifi", "but the source does not have it"), 24);
    assert_eq!(of("iwlwifi", ""), 57);
    assert_eq!(of("e100", "WHENCE names e100/"), 3);
    let warned = warnings(&output);
    assert_eq!(warned.len(), 1);
    assert!(
        warned[0].contains("66 of 96 names have no file") && warned[0].lines().count() <= 12,
        "{warned:?}"
    );
    let facts = space.json(&["show", "firmware", "--json"])["facts"].clone();
    assert_eq!((facts["count"].as_str(), facts["missing"].as_str()), (Some("30"), Some("66")), "{facts}");
}
