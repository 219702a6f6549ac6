//! WHENCE against the real one, an oracle of its own in Python, and the file system itself.
//! Knows the fixtures; the codec knows none of them.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use mosbuild_formats::whence::{Catalog, Clash, Kind, Whence};
use proptest::prelude::*;

const SAMPLE: &str = r#"             **********
             * WHENCE *
             **********

File names are listed below: this head is free text.

--------------------------------------------------------------------------

Driver: first -- a card: with colons

File: one/a.bin
Version: 1.2
File:one/b.bin
RawFile: one/raw.bin
Link: old.bin -> one/a.bin
Link: two/new.bin -> ../old.bin
Source: one/src/Makefile
Version 3 is free text, and so is this

Licence: Redistributable. See LICENCE.one and one/NOTICE.txt for details.

Found in hex form in kernel source.

--------------------------------------------------------------------------

Driver: second
Driver: third: another
File: "brcm/brcmfmac43455-sdio.MINIX-NEO Z83-4.txt"
Link: brcm/brcmfmac43455-sdio.Raspberry\ Pi\ 4.txt -> brcmfmac43455-sdio.MINIX-NEO\ Z83-4.txt
File: three/x/1.bin
File: three/x/2.bin
Link: four -> three
Link: five/six -> ../four/x

License:
 the text itself

File: free.bin

Licence: Free software. See GPL-2 for details.
--------------------------------------------------------------------------
"#;

fn files(catalog: &Catalog, request: &str) -> Vec<String> {
    catalog.look_up(request).unwrap().files.into_iter().collect()
}

fn links(catalog: &Catalog, request: &str) -> Vec<String> {
    catalog.look_up(request).unwrap().links.into_iter().collect()
}

#[test]
fn records_of_a_small_one() {
    let whence = Whence::parse(SAMPLE).unwrap();
    let paths: Vec<(&str, bool)> = whence.files.iter().map(|f| (f.path.as_str(), f.raw)).collect();
    assert_eq!(
        paths,
        [
            ("one/a.bin", false),
            ("one/b.bin", false),
            ("one/raw.bin", true),
            ("brcm/brcmfmac43455-sdio.MINIX-NEO Z83-4.txt", false),
            ("three/x/1.bin", false),
            ("three/x/2.bin", false),
            ("free.bin", false),
        ]
    );
    let arrows: Vec<(&str, &str)> =
        whence.links.iter().map(|l| (l.name.as_str(), l.target.as_str())).collect();
    assert_eq!(
        arrows,
        [
            ("old.bin", "one/a.bin"),
            ("two/new.bin", "old.bin"),
            ("brcm/brcmfmac43455-sdio.Raspberry Pi 4.txt", "brcm/brcmfmac43455-sdio.MINIX-NEO Z83-4.txt"),
            ("four", "three"),
            ("five/six", "four/x"),
        ]
    );
    assert_eq!(whence.files[0].version.as_deref(), Some("1.2"));
    assert_eq!(whence.files[1].version, None);
    assert_eq!(whence.sections.len(), 2);
    let names: Vec<Vec<&str>> = whence.sections.iter().map(|s| s.driver_names().collect()).collect();
    assert_eq!(names, [vec!["first"], vec!["second", "third"]]);
    assert_eq!(whence.sections[0].sources, ["one/src/Makefile"]);
    let licence = |i: usize| whence.licence(&whence.files[i]).unwrap();
    assert_eq!(licence(0).texts, ["LICENCE.one", "one/NOTICE.txt"]);
    assert_eq!((licence(3).title.as_str(), licence(5)), ("", licence(3)));
    assert_eq!(licence(6).texts, ["GPL-2"]);

    let excerpt = whence.excerpt([1]);
    let again = Whence::parse(&excerpt).unwrap();
    assert_eq!((again.files.len(), again.links.len(), again.sections.len()), (4, 3, 1));
    assert!(excerpt.contains("the text itself") && !excerpt.contains("one/a.bin"), "{excerpt}");
}

