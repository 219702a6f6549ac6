//! What cannot be installed, or must not be: each is told in words that name what is wrong, where, and what to do.

use mosbuild_tests::alpine::{Alpine, Stand, own_key};
use mosbuild_tests::apks::{self, Apk, Hash, Key, Member, bomb, tar_gz};
use mosbuild_tests::archive::{members, pin, text};
use mosbuild_tests::{Fault, Output, Space, flip_a_byte, need};

/// A build that failed with one of these exit codes and says all of these texts.
#[track_caller]
fn refused(output: &Output, codes: &[i32], texts: &[&str]) {
    assert!(output.code.is_some_and(|code| codes.contains(&code)), "one of {codes:?} is wanted: {output}");
    texts.iter().for_each(|text| {
        output.says(text);
    });
    assert!(!output.stderr.contains("panicked"), "{output}");
}

/// A stand whose community has these packages of the test's own.
fn with_own(alpine: &Alpine, wanted: &[&str], packages: &[Apk]) -> Stand {
    let stand = Stand::new(alpine, wanted);
    stand.own(packages);
    stand
}

#[test]
fn an_unknown_package_has_near_names() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["dhcpcdd", "musl", "kernel-firmware-of-nobody"]);
        let output = stand.space.build(&["packages"]);
        refused(&output, &[1, 4], &["dhcpcdd", "dhcpcd", "kernel-firmware-of-nobody"]);
        assert!(!output.stderr.contains("world["), "apk's own words are for apk: {output}");
    }
}

#[test]
fn constraints_that_conflict() {
    for alpine in Alpine::all() {
        let packages = [
            Apk::new("mos-a", "1-r0").depends("mos-base=1-r0"),
            Apk::new("mos-b", "1-r0").depends("mos-base=2-r0"),
            Apk::new("mos-c", "1-r0").depends("!mos-a"),
            Apk::new("mos-base", "1-r0"),
            Apk::new("mos-base", "2-r0"),
        ];
        for (list, texts) in [
            (["mos-a", "mos-b"], ["mos-base", "mos-a", "mos-b"]),
            (["mos-a", "mos-c"], ["mos-a", "mos-c", "conflict"]),
        ] {
            let stand = with_own(&alpine, &list, &packages);
            let output = stand.space.build(&["packages"]);
            refused(&output, &[1, 4], &texts);
        }
        let packages = [Apk::new("mos-lonely", "1-r0").depends("so:libnowhere.so.1")];
        let stand = with_own(&alpine, &["mos-lonely"], &packages);
        refused(&stand.space.build(&["packages"]), &[1, 4], &["so:libnowhere.so.1", "mos-lonely"]);
    }
}

#[test]
fn an_index_that_is_not_trusted() {
    for alpine in Alpine::all() {
        let index = alpine.file("community", "APKINDEX.tar.gz");
        let stand = with_own(&alpine, &["mos-a"], &[Apk::new("mos-a", "1-r0")]);
        // No key for it.
        let keys: Vec<String> = alpine
            .keys()
            .iter()
            .map(|k| format!("keys/{}", k.file_name().unwrap().to_str().unwrap()))
            .collect();
        stand.list(&["mos-a"], &format!("    keys: [{}]\n", keys.join(", ")));
        let output = stand.space.build(&["packages"]);
        refused(&output, &[4], &[&index, "own@test.invalid-00000002.rsa.pub", "keys"]);
        assert!(!stand.space.has("mosbuild.lock") || !stand.space.read("mosbuild.lock").contains("mos-a"));

        // Signed by another key of the same name.
        let other = Key::new(&stand.space.base().join("other"), "own@test.invalid-00000002");
        let built = [Apk::new("mos-a", "1-r0").build(&other, Hash::Sha1)];
        let community = stand.mirror.dir().join(format!("alpine/{}/community", alpine.branch));
        apks::write_repository(&community, &built, &other, Hash::Sha1);
        stand.list(&["mos-a"], "");
        refused(&stand.space.build(&["packages"]), &[4], &[&index, "own@test.invalid-00000002.rsa.pub"]);

        // Not signed at all.
        let built = [Apk::new("mos-a", "1-r0").build(own_key(), Hash::Sha1)];
        mosbuild_tests::alpine::replace(&stand.mirror, &index, &apks::index(&built));
        refused(&stand.space.build(&["packages"]), &[4], &[&index, "sign"]);

        // All three signatures are known.
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            let built =
                [Apk::new("mos-a", "1-r0").file("etc/mos", &format!("{hash:?}")).build(own_key(), hash)];
            let stand = Stand::new(&alpine, &["mos-a"]);
            let community = stand.mirror.dir().join(format!("alpine/{}/community", alpine.branch));
            apks::write_repository(&community, &built, own_key(), hash);
            stand.space.builds(&["packages"]);
            assert_eq!(text(&stand.space.path("dist/packages.tar"), "etc/mos"), format!("{hash:?}"));
        }
    }
}

