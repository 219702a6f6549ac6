//! `miniroot` and downloads: the newest release is found, checked, locked, fetched once; what goes wrong is told.

use std::process::{Command, Stdio};
use std::time::Duration;

use mosbuild_cache::Digest;
use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::archive::{files_below, members, pin, sha256, sha512};
use mosbuild_tests::{Fault, Mirror, Output, Space, need};

/// A stand that builds `miniroot` alone.
fn stand(alpine: &Alpine) -> Stand {
    Stand::new(alpine, &["jq"])
}

/// The archive itself, wherever it lies.
fn archive(stand: &Stand) -> std::path::PathBuf {
    stand.alpine.source().join(stand.alpine.release_file(""))
}

/// A source failed: exit code 4, all of these texts, and no trace of its bytes in the store.
#[track_caller]
fn refused(space: &Space, output: &Output, texts: &[&str]) {
    assert_eq!(output.code, Some(4), "{output}");
    texts.iter().for_each(|text| {
        output.says(text);
    });
    nothing_kept(space);
}

/// The store has no large file: an archive of megabytes, or the beginning of one.
#[track_caller]
fn nothing_kept(space: &Space) {
    let large = |path: &std::path::PathBuf| path.metadata().unwrap().len() > 200_000;
    let kept: Vec<_> = files_below(space.store()).into_iter().filter(large).collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn the_newest_release_of_a_branch() {
    for alpine in Alpine::all() {
        let stand = stand(&alpine);
        stand.space.edit_yaml("miniroot.tar: miniroot", "\"miniroot-{miniroot.version}.tar\": miniroot");
        let output = stand.space.builds(&["miniroot"]);
        output.counts(1, 0, 0).says("mosbuild.lock");
        let placed = members(&stand.space.path(&format!("dist/miniroot-{}.tar", alpine.release)));
        let original = members(&archive(&stand));
        for (path, entry) in &original {
            if !path.is_empty() && path != "." {
                assert_eq!(placed.get(path).map(|e| e.timeless()), Some(entry.timeless()), "{path}");
            }
        }
        let more: Vec<_> = placed.keys().filter(|p| !original.contains_key(*p)).collect();
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(placed["etc/shadow"].owner, "0/42");
        assert_eq!(placed["tmp"].mode, "drwxrwxrwt");

        let pin = pin(&stand.space, "miniroot");
        assert_eq!(pin["version"].as_str(), Some(alpine.release.as_str()), "{pin}");
        assert_eq!(pin["sha256"].as_str(), Some(sha256(&archive(&stand)).as_str()), "{pin}");
        let (blake3, size) = Digest::of_file(&archive(&stand)).unwrap();
        assert_eq!(pin["blake3"].as_str(), Some(blake3.hex().as_str()), "{pin}");
        assert_eq!(pin["size"].as_str(), Some(size.to_string().as_str()), "{pin}");
        // The archive was asked for once; the sums beside it were read.
        let counts = stand.mirror.counts();
        assert_eq!(counts[&format!("/{}", alpine.release_file(""))], 1, "{counts:?}");
        assert!(
            counts.keys().any(|path| path.ends_with(".sha512") || path.ends_with(".sha256")),
            "{counts:?}"
        );

        // With the lock and the store nothing is asked for, here or in another workspace.
        stand.mirror.clear();
        stand.space.forget_stamp();
        stand.space.builds(&["miniroot", "--locked"]).counts(0, 1, 0);
        stand.beside("other").builds(&["miniroot", "--locked"]).counts(0, 1, 0);
        assert_eq!(stand.mirror.requests(), []);
        stand.space.assert_clean();
    }
}

#[test]
fn the_newest_release_in_a_listing() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    let folder = stand.mirror.dir().join(format!("alpine/{}/releases/x86_64", alpine.branch));
    std::fs::remove_file(folder.join("latest-releases.yaml")).unwrap();
    // Newest by number, not by letters; the others are no archives.
    let name = |patch: &str| format!("alpine-minirootfs-{}.{patch}-x86_64.tar.gz", alpine.number());
    for file in std::fs::read_dir(&folder).unwrap().flatten() {
        std::fs::remove_file(file.path()).unwrap();
    }
    std::os::unix::fs::symlink(archive(&stand), folder.join(name("10"))).unwrap();
    let sum = format!("{}  {}\n", sha512(&archive(&stand)), name("10"));
    std::fs::write(folder.join(name("10") + ".sha512"), sum).unwrap();
    for other in [name("9"), name("2"), name("10_rc1"), "alpine-virt-3.99.0-x86_64.tar.gz".to_owned()] {
        std::fs::write(folder.join(other), "none").unwrap();
    }
    stand.space.builds(&["miniroot"]);
    assert_eq!(pin(&stand.space, "miniroot")["version"].as_str().unwrap(), format!("{}.10", alpine.number()));
    // A lock stays as it is, though there is a newer one by now.
    std::fs::write(folder.join(name("12")), "none").unwrap();
    stand.mirror.clear();
    stand.space.forget_stamp();
    stand.space.builds(&["miniroot"]).counts(0, 1, 0);
    assert_eq!(stand.mirror.requests(), []);
}

