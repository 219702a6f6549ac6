//! Servers and connections that fail: tried again, resumed, restarted, or given up with a reason.
//! Knows neither mirrors nor proxies.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mosbuild_engine::fetch::{FetchError, Request, Unwatched, Watch};
use proptest::prelude::*;

use crate::desk::{Desk, Heard, bytes, expected, request};
use crate::server::{Fault, Page, Server};

const UNAVAILABLE: Fault = Fault::Status("503 Service Unavailable", "");

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let body = bytes(1000);
    let (server, url) = Server::of(Page::new(&body).with([UNAVAILABLE, Fault::Hangup, UNAVAILABLE]));
    let (desk, heard) = (Desk::new(), Heard::default());
    desk.fetcher.fetch(&desk.store, &request(&url, Some(expected(&body))), &heard).unwrap();
    assert_eq!(server.asked().len(), 4);
    let lines = heard.lines.lock().unwrap();
    assert!(lines[0].starts_with(&format!("{url}: 503 Service Unavailable; again in ")), "{lines:?}");
    let (server, url) = Server::of(Page::new(&body).with(vec![UNAVAILABLE; 9]));
    let e = desk.fetch(&url, None).unwrap_err();
    assert!(e.to_string().contains("503 Service Unavailable (tried 4 times)"), "{e}");
    assert_eq!(server.asked().len(), 4);
    let (server, url) = Server::of(Page::new(&body).with(vec![Fault::Status("404 Not Found", ""); 9]));
    desk.fetch(&url, None).unwrap_err();
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn the_server_says_how_long_to_wait() {
    let busy = Fault::Status("429 Too Many Requests", "Retry-After: 1\r\n");
    let (_server, url) = Server::of(Page::new(b"x").with([busy]));
    let start = Instant::now();
    Desk::new().right(&url, b"x");
    assert!(start.elapsed() >= Duration::from_secs(1));
    // The server's clock says 03:00:00.
    let date = "Retry-After: Tue, 24 Nov 2026 03:00:01 GMT\r\n";
    let (_server, url) = Server::of(Page::new(b"x").with([Fault::Status("503 Busy", date)]));
    let start = Instant::now();
    Desk::new().right(&url, b"x");
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[test]
fn a_server_that_wants_a_long_rest_gets_it() {
    let busy = Fault::Status("429 Too Many Requests", "Retry-After: 3600\r\n");
    let (server, url) = Server::of(Page::new(b"x").with([busy]));
    let e = Desk::new().fetch(&url, None).unwrap_err();
    assert!(e.to_string().contains("429 Too Many Requests, to be asked again in 3600 s"), "{e}");
    assert_eq!(server.asked().len(), 1);
}

/// Every byte range is asked for once: each request begins where the one before stopped.
fn resumed(server: &Server, starts: &[u64]) {
    assert_eq!(server.asked().iter().map(|a| a.from()).collect::<Vec<_>>(), starts);
}

#[test]
fn what_has_come_is_not_asked_for_again() {
    let body = bytes(100_000);
    let faults = [Fault::Cut(40_000), Fault::Stall(30_000), Fault::Cut(0), Fault::Cut(100)];
    let (server, url) = Server::of(Page::new(&body).with(faults.clone()));
    let desk = Desk::new();
    desk.right(&url, &body);
    resumed(&server, &[0, 40_000, 70_000, 70_000, 70_100]);
    assert!(server.asked()[1..].iter().all(|a| a.header("if-range") == Some("\"one\"")));
    // Without a digest, and by a date.
    let modified = Some("Tue, 24 Nov 2026 02:59:58 GMT".to_owned());
    let page = Page { etag: None, modified: modified.clone(), ..Page::new(&body).with(faults) };
    let (server, url) = Server::of(page);
    let fetched = desk.fetch(&url, None).unwrap();
    desk.has(&fetched, &body);
    resumed(&server, &[0, 40_000, 70_000, 70_000, 70_100]);
    assert_eq!(server.asked()[1].header("if-range"), modified.as_deref());
}

#[test]
fn another_mirror_gives_the_rest() {
    let body = bytes(10_000);
    let gone = Fault::Status("404 Not Found", "");
    let (mirror, _) = Server::of(Page::new(&body).with([Fault::Cut(4000), gone.clone()]));
    let (original, url) = Server::of(Page::new(&body));
    let desk = Desk::mirrored(&[(&original.url("/"), &[&mirror.url("/")])]);
    assert_eq!(desk.right(&url, &body).from, url);
    resumed(&mirror, &[0, 4000]);
    resumed(&original, &[4000]);
    // The one's validator means nothing to the other.
    assert_eq!(original.asked()[0].header("if-range"), None);
    // Without a digest nobody could tell whether they have the same.
    let (mirror, _) = Server::of(Page::new(&body).with([Fault::Cut(4000), gone]));
    let (original, url) = Server::of(Page::new(&body));
    let desk = Desk::mirrored(&[(&original.url("/"), &[&mirror.url("/")])]);
    desk.has(&desk.fetch(&url, None).unwrap(), &body);
    resumed(&original, &[0]);
}

#[test]
fn without_a_strong_validator_or_a_digest_nothing_is_put_together() {
    let body = bytes(1000);
    // A weak ETag, a date of this very second, nothing.
    let now = Some("Tue, 24 Nov 2026 03:00:00 GMT".to_owned());
    for (etag, modified) in [(Some("W/\"one\"".to_owned()), None), (None, now), (None, None)] {
        let page = Page { etag, modified, ..Page::new(&body).with([Fault::Cut(400), Fault::Cut(500)]) };
        let (server, url) = Server::of(page);
        let desk = Desk::new();
        let fetched = desk.fetch(&url, None).unwrap();
        desk.has(&fetched, &body);
        resumed(&server, &[0, 0, 0]);
    }
}

#[test]
fn a_server_without_ranges_starts_again() {
    let body = bytes(5000);
    let page = Page { ranges: false, ..Page::new(&body).with([Fault::Cut(4000), Fault::Cut(10)]) };
    let (server, url) = Server::of(page);
    Desk::new().right(&url, &body);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn a_file_that_changes_meanwhile_is_fetched_whole() {
    let (old, new) = (bytes(5000), bytes(6000)[500..].to_vec());
    for pinned in [false, true] {
        let (server, url) = Server::of(Page::new(&old).with(vec![Fault::Cut(1000); 50]));
        let desk = Desk::new();
        let changing =
            Changing { server: &server, new: Page { etag: Some("\"two\"".into()), ..Page::new(&new) } };
        let wanted = request(&url, pinned.then(|| expected(&new)));
        let fetched = desk.fetcher.fetch(&desk.store, &wanted, &changing).unwrap();
        desk.has(&fetched, &new);
    }
}

/// Changes the file when the first connection has been cut.
struct Changing<'a> {
    server: &'a Server,
    new: Page,
}

impl Watch for Changing<'_> {
    fn say(&self, _line: &str) {
        self.server.put("/file", self.new.clone());
    }
}

