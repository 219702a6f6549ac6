//! Where `firmware` is taken from: tarballs and folders, with a list, without one, with a hostile one, and the real one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use mosbuild_tests::archive::{content, members, text};
use mosbuild_tests::firmware::{TAKEN, WHENCE, YAML, below, fill, notes, pairs, stored, tar, tree, warnings};
use mosbuild_tests::modules::ModuleDir;
use mosbuild_tests::{Output, Space, repository};

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
    assert_eq!(below(&tree(&space.path("dist/fw.tar")), "lib/firmware/"), pairs(&TAKEN));
    let log = space.log("firmware");
    assert!(log.contains("reading the archive again (pass 2)"), "{log}");
}

#[test]
fn a_list_that_comes_very_late_costs_a_second_reading() {
    let space = Space::new(&YAML.replace("{ path: fw }", "{ path: fw.tar }"));
    fill(&space);
    // As much as is kept in memory before the list is known.
    let big = std::fs::File::create(space.path("fw/aa-big")).unwrap();
    big.set_len(64 << 20).unwrap();
    tar(
        &space,
        "fw.tar",
        &space.path("fw"),
        &["aa-big", "card", "new", "gone", "WHENCE", "chips", "LICENSES"],
    );
    space.builds(&["firmware"]);
    assert_eq!(below(&tree(&space.path("dist/fw.tar")), "lib/firmware/"), pairs(&TAKEN));
    let log = space.log("firmware");
    assert!(log.contains("reading the archive again (pass 2) for 6 files"), "{log}");
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

/// The fixtures of the real linux-firmware and of real modules.
#[allow(clippy::print_stderr)]
fn fixtures() -> Option<PathBuf> {
    let path = repository().join("../shared/fixtures");
    if path.join("firmware/WHENCE").is_file() {
        return Some(path);
    }
    eprintln!("did not run: fixtures firmware are not here");
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
