//! Reads newc archives, one or several after another, without trusting any field of them.
//! Does not decompress, does not resolve hard links (it reports their identity) and writes nothing to disk.

use std::io::{self, Read};

use super::{
    Entry, Error, HEADER_LEN, Kind, Limits, NAME_MAX, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT,
    S_IFREG, S_IFSOCK, TRAILER, check_name, padding,
};

/// What names that are hard links to one file have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    /// Which of several concatenated archives: links never cross an end mark.
    pub archive: u32,
    /// Device and inode fields of the header.
    pub ids: (u32, u32, u32),
}

/// One member as read. Its data follows from [`Reader`]'s `Read` until the next member is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Name and metadata.
    pub entry: Entry,
    /// Time in seconds.
    pub mtime: u32,
    /// Set for non-directories with a link count above one. GNU cpio puts the data on the last such name,
    /// other tools on the first; the others have size 0.
    pub link: Option<LinkId>,
}

/// An archive being read.
pub struct Reader<R: Read> {
    input: R,
    limits: Limits,
    offset: u64,
    archive_start: u64,
    archive: u32,
    entries: u64,
    /// Data bytes of the current member not yet read.
    remaining: u64,
    /// Running and expected sum of the current member, for `070702`.
    sum: u32,
    expected_sum: Option<u32>,
    done: bool,
}

struct Header {
    fields: [u32; 13],
    checked: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from `input`, which should be buffered, within `limits`.
    pub fn new(input: R, limits: Limits) -> Self {
        Reader {
            input,
            limits,
            offset: 0,
            archive_start: 0,
            archive: 0,
            entries: 0,
            remaining: 0,
            sum: 0,
            expected_sum: None,
            done: false,
        }
    }

