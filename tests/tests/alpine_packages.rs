//! `packages` on real packages: what is installed, with which owners; what is downloaded and when nothing is; the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use mosbuild_cache::Digest;
use mosbuild_tests::alpine::{Alpine, Stand, own_key};
use mosbuild_tests::apks::{Apk, Hash, write_repository};
use mosbuild_tests::archive::{Entry, installed, members, pin, sha256, text};
use mosbuild_tests::{Fault, Space, need};

fn tree(space: &Space) -> BTreeMap<String, Entry> {
    members(&space.path("dist/packages.tar"))
}

/// The packages in a placed tree, by name.
fn in_tree(space: &Space) -> BTreeMap<String, String> {
    installed(&text(&space.path("dist/packages.tar"), "lib/apk/db/installed")).into_iter().collect()
}

/// Name and version in a file name.
fn name_and_version(file: &str) -> (String, String) {
    let stem = file.strip_suffix(".apk").unwrap();
    let (rest, release) = stem.rsplit_once('-').unwrap();
    let (name, version) = rest.rsplit_once('-').unwrap();
    (name.to_owned(), format!("{version}-{release}"))
}

#[test]
fn the_packages_of_an_image() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, alpine.list());
        let output = stand.space.builds(&["packages", "miniroot"]);
        output.counts(2, 0, 0);
        let placed = tree(&stand.space);
        let base = members(&stand.space.path("dist/miniroot.tar"));

        // All of the list, and nothing of OpenRC, which would come by install_if.
        let now = in_tree(&stand.space);
        for name in alpine.list() {
            assert!(now.contains_key(*name), "{name}: {now:?}");
        }
        assert!(now.keys().all(|name| !name.contains("openrc")), "{now:?}");

        // Owners and modes, whoever built it: this may run as a plain user.
        assert_eq!(placed["etc/shadow"].owner, "0/42");
        assert_eq!(placed["etc/shadow"].mode, "-rw-r-----");
        assert_eq!(placed["tmp"].mode, "drwxrwxrwt");
        let kinds: BTreeSet<u8> = placed.values().map(|e| e.mode.as_bytes()[0]).collect();
        assert!(kinds.iter().all(|kind| b"-dlh".contains(kind)), "device nodes: {kinds:?}");
        let in_dev: Vec<_> =
            placed.iter().filter(|(p, e)| p.starts_with("dev/") && !e.mode.starts_with('d')).collect();
        assert!(in_dev.is_empty(), "{in_dev:?}");
        // Scripts made users, and triggers ran: busybox's made its links.
        let passwd = text(&stand.space.path("dist/packages.tar"), "etc/passwd");
        assert!(passwd.contains("\ndhcpcd:x:"), "{passwd}");
        assert!(base.keys().all(|path| placed.contains_key(path)), "something of the base is gone");
        // The world is what the base had and what was asked for.
        let world = text(&stand.space.path("dist/packages.tar"), "etc/apk/world");
        for name in alpine.list() {
            assert!(world.lines().any(|l| l == *name), "{name}: {world}");
        }
        // Nothing of this day is in it: adduser writes the date into shadow, apk 3 keeps a log.
        let shadow = text(&stand.space.path("dist/packages.tar"), "etc/shadow");
        let line = shadow.lines().find(|l| l.starts_with("dhcpcd:")).unwrap();
        let today = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
        let changed = line.split(':').nth(2).unwrap();
        assert!((0..3).all(|day| changed != (today - day).to_string()), "{line}");
        assert!(!placed.contains_key("var/log/apk.log"));
        // Nothing of this host is in it.
        let repositories = text(&stand.space.path("dist/packages.tar"), "etc/apk/repositories");
        assert!(!repositories.contains("127.0.0.1") && !repositories.contains("mosbuild"), "{repositories}");
        stand.space.assert_clean();
    }
}

#[test]
fn setuid_bits_are_kept() {
    for alpine in Alpine::all() {
        let (package, file) = alpine.setuid();
        let stand = Stand::new(&alpine, &[package]).as_plain_user();
        stand.space.builds(&["packages"]);
        let entry = &tree(&stand.space)[file];
        assert_eq!((entry.mode.as_str(), entry.owner.as_str()), ("-rwsr-xr-x", "0/0"));
    }
}

