//! `mosbuild import` on the files of the shell pipeline, word by word as its description has them.

use mosbuild_tests::Space;

const SOURCES: &str = "\
# Format: TYPE:NAME:URL:VERSION:BUILD_FUNCTION[:EXTRA_OPTIONS]

# Git repositories (Rust components with musl)
git my_init https://forge.ourworld.tf/geomind_code/my_init.git development build_my_init
git:mycelium:https://github.com/threefoldtech/mycelium:0.6.1:build_mycelium
git:rfs:https://github.com/threefoldtech/rfs:development:build_rfs

# Pre-built releases
release:corex:https://github.com/threefoldtech/corex/releases/download/2.1.4/corex-2.1.4-amd64-linux-static:2.1.4:install_corex:rename=corex
";

const PACKAGES: &str = "\
# Core system
alpine-baselayout
busybox
musl

# Hardware detection & modules
eudev
eudev-hwids
kmod
";

const MODULES: &str = "\
# Format: MODULE_NAME (one per line, comments start with #)
#
# Storage
libata
ahci

# Networking
virtio_net
";

const KERNEL: &str = "\
#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 6.12.44 Kernel Configuration
#
CONFIG_LOCALVERSION=\"-MyceliumOS\"
CONFIG_INITRAMFS_SOURCE=\"\"
";

fn old() -> Space {
    let space = Space::new("targets: {}\n");
    space.write("config/sources.conf", SOURCES);
    space.write("config/packages.list", PACKAGES);
    space.write("config/modules.conf", MODULES);
    space.write("config/kernel.config", KERNEL);
    space.write("config/my_init/my_init.conf", "log_level: debug\ninit:\n  - load-modules\n");
    space.write(
        "config/rfs.conf",
        "S3_ENDPOINT=\"https://s3.example.com:9000\"\nS3_SECRET_KEY=\"YOUR_SECRET_KEY\"\n",
    );
    space
}

/// What is printed is a mosbuild.yaml but for its head, and everything in it is known to the rules.
#[test]
fn the_old_pipelines_files_become_a_workspace() {
    let space = old();
    let output = space.run(&[
        "import",
        "config/sources.conf",
        "config/packages.list",
        "config/modules.conf",
        "config/kernel.config",
        "config/my_init/my_init.conf",
    ]);
    assert_eq!(output.code, Some(0), "{output}");
    output.says("config/modules.conf: the modules come from a target `linux`");
    let yaml = &output.stdout;
    for text in [
        "source: { git: \"https://github.com/threefoldtech/mycelium\", rev: \"0.6.1\" }\n    subdir: myceliumd\n",
        "features: [build-binary]",
        "install: { corex-2.1.4-amd64-linux-static: /usr/bin/corex }",
        "list: config/packages.list",
        "linux-6.12.44.tar.xz",
    ] {
        assert!(yaml.contains(text), "{text} is not in:\n{yaml}");
    }
    space.yaml(yaml);
    let shown = space.json(&["list", "--json"]);
    let mut names: Vec<&str> =
        shown["targets"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let all = [
        "corex",
        "firmware",
        "initramfs",
        "kernel",
        "linux",
        "miniroot",
        "modules",
        "my_init",
        "mycelium",
        "packages",
        "rfs",
        "rootfs",
        "system",
    ];
    assert_eq!(names, all);
}

#[test]
fn what_has_no_equivalent_is_said_and_no_secret_is() {
    let space = old();
    space.write("config/sources.conf", "git:a:https://h/a:v1:build_b:depth=1\nlocal:b:/srv/b:1:build_b\n");
    let output = space.run(&["import", "config/sources.conf", "config/rfs.conf"]);
    assert_eq!(output.code, Some(0), "{output}");
    output
        .says("config/sources.conf:1: build_b is shell code")
        .says("config/sources.conf:1: option depth=1 of a has no equivalent")
        .says("config/sources.conf:2: there is no source of type local: b is left out")
        .says("config/rfs.conf:2: S3_SECRET_KEY is a secret");
    assert!(!format!("{output}").contains("YOUR_SECRET_KEY"), "{output}");
}

#[test]
fn settings_of_the_upload_become_config_publish_yaml() {
    let space = old();
    space.write("config/rfs.conf", "S3_ENDPOINT=\"https://s3.example.com:9000\"\nS3_REGION=\"us-east-1\"\nS3_BUCKET=\"mos\"\nS3_PREFIX=\"flists/mos_builder\"\nS3_ACCESS_KEY=\"YOUR_ACCESS_KEY\"\nS3_SECRET_KEY=\"YOUR_SECRET_KEY\"\n");
    let output = space.run(&["import", "config/rfs.conf"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert!(!format!("{output}").contains("YOUR_"), "{output}");
    space.write("config/publish.yaml", &output.stdout);
    space.yaml("targets:\n  k: { rule: command, run: 'echo k > $OUT/k', outputs: [k] }\ndist: { 'vmlinuz-{k.v}.efi': k }\n");
    space.edit_yaml("vmlinuz-{k.v}.efi", "k");
    // The file is whole: what is missing is a kernel.
    let refused = space.run(&["publish", "--what", "kernel"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    refused.says("no kernel is there to be published");
}

#[test]
fn other_files_are_refused() {
    let space = old();
    space.write("notes.txt", SOURCES);
    let output = space.run(&["import", "notes.txt"]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("notes.txt is none of the files that are known").says("--as");
    let output = space.run(&["import", "--as", "sources", "notes.txt"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert!(output.stdout.starts_with("targets:\n  # notes.txt\n  my_init:\n"), "{output}");
    space.write("packages.list", b"\xff\xfe");
    for file in ["config", "nothing/sources.conf", "packages.list"] {
        let output = space.run(&["import", "--as", "sources", file]);
        assert_eq!(output.code, Some(2), "{output}");
        output.says(file);
    }
}
