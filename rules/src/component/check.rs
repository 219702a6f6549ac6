//! What is wrong with a program that a component installs: a loader that it needs, another machine, paths of the
//! place where it was built. Knows ELF through elf.rs and the sandbox's paths; knows neither cargo nor sources.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mosbuild_engine::action::{DEPS_DIR, OUT_DIR, StepError, WORK_DIR};
use mosbuild_engine::tools::{BIN_DIR, RUST_DIR};

use super::commands::{SOURCE, TARGET, VENDOR};
use crate::elf::{self, Elf};

/// What a component may be allowed, as the field `allow` has it.
pub const ALLOWED: [&str; 2] = ["dynamic", "host-paths"];

/// How many of a program's paths are named.
const NAMED: usize = 3;
/// How much of one is shown.
const SHOWN: usize = 100;

/// Paths of the user who builds. They decide no result, only whether there is one, and are in no key: a sandbox does
/// not have them, so that they come in with the source alone.
#[derive(Clone, Debug, Default)]
pub struct HostPaths(Vec<(&'static str, PathBuf)>);

impl HostPaths {
    /// Of this process and a workspace. `/root` or `/src` alone could be anything.
    pub fn of(workspace: &Path) -> HostPaths {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let all = [
            ("the workspace's path", Some(workspace.to_owned())),
            ("CARGO_HOME", variable("CARGO_HOME")),
            ("RUSTUP_HOME", variable("RUSTUP_HOME")),
            ("the user's home", variable("HOME")),
        ];
        let tells = |path: &PathBuf| path.is_absolute() && path.components().count() > 2;
        HostPaths(all.into_iter().filter_map(|(what, path)| Some((what, path.filter(tells)?))).collect())
    }
}

/// What programs are held to.
pub struct Checks<'a> {
    /// The component's target triple.
    pub target: &'a str,
    /// What is allowed.
    pub allow: BTreeSet<&'a str>,
    /// Whether cargo made them: then each is a program.
    pub cargo: bool,
    /// See there.
    pub host: &'a HostPaths,
}

impl Checks<'_> {
    /// Refuses a file that may not go into an image; a file that is no program passes where a script made it.
    pub fn check(&self, name: &str, bytes: &[u8]) -> Result<(), StepError> {
        let elf = match elf::read(bytes) {
            Ok(Some(elf)) => elf,
            Ok(None) if self.cargo => return Err(StepError::new(format!("{name} is no ELF program"))),
            Ok(None) => return Ok(()),
            Err(e) => return Err(StepError::new(format!("{name} is a damaged ELF file: {e}"))),
        };
        self.machine(name, &elf)?;
        self.alone(name, &elf)?;
        self.paths(name, bytes, &elf)
    }

    fn machine(&self, name: &str, elf: &Elf) -> Result<(), StepError> {
        let Some(wanted) = elf::machine(self.target) else { return Ok(()) };
        if elf.machine == wanted || elf.is_bpf() {
            return Ok(());
        }
        let help = match self.cargo {
            true => "a `[build] target` or linker of the source's .cargo/config.toml overrides ours",
            false => "the build script has $TARGET and $ARCH: call the compiler for them",
        };
        Err(StepError::new(format!("{name} is for {}, but the target is {}", elf.machine, self.target))
            .help(help))
    }

    fn alone(&self, name: &str, elf: &Elf) -> Result<(), StepError> {
        if !elf.is_dynamic() || self.allow.contains("dynamic") {
            return Ok(());
        }
        let help = match self.cargo {
            true => {
                "a linker or crt-static setting in the source's .cargo/config.toml or in `env` overrides ours"
            }
            false => "link it with -static",
        };
        Err(StepError::new(format!("{name} is not static: it {}", elf.asks_for()))
            .help(help)
            .help("if the image has what it asks for: `allow: dynamic`"))
    }

    fn paths(&self, name: &str, bytes: &[u8], elf: &Elf) -> Result<(), StepError> {
        if self.allow.contains("host-paths") {
            return Ok(());
        }
        let mut found = found(bytes, self.host);
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|f| f.at);
        let mut told = BTreeSet::new();
        found.retain(|f| told.insert(f.text.clone()));
        let mut message = format!("{name} has paths of the place where it was built in it:");
        for one in found.iter().take(NAMED) {
            message.push_str(&format!("\n{:?} ({}; {})", one.text, one.what, elf.place(one.at)));
        }
        if found.len() > NAMED {
            message.push_str(&format!("\nand {} more", found.len() - NAMED));
        }
        let debug = |f: &Found| elf.section_at(f.at).is_some_and(|(s, _)| s.name.starts_with(".debug"));
        let mut error = StepError::new(message);
        if found.iter().all(debug) {
            error = error.help("they are in its debug information: strip it, or compile it with $CFLAGS");
        } else if self.cargo {
            error = error.help(
                "no flag reaches text that is made of env!(\"CARGO_MANIFEST_DIR\"), env!(\"OUT_DIR\") or by a build \
                 script: take it out of the source, with `patches` if it is another's",
            );
        } else {
            error = error.help("compile with $CFLAGS or $CXXFLAGS, which take these paths out of file names");
        }
        Err(error.help("if they do no harm: `allow: host-paths`"))
    }
}

