//! Where bytes come from: servers, files, mirrors in order, offline; and what is said when none gives them.
//! Knows no faults of connections.

use mosbuild_engine::action::StepError;
use mosbuild_engine::fetch::{FROM_STORE, FetchError, FetchOptions, Unwatched};

use crate::desk::{Desk, Heard, bytes, expected, mirrored, options, request};
use crate::server::{Fault, Page, Server};

#[test]
fn a_file_comes_once() {
    let body = bytes(300_000);
    let (server, url) = Server::of(Page::new(&body));
    let desk = Desk::new();
    let heard = Heard::default();
    let fetched = desk.fetcher.fetch(&desk.store, &request(&url, Some(expected(&body))), &heard).unwrap();
    desk.has(&fetched, &body);
    assert_eq!(fetched.from, url);
    assert_eq!(heard.progress.lock().unwrap().last(), Some(&(300_000, Some(300_000))));
    assert_eq!(desk.right(&url, &body).from, FROM_STORE);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(asked[0].header("user-agent"), Some(format!("mosbuild/{version}").as_str()));
    // A blob that was damaged is fetched again.
    let blob = desk.store.blob_path(&fetched.digest).unwrap();
    std::fs::write(&blob, b"damaged").unwrap();
    assert_eq!(desk.right(&url, &body).from, url);
}

#[test]
fn an_empty_file_is_a_file() {
    let (_server, url) = Server::of(Page::new(b""));
    Desk::new().right(&url, b"");
}

#[test]
fn bytes_are_those_of_the_server() {
    let page = Page { headers: "Content-Encoding: gzip\r\n".into(), ..Page::new(b"\x1f\x8bnot unpacked") };
    let (server, url) = Server::of(page);
    Desk::new().right(&url, b"\x1f\x8bnot unpacked");
    assert_eq!(server.asked()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (server, url) = Server::of(Page::new(b"there"));
    server.put("/old", Page::default().with([Fault::Status("302 Found", "Location: /file\r\n")]));
    let loops = std::iter::repeat_n(Fault::Status("301 Moved", "Location: /loop\r\n"), 50);
    server.put("/loop", Page::default().with(loops));
    let desk = Desk::new();
    assert_eq!(desk.right(&server.url("/old"), b"there").from, server.url("/old"));
    let e = desk.fetch(&server.url("/loop"), None).unwrap_err();
    assert!(e.to_string().contains("more than 10 redirects"), "{e}");
    assert_eq!(server.asked().iter().filter(|a| a.path() == "/loop").count(), 11);
    assert!(url.ends_with("/file"));
}

#[test]
fn mirrors_are_tried_in_order() {
    let body = bytes(1000);
    let (original, url) = Server::of(Page::new(&body));
    let mirror = Server::start();
    mirror.put("/m/file", Page::new(&body));
    let from = original.url("/");
    let desk = Desk::mirrored(&[(&from, &["file:///nowhere/", &mirror.url("/"), &mirror.url("/m")])]);
    let heard = Heard::default();
    let wanted = request(&url, Some(expected(&body)));
    let fetched = desk.fetcher.fetch(&desk.store, &wanted, &heard).unwrap();
    assert_eq!(fetched.from, mirror.url("/m/file"));
    assert_eq!(original.asked().len(), 0);
    assert_eq!(mirror.asked().iter().map(|a| a.path().to_owned()).collect::<Vec<_>>(), ["/file", "/m/file"]);
    let lines = heard.lines.lock().unwrap();
    assert!(lines[0].contains("file:///nowhere/file: No such file"), "{lines:?}");
    assert!(lines[1].contains("404 Not Found; next is"), "{lines:?}");
}

#[test]
fn every_place_is_named_when_none_has_it() {
    let (original, url) = Server::of(Page::default().with([Fault::Status("403 Forbidden", "")]));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirror = Server::start();
    let refused = format!("http://user:secret@{closed}/");
    let desk = Desk::mirrored(&[(&original.url("/"), &[&refused, &mirror.url("/m/"), "file:relative/"])]);
    let e = desk.fetch(&url, Some(expected(b"x"))).unwrap_err();
    let text = e.to_string();
    for part in [
        &format!("{url} could not be fetched\n"),
        "Connection refused",
        "(tried 4 times)",
        &format!("{}: 404 Not Found", mirror.url("/m/file")),
        "file:relative/file: a file URL names an absolute path",
        &format!("{url}: 403 Forbidden"),
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
    assert_eq!((mirror.asked().len(), original.asked().len()), (1, 1));
    assert_eq!(e.exit(), 4);
    let step = StepError::from(e);
    assert_eq!((step.exit, step.message), (4, text));
    assert!(step.help.iter().any(|line| line.contains("mirrors:")), "{:?}", step.help);
}

#[test]
fn wrong_bytes_are_told_and_not_kept() {
    let (server, url) = Server::of(Page::new(b"other bytes"));
    let desk = Desk::new();
    let e = desk.fetch(&url, Some(expected(b"right"))).unwrap_err();
    let (right, other) = (expected(b"right"), expected(b"other bytes"));
    let FetchError::Wrong(wrong) = &e else { panic!("{e}") };
    assert_eq!((&wrong.place, &wrong.expected, &wrong.got), (&url, &right, &other));
    assert_eq!(
        e.to_string(),
        format!(
            "{url}: the bytes are not those of the lock\n  from {url}\n  \
             expected 5 bytes, BLAKE3 {}\n           SHA-256 {}\n  \
             received 11 bytes, BLAKE3 {}\n           SHA-256 {}",
            right.blake3, right.sha256, other.blake3, other.sha256
        )
    );
    assert_eq!(e.exit(), 4);
    assert_eq!((desk.left().len(), desk.blobs()), (0, false));
    // A right BLAKE3 does not make up for another SHA-256.
    let mut half = expected(b"other bytes");
    half.sha256 = right.sha256;
    assert!(matches!(desk.fetch(&url, Some(half)), Err(FetchError::Wrong(_))));
    // One answer was enough to tell.
    assert_eq!(server.asked().len(), 2);
    // Another place may have the right ones.
    let (mirror, url) = Server::of(Page::new(b"right"));
    let desk = Desk::mirrored(&[(&mirror.url("/"), &[&server.url("/")])]);
    assert_eq!(desk.right(&url, b"right").from, url);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn files_are_copied_also_offline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b%.tar");
    let body = bytes(3 << 20);
    std::fs::write(&path, &body).unwrap();
    let url = format!("file://localhost{}/a%20b%25.tar", dir.path().display());
    let desk = Desk::with(FetchOptions { offline: true, ..options() });
    assert_eq!(desk.right(&url, &body).from, url);
    std::fs::write(&path, b"changed").unwrap();
    let fetched = desk.fetch(&url, None).unwrap();
    desk.has(&fetched, b"changed");
    assert!(matches!(desk.fetch(&url, Some(expected(b"not this"))), Err(FetchError::Wrong(_))));
    assert_eq!(desk.left().len(), 0);
    assert_eq!(std::fs::read(&path).unwrap(), b"changed");
    let limited = mosbuild_engine::fetch::Request { max_size: 6, ..request(&url, None) };
    let e = desk.fetcher.fetch(&desk.store, &limited, &Unwatched).unwrap_err();
    assert!(e.to_string().contains("it has 7 bytes, where 6 are allowed"), "{e}");
    for refused in ["file:a", "file://a/b", "ftp://h/x", "a b"] {
        let e = desk.fetch(refused, None).unwrap_err();
        assert!(matches!(e, FetchError::Url { .. }), "{e}");
        assert_eq!(e.exit(), 4);
    }
    let e = desk.fetch(&format!("file://{}", dir.path().display()), None).unwrap_err();
    assert!(e.to_string().contains("not a file"), "{e}");
}

#[test]
fn offline_no_server_is_asked() {
    let (server, url) = Server::of(Page::new(b"body"));
    let dir = tempfile::tempdir().unwrap();
    let mirrors = format!("file://{}/", dir.path().display());
    let desk = Desk::with(FetchOptions {
        offline: true,
        mirrors: mirrored(&[(&server.url("/"), &[&mirrors])]),
        ..options()
    });
    let e = desk.fetch(&url, Some(expected(b"body"))).unwrap_err();
    assert!(matches!(e, FetchError::Offline { .. }), "{e}");
    assert!(e.to_string().contains("the network may not be used\n  file://"), "{e}");
    assert!(e.help().iter().any(|line| line.contains("mosbuild fetch")));
    assert_eq!(e.exit(), 4);
    // The file mirror has answered: a small file that may be missing is missing.
    assert_eq!(desk.fetcher.small(&url, 100, &Unwatched).unwrap(), None);
    std::fs::write(dir.path().join("file"), "body").unwrap();
    desk.right(&url, b"body");
    assert_eq!(server.asked().len(), 0);
}

#[test]
fn where_a_folder_has_none_the_original_is_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let from = format!("http://{closed}/");
    let desk = Desk::mirrored(&[(&from, &[&format!("file://{}/", dir.path().display())])]);
    let heard = Heard::default();
    assert_eq!(desk.fetcher.small(&format!("{from}sums"), 9, &heard).unwrap(), None);
    assert_eq!(desk.fetcher.listing(&format!("{from}none/"), &heard).unwrap(), None);
    let lines = heard.lines.lock().unwrap();
    assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains("again in")), "{lines:?}");
}