#[test]
fn an_index_that_is_damaged() {
    let Some(alpine) = Alpine::any() else { return };
    let index = alpine.file("main", "APKINDEX.tar.gz");
    let stand = Stand::new(&alpine, alpine.list());
    stand.mirror.fault("main/x86_64/APKINDEX.tar.gz", Fault::Flipped);
    refused(&stand.space.build(&["packages"]), &[4], &[&index]);
    stand.mirror.clear();
    let whole = std::fs::read(stand.mirror.dir().join(&index)).unwrap();
    for bytes in [&whole[..whole.len() / 2], &whole[..0], b"<html>404, and yet 200</html>"] {
        mosbuild_tests::alpine::replace(&stand.mirror, &index, bytes);
        refused(&stand.space.build(&["packages"]), &[4], &[&index]);
    }
    mosbuild_tests::alpine::replace(&stand.mirror, &index, &whole);
    stand.space.builds(&["packages"]);
}

#[test]
fn a_package_with_other_bytes_than_the_lock_has() {
    for alpine in Alpine::all() {
        let stand = with_own(&alpine, &["mos-a"], &[Apk::new("mos-a", "1-r0").file("etc/mos", "one")]);
        stand.space.builds(&["packages"]);
        // The same version with other content, which the mirror vouches for.
        stand.own(&[Apk::new("mos-a", "1-r0").file("etc/mos", "two")]);
        let fresh = stand.afresh("fresh");
        let output = fresh.build(&["packages"]);
        refused(&output, &[4], &[&alpine.file("community", "mos-a-1-r0.apk"), &stand.mirror.url()]);
        let row = pin(&stand.space, "packages")["package"]["mos-a"].clone();
        let known = ["sha256", "blake3"].map(|f| row[f].as_str().unwrap().to_owned());
        assert!(known.iter().any(|digest| output.stderr.contains(digest)), "what it should be: {output}");
        let digests = output.stderr.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 64);
        assert!(digests.collect::<std::collections::BTreeSet<_>>().len() >= 2, "what it is: {output}");
        assert_eq!(fresh.read("mosbuild.lock"), stand.space.read("mosbuild.lock"));
        // Told to, it takes the new one.
        let output = fresh.run(&["lock", "--update", "mos-a"]);
        assert_eq!(output.code, Some(0), "{output}");
        fresh.builds(&["packages"]);
        assert_eq!(text(&fresh.path("dist/packages.tar"), "etc/mos"), "two");
    }
}

#[test]
fn a_package_that_the_index_does_not_vouch_for() {
    let Some(alpine) = Alpine::any() else { return };
    // Damaged on the mirror: the index has its size and the digest of its control member, no more.
    let stand = Stand::new(&alpine, &["mos-a"]);
    let mut built = vec![Apk::new("mos-a", "1-r0").file("etc/mos", "one").build(own_key(), Hash::Sha1)];
    let last = built[0].bytes.len() - 20;
    built[0].bytes[last] ^= 1;
    stand.own_built(&built);
    refused(&stand.space.build(&["packages"]), &[4], &[&alpine.file("community", "mos-a-1-r0.apk")]);
    // Another package of the same size under its name.
    let stand = Stand::new(&alpine, &["mos-a"]);
    let mut built = vec![Apk::new("mos-a", "1-r0").file("etc/mos", "one").build(own_key(), Hash::Sha1)];
    built[0].bytes = Apk::new("mos-a", "1-r0").file("etc/mos", "two").build(own_key(), Hash::Sha1).bytes;
    stand.own_built(&built);
    refused(&stand.space.build(&["packages"]), &[4], &[&alpine.file("community", "mos-a-1-r0.apk")]);
}

