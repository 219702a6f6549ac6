//! The tests' own mirror and packages, held against real programs: what they get wrong, other tests would believe.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use mosbuild_tests::alpine::Alpine;
use mosbuild_tests::apks::{Apk, Hash, Key, Member, digest, hex, write_repository};
use mosbuild_tests::{Fault, Mirror, need};

/// An answer: head, body.
fn get(mirror: &Mirror, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(mirror.address()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Default::default() };
    (String::from_utf8(bytes[..at + 2].to_vec()).unwrap(), bytes[at + 4..].to_vec())
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name}: {head}"))
}

#[test]
fn serves_as_a_mirror_does() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(dir.path().join("a/f+1"), &content).unwrap();
    let mirror = Mirror::new(dir.path());

    let (head, body) = get(&mirror, "/a/f%2b1?query", "");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(body == content && header(&head, "Content-Length") == "100000");
    let (tag, date) = (header(&head, "ETag"), header(&head, "Last-Modified"));
    let meaning = Command::new("date").args(["-u", "+%s", "-d", date]).output().unwrap();
    let mtime = std::fs::metadata(dir.path().join("a/f+1")).unwrap().modified().unwrap();
    let seconds = mtime.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(String::from_utf8(meaning.stdout).unwrap().trim(), seconds.to_string(), "{date}");
    let weekday = Command::new("date")
        .args(["-u", "+%a, %d %b %Y %T GMT", "-d", date])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(weekday.stdout).unwrap().trim(), date);

    for condition in [format!("If-None-Match: {tag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
        let (head, body) = get(&mirror, "/a/f+1", &condition);
        assert!(head.starts_with("HTTP/1.1 304 ") && body.is_empty(), "{head}");
    }
    let (head, body) = get(&mirror, "/a/f+1", &format!("Range: bytes=99990-\r\nIf-Range: {tag}\r\n"));
    assert!(head.starts_with("HTTP/1.1 206 ") && body == content[99_990..], "{head}");
    assert_eq!(header(&head, "Content-Range"), "bytes 99990-99999/100000");
    let (head, body) = get(&mirror, "/a/f+1", "Range: bytes=5-9\r\nIf-Range: \"other\"\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body == content, "{head}");
    let (head, _) = get(&mirror, "/a/f+1", "Range: bytes=100000-\r\n");
    assert!(head.starts_with("HTTP/1.1 416 "), "{head}");
    assert!(get(&mirror, "/a", "").0.contains("Location: /a/\r\n"));
    let (_, page) = get(&mirror, "/a/", "");
    assert!(String::from_utf8(page).unwrap().contains("<a href=\"f+1\">f+1</a>"));
    assert!(get(&mirror, "/a/../a/f+1", "").0.starts_with("HTTP/1.1 400 "));
    let (_, body) = get(&mirror, "http://elsewhere.invalid/a/f+1", "");
    assert_eq!(body, content);
    let last = mirror.requests().pop().unwrap();
    assert_eq!(
        (last.path.as_str(), last.status, last.proxied.as_deref()),
        ("/a/f+1", 200, Some("elsewhere.invalid"))
    );
    assert_eq!(mirror.counts()["/a/f+1"], 7);
}

#[test]
fn fails_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![7; 50_000];
    std::fs::write(dir.path().join("f"), &content).unwrap();
    let mirror = Mirror::new(dir.path());
    mirror.fault_times("/f", 2, Fault::Status(503));
    let status = |head: &str| head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answers: Vec<String> = (0..3).map(|_| status(&get(&mirror, "/f", "").0)).collect();
    assert_eq!(answers, ["503", "503", "200"]);
    mirror.fault("/f", Fault::NotFound);
    assert_eq!(status(&get(&mirror, "/f", "").0), "404");
    mirror.fault("/f", Fault::Cut(20_000));
    let (head, body) = get(&mirror, "/f", "");
    assert_eq!((header(&head, "Content-Length"), body.len()), ("50000", 20_000));
    let (_, body) = get(&mirror, "/f", "Range: bytes=20000-\r\n");
    assert_eq!(body.len(), 20_000);
    mirror.fault("/f", Fault::Flipped);
    let (_, body) = get(&mirror, "/f", "");
    let wrong: Vec<usize> = (0..body.len()).filter(|at| body[*at] != content[*at]).collect();
    assert_eq!((body.len(), wrong), (50_000, vec![25_000]));
    mirror.fault("/f", Fault::HangUp);
    assert_eq!(get(&mirror, "/f", "").0, "");
    mirror.fault("/f", Fault::Slow(Duration::from_millis(20)));
    let start = Instant::now();
    assert_eq!(get(&mirror, "/f", "").1, content);
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
    mirror.clear();
    assert!(mirror.requests().is_empty());
    assert_eq!(get(&mirror, "/f", "").1, content);

    // A mirror that has ended is gone at once, also for who is connected; another one may take its address.
    let address = mirror.address();
    let mut open = TcpStream::connect(address).unwrap();
    open.write_all(b"GET /f HTTP/1.1\r\n\r\n").unwrap();
    drop(mirror);
    assert!(TcpStream::connect(address).is_err());
    let _ = open.read_to_end(&mut Vec::new());
    let again = Mirror::at(dir.path(), address);
    assert_eq!(get(&again, "/f", "").1, content);
}

