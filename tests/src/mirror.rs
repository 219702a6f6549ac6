//! A web server on loopback that serves a folder as the public mirrors do, and can be told to fail.
//! Knows HTTP/1.1 as far as downloads need it; nothing of Alpine or of the program under test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a request for a path meets with in place of the file.
#[derive(Clone, Debug)]
pub enum Fault {
    /// 404, though the file is there.
    NotFound,
    /// This status and no body, 503 for instance.
    Status(u16),
    /// The length is announced, so many bytes of the body are sent, and the connection ends.
    Cut(u64),
    /// One bit of the byte in the middle of the file is another one.
    Flipped,
    /// A pause before every 16 KiB.
    Slow(Duration),
    /// The connection ends without an answer.
    HangUp,
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The path, without the query, decoded: `/alpine/v3.19/main/x86_64/APKINDEX.tar.gz`.
    pub path: String,
    /// The status of the answer; 0 if it got none.
    pub status: u16,
    /// The `Range` that it asked for.
    pub range: Option<String>,
    /// The host that a proxy was asked to reach.
    pub proxied: Option<String>,
}

/// The server; ends when it is dropped.
pub struct Mirror {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    root: PathBuf,
    faults: Mutex<BTreeMap<String, (Fault, usize)>>,
    requests: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    busy: AtomicUsize,
    most: AtomicUsize,
    ends: AtomicBool,
}

impl Mirror {
    /// Serves a folder, at a free port.
    pub fn new(dir: &Path) -> Mirror {
        Mirror::at(dir, "127.0.0.1:0".parse().unwrap())
    }

    /// Serves a folder at an address, that of a mirror that has ended for instance.
    pub fn at(dir: &Path, address: SocketAddr) -> Mirror {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: dir.to_owned(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            open: Mutex::default(),
            busy: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let shared = state.clone();
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                lock(&shared.open).push(stream.try_clone().unwrap());
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client that goes away in the middle is none of a test's business.
                    let _ = connection(&stream, &shared);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Mirror { address, state, accepting: Some(accepting) }
    }

    /// Where it is: `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder that it serves.
    pub fn dir(&self) -> &Path {
        &self.state.root
    }

    /// All requests since the start or the last [`Mirror::clear`], in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// How often each path was asked for.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.requests() {
            *counts.entry(request.path).or_default() += 1;
        }
        counts
    }

    /// The names of the packages that were asked for, sorted, each as often as it was.
    pub fn packages(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .requests()
            .iter()
            .filter(|r| r.path.ends_with(".apk"))
            .map(|r| r.path.rsplit('/').next().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    }

    /// The largest number of answers that were being sent at one time.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Every request for a path, or for any that ends in it, fails in this way.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.fault_times(path, usize::MAX, fault);
    }

    /// The next requests for a path fail in this way, so many of them.
    pub fn fault_times(&self, path: &str, times: usize, fault: Fault) {
        lock(&self.state.faults).insert(path.to_owned(), (fault, times));
    }

    /// Forgets all faults, and the requests so far.
    pub fn clear(&self) {
        lock(&self.state.faults).clear();
        lock(&self.state.requests).clear();
        self.state.most.store(0, Ordering::SeqCst);
    }
}

