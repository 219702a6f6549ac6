//! An HTTP/1.1 server with scripted faults, over plain sockets, that remembers what it was asked.
//! Knows nothing of the downloader.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /path HTTP/1.1`.
    pub line: String,
    pub headers: HashMap<String, String>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// First byte of `Range: bytes=N-`.
    pub fn from(&self) -> u64 {
        let range = self.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        range.map_or(0, |first| first.parse().unwrap())
    }

    fn read(stream: &mut impl Read) -> io::Result<Option<Asked>> {
        let mut lines = BufReader::new(stream).lines();
        let Some(line) = lines.next().transpose()? else { return Ok(None) };
        let mut headers = HashMap::new();
        for header in lines {
            let header = header?;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':').unwrap();
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Ok(Some(Asked { line, headers }))
    }
}

/// What goes wrong with one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// No more bytes come after so many of the body, for a second.
    Stall(usize),
    /// The connection ends without an answer.
    Hangup,
    /// A status line with headers (each ending in CRLF), and no body.
    Status(&'static str, &'static str),
    /// The header says this length.
    Length(u64),
    /// Neither a length nor chunks: the body ends with the connection, after so many bytes.
    Unframed(usize),
    /// A pause before the answer.
    Slow(Duration),
}

/// A file as it is served.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub body: Vec<u8>,
    pub etag: Option<String>,
    /// Sent as it is; `Date` is always later.
    pub modified: Option<String>,
    pub ranges: bool,
    /// More headers, each ending in CRLF.
    pub headers: String,
    /// Taken one by one, an answer each.
    pub faults: VecDeque<Fault>,
}

impl Page {
    pub fn new(body: &[u8]) -> Page {
        Page { body: body.to_vec(), etag: Some("\"one\"".into()), ranges: true, ..Page::default() }
    }

    pub fn with(mut self, faults: impl IntoIterator<Item = Fault>) -> Page {
        self.faults = faults.into_iter().collect();
        self
    }
}

#[derive(Default)]
struct Shared {
    pages: Mutex<HashMap<String, Page>>,
    asked: Mutex<Vec<Asked>>,
    stop: AtomicBool,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    tls: bool,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start() -> Server {
        Server::over(None)
    }

    /// Over TLS.
    pub fn over(tls: Option<Arc<rustls::ServerConfig>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let server = Server { address, tls: tls.is_some(), shared: shared.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, tls, stream) = (shared.clone(), tls.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
                    shared.most.fetch_max(now, Ordering::SeqCst);
                    // A client that goes away is no fault of the server.
                    let _ = connection(&shared, tls, stream);
                    shared.now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    /// A server with one page, and its URL.
    pub fn of(page: Page) -> (Server, String) {
        let server = Server::start();
        let url = server.put("/file", page);
        (server, url)
    }

    pub fn put(&self, path: &str, page: Page) -> String {
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
        self.url(path)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", if self.tls { "https" } else { "http" }, self.address.port())
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The most connections that were open at once.
    pub fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(
    shared: &Shared,
    tls: Option<Arc<rustls::ServerConfig>>,
    mut stream: TcpStream,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let Some(config) = tls else { return answer(shared, &mut stream) };
    let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    answer(shared, &mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn answer(shared: &Shared, stream: &mut (impl Read + Write)) -> io::Result<()> {
    let Some(asked) = Asked::read(stream)? else { return Ok(()) };
    shared.asked.lock().unwrap().push(asked.clone());
    let (page, fault) = {
        let mut pages = shared.pages.lock().unwrap();
        // A proxy is asked for whole URLs.
        match pages.get_mut(asked.path()) {
            Some(page) => {
                let fault = page.faults.pop_front();
                (page.clone(), fault)
            }
            None => (Page::default(), Some(Fault::Status("404 Not Found", ""))),
        }
    };
    let date = "Date: Tue, 24 Nov 2026 03:00:00 GMT\r\nConnection: close\r\n";
    match &fault {
        Some(Fault::Hangup) => return Ok(()),
        Some(Fault::Status(status, headers)) => {
            return write!(stream, "HTTP/1.1 {status}\r\n{date}{headers}Content-Length: 0\r\n\r\n");
        }
        Some(Fault::Slow(time)) => std::thread::sleep(*time),
        _ => {}
    }
    let mut head = format!("{date}{}", page.headers);
    for (name, value) in [("ETag", &page.etag), ("Last-Modified", &page.modified)] {
        if let Some(value) = value {
            head += &format!("{name}: {value}\r\n");
        }
    }
    let validators = [page.etag.as_deref(), page.modified.as_deref()];
    let unchanged = match asked.header("if-none-match") {
        Some(etag) => page.etag.as_deref() == Some(etag),
        None => asked.header("if-modified-since").is_some_and(|m| page.modified.as_deref() == Some(m)),
    };
    if unchanged {
        return write!(stream, "HTTP/1.1 304 Not Modified\r\n{head}\r\n");
    }
    let same = asked.header("if-range").is_none_or(|v| validators.contains(&Some(v)));
    let ranged = page.ranges && same && asked.header("range").is_some();
    let from = if ranged { asked.from() as usize } else { 0 };
    let total = page.body.len();
    if ranged && from >= total {
        return write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\n{head}Content-Range: bytes */{total}\r\nContent-Length: 0\r\n\r\n"
        );
    }
    let body = &page.body[from..];
    let status = if ranged {
        head += &format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
        "206 Partial Content"
    } else {
        "200 OK"
    };
    match fault {
        Some(Fault::Unframed(_)) => {}
        Some(Fault::Length(length)) => head += &format!("Content-Length: {length}\r\n"),
        _ => head += &format!("Content-Length: {}\r\n", body.len()),
    }
    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n")?;
    match fault {
        Some(Fault::Cut(n) | Fault::Unframed(n)) => stream.write_all(&body[..n.min(body.len())])?,
        Some(Fault::Stall(n)) => {
            stream.write_all(&body[..n.min(body.len())])?;
            stream.flush()?;
            std::thread::sleep(Duration::from_secs(1));
        }
        _ => stream.write_all(body)?,
    }
    stream.flush()
}