    /// The next member, `None` at the end of the stream. Data left unread is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, Error> {
        if self.done {
            return Ok(None);
        }
        let result = self.advance();
        if !matches!(result, Ok(Some(_))) {
            self.done = true;
        }
        result
    }

    /// All members with their data in memory; `limits` bounds how much that can be.
    pub fn members(self) -> Members<R> {
        Members { reader: self }
    }

    fn advance(&mut self) -> Result<Option<Member>, Error> {
        io::copy(&mut *self, &mut io::sink()).map_err(unwrap_io)?;
        self.end_of_data()?;
        loop {
            let Some(first) = self.next_magic_byte()? else { return Ok(None) };
            let header = self.header(first)?;
            let [
                ino,
                mode,
                uid,
                gid,
                nlink,
                mtime,
                size,
                dev_major,
                dev_minor,
                major,
                minor,
                name_size,
                check,
            ] = header.fields;
            let name = self.name(name_size)?;
            if name == TRAILER {
                self.skip(u64::from(size))?;
                self.skip_padding()?;
                self.archive = self.archive.saturating_add(1);
                self.archive_start = self.offset;
                continue;
            }
            check_name(&name)?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(Error::Limit { what: "members", limit: self.limits.entries });
            }
            let kind = match mode & S_IFMT {
                S_IFREG => Kind::File { size: u64::from(size) },
                S_IFLNK => Kind::Symlink { target: self.target(size)? },
                _ if size != 0 => {
                    return Err(self.malformed("a body on something that is neither file nor symlink"));
                }
                S_IFDIR => Kind::Dir,
                S_IFCHR => Kind::Char { major, minor },
                S_IFBLK => Kind::Block { major, minor },
                S_IFIFO => Kind::Fifo,
                S_IFSOCK => Kind::Socket,
                _ => return Err(self.malformed("unknown file type")),
            };
            if let Kind::File { size } = kind {
                self.remaining = size;
                self.sum = 0;
                self.expected_sum = header.checked.then_some(check);
            }
            let link = (nlink > 1 && kind != Kind::Dir)
                .then_some(LinkId { archive: self.archive, ids: (dev_major, dev_minor, ino) });
            let entry = Entry { name, mode: mode & 0o7777, uid, gid, kind };
            return Ok(Some(Member { entry, mtime, link }));
        }
    }

    /// Skips NUL padding between members and archives; gives the first other byte.
    fn next_magic_byte(&mut self) -> Result<Option<u8>, Error> {
        let mut byte = [0u8; 1];
        loop {
            match self.input.read(&mut byte) {
                Ok(0) => return Ok(None),
                Ok(_) => self.count(1)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            }
            if byte[0] != 0 {
                let start = self.offset - 1;
                if !(start - self.archive_start).is_multiple_of(4) {
                    return Err(self.malformed("member not aligned to 4 bytes"));
                }
                return Ok(Some(byte[0]));
            }
        }
    }

    fn header(&mut self, first: u8) -> Result<Header, Error> {
        let mut raw = [0u8; HEADER_LEN];
        raw[0] = first;
        self.exact(&mut raw[1..])?;
        let checked = match &raw[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err(self.malformed("no newc magic")),
        };
        let mut fields = [0u32; 13];
        for (field, digits) in fields.iter_mut().zip(raw[6..].chunks_exact(8)) {
            for digit in digits {
                let Some(value) = char::from(*digit).to_digit(16) else {
                    return Err(self.malformed("header field is not hexadecimal"));
                };
                *field = *field << 4 | value;
            }
        }
        Ok(Header { fields, checked })
    }

    fn name(&mut self, size: u32) -> Result<Vec<u8>, Error> {
        if size == 0 || size as usize > NAME_MAX {
            return Err(self.malformed("name length out of range"));
        }
        let mut name = vec![0; size as usize];
        self.exact(&mut name)?;
        self.skip_padding()?;
        // Newer kernels' documentation allows more than one NUL, to align data.
        let end = name.iter().position(|b| *b == 0);
        match end {
            Some(end) if name[end..].iter().all(|b| *b == 0) => name.truncate(end),
            Some(_) => return Err(self.malformed("NUL inside a name")),
            None => return Err(self.malformed("name without NUL")),
        }
        Ok(name)
    }

    fn target(&mut self, size: u32) -> Result<Vec<u8>, Error> {
        if size == 0 || size as usize > NAME_MAX {
            return Err(self.malformed("symlink target length out of range"));
        }
        let mut target = vec![0; size as usize];
        self.exact(&mut target)?;
        self.skip_padding()?;
        // gen_init_cpio writes a NUL, GNU cpio does not.
        if target.last() == Some(&0) {
            target.pop();
        }
        if target.is_empty() || target.contains(&0) {
            return Err(self.malformed("symlink target empty or with a NUL"));
        }
        Ok(target)
    }

    fn end_of_data(&mut self) -> Result<(), Error> {
        if let Some(expected) = self.expected_sum.take()
            && expected != self.sum
        {
            return Err(self.malformed("data does not match its checksum"));
        }
        self.skip_padding()
    }

    fn skip_padding(&mut self) -> Result<(), Error> {
        self.skip(padding(self.offset - self.archive_start, 4))
    }

    fn skip(&mut self, n: u64) -> Result<(), Error> {
        let got = io::copy(&mut (&mut self.input).take(n), &mut io::sink())?;
        self.count(got)?;
        // Some writers leave out the padding at the very end.
        if got < n && n > 3 {
            return Err(self.malformed("cut off"));
        }
        Ok(())
    }

    fn exact(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        match self.input.read_exact(buf) {
            Ok(()) => self.count(buf.len() as u64),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.malformed("cut off")),
            Err(e) => Err(e.into()),
        }
    }

    fn count(&mut self, n: u64) -> Result<(), Error> {
        self.offset = self.offset.saturating_add(n);
        if self.offset > self.limits.bytes {
            return Err(Error::Limit { what: "bytes", limit: self.limits.bytes });
        }
        Ok(())
    }

    fn malformed(&self, why: &'static str) -> Error {
        Error::Malformed { offset: self.offset, why }
    }
}

/// The data of the current member.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, self.malformed("cut off")));
        }
        if self.expected_sum.is_some() {
            self.sum = buf[..n].iter().fold(self.sum, |sum, b| sum.wrapping_add(u32::from(*b)));
        }
        self.remaining -= n as u64;
        self.count(n as u64).map_err(io::Error::other)?;
        Ok(n)
    }
}

/// Members with their data. See [`Reader::members`].
pub struct Members<R: Read> {
    reader: Reader<R>,
}

impl<R: Read> Iterator for Members<R> {
    type Item = Result<(Member, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let member = match self.reader.next_member() {
            Ok(Some(member)) => member,
            Ok(None) => return None,
            Err(e) => return Some(Err(e)),
        };
        // Grows with what is really there, not with what the header claims.
        let mut data = Vec::new();
        match self.reader.read_to_end(&mut data) {
            Ok(_) => Some(Ok((member, data))),
            Err(e) => {
                self.reader.done = true;
                Some(Err(unwrap_io(e)))
            }
        }
    }
}

/// An [`Error`] that went through `Read` comes out as itself.
fn unwrap_io(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(inner) => inner,
        Err(e) => Error::Io(e),
    }
}