#[test]
fn an_archive_by_url() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    let url = format!("{}{}", stand.mirror.url(), alpine.release_file(""));
    stand.space.yaml(&format!(
        "targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n  b: {{ rule: miniroot, url: \"{url}\" }}\n\
         dist: {{ \"{{a.version}}.tar\": a }}\n"
    ));
    stand.space.builds(&["a", "b"]);
    assert!(stand.space.has(&format!("dist/{}.tar", alpine.release)));
    assert_eq!(stand.mirror.counts()[&format!("/{}", alpine.release_file(""))], 1, "two targets, one file");
    assert_eq!(pin(&stand.space, &url)["sha256"].as_str(), Some(sha256(&archive(&stand)).as_str()));
}

#[test]
fn sums_beside_the_archive_are_checked() {
    for alpine in Alpine::all() {
        let stand = stand(&alpine);
        let (right256, right512) = (sha256(&archive(&stand)), sha512(&archive(&stand)));
        stand.mirror.fault(".tar.gz", Fault::Flipped);
        let output = stand.space.build(&["miniroot"]);
        refused(&stand.space, &output, &[&stand.mirror.url()]);
        assert!(
            output.stderr.contains(&right256) || output.stderr.contains(&right512),
            "what it should be: {output}"
        );
        let mut bytes = std::fs::read(archive(&stand)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let wrong = stand.space.base().join("wrong");
        std::fs::write(&wrong, bytes).unwrap();
        let said = output.stderr.contains(&sha256(&wrong)) || output.stderr.contains(&sha512(&wrong));
        assert!(said, "what it is: {output}");
        assert!(!stand.space.has("mosbuild.lock") || !stand.space.read("mosbuild.lock").contains("miniroot"));
        // Right bytes are taken the next time.
        stand.mirror.clear();
        stand.space.builds(&["miniroot"]);
    }
}

#[test]
fn other_bytes_than_the_lock_has() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    stand.space.builds(&["miniroot"]);
    let fresh = stand.afresh("fresh");
    stand.mirror.fault(".tar.gz", Fault::Flipped);
    let output = fresh.build(&["miniroot", "--locked"]);
    let pin = pin(&stand.space, "miniroot");
    assert_eq!(output.code, Some(4), "{output}");
    let locked = [&pin["sha256"], &pin["blake3"]].map(|d| d.as_str().unwrap().to_owned());
    assert!(locked.iter().any(|digest| output.stderr.contains(digest)), "{output}");
    output.says(&alpine.release_file("")).says(&stand.mirror.url());
    let digests = output.stderr.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 64);
    assert!(digests.collect::<std::collections::BTreeSet<_>>().len() >= 2, "both digests: {output}");
    nothing_kept(&fresh);
    // Size differs: the same.
    let path = stand.mirror.dir().join(alpine.release_file(""));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "short").unwrap();
    stand.mirror.clear();
    let output = fresh.build(&["miniroot"]);
    refused(&fresh, &output, &[&alpine.release_file("")]);
    assert_eq!(fresh.read("mosbuild.lock"), stand.space.read("mosbuild.lock"), "the lock stays");
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    stand.mirror.fault_times(".tar.gz", 2, Fault::Cut(1_000_000));
    stand.space.builds(&["miniroot"]);
    let file = format!("/{}", alpine.release_file(""));
    let ranges: Vec<_> =
        stand.mirror.requests().into_iter().filter(|r| r.path == file).map(|r| r.range).collect();
    let range = |from: &str| Some(from.to_owned());
    assert_eq!(ranges, [None, range("bytes=1000000-"), range("bytes=2000000-")]);
    assert_eq!(pin(&stand.space, "miniroot")["sha256"].as_str(), Some(sha256(&archive(&stand)).as_str()));

    // One that is always cut ends; what came is not taken for the whole.
    let fresh = stand.afresh("fresh");
    stand.mirror.fault(".tar.gz", Fault::Cut(0));
    let output = fresh.build(&["miniroot"]);
    refused(&fresh, &output, &[&alpine.release_file("")]);
}

