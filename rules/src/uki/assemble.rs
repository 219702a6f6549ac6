//! The step that writes a unified kernel image. Knows what goes into which section; the file's layout is in
//! formats/src/uki.rs.

use std::collections::BTreeMap;

use mosbuild_cache::Node;
use mosbuild_engine::action::{Available, Builtin, BuiltinCx, Made, OutKind, StepError};
use mosbuild_formats::{kernel_image, uki, zboot};

use crate::size::human;
use crate::steps::file_output;

/// Inputs `linux`, `stub` (a file, or a tree of one), `initramfs NN` in their order, and `os_release`; params `arch`,
/// `cmdline`, and `os_release` or `project`. Output `file`; fact `version`.
pub struct Assemble;

impl Builtin for Assemble {
    fn name(&self) -> &'static str {
        "uki-assemble"
    }

    fn version(&self) -> u32 {
        1
    }

    fn outputs(&self) -> Vec<(String, OutKind)> {
        vec![("file".into(), OutKind::File)]
    }

    fn run(&self, cx: &BuiltinCx<'_>) -> Result<Made, StepError> {
        let mut made = Made::default();
        let linux = cx.bytes("linux")?;
        program(&linux, "the kernel", cx.param("arch")).map_err(|e| {
            e.help("of x86 it takes CONFIG_EFI_STUB, of arm64 CONFIG_EFI, to be started by an EFI program")
        })?;
        let version = match kernel_image::release(&linux) {
            Ok(release) => Some(release),
            Err(kernel_image::Error::Zboot(e @ zboot::Error::Compression(_))) => {
                made.notes.push(format!("warning: the image does not name its release (.uname): {e}"));
                None
            }
            Err(e) => return Err(StepError::new(format!("the kernel: {e}"))),
        };
        let stub = stub(cx)?;
        program(&stub, "the stub", cx.param("arch"))?;
        let os_release = match cx.has("os_release") {
            true => cx.bytes("os_release")?,
            false if !cx.param("os_release").is_empty() => cx.param("os_release").into(),
            false => named(cx.param("project"), version.as_deref()).into_bytes(),
        };
        let initrd = archives(cx)?;
        let cmdline = cx.param("cmdline");
        let mut sections: Vec<(&str, &[u8])> = vec![(".osrel", &os_release)];
        if !cmdline.is_empty() {
            sections.push((".cmdline", cmdline.as_bytes()));
        }
        if let Some(version) = &version {
            sections.push((".uname", version.as_bytes()));
        }
        if !initrd.is_empty() {
            sections.push((".initrd", &initrd));
        }
        // Last, as ukify has it: what it takes in memory is more than it has in the file.
        sections.push((uki::LINUX, &linux));
        let image = uki::write(&stub, &sections).map_err(refused)?;
        for (name, bytes) in &sections {
            (cx.log)(&format!("{name}: {}", human(bytes.len() as u64)));
        }
        made.facts.extend(version.map(|version| ("version".to_owned(), version)));
        made.outputs.insert("file".into(), file_output(cx.store, &image)?);
        Ok(made)
    }
}

fn refused(error: uki::Error) -> StepError {
    let text = error.to_string();
    match error {
        uki::Error::Twice(_) | uki::Error::Signed => StepError::new(format!("the stub: {text}"))
            .help("a stub is the bare program, such as linuxx64.efi.stub of systemd-boot-efi"),
        uki::Error::TooLarge(_) => StepError::new(text).help("what takes the room: `mosbuild size`"),
        _ => StepError::new(text),
    }
}

/// Refuses what is no EFI program of this architecture.
fn program(bytes: &[u8], what: &str, arch: &str) -> Result<(), StepError> {
    let program = uki::program(bytes).map_err(|e| StepError::new(format!("{what}: {e}")))?;
    match uki::machine_name(program.machine) {
        Some(name) if name == arch => Ok(()),
        Some(name) => Err(StepError::new(format!("{what} is for {name}, the image is for {arch}"))),
        None => Err(StepError::new(format!(
            "{what} is for machine {:#06x}, the image is for {arch}",
            program.machine
        ))),
    }
}

/// The stub's bytes; of a tree, those of the one file in it.
fn stub(cx: &BuiltinCx<'_>) -> Result<Vec<u8>, StepError> {
    if !matches!(cx.inputs.get("stub"), Some(Available::Tree { .. })) {
        return cx.bytes("stub");
    }
    let tree = cx.tree("stub")?;
    let files: Vec<_> = tree
        .iter()
        .filter_map(|entry| match &entry.node {
            Node::File { digest, .. } => Some((entry, digest)),
            _ => None,
        })
        .collect();
    match files.as_slice() {
        [(_, digest)] => Ok(cx.store.read(digest)?),
        several => {
            let names: Vec<String> =
                several.iter().take(5).map(|(entry, _)| format!("/{}", entry.path)).collect();
            let found = if names.is_empty() { "no file".into() } else { names.join(", ") };
            Err(StepError::new(format!("the stub is to be one file; its tree has {found}"))
                .help("let `install` of its target take out the stub alone"))
        }
    }
}

/// The archives, each ended on a multiple of four, where the kernel looks for the next.
fn archives(cx: &BuiltinCx<'_>) -> Result<Vec<u8>, StepError> {
    let mut all = Vec::new();
    for name in cx.inputs.keys().filter(|name| name.starts_with("initramfs ")) {
        all.extend(cx.bytes(name)?);
        all.resize(all.len().next_multiple_of(4), 0);
    }
    Ok(all)
}

/// What an image says of itself where nothing else was given.
fn named(project: &str, version: Option<&str>) -> String {
    let id: String = project
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect();
    let pretty = [Some(project), version].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let mut fields = BTreeMap::from([
        ("ID".to_owned(), if id.is_empty() { "linux".into() } else { id }),
        ("NAME".to_owned(), project.to_owned()),
        ("PRETTY_NAME".to_owned(), pretty),
    ]);
    fields.extend(version.map(|version| ("VERSION_ID".to_owned(), version.to_owned())));
    os_release(&fields)
}

/// The text of os-release(5): values in double quotes, what the shell sees in them escaped.
pub fn os_release(fields: &BTreeMap<String, String>) -> String {
    let quoted = |value: &str| {
        value.chars().fold(String::new(), |mut text, c| {
            if matches!(c, '"' | '\\' | '$' | '`') {
                text.push('\\');
            }
            text.push(c);
            text
        })
    };
    fields.iter().map(|(name, value)| format!("{name}=\"{}\"\n", quoted(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_what_a_shell_can_read() {
        let fields =
            [("NAME", "a \"b\" $HOME `x` \\"), ("ID", "mos")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let text = os_release(&fields.into());
        let script = format!("{text}printf %s \"$NAME|$ID\"");
        let out = std::process::Command::new("sh").args(["-euc", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "a \"b\" $HOME `x` \\|mos");
    }

    #[test]
    fn an_image_is_named_after_its_project() {
        assert_eq!(
            named("My OS", Some("6.12.44")),
            "ID=\"my-os\"\nNAME=\"My OS\"\nPRETTY_NAME=\"My OS 6.12.44\"\nVERSION_ID=\"6.12.44\"\n"
        );
        assert_eq!(named("x", None), "ID=\"x\"\nNAME=\"x\"\nPRETTY_NAME=\"x\"\n");
    }
}