#[test]
fn bytes_of_two_versions_are_thrown_away_once() {
    let body = bytes(5000);
    // The server gives every version the same validator.
    let (server, url) = Server::of(Page::new(&vec![7; 5000]).with(vec![Fault::Cut(1000); 50]));
    let desk = Desk::new();
    let changing = Changing { server: &server, new: Page::new(&body) };
    let wanted = request(&url, Some(expected(&body)));
    let fetched = desk.fetcher.fetch(&desk.store, &wanted, &changing).unwrap();
    desk.has(&fetched, &body);
    resumed(&server, &[0, 1000, 0]);
    // Wrong from nothing is wrong, and is not tried a third time.
    let (server, url) = Server::of(Page::new(&vec![7; 5000]).with([Fault::Cut(1000)]));
    assert!(matches!(desk.fetch(&url, Some(expected(&[8; 5000]))), Err(FetchError::Wrong(_))));
    resumed(&server, &[0, 1000, 0]);
    assert_eq!(desk.left().len(), 0);
}

#[test]
fn lengths_that_lie() {
    let body = bytes(1000);
    let lie = |fault: Fault| Server::of(Page { ranges: false, ..Page::new(&body).with(vec![fault; 9]) });
    // More than there is: truncated, again and again.
    let (server, url) = lie(Fault::Length(5000));
    let e = Desk::new().fetch(&url, None).unwrap_err();
    assert!(e.to_string().contains("after 1000 of 5000 bytes (tried 4 times)"), "{e}");
    assert_eq!(server.asked().len(), 4);
    // Less than there is: the bytes are wrong.
    let (_server, url) = lie(Fault::Length(10));
    assert!(matches!(Desk::new().fetch(&url, Some(expected(&body))), Err(FetchError::Wrong(_))));
    // None at all.
    let (_server, url) = lie(Fault::Unframed(5000));
    Desk::new().right(&url, &body);
    let (server, url) = lie(Fault::Unframed(999));
    let desk = Desk::new();
    let e = desk.fetch(&url, Some(expected(&body))).unwrap_err();
    assert!(e.to_string().contains("the connection ended after 999 of 1000 bytes (tried 4 times)"), "{e}");
    assert_eq!((server.asked().len(), desk.blobs()), (4, false));
}

