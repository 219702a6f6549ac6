//! Repositories as tests make them with the real git, and a server on loopback that serves them by git's own http-backend
//! and can be told to fail. Knows nothing of the program under test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::need;

/// A repository with a working copy.
pub struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// A new one, on branch `main`.
    pub fn new(dir: &Path) -> Repository {
        Repository::of_format(dir, "sha1")
    }

    /// The same, with objects named by `sha1` or `sha256`.
    pub fn of_format(dir: &Path, format: &str) -> Repository {
        need("git", "git");
        std::fs::create_dir_all(dir).unwrap();
        let repository = Repository { dir: dir.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch=main", &format!("--object-format={format}")]);
        repository
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `file:///…`
    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// Runs git in it, which must succeed; what it printed, without the last newline. Nothing of whoever runs the tests
    /// has a part in it.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        self.git_with(args, b"")
    }

    /// The same, with input.
    #[track_caller]
    pub fn git_with(&self, args: &[&str], input: &[u8]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "protocol.file.allow=always", "-c", "safe.directory=*"]).args(args);
        command.current_dir(&self.dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for name in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{name}_NAME"), "Test")
                .env(format!("GIT_{name}_EMAIL"), "test@example.org");
            command.env(format!("GIT_{name}_DATE"), "2024-01-01T00:00:00Z");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// Writes a file of the working copy.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all that is in the working copy; the commit.
    #[track_caller]
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--no-verify", "-m", message]);
        self.head()
    }

    /// Writes one file and commits it; the commit.
    #[track_caller]
    pub fn commit_file(&self, path: &str, content: &str) -> String {
        self.write(path, content);
        self.commit(&format!("{path}: {content}"))
    }

    /// The commit that is checked out.
    #[track_caller]
    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Commits a tree of these records of `git mktree`, whatever their names are; the commit, which `branch` is at.
    #[track_caller]
    pub fn commit_tree(&self, branch: &str, records: &[u8]) -> String {
        let tree = self.git_with(&["mktree", "-z"], records);
        let commit = self.git(&["commit-tree", &tree, "-m", branch]);
        self.git(&["update-ref", &format!("refs/heads/{branch}"), &commit]);
        commit
    }

    /// Adds a submodule, with this URL in `.gitmodules`, at the head of another repository.
    #[track_caller]
    pub fn submodule(&self, path: &str, url: &str, of: &Repository) {
        self.git(&["submodule", "--quiet", "add", "--force", "--name", path, "--", &of.url(), path]);
        self.git(&["config", "--file", ".gitmodules", &format!("submodule.{path}.url"), url]);
    }

    /// Forgets all that no ref reaches, as a server does in time.
    #[track_caller]
    pub fn prune(&self) {
        self.git(&["reflog", "expire", "--expire=now", "--all"]);
        self.git(&["gc", "--quiet", "--prune=now"]);
    }
}

/// How a server of repositories is different from a usual one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serving {
    /// It speaks the protocol of old servers, which give no commit by its name.
    pub old: bool,
    /// It wants [`USER`] and [`PASSWORD`].
    pub private: bool,
}

/// Who may read a private repository.
pub const USER: &str = "me";
/// And by which password.
pub const PASSWORD: &str = "ver-y-secret";
/// Both, as HTTP says it.
const AUTHORIZATION: &str = "Basic bWU6dmVyLXktc2VjcmV0";

/// A server of the repositories in a folder; ends when it is dropped.
pub struct GitServer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    root: PathBuf,
    serving: Serving,
    /// The next answers with a pack, so many of them, end after so many bytes.
    cuts: Mutex<(usize, usize)>,
    /// Requests are read, and never answered.
    stalls: AtomicBool,
    requests: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    ends: AtomicBool,
}

impl GitServer {
    /// Serves the repositories below a folder.
    pub fn new(root: &Path, serving: Serving) -> GitServer {
        need("git", "git");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: root.to_owned(),
            serving,
            cuts: Mutex::default(),
            stalls: AtomicBool::new(false),
            requests: Mutex::default(),
            open: Mutex::default(),
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
                    let _ = answer(&stream, &shared);
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        GitServer { address, state, accepting: Some(accepting) }
    }

    /// The URL of a repository below the folder.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The next answers with a pack end after so many bytes, so many of them.
    pub fn cut(&self, times: usize, bytes: usize) {
        *lock(&self.state.cuts) = (times, bytes);
    }

    /// From now on no request is answered.
    pub fn stall(&self) {
        self.state.stalls.store(true, Ordering::SeqCst);
    }

    /// Method and path of each request.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state.requests).clone()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.state.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = accepting.join();
        for stream in lock(&self.state.open).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Answers one request and closes: git asks again.
fn answer(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
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
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    lock(&state.requests).push(format!("{method} {path}"));
    let mut writer = stream;
    if header("expect").eq_ignore_ascii_case("100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = match header("transfer-encoding") {
        "chunked" => chunked(&mut reader)?,
        _ => {
            let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
            reader.read_exact(&mut body)?;
            body
        }
    };
    if state.stalls.load(Ordering::SeqCst) {
        let mut rest = [0];
        let _ = reader.read(&mut rest);
        return Ok(());
    }
    if state.serving.private && header("authorization") != AUTHORIZATION {
        let realm = "WWW-Authenticate: Basic realm=\"test\"\r\n";
        return write!(
            writer,
            "HTTP/1.1 401 Unauthorized\r\n{realm}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let mut backend = Command::new("git");
    backend.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    backend.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    backend
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*");
    backend.env("GIT_PROJECT_ROOT", &state.root).env("GIT_HTTP_EXPORT_ALL", "1");
    backend.env("REQUEST_METHOD", &method).env("PATH_INFO", path).env("QUERY_STRING", query);
    backend.env("CONTENT_TYPE", header("content-type")).env("CONTENT_LENGTH", body.len().to_string());
    backend.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("REMOTE_ADDR", "127.0.0.1");
    if !state.serving.old {
        backend.env("GIT_PROTOCOL", header("git-protocol"));
    }
    let mut child = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output()?;
    let _ = feeding.join();
    let end = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let (head, body) = (&output.stdout[..end], output.stdout.get(end + 4..).unwrap_or_default());
    let head = String::from_utf8_lossy(head);
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK");
    let others: String =
        head.lines().filter(|l| !l.starts_with("Status: ")).map(|l| format!("{l}\r\n")).collect();
    write!(
        writer,
        "HTTP/1.1 {status}\r\n{others}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    let mut sent = body.len();
    if method == "POST" && body.windows(4).any(|w| w == b"PACK") {
        let mut cuts = lock(&state.cuts);
        if cuts.0 > 0 {
            cuts.0 -= 1;
            sent = sent.min(cuts.1);
        }
    }
    writer.write_all(&body[..sent])
}

fn chunked(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let at = body.len();
        body.resize(at + size, 0);
        reader.read_exact(&mut body[at..])?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Processes that have a text in one of their arguments, zombies left out.
pub fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(text.len()).any(|w| w == text.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// A file name that is no UTF-8.
pub fn odd_name() -> &'static Path {
    Path::new(std::ffi::OsStr::from_bytes(b"odd-\xff\xe9-name"))
}
