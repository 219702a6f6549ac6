//! `mosbuild lock`: what it pins, what an update changes, and how it tells a person.

use mosbuild_tests::alpine::{Alpine, Stand};
use mosbuild_tests::apks::Apk;
use mosbuild_tests::archive::{pin, text};
use mosbuild_tests::{Output, Space};

/// Version 1 of two packages, of which the second is needed by the first.
fn first() -> [Apk; 2] {
    [
        Apk::new("mos-a", "1.2-r0").depends("mos-b").file("etc/mos-a", "one"),
        Apk::new("mos-b", "1.0-r0").file("etc/mos-b", "one"),
    ]
}

/// Both newer; the first is 40 kB larger, and needs a third.
fn second() -> [Apk; 3] {
    // Not compressible, so that the package grows by as much as its file.
    let mut state = 1u64;
    let noise: String = (0..40_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + (state >> 58) as u8)
        })
        .collect();
    [
        Apk::new("mos-a", "1.3-r1").depends("mos-b").depends("mos-c").file("etc/mos-a", &noise),
        Apk::new("mos-b", "1.1-r0").file("etc/mos-b", "two"),
        Apk::new("mos-c", "5-r0"),
    ]
}

#[track_caller]
fn lock(space: &Space, args: &[&str]) -> Output {
    let mut all = vec!["lock"];
    all.extend(args);
    let output = space.run(&all);
    assert_eq!(output.code, Some(0), "{output}");
    output
}

/// The line of what a person is told that has this in it.
#[track_caller]
fn line<'a>(output: &'a Output, text: &str) -> &'a str {
    let mut lines = output.stdout.lines().chain(output.stderr.lines());
    lines.find(|l| l.contains(text)).unwrap_or_else(|| panic!("no line has {text:?}: {output}"))
}

fn version<'a>(pin: &'a toml::Table, name: &str) -> Option<&'a str> {
    pin["package"].as_table().unwrap().get(name)?.get("version")?.as_str()
}

#[test]
fn a_lock_is_made_and_kept() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["mos-a"]);
    stand.own(&first());
    let output = lock(&stand.space, &[]);
    assert!(line(&output, "mos-a").contains("1.2-r0"), "{output}");
    assert!(line(&output, "mos-b").contains("1.0-r0"), "{output}");
    assert!(line(&output, "miniroot").contains(&alpine.release), "{output}");
    assert!(!stand.space.has("dist"), "locking builds nothing");
    let text = stand.space.read("mosbuild.lock");
    let sorted: Vec<&str> = text.lines().filter(|l| l.starts_with("mos-")).collect();
    assert_eq!(sorted.len(), 2, "{text}");
    assert!(sorted.is_sorted(), "{text}");

    // It stays, whatever the mirror has by now, and nothing is said to have changed.
    stand.own(&second());
    let output = lock(&stand.space, &[]);
    assert_eq!(stand.space.read("mosbuild.lock"), text);
    assert!(!output.stdout.contains("mos-a") && !output.stderr.contains("1.3-r1"), "{output}");
}

#[test]
fn an_update_is_told() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["mos-a"]);
        stand.own(&first());
        stand.space.builds(&["packages"]);
        stand.own(&second());
        let output = lock(&stand.space, &["--update"]);
        let told = line(&output, "mos-a");
        assert!(told.contains("1.2-r0 → 1.3-r1") && told.contains('+') && told.contains("kB"), "{told}");
        assert!(line(&output, "mos-b").contains("1.0-r0 → 1.1-r0"), "{output}");
        assert!(line(&output, "mos-c").contains("5-r0"), "what is new is told: {output}");
        let pin = pin(&stand.space, "packages");
        assert_eq!(version(&pin, "mos-a"), Some("1.3-r1"));
        assert_eq!(version(&pin, "mos-c"), Some("5-r0"));
        stand.mirror.clear();
        stand.space.builds(&["packages", "--locked"]);
        assert_eq!(text(&stand.space.path("dist/packages.tar"), "etc/mos-b"), "two");
        // Again there is nothing to update.
        let before = stand.space.read("mosbuild.lock");
        let output = lock(&stand.space, &["--update"]);
        assert_eq!(stand.space.read("mosbuild.lock"), before);
        assert!(!output.stdout.contains("→") && !output.stderr.contains("→"), "{output}");
        // What is gone is told as well.
        stand.own(&[Apk::new("mos-a", "1.4-r0"), Apk::new("mos-b", "1.1-r0")]);
        let output = lock(&stand.space, &["--update"]);
        assert!(line(&output, "mos-c").contains("5-r0"), "{output}");
        assert!(line(&output, "mos-a").contains("1.3-r1 → 1.4-r0"), "{output}");
        assert!(line(&output, "mos-a").contains('-') || line(&output, "mos-a").contains('−'), "{output}");
    }
}

