//! `clean` and `remove` from outside: what each set takes out of a made-up tree and of one of Alpine's packages, and that
//! nothing else goes.

use std::collections::BTreeSet;

use mosbuild_tests::Space;
use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;
use mosbuild_tests::archive::{members, text};

/// Files that each set takes out, and what stays beside them.
const TAKEN: [(&str, &[&str]); 8] = [
    (
        "docs",
        &["usr/share/doc/tool/README", "usr/share/doc/tool/html/index.html", "usr/share/gtk-doc/html/a"],
    ),
    ("man", &["usr/share/man/man1/tool.1.gz", "usr/share/man/de/man1/tool.1.gz"]),
    ("info", &["usr/share/info/tool.info.gz"]),
    (
        "locales",
        &[
            "usr/share/locale/de/LC_MESSAGES/tool.mo",
            "usr/share/i18n/locales/musl/de_DE.UTF-8",
            "usr/lib/locale/de_DE.utf8/LC_TIME",
        ],
    ),
    (
        "headers",
        &[
            "usr/include/tool.h",
            "usr/lib/pkgconfig/tool.pc",
            "usr/lib/libtool.la",
            "usr/lib/tool/include/config.h",
            "usr/share/aclocal/tool.m4",
            "lib/modules/6.12/build/Makefile",
        ],
    ),
    ("static-libs", &["usr/lib/libtool.a", "usr/lib/crt1.o"]),
    ("completions", &["usr/share/bash-completion/completions/tool", "usr/share/zsh/site-functions/_tool"]),
    ("debug", &["usr/lib/debug/usr/bin/tool.debug"]),
];
const STAYS: [&str; 9] = [
    "usr/bin/tool",
    "usr/lib/libtool.so.1",
    "usr/share/licenses/tool/MIT",
    "usr/share/doc/tool/COPYING",
    "usr/share/locale/C/LC_MESSAGES/tool.mo",
    "usr/lib/locale/C.utf8/LC_CTYPE",
    "usr/lib/firmware/vendor/blob.a",
    "lib/modules/6.12/kernel/tool.ko",
    "usr/share/tool/tool.h.in",
];

fn files(space: &Space, archive: &str) -> BTreeSet<String> {
    let all = members(&space.path(archive));
    all.into_iter().filter(|(_, e)| !e.mode.starts_with('d')).map(|(path, _)| path).collect()
}

#[test]
fn each_set_takes_its_own() {
    let all: Vec<&str> = TAKEN.iter().flat_map(|(_, paths)| *paths).copied().chain(STAYS).collect();
    let mut yaml = String::from(
        "targets:\n  base:\n    rule: files\n    install: [{ from: tree/, to: / }]\n  \
         everything: { rule: rootfs, layers: base, clean: [docs, man, info, locales, headers, static-libs, completions, debug] }\n",
    );
    for (set, _) in TAKEN {
        yaml.push_str(&format!("  {set}: {{ rule: rootfs, layers: base, clean: {set} }}\n"));
    }
    yaml.push_str("dist:\n  everything.tar: everything\n");
    for (set, _) in TAKEN {
        yaml.push_str(&format!("  {set}.tar: {set}\n"));
    }
    let space = Space::new(&yaml);
    for path in &all {
        space.write(&format!("tree/{path}"), path);
    }
    let targets: Vec<&str> = TAKEN.iter().map(|(set, _)| *set).chain(["everything"]).collect();
    space.builds(&targets);
    for (set, taken) in TAKEN {
        let expected: BTreeSet<String> =
            all.iter().filter(|path| !taken.contains(path)).map(|path| (*path).to_owned()).collect();
        assert_eq!(files(&space, &format!("dist/{set}.tar")), expected, "{set}");
        // What it took is said, while it runs and later.
        let bytes: usize = taken.iter().map(|path| path.len()).sum();
        let note = match taken.len() {
            1 => format!("clean {set}: 1 file, {bytes} B"),
            n => format!("clean {set}: {n} files, {bytes} B"),
        };
        assert!(space.log(set).contains(&note), "{}", space.log(set));
        assert!(space.run(&["show", set]).stdout.contains(&note), "{note}");
    }
    let stays: BTreeSet<String> = STAYS.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(files(&space, "dist/everything.tar"), stays);
    // Folders go with what was in them, and stay with what is.
    let left = members(&space.path("dist/everything.tar"));
    assert!(!left.contains_key("usr/include") && !left.contains_key("usr/share/man"));
    assert!(left.contains_key("usr/share/doc/tool") && !left.contains_key("usr/share/doc/tool/html"));
    space.assert_clean();
}

