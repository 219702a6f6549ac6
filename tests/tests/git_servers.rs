//! Repositories behind servers on loopback: how little is fetched, servers that give no bare commit, passwords, and servers
//! that die or fall silent.

use std::path::Path;
use std::time::{Duration, Instant};

use mosbuild_tests::archive::{files_below, pin, text};
use mosbuild_tests::git::{GitServer, PASSWORD, Repository, Serving, USER, processes_with};
use mosbuild_tests::{Mirror, Output, Space, wait_until};

/// A workspace, and in `srv` beside it a repository of three commits, with a tag at the second.
fn space() -> (Space, Repository) {
    let space = Space::new("");
    let up = Repository::new(&space.base().join("srv/up"));
    for content in ["one", "two", "three"] {
        up.commit_file("f", content);
        up.git(&["tag", content]);
    }
    up.git(&["tag", "--delete", "one"]);
    (space, up)
}

fn asks(space: &Space, url: &str, rev: &str) {
    space.yaml(&format!(
        "targets:\n  a: {{ rule: files, install: [{{ from: {{ git: \"{url}\", rev: \"{rev}\" }}, to: / }}] }}\n\
         dist: {{ a.tar: a }}\n"
    ));
}

fn served(space: &Space, serving: Serving) -> GitServer {
    GitServer::new(&space.base().join("srv"), serving)
}

fn placed(space: &Space) -> String {
    text(&space.path("dist/a.tar"), "f")
}

#[track_caller]
fn verbose(space: &Space) -> Output {
    let output = space.build(&["-v"]);
    assert_eq!(output.code, Some(0), "{output}");
    output
}

#[test]
fn one_commit_is_fetched_and_no_more() {
    let (space, up) = space();
    let server = served(&space, Serving::default());
    let first = up.git(&["rev-parse", "two~1"]);
    for (rev, content) in [("main", "three"), ("two", "two"), (first.as_str(), "one")] {
        asks(&space, &server.url("up"), rev);
        let output = verbose(&space);
        assert_eq!(placed(&space), content);
        // A commit, its tree, its one file; nothing of the history.
        assert!(output.stderr.contains("remote: Total 3 "), "{output}");
        assert!(!output.stderr.contains("gives no bare commit"), "{output}");
    }
    let asked = server.requests().len();
    space.builds(&["--force", "a"]);
    assert_eq!(server.requests().len(), asked, "what the store has is not fetched again");
    space.assert_clean();
}

#[test]
fn an_old_server_is_asked_for_a_ref_and_only_then_for_all() {
    let (space, up) = space();
    let server = served(&space, Serving { old: true, ..Serving::default() });
    let first = up.git(&["rev-parse", "two~1"]);
    up.git(&["tag", "--annotate", "--message", "x", "annotated", "two"]);
    up.git(&["tag", "--delete", "two"]);
    asks(&space, &server.url("up"), "annotated");
    let output = verbose(&space);
    output.says("gives no bare commit; tag annotated is at it").says("remote: Total 4 ");
    assert_eq!(placed(&space), "two");
    asks(&space, &server.url("up"), &first);
    let output = verbose(&space);
    output.says("no ref is at it: fetching all branches and tags");
    assert_eq!(placed(&space), "one");

    // The lock's commit, which its branch has left behind.
    asks(&space, &server.url("up"), "main");
    verbose(&space);
    let locked = up.head();
    up.commit_file("f", "four");
    let other = space.beside("other", "").with_store("other-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        other.write(name, space.read(name));
    }
    other.builds(&["--locked"]);
    assert_eq!(
        (placed(&other).as_str(), pin(&other, "main")["commit"].as_str()),
        ("three", Some(&locked[..]))
    );

    // And one that is gone: all is looked through before it is said.
    up.git(&["tag", "--delete", "three"]);
    up.git(&["reset", "--quiet", "--hard", "annotated"]);
    up.commit_file("f", "rewritten");
    up.prune();
    let last = space.beside("last", "").with_store("last-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        last.write(name, space.read(name));
    }
    let output = last.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output
        .says(&format!("does not have commit {locked}"))
        .says(&format!("branch main is at {} now", up.head()));
}