#[test]
fn a_package_that_the_mirror_does_not_have() {
    for alpine in Alpine::all() {
        let stand = with_own(&alpine, &["mos-a"], &[Apk::new("mos-a", "1-r0")]);
        stand.space.builds(&["packages"]);
        // An update took the locked version away.
        stand.own(&[Apk::new("mos-a", "2-r0")]);
        let fresh = stand.afresh("fresh");
        let output = fresh.build(&["packages"]);
        refused(
            &output,
            &[4],
            &[&alpine.file("community", "mos-a-1-r0.apk"), "404", "mosbuild lock --update mos-a"],
        );
        // The index names it, and it is not there.
        let stand = with_own(&alpine, &["mos-a"], &[Apk::new("mos-a", "1-r0")]);
        std::fs::remove_file(stand.mirror.dir().join(alpine.file("community", "mos-a-1-r0.apk"))).unwrap();
        refused(
            &stand.space.build(&["packages"]),
            &[4],
            &[&alpine.file("community", "mos-a-1-r0.apk"), "404"],
        );
    }
}

/// Members that no archive should have, and what of each must be told.
fn hostile() -> Vec<(&'static str, Vec<Member>, &'static str)> {
    vec![
        ("dotdot", vec![Member::file("usr/../../escaped", "x")], "usr/../../escaped"),
        ("absolute", vec![Member::file("/tmp/mosbuild-escaped", "x")], "/tmp/mosbuild-escaped"),
        ("device", vec![Member::dir("dev"), Member::device("dev/mem", 1, 1)], "dev/mem"),
        ("twice", vec![Member::file("etc/mos", "a"), Member::file("etc/mos", "b")], "etc/mos"),
        (
            "through",
            vec![Member::symlink("srv/out", "/tmp"), Member::file("srv/out/mosbuild-escaped", "x")],
            "srv/out/mosbuild-escaped",
        ),
        ("linked", vec![Member::hard_link("etc/mos", "../../../etc/passwd")], "etc/mos"),
    ]
}

#[test]
fn hostile_packages() {
    let Some(alpine) = Alpine::any() else { return };
    for (what, members, told) in hostile() {
        let mut package = Apk::new("mos-bad", "1-r0").file("etc/mos-first", "x");
        for member in members {
            package = package.member(member);
        }
        let stand = with_own(&alpine, &["mos-bad"], &[package]);
        let output = stand.space.build(&["packages"]);
        refused(&output, &[1, 4], &["mos-bad", told]);
        let escaped = ["/tmp/mosbuild-escaped", "/escaped"].map(std::path::Path::new);
        assert!(escaped.iter().all(|p| !p.exists()), "{what}: {escaped:?}");
        stand.space.assert_clean();
    }
}

#[test]
fn hostile_archives_in_place_of_a_miniroot() {
    let Some(alpine) = Alpine::any() else { return };
    for (what, members, told) in hostile() {
        let mut all =
            vec![Member::dir("etc"), Member::file("etc/alpine-release", "3.19.4\n"), Member::dir("srv")];
        all.extend(members);
        let stand = Stand::new(&alpine, &["jq"]);
        std::fs::write(stand.mirror.dir().join("bad.tar.gz"), tar_gz(&all)).unwrap();
        let url = format!("{}bad.tar.gz", stand.mirror.url());
        stand.space.yaml(&format!("targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n"));
        let output = stand.space.build(&["a"]);
        refused(&output, &[1, 4], &[told]);
        assert!(!std::path::Path::new("/tmp/mosbuild-escaped").exists(), "{what}");
    }
    let stand = Stand::new(&alpine, &["jq"]);
    for (name, bytes, told) in [
        ("text", b"this is no archive".to_vec(), "text.tar.gz"),
        ("empty", tar_gz(&[]), "empty.tar.gz"),
        ("other", tar_gz(&[Member::file("README", "no Alpine")]), "other.tar.gz"),
    ] {
        std::fs::write(stand.mirror.dir().join(format!("{name}.tar.gz")), bytes).unwrap();
        let url = format!("{}{name}.tar.gz", stand.mirror.url());
        stand.space.yaml(&format!("targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n"));
        refused(&stand.space.build(&["a"]), &[1, 4], &[told]);
    }
}