#[test]
fn names_end_in_files_by_links_in_any_component() {
    let catalog = Whence::parse(SAMPLE).unwrap().catalog();
    assert_eq!(files(&catalog, "one/a.bin"), ["one/a.bin"]);
    assert_eq!(links(&catalog, "one/a.bin"), [""; 0]);
    assert_eq!(files(&catalog, "two/new.bin"), ["one/a.bin"]);
    assert_eq!(links(&catalog, "two/new.bin"), ["old.bin", "two/new.bin"]);
    assert_eq!(files(&catalog, "five/six/2.bin"), ["three/x/2.bin"]);
    assert_eq!(links(&catalog, "five/six/2.bin"), ["five/six", "four"]);
    // A folder, by itself and by links.
    for folder in ["three", "three/", "four/", "five", "three/**", "f*/**", "five/six", "t*/x/*", "five/*/*"]
    {
        assert_eq!(files(&catalog, folder), ["three/x/1.bin", "three/x/2.bin"], "{folder}");
    }
    assert_eq!(links(&catalog, "four/"), ["four"]);
    assert_eq!(links(&catalog, "five/*/*"), ["five/six", "four"]);
    // Globs: within a component, with links, across folders.
    assert_eq!(files(&catalog, "one/*"), ["one/a.bin", "one/b.bin", "one/raw.bin"]);
    assert_eq!(files(&catalog, "one/[ab].bin"), ["one/a.bin", "one/b.bin"]);
    assert_eq!(files(&catalog, "*"), ["free.bin", "one/a.bin"]);
    assert_eq!(links(&catalog, "*"), ["old.bin"]);
    assert_eq!(files(&catalog, "**/*.bin").len(), 6);
    assert_eq!(files(&catalog, "brcm/brcmfmac*-sdio.*.txt").len(), 1);
    assert_eq!(links(&catalog, "brcm/brcmfmac*-sdio.*.txt").len(), 1);
    for nothing in
        ["", "ones", "one/a.bin/x", "one/a", "*/six/*/*", "x*", "four/x/3.bin", "..", "../one/a.bin"]
    {
        match nothing {
            // Nothing asked for is the top itself.
            "" => assert_eq!(files(&catalog, nothing).len(), 7),
            _ => assert_eq!(catalog.look_up(nothing).unwrap(), Default::default(), "{nothing}"),
        }
    }
}

#[test]
fn what_cannot_be_meant_is_named_with_its_line() {
    let text = "Driver: x\nFile: ../../etc/passwd\nFile: /etc/shadow\nFile:\nFile: a/\nFile: \"b\nLink: c\nLink: d -> \
                /etc/passwd\nLink: e/f -> ../../g\nFile: h\nFile: h/i\nLink: j -> k\nLink: j -> l\nLink: m/n -> ..\n\
                Link: o -> o\nRawFile: a\\\nFile: fine.bin\nLicence: Unknown\n";
    let errors = Whence::parse(text).unwrap_err();
    let shown: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "line 2: \"File: ../../etc/passwd\": it leads out of the firmware folder, or might",
            "line 3: \"File: /etc/shadow\": it is absolute; paths are relative to the firmware folder",
            "line 4: \"File:\": it names nothing",
            "line 5: \"File: a/\": it names a folder, where one file is expected",
            "line 6: \"File: \\\"b\": a quote has no end",
            "line 7: \"Link: c\": a link is written as NAME -> TARGET",
            "line 8: \"Link: d -> /etc/passwd\": it is absolute; paths are relative to the firmware folder",
            "line 9: \"Link: e/f -> ../../g\": it leads out of the firmware folder",
            "line 11: \"File: h/i\": it lies below the name of a file or a link",
            "line 13: \"Link: j -> l\": there is a link of this name that leads elsewhere",
            "line 14: \"Link: m/n -> ..\": it leads to the firmware folder itself",
            "line 15: \"Link: o -> o\": it leads to itself",
            "line 16: \"RawFile: a\\\\\": it ends in a backslash",
        ]
    );
    assert!(errors.to_string().starts_with("line 2: "));
}

