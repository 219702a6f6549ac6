//! The commands of a component: the dependencies alone, the component itself, or its own build script.
//! Knows cargo's command line and the layout of its target directory; knows no manifest.
//!
//! Both cargo runs see the same paths, flags and environment, since each of them is in cargo's fingerprints. Beyond
//! those cargo compares modification times only. They are equal everywhere in a step, which makes a restored
//! dependency fresh, and would make a stub's artefact fresh too: that is why the first run removes what it made of
//! the members, by name. Then the second run compiles each member, whatever its times say.

use std::collections::BTreeMap;

use mosbuild_engine::action::{Command, CommandOutput, EnvVar, OutKind};

use super::{cross, flags};

/// Where the source is, inside the sandbox.
pub const SOURCE: &str = "/build/src";
/// Cargo's target directory.
pub const TARGET: &str = "/build/target";
/// Vendored crates and cargo's configuration; CARGO_HOME, read-only.
pub const VENDOR: &str = "/vendor";
/// Names of the members, one a line.
pub const MEMBERS: &str = "/build/members";

/// Variables that are set for cargo.
pub const OF_CARGO: [&str; 5] =
    ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_NET_OFFLINE", "CARGO_INCREMENTAL", "CARGO_TERM_COLOR"];
/// Variables that are set for a build script.
pub const OF_SCRIPTS: [&str; 2] = ["ARCH", "TARGET"];

/// Host programs of a cargo run: the toolchain, and what links.
const CARGO_TOOLS: [&str; 5] = ["ar", "as", "cargo", "cc", "ld"];
/// Those of them that another architecture has of its own.
const LINK_TOOLS: [&str; 4] = ["ar", "as", "cc", "ld"];
/// Host programs of a build script.
const SCRIPT_TOOLS: [&str; 3] = ["make", "nm", "strip"];

/// Fields that decide how cargo is called.
pub struct Cargo<'a> {
    /// Folder of the package within the source.
    pub subdir: &'a str,
    /// `-p`.
    pub package: Option<&'a str>,
    /// Programs to build.
    pub bins: Vec<&'a str>,
    /// `--features`.
    pub features: &'a [String],
    /// Whether default features are on.
    pub default_features: bool,
    /// `--target`.
    pub target: &'a str,
    /// `--profile`.
    pub profile: &'a str,
    /// Declared environment.
    pub env: &'a BTreeMap<String, EnvVar>,
    /// Further host programs.
    pub tools: &'a [String],
}

impl Cargo<'_> {
    /// Compiles what the members depend on; the target directory is the output `target`.
    pub fn dependencies(&self) -> Command {
        let script = format!("cargo build \"$@\"\n{}", prune(TARGET, MEMBERS));
        let outputs = vec![CommandOutput { name: "target".into(), path: TARGET.into(), kind: OutKind::Tree }];
        Command { script: Some(script), outputs, ..self.command() }
    }

    /// Compiles the members on top of it; the programs are the output `bins`.
    pub fn members(&self) -> Command {
        let made = format!("{TARGET}/{}/{}", self.target, self.profile_dir());
        let mut script = String::from("cargo build \"$@\"\n");
        for bin in &self.bins {
            script.push_str(&format!("cp {made}/{bin} \"$OUT\"/{bin}\n"));
        }
        Command { script: Some(script), outputs: all_of_out(), ..self.command() }
    }

    fn command(&self) -> Command {
        let mut tools: Vec<String> = CARGO_TOOLS.iter().map(|t| (*t).to_owned()).collect();
        tools.push("rustc".into());
        // The static libc that crt-static links.
        let glibc = self.target.ends_with("-gnu");
        if glibc {
            tools.push("libc6-dev".into());
        }
        tools.extend(cross::tools(self.target, &LINK_TOOLS, glibc));
        tools.extend(self.tools.iter().cloned());
        tools.sort();
        tools.dedup();
        Command {
            argv: self.arguments(),
            env: self.environment(),
            tools,
            cwd: at_source(self.subdir),
            jobserver: true,
            ..Command::default()
        }
    }

    fn arguments(&self) -> Vec<String> {
        // Given as a flag, it wins over a configuration that comes with the source.
        let config = format!("{VENDOR}/config.toml");
        let mut args: Vec<&str> = vec!["--locked", "--offline", "--config", &config];
        args.extend(["--profile", self.profile, "--target", self.target]);
        let features = self.features.join(",");
        if !self.default_features {
            args.push("--no-default-features");
        }
        if !features.is_empty() {
            args.extend(["--features", &features]);
        }
        if let Some(package) = self.package {
            args.extend(["--package", package]);
        }
        for bin in &self.bins {
            args.extend(["--bin", bin]);
        }
        args.into_iter().map(str::to_owned).collect()
    }

    fn environment(&self) -> BTreeMap<String, EnvVar> {
        let strip = format!("CARGO_PROFILE_{}_STRIP", self.profile.replace('-', "_").to_uppercase());
        let mut env = self.env.clone();
        flags::for_cargo(&mut env);
        let fixed = [
            ("CARGO_HOME", VENDOR),
            ("CARGO_TARGET_DIR", TARGET),
            ("CARGO_NET_OFFLINE", "true"),
            ("CARGO_INCREMENTAL", "0"),
            ("CARGO_TERM_COLOR", "never"),
        ];
        env.extend(fixed.map(|(name, value)| (name.to_owned(), EnvVar::Value(value.to_owned()))));
        env.entry(strip).or_insert_with(|| EnvVar::Value("symbols".into()));
        cross::for_cargo(self.target, &mut env);
        env
    }

    /// The folder that cargo puts a profile's programs into.
    fn profile_dir(&self) -> &str {
        match self.profile {
            "dev" | "test" => "debug",
            "bench" => "release",
            other => other,
        }
    }
}