/// 35 GiB of zeros in 35 MB: refused before the disk is full of them, and soon.
#[test]
fn decompression_bombs() {
    let Some(alpine) = Alpine::any() else { return };
    let archive = bomb();
    let stand = Stand::new(&alpine, &["jq"]);
    std::fs::write(stand.mirror.dir().join("bad.tar.gz"), &archive).unwrap();
    let url = format!("{}bad.tar.gz", stand.mirror.url());
    stand.space.yaml(&format!("targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n"));
    let start = std::time::Instant::now();
    refused(&stand.space.build(&["a"]), &[1, 4], &["bad.tar.gz"]);
    let package = Apk::new("mos-bad", "1-r0").data(archive);
    let stand = with_own(&alpine, &["mos-bad"], &[package]);
    refused(&stand.space.build(&["packages"]), &[1, 4], &["mos-bad"]);
    assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
}

#[test]
fn a_script_that_fails() {
    for alpine in Alpine::all() {
        let script = "#!/bin/sh\necho this is what it says\necho and this is why >&2\nexit 3\n";
        let package = Apk::new("mos-bad", "1-r0").file("etc/mos", "x").script("post-install", script);
        let stand = with_own(&alpine, &["mos-bad"], &[package]);
        let output = stand.space.build(&["packages"]);
        refused(&output, &[1], &["mos-bad", "post-install", "this is what it says", "and this is why"]);
        let log = stand.space.log("packages");
        assert!(log.contains("and this is why"), "{log}");
        // Scripts skipped, it is as good as any.
        stand.list(&["mos-bad"], "    scripts: skip\n");
        stand.space.builds(&["packages"]);
        assert!(members(&stand.space.path("dist/packages.tar")).contains_key("etc/mos"));
    }
}

#[test]
fn a_trigger_runs() {
    for alpine in Alpine::all() {
        let script = "#!/bin/sh\necho \"$@\" > /etc/mos-triggered\n";
        let packages = [
            Apk::new("mos-a", "1-r0")
                .triggers("/usr/share/mos*")
                .script("trigger", script)
                .file("usr/share/mos/x", "x"),
            Apk::new("mos-b", "1-r0").install_if("mos-a musl").file("etc/mos-b", "by install_if"),
        ];
        let stand = with_own(&alpine, &["mos-a"], &packages);
        stand.space.builds(&["packages"]);
        let placed = stand.space.path("dist/packages.tar");
        assert_eq!(text(&placed, "etc/mos-triggered"), "/usr/share/mos\n");
        assert_eq!(text(&placed, "etc/mos-b"), "by install_if");
    }
}

#[test]
fn what_is_forbidden() {
    for alpine in Alpine::all() {
        let packages = [
            Apk::new("mos-top", "1-r0").depends("cmd:mos-middle"),
            Apk::new("mos-middle", "1-r0").provides("cmd:mos-middle=1").depends("openrc>=0.1"),
            Apk::new("mos-beside", "1-r0").install_if("mos-top dhcpcd").depends("mos-secret"),
            Apk::new("mos-secret", "1-r0"),
        ];
        let stand = with_own(&alpine, &["openrc"], &packages);
        stand.list(&["musl", "openrc"], "    forbid: [openrc, systemd]\n");
        refused(&stand.space.build(&["packages"]), &[1, 2, 4], &["openrc", "forbid"]);
        stand.list(&["musl", "mos-top"], "    forbid: [openrc, systemd]\n");
        let output = stand.space.build(&["packages"]);
        refused(&output, &[1, 4], &["openrc", "mos-middle", "mos-top"]);
        let at = |text: &str| output.stderr.find(text).unwrap();
        assert!(at("mos-top") < at("mos-middle"), "the chain from what is listed: {output}");
        // By install_if as well.
        stand.list(&["mos-top", "dhcpcd"], "    forbid: mos-secret\n");
        refused(&stand.space.build(&["packages"]), &[1, 4], &["mos-secret", "mos-beside", "mos-top"]);
        // Not in the result: no objection.
        stand.list(&["dhcpcd"], "    forbid: [openrc, systemd]\n");
        stand.space.builds(&["packages"]);
        // The real one.
        if alpine.genuine {
            stand.list(&["alpine-base"], "    forbid: openrc\n");
            refused(&stand.space.build(&["packages"]), &[1, 4], &["openrc", "alpine-base"]);
        }
    }
}

