//! From the imported parts to an image: the root with its layers, the archive, the kernel, what goes to dist.
//! Knows what the shell pipeline did with its parts, which no file of it says.

use super::yaml::{Block, list, map, scalar};

/// What a pipeline with these parts made of them; nothing where there is no base to lay them on. Targets whose names
/// are taken are left out.
pub fn assembly(parts: &[Block]) -> Vec<Block> {
    let has = |name: &str| parts.iter().any(|block| block.name == name);
    if !has("packages") {
        return Vec::new();
    }
    let of = |rules: &[&str]| {
        let parts = parts.iter().filter(|block| rules.contains(&block.rule()));
        parts.map(|block| block.name.as_str()).collect::<Vec<_>>()
    };
    let mut layers = vec!["packages"];
    for rules in [&["component", "release"][..], &["modules"], &["firmware"], &["files"]] {
        layers.extend(of(rules));
    }
    let mut rootfs = Block::new("rootfs", 0, "rootfs")
        .with("layers", list(&layers))
        .with("clean", "[docs, man, locales, headers, static-libs, apk-cache]")
        .with("strip", "true")
        .with("upx", "false");
    rootfs
        .comments
        .push("The old pipeline packed all programs by UPX. `upx: true` does that and says what".into());
    rootfs.comments.push("it brings; in an archive that is compressed by xz it is mostly a loss.".into());
    let initramfs = map(&[("root", "rootfs"), ("compress", "xz")]);
    let mut made = vec![rootfs, Block::inline("initramfs", "cpio", &initramfs)];
    if has("linux") {
        let kernel = map(&[("linux", "linux"), ("initramfs", "initramfs")]);
        made.push(Block::inline("kernel", "kernel", &kernel));
    }
    made.retain(|block| !has(&block.name));
    made
}

/// The lines of `dist:`, with the names that the old pipeline gave.
pub fn dist(parts: &[Block]) -> String {
    let has = |name: &str, rule: &str| parts.iter().any(|block| block.name == name && block.rule() == rule);
    let mut lines = Vec::new();
    if has("kernel", "kernel") {
        lines.push(("vmlinuz.efi", "kernel"));
    }
    if has("initramfs", "cpio") {
        lines.push(("initramfs.cpio.xz", "initramfs"));
    }
    if has("kernel", "kernel") && has("my_init", "component") {
        lines.push(("vmlinuz-{linux.version}-{my_init.rev}.efi", "kernel"));
    }
    match lines.is_empty() {
        true => String::new(),
        false => {
            let lines = lines.iter().map(|(name, target)| format!("  {}: {target}\n", scalar(name)));
            format!("\ndist:\n{}", lines.collect::<String>())
        }
    }
}
