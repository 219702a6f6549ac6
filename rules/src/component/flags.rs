//! Compiler flags that keep the sandbox's paths out of programs: names of files go into panic messages, assertions and
//! debug information. Knows rustc's and gcc's flags; runs nothing.
//!
//! | what | leaves a path | and now |
//! |---|---|---|
//! | source, `file!()`, `__FILE__` | `/build/src/src/main.rs` | `src/main.rs` |
//! | vendored crates | `/vendor/crates/a-1.0.0/src/lib.rs` | `a-1.0.0/src/lib.rs` |
//! | code that a build script wrote | `/build/target/…/out/gen.rs` | `target/…/out/gen.rs` |
//! | generic code of the standard library, where rust-src is installed | `/mosbuild/rust/lib/rustlib/src/rust/library/…` | `library/…`, as without it |
//! | DWARF's compilation directory | `/build/src` | `.` |
//!
//! What no flag reaches is text: `env!("CARGO_MANIFEST_DIR")`, `env!("OUT_DIR")`, what a build script prints.

use std::collections::BTreeMap;

use mosbuild_engine::action::EnvVar;
use mosbuild_engine::tools::RUST_DIR;

use super::commands::{SOURCE, TARGET, VENDOR};

/// Variables with flags: the ones that are declared come behind ours.
pub const WITH_OURS: [&str; 3] = ["RUSTFLAGS", "CFLAGS", "CXXFLAGS"];

/// Sets flags for cargo, rustc, and the C compilers that build scripts call through the `cc` crate, which adds levels
/// of optimisation itself.
pub fn for_cargo(env: &mut BTreeMap<String, EnvVar>) {
    let rust = format!(
        "-C target-feature=+crt-static --remap-path-prefix={VENDOR}/crates/= --remap-path-prefix={SOURCE}/= \
         --remap-path-prefix={TARGET}/=target/ --remap-path-prefix={RUST_DIR}/lib/rustlib/src/rust/="
    );
    add(env, "RUSTFLAGS", &rust);
    let c = format!("{} -ffile-prefix-map={VENDOR}/crates=. -ffile-prefix-map={TARGET}=target", source());
    add(env, "CFLAGS", &c);
    add(env, "CXXFLAGS", &c);
}

/// Sets flags for a build script. autoconf's `configure` optimises only where nothing is set, so that is set too.
pub fn for_script(env: &mut BTreeMap<String, EnvVar>) {
    let c = format!("-O2 {}", source());
    add(env, "CFLAGS", &c);
    add(env, "CXXFLAGS", &c);
}

fn source() -> String {
    format!("-ffile-prefix-map={SOURCE}=.")
}

fn add(env: &mut BTreeMap<String, EnvVar>, name: &str, ours: &str) {
    let flags = match env.get(name) {
        Some(EnvVar::Value(own)) => format!("{ours} {own}"),
        // Refused when the file is loaded: what it is on the host could not be put behind ours.
        Some(EnvVar::Host { .. }) => return,
        None => ours.to_owned(),
    };
    env.insert(name.to_owned(), EnvVar::Value(flags));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<'e>(env: &'e BTreeMap<String, EnvVar>, name: &str) -> &'e str {
        let EnvVar::Value(text) = &env[name] else { panic!("{env:?}") };
        text
    }

    #[test]
    fn flags_of_ones_own_come_behind_ours() {
        let own = |name: &str| (name.to_owned(), EnvVar::Value("--own".into()));
        let mut env = BTreeMap::from(WITH_OURS.map(own));
        let mut script = env.clone();
        for_cargo(&mut env);
        for name in WITH_OURS {
            let flags = text(&env, name);
            assert!(flags.ends_with(" --own") && flags.contains("/build/src"), "{name}: {flags}");
        }
        assert!(text(&env, "RUSTFLAGS").starts_with("-C target-feature=+crt-static "));
        for_script(&mut script);
        assert_eq!(text(&script, "CFLAGS"), "-O2 -ffile-prefix-map=/build/src=. --own");
        assert_eq!(text(&script, "RUSTFLAGS"), "--own");
    }
}
