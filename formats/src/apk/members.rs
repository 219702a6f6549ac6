//! A file of consecutive gzip members: each one's expanded bytes as a reader, and digests of its compressed bytes.
//! Exact about where a member ends, for that is what Alpine signs. Does not know what the members hold.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::Error;

/// Digests of the compressed bytes of one member, or of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// SHA-1, which names packages and is signed by `RSA`.
    pub sha1: [u8; 20],
    /// SHA-256, in `datahash` and signed by `RSA256`.
    pub sha256: [u8; 32],
    /// SHA-512, signed by `RSA512`.
    pub sha512: [u8; 64],
}

impl Digests {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digests {
        Digests {
            sha1: Sha1::digest(bytes).into(),
            sha256: Sha256::digest(bytes).into(),
            sha512: Sha512::digest(bytes).into(),
        }
    }
}

/// Which digests of a member are wanted: three cost more than the data member's one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// All of [`Digests`]; SHA-256 alone otherwise.
    All,
    /// SHA-256; the other two come out as zeros.
    Sha256,
}

/// The members of a file, one after another.
pub struct Members<R> {
    source: Source<R>,
}

impl<R: BufRead> Members<R> {
    /// Reads from where `reader` stands.
    pub fn new(reader: R) -> Self {
        Members {
            source: Source {
                inner: reader,
                consumed: 0,
                eof: false,
                failed: false,
                hashes: Hashes::default(),
            },
        }
    }

    /// Compressed bytes consumed so far.
    pub fn position(&self) -> u64 {
        self.source.consumed
    }

    /// The next member, of which at most `limit` expanded bytes are given; `None` at the end of the file.
    ///
    /// `part` is what errors call it. Bytes that do not begin a member are an error, as is a version 3 file.
    pub fn next_member(
        &mut self,
        part: &'static str,
        limit: u64,
        want: Want,
    ) -> Result<Option<Member<'_, R>>, Error> {
        let at = self.source.consumed;
        while let Err(e) = self.source.inner.fill_buf() {
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(Error::Io(e));
            }
        }
        let head = self.source.inner.fill_buf().map_err(Error::Io)?;
        match head {
            [] => return Ok(None),
            [0x1f, 0x8b, ..] | [0x1f] => {}
            head if at == 0 && head.starts_with(b"ADB") => return Err(Error::Version3),
            head if at == 0 => {
                let bytes: Vec<String> = head.iter().take(4).map(|b| format!("{b:02x}")).collect();
                return Err(Error::NotApk { found: bytes.join(" ") });
            }
            _ => return Err(Error::Trailing { part: "bytes that are no gzip member", at }),
        }
        self.source.hashes = Hashes::new(want);
        self.source.eof = false;
        let decoder = GzDecoder::new(&mut self.source);
        Ok(Some(Member { decoder, start: at, part, limit, left: limit, over: false }))
    }
}

/// What a member was, known after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEnd {
    /// Compressed bytes.
    pub compressed: u64,
    /// Expanded bytes.
    pub expanded: u64,
    /// Digests of the compressed bytes.
    pub digests: Digests,
}

/// The expanded bytes of one member. [`Member::finish`] must be called before the next one.
pub struct Member<'a, R: BufRead> {
    decoder: GzDecoder<&'a mut Source<R>>,
    start: u64,
    part: &'static str,
    limit: u64,
    left: u64,
    over: bool,
}

impl<R: BufRead> Read for Member<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // Past the bound one byte more is asked for: only then is it known whether there is more.
        let want = usize::try_from(self.left.max(1)).unwrap_or(usize::MAX).min(buf.len());
        let n = self.decoder.read(&mut buf[..want])?;
        match self.left.checked_sub(n as u64) {
            Some(left) => {
                self.left = left;
                Ok(n)
            }
            None => {
                self.over = true;
                Err(io::Error::other(format!("{} has more than {} expanded bytes", self.part, self.limit)))
            }
        }
    }
}

impl<R: BufRead> Member<'_, R> {
    /// Reads what is left, so that gzip's checksum is verified, and gives the digests.
    pub fn finish(mut self) -> Result<MemberEnd, Error> {
        if let Err(e) = io::copy(&mut self, &mut io::sink()) {
            return Err(self.error(e));
        }
        let (expanded, start) = (self.limit - self.left, self.start);
        let source = self.decoder.into_inner();
        let digests = std::mem::take(&mut source.hashes).finish();
        Ok(MemberEnd { compressed: source.consumed - start, expanded, digests })
    }

    /// What an error while reading this member means.
    pub fn error(&self, e: io::Error) -> Error {
        let source = self.decoder.get_ref();
        if self.over {
            Error::Limit { part: self.part, what: "expanded bytes", limit: self.limit }
        } else if source.failed {
            Error::Io(e)
        } else if source.eof {
            Error::Truncated { part: self.part, bytes: source.consumed }
        } else {
            Error::Damaged { part: self.part, why: e.to_string() }
        }
    }

    /// Whether the bound was met, the reader failed or the file ended inside this member.
    pub(super) fn broken(&self) -> bool {
        let source = self.decoder.get_ref();
        self.over || source.failed || source.eof
    }
}

/// The file below the decoder; sees each compressed byte once, as it is consumed.
struct Source<R> {
    inner: R,
    consumed: u64,
    /// The decoder asked for more than there is.
    eof: bool,
    /// The reader below returned an error.
    failed: bool,
    hashes: Hashes,
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.inner.fill_buf() {
            Ok(bytes) => {
                self.eof |= bytes.is_empty();
                Ok(bytes)
            }
            Err(e) => {
                self.failed |= e.kind() != io::ErrorKind::Interrupted;
                Err(e)
            }
        }
    }

    fn consume(&mut self, n: usize) {
        // What `fill_buf` showed is still in the buffer below: it returns the same bytes without reading.
        if let (Ok(bytes), true) = (self.inner.fill_buf(), n > 0) {
            self.hashes.update(&bytes[..n.min(bytes.len())]);
        }
        self.consumed += n as u64;
        self.inner.consume(n);
    }
}

#[derive(Default)]
struct Hashes {
    sha256: Sha256,
    others: Option<Box<(Sha1, Sha512)>>,
}

impl Hashes {
    fn new(want: Want) -> Self {
        let others = (want == Want::All).then(Box::default);
        Hashes { sha256: Sha256::new(), others }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(others) = &mut self.others {
            others.0.update(bytes);
            others.1.update(bytes);
        }
    }

    fn finish(self) -> Digests {
        let (sha1, sha512) = match self.others {
            Some(others) => (others.0.finalize().into(), others.1.finalize().into()),
            None => ([0; 20], [0; 64]),
        };
        Digests { sha1, sha256: self.sha256.finalize().into(), sha512 }
    }
}
