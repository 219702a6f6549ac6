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
}

#[test]
fn no_value_of_the_upload_is_repeated() {
    let (yaml, remarks) =
        printed(Kind::Rfs, "S3_ENDPOINT=\"https://h:9000\"\nexport S3_SECRET_KEY='tops3cret'\nFOO=bar\nx\n");
    assert_eq!(yaml, "");
    assert_eq!(remarks.len(), 4, "{remarks:?}");
    assert!(remarks[1].starts_with("2: S3_SECRET_KEY is a secret"), "{remarks:?}");
    assert!(!remarks.concat().contains("tops3cret"));
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