#[test]
fn a_busy_mirror_is_asked_again() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    stand.mirror.fault_times(".tar.gz", 2, Fault::Status(503));
    stand.space.builds(&["miniroot"]);
    let fresh = stand.afresh("fresh");
    stand.mirror.fault_times(".tar.gz", 1, Fault::HangUp);
    fresh.builds(&["miniroot"]);
    let fresh = stand.afresh("fresher");
    stand.mirror.fault(".tar.gz", Fault::Status(503));
    let output = fresh.build(&["miniroot"]);
    refused(&fresh, &output, &["503", &stand.mirror.url()]);
    // What is not there is not asked for again and again.
    stand.mirror.clear();
    stand.mirror.fault(".tar.gz", Fault::NotFound);
    let output = fresh.build(&["miniroot"]);
    refused(&fresh, &output, &["404", &alpine.release_file("")]);
    assert_eq!(stand.mirror.counts()[&format!("/{}", alpine.release_file(""))], 1);
}

#[test]
fn mirrors_are_tried_in_order() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    // One that nobody answers for, one that has nothing, the right one, one more.
    let mut dead = Mirror::new(stand.mirror.dir());
    dead.stop();
    let empty_dir = stand.space.base().join("empty");
    std::fs::create_dir(&empty_dir).unwrap();
    let (empty, last) = (Mirror::new(&empty_dir), Mirror::new(stand.mirror.dir()));
    let urls = [dead.url(), empty.url(), stand.mirror.url(), last.url()];
    stand.space.yaml(&stand.yaml(&urls, &["jq"], ""));
    stand.space.builds(&["miniroot"]);
    assert!(empty.requests().iter().all(|r| r.status == 404) && !empty.requests().is_empty());
    assert_eq!(stand.mirror.counts()[&format!("/{}", alpine.release_file(""))], 1);
    assert_eq!(last.requests(), []);
    // The lock has no mirror in it: where the bytes came from is nobody's business.
    assert!(
        !stand.space.read("mosbuild.lock").contains("127.0.0.1"),
        "{}",
        stand.space.read("mosbuild.lock")
    );

    // A folder; and the variable, which needs no line in mosbuild.yaml.
    let folder = format!("file://{}/", stand.mirror.dir().display());
    let fresh = stand.afresh("folder");
    fresh.yaml(&stand.yaml(std::slice::from_ref(&folder), &["jq"], ""));
    stand.mirror.clear();
    fresh.builds(&["miniroot", "--locked"]);
    let mut fresh = stand.afresh("variable");
    let yaml = fresh.read("mosbuild.yaml");
    let without: Vec<&str> =
        yaml.lines().filter(|l| !l.starts_with("mirrors:") && !l.contains("from: ")).collect();
    fresh.write("mosbuild.yaml", without.join("\n") + "\n");
    fresh.env("MOSBUILD_MIRRORS", format!("{}={folder}alpine/", mosbuild_tests::alpine::ORIGIN));
    fresh.builds(&["miniroot", "--locked"]);
    assert_eq!(stand.mirror.requests(), []);
}

#[test]
fn a_proxy_of_the_environment_is_used() {
    let Some(alpine) = Alpine::any() else { return };
    let mut stand = stand(&alpine);
    let url = format!("http://elsewhere.invalid/{}", alpine.release_file(""));
    stand.space.yaml(&format!("targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n"));
    stand.space.env("http_proxy", stand.mirror.url());
    stand.space.unset("HTTP_PROXY");
    stand.space.unset("ALL_PROXY");
    stand.space.unset("all_proxy");
    stand.space.builds(&["a"]);
    let requests = stand.mirror.requests();
    assert!(!requests.is_empty(), "nothing came by the proxy");
    assert!(requests.iter().all(|r| r.proxied.as_deref() == Some("elsewhere.invalid")), "{requests:?}");
}