#[test]
fn root_and_a_plain_user_make_the_same_tree() {
    for alpine in Alpine::all() {
        let root = Stand::new(&alpine, alpine.list());
        root.space.builds(&["packages"]);
        let user = Stand::new(&alpine, alpine.list()).as_plain_user();
        user.space.write("mosbuild.lock", root.space.read("mosbuild.lock"));
        user.space.builds(&["packages", "--locked"]);
        let (one, other) = (tree(&root.space), tree(&user.space));
        for (path, entry) in &one {
            assert_eq!(Some(entry), other.get(path), "{path}");
        }
        assert_eq!(one.len(), other.len());
        assert!(
            root.space.bytes("dist/packages.tar") == user.space.bytes("dist/packages.tar"),
            "other bytes"
        );
        // And so does the same user again, in another workspace and with another store.
        let again = user.afresh("another-name");
        again.builds(&["packages", "--locked"]);
        assert!(
            root.space.bytes("dist/packages.tar") == again.bytes("dist/packages.tar"),
            "other bytes the second time"
        );
    }
}

#[test]
fn the_lock_has_every_package() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, alpine.list());
        stand.space.builds(&["packages", "miniroot"]).says("mosbuild.lock");
        let before: BTreeMap<String, String> =
            installed(&text(&stand.space.path("dist/miniroot.tar"), "lib/apk/db/installed"))
                .into_iter()
                .collect();
        let mut now = in_tree(&stand.space);
        now.retain(|name, version| before.get(name) != Some(version));
        let pin = pin(&stand.space, "packages");
        let rows = pin["package"].as_table().unwrap();
        let names: Vec<&String> = rows.keys().collect();
        assert_eq!(names, now.keys().collect::<Vec<_>>(), "what is locked is what is installed");
        let downloaded: BTreeSet<String> = stand.mirror.packages().into_iter().collect();
        assert_eq!(downloaded.len(), stand.mirror.packages().len(), "each once");
        assert_eq!(downloaded.len(), rows.len());
        for file in &downloaded {
            let (name, version) = name_and_version(file);
            let row = rows[&name].as_table().unwrap();
            let field = |f: &str| {
                row.get(f).and_then(|v| v.as_str()).unwrap_or_else(|| panic!("no {f}: {row}")).to_owned()
            };
            let repository = ["main", "community"]
                .into_iter()
                .find(|r| stand.mirror.dir().join(alpine.file(r, file)).exists());
            let path =
                stand.mirror.dir().join(alpine.file(repository.unwrap(), file)).canonicalize().unwrap();
            let (digest, size) = Digest::of_file(&path).unwrap();
            assert_eq!(field("version"), version);
            assert_eq!((field("blake3"), field("size")), (digest.hex(), size.to_string()));
            assert_eq!(field("sha256"), sha256(&path));
            // Its identity in the index: Q1 and the digest of its control member.
            let identities: Vec<&str> =
                row.values().filter_map(|v| v.as_str()).filter(|v| v.starts_with("Q1")).collect();
            assert_eq!(identities.len(), 1, "{row}");
            let record = text(&stand.space.path("dist/packages.tar"), "lib/apk/db/installed");
            assert!(
                record.contains(&format!("C:{}\nP:{name}\nV:{version}\n", identities[0])),
                "{name} {identities:?}"
            );
        }
    }
}

#[test]
fn nothing_changed_is_a_hit() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, alpine.list());
    stand.space.builds(&["packages"]);
    stand.mirror.clear();
    for forget in [false, true] {
        if forget {
            stand.space.forget_stamp();
        }
        let output = stand.space.builds(&["packages"]);
        output.counts(0, 2, 0);
        assert!(output.started().is_empty(), "{output}");
    }
    // The order of the list, a name twice and a comment are no change of what is wanted.
    let mut list = alpine.list().to_vec();
    list.reverse();
    list.push("musl");
    stand.space.write("config/packages.list", format!("# ours\n{}\n\n", list.join("   # why\n")));
    let yaml = stand
        .yaml(&[stand.mirror.url()], &["LIST"], "")
        .replace("packages: [LIST]", "list: config/packages.list");
    stand.space.yaml(&yaml);
    let lock = stand.space.read("mosbuild.lock");
    stand.space.builds(&["packages", "--locked"]).counts(0, 2, 0);
    assert_eq!(stand.space.read("mosbuild.lock"), lock);
    assert_eq!(stand.mirror.requests(), []);
}

