//! A daemon of containers that runs none: it answers on a socket as Docker's does, and as badly as a test wants.
//! Knows the requests that mosbuild makes; every one of them is kept for the test to look at.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// The image that it has.
pub const IMAGE: &str = "builder:1";
/// Its id.
pub const IMAGE_ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// What it does where it is not as it should be.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Answers with this status and message where a request (`POST /containers/create`) begins so.
    pub refuses: Vec<(&'static str, u16, &'static str)>,
    /// It has no image until one is pulled or loaded.
    pub has_no_image: bool,
    /// Pulling ends with this error.
    pub pull_fails: Option<&'static str>,
    /// The architecture that its image is for.
    pub arch: Option<&'static str>,
    /// The id of its image, if it is another.
    pub image_id: Option<&'static str>,
    /// Entries of `SecurityOptions`.
    pub security: Vec<&'static str>,
    /// The command writes this to its output named `o`; nothing if there is none.
    pub makes: Option<&'static str>,
    /// How the command ends.
    pub exit: i32,
    /// The kernel killed it for its memory.
    pub out_of_memory: bool,
    /// It runs until it is killed.
    pub hangs: bool,
    /// All connections break once the command has started, and nobody answers any more.
    pub dies: bool,
    /// It answers with bytes that are no HTTP.
    pub babbles: bool,
    /// Containers that are there already: id and label of the owner.
    pub left: Vec<(&'static str, String)>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST /containers/create`, without version and query.
    pub what: String,
    /// Its query.
    pub query: String,
    /// Its JSON body, if it had one.
    pub body: Value,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    image: bool,
    out: PathBuf,
    started: bool,
    killed: bool,
    ended: bool,
    dead: bool,
}

struct Shared {
    manners: Manners,
    state: Mutex<State>,
    changed: Condvar,
}

/// The daemon; it ends with the test.
pub struct FakeDaemon {
    socket: PathBuf,
    shared: Arc<Shared>,
}

impl FakeDaemon {
    /// Listens at this path.
    pub fn start(socket: &Path, manners: Manners) -> FakeDaemon {
        let listener = UnixListener::bind(socket).unwrap();
        let state = State { image: !manners.has_no_image, ..State::default() };
        let shared = Arc::new(Shared { manners, state: Mutex::new(state), changed: Condvar::new() });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.lock().dead {
                    return;
                }
                let shared = theirs.clone();
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        FakeDaemon { socket: socket.to_owned(), shared }
    }