impl Mirror {
    /// Ends it: from now on nothing listens at its address.
    pub fn stop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.state.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = accepting.join();
        for stream in lock(&self.state.open).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

struct Asked {
    method: String,
    path: String,
    proxied: Option<String>,
    headers: BTreeMap<String, String>,
}

/// Answers requests until the client closes.
fn connection(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read_request(&mut reader)? {
        let now = state.busy.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        let stays = answer(stream, state, &asked);
        state.busy.fetch_sub(1, Ordering::SeqCst);
        if !stays? || asked.headers.get("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (proxied, path) = match target.strip_prefix("http://") {
        Some(rest) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(host.to_owned()), path)
        }
        None => (None, target),
    };
    let path = decoded(path.split('?').next().unwrap_or_default());
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    Ok(Some(Asked { method: method.to_owned(), path, proxied, headers }))
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = more.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        (bytes, rest) = match (first, hex) {
            (b'%', Some(byte)) => ([bytes, vec![byte]].concat(), &more[2..]),
            _ => ([bytes, vec![*first]].concat(), more),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends an answer; whether the connection may be used again.
fn answer(mut stream: &TcpStream, state: &State, asked: &Asked) -> std::io::Result<bool> {
    let fault = take_fault(state, &asked.path);
    let record = |status: u16| {
        let range = asked.headers.get("range").cloned();
        let (path, proxied) = (asked.path.clone(), asked.proxied.clone());
        lock(&state.requests).push(Request { path, status, range, proxied });
    };
    let mut plain = |status: u16, headers: &str, body: &str| -> std::io::Result<bool> {
        record(status);
        let length = body.len();
        let body = if asked.method == "HEAD" { "" } else { body };
        let text = reason(status);
        write!(stream, "HTTP/1.1 {status} {text}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")?;
        Ok(true)
    };
    match fault {
        Some(Fault::HangUp) => {
            record(0);
            return Ok(false);
        }
        Some(Fault::NotFound) => return plain(404, "", "not found\n"),
        Some(Fault::Status(status)) => return plain(status, "", ""),
        _ => {}
    }
    let relative = Path::new(asked.path.trim_start_matches('/'));
    if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
        return plain(400, "", "");
    }
    let path = state.root.join(relative);
    let Ok(meta) = path.metadata() else { return plain(404, "", "not found\n") };
    if meta.is_dir() {
        if !asked.path.ends_with('/') {
            return plain(301, &format!("Location: {}/\r\n", asked.path), "");
        }
        return plain(200, "Content-Type: text/html\r\n", &listing(&path, &asked.path)?);
    }

    let (tag, date) = (format!("\"{:x}-{:x}\"", meta.mtime(), meta.len()), http_date(meta.mtime()));
    let about = format!("ETag: {tag}\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n");
    let header = |name: &str| asked.headers.get(name).map(String::as_str);
    let known = match header("if-none-match") {
        Some(tags) => tags.split(',').any(|t| t.trim().trim_start_matches("W/") == tag),
        None => header("if-modified-since") == Some(date.as_str()),
    };
    if known {
        record(304);
        write!(stream, "HTTP/1.1 304 Not Modified\r\n{about}\r\n")?;
        return Ok(true);
    }
    let size = meta.len();
    let fresh = header("if-range").is_none_or(|v| v == tag || v == date);
    let (status, start, end) = match header("range").filter(|_| fresh).map(|r| span(r, size)) {
        None => (200, 0, size),
        Some(Some((start, end))) => (206, start, end),
        Some(None) => return plain(416, &format!("Content-Range: bytes */{size}\r\n"), ""),
    };
    record(status);
    let mut head = format!("HTTP/1.1 {status} {}\r\n{about}", reason(status));
    if status == 206 {
        head += &format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1);
    }
    write!(stream, "{head}Content-Length: {}\r\n\r\n", end - start)?;
    if asked.method == "HEAD" {
        return Ok(true);
    }
    let stop = match fault {
        Some(Fault::Cut(bytes)) => end.min(start + bytes),
        _ => end,
    };
    let mut file = std::fs::File::open(&path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut at = start;
    let mut buffer = vec![0; 16 * 1024];
    while at < stop {
        if let Some(Fault::Slow(pause)) = fault {
            std::thread::sleep(pause);
        }
        let part = buffer.len().min((stop - at) as usize);
        file.read_exact(&mut buffer[..part])?;
        if matches!(fault, Some(Fault::Flipped)) && (at..at + part as u64).contains(&(size / 2)) {
            buffer[(size / 2 - at) as usize] ^= 1;
        }
        stream.write_all(&buffer[..part])?;
        at += part as u64;
    }
    Ok(stop == end)
}

/// The fault that a request for this path meets with, and one time less of it.
fn take_fault(state: &State, path: &str) -> Option<Fault> {
    let mut faults = lock(&state.faults);
    let (name, (fault, times)) = faults.iter_mut().find(|(name, _)| path.ends_with(name.as_str()))?;
    let (name, fault) = (name.clone(), fault.clone());
    *times = times.saturating_sub(1);
    if *times == 0 {
        faults.remove(&name);
    }
    Some(fault)
}

/// `bytes=5-`, `bytes=5-9` or `bytes=-5` as the first byte and the one after the last.
fn span(range: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.parse().ok(), last.parse::<u64>().ok()) {
        (Some(start), Some(last)) => (start, size.min(last.saturating_add(1))),
        (Some(start), None) => (start, size),
        (None, last) => (size.saturating_sub(last?), size),
    };
    (start < end).then_some((start, end))
}

/// The page of a folder, as nginx writes it.
fn listing(dir: &Path, title: &str) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(meta) = entry.path().metadata() else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push(match meta.is_dir() {
            true => format!("<a href=\"{name}/\">{name}/</a>  {}  -", http_date(meta.mtime())),
            false => format!("<a href=\"{name}\">{name}</a>  {}  {}", http_date(meta.mtime()), meta.len()),
        });
    }
    names.sort();
    let title = format!("Index of {title}");
    Ok(format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<h1>{title}</h1><hr><pre><a href=\"../\">../</a>\r\n\
         {}\r\n</pre><hr></body>\r\n</html>\r\n",
        names.join("\r\n")
    ))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

/// `Fri, 06 Sep 2024 11:35:00 GMT`.
fn http_date(seconds: i64) -> String {
    let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][days.rem_euclid(7) as usize];
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut year, mut left) = (1970, days);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month];
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{weekday}, {:02} {name} {year} {hour:02}:{minute:02}:{second:02} GMT", left + 1)
}
