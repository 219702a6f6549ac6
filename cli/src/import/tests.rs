//! Lines of `sources.conf` in all their forms, and that nothing is dropped silently.

use proptest::prelude::*;

use super::sources::parse;
use super::*;

fn printed(kind: Kind, text: &str) -> (String, Vec<String>) {
    let imported = read(kind, "config/it", text);
    let remarks = imported.remarks.iter().map(|r| format!("{}: {}", r.line, r.text)).collect();
    (imported.targets.iter().map(Block::text).collect(), remarks)
}

#[test]
fn colons_belong_to_the_url_or_part_the_line() {
    for (line, url, version, function, extra) in [
        (
            "git my_init https://forge.ourworld.tf/a/my_init.git development build_my_init",
            "https://forge.ourworld.tf/a/my_init.git",
            "development",
            "build_my_init",
            "",
        ),
        (
            "git:m:https://github.com/t/mycelium:0.6.1:build_mycelium",
            "https://github.com/t/mycelium",
            "0.6.1",
            "build_mycelium",
            "",
        ),
        ("git:m:https://h:8443/t/m:1:build_m", "https://h:8443/t/m", "1", "build_m", ""),
        (
            "git:m:https://u:p@h:8443/t:m:feature/x:build_m",
            "https://u:p@h:8443/t:m",
            "feature/x",
            "build_m",
            "",
        ),
        ("git:m:git@h:t/m.git:main:build_m:", "git@h:t/m.git", "main", "build_m", ""),
        ("git:m:git@h:t/m.git:main", "git@h:t/m.git", "main", "", ""),
        ("git:m:ssh://git@h:22/t/m.git:v1:make_m", "ssh://git@h:22/t/m.git", "v1", "make_m", ""),
        ("git:m:https://h/m::build_m", "https://h/m", "", "build_m", ""),
        ("git:m:https://h/m", "https://h/m", "", "", ""),
        ("git:m:/srv/m:v1:build_m", "/srv/m", "v1", "build_m", ""),
        ("git m git@h:t/m.git v1 build_m", "git@h:t/m.git", "v1", "build_m", ""),
        (
            "release:c:https://h/d/2.1.4/c-2.1.4:2.1.4:install_c:rename=corex:mode=0700",
            "https://h/d/2.1.4/c-2.1.4",
            "2.1.4",
            "install_c",
            "rename=corex mode=0700",
        ),
        (
            "release\tc\thttps://h:1/c#x  1  install_c rename=d",
            "https://h:1/c#x",
            "1",
            "install_c",
            "rename=d",
        ),
    ] {
        let got = parse(line).unwrap();
        let got = (got.url.as_str(), got.version, got.function, got.extra.join(" "));
        assert_eq!(got, (url, version, function, extra.to_owned()), "{line}");
    }
    for line in ["git", "git:", "git:m", "git:m:", ":m:u", "git::https://h/m:1:build_m", "git m"] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn what_is_not_translated_is_said_with_its_line() {
    let text = "\u{feff}# a remark\r\n\r\ngit:a:https://h/a.git:v1:build_other:jobs=2\r\n\
                crate:b:https://h/b:1:build_b\r\nnonsense\r\ngit:a:https://h/a2.git:v1:build_a # again\r\n\
                release:t:https://h/t.tar.gz:1:install_t:strip\r\n";
    let (yaml, remarks) = printed(Kind::Sources, text);
    assert_eq!(
        yaml,
        "  # build_other is shell code, which is not translated: a plain cargo build of the program a.\n  \
         # Fields subdir, package, features, env and build say it otherwise.\n  \
         # jobs=2: has no equivalent.\n  \
         a:\n    rule: component\n    source: { git: \"https://h/a.git\", rev: v1 }\n    install: { a: /usr/bin/a }\n  \
         # build_a is shell code, which is not translated: a plain cargo build of the program a.\n  \
         # Fields subdir, package, features, env and build say it otherwise.\n  \
         # a:\n  #   rule: component\n  #   source: { git: \"https://h/a2.git\", rev: v1 }\n  #   install: { a: /usr/bin/a }\n  \
         # strip: has no equivalent.\n  \
         # Which member of t.tar.gz is the program was in install_t.\n  \
         t:\n    rule: release\n    url: \"https://h/t.tar.gz\"\n    version: \"1\"\n    install: { t: /usr/bin/t }\n"
    );
    let begins = [
        "3: build_other is shell code",
        "3: option jobs=2 of a has no equivalent",
        "4: there is no source of type crate: b is left out",
        "5: TYPE:NAME:URL:VERSION:BUILD_FUNCTION[:EXTRA] is expected",
        "6: build_a is shell code",
        "6: a is there already, by line 3",
        "7: option strip of t has no equivalent",
        "7: t.tar.gz is an archive",
    ];
    assert_eq!(remarks.len(), begins.len(), "{remarks:#?}");
    for (remark, begin) in remarks.iter().zip(begins) {
        assert!(remark.starts_with(begin), "{remark}");
    }
}

#[test]
fn a_variable_in_an_old_text_stays_text() {
    let (yaml, _) = printed(Kind::Sources, "git:a:https://h/${B}.git:1.20:build_a");
    assert!(yaml.contains("{ git: \"https://h/$${B}.git\", rev: \"1.20\" }"), "{yaml}");
}

#[test]
fn a_kernel_config_tells_version_and_name() {
    let text = "#\n# Linux/x86 6.12.44 Kernel Configuration\n#\nCONFIG_LOCALVERSION=\"-MyceliumOS\"\nCONFIG_INITRAMFS_SOURCE=\"../root\"\n";
    let (yaml, remarks) = printed(Kind::Kernel, text);
    assert!(
        yaml.contains(
            "v6.x/linux-6.12.44.tar.xz\" }\n    config: config/it\n    localversion: \"-MyceliumOS\"\n"
        ),
        "{yaml}"
    );
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(!yaml.contains("tools"), "{yaml}");
    let (yaml, _) = printed(Kind::Kernel, &format!("{text}CONFIG_KERNEL_XZ=y\nCONFIG_DEBUG_INFO_BTF=y\n"));
    assert!(yaml.ends_with("    tools: [pahole, xz]\n"), "{yaml}");
}

#[test]
fn parts_are_put_together_as_far_as_there_are_any() {
    let parts = |kinds: &[(Kind, &str)]| -> Vec<Block> {
        kinds.iter().flat_map(|(kind, text)| read(*kind, "config/it", text).targets).collect()
    };
    let image = |parts: &[Block]| assembly(parts).iter().map(Block::text).collect::<String>();
    let sources =
        (Kind::Sources, "git:my_init:https://h/a:1:build_my_init\nrelease:c:https://h/c:1:install_c\n");
    assert_eq!(image(&parts(&[sources])), "");
    let some = parts(&[sources, (Kind::Packages, "musl\n"), (Kind::MyInit, "")]);
    let text = image(&some);
    assert!(text.contains("    layers: [packages, my_init, c, system]\n"), "{text}");
    assert!(text.ends_with("  initramfs: { rule: cpio, root: rootfs, compress: xz }\n"), "{text}");
    let mut all = some;
    all.extend(parts(&[(Kind::Modules, "ahci\n"), (Kind::Kernel, "CONFIG_A=y\n")]));
    let text = image(&all);
    assert!(text.contains("    layers: [packages, my_init, c, modules, firmware, system]\n"), "{text}");
    assert!(text.ends_with("  kernel: { rule: kernel, linux: linux, initramfs: initramfs }\n"), "{text}");
    all.extend(assembly(&all));
    assert_eq!(
        dist(&all),
        "\ndist:\n  vmlinuz.efi: kernel\n  initramfs.cpio.xz: initramfs\n  \
         \"vmlinuz-{linux.version}-{my_init.rev}.efi\": kernel\n"
    );
    // A component that is called like a part of the image keeps its name.
    let mut taken =
        parts(&[(Kind::Packages, "musl\n"), (Kind::Sources, "git:rootfs:https://h/r:1:build_r\n")]);
    taken.extend(assembly(&taken));
    assert_eq!(taken.iter().filter(|block| block.name == "rootfs").count(), 1);
    assert_eq!(dist(&taken), "\ndist:\n  initramfs.cpio.xz: initramfs\n");
}

#[test]
fn settings_of_the_upload_become_a_file_without_secrets() {
    let text = "S3_ENDPOINT=\"https://h:9000\"\nS3_BUCKET=mos\nS3_PREFIX=$X\nexport S3_SECRET_KEY='tops3cret'\nFOO=bar\nx\n";
    let imported = read(Kind::Rfs, "rfs.conf", text);
    let file = imported.publish.unwrap();
    assert_eq!(
        file,
        "endpoint: \"https://h:9000\"\nbucket: mos\ncredentials:\n  access_key: { env: S3_ACCESS_KEY }\n  secret_key: { env: S3_SECRET_KEY }\n"
    );
    let remarks: Vec<(usize, &str)> = imported.remarks.iter().map(|r| (r.line, r.text.as_str())).collect();
    assert_eq!(remarks.len(), 4, "{remarks:?}");
    assert!(remarks[0].0 == 3 && remarks[0].1.contains("made by the shell"), "{remarks:?}");
    assert!(remarks[1].1.starts_with("S3_SECRET_KEY is a secret"), "{remarks:?}");
    assert!(!format!("{file}{remarks:?}").contains("tops3cret"));
}

proptest! {
    /// Every line that says something becomes a target or a remark.
    #[test]
    fn nothing_is_dropped(text in "(git|release|x)?[: ]?([a-z/@.:=_# -]{0,30}\n?){0,6}") {
        let imported = read(Kind::Sources, "s", &text);
        for (at, line) in lines(&text) {
            let told = imported.targets.iter().any(|t| t.line == at) || imported.remarks.iter().any(|r| r.line == at);
            prop_assert!(told, "line {at} is lost: {line:?}");
        }
    }

    /// Whatever is in it, what is printed is YAML that means the same text.
    #[test]
    fn scalars_survive(text in any::<String>()) {
        let written = yaml::scalar(&text);
        match serde_json::from_str::<String>(&written) {
            Ok(read) => prop_assert_eq!(read, text.replace("${", "$${")),
            Err(_) => {
                prop_assert_eq!(&written, &text);
                prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c)));
            }
        }
    }
}
