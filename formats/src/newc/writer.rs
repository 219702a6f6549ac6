//! Writes newc so that equal entries give equal bytes: inode numbers count up from 1 in the caller's order,
//! link counts are 1 (directories 2), one time for all. Does not know hard links: each name carries its data.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use super::{Entry, Error, HEADER_LEN, Kind, NAME_MAX, TRAILER, check_name, lossy, padding};

/// An archive being written. Members must come parents first; nothing is sorted here.
///
/// Without [`Writer::finish`] the archive has no end mark.
pub struct Writer<W: Write> {
    out: W,
    mtime: u32,
    written: u64,
    inode: u32,
    /// Every name so far, and whether it is a directory.
    seen: HashMap<Vec<u8>, bool>,
}

impl<W: Write> Writer<W> {
    /// Starts an archive in which every member has the time `mtime`.
    pub fn new(out: W, mtime: u32) -> Self {
        Writer { out, mtime, written: 0, inode: 0, seen: HashMap::new() }
    }

    /// Says that directory `name` exists already, from an archive that is unpacked before this one.
    pub fn declare_dir(&mut self, name: &[u8]) -> Result<(), Error> {
        check_name(name)?;
        self.seen.insert(name.to_vec(), true);
        Ok(())
    }

    /// Appends one member. For a file, `data` must give exactly the announced size; other kinds ignore `data`.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(), Error> {
        check_name(&entry.name)?;
        let is_dir = entry.kind == Kind::Dir;
        if entry.name == b"." && !is_dir {
            return Err(Error::Name { name: ".".into(), why: "the root must be a directory" });
        }
        if self.seen.contains_key(&entry.name) {
            return Err(Error::Name { name: lossy(&entry.name), why: "appears twice" });
        }
        if let Some(slash) = entry.name.iter().rposition(|b| *b == b'/') {
            let parent = &entry.name[..slash];
            if self.seen.get(parent) != Some(&true) {
                return Err(Error::ParentMissing { name: lossy(&entry.name), parent: lossy(parent) });
            }
        }
        if entry.mode & !0o7777 != 0 {
            return Err(Error::Name { name: lossy(&entry.name), why: "mode has bits outside 07777" });
        }
        let (size, rdev) = match &entry.kind {
            Kind::File { size } => (*size, (0, 0)),
            Kind::Symlink { target }
                if target.is_empty() || target.len() >= NAME_MAX || target.contains(&0) =>
            {
                let why = "symlink target empty, too long or with a NUL";
                return Err(Error::Name { name: lossy(&entry.name), why });
            }
            Kind::Symlink { target } => (target.len() as u64, (0, 0)),
            Kind::Char { major, minor } | Kind::Block { major, minor } => (0, (*major, *minor)),
            Kind::Dir | Kind::Fifo => (0, (0, 0)),
            Kind::Socket => return Err(Error::Name { name: lossy(&entry.name), why: "is a socket" }),
        };
        let Ok(size32) = u32::try_from(size) else {
            return Err(Error::TooLarge { name: lossy(&entry.name), size });
        };
        let Some(inode) = self.inode.checked_add(1) else {
            return Err(Error::Limit { what: "members", limit: u64::from(u32::MAX) });
        };
        self.inode = inode;
        let nlink = if is_dir { 2 } else { 1 };
        let mode = entry.kind.type_bits() | entry.mode;
        self.header(&entry.name, [inode, mode, entry.uid, entry.gid, nlink, self.mtime, size32], rdev)?;
        match &entry.kind {
            Kind::File { .. } => self.copy(&entry.name, size, data)?,
            Kind::Symlink { target } => self.bytes(target)?,
            _ => {}
        }
        self.pad(4)?;
        self.seen.insert(entry.name.clone(), is_dir);
        Ok(())
    }

    /// Writes the end mark and pads to 512 bytes, as some user-space tools require, then gives back the output and
    /// how many bytes it took in all.
    pub fn finish(mut self) -> Result<(W, u64), Error> {
        self.header(TRAILER, [0, 0, 0, 0, 1, 0, 0], (0, 0))?;
        self.pad(512)?;
        self.out.flush()?;
        Ok((self.out, self.written))
    }

    fn header(&mut self, name: &[u8], f: [u32; 7], rdev: (u32, u32)) -> Result<(), Error> {
        let [ino, mode, uid, gid, nlink, mtime, size] = f;
        let fields =
            [ino, mode, uid, gid, nlink, mtime, size, 0, 0, rdev.0, rdev.1, name.len() as u32 + 1, 0];
        let mut head = Vec::with_capacity(HEADER_LEN + name.len() + 4);
        head.extend_from_slice(b"070701");
        for field in fields {
            write!(head, "{field:08X}")?;
        }
        head.extend_from_slice(name);
        head.push(0);
        self.bytes(&head)?;
        self.pad(4)
    }

    fn copy(&mut self, name: &[u8], size: u64, data: &mut dyn Read) -> Result<(), Error> {
        let wrong = |got| Error::Size { name: lossy(name), expected: size, got };
        let got = io::copy(&mut data.take(size), &mut self.out)?;
        self.written += got;
        if got != size {
            return Err(wrong(got));
        }
        // A source that grew since its size was taken must not be cut off silently.
        if io::copy(&mut data.take(1), &mut io::sink())? != 0 {
            return Err(wrong(size.saturating_add(1)));
        }
        Ok(())
    }

    fn pad(&mut self, align: u64) -> Result<(), Error> {
        const ZEROS: [u8; 512] = [0; 512];
        let n = padding(self.written, align) as usize;
        self.bytes(&ZEROS[..n])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}