/// The component's own build script, in place of cargo.
pub fn script(
    text: &str,
    subdir: &str,
    target: &str,
    env: &BTreeMap<String, EnvVar>,
    tools: &[String],
) -> Command {
    let mut env = env.clone();
    flags::for_script(&mut env);
    for (name, value) in [("ARCH", cross::arch(target)), ("TARGET", target)] {
        env.insert(name.into(), EnvVar::Value(value.into()));
    }
    cross::for_script(target, &mut env);
    let mut all: Vec<String> = CARGO_TOOLS.iter().chain(&SCRIPT_TOOLS).map(|t| (*t).to_owned()).collect();
    // A script that has no use for Rust shall not be compiled again when Rust changes.
    if !text.contains("cargo") {
        all.retain(|t| t != "cargo");
    } else {
        all.push("rustc".into());
        cross::for_cargo(target, &mut env);
    }
    let own: Vec<&str> = LINK_TOOLS.into_iter().chain(["nm", "strip"]).collect();
    all.extend(cross::tools(target, &own, true));
    all.extend(tools.iter().cloned());
    all.sort();
    all.dedup();
    Command {
        script: Some(text.into()),
        env,
        tools: all,
        cwd: at_source(subdir),
        outputs: all_of_out(),
        jobserver: true,
        ..Command::default()
    }
}

/// The same build a second time, to be compared with the first: not in the same second, so that a time that it takes
/// down shows, and one job after the other, so that an order that parallel jobs decide does.
pub fn again(build: &Command, cargo: bool) -> Command {
    let mut again = Command { jobserver: false, ..build.clone() };
    if cargo {
        again.argv.extend(["--jobs", "1"].map(str::to_owned));
    }
    again.script = build.script.as_ref().map(|script| format!("sleep 1\n{script}"));
    again
}

