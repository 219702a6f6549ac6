//! Tools of this host in a real sandbox, and identities over a fake dpkg database.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::exec::{End, Executor, Job, Outcome, Sandbox};

/// A workspace with a dpkg database of its own. The programs are the host's.
struct Fake {
    dir: tempfile::TempDir,
}

const PACKAGES: [(&str, &str, &str); 13] = [
    ("dash", "0.5", "Essential: yes\nPre-Depends: libc6 (>= 2.36)"),
    ("base-files", "12.4", "Essential: yes\nPre-Depends: awk"),
    ("mawk", "1.3", "Provides: awk\nDepends: libc6 (>= 2.36)"),
    ("make", "4.3-4.1", "Depends: libc6 (>= 2.27), debconf:any (>= 0.5) | debconf-2.0\nSuggests: make-doc"),
    ("make-doc", "4.3", ""),
    ("cdebconf", "0.270", "Provides: debconf-2.0 (= 2)"),
    (
        "gcc",
        "12.2",
        "Depends: gcc-12 (>= 12)\nRecommends: libc6-dev | libc-dev\nDescription: x\n Depends: make-doc",
    ),
    ("gcc-12", "12.2.0-14", "Depends: binutils (>= 2.40), libc6"),
    ("binutils", "2.40-2", "Depends: libc6\nRecommends: make-doc"),
    ("libc6-dev", "2.36-9", "Depends: libc6 (= 2.36-9), linux-libc-dev"),
    ("linux-libc-dev", "6.1.1", ""),
    ("libc6", "2.36-9", ""),
    ("perl-doc", "5.36", ""),
];

impl Fake {
    fn new() -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(this.path("root/var/lib/dpkg/info")).unwrap();
        fs::create_dir_all(this.path("ws/.mosbuild")).unwrap();
        this.status(|_, version| version.to_owned());
        this.list("make", "/usr/bin\n/usr/bin/make");
        this.list("gcc", "/usr/bin/gcc");
        // Not merged: dpkg lists the path that the package was built with.
        this.list("dash", "/bin/dash\n/bin/sh");
        this.list("binutils", "/usr/bin/as\n/usr/bin/ld");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn status(&self, version: impl Fn(&str, &str) -> String) {
        let paragraph = |(name, old, rest): &(&str, &str, &str)| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\n{rest}\n",
                version(name, old)
            )
        };
        let mut text: String =
            PACKAGES.iter().map(|package| paragraph(package).replace("\n\n", "\n") + "\n").collect();
        text += "Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\n";
        text += "Package: debconf\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 9\n\n";
        text += "Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 32-bit\n";
        // As dpkg does it: a new file in the place of the old one.
        fs::write(self.path("root/var/lib/dpkg/status-new"), text).unwrap();
        fs::rename(self.path("root/var/lib/dpkg/status-new"), self.path("root/var/lib/dpkg/status")).unwrap();
    }

    fn list(&self, package: &str, text: &str) {
        fs::write(self.path(&format!("root/var/lib/dpkg/info/{package}.list")), text).unwrap();
    }

    fn host(&self, memo: Option<&[u8]>) -> Host {
        let surroundings = Surroundings {
            path: vec![self.path("bin")],
            dpkg_root: self.path("root"),
            workspace: self.path("ws"),
        };
        Host::with(&self.path("ws/.mosbuild"), memo, surroundings)
    }

    fn identity(&self, tool: &str) -> Identity {
        self.host(None).identify(&[tool.to_owned()]).unwrap().remove(tool).unwrap()
    }
}

fn names(identity: &Identity) -> Vec<&str> {
    identity.packages.iter().map(|(name, _)| name.as_str()).filter(|name| !name.contains(' ')).collect()
}

#[test]
fn an_identity_is_the_owners_and_all_they_depend_on() {
    let fake = Fake::new();
    assert_eq!(names(&fake.identity("make")), ["cdebconf", "libc6", "make"]);
    // /usr/bin/gcc leads to a file that nobody in this database owns; the recommended headers count.
    let gcc = fake.identity("gcc");
    assert_eq!(names(&gcc), ["binutils", "gcc", "gcc-12", "libc6", "libc6-dev", "linux-libc-dev"]);
    assert_eq!(gcc.digest, None);
    assert_eq!(names(&fake.identity("libc6-dev")), ["libc6", "libc6-dev", "linux-libc-dev"]);
    assert_eq!(names(&fake.identity(BASE)), ["base-files", "dash", "libc6", "mawk"]);
    assert_eq!(names(&fake.identity("dash")), ["dash", "libc6"]);
    assert!(gcc.packages.contains(&("libc6".into(), "2.36-9".into())), "{gcc:?}");
}

