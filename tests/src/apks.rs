//! Small signed packages and repositories of the tests' own, well-formed or not.
//! Knows the v2 format (facts/image-formats.md 8) and the `openssl` program; nothing of apk's insides.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::need;

/// What a signature is made with; Alpine uses the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// `.SIGN.RSA.`
    Sha1,
    /// `.SIGN.RSA256.`
    Sha256,
    /// `.SIGN.RSA512.`
    Sha512,
}

/// An RSA key made for a test.
pub struct Key {
    pem: PathBuf,
    name: String,
}

impl Key {
    /// Makes `DIR/NAME.rsa` and the public half `DIR/NAME.rsa.pub`.
    pub fn new(dir: &Path, name: &str) -> Key {
        need("openssl", "openssl");
        std::fs::create_dir_all(dir).unwrap();
        let pem = dir.join(format!("{name}.rsa"));
        let key = Key { name: format!("{name}.rsa.pub"), pem };
        openssl(&["genrsa", "-out", key.pem.to_str().unwrap(), "2048"], b"");
        let public = openssl(&["rsa", "-in", key.pem.to_str().unwrap(), "-pubout"], b"");
        std::fs::write(key.public(), public).unwrap();
        key
    }

    /// The file of the public half.
    pub fn public(&self) -> PathBuf {
        self.pem.with_file_name(&self.name)
    }