/// Removes from the target directory what is the members' own, and what depends on time or place.
///
/// Every artefact of a dependency is `NAME-HASH` with 16 hexadecimal digits: the 16 question marks keep the member
/// `foo` from taking the dependency `foo-bar` with it.
fn prune(target: &str, members: &str) -> String {
    let hash = "?".repeat(16);
    format!(
        r#"cd {target}
rm -f .rustc_info.json
for dir in */.fingerprint */*/.fingerprint; do
    [ -d "$dir" ] || continue
    dir=${{dir%/.fingerprint}}
    find "$dir" -maxdepth 1 -type f ! -name .cargo-lock -delete
    rm -rf "$dir/incremental" "$dir/examples"
    while read -r kind name; do
        case $kind in
        package) rm -rf "$dir/.fingerprint/$name"-{hash} "$dir/build/$name"-{hash} ;;
        crate) rm -rf "$dir/deps/lib$name"-{hash}.* "$dir/deps/$name"-{hash} "$dir/deps/$name"-{hash}.* ;;
        esac
    done <{members}
done
"#
    )
}

fn all_of_out() -> Vec<CommandOutput> {
    vec![CommandOutput { name: "bins".into(), path: String::new(), kind: OutKind::Tree }]
}

fn at_source(subdir: &str) -> String {
    match super::manifest::join("", subdir) {
        Some(dir) if !dir.is_empty() => format!("{SOURCE}/{dir}"),
        _ => SOURCE.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn put(dir: &Path, paths: &[&str]) {
        for path in paths {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn pruning_takes_the_members_and_leaves_dependencies_with_longer_names() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let gone = [
            ".rustc_info.json",
            "x/release/foo",
            "x/release/incremental/foo-1/a",
            "x/release/.fingerprint/foo-0123456789abcdef/lib-foo",
            "x/release/deps/libfoo-0123456789abcdef.rlib",
            "x/release/deps/libfoo-0123456789abcdef.rmeta",
            "x/release/deps/foo-0123456789abcdef",
            "x/release/deps/foo-0123456789abcdef.d",
            "x/release/deps/other_bin-0123456789abcdef",
            "release/.fingerprint/foo-0123456789abcdef/build-script",
            "release/build/foo-0123456789abcdef/build-script-build",
        ];
        let kept = [
            "x/release/.fingerprint/foo-bar-0123456789abcdef/lib-foo_bar",
            "x/release/deps/libfoo_bar-0123456789abcdef.rlib",
            "x/release/deps/libother_bin_x-0123456789abcdef.rlib",
            "release/.fingerprint/foobar-0123456789abcdef/build-script",
            "release/build/foo-bar-0123456789abcdef/build-script-build",
            "release/deps/libserde_derive-0123456789abcdef.so",
            "release/.cargo-lock",
        ];
        put(&target, &gone);
        put(&target, &kept);
        let members = dir.path().join("members");
        std::fs::write(&members, "crate foo\ncrate other_bin\npackage foo\nroot sub\n").unwrap();
        let script = prune(target.to_str().unwrap(), members.to_str().unwrap());
        let status = std::process::Command::new("sh").args(["-euc", &script]).status().unwrap();
        assert!(status.success());
        for path in gone {
            assert!(!target.join(path).exists(), "{path} is left");
        }
        for path in kept {
            assert!(target.join(path).exists(), "{path} is gone");
        }
    }

    #[test]
    fn flags_of_ones_own_come_after_ours_and_both_runs_agree() {
        let env = BTreeMap::from([("RUSTFLAGS".to_owned(), EnvVar::Value("--cfg own".into()))]);
        let features = ["a".to_owned(), "b".to_owned()];
        let cargo = Cargo {
            subdir: "./app/",
            package: Some("app"),
            bins: vec!["one", "two"],
            features: &features,
            default_features: false,
            target: "x86_64-unknown-linux-gnu",
            profile: "small-size",
            env: &env,
            tools: &["protoc".to_owned()],
        };
        let (deps, members) = (cargo.dependencies(), cargo.members());
        assert_eq!((&deps.argv, &deps.env, &deps.cwd), (&members.argv, &members.env, &members.cwd));
        assert_eq!(deps.cwd, "/build/src/app");
        assert_eq!(deps.env["CARGO_PROFILE_SMALL_SIZE_STRIP"], EnvVar::Value("symbols".into()));
        let EnvVar::Value(flags) = &deps.env["RUSTFLAGS"] else { panic!("{:?}", deps.env) };
        assert!(
            flags.starts_with("-C target-feature=+crt-static ") && flags.ends_with(" --cfg own"),
            "{flags}"
        );
        let args = deps.argv.join(" ");
        assert!(
            args.ends_with(
                "--profile small-size --target x86_64-unknown-linux-gnu --no-default-features \
                 --features a,b --package app --bin one --bin two"
            ),
            "{args}"
        );
        assert!(deps.tools.contains(&"protoc".to_owned()) && deps.tools.contains(&"rustc".to_owned()));
        let copied = "cp /build/target/x86_64-unknown-linux-gnu/small-size/two \"$OUT\"/two\n";
        assert!(members.script.unwrap().contains(copied));
    }
}