#[test]
fn an_upgrade_in_the_closure_changes_the_identity_and_is_named_with_both_versions() {
    let fake = Fake::new();
    let host = fake.host(None);
    let old = host.identify(&["gcc".into(), "make".into()]).unwrap();
    let memo = host.memo().unwrap();

    // Nothing has changed: nothing is read, nothing is to be written.
    let again = fake.host(Some(&memo));
    assert_eq!(again.identify(&["gcc".into(), "make".into()]).unwrap(), old);
    assert_eq!(again.memo(), None);
    assert!(again.known().dpkg.is_none(), "the database was read");

    let upgrade =
        |name: &str, old: &str| if name == "libc6-dev" { "2.36-9+deb12u9".into() } else { old.to_owned() };
    fake.status(upgrade);
    let new = fake.host(Some(&memo)).identify(&["gcc".into(), "make".into()]).unwrap();
    assert_eq!(new["make"], old["make"]);
    let change =
        Change { what: "libc6-dev".into(), old: Some("2.36-9".into()), new: Some("2.36-9+deb12u9".into()) };
    assert_eq!(old["gcc"].changes(&new["gcc"]), [change]);

    // A package outside of the closure, likewise upgraded, changes nothing.
    fake.status(|name, old| if name == "perl-doc" { "6".into() } else { upgrade(name, old) });
    assert_eq!(fake.identity("gcc"), new["gcc"]);
}

#[test]
fn a_damaged_memo_is_no_memo() {
    let fake = Fake::new();
    let host = fake.host(None);
    let found = host.identify(&["make".into()]).unwrap();
    let mut memo = host.memo().unwrap();
    memo.truncate(memo.len() / 2);
    for memo in [memo.as_slice(), b"", b"\xff\xff\xff"] {
        assert_eq!(fake.host(Some(memo)).identify(&["make".into()]).unwrap(), found);
    }
}

#[test]
fn a_diverted_file_belongs_to_who_diverted_it() {
    let fake = Fake::new();
    fake.list("perl-doc", "/usr/bin/make");
    fs::write(fake.path("root/var/lib/dpkg/diversions"), "/usr/bin/make\n/usr/bin/make.real\nperl-doc\n")
        .unwrap();
    assert_eq!(names(&fake.identity("make")), ["perl-doc"]);
}