#[test]
fn one_package_is_updated() {
    for alpine in Alpine::all() {
        let stand = Stand::new(&alpine, &["mos-a", "mos-d"]);
        let d = |version: &str| Apk::new("mos-d", version);
        let [a1, b1] = first();
        stand.own(&[a1, b1, d("1-r0")]);
        stand.space.builds(&["packages"]);
        let [a2, b2, c2] = second();
        let [a1, b1] = first();
        // The mirror keeps the older ones; only mos-d is asked for.
        stand.own(&[a1, b1, d("1-r0"), a2, b2, c2, d("2-r0")]);
        let output = lock(&stand.space, &["--update", "mos-d"]);
        assert!(line(&output, "mos-d").contains("1-r0 → 2-r0"), "{output}");
        let pin_now = pin(&stand.space, "packages");
        assert_eq!(version(&pin_now, "mos-d"), Some("2-r0"));
        assert_eq!(version(&pin_now, "mos-a"), Some("1.2-r0"), "{output}");
        assert_eq!(version(&pin_now, "mos-b"), Some("1.0-r0"), "{output}");
        let unknown = stand.space.run(&["lock", "--update", "mos-dd"]);
        assert_eq!(unknown.code, Some(2), "{unknown}");
        unknown.says("mos-dd").says("mos-d");
        // By the target's name, all of it.
        lock(&stand.space, &["--update", "packages"]);
        assert_eq!(version(&pin(&stand.space, "packages"), "mos-a"), Some("1.3-r1"));
        stand.space.builds(&["packages", "--locked"]);
    }
}

/// A newer release of the miniroot is taken by an update, not before.
#[test]
fn the_miniroot_is_updated() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["musl"]);
    stand.space.builds(&["miniroot"]);
    let folder = stand.mirror.dir().join(format!("alpine/{}/releases/x86_64", alpine.branch));
    let newer = format!("{}.77", alpine.number());
    let list = std::fs::read_to_string(folder.join("latest-releases.yaml")).unwrap();
    let path = alpine.release_file("").replace(&alpine.release, &newer);
    std::fs::copy(stand.mirror.dir().join(alpine.release_file("")), stand.mirror.dir().join(&path)).unwrap();
    for kind in ["sha256", "sha512"] {
        let sum = std::fs::read_to_string(stand.mirror.dir().join(alpine.release_file(&format!(".{kind}"))))
            .unwrap();
        std::fs::write(
            stand.mirror.dir().join(format!("{path}.{kind}")),
            sum.replace(&alpine.release, &newer),
        )
        .unwrap();
    }
    std::fs::remove_file(folder.join("latest-releases.yaml")).unwrap();
    std::fs::write(folder.join("latest-releases.yaml"), list.replace(&alpine.release, &newer)).unwrap();
    stand.space.forget_stamp();
    stand.space.builds(&["miniroot"]).counts(0, 1, 0);
    let output = lock(&stand.space, &["--update", "miniroot"]);
    assert!(line(&output, "miniroot").contains(&format!("{} → {newer}", alpine.release)), "{output}");
    // The same bytes under another name: nothing is downloaded that is there.
    assert_eq!(pin(&stand.space, "miniroot")["version"].as_str(), Some(newer.as_str()));
    stand.space.builds(&["miniroot", "--locked"]);
}

/// What an update changed is the reason for the next build, by package.
#[test]
fn why_names_the_package() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["mos-a"]);
    stand.own(&first());
    stand.space.builds(&["packages"]);
    stand.own(&second());
    lock(&stand.space, &["--update"]);
    let predicted = stand.space.run(&["why", "packages", "--predict"]);
    assert_eq!(predicted.code, Some(10), "{predicted}");
    stand.space.builds(&["packages"]);
    let told = stand.space.run(&["why", "packages"]);
    for said in [&predicted.stdout, &told.stdout] {
        for text in ["mos-a", "1.2-r0", "1.3-r1", "mos-c"] {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
}

/// The store still has the index of the day on which the list was locked; a package came since.
#[test]
fn what_came_since_is_found_and_what_is_locked_stays() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["mos-d"]);
    let d = |version: &str| Apk::new("mos-d", version);
    stand.own(&[d("1-r0")]);
    stand.space.builds(&["packages"]);
    stand.own(&[d("1-r0"), d("2-r0"), Apk::new("mos-new", "7-r0")]);
    stand.list(&["mos-d", "mos-new"], "");
    stand.space.builds(&["packages"]);
    let pin = pin(&stand.space, "packages");
    assert_eq!((version(&pin, "mos-new"), version(&pin, "mos-d")), (Some("7-r0"), Some("1-r0")));
}

/// A profile with another list has a pin of its own; one with the same list has none.
#[test]
fn profiles_with_other_lists_are_locked_apart() {
    let Some(alpine) = Alpine::any() else { return };
    let stand = Stand::new(&alpine, &["mos-d"]);
    stand.own(&[Apk::new("mos-d", "1-r0"), Apk::new("mos-e", "1-r0")]);
    let yaml = format!(
        "{}\nprofiles:\n  more: {{ targets: {{ packages: {{ packages: [mos-d, mos-e] }} }} }}\n  same: {{ vars: {{ arch: x86_64 }} }}\n",
        stand.space.read("mosbuild.yaml")
    );
    stand.space.write("mosbuild.yaml", yaml);
    for profile in [&[][..], &["--profile", "same"], &["--profile", "more"]] {
        stand.space.builds(&[&["packages"], profile].concat());
    }
    let lock = stand.space.read("mosbuild.lock");
    assert_eq!(lock.matches("id = \"packages packages").count(), 2, "{lock}");
    assert!(lock.contains("id = \"packages packages (profile more)\""), "{lock}");
    for profile in [&[][..], &["--profile", "same"], &["--profile", "more"]] {
        stand.space.builds(&[&["packages", "--locked", "--offline"], profile].concat());
    }
    self::lock(&stand.space, &[]);
    assert_eq!(stand.space.read("mosbuild.lock"), lock);
}