#[test]
fn small_files_and_listings() {
    let (server, url) = Server::of(Page::new(b"sums"));
    let folder = "<a href=\"../\">up</a> <a href=\"v3.22/\">v3.22/</a> <a href=\"latest.yaml\">latest</a>";
    let html = Page { headers: "Content-Type: text/html\r\n".into(), ..Page::new(folder.as_bytes()) };
    server.put("/dir/", html);
    let desk = Desk::mirrored(&[(&server.url("/file"), &[&server.url("/none")])]);
    let small = |url: &str, limit| desk.fetcher.small(url, limit, &Unwatched);
    assert_eq!(small(&url, 4).unwrap().as_deref(), Some(b"sums".as_slice()));
    assert!(small(&url, 3).unwrap_err().to_string().contains("more than 3 bytes"));
    assert_eq!(small(&server.url("/nothing"), 9).unwrap(), None);
    assert_eq!(small("file:///nowhere", 9).unwrap(), None);
    server.put("/cut", Page::new(b"whole").with([Fault::Cut(2), Fault::Hangup]));
    assert_eq!(small(&server.url("/cut"), 9).unwrap().as_deref(), Some(b"whole".as_slice()));
    let names = |url: &str| desk.fetcher.listing(url, &Unwatched);
    assert_eq!(names(&server.url("/dir")).unwrap().unwrap(), ["latest.yaml", "v3.22/"]);
    assert_eq!(names(&server.url("/no")).unwrap(), None);
    server.put("/raw/", Page::new(b"x"));
    assert!(names(&server.url("/raw")).unwrap_err().to_string().contains("no index page"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("main")).unwrap();
    std::fs::write(dir.path().join("a.apk"), "").unwrap();
    let url = format!("file://{}", dir.path().display());
    assert_eq!(names(&url).unwrap().unwrap(), ["a.apk", "main/"]);
    assert_eq!(names(&format!("{url}/none")).unwrap(), None);
}
