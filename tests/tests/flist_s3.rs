//! Flists with blocks in a bucket: `mosbuild publish` sends the blocks that are missing and then the flist, to real servers. What is in
//! the bucket is read back by scripts/flist-read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mosbuild_tests::s3::{BUCKET, Fault, Kind, Proxy, Server, configure};
use mosbuild_tests::{Space, repository, wait_until};

/// A workspace whose flist has its blocks in the bucket behind the proxy.
fn space(proxy: &Proxy) -> Space {
    let store = format!("{}/{BUCKET}?region=us-east-1", proxy.url().replace("http://", "s3://"));
    let mut space = Space::new(&format!(
        "targets:
  tree: {{ rule: files, install: [{{ from: data, to: /data }}, {{ link: data/a, at: /link }}] }}
  packed: {{ rule: flist, root: tree, store: \"{store}\" }}
dist: {{ 'packed-{{packed.blocks}}.fl': packed, tree.tar: tree }}
"
    ));
    for n in 0..6u32 {
        // One block each, all different.
        space.write(
            &format!("data/{}", char::from(b'a' + n as u8)),
            format!("{n} {}\n", "words ".repeat(50_000)),
        );
    }
    space.write("data/large", "0123456789\n".repeat(100_000));
    configure(&mut space, &proxy.url(), "");
    space
}

fn is_block(line: &str) -> bool {
    let key = line.rsplit('/').next().unwrap_or_default();
    line.starts_with("PUT ") && key.len() == 64 && key.bytes().all(|b| b.is_ascii_hexdigit())
}

fn publish(space: &Space, args: &[&str]) -> mosbuild_tests::Output {
    space.run(&[&["publish", "--what", "manifests"], args].concat())
}

fn reader(args: &[&Path], first: &[&str]) -> String {
    let python = if Path::new("/usr/bin/python3").is_file() { "/usr/bin/python3" } else { "python3" };
    let mut command = Command::new(python);
    let output =
        command.arg(repository().join("scripts/flist-read")).args(first).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The flist of the bucket, read with the blocks of the bucket, has the tree.
fn read_back(space: &Space, server: &Server, name: &str) {
    let at = space.base().join("bucket");
    let _ = std::fs::remove_dir_all(&at);
    for key in server.keys().iter().filter(|key| key.len() == 64) {
        let folder = at.join(&key[..2]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(key), server.object(key).unwrap()).unwrap();
    }
    let flist = at.join("x.fl");
    std::fs::write(&flist, server.object(&format!("mos/manifests/{name}")).unwrap()).unwrap();
    space.builds(&["tree"]);
    assert_eq!(reader(&[&flist, &at], &[]), reader(&[&space.path("dist/tree.tar")], &["--tar"]));
}

#[test]
fn only_missing_blocks_are_sent_and_then_the_flist() {
    for kind in [Kind::Moto, Kind::S3sFs] {
        let Some(server) = Server::start(kind) else { continue };
        let proxy = server.proxy();
        let space = space(&proxy);
        let dry = publish(&space, &["--dry-run"]);
        assert!(dry.stdout.contains("would publish mos/manifests/packed-{packed.blocks}.fl"), "{dry}");

        // A build sends nothing: a bucket is filled by publishing.
        space.builds(&["packed"]);
        assert!(server.keys().is_empty());
        let dry = publish(&space, &["--dry-run"]);
        assert!(dry.stdout.contains("would send    9 blocks to images at"), "{dry}");
        assert!(server.keys().is_empty());

        proxy.answered();
        let output = publish(&space, &[]);
        assert_eq!(output.code, Some(0), "{output}");
        output.says("sent     9 blocks to images at").says("; 0 were there");
        let asked: Vec<String> = proxy.answered().into_iter().map(|(line, _)| line).collect();
        let flist = asked.iter().position(|l| l.starts_with("PUT ") && l.ends_with("packed-9.fl"));
        let flist = flist.unwrap_or_else(|| panic!("{asked:#?}"));
        let last = asked.iter().rposition(|line| is_block(line)).unwrap();
        assert_eq!(asked.iter().filter(|line| is_block(line)).count(), 9, "{asked:#?}");
        assert!(last < flist, "the flist comes last: {asked:#?}");
        read_back(&space, &server, "packed-9.fl");

        // Again: nothing is sent.
        proxy.answered();
        let output = publish(&space, &[]);
        assert_eq!(output.code, Some(0), "{output}");
        output.says("sent     0 blocks").says("; 9 were there").says("there    mos/manifests/packed-9.fl");
        assert_eq!(proxy.count(is_block), 0);
        // One more file is one more block.
        space.write("data/more", "something else");
        let output = publish(&space, &[]);
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(proxy.count(is_block), 1);
        read_back(&space, &server, "packed-10.fl");
    }
}

#[test]
fn what_a_killed_upload_has_sent_is_not_sent_again() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let proxy = server.proxy();
    let space = space(&proxy);
    space.builds(&["packed"]);
    // The first four go through, the others take long.
    let sent = std::sync::atomic::AtomicUsize::new(0);
    proxy.fault(move |line, _| {
        let slow = is_block(line) && sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 4;
        slow.then_some(Fault::Slow(Duration::from_secs(20)))
    });
    proxy.answered();
    let mut child = space.command(&["publish", "--what", "manifests"]).spawn().unwrap();
    let four = wait_until(|| proxy.count(is_block) >= 4);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(four, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!server.keys().iter().any(|key| key.ends_with(".fl")), "no flist without its blocks");
    let there = server.keys().iter().filter(|key| key.len() == 64).count();
    assert_eq!(there, 4);

    proxy.fault(|_, _| None);
    proxy.answered();
    let output = publish(&space, &[]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(proxy.count(is_block), 9 - there, "only the rest");
    read_back(&space, &server, "packed-9.fl");
}

#[test]
fn credentials_that_are_wrong_or_missing_are_told_and_nothing_is_published() {
    let Some(server) = Server::start(Kind::S3sFs) else { return };
    let proxy = server.proxy();
    let mut space = space(&proxy);
    space.builds(&["packed"]);
    space.env("AWS_SECRET_ACCESS_KEY", "another-secret");
    let output = publish(&space, &[]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("does not accept the credentials").says("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    assert!(!output.stderr.contains("another-secret"));
    space.unset("AWS_SECRET_ACCESS_KEY");
    let output = publish(&space, &[]);
    assert_eq!(output.code, Some(2), "{output}");
    output.says("there is no secret key: AWS_SECRET_ACCESS_KEY is not set");
    assert!(server.keys().is_empty());
}

#[test]
fn a_server_that_is_busy_is_asked_again_and_one_that_fails_publishes_nothing() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let proxy = server.proxy();
    let space = space(&proxy);
    space.builds(&["packed"]);
    // Each block is refused once.
    let refused = std::sync::Mutex::new(std::collections::BTreeSet::new());
    proxy.fault(move |line, _| {
        let first = is_block(line) && refused.lock().unwrap().insert(line.to_owned());
        first.then(|| Fault::Answer(503, String::new()))
    });
    let output = publish(&space, &[]);
    assert_eq!(output.code, Some(0), "{output}");
    read_back(&space, &server, "packed-9.fl");
    // One that may not be written ends it, and the flist is not there.
    space.write("data/more", "something else");
    let denied = "<Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
    proxy.fault(move |line, _| is_block(line).then(|| Fault::Answer(403, denied.into())));
    let output = publish(&space, &[]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("does not allow it");
    assert!(!server.keys().iter().any(|key| key.contains("packed-10")));
}
