//! Never twice: what has not changed, what another thread downloads just now; and never more at once than allowed.
//! Knows no faults.

use std::sync::Barrier;
use std::time::Duration;

use mosbuild_engine::fetch::{FROM_STORE, FetchError, FetchOptions, Fetched, Fetcher, Unwatched};

use crate::desk::{Desk, bytes, expected, options, request};
use crate::server::{Fault, Page, Server};

#[test]
fn a_file_that_has_not_changed_is_not_downloaded_again() {
    let body = bytes(5000);
    let date = "Mon, 23 Nov 2026 00:00:00 GMT";
    for (etag, modified) in [(Some("W/\"weak\""), None), (None, Some(date)), (Some("\"strong\""), Some(date))]
    {
        let page = |body: &[u8]| Page {
            etag: etag.map(str::to_owned),
            modified: modified.map(str::to_owned),
            ..Page::new(body)
        };
        let (server, url) = Server::of(page(&body));
        let desk = Desk::new();
        let first = desk.fetch(&url, None).unwrap();
        assert_eq!(first.from, url);
        let again = desk.fetch(&url, None).unwrap();
        assert_eq!(again, Fetched { from: FROM_STORE.into(), ..first.clone() });
        let asked = server.asked();
        assert_eq!(
            (asked[1].header("if-none-match"), asked[1].header("if-modified-since")),
            (etag, modified)
        );
        // It changed.
        let changed = Page { etag: Some("\"new\"".into()), modified: None, ..Page::new(b"new") };
        server.put("/file", changed);
        desk.has(&desk.fetch(&url, None).unwrap(), b"new");
        // What the store has lost is not asked for by its validator.
        std::fs::remove_dir_all(desk.store.root().join("cas")).unwrap();
        desk.has(&desk.fetch(&url, None).unwrap(), b"new");
        let asked = server.asked();
        assert_eq!((asked.len(), asked[3].header("if-none-match")), (4, None));
    }
}

#[test]
fn without_a_validator_it_is_downloaded_again() {
    let (server, url) = Server::of(Page { etag: None, ..Page::new(b"one") });
    let desk = Desk::new();
    desk.has(&desk.fetch(&url, None).unwrap(), b"one");
    server.put("/file", Page { etag: None, ..Page::new(b"two") });
    desk.has(&desk.fetch(&url, None).unwrap(), b"two");
}

#[test]
fn what_a_pinned_download_learnt_serves_an_unpinned_one() {
    let (server, url) = Server::of(Page::new(b"body"));
    let desk = Desk::new();
    desk.right(&url, b"body");
    assert_eq!(desk.fetch(&url, None).unwrap().from, FROM_STORE);
    assert_eq!(server.asked()[1].header("if-none-match"), Some("\"one\""));
}

#[test]
fn a_password_is_used_but_not_kept() {
    let (server, url) = Server::of(Page::new(b"body").with([Fault::Cut(2), Fault::Status("410 Gone", "")]));
    let desk = Desk::new();
    let url = url.replace("//", "//me:secret@");
    let e = desk.fetch(&url, None).unwrap_err();
    assert!(e.to_string().contains("//me:***@localhost") && !e.to_string().contains("secret"), "{e}");
    let kept = |ends: &str| {
        let entries = std::fs::read_dir(desk.store.root().join("downloads")).unwrap();
        let paths: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
        assert!(paths.iter().any(|p| p.extension().is_some_and(|e| e == ends)), "{paths:?}");
        paths.iter().any(|p| String::from_utf8_lossy(&std::fs::read(p).unwrap()).contains("secret"))
    };
    assert!(!kept("side"));
    let fetched = desk.fetch(&url, None).unwrap();
    assert!(!fetched.from.contains("secret") && !kept("known"), "{fetched:?}");
    let basic = Some("Basic bWU6c2VjcmV0");
    assert!(server.asked().iter().all(|a| a.header("authorization") == basic));
}