#[test]
fn a_server_of_the_second_protocol_is_believed_that_a_commit_is_gone() {
    let (space, up) = space();
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    verbose(&space);
    let locked = up.head();
    up.git(&["tag", "--delete", "three"]);
    up.git(&["reset", "--quiet", "--hard", "two"]);
    up.prune();
    let other = space.beside("other", "").with_store("other-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        other.write(name, space.read(name));
    }
    let output = other.build(&["--locked", "-v"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says(&format!("does not have commit {locked}"));
    assert!(!output.stderr.contains("fetching all"), "{output}");
}

#[test]
fn a_folder_of_files_is_a_server_too() {
    let (space, up) = space();
    let bare = space.base().join("srv/bare.git");
    up.git(&["clone", "--quiet", "--bare", &up.url(), bare.to_str().unwrap()]);
    up.git(&["-C", bare.to_str().unwrap(), "update-server-info"]);
    let server = Mirror::new(&space.base().join("srv"));
    let url = format!("{}bare.git", server.url());
    for (rev, content) in [("main", "three"), ("two", "two")] {
        asks(&space, &url, rev);
        verbose(&space);
        assert_eq!(placed(&space), content);
    }
    asks(&space, &url, &up.git(&["rev-parse", "two~1"]));
    verbose(&space).says("fetching all branches and tags");
    assert_eq!(placed(&space), "one");
    asks(&space, &format!("{}none.git", server.url()), "main");
    let output = space.build(&[]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("could not be fetched").says("not found");
}

/// Where git's own credential helper knows the password, as the user has it on the command line.
#[test]
fn a_private_repository_is_reached_by_the_users_credential_helper() {
    let (space, _up) = space();
    let server = served(&space, Serving { private: true, ..Serving::default() });
    asks(&space, &server.url("up"), "main");
    let since = Instant::now();
    let output = space.build(&[]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("could not read Username").says("`git ls-remote URL` must work without a question");
    assert!(since.elapsed() < Duration::from_secs(20), "nobody was asked");

    let home = space.base().join("home");
    std::fs::write(
        home.join("helper"),
        format!("#!/bin/sh\ntest \"$1\" = get && printf 'username={USER}\\npassword={PASSWORD}\\n'\n"),
    )
    .unwrap();
    std::process::Command::new("chmod").arg("755").arg(home.join("helper")).status().unwrap();
    std::fs::write(
        home.join(".gitconfig"),
        format!("[credential]\n\thelper = {}\n", home.join("helper").display()),
    )
    .unwrap();
    let output = verbose(&space);
    assert_eq!(placed(&space), "three");
    assert!(!output.to_string().contains(PASSWORD), "{output}");
    nowhere(&space, PASSWORD);

    // A mirror may have a password in its URL: it is used, and not told.
    std::fs::remove_file(home.join(".gitconfig")).unwrap();
    let mut other = space.beside("other", "").with_store("other-store");
    asks(&other, "http://127.0.0.1:9/srv/up", "main");
    other.env(
        "MOSBUILD_MIRRORS",
        format!("http://127.0.0.1:9/srv/=http://{USER}:{PASSWORD}@{}/", server.host()),
    );
    let output = verbose(&other);
    assert_eq!(placed(&other), "three");
    assert!(!output.to_string().contains(PASSWORD), "{output}");
    output.says(&format!("http://{USER}:***@{}/up: fetching", server.host()));
    asks(&other, "http://127.0.0.1:9/srv/none", "main");
    let output = other.build(&[]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says(&format!("http://{USER}:***@{}/none", server.host()));
    assert!(!output.to_string().contains(PASSWORD), "{output}");
    nowhere(&other, PASSWORD);
}

/// No file of the workspace or the store has it.
#[track_caller]
fn nowhere(space: &Space, secret: &str) {
    for folder in [space.root(), space.store()] {
        for file in files_below(folder) {
            let bytes = std::fs::read(&file).unwrap();
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} has it", file.display());
        }
    }
}

#[test]
fn a_user_that_rewrites_urls_is_heard() {
    let (space, _up) = space();
    let server = served(&space, Serving::default());
    asks(&space, "https://repositories.example.org/up", "main");
    std::fs::write(
        space.base().join("home/.gitconfig"),
        format!("[url \"http://{}/\"]\n\tinsteadOf = https://repositories.example.org/\n", server.host()),
    )
    .unwrap();
    verbose(&space);
    assert_eq!(placed(&space), "three");
    assert!(!space.read("mosbuild.lock").contains(&server.host()), "{}", space.read("mosbuild.lock"));
}

/// A program in place of ssh that runs on this machine what it is to run on the host, and writes down how it was called.
const SSH: &str = "#!/bin/sh\ntest \"$1\" = -G && exit 1\necho \"$0 $*\" >> \"$HOME/calls\"\nfor command; do :; done\neval \"$command\"\n";

#[test]
fn ssh_asks_nothing_and_is_called_as_the_user_says() {
    let (mut space, up) = space();
    let base = space.base();
    let home = base.join("home");
    for name in ["bin/ssh", "my-ssh"] {
        let path = base.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, SSH).unwrap();
        std::process::Command::new("chmod").arg("755").arg(&path).status().unwrap();
    }
    let path = std::env::var("PATH").unwrap();
    space.env("PATH", format!("{}:{path}", base.join("bin").display()));
    let calls = || std::fs::read_to_string(home.join("calls")).unwrap_or_default();
    for url in [format!("ssh://me@h{}", up.dir().display()), format!("me@h:{}", up.dir().display())] {
        asks(&space, &url, "main");
        space.builds(&[]);
        assert_eq!(placed(&space), "three");
        assert!(
            calls().lines().all(|call| call.contains("-o BatchMode=yes") && call.contains("me@h")),
            "{}",
            calls()
        );
        assert!(pin(&space, &url)["commit"].as_str() == Some(&up.head()));
    }
    // By the user's settings, or the environment.
    std::fs::remove_file(home.join("calls")).unwrap();
    let own = base.join("my-ssh").display().to_string();
    std::fs::write(home.join(".gitconfig"), format!("[core]\n\tsshCommand = {own}\n")).unwrap();
    let check = |space: &Space| {
        let output = space.run(&["lock", "--update"]);
        assert_eq!(output.code, Some(0), "{output}");
        let calls = calls();
        assert!(
            !calls.is_empty() && calls.lines().all(|c| c.starts_with(&own) && !c.contains("BatchMode")),
            "{calls}"
        );
        std::fs::remove_file(home.join("calls")).unwrap();
    };
    check(&space);
    std::fs::remove_file(home.join(".gitconfig")).unwrap();
    space.env("GIT_SSH_COMMAND", &own);
    check(&space);
}

#[test]
fn a_submodule_of_a_server_comes_from_it_and_never_from_this_machine() {
    let (space, up) = space();
    let lib = Repository::new(&space.base().join("srv/lib"));
    lib.commit_file("l", "lib");
    up.submodule("lib", "../lib", &lib);
    up.commit("lib");
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    verbose(&space);
    assert_eq!(text(&space.path("dist/a.tar"), "lib/l"), "lib");
    assert!(server.requests().iter().any(|r| r.contains("/lib/")), "{:?}", server.requests());

    up.git(&["config", "--file", ".gitmodules", "submodule.lib.url", &lib.url()]);
    up.commit("here");
    let output = space.run(&["lock", "--update"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("submodule lib: its URL file://").says("is on this machine, and");
}

#[test]
fn a_server_that_dies_midway_is_asked_again() {
    let (space, up) = space();
    // Much that does not compress, so that it dies in the middle of it.
    let noise: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    up.write("noise", &noise);
    up.commit("noise");
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    server.cut(1, 100_000);
    let output = verbose(&space);
    output.says("; again in 500 ms");
    assert_eq!(placed(&space), "three");

    let other = space.beside("other", "").with_store("other-store");
    for name in ["mosbuild.yaml", "mosbuild.lock"] {
        other.write(name, space.read(name));
    }
    server.cut(usize::MAX, 100_000);
    let output = other.build(&["--locked"]);
    assert_eq!(output.code, Some(4), "{output}");
    output.says("could not be fetched").says(&server.host());
    let left = mosbuild_tests::scratch_left(other.store());
    assert!(left.is_empty(), "{left:?}");
    server.cut(0, 0);
    other.builds(&["--locked"]);
    assert_eq!(placed(&other), "three");
    other.assert_clean();
}

#[test]
fn an_interrupt_ends_git_too() {
    let (space, _up) = space();
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    server.stall();
    let running = space.start(&[]);
    let asked = wait_until(|| !server.requests().is_empty());
    assert!(asked, "git should have asked");
    let git = |host: &str| processes_with(host).into_iter().filter(|pid| is_git(*pid)).count();
    assert!(git(&server.host()) > 0);
    running.signal("INT");
    let output = running.finish();
    assert_eq!(output.code, Some(130), "{output}");
    assert!(wait_until(|| git(&server.host()) == 0), "git goes on: {:?}", processes_with(&server.host()));
    let left = mosbuild_tests::scratch_left(space.store());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn kill_9_ends_git_too_and_the_next_build_is_right() {
    let (space, _up) = space();
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    server.stall();
    let running = space.start(&[]);
    assert!(wait_until(|| !server.requests().is_empty()), "git should have asked");
    running.signal("KILL");
    running.finish();
    let git = |host: &str| processes_with(host).into_iter().filter(|pid| is_git(*pid)).count();
    let host = server.host();
    drop(server);
    assert!(wait_until(|| git(&host) == 0), "git goes on");
    let server = served(&space, Serving::default());
    asks(&space, &server.url("up"), "main");
    space.builds(&[]);
    assert_eq!(placed(&space), "three");
    space.assert_clean();
}

fn is_git(pid: u32) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"))
        .is_ok_and(|name| name.starts_with("git"))
}
