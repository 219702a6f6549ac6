//! The services of the MOS image: each names services and programs that there are, in an order that has an end, for
//! every profile; and the scripts among them do what they say. Starts no machine and no my_init.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use mosbuild_tests::alpine::not_run;
use mosbuild_tests::mos::PROFILES;
use mosbuild_tests::{Fault, Mirror, Space, need, repository};
use serde_json::Value;

/// Programs of Alpine's packages that services start, and the package of packages.list that brings each.
const PROGRAMS: [(&str, &str); 7] = [
    ("/bin/hostname", "busybox"),
    ("/sbin/getty", "busybox"),
    ("/usr/sbin/ntpd", "busybox"),
    ("/sbin/udevd", "eudev"),
    ("/sbin/dhcpcd", "dhcpcd"),
    ("/usr/sbin/haveged", "haveged"),
    ("/usr/sbin/sshd", "openssh-server"),
];
/// What a service file may say.
const KEYS: [&str; 6] = ["exec", "oneshot", "requires", "after", "restart", "target"];

/// The files of the image below /etc/my_init with a profile, by their paths there.
fn installed(profile: &str) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for folder in ["config/my_init".to_owned(), format!("config/profiles/{profile}")] {
        let root = repository().join(folder);
        let mut todo = vec![root.clone()];
        while let Some(at) = todo.pop() {
            for entry in std::fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => todo.push(path),
                    // What a profile has is laid over the others.
                    false => {
                        let inside = path.strip_prefix(&root).unwrap().display().to_string();
                        files.insert(inside, path);
                    }
                }
            }
        }
    }
    files
}

/// YAML files as JSON, read by Python.
fn yaml<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Vec<Value> {
    need("python3", "python3 python3-yaml");
    let script = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(f)) for f in sys.argv[1:]]))";
    let output = Command::new("python3").args(["-c", script]).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names<'a>(service: &'a Value, key: &str) -> Vec<&'a str> {
    service[key].as_array().into_iter().flatten().map(|name| name.as_str().unwrap()).collect()
}

/// What is wrong with a set of services, line by line; `programs` are the paths that the image has.
fn faults(services: &BTreeMap<String, Value>, init: &[&str], programs: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |name: &str, text: String| faults.push(format!("{name}: {text}"));
    for name in init.iter().filter(|name| !services.contains_key(**name)) {
        fault("my_init.conf", format!("init names {name}, which no file defines"));
    }
    for (name, service) in services {
        for key in service.as_object().unwrap().keys().filter(|key| !KEYS.contains(&key.as_str())) {
            fault(name, format!("unknown key {key}"));
        }
        for key in ["requires", "after"] {
            for other in names(service, key).iter().filter(|other| !services.contains_key(**other)) {
                fault(name, format!("{key} {other}, which no file defines"));
            }
        }
        match (service["exec"].as_str(), service["target"].as_bool()) {
            (Some(exec), None) => {
                let program = exec.split(' ').next().unwrap();
                let fetched = program.starts_with("/var/cache/bin/");
                let asks = names(service, "requires").contains(&"runtime-fetch");
                if fetched && !asks {
                    fault(name, format!("{program} is fetched after boot: it must require runtime-fetch"));
                } else if !fetched && !programs.contains(program) {
                    fault(name, format!("{program} is in no layer of the image"));
                }
            }
            (None, Some(true)) => {}
            _ => fault(name, "either exec, or target: true".into()),
        }
        if service["restart"] == "always" && service["oneshot"] == true {
            fault(name, "a oneshot that is always restarted never ends".into());
        }
    }
    // Whoever waits for itself, by whatever way, never starts.
    let mut started: BTreeSet<&str> = BTreeSet::new();
    loop {
        let ready = |name: &&String| {
            let service = &services[*name];
            let waits = [names(service, "requires"), names(service, "after")].concat();
            waits.iter().all(|other| started.contains(other) || !services.contains_key(*other))
        };
        let next: Vec<&str> = services
            .keys()
            .filter(|n| !started.contains(n.as_str()))
            .filter(ready)
            .map(String::as_str)
            .collect();
        if next.is_empty() {
            break;
        }
        started.extend(next);
    }
    let stuck: Vec<&str> = services.keys().map(String::as_str).filter(|n| !started.contains(n)).collect();
    if !stuck.is_empty() {
        faults.push(format!("these wait for each other: {}", stuck.join(", ")));
    }
    faults
}