#[test]
fn what_no_package_owns_is_its_bytes() {
    let fake = Fake::new();
    fs::create_dir(fake.path("bin")).unwrap();
    let tool = fake.path("bin/own-tool");
    let write = |text: &str| {
        fs::write(&tool, text).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("#!/bin/sh\necho one\n");
    let host = fake.host(None);
    let old = host.identify(&["own-tool".into()]).unwrap().remove("own-tool").unwrap();
    assert_eq!(old.digest, Some(mosbuild_cache::Digest::of(b"#!/bin/sh\necho one\n")));
    assert!(old.packages.is_empty());
    // It lies outside of /usr, and is shown nevertheless.
    assert_eq!(in_sandbox(&host, &["own-tool"], "own-tool").1, "one\n");

    write("#!/bin/sh\necho three\n");
    let new =
        fake.host(host.memo().as_deref()).identify(&["own-tool".into()]).unwrap().remove("own-tool").unwrap();
    assert_eq!(old.changes(&new)[0].what, "file");
}

#[test]
fn what_is_missing_is_said_with_the_package_that_has_it() {
    let host = Fake::new().host(None);
    let names = ["make", "no-such-tool", "qemu-system-none", "../sh"].map(str::to_owned);
    let missing = host.identify(&names).unwrap_err();
    let text: Vec<String> = missing.iter().map(Missing::to_string).collect();
    assert_eq!(
        text[0],
        "no-such-tool: not found; on Debian: `apt-file search bin/no-such-tool` names the package that has it"
    );
    assert_eq!(text.len(), 3);
    assert_eq!(Missing::tool("gcc").to_string(), "gcc: not found; on Debian: apt-get install gcc");
    assert_eq!(Missing::tool("xz").to_string(), "xz: not found; on Debian: apt-get install xz-utils");
    for (tool, package) in [
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ("aarch64-linux-gnu-ld", "gcc-aarch64-linux-gnu"),
        ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
        ("libc6-dev-arm64-cross", "libc6-dev-arm64-cross"),
        ("qemu-system-aarch64", "qemu-system-arm"),
        ("hexdump", "bsdextrautils"),
    ] {
        let expected = format!("{tool}: not found; on Debian: apt-get install {package}");
        assert_eq!(Missing::tool(tool).to_string(), expected);
    }
}

#[test]
fn what_one_package_brings_is_said_together() {
    let missing = ["ld", "xz", "as", "unxz"].map(Missing::tool);
    let broken = Missing::broken("nm", "it dumped core");
    let said = together(missing.into_iter().chain([broken]).collect());
    let help = |package: &str| vec![format!("on Debian: apt-get install {package}")];
    assert_eq!(
        said,
        [
            ("ld, as: not found".to_owned(), help("binutils")),
            ("xz, unxz: not found".to_owned(), help("xz-utils")),
            ("nm: found, but it does not work: it dumped core".to_owned(), help("binutils")),
        ]
    );
}

#[test]
fn the_name_is_read_off_what_shells_write() {
    for (line, name) in [
        ("run: 3: flex: not found", Some("flex")),
        ("/bin/sh: 1: flex: not found\nmake: *** [Makefile:2: all] Error 127", Some("flex")),
        ("bash: line 1: x86_64-linux-gnu-gcc: command not found", Some("x86_64-linux-gnu-gcc")),
        ("make[2]: bison: No such file or directory", Some("bison")),
        ("/usr/bin/env: \u{2018}python3\u{2019}: No such file or directory", Some("python3")),
        ("env: 'python3': No such file or directory", Some("python3")),
        ("cat: missing.txt: No such file or directory", None),
        ("the page was not found", None),
        ("", None),
    ] {
        let expected = name.map(|name| format!("{name}: command not found; add it to tools: [{name}]"));
        assert_eq!(explain_127(line), expected, "{line}");
    }
}

fn in_sandbox(host: &Host, tools: &[&str], script: &str) -> (Outcome, String) {
    let scratch = tempfile::tempdir().unwrap();
    let build = scratch.path().join("build");
    fs::create_dir(&build).unwrap();
    let tools: Vec<String> = tools.iter().map(|&tool| tool.to_owned()).collect();
    let visible = host.layout(&tools).unwrap();
    let mut mounts = visible.mounts;
    mounts.push(Mount::writable(build, "/build/work"));
    let job = Job {
        argv: ["sh", "-eu", "-c", script, "run"].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), visible.path.into()), ("HOME".into(), "/tmp".into())],
        cwd: "/build/work".into(),
        mounts,
        log: scratch.path().join("log"),
        ..Job::default()
    };
    let outcome = Sandbox.run(&job, &()).unwrap();
    (outcome, fs::read_to_string(&job.log).unwrap_or_default())
}

#[test]
fn what_cargo_and_its_build_scripts_do_not_find_is_named() {
    let named = |line: &str| explain_tool(&format!("before\n{line}\nwarning: build failed\n"));
    for (line, name, package) in [
        (
            r#"error occurred in cc-rs: failed to find tool "c++": No such file or directory (os error 2)"#,
            "c++",
            "g++",
        ),
        (
            "error occurred: Failed to find tool. Is `x86_64-linux-musl-gcc` installed?",
            "x86_64-linux-musl-gcc",
            "musl-tools",
        ),
        ("error: linker `musl-gcc` not found", "musl-gcc", "musl-tools"),
        ("is `cmake` not installed?", "cmake", "cmake"),
        ("Could not run pkg-config: The pkg-config command could not be found.", "pkg-config", "pkgconf"),
        (
            "Error: Could not find `protoc`. If `protoc` is installed, try setting",
            "protoc",
            "protobuf-compiler",
        ),
    ] {
        let wanted = format!(
            "{name}: command not found; add it to tools: [{name}] (on Debian: apt-get install {package})"
        );
        assert_eq!(named(line), Some(wanted), "{line}");
    }
    for other in ["this is `fine`", "error: could not find `Cargo.toml` in `/x`", "help: is `x` meant?", ""] {
        assert_eq!(named(other), None, "{other}");
    }
}