    /// `unix://…`, for DOCKER_HOST.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// The requests that begin so.
    pub fn asked_for(&self, what: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|a| a.what.starts_with(what)).collect()
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.shared.lock().dead = true;
        self.shared.changed.notify_all();
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, holds: impl Fn(&State) -> bool) {
        let state = self.lock();
        let patience = Duration::from_secs(60);
        drop(self.changed.wait_timeout_while(state, patience, |s| !s.dead && !holds(s)));
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

fn serve(shared: &Shared, mut stream: UnixStream) {
    if shared.manners.babbles {
        let _ = stream.write_all(b"\x00\xffthis is no HTTP\r\n\r\n");
        return;
    }
    let Some(asked) = read(&stream) else { return };
    shared.set(|s| s.asked.push(asked.clone()));
    if let Some((_, code, message)) = shared.manners.refuses.iter().find(|r| asked.what.starts_with(r.0)) {
        answer(&mut stream, *code, &json!({"message": message}));
        return;
    }
    let manners = &shared.manners;
    match asked.what.as_str() {
        "GET /version" => {
            let parts = [json!({"Name": "Engine", "Version": "1"})];
            let version =
                json!({"ApiVersion": "1.41", "Version": "1.0", "Arch": "amd64", "Components": parts});
            answer(&mut stream, 200, &version);
        }
        "GET /info" => {
            answer(&mut stream, 200, &json!({"SecurityOptions": manners.security, "MemoryLimit": true}))
        }
        "GET /containers/json" => {
            let one = |(id, owner): &(&str, String)| json!({"Id": id, "Labels": {"mosbuild.owner": owner}});
            answer(&mut stream, 200, &manners.left.iter().map(one).collect::<Vec<_>>().into());
        }
        "POST /images/create" => {
            let lines = [
                json!({"id": "layer", "status": "Downloading", "progressDetail": {"current": 5, "total": 10}}),
                match manners.pull_fails {
                    Some(text) => json!({"errorDetail": {"message": text}, "error": text}),
                    None => json!({"status": "Pull complete"}),
                },
            ];
            shared.set(|s| s.image = s.image || manners.pull_fails.is_none());
            let body: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            reply(&mut stream, 200, body.as_bytes());
        }
        "POST /images/load" => {
            shared.set(|s| s.image = true);
            answer(&mut stream, 200, &json!({"stream": "Loaded image"}));
        }
        "POST /containers/create" => {
            let mounts = asked.body["HostConfig"]["Mounts"].as_array().cloned().unwrap_or_default();
            let out = mounts.iter().find(|m| m["Target"] == "/build/out");
            let out = out.and_then(|m| m["Source"].as_str()).unwrap_or_default().into();
            shared.set(|s| (s.out, s.started, s.killed, s.ended) = (out, false, false, false));
            answer(&mut stream, 201, &json!({"Id": "c1", "Warnings": []}));
        }
        "POST /containers/c1/attach" => attach(shared, stream),
        "POST /containers/c1/start" => {
            shared.set(|s| s.started = true);
            reply(&mut stream, 204, b"");
        }
        "POST /containers/c1/wait" => {
            shared.wait(|s| s.ended);
            if !shared.lock().dead {
                answer(&mut stream, 200, &json!({"StatusCode": exit(shared)}));
            }
        }
        "GET /containers/c1/json" => {
            let state = json!({"ExitCode": exit(shared), "OOMKilled": manners.out_of_memory, "Error": "", "Running": false});
            answer(&mut stream, 200, &json!({"Id": "c1", "State": state}));
        }
        "POST /containers/c1/kill" => {
            shared.set(|s| s.killed = true);
            reply(&mut stream, 204, b"");
        }
        what if what.starts_with("DELETE /containers/") => reply(&mut stream, 204, b""),
        what if what.starts_with("GET /images/") => match shared.lock().image {
            true => {
                let config = json!({"Env": ["PATH=/usr/bin:/bin"]});
                let arch = manners.arch.unwrap_or("amd64");
                answer(
                    &mut stream,
                    200,
                    &json!({"Id": manners.image_id.unwrap_or(IMAGE_ID), "Architecture": arch, "Config": config}),
                );
            }
            false => answer(&mut stream, 404, &json!({"message": "No such image"})),
        },
        other => answer(&mut stream, 501, &json!({"message": format!("what is {other}?")})),
    }
}

fn exit(shared: &Shared) -> i32 {
    if shared.lock().killed { 137 } else { shared.manners.exit }
}

/// The command itself, in place of one.
fn attach(shared: &Shared, mut stream: UnixStream) {
    let head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
        Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    shared.wait(|s| s.started);
    let text = b"from the container\n";
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, text.len() as u8];
    frame.extend_from_slice(text);
    let _ = stream.write_all(&frame);
    if shared.manners.dies {
        shared.set(|s| s.dead = true);
        return;
    }
    if shared.manners.hangs {
        shared.wait(|s| s.killed);
    }
    if let Some(text) = shared.manners.makes {
        std::fs::write(shared.lock().out.join("o"), text).unwrap();
    }
    drop(stream);
    shared.set(|s| s.ended = true);
}

fn answer(stream: &mut UnixStream, code: u16, body: &Value) {
    reply(stream, code, body.to_string().as_bytes());
}

fn reply(stream: &mut UnixStream, code: u16, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // Who asks may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn read(stream: &UnixStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length").and_then(|l| l.parse().ok()) {
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    } else if headers.get("transfer-encoding").is_some_and(|e| e == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = match path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) {
        Some((version, rest)) if version.starts_with(|c: char| c.is_ascii_digit()) => format!("/{rest}"),
        _ => path.to_owned(),
    };
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some(Asked { what: format!("{method} {path}"), query: query.to_owned(), body })
}