/// A path that a program should not have.
struct Found {
    /// Where in the file.
    at: u64,
    /// From there up to what is no path any more.
    text: String,
    /// Whose path it is.
    what: &'static str,
}

fn found(bytes: &[u8], host: &HostPaths) -> Vec<Found> {
    let crates = format!("{VENDOR}/crates/");
    let sandbox = [
        (SOURCE, "the source in the sandbox"),
        (TARGET, "cargo's target directory in the sandbox"),
        (&crates, "vendored crates in the sandbox"),
        (RUST_DIR, "the Rust toolchain in the sandbox"),
        (BIN_DIR, "tools of the sandbox"),
        (OUT_DIR, "$OUT in the sandbox"),
        (WORK_DIR, "the sandbox"),
        (DEPS_DIR, "the sandbox"),
        ("/build/home", "HOME in the sandbox"),
    ];
    let mut all = Vec::new();
    for (path, what) in sandbox {
        all.extend(places(bytes, path.as_bytes()).map(|at| (at, what)));
    }
    for (what, path) in &host.0 {
        // With what is below it: the home of `jo` is not that of `john`.
        let below = format!("{}/", path.display());
        all.extend(places(bytes, below.as_bytes()).map(|at| (at, *what)));
    }
    all.into_iter().map(|(at, what)| Found { at: at as u64, text: path_at(&bytes[at..]), what }).collect()
}

fn places<'b>(bytes: &'b [u8], path: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    memchr::memmem::find_iter(bytes, path)
}