fn this_host() -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::open(&dir.path().join(".mosbuild"), None);
    (dir, host)
}

const HELLO: &str =
    "printf '#include <stdio.h>\\nint main(void) { puts(\"hello\"); return 0; }\\n' > hello.c; ";

#[test]
fn declared_gcc_compiles_and_links() {
    let (_dir, host) = this_host();
    let (outcome, log) = in_sandbox(
        &host,
        &["gcc"],
        &format!("{HELLO} gcc -static hello.c -o hello && ./hello && cc --version | wc -l"),
    );
    assert!(outcome.success() && log.starts_with("hello\n"), "{log}");
    let identity = host.identify(&["gcc".into()]).unwrap().remove("gcc").unwrap();
    if Path::new("/var/lib/dpkg/status").exists() {
        for package in ["gcc", "binutils", "libc6-dev", "linux-libc-dev"] {
            assert!(names(&identity).contains(&package), "{package} in {identity:?}");
        }
    }
}

#[test]
fn undeclared_tools_are_not_found_and_the_hint_names_them() {
    let (_dir, host) = this_host();
    let (outcome, log) =
        in_sandbox(&host, &[], &format!("{HELLO} sed -n 1p hello.c | grep -c stdio; gcc hello.c"));
    assert_eq!(outcome.end, End::Exit(127), "{log}");
    assert_eq!(explain_127(&log).unwrap(), "gcc: command not found; add it to tools: [gcc]");
    let (outcome, log) = in_sandbox(&host, &["make"], "make --version | head -n 1; ld --version");
    assert_eq!(outcome.end, End::Exit(127), "{log}");
}

#[test]
fn what_every_step_has_is_there() {
    let (_dir, host) = this_host();
    let script =
        "for tool in sh bash awk sed grep tar gzip find xargs cp install mktemp sha256sum perl diff cmp; do
        command -v $tool > /dev/null || echo no $tool; done; awk 'BEGIN { print 1 + 1 }'; id -un; ls -A /etc";
    let (outcome, log) = in_sandbox(&host, &[], script);
    assert!(outcome.success() && log.starts_with("2\nroot\n"), "{log}");
    assert!(!log.contains("shadow") && !log.contains("hostname"), "{log}");
}

#[test]
fn rust_compiles_offline_in_the_sandbox() {
    let (_dir, host) = this_host();
    let script = "mkdir -p src; printf 'fn main() { println!(\"rusty\"); }' > src/main.rs
        printf '[package]\\nname = \"x\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n' > Cargo.toml
        cargo build --offline -q && target/debug/x; command -v rustc cargo";
    let (outcome, log) = in_sandbox(&host, &["cargo", "rustc", "gcc"], script);
    assert!(outcome.success() && log.starts_with("rusty\n"), "{log}");
    let identities = host.identify(&["cargo".into(), "rustc".into()]).unwrap();
    let text = identities["rustc"].text.as_deref().unwrap();
    assert!(text.starts_with("rustc ") && text.contains("commit-hash: "), "{text}");
    assert!(identities["cargo"].text.as_deref().unwrap().ends_with(text));
}

#[test]
fn the_same_tools_share_one_folder_of_links() {
    let (dir, host) = this_host();
    let one = host.layout(&["make".into(), "gcc".into()]).unwrap();
    assert_eq!(host.layout(&["gcc".into(), "make".into(), "gcc".into()]).unwrap(), one);
    host.layout(&["make".into()]).unwrap();
    let again = Host::open(&dir.path().join(".mosbuild"), host.memo().as_deref());
    assert_eq!(again.layout(&["make".into(), "gcc".into()]).unwrap(), one);
    assert_eq!(again.memo(), None);
    assert_eq!(fs::read_dir(dir.path().join(".mosbuild/bin")).unwrap().count(), 2);
}