#[test]
fn no_more_is_taken_than_allowed() {
    let body = bytes(200_000);
    let desk = Desk::new();
    for (fault, says) in [
        (None, "it has 200000 bytes, where 100000 are allowed"),
        (Some(Fault::Unframed(200_000)), "it sends more than 100000 bytes, where 100000 are allowed"),
    ] {
        let (server, url) = Server::of(Page::new(&body).with(fault));
        let wanted = Request { url, expected: None, max_size: 100_000 };
        let e = desk.fetcher.fetch(&desk.store, &wanted, &Unwatched).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
        assert_eq!((server.asked().len(), desk.left().len(), desk.blobs()), (1, 0, false));
    }
    // Nor much more than the right file has.
    let (_server, url) = Server::of(Page::new(&bytes(3 << 20)));
    let e = desk.fetch(&url, Some(expected(b"small"))).unwrap_err();
    assert!(e.to_string().contains("it has 3145728 bytes, where 5 are expected"), "{e}");
}

#[test]
fn all_bytes_but_no_end() {
    // The answer's length is one more than there is: only its end is missing.
    let body = bytes(1000);
    for pin in [None, Some(expected(&body))] {
        let (server, url) = Server::of(Page::new(&body).with([Fault::Length(1001)]));
        let desk = Desk::new();
        let pinned = pin.is_some();
        let fetched = desk.fetch(&url, pin).unwrap();
        desk.has(&fetched, &body);
        // Without a pin the server is asked for the rest, and says that there is none.
        assert_eq!(server.asked().len(), if pinned { 1 } else { 2 });
    }
}

/// Stops once something has come.
struct Impatient(OnceLock<Instant>);

impl Watch for Impatient {
    fn progress(&self, _url: &str, done: u64, _total: Option<u64>) {
        if done >= 1000 {
            self.0.get_or_init(Instant::now);
        }
    }
    fn cancelled(&self) -> bool {
        self.0.get().is_some()
    }
}

#[test]
fn an_interrupt_is_noticed_and_the_next_try_goes_on() {
    let body = bytes(50_000);
    let (server, url) = Server::of(Page::new(&body).with([Fault::Cut(1000), Fault::Stall(500)]));
    let desk = Desk::new();
    let wanted = request(&url, Some(expected(&body)));
    let watch = Impatient(Default::default());
    let e = desk.fetcher.fetch(&desk.store, &wanted, &watch).unwrap_err();
    assert!(matches!(e, FetchError::Cancelled { .. }), "{e}");
    assert!(watch.0.get().unwrap().elapsed() < NOTICED);
    assert_eq!(desk.left().into_iter().collect::<Vec<_>>(), ["part", "side"]);
    let fetched = desk.fetcher.fetch(&desk.store, &wanted, &Unwatched).unwrap();
    desk.has(&fetched, &body);
    let asked = server.asked();
    assert!(asked[1..].iter().all(|a| a.from() >= 1000), "{asked:?}");
}

/// An interrupt is looked for every 50 ms; the rest is for machines that have more to do than this test.
const NOTICED: Duration = Duration::from_millis(400);