/// A path as far as it can be told; texts of Rust programs lie one behind the other without an end.
fn path_at(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@~".contains(b);
    let end = bytes.iter().position(|b| !plain(b)).unwrap_or(bytes.len()).min(SHOWN);
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    if end == SHOWN { format!("{text}…") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{foreign, made};

    const TRIPLE: &str = "x86_64-unknown-linux-musl";

    fn checks<'a>(allow: &[&'a str], host: &'a HostPaths, cargo: bool) -> Checks<'a> {
        Checks { target: TRIPLE, allow: allow.iter().copied().collect(), cargo, host }
    }

    fn error(program: &[u8], allow: &[&str], host: &HostPaths) -> Option<(String, Vec<String>)> {
        checks(allow, host, true).check("app", program).err().map(|e| (e.message, e.help))
    }

    #[test]
    fn a_dynamic_program_is_refused_by_the_name_of_its_loader() {
        // This very test is one.
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let none = HostPaths::default();
        let (message, help) = error(&this, &["host-paths"], &none).unwrap();
        assert!(message.starts_with("app is not static: it asks for /lib"), "{message}");
        assert!(message.contains("libc."), "{message}");
        assert!(help[1].contains("`allow: dynamic`"), "{help:?}");
        assert_eq!(error(&this, &["dynamic", "host-paths"], &none), None);
    }

    #[test]
    fn another_machine_is_refused_whatever_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let program = foreign(made(dir.path(), "x"), object::elf::EM_AARCH64);
        let (message, _) = error(&program, &ALLOWED, &HostPaths::default()).unwrap();
        assert_eq!(message, "app is for aarch64, but the target is x86_64-unknown-linux-musl");
        let bpf = foreign(program, object::elf::EM_BPF);
        assert_eq!(error(&bpf, &[], &HostPaths::default()), None);
    }

    #[test]
    fn paths_are_named_with_their_section_and_offset() {
        let dir = tempfile::tempdir().unwrap();
        let none = HostPaths::default();
        for (text, shown, whose) in [
            ("/build/src/src/main.rs", "/build/src/src/main.rs", "the source"),
            ("at /build/src, or so", "/build/src", "the source"),
            ("/build/target/x/out/gen.rs:1", "/build/target/x/out/gen.rs", "cargo's target directory"),
            ("/vendor/crates/a-1.0.0/src/lib.rs", "/vendor/crates/a-1.0.0/src/lib.rs", "vendored crates"),
            ("/mosbuild/rust/lib/x", "/mosbuild/rust/lib/x", "the Rust toolchain"),
        ] {
            let (message, help) = error(&made(dir.path(), text), &[], &none).unwrap();
            let line = message.lines().nth(1).unwrap();
            assert!(line.starts_with(&format!("{shown:?} ({whose}")), "{message}");
            assert!(line.contains("; section .rodata, offset 0x"), "{message}");
            assert!(help[1].contains("`allow: host-paths`"), "{help:?}");
            assert_eq!(error(&made(dir.path(), text), &["host-paths"], &none), None);
        }
        for harmless in
            ["/rustc/59807616e1/library/std/src/io.rs", "/vendor", "/sys/bus/pci/vendor", "/builds/src"]
        {
            assert_eq!(error(&made(dir.path(), harmless), &[], &none), None, "{harmless}");
        }
    }

    #[test]
    fn paths_of_the_user_are_found_with_what_is_below_them_only() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostPaths(vec![("the user's home", "/home/jo".into())]);
        let (message, _) = error(&made(dir.path(), "/home/jo/x.rs"), &[], &host).unwrap();
        assert!(message.contains("\"/home/jo/x.rs\" (the user's home; "), "{message}");
        assert_eq!(error(&made(dir.path(), "/home/john/x.rs"), &[], &host), None);
        let HostPaths(all) = HostPaths::of(Path::new("/w"));
        assert!(all.iter().all(|(_, path)| path.components().count() > 2), "{all:?}");
        assert!(HostPaths::of(Path::new("/srv/w")).0.iter().any(|(_, path)| path.ends_with("w")));
    }

    #[test]
    fn many_paths_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let text: Vec<String> = (0..6).map(|n| format!("/build/src/{n}.c")).collect();
        let (message, _) = error(&made(dir.path(), &text.join(" ")), &[], &HostPaths::default()).unwrap();
        assert_eq!(message.lines().count(), 1 + NAMED + 1, "{message}");
        assert!(message.ends_with("\nand 3 more"), "{message}");
        assert_eq!(path_at("/x".repeat(500).as_bytes()).chars().count(), SHOWN + 1);
    }

    #[test]
    fn a_script_is_no_program_of_cargo_but_may_be_installed_by_a_script() {
        let none = HostPaths::default();
        let script = b"#!/bin/sh\n# /build/src\n";
        assert_eq!(error(script, &ALLOWED, &none).unwrap().0, "app is no ELF program");
        assert!(checks(&[], &none, false).check("app", script).is_ok());
        let damaged = checks(&[], &none, false).check("app", b"\x7fELF\x02").unwrap_err();
        assert!(damaged.message.starts_with("app is a damaged ELF file: "), "{}", damaged.message);
    }
}