#[test]
fn one_more_package_is_one_more_download() {
    for alpine in Alpine::all() {
        let (more, file) = match alpine.genuine {
            true => ("doas", alpine.package("main", "doas")),
            false => ("lddtree", alpine.package("main", "lddtree")),
        };
        let stand = Stand::new(&alpine, alpine.list());
        stand.space.builds(&["packages"]);
        let before = in_tree(&stand.space);
        stand.mirror.clear();
        let mut list = alpine.list().to_vec();
        list.push(more);
        stand.list(&list, "");
        let output = stand.space.builds(&["packages"]);
        assert_eq!(output.ended("ran"), ["packages"], "{output}");
        assert_eq!(stand.mirror.packages(), [file]);
        let mut after = in_tree(&stand.space);
        assert!(after.remove(more).is_some());
        assert_eq!(after, before);
        // Taken away again, it is the result from before.
        stand.mirror.clear();
        stand.list(alpine.list(), "");
        stand.space.builds(&["packages"]).counts(0, 2, 0);
        assert_eq!(stand.mirror.requests(), []);
    }
}

#[test]
fn a_locked_build_needs_no_index() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, alpine.list());
        stand.space.builds(&["packages"]);
        let names = stand.mirror.packages();
        let fresh = stand.afresh("fresh");
        stand.mirror.clear();
        stand.mirror.fault("APKINDEX.tar.gz", Fault::NotFound);
        stand.mirror.fault(".yaml", Fault::NotFound);
        fresh.builds(&["packages", "--locked"]);
        assert_eq!(stand.mirror.packages(), names);
        let others: BTreeSet<String> =
            stand.mirror.counts().into_keys().filter(|path| !path.ends_with(".apk")).collect();
        assert_eq!(
            others,
            BTreeSet::from([format!("/{}", alpine.release_file(""))]),
            "the miniroot and packages alone"
        );
        assert!(stand.space.bytes("dist/packages.tar") == fresh.bytes("dist/packages.tar"));
    }
}

#[test]
fn a_mirror_that_is_gone() {
    for alpine in Alpine::all() {
        let mut stand = Stand::new(&alpine, alpine.list());
        stand.space.builds(&["packages"]);
        stand.mirror.stop();
        std::fs::remove_dir_all(stand.mirror.dir()).unwrap();
        stand.space.forget_stamp();
        stand.space.builds(&["packages"]).counts(0, 2, 0);
        // A fresh workspace, the same store and lock.
        let other = stand.beside("other");
        other.builds(&["packages"]).counts(0, 2, 0);
        other.builds(&["packages", "--offline", "--locked"]);
        assert!(stand.space.bytes("dist/packages.tar") == other.bytes("dist/packages.tar"));
        // Also when apk has to run again: the packages themselves are in the store.
        let output = other.builds(&["packages", "--offline", "--force", "packages"]);
        assert_eq!(output.ended("ran"), ["packages"], "{output}");
        assert!(stand.space.bytes("dist/packages.tar") == other.bytes("dist/packages.tar"));
    }
}

#[test]
fn fetch_then_build_without_a_network() {
    let Some(alpine) = Alpine::any() else { return };
    let mut stand = Stand::new(&alpine, alpine.list());
    let locked = stand.space.run(&["lock"]);
    assert_eq!(locked.code, Some(0), "{locked}");
    let fetched = stand.space.run(&["fetch"]);
    assert_eq!(fetched.code, Some(0), "{fetched}");
    let rows = pin(&stand.space, "packages")["package"].as_table().unwrap().len();
    assert_eq!(stand.mirror.packages().into_iter().collect::<BTreeSet<_>>().len(), rows);
    stand.mirror.clear();
    let again = stand.space.run(&["fetch"]);
    assert_eq!((again.code, stand.mirror.requests()), (Some(0), vec![]), "{again}");
    stand.mirror.stop();
    let lock = stand.space.read("mosbuild.lock");
    // The miniroot was unpacked to tell what of it the packages build on.
    stand.space.builds(&["packages", "--offline", "--locked"]).counts(1, 1, 0);
    assert_eq!(stand.space.read("mosbuild.lock"), lock);
    // What it cannot get, it names.
    let fresh = stand.afresh("fresh");
    let failed = fresh.run(&["fetch"]);
    assert_eq!(failed.code, Some(4), "{failed}");
    failed.says(&alpine.release_file(""));
}

#[test]
fn several_downloads_at_once() {
    let Some(alpine) = Alpine::genuine() else { return };
    let stand = Stand::new(&alpine, alpine.list());
    stand.mirror.fault(".apk", Fault::Slow(Duration::from_millis(40)));
    stand.space.builds(&["packages"]);
    let most = stand.mirror.most_at_once();
    assert!((4..=8).contains(&most), "eight by default, and there are more packages than that: {most}");
}

