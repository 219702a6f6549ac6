//! Options of a kernel's configuration under which two compiles do not give the same bytes, each with its remedy.
//! Knows symbols; what make is told so that everything else is the same stands in linux/make.rs.

use mosbuild_formats::kconfig::{Config, Value};

/// An option that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Without `CONFIG_`.
    pub symbol: &'static str,
    /// What it does.
    pub why: &'static str,
    /// What helps.
    pub remedy: &'static str,
}

impl Doubt {
    /// The note of the preflight.
    pub fn warning(&self) -> String {
        format!(
            "warning: CONFIG_{} is set: {}; two compiles are not the same. Remedy: {}",
            self.symbol, self.why, self.remedy
        )
    }
}

/// Whether an option is in the way.
type Test = fn(&Config) -> bool;

/// Facts: Documentation/kbuild/reproducible-builds.rst of the kernel, and its sources as named.
const DOUBTS: [(Doubt, Test); 9] = [
    (
        Doubt {
            symbol: "MODULE_SIG",
            why: "the key that signs modules is made anew by each compile, and its certificate is in the image (certs/Makefile)",
            remedy: "# CONFIG_MODULE_SIG is not set, or CONFIG_MODULE_SIG_KEY=\"\" without CONFIG_MODULE_SIG_ALL",
        },
        |c| c.enabled("MODULE_SIG") && has_generated_key(c),
    ),
    (
        Doubt {
            symbol: "IMA_APPRAISE_MODSIG",
            why: "the key that signs modules is made anew by each compile, and its certificate is in the image (certs/Makefile)",
            remedy: "# CONFIG_IMA_APPRAISE_MODSIG is not set, or CONFIG_MODULE_SIG_KEY=\"\"",
        },
        |c| c.enabled("IMA_APPRAISE_MODSIG") && !c.enabled("MODULE_SIG") && has_generated_key(c),
    ),
    (
        Doubt {
            symbol: "RANDSTRUCT",
            why: "structures are laid out by a seed that each compile takes from /dev/urandom (scripts/gen-randstruct-seed.sh)",
            remedy: "CONFIG_RANDSTRUCT_NONE=y",
        },
        |c| ["RANDSTRUCT", "RANDSTRUCT_FULL", "RANDSTRUCT_PERFORMANCE"].iter().any(|s| c.enabled(s)),
    ),
    (
        Doubt {
            symbol: "GCC_PLUGIN_RANDSTRUCT",
            why: "structures are laid out by a seed that each compile takes from /dev/urandom",
            remedy: "# CONFIG_GCC_PLUGIN_RANDSTRUCT is not set",
        },
        // Its name before 5.19; since then the plugin is one way to have the above.
        |c| c.enabled("GCC_PLUGIN_RANDSTRUCT") && !c.enabled("RANDSTRUCT"),
    ),
    (
        Doubt {
            symbol: "GCC_PLUGIN_LATENT_ENTROPY",
            why: "random numbers of the compile are built in (scripts/gcc-plugins/latent_entropy_plugin.c)",
            remedy: "# CONFIG_GCC_PLUGIN_LATENT_ENTROPY is not set",
        },
        |c| c.enabled("GCC_PLUGIN_LATENT_ENTROPY"),
    ),
    (
        Doubt {
            symbol: "IKHEADERS",
            why: "an archive of the headers is built in, which kernels before 5.4 make with times, and xz since 5.6 by the \
                  number of processors",
            remedy: "# CONFIG_IKHEADERS is not set",
        },
        |c| c.enabled("IKHEADERS"),
    ),
    (
        Doubt {
            symbol: "LOCALVERSION_AUTO",
            why: "the release depends on what git says of the source",
            remedy: "# CONFIG_LOCALVERSION_AUTO is not set; `localversion:` of the linux target names it",
        },
        |c| c.enabled("LOCALVERSION_AUTO"),
    ),
    (
        Doubt {
            symbol: "DEBUG_INFO_BTF",
            why: "pahole 1.26 encodes types in an order that its jobs decide (scripts/Makefile.btf)",
            remedy: "# CONFIG_DEBUG_INFO_BTF is not set, or pahole 1.27 (dwarves)",
        },
        |c| c.enabled("DEBUG_INFO_BTF") && c.get("PAHOLE_VERSION") == Some(&Value::Number("126".into())),
    ),
    (
        Doubt {
            symbol: "KERNEL_LZO",
            why: "lzop writes the time into what it compresses",
            remedy: "CONFIG_KERNEL_XZ=y or CONFIG_KERNEL_ZSTD=y",
        },
        |c| c.enabled("KERNEL_LZO"),
    ),
];

/// Whether modules are signed with the key that the compile makes.
fn has_generated_key(config: &Config) -> bool {
    // The default, so it is what an older kernel without the symbol does.
    config.get("MODULE_SIG_KEY").is_none_or(|key| *key == Value::Text("certs/signing_key.pem".into()))
}

/// Options of a resulting configuration that are in the way.
pub fn doubts(config: &Config) -> Vec<Doubt> {
    DOUBTS.iter().filter(|(_, test)| test(config)).map(|(doubt, _)| doubt.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str) -> Vec<&'static str> {
        doubts(&Config::parse(config).unwrap()).iter().map(|d| d.symbol).collect()
    }

    #[test]
    fn each_option_is_found_and_its_remedy_helps() {
        assert_eq!(found("CONFIG_MODULES=y\nCONFIG_RANDSTRUCT_NONE=y\n"), [""; 0]);
        for (config, symbol) in [
            ("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"\n", "MODULE_SIG"),
            ("CONFIG_MODULE_SIG=y\n", "MODULE_SIG"),
            (
                "CONFIG_IMA_APPRAISE_MODSIG=y\nCONFIG_MODULE_SIG_KEY=\"certs/signing_key.pem\"\n",
                "IMA_APPRAISE_MODSIG",
            ),
            ("CONFIG_RANDSTRUCT_FULL=y\nCONFIG_RANDSTRUCT=y\nCONFIG_GCC_PLUGIN_RANDSTRUCT=y\n", "RANDSTRUCT"),
            ("CONFIG_GCC_PLUGIN_RANDSTRUCT=y\n", "GCC_PLUGIN_RANDSTRUCT"),
            ("CONFIG_GCC_PLUGIN_LATENT_ENTROPY=y\n", "GCC_PLUGIN_LATENT_ENTROPY"),
            ("CONFIG_IKHEADERS=m\n", "IKHEADERS"),
            ("CONFIG_LOCALVERSION_AUTO=y\n", "LOCALVERSION_AUTO"),
            ("CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=126\n", "DEBUG_INFO_BTF"),
            ("CONFIG_KERNEL_LZO=y\n", "KERNEL_LZO"),
        ] {
            assert_eq!(found(config), [symbol], "{config}");
        }
        let config = Config::parse("CONFIG_KERNEL_LZO=y\n").unwrap();
        assert_eq!(
            doubts(&config)[0].warning(),
            "warning: CONFIG_KERNEL_LZO is set: lzop writes the time into what it compresses; two compiles are not the same. \
             Remedy: CONFIG_KERNEL_XZ=y or CONFIG_KERNEL_ZSTD=y"
        );
        // What the remedies lead to.
        for config in [
            "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=\"\"\n",
            "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_KEY=\"/keys/fixed.pem\"\n",
            "CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=127\n",
            "CONFIG_DEBUG_INFO_BTF=y\nCONFIG_PAHOLE_VERSION=124\n",
        ] {
            assert_eq!(found(config), [""; 0], "{config}");
        }
    }
}