#[test]
fn what_real_ones_have_is_no_error() {
    // The same twice, a link whose name is a file's, carriage returns, a byte order mark, no sections at all.
    let text = "\u{feff}Driver: a\r\nFile: x\r\nFile: x\r\nLink: y -> x\r\nLink: y -> x\r\nLink: x -> z\r\nFile: z\r\n";
    let whence = Whence::parse(text).unwrap();
    assert_eq!((whence.files.len(), whence.sections.len()), (3, 1));
    assert_eq!(files(&whence.catalog(), "y"), ["x"]);
    assert_eq!(Whence::parse("").unwrap(), Whence::default());
    // Circles and links to nothing end nowhere.
    let circle = Whence::parse(
        "Link: a -> b\nLink: b -> a\nLink: c -> nothing\nLink: d/e -> ../f\nLink: f/g -> ../d\n",
    );
    let catalog = circle.unwrap().catalog();
    for request in ["a", "b", "c", "d/e/g/e/g/x", "d", "**", "*/*/*/*/*/*/*/*"] {
        assert_eq!(files(&catalog, request), [""; 0], "{request}");
    }
}

#[test]
fn hostile_requests_end() {
    let mut catalog = Catalog::default();
    for i in 0..60 {
        catalog.add_file(&format!("{}f{i}", "a/".repeat(i))).unwrap();
    }
    assert!(catalog.look_up(&"**/".repeat(40)).is_err());
    // A circle of links to folders, gone round as often as the longest request allows.
    let mut catalog = Catalog::default();
    catalog.add_link("a/x", "b").unwrap();
    catalog.add_link("b/x", "a").unwrap();
    catalog.add_file("b/f").unwrap();
    assert_eq!(files(&catalog, &"*/".repeat(5000)), [""; 0]);
    assert_eq!(files(&catalog, "*/*/*/*/f"), ["b/f"]);
    assert_eq!(files(&catalog, &format!("a/{}f", "x/".repeat(45))), [""; 0]);
    assert_eq!(files(&catalog, &format!("a/{}f", "x/".repeat(39))), ["b/f"]);
    assert_eq!(catalog.add_file("a/x/y"), Err(Clash::Below));
}

/// Names as they occur and as they should not, of few characters, so that they meet.
fn name() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab ]?[ab\\\\\"\\-> .]?[ab]", 1..4).prop_map(|parts| parts.join("/"))
}

fn quoted(name: &str) -> String {
    match name.contains('"') || name.contains('\\') {
        true => escaped(name),
        false => format!("\"{name}\""),
    }
}

fn escaped(name: &str) -> String {
    name.chars().flat_map(|c| [Some('\\').filter(|_| " \"\\>".contains(c)), Some(c)]).flatten().collect()
}