#[test]
fn waiting_for_an_answer_is_interrupted_too() {
    /// Asked once, it wants to stop a little later.
    #[derive(Default)]
    struct Soon(OnceLock<Instant>);
    impl Watch for Soon {
        fn cancelled(&self) -> bool {
            *self.0.get_or_init(|| Instant::now() + Duration::from_millis(50)) < Instant::now()
        }
    }
    let (server, url) = Server::of(Page::new(b"x").with([Fault::Slow(Duration::from_secs(2))]));
    // A client has to be there: it takes its time to be made.
    let other = server.put("/other", Page::new(b"other"));
    let desk = Desk::new();
    desk.right(&other, b"other");
    let soon = Soon::default();
    let e = desk.fetcher.fetch(&desk.store, &request(&url, None), &soon).unwrap_err();
    assert!(matches!(e, FetchError::Cancelled { .. }), "{e}");
    assert!(soon.0.get().unwrap().elapsed() < NOTICED);
    // So is the wait for another's download, and the wait before the next try.
    let url = server.put("/slow", Page::new(b"x").with([Fault::Slow(Duration::from_secs(2))]));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| desk.fetch(&url, None));
        let begun = Instant::now();
        while !server.asked().iter().any(|a| a.path() == "/slow") {
            assert!(begun.elapsed() < Duration::from_secs(20), "it was never asked for");
            std::thread::sleep(Duration::from_millis(5));
        }
        let soon = Soon::default();
        let e = desk.fetcher.fetch(&desk.store, &request(&url, None), &soon).unwrap_err();
        assert!(matches!(e, FetchError::Cancelled { .. }), "{e}");
        assert!(soon.0.get().unwrap().elapsed() < NOTICED);
        assert!(first.join().unwrap().is_ok());
    });
    let busy = Fault::Status("503 Service Unavailable", "Retry-After: 5\r\n");
    let url = server.put("/busy", Page::new(b"x").with([busy]));
    let soon = Soon::default();
    desk.fetcher.fetch(&desk.store, &request(&url, None), &soon).unwrap_err();
    assert!(soon.0.get().unwrap().elapsed() < NOTICED);
}

#[test]
fn a_damaged_partial_file_does_no_harm() {
    let body = bytes(10_000);
    let (server, url) = Server::of(Page::new(&body));
    let desk = Desk::new();
    let downloads = desk.store.root().join("downloads");
    let key = mosbuild_cache::Digest::of(format!("{url}\n{}", expected(&body).blake3).as_bytes()).hex();
    let part = |bytes: &[u8]| {
        std::fs::create_dir_all(&downloads).unwrap();
        std::fs::write(downloads.join(format!("{key}.part")), bytes).unwrap();
    };
    // Other bytes, too many, all of them but wrong; a side file that is none.
    for (at, damaged) in [vec![0; 500], vec![0; 20_000], vec![0; 10_000]].iter().enumerate() {
        part(damaged);
        std::fs::write(downloads.join(format!("{key}.side")), "{").unwrap();
        let fetched = desk.right(&url, &body);
        std::fs::remove_file(desk.store.blob_path(&fetched.digest).unwrap()).unwrap();
        assert_eq!(server.asked().last().unwrap().from(), 0, "{at}");
    }
    // What is right is used.
    part(&body[..4000]);
    desk.right(&url, &body);
    assert_eq!(server.asked().last().unwrap().from(), 4000);
    assert_eq!(server.asked().len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_pattern_of_cuts_ends_with_the_right_bytes(
        size in 1usize..60_000,
        cuts in prop::collection::vec((0usize..20_000, 0u8..4), 0..12),
        pinned: bool,
        ranges in prop::bool::weighted(0.8),
    ) {
        let body = bytes(size);
        // Never four in a row that bring nothing.
        let mut vain = 0;
        let faults = cuts.into_iter().filter_map(|(n, kind)| {
            let n = if kind < 2 { n } else { 0 };
            vain = if n == 0 || !ranges { vain + 1 } else { 1 };
            let fault = match kind { 3 => UNAVAILABLE, 2 => Fault::Hangup, _ => Fault::Cut(n) };
            (vain < 4).then_some(fault)
        });
        let faults: Vec<Fault> = faults.collect();
        // Each request begins where the bytes so far end.
        let mut starts = vec![0];
        for fault in &faults {
            let came = if let Fault::Cut(n) = fault { *n } else { 0 };
            let start = starts.last().copied().unwrap_or(0) + came;
            if start >= size {
                break;
            }
            starts.push(start);
        }
        let page = Page { ranges, ..Page::new(&body).with(faults) };
        let (server, url) = Server::of(page);
        let desk = Desk::new();
        let wanted = request(&url, pinned.then(|| expected(&body)));
        let fetched = desk.fetcher.fetch(&desk.store, &wanted, &Unwatched);
        let fetched = fetched.map_err(|e| TestCaseError::fail(e.to_string()))?;
        desk.has(&fetched, &body);
        if ranges {
            let asked: Vec<usize> = server.asked().iter().map(|a| a.from() as usize).collect();
            prop_assert_eq!(asked, starts);
        }
    }
}
