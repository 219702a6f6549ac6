//! Servers that speak S3 on loopback: moto and s3s-fs, which scripts/setup brings, and a proxy before them that can be told to fail.
//! Knows their command lines and as much of HTTP and S3 as reading back needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Space, repository, wait_until};

/// The bucket that each server has.
pub const BUCKET: &str = "images";
/// The credentials that s3s-fs wants; moto takes any.
pub const KEYS: (&str, &str) = ("the-access-key", "the-secret-of-the-tests");

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Conditional writes and uploads in parts as AWS has them; any credentials.
    Moto,
    /// Checks signatures; conditional writes are not atomic.
    S3sFs,
}

/// A server with an empty bucket; ends when it is dropped.
pub struct Server {
    kind: Kind,
    port: u16,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tools() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| repository().join("target")).join("s3-tools")
}

/// What a test says of itself.
#[allow(clippy::print_stderr)]
fn say(line: &str) {
    eprintln!("{line}");
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts one; `None`, said in a line, where it is not installed and this is not CI.
    pub fn start(kind: Kind) -> Option<Server> {
        let folder = tempfile::Builder::new().prefix("mosbuild-s3-").tempdir().unwrap();
        let port = free_port();
        let (program, mut command) = match kind {
            Kind::Moto => {
                let packages = tools().join("moto");
                let mut command = Command::new("python3");
                command.arg(packages.join("bin/moto_server")).args([
                    "-H",
                    "127.0.0.1",
                    "-p",
                    &port.to_string(),
                ]);
                command.env("PYTHONPATH", &packages);
                (packages.join("bin/moto_server"), command)
            }
            Kind::S3sFs => {
                std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
                let program = tools().join("s3s-fs/bin/s3s-fs");
                let mut command = Command::new(&program);
                command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
                command.args(["--access-key", KEYS.0, "--secret-key", KEYS.1]).arg(folder.path());
                (program, command)
            }
        };
        if !program.is_file() {
            let missing = format!("there is no {}: scripts/setup test brings it", program.display());
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing}");
            say(&format!("did not run: {missing}"));
            return None;
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { kind, port, child, folder };
        assert!(wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok()), "{kind:?} does not start");
        if kind == Kind::Moto {
            let (status, _) = server.ask("PUT", "");
            assert_eq!(status, 200, "the bucket");
        }
        Some(server)
    }

    /// Which it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A proxy before it.
    pub fn proxy(&self) -> Proxy {
        Proxy::before(self.port)
    }

    /// A request that only looks signed, which is enough for moto: status and body.
    fn ask(&self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} /{BUCKET}{path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential=a/20250101/us-east-1/s3/aws4_request\r\nConnection: close\r\n\r\n",
            self.port
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(answer.len() - 4);
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    /// An object.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Moto => {
                let (status, body) = self.ask("GET", &format!("/{key}"));
                (status == 200).then_some(body)
            }
            Kind::S3sFs => std::fs::read(self.folder.path().join(BUCKET).join(key)).ok(),
        }
    }

    /// The text of an object, which must be there.
    #[track_caller]
    pub fn text(&self, key: &str) -> String {
        String::from_utf8(self.object(key).unwrap_or_else(|| panic!("no {key} in {:?}", self.keys())))
            .unwrap()
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        match self.kind {
            Kind::Moto => {
                let (_, body) = self.ask("GET", "?list-type=2");
                let body = String::from_utf8(body).unwrap();
                keys.extend(
                    body.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned()),
                );
            }
            Kind::S3sFs => {
                let root = self.folder.path().join(BUCKET);
                let mut folders = vec![root.clone()];
                while let Some(folder) = folders.pop() {
                    for entry in std::fs::read_dir(folder).unwrap().flatten() {
                        match entry.path().is_dir() {
                            true => folders.push(entry.path()),
                            false => {
                                let path = entry.path();
                                keys.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
                            }
                        }
                    }
                }
            }
        }
        keys.sort();
        keys
    }

    /// Uploads in parts that are neither completed nor given up; moto only.
    pub fn open_uploads(&self) -> usize {
        let (_, body) = self.ask("GET", "?uploads");
        String::from_utf8(body).unwrap().matches("<UploadId>").count()
    }
}

