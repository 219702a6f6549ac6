//! `mosbuild publish` against real servers: what is published is whole, names are made once, an interrupted upload goes on, and ten
//! publishers at once lose nothing.

use std::process::Child;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mosbuild_tests::s3::{BUCKET, Fault, KEYS, Kind, Server, configure};
use mosbuild_tests::{Space, need, wait_until};
use serde_json::Value;

const FOLDER: &str = "mos/kernel";

/// A file that stands for a kernel, of so many lines: 1,200,000 are 8.5 MiB, two parts of an upload; 2,600,000 three.
fn kernel(lines: usize) -> String {
    format!("targets:\n  kernel: {{ rule: command, run: 'seq {lines} > $OUT/k', outputs: [k] }}\n")
}

/// A workspace with a kernel whose name is made of facts, as the image's is.
fn with_facts() -> Space {
    let space = Space::new(
        "targets:
  base: { rule: release, url: \"file://PREBUILT\", install: { prebuilt-6.12.44: /bin/k } }
  kernel: { rule: command, deps: { base: base }, env: { N: '1' }, run: 'cp $base/bin/k $OUT/k; echo $N >> $OUT/k', outputs: [k] }
dist: { vmlinuz.efi: kernel, 'vmlinuz-{base.version}.efi': kernel }
",
    );
    need("busybox", "busybox-static");
    let prebuilt = space.base().join("prebuilt-6.12.44");
    std::fs::copy("/bin/busybox", &prebuilt).unwrap();
    space.edit_yaml("PREBUILT", prebuilt.to_str().unwrap());
    space
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut sum = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    sum.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    out.split(' ').next().unwrap().to_owned()
}

/// The index, both forms of which must agree; each file that it names must be whole, with all that belongs to it.
#[track_caller]
fn index(server: &Server) -> Vec<String> {
    let Some(json) = server.object(&format!("{FOLDER}/kernels.json")) else { return Vec::new() };
    let json: Value = serde_json::from_slice(&json).unwrap();
    let names: Vec<String> =
        json["kernels"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(json["count"].as_u64(), Some(names.len() as u64), "{json}");
    let updated = json["updated"].as_str().unwrap();
    assert!(updated.len() == 20 && updated.starts_with("20") && updated.ends_with('Z'), "{json}");
    for name in &names {
        let key = format!("{FOLDER}/{name}");
        let bytes =
            server.object(&key).unwrap_or_else(|| panic!("the index names {name}, which is not there"));
        let sum = sha256(&bytes);
        assert_eq!(server.text(&format!("{key}.sha256")), format!("{sum}  {name}\n"));
        let bill: Value = serde_json::from_str(&server.text(&format!("{key}.spdx.json"))).unwrap();
        assert_eq!(bill["spdxVersion"], "SPDX-2.3");
        let statement: Value = serde_json::from_str(&server.text(&format!("{key}.provenance.json"))).unwrap();
        assert_eq!(statement["subject"][0]["digest"]["sha256"], sum.as_str());
    }
    names
}

/// The index of a server that nobody writes to any more.
#[track_caller]
fn settled(server: &Server) -> Vec<String> {
    let names = index(server);
    let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
    assert_eq!(server.text(&format!("{FOLDER}/kernels.txt")), lines);
    names
}

#[test]
fn what_is_published_is_read_back_and_a_name_keeps_its_bytes() {
    for kind in [Kind::Moto, Kind::S3sFs] {
        let Some(server) = Server::start(kind) else { continue };
        let mut space = with_facts();
        configure(&mut space, &server.url(), "sbom: [spdx, cyclonedx]\n");

        let dry = space.run(&["publish", "--dry-run"]);
        assert_eq!(dry.code, Some(0), "{dry}");
        assert_eq!(
            dry.stdout,
            "would build base, kernel\nwould publish mos/kernel/vmlinuz-{base.version}.efi\n"
        );
        assert!(server.keys().is_empty() && !space.has("dist"), "{:?}", server.keys());

        let output = space.run(&["publish"]);
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(output.stdout, format!("s3://{BUCKET}/mos/kernel/vmlinuz-6.12.44.efi\n"));
        assert_eq!(settled(&server), ["vmlinuz-6.12.44.efi"]);
        assert_eq!(server.object("mos/kernel/vmlinuz-6.12.44.efi").unwrap(), space.bytes("dist/vmlinuz.efi"));
        let bill: Value =
            serde_json::from_str(&server.text("mos/kernel/vmlinuz-6.12.44.efi.cdx.json")).unwrap();
        assert_eq!(bill["specVersion"], "1.6");
        let placed = space.read("dist/vmlinuz-6.12.44.efi.provenance.json");
        assert_eq!(placed, server.text("mos/kernel/vmlinuz-6.12.44.efi.provenance.json"));

        // Once more: nothing is written.
        let before = (server.keys(), server.text("mos/kernel/kernels.json"));
        std::thread::sleep(Duration::from_millis(1100));
        let again = space.run(&["publish"]);
        assert_eq!(again.code, Some(0), "{again}");
        again.says("there    mos/kernel/vmlinuz-6.12.44.efi").says("there    mos/kernel/kernels.json");
        assert_eq!((server.keys(), server.text("mos/kernel/kernels.json")), before);
        let dry = space.run(&["publish", "--dry-run", "--what", "kernel"]);
        assert!(dry.stdout.contains("published     mos/kernel/vmlinuz-6.12.44.efi\n"), "{dry}");
        assert!(dry.stdout.contains("up to date    mos/kernel/kernels.json, kernels.txt  1 kernel"), "{dry}");

        // Other bytes under the same name.
        let published = server.object("mos/kernel/vmlinuz-6.12.44.efi");
        for n in ["'2'", "'3333'"] {
            let old = if n == "'2'" { "'1'" } else { "'2'" };
            space.edit_yaml(&format!("N: {old}"), &format!("N: {n}"));
            let refused = space.run(&["publish"]);
            assert_eq!(refused.code, Some(1), "{refused}");
            refused
                .says("mos/kernel/vmlinuz-6.12.44.efi is in images at")
                .says("already, with other bytes")
                .says("a published name keeps its bytes");
            let dry = space.run(&["publish", "--dry-run"]);
            assert_eq!(dry.code, Some(1), "{dry}");
        }
        assert_eq!(server.object("mos/kernel/vmlinuz-6.12.44.efi"), published);
        assert_eq!(settled(&server), ["vmlinuz-6.12.44.efi"]);

        // Another version, where KERNEL_SUBPATH says, and a kernel of the shell pipeline in the old place.
        let other = space.base().join("prebuilt-6.12.45");
        std::fs::copy("/bin/busybox", &other).unwrap();
        space.edit_yaml("prebuilt-6.12.44\"", "prebuilt-6.12.45\"");
        space.edit_yaml("prebuilt-6.12.44:", "prebuilt-6.12.45:");
        let output = space.run(&["publish"]);
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(settled(&server), ["vmlinuz-6.12.44.efi", "vmlinuz-6.12.45.efi"]);
        assert!(!space.has("dist/vmlinuz-6.12.44.efi.provenance.json"));
        space.env("KERNEL_SUBPATH", "kernels");
        space.env("UPLOAD_KERNEL", "true");
        let output = space.run(&["publish"]);
        assert_eq!(output.code, Some(0), "{output}");
        assert_eq!(server.text("mos/kernels/kernels.txt"), "vmlinuz-6.12.45.efi\n");
    }
}

#[test]
fn provenance_names_the_file_and_all_that_the_lock_has() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let mut space = with_facts();
    configure(&mut space, &server.url(), "");
    space.env("GITHUB_SERVER_URL", "https://forge.example");
    space.env("GITHUB_REPOSITORY", "me/mos");
    space.env("GITHUB_SHA", "c0ffee");
    space.env("GITHUB_REF", "refs/tags/v1");
    let output = space.run(&["--set", "arch=x86_64", "publish"]);
    assert_eq!(output.code, Some(0), "{output}");
    let text = server.text("mos/kernel/vmlinuz-6.12.44.efi.provenance.json");
    let statement: Value = serde_json::from_str(&text).unwrap();
    // in-toto Statement v1, SLSA provenance v1: the fields that these want.
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let subject = statement["subject"].as_array().unwrap();
    assert_eq!((subject.len(), &subject[0]["name"]), (1, &Value::from("vmlinuz-6.12.44.efi")));
    assert_eq!(subject[0]["digest"]["sha256"], sha256(&space.bytes("dist/vmlinuz.efi")).as_str());
    let definition = &statement["predicate"]["buildDefinition"];
    assert!(definition["buildType"].as_str().unwrap().contains(':'), "{definition}");
    assert_eq!(definition["externalParameters"]["target"], "kernel");
    assert_eq!(definition["externalParameters"]["set"]["arch"], "x86_64");
    assert_eq!(definition["internalParameters"]["key"].as_str().unwrap().len(), 64);
    let details = &statement["predicate"]["runDetails"];
    assert!(details["builder"]["id"].as_str().unwrap().contains(':'), "{details}");
    let metadata = &details["metadata"];
    assert!(
        metadata["startedOn"].as_str().unwrap() <= metadata["finishedOn"].as_str().unwrap(),
        "{metadata}"
    );
    let runs = space.run(&["runs"]).stdout;
    assert!(runs.contains(metadata["invocationId"].as_str().unwrap()), "{metadata} {runs}");

    let lock: toml::Value = toml::from_str(&space.read("mosbuild.lock")).unwrap();
    let entries = lock["source"].as_array().unwrap();
    let mut dependencies = definition["resolvedDependencies"].as_array().unwrap().iter();
    let workspace = dependencies.next().unwrap();
    assert_eq!(workspace["uri"], "git+https://forge.example/me/mos@refs/tags/v1");
    assert_eq!(workspace["digest"]["gitCommit"], "c0ffee");
    let dependencies: Vec<&Value> = dependencies.collect();
    assert_eq!(dependencies.len(), entries.len(), "{definition:#}");
    for (dependency, entry) in dependencies.iter().zip(entries) {
        assert_eq!(dependency["annotations"]["mosbuild:lock"], entry["id"].as_str().unwrap());
        assert!(dependency["uri"].as_str().unwrap().contains(':'), "{dependency}");
        assert_eq!(dependency["digest"]["sha256"], entry["sha256"].as_str().unwrap());
        assert_eq!(dependency["digest"]["blake3"], entry["blake3"].as_str().unwrap());
    }
}

/// Ten workspaces, each with a kernel of its own name.
fn ten(server: &Server) -> Vec<Space> {
    let first = Space::new("targets: {}\n");
    // s3s-fs as it is built for these tests takes its time for the digest of a large one.
    let lines = if server.kind() == Kind::Moto { 1_200_000 } else { 100_000 };
    let all = (0..10).map(|n| {
        let space = first.beside(&format!("w{n}"), &kernel(lines + n));
        let mut space = space.with_store(&format!("store{n}"));
        configure(&mut space, &server.url(), &format!("kernels: {{ \"vmlinuz-{n}.efi\": kernel }}\n"));
        space.builds(&["kernel"]);
        space
    });
    all.collect()
}

fn names() -> Vec<String> {
    (0..10).map(|n| format!("vmlinuz-{n}.efi")).collect()
}

#[test]
fn ten_publishers_at_once_lose_nothing() {
    for kind in [Kind::Moto, Kind::S3sFs] {
        let Some(server) = Server::start(kind) else { continue };
        let spaces = ten(&server);
        let running: Vec<Child> = spaces.iter().map(|s| s.command(&["publish"]).spawn().unwrap()).collect();
        for child in running {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(settled(&server), names());
        assert!(kind != Kind::Moto || server.open_uploads() == 0);
    }
}

#[test]
fn ten_publishers_of_which_each_is_killed_lose_nothing_either() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let spaces = ten(&server);
    // Killed at moments that are spread over all that a publisher does; what the index names in between is whole.
    for round in 0..3u64 {
        let running: Vec<Child> = spaces.iter().map(|s| s.command(&["publish"]).spawn().unwrap()).collect();
        for (n, mut child) in running.into_iter().enumerate() {
            std::thread::sleep(Duration::from_millis(30 + (n as u64 * 37 + round * 61) % 150));
            let _ = child.kill();
            child.wait().unwrap();
        }
        index(&server);
    }
    let running: Vec<Child> = spaces.iter().map(|s| s.command(&["publish"]).spawn().unwrap()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(settled(&server), names());
}

#[test]
fn of_two_with_one_name_one_wins() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let first = Space::new("targets: {}\n");
    let spaces: Vec<Space> = (0..4)
        .map(|n| {
            let mut space =
                first.beside(&format!("w{n}"), &kernel(1_200_000 + n)).with_store(&format!("store{n}"));
            configure(&mut space, &server.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
            space.builds(&["kernel"]);
            space
        })
        .collect();
    let running: Vec<Child> = spaces.iter().map(|s| s.command(&["publish"]).spawn().unwrap()).collect();
    let codes: Vec<Option<i32>> =
        running.into_iter().map(|child| child.wait_with_output().unwrap().status.code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(1)).count(), 3, "{codes:?}");
    assert_eq!(settled(&server), ["vmlinuz-1.efi"]);
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn an_upload_that_was_killed_goes_on_with_the_parts_that_are_missing() {
    for kind in [Kind::Moto, Kind::S3sFs] {
        let Some(server) = Server::start(kind) else { continue };
        let proxy = server.proxy();
        let mut space = Space::new(&kernel(2_600_000));
        configure(&mut space, &proxy.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
        space.builds(&["kernel"]);
        let is_part = |line: &str| line.starts_with("PUT") && line.contains("partNumber=");
        // The last part, and it alone, is slow.
        proxy.fault(|line, _| line.contains("partNumber=3").then_some(Fault::Slow(Duration::from_secs(3))));
        let mut child = space.command(&["publish"]).spawn().unwrap();
        let two = wait_until(|| proxy.count(is_part) >= 2);
        // The note about a part is written behind the server's answer.
        std::thread::sleep(Duration::from_millis(300));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(two, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(server.object("mos/kernel/vmlinuz-1.efi").is_none() && index(&server).is_empty());

        proxy.fault(|_, _| None);
        proxy.answered();
        let output = space.run(&["publish"]);
        assert_eq!(output.code, Some(0), "{output}");
        output.says("mos/kernel/vmlinuz-1.efi: 2 of 3 parts are there already");
        assert_eq!(proxy.count(is_part), 1);
        assert_eq!(settled(&server), ["vmlinuz-1.efi"]);
        assert!(std::fs::read_dir(space.path(".mosbuild/uploads")).unwrap().next().is_none());
    }
}

#[test]
fn after_a_kill_other_bytes_may_have_the_name_and_a_forgotten_upload_is_begun_again() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let proxy = server.proxy();
    let mut space = Space::new(&kernel(2_600_000));
    configure(&mut space, &proxy.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
    space.builds(&["kernel"]);
    let interrupted = |space: &Space| {
        proxy.fault(|line, _| line.contains("partNumber=3").then_some(Fault::Slow(Duration::from_secs(3))));
        proxy.answered();
        let mut child = space.command(&["publish"]).spawn().unwrap();
        let two = wait_until(|| proxy.count(|line| line.contains("partNumber=")) >= 2);
        std::thread::sleep(Duration::from_millis(300));
        child.kill().unwrap();
        child.wait().unwrap();
        proxy.fault(|_, _| None);
        assert!(two);
    };
    interrupted(&space);
    assert_eq!(server.open_uploads(), 1);
    space.yaml(&kernel(2_600_001));
    space.builds(&["kernel"]);
    interrupted(&space);
    // The parts of the first bytes are given up.
    assert_eq!(server.open_uploads(), 1);

    // The server has dropped the upload, as lifecycle rules have it.
    let notes = std::fs::read_dir(space.path(".mosbuild/uploads")).unwrap().next().unwrap().unwrap().path();
    let note: Value = serde_json::from_slice(&std::fs::read(notes).unwrap()).unwrap();
    let old = format!("uploadId={}", note["upload"].as_str().unwrap());
    let gone =
        "<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>";
    proxy.fault(move |line, _| line.contains(&old).then(|| Fault::Answer(404, gone.into())));
    proxy.answered();
    let output = space.run(&["publish"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(proxy.count(|line| line.contains("partNumber=")), 3);
    assert_eq!(settled(&server), ["vmlinuz-1.efi"]);
}

#[test]
fn refusals_say_what_to_do_and_no_secret() {
    let Some(server) = Server::start(Kind::S3sFs) else { return };
    let mut space = Space::new(&kernel(10));
    configure(&mut space, &server.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
    space.env("AWS_SECRET_ACCESS_KEY", "another-secret");
    let refused = space.run(&["publish"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    refused
        .says("images at http://127.0.0.1")
        .says("does not accept the credentials")
        .says("the credentials are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    assert!(!format!("{refused}").contains("another-secret") && server.keys().is_empty(), "{refused}");

    // A file in place of a variable, with the newline that editors put there.
    space.write("secret", format!("{}\n", KEYS.1));
    space.unset("AWS_SECRET_ACCESS_KEY");
    let missing = space.run(&["publish"]);
    assert_eq!(missing.code, Some(2), "{missing}");
    missing.says("there is no secret key: AWS_SECRET_ACCESS_KEY is not set");
    let with_file = "kernels: { vmlinuz-1.efi: kernel }\ncredentials: { secret_key: { file: secret } }\n";
    configure(&mut space, &server.url(), with_file);
    space.unset("AWS_SECRET_ACCESS_KEY");
    let output = space.run(&["publish"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(settled(&server), ["vmlinuz-1.efi"]);
    assert!(!format!("{output}").contains(KEYS.1), "{output}");

    // No such bucket (s3s-fs makes one), nobody there.
    if let Some(moto) = Server::start(Kind::Moto) {
        configure(&mut space, &moto.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
        space.edit("config/publish.yaml", "bucket: images", "bucket: imags");
        let refused = space.run(&["publish"]);
        assert_eq!(refused.code, Some(1), "{refused}");
        refused.says("there is no bucket imags at").says("create imags, or correct `bucket` and `endpoint`");
    }
    configure(&mut space, &server.url(), "kernels: { vmlinuz-1.efi: kernel }\n");
    let url = server.url();
    drop(server);
    space.edit("config/publish.yaml", &url, "http://127.0.0.1:1");
    let refused = space.run(&["publish"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    refused.says("http://127.0.0.1:1 cannot be reached: ").says("Connection refused");
}

#[test]
fn the_file_is_checked_as_mosbuild_yaml_is() {
    let space = Space::new(&kernel(10));
    let none = space.run(&["publish"]);
    assert_eq!(none.code, Some(2), "{none}");
    none.says("there is no config/publish.yaml").says("mosbuild import config/rfs.conf");
    space.write("config/publish.yaml", "bucket: a\nendpont: https://h\nkernels: { k.efi: kernl }\n");
    let wrong = space.run(&["publish"]);
    assert_eq!(wrong.code, Some(2), "{wrong}");
    wrong.says("config/publish.yaml:2:1").says("did you mean `endpoint`?");
    let text = "bucket: a\nendpoint: h\nprefix: a/${chanel}\nkernels: { k.efi: kernl, a/b: kernel, c: kernel:x }\ncredentials: { access_key: {} }\n";
    space.write("config/publish.yaml", text);
    let wrong = space.run(&["publish"]);
    assert_eq!(wrong.code, Some(2), "{wrong}");
    wrong
        .says("`endpoint` is no URL")
        .says("there is no variable `chanel`")
        .says("there is no target `kernl`")
        .says("did you mean `kernel`?")
        .says("`a/b` can be no name of a published file")
        .says("kernel has no output `x`")
        .says("`access_key` needs one of env and file");
    space.write("config/publish.yaml", "bucket: a\nkernels: { k.efi: kernel }\n");
    for (what, says) in [("manifests", "no flist is there"), ("kernels", "kernel")] {
        let wrong = space.run(&["publish", "--what", what]);
        assert_eq!(wrong.code, Some(2), "{wrong}");
        wrong.says(says);
    }
}

#[test]
fn a_bad_day_of_the_network() {
    let Some(server) = Server::start(Kind::Moto) else { return };
    let proxy = server.proxy();
    let mut space = Space::new(&kernel(1_200_000));
    configure(&mut space, &proxy.url(), "kernels: { vmlinuz-1.efi: kernel }\n");

    // A clock that is wrong.
    let skew = "<?xml version=\"1.0\"?><Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and \
                the current time is too large.</Message><RequestTime>20250101T000000Z</RequestTime>\
                <ServerTime>2025-01-01T01:00:00Z</ServerTime></Error>";
    // The answer to a HEAD has no body.
    proxy.fault(move |line, _| {
        Some(Fault::Answer(403, if line.starts_with("HEAD") { "" } else { skew }.into()))
    });
    let output = space.run(&["publish"]);
    assert_eq!(output.code, Some(1), "{output}");
    output
        .says("this host's clock and that of images at http://127.0.0.1")
        .says("(here it is 20250101T000000Z, there 2025-01-01T01:00:00Z)")
        .says("set this host's clock");

    // Busy for ever.
    let busy = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let told = move |line: &str| Fault::Answer(503, if line.starts_with("HEAD") { "" } else { busy }.into());
    proxy.fault(move |line, _| Some(told(line)));
    let output = space.run(&["publish"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("(tried 7 times)");
    assert!(server.keys().is_empty());

    // Every third request meets a busy server or a cut connection, and the link is slow.
    let cut = AtomicUsize::new(0);
    proxy.fault(move |line, n| match n % 3 {
        2 if cut.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => Some(Fault::HangUp),
        2 => Some(told(line)),
        _ => Some(Fault::Slow(Duration::from_millis(20))),
    });
    let output = space.run(&["publish"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(settled(&server), ["vmlinuz-1.efi"]);
}