/// Paths of programs in the image: of the components in its layers, of its own scripts, and of its packages.
fn programs(space: &Space, files: &BTreeMap<String, PathBuf>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let layers = space.json(&["show", "rootfs", "--json"])["definition"]["layers"].clone();
    for layer in layers.as_array().unwrap() {
        let shown = space.json(&["show", layer.as_str().unwrap(), "--json"]);
        for to in shown["definition"]["install"].as_object().into_iter().flat_map(|map| map.values()) {
            let path = to.as_str().or(to["to"].as_str()).unwrap();
            all.insert(path.to_owned());
        }
    }
    for (inside, path) in files {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        if mode & 0o100 != 0 {
            all.insert(format!("/etc/my_init/{inside}"));
        }
    }
    let list = space.read("config/packages.list");
    for (program, package) in PROGRAMS {
        assert!(list.lines().any(|line| line == package), "{package} is not in packages.list");
        all.insert(program.to_owned());
    }
    all
}

fn services(files: &BTreeMap<String, PathBuf>) -> BTreeMap<String, Value> {
    let name = |path: &str| {
        path.strip_prefix("services/").map(|name| name.strip_suffix(".yaml").unwrap_or(name).to_owned())
    };
    let named: Vec<(String, &PathBuf)> =
        files.iter().filter_map(|(p, file)| Some((name(p)?, file))).collect();
    let read = yaml(named.iter().map(|(_, path)| *path));
    named.into_iter().map(|(name, _)| name).zip(read).collect()
}

#[test]
fn every_service_names_what_there_is() {
    let space = Space::mos();
    for profile in PROFILES {
        let files = installed(profile);
        let services = services(&files);
        let conf = yaml([&files["my_init.conf"]].into_iter()).remove(0);
        assert!(
            ["error", "warn", "info", "debug", "trace"].contains(&conf["log_level"].as_str().unwrap()),
            "{conf}"
        );
        let init = names(&conf, "init");
        assert_eq!(init, ["load-modules", "networking", "services"], "{profile}");
        assert_eq!(faults(&services, &init, &programs(&space, &files)), [""; 0], "{profile}");
        for needed in ["runtime-fetch", "storage", "networking", "udevd", "sshd", "ntp", "haveged"] {
            assert!(services.contains_key(needed), "{needed} of {profile}");
        }
        // A shell without a password is for machines that nobody reaches.
        assert_eq!(services.contains_key("console"), matches!(profile, "dev" | "testing"), "{profile}");
        let waits = names(&services["runtime-fetch"], "requires");
        assert!(waits.contains(&"networking") && waits.contains(&"storage"), "{waits:?}");
    }
}

