//! What a kernel module says about itself: the `.modinfo` strings, the symbols it exports and those it needs.
//! Reads ELF of either class and byte order, compressed or not; does not know other modules or the file's name.

use object::read::{Object, ObjectSection, ObjectSymbol};

use crate::compress;

/// Bound on one expanded module. The largest of a distribution kernel (amdgpu with debug symbols) is a tenth of it.
pub const MODULE_MAX: u64 = 1 << 30;
/// What ends a signed module, after the signature.
const SIGNATURE_MARK: &[u8] = b"~Module signature appended~\n";
/// `__versions` entries are this long in either class: a CRC as wide as a long, then a name.
const VERSION_LEN: usize = 64;

/// Why a module could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The compressed file is damaged or too large.
    #[error(transparent)]
    Compress(#[from] compress::Error),
    /// Not ELF, or damaged.
    #[error("not a kernel module: {0}")]
    Elf(#[from] object::read::Error),
    /// An ELF file without `.modinfo`.
    #[error("not a kernel module: no .modinfo section")]
    NoModinfo,
}

/// A symbol the module needs from the kernel or another module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its name.
    pub name: String,
    /// Whether the module loads without it.
    pub weak: bool,
}

/// Modules to load before and after another if they exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoftDeps {
    /// Before; also names without `pre:` or `post:`, which occur.
    pub pre: Vec<String>,
    /// After.
    pub post: Vec<String>,
}

/// What one module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// The `key=value` strings in their order; keys repeat.
    pub fields: Vec<(String, String)>,
    /// Symbols exported to other modules, in symbol table order.
    pub exports: Vec<String>,
    /// Symbols needed, in symbol table order.
    pub needs: Vec<Needed>,
    /// Whether a signature is appended. Changing the module in any way makes it invalid.
    pub signed: bool,
}

/// Whether a signature is appended to an uncompressed module.
pub fn is_signed(bytes: &[u8]) -> bool {
    bytes.ends_with(SIGNATURE_MARK)
}

impl ModuleInfo {
    /// Reads a module file; gzip, xz and zstd are told by magic.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        match compress::Format::detect(bytes) {
            compress::Format::None => Self::parse_elf(bytes),
            _ => Self::parse_elf(&compress::decompress(bytes, MODULE_MAX)?),
        }
    }

    fn parse_elf(bytes: &[u8]) -> Result<Self, Error> {
        let file = object::read::File::parse(bytes)?;
        let section = |name| match file.section_by_name(name) {
            Some(section) => section.data().map(Some),
            None => Ok(None),
        };
        let modinfo = section(".modinfo")?.ok_or(Error::NoModinfo)?;
        let mut info = ModuleInfo {
            fields: strings(modinfo).map(|s| split_field(&s)).collect(),
            signed: is_signed(bytes),
            ..Self::default()
        };
        for symbol in file.symbols() {
            let Ok(name) = symbol.name() else { continue };
            if name.is_empty() {
                continue;
            }
            if symbol.is_undefined() {
                info.needs.push(Needed { name: name.to_owned(), weak: symbol.is_weak() });
            } else if let Some(exported) = name.strip_prefix("__crc_") {
                info.exports.push(exported.to_owned());
            }
        }
        // Without MODVERSIONS there are no CRCs; the names are still in a section of their own.
        if info.exports.is_empty()
            && let Some(names) = section("__ksymtab_strings")?
        {
            info.exports = strings(names).collect();
        }
        if let Some(versions) = section("__versions")? {
            let width = if file.is_64() { 8 } else { 4 };
            info.add_versions(versions, width);
        }
        Ok(info)
    }

    /// Symbols that have a version but no symbol table entry (`module_layout`) are needed as well.
    fn add_versions(&mut self, section: &[u8], crc_width: usize) {
        let known: std::collections::HashSet<String> = self.needs.iter().map(|n| n.name.clone()).collect();
        for entry in section.chunks_exact(VERSION_LEN) {
            if let Some(name) = strings(&entry[crc_width..]).next()
                && !known.contains(&name)
            {
                self.needs.push(Needed { name, weak: false });
            }
        }
    }

    /// First value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of `key`, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Modules this one cannot load without, as the linker found them.
    pub fn depends(&self) -> Vec<&str> {
        self.all("depends").flat_map(|v| v.split(',')).map(str::trim).filter(|v| !v.is_empty()).collect()
    }

    /// Firmware files it may ask for; some hold globs, some exist nowhere.
    pub fn firmware(&self) -> Vec<&str> {
        self.all("firmware").collect()
    }

    /// Soft dependencies of all its `softdep` fields.
    pub fn softdeps(&self) -> SoftDeps {
        let mut deps = SoftDeps::default();
        for value in self.all("softdep") {
            let mut after = false;
            for word in value.split_whitespace() {
                match word {
                    "pre:" => after = false,
                    "post:" => after = true,
                    name if after => deps.post.push(name.to_owned()),
                    name => deps.pre.push(name.to_owned()),
                }
            }
        }
        deps
    }

    /// Modules it may load by itself at run time: nice to have in the image, not loaded before it.
    pub fn weakdeps(&self) -> Vec<&str> {
        self.all("weakdep").flat_map(str::split_whitespace).collect()
    }
}

/// NUL-separated strings without the empty ones, which occur as alignment.
fn strings(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes.split(|b| *b == 0).filter(|s| !s.is_empty()).map(|s| String::from_utf8_lossy(s).into_owned())
}

fn split_field(field: &str) -> (String, String) {
    let (key, value) = field.split_once('=').unwrap_or((field, ""));
    (key.to_owned(), value.to_owned())
}

/// Fields of built-in modules (`modules.builtin.modinfo`): module, key, value in the order of the file.
pub fn parse_builtin(bytes: &[u8]) -> Vec<(String, String, String)> {
    let entry = |s: String| {
        let (module, field) = s.split_once('.')?;
        let (key, value) = field.split_once('=')?;
        Some((module.to_owned(), key.to_owned(), value.to_owned()))
    };
    strings(bytes).filter_map(entry).collect()
}

/// Name as the kernel has it: `-` and `_` are equal, `_` is what it shows.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Whether a file name is a module's: `.ko`, or `.ko` with a compression suffix.
pub fn is_module_path(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    [".ko", ".ko.gz", ".ko.xz", ".ko.zst"].iter().any(|s| name.len() > s.len() && name.ends_with(s))
}

/// The module's name by its path: the file name up to the first dot, canonical.
pub fn name_of_path(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    canonical(name.split('.').next().unwrap_or(name))
}