#[test]
fn wrong_fields() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["musl"]);
    for (field, text) in [
        ("    scripts: maybe\n", "maybe"),
        ("    list: config/none.list\n", "list"),
        ("    keys: [keys/none.rsa.pub]\n", "keys/none.rsa.pub"),
        ("    repository: main\n", "repositories"),
    ] {
        stand.list(&["musl"], field);
        refused(&stand.space.build(&["packages"]), &[2], &[text, "mosbuild.yaml:"]);
    }
    stand.list(&["\"mu sl\""], "");
    refused(&stand.space.build(&["packages"]), &[2], &["mu sl"]);
    stand.space.yaml("targets:\n  a: { rule: miniroot }\n");
    refused(&stand.space.build(&["a"]), &[2], &["release"]);
}

#[test]
fn a_damaged_download_in_the_store() {
    let Some(alpine) = Alpine::any() else { return };
    let mut stand = with_own(&alpine, &["mos-a"], &[Apk::new("mos-a", "1-r0").file("etc/mos", "one")]);
    stand.space.builds(&["packages"]);
    let (digest, _) =
        mosbuild_cache::Digest::of_file(&stand.mirror.dir().join(alpine.file("community", "mos-a-1-r0.apk")))
            .unwrap();
    let kept = mosbuild_tests::blobs(stand.space.store()).into_iter().filter(|(_, hex)| *hex == digest.hex());
    let kept: Vec<_> = kept.map(|(path, _)| path).collect();
    assert!(!kept.is_empty(), "the package is kept by content");
    kept.iter().for_each(|path| flip_a_byte(path));
    // It is noticed when it is read again, and fetched again.
    stand.mirror.clear();
    stand.space.builds(&["packages", "--force", "packages"]);
    assert_eq!(stand.mirror.packages(), ["mos-a-1-r0.apk"]);
    stand.space.assert_clean();
    kept.iter().filter(|path| path.exists()).for_each(|path| flip_a_byte(path));
    stand.mirror.stop();
    let output = stand.space.build(&["packages", "--force", "packages"]);
    refused(&output, &[4], &["mos-a-1-r0.apk"]);
}

#[test]
fn no_user_namespaces() {
    let Some(alpine) = Alpine::any() else { return };
    need("unshare", "util-linux");
    let stand = Stand::new(&alpine, &["dhcpcd"]);
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_mnt_namespaces; exec \"$@\"";
    let output = within(&stand.space, &["unshare", "-r", "sh", "-c", script, "sh"], &["build", "packages"]);
    assert_eq!(output.0, Some(3), "{}", output.1);
    assert!(output.1.contains("user.max_user_namespaces"), "{}", output.1);
}

#[test]
fn a_full_disk() {
    let Some(alpine) = Alpine::any() else { return };
    need("unshare", "util-linux");
    let stand = Stand::new(&alpine, alpine.list());
    std::fs::create_dir_all(stand.space.store()).unwrap();
    let mount = format!("mount -t tmpfs -o size=2m none {}; exec \"$@\"", stand.space.store().display());
    let output =
        within(&stand.space, &["unshare", "-r", "-m", "sh", "-c", &mount, "sh"], &["build", "miniroot"]);
    assert!(matches!(output.0, Some(1 | 3 | 4)), "{output:?}");
    let said = output.1.to_lowercase();
    assert!(said.contains("no space left") || said.contains("disk is full"), "{}", output.1);
    assert!(output.1.contains(stand.space.store().to_str().unwrap()), "where: {}", output.1);
    stand.space.builds(&["miniroot"]);
}

/// Runs the program below another one; exit code and standard error.
fn within(space: &Space, around: &[&str], args: &[&str]) -> (Option<i32>, String) {
    let inner = space.command(args);
    let mut command = std::process::Command::new(around[0]);
    command.args(&around[1..]).arg(inner.get_program()).args(inner.get_args());
    command.current_dir(space.root()).env_clear();
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