    /// A gzip member with the signature over these bytes, to be put before them.
    pub fn signature(&self, hash: Hash, data: &[u8]) -> Vec<u8> {
        let (flag, kind) = match hash {
            Hash::Sha1 => ("-sha1", "RSA"),
            Hash::Sha256 => ("-sha256", "RSA256"),
            Hash::Sha512 => ("-sha512", "RSA512"),
        };
        let signature = openssl(&["dgst", flag, "-sign", self.pem.to_str().unwrap()], data);
        gz(&tar(&[Member::file(&format!(".SIGN.{kind}.{}", self.name), signature)]))
    }
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

/// The bytes of a digest, `sha1` for instance.
pub fn digest(kind: &str, data: &[u8]) -> Vec<u8> {
    openssl(&["dgst", &format!("-{kind}"), "-binary"], data)
}

/// A digest in hex.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One gzip member.
pub fn gz(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An entry of a tar archive, taken as it is: no name is too bad.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name in the archive.
    pub path: String,
    /// The type of tar: `0` file, `1` hard link, `2` symlink, `3` and `4` devices, `5` folder, `6` fifo.
    pub kind: u8,
    /// Permission bits.
    pub mode: u32,
    /// User and group, by number.
    pub owner: (u32, u32),
    /// User and group, by name; apk goes by these first.
    pub names: (String, String),
    /// Content of a file.
    pub data: Vec<u8>,
    /// So many zeros after the content.
    pub zeros: u64,
    /// What a link says.
    pub link: String,
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

impl Member {
    /// A file 0644 of root.
    pub fn file(path: &str, data: impl Into<Vec<u8>>) -> Member {
        Member {
            path: path.to_owned(),
            kind: b'0',
            mode: 0o644,
            owner: (0, 0),
            names: ("root".into(), "root".into()),
            data: data.into(),
            zeros: 0,
            link: String::new(),
            device: (0, 0),
        }
    }

    /// A folder 0755 of root.
    pub fn dir(path: &str) -> Member {
        Member { kind: b'5', mode: 0o755, ..Member::file(path, "") }
    }

    /// A symlink.
    pub fn symlink(path: &str, link: &str) -> Member {
        Member { kind: b'2', mode: 0o777, link: link.to_owned(), ..Member::file(path, "") }
    }

    /// A hard link.
    pub fn hard_link(path: &str, link: &str) -> Member {
        Member { kind: b'1', link: link.to_owned(), ..Member::file(path, "") }
    }

    /// A character device.
    pub fn device(path: &str, major: u32, minor: u32) -> Member {
        Member { kind: b'3', device: (major, minor), ..Member::file(path, "") }
    }

    /// With these permission bits.
    pub fn mode(self, mode: u32) -> Member {
        Member { mode, ..self }
    }

    /// With this owner, by number and name.
    pub fn owner(self, user: (u32, &str), group: (u32, &str)) -> Member {
        Member { owner: (user.0, group.0), names: (user.1.into(), group.1.into()), ..self }
    }

    /// Its header, with the one of pax before it that apk reads digests from.
    fn header(&self, out: &mut impl Write) {
        if self.path.len() > 100
            || matches!(self.kind, b'0' | b'2') && !self.path.starts_with('.') && self.zeros == 0
        {
            let of = if self.kind == b'2' { self.link.as_bytes() } else { &self.data };
            let mut records = record("APK-TOOLS.checksum.SHA1", &hex(&digest("sha1", of)));
            if self.path.len() > 100 {
                records += &record("path", &self.path);
            }
            let short: String = self.path.chars().take(50).collect();
            let pax = Member { kind: b'x', data: records.into_bytes(), ..Member::file(&short, "") };
            pax.block(out);
            pax.content(out);
        }
        self.block(out);
    }

    fn block(&self, out: &mut impl Write) {
        let mut block = [0; 512];
        let mut put = |at: usize, length: usize, text: &[u8]| {
            let length = length.min(text.len());
            block[at..at + length].copy_from_slice(&text[..length]);
        };
        let size = self.data.len() as u64 + self.zeros;
        put(0, 100, self.path.as_bytes());
        put(100, 8, format!("{:07o}\0", self.mode).as_bytes());
        put(108, 8, format!("{:07o}\0", self.owner.0).as_bytes());
        put(116, 8, format!("{:07o}\0", self.owner.1).as_bytes());
        put(124, 12, format!("{size:011o}\0").as_bytes());
        put(136, 12, format!("{MTIME:011o}\0").as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[self.kind]);
        put(157, 100, self.link.as_bytes());
        put(257, 8, b"ustar\x0000");
        put(265, 32, self.names.0.as_bytes());
        put(297, 32, self.names.1.as_bytes());
        put(329, 8, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, 8, format!("{:07o}\0", self.device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&block).unwrap();
    }

    fn content(&self, out: &mut impl Write) {
        out.write_all(&self.data).unwrap();
        let zeros = vec![0; 1 << 20];
        let size = self.data.len() as u64 + self.zeros;
        let mut left = self.zeros + (512 - size % 512) % 512;
        while left > 0 {
            let part = left.min(zeros.len() as u64);
            out.write_all(&zeros[..part as usize]).unwrap();
            left -= part;
        }
    }
}

/// The time of every member: some day of 2024.
const MTIME: u64 = 1_710_000_000;

/// `LENGTH KEY=VALUE`, where the length counts itself.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let length = rest + (rest + 2).to_string().len();
    format!("{length} {key}={value}\n")
}

/// A tar without the blocks that end one.
pub fn tar(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    write_tar(members, &mut out);
    out
}

/// A whole tar.gz; large contents are not kept in memory.
pub fn tar_gz(members: &[Member]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    write_tar(members, &mut encoder);
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

fn write_tar(members: &[Member], out: &mut impl Write) {
    for member in members {
        member.header(out);
        member.content(out);
    }
}

/// A tar.gz of 35 GiB of zeros in some 35 MB.
pub fn bomb() -> Vec<u8> {
    let part = 64 << 20;
    let zeros = gz(&vec![0; part]);
    let mut archive = Vec::new();
    for n in 0..5 {
        let size = 7 << 30;
        let member = Member { zeros: size, ..Member::file(&format!("usr/share/bomb{n}"), "") };
        let mut header = Vec::new();
        member.header(&mut header);
        archive.extend(gz(&header));
        (0..size / part as u64).for_each(|_| archive.extend(&zeros));
    }
    archive.extend(gz(&[0; 1024]));
    archive
}

/// A package to be.
#[derive(Clone, Debug)]
pub struct Apk {
    name: String,
    version: String,
    arch: String,
    fields: Vec<(&'static str, String)>,
    scripts: Vec<(String, String)>,
    members: Vec<Member>,
    data: Option<Vec<u8>>,
}

/// A package as it lies in a repository.
#[derive(Clone, Debug)]
pub struct Built {
    /// `x86_64`.
    pub arch: String,
    /// `NAME-VERSION.apk`.
    pub file_name: String,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// `Q1…`, the digest of its control member.
    pub identity: String,
    /// Its entry in an index.
    pub entry: String,
}

impl Apk {
    /// A package for x86_64 without files.
    pub fn new(name: &str, version: &str) -> Apk {
        Apk {
            name: name.into(),
            version: version.into(),
            arch: "x86_64".into(),
            fields: Vec::new(),
            scripts: Vec::new(),
            members: Vec::new(),
            data: None,
        }
    }

    /// For another architecture.
    pub fn arch(mut self, arch: &str) -> Apk {
        self.arch = arch.into();
        self
    }

    /// Depends on this: `musl`, `so:libc.so.6`, `jq>1`; or conflicts with it: `!jq`.
    pub fn depends(mut self, on: &str) -> Apk {
        self.fields.push(("depend", on.into()));
        self
    }

    /// Provides this: `cmd:x=1`.
    pub fn provides(mut self, what: &str) -> Apk {
        self.fields.push(("provides", what.into()));
        self
    }

    /// Is installed if all of these are.
    pub fn install_if(mut self, all: &str) -> Apk {
        self.fields.push(("install_if", all.into()));
        self
    }

    /// Has its trigger run if something in these folders changed.
    pub fn triggers(mut self, folders: &str) -> Apk {
        self.fields.push(("triggers", folders.into()));
        self
    }

    /// A script: `pre-install`, `post-install`, `trigger`.
    pub fn script(mut self, kind: &str, text: &str) -> Apk {
        self.scripts.push((kind.into(), text.into()));
        self
    }

    /// A member of its files; the folders above it are not made.
    pub fn member(mut self, member: Member) -> Apk {
        self.members.push(member);
        self
    }

    /// A file 0644 with the folders above it.
    pub fn file(mut self, path: &str, data: &str) -> Apk {
        let above = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
        let mut above: Vec<Member> = above.map(|p| Member::dir(p.to_str().unwrap())).collect();
        above.reverse();
        above.retain(|dir| self.members.iter().all(|m| m.path != dir.path));
        self.members.extend(above);
        self.member(Member::file(path, data))
    }

    /// This tar.gz in place of its files.
    pub fn data(mut self, archive: Vec<u8>) -> Apk {
        self.data = Some(archive);
        self
    }

    /// The signed file.
    pub fn build(&self, key: &Key, hash: Hash) -> Built {
        let files = self.data.clone().unwrap_or_else(|| tar_gz(&self.members));
        let size: u64 = self.members.iter().map(|m| m.data.len() as u64 + m.zeros).sum();
        let mut info = format!(
            "pkgname = {}\npkgver = {}\npkgdesc = of a test\nurl = https://test.invalid/\nbuilddate = {MTIME}\n\
             size = {size}\narch = {}\norigin = {}\nlicense = MIT\n",
            self.name, self.version, self.arch, self.name
        );
        for (field, value) in &self.fields {
            info += &format!("{field} = {value}\n");
        }
        info += &format!("datahash = {}\n", hex(&digest("sha256", &files)));
        let mut members = vec![Member::file(".PKGINFO", info)];
        for (kind, text) in &self.scripts {
            members.push(Member::file(&format!(".{kind}"), text.as_str()).mode(0o755));
        }
        let control = gz(&tar(&members));
        let identity = format!("Q1{}", base64(&digest("sha1", &control)));
        let bytes = [key.signature(hash, &control), control, files].concat();
        let mut entry = format!(
            "C:{identity}\nP:{}\nV:{}\nA:{}\nS:{}\nI:{size}\nT:of a test\nU:https://test.invalid/\nL:MIT\no:{}\nt:{MTIME}\n",
            self.name,
            self.version,
            self.arch,
            bytes.len(),
            self.name
        );
        for (letter, field) in [("D", "depend"), ("p", "provides"), ("i", "install_if")] {
            let values: Vec<&str> =
                self.fields.iter().filter(|(f, _)| *f == field).map(|(_, v)| v.as_str()).collect();
            if !values.is_empty() {
                entry += &format!("{letter}:{}\n", values.join(" "));
            }
        }
        let arch = self.arch.clone();
        Built { arch, file_name: format!("{}-{}.apk", self.name, self.version), bytes, identity, entry }
    }
}

/// Writes packages and a signed index of them to `DIR/ARCH`, in place of what is there.
pub fn write_repository(dir: &Path, packages: &[Built], key: &Key, hash: Hash) {
    let dir = dir.join(packages.first().map_or("x86_64", |p| &p.arch));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    for package in packages {
        std::fs::write(dir.join(&package.file_name), &package.bytes).unwrap();
    }
    let index = index(packages);
    std::fs::write(dir.join("APKINDEX.tar.gz"), [key.signature(hash, &index), index].concat()).unwrap();
}

/// The index of these packages without a signature.
pub fn index(packages: &[Built]) -> Vec<u8> {
    let entries: String = packages.iter().map(|p| format!("{}\n", p.entry)).collect();
    let members = [Member::file("DESCRIPTION", "of a test"), Member::file("APKINDEX", entries)];
    gz(&[tar(&members), vec![0; 1024]].concat())
}

fn base64(data: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in data.chunks(3) {
        let bits =
            part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for at in 0..4 {
            text.push(if at > part.len() {
                '='
            } else {
                char::from(alphabet[(bits >> (18 - 6 * at)) as usize & 63])
            });
        }
    }
    text
}
