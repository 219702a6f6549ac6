//! Real peers: TLS with CAs of their own, proxies from the environment, Python's server, and a full disk.
//! Knows no scripted faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use mosbuild_engine::fetch::{FROM_STORE, Unwatched};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::child::{command, run};
use crate::desk::{Desk, bytes};
use crate::server::{Fault, Page, Server};

/// A CA's certificate as PEM, and a server for `names` that it vouches for.
fn authority(called: &str, names: &[&str]) -> (String, Arc<rustls::ServerConfig>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, called);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    (ca.pem(), Arc::new(config))
}

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_ca_of_ones_own_is_trusted_and_a_strange_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, config) = authority("ours", &["localhost"]);
    let (strange, _) = authority("a strange one", &["localhost"]);
    let server = Server::over(Some(config));
    let url = server.put("/file", Page::new(b"over TLS"));
    let (ours, strange) = (written(dir.path(), "ca.pem", &pem), written(dir.path(), "strange.pem", &strange));
    let fetch = |url: &str, ca: &Path| {
        let store = tempfile::tempdir_in(dir.path()).unwrap();
        run("fetch", url, store.path(), &[("SSL_CERT_FILE", ca.to_str().unwrap())], &[])
    };
    assert_eq!(fetch(&url, &ours), "over TLS");
    let refused = fetch(&url, &strange);
    let says = format!("{url}: invalid peer certificate: UnknownIssuer\n");
    assert!(refused.starts_with("4: ") && refused.contains(&says), "{refused}");
    // It would be no other one the next time.
    assert!(!refused.contains("tried") && refused.contains("name its CA in SSL_CERT_FILE"), "{refused}");
    let refused = fetch(&url.replace("localhost", "127.0.0.1"), &ours);
    assert!(refused.contains("not valid for name"), "{refused}");
    // No CA at all: plain HTTP is as good as ever.
    let nowhere = dir.path().join("nowhere.pem");
    let (plain, plain_url) = Server::of(Page::new(b"plain"));
    assert_eq!(fetch(&plain_url, &nowhere), "plain");
    let refused = fetch(&url, &nowhere);
    assert!(refused.contains("install ca-certificates"), "{refused}");
    // What came over TLS does not go on without.
    let location: &'static str = format!("Location: {}\r\n", plain.url("/file")).leak();
    server.put("/down", Page::default().with([Fault::Status("302 Found", location)]));
    let refused = fetch(&server.url("/down"), &ours);
    assert!(refused.contains("a redirect from https to http://"), "{refused}");
}

/// A proxy for TLS: remembers what it is asked for, and connects to `to` whatever it was.
fn tunnel(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let heard = asked.clone();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let line = String::from_utf8(head).unwrap().lines().next().unwrap().to_owned();
        heard.lock().unwrap().push(line);
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let server = TcpStream::connect(to).unwrap();
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let _ = std::io::copy(&mut &server, &mut client);
    });
    (address, asked)
}

#[test]
fn proxies_of_the_environment_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let fetch = |url: &str, env: &[(&str, &str)]| {
        let store = tempfile::tempdir_in(dir.path()).unwrap();
        run("fetch", url, store.path(), env, &[])
    };
    let url = "http://files.invalid/a/file";
    let proxy = Server::start();
    // What a proxy is asked for is the whole URL.
    proxy.put(url, Page::new(b"by proxy"));
    let address = format!("http://me:word@{}", proxy.address);
    for (n, variable) in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].iter().enumerate() {
        assert_eq!(fetch(url, &[(variable, &address)]), "by proxy", "{variable}");
        let asked = proxy.asked();
        assert_eq!(asked.len(), n + 1);
        assert_eq!(asked[n].header("proxy-authorization"), Some("Basic bWU6d29yZA=="));
    }
    // Hosts that are reached without one.
    let (direct, direct_url) = Server::of(Page::new(b"direct"));
    for variable in ["NO_PROXY", "no_proxy"] {
        let hosts = (variable, "example.invalid, localhost");
        assert_eq!(fetch(&direct_url, &[("http_proxy", &address), hosts]), "direct");
    }
    assert_eq!((direct.asked().len(), proxy.asked().len()), (2, 4));
    // TLS goes through a tunnel.
    let (pem, config) = authority("ours", &["files.invalid"]);
    let server = Server::over(Some(config));
    server.put("/file", Page::new(b"through the tunnel"));
    let ca = written(dir.path(), "ca.pem", &pem);
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        let (address, asked) = tunnel(server.address);
        let env = [(variable, format!("http://{address}")), ("SSL_CERT_FILE", ca.display().to_string())];
        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(fetch("https://files.invalid/file", &env), "through the tunnel");
        assert_eq!(*asked.lock().unwrap(), ["CONNECT files.invalid:443 HTTP/1.1"]);
    }
}

/// A SOCKS 5 proxy (RFC 1928) for one connection to `to`; tells which host and port it was asked for.
fn socks(to: SocketAddr) -> (SocketAddr, std::thread::JoinHandle<(String, u16)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let read = |n: usize| {
            let mut bytes = vec![0; n];
            (&client).read_exact(&mut bytes).unwrap();
            bytes
        };
        let methods = read(2)[1];
        read(methods.into());
        (&client).write_all(&[5, 0]).unwrap();
        // Version 5, CONNECT, reserved, a name.
        assert_eq!(read(4), [5, 1, 0, 3]);
        let length = read(1)[0];
        let host = String::from_utf8(read(length.into())).unwrap();
        let port = u16::from_be_bytes(read(2).try_into().unwrap());
        (&client).write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        let server = TcpStream::connect(to).unwrap();
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let _ = std::io::copy(&mut &server, &mut client);
        (host, port)
    });
    (address, asked)
}