#[test]
fn scripts_can_be_left_out() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["dhcpcd"]);
        stand.list(&["dhcpcd"], "    scripts: skip\n");
        stand.space.builds(&["packages"]);
        let passwd = text(&stand.space.path("dist/packages.tar"), "etc/passwd");
        assert!(!passwd.contains("dhcpcd"), "its pre-install makes that user: {passwd}");
        assert!(in_tree(&stand.space).contains_key("dhcpcd"));
        // It is another result than that with scripts.
        stand.list(&["dhcpcd"], "");
        assert_eq!(stand.space.builds(&["packages"]).ended("ran"), ["packages"]);
        let passwd = text(&stand.space.path("dist/packages.tar"), "etc/passwd");
        assert!(passwd.contains("\ndhcpcd:x:100:101:"), "{passwd}");
    }
}

/// What goes together may need an older version of what the miniroot has; then that is locked as well.
#[test]
fn a_package_of_the_base_makes_way() {
    let Some(alpine) = Alpine::genuine() else { return };
    let stand = Stand::new(&alpine, &["openssl"]);
    stand.space.builds(&["packages", "miniroot"]);
    let base = stand.space.path("dist/miniroot.tar");
    let before: BTreeMap<String, String> =
        installed(&text(&base, "lib/apk/db/installed")).into_iter().collect();
    let now = in_tree(&stand.space);
    assert_eq!((before["libssl3"].as_str(), now["libssl3"].as_str()), ("3.1.7-r0", "3.1.4-r5"));
    assert!(pin(&stand.space, "packages")["package"].as_table().unwrap().contains_key("libssl3"));
    let fresh = stand.afresh("fresh");
    stand.mirror.fault("APKINDEX.tar.gz", Fault::NotFound);
    fresh.builds(&["packages", "--locked"]);
    assert!(stand.space.bytes("dist/packages.tar") == fresh.bytes("dist/packages.tar"));
}

/// A tree of another architecture is filled by the apk of the host's; scripts run only where the kernel can.
#[test]
fn a_foreign_architecture() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["musl"]);
        // The miniroot of this host, said to be one of another.
        let root = stand.space.base().join("foreign");
        std::fs::create_dir(&root).unwrap();
        let archive = stand.mirror.dir().join(alpine.release_file(""));
        let run = |script: &str| {
            let done =
                Command::new("sh").args(["-euc", script, "sh"]).arg(&archive).current_dir(&root).status();
            assert!(done.unwrap().success(), "{script}");
        };
        run(
            "tar --no-same-owner -xpf \"$1\"; echo aarch64 > etc/apk/arch; sed -i 's/^A:x86_64$/A:aarch64/' lib/apk/db/installed",
        );
        run("tar --owner=0 --group=0 -czf ../mirror/foreign.tar.gz .");
        let script = "#!/bin/sh\necho ran > /etc/mos-script\n";
        let package =
            Apk::new("mos-a", "1-r0").arch("aarch64").file("etc/mos", "x").script("post-install", script);
        let main = stand.mirror.dir().join(format!("alpine/{}/main", alpine.branch));
        write_repository(&main, &[package.build(own_key(), Hash::Sha1)], own_key(), Hash::Sha1);
        let url = format!("{}foreign.tar.gz", stand.mirror.url());
        let yaml = stand.yaml(&[stand.mirror.url()], &["mos-a"], "    arch: aarch64\n    apk: miniroot\n");
        let yaml = yaml.replace("base: miniroot", "base: foreign").replace("[main, community]", "[main]");
        let foreign = format!("targets:\n  foreign: {{ rule: miniroot, url: \"{url}\" }}");
        stand.space.yaml(&yaml.replacen("targets:", &foreign, 1));
        let output = stand.space.builds(&["packages"]);
        let placed = stand.space.path("dist/packages.tar");
        assert_eq!(text(&placed, "etc/mos"), "x");
        assert!(text(&placed, "lib/apk/db/installed").contains("P:mos-a\nV:1-r0\nA:aarch64\n"));
        if !std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() {
            output.says("scripts").says("binfmt");
            assert!(!members(&placed).contains_key("etc/mos-script"));
        }
    }
}

/// A repository elsewhere, by its URL, and a folder of keys.
#[test]
fn a_repository_by_url() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["mos-a"]);
    let built =
        [Apk::new("mos-a", "1-r0").depends("musl").file("etc/mos", "x").build(own_key(), Hash::Sha512)];
    write_repository(&stand.mirror.dir().join("ours"), &built, own_key(), Hash::Sha512);
    let yaml = stand.yaml(&[stand.mirror.url()], &["mos-a"], "    keys: keys/\n");
    stand.space.yaml(&yaml.replace("[main, community]", &format!("[main, \"{}ours/\"]", stand.mirror.url())));
    stand.space.builds(&["packages"]);
    assert_eq!(text(&stand.space.path("dist/packages.tar"), "etc/mos"), "x");
    // Of the other repository what installs itself beside the base, at most.
    assert_eq!(stand.mirror.counts().get("/ours/x86_64/mos-a-1-r0.apk"), Some(&1));
    // The key that vouched for it stays out of the image, as long as nobody puts it there.
    assert!(tree(&stand.space).keys().all(|path| !path.contains("own@test.invalid")));
}

