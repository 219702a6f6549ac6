//! Files that are settings: of the kernel, of the image's init, of the upload.
//! Knows what each became; prints no secret.

use mosbuild_rules::kernel_programs;

use super::yaml::{self, Block, list, map, scalar};
use super::{Imported, lines};

/// A whole `.config`: its version is in its heading, `# Linux/x86 6.12.44 Kernel Configuration`.
pub(super) fn kernel(path: &str, text: &str) -> Imported {
    let mut all = Imported::default();
    let heading = text.lines().take(10).find(|line| line.ends_with("Kernel Configuration"));
    let version = heading.and_then(|line| line.split_whitespace().rev().nth(2)).filter(|word| {
        word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || c == '.')
    });
    let version = version.unwrap_or_else(|| {
        all.remark(0, "the file does not say which kernel it is of: 6.12.44 is what the old pipeline took");
        "6.12.44"
    });
    let major = version.split('.').next().unwrap_or_default();
    let url = format!("https://cdn.kernel.org/pub/linux/kernel/v{major}.x/linux-{version}.tar.xz");
    let mut block = Block::new("linux", 0, "linux").with("source", map(&[("url", &url)]));
    block = block.with("config", scalar(path));
    for (at, line) in text.lines().enumerate() {
        let Some((symbol, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match symbol {
            "CONFIG_LOCALVERSION" if !value.is_empty() => block = block.with("localversion", scalar(value)),
            "CONFIG_INITRAMFS_SOURCE" if !value.is_empty() => {
                all.remark(
                    at + 1,
                    "CONFIG_INITRAMFS_SOURCE is set by mosbuild: the target `kernel` names the archive",
                );
            }
            "CONFIG_CC_VERSION_TEXT" => all.remark(at + 1, "what compiled it is the host's gcc now"),
            _ => {}
        }
    }
    let programs: Vec<&str> = kernel_programs(text).into_iter().collect();
    if !programs.is_empty() {
        block = block.with("tools", list(&programs));
    }
    all.targets.push(block);
    all
}

/// The image takes it as it is.
pub(super) fn my_init(path: &str) -> Imported {
    let mut all = Imported::default();
    let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
    if folder == "." {
        all.remark(
            0,
            "my_init.conf and services/ want a folder of their own: all of it goes to /etc/my_init",
        );
    }
    let installed = [
        map(&[("from", folder), ("to", "/etc/my_init")]),
        map(&[("link", "/sbin/my_init"), ("at", "/sbin/init")]),
        map(&[("link", "/sbin/my_init"), ("at", "/init")]),
        map(&[("dir", "/var/cache/bin"), ("mode", "0755")]),
        "{ node: /dev/console, type: char, major: 5, minor: 1, mode: \"0600\" }".into(),
    ];
    all.targets.push(Block::new("system", 0, "files").with("install", yaml::lines(&installed)));
    all.remark(
        0,
        "the old pipeline made /dev/console as root; here the archive has it, and nobody needs to be root",
    );
    all
}

/// Fields of config/publish.yaml by the names of the upload's settings.
const UPLOAD: [(&str, &str); 5] = [
    ("S3_ENDPOINT", "endpoint"),
    ("S3_REGION", "region"),
    ("S3_BUCKET", "bucket"),
    ("S3_PREFIX", "prefix"),
    ("KERNEL_SUBPATH", "kernel_subpath"),
];

/// Settings of the upload, a shell's assignments: config/publish.yaml, in which the secrets are named and not repeated.
pub(super) fn rfs(text: &str) -> Imported {
    let mut all = Imported::default();
    let mut fields = Vec::new();
    for (at, line) in lines(text) {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            all.remark(at, "this is no setting; it is left out");
            continue;
        };
        let (name, value) = (name.trim(), value.trim().trim_matches(['"', '\'']));
        if matches!(name, "S3_ACCESS_KEY" | "S3_SECRET_KEY") {
            all.remark(at, format!("{name} is a secret: keep it out of the repository, in the environment"));
            continue;
        }
        match UPLOAD.iter().find(|(setting, _)| *setting == name) {
            Some(_) if value.contains(['$', '`']) => {
                all.remark(
                    at,
                    format!("the value of {name} is made by the shell: write it into config/publish.yaml"),
                );
            }
            Some((_, field)) => fields.push(format!("{field}: {}\n", scalar(value))),
            // Its value may be a secret.
            None => all.remark(at, format!("{name} is not known")),
        }
    }
    fields.push(
        "credentials:\n  access_key: { env: S3_ACCESS_KEY }\n  secret_key: { env: S3_SECRET_KEY }\n".into(),
    );
    all.publish = Some(fields.concat());
    all
}