#[test]
fn the_second_waits_for_the_first() {
    for pinned in [true, false] {
        let body = bytes(100_000);
        let slow = Fault::Slow(Duration::from_millis(150));
        let (server, url) = Server::of(Page { etag: None, ..Page::new(&body).with([slow]) });
        let desk = Desk::new();
        // As many fetchers, as if they were processes.
        let fetchers: Vec<Fetcher> = (0..5).map(|_| Fetcher::new(options())).collect();
        let barrier = Barrier::new(fetchers.len());
        let wanted = request(&url, pinned.then(|| expected(&body)));
        std::thread::scope(|scope| {
            for fetcher in &fetchers {
                scope.spawn(|| {
                    barrier.wait();
                    let fetched = fetcher.fetch(&desk.store, &wanted, &Unwatched).unwrap();
                    assert_eq!(fetched.digest, expected(&body).blake3);
                });
            }
        });
        assert_eq!(server.asked().len(), 1, "pinned: {pinned}");
        assert_eq!(desk.left().len(), 0);
    }
}

#[test]
fn many_at_once_but_not_more_than_allowed() {
    let server = Server::start();
    let files: Vec<Vec<u8>> = (0..24).map(|n| bytes(1000 + n)).collect();
    let slow = Fault::Slow(Duration::from_millis(30));
    let put = |(n, body): (usize, &Vec<u8>)| {
        let url = server.put(&format!("/{n}"), Page::new(body).with([slow.clone()]));
        request(&url, Some(expected(body)))
    };
    let requests: Vec<_> = files.iter().enumerate().map(put).collect();
    let desk = Desk::with(FetchOptions { parallel: 4, ..options() });
    // Two callers share the four.
    let (left, right) = requests.split_at(12);
    let all = |requests| desk.fetcher.fetch_all(&desk.store, requests, &Unwatched).unwrap();
    let (left, right) = std::thread::scope(|scope| {
        let other = scope.spawn(|| all(left));
        let right = all(right);
        (other.join().unwrap(), right)
    });
    for (fetched, body) in left.iter().chain(&right).zip(&files) {
        desk.has(fetched, body);
    }
    // The server may count a connection for a moment longer than the client has it.
    assert!((3..=5).contains(&server.most()), "{}", server.most());
    assert_eq!(server.asked().len(), 24);
    assert_eq!(all(&requests)[3].from, FROM_STORE);
    assert_eq!(server.asked().len(), 24);
}

#[test]
fn every_thread_may_fetch() {
    let (_server, url) = Server::of(Page::new(b"body"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let desk = std::sync::Arc::new(Desk::new());
    let (blocking, blocking_url) = (desk.clone(), url.clone());
    runtime.block_on(async {
        let fetch = move || blocking.fetch(&blocking_url, None).unwrap();
        desk.has(&tokio::task::spawn_blocking(fetch).await.unwrap(), b"body");
        // Not what async code should do, but it harms nobody.
        desk.has(&desk.fetch(&url, None).unwrap(), b"body");
        drop(desk);
    });
}

#[test]
fn the_first_failure_ends_them_all() {
    let server = Server::start();
    let mut requests = vec![request(&server.url("/none"), None)];
    for n in 0..20 {
        let slow = Fault::Slow(Duration::from_millis(500));
        requests.push(request(&server.put(&format!("/{n}"), Page::new(b"x").with([slow])), None));
    }
    let desk = Desk::with(FetchOptions { parallel: 2, ..options() });
    let start = std::time::Instant::now();
    let e = desk.fetcher.fetch_all(&desk.store, &requests, &Unwatched).unwrap_err();
    assert!(matches!(&e, FetchError::Failed { url, .. } if url.ends_with("/none")), "{e}");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(server.asked().len() <= 3);
}

/// A file that is replaced within the second in which it was made has the same date, and where the ETag is made of date
/// and size, perhaps the same ETag.
#[test]
fn a_file_of_this_very_second_is_downloaded_again() {
    // The server's own clock stands at this date.
    let page = |body: &[u8]| Page {
        etag: Some("\"date-3\"".into()),
        modified: Some("Tue, 24 Nov 2026 03:00:00 GMT".into()),
        ..Page::new(body)
    };
    let (server, url) = Server::of(page(b"one"));
    let desk = Desk::new();
    desk.has(&desk.fetch(&url, None).unwrap(), b"one");
    server.put("/file", page(b"two"));
    desk.has(&desk.fetch(&url, None).unwrap(), b"two");
}