proptest! {
    #[test]
    fn names_come_back_however_they_are_written(a in name(), b in name(), how in 0..4) {
        let write = |name: &str, quote: bool| if quote { quoted(name) } else { escaped(name) };
        let text = format!(
            "Driver: x\nFile: {}\nRawFile:   {}  \nLink: l/l -> ../{}\n",
            write(&a, how & 1 == 0), write(&b, how & 2 == 0), write(&a, how & 2 == 0)
        );
        prop_assume!(a != b && a != "l/l");
        let below = |x: &str, y: &str| x.starts_with(&format!("{y}/"));
        prop_assume!(!below(&a, &b) && !below(&b, &a));
        let whence = Whence::parse(&text).unwrap();
        prop_assert_eq!(&whence.files[0].path, &a);
        prop_assert_eq!((&whence.files[1].path, whence.files[1].raw), (&b, true));
        prop_assert_eq!(&whence.links[0].target, &a);
        prop_assert_eq!(files(&whence.catalog(), "l/l"), vec![a]);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "((File|RawFile|Link|Driver|Licence|Version|Source): ?[a-c./\\\\\"> -]{0,12}\n|-{10,12}\n|[a-z: ]{0,9}\n){0,20}", request in "[a-c*?/\\[\\]{}]{0,8}") {
        if let Ok(whence) = Whence::parse(&text) {
            let catalog = whence.catalog();
            for file in &whence.files {
                prop_assert!(file.path.split('/').all(|p| !matches!(p, "" | "." | "..")));
                prop_assert!(files(&catalog, &file.path).contains(&file.path));
            }
            for found in [catalog.look_up(&request).unwrap(), catalog.look_up("**").unwrap()] {
                prop_assert!(found.files.iter().all(|f| whence.files.iter().any(|w| w.path == *f)));
                prop_assert!(found.links.iter().all(|l| whence.links.iter().any(|w| w.name == *l)));
            }
            let all: Vec<usize> = (0..whence.sections.len()).collect();
            let again = Whence::parse(&whence.excerpt(all)).unwrap();
            prop_assert_eq!(again.files.len(), whence.files.len());
        }
    }

    /// The file system itself says where a path ends.
    #[test]
    fn links_are_followed_as_linux_follows_them(
        entries in prop::collection::vec(("[ab](/[ab]){0,2}", prop::option::of("(\\.\\./){0,2}[ab](/[ab]){0,2}")), 1..8),
        requests in prop::collection::vec("[ab](/[ab]){0,4}", 8),
    ) {
        let text: String = entries
            .iter()
            .map(|(name, target)| match target {
                Some(target) => format!("Link: {name} -> {target}\n"),
                None => format!("File: {name}\n"),
            })
            .collect();
        let Ok(whence) = Whence::parse(&text) else { return Ok(()) };
        let catalog = whence.catalog();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for file in &whence.files {
            fs::create_dir_all(root.join(&file.path).parent().unwrap()).unwrap();
            fs::write(root.join(&file.path), "").unwrap();
        }
        for link in whence.links.iter().filter(|l| !whence.files.iter().any(|f| f.path == l.name)) {
            let at = root.join(&link.name);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            if at.symlink_metadata().is_err() {
                std::os::unix::fs::symlink(root.join(&link.target), at).unwrap();
            }
        }
        for request in requests {
            let ours = catalog.resolve(&request);
            let theirs = root.join(&request).canonicalize().ok();
            prop_assert_eq!(ours.as_ref().map(|end| root.join(&end.path)), theirs.clone(), "{}\n{}", text, request);
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours.kind == Kind::Folder, theirs.is_dir());
            }
        }
    }
}

/// An independent reading: makes empty files and links in a folder, then says where each path and glob ends.
/// Lines of `what<TAB>name<TAB>end`.
const ORACLE: &str = r#"
import glob, os, re, sys
whence, root, globs = sys.argv[1], sys.argv[2], sys.argv[3:]
def clean(text): return re.sub(r'\\(.)', r'\1', text.strip().replace('"', ''))
files, links = [], []
for line in open(whence, encoding='utf-8', errors='replace'):
    m = re.match(r'(?:Raw)?File:(.*)', line)
    if m: files.append(clean(m.group(1)))
    m = re.match(r'Link:(.*?)->(.*)', line)
    if m: links.append((clean(m.group(1)), clean(m.group(2))))
for name in files:
    os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
    open(os.path.join(root, name), 'w').close()
for name, target in links:
    os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
    if not os.path.lexists(os.path.join(root, name)): os.symlink(target, os.path.join(root, name))
real = os.path.realpath(root)
def end(path): return os.path.relpath(os.path.realpath(path), real)
print('count', len(set(files)), len(links), sep='\t')
for name in sorted(set(files) | {l for l, _ in links}):
    path = os.path.join(root, name)
    print('name', name, end(path) if os.path.isfile(path) else '', sep='\t')