/// config/publish.yaml for a server at this URL, and the right credentials in the environment.
pub fn configure(space: &mut Space, url: &str, more: &str) {
    space.env("AWS_ACCESS_KEY_ID", KEYS.0);
    space.env("AWS_SECRET_ACCESS_KEY", KEYS.1);
    space.write("config/publish.yaml", format!("endpoint: \"{url}\"\nbucket: {BUCKET}\nprefix: mos\n{more}"));
}

/// What a request meets with.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with this body; the server is not asked.
    Answer(u16, String),
    /// The connection ends without an answer, and the server is not asked.
    HangUp,
    /// A pause before every 64 KiB of what is sent.
    Slow(Duration),
}

type Chooses = dyn Fn(&str, usize) -> Option<Fault> + Send + Sync;

/// A proxy; ends when it is dropped.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: u16,
    faults: Mutex<Box<Chooses>>,
    /// `METHOD /path?query` of requests that the server has answered, with the status.
    answered: Mutex<Vec<(String, u16)>>,
    asked: Mutex<usize>,
    ends: AtomicBool,
}

impl Proxy {
    fn before(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            faults: Mutex::new(Box::new(|_, _| None)),
            answered: Mutex::default(),
            asked: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.ends.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                // A client that goes away in the middle is what some tests are about.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Proxy { port, shared }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on requests meet with what this says of `METHOD /path?query` and their number, from 0.
    pub fn fault(&self, choose: impl Fn(&str, usize) -> Option<Fault> + Send + Sync + 'static) {
        *self.shared.asked.lock().unwrap() = 0;
        *self.shared.faults.lock().unwrap() = Box::new(choose);
    }

    /// Requests that the server has answered since the last call.
    pub fn answered(&self) -> Vec<(String, u16)> {
        std::mem::take(&mut *self.shared.answered.lock().unwrap())
    }

    /// How many such requests fit.
    pub fn count(&self, fits: impl Fn(&str) -> bool) -> usize {
        self.shared.answered.lock().unwrap().iter().filter(|(line, _)| fits(line)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    /// One request; `None` where either side has gone away.
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut head = Vec::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse::<usize>().ok()?;
            }
            if line == "\r\n" {
                break;
            }
            if !lower.starts_with("connection:") {
                head.extend_from_slice(line.as_bytes());
            }
        }
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        let request = String::from_utf8_lossy(&head).lines().next()?.to_owned();
        let request = request.rsplit_once(' ')?.0.to_owned();
        let number = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked - 1
        };
        let fault = (self.faults.lock().unwrap())(&request, number);
        let pause = match fault {
            Some(Fault::HangUp) => {
                let _ = client.shutdown(Shutdown::Both);
                return None;
            }
            Some(Fault::Answer(status, body)) => {
                let mut all = vec![0; length];
                reader.read_exact(&mut all).ok()?;
                write!(
                    client,
                    "HTTP/1.1 {status} Told\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
                .ok()?;
                return Some(());
            }
            Some(Fault::Slow(pause)) => pause,
            None => Duration::ZERO,
        };
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).ok()?;
        server.write_all(&head).ok()?;
        let (mut left, mut piece) = (length, vec![0; 64 << 10]);
        while left > 0 {
            std::thread::sleep(pause);
            let n = left.min(piece.len());
            reader.read_exact(&mut piece[..n]).ok()?;
            server.write_all(&piece[..n]).ok()?;
            left -= n;
        }
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).ok()?;
        let status = String::from_utf8_lossy(answer.get(..16)?).split(' ').nth(1)?.parse().ok()?;
        self.answered.lock().unwrap().push((request, status));
        client.write_all(&answer).ok()?;
        let _ = client.shutdown(Shutdown::Write);
        Some(())
    }
}