#[test]
fn locked_and_offline() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    for flag in ["--locked", "--offline"] {
        let output = stand.space.build(&["miniroot", flag]);
        assert_eq!(output.code, Some(4), "{flag}: {output}");
        output.says("miniroot").says("mosbuild.lock");
        assert!(!stand.space.has("mosbuild.lock"), "{flag}");
    }
    assert_eq!(stand.mirror.requests(), []);
    stand.space.builds(&["miniroot"]);
    // In the lock, but not in the store.
    let fresh = stand.afresh("fresh");
    stand.mirror.clear();
    let output = fresh.build(&["miniroot", "--offline"]);
    refused(&fresh, &output, &[&alpine.release_file(""), "network may not be used", "mosbuild fetch"]);
    assert_eq!(stand.mirror.requests(), []);
    // In both.
    fresh.builds(&["miniroot", "--locked"]);
    fresh.forget_stamp();
    fresh.builds(&["miniroot", "--offline", "--locked"]).counts(0, 1, 0);
    // Another release than the one in the lock.
    fresh.edit_yaml(&format!("release: \"{}\"", alpine.number()), "release: \"3.99\"");
    let output = fresh.build(&["miniroot", "--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("3.99");
    let output = fresh.build(&["miniroot"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("v3.99");
}

/// A download that is slow is not given up, and a build that is interrupted in it ends at once.
#[test]
fn an_interrupted_download_leaves_nothing() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = stand(&alpine);
    stand.mirror.fault(".tar.gz", Fault::Slow(Duration::from_millis(100)));
    let running = stand.space.start(&["miniroot"]);
    let file = format!("/{}", alpine.release_file(""));
    assert!(mosbuild_tests::wait_until(|| stand.mirror.counts().contains_key(&file)));
    std::thread::sleep(Duration::from_millis(300));
    running.signal("INT");
    let start = std::time::Instant::now();
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {output}", start.elapsed());
    stand.mirror.clear();
    stand.space.builds(&["miniroot"]);
    stand.space.assert_clean();
}

/// A server with a certificate of our own: refused as it is, taken by who names the CA in SSL_CERT_FILE.
#[test]
fn https_is_verified() {
    let Some(alpine) = Alpine::any() else { return };
    need("openssl", "openssl");
    let mut stand = stand(&alpine);
    let dir = stand.space.base().join("tls");
    std::fs::create_dir(&dir).unwrap();
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj '/CN=CA of a test'\n\
        openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=localhost\n\
        echo subjectAltName=DNS:localhost,IP:127.0.0.1 > leaf.ext\n\
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out leaf.pem\n\
        printf 'HTTP/1.1 200 OK\\r\\nContent-Length: %s\\r\\nConnection: close\\r\\n\\r\\n' \"$(stat -Lc %s \"$1\")\" > a.tar.gz\n\
        cat \"$1\" >> a.tar.gz\n\
        for sum in sha256 sha512; do printf 'HTTP/1.1 404 Not Found\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' > a.tar.gz.$sum; done";
    let made = Command::new("sh")
        .args(["-euc", script, "sh"])
        .arg(archive(&stand))
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-HTTP",
            "-cert",
            "leaf.pem",
            "-key",
            "leaf.key",
            "-accept",
            &free.to_string(),
        ])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let up = mosbuild_tests::wait_until(|| std::net::TcpStream::connect(free).is_ok());
    let url = format!("https://{free}/a.tar.gz");
    stand.space.yaml(&format!("targets:\n  a: {{ rule: miniroot, url: \"{url}\" }}\n"));
    let refused = stand.space.build(&["a"]);
    stand.space.env("SSL_CERT_FILE", dir.join("ca.pem"));
    let taken = stand.space.build(&["a"]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(up, "openssl s_server did not start");
    assert_eq!(refused.code, Some(4), "{refused}");
    refused.says("certificate").says("SSL_CERT_FILE").says(&url);
    assert_eq!(taken.code, Some(0), "{taken}");
    assert_eq!(pin(&stand.space, &url)["sha256"].as_str(), Some(sha256(&archive(&stand)).as_str()));
}
