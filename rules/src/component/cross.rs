//! A component for another architecture than the host's: which toolchain, and the variables by which cargo, the cc crate
//! and makefiles find it. Knows Debian's cross compilers by name; knows no command.
//!
//! Build scripts and proc-macros run on the host and are compiled for it, by cargo's own doing: `--target` is always
//! given. The linker is Debian's gcc for musl as well: rustc brings musl's own start files and libraries, and of the
//! linker it takes nothing else. C code within crates is another matter: against musl it wants a compiler for musl,
//! which the cc crate looks for by its usual name.

use std::collections::BTreeMap;

use mosbuild_engine::action::EnvVar;

use crate::arch::Arch;

/// The architecture of a target triple, where it is not the host's and a cross toolchain is known.
fn foreign(target: &str) -> Option<&'static Arch> {
    Arch::named(arch(target)).filter(|arch| !arch.is_host())
}

/// The architecture that a target triple begins with.
pub fn arch(target: &str) -> &str {
    target.split('-').next().unwrap_or_default()
}

/// Whether it is made for glibc, by Debian's own compilers.
fn is_glibc(target: &str) -> bool {
    target.ends_with("-gnu")
}

/// What a tool of the toolchain for a target is called: `cc` of the host's own is enough there.
fn tool(target: &str, name: &str) -> String {
    match foreign(target) {
        Some(arch) if name == "cc" => format!("{}-gcc", arch.gnu),
        Some(arch) => format!("{}-{name}", arch.gnu),
        None => name.to_owned(),
    }
}

/// Names of the given tools for a target, and the package of its libc; none where the host's own are right.
pub fn tools(target: &str, names: &[&str], libc: bool) -> Vec<String> {
    let Some(arch) = foreign(target) else { return Vec::new() };
    let libc = libc.then(|| format!("libc6-dev-{}-cross", arch.debian));
    names.iter().map(|name| tool(target, name)).chain(libc).collect()
}

/// What a cargo run is told; what `env` has stays.
pub fn for_cargo(target: &str, env: &mut BTreeMap<String, EnvVar>) {
    if foreign(target).is_none() {
        return;
    }
    let triple = target.replace('-', "_");
    let mut set = |name: String, of: &str| {
        env.entry(name).or_insert_with(|| EnvVar::Value(tool(target, of)));
    };
    set(format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('.', "_")), "cc");
    set(format!("AR_{triple}"), "ar");
    if is_glibc(target) {
        set(format!("CC_{triple}"), "cc");
    }
}

/// What a build script is told; what `env` has stays.
pub fn for_script(target: &str, env: &mut BTreeMap<String, EnvVar>) {
    let prefix = foreign(target).map(|arch| format!("{}-", arch.gnu)).unwrap_or_default();
    for (name, value) in [("CROSS_COMPILE", prefix), ("CC", tool(target, "cc"))] {
        env.entry(name.into()).or_insert(EnvVar::Value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> &'static Arch {
        Arch::ALL.iter().find(|arch| !arch.is_host()).and_then(|arch| Arch::named(arch.name)).unwrap()
    }

    fn values(env: &BTreeMap<String, EnvVar>) -> BTreeMap<&str, &str> {
        let value = |v: &'_ EnvVar| -> &str {
            let EnvVar::Value(text) = v else { panic!("{v:?}") };
            Box::leak(text.clone().into_boxed_str())
        };
        env.iter().map(|(name, v)| (name.as_str(), value(v))).collect()
    }

    #[test]
    fn a_foreign_target_has_its_toolchain_named() {
        let Arch { name, gnu, debian, .. } = other();
        let gcc = format!("{gnu}-gcc");
        for (libc, cc) in [("gnu", Some(gcc.as_str())), ("musl", None)] {
            let target = format!("{name}-unknown-linux-{libc}");
            assert_eq!(arch(&target), *name);
            let mut env = BTreeMap::new();
            for_cargo(&target, &mut env);
            let (upper, lower) = (target.replace('-', "_").to_uppercase(), target.replace('-', "_"));
            let values = values(&env);
            assert_eq!(values[&*format!("CARGO_TARGET_{upper}_LINKER")], gcc);
            assert_eq!(values[&*format!("AR_{lower}")], format!("{gnu}-ar"));
            assert_eq!(values.get(&*format!("CC_{lower}")).copied(), cc);
        }
        let target = format!("{name}-unknown-linux-gnu");
        assert_eq!(
            tools(&target, &["cc", "ld"], true),
            [gcc.clone(), format!("{gnu}-ld"), format!("libc6-dev-{debian}-cross")]
        );
        let mut env = BTreeMap::new();
        for_script(&target, &mut env);
        assert_eq!(values(&env), BTreeMap::from([("CC", &*gcc), ("CROSS_COMPILE", &*format!("{gnu}-"))]));
    }

    #[test]
    fn what_is_declared_stays_and_the_host_needs_nothing() {
        let target = format!("{}-unknown-linux-musl", other().name);
        let linker = format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase());
        let mut env = BTreeMap::from([(linker.clone(), EnvVar::Value("rust-lld".into()))]);
        for_cargo(&target, &mut env);
        assert_eq!(env[&linker], EnvVar::Value("rust-lld".into()));
        for target in
            [format!("{}-unknown-linux-musl", std::env::consts::ARCH), "riscv64gc-unknown-linux-gnu".into()]
        {
            let mut env = BTreeMap::new();
            for_cargo(&target, &mut env);
            assert!(env.is_empty() && tools(&target, &["cc"], true).is_empty());
            for_script(&target, &mut env);
            assert_eq!(values(&env), BTreeMap::from([("CC", "cc"), ("CROSS_COMPILE", "")]));
        }
    }
}