#[test]
fn what_a_set_or_a_glob_may_be_is_said_with_its_place() {
    let space = Space::new("");
    for (fields, pointed, text) in [
        ("clean: doc", "doc", "`docs`"),
        ("clean: [man, manual]", "manual", "expected `docs`, `man`"),
        ("strip: [usr/bin, \"[a\"]", "\"[a\"", "unclosed character class"),
        ("upx: { exclude: \"{a\" }", "\"{a\"", "unclosed alternate group"),
        ("strip: { only: a }", "only", "unknown field `only`"),
        ("max_size: lots", "lots", "\"lots\" is no size"),
    ] {
        let line = format!("  r: {{ rule: rootfs, layers: r2, {fields} }}");
        space.yaml(&format!("targets:\n{line}\n  r2: {{ rule: files, install: [{{ dir: /x }}] }}\n"));
        let output = space.build(&["r"]);
        assert_eq!(output.code, Some(2), "{fields}: {output}");
        output.says(text).says(&format!("mosbuild.yaml:4:{}\n", line.find(pointed).unwrap() + 1));
    }
}

/// Packages of Alpine, and one of the test's own that has what real ones put into `-doc` and `-dev`: apk's database is as
/// it was, and the tree is what the packages brought but for the sets.
#[test]
fn a_tree_of_packages() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["busybox", "tool"]);
        let mut tool = Apk::new("tool", "1.0-r0");
        for path in TAKEN.iter().flat_map(|(_, paths)| *paths).copied().chain(STAYS) {
            tool = tool.file(path, path);
        }
        stand.own(&[tool]);
        let yaml = stand.yaml(&[stand.mirror.url()], &["busybox", "tool"], "");
        let rootfs = "  rootfs: { rule: rootfs, layers: packages, clean: [docs, man, info, locales, headers, static-libs, completions, debug, apk-cache] }\n\
                      dist: { rootfs.tar: rootfs, ";
        stand.space.yaml(&yaml.replace("dist: { ", rootfs));
        stand.space.builds(&["rootfs", "packages"]);
        let before = files(&stand.space, "dist/packages.tar");
        let after = files(&stand.space, "dist/rootfs.tar");
        let gone: BTreeSet<&str> = before.difference(&after).map(String::as_str).collect();
        let own: BTreeSet<&str> = TAKEN.iter().flat_map(|(_, paths)| *paths).copied().collect();
        assert!(own.is_subset(&gone), "{gone:?}");
        let more: Vec<&&str> = gone.difference(&own).collect();
        // What the real packages have of the same kinds: nothing that runs.
        let kinds = [
            "usr/share/man/",
            "usr/share/doc/",
            "usr/share/locale/",
            "usr/share/i18n/",
            "usr/lib/pkgconfig/",
            "usr/include/",
            "var/cache/apk/",
        ];
        let odd: Vec<_> = more.iter().filter(|p| !kinds.iter().any(|k| p.starts_with(k))).collect();
        assert!(odd.is_empty(), "{odd:?}");
        assert!(after.is_subset(&before) && STAYS.iter().all(|path| after.contains(*path)));
        let database = |archive: &str| text(&stand.space.path(archive), "lib/apk/db/installed");
        assert_eq!(database("dist/rootfs.tar"), database("dist/packages.tar"));
    }
}