for pattern in globs:
    for path in glob.glob(os.path.join(root, pattern)):
        if os.path.isfile(path): print('glob', pattern, end(path), sep='\t')
"#;

/// Compares with the oracle on a whole WHENCE; gives the number of files and links.
fn compare_with_oracle(path: &Path, globs: &[&str]) -> (usize, usize) {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    let whence = Whence::parse(&text).unwrap();
    let catalog = whence.catalog();
    let root = tempfile::tempdir().unwrap();
    let output = Command::new("python3")
        .args(["-c", ORACLE])
        .arg(path)
        .arg(root.path())
        .args(globs)
        .output()
        .expect("python3 is there");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = told.lines().map(|l| l.split('\t').collect()).collect();
    let unique: BTreeSet<&str> = whence.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(lines[0], ["count", &unique.len().to_string(), &whence.links.len().to_string()]);
    let names: Vec<&str> = lines.iter().filter(|l| l[0] == "name").map(|l| l[1]).collect();
    assert_eq!(catalog.names(), names);
    for line in lines.iter().filter(|l| l[0] == "name") {
        let expected: Vec<&str> = line[2..].iter().copied().filter(|end| !end.is_empty()).collect();
        let found = files(&catalog, line[1]);
        // A link to a folder stands for all below it; the oracle says nothing of those.
        if !expected.is_empty() || catalog.resolve(line[1]).is_none_or(|end| end.kind == Kind::File) {
            assert_eq!(found, expected, "{}", line[1]);
        }
    }
    for pattern in globs {
        let expected: BTreeSet<String> =
            lines.iter().filter(|l| l[0] == "glob" && l[1] == *pattern).map(|l| l[2].to_owned()).collect();
        assert_eq!(catalog.look_up(pattern).unwrap().files, expected, "{pattern}");
    }
    (unique.len(), whence.links.len())
}

#[test]
fn a_small_one_reads_as_the_oracle_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("WHENCE");
    fs::write(&path, SAMPLE).unwrap();
    let globs =
        ["*", "*/*", "one/*", "four/*/*", "five/*/?.bin", "brcm/brcmfmac*-sdio.*.txt", "[a-o]*/*.bin"];
    assert_eq!(compare_with_oracle(&path, &globs), (7, 5));
}

#[test]
fn the_real_one_reads_as_the_oracle_reads_it() {
    let Some(path) = common::fixtures("firmware/WHENCE") else { return };
    let globs = [
        "rtl_nic/*",
        "*/*",
        "*",
        "amdgpu/*_sdma.bin",
        "iwlwifi-*-[0-9]?.ucode",
        "intel/*/*/*",
        "qcom/*/*.m?n",
    ];
    assert_eq!(compare_with_oracle(&path, &globs), (1329, 22));

    let whence = Whence::parse(&String::from_utf8_lossy(&fs::read(path).unwrap())).unwrap();
    // 154 lines name a driver; some sections have several, some have none.
    let drivers: usize = whence.sections.iter().map(|s| s.drivers.len()).sum();
    assert_eq!(drivers, 154);
    let catalog = whence.catalog();
    let ice = catalog.look_up("intel/ice/ddp/ice.pkg").unwrap();
    assert_eq!(ice.files.into_iter().collect::<Vec<_>>(), ["intel/ice/ddp/ice-1.3.26.0.pkg"]);
    let file = whence.files.iter().find(|f| f.path == "intel/ice/ddp/ice-1.3.26.0.pkg").unwrap();
    assert_eq!(whence.licence(file).unwrap().texts, ["LICENSE.ice"]);
    assert_eq!(whence.sections[file.section].driver_names().collect::<Vec<_>>(), ["ice"]);
    let without: Vec<&str> =
        whence.files.iter().filter(|f| whence.licence(f).is_none()).map(|f| f.path.as_str()).collect();
    assert!(without.len() < 60, "{without:?}");
}