/// An image may do without apk's database; then nothing of it is left, and all else stays.
#[test]
fn an_image_without_its_database() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["dhcpcd"]);
    let yaml = stand.yaml(
        &[stand.mirror.url()],
        &["dhcpcd"],
        "  rootfs: { rule: rootfs, layers: [packages], clean: [apk-cache, apk-db] }\n",
    );
    stand.space.yaml(&yaml.replace("dist: {", "dist: { rootfs.tar: rootfs,"));
    stand.space.builds(&["rootfs"]);
    let (whole, cleaned) = (tree(&stand.space), members(&stand.space.path("dist/rootfs.tar")));
    let gone: Vec<&String> = whole.keys().filter(|path| !cleaned.contains_key(*path)).collect();
    assert!(gone.iter().any(|path| *path == "lib/apk/db/installed"), "{gone:?}");
    let apk = |path: &&String| ["lib/apk", "var/cache/apk", "etc/apk"].iter().any(|of| path.starts_with(of));
    assert!(gone.iter().all(apk), "{gone:?}");
    assert_eq!(cleaned["etc/shadow"], whole["etc/shadow"]);
}

/// The image's own apk works on the result: it finds nothing to repair, and adds and removes packages.
#[test]
fn apk_works_in_the_result() {
    need("unshare", "util-linux");
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, alpine.list());
        stand.space.builds(&["packages"]);
        let root = stand.space.base().join("root");
        std::fs::create_dir(&root).unwrap();
        let unpacked = Command::new("tar")
            .args(["--no-same-owner", "-xpf"])
            .arg(stand.space.path("dist/packages.tar"))
            .arg("-C")
            .arg(&root)
            .status();
        assert!(unpacked.unwrap().success());
        let packages = root.join("packages");
        std::fs::create_dir(&packages).unwrap();
        let more = match alpine.genuine {
            true => ("main", "doas"),
            false => ("main", "lddtree"),
        };
        let file = stand.mirror.dir().join(alpine.file(more.0, &alpine.package(more.0, more.1)));
        std::fs::copy(file, packages.join("more.apk")).unwrap();
        let name = more.1;
        let script = format!(
            "exec 2>&1; set -e; apk info --no-network | wc -l; apk fix --simulate --no-network --repositories-file /dev/null | grep -v '^OK:' || true; \
             apk audit --system; apk add --no-network --no-cache --repositories-file /dev/null /packages/more.apk > /dev/null; apk info --no-network -e {name}; \
             apk del --no-network --repositories-file /dev/null {name} > /dev/null; apk info --no-network | wc -l; echo done"
        );
        let enter = "mount --rbind \"$1\" \"$1\" && mount --rbind /dev \"$1/dev\" && exec chroot \"$1\" /bin/sh -c \"$2\"";
        let output = Command::new("unshare")
            .args(["-r", "-m", "-n", "--fork", "--pid", "sh", "-c", enter, "sh"])
            .arg(&root)
            .arg(script)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let count = in_tree(&stand.space).len();
        let quiet: Vec<&str> = said.lines().filter(|l| !l.starts_with("WARNING: ")).collect();
        assert_eq!(quiet, [&count.to_string(), name, &count.to_string(), "done"], "{said}");
    }
}

/// `fetch` promises that all is there: also where the store has lost some of it.
#[test]
fn fetch_brings_back_what_is_lost() {
    let Some(alpine) = Alpine::any() else { return };
    let mut stand = Stand::new(&alpine, alpine.list());
    stand.space.builds(&["packages"]);
    let row = pin(&stand.space, "packages")["package"].as_table().unwrap().values().next().unwrap().clone();
    let digest = row["blake3"].as_str().unwrap();
    let blob = stand.space.store().join("cas").join(&digest[..2]).join(digest);
    std::fs::remove_file(&blob).unwrap();
    stand.mirror.clear();
    let fetched = stand.space.run(&["fetch"]);
    assert_eq!((fetched.code, stand.mirror.packages().len()), (Some(0), 1), "{fetched}");
    assert!(blob.exists());
    stand.mirror.stop();
    stand.space.builds(&["packages", "--offline", "--locked", "--force", "packages"]);
}