/// The member that begins at a place of a file, and where the next one begins.
fn gzip_members(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rest = bytes;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let mut decoder = flate2::bufread::GzDecoder::new(rest);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        let left = decoder.into_inner();
        members.push((rest[..rest.len() - left.len()].to_vec(), plain));
        rest = left;
    }
    members
}

#[test]
fn packages_are_signed_archives() {
    need("openssl", "openssl");
    let dir = tempfile::tempdir().unwrap();
    let key = Key::new(dir.path(), "rig");
    let long = format!("usr/share/{}/f", "x".repeat(120));
    for (hash, flag, prefix) in [
        (Hash::Sha1, "-sha1", ".SIGN.RSA.rig"),
        (Hash::Sha256, "-sha256", ".SIGN.RSA256."),
        (Hash::Sha512, "-sha512", ".SIGN.RSA512."),
    ] {
        let apk = Apk::new("rig", "1.0-r0")
            .depends("musl")
            .provides("cmd:rig=1.0-r0")
            .script("post-install", "#!/bin/sh\n")
            .file("usr/bin/rig", "#!/bin/sh\necho rig\n")
            .file(&long, "long")
            .member(Member::file("usr/bin/suid", "s").mode(0o4755).owner((7, "lp"), (42, "shadow")))
            .member(Member::symlink("usr/bin/link", "rig"));
        let built = apk.build(&key, hash);
        let members = gzip_members(&built.bytes);
        assert_eq!(members.len(), 3);
        let (name, signature) = (&members[0].1[..100], &members[0].1[512..512 + 256]);
        assert!(name.starts_with(prefix.as_bytes()), "{:?}", String::from_utf8_lossy(name));
        std::fs::write(dir.path().join("signature"), signature).unwrap();
        std::fs::write(dir.path().join("control"), &members[1].0).unwrap();
        let verified = Command::new("openssl")
            .args(["dgst", flag, "-verify", "rig.rsa.pub", "-signature", "signature", "control"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
        assert!(members[1].1.len().is_multiple_of(512) && !members[1].1.ends_with(&[0; 1024]));
        let info = String::from_utf8_lossy(&members[1].1).into_owned();
        assert!(info.contains(&format!("datahash = {}\n", hex(&digest("sha256", &members[2].0)))), "{info}");
        let listed = Command::new("sh")
            .args(["-c", "tar -tzvf - --numeric-owner --pax-option=exthdr.name=x 2>&1"])
            .stdin({
                std::fs::write(dir.path().join("files"), &members[2].0).unwrap();
                std::fs::File::open(dir.path().join("files")).unwrap()
            })
            .env("TZ", "UTC")
            .output()
            .unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        for line in ["-rwsr-xr-x 7/42", "drwxr-xr-x 0/0", "usr/bin/link -> rig", long.as_str()] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
    let built = Apk::new("a", "1-r0").build(&key, Hash::Sha1);
    write_repository(&dir.path().join("main"), std::slice::from_ref(&built), &key, Hash::Sha1);
    let index = std::fs::read(dir.path().join("main/x86_64/APKINDEX.tar.gz")).unwrap();
    let members = gzip_members(&index);
    assert_eq!(members.len(), 2);
    assert!(String::from_utf8_lossy(&members[1].1).contains(&built.entry));
    assert!(built.identity.starts_with("Q1") && built.identity.len() == 30);
}

/// A shell command in the miniroot of an Alpine, as root of a user namespace; its output.
fn in_miniroot(alpine: &Alpine, root: &std::path::Path, script: &str) -> String {
    if !root.exists() {
        std::fs::create_dir(root).unwrap();
        let archive = alpine.source().join(alpine.release_file(""));
        let unpacked =
            Command::new("tar").arg("-xpf").arg(archive).arg("--no-same-owner").arg("-C").arg(root).status();
        assert!(unpacked.unwrap().success());
    }
    let enter = "mount --rbind \"$1\" \"$1\" && mount --rbind /dev \"$1/dev\" && exec chroot \"$1\" /bin/sh -c \"$2\"";
    let output = Command::new("unshare")
        .args(["-r", "-m", "--fork", "--pid", "sh", "-c", enter, "sh"])
        .arg(root)
        .arg(format!("exec 2>&1; {script}"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_real_apk_takes_them() {
    for alpine in Alpine::all() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let key = Key::new(dir.path(), "rig");
        in_miniroot(&alpine, &root, "true");
        for (hash, version) in [(Hash::Sha1, "1.0-r0"), (Hash::Sha256, "1.0-r1"), (Hash::Sha512, "1.0-r2")] {
            let package = Apk::new("rig", version)
                .depends("cmd:base=1")
                .triggers("/usr/share/rig")
                .script("post-install", "#!/bin/sh\necho this is post-install\n")
                .script("trigger", "#!/bin/sh\necho this is the trigger of $1\n")
                .file("usr/bin/rig", "#!/bin/sh\n")
                .member(Member::file("usr/bin/suid", "s").mode(0o4755))
                .file("usr/share/rig/x", version);
            let packages = [
                package.build(&key, hash),
                Apk::new("base", version).provides("cmd:base=1").build(&key, hash),
                Apk::new("more", version)
                    .install_if("rig base")
                    .file("usr/share/more", "m")
                    .build(&key, hash),
            ];
            write_repository(&root.join("repository"), &packages, &key, hash);
            let add = "apk add --no-cache --no-network --repositories-file /dev/null -X /repository rig=";
            std::fs::remove_file(root.join("etc/apk/keys/rig.rsa.pub")).ok();
            let said = in_miniroot(&alpine, &root, &format!("{add}{version}"));
            assert!(said.contains("UNTRUSTED"), "{said}");
            std::fs::copy(key.public(), root.join("etc/apk/keys/rig.rsa.pub")).unwrap();
            let said = in_miniroot(
                &alpine,
                &root,
                &format!("{add}{version}; cat /usr/share/rig/x; stat -c %a /usr/bin/suid"),
            );
            assert!(
                said.contains("OK: ") && said.ends_with(&format!("{version}4755\n")),
                "{version}: {said}"
            );
            assert!(said.contains("the trigger of /usr/share/rig"), "{said}");
            let audit = in_miniroot(&alpine, &root, "apk audit --system; apk info -e rig base more");
            assert_eq!(audit, "rig\nbase\nmore\n", "{said}");
        }
    }
}