#[test]
fn a_socks_proxy_is_used_and_finds_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = Server::of(Page::new(b"by SOCKS"));
    let (address, asked) = socks(server.address);
    let proxy = format!("socks5h://{address}");
    let got = run("fetch", "http://files.invalid:81/file", dir.path(), &[("ALL_PROXY", &proxy)], &[]);
    assert_eq!(got, "by SOCKS");
    assert_eq!(asked.join().unwrap(), ("files.invalid".to_owned(), 81));
}

/// Ends with its owner.
struct Python(Child, u16);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `python3 -m http.server`; its log goes to a file.
fn python(dir: &Path, log: &Path) -> Option<Python> {
    let mut command = Command::new("python3");
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory"]).arg(dir);
    let log = std::fs::File::create(log).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().ok()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    // Serving HTTP on 127.0.0.1 port 40551 (http://127.0.0.1:40551/) ...
    let port = line.split("port ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let python = Python(child, port.unwrap_or(0));
    port.map(|_| python)
}

#[test]
#[expect(clippy::print_stderr, reason = "says that the test did not run")]
fn pythons_server() {
    let dir = tempfile::tempdir().unwrap();
    let (log, root) = (dir.path().join("log"), dir.path().join("root"));
    let body = bytes(1 << 20);
    std::fs::create_dir_all(root.join("sub folder")).unwrap();
    let odd = "50% of a&b \"c\" <d> #1 é.apk";
    for name in [odd, "plain.apk", "+a;b=c.txt"] {
        std::fs::write(root.join(name), &body).unwrap();
        // One of this very second might change again and be said to be the same.
        let file = std::fs::File::options().write(true).open(root.join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_735_689_600)).unwrap();
    }
    let Some(python) = python(&root, &log) else {
        eprintln!("not run: there is no python3");
        return;
    };
    let desk = Desk::new();
    let url = format!("http://127.0.0.1:{}", python.1);
    let names = desk.fetcher.listing(&url, &Unwatched).unwrap().unwrap();
    assert_eq!(names, ["+a;b=c.txt", odd, "plain.apk", "sub folder/"]);
    assert_eq!(desk.fetcher.listing(&format!("{url}/sub%20folder"), &Unwatched).unwrap().unwrap(), [""; 0]);
    assert_eq!(desk.fetcher.listing(&format!("{url}/none"), &Unwatched).unwrap(), None);
    desk.right(&format!("{url}/50%25%20of%20a&b%20%22c%22%20%3Cd%3E%20%231%20%C3%A9.apk"), &body);
    let plain = format!("{url}/plain.apk");
    let first = desk.fetch(&plain, None).unwrap();
    desk.has(&first, &body);
    assert_eq!(desk.fetch(&plain, None).unwrap().from, FROM_STORE);
    drop(python);
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("\"GET /plain.apk HTTP/1.1\" 304"), "{log}");
}

#[test]
#[expect(clippy::print_stderr, reason = "says that the test did not run")]
fn a_full_disk_says_so_and_leaves_nothing() {
    let mount = "mount -t tmpfs -o size=2m none \"$MOSBUILD_TEST_FETCH_STORE\" && exec \"$0\" \"$@\"";
    let unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"];
    let dir = tempfile::tempdir().unwrap();
    let trial = Command::new(unshare[0])
        .args(&unshare[1..])
        .args([mount, "true"])
        .env("MOSBUILD_TEST_FETCH_STORE", dir.path())
        .output();
    if !trial.is_ok_and(|out| out.status.success()) {
        eprintln!("not run: no user namespace, or no tmpfs in it");
        return;
    }
    let server = Server::start();
    server.put("/large", Page::new(&bytes(4 << 20)));
    server.put("/small", Page::new(b"fits"));
    let before = [&unshare[..], &[mount]].concat();
    let told = run("full", &server.url(""), dir.path(), &[], &before);
    assert!(told.starts_with("1: ") && told.contains("No space left on device"), "{told}");
    assert!(told.contains("make room, or move the store with --cache-dir"), "{told}");
    // Another try would only fill it again.
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_killed_download_goes_on() {
    let body = bytes(100_000);
    let (server, url) = Server::of(Page::new(&body).with([Fault::Stall(60_000)]));
    let desk = Desk::new();
    let mut command = command("fetch", &url, desk.store.root(), &[], &[]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let part = || {
        let entries = std::fs::read_dir(desk.store.root().join("downloads")).into_iter().flatten().flatten();
        let sizes = entries.filter(|e| e.path().extension().is_some_and(|e| e == "part"));
        sizes.map(|e| e.metadata().map_or(0, |m| m.len())).sum::<u64>()
    };
    let start = std::time::Instant::now();
    while part() < 60_000 {
        assert!(start.elapsed().as_secs() < 20, "{}", part());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let fetched = desk.fetch(&url, None).unwrap();
    desk.has(&fetched, &body);
    let asked = server.asked();
    // If the killed one was quick, it had asked for the rest itself.
    assert!(asked[1..].iter().all(|a| a.from() == 60_000), "{asked:?}");
}

#[test]
fn without_the_network_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "file", "body");
    let url = format!("file://{}", file.display());
    let told = run("lazy", &url, &dir.path().join("store"), &[], &[]);
    assert_eq!(told, "0 threads, 0 descriptors");
}