/// What is looked for is found: a service that no file defines is what a set of another supervisor really had.
#[test]
fn faults_of_services_are_told() {
    let service = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let services = BTreeMap::from([
        ("sysvol".to_owned(), service(r#"{"exec": "/sbin/a", "requires": ["udev-trigger"]}"#)),
        (
            "late".to_owned(),
            service(r#"{"exec": "/var/cache/bin/b -x", "after": ["sysvol"], "oneshoot": true}"#),
        ),
        (
            "one".to_owned(),
            service(r#"{"exec": "/nowhere", "after": ["two"], "oneshot": true, "restart": "always"}"#),
        ),
        ("two".to_owned(), service(r#"{"target": true, "requires": ["one"]}"#)),
        ("none".to_owned(), service("{}")),
    ]);
    let programs = BTreeSet::from(["/sbin/a".to_owned()]);
    assert_eq!(
        faults(&services, &["two", "three"], &programs),
        [
            "my_init.conf: init names three, which no file defines",
            "late: unknown key oneshoot",
            "late: /var/cache/bin/b is fetched after boot: it must require runtime-fetch",
            "none: either exec, or target: true",
            "one: /nowhere is in no layer of the image",
            "one: a oneshot that is always restarted never ends",
            "sysvol: requires udev-trigger, which no file defines",
            "these wait for each other: one, two",
        ]
    );
}

/// The paths of [`PROGRAMS`] are those of real packages, as far as the fixtures have them.
#[test]
fn programs_of_packages_are_where_alpine_puts_them() {
    let shared = repository().join("../shared/fixtures/alpine");
    if !shared.exists() {
        not_run("the fixtures of ../shared are not there");
        return;
    }
    let tree = std::fs::read_to_string(shared.join("expected/v3.19-tree.tsv")).unwrap();
    let paths: BTreeSet<&str> = tree.lines().filter_map(|line| line.split('\t').next()).collect();
    let index = shared.join("index/v3.19-main-x86_64.APKINDEX.tar.gz");
    let text = Command::new("tar").arg("-xzOf").arg(&index).arg("APKINDEX").output().unwrap();
    let index = String::from_utf8_lossy(&text.stdout).into_owned();
    for (program, package) in PROGRAMS {
        // A package that is not installed there is known by its index alone, without the path.
        let command = format!("cmd:{}=", program.rsplit('/').next().unwrap());
        let entry = index.split("\n\n").find(|e| e.lines().any(|l| l == format!("P:{package}"))).unwrap();
        let provides = entry.lines().find_map(|line| line.strip_prefix("p:")).unwrap_or_default();
        let known = paths.contains(program.trim_start_matches('/'));
        assert!(known || provides.split(' ').any(|p| p.starts_with(&command)), "{program} of {package}");
    }
}

#[test]
fn scripts_are_shell_that_busybox_reads() {
    need("busybox", "busybox-static");
    for entry in std::fs::read_dir(repository().join("config/my_init/scripts")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#!/bin/sh\n"), "{}", path.display());
        let read = Command::new("busybox").args(["sh", "-n"]).arg(&path).output().unwrap();
        assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
    }
}

/// A channel on a server, and a node's folders.
struct Channel {
    folder: tempfile::TempDir,
    mirror: Mirror,
}

impl Channel {
    fn new() -> Channel {
        need("busybox", "busybox-static");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("s3/bin")).unwrap();
        let mirror = Mirror::new(&folder.path().join("s3"));
        let channel = Channel { folder, mirror };
        let manifest = format!("{}manifest.txt", channel.mirror.url());
        std::fs::write(channel.path("channel.conf"), format!("# remark\nCHANNEL=dev\nMANIFEST={manifest}\n"))
            .unwrap();
        channel
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Puts a program on the server; gives its line of the manifest.
    fn offer(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path("s3/bin").join(name), content).unwrap();
        let sum = Command::new("sha256sum").arg(self.path("s3/bin").join(name)).output().unwrap();
        format!("{name} {} bin/{name}\n", &String::from_utf8(sum.stdout).unwrap()[..64])
    }

    fn manifest(&self, text: &str) {
        std::fs::write(self.path("s3/manifest.txt"), text).unwrap();
    }

    /// Runs the service's script as the image does, by busybox alone; gives whether it ended well and what it said.
    fn fetch(&self) -> (bool, String) {
        // Programs of busybox by their names, and nothing else.
        let bin = self.path("applets");
        if !bin.exists() {
            std::fs::create_dir(&bin).unwrap();
            let status = Command::new("busybox").args(["--install", "-s"]).arg(&bin).status().unwrap();
            assert!(status.success());
        }
        let script = repository().join("config/my_init/scripts/runtime-fetch");
        let output = Command::new("busybox")
            .arg("sh")
            .arg(script)
            .env_clear()
            .env("PATH", bin)
            .env("CHANNEL_CONF", self.path("channel.conf"))
            .env("BIN", self.path("bin"))
            .env("TRIES", "2")
            .env("PAUSE", "0")
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    fn has(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("bin")).into_iter().flatten();
        let mut all: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("bin").join(name)).unwrap()
    }
}

#[test]
fn runtime_fetch_brings_what_the_manifest_names_and_nothing_twice() {
    let channel = Channel::new();
    let (mycelium, youki) = (channel.offer("mycelium", "one"), channel.offer("youki", "two"));
    // The last line without its end.
    channel.manifest(&format!("# channel dev\n{mycelium}\n{}", youki.trim_end()));
    let (well, said) = channel.fetch();
    assert!(well, "{said}");
    assert_eq!(channel.has(), ["mycelium", "youki"]);
    assert_eq!((channel.content("mycelium"), channel.content("youki")), ("one".into(), "two".into()));
    let mode = channel.path("bin/youki").metadata().unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o755);

    // One is new, one is named no more; what stays is not fetched again.
    let before = channel.mirror.requests().len();
    let new = channel.offer("hero_compute", "three");
    channel.manifest(&format!("{youki}{new}"));
    let (well, said) = channel.fetch();
    assert!(well, "{said}");
    assert_eq!(channel.has(), ["hero_compute", "youki"]);
    let asked: Vec<String> = channel.mirror.requests()[before..].iter().map(|r| r.path.clone()).collect();
    assert_eq!(asked, ["/manifest.txt", "/bin/hero_compute"]);
}

#[test]
fn runtime_fetch_keeps_what_it_has_when_something_is_wrong() {
    let channel = Channel::new();
    let good = channel.offer("mycelium", "good");
    channel.manifest(&good);
    assert!(channel.fetch().0);

    // Other bytes than the manifest says; a name that leaves the folder.
    let bad = channel.offer("youki", "bad").replace(' ', " 0");
    let bad = format!("{}\n", bad.trim_end());
    channel.manifest(&format!("{bad}../evil {} bin/mycelium\n", "0".repeat(64)));
    let (well, said) = channel.fetch();
    assert!(!well && said.contains("youki") && said.contains("\"../evil\" is no program's name"), "{said}");
    assert_eq!(channel.has(), ["mycelium"], "nothing is removed by a manifest with a fault");
    assert!(!channel.path("evil").exists());

    channel.manifest("# nothing\n");
    let (well, said) = channel.fetch();
    assert!(!well && said.contains("names no program"), "{said}");
    assert_eq!(channel.content("mycelium"), "good");

    // A server that does not answer at first, and one that never does.
    channel.manifest(&good);
    channel.mirror.fault_times("/manifest.txt", 1, Fault::Status(503));
    let (well, said) = channel.fetch();
    assert!(well && said.contains("not there yet (1 of 2)"), "{said}");
    channel.mirror.fault("/manifest.txt", Fault::HangUp);
    let (well, said) = channel.fetch();
    assert!(!well && said.contains("the manifest of channel dev cannot be had"), "{said}");
    assert_eq!(channel.has(), ["mycelium"]);

    // A program that comes cut short.
    let long = channel.offer("long", &"x".repeat(100_000));
    channel.manifest(&format!("{good}{long}"));
    channel.mirror.clear();
    channel.mirror.fault("/bin/long", Fault::Cut(1000));
    let (well, said) = channel.fetch();
    assert!(!well, "{said}");
    assert_eq!(channel.has(), ["mycelium"]);

    std::fs::write(channel.path("channel.conf"), "CHANNEL=dev\n").unwrap();
    let (well, said) = channel.fetch();
    assert!(!well && said.contains("says neither channel nor manifest"), "{said}");
}

/// One module that does not load keeps no other from it.
#[test]
fn load_modules_goes_on_behind_a_module_that_does_not_load() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let script = std::fs::read_to_string(repository().join("config/my_init/scripts/load-modules")).unwrap();
    std::fs::write(at("script"), script.replace("/etc/modules", at("modules").to_str().unwrap())).unwrap();
    std::fs::write(at("modules"), "ahci\n# remark\n\nmissing\nnvme").unwrap();
    let modprobe =
        format!("#!/bin/sh\n[ \"$2\" != missing ] || exit 1\necho \"$2\" >> {}\n", at("loaded").display());
    executable(&at("modprobe"), &modprobe);
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let output = Command::new("sh").arg(at("script")).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read_to_string(at("loaded")).unwrap(), "ahci\nnvme\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing was not loaded"), "{output:?}");
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
