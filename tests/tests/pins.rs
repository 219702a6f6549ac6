//! mosbuild.lock as a person meets it: what leaves it, what it is refused for, and which mirrors are none.
//! Most sources are files on this machine; nothing is downloaded but from a mirror on loopback.

use mosbuild_tests::Space;
use mosbuild_tests::alpine::{Alpine, Stand, replace};

/// A workspace whose target `a` has a source in the file `${f}`, and `b` one in `two`.
fn space() -> Space {
    let space = Space::new("");
    for name in ["one", "two", "three"] {
        space.write(&format!("up/{name}"), name);
    }
    let up = space.path("up").display().to_string();
    space.yaml(&format!(
        "vars: {{ f: one }}\nprofiles: {{ other: {{ vars: {{ f: three }} }} }}\n\
         targets:\n  a: {{ rule: files, install: [{{ from: {{ url: \"file://{up}/${{f}}\" }}, to: /etc/a }}] }}\n  \
         b: {{ rule: files, install: [{{ from: {{ url: \"file://{up}/two\" }}, to: /etc/b }}] }}\n"
    ));
    space
}

#[test]
fn what_nothing_asks_for_leaves_the_lock() {
    let space = space();
    space.ok(&["lock"]);
    space.ok(&["lock", "--profile", "other"]);
    let all = space.read("mosbuild.lock");
    assert_eq!(["up/one", "up/two", "up/three"].map(|f| all.contains(f)), [true; 3], "{all}");
    // What only another profile asks for stays.
    let output = space.ok(&["lock"]);
    assert!(output.stderr.contains("up to date"), "{output}");
    assert_eq!(space.read("mosbuild.lock"), all);

    let yaml = space.read("mosbuild.yaml");
    let without: Vec<&str> = yaml.lines().filter(|line| !line.starts_with("  b:")).collect();
    space.write("mosbuild.yaml", format!("{}\n", without.join("\n")));
    space.ok(&["build"]);
    assert_eq!(space.read("mosbuild.lock"), all, "a build drops nothing");
    space.ok(&["lock", "--locked"]);
    assert_eq!(space.read("mosbuild.lock"), all, "with --locked the lock stays as it is");
    let output = space.ok(&["lock"]);
    let told: Vec<&str> = output.stdout.lines().collect();
    assert!(
        told.len() == 1 && told[0].starts_with("removed url file://") && told[0].contains("up/two"),
        "{output}"
    );
    let now = space.read("mosbuild.lock");
    assert_eq!(["up/one", "up/two", "up/three"].map(|f| now.contains(f)), [true, false, true], "{now}");
}

#[test]
fn an_update_and_locked_exclude_each_other() {
    let output = space().run(&["lock", "--update", "--locked"]);
    assert_eq!(output.code, Some(2), "{output}");
}

#[test]
fn a_lock_that_cannot_be_written_fails() {
    let space = space().as_plain_user();
    space.write("mosbuild.lock", "version = 1\n");
    space.ok(&["list"]);
    std::fs::create_dir_all(space.path(".mosbuild")).unwrap();
    space.chmod(".mosbuild", 0o777);
    space.chmod(".", 0o555);
    let output = space.run(&["lock"]);
    let built = space.run(&["build", "--out", &space.base().join("home/out").display().to_string()]);
    space.chmod(".", 0o755);
    assert_eq!(output.code, Some(1), "{output}");
    let message = "mosbuild.lock could not be written";
    assert!(output.stderr.contains(&format!("error: {message}")), "{output}");
    // A build does its work all the same, and the next one looks again.
    assert_eq!(built.code, Some(0), "{built}");
    assert!(built.stderr.contains(&format!("warning: {message}")), "{built}");
    assert_eq!(space.read("mosbuild.lock"), "version = 1\n");
    space.ok(&["build"]);
    assert!(space.read("mosbuild.lock").contains("up/one"));
}

#[test]
fn a_conflict_of_a_merge_is_told() {
    let space = space();
    space.ok(&["lock"]);
    let lock = space.read("mosbuild.lock");
    space.write("mosbuild.lock", format!("{lock}<<<<<<< HEAD\n=======\n>>>>>>> theirs\n"));
    for command in ["build", "lock", "fetch"] {
        let output = space.run(&[command]);
        assert_eq!(output.code, Some(2), "{output}");
        assert!(output.stderr.contains("conflict of a merge"), "{output}");
    }
}

#[test]
fn an_unlocked_source_is_told_as_what_it_is() {
    let space = space();
    let output = space.run(&["why", "a", "--predict"]);
    assert_eq!(output.code, Some(10), "{output}");
    assert!(output.stdout.contains("is not in mosbuild.lock"), "{output}");
    assert!(!output.stdout.contains("absent → absent"), "{output}");
}

#[test]
fn a_mirror_is_a_url_or_an_absolute_path() {
    let space = space();
    let yaml = space
        .read("mosbuild.yaml")
        .replace(&format!("file://{}/", space.path("up").display()), "http://127.0.0.1:9/");
    let with = |to: &str| {
        yaml.replace(
            "targets:",
            &format!("mirrors: [{{ from: \"http://127.0.0.1:9\", to: {to} }}]\ntargets:"),
        )
    };
    for none in ["ftp://h/x", "file://h/x", "up", "http://"] {
        space.write("mosbuild.yaml", with(none));
        let output = space.run(&["build"]);
        assert_eq!(output.code, Some(2), "{none}: {output}");
        assert!(output.stderr.contains("is no place") && output.stderr.contains(none), "{output}");
    }
    space.write("mosbuild.yaml", with(&format!("[\"{}\"]", space.path("up").display())));
    space.ok(&["build"]);
}

#[test]
fn a_checksum_file_without_the_digest_is_no_check() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["busybox"]);
    let sums = [".sha512", ".sha256"].map(|suffix| alpine.release_file(suffix));
    replace(&stand.mirror, &sums[0], b"");
    let output = stand.space.build(&["miniroot"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says(&sums[0]).says("no digest");
    assert!(!stand.space.has("mosbuild.lock"), "{output}");
    // A server's page in its place says nothing about the archive.
    for sums in &sums {
        replace(&stand.mirror, sums, b"<!DOCTYPE html>\n<title>404</title>\n");
    }
    stand.space.builds(&["miniroot"]);
}

#[test]
fn an_archive_that_was_cut_off_when_it_was_locked() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["busybox"]);
    let file = alpine.release_file("");
    let whole = std::fs::read(stand.mirror.dir().join(&file)).unwrap();
    replace(&stand.mirror, &file, &whole[..whole.len() / 2]);
    for suffix in [".sha512", ".sha256"] {
        replace(&stand.mirror, &alpine.release_file(suffix), b"<html>");
    }
    let output = stand.space.build(&["miniroot"]);
    assert_eq!(output.code, Some(1), "{output}");
    output.says("the archive cannot be unpacked").says("mosbuild lock --update");
    replace(&stand.mirror, &file, &whole);
    stand.space.ok(&["lock", "--update", "miniroot"]);
    stand.space.builds(&["miniroot"]);
}
